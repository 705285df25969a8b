package chat

import (
	"errors"
	"strings"
	"testing"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"google.golang.org/protobuf/proto"
)

var meta = Meta{TimeMs: 1795380420000, Rules: RulesVersion}

// pair is a state with a group of two, "lunch", in which one message was sent.
func pair(t testing.TB) (*memTx, id.ID) {
	t.Helper()
	w := newWorld(1)
	room := id.Group(userID("jimin"), []byte("lunch"))
	cmds := []*nodev1.Command{
		{Kind: &nodev1.Command_SignUp{SignUp: &nodev1.SignUp{UserId: userID("jimin").Bytes(), Login: "jimin", PasswordHash: goodHash, DeviceId: deviceID("jimin", "phone").Bytes()}}},
		{Kind: &nodev1.Command_SignUp{SignUp: &nodev1.SignUp{UserId: userID("minji").Bytes(), Login: "minji", PasswordHash: goodHash}}},
		{Actor: userID("jimin").Bytes(), Kind: &nodev1.Command_CreateGroup{CreateGroup: &nodev1.CreateGroup{RoomId: room.Bytes(), MemberIds: [][]byte{userID("minji").Bytes()}}}},
		send("jimin", room, "m1", "안녕"),
	}
	for _, out := range must(w.do(cmds...))(t) {
		if out.Reply.GetError() != nil {
			t.Fatal(out.Reply.GetError())
		}
	}
	return w.shards[0].state, room
}

func send(who string, room id.ID, client, text string) *nodev1.Command {
	return &nodev1.Command{Actor: userID(who).Bytes(), Kind: &nodev1.Command_Send{Send: &nodev1.Send{
		RoomId: room.Bytes(), ClientId: clientID(client), Text: text,
	}}}
}

func sent(who string, room id.ID, seq uint64, client string) *journalv1.Event {
	return &journalv1.Event{Kind: &journalv1.Event_MessageSent{MessageSent: &journalv1.MessageSent{
		RoomId: room.Bytes(), Seq: seq, SenderId: userID(who).Bytes(), ClientId: clientID(client), Text: "x",
	}}}
}

func (t *memTx) clone() *memTx {
	c := newMemTx()
	for k, v := range t.values {
		c.values[k] = v
	}
	return c
}

// changed lists the keys in which two states differ.
func (t *memTx) changed(o *memTx) (keys []string) {
	for k, v := range t.values {
		if w, ok := o.values[k]; !ok || string(v) != string(w) {
			keys = append(keys, k)
		}
	}
	for k := range o.values {
		if _, ok := t.values[k]; !ok {
			keys = append(keys, k)
		}
	}
	return keys
}

// Invariant 12: a panic in the middle of an event leaves nothing of it, stops
// the room with a cause that does not depend on the panic's words, and every
// replica writes the same bytes.
func TestPanicStopsOnlyTheRoom(t *testing.T) {
	defer func() { testHookApply = nil }()
	var after [2]*memTx
	for i, words := range []string{"index out of range", "another release says otherwise"} {
		state, room := pair(t)
		before := state.clone()
		testHookApply = func(ev *journalv1.Event) {
			if ev.GetMessageSent() != nil {
				panic(words)
			}
		}
		feed, aside, err := ApplyWatched(state, meta, sent("jimin", room, 2, "m2"))
		testHookApply = nil
		if err != nil || feed != nil {
			t.Fatalf("feed %v, error %v", feed, err)
		}
		if aside == nil || aside.Room != room || aside.Panic != words || !strings.Contains(aside.Stack, "apply") {
			t.Fatalf("set aside: %+v", aside)
		}
		if changed := state.changed(before); len(changed) != 1 || changed[0] != string(roomKey(room)) {
			t.Fatalf("the panic left writes at %x", changed)
		}
		s := must(readRoom(state, room))(t)
		if s.GetStopped() != "applying message_sent failed" || s.GetLastSeq() != 1 {
			t.Fatalf("room %v", s)
		}
		after[i] = state
	}
	if d := after[0].difference(after[1]); d != "" {
		t.Fatalf("invariant 5: two replicas differ after the same panic: %s", d)
	}
}

// A panic after the event's first writes: the savepoint holds them back.
func TestPanicAfterWritesLeavesNothing(t *testing.T) {
	state, room := pair(t)
	before := state.clone()
	o := newOverlay(state)
	defer func() {
		if recover() == nil {
			t.Fatal("no panic")
		}
		if len(state.changed(before)) != 0 {
			t.Fatal("writes of a panicked event reached the state")
		}
	}()
	if _, err := apply(o, meta, sent("jimin", room, 2, "m2")); err != nil {
		t.Fatal(err)
	}
	if len(o.writes) < 4 {
		t.Fatalf("only %d writes: the test proves nothing", len(o.writes))
	}
	panic("after the writes")
}

