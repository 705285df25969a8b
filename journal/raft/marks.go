package raft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
)

// mark is what one shard had for certain when the marks were written: the log
// held the entry at end, and the shard had applied up to applied.
type mark struct {
	end     journal.Position
	applied journal.Mark
}

// MarksError tells of a damaged copy of the marks. It fences nothing: the other
// copy is used, or, if there is none, missing tails go unnoticed until clients
// or peers prove them.
type MarksError struct {
	File  string
	Cause error
	// Unguarded: no copy could be read.
	Unguarded bool
}

func (e *MarksError) Error() string {
	if e.Unguarded {
		return fmt.Sprintf("high-water marks %s: %v; no copy is left, a missing tail cannot be noticed", e.File, e.Cause)
	}
	return fmt.Sprintf("high-water marks %s: %v; the older copy is used", e.File, e.Cause)
}

func (e *MarksError) Unwrap() error { return e.Cause }

const (
	marksMagic   = "bongsu-marks-1\r\n" // the line end shows a text-mode copy
	markBytes    = 2 + 16 + 16 + 32
	marksMaxSize = len(marksMagic) + 8 + 2 + maxShards*markBytes + crcBytes
)

var marksFiles = [2]string{"marks.0", "marks.1"}

func encodeMarks(seq uint64, ms []mark) []byte {
	b := append([]byte(nil), marksMagic...)
	b = binary.BigEndian.AppendUint64(b, seq)
	b = binary.BigEndian.AppendUint16(b, uint16(len(ms)))
	for shard, m := range ms {
		b = binary.BigEndian.AppendUint16(b, uint16(shard))
		b = binary.BigEndian.AppendUint64(b, uint64(m.end.Term))
		b = binary.BigEndian.AppendUint64(b, uint64(m.end.Index))
		b = binary.BigEndian.AppendUint64(b, uint64(m.applied.Term))
		b = binary.BigEndian.AppendUint64(b, uint64(m.applied.Index))
		b = append(b, m.applied.Hash[:]...)
	}
	return seal(b)
}

func decodeMarks(b []byte) (seq uint64, ms []mark, err error) {
	head := len(marksMagic) + 8 + 2
	if len(b) < head+crcBytes {
		return 0, nil, fmt.Errorf("%w: %d bytes", errShort, len(b))
	}
	body, sum := b[:len(b)-crcBytes], binary.BigEndian.Uint32(b[len(b)-crcBytes:])
	if crc32.Checksum(body, castagnoli) != sum {
		return 0, nil, errChecksum
	}
	if string(body[:len(marksMagic)]) != marksMagic {
		return 0, nil, errors.New("not a marks file of this release")
	}
	seq = binary.BigEndian.Uint64(body[len(marksMagic):])
	n := int(binary.BigEndian.Uint16(body[len(marksMagic)+8:]))
	body = body[head:]
	if len(body) != n*markBytes || n > maxShards {
		return 0, nil, fmt.Errorf("%d shards in %d bytes", n, len(body))
	}
	ms = make([]mark, n)
	for i := range ms {
		r := body[i*markBytes:]
		if got := int(binary.BigEndian.Uint16(r)); got != i {
			return 0, nil, fmt.Errorf("shard %d in the place of %d", got, i)
		}
		u := func(at int) uint64 { return binary.BigEndian.Uint64(r[at:]) }
		ms[i].end = journal.Position{Term: journal.Term(u(2)), Index: journal.Index(u(10))}
		ms[i].applied.Position = journal.Position{Term: journal.Term(u(18)), Index: journal.Index(u(26))}
		copy(ms[i].applied.Hash[:], r[34:])
	}
	return seq, ms, nil
}

// marks keeps the high-water marks in two files, written in turn: each write
// goes to a temporary file, is fsynced and renamed over the older copy, and the
// folder is fsynced. Whatever a cut or a flip does to one copy, the other is
// whole and at most one interval older.
//
// Lock order: writing, then a group's log.mu, then mu.
type marks struct {
	fs   durable.FS
	dir  string
	trip func(error) *journal.FencedError
	dead func() error
	// end gives a shard's durable end, false to leave its mark alone.
	end func(shard journal.ShardID) (journal.Position, bool)

	writing sync.Mutex // held through a write
	seq     uint64
	durable []mark // as last written
	// armed is set once everything is loaded: a log that could not be read must
	// not overwrite the proof of what it held.
	armed, closed bool

	mu      sync.Mutex
	applied []journal.Mark
}

