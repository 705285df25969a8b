package echo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bongsu-im/bongsu/client"
	"github.com/bongsu-im/bongsu/client/clienttest"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/google/uuid"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a fake server with the echo friend's account on it.
type world struct {
	*clienttest.Server
	t    *testing.T
	http *http.Client
	echo string // the friend's user ID
}

func inWorld(t *testing.T, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{Server: clienttest.New(), t: t}
		w.http = w.HTTPClient()
		defer func() {
			w.http.CloseIdleConnections()
			w.Close()
		}()
		w.echo = w.person("echo").UserID()
		w.SetBot(w.echo)
		f(t, w)
	})
}

// person signs someone up.
func (w *world) person(login string) *client.Client {
	w.t.Helper()
	c, err := client.New(client.Config{BaseURL: clienttest.BaseURL, HTTPClient: w.http})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := c.SignUp(w.t.Context(), &edgev1.SignUpRequest{Login: login, Password: "password of " + login}); err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) config() Config {
	return Config{BaseURL: clienttest.BaseURL, HTTPClient: w.http, Login: "echo", Password: "password of echo"}
}

// run starts the friend; stop ends it and returns what Run did.
func (w *world) run(cfg Config) (stop func() error) {
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, cfg) }()
	return func() error {
		cancel()
		return <-ended
	}
}

// settle lets everything that is under way happen.
func settle() {
	time.Sleep(time.Minute)
	synctest.Wait()
}

func (w *world) direct(c *client.Client) *edgev1.Room {
	w.t.Helper()
	room, err := c.OpenDirect(w.t.Context(), w.echo)
	if err != nil {
		w.t.Fatal(err)
	}
	return room
}

func (w *world) send(c *client.Client, roomID string, texts ...string) {
	w.t.Helper()
	for _, text := range texts {
		if _, err := c.Send(w.t.Context(), &edgev1.SendRequest{RoomId: roomID, ClientId: uuid.NewString(), Text: text}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// said returns what the friend said in a room, in order.
func (w *world) said(roomID string) (texts []string) {
	for _, m := range w.Messages(roomID) {
		if m.GetSenderId() == w.echo {
			texts = append(texts, m.GetText())
		}
	}
	return texts
}

func (w *world) expect(roomID string, want ...string) {
	w.t.Helper()
	if got := w.said(roomID); !slices.Equal(got, want) {
		w.t.Errorf("the friend said %q, want %q", got, want)
	}
}

// readUpTo returns the friend's read cursor as another member sees it.
func (w *world) readUpTo(c *client.Client, roomID string) uint64 {
	w.t.Helper()
	room, err := c.Room(w.t.Context(), roomID)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range room.GetMembers() {
		if m.GetUserId() == w.echo {
			return m.GetReadSeq()
		}
	}
	return 0
}

func TestGreetsThenSaysBack(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		stop := w.run(w.config())
		settle()
		ann := w.person("ann")
		room := w.direct(ann).GetRoomId()
		settle()
		w.expect(room, greeting)
		w.send(ann, room, "안녕", "hello")
		settle()
		w.expect(room, greeting, "메아리: 안녕", "Echo: hello")
		if got := w.readUpTo(ann, room); got < 3 {
			t.Errorf("read up to %d of Ann's 3", got)
		}
		w.direct(ann) // again
		settle()
		w.expect(room, greeting, "메아리: 안녕", "Echo: hello")
		if err := stop(); !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v", err)
		}
	})
}

// Whoever speaks first needs no greeting.
func TestGreetsNobodyWhoSpokeFirst(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann := w.person("ann")
		room := w.direct(ann).GetRoomId()
		w.send(ann, room, "hi")
		defer w.run(w.config())()
		settle()
		w.expect(room, "Echo: hi")
	})
}

