package gateway

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// tape is a connection that plays what a client wrote.
type tape struct {
	io.Reader
	net.Conn
}

func (t tape) Read(b []byte) (int, error)     { return t.Reader.Read(b) }
func (tape) SetReadDeadline(time.Time) error  { return nil }
func (tape) Close() error                     { return nil }
func (tape) Write(b []byte) (int, error)      { return len(b), nil }
func (tape) SetWriteDeadline(time.Time) error { return nil }
func play(frames ...[]byte) *stream {
	return newStream(tape{Reader: bytes.NewReader(bytes.Join(frames, nil))}, nil)
}
func noLimit() time.Time { return time.Time{} }
func masked(op ws.OpCode, fin bool, s string) []byte {
	f := ws.MaskFrameWith(ws.NewFrame(op, fin, []byte(s)), [4]byte{1, 2, 3, 4})
	return ws.MustCompileFrame(f)
}

func TestWireReads(t *testing.T) {
	big := strings.Repeat("x", maxFrameBytes)
	long := strings.Repeat("abcdefg", 2000) // so that no piece hides an offset of the mask
	s := play(
		masked(ws.OpBinary, false, "xyz"), masked(ws.OpContinuation, true, long),
		masked(ws.OpText, true, "whole"),
		masked(ws.OpText, false, "in "), masked(ws.OpPing, true, "p"), masked(ws.OpContinuation, false, "three "), masked(ws.OpContinuation, true, "parts"),
		masked(ws.OpBinary, true, big),
		masked(ws.OpBinary, true, big+"y"),
		masked(ws.OpBinary, false, big[1:]), masked(ws.OpContinuation, false, "yz"), masked(ws.OpContinuation, true, "more"),
		masked(ws.OpBinary, true, ""),
		masked(ws.OpClose, true, "\x03\xe8bye"),
	)
	for i, want := range []wireMessage{
		{ws.OpBinary, []byte("xyz" + long), false},
		{ws.OpText, []byte("whole"), false},
		{ws.OpPing, []byte("p"), false},
		{ws.OpText, []byte("in three parts"), false},
		{ws.OpBinary, []byte(big), false},
		{ws.OpBinary, []byte(big), true},
		{ws.OpBinary, []byte(big[1:] + "y"), true},
		{ws.OpBinary, nil, false},
		{ws.OpClose, []byte("\x03\xe8bye"), false},
	} {
		got, err := s.read(noLimit)
		if err != nil || got.opCode != want.opCode || !bytes.Equal(got.data, want.data) || got.tooBig != want.tooBig {
			t.Fatalf("message %d: %v, %d bytes, too big %v, %v", i, got.opCode, len(got.data), got.tooBig, err)
		}
	}
	if _, err := s.read(noLimit); !errors.Is(err, io.EOF) {
		t.Fatalf("after the end: %v", err)
	}
}

func TestWireRefuses(t *testing.T) {
	var many [][]byte
	many = append(many, masked(ws.OpText, false, "x"))
	for range maxFragments {
		many = append(many, masked(ws.OpContinuation, false, "x"))
	}
	huge := ws.MustCompileFrame(ws.MaskFrame(ws.NewFrame(ws.OpBinary, true, nil)))
	huge = append([]byte{0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0}, huge[2:]...) // announces a terabyte
	reserved := masked(ws.OpText, true, "x")
	reserved[0] |= 0x40
	for name, c := range map[string]struct {
		frames [][]byte
		code   closeCode
	}{
		"not masked":          {[][]byte{ws.MustCompileFrame(ws.NewTextFrame([]byte("x")))}, ws.StatusProtocolError},
		"reserved bit":        {[][]byte{reserved}, ws.StatusProtocolError},
		"reserved kind":       {[][]byte{masked(3, true, "x")}, ws.StatusProtocolError},
		"long ping":           {[][]byte{masked(ws.OpPing, true, strings.Repeat("x", 126))}, ws.StatusProtocolError},
		"ping in parts":       {[][]byte{masked(ws.OpPing, false, "x")}, ws.StatusProtocolError},
		"continues nothing":   {[][]byte{masked(ws.OpContinuation, true, "x")}, ws.StatusProtocolError},
		"begins twice":        {[][]byte{masked(ws.OpText, false, "x"), masked(ws.OpText, true, "x")}, ws.StatusProtocolError},
		"negative length":     {[][]byte{{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}}, ws.StatusProtocolError},
		"far too long":        {[][]byte{huge}, ws.StatusMessageTooBig},
		"far too many pieces": {many, ws.StatusMessageTooBig},
	} {
		s := play(c.frames...)
		var err error
		for err == nil {
			_, err = s.read(noLimit)
		}
		var breach *protocolError
		if !errors.As(err, &breach) || breach.code != c.code {
			t.Errorf("%s: %v, want close code %d", name, err, c.code)
		}
	}
}

// What a client announces costs nothing until it is sent.
func TestAnnouncedLengthAllocatesNothing(t *testing.T) {
	announce := []byte{0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4} // 64 KiB, then silence
	allocated := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			s := play(announce)
			if _, err := s.read(noLimit); err == nil {
				b.Fatal("a message out of nothing")
			}
		}
	}).AllocedBytesPerOp()
	if allocated > 16<<10 {
		t.Errorf("%d bytes for a message that never came", allocated)
	}
}

func FuzzWire(f *testing.F) {
	f.Add(masked(ws.OpText, true, "whole"))
	f.Add(append(masked(ws.OpText, false, "a"), masked(ws.OpContinuation, true, "b")...))
	f.Add([]byte{0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := play(data)
		for {
			m, err := s.read(noLimit)
			if err != nil {
				return
			}
			if len(m.data) > maxFrameBytes || m.tooBig && len(m.data) == 0 {
				t.Fatalf("%d bytes", len(m.data))
			}
		}
	})
}

