package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/bongsu-im/bongsu/gateway/auth"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

func TestTwoPeopleTalkBySocket(t *testing.T) {
	for c := range codecs {
		t.Run(c.String(), func(t *testing.T) {
			w := newWorld(t, nil)
			a, b := w.signUp("ada"), w.signUp("bob")
			room := w.direct(a, b)
			sa, sb := w.open(c, a), w.open(c, b)
			f := sa.send(room, clientID(1), "hello")
			if f.GetSend().GetMessage().GetSeq() != 1 || f.GetSend().GetPosition() == nil {
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

func typing(room string) *edgev1.ClientFrame {
	return &edgev1.ClientFrame{Request: &edgev1.ClientFrame_Typing{Typing: &edgev1.TypingRequest{RoomId: room}}}
}

func ping() *edgev1.ClientFrame {
	return &edgev1.ClientFrame{Request: &edgev1.ClientFrame_Ping{Ping: &edgev1.PingRequest{}}}
}

// closeOf reads until the connection ends and returns the close code.
func (s *socket) closeOf() websocket.StatusCode {
	s.t.Helper()
	for {
		f, err := s.readWithin(2 * time.Hour)
		if err != nil {
			return websocket.CloseStatus(err)
		}
		if f.GetEvent() != nil {
			s.events = append(s.events, f.GetEvent())
		}
	}
}

func TestHandshake(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Origins = []string{"https://friend.example"} })
	for name, c := range map[string]struct {
		protocols []string
		origin    string
		want      int
		speaks    string
	}{
		"no subprotocol":      {nil, "", http.StatusBadRequest, ""},
		"another subprotocol": {[]string{"chat"}, "", http.StatusBadRequest, ""},
		"binary":              {[]string{"bongsu.v1"}, "", 101, "bongsu.v1"},
		"json":                {[]string{"bongsu.v1.json"}, "", 101, "bongsu.v1.json"},
		"first of ours":       {[]string{"chat", "bongsu.v1.json", "bongsu.v1"}, "", 101, "bongsu.v1.json"},
		"same host":           {[]string{"bongsu.v1"}, "http://bongsu.test", 101, "bongsu.v1"},
		"configured origin":   {[]string{"bongsu.v1"}, "https://friend.example", 101, "bongsu.v1"},
		"another origin":      {[]string{"bongsu.v1"}, "https://evil.example", http.StatusForbidden, ""},
		"no page":             {[]string{"bongsu.v1"}, "null", http.StatusForbidden, ""},
		"host as a suffix":    {[]string{"bongsu.v1"}, "http://evil-bongsu.test", http.StatusForbidden, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, res, err := w.dial(binaryCodec, func(o *websocket.DialOptions) {
				o.Subprotocols = c.protocols
				if c.origin != "" {
					o.HTTPHeader = http.Header{"Origin": {c.origin}}
				}
			})
			if res == nil || res.StatusCode != c.want {
				t.Fatalf("status %v, %v, want %d", res, err, c.want)
			}
			if err == nil {
				if s.conn.Subprotocol() != c.speaks {
					t.Errorf("speaks %q, want %q", s.conn.Subprotocol(), c.speaks)
				}
				_ = s.conn.CloseNow()
			}
		})
	}
	res, err := w.client.Get("http://bongsu.test/v1/socket")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("without an upgrade: %d", res.StatusCode)
	}
}

func TestNothingBeforeHello(t *testing.T) {
	w := newWorld(t, nil)
	a := w.signUp("ada")
	s := w.connect(binaryCodec)
	if f := s.ask(ping()); f.GetError().GetCode() != "unauthenticated" || f.GetError().GetInfo().GetReason() != "hello_first" {
		t.Fatalf("ping before hello: %v", f)
	}
	other := w.signUp("bob")
	mixed := a.access[:60] + other.access[60:] // one's name under another's signature
	for _, token := range []string{"", "x", strings.Repeat("x", 600), a.refresh, mixed} {
		f := s.ask(&edgev1.ClientFrame{Request: &edgev1.ClientFrame_Hello{Hello: &edgev1.HelloRequest{AccessToken: token}}})
		if f.GetError().GetCode() != "unauthenticated" {
			t.Fatalf("hello with %q: %v", token, f)
		}
	}
	h := s.hello(a.access) // a wrong token does not spoil the socket
	if h.GetUserId() != a.id.String() || h.GetHeartbeatSeconds() != 30 || h.GetShardCount() != 16 || h.GetServerVersion() != "test" || h.GetAccessExpiresAt() == 0 {
		t.Fatalf("hello: %v", h)
	}
	if f := s.ask(&edgev1.ClientFrame{Request: &edgev1.ClientFrame_Hello{Hello: &edgev1.HelloRequest{AccessToken: a.access}}}); f.GetError().GetInfo().GetReason() != "hello_twice" {
		t.Fatalf("second hello: %v", f)
	}
	s.ping()
}

func TestHelloMustComeInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		s := w.connect(binaryCodec)
		began := time.Now()
		if code := s.closeOf(); code != websocket.StatusPolicyViolation {
			t.Fatalf("closed with %v", code)
		}
		if d := time.Since(began); d != helloWithin {
			t.Fatalf("closed after %v, want %v", d, helloWithin)
		}
	})
}

func TestSilenceClosesAndPingsKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a := w.signUp("ada")
		s := w.open(binaryCodec, a)
		for range 5 {
			time.Sleep(59 * time.Second) // in the bubble
			s.ping()
		}
		began := time.Now()
		if code := s.closeOf(); code != websocket.StatusPolicyViolation {
			t.Fatalf("closed with %v", code)
		}
		if d := time.Since(began); d != time.Minute {
			t.Fatalf("closed after %v of silence, want 1m", d)
		}
	})
}

func TestWebSocketPing(t *testing.T) {
	w := newWorld(t, nil)
	s := w.open(binaryCodec, w.signUp("ada"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ctx = s.conn.CloseRead(ctx)
	for range 3 {
		if err := s.conn.Ping(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBadFramesAreAnsweredAndTheConnectionLives(t *testing.T) {
	big := strings.Repeat("x", maxFrameBytes)
	for c := range codecs {
		t.Run(c.String(), func(t *testing.T) {
			w := newWorld(t, nil)
			s := w.open(c, w.signUp("ada"))
			own, other := websocket.MessageBinary, websocket.MessageText
			if c == jsonCodec {
				own, other = other, own
			}
			encode := func(f *edgev1.ClientFrame) []byte { _, data := s.encode(f); return data }
			long := encode(&edgev1.ClientFrame{Id: 77, Request: &edgev1.ClientFrame_Send{Send: &edgev1.SendRequest{Text: big}}})
			broken := append(encode(&edgev1.ClientFrame{Id: 78, Request: &edgev1.ClientFrame_Ping{Ping: &edgev1.PingRequest{}}}), 0xff)
			for name, f := range map[string]struct {
				kind   websocket.MessageType
				data   []byte
				id     uint32
				reason string
			}{
				"garbage":      {own, []byte("\xff\xff\xff"), 0, "malformed"},
				"broken":       {own, broken, 78, "malformed"},
				"empty":        {own, nil, 0, map[codec]string{binaryCodec: "frame_id", jsonCodec: "malformed"}[c]},
				"no id":        {own, encode(&edgev1.ClientFrame{Request: &edgev1.ClientFrame_Ping{Ping: &edgev1.PingRequest{}}}), 0, "frame_id"},
				"no request":   {own, encode(&edgev1.ClientFrame{Id: 9}), 9, "no_request"},
				"wrong kind":   {other, encode(&edgev1.ClientFrame{Id: 9, Request: &edgev1.ClientFrame_Ping{Ping: &edgev1.PingRequest{}}}), 0, "frame_kind"},
				"too long":     {own, long, 77, "message_too_large"},
				"long garbage": {own, []byte(strings.Repeat("\xff", maxFrameBytes+1)), 0, "message_too_large"},
				"megabytes":    {own, []byte(strings.Repeat("\xff", 3<<20)), 0, "message_too_large"},
			} {
				s.writeRaw(f.kind, f.data)
				got := s.read()
				if got.GetId() != f.id || got.GetError().GetInfo().GetReason() != f.reason || got.GetError().GetCode() != "invalid_argument" {
					t.Errorf("%s: %v, want reason %s for id %d", name, got, f.reason, f.id)
				}
				s.ping()
			}
			if n := w.metric("bongsu_gateway_frames_bad_total"); n != 9 {
				t.Errorf("counted %v bad frames, want 9", n)
			}
		})
	}
}

// metric sums a counter over its labels.
func (w *world) metric(name string) float64 {
	w.t.Helper()
	return sum(w.registry, name)
}

func sum(r *prometheus.Registry, name string) (sum float64) {
	families, err := r.Gather()
	if err != nil {
		panic(err) // our own metrics do not fit together
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

func TestUnknownFieldsAreIgnored(t *testing.T) {
	w := newWorld(t, nil)
	s := w.open(jsonCodec, w.signUp("ada"))
	s.writeRaw(websocket.MessageText, []byte(`{"id":5,"ping":{"novel":[1,{"a":2}]},"colour":"red"}`))
	if f := s.read(); f.GetId() != 5 || f.GetPing() == nil {
		t.Fatalf("%v", f)
	}
}

func TestTooManyBadFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a := w.signUp("ada")
		s := w.open(binaryCodec, a)
		bad := func(n int) {
			for range n {
				s.writeRaw(websocket.MessageBinary, []byte{0xff})
				if f := s.read(); f.GetError() == nil {
					t.Fatalf("%v", f)
				}
			}
		}
		bad(maxBadFrames - 1)
		time.Sleep(time.Minute - time.Second) // in the bubble: another minute begins
		s.ping()
		time.Sleep(time.Second)
		bad(maxBadFrames - 1)
		s.ping() // alive
		s.writeRaw(websocket.MessageBinary, []byte{0xff})
		if code := s.closeOf(); code != websocket.StatusPolicyViolation {
			t.Fatalf("closed with %v", code)
		}
	})
}

// gate holds commands back until it is opened.
type gate struct {
	open chan struct{}
	once sync.Once
}

func newGate() *gate     { return &gate{open: make(chan struct{})} }
func (g *gate) release() { g.once.Do(func() { close(g.open) }) }

func TestInFlightBound(t *testing.T) {
	w := newWorld(t, nil)
	a := w.signUp("ada")
	s := w.open(binaryCodec, a)
	hold := newGate()
	defer hold.release()
	w.b.set(func() {
		w.b.onQuery = func(*nodev1.Query) (*edgev1.Error, error) { <-hold.open; return nil, nil }
	})
	me := func() *edgev1.ClientFrame {
		return &edgev1.ClientFrame{Request: &edgev1.ClientFrame_GetMe{GetMe: &edgev1.GetMeRequest{}}}
	}
	for range maxInFlight {
		s.write(me())
	}
	over := s.ask(me())
	if e := over.GetError(); e.GetCode() != "resource_exhausted" || e.GetInfo().GetRetryAfterSeconds() < 1 {
		t.Fatalf("request %d: %v", maxInFlight+1, over)
	}
	dup := me()
	dup.Id = 3
	s.writeRaw(s.encode(dup))
	if f := s.read(); f.GetId() != 3 || f.GetError().GetInfo().GetReason() != "frame_id_in_use" {
		t.Fatalf("duplicate id: %v", f)
	}
	hold.release()
	seen := map[uint32]bool{}
	for range maxInFlight {
		f := s.read()
		if f.GetGetMe() == nil || seen[f.GetId()] {
			t.Fatalf("answer: %v", f)
		}
		seen[f.GetId()] = true
	}
	s.ask(me()) // places came back
}

// The order of one socket's sends to a room survives that the first has to be
// tried several times.
func TestSendsKeepTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a, b := w.signUp("ada"), w.signUp("bob")
		room := w.direct(a, b)
		s := w.open(binaryCodec, a)
		tries := map[string]int{}
		w.b.set(func() {
			w.b.onDo = func(c *nodev1.Command) (*edgev1.Error, error) {
				w.b.mu.Lock()
				defer w.b.mu.Unlock()
				text := c.GetSend().GetText()
				if tries[text]++; tries[text] <= 3 && text < "b" {
					return denied("unavailable", "not_owner").Error, nil
				}
				return nil, nil
			}
		})
		var ids []uint32
		for i, text := range []string{"a1", "b1", "a2", "b2", "b3", "a3"} {
			ids = append(ids, s.write(&edgev1.ClientFrame{Request: &edgev1.ClientFrame_Send{Send: &edgev1.SendRequest{RoomId: room, ClientId: clientID(i), Text: text}}}))
		}
		var texts []string
		for range ids {
			for {
				f := s.read()
				if f.GetEvent() != nil {
					continue
				}
				if f.GetSend() == nil {
					t.Fatalf("%v", f)
				}
				break
			}
		}
		w.b.set(func() {
			for _, m := range w.b.rooms[mustRoom(t, room)].msgs {
				texts = append(texts, m.GetText())
			}
		})
		if want := []string{"a1", "b1", "a2", "b2", "b3", "a3"}; !slices.Equal(texts, want) {
			t.Fatalf("order %v, want %v", texts, want)
		}
	})
}

func mustRoom(t testing.TB, text string) id.ID {
	t.Helper()
	r, err := id.Parse(id.Room, text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestDeadlineOfAFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a, b := w.signUp("ada"), w.signUp("bob")
		room := w.direct(a, b)
		s := w.open(binaryCodec, a)
		w.b.set(func() {
			w.b.onDo = func(*nodev1.Command) (*edgev1.Error, error) { return denied("unavailable", "not_owner").Error, nil }
		})
		for _, c := range []struct {
			ask  uint32
			most time.Duration
		}{{0, 10 * time.Second}, {3000, 3 * time.Second}, {1 << 31, time.Minute}} {
			began := time.Now()
			f := s.ask(&edgev1.ClientFrame{DeadlineMs: c.ask, Request: &edgev1.ClientFrame_Send{Send: &edgev1.SendRequest{RoomId: room, ClientId: clientID(1), Text: "x"}}})
			if f.GetError().GetCode() != "unavailable" || f.GetError().GetInfo().GetReason() != "not_owner" || f.GetError().GetInfo().GetRetryAfterSeconds() < 1 {
				t.Fatalf("%v", f)
			}
			if d := time.Since(began); d > c.most || d < c.most-time.Second {
				t.Errorf("deadline_ms %d: refused after %v, want just under %v", c.ask, d, c.most)
			}
			s.ping()
		}
	})
}

