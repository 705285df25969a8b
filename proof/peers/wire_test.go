package peers

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/centrifugal/protocol"
	"github.com/gobwas/ws"
	"google.golang.org/protobuf/proto"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

func encode(t testing.TB, f *edgev1.ServerFrame) []byte {
	b, err := proto.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func messageFrame(text string) *edgev1.ServerFrame {
	return &edgev1.ServerFrame{Body: &edgev1.ServerFrame_Event{Event: &edgev1.Event{Event: &edgev1.Event_Message{
		Message: &edgev1.MessageEvent{Message: &edgev1.Message{RoomId: "r", Seq: 9, Text: text}},
	}}}}
}

func TestParseBongsu(t *testing.T) {
	f, err := parseBongsu(encode(t, messageFrame("hello")))
	if err != nil || f.id != 0 || string(f.text) != "hello" {
		t.Errorf("a message: %+v, %v", f, err)
	}
	f, err = parseBongsu(encode(t, &edgev1.ServerFrame{Id: 300, Body: &edgev1.ServerFrame_Send{Send: &edgev1.SendResponse{Message: &edgev1.Message{Text: "mine"}}}}))
	if err != nil || f.id != 300 || f.err != nil || f.text != nil {
		t.Errorf("an answer: %+v, %v", f, err)
	}
	refused := &edgev1.ServerFrame{Id: 5, Body: &edgev1.ServerFrame_Error{Error: &edgev1.Error{Code: "unavailable", Message: "later"}}}
	if f, err = parseBongsu(encode(t, refused)); err != nil || f.id != 5 || f.err == nil || !strings.Contains(f.err.Error(), "later") {
		t.Errorf("a refusal: %+v, %v", f, err)
	}
	refused.Id = 0
	if _, err = parseBongsu(encode(t, refused)); err == nil {
		t.Error("an error of the socket itself was passed over")
	}
	lag := &edgev1.ServerFrame{Body: &edgev1.ServerFrame_Event{Event: &edgev1.Event{Event: &edgev1.Event_Lag{Lag: &edgev1.LagEvent{Dropped: 3}}}}}
	if _, err = parseBongsu(encode(t, lag)); err == nil {
		t.Error("dropped events were passed over")
	}
}

func FuzzParseBongsu(f *testing.F) {
	f.Add(encode(f, messageFrame("hello")))
	f.Add([]byte{0x08, 0x01, 0x12, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseBongsu(b)
		var whole edgev1.ServerFrame
		if err != nil || proto.Unmarshal(b, &whole) != nil {
			return
		}
		if again, err := proto.Marshal(&whole); err != nil || !bytes.Equal(again, b) {
			return // fields twice or in another order, which no server of ours sends
		}
		if text := whole.GetEvent().GetMessage().GetMessage().GetText(); got.id != uint64(whole.GetId()) || string(got.text) != text {
			t.Fatalf("%x: got %+v, want %v", b, got, &whole)
		}
	})
}

func TestReadFrame(t *testing.T) {
	var stream bytes.Buffer
	sizes := []int{0, 1, 125, 126, 65535, 65536, maxFrame}
	for _, n := range sizes {
		if err := ws.WriteFrame(&stream, ws.NewBinaryFrame(bytes.Repeat([]byte{byte(n)}, n))); err != nil {
			t.Fatal(err)
		}
	}
	in, buf := bufio.NewReader(&stream), []byte(nil)
	for _, n := range sizes {
		op, payload, err := readFrame(in, &buf)
		if err != nil || op != ws.OpBinary || len(payload) != n || n > 0 && payload[n-1] != byte(n) {
			t.Fatalf("a frame of %d bytes: %v, %d bytes, %v", n, op, len(payload), err)
		}
	}
	if _, _, err := readFrame(in, &buf); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	for name, frame := range map[string]ws.Frame{
		"masked":     ws.MaskFrame(ws.NewBinaryFrame([]byte("x"))),
		"fragmented": ws.NewFrame(ws.OpBinary, false, []byte("x")),
		"continued":  ws.NewFrame(ws.OpContinuation, true, []byte("x")),
		"too long":   ws.NewBinaryFrame(make([]byte, maxFrame+1)),
	} {
		stream.Reset()
		if err := ws.WriteFrame(&stream, frame); err != nil {
			t.Fatal(err)
		}
		if _, _, err := readFrame(bufio.NewReader(&stream), &buf); !errors.Is(err, errFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEachReply(t *testing.T) {
	replies := []*protocol.Reply{
		{Id: 1, Publish: &protocol.PublishResult{}},
		{Push: &protocol.Push{Channel: "c", Pub: &protocol.Publication{Data: []byte("hello")}}},
		{}, // a ping
	}
	frame := protocol.NewProtobufDataEncoder()
	for _, r := range replies {
		b, err := protocol.NewProtobufReplyEncoder().Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := frame.Encode(b); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	err := eachReply(frame.Finish(), func(r *protocol.Reply) error {
		got = append(got, string(r.GetPush().GetPub().GetData()))
		return nil
	})
	if err != nil || strings.Join(got, "|") != "|hello|" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := eachReply([]byte{5, 1}, func(*protocol.Reply) error { return nil }); err == nil {
		t.Error("half a reply was understood")
	}
}
