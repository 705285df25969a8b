package view

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"
)

// Shard is the view of one shard: the keys of its partitions and its mark.
type Shard struct {
	store     *Store
	n         int
	low, high []byte // its keys: low ≤ key < high
	markKey   []byte
	mark      atomic.Pointer[journalv1.Mark] // never modified, only replaced
	staged    atomic.Bool                    // a stage is open
	recent    *recent                        // belongs to the open stage
}

func newShard(s *Store, n int) *Shard {
	// The partitions p with p*shards/4096 == n, as id.Partition.Shard counts.
	first := func(n int) int { return (n*id.Partitions + s.cfg.Shards - 1) / s.cfg.Shards }
	return &Shard{
		store: s, n: n,
		low: partitionKey(first(n)), high: partitionKey(first(n + 1)),
		markKey: ownKey('m', n, ""), recent: newRecent(),
	}
}

// Number returns which shard this is.
func (sh *Shard) Number() int { return sh.n }

// Mark returns where the view stands, index 0 for an empty one. The caller must
// not modify it.
func (sh *Shard) Mark() *journalv1.Mark { return sh.mark.Load() }

func (sh *Shard) owns(key []byte) bool {
	return bytes.Compare(key, sh.low) >= 0 && bytes.Compare(key, sh.high) < 0
}

// clamp cuts a range to the shard's own keys; a nil high means their end.
func (sh *Shard) clamp(low, high []byte) (l, h []byte, some bool) {
	if bytes.Compare(low, sh.low) < 0 {
		low = sh.low
	}
	if high == nil || bytes.Compare(high, sh.high) > 0 {
		high = sh.high
	}
	return low, high, bytes.Compare(low, high) < 0
}

// getter is what pebble.DB and pebble.Snapshot have in common.
type getter interface {
	Get(key []byte) ([]byte, io.Closer, error)
	NewIter(*pebble.IterOptions) (*pebble.Iterator, error)
}

// get returns a copy of the value, nil if there is none. After any error the
// store is fenced.
func (s *Store) get(g getter, key []byte) ([]byte, error) {
	value, closer, err := g.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		if f := s.fence.get(); f != nil {
			return nil, f // Pebble went on after a failure: absence proves nothing
		}
		return nil, nil
	}
	if err != nil {
		return nil, s.readFailed(fmt.Errorf("read key %x: %w", key, err))
	}
	out := append(make([]byte, 0, len(value)), value...)
	if err := closer.Close(); err != nil {
		return nil, s.readFailed(fmt.Errorf("read key %x: %w", key, err))
	}
	if f := s.fence.get(); f != nil {
		return nil, f
	}
	return out, nil
}

// cursor walks one range of the store in one direction.
type cursor struct {
	s       *Store
	it      *pebble.Iterator
	reverse bool
	key     []byte // nil at the end
}

func (s *Store) cursor(g getter, low, high []byte, reverse bool) (*cursor, error) {
	it, err := g.NewIter(&pebble.IterOptions{LowerBound: low, UpperBound: high})
	if err != nil {
		return nil, s.readFailed(fmt.Errorf("scan from key %x: %w", low, err))
	}
	c := &cursor{s: s, it: it, reverse: reverse}
	if reverse {
		c.settle(it.Last())
	} else {
		c.settle(it.First())
	}
	return c, nil
}

func (c *cursor) next() {
	if c.reverse {
		c.settle(c.it.Prev())
	} else {
		c.settle(c.it.Next())
	}
}

func (c *cursor) settle(valid bool) {
	c.key = nil
	if valid {
		c.key = c.it.Key()
	}
}

// value returns the value at the cursor. Every step is checked against the
// fence before what it found is shown to anyone.
func (c *cursor) value() ([]byte, error) {
	value, err := c.it.ValueAndErr()
	if err != nil {
		return nil, c.s.readFailed(fmt.Errorf("scan at key %x: %w", c.key, err))
	}
	if f := c.s.fence.get(); f != nil {
		return nil, f
	}
	if value == nil {
		value = []byte{} // nil would say that there is none
	}
	return value, nil
}

