package client_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bongsu-im/bongsu/client"
	"github.com/bongsu-im/bongsu/client/clienttest"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

func say(t *testing.T, c client.API, roomID, text string) {
	t.Helper()
	id, err := client.NewMessageID(time.Now(), rand.NewChaCha8([32]byte([]byte(text + "                                ")[:32])))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Send(t.Context(), &edgev1.SendRequest{RoomId: roomID, ClientId: id, Text: text}); err != nil {
		t.Fatal(err)
	}
}

// While sockets are cut and history fails now and then, a follower gets each
// message once and in order (invariant 2).
func TestFollowUnderFaults(t *testing.T) {
	s := seed(t)
	inWorld(t, func(t *testing.T, w *world) {
		random := rand.New(rand.NewPCG(s, 2))
		ann, ben, roomID := w.direct()
		defer ann.Close()
		for i := range 450 { // more than two pages before it begins
			say(t, ann.API, roomID, strconv.Itoa(i))
		}
		w.Intercept(func(_ string, f *edgev1.ClientFrame) clienttest.Fault {
			if f.GetList() != nil && random.IntN(3) == 0 {
				return clienttest.Fault{Error: fault("unavailable", 0.1)}
			}
			return clienttest.Fault{}
		})
		conn, done := w.connect(ben, client.ConnectOptions{Backoff: client.Backoff{Base: 10 * time.Millisecond, Max: 100 * time.Millisecond}})
		defer done()
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			random := rand.New(rand.NewPCG(s, 3))
			for i := 450; i < 900; i++ {
				say(t, ann.API, roomID, strconv.Itoa(i))
				if random.IntN(20) == 0 {
					w.Cut()
				}
				time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
			}
		})
		next := uint64(1)
		for m, err := range conn.Follow(t.Context(), roomID, 0) {
			if err != nil {
				t.Fatal(err)
			}
			if m.GetSeq() != next || m.GetText() != strconv.Itoa(int(next-1)) {
				t.Fatalf("got %d %q, want seq %d", m.GetSeq(), m.GetText(), next)
			}
			if next == 900 {
				break
			}
			next++
		}
	})
}

// A loop that is too slow for its inbox is caught up from history.
func TestFollowSlowly(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann, ben, roomID := w.direct()
		defer ann.Close()
		say(t, ann.API, roomID, "first")
		conn, done := w.connect(ben, client.ConnectOptions{Queue: -1})
		defer done()
		next := uint64(0)
		for m, err := range conn.Follow(t.Context(), roomID, 0) {
			if err != nil || m.GetSeq() != next+1 {
				t.Fatalf("after %d: %v, %v", next, m, err)
			}
			if next++; next == 1000 {
				break
			}
			if next == 1 {
				for i := range 999 {
					say(t, ann.API, roomID, strconv.Itoa(i))
				}
				synctest.Wait()
			}
		}
		if next != 1000 {
			t.Errorf("%d messages", next)
		}
	})
}

func TestFollowEndsWithItsContext(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann, ben, roomID := w.direct()
		defer ann.Close()
		conn, done := w.connect(ben, client.ConnectOptions{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for _, err := range conn.Follow(ctx, roomID, 0) {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("ended with %v", err)
			}
		}
		ended := make(chan error)
		go func() {
			for _, err := range conn.Follow(t.Context(), roomID, 0) {
				ended <- err
			}
		}()
		synctest.Wait()
		done()
		if err := <-ended; err == nil {
			t.Error("a closed Conn ended Follow without an error")
		}
	})
}

func TestFollowReportsHolesAndLostTails(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann, ben, roomID := w.direct()
		defer ann.Close()
		for i := range 10 {
			say(t, ann.API, roomID, strconv.Itoa(i))
		}
		conn, done := w.connect(ben, client.ConnectOptions{})
		defer done()
		w.DropMessage(roomID, 5)
		var hole *client.HoleError
		for _, err := range conn.Follow(t.Context(), roomID, 0) {
			if err != nil && (!errors.As(err, &hole) || hole.From != 5 || hole.To != 5) {
				t.Errorf("hole reported as %v", err)
			}
		}
		if hole == nil {
			t.Error("a hole was not reported")
		}
		var rewound *client.RewoundError
		for m, err := range conn.Follow(t.Context(), roomID, 5) {
			if m.GetSeq() == 10 {
				w.LoseTail(roomID, 7)
				w.Cut()
			}
			if err != nil && (!errors.As(err, &rewound) || rewound.Seen != 10 || rewound.LastSeq != 7) {
				t.Errorf("lost tail reported as %v", err)
			}
		}
		if rewound == nil {
			t.Error("a lost tail was not reported")
		}
	})
}

// A replica may be behind the one that brought the news: what ends too early is
// read again for a while before it counts as lost.
func TestFollowForgivesAReplicaThatIsBehind(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann, ben, roomID := w.direct()
		defer ann.Close()
		for i := range 5 {
			say(t, ann.API, roomID, strconv.Itoa(i))
		}
		conn, done := w.connect(ben, client.ConnectOptions{})
		defer done()
		for m, err := range conn.Follow(t.Context(), roomID, 0) {
			if err != nil {
				t.Fatal(err)
			}
			if m.GetText() == "after" {
				break
			}
			if m.GetSeq() != 5 {
				continue
			}
			w.LoseTail(roomID, 4)
			w.Cut()
			go func() {
				time.Sleep(2 * time.Second)
				say(t, ann.API, roomID, "4")
				say(t, ann.API, roomID, "after")
			}()
		}
	})
}

// Who is invited again has a gap that is no hole.
func TestFollowOverARejoin(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann, ben, _ := w.direct()
		defer ann.Close()
		room, err := ann.CreateGroup(t.Context(), "g", []string{ben.UserID()}, "")
		if err != nil {
			t.Fatal(err)
		}
		say(t, ann.API, room.GetRoomId(), "before")
		if err := ben.Leave(t.Context(), room.GetRoomId()); err != nil {
			t.Fatal(err)
		}
		say(t, ann.API, room.GetRoomId(), "not for ben")
		if _, err := ann.Invite(t.Context(), room.GetRoomId(), ben.UserID()); err != nil {
			t.Fatal(err)
		}
		say(t, ann.API, room.GetRoomId(), "after")
		conn, done := w.connect(ben, client.ConnectOptions{})
		defer done()
		for m, err := range conn.Follow(t.Context(), room.GetRoomId(), 1) {
			if err != nil || m.GetText() != "after" {
				t.Errorf("got %v, %v", m, err)
			}
			break
		}
	})
}
