//go:build linux

package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/overload"
)

// Writing to a peer that is gone is an error and not a signal that ends us.
func TestWritingToNobody(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	if err := unix.Close(pair[1]); err != nil {
		t.Fatal(err)
	}
	if n, err := write(pair[0], []byte("x")); n != 0 || !errors.Is(err, unix.EPIPE) {
		t.Errorf("%d, %v", n, err)
	}
}

// An event that was meant for a socket that is closed reaches nobody, even if
// another has its place in the loop (and its descriptor) by then.
func TestStaleEventsReachNobody(t *testing.T) {
	w := newWorld(t, nil)
	l, err := newLoop(w.g) // which nobody runs
	if err != nil {
		t.Fatal(err)
	}
	defer l.file.Close()
	admit := func() (*parked, int) { return admitTo(t, l) }
	first, peer := admit()
	stale := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(first.slot), Pad: l.slots[first.slot].gen}
	l.release(first)
	_ = unix.Close(peer)
	second, peer := admit()
	defer unix.Close(peer)
	if second.slot != first.slot || second.fd != first.fd {
		t.Fatalf("slot %d and descriptor %d, want those of the first: %d, %d", second.slot, second.fd, first.slot, first.fd)
	}
	if _, err := unix.Write(peer, masked(ws.OpPing, true, "x")); err != nil {
		t.Fatal(err)
	}
	l.ready(&stale, w.g.uptime())
	if second.s.framesIn != 0 {
		t.Error("the second has read for the first")
	}
	stale.Pad = l.slots[second.slot].gen
	l.ready(&stale, w.g.uptime())
	if second.s.framesIn != 1 {
		t.Error("its own event did not reach it")
	}
	l.turn(first, w.g.uptime()) // a kick that came too late
	l.release(second)
	if l.open != 0 {
		t.Errorf("%d open", l.open)
	}
}

// admitTo gives a loop that nobody runs a session, and the test its other end.
func admitTo(t *testing.T, l *loop) (*parked, int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := l.g.newSession(binaryCodec, "test")
	p := &parked{l: l, s: s, fd: pair[0], slot: -1}
	s.wire = p
	l.g.running.Add(1)
	l.turn(p, l.g.uptime())
	return p, pair[1]
}

// After a crowd was written to, events wait for a moment and share a write;
// answers do not wait, and take along what does.
func TestEventsRestAfterACrowd(t *testing.T) {
	w := newWorld(t, nil)
	l, err := newLoop(w.g) // which nobody runs, so that the test says what time it is
	if err != nil {
		t.Fatal(err)
	}
	defer l.file.Close()
	var crowd []*parked
	var peers []int
	for range loopCrowd {
		p, peer := admitTo(t, l)
		p.s.greeted = true
		crowd, peers = append(crowd, p), append(peers, peer)
	}
	event := newPrepared(&edgev1.Event{Event: &edgev1.Event_Typing{Typing: &edgev1.TypingEvent{RoomId: "r", UserId: "u"}}})
	frame, err := event.frame(binaryCodec)
	if err != nil {
		t.Fatal(err)
	}
	tell := func() {
		for _, p := range crowd {
			p.s.offer(event, false)
		}
	}
	came := func(n int) (bytes int) {
		for {
			got, err := unix.Read(peers[n], l.in)
			if err != nil || got <= 0 {
				return bytes
			}
			bytes += got
		}
	}
	writes := func() float64 { return w.metric("bongsu_gateway_writes_total") }
	now := l.g.uptime()
	before := writes()
	tell()
	l.serve(now) // after a quiet time at once
	for n := range crowd {
		if got := came(n); got != len(frame) {
			t.Fatalf("socket %d got %d bytes of the first event", n, got)
		}
	}
	for range 10 { // records of a busy room
		tell()
		l.serve(now + loopRest/2)
	}
	if got := came(0); got != 0 || writes()-before != loopCrowd {
		t.Fatalf("%d bytes came before the rest was over, after %v writes", got, writes()-before)
	}
	crowd[3].s.answer(&edgev1.ServerFrame{Id: 7}, looseFrame)
	l.serve(now + loopRest/2)
	if got := came(3); got <= 10*len(frame) {
		t.Errorf("an answer waited, or went without what came before it: %d bytes", got)
	}
	if l.idle(); len(l.dirty) != 0 {
		t.Errorf("%d sessions ask again for what waits already", len(l.dirty))
	}
	l.serve(now + loopRest)
	for n := range crowd {
		if got := came(n); n != 3 && got != 10*len(frame) {
			t.Errorf("socket %d got %d bytes after the rest, want ten events", n, got)
		}
	}
	if n := writes() - before; n != 2*loopCrowd {
		t.Errorf("%v writes, want %d: one each at once, one each after the rest", n, 2*loopCrowd)
	}
	if len(l.resting) != 0 {
		t.Errorf("%d sessions still rest", len(l.resting))
	}
	for n, p := range crowd {
		l.release(p)
		_ = unix.Close(peers[n])
	}
}