// People see: read, then typing, then the answer.
func TestMarksTypesAnswersInThisOrder(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann := w.person("ann")
		room := w.direct(ann).GetRoomId()
		defer w.run(w.config())()
		settle()
		var seen []string
		conn := ann.Connect(t.Context(), client.ConnectOptions{OnEvent: func(e client.Event) {
			switch {
			case e.Push.GetRead() != nil:
				seen = append(seen, "read")
			case e.Push.GetTyping() != nil:
				seen = append(seen, "typing")
			case e.Push.GetMessage().GetMessage().GetSenderId() == w.echo:
				seen = append(seen, "answer")
			}
		}})
		if err := conn.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.send(ann, room, "hi")
		settle()
		conn.Close()
		if want := []string{"read", "typing", "answer"}; !slices.Equal(seen, want) {
			t.Errorf("Ann saw %q, want %q", seen, want)
		}
	})
}

// A friend that ends between any two of its requests, at every request in
// turn, with the request done or not, still answers each message once.
func TestCrashAtEveryRequest(t *testing.T) {
	for _, lose := range []bool{false, true} {
		reached := true
		for n := 1; reached; n++ {
			reached = false
			inWorld(t, func(t *testing.T, w *world) {
				ann := w.person("ann")
				greeted, busy := w.direct(ann).GetRoomId(), w.direct(w.person("bob")).GetRoomId()
				bob, err := signIn(w, "bob")
				if err != nil {
					t.Fatal(err)
				}
				w.send(bob, busy, "one", "둘", "three")
				ctx, crash := context.WithCancel(t.Context())
				defer crash()
				requests := 0
				w.Intercept(func(user string, f *edgev1.ClientFrame) clienttest.Fault {
					if user != w.echo || f.GetPing() != nil {
						return clienttest.Fault{}
					}
					if requests++; requests < n {
						return clienttest.Fault{}
					}
					reached = true
					crash()
					return clienttest.Fault{LoseAnswer: lose, Hang: !lose}
				})
				ended := make(chan error, 1)
				go func() { ended <- Run(ctx, w.config()) }()
				settle()
				crash()
				<-ended
				w.Intercept(nil)
				w.send(bob, busy, "four")
				stop := w.run(w.config())
				settle()
				w.expect(greeted, greeting)
				w.expect(busy, "Echo: one", "메아리: 둘", "Echo: three", "Echo: four")
				if err := stop(); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				if t.Failed() {
					t.Fatalf("after a crash at request %d (answer lost: %v)", n, lose)
				}
			})
			if n > 100 {
				t.Fatal("the friend never comes to rest")
			}
			if !reached && n < 12 {
				t.Fatalf("only %d requests were reached: the test tests nothing", n-1)
			}
		}
	}
}

func signIn(w *world, login string) (*client.Client, error) {
	c, err := client.New(client.Config{BaseURL: clienttest.BaseURL, HTTPClient: w.http})
	if err != nil {
		return nil, err
	}
	_, err = c.SignIn(w.t.Context(), login, "password of "+login, "phone")
	return c, err
}

// Sockets that are cut, answers that are lost and refusals at random change
// nothing in what is said.
func TestWeather(t *testing.T) {
	seed := rand.Uint64()
	if v, err := strconv.ParseUint(os.Getenv("BONGSU_SEED"), 10, 64); err == nil {
		seed = v
	}
	t.Logf("BONGSU_SEED=%d", seed)
	inWorld(t, func(t *testing.T, w *world) {
		random, sky := rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 2)) // sky is the server's
		faults := 0
		w.Intercept(func(user string, f *edgev1.ClientFrame) clienttest.Fault {
			if user != w.echo || f.GetPing() != nil || sky.IntN(4) > 0 {
				return clienttest.Fault{}
			}
			faults++
			switch sky.IntN(3) {
			case 0:
				return clienttest.Fault{LoseAnswer: true}
			case 1:
				return clienttest.Fault{Hang: true}
			}
			return clienttest.Fault{Error: &edgev1.Error{Code: "resource_exhausted", Info: &edgev1.ErrorInfo{Reason: "queue_full", RetryAfterSeconds: 1}}}
		})
		ann := w.person("ann")
		room := w.direct(ann).GetRoomId()
		stop := w.run(w.config())
		settle()
		var want []string
		for i := range 40 {
			w.send(ann, room, fmt.Sprint("message ", i))
			want = append(want, fmt.Sprint("Echo: message ", i))
			if random.IntN(3) == 0 {
				w.Cut()
			}
			if random.IntN(8) == 0 {
				_ = stop() // a crash; its error is the context's
				stop = w.run(w.config())
			}
			time.Sleep(time.Duration(random.IntN(3000)) * time.Millisecond)
		}
		w.Intercept(nil)
		for range 10 {
			settle()
		}
		w.expect(room, append([]string{greeting}, want...)...)
		if faults < 10 {
			t.Errorf("only %d faults fired", faults)
		}
		_ = stop()
	})
}

