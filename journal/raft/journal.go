// Package raft implements the journal contract on disk: one Raft group (etcd's
// raft) for each shard, the entries of all of them in one Pebble store, fsynced
// before they count. It is what Bongsu runs on.
//
// Vocabulary: a group is a shard's log with its RawNode and the loop that drives
// it; a span is the range of indexes of one term; the marks are what the disk is
// known to have held, kept apart from the store; the fence is the store's
// one-way switch after its first error. DESIGN.md says what is stored, in which
// order, and what the limits are.
//
// Concurrency: one goroutine a group owns its RawNode; everything exported may be
// used from any goroutine. Commits of different shards meet in Pebble's commit
// pipeline and share fsyncs.
//
// What it does not do: it finds no addresses and decides about no members (the
// Transport is given, changes are asked for), and knows nothing of what records
// mean, but for the hash chain that Scrub may be asked to check.
package raft

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/bongsu-im/bongsu/internal/clock"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/highwater"
)

// Config configures a Journal. The zero value of everything but Dir is safe.
type Config struct {
	Dir    string     // folder of the store and the marks; made if missing
	FS     durable.FS // nil: the machine's disk
	Shards int        // fixed when the store is made; 0 means 16
	NodeID uint64     // fixed when the store is made; 0 means 1
	Clock  clock.Clock
	Logger *slog.Logger // nil: nothing is logged

	// Voters are the members of every group of a new store, this node among them;
	// nil means this node alone. They must be the same on all of them. With Join
	// the store begins without members instead, and waits until a leader adds it.
	// Both mean nothing to a store that exists.
	Voters []NodeID
	Join   bool
	// Cluster is fixed when the store is made; zero draws one. A node that joins
	// must be given its cluster's.
	Cluster   ClusterID
	Transport Transport    // nil: this node is alone
	Snapshots Snapshots    // nil: members behind the trimmed part cannot be helped
	Random    clock.Source // nil: the system's
	// SnapshotRate bounds what a snapshot sends, in bytes a second; 0 means 32 MiB.
	SnapshotRate int64

	MarkInterval time.Duration // how often marks become durable; 0 means 1 s
	TickInterval time.Duration // Raft's tick, 10 to an election; 0 means 50 ms
	// ReserveBytes of the disk are kept free: below, appends get ErrNoSpace.
	// 0 means 256 MiB, negative none.
	ReserveBytes    int64
	CacheBytes      int   // newest entries kept in memory, a shard; 0 means 4 MiB
	MemTableBytes   int   // Pebble's memtable; 0 means 16 MiB
	BlockCacheBytes int64 // Pebble's block cache; 0 means 8 MiB
}

func (c Config) withDefaults() (Config, error) {
	set := func(v *int, to int) {
		if *v == 0 {
			*v = to
		}
	}
	set(&c.Shards, 16)
	set(&c.CacheBytes, 4<<20)
	set(&c.MemTableBytes, 16<<20)
	if c.FS == nil {
		c.FS = durable.Disk
	}
	if c.NodeID == 0 {
		c.NodeID = 1
	}
	if c.Clock == nil {
		c.Clock = clock.System{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelError + 1}))
	}
	if c.Transport == nil {
		c.Transport = alone{}
	}
	if c.Random == nil {
		c.Random = clock.Random
	}
	if c.SnapshotRate <= 0 {
		c.SnapshotRate = 32 << 20
	}
	if c.MarkInterval == 0 {
		c.MarkInterval = time.Second
	}
	if c.TickInterval == 0 {
		c.TickInterval = 50 * time.Millisecond
	}
	if c.ReserveBytes == 0 {
		c.ReserveBytes = 256 << 20
	}
	if c.BlockCacheBytes == 0 {
		c.BlockCacheBytes = 8 << 20
	}
	switch {
	case c.Join:
		c.Voters = nil
	case len(c.Voters) == 0:
		c.Voters = []NodeID{c.NodeID}
	default:
		c.Voters = slices.Compact(slices.Sorted(slices.Values(c.Voters)))
	}
	switch {
	case !c.Join && (!slices.Contains(c.Voters, c.NodeID) || c.Voters[0] == 0):
		return c, fmt.Errorf("journal: node %d is not among the first voters %v", c.NodeID, c.Voters)
	case len(c.Voters) > 1 && c.Transport == Transport(alone{}):
		return c, errors.New("journal: several voters need a transport")
	case c.Join && c.Cluster == (ClusterID{}):
		return c, errors.New("journal: a node that joins must know its cluster's ID")
	case c.Dir == "":
		return c, errors.New("journal: Config.Dir is empty")
	case c.Shards < 0 || c.Shards > maxShards:
		return c, fmt.Errorf("journal: %d shards, 1 to %d are possible", c.Shards, maxShards)
	case c.CacheBytes < 0 || c.MemTableBytes < 1<<20 || c.BlockCacheBytes < 0 || c.MarkInterval < 0 || c.TickInterval < 0:
		return c, errors.New("journal: a size or interval of the configuration is too small")
	}
	return c, nil
}

