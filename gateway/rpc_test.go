package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"

	"github.com/bongsu-im/bongsu/gateway/auth"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/bongsu-im/bongsu/gen/bongsu/edge/v1/edgev1connect"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/overload"
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

// Every method is reachable by JSON and hands the backend what was asked.
func TestEveryMethod(t *testing.T) {
	w := newWorld(t, nil)
	a, b, c := w.signUp("ada"), w.signUp("bob"), w.signUp("eve")
	var group string
	for _, step := range []struct {
		method string
		body   map[string]any
		want   string // a piece of the answer
	}{
		{"AccountService/GetMe", nil, `"login":"ada"`},
		{"AccountService/ListDevices", nil, `"current":true`},
		{"PeopleService/AddFriend", map[string]any{"userId": b.id.String()}, `"login":"bob"`},
		{"PeopleService/ListFriends", nil, b.id.String()},
		{"PeopleService/RemoveFriend", map[string]any{"userId": b.id.String()}, `{}`},
		{"PeopleService/ListFriends", nil, `{"friends":[],"blocked":[]}`},
		{"PeopleService/Block", map[string]any{"userId": c.id.String()}, `{}`},
		{"PeopleService/ListFriends", nil, `"blocked":[{"userId":"` + c.id.String()},
		{"PeopleService/Unblock", map[string]any{"userId": c.id.String()}, `{}`},
		{"RoomService/OpenDirect", map[string]any{"userId": a.id.String()}, `"memberCount":1`},
		{"RoomService/CreateGroup", map[string]any{"title": "셋", "userIds": []string{b.id.String(), a.id.String(), b.id.String()}, "clientId": clientID(9)}, `"memberCount":2`},
		{"RoomService/CreateGroup", map[string]any{"title": "셋", "clientId": clientID(9)}, `"memberCount":2`},
		{"RoomService/Invite", map[string]any{"userIds": []string{c.id.String()}}, `"memberCount":3`},
		{"RoomService/Invite", map[string]any{"userIds": []string{a.id.String()}}, `"memberCount":3`},
		{"RoomService/SetTitle", map[string]any{"title": " four "}, `"title":"four"`},
		{"RoomService/GetRoom", map[string]any{}, `"title":"four"`},
		{"RoomService/ListRooms", nil, `"title":"four"`},
		{"RoomService/Leave", map[string]any{}, `{}`},
		{"AccountService/RevokeDevice", map[string]any{"all": true}, `{}`},
	} {
		if step.body == nil {
			step.body = map[string]any{}
		} else if strings.HasPrefix(step.method, "RoomService") && group != "" && step.body["clientId"] == nil {
			step.body["roomId"] = group
		}
		r := w.rpc(a.access, step.method, step.body)
		if r.status != 200 || !strings.Contains(strings.ReplaceAll(r.raw, " ", ""), step.want) {
			t.Fatalf("%s %v: %d %s, want %s", step.method, step.body, r.status, r.raw, step.want)
		}
		if room, ok := r.body["room"].(map[string]any); ok && step.method == "RoomService/CreateGroup" {
			group = room["roomId"].(string)
		}
	}
	if group != id.Group(a.id, uuidBytes(9)).String() {
		t.Errorf("the group's ID %s does not come from creator and clientId", group)
	}
}

func uuidBytes(n int) []byte {
	b, err := clientUUID("", clientID(n))
	if err != nil {
		panic(err)
	}
	return b
}

