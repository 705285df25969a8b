// Package memory implements the journal contract in memory, with every fault
// the contract permits on demand and by seed: for the tests of what stands on a
// journal.
//
// Vocabulary: a Store is what survives a restart (the "disk"); Open takes
// ownership of it, as a process does, and gives a Journal; Close or Kill gives
// it up, and the next Open has higher terms. A Fault is a way in which an append
// goes wrong; faults come by probability (Faults), from a seeded source of each
// shard's own, or are ordered one by one (Inject). Fired counts them, so that a
// test can prove that what it meant to survive did happen.
//
// Everything may be used from any goroutine; one mutex guards a Store. Time is
// only waited for (delays), so the package runs under testing/synctest.
//
// What it does not do: it keeps nothing on disk, has no replicas, and does not
// bound its memory beyond MaxEntryBytes an entry; trimming is the caller's.
package memory

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sort"
	"sync"
	"time"

	"github.com/bongsu-im/bongsu/journal"
)

// Fault is a way in which an append goes wrong.
type Fault int

// The faults. Each is something that the contract permits an implementation.
const (
	// LoseAck commits the entry and answers ErrUnknown.
	LoseAck Fault = iota
	// Drop forgets the entry and answers ErrUnknown.
	Drop
	// CommitLate answers ErrUnknown at once; the entry commits only when the
	// next lease is asked for, or at the next restart.
	CommitLate
	// Refuse takes the ownership away before the append: ErrNotOwner.
	Refuse
	// Conflict lets another owner append (see Config.Rival) and take the
	// ownership away before the append: ErrNotOwner.
	Conflict
	// Delay waits for up to Config.MaxDelay before the append takes place.
	Delay
	// DiskFull answers ErrNoSpace.
	DiskFull
	// Fence fences the store: *FencedError, from now until the next Open.
	Fence
	// FenceAfter commits the entry, then fences the store: *FencedError.
	FenceAfter

	faultKinds
)

func (f Fault) String() string {
	names := [...]string{"lose-ack", "drop", "commit-late", "refuse", "conflict", "delay", "disk-full", "fence", "fence-after"}
	if f < 0 || int(f) >= len(names) {
		return fmt.Sprintf("fault(%d)", int(f))
	}
	return names[f]
}

// Faults gives the probability of each fault at each append, 0 to 1; at most one
// fault (and a Delay) comes at a time, so the sum without Delay is at most 1.
type Faults map[Fault]float64

// Config configures a Store; the zero value of all but Shards is safe.
type Config struct {
	Shards int
	Seed   uint64
	Faults Faults
	// MaxDelay bounds a Delay; 0 means 10 ms.
	MaxDelay time.Duration
	// Rival makes what another owner appends in a Conflict, given the last
	// committed entry (zero Index: none). nil: the rival appends nothing.
	Rival func(shard journal.ShardID, last journal.Entry) []byte
}

// Store is the disk: it survives Close and Kill of its Journals.
type Store struct {
	cfg Config

	mu     sync.Mutex // guards everything below, and the open Journal's state
	logs   []*log
	open   *Journal
	faults Faults
	fired  [faultKinds]int
}

// New returns an empty store.
func New(cfg Config) *Store {
	if cfg.Shards <= 0 {
		panic("memory: Config.Shards must be positive")
	}
	if cfg.MaxDelay <= 0 {
		cfg.MaxDelay = 10 * time.Millisecond
	}
	s := &Store{cfg: cfg, faults: cfg.Faults}
	for i := range cfg.Shards {
		s.logs = append(s.logs, &log{
			store:   s,
			shard:   journal.ShardID(i),
			rng:     rand.New(rand.NewPCG(cfg.Seed, uint64(i)+1)),
			changed: make(chan struct{}),
		})
	}
	return s
}

// Open takes the store over, as a starting process does. It panics while another
// Journal has it: that is the test's mistake.
func (s *Store) Open() *Journal {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open != nil {
		panic("memory: store is open already")
	}
	j := &Journal{store: s, closed: make(chan struct{})}
	s.open = j
	for _, l := range s.logs {
		l.settle()
		l.nextTerm()
	}
	return j
}

// SetFaults replaces the probabilities; nil means none.
func (s *Store) SetFaults(f Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = f
}

