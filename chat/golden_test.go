package chat

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"google.golang.org/protobuf/proto"
)

// forEver is what a failing golden test says. Journals hold these bytes.
const forEver = "This format is stored and is for ever: add fields, never change what there is. " +
	"If an addition is meant, run with -update and say in the commit why old bytes are still read the same."

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", "golden", name)
	want, err := os.ReadFile(file)
	if err == nil && string(want) == got {
		return
	}
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s: %s\n%s (%v)", file, firstDifference(string(want), got), forEver, err)
}

func goldenID(kind id.Kind, n byte) []byte {
	i := id.New(7, kind, 0xabc, bytes.Repeat([]byte{n}, 12))
	return i[:]
}

// goldenEvents has one event of every kind, with every field set.
func goldenEvents() []*journalv1.Event {
	u, o, d, r := goldenID(id.User, 'u'), goldenID(id.User, 'v'), goldenID(id.Device, 'd'), goldenID(id.Room, 'r')
	client := []byte("0123456789abcdef")
	return []*journalv1.Event{
		{Kind: &journalv1.Event_RulesActivated{RulesActivated: &journalv1.RulesActivated{Version: 1}}},
		{Kind: &journalv1.Event_AccountCreated{AccountCreated: &journalv1.AccountCreated{UserId: u, Login: "jimin", DisplayName: "지민", PasswordHash: goodHash, Bot: true, FriendIds: [][]byte{o}}}},
		{Kind: &journalv1.Event_DeviceAdded{DeviceAdded: &journalv1.DeviceAdded{UserId: u, DeviceId: d, Name: "phone"}}},
		{Kind: &journalv1.Event_DeviceRevoked{DeviceRevoked: &journalv1.DeviceRevoked{UserId: u, DeviceId: d, Cause: journalv1.DeviceRevoked_CAUSE_REFRESH_REUSED}}},
		{Kind: &journalv1.Event_RefreshRotated{RefreshRotated: &journalv1.RefreshRotated{UserId: u, DeviceId: d, Generation: 300}}},
		{Kind: &journalv1.Event_RefreshConfirmed{RefreshConfirmed: &journalv1.RefreshConfirmed{UserId: u, DeviceId: d, Generation: 300}}},
		{Kind: &journalv1.Event_FriendAdded{FriendAdded: &journalv1.FriendAdded{UserId: u, FriendId: o}}},
		{Kind: &journalv1.Event_FriendRemoved{FriendRemoved: &journalv1.FriendRemoved{UserId: u, FriendId: o}}},
		{Kind: &journalv1.Event_Blocked{Blocked: &journalv1.Blocked{UserId: u, BlockedId: o, Version: 3}}},
		{Kind: &journalv1.Event_Unblocked{Unblocked: &journalv1.Unblocked{UserId: u, BlockedId: o, Version: 4}}},
		{Kind: &journalv1.Event_RoomListed{RoomListed: &journalv1.RoomListed{UserId: u, RoomId: r, Version: 5, Listed: true}}},
		{Kind: &journalv1.Event_RoomCreated{RoomCreated: &journalv1.RoomCreated{RoomId: r, Kind: 2, Title: "점심", CreatorId: u, MemberIds: [][]byte{u, o}}}},
		{Kind: &journalv1.Event_MembersJoined{MembersJoined: &journalv1.MembersJoined{RoomId: r, InviterId: u, MemberIds: [][]byte{o}}}},
		{Kind: &journalv1.Event_MemberLeft{MemberLeft: &journalv1.MemberLeft{RoomId: r, MemberId: o}}},
		{Kind: &journalv1.Event_TitleChanged{TitleChanged: &journalv1.TitleChanged{RoomId: r, ActorId: u, Title: "저녁"}}},
		{Kind: &journalv1.Event_MessageSent{MessageSent: &journalv1.MessageSent{RoomId: r, Seq: 6, SenderId: u, ClientId: client, Text: "안녕", ReplyTo: 5}}},
		{Kind: &journalv1.Event_ReadAdvanced{ReadAdvanced: &journalv1.ReadAdvanced{RoomId: r, MemberId: u, Seq: 6}}},
		{Kind: &journalv1.Event_BlockNoted{BlockNoted: &journalv1.BlockNoted{RoomId: r, BlockerId: u, Version: 3, Blocked: true}}},
		{Kind: &journalv1.Event_OutboxDone{OutboxDone: &journalv1.OutboxDone{Keys: [][]byte{outboxKey(effectListing, id.ID(r), id.ID(u), 5)}}}},
		{Kind: &journalv1.Event_RoomStopped{RoomStopped: &journalv1.RoomStopped{RoomId: r, Cause: "applying message_sent failed"}}},
		{Kind: &journalv1.Event_TailLost{TailLost: &journalv1.TailLost{Term: 1, Index: 2, ProvenTerm: 3, ProvenIndex: 4, Proof: "a mark"}}},
	}
}