// Journal is the logs of all shards of a node. It implements journal.Journal.
type Journal struct {
	cfg    Config
	store  store
	marks  marks
	space  space
	groups []*group

	identity identity

	running sync.WaitGroup // the loops and the marks' ticker
	closing chan struct{}
	close   sync.Once
	closed  error

	use  sync.RWMutex // held for reading around uses of Pebble outside the loops
	gone bool         // Pebble is closed; guarded by use

	damageMu sync.Mutex
	damage   []error
	reported map[journal.ShardID]*journal.LostTailError // by ReportLost, the farthest
}

var _ journal.Journal = (*Journal)(nil)

// Open opens the journal, making an empty one if there is none, and begins to
// campaign for every shard. A shard whose log ends before its mark, or has
// another history there, is damaged: it is left alone, its Lease and Append
// return the *journal.LostTailError, and Damage tells of it. Other damage that
// opening meets is returned as an error.
func Open(cfg Config) (*Journal, error) {
	j, err := load(cfg)
	if err != nil {
		return nil, err
	}
	if err := j.start(); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

// load opens the store and reads everything, but starts nothing.
func load(cfg Config) (*Journal, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	j := &Journal{
		cfg:      cfg,
		store:    store{fence: newFence(cfg.Logger)},
		space:    space{fs: cfg.FS, dir: cfg.Dir, reserve: uint64(max(cfg.ReserveBytes, 0)), clock: cfg.Clock},
		closing:  make(chan struct{}),
		reported: map[journal.ShardID]*journal.LostTailError{},
	}
	if err := j.store.openPebble(&cfg); err != nil {
		return nil, err
	}
	for i := range cfg.Shards {
		j.groups = append(j.groups, newGroup(j, journal.ShardID(i)))
	}
	j.marks = marks{fs: j.store.fs, dir: cfg.Dir, trip: j.store.trip, dead: j.store.err, end: j.durableEnd}
	if err := j.loadAll(); err != nil {
		// Nothing was acknowledged yet; the first error is the one to tell.
		_ = j.Close()
		return nil, err
	}
	return j, nil
}

func (j *Journal) loadAll() error {
	fresh, err := j.isFresh()
	if err != nil {
		return err
	}
	known, err := j.marks.exist()
	if err != nil {
		return err
	}
	if fresh {
		if err := j.create(known); err != nil {
			return err
		}
	}
	if err := j.loadIdentity(); err != nil {
		return err
	}
	j.damage = append(j.damage, j.marks.load(j.cfg.Shards)...)
	for _, g := range j.groups {
		if err := g.log.load(); err != nil {
			return fmt.Errorf("open journal: %w", err)
		}
	}
	for _, g := range j.groups {
		if err := j.compare(g); err != nil {
			return err
		}
		if err := g.loadAcks(); err != nil {
			return err
		}
	}
	return j.store.err()
}

// isFresh tells whether the store has yet to be made, and checks that it is ours
// if not.
func (j *Journal) isFresh() (bool, error) {
	v, err := j.store.get(infoKey)
	if err != nil {
		return false, &journal.CorruptError{Cause: fmt.Errorf("read store description: %w", err)}
	}
	if v == nil {
		it, err := j.store.db.NewIter(nil)
		if err != nil {
			return false, &journal.CorruptError{Cause: err}
		}
		any := it.First()
		if err := errors.Join(it.Error(), it.Close()); err != nil {
			return false, &journal.CorruptError{Cause: err}
		}
		if any {
			return false, &journal.CorruptError{Cause: errors.New("the store has entries and no description")}
		}
		return true, nil
	}
	info, err := decodeInfo(v)
	if err != nil {
		return false, &journal.CorruptError{Cause: fmt.Errorf("store description: %w", err)}
	}
	if info.node != j.cfg.NodeID || int(info.shards) != j.cfg.Shards {
		return false, fmt.Errorf("the journal in %s is of node %d with %d shards, not of node %d with %d",
			j.cfg.Dir, info.node, info.shards, j.cfg.NodeID, j.cfg.Shards)
	}
	return false, nil
}

// create makes an empty store. The marks come first, both copies, so that from
// the moment a store exists a missing copy is damage; and if marks exist already,
// the store was lost, which compare will find.
func (j *Journal) create(known bool) error {
	if !known {
		empty := make([]highwater.Mark, j.cfg.Shards)
		for range highwater.Copies {
			if err := j.marks.write(empty); err != nil {
				return err
			}
		}
		j.marks.seq = 0 // load reads it back
	}
	b := j.store.db.NewBatch()
	defer func() { _ = b.Close() }() // a batch that was not committed holds nothing
	err := b.Set(infoKey, encodeInfo(storeInfo{node: j.cfg.NodeID, shards: uint16(j.cfg.Shards)}), nil)
	for _, g := range j.groups {
		err = errors.Join(err, g.log.bootstrap(b, j.cfg.Voters))
	}
	if err != nil {
		return fmt.Errorf("make journal store: %w", err)
	}
	return j.store.commit(b, true)
}

// start starts the groups and the marks' ticker.
func (j *Journal) start() error {
	if err := j.armMarks(); err != nil {
		return err
	}
	for _, g := range j.groups {
		if g.lost.Load() != nil {
			close(g.stopped)
			continue
		}
		if err := g.start(); err != nil {
			return err
		}
	}
	j.running.Go(j.keepMarks)
	if _, single := j.cfg.Transport.(alone); single {
		return nil // nobody to time out, nobody to tell
	}
	if err := j.cfg.Transport.Start(j.identity.self, j); err != nil {
		return fmt.Errorf("start transport: %w", err)
	}
	j.running.Go(j.keepTime)
	return nil
}

// keepTime ticks the groups, all at once so that their heartbeats travel
// together. It leaves when the store is fenced, and breaks all connections: that
// is how peers hear of it soonest.
func (j *Journal) keepTime() {
	tick := time.NewTicker(j.cfg.TickInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			for _, g := range j.groups {
				select {
				case g.tick <- struct{}{}:
				default: // it is at the disk: time that it could not listen does not count
				}
			}
		case <-j.closing:
			return
		case <-j.store.down:
			_ = j.cfg.Transport.Close() // again at Close, which reports
			return
		}
	}
}

