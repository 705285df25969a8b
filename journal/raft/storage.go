package raft

import (
	"errors"
	"fmt"
	"sort"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	etcd "go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/bongsu-im/bongsu/journal"
)

// maxSpans bounds the table of term starts. Beyond it the oldest are forgotten
// and positions before the first are taken on trust of their term's order.
const maxSpans = 1 << 16

// shardLog is one group's log on disk, with its tail in memory. It implements
// etcd's raft.Storage for the group's loop; Read and Contains use it from
// anywhere.
//
// Lock order: writing, then mu. mu is never held across I/O.
type shardLog struct {
	store      *store
	shard      journal.ShardID
	node       NodeID
	cacheBytes int

	writing sync.Mutex // one writer at a time: the group's loop, or Trim

	mu     sync.Mutex
	meta   groupMeta
	confs  []confAt        // memberships, by the index that brought them; ends with meta.conf
	gone   map[NodeID]bool // removed members: their IDs are not used again
	hard   *raftpb.HardState
	spans  []span
	last   uint64 // last index in stable storage
	tail   []*raftpb.Entry
	size   int // encoded bytes of tail
	commit uint64
	final  journal.Position // last committed data entry, trimmed or not
	// incoming is where a view stands, or will, that was taken from a peer before
	// the log went on from there; zero if none.
	incoming journal.Position
	changed  chan struct{} // closed and replaced when commit moves or the group's state does
}

var _ etcd.Storage = (*shardLog)(nil)

func newShardLog(s *store, shard journal.ShardID, node NodeID, cacheBytes int) *shardLog {
	return &shardLog{store: s, shard: shard, node: node, cacheBytes: cacheBytes, changed: make(chan struct{})}
}

// bootstrap puts what an empty group starts with into the batch. The log begins
// behind an imaginary first entry, as if it had been trimmed, so that a member
// that joins later cannot mistake an empty log of its own for the beginning.
// Without voters the group is that of a node that joins later: it begins before
// the beginning, and waits for a snapshot.
func (l *shardLog) bootstrap(b *pebble.Batch, voters []NodeID) error {
	if len(voters) == 0 {
		enc, err := encodeMeta(l.shard, groupMeta{conf: &raftpb.ConfState{}})
		if err != nil {
			return err
		}
		hard := &raftpb.HardState{Term: new(uint64), Vote: new(uint64), Commit: new(uint64)}
		return errors.Join(
			b.Set(key(l.shard, keyMeta, 0), enc, nil),
			b.Set(key(l.shard, keyHardState, 0), encodeHardState(l.shard, hard), nil),
		)
	}
	meta := groupMeta{
		trimmed: journal.Position{Term: 1, Index: 1},
		conf:    &raftpb.ConfState{Voters: voters},
	}
	enc, err := encodeMeta(l.shard, meta)
	if err != nil {
		return err
	}
	one := uint64(1)
	hard := &raftpb.HardState{Term: &one, Vote: new(uint64), Commit: &one}
	return errors.Join(
		b.Set(key(l.shard, keyMeta, 0), enc, nil),
		b.Set(key(l.shard, keyHardState, 0), encodeHardState(l.shard, hard), nil),
		b.Set(key(l.shard, keySpan, 1), encodeSpan(l.shard, span{term: 1, start: 1}), nil),
	)
}

func (l *shardLog) corrupt(index uint64, format string, args ...any) error {
	return &journal.CorruptError{Shard: l.shard, Index: journal.Index(index), Cause: fmt.Errorf(format, args...)}
}