// Inject orders faults for the shard's next appends, one each, before any that
// come by probability.
func (s *Store) Inject(shard journal.ShardID, faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs[shard].injected = append(s.logs[shard].injected, faults...)
}

// Fired tells how often a fault has come so far.
func (s *Store) Fired(f Fault) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fired[f]
}

// LoseTail forgets the last n entries of a shard, as a truncated disk does, and
// returns the position of what was the last entry. It may be called only while
// the store is not open.
func (s *Store) LoseTail(shard journal.ShardID, n int) journal.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open != nil {
		panic("memory: LoseTail on an open store")
	}
	l := s.logs[shard]
	was := l.last()
	l.entries = l.entries[:max(0, len(l.entries)-n)]
	l.late = nil
	// The starts of later terms are lost with the tail; the term itself is not
	// reused, as the contract's positions need.
	l.next = l.last().Index
	for n := len(l.spans); n > 0 && l.spans[n-1].start > l.next; n-- {
		l.spans = l.spans[:n-1]
	}
	return was
}

// Mark returns the shard's mark as it was last made durable.
func (s *Store) Mark(shard journal.ShardID) journal.Mark {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logs[shard].durableMark
}

// Usurp lets another owner take the shard: the lease is lost, the term grows,
// and the entries are appended under the rival's term.
func (s *Store) Usurp(shard journal.ShardID, entries ...[]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs[shard].usurp(entries)
}

// Journal is a Store while a process has it open; it implements journal.Journal.
type Journal struct {
	store  *Store
	closed chan struct{}
	fenced error // guarded by store.mu
}

var _ journal.Journal = (*Journal)(nil)

// Log implements journal.Journal.
func (j *Journal) Log(shard journal.ShardID) journal.Log {
	return &handle{j: j, l: j.store.logs[shard]}
}

// SyncMarks implements journal.Journal.
func (j *Journal) SyncMarks() error {
	j.store.mu.Lock()
	defer j.store.mu.Unlock()
	if err := j.dead(); err != nil {
		return err
	}
	for _, l := range j.store.logs {
		l.durableMark = l.mark
	}
	return nil
}

// Scrub implements journal.Journal. Memory does not rot: it only counts.
func (j *Journal) Scrub(ctx context.Context, progress func(done uint64)) error {
	j.store.mu.Lock()
	if err := j.dead(); err != nil {
		j.store.mu.Unlock()
		return err
	}
	var n uint64
	for _, l := range j.store.logs {
		n += uint64(len(l.entries))
	}
	j.store.mu.Unlock()
	if progress != nil {
		progress(n)
	}
	return ctx.Err()
}

// Fence fences the journal, as its first disk error would.
func (j *Journal) Fence(cause error) {
	j.store.mu.Lock()
	defer j.store.mu.Unlock()
	j.fence(cause)
}

// Close implements journal.Journal: marks become durable.
func (j *Journal) Close() error {
	j.store.mu.Lock()
	defer j.store.mu.Unlock()
	if j.dead() == nil {
		for _, l := range j.store.logs {
			l.durableMark = l.mark
		}
	}
	j.stop()
	return nil
}

// Kill ends the journal as kill -9 does: what was not durable is gone.
func (j *Journal) Kill() {
	j.store.mu.Lock()
	defer j.store.mu.Unlock()
	j.stop()
}

func (j *Journal) stop() {
	if j.store.open != j {
		return
	}
	j.store.open = nil
	close(j.closed)
	for _, l := range j.store.logs {
		l.mark = l.durableMark
		l.wake()
	}
}

func (j *Journal) fence(cause error) {
	if j.fenced == nil && j.store.open == j {
		j.fenced = &journal.FencedError{Store: "journal (memory)", Cause: cause}
		for _, l := range j.store.logs {
			l.wake()
		}
	}
}

func (j *Journal) dead() error {
	if j.store.open != j {
		return journal.ErrClosed
	}
	return j.fenced
}