func TestEventsAreEncodedOnce(t *testing.T) {
	event := newPrepared(&edgev1.Event{Event: &edgev1.Event_Level{Level: &edgev1.LevelEvent{Level: 2}}})
	for c := range codecs {
		a, err1 := event.frame(c)
		b, err2 := event.frame(c)
		if err1 != nil || err2 != nil || &a[0] != &b[0] {
			t.Errorf("%v: two encodings", c)
		}
	}
}

// A client that does not read loses events beyond the bound, is told how many
// when it has caught up, and loses no answer.
func TestSlowReaderLags(t *testing.T) {
	w := newWorld(t, nil)
	w.g.patience.write = time.Hour // filling the queue takes a loaded machine longer than a reader gets
	a, b := w.signUp("ada"), w.signUp("bob")
	room := w.direct(a, b)
	slow, fast := w.open(binaryCodec, b), w.open(binaryCodec, a)
	const sends = maxQueuedEvents + 200
	var asked []uint32
	for i := range sends {
		fast.send(room, clientID(i), "x") // net.Pipe holds nothing: slow's queue fills
		if i == 10 {
			asked = append(asked, slow.write(ping()))
		}
	}
	var next, dropped, pongs uint64
	for dropped == 0 {
		f := slow.read()
		switch {
		case f.GetPing() != nil && f.GetId() == asked[0]:
			pongs++
		case f.GetEvent().GetMessage() != nil:
			if seq := f.GetEvent().GetMessage().GetMessage().GetSeq(); seq != next+1 {
				t.Fatalf("seq %d after %d", seq, next)
			}
			next++
		case f.GetEvent().GetLag() != nil:
			dropped = f.GetEvent().GetLag().GetDropped()
		default:
			t.Fatalf("%v", f)
		}
	}
	if next+dropped != sends || next < maxQueuedEvents || pongs != 1 {
		t.Fatalf("%d delivered, %d dropped of %d; %d answers of 1", next, dropped, sends, pongs)
	}
	if n := w.metric("bongsu_gateway_events_dropped_total"); n != float64(dropped) {
		t.Errorf("counted %v, told %d", n, dropped)
	}
	fast.send(room, clientID(sends), "x") // and from here it hears everything again
	if seq := slow.event().GetMessage().GetMessage().GetSeq(); seq != sends+1 {
		t.Fatalf("after catching up: seq %d", seq)
	}
}

