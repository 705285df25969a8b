package client

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"

	"github.com/bongsu-im/bongsu/internal/durable"
)

// The file of an outbox: a header, then records, each
//
//	length  uint32, big endian: bytes of the body
//	crc     uint32, big endian: CRC-32C of the length and the body
//	body    kind (1 byte), then the fields of the kind
//
// Integers in bodies are unsigned varints, strings a varint length and bytes.
// Only the end of the file may be torn, by a crash during the last write.
const (
	storeHeader    = "bongsu outbox 1\n"
	recordHead     = 8
	maxRecordBytes = 64 << 10 // a text has at most 40,000 bytes
	maxStoreBytes  = 256 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// FileStore is a Store in one append-only file: each change is written and
// fsynced before it is reported, and the file is written anew when most of it
// is of no more use. After the first error of the disk it refuses every change
// (invariant 7): what it holds is known only after opening it again.
type FileStore struct {
	fs   durable.FS
	name string
	lock io.Closer

	mu    sync.Mutex
	table table
	file  io.WriteCloser
	sync  func() error
	size  int64 // bytes of the file
	live  int64 // bytes that it would have if written anew; an estimate
	err   error // the first failure; no change after it
	// damaged is how many bytes of the file could not be read at opening.
	damaged int64
}

// OpenFileStore opens or makes the outbox file name, whose folder must exist.
// Only one process may have it open. Bytes that cannot be read (more than a
// torn end) are set aside in name+".damaged" and counted by Damaged; what
// stands before them is kept.
func OpenFileStore(fs durable.FS, name string) (*FileStore, error) {
	lock, err := fs.Lock(name + ".lock")
	if err != nil {
		return nil, fmt.Errorf("lock outbox %s: %w", name, err)
	}
	s := &FileStore{fs: fs, name: name, lock: lock, table: newTable()}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open outbox %s: %w", name, err), lock.Close())
	}
	return s, nil
}

// Damaged returns how many bytes of the file could not be read at opening; they
// lie in name+".damaged". A write that a crash cut off is counted here too: it
// was never reported as done.
func (s *FileStore) Damaged() int64 { return s.damaged }

func (s *FileStore) load() error {
	b, err := s.read()
	if err != nil {
		return err
	}
	var good int
	if len(b) > 0 {
		s.table, good = decodeStore(b)
	}
	if rest := b[good:]; len(rest) > 0 {
		s.damaged = int64(len(rest))
		// Never delete what might be somebody's words (invariant 11).
		if err := durable.WriteFile(s.fs, s.name+".damaged", rest, 0o600); err != nil {
			return fmt.Errorf("set damaged bytes aside: %w", err)
		}
	}
	return s.rewrite()
}

func (s *FileStore) read() ([]byte, error) {
	f, err := s.fs.Open(s.name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxStoreBytes+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if len(b) > maxStoreBytes {
		return nil, fmt.Errorf("larger than %d bytes", maxStoreBytes)
	}
	return b, nil
}

// rewrite makes the file anew from the table and goes on appending to it. The
// new content is durable under another name before it takes the old one's
// place, so a crash leaves one of the two.
func (s *FileStore) rewrite() error {
	temporary := s.name + ".new"
	f, err := s.fs.Create(temporary, "outbox")
	if err != nil {
		return err
	}
	b := encodeStore(&s.table)
	size := int64(len(b))
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = s.fs.Rename(temporary, s.name)
	}
	if err == nil {
		err = durable.SyncDir(s.fs, s.fs.PathDir(s.name))
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if s.file != nil {
		err = s.file.Close()
	}
	s.file, s.sync = f, f.Sync
	s.size, s.live = size, size
	return err
}

// Entries implements Store.
func (s *FileStore) Entries() []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table.list()
}

// Add implements Store.
func (s *FileStore) Add(e Entry) error {
	return s.append(change{kind: changeAdd, entry: e})
}

// SetAck implements Store.
func (s *FileStore) SetAck(clientID string, a Ack) error {
	return s.append(change{kind: changeAck, entry: Entry{ClientID: clientID, Ack: &a}})
}

// Remove implements Store.
func (s *FileStore) Remove(clientIDs ...string) error {
	changes := make([]change, 0, len(clientIDs))
	for _, id := range clientIDs {
		changes = append(changes, change{kind: changeRemove, entry: Entry{ClientID: id}})
	}
	return s.append(changes...)
}

// Close implements Store.
func (s *FileStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	err := errors.Join(s.file.Close(), s.lock.Close())
	s.file = nil
	if s.err == nil {
		s.err = errors.New("outbox: the store is closed")
	}
	return err
}

// append checks changes against the table, writes and fsyncs them, then applies
// them.
func (s *FileStore) append(changes ...change) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	var b []byte
	for _, c := range changes {
		if err := s.table.check(c); err != nil {
			return err
		}
		var err error
		if b, err = appendRecord(b, c); err != nil {
			return err
		}
	}
	if s.size+int64(len(b)) > maxStoreBytes {
		return fmt.Errorf("outbox: file would be larger than %d bytes", maxStoreBytes)
	}
	size := int64(len(b))
	_, err := s.file.Write(b)
	if err == nil {
		err = s.sync()
	}
	if err != nil {
		s.err = fmt.Errorf("outbox: append to %s: %w", s.name, err)
		return s.err
	}
	s.size += size
	for _, c := range changes {
		if c.kind == changeRemove {
			if e := s.table.entries[c.entry.ClientID]; e != nil {
				s.live -= int64(len(e.Text))
			}
		} else {
			s.live += size
		}
		if err := s.table.apply(c); err != nil {
			s.err = err // check let it through: our own mistake, stop
			return err
		}
	}
	return s.compact()
}