// log is one shard on the disk; guarded by store.mu.
type log struct {
	store *Store
	shard journal.ShardID
	rng   *rand.Rand

	entries []journal.Entry  // committed, contiguous in order, not in index
	next    journal.Index    // index that was used last
	spans   []span           // one per term that has entries or a start
	lastCut journal.Position // of the last trimmed entry
	late    *journal.Entry   // an append answered ErrUnknown that will commit

	term     journal.Term
	leased   bool // a lease of term was given and not taken away
	injected []Fault

	mark, durableMark journal.Mark
	changed           chan struct{} // closed and replaced when something changes
}

// span: entries from start on have this term, until the next span.
type span struct {
	term  journal.Term
	start journal.Index
}

func (l *log) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// nextTerm begins a new ownership. Like a Raft group it uses one index for
// itself, so that users cannot rely on dense indexes.
func (l *log) nextTerm() {
	l.term++
	l.next++
	l.spans = append(l.spans, span{term: l.term, start: l.next})
	l.leased = false
	l.wake()
}

func (l *log) commit(data []byte) journal.Position {
	l.next++
	e := journal.Entry{Position: journal.Position{Term: l.term, Index: l.next}, Data: data}
	l.entries = append(l.entries, e)
	l.wake()
	return e.Position
}

// settle commits what was left in the air.
func (l *log) settle() {
	if l.late != nil {
		l.commit(l.late.Data)
		l.late = nil
	}
}

func (l *log) usurp(entries [][]byte) {
	l.settle()
	l.nextTerm()
	for _, data := range entries {
		l.commit(data)
	}
	l.nextTerm()
}

func (l *log) last() journal.Position {
	if n := len(l.entries); n > 0 {
		return l.entries[n-1].Position
	}
	return l.lastCut
}

// end is the last index of the history, internal ones included.
func (l *log) end() journal.Index {
	end := l.last().Index
	if n := len(l.spans); n > 0 && l.spans[n-1].start > end {
		end = l.spans[n-1].start
	}
	return end
}

func (l *log) draw() (fault Fault, delay time.Duration) {
	fault = -1
	if len(l.injected) > 0 {
		fault, l.injected = l.injected[0], l.injected[1:]
		if fault == Delay {
			return -1, l.delay()
		}
		l.store.fired[fault]++
		return fault, 0
	}
	if p := l.store.faults[Delay]; p > 0 && l.rng.Float64() < p {
		delay = l.delay()
	}
	at := l.rng.Float64()
	for f := Fault(0); f < faultKinds; f++ {
		if f == Delay {
			continue
		}
		if p := l.store.faults[f]; at < p {
			l.store.fired[f]++
			return f, delay
		} else {
			at -= p
		}
	}
	return -1, delay
}

func (l *log) delay() time.Duration {
	l.store.fired[Delay]++
	return time.Duration(l.rng.Int64N(int64(l.store.cfg.MaxDelay))) + 1
}

// handle is a shard's log as one Journal sees it; it implements journal.Log.
type handle struct {
	j *Journal
	l *log
}

func (h *handle) Lease(ctx context.Context) (journal.Lease, error) {
	h.j.store.mu.Lock()
	defer h.j.store.mu.Unlock()
	if err := h.j.dead(); err != nil {
		return journal.Lease{}, err
	}
	if err := ctx.Err(); err != nil {
		return journal.Lease{}, fmt.Errorf("lease of shard %d: %w", h.l.shard, err)
	}
	h.l.settle()
	h.l.leased = true
	return journal.Lease{Term: h.l.term, Applied: h.l.last().Index}, nil
}