// A socket whose client reads nothing at all is given up after the write timeout.
func TestDeadReaderIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a, b := w.signUp("ada"), w.signUp("bob")
		room := w.direct(a, b)
		w.open(binaryCodec, b)
		w.rpc(a.access, "MessageService/Send", map[string]any{"roomId": room, "clientId": clientID(1), "text": "x"})
		if w.g.Sessions() != 1 {
			t.Fatal("no session")
		}
		time.Sleep(writeTimeout + time.Second) // in the bubble
		synctest.Wait()
		if n := w.g.Sessions(); n != 0 {
			t.Fatalf("%d sessions left", n)
		}
	})
}

// Who joins or leaves a room while a session starts hears what they should.
func TestSessionStartRaces(t *testing.T) {
	for name, c := range map[string]struct {
		during func(w *world, a, b person, old id.ID) // while RoomIDs is being read, after the list was made
		hears  bool
	}{
		"joins": {func(w *world, a, b person, old id.ID) {
			w.b.decide(&nodev1.Command{Actor: b.id.Bytes(), Kind: &nodev1.Command_Invite{Invite: &nodev1.Invite{RoomId: old.Bytes(), MemberIds: [][]byte{a.id.Bytes()}}}})
		}, true},
		"leaves": {func(w *world, a, b person, old id.ID) {
			w.b.decide(&nodev1.Command{Actor: a.id.Bytes(), Kind: &nodev1.Command_Leave{Leave: &nodev1.Leave{RoomId: old.Bytes()}}})
		}, false},
		"leaves and comes back": {func(w *world, a, b person, old id.ID) {
			w.b.decide(&nodev1.Command{Actor: a.id.Bytes(), Kind: &nodev1.Command_Leave{Leave: &nodev1.Leave{RoomId: old.Bytes()}}})
			w.b.decide(&nodev1.Command{Actor: b.id.Bytes(), Kind: &nodev1.Command_Invite{Invite: &nodev1.Invite{RoomId: old.Bytes(), MemberIds: [][]byte{a.id.Bytes()}}}})
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			a, b := w.signUp("ada"), w.signUp("bob")
			users := []string{a.id.String()}
			if name == "joins" {
				users = nil
			}
			r := w.rpc(b.access, "RoomService/CreateGroup", map[string]any{"title": "g", "userIds": users})
			room := r.body["room"].(map[string]any)["roomId"].(string)
			w.g.backend = &racing{shards: w.b, after: func() { c.during(w, a, b, mustRoom(t, room)) }}
			s := w.connect(binaryCodec)
			s.write(&edgev1.ClientFrame{Request: &edgev1.ClientFrame_Hello{Hello: &edgev1.HelloRequest{AccessToken: a.access}}})
			if f := s.read(); f.GetHello() == nil {
				t.Fatalf("something came before the answer to hello: %v", f)
			}
			if name == "joins" { // and what happened before it was only held back
				if e := s.event().GetRoom(); e.GetRoomId() != room {
					t.Fatalf("the news of joining: %v", e)
				}
			}
			w.rpc(b.access, "MessageService/Send", map[string]any{"roomId": room, "clientId": clientID(1), "text": "secret"})
			s.ping()
			heard := slices.ContainsFunc(s.events, func(e *edgev1.Event) bool { return e.GetMessage() != nil })
			if heard != c.hears {
				t.Fatalf("heard the message: %v, want %v; events %v", heard, c.hears, s.events)
			}
		})
	}
}

