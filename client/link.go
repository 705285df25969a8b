package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/coder/websocket"
	"google.golang.org/protobuf/proto"
)

// link is one socket: it matches answers to requests and hands on events. It
// lives once; the Conn makes another.
type link struct {
	ws      *websocket.Conn
	at      int64                     // number of the address
	receive func(*edgev1.ServerFrame) // called with events on the reading goroutine
	done    chan struct{}             // closed when the reader has ended
	drain   chan time.Duration        // what the server's DrainEvent said
	heard   atomic.Int64              // Unix nanoseconds of the last frame

	writing chan struct{} // holds a token while a frame is written
	guard   *time.Timer   // ends the socket when that takes too long; the token's

	mu      sync.Mutex
	pending map[uint32]*waiter
	free    []*waiter // to be used again
	lastID  uint32
	err     error         // why the link has ended; pending takes nothing more once set
	idle    chan struct{} // closed when pending runs empty, if someone waits
	// unserving is since when requests fail for want of a server that serves;
	// zero while it does.
	unserving time.Time
}

// waiter is a request that waits. It is used again once its answer has come, and
// let go otherwise, for an answer may still be on its way into it.
type waiter struct {
	answer chan *edgev1.ServerFrame
	timer  *time.Timer // stopped while nobody waits
}

// errStuck is why a socket ends that takes no more frames.
var errStuck = errors.New("the socket took no frame within the request's time")

// maxPending bounds the requests that wait for an answer on one socket.
const maxPending = 4096

func newLink(ws *websocket.Conn, at int64, receive func(*edgev1.ServerFrame)) *link {
	l := &link{
		ws: ws, at: at, receive: receive, done: make(chan struct{}), drain: make(chan time.Duration, 1),
		pending: map[uint32]*waiter{}, writing: make(chan struct{}, 1),
	}
	l.guard = time.AfterFunc(time.Hour, func() { l.end(errStuck) })
	l.guard.Stop()
	l.heard.Store(time.Now().UnixNano())
	go l.read()
	return l
}

// request sends f and waits for its answer, for the timeout if ctx has no
// deadline. (A derived context would cost more than all the rest here.)
func (l *link) request(ctx context.Context, f *edgev1.ClientFrame, timeout time.Duration) (*edgev1.ServerFrame, error) {
	if ctx.Err() != nil {
		return nil, expired(ctx.Err(), ReasonNotConnected)
	}
	w, err := l.register(f)
	if err != nil {
		return nil, err
	}
	at, ok := ctx.Deadline()
	if ok {
		timeout = time.Until(at)
	}
	f.DeadlineMs = deadlineMs(timeout)
	b, err := proto.Marshal(f)
	if err != nil {
		l.forget(f.Id)
		return nil, &Error{Code: connect.CodeInvalidArgument, Message: fmt.Sprintf("encode the request: %v", err), cause: err}
	}
	w.timer.Reset(timeout)
	answer, err := l.exchange(ctx, w, f.Id, b, timeout)
	w.timer.Stop() // before anyone else may have w
	if err != nil {
		return nil, err
	}
	l.reuse(w)
	if e := answer.GetError(); e != nil {
		return nil, fromFrame(e)
	}
	return answer, nil
}

// exchange writes a frame and waits for what comes into w.
func (l *link) exchange(ctx context.Context, w *waiter, id uint32, b []byte, timeout time.Duration) (*edgev1.ServerFrame, error) {
	select {
	case l.writing <- struct{}{}:
	case <-ctx.Done():
		l.forget(id)
		return nil, expired(ctx.Err(), ReasonNoAnswer)
	case <-w.timer.C:
		l.forget(id)
		return nil, expired(context.DeadlineExceeded, ReasonNoAnswer)
	}
	if err := l.write(b, timeout); err != nil {
		l.forget(id)
		switch {
		case ctx.Err() != nil:
			return nil, expired(ctx.Err(), ReasonNoAnswer)
		case errors.Is(l.failure(), errStuck):
			return nil, expired(context.DeadlineExceeded, ReasonNoAnswer)
		}
		return nil, lostConnection(err)
	}
	select {
	case a, ok := <-w.answer:
		if !ok {
			return nil, lostConnection(l.failure())
		}
		return a, nil
	case <-ctx.Done():
		l.forget(id)
		return nil, expired(ctx.Err(), ReasonNoAnswer)
	case <-w.timer.C:
		l.forget(id)
		return nil, expired(context.DeadlineExceeded, ReasonNoAnswer)
	}
}

// leastWriteTime keeps a request that came late from ending a socket that
// others use.
const leastWriteTime = time.Second

// write sends one frame and gives the token of writing back. A socket that does
// not take it in time is over.
func (l *link) write(b []byte, timeout time.Duration) error {
	l.guard.Reset(max(timeout, leastWriteTime))
	err := l.ws.Write(context.Background(), websocket.MessageBinary, b) // the guard bounds it
	l.guard.Stop()
	<-l.writing
	return err
}

func lostConnection(cause error) error {
	return &Error{Code: connect.CodeUnavailable, Reason: ReasonConnectionLost, Message: fmt.Sprint(cause), cause: cause}
}

// deadlineMs tells the server how long the caller waits, within its limits.
func deadlineMs(timeout time.Duration) uint32 {
	return uint32(min(max(timeout.Milliseconds(), 1), 60_000))
}