// More than a page was written while it was away.
func TestCatchesUpOverPages(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann := w.person("ann")
		room := w.direct(ann).GetRoomId()
		var want []string
		for i := range 2*client.PageLimit + 50 {
			w.send(ann, room, fmt.Sprint("m", i))
			want = append(want, fmt.Sprint("Echo: m", i))
		}
		defer w.run(w.config())()
		for range 5 {
			settle()
		}
		w.expect(room, want...)
	})
}

// What waits is bounded: the newest are answered, all are marked read.
func TestBacklogIsBounded(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann := w.person("ann")
		room := w.direct(ann).GetRoomId()
		for i := range 300 {
			w.send(ann, room, fmt.Sprint("m", i))
		}
		cfg := w.config()
		cfg.MaxBacklog = 3
		defer w.run(cfg)()
		settle()
		w.expect(room, "Echo: m297", "Echo: m298", "Echo: m299")
		if got := w.readUpTo(ann, room); got < 300 {
			t.Errorf("read up to %d", got)
		}
	})
}

func TestRateIsBoundedInARoomAndNotBeyond(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann, bob := w.person("ann"), w.person("bob")
		loud, quiet := w.direct(ann).GetRoomId(), w.direct(bob).GetRoomId()
		cfg := w.config()
		cfg.Burst, cfg.PerSecond, cfg.TypingPause = 5, 1, -1
		defer w.run(cfg)()
		settle()
		for i := range 30 {
			w.send(ann, loud, fmt.Sprint(i, " hey"))
		}
		w.send(bob, quiet, "hi")
		time.Sleep(10*time.Second + time.Millisecond)
		synctest.Wait()
		if n := len(w.said(loud)) - 1; n != 15 {
			t.Errorf("%d answers in 10 s, want 5 at once and 1 a second", n)
		}
		w.expect(quiet, greeting, "Echo: hi")
		settle()
		if n := len(w.said(loud)) - 1; n != 30 {
			t.Errorf("%d answers in the end, want 30", n)
		}
	})
}

// A program that is marked as one is never answered nor greeted, in direct
// rooms and groups.
func TestNeverAnswersBots(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		robot, ann := w.person("robot"), w.person("ann")
		w.SetBot(robot.UserID())
		defer w.run(w.config())()
		settle()
		direct := w.direct(robot).GetRoomId()
		group, err := ann.CreateGroup(t.Context(), "us", []string{robot.UserID(), w.echo}, "")
		if err != nil {
			t.Fatal(err)
		}
		w.send(robot, direct, "hi")
		w.send(robot, group.GetRoomId(), "hi echo")
		settle()
		w.expect(direct)
		w.expect(group.GetRoomId())
		if got := w.readUpTo(ann, group.GetRoomId()); got != 1 {
			t.Errorf("read up to %d, want 1: counters must fall all the same", got)
		}
	})
}

