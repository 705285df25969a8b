package gateway

import "testing"

func TestTwoPeopleTalkBySocket(t *testing.T) {
	for c := range codecs {
		t.Run(c.String(), func(t *testing.T) {
			w := newWorld(t, nil)
			a, b := w.signUp("ada"), w.signUp("bob")
			room := w.direct(a, b)
			sa, sb := w.open(c, a), w.open(c, b)
			f := sa.send(room, clientID(1), "hello")
			if f.GetSend().GetMessage().GetSeq() != 1 {
				t.Fatalf("send: %v", f)
			}
			for _, s := range []*socket{sa, sb} {
				if m := s.event().GetMessage().GetMessage(); m.GetText() != "hello" || m.GetSeq() != 1 {
					t.Fatalf("event: %v", m)
				}
			}
		})
	}
}

func (w *world) direct(a, b person) string {
	w.t.Helper()
	r := w.rpc(a.access, "RoomService/OpenDirect", map[string]any{"userId": b.id.String()})
	if r.status != 200 {
		w.t.Fatalf("open direct: %s", r.raw)
	}
	return r.body["room"].(map[string]any)["roomId"].(string)
}