// hasty is a world over parked sockets in which nobody waits long.
func hasty(t *testing.T, change func(*Config)) *world {
	w := newWorld(t, change)
	w.g.patience = patience{hello: 200 * time.Millisecond, silence: 400 * time.Millisecond, write: 300 * time.Millisecond, close: 200 * time.Millisecond}
	return w
}

func (w *world) parked() (n int) {
	w.g.mu.Lock()
	defer w.g.mu.Unlock()
	for s := range w.g.sessions {
		if s.wire.driver() == epollDriver {
			n++
		}
	}
	return n
}

// eventually waits for what other goroutines do.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for !ok() {
		tick := time.NewTimer(5 * time.Millisecond)
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("in vain: " + what)
		}
	}
}

func TestOverEpollTimesRunOut(t *testing.T) {
	w := hasty(t, nil)
	a := w.signUp("ada")
	began := time.Now()
	dumb := w.connect(binaryCodec)
	if code := dumb.closeOf(); code != websocket.StatusPolicyViolation {
		t.Errorf("without hello: closed with %v", code)
	}
	if d := time.Since(began); d < w.g.patience.hello {
		t.Errorf("without hello: closed after %v", d)
	}
	s := w.open(binaryCodec, a)
	if w.parked() == 0 {
		t.Fatal("the socket is not parked")
	}
	began = time.Now()
	for time.Since(began) < 2*w.g.patience.silence {
		s.ping() // longer than the silence that would close it
	}
	began = time.Now()
	if code := s.closeOf(); code != websocket.StatusPolicyViolation {
		t.Errorf("silent: closed with %v", code)
	}
	if d := time.Since(began); d < w.g.patience.silence/2 || d > 10*time.Second {
		t.Errorf("silent: closed after %v", d)
	}
	eventually(t, "sessions end", func() bool { return w.g.Sessions() == 0 })
}

// rawSocket shakes hands and leaves the rest to the test.
func (w *world) rawSocket(t testing.TB, behind ...byte) net.Conn {
	t.Helper()
	conn, err := w.net.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	shake := "GET /v1/socket HTTP/1.1\r\nHost: bongsu.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: bongsu.v1\r\n\r\n"
	if _, err := conn.Write(append([]byte(shake), behind...)); err != nil {
		t.Fatal(err)
	}
	var head []byte
	for one := make([]byte, 1); !strings.HasSuffix(string(head), "\r\n\r\n"); head = append(head, one[0]) {
		if _, err := io.ReadFull(conn, one); err != nil {
			t.Fatalf("handshake: %v after %q", err, head)
		}
	}
	if !strings.HasPrefix(string(head), "HTTP/1.1 101") {
		t.Fatalf("handshake: %q", head)
	}
	return conn
}

func clientFrame(t testing.TB, f *edgev1.ClientFrame) []byte {
	t.Helper()
	data, err := proto.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return masked(ws.OpBinary, true, string(data))
}

func readServerFrame(t testing.TB, conn net.Conn) *edgev1.ServerFrame {
	t.Helper()
	frame, err := ws.ReadFrame(conn)
	if err != nil {
		t.Fatal(err)
	}
	f := new(edgev1.ServerFrame)
	if err := proto.Unmarshal(frame.Payload, f); err != nil {
		t.Fatal(err)
	}
	return f
}

