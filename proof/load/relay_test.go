package load

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/gobwas/ws"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// startTestRelay returns the URL of a relay in this process.
func startTestRelay(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Relay(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return "http://" + l.Addr().String()
}

func dialRelay(t *testing.T, url string, number int) *leanSocket {
	t.Helper()
	s, err := dialLean(t.Context(), (&net.Dialer{}).DialContext, nil, url, relayName(number), 4096)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

func sendFrame(t *testing.T, room, text string) []byte {
	t.Helper()
	b, err := proto.Marshal(&edgev1.ClientFrame{Id: 77, DeadlineMs: 9, Request: &edgev1.ClientFrame_Send{Send: &edgev1.SendRequest{
		RoomId: room, ClientId: "a-uuid", Text: text,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return maskedFrame(ws.OpBinary, b)
}

func nextFrame(t *testing.T, s *leanSocket) *edgev1.ServerFrame {
	t.Helper()
	if err := s.conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	payload, err := s.next()
	if err != nil {
		t.Fatal(err)
	}
	f := &edgev1.ServerFrame{}
	if err := proto.Unmarshal(payload, f); err != nil {
		t.Fatal(err)
	}
	return f
}

// What the relay splices is what a server would say.
func TestRelayHandsOnAndBack(t *testing.T) {
	url := startTestRelay(t)
	all := []*leanSocket{dialRelay(t, url, 0), dialRelay(t, url, 1), dialRelay(t, url, 2)}
	is := func(who string, m *edgev1.Message, room string, seq uint64) {
		t.Helper()
		if m.GetRoomId() != room || m.GetSeq() != seq || m.GetText() != "hello, 봉수" || m.GetClientId() != "a-uuid" {
			t.Errorf("%s got %v", who, m)
		}
	}
	if err := all[1].write(sendFrame(t, relayRoom(0), "hello, 봉수")); err != nil {
		t.Fatal(err)
	}
	answer := nextFrame(t, all[1])
	if answer.GetId() != 77 {
		t.Errorf("answered %d", answer.GetId())
	}
	is("the sender", answer.GetSend().GetMessage(), relayRoom(0), 1)
	is("the partner", nextFrame(t, all[0]).GetEvent().GetMessage().GetMessage(), relayRoom(0), 1)

	if err := all[2].write(sendFrame(t, relayEveryone, "hello, 봉수")); err != nil {
		t.Fatal(err)
	}
	for _, s := range all { // the first to come at 2 is this one: the former was not for it
		is("a member", nextFrame(t, s).GetEvent().GetMessage().GetMessage(), relayEveryone, 2)
	}
	is("the sender", nextFrame(t, all[2]).GetSend().GetMessage(), relayEveryone, 2)

	if err := all[0].write(pingFrame(askID)); err != nil {
		t.Fatal(err)
	}
	if f := nextFrame(t, all[0]); f.GetId() != askID || f.GetPing() == nil {
		t.Errorf("a ping is answered with %v", f)
	}
	if err := all[0].write(maskedFrame(ws.OpPing, []byte("x"))); err != nil {
		t.Fatal(err)
	}
	if op, payload, err := readFrame(all[0].in, &all[0].buf, 100); err != nil || op != ws.OpPong || string(payload) != "x" {
		t.Errorf("%v %q, %v", op, payload, err)
	}
}

func TestRelayEndsStrangers(t *testing.T) {
	url := startTestRelay(t)
	for name, frame := range map[string][]byte{
		"nothing": maskedFrame(ws.OpBinary, nil), "no protobuf": maskedFrame(ws.OpBinary, []byte{0xff, 0xff}),
		"too long": maskedFrame(ws.OpBinary, make([]byte, 1<<16)), "no text": sendFrame(t, relayEveryone, ""),
	} {
		s := dialRelay(t, url, 0)
		_ = s.write(frame) // may be ended before all is written
		if payload, err := s.next(); err == nil {
			t.Errorf("%s is answered with %q", name, payload)
		}
	}
	if _, err := dialLean(t.Context(), (&net.Dialer{}).DialContext, nil, url, "somebody", 4096); err == nil {
		t.Error("a stranger got in")
	}
}

// A client that does not read holds everybody up, as a bounded relay must, but
// is let go after a while; the others' frames keep their order.
func TestRelayIsBounded(t *testing.T) {
	url := startTestRelay(t)
	deaf, writer := dialRelay(t, url, 0), dialRelay(t, url, 1)
	const n, size = 400, 60 << 10 // far more than sockets and backlog hold
	text := strings.Repeat("x", size)
	done := make(chan error, 1)
	go func() {
		for range n {
			if err := writer.write(sendFrame(t, relayRoom(0), text)); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for i := range n {
		if seq := nextFrame(t, writer).GetSend().GetMessage().GetSeq(); seq != uint64(i+1) {
			t.Fatalf("answer %d is of message %d", i+1, seq)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	got := 0
	for err := error(nil); err == nil; got++ {
		_, err = deaf.next()
	}
	if got > n/2 {
		t.Errorf("%d frames were kept for one who did not read", got)
	}
}

// Whatever the pieces in which frames come, they are the same.
func TestClientFrames(t *testing.T) {
	var stream []byte
	for _, n := range []int{0, 1, 125, 126, 1000, 65535} {
		stream = append(stream, maskedFrame(ws.OpBinary, bytes.Repeat([]byte{byte(n)}, n))...)
	}
	for _, step := range []int{1, 7, 4096, len(stream)} {
		var in []byte
		var sizes []int
		for at := 0; at < len(stream); at += step {
			in = append(in, stream[at:min(at+step, len(stream))]...)
			for {
				op, payload, size, err := clientFrame(in)
				if err != nil {
					t.Fatal(err)
				}
				if size == 0 {
					break
				}
				if op != ws.OpBinary || len(payload) > 0 && payload[len(payload)-1] != byte(len(payload)) {
					t.Fatalf("%v of %d bytes", op, len(payload))
				}
				sizes = append(sizes, len(payload))
				in = in[size:]
			}
		}
		if !slices.Equal(sizes, []int{0, 1, 125, 126, 1000, 65535}) || len(in) > 0 {
			t.Errorf("in steps of %d: %v, %d bytes left", step, sizes, len(in))
		}
	}
	for name, bad := range map[string][]byte{
		"unmasked": ws.MustCompileFrame(ws.NewBinaryFrame([]byte("x"))), "a piece": {0x02, 0x81, 0, 0, 0, 0, 'x'},
		"too long": maskedFrame(ws.OpBinary, make([]byte, 1<<16)),
	} {
		if _, _, _, err := clientFrame(bad); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func FuzzClientFrame(f *testing.F) {
	f.Add(maskedFrame(ws.OpBinary, []byte("hello")))
	f.Add([]byte{0x82, 0xfe, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, payload, size, err := clientFrame(bytes.Clone(b))
		if size > len(b) || len(payload) > size || err != nil && size != 0 {
			t.Errorf("%d bytes, a frame of %d, %v", len(b), size, err)
		}
	})
}

func TestField(t *testing.T) {
	b, err := proto.Marshal(&edgev1.Message{RoomId: "r", Seq: 300, SentAt: 5, Text: "words", Unread: 7})
	if err != nil {
		t.Fatal(err)
	}
	if text, _, ok := field(b, messageText); !ok || string(text) != "words" {
		t.Errorf("%q, %v", text, ok)
	}
	if _, seq, ok := field(b, messageSeq); !ok || seq != 300 {
		t.Errorf("%d, %v", seq, ok)
	}
	for n := range b { // whatever is cut off, what is found was there
		if text, _, ok := field(b[:n], messageText); ok && string(text) != "words" {
			t.Errorf("%q of %d bytes", text, n)
		}
	}
	if _, _, ok := field(b, 99); ok {
		t.Error("a field that is not there")
	}
}

func FuzzField(f *testing.F) {
	f.Add([]byte{0x12, 1, 'x', 0x08, 3}, int32(1))
	f.Fuzz(func(t *testing.T, b []byte, number int32) {
		value, _, ok := field(b, protowire.Number(number))
		if !ok && value != nil || len(value) > len(b) {
			t.Errorf("%q, %v of %q", value, ok, b)
		}
	})
}

// The ceiling is measured after the run, by the same generator.
func TestCeiling(t *testing.T) {
	relay := startTestRelay(t)
	for name, measure := range map[string]func(context.Context, Config) (Result, error){"send": Send, "fanout": Fanout} {
		cfg := Config{Senders: 3, Members: 13, Bound: 200 * time.Millisecond, Ceiling: true, relayAt: relay}
		r := onFake(t, cfg, measure, nil)
		c := r.Details.Ceiling
		if !r.Passed || r.CeilingRatio == nil || c == nil || c.OpsPerS <= 0 || c.P99Ms <= 0 || c.Errors != 0 {
			t.Errorf("%s: %+v, ceiling %+v", name, r, c)
			continue
		}
		if got := round(r.OpsPerS/c.OpsPerS, 4); *r.CeilingRatio != got {
			t.Errorf("%s: ratio %g, want %g", name, *r.CeilingRatio, got)
		}
		if text := r.table(); !strings.Contains(text, "of a bare relay's") {
			t.Errorf("no ceiling in %s", text)
		}
	}
	paced := onFake(t, Config{Pairs: 2, Rate: 100, Bound: 300 * time.Millisecond, Ceiling: true, relayAt: relay}, Deliver, nil)
	if c := paced.Details.Ceiling; c == nil || c.Errors != 0 || c.OpsPerS <= 0 || c.CPURatio != 0 {
		t.Errorf("%+v", paced)
	}
	if _, err := Send(t.Context(), Config{Target: "http://127.0.0.1:1", Ceiling: true}); err == nil {
		t.Error("a target elsewhere has a ceiling here")
	}
}

// The relay alone, as a child process, which is stopped again.
func TestCeilingOfAChild(t *testing.T) {
	t.Setenv("LOAD_TEST_CHILD", "relay")
	defer http.DefaultClient.CloseIdleConnections() // of the probes, for goleak
	rates := map[string]float64{"deliver": 100}
	for _, like := range []string{"send", "deliver", "fanout"} {
		// The relay is ours, whatever server is measured.
		cfg := Config{Bin: "/no/such/server", Dir: t.TempDir(), Senders: 2, Members: 12, Pairs: 2, Rate: rates[like], Bound: 300 * time.Millisecond}
		r, err := Ceiling(t.Context(), cfg, like)
		if err != nil {
			t.Fatal(err)
		}
		// A busy machine may be late for a window this short.
		if (!r.Passed && !r.Details.Behind) || r.Name != "ceiling" || r.OpsPerS <= 0 || r.Errors != 0 || r.Details.MeetsGoals != nil || r.ServerCPUPer1000 == nil {
			t.Errorf("%+v", r)
		}
		if left, err := os.ReadDir(cfg.Dir); err != nil || len(left) > 0 {
			t.Errorf("%v left, %v", left, err)
		}
	}
}