// racing lets something happen right after the rooms of someone were read.
type racing struct {
	*shards
	after func()
}

func (r *racing) Query(ctx context.Context, q *nodev1.Query) (*nodev1.QueryReply, error) {
	reply, err := r.shards.Query(ctx, q)
	if q.GetRoomIds() != nil {
		r.set(r.after)
	}
	return reply, err
}

// The account's list of rooms follows the room; a late item of it must not
// subscribe someone who has just left.
func TestLateListingDoesNotResubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a, b := w.signUp("ada"), w.signUp("bob")
		r := w.rpc(b.access, "RoomService/CreateGroup", map[string]any{"userIds": []string{a.id.String()}})
		room := r.body["room"].(map[string]any)["roomId"].(string)
		s := w.open(binaryCodec, a)
		w.rpc(a.access, "RoomService/Leave", map[string]any{"roomId": room})
		late := &nodev1.FeedItem{RoomId: mustRoom(t, room).Bytes(), Subscribe: [][]byte{a.id.Bytes()}}
		hears := func(n int) bool {
			w.g.Feed([]*nodev1.FeedItem{proto.Clone(late).(*nodev1.FeedItem)})
			s.events = nil
			w.rpc(b.access, "MessageService/Send", map[string]any{"roomId": room, "clientId": clientID(n), "text": "secret"})
			s.ping()
			return slices.ContainsFunc(s.events, func(e *edgev1.Event) bool { return e.GetMessage() != nil })
		}
		if hears(1) {
			t.Fatal("heard a message of a room they left")
		}
		time.Sleep(leftFor) // in the bubble
		if !hears(2) {
			t.Fatal("a listing long after is believed, but was not")
		}
	})
}

func TestTypingIsRelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a, b, c := w.signUp("ada"), w.signUp("bob"), w.signUp("eve")
		room := w.direct(a, b)
		sa, sa2, sb, sc := w.open(binaryCodec, a), w.open(binaryCodec, a), w.open(jsonCodec, b), w.open(binaryCodec, c)
		notHello := func(c *nodev1.Command) bool { return c.GetConfirmRefresh() == nil }
		did := len(w.b.commands(notHello))
		for range 5 {
			if f := sa.ask(typing(room)); f.GetTyping() == nil {
				t.Fatalf("%v", f)
			}
		}
		if e := sb.event().GetTyping(); e.GetUserId() != a.id.String() || e.GetRoomId() != room {
			t.Fatalf("%v", e)
		}
		if f := sc.ask(typing(room)); f.GetError().GetInfo().GetReason() != "not_a_member" {
			t.Fatalf("a stranger typed: %v", f)
		}
		time.Sleep(typingPause) // in the bubble
		if r := w.rpc(a.access, "MessageService/Typing", map[string]any{"roomId": room}); r.status != 200 {
			t.Fatalf("by RPC: %s", r.raw)
		}
		sb.event()
		for _, s := range []*socket{sa, sa2, sb, sc} {
			s.ping()
			if len(s.events) != 0 {
				t.Errorf("more was heard: %v", s.events)
			}
		}
		if n := len(w.b.commands(notHello)); n != did {
			t.Errorf("the backend heard of it")
		}
	})
}

