package backup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/bongsu-im/bongsu/journal"
)

// A segment, before it is compressed and sealed, is a magic and frames: a header,
// the entries, an end. All integers are big-endian.
//
//	frame:  length(4) crc32c(4) kind(1) body      length and sum are of kind and body
//	header: cluster(16) shard(2) after term(8) after index(8) running hash before(32)
//	entry:  term(8) index(8) data
//	end:    entries(8) running hash after(32)
//
// The sums notice damage in the memory of whoever made or opened it; what
// happens to it in the store, age notices.
const (
	segmentMagic = "bongsu-segment-1"

	frameHeader = 'h'
	frameEntry  = 'e'
	frameEnd    = 'z'

	frameHead   = 4 + 4 + 1
	headerBytes = 16 + 2 + 8 + 8 + 32
	endBytes    = 8 + 32
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// segment is the content of one.
type segment struct {
	name    segmentName
	before  [32]byte // running hash
	entries []journal.Entry
	after   [32]byte
}

func appendFrame(b []byte, kind byte, parts ...[]byte) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, kind)
	for _, p := range parts {
		b = append(b, p...)
	}
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-8))
	binary.BigEndian.PutUint32(b[at+4:], crc32.Checksum(b[at+8:], castagnoli))
	return b
}

// nextFrame cuts the first frame off.
func nextFrame(b []byte) (kind byte, body, rest []byte, err error) {
	if len(b) < frameHead {
		return 0, nil, nil, errors.New("a frame is cut")
	}
	n := binary.BigEndian.Uint32(b)
	if n < 1 || uint64(n) > uint64(len(b)-8) {
		return 0, nil, nil, fmt.Errorf("a frame of %d bytes in %d", n, len(b)-8)
	}
	whole := b[8 : 8+n]
	if crc32.Checksum(whole, castagnoli) != binary.BigEndian.Uint32(b[4:]) {
		return 0, nil, nil, errors.New("a frame's checksum does not agree")
	}
	return whole[0], whole[1:], b[8+n:], nil
}

func appendPosition(b []byte, p journal.Position) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, uint64(p.Term)), uint64(p.Index))
}

func positionAt(b []byte) journal.Position {
	return journal.Position{Term: journal.Term(binary.BigEndian.Uint64(b)), Index: journal.Index(binary.BigEndian.Uint64(b[8:]))}
}

// segmentWriter puts a segment together, checking the chain as it grows.
type segmentWriter struct {
	name  segmentName
	plain []byte
	hash  [32]byte
	count uint64
}

// begin starts a segment behind a position whose running hash is known.
func beginSegment(cluster ClusterID, shard journal.ShardID, after journal.Position, hash [32]byte) *segmentWriter {
	w := &segmentWriter{name: segmentName{cluster: cluster, shard: shard, after: after, to: after}, hash: hash}
	head := binary.BigEndian.AppendUint16(cluster[:len(cluster):len(cluster)], uint16(shard))
	w.plain = appendFrame([]byte(segmentMagic), frameHeader, appendPosition(head, after), hash[:])
	return w
}

// add takes the next entry.
func (w *segmentWriter) add(e journal.Entry) error {
	if err := follows(w.name.to, e.Position); err != nil {
		return err
	}
	r, err := peek(e)
	if err != nil {
		return err
	}
	if r.before != w.hash {
		return fmt.Errorf("entry %d follows the running hash %x, the entry before it gives %x", e.Index, r.before[:8], w.hash[:8])
	}
	w.hash = journal.NextHash(w.hash, e.Data)
	w.name.to = e.Position
	w.count++
	w.plain = appendFrame(w.plain, frameEntry, appendPosition(nil, e.Position), e.Data)
	return nil
}

// end returns the segment's name and bytes.
func (w *segmentWriter) end() (segmentName, []byte) {
	w.name.hash = hintOf(w.hash)
	return w.name, appendFrame(w.plain, frameEnd, binary.BigEndian.AppendUint64(nil, w.count), w.hash[:])
}

