package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/gobwas/ws"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// The relay is the ceiling: what a machine can do with the server's WebSocket
// library and this generator when nothing is decided, stored or checked. It
// hands each frame on at once; a server that gathers what waits for a socket
// into fewer writes can outdo it where frames are many (W3): then the ratio is
// above 1, and says that the machine's limit lies elsewhere. It speaks just
// enough of the protocol for the same generator to drive it: the bytes of a
// message are spliced, never decoded. A frame to the room pair-N goes on to
// the partner and back to its sender, one to relayEveryone on to all, and then
// back. Access tokens are relayName(i), where i and i^1 are partners.
const (
	relayEveryone = "everyone"
	relayPair     = "pair-"
	relayPerson   = "relay-"
	// relayBacklog bounds what waits for one socket; beyond it senders wait.
	relayBacklog = 256 << 10
	// relayFrame bounds a frame of a client.
	relayFrame = 64 << 10
)

func relayName(i int) string    { return relayPerson + strconv.Itoa(i) }
func relayRoom(pair int) string { return relayPair + strconv.Itoa(pair) }
func relayOf(name string, prefix string) (int, bool) {
	digits, ok := strings.CutPrefix(name, prefix)
	n, err := strconv.Atoi(digits)
	return n, ok && err == nil && n >= 0
}

// Relay serves the ceiling's relay on l until ctx ends, and closes l.
func Relay(ctx context.Context, l net.Listener) error {
	r := &relay{people: map[int]*relaySocket{}, open: map[net.Conn]struct{}{}}
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/v1/socket", r.socket)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() {
		_ = server.Close() // its listener's end is what Serve returns
		r.shut()
	})
	defer stop()
	err := server.Serve(l)
	if ctx.Err() == nil {
		return fmt.Errorf("relay: %w", err)
	}
	r.shut()
	r.serving.Wait()
	return nil
}

type relay struct {
	seq atomic.Uint64 // of messages, over all rooms

	mu      sync.RWMutex // guards what follows
	closed  bool
	open    map[net.Conn]struct{}
	people  map[int]*relaySocket
	all     []*relaySocket // replaced, never changed
	serving sync.WaitGroup // counts sockets; begun under mu
}

func (r *relay) shut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for c := range r.open {
		_ = c.Close() // readers and writers of it end
	}
}

func (r *relay) socket(w http.ResponseWriter, q *http.Request) {
	upgrader := ws.HTTPUpgrader{Protocol: func(name string) bool { return name == "bongsu.v1" }}
	conn, buffered, _, err := upgrader.Upgrade(q, w)
	if err != nil {
		return // the client has been told
	}
	defer conn.Close()
	if conn.SetDeadline(time.Time{}) != nil {
		return
	}
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	r.open[conn] = struct{}{}
	r.serving.Add(1)
	r.mu.Unlock()
	defer r.serving.Done()
	s := &relaySocket{conn: conn}
	s.room.L = &s.mu
	_ = r.serve(s, buffered.Reader) // a client that goes is no fault
	r.leave(s)
}

func (r *relay) leave(s *relaySocket) {
	s.end()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, s.conn)
	if s.joined && r.people[s.number] == s {
		delete(r.people, s.number)
	}
	r.listPeople()
}

// listPeople makes all anew; mu must be held.
func (r *relay) listPeople() {
	r.all = make([]*relaySocket, 0, len(r.people))
	for _, s := range r.people {
		r.all = append(r.all, s)
	}
}

var errRelay = errors.New("not a frame that the relay knows")

func (r *relay) serve(s *relaySocket, in *bufio.Reader) error {
	var buf []byte
	for {
		op, payload, err := readFrame(in, &buf, relayFrame)
		if err != nil {
			return err
		}
		switch op {
		case ws.OpClose:
			return nil
		case ws.OpPing:
			s.send(ws.MustCompileFrame(ws.NewPongFrame(payload)))
		case ws.OpBinary:
			if err := r.frame(s, payload); err != nil {
				return err
			}
		}
	}
}

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
	eventMessage = 1
	eventLag     = 8
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
		r.join(s, number)
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
	s.send(ws.MustCompileFrame(ws.NewBinaryFrame(b)))
	return nil
}

func (r *relay) join(s *relaySocket, number int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.number, s.joined = number, true
	r.people[number] = s
	r.listPeople()
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
	m := make([]byte, 0, len(room)+len(clientID)+len(text)+32)
	m = appendBytes(m, messageRoom, room)
	m = protowire.AppendVarint(protowire.AppendTag(m, messageSeq, protowire.VarintType), r.seq.Add(1))
	m = appendBytes(m, clientIDField, clientID)
	m = appendBytes(m, messageText, text)

	event := binaryFrame(appendBytes(nil, frameEvent, appendBytes(nil, eventMessage, appendBytes(nil, eventMessageMessage, m))))
	r.mu.RLock()
	partner, all := r.people[s.number^1], r.all
	r.mu.RUnlock()
	if string(room) == relayEveryone {
		for _, other := range all {
			other.send(event)
		}
	} else if partner != nil {
		partner.send(event)
	}
	answer := protowire.AppendVarint(protowire.AppendTag(nil, frameID, protowire.VarintType), id)
	s.send(binaryFrame(appendBytes(answer, frameSend, appendBytes(nil, sendMessage, m))))
	return nil
}

func appendBytes(b []byte, number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), value)
}

func binaryFrame(payload []byte) []byte { return ws.MustCompileFrame(ws.NewBinaryFrame(payload)) }

// relaySocket is one socket. Whoever comes while nobody writes does so, and
// also writes what others leave meanwhile, in one call: no goroutine has to be
// woken, and a busy socket costs few system calls.
type relaySocket struct {
	conn   net.Conn
	number int // both set by join, on the reading goroutine, before it is listed
	joined bool

	mu             sync.Mutex // guards what follows
	room           sync.Cond  // there is place in waiting again, or the socket is over
	waiting, spare []byte
	writing, over  bool
}

func (s *relaySocket) send(frame []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.writing && !s.over && len(s.waiting)+len(frame) > relayBacklog {
		s.room.Wait()
	}
	if s.over {
		return
	}
	s.waiting = append(s.waiting, frame...)
	if s.writing {
		return
	}
	s.writing = true
	for len(s.waiting) > 0 && !s.over {
		out := s.waiting
		s.waiting, s.spare = s.spare[:0], nil
		s.room.Broadcast()
		s.mu.Unlock()
		_, err := s.conn.Write(out)
		s.mu.Lock()
		s.spare = out
		if err != nil {
			s.over = true
			s.room.Broadcast()
		}
	}
	s.writing = false
}

func (s *relaySocket) end() {
	_ = s.conn.Close() // wakes a writer
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	s.room.Broadcast()
}
