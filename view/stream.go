package view

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	"google.golang.org/protobuf/proto"
)

// A stream carries the view of one shard to another store. It is frames:
//
//	frame  = kind (1), length of body (4), body, CRC-32C of all this (4)
//	stream = header, any number of pages, end; nothing follows
//
//	header = "bongsu view", format (2), layout (4), shards (2), shard (2), journal.v1.Mark
//	page   = one or more of: length (uvarint), key, length (uvarint), value
//	end    = pages (8), entries (8), SHA-256 of all frames before (32)
//
// Numbers are big-endian. Keys are those of the store (keys.go), the mark's own
// left out, and each is greater than the one before it.
const (
	streamMagic  = "bongsu view"
	streamFormat = 1

	frameHeader byte = 1
	framePage   byte = 2
	frameEnd    byte = 3

	frameHead = 5 // bytes before a body
	frameTail = 4

	pageBytes     = 256 << 10 // of entries, after which a page is full
	maxKeyBytes   = 4 << 10
	maxValueBytes = 8 << 20
	maxFrameBody  = pageBytes + maxKeyBytes + maxValueBytes + 16
	maxHeaderBody = 4 << 10
	endBody       = 8 + 8 + sha256.Size
)

// ErrStream is in every error about a stream that is not what Snapshot gives.
var ErrStream = errors.New("view: not a whole stream of a shard's view")

func badStream(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrStream, fmt.Errorf(format, args...))
}

// streamHeader says whose view a stream holds, and of which moment.
type streamHeader struct {
	layout        uint32
	shards, shard int
	mark          *journalv1.Mark
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encoder makes a stream, frame by frame. It does no I/O.
type encoder struct {
	sum            hash.Hash
	page           []byte
	pages, entries uint64
}

func newEncoder() *encoder { return &encoder{sum: sha256.New()} }

// frame returns out with a frame appended.
func (e *encoder) frame(out []byte, kind byte, body []byte) []byte {
	from := len(out)
	out = binary.BigEndian.AppendUint32(append(out, kind), uint32(len(body)))
	out = append(out, body...)
	out = binary.BigEndian.AppendUint32(out, crc32.Checksum(out[from:], castagnoli))
	e.sum.Write(out[from:])
	return out
}

func (e *encoder) header(out []byte, h streamHeader) ([]byte, error) {
	mark, err := proto.MarshalOptions{Deterministic: true}.Marshal(h.mark)
	if err != nil {
		return nil, fmt.Errorf("encode mark of shard %d: %w", h.shard, err)
	}
	body := binary.BigEndian.AppendUint16([]byte(streamMagic), streamFormat)
	body = binary.BigEndian.AppendUint32(body, h.layout)
	body = binary.BigEndian.AppendUint16(body, uint16(h.shards))
	body = binary.BigEndian.AppendUint16(body, uint16(h.shard))
	return e.frame(out, frameHeader, append(body, mark...)), nil
}

// add puts an entry into the page; full tells that the page is to be flushed.
func (e *encoder) add(key, value []byte) (full bool, err error) {
	if len(key) == 0 || len(key) > maxKeyBytes || len(value) > maxValueBytes {
		return false, fmt.Errorf("view: an entry of %d and %d bytes does not fit into a stream", len(key), len(value))
	}
	e.page = append(binary.AppendUvarint(e.page, uint64(len(key))), key...)
	e.page = append(binary.AppendUvarint(e.page, uint64(len(value))), value...)
	e.entries++
	return len(e.page) >= pageBytes, nil
}

// flush appends the page to out, unless it is empty.
func (e *encoder) flush(out []byte) []byte {
	if len(e.page) == 0 {
		return out
	}
	e.pages++
	out = e.frame(out, framePage, e.page)
	e.page = e.page[:0]
	return out
}

func (e *encoder) end(out []byte) []byte {
	body := binary.BigEndian.AppendUint64(nil, e.pages)
	body = binary.BigEndian.AppendUint64(body, e.entries)
	return e.frame(out, frameEnd, e.sum.Sum(body))
}

// decoder reads a stream back. What it gives is only to be used for good after
// next has returned io.EOF: only then the stream has proven itself whole.
type decoder struct {
	r              io.Reader
	sum            hash.Hash
	body           []byte // of the frame read last
	page           []byte // what is left of it, if it is a page
	last           []byte // key
	pages, entries uint64
	ended          bool
}

// decode begins to read a stream.
func decode(r io.Reader) (*decoder, streamHeader, error) {
	d := &decoder{r: r, sum: sha256.New()}
	kind, body, err := d.frame(maxHeaderBody)
	if err != nil {
		return nil, streamHeader{}, err
	}
	if kind != frameHeader {
		return nil, streamHeader{}, badStream("it begins with a frame of kind %d", kind)
	}
	h, err := decodeHeader(body)
	return d, h, err
}

func decodeHeader(body []byte) (streamHeader, error) {
	rest, ok := bytes.CutPrefix(body, []byte(streamMagic))
	if !ok || len(rest) < 10 {
		return streamHeader{}, badStream("it begins with something else")
	}
	if f := binary.BigEndian.Uint16(rest); f != streamFormat {
		return streamHeader{}, badStream("its format is %d, this release reads %d", f, streamFormat)
	}
	h := streamHeader{
		layout: binary.BigEndian.Uint32(rest[2:]),
		shards: int(binary.BigEndian.Uint16(rest[6:])),
		shard:  int(binary.BigEndian.Uint16(rest[8:])),
	}
	var err error
	if h.mark, err = decodeMark(rest[10:]); err != nil {
		return streamHeader{}, badStream("its mark: %w", err)
	}
	return h, nil
}

// frame reads the next frame, with a body of limit bytes at most. The body is
// valid until the next call.
func (d *decoder) frame(limit int) (kind byte, body []byte, err error) {
	var head [frameHead]byte
	if err := d.read(head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if int64(size) > int64(limit) {
		return 0, nil, badStream("a frame of %d bytes", size)
	}
	// What it says to be long may be short all the same: memory is given as it comes.
	d.body = d.body[:0]
	for left := int(size) + frameTail; left > 0; {
		n := min(left, pageBytes)
		at := len(d.body)
		d.body = append(d.body, make([]byte, n)...)
		if err := d.read(d.body[at:]); err != nil {
			return 0, nil, err
		}
		left -= n
	}
	body, tail := d.body[:size], d.body[size:]
	crc := crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, body)
	if crc != binary.BigEndian.Uint32(tail) {
		return 0, nil, badStream("a checksum does not match")
	}
	if head[0] != frameEnd {
		d.sum.Write(head[:])
		d.sum.Write(d.body)
	}
	return head[0], body, nil
}

func (d *decoder) read(p []byte) error {
	_, err := io.ReadFull(d.r, p)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return badStream("it ends too early")
	}
	if err != nil {
		return fmt.Errorf("read a stream of a view: %w", err)
	}
	return nil
}