func follows(before, next journal.Position) error {
	if next.Index <= before.Index || next.Term < before.Term || next.Term == 0 {
		return fmt.Errorf("term %d index %d does not come behind term %d index %d", next.Term, next.Index, before.Term, before.Index)
	}
	return nil
}

// parseSegment reads a segment and proves it: that it is whole, is what its name
// says, and is one unbroken chain.
func parseSegment(name segmentName, plain []byte) (*segment, error) {
	rest, ok := bytes.CutPrefix(plain, []byte(segmentMagic))
	if !ok {
		return nil, errors.New("not a segment that this release knows")
	}
	kind, body, rest, err := nextFrame(rest)
	if err != nil || kind != frameHeader || len(body) != headerBytes {
		return nil, fmt.Errorf("no header: %w", errors.Join(err, errors.New("the first frame is none")))
	}
	s := &segment{name: name, before: [32]byte(body[34:])}
	if got := (segmentName{cluster: ClusterID(body[:16]), shard: journal.ShardID(binary.BigEndian.Uint16(body[16:])), after: positionAt(body[18:])}); got.cluster != name.cluster || got.shard != name.shard || got.after != name.after {
		return nil, fmt.Errorf("it is of cluster %s, shard %d, behind term %d index %d: it was put in another's place", got.cluster, got.shard, got.after.Term, got.after.Index)
	}
	at := name.after
	s.after = s.before
	for {
		if kind, body, rest, err = nextFrame(rest); err != nil {
			return nil, err
		}
		if kind == frameEnd {
			break
		}
		if kind != frameEntry || len(body) < 16 || len(body)-16 > journal.MaxEntryBytes {
			return nil, fmt.Errorf("a frame of kind %d with %d bytes", kind, len(body))
		}
		e := journal.Entry{Position: positionAt(body), Data: body[16:]}
		if err := follows(at, e.Position); err != nil {
			return nil, err
		}
		r, err := peek(e)
		if err != nil {
			return nil, err
		}
		if r.before != s.after {
			return nil, fmt.Errorf("entry %d does not follow the one before it", e.Index)
		}
		s.after, at = journal.NextHash(s.after, e.Data), e.Position
		s.entries = append(s.entries, e)
	}
	switch {
	case len(body) != endBytes || len(rest) != 0:
		return nil, errors.New("it does not end where it should")
	case binary.BigEndian.Uint64(body) != uint64(len(s.entries)) || len(s.entries) == 0:
		return nil, fmt.Errorf("%d entries, it says %d", len(s.entries), binary.BigEndian.Uint64(body))
	case [32]byte(body[8:]) != s.after:
		return nil, errors.New("its running hash does not end as it says")
	case at != name.to || hintOf(s.after) != name.hash:
		return nil, errors.New("it ends elsewhere than its name says")
	}
	return s, nil
}

// recordHead is what a backup reads of a record.
type recordHead struct {
	before [32]byte // previous_hash
	time   int64    // time_ms
}

// Field numbers of journal.v1.Record.
const (
	fieldTime         = 2
	fieldPreviousHash = 3
)

// peek reads the head of a record without its events: what the bytes mean is
// proven by their hash, and reading every event would take most of a restore.
func peek(e journal.Entry) (r recordHead, err error) {
	found := false
	for b := e.Data; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return r, fmt.Errorf("entry %d is no record: %w", e.Index, protowire.ParseError(n))
		}
		b = b[n:]
		switch {
		case num == fieldTime && typ == protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return r, fmt.Errorf("entry %d is no record: %w", e.Index, protowire.ParseError(n))
			}
			r.time, b = int64(v), b[n:]
		case num == fieldPreviousHash && typ == protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 || len(v) != len(r.before) {
				return r, fmt.Errorf("entry %d carries a running hash of %d bytes", e.Index, len(v))
			}
			r.before, b, found = [32]byte(v), b[n:], true
		default:
			n := protowire.ConsumeFieldValue(num, typ, b)
			if n < 0 {
				return r, fmt.Errorf("entry %d is no record: %w", e.Index, protowire.ParseError(n))
			}
			b = b[n:]
		}
	}
	if !found {
		return r, fmt.Errorf("entry %d is no record: it carries no running hash", e.Index)
	}
	return r, nil
}
