package raft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bongsu-im/bongsu/journal"
)

// following is a cluster of three whose views stand at the end of the log, which
// is trimmed; and its parts.
type following struct {
	*cluster
	leader, victim *member
	lease          journal.Lease
	acked          []journal.Position
	views          map[*member]*views
}

func newFollowing(t *testing.T) *following {
	t.Helper()
	f := &following{cluster: newCluster(t, 0, 1, 1), views: map[*member]*views{}}
	for id := range NodeID(3) {
		m := f.add(id+1, 1)
		m.cfg.Voters = []NodeID{1, 2, 3}
		f.views[m] = &views{}
		m.cfg.Snapshots = f.views[m]
	}
	for _, m := range f.members {
		f.open(m)
	}
	t.Cleanup(func() {
		for _, m := range f.members {
			f.close(m)
		}
	})
	f.leader, f.lease = f.cluster.leader(0)
	for _, m := range f.members {
		if m != f.leader {
			f.victim = m
		}
	}
	f.append(100)
	for _, m := range f.members {
		f.views[m].apply(t, m.log(0), f.last().Index)
		if err := m.log(0).Trim(t.Context(), f.acked[60].Index); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func (f *following) append(n int) {
	f.t.Helper()
	for i := range n {
		f.acked = append(f.acked, mustAppend(f.t, f.leader.log(0), f.lease, string(bytes.Repeat([]byte{byte(i)}, 3000))))
	}
}

func (f *following) last() journal.Position { return f.acked[len(f.acked)-1] }

// loseView replaces the victim's view by an empty one.
func (f *following) loseView() *views {
	f.t.Helper()
	f.close(f.victim)
	empty := &views{}
	f.views[f.victim], f.victim.cfg.Snapshots = empty, empty
	f.cluster.open(f.victim)
	f.await("the victim to follow", func() bool {
		who, _ := f.victim.j.Leader(0)
		return who == f.leader.id && f.victim.log(0).Last() == f.last()
	})
	return empty
}

// TestFetchView: a view that was lost comes back from the leader, with the log
// left as it is.
func TestFetchView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFollowing(t)
		got := f.loseView()
		got.breaks = 1
		before, err := f.victim.j.Status(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.victim.j.FetchView(t.Context(), 0); !errors.Is(err, errBroken) {
			t.Fatalf("a restore that breaks: %v", err)
		}
		if err := f.victim.j.FetchView(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		want := f.views[f.leader]
		if got.restores != 1 || got.at != want.at || got.sum() != want.sum() {
			t.Fatalf("restored %d times to %+v, the leader's view stands at %+v", got.restores, got.at, want.at)
		}
		after, err := f.victim.j.Status(t.Context(), 0)
		if err != nil || after.First != before.First || after.Last != before.Last || after.Commit != before.Commit || after.Term != before.Term {
			t.Fatalf("the log was %+v and is %+v, %v", before, after, err)
		}
		f.append(5)
		got.apply(t, f.victim.log(0), f.last().Index)
		want.apply(t, f.leader.log(0), f.last().Index)
		if got.sum() != want.sum() {
			t.Fatal("the views differ afterwards")
		}
		f.kill(f.victim, 0, 1)
		f.cluster.open(f.victim)
		if d := f.victim.j.Damage(); len(d) > 0 {
			t.Fatalf("damage after a restart: %v", d)
		}
	})
}

// TestFetchViewRefuses what cannot help.
func TestFetchViewRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFollowing(t)
		if err := f.leader.j.FetchView(t.Context(), 0); !errors.Is(err, ErrLeads) {
			t.Errorf("asked of the leader: %v", err)
		}
		got := f.loseView()
		// The leader's view stands before what was trimmed here.
		f.views[f.leader].at.Position = f.acked[40]
		if err := f.victim.j.FetchView(t.Context(), 0); err == nil || got.restores != 0 {
			t.Errorf("a view from before the beginning of the log: %v, restored %d times", err, got.restores)
		}
		f.net.Isolate(f.victim.id, 1, 2, 3)
		f.await("the victim to miss its leader", func() bool { who, _ := f.victim.j.Leader(0); return who == 0 })
		if err := f.victim.j.FetchView(t.Context(), 0); !errors.Is(err, ErrNoLeader) {
			t.Errorf("asked of nobody: %v", err)
		}
	})
}

// TestFetchViewAhead: the leader's view stands beyond what is known here. Until
// the log has come there, the fetch is not over; a power cut meanwhile is no
// damage.
func TestFetchViewAhead(t *testing.T) {
	for _, cut := range []bool{false, true} {
		t.Run(fmt.Sprint("power cut: ", cut), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFollowing(t)
				got := f.loseView()
				<-time.After(time.Second)
				f.net.Cut(f.leader.id, f.victim.id)
				f.append(10)
				f.views[f.leader].apply(t, f.leader.log(0), f.last().Index)
				f.net.SetFaults(Faults{Drop: 1})
				f.net.Heal()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				done := make(chan error, 1)
				go func() { done <- f.victim.j.FetchView(ctx, 0) }()
				f.await("the view to be restored", func() bool { return got.mark() == f.views[f.leader].mark() })
				synctest.Wait()
				select {
				case err := <-done:
					t.Fatalf("it is over, and the log ends at %+v: %v", f.victim.log(0).Last(), err)
				default:
				}
				if f.victim.log(0).Last() == f.last() || !f.victim.log(0).Contains(f.last()) {
					t.Fatalf("the log ends at %+v; contains the view's position %+v: %t", f.victim.log(0).Last(), f.last(), f.victim.log(0).Contains(f.last()))
				}
				if cut {
					f.kill(f.victim, 0, 1)
					if err := <-done; err == nil {
						t.Fatal("a fetch that was cut off says that it succeeded")
					}
					f.cluster.open(f.victim)
					if d := f.victim.j.Damage(); len(d) > 0 || !f.victim.log(0).Contains(f.last()) {
						t.Fatalf("after the power cut: %v", d)
					}
				}
				f.net.SetFaults(Faults{})
				if !cut {
					if err := <-done; err != nil {
						t.Fatal(err)
					}
				}
				f.await("the log to follow", func() bool { return f.victim.log(0).Last() == f.last() })
			})
		})
	}
}
