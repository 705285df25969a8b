package chat

import (
	"errors"
	"maps"
	"slices"
	"testing"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"google.golang.org/protobuf/proto"
)

// FuzzRecord: whatever a journal holds, applying it ends in an answer, and the
// same one every time.
func FuzzRecord(f *testing.F) {
	for _, ev := range goldenEvents() {
		f.Add(mustBytes(&journalv1.Record{Rules: 1, TimeMs: 1, Events: []*journalv1.Event{ev}}))
	}
	jimin, room := userID("jimin"), id.Group(userID("jimin"), []byte("lunch"))
	f.Add(mustBytes(&journalv1.Record{Rules: 1, Events: []*journalv1.Event{sent("jimin", room, 2, "m2"), sent("minji", room, 4, "m3")}}))
	f.Add(mustBytes(&journalv1.Record{Rules: 1, Events: []*journalv1.Event{membersJoined(room, jimin, []id.ID{userID("hana")})}}))
	base := rich(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		rec := &journalv1.Record{}
		if proto.Unmarshal(raw, rec) != nil {
			return
		}
		one, two := base.clone(), base.clone()
		feed, asides, err := ApplyRecordWatched(one, rec)
		for _, a := range asides {
			if a.Stack != "" {
				t.Errorf("a real panic in %s: %s\n%s", a.Kind, a.Panic, a.Stack)
			}
		}
		again, _, err2 := ApplyRecordWatched(two, rec)
		if (err == nil) != (err2 == nil) || len(feed) != len(again) {
			t.Fatalf("two replicas: %v and %v", err, err2)
		}
		if d := one.difference(two); d != "" {
			t.Fatalf("invariant 5: %s", d)
		}
	})
}

// FuzzCommand: whatever is asked is answered or refused, and what it decides
// can be applied.
func FuzzCommand(f *testing.F) {
	cmds, _ := everything(f)
	for _, name := range slices.Sorted(maps.Keys(cmds)) {
		f.Add(mustBytes(cmds[name]))
	}
	base := rich(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		cmd := &nodev1.Command{}
		if proto.Unmarshal(raw, cmd) != nil {
			return
		}
		state := base.clone()
		_, _ = Partition(cmd) // must not panic; what it says of nonsense does not matter
		out, err := Step(state, meta, cmd)
		if err != nil || out.Reply == nil || out.Panic != "" || out.Aside != nil {
			t.Fatalf("%v: %+v, %v", cmd, out, err)
		}
		if out.Reply.GetError() != nil && len(out.Events) > 0 && out.Events[0].GetDeviceRevoked() == nil {
			t.Fatalf("%v: refused, and yet %v", cmd, out.Events)
		}
		if _, ok := reasonInfo[Reason(out.Reply.GetError().GetInfo().GetReason())]; !ok && out.Reply.GetError() != nil {
			t.Fatalf("a reason that no table has: %v", out.Reply)
		}
		// Asked again at once it must not do the same again.
		more, err := Step(state, meta, cmd)
		if err != nil || more.Panic != "" || more.Aside != nil {
			t.Fatalf("%v again: %+v, %v", cmd, more, err)
		}
		if len(more.Events) > 0 && cmd.GetRotateRefresh() == nil && cmd.GetNoteTailLost() == nil && cmd.GetRevokeDevice() == nil {
			t.Fatalf("%v again: %v", cmd, more.Events)
		}
		rec := &journalv1.Record{Rules: 1, TimeMs: meta.TimeMs, Events: append(out.Events, more.Events...)}
		replica := base.clone()
		if _, asides, err := ApplyRecordWatched(replica, rec); err != nil || len(asides) > 0 {
			t.Fatalf("replica: %v %v", asides, err)
		}
		if d := state.difference(replica); d != "" {
			t.Fatalf("invariant 5: %s", d)
		}
	})
}

// FuzzQuery: whatever is asked of the state is answered, refused, or an error.
func FuzzQuery(f *testing.F) {
	_, queries := everything(f)
	for _, name := range slices.Sorted(maps.Keys(queries)) {
		f.Add(mustBytes(queries[name]))
	}
	base := rich(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		q := &nodev1.Query{}
		if proto.Unmarshal(raw, q) != nil {
			return
		}
		_, _ = QueryPartition(q)
		if reply, err := Answer(base, q); err != nil && !errors.Is(err, ErrManyShards) {
			t.Fatalf("%v: %v, %v", q, reply, err)
		}
	})
}

// FuzzState: one value of the state is something else. Damage is an error; it
// is never a panic, and never stops a room as if an event were at fault.
func FuzzState(f *testing.F) {
	base := rich(f)
	keys := slices.Sorted(maps.Keys(base.values))
	cmds, queries := everything(f)
	for i := range keys {
		f.Add(uint16(i), []byte{})
		f.Add(uint16(i), []byte{0xff})
		f.Add(uint16(i), []byte{0x0a, 0x01, 0x00})
	}
	f.Add(uint16(0), []byte{0x08, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, n uint16, value []byte) {
		key := keys[int(n)%len(keys)]
		for _, name := range slices.Sorted(maps.Keys(cmds)) {
			state := base.clone()
			state.values[key] = value
			out, err := Step(state, meta, cmds[name])
			if out.Panic != "" || out.Aside != nil && out.Aside.Stack != "" {
				t.Fatalf("%s with %q at %x panicked: %+v", name, value, key, out)
			}
			if bad := (*CorruptError)(nil); err != nil && !errors.As(err, &bad) {
				t.Fatalf("%s with %q at %x: %v", name, value, key, err)
			}
		}
		state := base.clone()
		state.values[key] = value
		for _, name := range slices.Sorted(maps.Keys(queries)) {
			reply, err := Answer(state, queries[name])
			if bad := (*CorruptError)(nil); err != nil && !errors.As(err, &bad) {
				t.Fatalf("%s with %q at %x: %v, %v", name, value, key, reply, err)
			}
		}
		if _, err := Outbox(state, 0, id.Partitions-1, 100); err != nil && key[2] != kindOutbox {
			t.Fatalf("outbox: %v", err)
		}
	})
}

func mustBytes(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}