func TestGoldenEvents(t *testing.T) {
	var out strings.Builder
	kinds := (&journalv1.Event{}).ProtoReflect().Descriptor().Oneofs().Get(0).Fields()
	seen := map[string]bool{}
	for _, ev := range goldenEvents() {
		seen[EventKind(ev)] = true
		rec := &journalv1.Record{
			Rules: 1, TimeMs: 1795380420000, PreviousHash: bytes.Repeat([]byte{0xaa}, 32),
			Events: []*journalv1.Event{ev}, Note: "golden",
		}
		raw := must(marshal.Marshal(rec))(t)
		fmt.Fprintf(&out, "%s %s\n", EventKind(ev), hex.EncodeToString(raw))
		back := &journalv1.Record{}
		if err := proto.Unmarshal(raw, back); err != nil || !proto.Equal(rec, back) {
			t.Errorf("%s does not come back: %v", EventKind(ev), err)
		}
	}
	for i := range kinds.Len() {
		if name := string(kinds.Get(i).Name()); !seen[name] {
			t.Errorf("event %s has no golden bytes", name)
		}
	}
	golden(t, "records.txt", out.String())
}

func TestGoldenKeys(t *testing.T) {
	u, o, d, r := id.ID(goldenID(id.User, 'u')), id.ID(goldenID(id.User, 'v')), id.ID(goldenID(id.Device, 'd')), id.ID(goldenID(id.Room, 'r'))
	low, high := PartitionRange(256, 511)
	var out strings.Builder
	for _, k := range []struct {
		name string
		key  []byte
	}{
		{"account", accountKey(u)},
		{"login", loginKey("jimin")},
		{"device", deviceKey(u, d)},
		{"friend", friendKey(u, o)},
		{"block", blockKey(u, o)},
		{"listing", listingKey(u, r)},
		{"room", roomKey(r)},
		{"member", memberKey(r, u)},
		{"noted_block", notedKey(r, u)},
		{"message", messageKey(r, 0x0102030405060708)},
		{"client_id", clientIDKey(r, u, []byte("0123456789abcdef"))},
		{"notice", noticeKey(r, 1, 2)},
		{"outbox_listing", outboxKey(effectListing, r, u, 3)},
		{"outbox_block", outboxKey(effectBlock, u, o, 3)},
		{"set_aside", setAsideKey(u, 3)},
		{"range_low", low},
		{"range_high", high},
	} {
		fmt.Fprintf(&out, "%s %s\n", k.name, hex.EncodeToString(k.key))
		if !strings.HasPrefix(k.name, "range") && k.name != "login" {
			if p, ok := KeyPartition(k.key); !ok || p != 0xabc {
				t.Errorf("key %s lies in partition %d", k.name, p)
			}
		}
	}
	golden(t, "keys.txt", out.String())
}

// The whole state after a small history: every kind of value, in key order.
func TestGoldenState(t *testing.T) {
	w := goldenWorld(t)
	var out strings.Builder
	seen := map[byte]bool{}
	for i, s := range w.shards {
		var keys []string
		for k := range s.state.values {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			fmt.Fprintf(&out, "%d %x %x\n", i, k, s.state.values[k])
			seen[k[2]] = true
		}
	}
	for _, kind := range "aldfbqrmksino!" {
		if !seen[byte(kind)] {
			t.Errorf("no value of kind %c among the golden ones", kind)
		}
	}
	golden(t, "state.txt", out.String())
}