func helloFrame(p person) *edgev1.ClientFrame {
	return &edgev1.ClientFrame{Id: 1, Request: &edgev1.ClientFrame_Hello{Hello: &edgev1.HelloRequest{AccessToken: p.access}}}
}

// What comes with the handshake and while hello is being answered waits its
// turn, however much of it there is and wherever it is cut.
func TestOverEpollEarlyFrames(t *testing.T) {
	w := newWorld(t, nil)
	a := w.signUp("ada")
	var ahead []byte
	ahead = append(ahead, clientFrame(t, helloFrame(a))...)
	const pings = 3000
	for i := range pings {
		ahead = append(ahead, clientFrame(t, &edgev1.ClientFrame{Id: uint32(i + 2), Request: ping().Request})...)
	}
	conn := w.rawSocket(t, ahead[:100]...)
	go func() {
		for rest := ahead[100:]; len(rest) > 0; {
			n := min(len(rest), 777)
			if _, err := conn.Write(rest[:n]); err != nil {
				t.Error(err)
				return
			}
			rest = rest[n:]
		}
	}()
	if f := readServerFrame(t, conn); f.GetHello() == nil {
		t.Fatalf("hello: %v", f)
	}
	answered := 0
	for seen := 0; seen < pings; seen++ {
		f := readServerFrame(t, conn)
		switch {
		case f.GetPing() != nil:
			answered++
		case f.GetError().GetInfo().GetReason() != "too_many_in_flight":
			t.Fatalf("%v", f)
		}
	}
	if answered < maxInFlight {
		t.Errorf("%d of %d pings answered", answered, pings)
	}
}

// A sender that goes slowly holds nothing but what it has sent, a byte at a
// time, and is understood.
func TestOverEpollSlowSender(t *testing.T) {
	w := newWorld(t, nil)
	a := w.signUp("ada")
	conn := w.rawSocket(t, clientFrame(t, helloFrame(a))...)
	readServerFrame(t, conn)
	var s *session
	w.g.mu.Lock()
	for s = range w.g.sessions {
	}
	w.g.mu.Unlock()
	message := clientFrame(t, &edgev1.ClientFrame{Id: 7, Request: &edgev1.ClientFrame_Send{Send: &edgev1.SendRequest{RoomId: strings.Repeat("x", 300)}}})
	held := func(where string) (bytes float64) {
		families, err := w.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == "bongsu_gateway_held_bytes" && m.GetLabel()[0].GetValue() == where {
					bytes += m.GetGauge().GetValue()
				}
			}
		}
		return bytes
	}
	for i := range message {
		if _, err := conn.Write(message[i : i+1]); err != nil {
			t.Fatal(err)
		}
		if held := int(s.held.Load()); held > i+i/4+64 {
			t.Fatalf("%d bytes held for %d", held, i+1)
		}
		if i == len(message)/2 {
			eventually(t, "the metric tells what is held", func() bool { n := held("parser"); return n > 100 && n < 400 })
		}
	}
	if w.metric("bongsu_gateway_driven_sessions") != 1 || held("queue") != 0 {
		t.Errorf("metrics: %v sessions, %v bytes queued", w.metric("bongsu_gateway_driven_sessions"), held("queue"))
	}
	if f := readServerFrame(t, conn); f.GetId() != 7 || f.GetError().GetInfo().GetReason() != "bad_id" {
		t.Fatalf("%v", f)
	}
	eventually(t, "nothing is held", func() bool { return s.held.Load() == 0 })
}

