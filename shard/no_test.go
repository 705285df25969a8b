package shard

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/journal/memory"
)

// TestOnlyTheOwnerSaysNo: in a cluster a replica denies nothing, because it may
// only not know of it yet; what is wrong in itself it refuses like anybody, and
// what it knows it answers.
func TestOnlyTheOwnerSaysNo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, memory.Config{})
		s := &seat{disk: w.disk, who: "n1", moved: make(chan struct{})}
		w.wrap = s.as("n1")
		w.start()
		w.ready()
		ann, bob := user("ann"), user("bob")
		w.must(signUp("ann"))
		w.must(openDirect(ann, ann))
		n := w.join(s, "n2")
		others := func(int) error { return nil }
		w.set.cfg.Elsewhere, n.set.cfg.Elsewhere = others, others
		time.Sleep(2 * time.Second) // virtual: the grace in which it might have become the owner

		login := func(name string) *nodev1.Query {
			return &nodev1.Query{Kind: &nodev1.Query_Credential{Credential: &nodev1.CredentialQuery{Login: name}}}
		}
		device := &nodev1.Query{Kind: &nodev1.Query_Session{Session: &nodev1.SessionQuery{
			UserId: ann.Bytes(), DeviceId: id.New(0, id.Device, ann.Partition(), make([]byte, 12)).Bytes(),
		}}}
		malformed := history(ann, id.Direct(ann, ann), 0)
		malformed.GetHistory().RoomId = []byte("x")
		for _, c := range []struct {
			what         string
			q            *nodev1.Query
			owner, other string // reasons
		}{
			{"a room that there is", history(ann, id.Direct(ann, ann), 0), "", ""},
			{"a room that there is not", history(ann, id.Direct(ann, bob), 0), "room_unknown", "not_owner"},
			{"a login that there is", login("ann"), "", ""},
			{"a login that there is not", login("bob"), "", "not_owner"},
			{"a device that there is not", device, "", "not_owner"},
			{"somebody that there is", people(ann), "", ""},
			{"somebody that there is not", people(ann, bob), "", "not_owner"},
			{"a query that means nothing", malformed, "bad_id", "bad_id"},
		} {
			if got := w.ask(c.q).GetError().GetInfo().GetReason(); got != c.owner {
				t.Errorf("%s: the owner says %q, want %q", c.what, got, c.owner)
			}
			if got := n.ask(c.q).GetError().GetInfo().GetReason(); got != c.other {
				t.Errorf("%s: a replica says %q, want %q", c.what, got, c.other)
			}
		}
		// A replica that can ask has the owner say it.
		n.set.cfg.Remote = w.set.QueryHere
		found := n.ask(people(bob, ann, bob)).GetPeople().GetPeople()
		if len(found) != 3 || found[0].GetUser() != nil || found[1].GetUser().GetLogin() != "ann" || found[2].GetUser() != nil {
			t.Errorf("people by way of the owner: %v", found)
		}
		n.stop()
		w.end()
	})
}

func people(users ...id.ID) *nodev1.Query {
	q := &nodev1.PeopleQuery{}
	for _, u := range users {
		q.UserIds = append(q.UserIds, u.Bytes())
	}
	return &nodev1.Query{Kind: &nodev1.Query_People{People: q}}
}

// TestAbsentShardsAreNotWaitedFor: a position in a shard without a replica here
// is for whoever is asked about it, who hears of it.
func TestAbsentShardsAreNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, memory.Config{})
		w.start()
		w.ready()
		ann := user("ann")
		w.must(signUp("ann"))
		ahead := []*edgev1.Position{{Shard: 0, Term: 1, Index: 1 << 40}}
		q := people(ann)
		q.AtLeast = ahead
		if got := w.ask(q).GetError().GetInfo().GetReason(); got != "behind" {
			t.Errorf("with a replica: %q", got)
		}
		var demanded []*edgev1.Position
		w.set.cfg.Absent = func(int) bool { return true }
		w.set.cfg.Remote = func(_ context.Context, q *nodev1.Query) (*nodev1.QueryReply, error) {
			demanded = q.GetAtLeast()
			return &nodev1.QueryReply{Kind: &nodev1.QueryReply_People{People: &nodev1.People{People: []*nodev1.People_Person{{User: &edgev1.User{Login: "ann"}}}}}}, nil
		}
		began := time.Now()
		found := w.ask(q).GetPeople().GetPeople()
		if len(found) != 1 || found[0].GetUser().GetLogin() != "ann" || time.Since(began) > 0 || len(demanded) != 1 {
			t.Errorf("without one: %v after %v, %v was demanded", found, time.Since(began), demanded)
		}
		w.set.cfg.Absent, w.set.cfg.Remote = nil, nil
		w.end()
	})
}
