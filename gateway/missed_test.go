package gateway

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// Whoever may have missed what happened in a partition is asked to say hello
// again, one after the other: people at home there and members of a room there.
// Nobody else is.
func TestMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a, b, c := w.signUp("ada"), w.signUp("bob"), w.signUp("cho")
		room, err := id.Parse(id.Room, w.direct(a, b))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []person{a, b, c} {
			if p.id.Partition() == room.Partition() {
				t.Fatal("the test needs the room elsewhere than its people")
			}
		}
		member, other, apart := w.open(binaryCodec, a), w.open(binaryCodec, b), w.open(binaryCodec, c)
		synctest.Wait()
		began := time.Now()
		if err := w.g.Missed(t.Context(), 2*time.Second, func(p id.Partition) bool { return p == room.Partition() }); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("it took %v", took)
		}
		for _, s := range []*socket{member, other} {
			if code := s.closeOf(); code != websocket.StatusServiceRestart {
				t.Errorf("a member's session was closed with %v", code)
			}
		}
		if f := apart.ask(&edgev1.ClientFrame{Request: &edgev1.ClientFrame_ListRooms{ListRooms: &edgev1.ListRoomsRequest{}}}); f.GetListRooms() == nil {
			t.Errorf("the session of someone else: %v", f)
		}
		again := w.open(binaryCodec, a)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := w.g.Missed(ended, time.Minute, func(p id.Partition) bool { return p == a.id.Partition() }); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		if err := w.g.Missed(t.Context(), 0, func(p id.Partition) bool { return p == c.id.Partition() }); err != nil {
			t.Fatal(err)
		}
		if code := apart.closeOf(); code != websocket.StatusServiceRestart {
			t.Errorf("someone at home there was closed with %v", code)
		}
		if f := again.ask(&edgev1.ClientFrame{Request: &edgev1.ClientFrame_ListRooms{ListRooms: &edgev1.ListRoomsRequest{}}}); f.GetListRooms() == nil {
			t.Errorf("a session that came again: %v", f)
		}
	})
}