func TestRefusalsByRPC(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.signUp("ada"), w.signUp("bob")
	w.rpc(b.access, "PeopleService/Block", map[string]any{"userId": a.id.String()})
	nobody := id.New(0, id.User, 7, []byte("nobody")).String()
	noRoom := id.New(0, id.Room, 7, []byte("nowhere")).String()
	stale := w.g.keys.SignAccess(auth.Access{User: a.id, Device: a.device, Generation: 1, Expires: time.Now().Add(-time.Minute)})
	for name, c := range map[string]struct {
		token, method string
		body          any
		status        int
		code, reason  string
	}{
		"no token":           {"", "AccountService/GetMe", "{}", 401, "unauthenticated", "access_token"},
		"garbage token":      {"abc", "AccountService/GetMe", "{}", 401, "unauthenticated", "access_token"},
		"refresh as access":  {a.refresh, "AccountService/GetMe", "{}", 401, "unauthenticated", "access_token"},
		"huge token":         {strings.Repeat("x", 5000), "AccountService/GetMe", "{}", 401, "unauthenticated", "access_token"},
		"ended token":        {stale, "AccountService/GetMe", "{}", 401, "unauthenticated", "token_expired"},
		"not JSON":           {a.access, "MessageService/Send", "{", 400, "invalid_argument", ""},
		"wrong type":         {a.access, "MessageService/Send", `{"text":5}`, 400, "invalid_argument", ""},
		"too large":          {a.access, "MessageService/Send", `{"text":"` + strings.Repeat("x", maxFrameBytes) + `"}`, 400, "invalid_argument", "message_too_large"},
		"unknown method":     {a.access, "MessageService/Shout", "{}", 404, "", ""},
		"unknown service":    {a.access, "ShoutService/Shout", "{}", 404, "", ""},
		"unknown field":      {a.access, "AccountService/GetMe", `{"novel":{"a":[1]}}`, 200, "", ""},
		"bad room":           {a.access, "MessageService/Send", map[string]any{"roomId": "r1"}, 400, "invalid_argument", "bad_id"},
		"user as room":       {a.access, "MessageService/Send", map[string]any{"roomId": a.id.String()}, 400, "invalid_argument", "bad_id"},
		"unknown room":       {a.access, "MessageService/Send", map[string]any{"roomId": noRoom, "clientId": clientID(1), "text": "x"}, 404, "not_found", "room_unknown"},
		"unknown user":       {a.access, "RoomService/OpenDirect", map[string]any{"userId": nobody}, 404, "not_found", "user_unknown"},
		"unknown friend":     {a.access, "PeopleService/AddFriend", map[string]any{"userId": nobody}, 404, "not_found", "user_unknown"},
		"unknown login":      {a.access, "PeopleService/Find", map[string]any{"login": "nobody"}, 404, "not_found", "user_unknown"},
		"befriend oneself":   {a.access, "PeopleService/AddFriend", map[string]any{"userId": a.id.String()}, 400, "invalid_argument", "yourself"},
		"create, blocked":    {a.access, "RoomService/CreateGroup", map[string]any{"userIds": []string{b.id.String()}}, 403, "permission_denied", "blocked_by_invitee"},
		"taken login":        {"", "AccountService/SignUp", map[string]any{"login": "ADA", "password": "password"}, 409, "already_exists", "login_taken"},
		"both pages":         {a.access, "MessageService/List", map[string]any{"roomId": noRoom, "beforeSeq": "5", "afterSeq": "0"}, 400, "invalid_argument", "before_and_after"},
		"nobody invited":     {a.access, "RoomService/Invite", map[string]any{"roomId": noRoom}, 400, "invalid_argument", "no_ids"},
		"revoke two ways":    {a.access, "AccountService/RevokeDevice", map[string]any{"all": true, "deviceId": a.device.String()}, 400, "invalid_argument", "both"},
		"foreign refresh":    {"", "AccountService/Refresh", map[string]any{"refreshToken": a.access}, 401, "unauthenticated", "refresh_token"},
		"positions, too far": {a.access, "RoomService/ListRooms", map[string]any{"atLeast": []any{map[string]any{"shard": 4096}}}, 400, "invalid_argument", "bad_shard"},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.rpc(c.token, c.method, c.body)
			if r.status != c.status || r.code() != c.code {
				t.Fatalf("%d %s, want %d %s", r.status, r.raw, c.status, c.code)
			}
			if c.reason != "" && r.info()["reason"] != c.reason {
				t.Fatalf("reason in %s, want %s", r.raw, c.reason)
			}
		})
	}
}

