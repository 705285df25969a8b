package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/raft"
	"github.com/bongsu-im/bongsu/node"
	"github.com/bongsu-im/bongsu/node/peer"
)

const (
	journalDir = "data/journal"
	viewDir    = "data/view"
)

// machine is a place with a disk, through all lives of the node on it.
type machine struct {
	w    *world
	at   int  // its number, which wires and people know
	join bool // it was not among the first voters
	disk *durable.Crashable

	mu   sync.Mutex // guards what follows
	node uint64     // its ID; another after the disk was lost
	life *life      // nil while it is down
}

// life is one start of a node.
type life struct {
	m         *machine
	disk      *disk
	journal   *raft.Journal
	ep        *raft.Endpoint
	plane     *node.Plane
	server    *peer.Server
	dead      atomic.Bool // killed: what it says no longer counts
	feeds     feeds
	snapshots snapshots

	mu    sync.Mutex // guards links
	links map[uint64]*peer.Client

	ctx     context.Context // ends with the life
	end     context.CancelFunc
	running sync.WaitGroup
}

// id is the node's.
func (m *machine) id() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.node
}

func (m *machine) up() *life {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.life
}

func (m *machine) set(l *life) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.life = l
}

// start opens the node on its disk and joins it to the others.
func (m *machine) start() error {
	w := m.w
	l := &life{m: m, disk: newDiskLife(m.disk, w.met), ep: w.net.Endpoint(), links: map[uint64]*peer.Client{}, feeds: feeds{last: map[feedOf]uint64{}}, snapshots: snapshots{met: w.met}}
	if err := durable.MkdirAll(m.disk, "data", 0o700); err != nil {
		return err
	}
	log := w.log.With("machine", m.at, "node", m.id())
	var voters []uint64
	if !m.join {
		voters = w.first
	}
	var err error
	l.journal, err = raft.Open(raft.Config{
		Dir: journalDir, FS: l.disk, Shards: w.shards, NodeID: m.id(), Cluster: clusterID, Voters: voters, Join: m.join,
		Transport: l.ep, Snapshots: &l.snapshots, MemTableBytes: 1 << 20, CacheBytes: 64 << 10, BlockCacheBytes: 1 << 20, Logger: log,
	})
	if err != nil {
		return fmt.Errorf("open the journal of machine %d: %w", m.at, err)
	}
	l.ctx, l.end = context.WithCancel(context.Background())
	trimming := node.NewTrimming(l.journal, w.shards, keepEntries, 100*time.Millisecond, log)
	l.plane, err = node.OpenPlane(node.PlaneConfig{
		Journal: l.journal, ViewDir: viewDir, FS: l.disk, Shards: w.shards, ViewCacheBytes: 64 << 20, Logger: log, Feed: l.hear,
		AfterFlush: trimming.AfterFlush,
		Neighbours: &node.Neighbours{
			Self: m.id(), Leader: l.leader, Node: l.node, Nodes: w.ids, Elsewhere: l.elsewhere,
			LeaseEnded: l.journal.LeaseEnded, Heard: l.journal.Heard, FetchView: node.FetchView(l.journal),
			Replaced: l.feeds.replaced,
		},
	})
	if err != nil {
		l.end()
		return errors.Join(fmt.Errorf("open the plane of machine %d: %w", m.at, err), l.journal.Close())
	}
	for _, damage := range l.journal.Damage() {
		w.wrong("machine %d: an honest cut was taken for damage: %v", m.at, damage)
	}
	l.server = peer.NewServer(here{l.plane}, nil, log, peer.Times{})
	l.running.Go(func() { _ = l.plane.View.Run(l.ctx) }) // a fence is seen by mend
	l.running.Go(func() { _ = l.plane.Shards.Run(l.ctx) })
	l.running.Go(func() { l.plane.WatchOwners(l.ctx) })
	l.running.Go(func() { _ = trimming.Run(l.ctx) })
	l.snapshots.plane.Store(l.plane)
	m.set(l)
	l.relink()
	return nil
}

// relink makes links to the machines that there are none to.
func (l *life) relink() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.m.w.machines {
		o, id := o, o.id()
		if o == l.m || l.links[id] != nil {
			continue
		}
		c := peer.NewClient(fmt.Sprint(id), func(context.Context) (net.Conn, error) { return l.dial(o, id) },
			l.m.w.log, peer.Times{})
		l.links[id] = c
		l.running.Go(func() { c.Run(l.ctx) })
	}
}

// dial connects to the node of a machine, if it is the one that is meant.
func (l *life) dial(o *machine, id uint64) (net.Conn, error) {
	there := o.up()
	if there == nil || o.id() != id || there.dead.Load() || l.dead.Load() {
		return nil, errors.New("sim: connection refused")
	}
	near, far, err := l.m.w.wires.connect(l.m.at, o.at)
	if err != nil {
		return nil, err
	}
	there.mu.Lock()
	defer there.mu.Unlock()
	if there.ctx.Err() != nil {
		_ = near.Close()
		_ = far.Close()
		return nil, errors.New("sim: connection refused")
	}
	there.running.Go(func() { there.server.Serve(there.ctx, far, fmt.Sprint(l.m.id())) })
	return near, nil
}

func (l *life) leader(shard int) uint64 {
	at, _ := l.journal.Leader(journal.ShardID(shard))
	return at
}

func (l *life) node(id uint64) node.RemoteNode {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.links[id]; c != nil {
		return c
	}
	return nil
}