// A program that nobody marked as one, and that says back what it hears, does
// not keep the friend talking for ever.
func TestLoopsEnd(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		twin := w.person("twin")
		room := w.direct(twin).GetRoomId()
		defer w.run(w.config())()
		conn := twin.Connect(t.Context(), client.ConnectOptions{})
		defer conn.Close()
		go func() {
			for m, err := range conn.Follow(t.Context(), room, 0) {
				if err != nil {
					return
				}
				if m.GetSenderId() == w.echo {
					w.send(twin, room, m.GetText())
				}
			}
		}()
		for range 20 {
			settle()
		}
		if n := len(w.said(room)); n > 5 || n < 2 {
			t.Errorf("the friend said %d things to a mirror: %.80q", n, w.said(room))
		}
		conn.Close()
		synctest.Wait()
	})
}

func TestSpeaksInGroupsOnlyWhenNamed(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann, bob := w.person("ann"), w.person("bob")
		group, err := ann.CreateGroup(t.Context(), "us", []string{bob.UserID(), w.echo}, "")
		if err != nil {
			t.Fatal(err)
		}
		room := group.GetRoomId()
		defer w.run(w.config())()
		settle()
		w.send(ann, room, "hello all", "메아리야 뭐 해?", "echoes")
		w.send(bob, room, "and you, echo?")
		settle()
		w.expect(room, "메아리: 메아리야 뭐 해?", "Echo: and you, echo?")
		if got := w.readUpTo(ann, room); got < 4 {
			t.Errorf("read up to %d, want at least 4", got)
		}
	})
}

// Invited later, it answers nothing from before it came.
func TestAnswersNothingFromBeforeItJoined(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann, bob := w.person("ann"), w.person("bob")
		group, err := ann.CreateGroup(t.Context(), "us", []string{bob.UserID()}, "")
		if err != nil {
			t.Fatal(err)
		}
		room := group.GetRoomId()
		w.send(ann, room, "where is echo?")
		defer w.run(w.config())()
		settle()
		if _, err := ann.Invite(t.Context(), room, w.echo); err != nil {
			t.Fatal(err)
		}
		w.send(ann, room, "there you are, echo")
		settle()
		w.expect(room, "Echo: there you are, echo")
	})
}

// Someone who has blocked the friend costs it that room only.
func TestRefusedAnswerIsDropped(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann, bob := w.person("ann"), w.person("bob")
		blocked, open := w.direct(ann).GetRoomId(), w.direct(bob).GetRoomId()
		w.send(ann, blocked, "one", "two")
		w.send(bob, open, "hi")
		refuse := true
		w.Intercept(func(user string, f *edgev1.ClientFrame) clienttest.Fault {
			if user == w.echo && f.GetSend().GetRoomId() == blocked && refuse {
				return clienttest.Fault{Error: &edgev1.Error{Code: "permission_denied", Info: &edgev1.ErrorInfo{Reason: "blocked"}}}
			}
			return clienttest.Fault{}
		})
		defer w.run(w.config())()
		settle()
		w.expect(blocked)
		w.expect(open, "Echo: hi")
		if got := w.readUpTo(ann, blocked); got != 2 {
			t.Errorf("read up to %d, want 2", got)
		}
		sends := w.Requests("Send")
		settle()
		if w.Requests("Send") != sends {
			t.Error("a refused answer is sent again and again")
		}
		refuse = false
		w.send(ann, blocked, "three")
		settle()
		w.expect(blocked, "Echo: three")
	})
}

// A stopped room is left alone until it wakes, then caught up.
func TestStoppedRoomIsLeftAlone(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann := w.person("ann")
		room := w.direct(ann).GetRoomId()
		w.send(ann, room, "one")
		w.Intercept(func(user string, f *edgev1.ClientFrame) clienttest.Fault {
			if user == w.echo && (f.GetSend() != nil || f.GetMarkRead() != nil) {
				return clienttest.Fault{Error: &edgev1.Error{Code: "unavailable", Info: &edgev1.ErrorInfo{Reason: "room_stopped"}}}
			}
			return clienttest.Fault{}
		})
		defer w.run(w.config())()
		settle()
		before := w.Requests("MarkRead")
		settle()
		if after := w.Requests("MarkRead"); before != after || before == 0 {
			t.Errorf("%d, then %d requests on a stopped room", before, after)
		}
		w.Intercept(nil)
		w.send(ann, room, "two")
		settle()
		w.expect(room, "Echo: one", "Echo: two")
	})
}

