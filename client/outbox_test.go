package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bongsu-im/bongsu/client"
	"github.com/bongsu-im/bongsu/client/clienttest"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// direct opens the room of two new people.
func (w *world) direct() (ann, ben *client.Client, roomID string) {
	w.t.Helper()
	ann, ben = w.client("ann"), w.client("ben")
	room, err := ann.OpenDirect(w.t.Context(), ben.UserID())
	if err != nil {
		w.t.Fatal(err)
	}
	return ann, ben, room.GetRoomId()
}

func texts(messages []*edgev1.Message) string {
	var out []string
	for _, m := range messages {
		out = append(out, m.GetText())
	}
	return strings.Join(out, " ")
}

// Under random refusals, lost answers, hangs and cuts every message arrives
// once and each room keeps its order (invariants 2 and 3).
func TestOutboxUnderFaults(t *testing.T) {
	s := seed(t)
	inWorld(t, func(t *testing.T, w *world) {
		random := rand.New(rand.NewPCG(s, 1))
		ann, ben, roomID := w.direct()
		defer ben.Close()
		group, err := ann.CreateGroup(t.Context(), "g", []string{ben.UserID()}, "")
		if err != nil {
			t.Fatal(err)
		}
		faults := 0
		w.Intercept(func(_ string, f *edgev1.ClientFrame) clienttest.Fault {
			if f.GetSend() == nil {
				return clienttest.Fault{}
			}
			n := random.IntN(10)
			if n < 6 {
				faults++
			}
			switch n {
			case 0:
				return clienttest.Fault{Error: fault("unavailable", 0)}
			case 1:
				return clienttest.Fault{Error: fault("resource_exhausted", 0.5)}
			case 2, 3:
				return clienttest.Fault{LoseAnswer: true}
			case 4, 5:
				return clienttest.Fault{Hang: true}
			}
			return clienttest.Fault{}
		})
		conn, done := w.connect(ann, client.ConnectOptions{})
		defer done()
		outbox := client.NewOutbox(conn, client.NewMemoryStore(), client.OutboxOptions{})
		defer outbox.Close()
		var want []string
		var last [2]*client.Sending
		for i := range 60 {
			want = append(want, strconv.Itoa(i))
			for j, room := range []string{roomID, group.GetRoomId()} {
				if last[j], err = outbox.Send(client.Draft{RoomID: room, Text: strconv.Itoa(i)}); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, l := range last {
			if m, err := l.Wait(t.Context()); err != nil || m.GetSeq() != 60 {
				t.Fatalf("last message: %v, %v", m, err)
			}
		}
		for _, room := range []string{roomID, group.GetRoomId()} {
			if got := texts(w.Messages(room)); got != strings.Join(want, " ") {
				t.Errorf("room %s has %s", room, got)
			}
		}
		if faults < 20 {
			t.Errorf("only %d faults fired", faults)
		}
		if n := outbox.Pending(); n != 0 {
			t.Errorf("%d messages pending", n)
		}
	})
}

// A definite refusal leaves the outbox and does not block what is behind it.
func TestOutboxRefusal(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann, ben, roomID := w.direct()
		defer ben.Close()
		conn, done := w.connect(ann, client.ConnectOptions{})
		defer done()
		store := client.NewMemoryStore()
		var refused []string
		outbox := client.NewOutbox(conn, store, client.OutboxOptions{OnRefused: func(e client.Entry, _ error) { refused = append(refused, e.Text) }})
		defer outbox.Close()
		bad, err := outbox.Send(client.Draft{RoomID: roomID, Text: " "})
		if err != nil {
			t.Fatal(err)
		}
		good, err := outbox.Send(client.Draft{RoomID: roomID, Text: "good"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bad.Wait(t.Context()); !errors.Is(err, &client.Error{Reason: "text_empty"}) {
			t.Errorf("bad message: %v", err)
		}
		if m, err := good.Wait(t.Context()); err != nil || m.GetSeq() != 1 {
			t.Errorf("good message: %v, %v", m, err)
		}
		synctest.Wait()
		if e := store.Entries(); len(e) != 1 || e[0].Ack == nil || len(refused) != 1 {
			t.Errorf("stored %v, refused %v", e, refused)
		}
	})
}

// Invariant 11: a session that ends stops the outbox and deletes nothing; the
// next one sends what is there, in order.
func TestOutboxOutlivesSessionAndProcess(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann, ben, roomID := w.direct()
		defer ben.Close()
		conn, done := w.connect(ann, client.ConnectOptions{})
		if err := conn.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.Intercept(func(string, *edgev1.ClientFrame) clienttest.Fault {
			return clienttest.Fault{Error: fault("unavailable", 0)}
		})
		store := client.NewMemoryStore()
		outbox := client.NewOutbox(conn, store, client.OutboxOptions{})
		var first *client.Sending
		for i := range 5 {
			s, err := outbox.Send(client.Draft{RoomID: roomID, Text: strconv.Itoa(i)})
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				first = s
			}
		}
		time.Sleep(time.Minute)
		w.EndSession(ann.Session().DeviceID)
		w.Intercept(nil)
		w.Cut()
		<-conn.Done()
		outbox.Close()
		done()
		if _, err := first.Wait(t.Context()); !errors.Is(err, client.ErrOutboxClosed) {
			t.Errorf("who waited got %v", err)
		}
		if _, err := outbox.Send(client.Draft{RoomID: roomID, Text: "late"}); !errors.Is(err, client.ErrOutboxClosed) {
			t.Errorf("a closed outbox took a message: %v", err)
		}
		again, err := client.New(client.Config{BaseURL: clienttest.BaseURL, HTTPClient: w.http})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := again.SignIn(t.Context(), "ann", "correct horse", ""); err != nil {
			t.Fatal(err)
		}
		conn, done = w.connect(again, client.ConnectOptions{})
		defer done()
		outbox = client.NewOutbox(conn, store, client.OutboxOptions{})
		defer outbox.Close()
		time.Sleep(time.Minute)
		if got := texts(w.Messages(roomID)); got != "0 1 2 3 4" {
			t.Errorf("history is %q", got)
		}
		if outbox.Pending() != 0 {
			t.Errorf("%d pending", outbox.Pending())
		}
	})
}