func (h *handle) Append(ctx context.Context, lease journal.Lease, data []byte) (journal.Position, error) {
	if len(data) > journal.MaxEntryBytes {
		return journal.Position{}, journal.ErrTooLarge
	}
	if ctx.Err() != nil {
		return journal.Position{}, fmt.Errorf("%w: %w", journal.ErrCancelled, ctx.Err())
	}
	l := h.l
	h.j.store.mu.Lock()
	defer h.j.store.mu.Unlock()
	if err := h.j.dead(); err != nil {
		return journal.Position{}, err
	}
	fault, delay := l.draw()
	if delay > 0 {
		h.j.store.mu.Unlock()
		err := h.wait(ctx, delay)
		h.j.store.mu.Lock()
		if err != nil {
			if l.leased && l.term == lease.Term {
				l.late = &journal.Entry{Data: data}
				l.leased = false
			}
			return journal.Position{}, err
		}
		if h.j.dead() != nil {
			return journal.Position{}, journal.ErrUnknown
		}
	}
	if !l.leased || l.term != lease.Term {
		return journal.Position{}, journal.ErrNotOwner
	}
	switch fault {
	case LoseAck:
		l.commit(data)
		l.leased = false
		return journal.Position{}, journal.ErrUnknown
	case Drop:
		l.leased = false
		return journal.Position{}, journal.ErrUnknown
	case CommitLate:
		l.late = &journal.Entry{Data: data}
		l.leased = false
		return journal.Position{}, journal.ErrUnknown
	case Refuse:
		l.nextTerm()
		return journal.Position{}, journal.ErrNotOwner
	case Conflict:
		l.usurp(h.rival())
		return journal.Position{}, journal.ErrNotOwner
	case DiskFull:
		return journal.Position{}, journal.ErrNoSpace
	case Fence, FenceAfter:
		if fault == FenceAfter {
			l.commit(data)
		}
		h.j.fence(errors.New("injected disk error"))
		return journal.Position{}, h.j.fenced
	}
	return l.commit(data), nil
}

func (h *handle) rival() [][]byte {
	if h.j.store.cfg.Rival == nil {
		return nil
	}
	h.l.settle()
	var last journal.Entry
	if n := len(h.l.entries); n > 0 {
		last = h.l.entries[n-1]
	}
	if data := h.j.store.cfg.Rival(h.l.shard, last); data != nil {
		return [][]byte{data}
	}
	return nil
}

func (h *handle) wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return journal.ErrUnknown
	case <-h.j.closed:
		return journal.ErrUnknown
	}
}

func (h *handle) Read(ctx context.Context, after journal.Index, maxBytes int) ([]journal.Entry, error) {
	l := h.l
	for {
		h.j.store.mu.Lock()
		if h.j.store.open != h.j {
			h.j.store.mu.Unlock()
			return nil, journal.ErrClosed
		}
		if l.lastCut.Index > after {
			h.j.store.mu.Unlock()
			return nil, journal.ErrTrimmed
		}
		if out := l.after(after, maxBytes); len(out) > 0 {
			h.j.store.mu.Unlock()
			return out, nil
		}
		fenced, changed := h.j.fenced, l.changed
		h.j.store.mu.Unlock()
		if fenced != nil {
			return nil, fenced
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("read shard %d after %d: %w", l.shard, after, ctx.Err())
		}
	}
}

func (l *log) after(after journal.Index, maxBytes int) []journal.Entry {
	i := sort.Search(len(l.entries), func(i int) bool { return l.entries[i].Index > after })
	var out []journal.Entry
	for size := 0; i < len(l.entries); i++ {
		size += len(l.entries[i].Data)
		if len(out) > 0 && size > maxBytes {
			break
		}
		out = append(out, l.entries[i])
	}
	return out
}

func (h *handle) Last() journal.Position {
	h.j.store.mu.Lock()
	defer h.j.store.mu.Unlock()
	return h.l.last()
}

func (h *handle) Contains(p journal.Position) bool {
	h.j.store.mu.Lock()
	defer h.j.store.mu.Unlock()
	l := h.l
	if p == (journal.Position{}) {
		return true
	}
	if p.Index == 0 || p.Index > l.end() {
		return false
	}
	i := sort.Search(len(l.spans), func(i int) bool { return l.spans[i].start > p.Index })
	return i > 0 && l.spans[i-1].term == p.Term
}

func (h *handle) SetMark(m journal.Mark) {
	h.j.store.mu.Lock()
	defer h.j.store.mu.Unlock()
	if h.j.store.open == h.j && m.Index >= h.l.mark.Index {
		h.l.mark = m
	}
}

func (h *handle) Trim(_ context.Context, upTo journal.Index) error {
	h.j.store.mu.Lock()
	defer h.j.store.mu.Unlock()
	if err := h.j.dead(); err != nil {
		return err
	}
	l := h.l
	i := sort.Search(len(l.entries), func(i int) bool { return l.entries[i].Index > upTo })
	if i > 0 {
		l.lastCut = l.entries[i-1].Position
		l.entries = append([]journal.Entry(nil), l.entries[i:]...)
	}
	return nil
}