func TestRevokedDeviceIsPutOut(t *testing.T) {
	w := newWorld(t, nil)
	a := w.signUp("ada")
	in := w.rpc("", "AccountService/SignIn", map[string]any{"login": "ada", "password": "password of ada", "deviceName": "phone"})
	phone := personOf(t, in)
	s1, s2 := w.open(binaryCodec, a), w.open(binaryCodec, phone)
	if r := w.rpc(a.access, "AccountService/RevokeDevice", map[string]any{"deviceId": phone.device.String()}); r.status != 200 {
		t.Fatal(r.raw)
	}
	if code := s2.closeOf(); code != websocket.StatusCode(closeRevoked) {
		t.Fatalf("closed with %v", code)
	}
	s1.ping()
	if r := w.rpc(phone.access, "AccountService/GetMe", "{}"); r.code() != "unauthenticated" || r.info()["reason"] != "device_revoked" {
		t.Fatalf("its token still works: %s", r.raw)
	}
	s3 := w.connect(binaryCodec)
	if f := s3.ask(&edgev1.ClientFrame{Request: &edgev1.ClientFrame_Hello{Hello: &edgev1.HelloRequest{AccessToken: phone.access}}}); f.GetError().GetInfo().GetReason() != "device_revoked" {
		t.Fatalf("its hello: %v", f)
	}
	if w.rpc(a.access, "AccountService/GetMe", "{}").status != 200 {
		t.Fatal("the other device is out too")
	}
}

// Invariant 11: while the account's shard cannot be asked, a known token opens
// a session; when it can be asked again the client is told to say hello anew.
func TestOutageSignsNobodyOut(t *testing.T) {
	for name, fault := range map[string]func() (*edgev1.Error, error){
		"refused":   func() (*edgev1.Error, error) { return denied("unavailable", "not_owner").Error, nil },
		"no answer": func() (*edgev1.Error, error) { return nil, errors.New("broken pipe") },
		"damaged": func() (*edgev1.Error, error) {
			e := denied("unavailable", "shard_damaged").Error
			e.Info.RetryAfterSeconds = 300
			return e, nil
		},
	} {
		for _, old := range []time.Duration{0, auth.Life + time.Minute} { // token in time, and one that could not be refreshed
			t.Run(fmt.Sprintf("%s, token %v old", name, old), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, nil)
					a := w.signUp("ada")
					w.b.set(func() { w.b.onQuery = func(*nodev1.Query) (*edgev1.Error, error) { return fault() } })
					time.Sleep(old) // in the bubble
					s := w.open(binaryCodec, a)
					if n := w.metric("bongsu_gateway_grace_sessions_total"); n != 1 {
						t.Fatalf("recorded %v times", n)
					}
					s.ping()
					w.b.set(func() { w.b.onQuery = nil })
					if code := s.closeOf(); code != websocket.StatusServiceRestart {
						t.Fatalf("closed with %v, want 1012", code)
					}
					if old == 0 {
						w.open(binaryCodec, a)
					}
				})
			})
		}
	}
}

// A device that is known to be revoked has no grace.
func TestNoGraceForTheRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a := w.signUp("ada")
		w.g.Feed([]*nodev1.FeedItem{{UserId: a.id.Bytes(), RevokedDeviceIds: [][]byte{a.device.Bytes()}}})
		w.b.set(func() {
			w.b.onQuery = func(*nodev1.Query) (*edgev1.Error, error) { return nil, errors.New("broken pipe") }
		})
		s := w.connect(binaryCodec)
		if f := s.ask(&edgev1.ClientFrame{Request: &edgev1.ClientFrame_Hello{Hello: &edgev1.HelloRequest{AccessToken: a.access}}}); f.GetError().GetInfo().GetReason() != "device_revoked" {
			t.Fatalf("%v", f)
		}
	})
}

// A client that reads our close frame and says nothing is waited for, but not long.
func TestCloseFrameWithoutAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		conn, err := w.net.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET /v1/socket HTTP/1.1\r\nHost: bongsu.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: bongsu.v1\r\n\r\n")
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		synctest.Wait()
		if n := w.g.Sessions(); n != 1 {
			t.Fatalf("%d sessions", n)
		}
		began := time.Now()
		if err := w.g.Drain(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d < closeWait || d > closeWait+time.Second {
			t.Fatalf("waited %v, want %v", d, closeWait)
		}
	})
}

func TestGraceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *Config) { c.Grace = time.Minute; c.Heartbeat = time.Hour })
		a := w.signUp("ada")
		w.b.set(func() {
			w.b.onQuery = func(*nodev1.Query) (*edgev1.Error, error) { return nil, errors.New("broken pipe") }
		})
		s := w.open(binaryCodec, a)
		began := time.Now()
		if code := s.closeOf(); code != websocket.StatusTryAgainLater {
			t.Fatalf("closed with %v, want 1013", code)
		}
		if d := time.Since(began); d < time.Minute || d > 2*time.Minute {
			t.Fatalf("after %v", d)
		}
		time.Sleep(auth.Life + 2*time.Minute) // the token and its grace are over
		s = w.connect(binaryCodec)
		if f := s.ask(&edgev1.ClientFrame{Request: &edgev1.ClientFrame_Hello{Hello: &edgev1.HelloRequest{AccessToken: a.access}}}); f.GetError().GetInfo().GetReason() != "token_expired" {
			t.Fatalf("%v", f)
		}
	})
}

// With the account's shard in reach, an expired token must be refreshed and a
// device that was signed out during the grace is put out.
func TestGraceIsOnlyForOutages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a := w.signUp("ada")
		w.b.set(func() {
			w.b.onQuery = func(*nodev1.Query) (*edgev1.Error, error) { return nil, errors.New("broken pipe") }
		})
		s := w.open(binaryCodec, a)
		w.b.set(func() { w.b.onQuery = nil; delete(w.b.accounts[a.id].devices, a.device) })
		if code := s.closeOf(); code != websocket.StatusCode(closeRevoked) {
			t.Fatalf("closed with %v", code)
		}
		b := w.signUp("bob")
		time.Sleep(auth.Life + time.Minute)
		s = w.connect(binaryCodec)
		if f := s.ask(&edgev1.ClientFrame{Request: &edgev1.ClientFrame_Hello{Hello: &edgev1.HelloRequest{AccessToken: b.access}}}); f.GetError().GetInfo().GetReason() != "token_expired" {
			t.Fatalf("%v", f)
		}
	})
}

func TestHelloTellsLostPositionsAndConfirms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a := w.signUp("ada")
		w.b.set(func() { w.b.lost = []*edgev1.Position{{Shard: 3, Term: 1, Index: 99}} })
		s := w.connect(binaryCodec)
		h := s.hello(a.access)
		if len(h.GetLost()) != 1 || h.GetLost()[0].GetIndex() != 99 {
			t.Fatalf("lost: %v", h)
		}
		synctest.Wait()
		confirmed := w.b.commands(func(c *nodev1.Command) bool { return c.GetConfirmRefresh() != nil })
		if len(confirmed) != 1 || confirmed[0].GetConfirmRefresh().GetGeneration() != 1 {
			t.Fatalf("confirmed: %v", confirmed)
		}
		w.open(binaryCodec, a)
		synctest.Wait()
		if n := len(w.b.commands(func(c *nodev1.Command) bool { return c.GetConfirmRefresh() != nil })); n != 1 {
			t.Fatalf("confirmed %d times", n)
		}
		// The token itself stays out of what the shards see.
		seen := false
		w.b.set(func() {
			w.b.onQuery = func(q *nodev1.Query) (*edgev1.Error, error) {
				seen = seen || q.GetPositions().GetAccessToken() != ""
				return nil, nil
			}
		})
		w.open(binaryCodec, a)
		if seen {
			t.Error("the access token went to the backend")
		}
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a, b := w.signUp("ada"), w.signUp("bob")
		room := w.direct(a, b)
		const sockets = 10
		var all []*socket
		for range sockets {
			all = append(all, w.open(binaryCodec, a))
		}
		// One has a send under way that takes longer than the drain's spread.
		hold := newGate()
		w.b.set(func() {
			w.b.onDo = func(c *nodev1.Command) (*edgev1.Error, error) {
				if c.GetSend() != nil {
					<-hold.open
				}
				return nil, nil
			}
		})
		busy := all[0]
		asked := busy.write(&edgev1.ClientFrame{Request: &edgev1.ClientFrame_Send{Send: &edgev1.SendRequest{RoomId: room, ClientId: clientID(1), Text: "last words"}}})
		synctest.Wait()
		began := time.Now()
		drained := make(chan error, 1)
		go func() { drained <- w.g.Drain(t.Context(), 8*time.Second) }()
		go func() { time.Sleep(9 * time.Second); hold.release() }()
		ends := make(chan time.Duration, sockets)
		var wg sync.WaitGroup
		for i, s := range all {
			wg.Go(func() {
				if e := s.event().GetDrain(); e.GetWithinMs() != 8000 {
					t.Errorf("drain event: %v", e)
				}
				if i == 0 {
					if f := s.answer(asked); f.GetSend().GetMessage().GetSeq() != 1 {
						t.Errorf("in flight: %v", f)
					}
				}
				if code := s.closeOf(); code != websocket.StatusGoingAway {
					t.Errorf("closed with %v", code)
				}
				ends <- time.Since(began)
			})
		}
		synctest.Wait()
		if _, res, err := w.dial(binaryCodec, nil); err == nil || res == nil || res.StatusCode != 503 || res.Header.Get("Retry-After") == "" {
			t.Errorf("a new socket while draining: %v, %v", res, err)
		}
		if res, err := w.client.Get("http://bongsu.test/readyz"); err != nil || res.StatusCode != 503 {
			t.Errorf("readyz while draining: %v, %v", res, err)
		} else {
			_ = res.Body.Close()
		}
		wg.Wait()
		if err := <-drained; err != nil {
			t.Fatalf("drain: %v", err)
		}
		close(ends)
		distinct := map[time.Duration]bool{}
		for d := range ends {
			distinct[d.Round(100*time.Millisecond)] = true
		}
		if len(distinct) < sockets/2 {
			t.Errorf("closed at %d different times, want them spread", len(distinct))
		}
	})
}

func TestDrainEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a := w.signUp("ada")
		w.open(binaryCodec, a) // never reads: does not answer the close frame
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.g.Drain(ctx, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("drain: %v", err)
		}
		synctest.Wait()
		if w.g.Sessions() != 0 {
			t.Fatal("a session was left")
		}
	})
}

func TestSessionsAreBounded(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxSessions = 2 })
	a := w.signUp("ada")
	w.open(binaryCodec, a)
	w.open(binaryCodec, a)
	if _, res, err := w.dial(binaryCodec, nil); err == nil || res == nil || res.StatusCode != 503 {
		t.Fatalf("third: %v %v", res, err)
	}
}

func TestSessionsOfOnePersonAreBounded(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxUserSessions = 1 })
	a, b := w.signUp("ada"), w.signUp("bob")
	w.open(binaryCodec, a)
	second := w.connect(binaryCodec)
	f := second.ask(&edgev1.ClientFrame{Request: &edgev1.ClientFrame_Hello{Hello: &edgev1.HelloRequest{AccessToken: a.access}}})
	if f.GetError().GetCode() != "resource_exhausted" || f.GetError().GetInfo().GetRetryAfterSeconds() < 1 {
		t.Fatalf("second: %v", f)
	}
	second.hello(b.access) // and it is not half signed in as someone else
	second.ping()
}

func TestLogOfASessionHasNoSecrets(t *testing.T) {
	var l logs
	w := newWorld(t, func(c *Config) { c.Logger = l.logger() })
	a, b := w.signUp("ada"), w.signUp("bob")
	secrets := []string{"password of", a.access, a.refresh, b.access, "hunter2hunter2", "top secret text"}
	w.rpc("", "AccountService/SignIn", map[string]any{"login": "ada", "password": "hunter2hunter2"})
	w.rpc("", "AccountService/SignIn", `{"login":"ada","password":"hunter2hunter2`)
	r := w.rpc("", "AccountService/Refresh", map[string]any{"refreshToken": a.refresh})
	secrets = append(secrets, r.str("accessToken"), r.str("refreshToken"))
	w.rpc("", "AccountService/Refresh", map[string]any{"refreshToken": a.refresh + "x"})
	w.rpc(a.access+"x", "AccountService/GetMe", "{}")
	room := w.direct(a, b)
	s := w.open(jsonCodec, a)
	s.send(room, clientID(1), "top secret text")
	s.writeRaw(websocket.MessageText, []byte(`{"id":1,"hello":{"accessToken":"`+a.access+`"`))
	s.read()
	s.writeRaw(websocket.MessageText, []byte(`{"id":1,"hello":{"accessToken":"`+a.access+`"}}`))
	w.b.set(func() {
		w.b.onDo = func(c *nodev1.Command) (*edgev1.Error, error) { panic("boom") }
	})
	w.rpc("", "AccountService/Refresh", map[string]any{"refreshToken": a.refresh})
	w.rpc("", "AccountService/SignUp", map[string]any{"login": "eve", "password": "hunter2hunter2"})
	_ = s.conn.Close(websocket.StatusNormalClosure, "")
	w.stop()
	text := l.String()
	if !strings.Contains(text, "session closed") || !strings.Contains(text, "boom") {
		t.Fatalf("the log is not what was meant to be searched:\n%s", text)
	}
	for _, secret := range secrets {
		if secret == "" || strings.Contains(text, secret) {
			t.Errorf("%q is in the log:\n%s", secret, text)
		}
	}
}