func (c *cursor) close() error {
	if err := c.it.Close(); err != nil {
		return c.s.readFailed(fmt.Errorf("scan: %w", err))
	}
	if f := c.s.fence.get(); f != nil {
		return f
	}
	return nil
}

func (s *Store) scan(g getter, low, high []byte, reverse bool, fn func(key, value []byte) bool) error {
	c, err := s.cursor(g, low, high, reverse)
	if err != nil {
		return err
	}
	for ; c.key != nil; c.next() {
		value, err := c.value()
		if err != nil {
			_ = c.it.Close() // the same failure
			return err
		}
		if !fn(c.key, value) {
			break
		}
	}
	return c.close()
}

// Reader is a consistent look at one shard as it was when the reader was made.
// It implements chat.Reader and must be closed; it is for short use (a page, a
// list), as it keeps old versions from being compacted away.
type Reader struct {
	sh   *Shard
	snap *pebble.Snapshot
	mark *journalv1.Mark
	done func()
}

// Reader returns a new reader. The error is a *FencedError or ErrClosed.
func (sh *Shard) Reader() (*Reader, error) {
	done, err := sh.store.use()
	if err != nil {
		return nil, err
	}
	return &Reader{sh: sh, snap: sh.store.db.NewSnapshot(), done: done}, nil
}

// Get implements chat.Reader.
func (r *Reader) Get(key []byte) ([]byte, error) {
	if !r.sh.owns(key) {
		return nil, r.sh.store.Err()
	}
	return r.sh.store.get(r.snap, key)
}

// Scan implements chat.Reader.
func (r *Reader) Scan(low, high []byte, reverse bool, fn func(key, value []byte) bool) error {
	low, high, some := r.sh.clamp(low, high)
	if !some {
		return r.sh.store.Err()
	}
	return r.sh.store.scan(r.snap, low, high, reverse, fn)
}

// Mark returns where the shard stood at this look.
func (r *Reader) Mark() (*journalv1.Mark, error) {
	if r.mark != nil {
		return r.mark, nil
	}
	value, err := r.sh.store.get(r.snap, r.sh.markKey)
	if err != nil {
		return nil, fmt.Errorf("read mark of shard %d: %w", r.sh.n, err)
	}
	m, err := decodeMark(value)
	if err != nil {
		return nil, r.sh.store.readFailed(fmt.Errorf("mark of shard %d: %w", r.sh.n, err))
	}
	r.mark = m
	return m, nil
}

// Note reads what Stage.SetNote has kept under name; nil if nothing.
func (r *Reader) Note(name string) ([]byte, error) {
	return r.sh.store.get(r.snap, ownKey('n', r.sh.n, name))
}

// Dump calls fn for everything the shard has, in key order: its state, then its
// notes, then its mark. Two views that have applied the same records dump the
// same bytes.
func (r *Reader) Dump(fn func(key, value []byte) bool) error {
	goOn := true
	each := func(k, v []byte) bool { goOn = fn(k, v); return goOn }
	if err := r.Scan(nil, nil, false, each); err != nil || !goOn {
		return err
	}
	low, high := ownKey('n', r.sh.n, ""), ownKey('n', r.sh.n+1, "")
	if err := r.sh.store.scan(r.snap, low, high, false, each); err != nil || !goOn {
		return err
	}
	value, err := r.sh.store.get(r.snap, r.sh.markKey)
	if err != nil || value == nil {
		return err
	}
	fn(r.sh.markKey, value)
	return nil
}

// Close ends the reader; it may be called again.
func (r *Reader) Close() error {
	if r.snap == nil {
		return nil
	}
	err := r.snap.Close()
	r.snap = nil
	r.done()
	if err != nil {
		return fmt.Errorf("close reader: %w", err)
	}
	return nil
}

// Stage holds the effects of one record until they are committed with its mark
// or discarded. It implements chat.Tx; reads see earlier writes.
type Stage struct {
	sh    *Shard
	over  *overlay
	notes map[string][]byte
	done  func() // nil once committed or discarded
}

// ErrStageEnded is returned by a stage that was committed or discarded.
var ErrStageEnded = errors.New("view: the stage has ended")

