package raft

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/bongsu-im/bongsu/journal"
)

// growing is a single node with a history, and a cluster to be.
func growing(t *testing.T, entries int) (*cluster, *member, []journal.Position) {
	c := &cluster{t: t, net: NewNetwork(1)}
	t.Cleanup(func() {
		for _, m := range c.members {
			c.close(m)
		}
	})
	m := c.add(1, 1)
	c.open(m)
	lease := mustLease(t, m.log(0))
	var ps []journal.Position
	for n := range entries {
		ps = append(ps, mustAppend(t, m.log(0), lease, fmt.Sprint("alone ", n)))
	}
	return c, m, ps
}

// join adds a node to a shard and makes it a voter.
func (c *cluster) join(leader *member, id, instead NodeID, s Snapshots) *member {
	c.t.Helper()
	m := c.add(id, 1)
	m.cfg.Join, m.cfg.Snapshots = true, s
	c.open(m)
	if err := leader.j.AddLearner(c.t.Context(), 0, id, instead); err != nil {
		c.t.Fatal(err)
	}
	c.await(fmt.Sprintf("node %d to catch up", id), func() bool { return m.log(0).Last() == leader.log(0).Last() })
	var err error
	c.await(fmt.Sprintf("node %d to vote", id), func() bool {
		err = leader.j.Promote(c.t.Context(), 0, id, instead)
		var behind *BehindError
		return !errors.As(err, &behind)
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

func voters(t *testing.T, j *Journal) (out []NodeID) {
	t.Helper()
	s, err := j.Status(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range s.Members {
		if m.Voter {
			out = append(out, m.Node)
		}
	}
	slices.Sort(out)
	return out
}

// TestGrow: one node becomes three without stopping and keeps its history; one of
// them dies and is replaced; its ID never comes back.
func TestGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, one, acked := growing(t, 20)
		c.join(one, 2, 0, nil)
		three := c.join(one, 3, 0, nil)
		if got := voters(t, one.j); !slices.Equal(got, []NodeID{1, 2, 3}) {
			t.Fatalf("voters %v", got)
		}
		for _, m := range c.members {
			for n, p := range acked {
				es, err := m.log(0).Read(t.Context(), p.Index-1, 1)
				if err != nil || es[0].Position != p || string(es[0].Data) != fmt.Sprint("alone ", n) || !m.log(0).Contains(p) {
					t.Fatalf("node %d, entry %d: %+v, %v", m.id, n, es, err)
				}
			}
		}
		// The lease that was given before is still good: nobody stopped.
		lease := mustLease(t, one.log(0))
		mustAppend(t, one.log(0), lease, "together")

		if err := one.j.AddLearner(t.Context(), 0, 3, 0); !errors.Is(err, ErrNotMember) {
			t.Fatalf("adding a member again: %v", err)
		}
		var notLeader *NotLeaderError
		if err := three.j.Remove(t.Context(), 0, 2); !errors.As(err, &notLeader) || notLeader.Leader != 1 {
			t.Fatalf("a change asked of a follower: %v", err)
		}
		c.close(three)
		<-time.After(2 * time.Second)
		var broken *NotWholeError
		if err := one.j.AddLearner(t.Context(), 0, 4, 0); !errors.As(err, &broken) || !slices.Equal(broken.Missing, []NodeID{3}) {
			t.Fatalf("a change while node 3 is down: %v", err)
		}
		if err := one.j.Remove(t.Context(), 0, 2); !errors.As(err, &broken) {
			t.Fatalf("removing one of two that are left: %v", err)
		}
		four := c.join(one, 4, 3, nil)
		if got := voters(t, one.j); !slices.Equal(got, []NodeID{1, 2, 4}) {
			t.Fatalf("voters after the replacement %v", got)
		}
		if err := one.j.AddLearner(t.Context(), 0, 3, 0); !errors.Is(err, ErrUsedNode) {
			t.Fatalf("a removed node is added again: %v", err)
		}
		// The one that was replaced comes back, is told, and stops.
		c.open(three)
		c.await("node 3 to hear that it was removed", func() bool {
			s, err := three.j.Status(t.Context(), 0)
			return err == nil && s.Role == RoleRemoved && strings.Contains(s.Damage, "says so")
		})
		var removed *RemovedError
		if _, err := three.log(0).Lease(t.Context()); !errors.As(err, &removed) || !errors.Is(err, journal.ErrNotOwner) {
			t.Fatalf("lease at a removed node: %v", err)
		}
		c.close(three)
		c.open(three) // it asks again, and hears it again
		c.await("node 3 to hear it again", func() bool {
			s, err := three.j.Status(t.Context(), 0)
			return err == nil && s.Role == RoleRemoved
		})
		// Membership outlives restarts, and two of three are enough.
		for _, m := range []*member{one, four} {
			c.kill(m, 0, 1)
			c.open(m)
		}
		if got := voters(t, four.j); !slices.Equal(got, []NodeID{1, 2, 4}) {
			t.Fatalf("voters after a restart %v", got)
		}
		c.close(one)
		leader, lease := c.leader(0)
		mustAppend(t, leader.log(0), lease, "two of three")
	})
}

// TestOneChangeAtATime: the second of two changes is refused while the first
// cannot be committed, and the first says that it does not know.
func TestOneChangeAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 1, 1)
		m, _ := c.leader(0)
		<-time.After(time.Second) // until it has heard of everybody
		c.net.Isolate(m.id, 1, 2, 3)
		first := make(chan error, 1)
		go func() { first <- m.j.AddLearner(t.Context(), 0, 9, 0) }()
		synctest.Wait()
		if err := m.j.AddLearner(t.Context(), 0, 8, 0); !errors.Is(err, ErrChanging) {
			t.Fatalf("a second change: %v", err)
		}
		if err := <-first; !errors.Is(err, journal.ErrUnknown) {
			t.Fatalf("a change that cannot be committed: %v", err)
		}
		c.net.Heal()
		c.leader(0)
	})
}