// load reads the group from the store and checks that its parts agree.
func (l *shardLog) load() error {
	for _, step := range []func() error{l.loadMeta, l.loadConfs, l.loadHardState, l.loadSpans, l.loadEnds, l.agree, l.seams, l.loadFinal, l.loadIncoming} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (l *shardLog) loadMeta() error {
	v, err := l.store.get(key(l.shard, keyMeta, 0))
	if err == nil {
		l.meta, err = decodeMeta(l.shard, v)
	}
	if err != nil {
		return l.corrupt(0, "group description: %w", err)
	}
	return nil
}

func (l *shardLog) loadHardState() error {
	v, err := l.store.get(key(l.shard, keyHardState, 0))
	if err == nil {
		l.hard, err = decodeHardState(l.shard, v)
	}
	if err != nil {
		return l.corrupt(0, "hard state: %w", err)
	}
	return nil
}

func (l *shardLog) loadSpans() (err error) {
	low, high := kindBounds(l.shard, keySpan)
	it, err := l.store.db.NewIter(&pebble.IterOptions{LowerBound: low, UpperBound: high})
	if err != nil {
		return l.corrupt(0, "term starts: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		s, err := decodeSpan(l.shard, numberOf(it.Key()), it.Value())
		if err != nil {
			return l.corrupt(0, "term start: %w", err)
		}
		if n := len(l.spans); n > 0 && l.spans[n-1].start >= s.start {
			return l.corrupt(s.start, "term %d starts at or before term %d", s.term, l.spans[n-1].term)
		}
		l.spans = append(l.spans, s)
	}
	if err := it.Error(); err != nil {
		return l.corrupt(0, "term starts: %w", err)
	}
	return nil
}

// loadEnds finds the first and the last entry and decodes both.
func (l *shardLog) loadEnds() (err error) {
	l.last = uint64(l.meta.trimmed.Index)
	low, high := kindBounds(l.shard, keyEntry)
	it, err := l.store.db.NewIter(&pebble.IterOptions{LowerBound: low, UpperBound: high})
	if err != nil {
		return l.corrupt(0, "entries: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	if !it.First() {
		if err := it.Error(); err != nil {
			return l.corrupt(0, "entries: %w", err)
		}
		return nil
	}
	if got := numberOf(it.Key()); got != l.last+1 {
		return l.corrupt(l.last+1, "the first entry is %d, but %d is what was trimmed", got, l.last)
	}
	if _, err := decodeEntry(l.shard, numberOf(it.Key()), it.Value()); err != nil {
		return l.corrupt(numberOf(it.Key()), "%w", err)
	}
	if !it.Last() {
		return l.corrupt(0, "the last entry cannot be read: %w", errors.Join(it.Error(), errShort))
	}
	l.last = numberOf(it.Key())
	e, err := decodeEntry(l.shard, l.last, it.Value())
	if err != nil {
		return l.corrupt(l.last, "%w", err)
	}
	if n := len(l.spans); n == 0 || l.spans[n-1].term != e.GetTerm() {
		return l.corrupt(l.last, "the last entry has term %d, the table of terms ends otherwise", e.GetTerm())
	}
	return nil
}

// agree checks the parts against each other: each was written in one batch with
// what it must agree with, so a difference is damage below us.
func (l *shardLog) agree() error {
	if l.joining() && l.last == 0 && len(l.spans) == 0 && l.hard.GetCommit() == 0 {
		return nil
	}
	if len(l.spans) == 0 {
		return l.corrupt(0, "the table of terms is empty")
	}
	end := l.spans[len(l.spans)-1]
	trimmed := uint64(l.meta.trimmed.Index)
	switch t, ok := l.termAt(trimmed); {
	case end.start > l.last:
		return l.corrupt(l.last, "the log ends at %d, but term %d starts at %d", l.last, end.term, end.start)
	case l.hard.GetTerm() < end.term:
		return l.corrupt(l.last, "the hard state's term %d is behind the log's %d", l.hard.GetTerm(), end.term)
	case !ok || journal.Term(t) != l.meta.trimmed.Term:
		return l.corrupt(trimmed, "the table of terms gives the trimmed entry another term")
	case l.hard.GetCommit() > l.last:
		return l.corrupt(l.last, "the log ends at %d, but %d was committed", l.last, l.hard.GetCommit())
	case len(l.confs) > 0 && l.confs[len(l.confs)-1].index > l.last:
		return l.corrupt(l.last, "the log ends at %d, but a membership came with %d", l.last, l.confs[len(l.confs)-1].index)
	}
	l.commit = max(l.hard.GetCommit(), trimmed)
	if n := len(l.confs); n > 0 {
		l.commit = max(l.commit, l.confs[n-1].index) // it acted, so it was committed
	}
	if v := votersOf(l.meta.conf); len(v) == 1 && v[0] == l.node {
		// The only voter's log is committed as far as it goes: Pebble has synced
		// again whatever it replayed, before opening.
		l.commit = l.last
	}
	return nil
}

// seams looks at the entry before each term's first. Pebble forgives a torn list
// of files, and with the list's last line a whole table is gone whose WAL was
// deleted long ago: the entries between two starts, with the term they were of,
// while the first and the last entry are in place and agree with the marks.
func (l *shardLog) seams() error {
	for n, s := range l.spans {
		before := s.start - 1
		if n == 0 || before <= uint64(l.meta.trimmed.Index) {
			continue
		}
		v, err := l.store.get(key(l.shard, keyEntry, before))
		if err != nil {
			return l.corrupt(before, "%w", err)
		}
		e, err := decodeEntry(l.shard, before, v)
		if err != nil {
			return l.corrupt(before, "the entry before term %d: %w", s.term, err)
		}
		if e.GetTerm() != l.spans[n-1].term {
			return l.corrupt(before, "the entry before term %d has term %d, the table of terms says %d", s.term, e.GetTerm(), l.spans[n-1].term)
		}
	}
	return nil
}

// joining tells whether the group waits for its first snapshot: it is of a node
// that joins. The caller holds mu or is alone.
func (l *shardLog) joining() bool { return l.meta.trimmed.Index == 0 }

// raise moves the commit of a log that was just loaded up to what is proven
// elsewhere to have been committed.
func (l *shardLog) raise(to uint64) error {
	if to <= l.commit || to > l.last {
		return nil
	}
	l.commit = to
	return l.loadFinal()
}

// loadFinal finds the last committed data entry.
func (l *shardLog) loadFinal() error {
	l.final = l.meta.lastCut
	for i := l.commit; i > uint64(l.meta.trimmed.Index); i-- {
		v, err := l.store.get(key(l.shard, keyEntry, i))
		if err != nil {
			return l.corrupt(i, "%w", err)
		}
		e, err := decodeEntry(l.shard, i, v)
		if err != nil {
			return l.corrupt(i, "%w", err)
		}
		if kindOf(e) == kindData {
			l.final = position(e)
			return nil
		}
	}
	return nil
}

func position(e *raftpb.Entry) journal.Position {
	return journal.Position{Term: journal.Term(e.GetTerm()), Index: journal.Index(e.GetIndex())}
}

// termAt gives the term of the entry at index by the table of terms; the caller
// holds mu or is alone. It knows nothing of the end of the log.
func (l *shardLog) termAt(index uint64) (uint64, bool) {
	i := sort.Search(len(l.spans), func(i int) bool { return l.spans[i].start > index })
	if i == 0 {
		return 0, false
	}
	return l.spans[i-1].term, true
}

// contains: see journal.Log.Contains; end bounds what counts as history.
func (l *shardLog) contains(p journal.Position, end uint64) bool {
	if p == (journal.Position{}) {
		return true
	}
	if p.Index == 0 || p.Term == 0 || uint64(p.Index) > end {
		return false
	}
	t, ok := l.termAt(uint64(p.Index))
	if !ok {
		return uint64(p.Term) < l.spans[0].term // older than the bounded table: on trust
	}
	return uint64(p.Term) == t
}

// save makes entries and hard state durable in one batch, with one fsync. hard
// may be nil. Entries may overwrite an uncommitted tail.
func (l *shardLog) save(entries []*raftpb.Entry, hard *raftpb.HardState) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	b := l.store.db.NewBatch()
	defer func() { _ = b.Close() }() // a batch that was not committed holds nothing

	if hard != nil {
		if err := b.Set(key(l.shard, keyHardState, 0), encodeHardState(l.shard, hard), nil); err != nil {
			return l.store.trip(err)
		}
	}
	l.mu.Lock()
	spans, err := l.stage(b, entries)
	l.mu.Unlock()
	if err != nil {
		return l.store.trip(err)
	}
	if err := l.store.commit(b, true); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if hard != nil {
		l.hard = hard
	}
	l.spans = spans
	l.remember(entries)
	return nil
}

// stage puts entries and the changes they make to the table of terms into the
// batch and returns the new table.
func (l *shardLog) stage(b *pebble.Batch, entries []*raftpb.Entry) ([]span, error) {
	spans := l.spans
	if len(entries) == 0 {
		return spans, nil
	}
	first, last := entries[0].GetIndex(), entries[len(entries)-1].GetIndex()
	if first <= l.commit || first > l.last+1 {
		return nil, fmt.Errorf("raft wants to write entry %d of shard %d: committed is %d, the last %d", first, l.shard, l.commit, l.last)
	}
	if last < l.last {
		if err := b.DeleteRange(key(l.shard, keyEntry, last+1), key(l.shard, keyEntry, l.last+1), nil); err != nil {
			return nil, err
		}
	}
	for n := len(spans); n > 0 && spans[n-1].start >= first; n-- {
		if err := b.Delete(key(l.shard, keySpan, spans[n-1].term), nil); err != nil {
			return nil, err
		}
		spans = spans[: n-1 : n-1]
	}
	for _, e := range entries {
		if n := len(spans); n == 0 || spans[n-1].term != e.GetTerm() {
			s := span{term: e.GetTerm(), start: e.GetIndex()}
			if err := b.Set(key(l.shard, keySpan, s.term), encodeSpan(l.shard, s), nil); err != nil {
				return nil, err
			}
			spans = append(spans, s)
		}
		if err := b.Set(key(l.shard, keyEntry, e.GetIndex()), encodeEntry(l.shard, e), nil); err != nil {
			return nil, err
		}
	}
	for len(spans) > maxSpans && spans[1].start <= uint64(l.meta.trimmed.Index) {
		if err := b.Delete(key(l.shard, keySpan, spans[0].term), nil); err != nil {
			return nil, err
		}
		spans = spans[1:]
	}
	return spans, nil
}

// remember puts durable entries at the end of the cached tail, within its bound.
func (l *shardLog) remember(entries []*raftpb.Entry) {
	if len(entries) == 0 {
		return
	}
	first := entries[0].GetIndex()
	for n := len(l.tail); n > 0 && l.tail[n-1].GetIndex() >= first; n-- {
		l.size -= cost(l.tail[n-1])
		l.tail = l.tail[:n-1]
	}
	for _, e := range entries {
		l.size += cost(e)
	}
	l.tail = append(l.tail, entries...)
	l.last = entries[len(entries)-1].GetIndex()
	drop := 0
	for ; l.size > l.cacheBytes && drop < len(l.tail); drop++ {
		l.size -= cost(l.tail[drop])
		l.tail[drop] = nil // the array lives on until append moves it
	}
	l.tail = l.tail[drop:]
}

// cost is what an entry takes in the cache, its structs included.
func cost(e *raftpb.Entry) int { return len(e.GetData()) + 128 }

// committed moves the commit forward over entries, which raft has given in order.
func (l *shardLog) committed(entries []*raftpb.Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range entries {
		if kindOf(e) == kindData {
			l.final = position(e)
		}
		l.commit = e.GetIndex()
	}
	l.wake()
}

// wake tells who waits that something changed; the caller holds mu.
func (l *shardLog) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// trim forgets entries up to upTo, or to the commit if that is less. It is not
// fsynced: a trim that a crash takes back has only forgotten to forget.
func (l *shardLog) trim(upTo uint64) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	from := uint64(l.meta.trimmed.Index)
	upTo = min(upTo, l.commit)
	l.mu.Unlock()
	if upTo <= from {
		return nil
	}
	cut, err := l.lastDataIn(from, upTo)
	if err != nil {
		return err
	}
	l.mu.Lock()
	meta := l.meta
	term, _ := l.termAt(upTo)
	meta.trimmed = journal.Position{Term: journal.Term(term), Index: journal.Index(upTo)}
	if cut != (journal.Position{}) {
		meta.lastCut = cut
	}
	// Before the disk: a reader that then meets the gap finds why.
	l.meta = meta
	drop := 0
	for ; drop < len(l.tail) && l.tail[drop].GetIndex() <= upTo; drop++ {
		l.size -= cost(l.tail[drop])
	}
	l.tail = append([]*raftpb.Entry(nil), l.tail[drop:]...)
	l.mu.Unlock()

	enc, err := encodeMeta(l.shard, meta)
	if err != nil {
		return l.store.trip(err)
	}
	b := l.store.db.NewBatch()
	defer func() { _ = b.Close() }() // as in save
	if err := errors.Join(
		b.Set(key(l.shard, keyMeta, 0), enc, nil),
		b.DeleteRange(key(l.shard, keyEntry, 0), key(l.shard, keyEntry, upTo+1), nil),
		l.trimConfs(b, upTo),
	); err != nil {
		return l.store.trip(err)
	}
	return l.store.commit(b, false)
}

// lastDataIn finds the last data entry in (from, upTo].
func (l *shardLog) lastDataIn(from, upTo uint64) (journal.Position, error) {
	for i := upTo; i > from; i-- {
		es, err := l.fetch(i, i+1, 1)
		if err != nil {
			return journal.Position{}, err
		}
		if kindOf(es[0]) == kindData {
			return position(es[0]), nil
		}
	}
	return journal.Position{}, nil
}

// fetch returns entries [low, high), at least one, about maxBytes, from the tail
// in memory or from the disk. Each is checked; the first that is missing or
// damaged fences the store. etcd's ErrCompacted: a trim was faster.
func (l *shardLog) fetch(low, high uint64, maxBytes uint64) ([]*raftpb.Entry, error) {
	l.mu.Lock()
	if n := len(l.tail); n > 0 && l.tail[0].GetIndex() <= low {
		at := int(low - l.tail[0].GetIndex())
		if at >= n {
			l.mu.Unlock()
			return nil, etcd.ErrUnavailable
		}
		out := take(l.tail[at:min(n, at+int(high-low))], maxBytes)
		l.mu.Unlock()
		return out, nil
	}
	l.mu.Unlock()
	out, err := l.fetchDisk(low, high, maxBytes)
	if err != nil {
		l.mu.Lock()
		trimmed := uint64(l.meta.trimmed.Index) >= low
		l.mu.Unlock()
		if trimmed {
			return nil, etcd.ErrCompacted
		}
		l.store.trip(err)
		return nil, err
	}
	return out, nil
}

func take(from []*raftpb.Entry, maxBytes uint64) []*raftpb.Entry {
	var size uint64
	for i, e := range from {
		if size += uint64(len(e.GetData())); i > 0 && size > maxBytes {
			from = from[:i]
			break
		}
	}
	return append([]*raftpb.Entry(nil), from...)
}

func (l *shardLog) fetchDisk(low, high, maxBytes uint64) (out []*raftpb.Entry, err error) {
	it, err := l.store.db.NewIter(&pebble.IterOptions{
		LowerBound: key(l.shard, keyEntry, low), UpperBound: key(l.shard, keyEntry, high),
	})
	if err != nil {
		return nil, l.corrupt(low, "%w", err)
	}
	defer func() {
		if e := it.Close(); e != nil && err == nil {
			out, err = nil, l.corrupt(low, "%w", e)
		}
	}()
	var size uint64
	want := low
	for ok := it.First(); ok; ok = it.Next() {
		if got := numberOf(it.Key()); got != want {
			return nil, l.corrupt(want, "the entry is missing, the next is %d", got)
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return nil, l.corrupt(want, "%w", err)
		}
		e, err := decodeEntry(l.shard, want, v)
		if err != nil {
			return nil, l.corrupt(want, "%w", err)
		}
		if size += uint64(len(e.GetData())); len(out) > 0 && size > maxBytes {
			return out, nil
		}
		out = append(out, e)
		want++
	}
	if err := it.Error(); err != nil {
		return nil, l.corrupt(want, "%w", err)
	}
	if want < high {
		return nil, l.corrupt(want, "the entry is missing and nothing follows it before %d", high)
	}
	return out, nil
}

// numberOf reads the number out of a key of ours.
func numberOf(k []byte) uint64 {
	if len(k) != 11 {
		return 0
	}
	var n uint64
	for _, b := range k[3:] {
		n = n<<8 | uint64(b)
	}
	return n
}

// InitialState implements etcd's raft.Storage.
func (l *shardLog) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	term, vote, commit := l.hard.GetTerm(), l.hard.GetVote(), l.commit
	return &raftpb.HardState{Term: &term, Vote: &vote, Commit: &commit}, l.meta.conf, nil
}

// Entries implements etcd's raft.Storage.
func (l *shardLog) Entries(low, high, maxSize uint64) ([]*raftpb.Entry, error) {
	l.mu.Lock()
	first, last := uint64(l.meta.trimmed.Index)+1, l.last
	l.mu.Unlock()
	if low < first {
		return nil, etcd.ErrCompacted
	}
	if high > last+1 {
		return nil, etcd.ErrUnavailable
	}
	return l.fetch(low, high, maxSize)
}

// Term implements etcd's raft.Storage.
func (l *shardLog) Term(i uint64) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i < uint64(l.meta.trimmed.Index) {
		return 0, etcd.ErrCompacted
	}
	if i > l.last {
		return 0, etcd.ErrUnavailable
	}
	t, _ := l.termAt(i)
	return t, nil
}

// LastIndex implements etcd's raft.Storage.
func (l *shardLog) LastIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last, nil
}

// FirstIndex implements etcd's raft.Storage.
func (l *shardLog) FirstIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(l.meta.trimmed.Index) + 1, nil
}
