package chat

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"google.golang.org/protobuf/proto"
)

func TestTextBounds(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       Reason
	}{
		{"one character", "가", ""},
		{"the most characters", strings.Repeat("a", MaxTextChars), ""},
		{"one more", strings.Repeat("a", MaxTextChars+1), TextTooLong},
		{"the most bytes", strings.Repeat("😀", MaxTextChars), ""},
		{"one byte more", strings.Repeat("😀", MaxTextChars) + "a", TextTooLong},
		{"not UTF-8", "a\xff", TextInvalid},
		{"half a character", "가"[:2], TextInvalid},
		{"nothing", "", TextEmpty},
		{"white space of every kind", " \t\r\n\u00a0\u2003\u3000", TextEmpty},
		{"white space around", " \n. ", ""},
		{"a zero byte", "a\x00b", ""},
	} {
		got := Reason("")
		if e, ok := AsRefusal(checkText(c.text)); ok {
			got = Reason(e.GetInfo().GetReason())
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestReasonTable(t *testing.T) {
	codes := map[string]bool{
		"invalid_argument": true, "unauthenticated": true, "permission_denied": true, "not_found": true,
		"already_exists": true, "resource_exhausted": true, "unavailable": true, "internal": true,
	}
	seen := map[Reason]bool{}
	for _, r := range Reasons {
		if !codes[r.Code] || r.Message == "" || r.Retry == "" || seen[r.Reason] {
			t.Errorf("%+v", r)
		}
		seen[r.Reason] = true
		e := refuse(r.Reason, "f").Edge()
		if e.GetCode() != r.Code || e.GetMessage() != r.Message || e.GetInfo().GetField() != "f" {
			t.Errorf("%v", e)
		}
	}
	if _, ok := AsRefusal(errDisk); ok {
		t.Error("a failure passed for a refusal")
	}
}

func reads(room, user string, from, to uint64) *nodev1.FeedItem {
	return &nodev1.FeedItem{Shard: 3, Index: to, RoomId: []byte(room), Event: &edgev1.Event{Event: &edgev1.Event_Read{Read: &edgev1.ReadEvent{
		RoomId: room, Changes: []*edgev1.ReadEvent_Change{{UserId: user, FromSeq: from, ToSeq: to}},
	}}}}
}

func said(room string, seq uint64) *nodev1.FeedItem {
	return &nodev1.FeedItem{RoomId: []byte(room), Event: &edgev1.Event{Event: &edgev1.Event_Message{
		Message: &edgev1.MessageEvent{Message: &edgev1.Message{Seq: seq}},
	}}}
}

func TestMergeReads(t *testing.T) {
	items := []*nodev1.FeedItem{
		reads("r", "a", 0, 1), reads("q", "a", 0, 7), reads("r", "b", 0, 2), reads("r", "a", 1, 2),
		said("r", 3), reads("r", "a", 2, 3), said("q", 8), {UserId: []byte("a")}, reads("r", "a", 3, 4),
	}
	var before []*nodev1.FeedItem
	for _, i := range items {
		before = append(before, proto.Clone(i).(*nodev1.FeedItem))
	}
	var got []string
	for _, item := range MergeReads(items) {
		words := string(item.GetRoomId()) + string(item.GetUserId())
		for _, c := range item.GetEvent().GetRead().GetChanges() {
			words += fmt.Sprintf(" %s %d→%d", c.GetUserId(), c.GetFromSeq(), c.GetToSeq())
		}
		if m := item.GetEvent().GetMessage(); m != nil {
			words += fmt.Sprintf(" #%d", m.GetMessage().GetSeq())
		}
		if item.GetEvent().GetRead() != nil && item.GetShard() != 3 {
			t.Errorf("the shard got lost: %v", item)
		}
		got = append(got, words)
	}
	want := []string{"r a 0→2 b 0→2", "q a 0→7", "r #3", "r a 2→4", "q #8", "a"}
	if strings.Join(got, "; ") != strings.Join(want, "; ") {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	for i := range items {
		if !proto.Equal(items[i], before[i]) {
			t.Errorf("item %d was modified", i)
		}
	}
	if got := MergeReads(items[:1]); len(got) != 1 || got[0] != items[0] {
		t.Error("one item is not itself")
	}
}

func TestHistoryIsBoundedInBytes(t *testing.T) {
	state, room := pair(t)
	long := strings.Repeat("😀", MaxTextChars)
	for i := range 60 {
		if out := must(Step(state, meta, send("minji", room, fmt.Sprint("b", i), long)))(t); out.Reply.GetError() != nil {
			t.Fatal(out.Reply.GetError())
		}
	}
	zero := uint64(0)
	for _, q := range []*nodev1.HistoryQuery{{RoomId: room.Bytes(), Limit: 200}, {RoomId: room.Bytes(), Limit: 200, AfterSeq: &zero}} {
		h := must(History(state, userID("jimin"), q))(t)
		size := proto.Size(h)
		if !h.GetHasMore() || len(h.GetMessages()) < 10 || size > MaxPageBytes+2*MaxTextBytes {
			t.Errorf("%d messages in %d bytes, more: %v", len(h.GetMessages()), size, h.GetHasMore())
		}
	}
}

func TestNoticesAreBounded(t *testing.T) {
	state, room := pair(t)
	for i := range MaxPageNotices + 20 {
		cmd := &nodev1.Command{Actor: userID("jimin").Bytes(), Kind: &nodev1.Command_SetTitle{SetTitle: &nodev1.SetTitle{RoomId: room.Bytes(), Title: fmt.Sprint(i)}}}
		if out := must(Step(state, meta, cmd))(t); out.Reply.GetError() != nil {
			t.Fatal(out.Reply.GetError())
		}
	}
	h := must(History(state, userID("jimin"), &nodev1.HistoryQuery{RoomId: room.Bytes()}))(t)
	if n := h.GetNotices(); len(n) != MaxPageNotices || n[len(n)-1].GetTitle() != fmt.Sprint(MaxPageNotices+19) || n[0].GetTitle() != "20" {
		t.Errorf("%d notices, from %q", len(n), n[0].GetTitle())
	}
}

// TestNoticesOfPages asks for every page of rooms with one notice and with
// several, and knows by itself where each notice stands.
func TestNoticesOfPages(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for round := range 40 {
		state, room := pair(t)
		at := []uint64{0} // behind which message each notice stands
		last := uint64(1) // the one that pair sends
		for range rng.IntN(20) {
			cmd := send("minji", room, fmt.Sprint("b", last), "x")
			if round%2 == 1 && rng.IntN(3) == 0 {
				at = append(at, last)
				cmd = &nodev1.Command{Actor: userID("jimin").Bytes(), Kind: &nodev1.Command_SetTitle{SetTitle: &nodev1.SetTitle{RoomId: room.Bytes(), Title: fmt.Sprint("title ", len(at))}}}
			} else {
				last++
			}
			if out := must(Step(state, meta, cmd))(t); out.Reply.GetError() != nil {
				t.Fatal(out.Reply.GetError())
			}
		}
		check := func(q *nodev1.HistoryQuery, low, high uint64) {
			t.Helper()
			var want []uint64
			for _, a := range at {
				if a >= low && a <= high {
					want = append(want, a)
				}
			}
			q.RoomId, q.Limit = room.Bytes(), 4
			var got []uint64
			for _, n := range must(History(state, userID("jimin"), q))(t).GetNotices() {
				got = append(got, n.GetAfterSeq())
			}
			if !slices.Equal(got, want) {
				t.Fatalf("round %d: page %v of %d messages has notices behind %v; want %v of %v", round, q, last, got, want, at)
			}
		}
		// The oldest page has what stands before its first message.
		from := func(end uint64) uint64 {
			if end <= 4 {
				return 0
			}
			return end - 3
		}
		check(&nodev1.HistoryQuery{}, from(last), last)
		for before := uint64(2); before <= last+1; before++ {
			check(&nodev1.HistoryQuery{BeforeSeq: before}, from(before-1), before-1)
		}
		for after := range last + 1 {
			check(&nodev1.HistoryQuery{AfterSeq: &after}, after, min(after+4, last))
		}
	}
}

// Invariant 6: a missing message is damage, whichever page it is missing from.
func TestMissingMessageIsDamage(t *testing.T) {
	for missing := uint64(1); missing <= 5; missing++ {
		state, room := pair(t)
		for i := range 4 {
			must(Step(state, meta, send("jimin", room, fmt.Sprint("b", i), "x")))(t)
		}
		delete(state.values, string(messageKey(room, missing)))
		state.sorted = false
		zero, found := uint64(0), 0
		for _, q := range []*nodev1.HistoryQuery{{RoomId: room.Bytes()}, {RoomId: room.Bytes(), AfterSeq: &zero}, {RoomId: room.Bytes(), Limit: 3}, {RoomId: room.Bytes(), BeforeSeq: 4, Limit: 3}} {
			h, err := History(state, userID("jimin"), q)
			if err != nil {
				found++
				continue
			}
			for i, m := range h.GetMessages() {
				if m.GetSeq() == missing || i > 0 && m.GetSeq() != h.GetMessages()[i-1].GetSeq()+1 {
					t.Errorf("without message %d: %v", missing, h.GetMessages())
				}
			}
		}
		if found < 3 {
			t.Errorf("message %d is missing, and only %d of 4 pages say so", missing, found)
		}
		if _, err := RoomOf(state, userID("jimin"), room, 10); (err != nil) != (missing == 5) {
			t.Errorf("message %d is missing, the room says %v", missing, err)
		}
	}
}

// An ID of another cell with the same unique bytes is another's, not this one's.
func TestOtherCells(t *testing.T) {
	state, room := pair(t)
	foreign := func(i id.ID) id.ID {
		return id.New(i.Cell()+1, i.Kind(), i.Partition(), i[4:])
	}
	before := state.clone()
	for _, cmd := range []*nodev1.Command{
		send("jimin", foreign(room), "m2", "x"),
		{Actor: userID("jimin").Bytes(), Kind: &nodev1.Command_CreateGroup{CreateGroup: &nodev1.CreateGroup{RoomId: foreign(room).Bytes()}}},
		{Kind: &nodev1.Command_AddDevice{AddDevice: &nodev1.AddDevice{UserId: foreign(userID("jimin")).Bytes(), DeviceId: deviceID("x", "y").Bytes(), PasswordHash: goodHash}}},
		{Kind: &nodev1.Command_SignUp{SignUp: &nodev1.SignUp{UserId: foreign(userID("jimin")).Bytes(), Login: "jimin", PasswordHash: goodHash}}},
	} {
		if out := must(Step(state, meta, cmd))(t); out.Reply.GetError() == nil || len(out.Events) > 0 {
			t.Errorf("%v: %+v", cmd, out)
		}
	}
	if p := must(Person(state, foreign(userID("jimin")), id.ID{}))(t); p.GetUser() != nil {
		t.Errorf("found %v", p)
	}
	if _, err := RoomOf(state, userID("jimin"), foreign(room), 10); err == nil {
		t.Error("found the room")
	}
	if _, aside, err := ApplyWatched(state, meta, roomCreated(foreign(room), group, "", userID("jimin"), []id.ID{userID("jimin")})); err == nil || aside != nil {
		t.Errorf("made over another's room: %v, %v", aside, err)
	}
	if len(state.changed(before)) != 0 {
		t.Error("something was written")
	}
}

func TestRoomOfLimitsMembers(t *testing.T) {
	state, room := pair(t)
	var people [][]byte
	for i := range 30 {
		people = append(people, userID(fmt.Sprint("p", i)).Bytes())
	}
	must(Step(state, meta, &nodev1.Command{Actor: userID("jimin").Bytes(), Kind: &nodev1.Command_Invite{Invite: &nodev1.Invite{RoomId: room.Bytes(), MemberIds: people}}}))(t)
	for _, raw := range append(people, userID("jimin").Bytes()) {
		u := id.ID(raw)
		for _, most := range []int{1, 2, 10, 31, 32, 100} {
			got := must(RoomOf(state, u, room, most))(t)
			me := false
			for _, m := range got.GetMembers() {
				me = me || m.GetUserId() == u.String()
			}
			if len(got.GetMembers()) != min(most, 32) || !me || got.GetMemberCount() != 32 {
				t.Fatalf("at most %d: %d members, me among them: %v", most, len(got.GetMembers()), me)
			}
		}
	}
}

// Lists show who has written last, however many are in the room.
func TestRoomOfHasTheLastSender(t *testing.T) {
	state, room := pair(t)
	var people [][]byte
	for i := range 30 {
		people = append(people, userID(fmt.Sprint("p", i)).Bytes())
	}
	must(Step(state, meta, &nodev1.Command{Actor: userID("jimin").Bytes(), Kind: &nodev1.Command_Invite{Invite: &nodev1.Invite{RoomId: room.Bytes(), MemberIds: people}}}))(t)
	for i, sender := range people {
		must(Step(state, meta, send(fmt.Sprint("p", i), room, fmt.Sprint("m", i), "x")))(t)
		for _, most := range []int{2, 10} {
			got := must(RoomOf(state, userID("jimin"), room, most))(t)
			if len(got.GetMembers()) != most || !slices.ContainsFunc(got.GetMembers(), func(m *edgev1.Member) bool { return m.GetUserId() == id.ID(sender).String() }) {
				t.Fatalf("at most %d: the sender is not among %v", most, got.GetMembers())
			}
		}
	}
}

func TestRouting(t *testing.T) {
	cmds, queries := everything(t)
	for name, cmd := range cmds {
		p, err := Partition(cmd)
		switch name {
		case "finish_effects", "note_tail_lost", "activate_rules":
			if err != ErrByShard {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		// Everything that a command writes lies in the partition it is routed to.
		state := rich(t)
		before := state.clone()
		out, told := must(Step(state, meta, cmd))(t), false
		for _, k := range state.changed(before) {
			if q, ok := KeyPartition([]byte(k)); !ok || q != p {
				t.Errorf("%s is for partition %d and wrote in %d", name, p, q)
			}
		}
		for _, ev := range out.Events {
			if q, ok := EventPartition(ev); !ok || q != p {
				t.Errorf("%s is for partition %d, its event for %d", name, p, q)
			}
			if effects, ok := EffectsIn(ev); ok && effects == p {
				told = true
			}
		}
		waiting := slices.ContainsFunc(state.changed(before), func(k string) bool { return k[2] == kindOutbox })
		if waiting != told {
			t.Errorf("%s: effects wait: %v, the pump is told: %v", name, waiting, told)
		}
	}
	for name, q := range queries {
		if _, err := QueryPartition(q); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, q := range []*nodev1.Query{
		{Kind: &nodev1.Query_ListRooms{}}, {Kind: &nodev1.Query_People{}}, {Kind: &nodev1.Query_Positions{}},
	} {
		if _, err := QueryPartition(q); err != ErrManyShards {
			t.Errorf("%v: %v", q, err)
		}
		if _, err := Answer(newMemTx(), q); err != ErrManyShards {
			t.Errorf("%v: %v", q, err)
		}
	}
	for _, cmd := range []*nodev1.Command{nil, {}, {Kind: &nodev1.Command_Send{}}, {Kind: &nodev1.Command_ApplyEffect{}}} {
		if _, err := Partition(cmd); err == nil {
			t.Errorf("%v has a place", cmd)
		}
		if out := must(Step(newMemTx(), meta, cmd))(t); out.Reply.GetError() == nil {
			t.Errorf("%v was done", cmd)
		}
	}
	if _, err := QueryPartition(nil); err == nil {
		t.Error("no query has a place")
	}
	if CommandKind(nil) != "unknown" || CommandKind(&nodev1.Command{}) != "unknown" || EventKind(&journalv1.Event{}) != "unknown" {
		t.Error("unknown things have a name")
	}
}

func TestOutboxPages(t *testing.T) {
	state := rich(t)
	all := must(Outbox(state, 0, id.Partitions-1, 1000))(t)
	if len(all) < 4 {
		t.Fatalf("only %d effects", len(all))
	}
	var got []OutboxItem
	var last []byte
	for {
		page := must(OutboxAfter(state, last, 0, id.Partitions-1, 1))(t)
		if len(page) == 0 {
			break
		}
		got, last = append(got, page...), page[0].Key
	}
	if len(got) != len(all) {
		t.Fatalf("%d effects page by page, %d at once", len(got), len(all))
	}
	for i := range all {
		if string(got[i].Key) != string(all[i].Key) || !proto.Equal(got[i].Effect, all[i].Effect) {
			t.Errorf("effect %d differs", i)
		}
		if _, err := EffectPartition(all[i].Effect); err != nil {
			t.Error(err)
		}
	}
	p, _ := KeyPartition(all[0].Key)
	if one := must(Outbox(state, p, p, 1000))(t); len(one) == 0 || len(one) == len(all) {
		t.Errorf("%d effects in one partition of %d", len(one), len(all))
	}
}

func TestValidLogin(t *testing.T) {
	for login, want := range map[string]bool{
		"abc": true, "a_b": true, "0.-": true, "ab": false, "": false, "_ab": false, ".ab": false, "-ab": false,
		"ABC": false, "가나다": false, "a b": false, strings.Repeat("a", 32): true, strings.Repeat("a", 33): false, "a\x00b": false,
	} {
		if ValidLogin(login) != want {
			t.Errorf("%q: %v", login, !want)
		}
	}
	if FoldLogin("JiMin_0가") != "jimin_0가" {
		t.Error(FoldLogin("JiMin_0가"))
	}
}

// bigRoom holds n messages without going through Step, for the benchmark.
func bigRoom(b *testing.B, n uint64) (*memTx, id.ID) {
	state, room := pair(b)
	for seq := uint64(2); seq <= n; seq++ {
		m := &journalv1.StoredMessage{SenderId: userID("jimin").Bytes(), ClientId: clientID("x"), Text: "안녕하세요, 오늘 점심은 뭐 먹을까요?", SentMs: 1}
		raw, err := marshal.Marshal(m)
		if err != nil {
			b.Fatal(err)
		}
		state.values[string(messageKey(room, seq))] = raw
	}
	s := must(readRoom(state, room))(b)
	s.LastSeq = n
	if err := saveRoom(state, room, s); err != nil {
		b.Fatal(err)
	}
	state.sorted = false
	return state, room
}

func BenchmarkSendGroup(b *testing.B) {
	state, room := pair(b)
	benchmarkSend(b, state, room)
}

func BenchmarkSendDirect(b *testing.B) {
	state, _ := pair(b)
	duo := id.Direct(userID("jimin"), userID("minji"))
	cmd := &nodev1.Command{Actor: userID("jimin").Bytes(), Kind: &nodev1.Command_OpenDirect{OpenDirect: &nodev1.OpenDirect{RoomId: duo.Bytes(), OtherId: userID("minji").Bytes()}}}
	must(Step(state, meta, cmd))(b)
	// The scan for blocks would sort the map anew every time, which measures the map.
	benchmarkSend(b, &emptyScan{state}, duo)
}

type emptyScan struct{ *memTx }

func (e *emptyScan) Scan(_, _ []byte, _ bool, _ func(k, v []byte) bool) error { return nil }

func benchmarkSend(b *testing.B, tx Tx, room id.ID) {
	b.ReportAllocs()
	cmd := send("jimin", room, "bench", "안녕하세요, 오늘 점심은 뭐 먹을까요?")
	client := cmd.GetSend().ClientId
	for n := uint64(0); b.Loop(); n++ {
		binary.BigEndian.PutUint64(client, n)
		out, err := Step(tx, meta, cmd)
		if err != nil || out.Reply.GetError() != nil {
			b.Fatal(err, out.Reply.GetError())
		}
	}
}

func BenchmarkHistory(b *testing.B) {
	state, room := bigRoom(b, 100_000)
	user := userID("minji")
	for _, c := range []struct {
		name string
		q    *nodev1.HistoryQuery
	}{
		{"newest50", &nodev1.HistoryQuery{RoomId: room.Bytes(), Limit: 50}},
		{"before50", &nodev1.HistoryQuery{RoomId: room.Bytes(), BeforeSeq: 50_000, Limit: 50}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				h, err := History(state, user, c.q)
				if err != nil || len(h.GetMessages()) != 50 {
					b.Fatal(len(h.GetMessages()), err)
				}
			}
		})
	}
}
