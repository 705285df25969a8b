package shard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/raft"
	"github.com/bongsu-im/bongsu/view"
)

// machine is one node of a cluster whose journal is the built-in one: journal,
// view and set on one disk, through power cuts.
type machine struct {
	*world
	c    *machines
	id   raft.NodeID
	fs   *durable.Crashable
	ep   *raft.Endpoint
	raft *raft.Journal
	stop func()

	mute atomic.Bool  // it cannot fetch a view
	gave atomic.Int64 // times it gave the leadership away, for want of a view
}

type machines struct {
	t   *testing.T
	net *raft.Network
	all []*machine
}

// snapshots fits a set, which is made after the journal, to what that asks for.
type snapshots struct {
	made chan struct{} // closed once set is there
	set  *Set
}

func (s *snapshots) Make(ctx context.Context, shard journal.ShardID) (journal.Mark, io.ReadCloser, error) {
	<-s.made
	return s.set.MakeSnapshot(ctx, shard)
}

func (s *snapshots) Restore(ctx context.Context, shard journal.ShardID, at journal.Mark, r io.Reader) error {
	<-s.made
	return s.set.RestoreSnapshot(ctx, shard, at, r)
}

func newMachines(t *testing.T, seed uint64) *machines {
	c := &machines{t: t, net: raft.NewNetwork(seed)}
	for i := range raft.NodeID(3) {
		m := &machine{world: &world{t: t, shards: 1}, c: c, id: i + 1, fs: durable.NewCrashable()}
		c.all = append(c.all, m)
		m.open()
	}
	return c
}