// A client that reads nothing loses events beyond the bound, hears how many,
// loses no answer, and one that never reads again is given up.
func TestOverEpollSlowReader(t *testing.T) {
	w := newWorld(t, nil)
	w.g.patience.write = time.Hour // filling the buffers takes a loaded machine longer than a reader gets
	a, b := w.signUp("ada"), w.signUp("bob")
	room := w.direct(a, b)
	slow, fast := w.open(binaryCodec, b), w.open(binaryCodec, a)
	text := strings.Repeat("long ", 1500)
	sends := 0
	for w.metric("bongsu_gateway_events_dropped_total") == 0 { // until the system's buffers and the queue are full
		if sends++; sends > 20_000 {
			t.Fatal("nothing was dropped")
		}
		fast.send(room, clientID(sends), text)
		fast.events = nil
	}
	asked := slow.write(ping())
	var next, dropped, pongs uint64
	for dropped == 0 || pongs == 0 {
		f := slow.read()
		switch {
		case f.GetPing() != nil && f.GetId() == asked:
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
	if int(next+dropped) != sends {
		t.Fatalf("%d delivered, %d dropped of %d", next, dropped, sends)
	}
	fast.send(room, clientID(sends+1), "x")
	if seq := slow.event().GetMessage().GetMessage().GetSeq(); int(seq) != sends+1 {
		t.Fatalf("after catching up: seq %d", seq)
	}
}

func TestOverEpollDeadReader(t *testing.T) {
	w := hasty(t, nil)
	w.g.patience.silence = time.Hour
	a, b := w.signUp("ada"), w.signUp("bob")
	room := w.direct(a, b)
	w.open(binaryCodec, b) // never reads
	text := strings.Repeat("long ", 1500)
	for i := 0; w.g.Sessions() > 0; i++ {
		if i > 20_000 {
			t.Fatal("the dead reader lives")
		}
		w.rpc(a.access, "MessageService/Send", map[string]any{"roomId": room, "clientId": clientID(i), "text": text})
	}
}

// A client that leaves without a word is noticed at once: with its end, and
// with half of it.
func TestOverEpollPeerLeaves(t *testing.T) {
	for name, leave := range map[string]func(*net.TCPConn) error{
		"closes": func(c *net.TCPConn) error { return c.Close() },
		"half":   func(c *net.TCPConn) error { return c.CloseWrite() },
		"resets": func(c *net.TCPConn) error {
			if err := c.SetLinger(0); err != nil {
				return err
			}
			return c.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			a := w.signUp("ada")
			conn := w.rawSocket(t, clientFrame(t, helloFrame(a))...)
			readServerFrame(t, conn)
			if err := leave(conn.(*net.TCPConn)); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the session ends", func() bool { return w.g.Sessions() == 0 })
			w.g.hub.mu.Lock()
			defer w.g.hub.mu.Unlock()
			if len(w.g.hub.users) != 0 {
				t.Error("the hub remembers it")
			}
		})
	}
}

// Our close frame is written behind everything else, and who does not answer
// it is waited for, but not long.
func TestOverEpollCloseWithoutAnAnswer(t *testing.T) {
	w := hasty(t, nil)
	w.g.patience.hello = time.Hour
	conn := w.rawSocket(t)
	eventually(t, "a session", func() bool { return w.g.Sessions() == 1 })
	began := time.Now()
	if err := w.g.Drain(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(began); d < w.g.patience.close/2 {
		t.Fatalf("waited %v", d)
	}
	if f, err := ws.ReadFrame(conn); err != nil || f.Header.OpCode != ws.OpBinary && f.Header.OpCode != ws.OpClose {
		t.Fatalf("%v, %v", f, err)
	}
}

// A breach is answered with its close code, and what comes behind it is not read.
func TestOverEpollBreach(t *testing.T) {
	w := newWorld(t, nil)
	conn := w.rawSocket(t)
	frame := masked(ws.OpBinary, true, "x")
	frame[0] |= 0x40
	if _, err := conn.Write(append(frame, clientFrame(t, ping())...)); err != nil {
		t.Fatal(err)
	}
	f, err := ws.ReadFrame(conn)
	if err != nil || f.Header.OpCode != ws.OpClose {
		t.Fatalf("%v, %v", f, err)
	}
	if code, _ := ws.ParseCloseFrameData(f.Payload); code != ws.StatusProtocolError {
		t.Errorf("closed with %d", code)
	}
	eventually(t, "the session ends", func() bool { return w.g.Sessions() == 0 })
}

// The order of one socket's sends survives that the first is tried again.
func TestOverEpollSendsKeepTheirOrder(t *testing.T) {
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
			if tries[text]++; tries[text] <= 2 && strings.HasSuffix(text, "0") {
				return denied("unavailable", "not_owner").Error, nil
			}
			return nil, nil
		}
	})
	var want []string
	for i := range 40 {
		text := fmt.Sprint("text ", i)
		want = append(want, text)
		s.write(&edgev1.ClientFrame{Request: &edgev1.ClientFrame_Send{Send: &edgev1.SendRequest{RoomId: room, ClientId: clientID(i), Text: text}}})
	}
	for answers := 0; answers < len(want); {
		f := s.read()
		switch {
		case f.GetSend() != nil:
			answers++
		case f.GetEvent() == nil:
			t.Fatalf("%v", f)
		}
	}
	var texts []string
	w.b.set(func() {
		for _, m := range w.b.rooms[mustRoom(t, room)].msgs {
			texts = append(texts, m.GetText())
		}
	})
	if !slices.Equal(texts, want) {
		t.Fatalf("order %v", texts)
	}
}

