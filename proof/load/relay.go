package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/gobwas/ws"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// The relay is the ceiling: what a machine can do with the server's WebSocket
// library and this generator when nothing is decided, stored or checked. One
// goroutine under epoll takes what all sockets have sent, hands it on into the
// buffers of those it is for, and only then writes, each socket once: as few
// system calls as there can be, and nothing that is woken. (One goroutine a
// socket, each writing what others left meanwhile, was measured beside it and
// reached less.) A second core is left to the generator.
//
// It speaks just enough of the protocol for the same generator to drive it: the
// bytes of a message are spliced, never decoded. A frame to the room pair-N goes
// on to the partner and back to its sender, one to relayEveryone on to all, and
// then back. Access tokens are relayName(i), where i and i^1 are partners.
const (
	relayEveryone = "everyone"
	relayPair     = "pair-"
	relayPerson   = "relay-"
	// relayBacklog bounds what waits for one socket; beyond it everybody waits.
	relayBacklog = 1 << 20
)

func relayName(i int) string    { return relayPerson + strconv.Itoa(i) }
func relayRoom(pair int) string { return relayPair + strconv.Itoa(pair) }
func relayOf(name string, prefix string) (int, bool) {
	digits, ok := strings.CutPrefix(name, prefix)
	n, err := strconv.Atoi(digits)
	return n, ok && err == nil && n >= 0
}

var errRelay = errors.New("not a frame that the relay knows")

// readFrame reads one whole frame into *buf, which grows to its size, and
// unmasks it.
func readFrame(in io.Reader, buf *[]byte, most int64) (ws.OpCode, []byte, error) {
	h, err := ws.ReadHeader(in)
	if err != nil {
		return 0, nil, err
	}
	if h.Length > most || !h.Fin {
		return 0, nil, fmt.Errorf("a frame of %d bytes, whole: %v", h.Length, h.Fin)
	}
	if int64(cap(*buf)) < h.Length {
		*buf = make([]byte, h.Length)
	}
	payload := (*buf)[:h.Length]
	if _, err := io.ReadFull(in, payload); err != nil {
		return 0, nil, err
	}
	if h.Masked {
		ws.Cipher(payload, h.Mask, 0)
	}
	return h.OpCode, payload, nil
}

// Numbers of fields in socket.proto and message.proto.
const (
	frameID      = 1
	frameEvent   = 3
	frameHello   = 10
	framePing    = 11
	frameSend    = 12
	frameError   = 2
	frameMark    = 14
	eventMessage = 1
	eventRead    = 2
	eventLag     = 8
	readChanges  = 2
	helloToken   = 1
	sendRoom     = 1
	sendClientID = 2
	sendText     = 3
	messageRoom  = 1
	messageSeq   = 2
	messageText  = 5
)

// field finds the first field of a number in an encoded message. For a varint
// n is set, for bytes b.
func field(message []byte, want protowire.Number) (b []byte, n uint64, ok bool) {
	for len(message) > 0 {
		number, kind, head := protowire.ConsumeTag(message)
		if head < 0 {
			return nil, 0, false
		}
		message = message[head:]
		size := protowire.ConsumeFieldValue(number, kind, message)
		if size < 0 {
			return nil, 0, false
		}
		if number == want {
			switch kind {
			case protowire.BytesType:
				b, _ = protowire.ConsumeBytes(message)
			case protowire.VarintType:
				n, _ = protowire.ConsumeVarint(message)
			}
			return b, n, true
		}
		message = message[size:]
	}
	return nil, 0, false
}

// countFields counts the fields of a number.
func countFields(message []byte, want protowire.Number) (n int) {
	for len(message) > 0 {
		number, _, size := protowire.ConsumeField(message)
		if size < 0 {
			return n
		}
		if number == want {
			n++
		}
		message = message[size:]
	}
	return n
}

// frame handles one frame of a client.
func (r *relay) frame(s *relaySocket, payload []byte) error {
	_, id, ok := field(payload, frameID)
	if !ok {
		return errRelay
	}
	if send, _, ok := field(payload, frameSend); ok {
		return r.pass(s, id, send)
	}
	answer := &edgev1.ServerFrame{Id: uint32(id)}
	if hello, _, ok := field(payload, frameHello); ok {
		token, _, _ := field(hello, helloToken)
		number, ok := relayOf(string(token), relayPerson)
		if !ok {
			return errRelay
		}
		s.number, s.joined = number, true
		r.people[number] = s
		answer.Body = &edgev1.ServerFrame_Hello{Hello: &edgev1.HelloResponse{UserId: string(token), HeartbeatSeconds: 30}}
	} else if _, _, ok := field(payload, framePing); ok {
		answer.Body = &edgev1.ServerFrame_Ping{Ping: &edgev1.PingResponse{}}
	} else {
		return errRelay
	}
	b, err := proto.Marshal(answer)
	if err != nil {
		return err
	}
	r.put(s, ws.OpBinary, b)
	return nil
}