// Stage begins a stage. A shard has at most one: a second is an error, as two
// writers of one shard would be. Otherwise the error is a *FencedError or ErrClosed.
func (sh *Shard) Stage() (*Stage, error) {
	done, err := sh.store.use()
	if err != nil {
		return nil, err
	}
	if !sh.staged.CompareAndSwap(false, true) {
		done()
		return nil, fmt.Errorf("view: shard %d has an open stage already", sh.n)
	}
	return &Stage{sh: sh, over: newOverlay(), notes: make(map[string][]byte), done: done}, nil
}

// Get implements chat.Reader. What the stage has written is found without the store.
func (st *Stage) Get(key []byte) ([]byte, error) {
	if st.done == nil {
		return nil, ErrStageEnded
	}
	if n := st.over.get(key); n != nil {
		if n.deleted {
			return nil, nil
		}
		return n.value, nil
	}
	if !st.sh.owns(key) {
		return nil, st.sh.store.Err()
	}
	if v, ok := st.sh.recent.get(key); ok {
		return v, st.sh.store.Err()
	}
	v, err := st.sh.store.get(st.sh.store.db, key)
	if err == nil && v != nil {
		st.sh.recent.keep(key, v)
	}
	return v, err
}

// Set implements chat.Tx. A key of another shard is refused.
func (st *Stage) Set(key, value []byte) error { return st.put(key, value, false) }

// Delete implements chat.Tx.
func (st *Stage) Delete(key []byte) error { return st.put(key, nil, true) }

func (st *Stage) put(key, value []byte, deleted bool) error {
	if st.done == nil {
		return ErrStageEnded
	}
	if !st.sh.owns(key) {
		return fmt.Errorf("view: key %x does not belong to shard %d", key, st.sh.n)
	}
	st.over.put(key, value, deleted)
	return nil
}

// Scan implements chat.Reader: what is stored, with what the stage has written
// in its place. fn may read and write the stage.
func (st *Stage) Scan(low, high []byte, reverse bool, fn func(key, value []byte) bool) error {
	if st.done == nil {
		return ErrStageEnded
	}
	low, high, some := st.sh.clamp(low, high)
	if !some {
		return st.sh.store.Err()
	}
	c, err := st.sh.store.cursor(st.sh.store.db, low, high, reverse)
	if err != nil {
		return err
	}
	if err := st.merge(c, low, high, fn); err != nil {
		_ = c.it.Close() // the same failure
		return err
	}
	return c.close()
}

func (st *Stage) merge(c *cursor, low, high []byte, fn func(key, value []byte) bool) error {
	own, count := st.firstOwn(low, high, c.reverse), st.over.count()
	for own != nil || c.key != nil {
		switch order := compare(c.key, own, c.reverse); {
		case order < 0: // stored only
			value, err := c.value()
			if err != nil {
				return err
			}
			at := c.key // fn may write a key between this one and own
			if !fn(at, value) {
				return nil
			}
			if st.over.count() != count {
				own, count = st.ownAfter(at, low, high, c.reverse), st.over.count()
			}
			c.next()
		default:
			if !own.deleted && !fn(own.key, own.value) {
				return nil
			}
			if order == 0 {
				c.next()
			}
			own = st.ownAfter(own.key, low, high, c.reverse)
		}
	}
	return nil
}

func (st *Stage) firstOwn(low, high []byte, reverse bool) *overlayNode {
	if reverse {
		return within(st.over.before(high), low, high)
	}
	return within(st.over.atOrAfter(low), low, high)
}

func (st *Stage) ownAfter(key, low, high []byte, reverse bool) *overlayNode {
	if reverse {
		return within(st.over.before(key), low, high)
	}
	n := st.over.atOrAfter(key)
	if n != nil && bytes.Equal(n.key, key) {
		n = n.next[0]
	}
	return within(n, low, high)
}

func within(n *overlayNode, low, high []byte) *overlayNode {
	if n == nil || bytes.Compare(n.key, low) < 0 || bytes.Compare(n.key, high) >= 0 {
		return nil
	}
	return n
}