// The journal that made the golden state, and the state that old bytes make:
// records that an earlier release wrote must always give the same state.
func TestGoldenJournal(t *testing.T) {
	w := goldenWorld(t)
	var out strings.Builder
	for i, s := range w.shards {
		for _, raw := range s.records {
			fmt.Fprintf(&out, "%d %x\n", i, raw)
		}
	}
	golden(t, "journal.txt", out.String())

	raw := must(os.ReadFile("testdata/golden/journal.txt"))(t)
	states := []*memTx{newMemTx(), newMemTx()}
	for _, line := range strings.Split(strings.TrimSpace(string(raw)), "\n") {
		n, text, _ := strings.Cut(line, " ")
		rec := &journalv1.Record{}
		if err := proto.Unmarshal(must(hex.DecodeString(text))(t), rec); err != nil {
			t.Fatal(err)
		}
		if _, err := ApplyRecord(states[n[0]-'0'], rec); err != nil {
			t.Fatal(err)
		}
	}
	for i, s := range w.shards {
		if d := states[i].difference(s.state); d != "" {
			t.Errorf("shard %d: the golden journal gives another state: %s\n%s", i, d, forEver)
		}
	}
}

func goldenWorld(t *testing.T) *world {
	w := newWorld(2)
	do := func(actor string, cmd *nodev1.Command) {
		t.Helper()
		if actor != "" {
			cmd.Actor = userID(actor).Bytes()
		}
		w.now += 1000
		outs := must(w.do(cmd))(t)
		if outs[0].Reply.GetError() != nil {
			t.Fatal(outs[0].Reply.GetError())
		}
	}
	lunch := id.Group(userID("jimin"), []byte("lunch"))
	duo := id.Direct(userID("jimin"), userID("minji"))
	for _, u := range []string{"minji", "jimin"} {
		do("", &nodev1.Command{Kind: &nodev1.Command_SignUp{SignUp: &nodev1.SignUp{
			UserId: userID(u).Bytes(), Login: u, DisplayName: "이름", PasswordHash: goodHash,
			DeviceId: deviceID(u, "phone").Bytes(), DeviceName: "phone", FriendIds: [][]byte{userID("bot").Bytes()},
		}}})
	}
	do("jimin", &nodev1.Command{Kind: &nodev1.Command_CreateGroup{CreateGroup: &nodev1.CreateGroup{RoomId: lunch.Bytes(), Title: "점심", MemberIds: [][]byte{userID("minji").Bytes()}}}})
	do("jimin", &nodev1.Command{Kind: &nodev1.Command_OpenDirect{OpenDirect: &nodev1.OpenDirect{RoomId: duo.Bytes(), OtherId: userID("minji").Bytes()}}})
	do("jimin", &nodev1.Command{Kind: &nodev1.Command_Send{Send: &nodev1.Send{RoomId: lunch.Bytes(), ClientId: clientID("m1"), Text: "뭐 먹지"}}})
	do("minji", &nodev1.Command{Kind: &nodev1.Command_Send{Send: &nodev1.Send{RoomId: lunch.Bytes(), ClientId: clientID("a1"), Text: "국수", ReplyTo: 1}}})
	do("jimin", &nodev1.Command{Kind: &nodev1.Command_MarkRead{MarkRead: &nodev1.MarkRead{RoomId: lunch.Bytes(), Seq: 2}}})
	do("jimin", &nodev1.Command{Kind: &nodev1.Command_SetBlock{SetBlock: &nodev1.SetBlock{UserId: userID("jimin").Bytes(), OtherId: userID("minji").Bytes(), Blocked: true}}})
	do("minji", &nodev1.Command{Kind: &nodev1.Command_Leave{Leave: &nodev1.Leave{RoomId: lunch.Bytes()}}})
	items, shards, err := w.outbox()
	if err != nil {
		t.Fatal(err)
	}
	for i, it := range items {
		do("", applyEffect(it.Effect))
		if i%2 == 0 {
			do("", finishEffects(shards[i], it.Key))
		}
	}
	do("", &nodev1.Command{Kind: &nodev1.Command_RotateRefresh{RotateRefresh: &nodev1.RotateRefresh{UserId: userID("jimin").Bytes(), DeviceId: deviceID("jimin", "phone").Bytes(), Generation: 1}}})
	// An event that contradicts the state: set aside.
	s := w.shardOf(userID("jimin").Partition())
	bad := []*journalv1.Event{{Kind: &journalv1.Event_Blocked{Blocked: &journalv1.Blocked{UserId: userID("jimin").Bytes(), BlockedId: userID("bot").Bytes(), Version: 99}}}}
	if _, err := ApplyRecord(s.state, &journalv1.Record{Rules: 1, TimeMs: w.now, Events: bad}); err != nil {
		t.Fatal(err)
	}
	s.record(w.now, bad)
	return w
}