// compactAt is the size below which a file is never written anew.
const compactAt = 256 << 10

func (s *FileStore) compact() error {
	if s.size < compactAt || s.size < 2*max(s.live, 0) {
		return nil
	}
	if err := s.rewrite(); err != nil {
		s.err = fmt.Errorf("outbox: write %s anew: %w", s.name, err)
		return s.err
	}
	return nil
}

// check tells what apply would answer, without applying.
func (t *table) check(c change) error {
	_, stored := t.entries[c.entry.ClientID]
	switch {
	case c.kind == changeAdd && stored:
		return fmt.Errorf("%w: %s", ErrInOutbox, c.entry.ClientID)
	case c.kind == changeAck && !stored:
		return fmt.Errorf("outbox: acknowledged message %s is not stored", c.entry.ClientID)
	}
	return nil
}

// encodeStore writes a file that decodes to the table.
func encodeStore(t *table) []byte {
	b := []byte(storeHeader)
	for _, e := range t.list() {
		ack := e.Ack
		e.Ack = nil
		// Entries of a table fitted into a record when they were added.
		b, _ = appendRecord(b, change{kind: changeAdd, entry: e})
		if ack != nil {
			b, _ = appendRecord(b, change{kind: changeAck, entry: Entry{ClientID: e.ClientID, Ack: ack}})
		}
	}
	return b
}

// decodeStore reads as many whole, sound records as there are and returns the
// number of bytes they take; what follows is torn or damaged.
func decodeStore(b []byte) (table, int) {
	t := newTable()
	if len(b) < len(storeHeader) || string(b[:len(storeHeader)]) != storeHeader {
		return t, 0
	}
	at := len(storeHeader)
	for {
		c, n, err := decodeRecord(b[at:])
		if err != nil || t.check(c) != nil || t.apply(c) != nil {
			return t, at
		}
		at += n
	}
}

// appendRecord adds the record of one change.
func appendRecord(b []byte, c change) ([]byte, error) {
	start := len(b)
	b = append(b, make([]byte, recordHead)...)
	b = append(b, c.kind)
	b = appendText(b, c.entry.ClientID)
	switch c.kind {
	case changeAdd:
		b = appendText(b, c.entry.RoomID)
		b = appendText(b, c.entry.Text)
		b = binary.AppendUvarint(b, c.entry.ReplyTo)
		b = binary.AppendUvarint(b, uint64(c.entry.CreatedMs))
	case changeAck:
		a := c.entry.Ack
		b = binary.AppendUvarint(b, a.Seq)
		b = binary.AppendUvarint(b, uint64(a.AckedMs))
		b = binary.AppendUvarint(b, uint64(a.Shard))
		b = binary.AppendUvarint(b, a.Term)
		b = binary.AppendUvarint(b, a.Index)
	}
	length := len(b) - start - recordHead
	if length > maxRecordBytes {
		return b[:start], fmt.Errorf("outbox: a record of %d bytes, at most %d", length, maxRecordBytes)
	}
	binary.BigEndian.PutUint32(b[start:], uint32(length))
	binary.BigEndian.PutUint32(b[start+4:], recordSum(b[start:start+4], b[start+recordHead:]))
	return b, nil
}

// recordSum covers the length too, or a flipped bit in it could make one sound
// record of another's middle.
func recordSum(length, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(length, castagnoli), castagnoli, body)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

var errRecord = errors.New("outbox: torn or damaged record")

// decodeRecord reads one record and returns its length in bytes.
func decodeRecord(b []byte) (change, int, error) {
	if len(b) < recordHead {
		return change{}, 0, errRecord
	}
	length := int(binary.BigEndian.Uint32(b))
	if length > maxRecordBytes || length > len(b)-recordHead {
		return change{}, 0, errRecord
	}
	body := b[recordHead : recordHead+length]
	if recordSum(b[:4], body) != binary.BigEndian.Uint32(b[4:]) {
		return change{}, 0, errRecord
	}
	c, err := decodeBody(body)
	return c, recordHead + length, err
}

func decodeBody(body []byte) (change, error) {
	r := fieldReader{rest: body}
	c := change{kind: r.byte()}
	c.entry.ClientID = r.text()
	switch c.kind {
	case changeAdd:
		c.entry.RoomID, c.entry.Text = r.text(), r.text()
		c.entry.ReplyTo, c.entry.CreatedMs = r.number(), int64(r.number())
	case changeAck:
		a := &Ack{Seq: r.number(), AckedMs: int64(r.number())}
		shard := r.number()
		a.Shard, a.Term, a.Index = uint32(shard), r.number(), r.number()
		r.bad = r.bad || shard > 1<<32-1
		c.entry.Ack = a
	case changeRemove:
	default:
		r.bad = true
	}
	if r.bad || len(r.rest) > 0 {
		return change{}, errRecord
	}
	return c, nil
}

// fieldReader takes fields off a body; after a bad one every other is zero.
type fieldReader struct {
	rest []byte
	bad  bool
}

func (r *fieldReader) byte() byte {
	if r.bad || len(r.rest) == 0 {
		r.bad = true
		return 0
	}
	v := r.rest[0]
	r.rest = r.rest[1:]
	return v
}

func (r *fieldReader) number() uint64 {
	v, n := binary.Uvarint(r.rest)
	if r.bad || n <= 0 {
		r.bad = true
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *fieldReader) text() string {
	n := r.number()
	if r.bad || n > uint64(len(r.rest)) {
		r.bad = true
		return ""
	}
	v := string(r.rest[:n])
	r.rest = r.rest[n:]
	return v
}
