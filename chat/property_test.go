package chat

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"pgregory.net/rapid"
)

// model is the messenger as a child would build it: maps and counting. It
// shares no code with the rules and judges every answer of theirs.
type model struct {
	users map[string]bool
	rooms map[string]*modelRoom // "a+b" or a group's name
	// blocks as the accounts know them, and as each direct room has been told.
	blocks, noted map[[2]string]bool
}

type modelRoom struct {
	direct   bool
	creator  string
	messages []modelMessage // seq is the place + 1
	members  map[string]*modelMember
}

type modelMessage struct{ sender, client, text string }

type modelMember struct {
	in           bool
	joined, read int
}

func newModel() *model {
	return &model{users: map[string]bool{}, rooms: map[string]*modelRoom{}, blocks: map[[2]string]bool{}, noted: map[[2]string]bool{}}
}

func (r *modelRoom) last() int { return len(r.messages) }

func (r *modelRoom) enter(user string) {
	m := r.members[user]
	if m == nil {
		m = &modelMember{}
		r.members[user] = m
	}
	m.in, m.joined = true, r.last()
	m.read = max(m.read, m.joined)
}

func (r *modelRoom) unread(seq int) (n int) {
	for u, m := range r.members {
		if m.in && m.joined < seq && m.read < seq && u != r.messages[seq-1].sender {
			n++
		}
	}
	return n
}

// directName is the same for both, as the room is.
func directName(a, b string) string {
	if userID(b).String() < userID(a).String() {
		a, b = b, a
	}
	return a + "+" + b
}

// play is one run: the rules and the model side by side.
type play struct {
	t     *rapid.T
	w     *world
	m     *model
	ids   map[string]id.ID // of rooms
	reads map[string]uint64
}

func (p *play) roomID(name string) id.ID { return p.ids[name] }

var (
	somePeople = []string{"jimin", "minji", "hana", "dora"}
	someGroups = []string{"lunch", "work"}
)

func (p *play) person(label string) string { return rapid.SampledFrom(somePeople).Draw(p.t, label) }

func (p *play) anyRoom() string {
	if rapid.Bool().Draw(p.t, "group") {
		return rapid.SampledFrom(someGroups).Draw(p.t, "room")
	}
	a, b := p.person("one"), p.person("two")
	name := directName(a, b)
	p.ids[name] = id.Direct(userID(a), userID(b))
	return name
}

// expect compares a reply with what the model says: a reason, or "" for success.
func (p *play) expect(what string, reply *nodev1.Reply, reason Reason) bool {
	if got := Reason(reply.GetError().GetInfo().GetReason()); got != reason {
		p.t.Fatalf("%s: refused %q, the model says %q", what, got, reason)
	}
	return reason == ""
}