// load reads both copies. It returns what was found damaged.
func (m *marks) load(shards int) (damage []error) {
	m.durable = make([]mark, shards)
	m.applied = make([]journal.Mark, shards)
	good := false
	for _, name := range marksFiles {
		seq, ms, err := m.read(name)
		if err == nil && len(ms) != shards {
			err = fmt.Errorf("marks of %d shards, there are %d", len(ms), shards)
		}
		if err != nil {
			damage = append(damage, &MarksError{File: name, Cause: err})
			continue
		}
		good = true
		if seq > m.seq {
			m.seq, m.durable = seq, ms
		}
	}
	if !good {
		for _, err := range damage {
			err.(*MarksError).Unguarded = true
		}
	}
	for i, d := range m.durable {
		m.applied[i] = d.applied
	}
	return damage
}

// exist tells whether there is any copy, readable or not.
func (m *marks) exist() (bool, error) {
	names, err := m.fs.List(m.dir)
	if err != nil {
		return false, fmt.Errorf("list %s: %w", m.dir, err)
	}
	for _, name := range names {
		if name == marksFiles[0] || name == marksFiles[1] {
			return true, nil
		}
	}
	return false, nil
}

func (m *marks) read(name string) (uint64, []mark, error) {
	f, err := m.fs.Open(m.fs.PathJoin(m.dir, name))
	if err != nil {
		return 0, nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, int64(marksMaxSize)+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return 0, nil, err
	}
	return decodeMarks(b)
}

func (m *marks) set(shard journal.ShardID, to journal.Mark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if to.Index >= m.applied[shard].Index {
		m.applied[shard] = to
	}
}

func (m *marks) get(shard journal.ShardID) journal.Mark {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.applied[shard]
}

// sync makes all marks durable, if any has changed. Callers that wait for
// another's write mostly find theirs written with it.
func (m *marks) sync() error {
	m.writing.Lock()
	defer m.writing.Unlock()
	return m.syncLocked()
}

// cover makes sure that a mark of this term or a later one is durable.
func (m *marks) cover(shard journal.ShardID, term uint64) error {
	m.writing.Lock()
	defer m.writing.Unlock()
	if uint64(m.durable[shard].end.Term) >= term {
		return nil
	}
	return m.syncLocked()
}

func (m *marks) syncLocked() error {
	if m.closed {
		return journal.ErrClosed
	}
	if err := m.dead(); err != nil {
		return err
	}
	if !m.armed {
		return nil
	}
	next := append([]mark(nil), m.durable...)
	changed := false
	for i := range next {
		end, ok := m.end(journal.ShardID(i))
		if !ok || end.Index < m.durable[i].end.Index {
			continue
		}
		next[i].end = end
		// A mark that the log does not hold would prove a loss that is none.
		if a := m.get(journal.ShardID(i)); a.Index <= end.Index {
			next[i].applied = a
		}
		changed = changed || next[i] != m.durable[i]
	}
	if !changed {
		return nil
	}
	return m.write(next)
}

// write makes next the newest copy; the caller holds writing, or is alone.
func (m *marks) write(next []mark) error {
	name := marksFiles[(m.seq+1)%2]
	if err := m.replace(name, encodeMarks(m.seq+1, next)); err != nil {
		return m.trip(fmt.Errorf("write high-water marks: %w", err))
	}
	if err := m.dead(); err != nil {
		return err
	}
	m.seq++
	m.durable = next
	return nil
}

// renew writes both copies again; the caller holds writing, or is alone.
func (m *marks) renew() error {
	for range marksFiles {
		if err := m.write(m.durable); err != nil {
			return err
		}
	}
	return nil
}

func (m *marks) replace(name string, b []byte) error {
	tmp := m.fs.PathJoin(m.dir, "marks.tmp")
	f, err := m.fs.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := m.fs.Rename(tmp, m.fs.PathJoin(m.dir, name)); err != nil {
		return err
	}
	return durable.SyncDir(m.fs, m.dir)
}

// close writes a last time, if it can, and refuses from then on.
func (m *marks) close() error {
	m.writing.Lock()
	defer m.writing.Unlock()
	if m.closed {
		return nil
	}
	err := m.syncLocked()
	m.closed = true
	return err
}
