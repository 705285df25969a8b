package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/bongsu-im/bongsu/journal"
)

// Base is what a chain may begin with instead of a shard's first record: where a
// view stands, what the journal needs to begin there, and the view.
type Base struct {
	At   journal.Mark
	Log  []byte    // journal/raft's, at most maxLogBytes
	View io.Reader // view's; ends with io.EOF
}

// A base is one stream, log length(4) log view, cut into parts. A part, before it
// is compressed and sealed, is a magic and frames (segment.go):
//
//	header: cluster(16) shard(2) term(8) index(8) running hash(32) part(4)
//	data:   bytes of the stream
//	end:    length(8) sha256(32) of the whole stream; in the last part alone
const (
	partMagic = "bongsu-base-v-01"

	frameData = 'd'

	partHeaderBytes = 16 + 2 + 8 + 8 + 32 + 4
	partEndBytes    = 8 + 32
	maxLogBytes     = 2 << 20
)

func encodePart(n partName, hash [32]byte, data []byte, end []byte) []byte {
	head := appendPosition(binary.BigEndian.AppendUint16(n.cluster[:len(n.cluster):len(n.cluster)], uint16(n.shard)), n.at)
	head = binary.BigEndian.AppendUint32(append(head, hash[:]...), uint32(n.part))
	b := appendFrame(appendFrame([]byte(partMagic), frameHeader, head), frameData, data)
	if n.last {
		b = appendFrame(b, frameEnd, end)
	}
	return b
}

// parsePart reads a part and proves that it is what its name says. end is nil for
// all but the last.
func parsePart(n partName, plain []byte) (hash [32]byte, data, end []byte, err error) {
	rest, ok := bytes.CutPrefix(plain, []byte(partMagic))
	if !ok {
		return hash, nil, nil, errors.New("not a part of a base that this release knows")
	}
	kind, head, rest, err := nextFrame(rest)
	if err != nil || kind != frameHeader || len(head) != partHeaderBytes {
		return hash, nil, nil, fmt.Errorf("no header: %w", errors.Join(err, errors.New("the first frame is none")))
	}
	hash = [32]byte(head[34:66])
	if ClusterID(head[:16]) != n.cluster || journal.ShardID(binary.BigEndian.Uint16(head[16:])) != n.shard || positionAt(head[18:]) != n.at ||
		hintOf(hash) != n.hash || int(binary.BigEndian.Uint32(head[66:])) != n.part {
		return hash, nil, nil, errors.New("it is of another base or another part: it was put in another's place")
	}
	if kind, data, rest, err = nextFrame(rest); err != nil || kind != frameData {
		return hash, nil, nil, fmt.Errorf("no data: %w", errors.Join(err, errors.New("the second frame is none")))
	}
	if n.last {
		if kind, end, rest, err = nextFrame(rest); err != nil || kind != frameEnd || len(end) != partEndBytes {
			return hash, nil, nil, fmt.Errorf("no end: %w", errors.Join(err, errors.New("the last frame is none")))
		}
	}
	if len(rest) != 0 {
		return hash, nil, nil, errors.New("it does not end where it should")
	}
	return hash, data, end, nil
}

// putBase archives a base, its last part last: without it there is none.
func (w *Writer) putBase(ctx context.Context, shard journal.ShardID, b *Base, stats *Stats) error {
	if len(b.Log) > maxLogBytes {
		return fmt.Errorf("base of shard %d: %d bytes of its journal", shard, len(b.Log))
	}
	stream := io.MultiReader(bytes.NewReader(binary.BigEndian.AppendUint32(nil, uint32(len(b.Log)))), bytes.NewReader(b.Log), b.View)
	sum, total := sha256.New(), uint64(0)
	name := partName{cluster: w.cfg.Cluster, shard: shard, at: b.At.Position, hash: hintOf(b.At.Hash)}
	for buf := make([]byte, w.cfg.SegmentBytes); !name.last; name.part++ {
		began := w.cfg.Clock.Now()
		n, err := io.ReadFull(stream, buf)
		name.last = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !name.last {
			return fmt.Errorf("base of shard %d: %w", shard, err)
		}
		total += uint64(n)
		sum.Write(buf[:n])
		plain := encodePart(name, b.At.Hash, buf[:n], sum.Sum(binary.BigEndian.AppendUint64(nil, total)))
		stored, err := w.put(ctx, name.String(), plain)
		if err != nil {
			return err
		}
		stats.Segments, stats.Bytes, stats.Stored = stats.Segments+1, stats.Bytes+len(plain), stats.Stored+stored
		if err := w.pace(ctx, began, n); err != nil {
			return err
		}
	}
	return nil
}