// next returns the next entry, which is valid until the call after; io.EOF once
// the stream has ended whole and nothing follows it.
func (d *decoder) next() (key, value []byte, err error) {
	for len(d.page) == 0 {
		if err := d.turnPage(); err != nil {
			return nil, nil, err
		}
	}
	if key, err = d.cut(maxKeyBytes); err != nil {
		return nil, nil, err
	}
	if value, err = d.cut(maxValueBytes); err != nil {
		return nil, nil, err
	}
	if bytes.Compare(key, d.last) <= 0 {
		return nil, nil, badStream("key %x does not follow %x", key, d.last)
	}
	d.last = append(d.last[:0], key...)
	d.entries++
	return key, value, nil
}

// cut takes what a length stands before off the page.
func (d *decoder) cut(limit uint64) ([]byte, error) {
	size, n := binary.Uvarint(d.page)
	if n <= 0 || size > limit || size > uint64(len(d.page)-n) {
		return nil, badStream("a page is cut wrongly")
	}
	rest := d.page[n:]
	d.page = rest[size:]
	return rest[:size:size], nil
}

func (d *decoder) turnPage() error {
	if d.ended {
		return io.EOF
	}
	kind, body, err := d.frame(maxFrameBody)
	if err != nil {
		return err
	}
	switch kind {
	case framePage:
		if len(body) == 0 {
			return badStream("an empty page")
		}
		d.page = body
		d.pages++
		return nil
	case frameEnd:
		return d.finish(body)
	}
	return badStream("a frame of kind %d", kind)
}

func (d *decoder) finish(body []byte) error {
	if len(body) != endBody {
		return badStream("an end of %d bytes", len(body))
	}
	pages, entries := binary.BigEndian.Uint64(body), binary.BigEndian.Uint64(body[8:])
	if pages != d.pages || entries != d.entries || !bytes.Equal(body[16:], d.sum.Sum(nil)) {
		return badStream("its end tells of other frames than came")
	}
	var one [1]byte
	switch n, err := io.ReadFull(d.r, one[:]); {
	case n > 0:
		return badStream("something follows its end")
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("read a stream of a view: %w", err)
	}
	d.ended = true
	return io.EOF
}