// TestLostDisk: a node that lost its disk is refused under its old ID, for good.
func TestLostDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 1, 1)
		leader, lease := c.leader(0)
		mustAppend(t, leader.log(0), lease, "x")
		lost := c.members[0]
		if lost == leader {
			lost = c.members[1]
		}
		c.close(lost)
		lost.disk = newCluster(t, 0, 1, 1).add(9, 1).disk // an empty one
		c.open(lost)
		for _, m := range c.members {
			if m == lost {
				continue
			}
			var impostor *ImpostorError
			c.await("the impostor to be refused", func() bool { return errors.As(errors.Join(m.j.Damage()...), &impostor) })
			if impostor.Node != lost.id {
				t.Fatalf("node %d was refused, node %d lost its disk", impostor.Node, lost.id)
			}
			c.await("the impostor to hear it", func() bool { return lost.ep.Refused(m.id) != nil })
		}
		<-time.After(5 * time.Second)
		if s, err := lost.j.Status(t.Context(), 0); err != nil || s.Leader != 0 || s.Commit > 1 {
			t.Fatalf("the impostor takes part: %+v, %v", s, err)
		}
		leader, lease = c.leader(0)
		mustAppend(t, leader.log(0), lease, "y") // the others go on
	})
}

// TestPeersRemember: a follower whose disk lost, with marks and all, what it had
// acknowledged is told so by its peers and leaves the shard alone; also after
// the peers were restarted themselves.
func TestPeersRemember(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("peers restarted: ", restart), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 3, 2, 1)
				leader, lease := c.leader(0)
				var last journal.Position
				for range 10 {
					last = mustAppend(t, leader.log(0), lease, "x")
				}
				var damaged *member
				for _, m := range c.members {
					c.await("everybody to have everything", func() bool { return m.log(0).Last() == last })
					if m != leader {
						damaged = m
					}
				}
				<-time.After(3 * time.Second) // memories are written every second
				c.close(damaged)
				if restart {
					for _, m := range c.members {
						if m != damaged {
							c.kill(m, 0, 1)
						}
					}
				}
				cfg := damaged.cfg
				cfg.FS, cfg.Transport = damaged.disk, c.net.Endpoint()
				cutTail(t, cfg, 0, uint64(last.Index)-3, true)
				for _, m := range c.members {
					if m.j == nil {
						c.open(m)
					}
				}
				var lost *journal.LostTailError
				c.await("the damage to be noticed", func() bool { return errors.As(errors.Join(damaged.j.Damage()...), &lost) })
				if lost.Shard != 0 || lost.Proven.Index < last.Index-3 || lost.Have.Index >= last.Index-3 {
					t.Fatalf("noticed %+v, %+v was acknowledged", lost, last)
				}
				if s, err := damaged.j.Status(t.Context(), 0); err != nil || s.Role != RoleDamaged || s.Damage != lost.Error() {
					t.Fatalf("status of the damaged shard: %+v, %v", s, err)
				}
				if _, err := damaged.log(0).Lease(t.Context()); !errors.As(err, &lost) {
					t.Fatalf("lease of the damaged shard: %v", err)
				}
				// It does not vote: with the leader gone as well, nobody can lead.
				leader, lease = c.leader(0)
				mustAppend(t, leader.log(0), lease, "the others go on")
				c.kill(leader, 1, 1) // closing would hand over first
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				if m, _, err := c.lease(ctx, 0); err == nil {
					t.Fatalf("node %d leads by the vote of a damaged member", m.id)
				}
				c.leader(1) // its other shard is whole
			})
		})
	}
}

