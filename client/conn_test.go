package client_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bongsu-im/bongsu/client"
	"github.com/bongsu-im/bongsu/client/clienttest"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

func TestConnComesBackAfterCuts(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var ups, downs int
		conn, done := w.connect(w.client("ann"), client.ConnectOptions{OnEvent: func(e client.Event) {
			switch {
			case e.Up != nil:
				ups++
			case e.Down != nil:
				downs++
			}
		}})
		for range 5 {
			if _, err := conn.Me(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.Cut()
			synctest.Wait()
		}
		if _, err := conn.Me(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if ups != 6 || downs != 5 {
			t.Errorf("%d ups and %d downs, want 6 and 5", ups, downs)
		}
		done()
		if !errors.Is(conn.Err(), context.Canceled) {
			t.Errorf("Err after Close = %v", conn.Err())
		}
		if _, err := conn.Me(t.Context()); err == nil || client.IsRetryable(err) {
			t.Errorf("a closed Conn answered %v", err)
		}
	})
}

// A server that refuses at the door is asked ever more rarely, and never before
// the hint.
func TestBackoffGrowsAndKeepsTheHint(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.RefuseSockets(8)
		began := time.Now()
		conn, done := w.connect(w.client("ann"), client.ConnectOptions{Backoff: client.Backoff{Base: time.Second, Max: 10 * time.Second}})
		defer done()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := conn.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		// Eight hints of 2 s each, and jitter of at most 1+2+4+8+10·4 s.
		if d := time.Since(began); d < 16*time.Second || d > 71*time.Second {
			t.Errorf("connected after %s", d)
		}
	})
}

// A server that dies right after hello is not stormed.
func TestBackoffIsNotResetByAHelloAlone(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ups := 0
		_, done := w.connect(w.client("ann"), client.ConnectOptions{
			Backoff: client.Backoff{Base: time.Second, Max: time.Minute},
			OnEvent: func(e client.Event) {
				if e.Up != nil {
					ups++
					go w.Cut()
				}
			},
		})
		time.Sleep(10 * time.Minute)
		done()
		synctest.Wait()
		if ups < 10 || ups > 100 {
			t.Errorf("%d connections in 10 minutes", ups)
		}
	})
}

func TestBackoffLimit(t *testing.T) {
	b := client.Backoff{Base: 100 * time.Millisecond, Max: time.Second}
	for n, want := range []time.Duration{100, 200, 400, 800, 1000, 1000} {
		if got := b.Limit(n); got != want*time.Millisecond {
			t.Errorf("Limit(%d) = %s", n, got)
		}
	}
	if b.Limit(1<<30) != time.Second {
		t.Error("a large attempt overflows")
	}
}

// A request whose answer never comes ends at its deadline; one whose socket
// goes ends at once and says that the outcome is unknown.
func TestDeadlineAndLostConnection(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		conn, done := w.connect(w.client("ann"), client.ConnectOptions{})
		defer done()
		var deadline uint32
		w.Intercept(func(_ string, f *edgev1.ClientFrame) clienttest.Fault {
			if f.GetGetMe() != nil {
				deadline = f.DeadlineMs
				return clienttest.Fault{Hang: true}
			}
			return clienttest.Fault{LoseAnswer: f.GetListRooms() != nil}
		})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		_, err := conn.Me(ctx)
		if !errors.Is(err, &client.Error{Reason: client.ReasonNoAnswer}) || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 3*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		synctest.Wait()
		if deadline == 0 || deadline > 3000 {
			t.Errorf("the server was told a deadline of %d ms", deadline)
		}
		if _, err := conn.Rooms(t.Context()); !errors.Is(err, &client.Error{Reason: client.ReasonConnectionLost}) || !client.IsRetryable(err) {
			t.Errorf("lost answer: %v", err)
		}
	})
}

