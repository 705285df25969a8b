package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"github.com/bongsu-im/bongsu/client"
	"github.com/bongsu-im/bongsu/client/clienttest"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// seed of a random test, printed so that BONGSU_SEED replays it.
func seed(t *testing.T) uint64 {
	t.Helper()
	s := rand.Uint64()
	if v, err := strconv.ParseUint(os.Getenv("BONGSU_SEED"), 10, 64); err == nil {
		s = v
	}
	t.Logf("BONGSU_SEED=%d", s)
	return s
}

// world is a fake server and the clients of one test.
type world struct {
	*clienttest.Server
	t    *testing.T
	http *http.Client
}

// inWorld runs a test in a bubble of fake time with a server of its own.
func inWorld(t *testing.T, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{Server: clienttest.New(), t: t}
		w.http = w.HTTPClient()
		defer func() {
			w.http.CloseIdleConnections()
			w.Close()
		}()
		f(t, w)
	})
}

func (w *world) client(login string) *client.Client {
	w.t.Helper()
	c, err := client.New(client.Config{BaseURL: clienttest.BaseURL, HTTPClient: w.http})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := c.SignUp(w.t.Context(), &edgev1.SignUpRequest{Login: login, Password: "correct horse"}); err != nil {
		w.t.Fatalf("sign up %s: %v", login, err)
	}
	return c
}

// connect returns a Conn that is closed at the end of the test's function.
func (w *world) connect(c *client.Client, o client.ConnectOptions) (*client.Conn, func()) {
	n := c.Connect(w.t.Context(), o)
	return n, func() { n.Close(); c.Close() }
}

func fault(code string, seconds float64) *edgev1.Error {
	return &edgev1.Error{Code: code, Info: &edgev1.ErrorInfo{Reason: "planted", RetryAfterSeconds: seconds}}
}

func TestMethodsByRPCAndBySocket(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann, ben := w.client("ann"), w.client("ben")
		conn, done := w.connect(ann, client.ConnectOptions{})
		defer done()
		defer ben.Close()
		for name, api := range map[string]client.API{"rpc": ann.API, "socket": conn.API} {
			ctx := t.Context()
			if me, err := api.Me(ctx); err != nil || me.GetLogin() != "ann" {
				t.Errorf("%s: Me = %v, %v", name, me, err)
			}
			found, err := api.Find(ctx, "ben")
			if err != nil || found.GetUserId() != ben.UserID() {
				t.Fatalf("%s: Find = %v, %v", name, found, err)
			}
			room, err := api.OpenDirect(ctx, found.GetUserId())
			if err != nil || len(room.GetMembers()) != 2 {
				t.Fatalf("%s: OpenDirect = %v, %v", name, room, err)
			}
			sent, err := api.Send(ctx, &edgev1.SendRequest{RoomId: room.RoomId, ClientId: "018f0000-0000-7000-8000-000000000000", Text: "hi"})
			if err != nil || sent.GetMessage().GetSeq() != 1 {
				t.Errorf("%s: Send = %v, %v", name, sent, err)
			}
			page, err := ben.ListAfter(ctx, room.RoomId, 0)
			if err != nil || len(page.GetMessages()) != 1 {
				t.Errorf("%s: ListAfter = %v, %v", name, page, err)
			}
			if err := api.MarkRead(ctx, room.RoomId, 1); err != nil {
				t.Errorf("%s: MarkRead: %v", name, err)
			}
			if rooms, err := api.Rooms(ctx); err != nil || len(rooms) != 1 {
				t.Errorf("%s: Rooms = %v, %v", name, rooms, err)
			}
			if _, err = api.Find(ctx, "nobody"); !errors.Is(err, &client.Error{Code: connect.CodeNotFound, Reason: "user_unknown"}) || client.IsRetryable(err) {
				t.Errorf("%s: Find(nobody) = %v, want a refusal with the server's reason", name, err)
			}
		}
		if p := ann.Positions(); len(p) == 0 {
			t.Error("no position was noted")
		}
	})
}

