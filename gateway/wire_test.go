package gateway

import (
	"bytes"
	"runtime"
	"strings"
	"testing"

	"github.com/gobwas/ws"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

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
		s := w.g.newSession(c, "fuzz")
		s.wire = nowhere{}
		s.who = caller{a.id, a.device}
		panics := sum(w.registry, "bongsu_gateway_panics_total")
		if err := s.frame(wireMessage{opCode: c.opCode(), data: data}, 0); err != nil {
			t.Fatalf("one frame ended the connection: %v", err)
		}
		for answered := false; !answered; runtime.Gosched() {
			s.mu.Lock()
			answered = len(s.queue) > 0 && s.workers == 0
			s.mu.Unlock()
		}
		if sum(w.registry, "bongsu_gateway_panics_total") != panics {
			t.Fatal("a panic")
		}
	})
}

// nowhere carries nothing.
type nowhere struct{}

func (nowhere) kick()          {}
func (nowhere) start()         {}
func (nowhere) refuse([]byte)  {}
func (nowhere) driver() driver { return goroutineDriver }

func FuzzBinaryFrame(f *testing.F) { fuzzFrames(f, binaryCodec) }
func FuzzJSONFrame(f *testing.F)   { fuzzFrames(f, jsonCodec) }