// step makes a command, and what the model says of its reply. The model moves
// on when the reply is judged, which happens in the order of the batch.
func (p *play) step() (*nodev1.Command, func(*nodev1.Reply)) {
	actor := p.person("actor")
	cmd := &nodev1.Command{Actor: userID(actor).Bytes()}
	switch kind := rapid.SampledFrom([]string{"send", "send", "send", "send", "read", "read", "direct", "group", "invite", "leave", "block", "signup"}).Draw(p.t, "kind"); kind {
	case "signup":
		cmd.Actor = nil
		cmd.Kind = &nodev1.Command_SignUp{SignUp: &nodev1.SignUp{UserId: userID(actor).Bytes(), Login: actor, PasswordHash: goodHash}}
		return cmd, func(r *nodev1.Reply) {
			p.expect("sign up", r, "")
			p.m.users[actor] = true
		}
	case "direct":
		other := p.person("other")
		name := directName(actor, other)
		p.ids[name] = id.Direct(userID(actor), userID(other))
		cmd.Kind = &nodev1.Command_OpenDirect{OpenDirect: &nodev1.OpenDirect{RoomId: p.ids[name].Bytes(), OtherId: userID(other).Bytes()}}
		return cmd, func(r *nodev1.Reply) { p.judgeDirect(r, actor, other, name) }
	case "group":
		name := rapid.SampledFrom(someGroups).Draw(p.t, "room")
		with := []string{p.person("with"), p.person("with")}
		c := &nodev1.CreateGroup{RoomId: p.ids[name].Bytes(), Title: name}
		for _, u := range with {
			c.MemberIds = append(c.MemberIds, userID(u).Bytes())
		}
		cmd.Kind = &nodev1.Command_CreateGroup{CreateGroup: c}
		return cmd, func(r *nodev1.Reply) { p.judgeGroup(r, actor, name, with) }
	case "invite":
		name := p.anyRoom()
		with := []string{p.person("with"), p.person("with")}
		c := &nodev1.Invite{RoomId: p.ids[name].Bytes()}
		for _, u := range with {
			c.MemberIds = append(c.MemberIds, userID(u).Bytes())
		}
		cmd.Kind = &nodev1.Command_Invite{Invite: c}
		return cmd, func(r *nodev1.Reply) { p.judgeInvite(r, actor, name, with) }
	case "leave":
		name := p.anyRoom()
		cmd.Kind = &nodev1.Command_Leave{Leave: &nodev1.Leave{RoomId: p.ids[name].Bytes()}}
		return cmd, func(r *nodev1.Reply) { p.judgeLeave(r, actor, name) }
	case "read":
		name := p.anyRoom()
		seq := rapid.IntRange(0, 12).Draw(p.t, "seq")
		cmd.Kind = &nodev1.Command_MarkRead{MarkRead: &nodev1.MarkRead{RoomId: p.ids[name].Bytes(), Seq: uint64(seq)}}
		return cmd, func(r *nodev1.Reply) { p.judgeRead(r, actor, name, seq) }
	case "block":
		other := p.person("other")
		on := rapid.Bool().Draw(p.t, "block")
		cmd.Kind = &nodev1.Command_SetBlock{SetBlock: &nodev1.SetBlock{UserId: userID(actor).Bytes(), OtherId: userID(other).Bytes(), Blocked: on}}
		return cmd, func(r *nodev1.Reply) {
			switch {
			case actor == other:
				p.expect("block", r, Yourself)
			case !p.m.users[actor]:
				p.expect("block", r, UserUnknown)
			default:
				p.expect("block", r, "")
				p.m.blocks[[2]string{actor, other}] = on
			}
		}
	default:
		name := p.anyRoom()
		client := fmt.Sprint("c", rapid.IntRange(0, 9).Draw(p.t, "client"))
		text := rapid.StringMatching(`[가-힣a-z]{1,8}`).Draw(p.t, "text")
		reply := rapid.SampledFrom([]int{0, 0, 1, 3}).Draw(p.t, "reply")
		cmd.Kind = &nodev1.Command_Send{Send: &nodev1.Send{RoomId: p.ids[name].Bytes(), ClientId: clientID(client), Text: text, ReplyTo: uint64(reply)}}
		return cmd, func(r *nodev1.Reply) { p.judgeSend(r, actor, name, client, text, reply) }
	}
}

// blocked is what a direct room has been told about the two.
func (p *play) blocked(sender string, room *modelRoom, people []string) Reason {
	for _, u := range people {
		if u == sender {
			continue
		}
		me, them := p.m.noted[[2]string{sender, u}], p.m.noted[[2]string{u, sender}]
		switch {
		case me && them:
			// Both: the one with the smaller ID is looked at first.
			if userID(sender).String() < userID(u).String() {
				return YouBlocked
			}
			return IsBlocked
		case me:
			return YouBlocked
		case them:
			return IsBlocked
		}
	}
	return ""
}

func (p *play) judgeDirect(r *nodev1.Reply, actor, other, name string) {
	room := p.m.rooms[name]
	if room == nil {
		if !p.expect("open direct", r, p.blocked(actor, nil, []string{other})) {
			return
		}
		room = &modelRoom{direct: true, creator: actor, members: map[string]*modelMember{}}
		p.m.rooms[name] = room
		room.enter(actor)
		room.enter(other)
		return
	}
	p.expect("open direct", r, "")
	if !room.members[actor].in {
		room.enter(actor)
	}
}

func (p *play) judgeGroup(r *nodev1.Reply, actor, name string, with []string) {
	if room := p.m.rooms[name]; room != nil {
		if room.creator != actor {
			p.expect("create group", r, RoomExists)
		} else {
			p.expect("create group", r, "")
		}
		return
	}
	p.expect("create group", r, "")
	room := &modelRoom{creator: actor, members: map[string]*modelMember{}}
	p.m.rooms[name] = room
	for _, u := range append(with, actor) {
		room.enter(u)
	}
}

// member is what the model says of someone who wants something of a room.
func (p *play) member(actor, name string) (*modelRoom, *modelMember, Reason) {
	room := p.m.rooms[name]
	if room == nil {
		return nil, nil, RoomUnknown
	}
	m := room.members[actor]
	if m == nil || !m.in {
		return room, m, NotAMember
	}
	return room, m, ""
}