// armMarks lets marks be written, and replaces damaged copies at once by what is
// known: the next damage must not find the only good one.
func (j *Journal) armMarks() error {
	j.marks.writing.Lock()
	defer j.marks.writing.Unlock()
	j.marks.armed = true
	for _, d := range j.damage {
		var bad *highwater.Error
		if errors.As(d, &bad) {
			j.cfg.Logger.Error("a copy of the high-water marks is damaged and is written again", "err", bad)
			return j.marks.renew()
		}
	}
	return nil
}

func (j *Journal) keepMarks() {
	tick := time.NewTicker(j.cfg.MarkInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if j.marks.sync() != nil || j.storeAcks() != nil {
				return // fenced, and said so
			}
		case <-j.closing:
			return
		case <-j.store.down:
			return
		}
	}
}

func (j *Journal) durableEnd(shard journal.ShardID) (journal.Position, bool) {
	g := j.groups[shard]
	return g.durableEnd(), g.lost.Load() == nil
}

// Log implements journal.Journal.
func (j *Journal) Log(shard journal.ShardID) journal.Log {
	if int(shard) >= len(j.groups) {
		panic(fmt.Sprintf("journal: shard %d of %d", shard, len(j.groups)))
	}
	return j.groups[shard]
}

// Mark returns the shard's newest mark: the one that was durable at the last
// start, or what SetMark has raised it to.
func (j *Journal) Mark(shard journal.ShardID) journal.Mark { return j.marks.Get(shard) }