// compare orders a stored key against an own entry in the direction of the
// scan; whichever is absent comes last.
func compare(stored []byte, own *overlayNode, reverse bool) int {
	switch {
	case own == nil:
		return -1
	case stored == nil:
		return 1
	case reverse:
		return bytes.Compare(own.key, stored)
	}
	return bytes.Compare(stored, own.key)
}

// SetNote keeps a value about the whole shard, outside its state; it becomes
// visible with Commit.
func (st *Stage) SetNote(name string, value []byte) {
	st.notes[name] = append([]byte{}, value...)
}

// Note reads what SetNote keeps under name; nil if nothing.
func (st *Stage) Note(name string) ([]byte, error) {
	if v, ok := st.notes[name]; ok {
		return v, nil
	}
	return st.sh.store.get(st.sh.store.db, ownKey('n', st.sh.n, name))
}

// Empty tells whether nothing was written.
func (st *Stage) Empty() bool { return len(st.over.byKey) == 0 && len(st.notes) == 0 }

// Bytes returns how much the stage holds, in bytes of keys and values.
func (st *Stage) Bytes() int { return st.over.bytes }

// Commit writes everything and the mark in one atomic step and ends the stage.
// It waits for a flush while too much is unflushed. After an error nothing of
// it is visible, the store is fenced, and the stage has ended.
func (st *Stage) Commit(mark *journalv1.Mark) error {
	if st.done == nil {
		return ErrStageEnded
	}
	defer st.end()
	s := st.sh.store
	if len(mark.GetHash()) != 32 {
		return fmt.Errorf("view: mark with a hash of %d bytes", len(mark.GetHash()))
	}
	if old := st.sh.Mark(); mark.Index <= old.Index {
		return fmt.Errorf("view: shard %d stands at entry %d, mark says %d", st.sh.n, old.Index, mark.Index)
	}
	if s.unflushed.Load() >= s.cfg.MaxUnflushedBytes {
		if err := s.Flush(); err != nil {
			return err
		}
	}
	return st.write(proto.Clone(mark).(*journalv1.Mark))
}

func (st *Stage) write(mark *journalv1.Mark) error {
	s := st.sh.store
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(mark)
	if err != nil {
		return fmt.Errorf("encode mark: %w", err)
	}
	b := s.db.NewBatchWithSize(st.over.bytes + 16*len(st.over.byKey) + 256)
	defer func() { _ = b.Close() }() // frees memory only
	for n := st.over.head.next[0]; n != nil; n = n.next[0] {
		if n.deleted {
			err = errors.Join(err, b.Delete(n.key, nil))
		} else {
			err = errors.Join(err, b.Set(n.key, n.value, nil))
		}
	}
	for name, v := range st.notes {
		err = errors.Join(err, b.Set(ownKey('n', st.sh.n, name), v, nil))
	}
	if mutantPositionApart {
		err = errors.Join(err, s.db.Set(st.sh.markKey, value, pebble.NoSync))
		runtime.Gosched() // a flush that comes here is what the drill is to find
	} else {
		err = errors.Join(err, b.Set(st.sh.markKey, value, nil))
	}
	if err != nil {
		return s.fail(fmt.Errorf("fill batch of shard %d: %w", st.sh.n, err), false)
	}
	size := int64(b.Len())
	if err := s.db.Apply(b, pebble.NoSync); err != nil {
		return s.fail(fmt.Errorf("commit to view of shard %d: %w", st.sh.n, err), false)
	}
	if f := s.fence.get(); f != nil {
		return f
	}
	for n := st.over.head.next[0]; n != nil; n = n.next[0] {
		st.sh.recent.committed(n.key, n.value, n.deleted)
	}
	st.sh.mark.Store(mark)
	if s.unflushed.Add(size) >= s.cfg.FlushBytes {
		signal(s.flushNow)
	}
	return nil
}

// Discard drops everything and ends the stage; it may follow Commit.
func (st *Stage) Discard() { st.end() }

func (st *Stage) end() {
	if st.done == nil {
		return
	}
	st.sh.staged.Store(false)
	st.done()
	st.done = nil
}