// TestHeartbeatBeyondTheEnd: a leader that believes this node to have more than
// it has proves a lost tail; it costs that shard and no other.
func TestHeartbeatBeyondTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 2, 1)
		leader, lease := c.leader(0)
		mustAppend(t, leader.log(0), lease, "x")
		victim := c.members[0]
		if victim == leader {
			victim = c.members[1]
		}
		beat := message(raftpb.MsgHeartbeat)
		beat.From, beat.To, beat.Term, beat.Commit = &leader.id, &victim.id, new(uint64(lease.Term)), new(uint64(1000))
		victim.j.Receive(leader.id, Parcel{Shard: 0, Message: beat})
		synctest.Wait()
		var lost *journal.LostTailError
		if !errors.As(errors.Join(victim.j.Damage()...), &lost) || lost.Shard != 0 || lost.Proven.Index != 1000 {
			t.Fatalf("not noticed: %v", victim.j.Damage())
		}
		if err := victim.j.Fenced(); err != nil {
			t.Fatalf("the whole store is fenced: %v", err)
		}
		if s, err := victim.j.Status(t.Context(), 1); err != nil || s.Role == RoleDamaged {
			t.Fatalf("the other shard: %+v, %v", s, err)
		}
	})
}

// TestFencedLeader: the first disk error of a leader ends its ownership, and
// another takes over without waiting for the election timeout.
func TestFencedLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 1, 1)
		leader, lease := c.leader(0)
		p := mustAppend(t, leader.log(0), lease, "x")
		ended := leader.j.LeaseEnded(0, lease)
		leader.rig.set(func(r *rigged) { r.onSync = func(string) error { return errBroken } })
		var fenced *journal.FencedError
		if _, err := leader.log(0).Append(t.Context(), lease, []byte("y")); !errors.As(err, &fenced) {
			t.Fatalf("append to a broken disk: %v", err)
		}
		<-ended
		began := time.Now()
		c.close(leader)
		next, lease := c.leader(0)
		if took := time.Since(began); took > electionTicks*50*time.Millisecond {
			t.Errorf("%v until the next leader: nobody took the hint", took)
		}
		if next == leader || lease.Applied < p.Index {
			t.Fatalf("node %d got %+v after %+v", next.id, lease, p)
		}
		mustAppend(t, next.log(0), lease, "z")
	})
}

// views is a test double for the view: all records of a shard, as bytes.
type views struct {
	mu       sync.Mutex
	at       journal.Mark
	records  []byte
	restores int
	breaks   int // so many restores fail midway
}

func (v *views) apply(t *testing.T, l journal.Log, upTo journal.Index) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	for v.at.Index < upTo {
		es, err := l.Read(t.Context(), v.at.Index, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range es {
			v.records = append(v.records, e.Data...)
			v.at = journal.Mark{Position: e.Position, Hash: journal.NextHash(v.at.Hash, e.Data)}
		}
	}
}

func (v *views) Make(context.Context, journal.ShardID) (journal.Mark, io.ReadCloser, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.at, io.NopCloser(bytes.NewReader(bytes.Clone(v.records))), nil
}

