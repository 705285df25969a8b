package shard

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/journal/memory"
)

// settle lets the outbox run dry.
func (w *world) settle() {
	w.t.Helper()
	for range 1000 {
		waiting := 0
		for _, o := range w.set.owners {
			for _, p := range o.partitions() {
				items, err := o.pump.read(p, nil)
				if err != nil {
					w.t.Fatal(err)
				}
				waiting += len(items)
			}
		}
		if waiting == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond) // virtual: under synctest only
	}
	w.t.Fatalf("the outbox never ran dry\n%s", w.log.String())
}

func TestTwoPeopleTalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 16, memory.Config{})
		w.start()
		w.ready()
		ann, bob := user("ann"), user("bob")
		w.must(signUp("ann"))
		w.must(signUp("bob"))
		at := w.must(openDirect(ann, bob)).GetPosition()
		room := id.Direct(ann, bob)
		first := w.must(send(ann, room, 1, "hello"))
		again := w.must(send(ann, room, 1, "hello again"))
		if m := again.GetMessage(); m.GetSeq() != 1 || m.GetText() != "hello" {
			t.Errorf("repeated send gave %v", m)
		}
		if p := first.GetPosition(); p.GetShard() != at.GetShard() || p.GetIndex() <= at.GetIndex() {
			t.Errorf("position %v does not follow %v", p, at)
		}
		w.settle()

		rooms := w.ask(&nodev1.Query{Actor: bob.Bytes(), AtLeast: []*edgev1.Position{first.GetPosition()},
			Kind: &nodev1.Query_ListRooms{ListRooms: &edgev1.ListRoomsRequest{}}}).GetListRooms().GetRooms()
		if len(rooms) != 1 || rooms[0].GetUnread() != 1 || rooms[0].GetLastMessage().GetText() != "hello" || len(rooms[0].GetMembers()) != 2 {
			t.Fatalf("bob's rooms: %v", rooms)
		}
		for _, m := range rooms[0].GetMembers() {
			if !strings.HasPrefix(m.GetDisplayName(), "Name of ") {
				t.Errorf("member without a name: %v", m)
			}
		}
		h := w.ask(history(bob, room, 0)).GetHistory()
		if len(h.GetMessages()) != 1 || h.GetNotices()[0].GetDisplayNames()[ann.String()] != "Name of ann" {
			t.Errorf("history: %v", h)
		}
		people := w.ask(&nodev1.Query{Kind: &nodev1.Query_People{People: &nodev1.PeopleQuery{UserIds: [][]byte{bob.Bytes(), user("nobody").Bytes()}}}}).GetPeople().GetPeople()
		if len(people) != 2 || people[0].GetUser().GetLogin() != "bob" || people[1].GetUser() != nil {
			t.Errorf("people: %v", people)
		}
		w.checkFeed(true)
		w.checkReplay()
		w.end()

		// Everything is still there after a restart, and is not news.
		w.start()
		w.ready()
		before := len(w.heard())
		if h := w.ask(history(bob, room, 0)).GetHistory(); len(h.GetMessages()) != 1 {
			t.Errorf("after a restart: %v", h)
		}
		if n := len(w.heard()); n != before {
			t.Errorf("a restart published %d items again", n-before)
		}
		w.end()
	})
}

// checkFeed checks the order within each shard, and that every message of the
// journal was published exactly once, with its position; whole also demands
// that none is missing.
func (w *world) checkFeed(whole bool) {
	w.t.Helper()
	type place struct {
		shard uint32
		index uint64
	}
	newest := map[uint32]uint64{}
	seen := map[string]place{}
	for _, item := range w.heard() {
		if item.Index < newest[item.Shard] {
			w.t.Errorf("shard %d: entry %d was published after %d", item.Shard, item.Index, newest[item.Shard])
		}
		newest[item.Shard] = item.Index
		m := item.GetEvent().GetMessage()
		if m == nil {
			continue
		}
		key := fmt.Sprintf("%s/%d", m.GetMessage().GetRoomId(), m.GetMessage().GetSeq())
		if _, twice := seen[key]; twice {
			w.t.Errorf("message %s was published twice", key)
		}
		seen[key] = place{item.Shard, item.Index}
		if p := m.GetPosition(); p.GetShard() != item.Shard || p.GetIndex() != item.Index || p.GetTerm() == 0 {
			w.t.Errorf("message %s: position %v in item of shard %d entry %d", key, p, item.Shard, item.Index)
		}
	}
	for n := range w.shards {
		for _, e := range w.entries(n) {
			for _, ev := range e.rec.GetEvents() {
				s := ev.GetMessageSent()
				if s == nil {
					continue
				}
				room, err := id.FromBytes(id.Room, s.GetRoomId())
				if err != nil {
					w.t.Fatal(err)
				}
				key := fmt.Sprintf("%s/%d", room, s.GetSeq())
				at, ok := seen[key]
				if ok && (at != place{uint32(n), uint64(e.Index)}) {
					w.t.Errorf("message %s was published at %v, its entry is %d of shard %d", key, at, e.Index, n)
				}
				if !ok && whole {
					w.t.Errorf("message %s of shard %d entry %d was never published", key, n, e.Index)
				}
				delete(seen, key)
			}
		}
	}
	if len(seen) > 0 {
		w.t.Errorf("published, but in no journal: %v", seen)
	}
}

func TestDoRefusesWhatCannotBeRouted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4, memory.Config{})
		w.start()
		w.ready()
		defer w.end()
		for name, cmd := range map[string]*nodev1.Command{
			"bad_command": {},
			"bad_id":      send(user("ann"), id.ID{}, 1, "x"),
			"bad_shard":   {Kind: &nodev1.Command_FinishEffects{FinishEffects: &nodev1.FinishEffects{Shard: 4}}},
		} {
			if r := w.do(cmd); reasonIn(r) != name {
				t.Errorf("got %v, want %s", r, name)
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if r, err := w.set.Do(ctx, signUp("late")); err != nil || reasonIn(r) != "deadline" {
			t.Errorf("a dead caller got %v, %v", r, err)
		}
	})
}