// When a hello names a shard as lost, what was acknowledged there is sent again
// with its old ID, before anything newer, also by a process that came later.
func TestOutboxSendsLostTailAgain(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%v", restart), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				ann, ben, roomID := w.direct()
				defer ben.Close()
				conn, done := w.connect(ann, client.ConnectOptions{})
				store := client.NewMemoryStore()
				acks := map[string]int{}
				var mu sync.Mutex
				options := client.OutboxOptions{OnAck: func(m *edgev1.Message) {
					mu.Lock()
					defer mu.Unlock()
					acks[m.GetText()]++
				}}
				outbox := client.NewOutbox(conn, store, options)
				for i := range 6 {
					s, err := outbox.Send(client.Draft{RoomID: roomID, Text: strconv.Itoa(i)})
					if err != nil {
						t.Fatal(err)
					}
					if _, err := s.Wait(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				before := w.Messages(roomID)
				w.LoseTail(roomID, 2)
				w.RefuseSockets(1) // so that the newer message is there before the hello
				w.Cut()
				if restart {
					outbox.Close()
					done()
					fresh, err := client.New(client.Config{BaseURL: clienttest.BaseURL, HTTPClient: w.http})
					if err != nil {
						t.Fatal(err)
					}
					fresh.Resume(ann.Session())
					conn, done = w.connect(fresh, client.ConnectOptions{})
					outbox = client.NewOutbox(conn, store, options)
				}
				synctest.Wait()
				s, err := outbox.Send(client.Draft{RoomID: roomID, Text: "new"})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				after := w.Messages(roomID)
				if got := texts(after); got != "0 1 2 3 4 5 new" {
					t.Errorf("history is %q", got)
				}
				for i := range before {
					if i < len(after) && before[i].GetClientId() != after[i].GetClientId() {
						t.Errorf("message %d has another client ID", i)
					}
				}
				mu.Lock()
				if acks["5"] != 2 {
					t.Errorf("the last message was acknowledged %d times, want again", acks["5"])
				}
				mu.Unlock()
				outbox.Close()
				done()
			})
		})
	}
}

