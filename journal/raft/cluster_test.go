package raft

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/journaltest"
)

// member is one node of a cluster under test, through its restarts.
type member struct {
	id   NodeID
	disk *durable.Crashable
	rig  *rigged
	j    *Journal // nil while it is down
	ep   *Endpoint
	cfg  Config
}

// cluster is several journals in one process, joined by a Network.
type cluster struct {
	t       testing.TB
	net     *Network
	members []*member
}

var testCluster = ClusterID{1, 2, 3}

func newCluster(t testing.TB, nodes, shards int, seed uint64) *cluster {
	t.Helper()
	c := &cluster{t: t, net: NewNetwork(seed)}
	var voters []NodeID
	for i := range nodes {
		voters = append(voters, NodeID(i+1))
	}
	for _, id := range voters {
		m := c.add(id, shards)
		m.cfg.Voters = voters
	}
	for _, m := range c.members {
		c.open(m)
	}
	t.Cleanup(func() {
		for _, m := range c.members {
			c.close(m)
		}
	})
	return c
}

// add makes a member, which is not open yet.
func (c *cluster) add(id NodeID, shards int) *member {
	m := &member{id: id, disk: durable.NewCrashable()}
	m.cfg = config(nil, shards)
	m.cfg.NodeID, m.cfg.Cluster = id, testCluster
	c.members = append(c.members, m)
	return m
}

func (c *cluster) open(m *member) {
	c.t.Helper()
	if err := c.tryOpen(m); err != nil {
		c.t.Fatalf("open node %d: %v", m.id, err)
	}
}

func (c *cluster) tryOpen(m *member) (err error) {
	m.rig = &rigged{FS: m.disk}
	m.ep = c.net.Endpoint()
	m.cfg.FS, m.cfg.Transport = m.rig, m.ep
	m.j, err = Open(m.cfg)
	return err
}

func (c *cluster) close(m *member) {
	c.t.Helper()
	if m.j == nil {
		return
	}
	if err := m.j.Close(); err != nil {
		c.t.Errorf("close node %d: %v", m.id, err)
	}
	m.j = nil
}

// kill ends a member as a power cut does, keeping unsynced blocks with
// probability keep.
func (c *cluster) kill(m *member, keep float64, seed uint64) {
	c.t.Helper()
	_ = m.ep.Close()
	disk := m.disk.Crash(keep, seed)
	c.close(m)
	m.disk = disk
}

// leader waits for the member that can append to a shard.
func (c *cluster) leader(shard journal.ShardID) (*member, journal.Lease) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	m, lease, err := c.lease(ctx, shard)
	if err != nil {
		c.t.Fatalf("no leader of shard %d: %v", shard, err)
	}
	return m, lease
}

// lease asks all members at once and takes the first lease.
func (c *cluster) lease(ctx context.Context, shard journal.ShardID) (*member, journal.Lease, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		m     *member
		lease journal.Lease
		err   error
	}
	answers := make(chan answer, len(c.members))
	n := 0
	for _, m := range c.members {
		if m.j == nil {
			continue
		}
		n++
		l := m.j.Log(shard)
		go func() {
			lease, err := l.Lease(ctx)
			answers <- answer{m, lease, err}
		}()
	}
	var best answer
	errs := []error{errors.New("no node has it")}
	for range n {
		a := <-answers
		if a.err != nil {
			errs = append(errs, a.err)
			continue
		}
		if a.lease.Term > best.lease.Term {
			best = a // a deposed leader may not know it yet
		}
		cancel()
	}
	if best.m == nil {
		return nil, journal.Lease{}, errors.Join(errs[min(1, len(errs)-1):]...)
	}
	return best.m, best.lease, nil
}

// await waits until ok holds.
func (c *cluster) await(what string, ok func() bool) {
	c.t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	for _, m := range c.members {
		if m.j == nil {
			continue
		}
		for shard := range m.cfg.Shards {
			s, err := m.j.Status(context.Background(), journal.ShardID(shard))
			c.t.Logf("node %d shard %d: %+v %v, last %+v", m.id, shard, s, err, m.j.Log(journal.ShardID(shard)).Last())
		}
	}
	c.t.Fatalf("in vain: %s", what)
}

// replicas is a cluster as one journal: appends go to the leader, reads to any.
type replicas struct {
	c     *cluster
	reads int

	mu     sync.Mutex
	owners map[reign]*member
}

// reign is one term of one shard.
type reign struct {
	shard journal.ShardID
	term  journal.Term
}

func (r *replicas) Log(shard journal.ShardID) journal.Log {
	r.c.members[0].log(shard) // panics for one that is not there
	return &replicatedLog{r: r, shard: shard}
}

func (m *member) log(shard journal.ShardID) journal.Log { return m.j.Log(shard) }

func (r *replicas) each(f func(*Journal) error) error {
	var errs []error
	for _, m := range r.c.members {
		errs = append(errs, f(m.j))
	}
	return errors.Join(errs...)
}

func (r *replicas) SyncMarks() error { return r.each((*Journal).SyncMarks) }