func (v *views) Restore(_ context.Context, _ journal.ShardID, at journal.Mark, r io.Reader) error {
	b, err := io.ReadAll(r)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil {
		return err
	}
	if v.breaks > 0 {
		v.breaks--
		return errBroken
	}
	v.at, v.records = at, b
	v.restores++
	return nil
}

func (v *views) mark() journal.Mark {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.at
}

func (v *views) sum() [32]byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	return sha256.Sum256(v.records)
}

// TestSnapshot: a node joins behind the trimmed part. Its first attempt fails;
// the view comes as a stream, the log goes on behind it, positions of the part
// that it never had are still told apart by their terms.
func TestSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, one, acked := growing(t, 0)
		vs := &views{}
		one.cfg.Snapshots = vs
		for range 3 { // a term each
			c.close(one)
			c.open(one)
			lease := mustLease(t, one.log(0))
			for n := range 50 {
				acked = append(acked, mustAppend(t, one.log(0), lease, string(bytes.Repeat([]byte{byte(n)}, 3000))))
			}
		}
		vs.apply(t, one.log(0), acked[120].Index)
		if err := one.log(0).Trim(t.Context(), acked[100].Index); err != nil {
			t.Fatal(err)
		}
		got := &views{breaks: 1}
		two := c.join(one, 2, 0, got)
		if got.restores != 1 || got.at != vs.at || got.sum() != vs.sum() {
			t.Fatalf("restored %d times to %+v, the original stands at %+v", got.restores, got.at, vs.at)
		}
		got.apply(t, two.log(0), acked[149].Index)
		vs.apply(t, one.log(0), acked[149].Index)
		if got.sum() != vs.sum() || got.at != vs.at {
			t.Fatal("the views differ after catching up")
		}
		check := func() {
			t.Helper()
			for _, p := range acked {
				if !two.log(0).Contains(p) || two.log(0).Contains(journal.Position{Term: p.Term + 1, Index: p.Index}) {
					t.Fatalf("contains is wrong about %+v", p)
				}
			}
		}
		check()
		if _, err := two.log(0).Read(t.Context(), 0, 1); !errors.Is(err, journal.ErrTrimmed) {
			t.Fatalf("read from the beginning: %v, want ErrTrimmed", err)
		}
		c.kill(two, 0, 1)
		c.open(two)
		check()
		leader, lease := c.leader(0)
		p := mustAppend(t, leader.log(0), lease, "after")
		c.await("the new member to follow", func() bool { return two.log(0).Last() == p })
		if err := two.j.Scrub(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	})
}

// TestBaseAgrees: a snapshot's message that does not agree with itself is refused.
func TestBaseAgrees(t *testing.T) {
	good := base{at: journal.Position{Term: 7, Index: 90}, final: journal.Mark{Position: journal.Position{Term: 7, Index: 88}, Hash: [32]byte{1}},
		conf: groupConf(1, 2), spans: []span{{1, 1}, {5, 30}, {7, 80}}}
	back, err := decodeBase(3, good.message(3))
	if err != nil || back.at != good.at || back.final != good.final || !slices.Equal(back.spans, good.spans) {
		t.Fatalf("%+v came back as %+v, %v", good, back, err)
	}
	if _, err := decodeBase(4, good.message(3)); err == nil {
		t.Error("taken for another shard's")
	}
	for name, spoil := range map[string]func(*base){
		"final after the end": func(b *base) { b.final.Index = 91 },
		"another last term":   func(b *base) { b.at.Term = 8 },
		"terms that fall":     func(b *base) { b.spans = []span{{5, 1}, {1, 30}, {7, 80}} },
		"starts that fall":    func(b *base) { b.spans = []span{{1, 30}, {5, 1}, {7, 80}} },
		"a start behind it":   func(b *base) { b.spans = []span{{1, 1}, {7, 91}} },
		"nobody":              func(b *base) { b.conf = groupConf() },
		"no terms":            func(b *base) { b.spans = nil },
	} {
		bad := good
		spoil(&bad)
		if _, err := decodeBase(3, bad.message(3)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	m := good.message(3)
	binary.BigEndian.PutUint64(m.Data[3:], 6) // within the sum
	if _, err := decodeBase(3, m); !errors.Is(err, errChecksum) {
		t.Errorf("damaged: %v", err)
	}
}
