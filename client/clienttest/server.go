// Package clienttest is a small server in memory that speaks the public API
// (bongsu.edge.v1, by RPC and by socket) as far as clients rely on it, for
// testing what is built on package client: with faults on demand, and under
// testing/synctest, as it needs no real network.
//
// Vocabulary: an Interceptor looks at each request before it is decided and may
// refuse it, lose its answer or let it hang; Cut drops every socket; LoseTail
// forgets the newest messages, as a disk may.
//
// Concurrency: everything may be called from any goroutine. It is not the rules
// of the messenger: those are in package chat, and this copy checks little.
package clienttest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"google.golang.org/protobuf/proto"
)

// Shards is how many shards the server says it has.
const Shards = 4

// BaseURL goes into client.Config beside HTTPClient.
const BaseURL = "http://bongsu.test"

// Fault is what happens to a request.
type Fault struct {
	// Error is answered instead of deciding the request.
	Error *edgev1.Error
	// LoseAnswer decides the request, then cuts the socket (or fails the RPC).
	LoseAnswer bool
	// Hang decides nothing and never answers on a socket.
	Hang bool
}

// Interceptor decides the fault of a request of a user; "" before hello. The
// zero Fault lets it pass.
type Interceptor func(userID string, f *edgev1.ClientFrame) Fault

// Server is the fake. Make it with New.
type Server struct {
	// Heartbeat in seconds, as hello tells it; set before use.
	Heartbeat uint32
	// TokenLife of access tokens; set before use.
	TokenLife time.Duration

	http     *http.Server
	listener *pipeListener
	serving  sync.WaitGroup

	mu        sync.Mutex
	intercept Interceptor
	refused   int // sockets still to be refused at the door
	accounts  map[string]*account
	devices   map[string]*device
	rooms     map[string]*room
	sockets   map[*socket]struct{}
	term      uint64
	index     map[uint32]uint64 // last index by shard
	lostAbove map[uint32]*edgev1.Position
	serial    int
	requests  map[string]int
}

type account struct {
	user     *edgev1.User
	password string
}

type device struct {
	id, userID, name string
	generation       int
	access           string
	expires          time.Time
	revoked          bool
}

type room struct {
	room     *edgev1.Room // members with read and joined seq; LastSeq
	messages []*edgev1.Message
}

// New starts a server.
func New() *Server {
	s := &Server{
		Heartbeat: 30, TokenLife: 5 * time.Minute,
		listener: newPipeListener(),
		accounts: map[string]*account{}, devices: map[string]*device{}, rooms: map[string]*room{},
		sockets: map[*socket]struct{}{}, index: map[uint32]uint64{}, lostAbove: map[uint32]*edgev1.Position{},
		requests: map[string]int{}, term: 1,
	}
	s.http = &http.Server{Handler: s.handler(), ReadHeaderTimeout: time.Minute}
	s.serving.Go(func() { _ = s.http.Serve(s.listener) }) // ends with ErrServerClosed
	return s
}

// Close cuts everything and waits.
func (s *Server) Close() {
	s.Cut()
	_ = s.http.Close()
	s.serving.Wait()
}

// HTTPClient reaches the server without a network. Close its idle connections
// before a synctest bubble ends.
func (s *Server) HTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return s.listener.dial(ctx) },
	}}
}

// Intercept sets the interceptor; nil lets everything pass. It is called with
// the server's lock held.
func (s *Server) Intercept(i Interceptor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intercept = i
}

// RefuseSockets answers the next n attempts to open a socket with 503.
func (s *Server) RefuseSockets(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = n
}

// Cut drops every socket without a word.
func (s *Server) Cut() {
	s.mu.Lock()
	var all []*socket
	for c := range s.sockets {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		c.cut()
	}
}

// Requests returns how often a kind of request ("Send", "Refresh", …) came in.
func (s *Server) Requests(kind string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[kind]
}

// SetBot marks an account as spoken for by a program.
func (s *Server) SetBot(userID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.accounts {
		if a.user.UserId == userID {
			a.user.Bot = true
		}
	}
}

// Push sends an event to the sockets of a user.
func (s *Server) Push(userID string, e *edgev1.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.push(userID, e)
}

// Messages returns the whole history of a room.
func (s *Server) Messages(roomID string) []*edgev1.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rooms[roomID] == nil {
		return nil
	}
	var out []*edgev1.Message
	for _, m := range s.rooms[roomID].messages {
		out = append(out, proto.CloneOf(m))
	}
	return out
}

// DropMessage takes one message out of a history, which leaves a hole.
func (s *Server) DropMessage(roomID string, seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rooms[roomID]
	r.messages = slices.DeleteFunc(r.messages, func(m *edgev1.Message) bool { return m.Seq == seq })
}

// LoseTail forgets all messages of a room after seq, as a journal with a lost
// tail does: hellos that present later positions of its shard are told so.
func (s *Server) LoseTail(roomID string, seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rooms[roomID]
	r.messages = slices.DeleteFunc(r.messages, func(m *edgev1.Message) bool { return m.Seq > seq })
	r.room.LastSeq = seq
	for _, m := range r.room.Members {
		m.ReadSeq = min(m.ReadSeq, seq)
	}
	shard := shardOf(roomID)
	s.index[shard] -= min(s.index[shard], 1)
	s.lostAbove[shard] = &edgev1.Position{Shard: shard, Term: s.term, Index: s.index[shard]}
	s.term++
}

// EndSession revokes a device.
func (s *Server) EndSession(deviceID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.devices[deviceID].revoked = true
}

func shardOf(roomID string) uint32 {
	r, err := id.Parse(id.Room, roomID)
	if err != nil {
		return 0
	}
	return uint32(r.Partition().Shard(Shards))
}

func refusal(code, reason string) *edgev1.Error {
	return &edgev1.Error{Code: code, Message: "refused by the fake", Info: &edgev1.ErrorInfo{Reason: reason}}
}

// pipeListener accepts ends of in-memory pipes.
type pipeListener struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.closed:
		return nil, errors.New("connection refused: the fake server is closed")
	case <-ctx.Done():
		return nil, fmt.Errorf("dial the fake server: %w", ctx.Err())
	}
}

// Accept implements net.Listener.
func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "bongsu.test", Net: "pipe"} }
