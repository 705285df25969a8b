package gateway

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTwoPeopleTalkByRPC(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.signUp("ada"), w.signUp("bob")
	found := w.rpc(a.access, "PeopleService/Find", map[string]any{"login": "BOB"})
	if u, _ := found.body["user"].(map[string]any); u["userId"] != b.id.String() {
		t.Fatalf("find: %s", found.raw)
	}
	open := w.rpc(a.access, "RoomService/OpenDirect", map[string]any{"userId": b.id.String()})
	room, _ := open.body["room"].(map[string]any)
	roomID, _ := room["roomId"].(string)
	if roomID == "" || room["kind"] != "ROOM_KIND_DIRECT" {
		t.Fatalf("open: %s", open.raw)
	}
	for range 2 {
		sent := w.rpc(a.access, "MessageService/Send", map[string]any{"roomId": roomID, "clientId": clientID(1), "text": "안녕"})
		if m, _ := sent.body["message"].(map[string]any); m["seq"] != "1" || m["text"] != "안녕" {
			t.Fatalf("send: %s", sent.raw)
		}
	}
	list := w.rpc(b.access, "MessageService/List", map[string]any{"roomId": roomID})
	if m, _ := list.body["messages"].([]any); len(m) != 1 {
		t.Fatalf("list: %s", list.raw)
	}
	if r := w.rpc(b.access, "MessageService/MarkRead", map[string]any{"roomId": roomID, "seq": "1"}); r.status != 200 {
		t.Fatalf("mark read: %s", r.raw)
	}
	if r := w.rpc(b.access, "MessageService/MarkRead", map[string]any{"roomId": roomID, "seq": "2"}); r.code() != "invalid_argument" {
		t.Fatalf("mark read beyond the end: %s", r.raw)
	}
}
