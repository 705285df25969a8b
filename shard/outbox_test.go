package shard

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/clock"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/memory"
	"github.com/bongsu-im/bongsu/view"
)

func (w *world) roomsOf(u id.ID) (rooms []string) {
	w.t.Helper()
	q := w.ask(&nodev1.Query{Actor: u.Bytes(), Kind: &nodev1.Query_ListRooms{ListRooms: &edgev1.ListRoomsRequest{}}})
	if q.GetError() != nil {
		w.t.Fatalf("rooms: %v", q.GetError())
	}
	for _, r := range q.GetListRooms().GetRooms() {
		rooms = append(rooms, r.GetRoomId())
	}
	slices.Sort(rooms)
	return rooms
}

// TestOutboxAcrossCrashes kills the machine at any moment between a membership,
// its delivery and its end, with appends failing all the while: every room ends
// up in exactly the right lists.
func TestOutboxAcrossCrashes(t *testing.T) {
	seed := seedOf(t)
	rounds := 10
	if testing.Short() {
		rounds = 3
	}
	for i := range uint64(rounds) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed+i, 5))
			w := newWorld(t, 8, memory.Config{Seed: seed + i, MaxDelay: 50 * time.Millisecond})
			w.start()
			w.ready()
			logins := []string{"ann", "bob", "cho", "dan", "eve"}
			for _, l := range logins {
				w.must(signUp(l))
			}
			in := map[string]map[id.ID]bool{}
			for life := range 5 {
				w.disk.SetFaults(memory.Faults{memory.LoseAck: 0.1, memory.Drop: 0.05, memory.CommitLate: 0.05, memory.Refuse: 0.1, memory.Delay: 0.8})
				for range 4 {
					actor := logins[rng.IntN(len(logins))]
					room := id.Group(user(actor), []byte{byte(life), byte(rng.IntN(3))})
					if in[room.String()] == nil {
						var others []id.ID
						in[room.String()] = map[id.ID]bool{user(actor): true}
						for _, l := range logins {
							if rng.IntN(2) == 0 && l != actor {
								others = append(others, user(l))
								in[room.String()][user(l)] = true
							}
						}
						w.must2(createGroup(user(actor), room, others...))
					} else if in[room.String()][user(actor)] {
						w.must2(&nodev1.Command{Actor: user(actor).Bytes(), Kind: &nodev1.Command_Leave{Leave: &nodev1.Leave{RoomId: room.Bytes()}}})
						delete(in[room.String()], user(actor))
					}
					time.Sleep(time.Duration(rng.IntN(60)) * time.Millisecond) // virtual
				}
				w.kill(rng.Uint64())
				w.start()
				w.ready()
			}
			w.disk.SetFaults(nil)
			w.settle()
			for _, l := range logins {
				var want []string
				for room, members := range in {
					if members[user(l)] {
						want = append(want, room)
					}
				}
				slices.Sort(want)
				if got := w.roomsOf(user(l)); !slices.Equal(got, want) {
					t.Errorf("%s has %v, want %v (BONGSU_SEED=%d)", l, got, want, seed+i)
				}
			}
			w.checkReplay()
			w.end()
		})
	}
}

// One target that is away does not keep the others from their effects.
func TestOutboxGoesRoundTheAbsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 16, memory.Config{})
		w.start()
		w.ready()
		w.must(signUp("ann"))
		w.must(signUp("bob"))
		room := id.Group(user("ann"), []byte("g"))
		home := w.set.owner(user("bob").Partition())
		if home == w.set.owner(user("ann").Partition()) || home == w.set.owner(room.Partition()) {
			t.Fatal("the test needs bob in a shard of his own")
		}
		home.inbox.close(queueFull)
		w.must(createGroup(user("ann"), room, user("bob")))
		time.Sleep(time.Second) // virtual
		if got := w.roomsOf(user("ann")); len(got) != 1 {
			t.Errorf("ann has %v", got)
		}
		if got := w.roomsOf(user("bob")); len(got) != 0 {
			t.Errorf("bob has %v", got)
		}
		home.inbox.open()
		time.Sleep(backoffLast) // virtual
		if got := w.roomsOf(user("bob")); len(got) != 1 {
			t.Errorf("bob has %v", got)
		}
		w.settle()
		w.end()
	})
}