// base is a base as the listing of a store shows it.
type base struct {
	partName        // of the last part
	parts    []bool // which of the others are there
}

func (b *base) whole() bool {
	if !b.last || len(b.parts) < b.part {
		return false
	}
	for _, there := range b.parts[:b.part] {
		if !there {
			return false
		}
	}
	return true
}

// bases collects parts.
type bases map[journal.Position]*base

func (all bases) add(n partName) {
	b := all[n.at]
	if b == nil {
		b = &base{}
		all[n.at] = b
	}
	if n.last {
		b.partName = n
		return
	}
	for len(b.parts) <= n.part {
		b.parts = append(b.parts, false)
	}
	b.parts[n.part] = true
}

// maxParts bounds how many parts a base may have: a name is no reason to
// allocate.
const maxParts = 1 << 20

// openBase begins to read a base: the log, and the view as a stream that proves
// itself whole at its end.
func (a *Archive) openBase(ctx context.Context, b *base) (*Base, error) {
	r := &partReader{ctx: ctx, a: a, b: b, sum: sha256.New()}
	var n [4]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, fmt.Errorf("read base of shard %d: %w", b.shard, err)
	}
	size := binary.BigEndian.Uint32(n[:])
	if size > maxLogBytes {
		return nil, &DamagedError{Object: b.String(), Cause: fmt.Errorf("%d bytes of its journal", size)}
	}
	log := make([]byte, size)
	if _, err := io.ReadFull(r, log); err != nil {
		return nil, fmt.Errorf("read base of shard %d: %w", b.shard, err)
	}
	return &Base{At: journal.Mark{Position: b.at, Hash: r.hash}, Log: log, View: r}, nil
}

// partReader reads a base's stream over its parts.
type partReader struct {
	ctx  context.Context // of who reads; the reader is used by one call
	a    *Archive
	b    *base
	next int
	data []byte
	hash [32]byte
	sum  hash.Hash
	read uint64
	end  error
}

// Read implements io.Reader.
func (r *partReader) Read(p []byte) (int, error) {
	for len(r.data) == 0 {
		if r.end != nil {
			return 0, r.end
		}
		if err := r.fetch(); err != nil {
			r.end = err
			return 0, err
		}
	}
	n := copy(p, r.data)
	r.data = r.data[n:]
	return n, nil
}

func (r *partReader) fetch() error {
	name := r.b.partName
	name.part, name.last = r.next, r.next == r.b.part
	plain, err := r.a.open(r.ctx, name.String())
	if err != nil {
		return err
	}
	hash, data, end, err := parsePart(name, plain)
	if err == nil && r.next > 0 && hash != r.hash {
		err = errors.New("it stands on another running hash than the parts before")
	}
	if err != nil {
		return &DamagedError{Object: name.String(), Cause: err}
	}
	r.hash, r.data = hash, data
	r.read += uint64(len(data))
	r.sum.Write(data)
	r.next++
	if !name.last {
		return nil
	}
	r.end = io.EOF
	if !bytes.Equal(end, r.sum.Sum(binary.BigEndian.AppendUint64(nil, r.read))) {
		r.data = nil
		return &DamagedError{Object: name.String(), Cause: errors.New("the parts are not those that it was made of")}
	}
	return nil
}
