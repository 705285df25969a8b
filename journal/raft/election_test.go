package raft

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/journaltest"
)

// busiest is the member that leads most shards, and which these are.
func (c *cluster) busiest() (*member, []journal.ShardID) {
	c.t.Helper()
	led := map[*member][]journal.ShardID{}
	var most *member
	for shard := range c.members[0].cfg.Shards {
		m, _ := c.leader(journal.ShardID(shard))
		led[m] = append(led[m], journal.ShardID(shard))
		if len(led[m]) > len(led[most]) {
			most = m
		}
	}
	return most, led[most]
}

// outages ends a member's leaderships by stop, and returns how long it takes
// until another can append to each shard that it led.
func (c *cluster) outages(victim *member, shards []journal.ShardID, stop func()) []time.Duration {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	began := time.Now()
	var mu sync.Mutex
	var out []time.Duration
	var waiting sync.WaitGroup
	for _, shard := range shards {
		waiting.Go(func() {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			got := make(chan error, len(c.members))
			for _, m := range c.members {
				if m != victim && m.j != nil {
					l := m.log(shard)
					go func() {
						_, err := l.Lease(ctx)
						got <- err
					}()
				}
			}
			if err := <-got; err != nil {
				c.t.Errorf("shard %d has no owner: %v", shard, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out = append(out, time.Since(began))
		})
	}
	stop()
	waiting.Wait()
	return out
}

// spread is what of a sorted sample is asked for.
type spread struct{ median, p99, most time.Duration }

func spreadOf(sample []time.Duration) spread {
	slices.Sort(sample)
	return spread{sample[len(sample)/2], sample[len(sample)*99/100], sample[len(sample)-1]}
}

// TestOutages measures, in virtual time and over many seeds, how long a shard
// has no owner after its leader has ended. The bounds are for what waits for no
// disk; a killed process must be replaced long before the election timeout, and
// silence be noticed little after it.
func TestOutages(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	kill := func(c *cluster, m *member) { c.kill(m, 0, 1) }
	freeze := func(c *cluster, m *member) { c.net.Isolate(m.id, 1, 2, 3) }
	unseen := func(c *cluster, m *member) { // by one of the two that are left
		c.net.Cut(m.id, m.id%3+1)
		c.kill(m, 0, 1)
	}
	for _, k := range []struct {
		name   string
		faults Faults
		stop   func(*cluster, *member)
		within spread
	}{
		{"killed", Faults{MaxDelay: ms(2)}, kill, spread{ms(60), ms(150), ms(400)}},
		{"killed, far apart", Faults{MinDelay: ms(5), MaxDelay: ms(40)}, kill, spread{ms(250), ms(400), ms(700)}},
		{"killed, one sees it", Faults{MaxDelay: ms(2)}, unseen, spread{ms(600), ms(700), ms(900)}},
		{"frozen", Faults{MaxDelay: ms(2)}, freeze, spread{ms(650), ms(700), ms(900)}},
	} {
		t.Run(k.name, func(t *testing.T) {
			seed := journaltest.Seed(t)
			seeds := 12
			if testing.Short() {
				seeds = 3
			}
			var sample []time.Duration
			for n := range seeds {
				cryptotest.SetGlobalRandom(t, seed+uint64(n))
				synctest.Test(t, func(t *testing.T) {
					c := newCluster(t, 3, 16, seed+uint64(n))
					c.net.SetFaults(k.faults)
					for range 3 {
						victim, shards := c.busiest()
						<-time.After(time.Second) // everybody hears the leaders
						sample = append(sample, c.outages(victim, shards, func() { k.stop(c, victim) })...)
						c.net.Heal()
						if victim.j == nil {
							c.open(victim)
						}
					}
				})
			}
			got := spreadOf(sample)
			t.Logf("%d leaderships ended: the next owner came after %v (median), %v (99 %%), %v (most)", len(sample), got.median, got.p99, got.most)
			if got.median > k.within.median || got.p99 > k.within.p99 || got.most > k.within.most {
				t.Errorf("more than %v, %v, %v", k.within.median, k.within.p99, k.within.most)
			}
		})
	}
}

// TestLastWordAfterTheBreak: what the leader has said before its connections
// broke arrives after the news that they broke. That is no reason to wait for
// it: this made TestFencedLeader fail once in a while.
func TestLastWordAfterTheBreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 1, 1)
		leader, lease := c.leader(0)
		<-time.After(time.Second) // everybody hears it
		took := c.outages(leader, []journal.ShardID{0}, func() {
			_ = leader.ep.Close()
			synctest.Wait()
			for _, m := range c.members {
				if m != leader {
					beat := message(raftpb.MsgHeartbeat)
					beat.From, beat.To, beat.Term, beat.Commit = &leader.id, &m.id, new(uint64(lease.Term)), new(uint64(1))
					m.j.Receive(leader.id, Parcel{Shard: 0, Message: beat})
				}
			}
			synctest.Wait()
			for _, m := range c.members { // they believe it
				if who, _ := m.j.Leader(0); m != leader && who != leader.id {
					t.Errorf("node %d follows node %d", m.id, who)
				}
			}
		})
		if took[0] > 250*time.Millisecond {
			t.Errorf("%v until the next leader", took[0])
		}
	})
}

// TestSplitVotes: two stand at the same moment and vote each for itself. The
// next election does not wait for the timeout of this one.
func TestSplitVotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 1, 1)
		c.net.SetFaults(Faults{MinDelay: 5 * time.Millisecond, MaxDelay: 6 * time.Millisecond})
		leader, lease := c.leader(0)
		<-time.After(time.Second)
		took := c.outages(leader, []journal.ShardID{0}, func() {
			_ = leader.ep.Close()
			for _, m := range c.members {
				if m == leader {
					continue
				}
				g := m.j.groups[0]
				if err := g.do(t.Context(), func() { g.seek(leader.id); _ = g.node.Campaign() }); err != nil {
					t.Error(err)
				}
			}
		})
		_, next := c.leader(0)
		if next.Term < lease.Term+2 {
			t.Errorf("term %d after %d: the votes were not split", next.Term, lease.Term)
		}
		if took[0] > 250*time.Millisecond {
			t.Errorf("%v until the next leader", took[0])
		}
	})
}

// TestBrokenCable: a follower that has lost its leader, while all others hear it,
// disturbs nobody, and follows again when it can.
func TestBrokenCable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 4, 1)
		for shard := range journal.ShardID(4) {
			leader, lease := c.leader(shard)
			<-time.After(time.Second)
			var alone *member
			for _, m := range c.members {
				if m != leader {
					alone = m
				}
			}
			c.net.Isolate(leader.id, alone.id)
			alone.j.Down(leader.id)
			last := journal.Position{}
			for n := range 100 {
				last = mustAppend(t, leader.log(shard), lease, fmt.Sprint(n))
				<-time.After(100 * time.Millisecond)
			}
			c.net.Heal()
			c.await("the lonely node to follow again", func() bool { return alone.log(shard).Last() == last })
			if who, term := alone.j.Leader(shard); who != leader.id || term != lease.Term {
				t.Errorf("shard %d: node %d leads in term %d, before it was node %d in %d", shard, who, term, leader.id, lease.Term)
			}
		}
	})
}