func TestEventsAgainstTheState(t *testing.T) {
	_, room := pair(t)
	stranger := userID("stranger")
	for _, c := range []struct {
		name string
		ev   *journalv1.Event
	}{
		{"a gap in the numbers", sent("jimin", room, 3, "m3")},
		{"a number again", sent("jimin", room, 1, "m3")},
		{"a sender who is no member", sent("stranger", room, 2, "m3")},
		{"a short client ID", &journalv1.Event{Kind: &journalv1.Event_MessageSent{MessageSent: &journalv1.MessageSent{RoomId: room.Bytes(), Seq: 2, SenderId: userID("jimin").Bytes(), ClientId: []byte("x")}}}},
		{"text that is not UTF-8", &journalv1.Event{Kind: &journalv1.Event_MessageSent{MessageSent: &journalv1.MessageSent{RoomId: room.Bytes(), Seq: 2, SenderId: userID("jimin").Bytes(), ClientId: clientID("y"), Text: "\xff"}}}},
		{"a sender that is no user", &journalv1.Event{Kind: &journalv1.Event_MessageSent{MessageSent: &journalv1.MessageSent{RoomId: room.Bytes(), Seq: 2, SenderId: room.Bytes(), ClientId: clientID("y")}}}},
		{"a cursor backwards", &journalv1.Event{Kind: &journalv1.Event_ReadAdvanced{ReadAdvanced: &journalv1.ReadAdvanced{RoomId: room.Bytes(), MemberId: userID("jimin").Bytes(), Seq: 1}}}},
		{"a cursor beyond the end", &journalv1.Event{Kind: &journalv1.Event_ReadAdvanced{ReadAdvanced: &journalv1.ReadAdvanced{RoomId: room.Bytes(), MemberId: userID("minji").Bytes(), Seq: 2}}}},
		{"the room again", roomCreated(room, group, "", userID("jimin"), []id.ID{userID("jimin")})},
		{"a member again", membersJoined(room, userID("jimin"), []id.ID{userID("minji")})},
		{"nobody joining", membersJoined(room, userID("jimin"), nil)},
		{"a member twice", membersJoined(room, userID("jimin"), []id.ID{stranger, stranger})},
		{"a stranger leaving", &journalv1.Event{Kind: &journalv1.Event_MemberLeft{MemberLeft: &journalv1.MemberLeft{RoomId: room.Bytes(), MemberId: stranger.Bytes()}}}},
		{"a title by nobody", &journalv1.Event{Kind: &journalv1.Event_TitleChanged{TitleChanged: &journalv1.TitleChanged{RoomId: room.Bytes()}}}},
		{"a note of no blocker", &journalv1.Event{Kind: &journalv1.Event_BlockNoted{BlockNoted: &journalv1.BlockNoted{RoomId: room.Bytes()}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			state, _ := pair(t)
			before := state.clone()
			feed, aside, err := ApplyWatched(state, meta, c.ev)
			if err != nil || feed != nil || aside == nil || aside.Room != room {
				t.Fatalf("feed %v, set aside %+v, error %v", feed, aside, err)
			}
			if changed := state.changed(before); len(changed) != 1 || changed[0] != string(roomKey(room)) {
				t.Fatalf("left writes at %x", changed)
			}
			// Stopped once; the first cause stays, and nothing else is applied.
			cause := must(readRoom(state, room))(t).GetStopped()
			if _, aside, err := ApplyWatched(state, meta, sent("jimin", room, 2, "m9")); err != nil || aside == nil {
				t.Fatalf("a stopped room took a message: %v", err)
			}
			if got := must(readRoom(state, room))(t).GetStopped(); got != cause || cause == "" {
				t.Fatalf("cause %q became %q", cause, got)
			}
		})
	}
}

// Account events that cannot be applied are kept for the operator; the account goes on.
func TestAccountEventsSetAside(t *testing.T) {
	u, p := userID("jimin"), deviceID("jimin", "phone")
	for _, ev := range []*journalv1.Event{
		{Kind: &journalv1.Event_AccountCreated{AccountCreated: &journalv1.AccountCreated{UserId: u.Bytes(), Login: "jimin"}}},
		{Kind: &journalv1.Event_AccountCreated{AccountCreated: &journalv1.AccountCreated{UserId: userID("other").Bytes(), Login: "jimin"}}},
		{Kind: &journalv1.Event_AccountCreated{AccountCreated: &journalv1.AccountCreated{UserId: userID("other").Bytes(), Login: "elsewhere"}}},
		{Kind: &journalv1.Event_AccountCreated{AccountCreated: &journalv1.AccountCreated{UserId: userID("new").Bytes(), Login: "new", FriendIds: [][]byte{{1}}}}},
		{Kind: &journalv1.Event_AccountCreated{AccountCreated: &journalv1.AccountCreated{UserId: userID("new").Bytes(), Login: "new", DisplayName: "\xff"}}},
		{Kind: &journalv1.Event_DeviceAdded{DeviceAdded: &journalv1.DeviceAdded{UserId: u.Bytes(), DeviceId: p.Bytes()}}},
		{Kind: &journalv1.Event_DeviceAdded{DeviceAdded: &journalv1.DeviceAdded{UserId: userID("ghost").Bytes(), DeviceId: p.Bytes()}}},
		{Kind: &journalv1.Event_DeviceAdded{DeviceAdded: &journalv1.DeviceAdded{UserId: u.Bytes()}}},
		deviceRevoked(u, deviceID("jimin", "fridge"), 0),
		{Kind: &journalv1.Event_DeviceRevoked{DeviceRevoked: &journalv1.DeviceRevoked{UserId: u.Bytes()}}},
		{Kind: &journalv1.Event_RefreshRotated{RefreshRotated: &journalv1.RefreshRotated{UserId: u.Bytes(), DeviceId: p.Bytes(), Generation: 1}}},
		{Kind: &journalv1.Event_RefreshConfirmed{RefreshConfirmed: &journalv1.RefreshConfirmed{UserId: u.Bytes(), DeviceId: p.Bytes(), Generation: 2}}},
		{Kind: &journalv1.Event_FriendAdded{FriendAdded: &journalv1.FriendAdded{UserId: u.Bytes()}}},
		{Kind: &journalv1.Event_FriendRemoved{FriendRemoved: &journalv1.FriendRemoved{UserId: u.Bytes()}}},
		{Kind: &journalv1.Event_Blocked{Blocked: &journalv1.Blocked{UserId: u.Bytes(), BlockedId: userID("x").Bytes(), Version: 2}}},
		{Kind: &journalv1.Event_Blocked{Blocked: &journalv1.Blocked{UserId: u.Bytes(), BlockedId: u.Bytes(), Version: 1}}},
		{Kind: &journalv1.Event_Blocked{Blocked: &journalv1.Blocked{UserId: u.Bytes(), Version: 1}}},
		{Kind: &journalv1.Event_Unblocked{Unblocked: &journalv1.Unblocked{UserId: u.Bytes(), BlockedId: userID("x").Bytes(), Version: 1}}},
		{Kind: &journalv1.Event_RoomListed{RoomListed: &journalv1.RoomListed{UserId: u.Bytes(), Version: 1}}},
		{Kind: &journalv1.Event_RoomListed{RoomListed: &journalv1.RoomListed{UserId: userID("ghost").Bytes(), RoomId: id.Direct(u, u).Bytes(), Version: 1}}},
	} {
		state, _ := pair(t)
		before := state.clone()
		subject, _ := eventSubject(ev)
		feed, aside, err := ApplyWatched(state, meta, ev)
		if err != nil || feed != nil || aside == nil || !aside.Room.IsZero() {
			t.Fatalf("%v: feed %v, set aside %+v, error %v", ev, feed, aside, err)
		}
		if changed := state.changed(before); len(changed) != 1 || changed[0] != string(setAsideKey(subject, eventNumber(ev))) {
			t.Fatalf("%v: left writes at %x", ev, changed)
		}
		kept := must(SetAsideEvents(state, 0, id.Partitions-1, 10))(t)
		if len(kept) != 1 || kept[0].GetNote() != "applying "+EventKind(ev)+" failed" {
			t.Fatalf("%v: kept %v", ev, kept)
		}
		if len(kept[0].GetEvents()) == 1 != (ev.GetAccountCreated().GetDisplayName() != "\xff") {
			t.Fatalf("%v: kept %v", ev, kept)
		}
		if got := must(SetAsideEvents(state, 0, id.Partitions-1, 0))(t); len(got) != 0 {
			t.Fatalf("more than asked: %v", got)
		}
	}
}

// An event that names nothing that could be marked stops the shard.
func TestEventsOfNobody(t *testing.T) {
	state, _ := pair(t)
	before := state.clone()
	for _, ev := range []*journalv1.Event{
		{Kind: &journalv1.Event_MessageSent{MessageSent: &journalv1.MessageSent{}}},
		{Kind: &journalv1.Event_RoomCreated{}},
		{Kind: &journalv1.Event_DeviceAdded{DeviceAdded: &journalv1.DeviceAdded{UserId: []byte("short")}}},
		{Kind: &journalv1.Event_RoomStopped{}},
		{Kind: &journalv1.Event_OutboxDone{OutboxDone: &journalv1.OutboxDone{Keys: [][]byte{roomKey(id.ID{})}}}},
		{Kind: &journalv1.Event_MembersJoined{}},
		{Kind: &journalv1.Event_MemberLeft{}},
		{Kind: &journalv1.Event_TitleChanged{}},
		{Kind: &journalv1.Event_ReadAdvanced{}},
		{Kind: &journalv1.Event_BlockNoted{}},
	} {
		if _, err := ApplyRecord(state, &journalv1.Record{Rules: 1, Events: []*journalv1.Event{ev}}); err == nil {
			t.Errorf("%v was applied", ev)
		}
	}
	if len(state.changed(before)) != 0 {
		t.Error("something was written")
	}
}

// OutboxDone deletes effects and nothing else, whatever keys it is given.
func TestOutboxDoneDeletesOnlyEffects(t *testing.T) {
	state, room := pair(t)
	before := state.clone()
	var keys [][]byte
	for k := range before.values {
		if k[2] != kindOutbox {
			keys = append(keys, []byte(k))
		}
	}
	for _, k := range keys {
		ev := &journalv1.Event{Kind: &journalv1.Event_OutboxDone{OutboxDone: &journalv1.OutboxDone{Keys: [][]byte{k}}}}
		if _, err := ApplyEvent(state, meta, ev); err == nil {
			t.Errorf("key %x was finished", k)
		}
	}
	if len(state.changed(before)) != 0 {
		t.Fatal("entries were deleted")
	}
	// An old version's key does not touch a newer effect.
	u := userID("minji")
	old := outboxKey(effectListing, room, u, 1)
	for _, ev := range []*journalv1.Event{
		{Kind: &journalv1.Event_MemberLeft{MemberLeft: &journalv1.MemberLeft{RoomId: room.Bytes(), MemberId: u.Bytes()}}},
		{Kind: &journalv1.Event_OutboxDone{OutboxDone: &journalv1.OutboxDone{Keys: [][]byte{old}}}},
	} {
		if _, err := ApplyEvent(state, meta, ev); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := state.values[string(outboxKey(effectListing, room, u, 2))]; !ok {
		t.Fatal("finishing an old effect removed the newer one")
	}
}

func TestUnknownRulesStopTheShard(t *testing.T) {
	state, room := pair(t)
	before := state.clone()
	newer := RulesVersion + 1
	for name, rec := range map[string]*journalv1.Record{
		"a record of newer rules":    {Rules: newer, Events: []*journalv1.Event{sent("jimin", room, 2, "m2")}},
		"a record of no rules":       {Events: []*journalv1.Event{sent("jimin", room, 2, "m2")}},
		"activation of newer rules":  {Rules: 1, Events: []*journalv1.Event{{Kind: &journalv1.Event_RulesActivated{RulesActivated: &journalv1.RulesActivated{Version: newer}}}}},
		"an event of a kind unknown": {Rules: 1, Events: []*journalv1.Event{{}}},
	} {
		if _, err := ApplyRecord(state, rec); !errors.Is(err, ErrUnknownRules) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ApplyEvent(state, Meta{}, sent("jimin", room, 2, "m2")); !errors.Is(err, ErrUnknownRules) {
		t.Errorf("an event of no rules: %v", err)
	}
	if _, err := Step(state, Meta{Rules: newer}, send("jimin", room, "m2", "x")); !errors.Is(err, ErrUnknownRules) {
		t.Errorf("a command under newer rules: %v", err)
	}
	if len(state.changed(before)) != 0 {
		t.Error("something was applied")
	}
	rec := &journalv1.Record{Rules: 1, Events: []*journalv1.Event{{Kind: &journalv1.Event_RulesActivated{RulesActivated: &journalv1.RulesActivated{Version: 1}}}}}
	if _, err := ApplyRecord(state, rec); err != nil {
		t.Error(err)
	}
	if got := RulesAfter(0, rec); got != 1 {
		t.Errorf("rules after activation: %d", got)
	}
	if got := RulesAfter(3, rec); got != 3 {
		t.Errorf("rules went back to %d", got)
	}
}

// failing fails its nth call, or panics there.
type failing struct {
	*memTx
	left  int
	panic bool
}

var errDisk = errors.New("disk on fire")

func (f *failing) tick() error {
	if f.left--; f.left == 0 {
		if f.panic {
			panic("store closed")
		}
		return errDisk
	}
	return nil
}

func (f *failing) Get(k []byte) ([]byte, error) {
	if err := f.tick(); err != nil {
		return nil, err
	}
	return f.memTx.Get(k)
}

func (f *failing) Scan(l, h []byte, rev bool, fn func(k, v []byte) bool) error {
	if err := f.tick(); err != nil {
		return err
	}
	return f.memTx.Scan(l, h, rev, fn)
}

func (f *failing) Set(k, v []byte) error {
	if err := f.tick(); err != nil {
		return err
	}
	return f.memTx.Set(k, v)
}

func (f *failing) Delete(k []byte) error {
	if err := f.tick(); err != nil {
		return err
	}
	return f.memTx.Delete(k)
}

// Every call to the store fails once, under every command and every query: the
// caller hears of it, and no room is stopped for it.
func TestStoreFailuresAreTheStores(t *testing.T) {
	cmds, queries := everything(t)
	for name, cmd := range cmds {
		for n := 1; ; n++ {
			f := &failing{memTx: rich(t), left: n}
			out, err := Step(f, meta, cmd)
			if f.left > 0 {
				if n < 2 && name != "note_tail_lost" && name != "activate_rules" {
					t.Errorf("%s made no call", name)
				}
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				break
			}
			if !errors.Is(err, errDisk) {
				t.Fatalf("%s, call %d failed: outcome %+v, error %v", name, n, out, err)
			}
		}
	}
	for name, q := range queries {
		for n := 1; ; n++ {
			f := &failing{memTx: rich(t), left: n}
			reply, err := Answer(f, q)
			if f.left > 0 {
				if err != nil || reply.GetError() != nil {
					t.Errorf("%s: %v %v", name, reply, err)
				}
				break
			}
			if !errors.Is(err, errDisk) {
				t.Fatalf("%s, call %d failed: %v, error %v", name, n, reply, err)
			}
		}
	}
}

// A store that panics is not an event that panics: nothing may be recorded for it.
func TestStorePanicsDoNotStopRooms(t *testing.T) {
	for n := 1; ; n++ {
		state, room := pair(t)
		f := &failing{memTx: state, left: n, panic: true}
		aside, err, panicked := applyGuarded(f, sent("jimin", room, 2, "m2"))
		if f.left > 0 {
			if n < 3 {
				t.Fatal("the event made no calls")
			}
			return
		}
		if aside != nil || err == nil && panicked == nil {
			t.Fatalf("call %d of the store panicked: set aside %+v, error %v", n, aside, err)
		}
		if must(readRoom(state, room))(t).GetStopped() != "" {
			t.Fatalf("call %d of the store panicked and the room was stopped", n)
		}
	}
}

func applyGuarded(tx Tx, ev *journalv1.Event) (aside *SetAside, err error, panicked any) {
	defer func() { panicked = recover() }()
	_, aside, err = ApplyWatched(tx, meta, ev)
	return
}

// rich is a state in which every command of everything has work to do.
func rich(t testing.TB) *memTx {
	state, room := pair(t)
	run := func(cmd *nodev1.Command) {
		out, err := Step(state, meta, cmd)
		if err != nil || out.Reply.GetError() != nil {
			t.Fatal(err, out.Reply.GetError())
		}
	}
	jimin, minji := userID("jimin"), userID("minji")
	duo := id.Direct(jimin, minji)
	run(&nodev1.Command{Actor: jimin.Bytes(), Kind: &nodev1.Command_OpenDirect{OpenDirect: &nodev1.OpenDirect{RoomId: duo.Bytes(), OtherId: minji.Bytes()}}})
	run(&nodev1.Command{Actor: jimin.Bytes(), Kind: &nodev1.Command_Leave{Leave: &nodev1.Leave{RoomId: duo.Bytes()}}})
	run(&nodev1.Command{Actor: jimin.Bytes(), Kind: &nodev1.Command_AddFriend{AddFriend: &nodev1.AddFriend{UserId: jimin.Bytes(), FriendId: minji.Bytes()}}})
	run(&nodev1.Command{Actor: jimin.Bytes(), Kind: &nodev1.Command_SetBlock{SetBlock: &nodev1.SetBlock{UserId: jimin.Bytes(), OtherId: userID("x").Bytes(), Blocked: true}}})
	for range 49 {
		run(&nodev1.Command{Kind: &nodev1.Command_AddDevice{AddDevice: &nodev1.AddDevice{UserId: jimin.Bytes(), DeviceId: deviceID("jimin", string(rune(len(state.values)))).Bytes(), PasswordHash: goodHash}}})
	}
	run(&nodev1.Command{Kind: &nodev1.Command_ApplyEffect{ApplyEffect: &nodev1.ApplyEffect{Effect: &journalv1.Effect{Kind: &journalv1.Effect_RoomListed{RoomListed: &journalv1.RoomListed{UserId: jimin.Bytes(), RoomId: room.Bytes(), Version: 1, Listed: true}}}}}})
	return state
}

// everything is every command and every query of one shard, each with work to
// do on the state of rich.
func everything(t testing.TB) (map[string]*nodev1.Command, map[string]*nodev1.Query) {
	jimin, minji, hana := userID("jimin"), userID("minji"), userID("hana")
	room := id.Group(jimin, []byte("lunch"))
	duo := id.Direct(jimin, minji)
	phone := deviceID("jimin", "phone").Bytes()
	me := jimin.Bytes()
	finish := finishEffects(0, outboxKey(effectListing, room, minji, 1), outboxKey(effectBlock, jimin, userID("x"), 1))
	cmds := map[string]*nodev1.Command{
		"sign_up":         {Kind: &nodev1.Command_SignUp{SignUp: &nodev1.SignUp{UserId: hana.Bytes(), Login: "hana", PasswordHash: goodHash, DeviceId: deviceID("hana", "p").Bytes(), FriendIds: [][]byte{me}}}},
		"add_device":      {Kind: &nodev1.Command_AddDevice{AddDevice: &nodev1.AddDevice{UserId: me, DeviceId: deviceID("jimin", "new").Bytes(), PasswordHash: goodHash}}},
		"rotate_refresh":  {Kind: &nodev1.Command_RotateRefresh{RotateRefresh: &nodev1.RotateRefresh{UserId: me, DeviceId: phone, Generation: 1}}},
		"confirm_refresh": {Kind: &nodev1.Command_ConfirmRefresh{ConfirmRefresh: &nodev1.ConfirmRefresh{UserId: me, DeviceId: phone, Generation: 1}}},
		"revoke_device":   {Actor: me, Kind: &nodev1.Command_RevokeDevice{RevokeDevice: &nodev1.RevokeDevice{UserId: me, DeviceId: phone}}},
		"revoke_all":      {Actor: me, Kind: &nodev1.Command_RevokeDevice{RevokeDevice: &nodev1.RevokeDevice{UserId: me, All: true}}},
		"add_friend":      {Actor: me, Kind: &nodev1.Command_AddFriend{AddFriend: &nodev1.AddFriend{UserId: me, FriendId: hana.Bytes()}}},
		"remove_friend":   {Actor: me, Kind: &nodev1.Command_RemoveFriend{RemoveFriend: &nodev1.RemoveFriend{UserId: me, FriendId: minji.Bytes()}}},
		"block":           {Actor: me, Kind: &nodev1.Command_SetBlock{SetBlock: &nodev1.SetBlock{UserId: me, OtherId: minji.Bytes(), Blocked: true}}},
		"unblock":         {Actor: me, Kind: &nodev1.Command_SetBlock{SetBlock: &nodev1.SetBlock{UserId: me, OtherId: userID("x").Bytes()}}},
		"open_direct":     {Actor: me, Kind: &nodev1.Command_OpenDirect{OpenDirect: &nodev1.OpenDirect{RoomId: duo.Bytes(), OtherId: minji.Bytes()}}},
		"open_notes":      {Actor: me, Kind: &nodev1.Command_OpenDirect{OpenDirect: &nodev1.OpenDirect{RoomId: id.Direct(jimin, jimin).Bytes(), OtherId: me}}},
		"create_group":    {Actor: me, Kind: &nodev1.Command_CreateGroup{CreateGroup: &nodev1.CreateGroup{RoomId: id.Group(jimin, []byte("g")).Bytes(), Title: "t", MemberIds: [][]byte{minji.Bytes()}}}},
		"invite":          {Actor: me, Kind: &nodev1.Command_Invite{Invite: &nodev1.Invite{RoomId: room.Bytes(), MemberIds: [][]byte{hana.Bytes()}}}},
		"leave":           {Actor: me, Kind: &nodev1.Command_Leave{Leave: &nodev1.Leave{RoomId: room.Bytes()}}},
		"set_title":       {Actor: me, Kind: &nodev1.Command_SetTitle{SetTitle: &nodev1.SetTitle{RoomId: room.Bytes(), Title: "t"}}},
		"send":            send("jimin", room, "m2", "둘"),
		"send_again":      send("jimin", room, "m1", "안녕"),
		"send_direct":     send("jimin", duo, "d1", "둘만"),
		"mark_read":       {Actor: minji.Bytes(), Kind: &nodev1.Command_MarkRead{MarkRead: &nodev1.MarkRead{RoomId: room.Bytes(), Seq: 1}}},
		"list_room":       applyEffect(&journalv1.Effect{Kind: &journalv1.Effect_RoomListed{RoomListed: &journalv1.RoomListed{UserId: me, RoomId: duo.Bytes(), Version: 9, Listed: true}}}),
		"note_block":      applyEffect(&journalv1.Effect{Kind: &journalv1.Effect_BlockNoted{BlockNoted: &journalv1.BlockNoted{RoomId: duo.Bytes(), BlockerId: me, Version: 9, Blocked: true}}}),
		"finish_effects":  finish,
		"note_tail_lost":  {Kind: &nodev1.Command_NoteTailLost{NoteTailLost: &nodev1.NoteTailLost{ProvenTerm: 1, Proof: "p"}}},
		"activate_rules":  {Kind: &nodev1.Command_ActivateRules{ActivateRules: &nodev1.ActivateRules{Version: 1}}},
	}
	zero := uint64(0)
	queries := map[string]*nodev1.Query{
		"credential": {Kind: &nodev1.Query_Credential{Credential: &nodev1.CredentialQuery{Login: "jimin"}}},
		"find":       {Kind: &nodev1.Query_Find{Find: &edgev1.FindRequest{Login: "jimin"}}},
		"session":    {Kind: &nodev1.Query_Session{Session: &nodev1.SessionQuery{UserId: me, DeviceId: phone}}},
		"get_me":     {Actor: me, Kind: &nodev1.Query_GetMe{GetMe: &edgev1.GetMeRequest{}}},
		"friends":    {Actor: me, Kind: &nodev1.Query_ListFriends{ListFriends: &edgev1.ListFriendsRequest{}}},
		"devices":    {Actor: me, Kind: &nodev1.Query_Devices{Devices: &nodev1.DevicesQuery{}}},
		"room_ids":   {Actor: me, Kind: &nodev1.Query_RoomIds{RoomIds: &nodev1.RoomIDsQuery{}}},
		"room":       {Actor: me, Kind: &nodev1.Query_Room{Room: &nodev1.RoomQuery{RoomId: room.Bytes()}}},
		"history":    {Actor: me, Kind: &nodev1.Query_History{History: &nodev1.HistoryQuery{RoomId: room.Bytes()}}},
		"after":      {Actor: me, Kind: &nodev1.Query_History{History: &nodev1.HistoryQuery{RoomId: room.Bytes(), AfterSeq: &zero}}},
	}
	return cmds, queries
}

// Step and Decide with ApplyEvent come to the same.
func TestStepIsDecideAndApply(t *testing.T) {
	cmds, _ := everything(t)
	for name, cmd := range cmds {
		one, two := rich(t), rich(t)
		out := must(Step(one, meta, cmd))(t)
		if out.Reply.GetError() != nil || out.Panic != "" || out.Aside != nil {
			t.Errorf("%s: %+v", name, out)
		}
		d := must(Decide(two, Env{NowMs: meta.TimeMs, Rules: meta.Rules}, cmd))(t)
		if len(d.Events) == 0 && name != "send_again" && name != "activate_rules" {
			t.Errorf("%s did nothing: the other tests prove nothing by it", name)
		}
		var feed []*nodev1.FeedItem
		for _, ev := range d.Events {
			feed = append(feed, must(ApplyEvent(two, meta, ev))(t)...)
		}
		if diff := one.difference(two); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if !proto.Equal(out.Reply, d.Reply) || len(out.Events) != len(d.Events) || len(out.Feed) != len(feed) {
			t.Errorf("%s: %v and %v", name, out, d)
		}
		for i := range feed {
			if !proto.Equal(feed[i], out.Feed[i]) {
				t.Errorf("%s: feed %v and %v", name, feed[i], out.Feed[i])
			}
		}
	}
}

// What panics in deciding or reading is refused, and said to the log.
func TestDecideNeverPanics(t *testing.T) {
	state, room := pair(t)
	f := &failing{memTx: state, left: 1, panic: true}
	out, err := Step(f, meta, send("jimin", room, "m2", "x"))
	if err != nil || out.Reply.GetError().GetInfo().GetReason() != string(CommandPanicked) || !strings.Contains(out.Panic, "store closed") {
		t.Errorf("%+v %v", out, err)
	}
	f.left = 1
	reply, err := Answer(f, &nodev1.Query{Actor: userID("jimin").Bytes(), Kind: &nodev1.Query_Room{Room: &nodev1.RoomQuery{RoomId: room.Bytes()}}})
	if err == nil || reply.GetError().GetInfo().GetReason() != string(CommandPanicked) {
		t.Errorf("%v %v", reply, err)
	}
}

// Effects keep the newest version even if a journal holds an older one behind
// it, and finishing an older one forgets nothing newer.
func TestNewestVersionWinsInApply(t *testing.T) {
	state, room := pair(t)
	jimin, minji := userID("jimin"), userID("minji")
	apply := func(ev *journalv1.Event) []*nodev1.FeedItem {
		t.Helper()
		feed, aside, err := ApplyWatched(state, meta, ev)
		if err != nil || aside != nil {
			t.Fatal(aside, err)
		}
		return feed
	}
	listed := func(version uint64, on bool) *journalv1.Event {
		return &journalv1.Event{Kind: &journalv1.Event_RoomListed{RoomListed: &journalv1.RoomListed{UserId: jimin.Bytes(), RoomId: room.Bytes(), Version: version, Listed: on}}}
	}
	apply(listed(5, true))
	before := state.clone()
	for _, old := range []*journalv1.Event{listed(5, false), listed(4, false)} {
		if feed := apply(old); feed != nil || len(state.changed(before)) != 0 {
			t.Fatalf("version 5 was overwritten by %v", old)
		}
	}
	if a := must(readAccount(state, jimin))(t); a.GetRoomCount() != 1 {
		t.Fatalf("%d rooms", a.GetRoomCount())
	}
	noted := func(version uint64, on bool) *journalv1.Event {
		return &journalv1.Event{Kind: &journalv1.Event_BlockNoted{BlockNoted: &journalv1.BlockNoted{RoomId: room.Bytes(), BlockerId: jimin.Bytes(), Version: version, Blocked: on}}}
	}
	apply(noted(5, true))
	before = state.clone()
	for _, old := range []*journalv1.Event{noted(5, false), noted(4, false)} {
		if apply(old); len(state.changed(before)) != 0 {
			t.Fatalf("version 5 was overwritten by %v", old)
		}
	}
	// Blocked as 1, unblocked as 2: the effect of 1 being finished late must
	// leave the entry of 2, which knows what the next effect replaces.
	block := func(on bool) {
		t.Helper()
		out := must(Step(state, meta, &nodev1.Command{Actor: jimin.Bytes(), Kind: &nodev1.Command_SetBlock{SetBlock: &nodev1.SetBlock{
			UserId: jimin.Bytes(), OtherId: minji.Bytes(), Blocked: on,
		}}}))(t)
		if out.Reply.GetError() != nil {
			t.Fatal(out.Reply.GetError())
		}
	}
	done := func(version uint64) {
		t.Helper()
		apply(&journalv1.Event{Kind: &journalv1.Event_OutboxDone{OutboxDone: &journalv1.OutboxDone{Keys: [][]byte{outboxKey(effectBlock, jimin, minji, version)}}}})
	}
	block(true)
	block(false)
	done(1)
	if b := must(readBlock(state, blockKey(jimin, minji)))(t); b.GetVersion() != 2 {
		t.Fatalf("the entry of the unblocking is gone: %v", b)
	}
	if _, ok := state.values[string(outboxKey(effectBlock, jimin, minji, 2))]; !ok {
		t.Fatal("the effect of the unblocking is gone")
	}
	done(2)
	if _, ok := state.values[string(blockKey(jimin, minji))]; ok {
		t.Fatal("the entry of a finished unblocking stays for ever")
	}
	block(true)
	done(3)
	if b := must(readBlock(state, blockKey(jimin, minji)))(t); !b.GetBlocked() {
		t.Fatal("finishing the effect of a block lifted it")
	}
}