// elsewhere is what cluster.elsewhere in package node says.
func (l *life) elsewhere(shard int) error {
	at := l.leader(shard)
	switch {
	case at == 0:
		return errors.New("no leader is known")
	case at == l.m.id():
		return errors.New("this node is taking it over")
	}
	if n := l.node(at); n == nil || !n.Linked() {
		return fmt.Errorf("node %d leads it and is not reached", at)
	}
	return nil
}

// stop ends a life in order.
func (m *machine) stop() {
	l := m.up()
	if l == nil {
		return
	}
	l.close()
	m.set(nil)
}

// close stops what runs and closes the stores, in Core's order.
func (l *life) close() {
	l.mu.Lock()
	l.end()
	l.mu.Unlock()
	l.running.Wait()
	err := errors.Join(l.plane.View.Close(), l.journal.Close())
	if err != nil && !l.dead.Load() && l.journal.Fenced() == nil && l.plane.View.Err() == nil {
		l.m.w.wrong("machine %d does not close: %v", l.m.at, err)
	}
}

// kill ends a life as a power cut does: what was not synced is kept block by
// block with probability keep. Half of the time that is just before something
// reaches the disk, with what depends on it perhaps said already; else when all
// is quiet, as the bubble's clock moves only then.
func (m *machine) kill(keep float64, seed uint64, syncs int) {
	l := m.up()
	if l == nil {
		return
	}
	crashed := make(chan *durable.Crashable, 1)
	var once sync.Once
	pull := func() { once.Do(func() { crashed <- l.pull(keep, seed) }) }
	if syncs >= 0 {
		l.disk.set(func(d *disk) { d.syncs, d.onSync = syncs, pull })
		select {
		case disk := <-crashed:
			m.bury(l, disk)
			return
		case <-time.After(300 * time.Millisecond):
		}
	}
	pull()
	m.bury(l, <-crashed)
}

// pull pulls a life's plug. The order is the point: what is said from here on is
// heard by nobody, and what has been heard by now must be on the disk that is
// copied after.
func (l *life) pull(keep float64, seed uint64) *durable.Crashable {
	l.m.w.silence(l)
	l.m.w.wires.drop(l.m.at)
	l.ep.Kill()
	return l.m.disk.Crash(keep, seed)
}

func (m *machine) bury(l *life, left *durable.Crashable) {
	l.close()
	m.disk = left
	m.set(nil)
}

// mend starts a node again whose stores have fenced, as node.mend does.
func (m *machine) mend() (bool, error) {
	l := m.up()
	if l == nil || (l.journal.Fenced() == nil && l.plane.View.Err() == nil) {
		return false, nil
	}
	m.bury(l, l.pull(0, 0)) // nothing is known of what a failed fsync has left
	return true, m.start()
}

// feeds judges what a life has published: in each room every message once, in
// order, without a gap, from the first one on or the first after a view was
// replaced, of which gateways are told.
type feeds struct {
	mu   sync.Mutex
	last map[feedOf]uint64
}

type feedOf struct {
	shard uint32
	room  string
}

func (f *feeds) replaced(shard int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for at := range f.last {
		if at.shard == uint32(shard) {
			delete(f.last, at)
		}
	}
}

func (l *life) hear(items []*nodev1.FeedItem) {
	l.feeds.mu.Lock()
	defer l.feeds.mu.Unlock()
	for _, item := range items {
		msg := item.GetEvent().GetMessage().GetMessage()
		if msg == nil {
			continue
		}
		at := feedOf{item.GetShard(), msg.GetRoomId()}
		last, heard := l.feeds.last[at]
		if heard && msg.GetSeq() != last+1 && !l.dead.Load() {
			l.m.w.wrong("machine %d published message %d of room %s after message %d", l.m.at, msg.GetSeq(), msg.GetRoomId(), last)
		}
		l.feeds.last[at] = msg.GetSeq()
	}
}

var clusterID = raft.ClusterID{'s', 'i', 'm'}

var discard = slog.New(slog.DiscardHandler)

// snapshots gives and takes views, as lateSnapshots in package node does.
type snapshots struct {
	plane atomic.Pointer[node.Plane]
	met   func(string)
}

func (s *snapshots) Make(ctx context.Context, n journal.ShardID) (journal.Mark, io.ReadCloser, error) {
	p := s.plane.Load()
	if p == nil {
		return journal.Mark{}, nil, errors.New("sim: the shards are being opened")
	}
	return p.Shards.MakeSnapshot(ctx, n)
}

func (s *snapshots) Restore(ctx context.Context, n journal.ShardID, at journal.Mark, r io.Reader) error {
	p := s.plane.Load()
	if p == nil {
		return errors.New("sim: the shards are being opened")
	}
	s.met("snapshot taken")
	return p.Shards.RestoreSnapshot(ctx, n, at, r)
}

// keepEntries is how much of a journal stays that the view does not need.
const keepEntries = 10

const grace = 3 * time.Second

// here answers other machines with what this one has, as shardsHere in package
// node does.
type here struct{ *node.Plane }

func (h here) Begin(cmd *nodev1.Command, deadline time.Time, done func(*nodev1.Reply, error)) {
	h.Shards.Begin(cmd, deadline, done)
}

func (h here) Query(ctx context.Context, q *nodev1.Query) (*nodev1.QueryReply, error) {
	return h.Shards.QueryHere(ctx, q)
}