func (p *play) judgeInvite(r *nodev1.Reply, actor, name string, with []string) {
	room, _, reason := p.member(actor, name)
	if reason == "" && room.direct {
		reason = DirectRoom
	}
	if !p.expect("invite", r, reason) {
		return
	}
	for _, u := range with {
		if m := room.members[u]; m == nil || !m.in {
			room.enter(u)
		}
	}
}

func (p *play) judgeLeave(r *nodev1.Reply, actor, name string) {
	room, m, reason := p.member(actor, name)
	if reason == NotAMember && m != nil {
		reason = "" // left before
	}
	if p.expect("leave", r, reason) {
		room.members[actor].in = false
	}
}

func (p *play) judgeRead(r *nodev1.Reply, actor, name string, seq int) {
	room, m, reason := p.member(actor, name)
	if reason == "" && seq > room.last() {
		reason = SeqBeyondEnd
	}
	if p.expect("mark read", r, reason) {
		m.read = max(m.read, seq)
	}
}

func (p *play) judgeSend(r *nodev1.Reply, actor, name, client, text string, replyTo int) {
	room, m, reason := p.member(actor, name)
	if room != nil {
		for i, old := range room.messages {
			if old.sender == actor && old.client == client {
				p.expect("send again", r, "")
				p.judgeMessage(r.GetMessage(), room, name, i+1)
				return
			}
		}
	}
	if reason == NotAMember && room.direct && m != nil {
		reason = ""
	}
	if reason == "" && replyTo != 0 && (!m.in || replyTo <= m.joined || replyTo > room.last()) {
		reason = ReplyUnknown
	}
	if reason == "" && room.direct {
		var people []string
		for u := range room.members {
			people = append(people, u)
		}
		reason = p.blocked(actor, room, people)
	}
	if !p.expect("send", r, reason) {
		return
	}
	if room.direct {
		for u, m := range room.members {
			if !m.in {
				room.enter(u)
			}
		}
	}
	room.messages = append(room.messages, modelMessage{actor, client, text})
	if me := room.members[actor]; me.read == room.last()-1 {
		me.read = room.last()
	}
	p.judgeMessage(r.GetMessage(), room, name, room.last())
}

func (p *play) judgeMessage(got *edgev1.Message, room *modelRoom, name string, seq int) {
	want := room.messages[seq-1]
	if int(got.GetSeq()) != seq || got.GetText() != want.text || got.GetSenderId() != userID(want.sender).String() ||
		got.GetClientId() != uuid(clientID(want.client)) || got.GetRoomId() != p.ids[name].String() {
		p.t.Fatalf("invariants 2, 3: message %v in %s, the model has %d %+v", got, name, seq, want)
	}
	if int(got.GetUnread()) != room.unread(seq) {
		p.t.Fatalf("message %d of %s has unread %d, the model counts %d", seq, name, got.GetUnread(), room.unread(seq))
	}
}

// carry brings some effects, in any order, any number of times, and finishes some.
func (p *play) carry(all bool) {
	items, shards, err := p.w.outbox()
	if err != nil {
		p.t.Fatal(err)
	}
	if len(items) == 0 {
		return
	}
	order := make([]int, len(items))
	for i := range order {
		order[i] = i
	}
	order = rapid.Permutation(order).Draw(p.t, "order")
	if !all {
		order = order[:rapid.IntRange(0, len(order)).Draw(p.t, "carried")]
	}
	for _, i := range append(order, order[:rapid.IntRange(0, len(order)).Draw(p.t, "repeated")]...) {
		outs, err := p.w.do(applyEffect(items[i].Effect))
		if err != nil || outs[0].Reply.GetError() != nil {
			p.t.Fatalf("effect: %v %v", err, outs)
		}
		if b := items[i].Effect.GetBlockNoted(); b != nil {
			p.note(b.GetBlockerId(), b.GetRoomId())
		}
	}
	for _, i := range order {
		if all || rapid.Bool().Draw(p.t, "finished") {
			if _, err := p.w.do(finishEffects(shards[i], items[i].Key)); err != nil {
				p.t.Fatal(err)
			}
		}
	}
}

// note: only the newest effect of a block waits, so what is carried is what
// the account says now.
func (p *play) note(blocker, room []byte) {
	for _, a := range somePeople {
		for _, b := range somePeople {
			ab := id.Direct(userID(a), userID(b))
			if a != b && bytes.Equal(userID(a).Bytes(), blocker) && bytes.Equal(ab[:], room) {
				p.m.noted[[2]string{a, b}] = p.m.blocks[[2]string{a, b}]
			}
		}
	}
}