// The same answer, and the same work, for who does not exist.
func TestUnknownUserLooksLikeAWrongPassword(t *testing.T) {
	w := newWorld(t, nil)
	w.signUp("ada")
	wrong := w.rpc("", "AccountService/SignIn", map[string]any{"login": "ada", "password": "wrong password"})
	short := w.rpc("", "AccountService/SignIn", map[string]any{"login": "ada", "password": ""})
	hashed := w.metric("bongsu_gateway_argon2_wait_seconds")
	unknown := w.rpc("", "AccountService/SignIn", map[string]any{"login": "nobody", "password": "wrong password"})
	if wrong.status != 401 || wrong.raw != unknown.raw || wrong.raw != short.raw || wrong.status != unknown.status {
		t.Fatalf("wrong: %d %s\nshort: %s\nunknown: %d %s", wrong.status, wrong.raw, short.raw, unknown.status, unknown.raw)
	}
	if n := w.metric("bongsu_gateway_argon2_wait_seconds"); n != hashed+1 {
		t.Errorf("no hash was computed for an unknown user")
	}
	if p := w.g.cfg.Password; !strings.Contains(w.g.dummyHash, fmt.Sprintf("m=%d,t=%d,p=%d", p.MemoryKiB, p.Passes, p.Lanes)) {
		t.Errorf("the dummy %q does not cost what a password does", w.g.dummyHash)
	}
	if r := w.rpc("", "AccountService/SignIn", map[string]any{"login": "AdA", "password": "password of ada", "deviceName": "폰"}); r.status != 200 {
		t.Fatalf("right: %s", r.raw)
	}
}

func TestRefresh(t *testing.T) {
	w := newWorld(t, nil)
	a := w.signUp("ada")
	r := w.rpc("", "AccountService/Refresh", map[string]any{"refreshToken": a.refresh})
	next := personOf(t, r)
	if next.device != a.device || next.refresh == a.refresh {
		t.Fatalf("refreshed: %s", r.raw)
	}
	if expires, _ := strconv.ParseInt(r.str("expiresAt"), 10, 64); time.Until(time.UnixMilli(expires)) > auth.Life || time.Until(time.UnixMilli(expires)) < auth.Life-time.Minute {
		t.Errorf("expires at %d", expires)
	}
	// The answer got lost: the same token again gives the same generation.
	if again := personOf(t, w.rpc("", "AccountService/Refresh", map[string]any{"refreshToken": a.refresh})); again.refresh != next.refresh {
		t.Error("a repeated refresh gave another token")
	}
	// The new one was used; then the old one is a stolen copy.
	w.rpc("", "AccountService/Refresh", map[string]any{"refreshToken": next.refresh})
	if r := w.rpc("", "AccountService/Refresh", map[string]any{"refreshToken": a.refresh}); r.code() != "unauthenticated" || r.info()["reason"] != "refresh_reused" {
		t.Fatalf("reuse: %s", r.raw)
	}
	if r := w.rpc(next.access, "AccountService/GetMe", "{}"); r.code() != "unauthenticated" {
		t.Fatalf("after reuse: %s", r.raw)
	}
}

// The sender waits through a change of owner and sees no error.
func TestCommandsWaitForAnOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a, b := w.signUp("ada"), w.signUp("bob")
		room := w.direct(a, b)
		began := time.Now()
		w.b.set(func() {
			w.b.onDo = func(*nodev1.Command) (*edgev1.Error, error) {
				if time.Since(began) < 3*time.Second {
					return denied("unavailable", "not_owner").Error, nil
				}
				return nil, nil
			}
		})
		r := w.rpc(a.access, "MessageService/Send", map[string]any{"roomId": room, "clientId": clientID(1), "text": "x"})
		if r.status != 200 {
			t.Fatalf("%s", r.raw)
		}
		if d := time.Since(began); d > 4*time.Second {
			t.Errorf("it took %v after an outage of 3 s", d)
		}
		if w.metric("bongsu_gateway_backend_retries_total") == 0 {
			t.Error("retries are not counted")
		}
	})
}