// A client that holds an acknowledgement which the disk has lost is told so,
// and the loss is recorded once.
func TestLostPositions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4, memory.Config{})
		w.start()
		w.ready()
		ann := user("ann")
		room := id.Direct(ann, ann)
		w.must(signUp("ann"))
		kept := w.must(openDirect(ann, ann)).GetPosition()
		w.settle()
		before := w.must(send(ann, room, 0, "kept")).GetPosition()
		var at *edgev1.Position
		for i := range uint64(3) {
			at = w.must(send(ann, room, 1+i, "lost")).GetPosition()
		}
		w.end()
		w.disk.LoseTail(journal.ShardID(at.GetShard()), 2)
		if _, err := view.SetAside(w.fs, "/view", clock.System{}); err != nil { // it is ahead of the journal now
			t.Fatal(err)
		}
		w.start()
		w.ready()
		hello := func(p ...*edgev1.Position) []*edgev1.Position {
			q := w.ask(&nodev1.Query{Kind: &nodev1.Query_Positions{Positions: &edgev1.HelloRequest{Positions: p}}})
			if q.GetError() != nil || q.GetLost().GetShardCount() != 4 {
				t.Fatalf("positions: %v", q)
			}
			return q.GetLost().GetLost()
		}
		if lost := hello(kept, before); len(lost) != 0 {
			t.Errorf("lost %v, which is there", lost)
		}
		for range 3 {
			if lost := hello(kept, at); len(lost) != 1 || lost[0].GetIndex() != at.GetIndex() {
				t.Errorf("lost %v, want %v", lost, at)
			}
		}
		synctest.Wait()
		count := func() (n int) {
			for _, e := range w.entries(int(at.GetShard())) {
				for _, ev := range e.rec.GetEvents() {
					if l := ev.GetTailLost(); l != nil {
						n++
						if l.GetProvenIndex() != at.GetIndex() || l.GetIndex() == 0 || l.GetIndex() >= at.GetIndex() {
							t.Errorf("recorded %v", l)
						}
					}
				}
			}
			return n
		}
		if n := count(); n != 1 {
			t.Errorf("the loss is recorded %d times", n)
		}
		// Asked for what is lost, a read says so at once instead of waiting.
		began := time.Now()
		q, err := w.set.Query(context.Background(), &nodev1.Query{Actor: ann.Bytes(), AtLeast: []*edgev1.Position{at},
			Kind: &nodev1.Query_ListRooms{ListRooms: &edgev1.ListRoomsRequest{}}})
		if err != nil || q.GetError().GetInfo().GetReason() != "behind" || time.Since(began) > 0 {
			t.Errorf("after %v: %v, %v", time.Since(began), q, err)
		}
		// After a restart the record is still known.
		w.end()
		w.start()
		w.ready()
		hello(at)
		synctest.Wait()
		if n := count(); n != 1 {
			t.Errorf("after a restart the loss is recorded %d times", n)
		}
		w.checkReplay()
		w.end()
	})
}

// Queries see at least the positions they name.
func TestAtLeast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, g, room, first := gated(t, nil)
		ann := user("ann")
		mark := w.view.Shard(0).Mark()
		here := &edgev1.Position{Term: mark.GetTerm(), Index: mark.GetIndex()}
		if q := w.ask(&nodev1.Query{Actor: ann.Bytes(), AtLeast: []*edgev1.Position{here}, Kind: &nodev1.Query_RoomIds{RoomIds: &nodev1.RoomIDsQuery{}}}); q.GetError() != nil {
			t.Errorf("a position that is there: %v", q)
		}
		if q := w.ask(&nodev1.Query{Actor: ann.Bytes(), AtLeast: []*edgev1.Position{{Shard: 9}}, Kind: &nodev1.Query_RoomIds{RoomIds: &nodev1.RoomIDsQuery{}}}); q.GetError().GetInfo().GetReason() != "bad_shard" {
			t.Errorf("a shard that is not there: %v", q)
		}
		close(g.pass)
		at := (<-first).reply.GetPosition()
		h := history(ann, room, 0)
		h.AtLeast = []*edgev1.Position{at}
		if q := w.ask(h); len(q.GetHistory().GetMessages()) != 1 {
			t.Errorf("history: %v", q)
		}
		w.end()
	})
}