func (r *replicas) Scrub(ctx context.Context, progress func(uint64)) error {
	var sum, last uint64
	return r.each(func(j *Journal) error {
		sum += last
		return j.Scrub(ctx, func(n uint64) {
			if last = n; progress != nil {
				progress(sum + n)
			}
		})
	})
}

func (r *replicas) Close() error { return r.each((*Journal).Close) }

type replicatedLog struct {
	r     *replicas
	shard journal.ShardID
}

func (l *replicatedLog) Lease(ctx context.Context) (journal.Lease, error) {
	m, lease, err := l.r.c.lease(ctx, l.shard)
	if err != nil {
		return lease, err
	}
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	if other := l.r.owners[reign{l.shard, lease.Term}]; other != nil && other != m && other.j == m.j {
		return lease, fmt.Errorf("nodes %d and %d both have term %d", other.id, m.id, lease.Term)
	}
	l.r.owners[reign{l.shard, lease.Term}] = m
	return lease, nil
}

func (l *replicatedLog) Append(ctx context.Context, lease journal.Lease, data []byte) (journal.Position, error) {
	l.r.mu.Lock()
	m := l.r.owners[reign{l.shard, lease.Term}]
	l.r.mu.Unlock()
	if m == nil {
		m = l.r.c.members[0]
	}
	return m.j.Log(l.shard).Append(ctx, lease, data)
}

// Read reads from all members in turn: whatever is committed arrives everywhere.
func (l *replicatedLog) Read(ctx context.Context, after journal.Index, maxBytes int) ([]journal.Entry, error) {
	l.r.mu.Lock()
	l.r.reads++
	m := l.r.c.members[l.r.reads%len(l.r.c.members)]
	l.r.mu.Unlock()
	return m.j.Log(l.shard).Read(ctx, after, maxBytes)
}

// furthest is the member that knows most to be committed.
func (l *replicatedLog) furthest() *Journal {
	var best *Journal
	for _, m := range l.r.c.members {
		if best == nil || best.Log(l.shard).Last().Index < m.j.Log(l.shard).Last().Index {
			best = m.j
		}
	}
	return best
}

func (l *replicatedLog) Last() journal.Position { return l.furthest().Log(l.shard).Last() }

func (l *replicatedLog) Contains(p journal.Position) bool {
	return l.furthest().Log(l.shard).Contains(p)
}

func (l *replicatedLog) SetMark(m journal.Mark) {
	for _, n := range l.r.c.members {
		n.j.Log(l.shard).SetMark(m)
	}
}

func (l *replicatedLog) Trim(ctx context.Context, upTo journal.Index) error {
	goal := min(upTo, l.Last().Index)
	for _, m := range l.r.c.members { // who is behind would need a snapshot
		l.r.c.await(fmt.Sprintf("node %d to have %d of shard %d", m.id, goal, l.shard), func() bool { return m.log(l.shard).Last().Index >= goal })
	}
	return l.r.each(func(j *Journal) error { return j.Log(l.shard).Trim(ctx, upTo) })
}

// clusterInstance runs the contract's suite on three nodes.
type clusterInstance struct {
	c       *cluster
	r       *replicas
	reopens int
}

func (in *clusterInstance) Journal() journal.Journal { return in.r }

// Reopen restarts everybody, or now and then only who leads shard 0.
func (in *clusterInstance) Reopen(t *testing.T, kill bool) {
	t.Helper()
	in.reopens++
	restart := in.c.members
	leader, _, err := in.c.lease(t.Context(), 0)
	if err == nil && in.reopens%3 == 2 {
		restart = []*member{leader}
	}
	for _, m := range restart {
		if kill {
			in.c.kill(m, 0, 0)
		} else {
			in.c.close(m)
		}
	}
	for _, m := range restart {
		in.c.open(m)
		if d := m.j.Damage(); len(d) > 0 {
			t.Fatalf("node %d opened with damage: %v", m.id, d)
		}
	}
	in.r = &replicas{c: in.c, owners: map[reign]*member{}}
}

// Usurp moves the shard to another node, which appends, and back.
func (in *clusterInstance) Usurp(t *testing.T, shard journal.ShardID, data []byte) {
	t.Helper()
	was, _ := in.c.leader(shard)
	if err := was.j.TransferLeadership(t.Context(), shard, 0); err != nil {
		t.Fatal(err)
	}
	rival, lease := in.c.leader(shard)
	if rival == was {
		t.Fatal("the owner has not changed")
	}
	if _, err := rival.j.Log(shard).Append(t.Context(), lease, data); err != nil {
		t.Fatal(err)
	}
	if err := rival.j.TransferLeadership(t.Context(), shard, was.id); err != nil {
		t.Fatal(err)
	}
}

// TestContractOfThree holds a cluster of three to the contract, in a bubble whose
// clock moves only when everybody waits.
func TestContractOfThree(t *testing.T) {
	journaltest.RunIn(t, func(t *testing.T, shards int) journaltest.Instance {
		in := &clusterInstance{c: newCluster(t, 3, shards, 1)}
		in.r = &replicas{c: in.c, owners: map[reign]*member{}}
		return in
	}, func(t *testing.T, clause func(*testing.T)) { synctest.Test(t, clause) })
}