func TestEncodedFramesAreWebSocketFrames(t *testing.T) {
	for c := range codecs {
		for _, n := range []int{0, 1, 100, 125, 126, 127, 1000, 65_535, 65_536, 70_000} {
			want := &edgev1.ServerFrame{Id: 7, Body: &edgev1.ServerFrame_Send{Send: &edgev1.SendResponse{Message: &edgev1.Message{Text: strings.Repeat("x", n)}}}}
			data, err := c.encode(want)
			if err != nil {
				t.Fatal(err)
			}
			frame, err := ws.ReadFrame(bytes.NewReader(data))
			if err != nil || !frame.Header.Fin || frame.Header.Masked || frame.Header.OpCode != c.opCode() || int(frame.Header.Length)+ws.HeaderSize(frame.Header) != len(data) {
				t.Fatalf("%v, %d: %+v, %v", c, n, frame.Header, err)
			}
			var got edgev1.ServerFrame
			if c == jsonCodec {
				err = protojson.Unmarshal(frame.Payload, &got)
			} else {
				err = proto.Unmarshal(frame.Payload, &got)
			}
			if err != nil || !proto.Equal(&got, want) {
				t.Fatalf("%v, %d: %v", c, n, err)
			}
		}
	}
}

func TestSalvageID(t *testing.T) {
	for in, want := range map[string]uint32{
		`{"id":5,"send":{"text":"cut`: 5, `{"send":{"id":9,"a":[{"id":8}]},"id":6`: 6, `{"send":{"id":9`: 0, `[{"id":5}]`: 0, `{"id":"5"}`: 0, `{"id":-5}`: 0,
		`{"id":4294967296}`: 0, `{"id":1.5}`: 0, `{"x":"id","y":5}`: 0, ``: 0, `{}`: 0, `5`: 0, strings.Repeat(`{"a":`, 1000): 0, `{"a":[1,2],"id":7}`: 7,
	} {
		if got := jsonCodec.salvageID([]byte(in)); got != want {
			t.Errorf("%.40s: %d, want %d", in, got, want)
		}
	}
	for in, want := range map[string]uint32{
		"\x08\x05rest": 5, "\x10\x07\x08\x05": 5, "": 0, "\x08": 0, "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01": 0, "\x0a\x02xy\x08\x06": 0, "\xff": 0,
	} {
		if in == "\x0a\x02xy\x08\x06" { // field 1 of another kind is skipped like any other
			want = 6
		}
		if got := binaryCodec.salvageID([]byte(in)); got != want {
			t.Errorf("%q: %d, want %d", in, got, want)
		}
	}
}

// Whatever bytes come as a message: an answer or a counted bad frame, no panic.
func fuzzFrames(f *testing.F, c codec) {
	w := newWorld(f, nil)
	a := w.signUp("ada")
	seed := func(frame *edgev1.ClientFrame) {
		marshal := proto.Marshal
		if c == jsonCodec {
			marshal = protojson.Marshal
		}
		data, err := marshal(frame)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(data[:len(data)/2])
	}
	seed(&edgev1.ClientFrame{Id: 1, Request: &edgev1.ClientFrame_Ping{Ping: &edgev1.PingRequest{}}})
	seed(&edgev1.ClientFrame{Id: 2, DeadlineMs: 5, Class: 99, Request: &edgev1.ClientFrame_Send{Send: &edgev1.SendRequest{RoomId: "r1", ClientId: "x", Text: "y"}}})
	seed(&edgev1.ClientFrame{Id: 3, Request: &edgev1.ClientFrame_CreateGroup{CreateGroup: &edgev1.CreateGroupRequest{Title: "t", UserIds: []string{a.id.String(), "x"}}}})
	seed(&edgev1.ClientFrame{Id: 4, Class: -1, Request: &edgev1.ClientFrame_List{List: &edgev1.ListRequest{Limit: 1 << 31, AtLeast: &edgev1.Position{Shard: 1 << 31}}}})
	seed(&edgev1.ClientFrame{Id: 5, Request: &edgev1.ClientFrame_Hello{Hello: &edgev1.HelloRequest{AccessToken: a.access}}})
	seed(&edgev1.ClientFrame{Id: 6, Request: &edgev1.ClientFrame_RevokeDevice{RevokeDevice: &edgev1.RevokeDeviceRequest{DeviceId: "d"}}})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := w.g.newSession(play(), c, "fuzz")
		s.who = caller{a.id, a.device}
		written := &counter{}
		s.wire = written
		panics := sum(w.registry, "bongsu_gateway_panics_total")
		if err := s.frame(wireMessage{opCode: c.opCode(), data: data}); err != nil {
			t.Fatalf("one frame ended the connection: %v", err)
		}
		s.working.Wait()
		s.cancel()
		if sum(w.registry, "bongsu_gateway_panics_total") != panics {
			t.Fatal("a panic")
		}
		if written.frames == 0 {
			t.Fatalf("no answer to %q", data)
		}
	})
}

// counter is a wire that counts what is written.
type counter struct{ frames int }

func (*counter) read(func() time.Time) (wireMessage, error) { return wireMessage{}, io.EOF }
func (c *counter) write(f net.Buffers) error                { c.frames += len(f); return nil }
func (*counter) readBy(time.Time)                           {}
func (*counter) close()                                     {}

func FuzzBinaryFrame(f *testing.F) { fuzzFrames(f, binaryCodec) }
func FuzzJSONFrame(f *testing.F)   { fuzzFrames(f, jsonCodec) }