func (m *machine) open() {
	m.t.Helper()
	m.ep = m.c.net.Endpoint()
	snap := &snapshots{made: make(chan struct{})}
	var err error
	m.raft, err = raft.Open(raft.Config{
		Dir: "/journal", FS: m.fs, Shards: 1, NodeID: m.id, Voters: []raft.NodeID{1, 2, 3}, Cluster: raft.ClusterID{7},
		Transport: m.ep, Snapshots: snap, SnapshotRate: 20 << 10, ReserveBytes: -1, MemTableBytes: 1 << 20, CacheBytes: 64 << 10,
	})
	if err != nil {
		m.t.Fatalf("journal of node %d: %v", m.id, err)
	}
	m.view, err = view.Open(view.Config{Dir: "/view", FS: m.fs, Shards: 1, Layout: 1, CacheBytes: 1 << 20, MemTableBytes: 64 << 10,
		FlushEvery: 500 * time.Millisecond, BeforeFlush: m.raft.SyncMarks})
	if err != nil {
		m.t.Fatalf("view of node %d: %v", m.id, err)
	}
	j := m.raft
	m.set, err = New(Config{Journal: j, View: m.view, Shards: 1, Feed: m.hear, FetchView: m.fetch,
		LeaseEnded: func(n int, lease journal.Lease) <-chan struct{} { return j.LeaseEnded(journal.ShardID(n), lease) },
		Logger:     slog.New(slog.NewTextHandler(&m.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		m.t.Fatal(err)
	}
	snap.set = m.set
	close(snap.made)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	set, v := m.set, m.view
	wg.Go(func() { _ = v.Run(ctx) })
	wg.Go(func() { _ = set.Run(ctx) })
	m.stop = func() { cancel(); wg.Wait(); m.stop = nil }
}

// fetch takes the view from the leader, as a node does.
func (m *machine) fetch(ctx context.Context, shard int) error {
	if m.mute.Load() {
		return errInjected
	}
	err := m.raft.FetchView(ctx, journal.ShardID(shard))
	if errors.Is(err, raft.ErrLeads) {
		m.gave.Add(1)
		err = errors.Join(err, m.raft.TransferLeadership(ctx, journal.ShardID(shard), 0))
	}
	return err
}

// cut ends a machine as a power cut does.
func (m *machine) cut(keep float64, seed uint64) {
	m.t.Helper()
	_ = m.ep.Close()
	after := m.fs.Crash(keep, seed)
	m.stop()
	_ = m.view.Close() // onto a disk that nobody sees again
	_ = m.raft.Close()
	m.fs = after
}

func (m *machine) loseView() {
	m.t.Helper()
	if err := errors.Join(m.fs.RemoveAll("/view"), durable.SyncDir(m.fs, "/")); err != nil {
		m.t.Fatal(err)
	}
}

// owner waits for the machine that decides.
func (c *machines) owner() *machine {
	c.t.Helper()
	for range 6000 {
		for _, m := range c.all {
			if m.stop != nil && m.set.Owns(0) {
				return m
			}
		}
		time.Sleep(10 * time.Millisecond) // virtual
	}
	c.t.Fatal("nobody owns the shard")
	return nil
}

// do has a command decided, by whoever owns the shard meanwhile.
func (c *machines) do(cmd *nodev1.Command) {
	c.t.Helper()
	for range 1000 {
		reply, err := c.owner().set.Do(context.Background(), cmd)
		if err == nil && reply.GetError() == nil {
			return
		}
		time.Sleep(20 * time.Millisecond) // virtual
	}
	c.t.Fatal("a command is never decided")
}

// trim trims the logs of the machines that are up to what their views have durable.
func (c *machines) trim() {
	c.t.Helper()
	for _, m := range c.all {
		if m.stop == nil {
			continue
		}
		if err := m.view.Flush(); err != nil {
			c.t.Fatal(err)
		}
		if err := m.raft.Log(0).Trim(context.Background(), journal.Index(m.view.Shard(0).Mark().GetIndex())); err != nil {
			c.t.Fatal(err)
		}
	}
}

// agree waits until all views are the same.
func (c *machines) agree(when string) {
	c.t.Helper()
	var dumps []string
	for range 3000 {
		dumps = dumps[:0]
		for _, m := range c.all {
			dumps = append(dumps, dump(c.t, m.view, 0))
		}
		if dumps[0] == dumps[1] && dumps[1] == dumps[2] && strings.Count(dumps[0], "\n") > 10 {
			return
		}
		time.Sleep(20 * time.Millisecond) // virtual
	}
	for i, m := range c.all {
		c.t.Logf("node %d at %v, log to %v: %v\n%s", m.id, m.view.Shard(0).Mark(), m.raft.Log(0).Last(), m.set.Ready(), m.log.String()[max(0, len(m.log.String())-3000):])
		_ = dumps[i]
	}
	c.t.Fatalf("%s: the views never agree", when)
}

func (c *machines) end() {
	for _, m := range c.all {
		if m.stop == nil {
			continue
		}
		m.stop()
		if err := m.view.Close(); err != nil {
			c.t.Errorf("view of node %d: %v", m.id, err)
		}
	}
	for _, m := range c.all {
		if err := m.raft.Close(); err != nil {
			c.t.Errorf("journal of node %d: %v", m.id, err)
		}
	}
}

// A member that is behind what the others have trimmed takes a snapshot of the
// view and goes on; so does one whose view is gone; and one whose power is cut
// at any moment of that. In the end all views are the same bytes.
func TestMembersTakeSnapshots(t *testing.T) {
	seed := seedOf(t)
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(seed, 11))
		c := newMachines(t, seed)
		ann := user("ann")
		room := id.Direct(ann, ann)
		c.do(signUp("ann"))
		c.do(openDirect(ann, ann))
		var n uint64
		say := func(count int) {
			for range count {
				n++
				c.do(send(ann, room, n, strings.Repeat(fmt.Sprint(n, " "), 100)))
			}
		}
		say(20)
		c.agree("at the start")

		taken := 0
		for round := range rounds {
			m := c.all[rng.IntN(3)]
			m.cut(float64(round%3)/2, rng.Uint64())
			say(30)
			c.trim()
			if round%3 == 2 { // its view is gone as well
				m.loseView()
			}
			m.open()
			for range 2 { // and the power goes again, while it takes the snapshot or before or after
				time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond) // virtual
				m.cut(rng.Float64(), rng.Uint64())
				m.open()
			}
			say(5)
			c.agree(fmt.Sprintf("after round %d", round))
			taken += strings.Count(m.log.String(), "the view was replaced by a peer's")
			m.log.clear()
		}
		if taken < rounds {
			t.Errorf("in %d rounds only %d snapshots were taken", rounds, taken)
		}
		t.Logf("%d snapshots in %d rounds", taken, rounds)

		// One without a view is made the leader: it gives the shard away.
		owner := c.owner()
		m := c.all[int(owner.id)%3]
		c.trim()
		m.cut(1, rng.Uint64())
		m.loseView()
		m.mute.Store(true)
		m.open()
		for range 100 {
			if err := c.owner().raft.TransferLeadership(context.Background(), 0, m.id); err == nil {
				break
			}
			time.Sleep(50 * time.Millisecond) // virtual
		}
		time.Sleep(time.Second) // virtual
		if lead, _ := m.raft.Leader(0); lead != m.id || m.set.Owns(0) {
			t.Errorf("node %d leads, it should be %d, which decides: %v", lead, m.id, m.set.Owns(0))
		}
		m.mute.Store(false)
		say(5)
		c.agree("after one without a view led")
		if m.gave.Load() == 0 {
			t.Error("it did not give the leadership away")
		}
		c.end()
	})
}