// pass hands a message on, and back.
func (r *relay) pass(s *relaySocket, id uint64, send []byte) error {
	room, _, ok1 := field(send, sendRoom)
	clientID, _, ok2 := field(send, sendClientID)
	text, _, ok3 := field(send, sendText)
	if !ok1 || !ok2 || !ok3 || !s.joined {
		return errRelay
	}
	const clientIDField, sendMessage, eventMessageMessage = 4, 1, 1
	r.seq++
	m := appendBytes(r.message[:0], messageRoom, room)
	m = protowire.AppendVarint(protowire.AppendTag(m, messageSeq, protowire.VarintType), r.seq)
	m = appendBytes(m, clientIDField, clientID)
	m = appendBytes(m, messageText, text)
	r.message = m

	inner := sizeBytes(len(m))
	e := protowire.AppendTag(r.event[:0], frameEvent, protowire.BytesType)
	e = protowire.AppendVarint(e, uint64(sizeBytes(inner)))
	e = protowire.AppendTag(e, eventMessage, protowire.BytesType)
	e = protowire.AppendVarint(e, uint64(inner))
	e = appendBytes(e, eventMessageMessage, m)
	r.event = e
	if string(room) == relayEveryone {
		for _, other := range r.people {
			r.put(other, ws.OpBinary, e)
		}
	} else if partner := r.people[s.number^1]; partner != nil {
		r.put(partner, ws.OpBinary, e)
	}
	a := protowire.AppendVarint(protowire.AppendTag(r.event[:0], frameID, protowire.VarintType), id)
	a = protowire.AppendTag(a, frameSend, protowire.BytesType)
	a = protowire.AppendVarint(a, uint64(inner))
	a = appendBytes(a, sendMessage, m)
	r.event = a
	r.put(s, ws.OpBinary, a)
	return nil
}

// sizeBytes is the size of a field of n bytes with a number below 16.
func sizeBytes(n int) int { return 1 + protowire.SizeBytes(n) }

func appendBytes(b []byte, number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), value)
}

// relaySocket is one socket; the relay's goroutine owns it.
type relaySocket struct {
	fd      int
	number  int
	joined  bool
	in, out []byte // what is no whole frame yet; what is not written yet
	dirty   bool   // out is on the list to be written
	waits   bool   // for the socket to take more
}

// put appends a frame to what will be written to a socket.
func (r *relay) put(s *relaySocket, op ws.OpCode, payload []byte) {
	s.out = append(s.out, 0x80|byte(op))
	switch n := len(payload); {
	case n < 126:
		s.out = append(s.out, byte(n))
	case n < 1<<16:
		s.out = append(s.out, 126, byte(n>>8), byte(n))
	default:
		s.out = binary.BigEndian.AppendUint64(append(s.out, 127), uint64(n))
	}
	s.out = append(s.out, payload...)
	if !s.dirty {
		s.dirty = true
		r.dirty = append(r.dirty, s)
	}
}

// frames handles the whole frames at the beginning of what a client has sent,
// and keeps the rest.
func (r *relay) frames(s *relaySocket) error {
	rest := s.in
	for {
		op, payload, size, err := clientFrame(rest)
		if err != nil || size == 0 {
			s.in = append(s.in[:0], rest...)
			return err
		}
		switch op {
		case ws.OpClose:
			return io.EOF
		case ws.OpPing:
			r.put(s, ws.OpPong, payload)
		case ws.OpBinary:
			if err := r.frame(s, payload); err != nil {
				return err
			}
		}
		rest = rest[size:]
	}
}

// clientFrame takes the first frame of b and unmasks it in place; its size is 0
// if it is not whole.
func clientFrame(b []byte) (op ws.OpCode, payload []byte, size int, err error) {
	if len(b) < 2 {
		return 0, nil, 0, nil
	}
	n, at := int(b[1]&0x7f), 2
	switch {
	case b[0]&0xf0 != 0x80 || b[1]&0x80 == 0 || n == 127: // in pieces, extended, unmasked, or far too long
		return 0, nil, 0, errRelay
	case n == 126 && len(b) < 4:
		return 0, nil, 0, nil
	case n == 126:
		n, at = int(binary.BigEndian.Uint16(b[2:])), 4
	}
	if size = at + 4 + n; len(b) < size {
		return 0, nil, 0, nil
	}
	payload = b[at+4 : size]
	ws.Cipher(payload, [4]byte(b[at:at+4]), 0)
	return ws.OpCode(b[0] & 0x0f), payload, size, nil
}