// check compares everything that anyone can read with the model.
func (p *play) check() {
	// In a fixed order: what is drawn must not depend on that of a map.
	for _, name := range slices.Sorted(maps.Keys(p.m.rooms)) {
		room, rid := p.m.rooms[name], p.ids[name]
		state := p.w.shardOf(rid.Partition()).state
		for _, u := range somePeople {
			m := room.members[u]
			got, err := RoomOf(state, userID(u), rid, 100)
			if m == nil || !m.in {
				if e, ok := AsRefusal(err); !ok || e.GetInfo().GetReason() != string(NotAMember) {
					p.t.Fatalf("%s looks at %s without being a member: %v %v", u, name, got, err)
				}
				continue
			}
			if err != nil {
				p.t.Fatal(err)
			}
			p.checkRoom(got, name, u, room, m)
			p.checkHistory(state, name, u, room, m)
		}
	}
}

func (p *play) checkRoom(got *edgev1.Room, name, user string, room *modelRoom, m *modelMember) {
	members := 0
	for _, o := range room.members {
		if o.in {
			members++
		}
	}
	if int(got.GetLastSeq()) != room.last() || int(got.GetMyReadSeq()) != m.read || int(got.GetMyJoinedSeq()) != m.joined ||
		int(got.GetUnread()) != room.last()-m.read || int(got.GetMemberCount()) != members || len(got.GetMembers()) != members {
		p.t.Fatalf("%s sees %s as %v, the model has %+v of %d", user, name, got, m, room.last())
	}
	key := user + " in " + name
	if got.GetMyReadSeq() < p.reads[key] {
		p.t.Fatalf("the cursor of %s went from %d to %d", key, p.reads[key], got.GetMyReadSeq())
	}
	p.reads[key] = got.GetMyReadSeq()
	if (got.GetLastMessage() != nil) != (room.last() > m.joined) {
		p.t.Fatalf("%s sees the newest of %s: %v", user, name, got.GetLastMessage())
	}
}

// checkHistory reads the room in pages, both ways.
func (p *play) checkHistory(state Reader, name, user string, room *modelRoom, m *modelMember) {
	limit := uint32(rapid.IntRange(1, 5).Draw(p.t, "limit"))
	var forward, backward []*edgev1.Message
	after := uint64(0)
	for more := true; more; {
		h, err := History(state, userID(user), &nodev1.HistoryQuery{RoomId: p.ids[name].Bytes(), AfterSeq: &after, Limit: limit})
		if err != nil {
			p.t.Fatal(err)
		}
		forward = append(forward, h.GetMessages()...)
		if more = h.GetHasMore(); more {
			after = forward[len(forward)-1].GetSeq()
		}
	}
	before := uint64(0)
	for more := true; more; {
		h, err := History(state, userID(user), &nodev1.HistoryQuery{RoomId: p.ids[name].Bytes(), BeforeSeq: before, Limit: limit})
		if err != nil {
			p.t.Fatal(err)
		}
		backward = append(slices.Clone(h.GetMessages()), backward...)
		if more = h.GetHasMore(); more {
			before = backward[0].GetSeq()
		}
	}
	for _, got := range [][]*edgev1.Message{forward, backward} {
		if len(got) != room.last()-m.joined {
			p.t.Fatalf("%s sees %d messages of %s, the model %d", user, len(got), name, room.last()-m.joined)
		}
		for i, e := range got {
			p.judgeMessage(e, room, name, m.joined+1+i)
		}
	}
}

// checkLists holds once the outbox is empty: the list is the membership.
func (p *play) checkLists() {
	for _, u := range somePeople {
		if !p.m.users[u] {
			continue
		}
		got, err := RoomIDs(p.w.shardOf(userID(u).Partition()).state, userID(u))
		if err != nil {
			p.t.Fatal(err)
		}
		var want []id.ID
		for name, room := range p.m.rooms {
			if m := room.members[u]; m != nil && m.in {
				want = append(want, p.ids[name])
			}
		}
		slices.SortFunc(want, func(a, b id.ID) int { return bytes.Compare(a[:], b[:]) })
		if !slices.Equal(got, want) {
			p.t.Fatalf("%s has rooms %v in the list, is a member of %v", u, got, want)
		}
	}
}

func TestRulesAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &play{t: t, w: newWorld(rapid.IntRange(1, 4).Draw(t, "shards")), m: newModel(), ids: map[string]id.ID{}, reads: map[string]uint64{}}
		for _, g := range someGroups {
			p.ids[g] = id.Group(userID("creator"), []byte(g))
		}
		// Accounts first: a listing of one who signs up later would be lost, which
		// the gateway prevents by looking people up.
		for _, u := range somePeople {
			cmd := &nodev1.Command{Kind: &nodev1.Command_SignUp{SignUp: &nodev1.SignUp{UserId: userID(u).Bytes(), Login: u, PasswordHash: goodHash}}}
			if _, err := p.w.do(cmd); err != nil {
				t.Fatal(err)
			}
			p.m.users[u] = true
		}
		for range rapid.IntRange(1, 25).Draw(t, "batches") {
			p.w.now += int64(rapid.IntRange(-1000, 100000).Draw(t, "time"))
			var cmds []*nodev1.Command
			var judges []func(*nodev1.Reply)
			for range rapid.IntRange(1, 6).Draw(t, "commands") {
				cmd, judge := p.step()
				cmds, judges = append(cmds, cmd), append(judges, judge)
			}
			outs, err := p.w.do(cmds...)
			if err != nil {
				t.Fatal(err)
			}
			for i, out := range outs {
				judges[i](out.Reply)
			}
			if rapid.Bool().Draw(t, "carry") {
				p.carry(false)
			}
		}
		p.check()
		for {
			items, _, err := p.w.outbox()
			if err != nil {
				t.Fatal(err)
			}
			if len(items) == 0 {
				break
			}
			p.carry(true)
		}
		p.checkLists()
		p.w.checkReplicas(t)
	})
}

// The outbox of one history, delivered in any order and repeated, always ends
// in the same account states.
func TestOutboxOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		build := func() *world {
			w := newWorld(3)
			for _, u := range somePeople {
				if _, err := w.do(&nodev1.Command{Kind: &nodev1.Command_SignUp{SignUp: &nodev1.SignUp{UserId: userID(u).Bytes(), Login: u, PasswordHash: goodHash}}}); err != nil {
					t.Fatal(err)
				}
			}
			return w
		}
		// Every effect that ever waited, as if none had been delivered in time.
		source := build()
		room := id.Group(userID("jimin"), []byte("r"))
		seen := map[string]OutboxItem{}
		var keys []string
		do := func(cmd *nodev1.Command) {
			if _, err := source.do(cmd); err != nil {
				t.Fatal(err)
			}
			items, _, err := source.outbox()
			if err != nil {
				t.Fatal(err)
			}
			for _, it := range items {
				if _, ok := seen[string(it.Key)]; !ok {
					keys = append(keys, string(it.Key))
				}
				seen[string(it.Key)] = it
			}
		}
		do(&nodev1.Command{Actor: userID("jimin").Bytes(), Kind: &nodev1.Command_CreateGroup{CreateGroup: &nodev1.CreateGroup{
			RoomId: room.Bytes(), MemberIds: [][]byte{userID("minji").Bytes(), userID("hana").Bytes()},
		}}})
		for range rapid.IntRange(1, 15).Draw(t, "steps") {
			who := rapid.SampledFrom(somePeople[1:]).Draw(t, "who")
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0:
				do(&nodev1.Command{Actor: userID(who).Bytes(), Kind: &nodev1.Command_Leave{Leave: &nodev1.Leave{RoomId: room.Bytes()}}})
			case 1:
				do(&nodev1.Command{Actor: userID("jimin").Bytes(), Kind: &nodev1.Command_Invite{Invite: &nodev1.Invite{RoomId: room.Bytes(), MemberIds: [][]byte{userID(who).Bytes()}}}})
			case 2:
				do(&nodev1.Command{Actor: userID(who).Bytes(), Kind: &nodev1.Command_SetBlock{SetBlock: &nodev1.SetBlock{
					UserId: userID(who).Bytes(), OtherId: userID("jimin").Bytes(), Blocked: rapid.Bool().Draw(t, "block"),
				}}})
			}
		}
		var end [2]*world
		for i := range end {
			end[i] = build()
			order := rapid.Permutation(keys).Draw(t, "order")
			order = append(order, order[:rapid.IntRange(0, len(order)).Draw(t, "repeated")]...)
			for _, k := range order {
				if _, err := end[i].do(applyEffect(seen[k].Effect)); err != nil {
					t.Fatal(err)
				}
			}
		}
		for i := range end[0].shards {
			if d := end[0].shards[i].state.difference(end[1].shards[i].state); d != "" {
				t.Fatalf("two orders of the same effects differ: %s", d)
			}
		}
	})
}