// After the server lost its tail the friend believes the server, not itself.
func TestLostTail(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann := w.person("ann")
		room := w.direct(ann).GetRoomId()
		defer w.run(w.config())()
		settle()
		w.send(ann, room, "one", "two")
		settle()
		w.LoseTail(room, 2) // the greeting and "one" are left
		w.Cut()
		settle()
		w.expect(room, greeting, "Echo: one")
		w.send(ann, room, "two, again")
		settle()
		w.expect(room, greeting, "Echo: one", "Echo: two, again")
		// Lost again, and overtaken before the friend is back.
		w.LoseTail(room, 3)
		w.Cut()
		w.send(ann, room, "a", "b", "c", "d")
		settle()
		w.expect(room, greeting, "Echo: one", "Echo: a", "Echo: b", "Echo: c", "Echo: d")
	})
}

// With more rooms awake than it may remember, all are served in the end.
func TestMoreRoomsThanRemembered(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfg := w.config()
		cfg.MaxRooms, cfg.MaxInFlight = 3, 2
		defer w.run(cfg)()
		settle()
		rooms := map[string]*client.Client{}
		for i := range 12 {
			c := w.person(fmt.Sprint("person", i))
			rooms[w.direct(c).GetRoomId()] = c
		}
		for room, c := range rooms {
			w.send(c, room, "hi")
		}
		for range 3 {
			settle()
		}
		for room := range rooms {
			if said := w.said(room); len(said) == 0 || said[len(said)-1] != "Echo: hi" {
				t.Errorf("said %q", said)
			}
		}
	})
}

func TestLagMeansALookAround(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann := w.person("ann")
		room := w.direct(ann).GetRoomId()
		defer w.run(w.config())()
		settle()
		before := w.Requests("ListRooms")
		w.Push(w.echo, &edgev1.Event{Event: &edgev1.Event_Lag{Lag: &edgev1.LagEvent{Dropped: 7}}})
		settle()
		if w.Requests("ListRooms") != before+1 {
			t.Errorf("rooms listed %d times", w.Requests("ListRooms")-before)
		}
		w.expect(room, greeting)
	})
}

// Run ends when it cannot go on, so that whoever runs it can start it anew.
func TestRunEndsWithTheReason(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfg := w.config()
		cfg.Password = "wrong"
		if err := Run(t.Context(), cfg); !client.IsRefusal(err) || !strings.Contains(err.Error(), "sign in as echo") {
			t.Errorf("wrong password: %v", err)
		}
		if err := Run(t.Context(), Config{BaseURL: clienttest.BaseURL, HTTPClient: w.http}); err == nil {
			t.Error("runs without a login")
		}
		ended := make(chan error, 1)
		go func() { ended <- Run(t.Context(), w.config()) }()
		settle()
		me, err := signIn(w, "echo")
		if err != nil {
			t.Fatal(err)
		}
		devices, err := me.Devices(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range devices {
			if d.GetName() == deviceName {
				w.EndSession(d.GetDeviceId())
			}
		}
		w.Cut()
		if err := <-ended; !errors.Is(err, client.ErrSignedOut) {
			t.Errorf("signed out: %v", err)
		}
	})
}

// A fault of its own ends the run, not the process it is a guest of.
func TestPanicEndsTheRunOnly(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	f := &friend{fail: cancel}
	f.start(func() { panic("at the disco") })
	f.wg.Wait()
	if err := context.Cause(ctx); err == nil || !strings.Contains(err.Error(), "at the disco") {
		t.Errorf("the run goes on: %v", err)
	}
}