func TestClassIsCarried(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		conn, done := w.connect(w.client("ann"), client.ConnectOptions{})
		defer done()
		var class edgev1.Class
		w.Intercept(func(_ string, f *edgev1.ClientFrame) clienttest.Fault {
			class = f.Class
			return clienttest.Fault{}
		})
		if _, err := conn.Rooms(client.WithClass(t.Context(), edgev1.Class_CLASS_TAB)); err != nil || class != edgev1.Class_CLASS_TAB {
			t.Errorf("class %v, %v", class, err)
		}
	})
}

// Pings keep a silent socket alive; a server that falls silent is left.
func TestHeartbeat(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.Heartbeat = 10
		ups := 0
		_, done := w.connect(w.client("ann"), client.ConnectOptions{OnEvent: func(e client.Event) {
			if e.Up != nil {
				ups++
			}
		}})
		defer done()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if ups != 1 || w.Requests("Ping") < 30 {
			t.Errorf("%d connections, %d pings in 5 minutes of silence", ups, w.Requests("Ping"))
		}
		w.Intercept(func(_ string, f *edgev1.ClientFrame) clienttest.Fault {
			return clienttest.Fault{Hang: f.GetPing() != nil}
		})
		time.Sleep(40 * time.Second)
		synctest.Wait()
		if ups < 2 {
			t.Error("a server that answers no ping was not left")
		}
	})
}

// A drain moves the client without losing the request under way.
func TestDrain(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ups := 0
		ann := w.client("ann")
		conn, done := w.connect(ann, client.ConnectOptions{OnEvent: func(e client.Event) {
			if e.Up != nil {
				ups++
			}
		}})
		defer done()
		if err := conn.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.Push(ann.UserID(), &edgev1.Event{Event: &edgev1.Event_Drain{Drain: &edgev1.DrainEvent{WithinMs: 5000}}})
		began := time.Now()
		for time.Since(began) < 10*time.Second {
			if _, err := conn.Me(t.Context()); err != nil {
				t.Fatalf("a request failed in the drain: %v", err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		synctest.Wait()
		if ups != 2 {
			t.Errorf("%d connections, want 2", ups)
		}
	})
}

// A handler that is slow loses events, and is told so; answers still come.
func TestFullQueueBecomesALagEvent(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann := w.client("ann")
		gate := make(chan struct{})
		var pushed, dropped uint64
		conn, done := w.connect(ann, client.ConnectOptions{Queue: 4, OnEvent: func(e client.Event) {
			<-gate
			if lag := e.Push.GetLag(); lag != nil {
				dropped += lag.GetDropped()
			} else if e.Push != nil {
				pushed++
			}
		}})
		if err := conn.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 50 {
			w.Push(ann.UserID(), &edgev1.Event{Event: &edgev1.Event_Typing{Typing: &edgev1.TypingEvent{}}})
		}
		if _, err := conn.Me(t.Context()); err != nil {
			t.Errorf("a full queue held up an answer: %v", err)
		}
		close(gate)
		synctest.Wait()
		if dropped == 0 || pushed+dropped != 50 {
			t.Errorf("%d delivered and %d dropped of 50", pushed, dropped)
		}
		done()
	})
}

func TestRevokedDeviceEndsTheConn(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann := w.client("ann")
		conn, done := w.connect(ann, client.ConnectOptions{})
		defer done()
		if err := conn.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.EndSession(ann.Session().DeviceID)
		w.Cut()
		<-conn.Done()
		if !errors.Is(conn.Err(), client.ErrSignedOut) {
			t.Errorf("Err = %v", conn.Err())
		}
		if _, err := conn.Me(t.Context()); !errors.Is(err, client.ErrSignedOut) {
			t.Errorf("request = %v", err)
		}
	})
}

// The socket outlives its token; the next hello brings a fresh one.
func TestReconnectWithAnOldToken(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		conn, done := w.connect(w.client("ann"), client.ConnectOptions{})
		defer done()
		if err := conn.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * w.TokenLife)
		w.Cut()
		synctest.Wait()
		if _, err := conn.Me(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