// An answer that got lost is asked for again: one message, no error.
func TestUnknownOutcomesAreRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a, b := w.signUp("ada"), w.signUp("bob")
		room := w.direct(a, b)
		lose := 2
		w.b.set(func() {
			w.b.afterDo = func(*nodev1.Command) error {
				if lose > 0 {
					lose--
					return errors.New("the answer is lost")
				}
				return nil
			}
		})
		r := w.rpc(a.access, "MessageService/Send", map[string]any{"roomId": room, "clientId": clientID(1), "text": "x"})
		if m, _ := r.body["message"].(map[string]any); m["seq"] != "1" {
			t.Fatalf("send: %s", r.raw)
		}
		if n := len(w.b.rooms[mustRoom(t, room)].msgs); n != 1 {
			t.Fatalf("%d messages", n)
		}
		// Sign-up and leaving are not idempotent in the rules; the gateway knows its own work.
		w.b.set(func() { lose = 1 })
		c := w.signUp("eve")
		if r := w.rpc(c.access, "AccountService/GetMe", "{}"); r.status != 200 {
			t.Fatalf("signed up, but: %s", r.raw)
		}
		w.b.set(func() { lose = 1 })
		if r := w.rpc(a.access, "RoomService/Leave", map[string]any{"roomId": room}); r.status != 200 {
			t.Fatalf("leave: %s", r.raw)
		}
		if r := w.rpc(a.access, "RoomService/Leave", map[string]any{"roomId": room}); r.code() != "permission_denied" {
			t.Fatalf("leave again: %s", r.raw)
		}
	})
}

// If one attempt may have happened, later refusals do not make it a definite no.
func TestAnUnknownOutcomeStaysUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a, b := w.signUp("ada"), w.signUp("bob")
		room := w.direct(a, b)
		first := true
		w.b.set(func() {
			w.b.onDo = func(*nodev1.Command) (*edgev1.Error, error) {
				if first {
					first = false
					return nil, errors.New("the answer is lost")
				}
				return denied("unavailable", "not_owner").Error, nil
			}
		})
		r := w.rpc(a.access, "MessageService/Send", map[string]any{"roomId": room, "clientId": clientID(1), "text": "x"})
		if r.code() != "unavailable" || r.info()["reason"] != "timeout" {
			t.Fatalf("%s", r.raw)
		}
	})
}

func TestRefusalsThatWaitingDoesNotCure(t *testing.T) {
	for name, c := range map[string]struct {
		e      *edgev1.Error
		status int
		retry  string
	}{
		"stopped room": {&edgev1.Error{Code: "unavailable", Info: &edgev1.ErrorInfo{Reason: "room_stopped"}}, 503, "1"},
		"full queue":   {&edgev1.Error{Code: "resource_exhausted", Info: &edgev1.ErrorInfo{Reason: "queue_full", RetryAfterSeconds: 2.5}}, 429, "3"},
		"full disk":    {&edgev1.Error{Code: "unavailable", Info: &edgev1.ErrorInfo{Reason: "disk_full", RetryAfterSeconds: 60}}, 503, "60"},
		"full room":    {&edgev1.Error{Code: "resource_exhausted", Info: &edgev1.ErrorInfo{Reason: "room_full"}}, 429, ""},
		"bare":         {&edgev1.Error{Code: "resource_exhausted"}, 429, "1"},
		"nonsense":     {&edgev1.Error{Code: "purple"}, 500, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			a, b := w.signUp("ada"), w.signUp("bob")
			room := w.direct(a, b)
			tries := 0
			w.b.set(func() { w.b.onDo = func(*nodev1.Command) (*edgev1.Error, error) { tries++; return c.e, nil } })
			r := w.rpc(a.access, "MessageService/Send", map[string]any{"roomId": room, "clientId": clientID(1), "text": "x"})
			if r.status != c.status || tries != 1 {
				t.Fatalf("%d after %d tries: %s", r.status, tries, r.raw)
			}
			if got := r.header.Get("Retry-After"); got != c.retry {
				t.Errorf("Retry-After %q, want %q", got, c.retry)
			}
			hint, _ := r.info()["retryAfterSeconds"].(float64)
			if (c.retry != "") != (hint >= 1) {
				t.Errorf("hint in the detail: %v in %s", hint, r.raw)
			}
		})
	}
}