func TestRefusalsAreTypedByRPCAndBySocket(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ann := w.client("ann")
		conn, done := w.connect(ann, client.ConnectOptions{})
		defer done()
		if err := conn.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.Intercept(func(string, *edgev1.ClientFrame) clienttest.Fault {
			return clienttest.Fault{Error: fault("resource_exhausted", 2.5)}
		})
		for name, api := range map[string]client.API{"rpc": ann.API, "socket": conn.API} {
			_, err := api.Me(t.Context())
			var e *client.Error
			if !errors.As(err, &e) || e.Code != connect.CodeResourceExhausted || e.Reason != "planted" || e.RetryAfter != 2500*time.Millisecond {
				t.Errorf("%s: %#v", name, err)
			}
			if !client.IsRetryable(err) || client.IsRefusal(err) {
				t.Errorf("%s: a refusal with a hint is to be retried: %v", name, err)
			}
		}
	})
}

func TestIsRetryable(t *testing.T) {
	for _, c := range []struct {
		err              error
		retryable, final bool
	}{
		{&client.Error{Code: connect.CodeUnavailable}, true, false},
		{&client.Error{Code: connect.CodeDeadlineExceeded}, true, false},
		{&client.Error{Code: connect.CodeInternal}, true, false},
		{&client.Error{Code: connect.CodeResourceExhausted, RetryAfter: 1}, true, false},
		{&client.Error{Code: connect.CodeResourceExhausted}, false, true},
		{&client.Error{Code: connect.CodeInvalidArgument}, false, true},
		{&client.Error{Code: connect.CodePermissionDenied, RetryAfter: 1}, false, true},
		{&client.Error{Code: connect.CodeCanceled}, false, false},
		{context.Canceled, false, false},
		{fmt.Errorf("wrapped: %w", &client.Error{Code: connect.CodeUnavailable}), true, false},
	} {
		if client.IsRetryable(c.err) != c.retryable || client.IsRefusal(c.err) != c.final {
			t.Errorf("%v: retryable %v, refusal %v", c.err, client.IsRetryable(c.err), client.IsRefusal(c.err))
		}
	}
}

// Many calls with an old token make one refresh between them.
func TestRefreshIsSingleFlight(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var stored []client.Session
		c, err := client.New(client.Config{BaseURL: clienttest.BaseURL, HTTPClient: w.http, OnSession: func(s client.Session) error {
			stored = append(stored, s)
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.SignUp(t.Context(), &edgev1.SignUpRequest{Login: "ann", Password: "correct horse"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(w.TokenLife + time.Second) // fake time
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := c.Me(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := w.Requests("Refresh"); n != 1 {
			t.Errorf("%d refreshes, want 1", n)
		}
		if len(stored) != 2 || stored[1] != c.Session() {
			t.Errorf("stored %d sessions, want 2, the last being the current", len(stored))
		}
	})
}

// A clock that is a day fast must not refresh before every call.
func TestWrongClockDoesNotStormRefresh(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c, err := client.New(client.Config{BaseURL: clienttest.BaseURL, HTTPClient: w.http, Clock: fast{}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.SignUp(t.Context(), &edgev1.SignUpRequest{Login: "ann", Password: "correct horse"}); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			if _, err := c.Me(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if n := w.Requests("Refresh"); n > 1 {
			t.Errorf("%d refreshes in a moment", n)
		}
	})
}

type fast struct{}

func (fast) Now() time.Time { return time.Now().Add(24 * time.Hour) }

// Invariant 11: an outage never signs anyone out; the server's definite word does.
func TestOutageKeepsTheSession(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := w.client("ann")
		defer c.Close()
		w.Intercept(func(string, *edgev1.ClientFrame) clienttest.Fault {
			return clienttest.Fault{Error: fault("unavailable", 0)}
		})
		time.Sleep(w.TokenLife)
		if err := c.Refresh(t.Context()); !client.IsRetryable(err) {
			t.Fatalf("refresh in an outage: %v", err)
		}
		w.Intercept(nil)
		if _, err := c.Me(t.Context()); err != nil {
			t.Fatalf("after the outage: %v", err)
		}
		w.EndSession(c.Session().DeviceID)
		if _, err := c.Me(t.Context()); !errors.Is(err, client.ErrSignedOut) {
			t.Fatalf("after the device was revoked: %v", err)
		}
		n := w.Requests("Refresh")
		if _, err := c.Me(t.Context()); !errors.Is(err, client.ErrSignedOut) || w.Requests("Refresh") != n {
			t.Fatalf("an ended session asked again: %v", err)
		}
	})
}