// A send behind one that hangs is told when its own time is up.
func TestOverEpollDeadlineBehindAnother(t *testing.T) {
	w := newWorld(t, nil)
	w.g.patience.hello = 400 * time.Millisecond // a quicker tick
	a, b := w.signUp("ada"), w.signUp("bob")
	room := w.direct(a, b)
	s := w.open(binaryCodec, a)
	hold := newGate()
	defer hold.release()
	w.b.set(func() { w.b.onDo = func(*nodev1.Command) (*edgev1.Error, error) { <-hold.open; return nil, nil } })
	send := func(n int, deadline uint32) uint32 {
		return s.write(&edgev1.ClientFrame{DeadlineMs: deadline, Request: &edgev1.ClientFrame_Send{Send: &edgev1.SendRequest{RoomId: room, ClientId: clientID(n), Text: "x"}}})
	}
	first, second := send(1, 60_000), send(2, 100)
	if f := s.answer(second); f.GetError().GetInfo().GetReason() != "timeout" {
		t.Fatalf("%v", f)
	}
	hold.release()
	if f := s.answer(first); f.GetSend() == nil {
		t.Fatalf("%v", f)
	}
	s.ping()
	if n := len(w.b.commands(func(c *nodev1.Command) bool { return c.GetSend() != nil })); n != 1 {
		t.Errorf("%d sends were done", n)
	}
	eventually(t, "places come back", func() bool { return w.g.admission.InFlight(overload.Send) == 0 })
}

// Sends that wait behind another when their socket ends give their places back.
func TestOverEpollEndsWithSendsWaiting(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.signUp("ada"), w.signUp("bob")
	room := w.direct(a, b)
	s := w.open(binaryCodec, a)
	hold := newGate()
	defer hold.release()
	w.b.set(func() { w.b.onDo = func(*nodev1.Command) (*edgev1.Error, error) { <-hold.open; return nil, nil } })
	for i := range 5 {
		s.write(&edgev1.ClientFrame{Request: &edgev1.ClientFrame_Send{Send: &edgev1.SendRequest{RoomId: room, ClientId: clientID(i), Text: "x"}}})
	}
	eventually(t, "all are admitted", func() bool { return w.g.admission.InFlight(overload.Send) == 5 })
	_ = s.conn.CloseNow()
	eventually(t, "the session ends", func() bool { return w.g.Sessions() == 0 })
	if n := w.g.admission.InFlight(overload.Send); n != 1 {
		t.Errorf("%d places taken, want that of the one under way", n)
	}
	hold.release()
	eventually(t, "the last place comes back", func() bool { return w.g.admission.InFlight(overload.Send) == 0 })
}