// SyncMarks implements journal.Journal.
func (j *Journal) SyncMarks() error {
	select {
	case <-j.closing:
		return journal.ErrClosed
	default:
		return j.marks.sync()
	}
}

// Fenced returns the *journal.FencedError once the store is fenced, else nil.
func (j *Journal) Fenced() error { return j.store.err() }

// Metrics are numbers about the store for the operator.
type Metrics struct {
	DiskBytes uint64
	WALBytes  uint64
	// ReserveBytes of the disk are kept free.
	ReserveBytes uint64
	Pebble       *pebble.Metrics
}

// Metrics returns the store's numbers; zeros after Close.
func (j *Journal) Metrics() Metrics {
	j.use.RLock()
	defer j.use.RUnlock()
	if j.gone {
		return Metrics{}
	}
	m := j.store.db.Metrics()
	return Metrics{DiskBytes: m.DiskSpaceUsage(), WALBytes: m.WAL.Size, ReserveBytes: j.space.reserve, Pebble: m}
}

// Receive implements Receiver.
func (j *Journal) Receive(from NodeID, p Parcel) {
	if int(p.Shard) >= len(j.groups) {
		return
	}
	if m := p.Message; m != nil && (m.GetFrom() != from || m.GetTo() != j.cfg.NodeID) {
		j.cfg.Logger.Warn("a message was dropped that is not what its connection says", "peer", from, "from", m.GetFrom(), "to", m.GetTo())
		return
	}
	g := j.groups[p.Shard]
	if g.halted() || g.lost.Load() != nil {
		return
	}
	if p.Message == nil && p.Reminder.Index != 0 {
		g.reminded(from, p.Reminder)
		return
	}
	g.inbox.put(event{from: from, message: p.Message, removed: p.Message == nil, cost: p.cost()})
}

// Up implements Receiver.
func (j *Journal) Up(peer NodeID) { j.cfg.Logger.Info("connected to a peer", "node", peer) }

// Down implements Receiver.
func (j *Journal) Down(peer NodeID) {
	j.cfg.Logger.Info("the connection to a peer is broken", "node", peer)
	for _, g := range j.groups {
		g.inbox.put(event{from: peer, down: true})
	}
}

// closeFenced bounds the wait for a store that has failed: what hangs in it
// cannot be freed, and the process must end anyway.
const closeFenced = 5 * time.Second

// Close implements journal.Journal. It writes the marks a last time.
func (j *Journal) Close() error {
	j.close.Do(func() { j.closed = j.shut() })
	return j.closed
}

func (j *Journal) shut() error {
	j.handOver()
	close(j.closing)
	broken := j.cfg.Transport.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		j.running.Wait()
	}()
	if !j.waitOrFenced(done) {
		return fmt.Errorf("close journal: work hangs in the failed store: %w", j.store.err())
	}
	err := errors.Join(j.marks.close(), broken)
	if j.marks.armed && j.store.err() == nil {
		err = errors.Join(err, j.storeAcks())
	}
	if j.store.err() != nil {
		err = nil // the fence has been told of; closing after it is still closing
	}
	ended := make(chan error, 1)
	go func() { ended <- j.closePebble() }()
	closed := make(chan struct{})
	var pebbleErr error
	go func() {
		defer close(closed)
		pebbleErr = <-ended
	}()
	if !j.waitOrFenced(closed) {
		return fmt.Errorf("close journal: the failed store does not close: %w", j.store.err())
	}
	if j.store.err() != nil {
		return nil
	}
	if pebbleErr != nil {
		return fmt.Errorf("close journal store: %w", pebbleErr)
	}
	return err
}

// waitOrFenced waits for done, for ever while the store is well, else bounded.
func (j *Journal) waitOrFenced(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	case <-j.store.down:
	}
	timer := time.NewTimer(closeFenced)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

func (j *Journal) closePebble() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	j.use.Lock()
	defer j.use.Unlock()
	j.gone = true
	return j.store.db.Close()
}

// Scrub implements journal.Journal.
func (j *Journal) Scrub(ctx context.Context, progress func(done uint64)) error {
	return j.ScrubEntries(ctx, progress, nil)
}