func (l *link) register(f *edgev1.ClientFrame) (*waiter, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return nil, lostConnection(l.err)
	}
	if len(l.pending) >= maxPending {
		return nil, &Error{
			Code: connect.CodeResourceExhausted, Reason: "too_many_requests", RetryAfter: time.Second,
			Message: fmt.Sprintf("%d requests are waiting on this socket", len(l.pending)),
		}
	}
	var w *waiter
	if n := len(l.free); n > 0 {
		w, l.free = l.free[n-1], l.free[:n-1]
	} else {
		w = &waiter{make(chan *edgev1.ServerFrame, 1), time.NewTimer(time.Hour)}
		w.timer.Stop()
	}
	f.Id = l.nextID()
	l.pending[f.Id] = w
	return w, nil
}

// maxFree bounds the waiters that are kept.
const maxFree = 64

func (l *link) reuse(w *waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.free) < maxFree {
		l.free = append(l.free, w)
	}
}

// nextID must be called with mu held. IDs wrap around after 2³² and pass over
// those that still wait.
func (l *link) nextID() uint32 {
	for {
		l.lastID++
		if _, taken := l.pending[l.lastID]; l.lastID != 0 && !taken {
			return l.lastID
		}
	}
}

func (l *link) forget(id uint32) { l.take(id) }

func (l *link) take(id uint32) *waiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.pending[id]
	delete(l.pending, id)
	if len(l.pending) == 0 && l.idle != nil {
		close(l.idle)
		l.idle = nil
	}
	return w
}

// read hands on what the server sends until the socket fails.
func (l *link) read() {
	defer close(l.done)
	var buf bytes.Buffer
	for {
		f, err := l.next(&buf)
		if err != nil {
			l.end(err)
			break
		}
		l.heard.Store(time.Now().UnixNano())
		l.dispatch(f)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, w := range l.pending {
		close(w.answer)
		delete(l.pending, id)
	}
	if l.idle != nil {
		close(l.idle)
		l.idle = nil
	}
}

func (l *link) next(buf *bytes.Buffer) (*edgev1.ServerFrame, error) {
	kind, r, err := l.ws.Reader(context.Background())
	if err != nil {
		return nil, err
	}
	buf.Reset()
	if _, err := buf.ReadFrom(r); err != nil {
		return nil, err
	}
	if kind != websocket.MessageBinary {
		return nil, errors.New("the server sent a text frame on a binary socket")
	}
	f, err := decodeFrame(buf.Bytes())
	if buf.Cap() > 1<<20 {
		*buf = bytes.Buffer{} // one long page must not be held by an idle socket
	}
	return f, err
}

// decodeFrame reads one frame of the server. It keeps nothing of b.
func decodeFrame(b []byte) (*edgev1.ServerFrame, error) {
	f := &edgev1.ServerFrame{}
	if err := proto.Unmarshal(b, f); err != nil {
		return nil, fmt.Errorf("decode a frame of %d bytes: %w", len(b), err)
	}
	if f.Id == 0 && f.GetEvent() == nil && f.GetError() == nil {
		// An event of a later release: not ours to understand, nor to die of.
		f.Body = &edgev1.ServerFrame_Event{Event: &edgev1.Event{}}
	}
	return f, nil
}

func (l *link) dispatch(f *edgev1.ServerFrame) {
	if f.Id != 0 {
		// Without a taker it is the answer of a ping or of a caller who gave up.
		if w := l.take(f.Id); w != nil {
			w.answer <- f
		}
		return
	}
	if e := f.GetError(); e != nil {
		// An error that answers nothing is about the socket itself.
		l.end(fromFrame(e))
		return
	}
	if d := f.GetEvent().GetDrain(); d != nil {
		select {
		case l.drain <- time.Duration(d.GetWithinMs()) * time.Millisecond:
		default: // told already
		}
	}
	l.receive(f)
}

// end closes the socket; the first reason is kept.
func (l *link) end(err error) {
	l.mu.Lock()
	first := l.err == nil
	if first {
		l.err = err
	}
	l.mu.Unlock()
	if first {
		_ = l.ws.CloseNow() // it is over whatever closing says
	}
}

func (l *link) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// quiet is how long the server has said nothing.
func (l *link) quiet() time.Duration {
	return time.Duration(time.Now().UnixNano() - l.heard.Load())
}

// ping asks for a sign of life; the answer is seen by heard alone.
func (l *link) ping(timeout time.Duration) {
	l.mu.Lock()
	f := &edgev1.ClientFrame{Id: l.nextID(), Request: &edgev1.ClientFrame_Ping{Ping: &edgev1.PingRequest{}}}
	l.mu.Unlock()
	b, err := proto.Marshal(f)
	if err != nil {
		l.end(fmt.Errorf("encode a ping: %w", err))
		return
	}
	select {
	case l.writing <- struct{}{}:
	default:
		return // what is being written asks as well
	}
	if err := l.write(b, timeout); err != nil {
		l.end(err)
	}
}

// waiting tells whether a request waits for its answer.
func (l *link) waiting() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pending) > 0
}

// quiesce waits until no request waits, at most for timeout.
func (l *link) quiesce(ctx context.Context, timeout time.Duration) {
	l.mu.Lock()
	if len(l.pending) == 0 || l.err != nil {
		l.mu.Unlock()
		return
	}
	idle := make(chan struct{})
	l.idle = idle
	l.mu.Unlock()
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case <-idle:
	case <-t.C:
	case <-ctx.Done():
	}
}
