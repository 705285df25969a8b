package raft

import (
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// others are the members but one.
func (c *cluster) others(m *member) (out []*member) {
	for _, o := range c.members {
		if o != m {
			out = append(out, o)
		}
	}
	return out
}

// TestHeard: followers hear from a leader that is idle, at heartbeats' pace; a
// leader hears itself; who is cut off remembers when it last heard, and so does a
// leader that has to step down.
func TestHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 1, 1)
		for _, m := range c.members {
			if at := m.j.Heard(0); !at.IsZero() {
				t.Fatalf("node %d heard from a leader %v before there was one", m.id, time.Since(at))
			}
		}
		leader, _ := c.leader(0)
		// Until a leader has told of an entry of its own term its word is worth nothing.
		<-time.After(heartbeatTicks * 50 * time.Millisecond)
		for range 50 {
			<-time.After(37 * time.Millisecond)
			for _, m := range c.members {
				if ago := time.Since(m.j.Heard(0)); ago > heartbeatTicks*50*time.Millisecond || (m == leader && ago != 0) {
					t.Fatalf("node %d heard from the leader, node %d, %v ago", m.id, leader.id, ago)
				}
			}
		}
		cut := c.others(leader)[0]
		c.net.Isolate(cut.id, 1, 2, 3)
		<-time.After(3 * time.Second)
		if ago := time.Since(cut.j.Heard(0)); ago < 2900*time.Millisecond || ago > 3100*time.Millisecond {
			t.Errorf("cut off for 3 s, heard %v ago", ago)
		}
		c.net.Heal()
		<-time.After(time.Second)
		if ago := time.Since(cut.j.Heard(0)); ago > heartbeatTicks*50*time.Millisecond {
			t.Errorf("healed, and heard %v ago", ago)
		}
		leader, _ = c.leader(0)
		c.net.Isolate(leader.id, 1, 2, 3)
		<-time.After(5 * time.Second)
		if ago := time.Since(leader.j.Heard(0)); ago < 3900*time.Millisecond || ago > 5*time.Second {
			t.Errorf("a leader that was cut off for 5 s heard itself %v ago", ago)
		}
		leader.j.store.trip(errBroken)
		synctest.Wait()
		if ago := time.Since(leader.j.Heard(0)); ago < 3900*time.Millisecond {
			t.Errorf("a fenced node heard from a leader %v ago", ago)
		}
	})
}

// TestHeardWhileBehind: what counts is what the leader had told when this node
// last had all of it: at rest the last word, under steady traffic one of a moment
// ago, and while a backlog comes the time before it.
func TestHeardWhileBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &word{began: time.Now()}
		ago := func() time.Duration { return time.Since(w.began) - time.Duration(w.at.Load()) }
		pass := func(d time.Duration) { <-time.After(d) }
		pass(time.Second)
		w.tell(100)
		w.spoke(0)
		if w.at.Load() != 0 {
			t.Error("a member with nothing of what it was told counts as having heard")
		}
		pass(time.Second)
		w.spoke(100)
		if ago() != 0 {
			t.Errorf("with everything, a word of just now: %v ago", ago())
		}
		for commit := uint64(100); commit < 1100; commit++ { // each word tells of one more than is here
			pass(10 * time.Millisecond)
			w.tell(commit + 1)
			w.spoke(commit)
			if ago() > 20*time.Millisecond {
				t.Fatalf("under steady traffic: %v ago", ago())
			}
		}
		w.tell(100_000) // it was cut off, and a backlog comes
		for commit := uint64(1100); commit < 2100; commit++ {
			w.spoke(commit)
			pass(10 * time.Millisecond)
		}
		if ago() < 9900*time.Millisecond {
			t.Errorf("with a backlog for 10 s: %v ago", ago())
		}
		w.spoke(100_000)
		if ago() != 0 {
			t.Errorf("with all of it: %v ago", ago())
		}
	})
}

// TestIdleFollowersCatchUp: what is committed is known everywhere within two
// heartbeats, also if the news of it was lost and nothing follows.
func TestIdleFollowersCatchUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 1, 1)
		leader, lease := c.leader(0)
		<-time.After(time.Second)
		p := mustAppend(t, leader.log(0), lease, "x")
		<-time.After(2 * heartbeatTicks * 50 * time.Millisecond)
		for _, m := range c.members {
			if at := m.log(0).Last(); at != p {
				t.Errorf("node %d is at %+v, committed is %+v", m.id, at, p)
			}
		}
		late := c.others(leader)[0]
		c.net.Cut(leader.id, late.id) // the entry and the news of the commit
		p = mustAppend(t, leader.log(0), lease, "y")
		synctest.Wait()
		if late.log(0).Last() == p {
			t.Fatal("the cut let it through")
		}
		c.net.Heal()
		<-time.After(2 * heartbeatTicks * 50 * time.Millisecond)
		if at := late.log(0).Last(); at != p {
			t.Errorf("node %d is at %+v two heartbeats after the cut has healed, committed is %+v", late.id, at, p)
		}
	})
}

// A member that was cut off has not heard of the present with the first heartbeat
// after: Raft's commit in it goes no further than what the member has, and what is
// really committed is told beside it.
func TestAHeartbeatDoesNotHideABacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 1, 1)
		leader, lease := c.leader(0)
		<-time.After(time.Second)
		cut := c.others(leader)[0]
		c.net.Isolate(cut.id, 1, 2, 3)
		for range 3 {
			mustAppend(t, leader.log(0), lease, "x")
		}
		<-time.After(3 * time.Second)
		var beat *raftpb.Message
		err := leader.j.groups[0].do(t.Context(), func() {
			g := leader.j.groups[0]
			beat = &raftpb.Message{
				Type: raftpb.MsgHeartbeat.Enum(), From: &leader.id, To: &cut.id, Term: new(uint64(lease.Term)),
				Commit: new(g.node.Status().Progress[cut.id].Match), // what Raft puts there
			}
			g.stamp(beat)
		})
		if err != nil {
			t.Fatal(err)
		}
		heard := func() time.Duration {
			err := cut.j.groups[0].do(t.Context(), func() { cut.j.groups[0].receive(leader.id, beat) })
			if err != nil {
				t.Fatal(err)
			}
			return time.Since(cut.j.Heard(0))
		}
		if ago := heard(); ago < 2900*time.Millisecond {
			t.Errorf("with the first heartbeat after being cut off for 3 s: heard %v ago", ago)
		}
		c.net.Heal()
		<-time.After(time.Second)
		if ago := time.Since(cut.j.Heard(0)); ago > heartbeatTicks*50*time.Millisecond {
			t.Errorf("healed, and heard %v ago", ago)
		}
	})
}