// Sessions come and go from everywhere at once; nothing is left, and no frame
// reaches a stranger (the answers' ids would not fit).
func TestOverEpollComeAndGo(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.signUp("ada"), w.signUp("bob")
	room := w.direct(a, b)
	done := make(chan struct{})
	const people, rounds = 8, 25
	for n := range people {
		go func() {
			defer func() { done <- struct{}{} }()
			for i := range rounds {
				s, _, err := w.dial(codec(n%2), nil)
				if err != nil {
					t.Error(err)
					return
				}
				// Others may end this session at any moment.
				exchange := func(f *edgev1.ClientFrame) bool {
					kind, data := s.encode(f)
					if err := s.conn.Write(t.Context(), kind, data); err != nil {
						return false
					}
					for {
						got, err := s.readWithin(10 * time.Second)
						if err != nil {
							return false
						}
						if got.GetEvent() == nil {
							if got.GetId() != f.GetId() {
								t.Errorf("asked as %d, answered as %d", f.GetId(), got.GetId())
							}
							return true
						}
					}
				}
				asked := uint32(n*1000 + i*10)
				hello := helloFrame(a)
				hello.Id = asked + 1
				if exchange(hello) {
					exchange(&edgev1.ClientFrame{Id: asked + 2, Request: &edgev1.ClientFrame_Send{Send: &edgev1.SendRequest{RoomId: room, ClientId: clientID(n*rounds + i), Text: "x"}}})
				}
				switch i % 4 {
				case 0:
					_ = s.conn.Close(websocket.StatusNormalClosure, "")
				case 1:
					_ = s.conn.CloseNow()
				case 2:
					w.g.mu.Lock()
					for other := range w.g.sessions {
						if i%8 == 2 {
							other.finish(ws.StatusGoingAway, "test", i%3 == 0)
						} else {
							other.abort()
						}
						break
					}
					w.g.mu.Unlock()
					_ = s.conn.CloseNow()
				case 3:
					kind, data := s.encode(&edgev1.ClientFrame{Id: asked + 3, Request: ping().Request})
					_ = s.conn.Write(t.Context(), kind, data) // it may be over already
					_ = s.conn.CloseNow()
				}
			}
		}()
	}
	for range people {
		<-done
	}
	eventually(t, "all sessions end", func() bool { return w.g.Sessions() == 0 })
	for _, l := range w.g.loops.all {
		eventually(t, "loops are empty", func() bool { return l.idle() })
	}
}

// faultyClock panics on demand.
type faultyClock struct{ faulty atomic.Bool }

func (c *faultyClock) Now() time.Time {
	if c.faulty.Load() {
		panic("the clock is broken")
	}
	return time.Now()
}

// A fault of ours in a loop ends one session.
func TestOverEpollFaultEndsOneSession(t *testing.T) {
	var clock faultyClock
	w := newWorld(t, func(c *Config) { c.Clock = &clock })
	a := w.signUp("ada")
	good, bad := w.open(binaryCodec, a), w.open(binaryCodec, a)
	clock.faulty.Store(true)
	bad.write(&edgev1.ClientFrame{Request: &edgev1.ClientFrame_GetMe{GetMe: &edgev1.GetMeRequest{}}})
	if code := bad.closeOf(); code != websocket.StatusInternalError {
		t.Errorf("closed with %v", code)
	}
	clock.faulty.Store(false)
	good.ping()
	eventually(t, "it ends", func() bool { return w.g.Sessions() == 1 })
	if w.metric("bongsu_gateway_panics_total") == 0 {
		t.Error("no panic was counted")
	}
}

// An idle parked session is small, and has no goroutine.
func TestOverEpollIdleSessionsAreSmall(t *testing.T) {
	if testing.Short() {
		t.Skip("opens many sockets")
	}
	w := newWorld(t, nil)
	const sockets = 2000
	var people []person
	for i := range 20 {
		people = append(people, w.signUp(fmt.Sprintf("user%d", i)))
		w.direct(people[i], people[0])
	}
	var conns []net.Conn
	open := func(n int) {
		for range n {
			conn := w.rawSocket(t, clientFrame(t, helloFrame(people[len(conns)%len(people)]))...)
			readServerFrame(t, conn)
			conns = append(conns, conn)
		}
	}
	open(10) // warm
	before, goroutines := liveHeap(), runtime.NumGoroutine()
	open(sockets)
	eventually(t, "workers end", func() bool { return runtime.NumGoroutine() <= goroutines+8 })
	each := (int64(liveHeap()) - int64(before)) / sockets
	// Both ends are here; the client's net.Conn and the test's own cleanup are
	// counted in.
	t.Logf("%d bytes of heap a session, both ends", each)
	if each > 4<<10 {
		t.Errorf("%d bytes of heap a session", each)
	}
	if n := w.parked(); n != sockets+10 {
		t.Errorf("%d parked", n)
	}
}

func liveHeap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what finalizers and pools still held
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