func TestDeadlineOfAnRPC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a, b := w.signUp("ada"), w.signUp("bob")
		room := w.direct(a, b)
		w.b.set(func() {
			w.b.onDo = func(*nodev1.Command) (*edgev1.Error, error) { return nil, errors.New("no answer") }
		})
		for header, want := range map[string]time.Duration{"": 10 * time.Second, "2000": 2 * time.Second, "600000": time.Minute} {
			req, err := http.NewRequest("POST", "http://bongsu.test/bongsu.edge.v1.MessageService/Send",
				strings.NewReader(`{"roomId":"`+room+`","clientId":"`+clientID(1)+`","text":"x"}`))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Authorization", "Bearer "+a.access)
			if header != "" {
				req.Header.Set("Connect-Timeout-Ms", header)
			}
			began := time.Now()
			res, err := w.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if d := time.Since(began); d > want || d < want-time.Second {
				t.Errorf("timeout %q: answered after %v, want just under %v", header, d, want)
			}
			if res.StatusCode != 503 || !strings.Contains(string(body), "timeout") || res.Header.Get("Retry-After") != "1" {
				t.Errorf("timeout %q: %d %s", header, res.StatusCode, body)
			}
		}
	})
}

// A body that trickles in is given up long before its place is missed; an
// answer that takes longer than that is not.
func TestSlowBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a, b := w.signUp("ada"), w.signUp("bob")
		room := w.direct(a, b)
		conn, err := w.net.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST /bongsu.edge.v1.AccountService/GetMe HTTP/1.1\r\nHost: bongsu.test\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{", a.access)
		synctest.Wait()
		if n := w.g.admission.InFlight(overload.Resume); n != 1 {
			t.Fatalf("%d in flight", n)
		}
		began := time.Now()
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		for w.g.admission.InFlight(overload.Resume) > 0 {
			time.Sleep(time.Second) // in the bubble
		}
		if d := time.Since(began); d > bodyTimeout+time.Second {
			t.Errorf("held a place for %v", d)
		}
		w.b.set(func() {
			w.b.onDo = func(*nodev1.Command) (*edgev1.Error, error) {
				if time.Since(began) < 2*bodyTimeout+20*time.Second {
					return denied("unavailable", "not_owner").Error, nil
				}
				return nil, nil
			}
		})
		req, err := http.NewRequest("POST", "http://bongsu.test/bongsu.edge.v1.MessageService/Send", strings.NewReader(`{"roomId":"`+room+`","clientId":"`+clientID(1)+`","text":"x"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+a.access)
		req.Header.Set("Connect-Timeout-Ms", "60000")
		res, err := w.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != 200 || time.Since(began) < 2*bodyTimeout {
			t.Errorf("a long wait ended with %d after %v", res.StatusCode, time.Since(began))
		}
	})
}

func TestPanicIsOneRequestsProblem(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.signUp("ada"), w.signUp("bob")
	room := w.direct(a, b)
	s := w.open(binaryCodec, a)
	w.b.set(func() {
		w.b.onDo = func(c *nodev1.Command) (*edgev1.Error, error) {
			if c.GetSend() == nil {
				return nil, nil // confirmations come when they like
			}
			panic("boom")
		}
		w.b.onBegin = func() { panic("boom") }
	})
	if f := s.send(room, clientID(1), "x"); f.GetError().GetCode() != "internal" || strings.Contains(f.GetError().GetMessage(), "boom") {
		t.Fatalf("socket: %v", f)
	}
	if r := w.rpc(a.access, "MessageService/Send", map[string]any{"roomId": room, "clientId": clientID(1), "text": "x"}); r.code() != "internal" || strings.Contains(r.raw, "boom") {
		t.Fatalf("RPC: %s", r.raw)
	}
	if n := w.metric("bongsu_gateway_panics_total"); n != 2 {
		t.Errorf("counted %v panics", n)
	}
	s.ping()
	if n := w.g.admission.InFlight(overload.Send); n != 0 {
		t.Errorf("%d places of admission were lost", n)
	}
}

func TestAdmissionRefusesBeforeWork(t *testing.T) {
	limits := overload.Limits{Total: 3, SendReserve: 2}
	w := newWorld(t, func(c *Config) { c.Limits = limits })
	a, b := w.signUp("ada"), w.signUp("bob")
	room := w.direct(a, b)
	s := w.open(binaryCodec, a)
	hold := newGate()
	entered := make(chan struct{})
	w.b.set(func() {
		w.b.onQuery = func(*nodev1.Query) (*edgev1.Error, error) { entered <- struct{}{}; <-hold.open; return nil, nil }
	})
	first := s.write(&edgev1.ClientFrame{Request: &edgev1.ClientFrame_GetMe{GetMe: &edgev1.GetMeRequest{}}})
	<-entered
	r := w.rpc(a.access, "AccountService/GetMe", "{")
	if r.code() != "resource_exhausted" || r.header.Get("Retry-After") == "" || r.info()["reason"] != "overloaded" {
		t.Fatalf("RPC: %d %s", r.status, r.raw)
	}
	f := s.ask(&edgev1.ClientFrame{Request: &edgev1.ClientFrame_GetMe{GetMe: &edgev1.GetMeRequest{}}})
	if f.GetError().GetCode() != "resource_exhausted" || f.GetError().GetInfo().GetRetryAfterSeconds() < 1 {
		t.Fatalf("socket: %v", f)
	}
	// Sends have their reserve, unless a client has lowered its own.
	if f := s.send(room, clientID(1), "x"); f.GetSend() == nil {
		t.Fatalf("send: %v", f)
	}
	low := &edgev1.ClientFrame{Class: edgev1.Class_CLASS_TAB, Request: &edgev1.ClientFrame_Send{Send: &edgev1.SendRequest{RoomId: room, ClientId: clientID(2), Text: "x"}}}
	if f := s.ask(low); f.GetError().GetCode() != "resource_exhausted" {
		t.Fatalf("a send lowered to a tab: %v", f)
	}
	raised := &edgev1.ClientFrame{Class: edgev1.Class_CLASS_SEND, Request: &edgev1.ClientFrame_GetMe{GetMe: &edgev1.GetMeRequest{}}}
	if f := s.ask(raised); f.GetError().GetCode() != "resource_exhausted" {
		t.Fatalf("a read raised to a send: %v", f)
	}
	if n := w.metric("bongsu_gateway_admission_refused_total"); n != 4 {
		t.Errorf("counted %v refusals, want 4", n)
	}
	hold.release()
	if f := s.answer(first); f.GetGetMe() == nil {
		t.Fatalf("first: %v", f)
	}
}

func TestPasswordHashingIsBounded(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.HashSlots, c.HashQueue = 1, 1 })
	if err := w.g.hashing.Acquire(t.Context(), overload.Resume, 0); err != nil {
		t.Fatal(err)
	}
	answers := make(chan reply, 2)
	signIn := func() {
		answers <- w.rpc("", "AccountService/SignIn", map[string]any{"login": "nobody", "password": "whatever it is"})
	}
	go signIn()
	go signIn() // whichever comes second turns the first away
	r := <-answers
	if r.code() != "resource_exhausted" || r.header.Get("Retry-After") == "" || r.info()["reason"] != "sign_in_busy" {
		t.Fatalf("turned away: %d %s", r.status, r.raw)
	}
	w.g.hashing.Release()
	if r := <-answers; r.code() != "unauthenticated" {
		t.Fatalf("served: %s", r.raw)
	}
}

// gRPC, gRPC-Web and Connect with protobuf, over cleartext HTTP/2 and HTTP/1.1.
func TestEveryProtocol(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.signUp("ada"), w.signUp("bob")
	room := w.direct(a, b)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(w.g.Handler(), nil)
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	defer func() { _ = server.Close(); <-served }()
	h2 := &http.Transport{Protocols: new(http.Protocols)}
	h2.Protocols.SetUnencryptedHTTP2(true)
	h1 := &http.Transport{}
	defer h2.CloseIdleConnections()
	defer h1.CloseIdleConnections()
	for name, c := range map[string]struct {
		transport *http.Transport
		options   []connect.ClientOption
	}{
		"gRPC over h2c":         {h2, []connect.ClientOption{connect.WithGRPC()}},
		"gRPC-Web over h1":      {h1, []connect.ClientOption{connect.WithGRPCWeb()}},
		"Connect binary on h2c": {h2, nil},
		"Connect binary on h1":  {h1, []connect.ClientOption{connect.WithSendGzip()}},
		"Connect JSON on h1":    {h1, []connect.ClientOption{connect.WithProtoJSON()}},
	} {
		t.Run(name, func(t *testing.T) {
			client := edgev1connect.NewMessageServiceClient(&http.Client{Transport: c.transport}, "http://"+listener.Addr().String(), c.options...)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			ask := func(token, text string) (*connect.Response[edgev1.SendResponse], error) {
				r := connect.NewRequest(&edgev1.SendRequest{RoomId: room, ClientId: clientID(1), Text: text})
				r.Header().Set("Authorization", "Bearer "+token)
				return client.Send(ctx, r)
			}
			res, err := ask(a.access, "hi")
			if err != nil || res.Msg.GetMessage().GetSeq() != 1 {
				t.Fatalf("send: %v, %v", res, err)
			}
			var ce *connect.Error
			if _, err = ask("wrong", "hi"); !errors.As(err, &ce) || ce.Code() != connect.CodeUnauthenticated {
				t.Errorf("wrong token: %v", err)
			}
			if _, err = ask(a.access, " \n"); !errors.As(err, &ce) || ce.Code() != connect.CodeInvalidArgument {
				t.Fatalf("empty text: %v", err)
			}
			info, ok := infoOf(ce)
			if !ok || info.GetReason() != "text_empty" || info.GetField() != "text" {
				t.Errorf("detail: %v", info)
			}
			if _, err = ask(a.access, strings.Repeat("x", maxFrameBytes)); !errors.As(err, &ce) || ce.Code() != connect.CodeInvalidArgument && ce.Code() != connect.CodeResourceExhausted {
				t.Errorf("too large: %v", err)
			}
			w.b.set(func() {
				w.b.onDo = func(*nodev1.Command) (*edgev1.Error, error) {
					return &edgev1.Error{Code: "resource_exhausted", Info: &edgev1.ErrorInfo{Reason: "queue_full", RetryAfterSeconds: 4}}, nil
				}
			})
			_, err = ask(a.access, "hi")
			w.b.set(func() { w.b.onDo = nil })
			if !errors.As(err, &ce) || ce.Code() != connect.CodeResourceExhausted || ce.Meta().Get("Retry-After") != "4" {
				t.Errorf("full: %v, %v", err, ce.Meta())
			}
		})
	}
}

func infoOf(ce *connect.Error) (*edgev1.ErrorInfo, bool) {
	for _, d := range ce.Details() {
		if v, err := d.Value(); err == nil {
			if info, ok := v.(*edgev1.ErrorInfo); ok {
				return info, true
			}
		}
	}
	return nil, false
}

// What clients invent does not become a label.
func TestMetricsHaveBoundedLabels(t *testing.T) {
	w := newWorld(t, nil)
	a := w.signUp("ada")
	for i := range 20 {
		w.rpc(a.access, fmt.Sprintf("MessageService/Invented%d", i), "{}")
		w.rpc(a.access, "MessageService/Send", "{")
	}
	families, err := w.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var methods []string
	for _, f := range families {
		if f.GetName() != "bongsu_gateway_requests_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "method" {
					methods = append(methods, l.GetValue())
				}
			}
		}
	}
	slices.Sort(methods)
	if got := slices.Compact(methods); !slices.Equal(got, []string{"Send", "SignUp", "unknown"}) {
		t.Errorf("methods %v", got)
	}
}
