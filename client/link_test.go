package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"github.com/bongsu-im/bongsu/client"
	"github.com/bongsu-im/bongsu/client/clienttest"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// Callers who give up at any moment leave nothing behind that a later request
// could take for its answer. In real time, where goroutines do race.
func TestAnswersAreNeverMixedUp(t *testing.T) {
	random := rand.New(rand.NewPCG(seed(t), 0))
	s := clienttest.New()
	h := s.HTTPClient()
	defer func() {
		h.CloseIdleConnections()
		s.Close()
	}()
	c, err := client.New(client.Config{BaseURL: clienttest.BaseURL, HTTPClient: h})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.SignUp(t.Context(), &edgev1.SignUpRequest{Login: "ann", Password: "password"}); err != nil {
		t.Fatal(err)
	}
	conn := c.Connect(t.Context(), client.ConnectOptions{Queue: -1})
	defer conn.Close()
	room, err := conn.OpenDirect(t.Context(), c.UserID())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	answered, gaveUp := 0, 0
	for who := range 20 {
		patience := rand.New(rand.NewPCG(random.Uint64(), 0))
		wg.Go(func() {
			for n := range 40 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(patience.IntN(3000))*time.Microsecond)
				if n%4 == 0 {
					cancel()
					ctx, cancel = t.Context(), func() {}
				}
				id := fmt.Sprintf("%d-%d", who, n)
				r, err := conn.Send(ctx, &edgev1.SendRequest{RoomId: room.GetRoomId(), ClientId: id, Text: id})
				cancel()
				mu.Lock()
				switch {
				case err != nil && errors.Is(err, context.DeadlineExceeded):
					gaveUp++
				case err != nil:
					t.Errorf("%s: %v", id, err)
				case r.GetMessage().GetClientId() != id:
					t.Errorf("%s was answered with %s", id, r.GetMessage().GetClientId())
				default:
					answered++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if answered < 200 || gaveUp == 0 {
		t.Errorf("%d answered, %d gave up: both must happen", answered, gaveUp)
	}
}

// A socket that takes no frames holds nobody longer than they wanted to wait,
// and is given up for another.
func TestStuckSocketIsGivenUp(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		conn, done := w.connect(w.client("ann"), client.ConnectOptions{})
		defer done()
		if err := conn.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		stuck := make(chan struct{})
		blocking := true
		w.Intercept(func(string, *edgev1.ClientFrame) clienttest.Fault {
			if blocking { // the server reads no further
				blocking = false
				<-stuck
			}
			return clienttest.Fault{}
		})
		began := time.Now()
		var wg sync.WaitGroup
		ask := func(within time.Duration) {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), within)
				defer cancel()
				_, err := conn.Me(ctx)
				var e *client.Error
				if !errors.As(err, &e) || e.Code != connect.CodeDeadlineExceeded && e.Reason != client.ReasonConnectionLost || time.Since(began) > within {
					t.Errorf("within %s: %v after %s", within, err, time.Since(began))
				}
			})
			synctest.Wait()
		}
		ask(20 * time.Second)       // taken, and not answered: lost with the socket
		ask(3 * time.Second)        // not taken
		ask(100 * time.Millisecond) // waits for its turn to write
		wg.Wait()
		if d := time.Since(began); d != 3*time.Second {
			t.Errorf("the socket was given up after %s", d)
		}
		close(stuck)
		synctest.Wait() // until the Conn knows, a request may still be put on the dead socket, and be lost with it
		if _, err := conn.Me(t.Context()); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}