// An answer of a later term, got before the first hello, must not hide the loss.
func TestLostTailIsSeenAfterANewerAnswer(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann, ben, roomID := w.direct()
		defer ben.Close()
		conn, done := w.connect(ann, client.ConnectOptions{})
		store := client.NewMemoryStore()
		outbox := client.NewOutbox(conn, store, client.OutboxOptions{})
		s, err := outbox.Send(client.Draft{RoomID: roomID, Text: "old"})
		if err == nil {
			_, err = s.Wait(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		outbox.Close()
		done()
		w.LoseTail(roomID, 0)
		again, err := client.New(client.Config{BaseURL: clienttest.BaseURL, HTTPClient: w.http, JSON: true})
		if err != nil {
			t.Fatal(err)
		}
		again.Resume(ann.Session())
		say(t, again.API, roomID, "newer")
		conn, done = w.connect(again, client.ConnectOptions{})
		defer done()
		if err := conn.Ready(t.Context()); err != nil { // also when hello came before the outbox
			t.Fatal(err)
		}
		outbox = client.NewOutbox(conn, store, client.OutboxOptions{})
		defer outbox.Close()
		synctest.Wait()
		if got := texts(w.Messages(roomID)); got != "newer old" {
			t.Errorf("history is %q", got)
		}
	})
}

func TestOutboxRetention(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann, ben, roomID := w.direct()
		defer ben.Close()
		conn, done := w.connect(ann, client.ConnectOptions{})
		defer done()
		store := client.NewMemoryStore()
		outbox := client.NewOutbox(conn, store, client.OutboxOptions{RetainFor: time.Hour, RetainCount: 3})
		defer outbox.Close()
		send := func() {
			t.Helper()
			s, err := outbox.Send(client.Draft{RoomID: roomID, Text: "x"})
			if err == nil {
				_, err = s.Wait(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for range 10 {
			send()
		}
		synctest.Wait()
		if n := len(store.Entries()); n != 3 {
			t.Errorf("%d retained, want 3", n)
		}
		time.Sleep(2 * time.Hour)
		send()
		synctest.Wait()
		if n := len(store.Entries()); n != 1 {
			t.Errorf("%d retained after two hours, want the new one", n)
		}
	})
}

func TestOutboxBounds(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann, ben, roomID := w.direct()
		defer ben.Close()
		w.RefuseSockets(1 << 20)
		conn, done := w.connect(ann, client.ConnectOptions{})
		defer done()
		outbox := client.NewOutbox(conn, client.NewMemoryStore(), client.OutboxOptions{MaxPending: 2})
		defer outbox.Close()
		d := client.Draft{RoomID: roomID, Text: "x", ClientID: "018f0000-0000-7000-8000-000000000000"}
		if _, err := outbox.Send(d); err != nil {
			t.Fatal(err)
		}
		if _, err := outbox.Send(d); !errors.Is(err, client.ErrInOutbox) {
			t.Errorf("the same ID twice: %v", err)
		}
		d.ClientID = ""
		if _, err := outbox.Send(d); err != nil {
			t.Fatal(err)
		}
		if _, err := outbox.Send(d); !errors.Is(err, client.ErrOutboxFull) {
			t.Errorf("a third message: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s := &client.Sending{}
		if _, err := s.Wait(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Wait with an ended context: %v", err)
		}
	})
}

// A server that always refuses is retried at the budget's pace, not faster.
func TestRetryBudget(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann, ben, _ := w.direct()
		defer ben.Close()
		var rooms []string
		for range 20 {
			r, err := ann.CreateGroup(t.Context(), "g", []string{ben.UserID()}, "")
			if err != nil {
				t.Fatal(err)
			}
			rooms = append(rooms, r.GetRoomId())
		}
		conn, done := w.connect(ann, client.ConnectOptions{})
		defer done()
		if err := conn.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.Intercept(func(string, *edgev1.ClientFrame) clienttest.Fault {
			return clienttest.Fault{Error: fault("unavailable", 0)}
		})
		outbox := client.NewOutbox(conn, client.NewMemoryStore(), client.OutboxOptions{
			Backoff: client.Backoff{Base: time.Millisecond, Max: time.Millisecond},
			Budget:  client.BudgetOptions{Tokens: 10, PerSecond: 1},
		})
		defer outbox.Close()
		for _, r := range rooms {
			if _, err := outbox.Send(client.Draft{RoomID: r, Text: "x"}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(100 * time.Second)
		// 20 first attempts, 10 tokens and 100 earned by time.
		if n := w.Requests("Send"); n < 60 || n > 131 {
			t.Errorf("%d requests in 100 s", n)
		}
	})
}
