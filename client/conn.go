package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/coder/websocket"

	"github.com/bongsu-im/bongsu/internal/clock"
)

// ConnectOptions of a Conn. The zero value is fine.
type ConnectOptions struct {
	// OnEvent is called with every event, in order, on one goroutine of the
	// Conn; it may call the Conn's methods. nil: use Events instead.
	OnEvent func(Event)
	// Queue bounds the events that wait for OnEvent or Events; 0 means 1,024,
	// negative queues none. Beyond it events are dropped and a LagEvent put in
	// their place.
	Queue int
	// Tap sees every event of the server before it is queued, on the goroutine
	// that reads the socket: it must neither block nor call the Conn. It is for
	// measuring.
	Tap func(*edgev1.Event)
	// Backoff between attempts to connect.
	Backoff Backoff
	// HandshakeTimeout bounds one attempt, hello included; 0 means 10 s.
	HandshakeTimeout time.Duration
}

// Conn is the live socket of a Client. It connects again for ever, until it is
// closed or the server ends the session.
type Conn struct {
	// API by the socket. A request waits for a socket to be there as long as
	// its context allows. When the socket goes before the answer comes, the
	// request fails with ReasonConnectionLost and its outcome is unknown.
	API
	client *Client
	opts   ConnectOptions
	events *queue // nil if none are queued
	cancel context.CancelFunc
	done   chan struct{}

	mu   sync.Mutex
	link *link         // the usable socket; nil while there is none
	up   chan struct{} // closed while link is set
	err  error         // why the Conn has ended; set before done is closed
	// onUp are told of each hello before any request goes over its socket.
	onUp      []func(*edgev1.HelloResponse)
	greeted   *link // the socket whose hello onUp were told of; nil after it
	followers map[string]map[*follower]struct{}
}

// Connect starts a Conn. It returns at once: requests wait for the socket. The
// Conn lives until Close, until ctx ends, or until the session is over.
func (c *Client) Connect(ctx context.Context, opts ConnectOptions) *Conn {
	opts.Backoff.setDefaults()
	if opts.HandshakeTimeout <= 0 {
		opts.HandshakeTimeout = 10 * time.Second
	}
	if opts.Queue == 0 {
		opts.Queue = 1024
	}
	ctx, cancel := context.WithCancel(ctx)
	n := &Conn{
		client: c, opts: opts, cancel: cancel, done: make(chan struct{}), up: make(chan struct{}),
		followers: map[string]map[*follower]struct{}{},
	}
	n.API = API{carrier: n}
	if opts.Queue > 0 {
		n.events = newQueue(opts.Queue)
	}
	go n.run(ctx)
	return n
}

// Close ends the Conn and waits for its goroutines, OnEvent included (so do
// not call it from there).
func (n *Conn) Close() {
	n.cancel()
	<-n.done
}

// Done is closed when the Conn has ended; Err then says why.
func (n *Conn) Done() <-chan struct{} { return n.done }

// Err returns nil while the Conn lives, and after it has ended why: the error
// of its context, or one that is ErrSignedOut.
func (n *Conn) Err() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

// Client returns the client whose Conn this is.
func (n *Conn) Client() *Client { return n.client }

// Ready waits until a socket is there.
func (n *Conn) Ready(ctx context.Context) error {
	_, err := n.await(ctx)
	return err
}

// Events ranges over the events in order until ctx ends or the Conn does. Only
// for a Conn without OnEvent, and for one goroutine.
func (n *Conn) Events(ctx context.Context) iter.Seq[Event] {
	return func(yield func(Event) bool) {
		if n.events == nil {
			return
		}
		for {
			e, ok := n.events.next(ctx, n.done)
			if !ok || !yield(e) {
				return
			}
		}
	}
}

// await returns the usable link, waiting for it.
func (n *Conn) await(ctx context.Context) (*link, error) {
	for {
		n.mu.Lock()
		l, up := n.link, n.up
		n.mu.Unlock()
		if l != nil {
			return l, nil
		}
		select {
		case <-up:
		case <-n.done:
			return nil, n.ended()
		case <-ctx.Done():
			return nil, expired(ctx.Err(), ReasonNotConnected)
		}
	}
}

// ended is what requests on a Conn that is over get.
func (n *Conn) ended() error {
	if err := n.Err(); errors.Is(err, ErrSignedOut) {
		return err
	}
	return &Error{Code: connect.CodeCanceled, Message: "the connection is closed", cause: n.Err()}
}

// carry implements carrier by the socket.
func (n *Conn) carry(ctx context.Context, f *edgev1.ClientFrame) (*edgev1.ServerFrame, error) {
	n.mu.Lock()
	l := n.link
	n.mu.Unlock()
	if l == nil {
		var cancel context.CancelFunc
		ctx, cancel = n.client.withTimeout(ctx)
		defer cancel()
		var err error
		if l, err = n.await(ctx); err != nil {
			return nil, err
		}
	}
	return overLink{client: n.client, link: l}.carry(ctx, f)
}

// overLink carries by one socket, and by no other when that one goes.
type overLink struct {
	client *Client
	link   *link
}

func (o overLink) carry(ctx context.Context, f *edgev1.ClientFrame) (*edgev1.ServerFrame, error) {
	began := time.Now()
	answer, err := o.link.request(ctx, f, o.client.cfg.Timeout)
	if o.client.addresses.several() {
		o.link.served(began, err)
	}
	if err != nil {
		return nil, err
	}
	o.client.note(answer)
	return answer, nil
}

// run is the life of the Conn: connect, serve, wait, again.
func (n *Conn) run(ctx context.Context) {
	var wg sync.WaitGroup
	if n.opts.OnEvent != nil && n.events != nil {
		wg.Go(func() {
			for e := range n.Events(ctx) {
				n.opts.OnEvent(e)
			}
		})
	}
	err := n.live(ctx)
	n.mu.Lock()
	n.err = err
	n.mu.Unlock()
	n.cancel()
	wg.Wait()
	close(n.done)
}

// steady is how long a socket must have lived for the back-off to begin anew:
// without it a server that fails right after each hello would be stormed.
const steady = 5 * time.Second

func (n *Conn) live(ctx context.Context) error {
	logger := n.client.cfg.Logger
	for attempt := 0; ; attempt++ {
		began := time.Now()
		drained, err := n.once(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, ErrSignedOut) {
			return err
		}
		if time.Since(began) >= steady {
			attempt = 0
		}
		var wait time.Duration
		if !drained {
			// Each address is tried once before any waits longer.
			of := len(n.client.addresses.all)
			hint := RetryAfter(err)
			if elsewhere(err) && (attempt+1)%of != 0 {
				hint = 0
			}
			wait = n.opts.Backoff.wait(attempt/of, hint, n.client.cfg.Random)
		}
		logger.Debug("socket is down", "error", err, "retry_in", wait)
		if !clock.Sleep(ctx, wait) {
			return ctx.Err()
		}
	}
}

// once makes one socket and serves it until it ends. drained tells that its end
// was wanted, so that no back-off is due.
func (n *Conn) once(ctx context.Context) (drained bool, err error) {
	l, hello, err := n.open(ctx)
	if err != nil {
		return false, err
	}
	lost := hello.GetLost()
	n.client.forget(lost)
	n.mu.Lock()
	onUp := n.onUp
	n.greeted = l
	n.mu.Unlock()
	for _, f := range onUp {
		f(hello)
	}
	n.publish(l)
	n.markDirty()
	n.emit(Event{Up: hello})
	drained, err = n.serve(ctx, l, hello)
	n.unpublish(l)
	if !errors.Is(err, errHelloAgain) {
		n.client.addresses.leave(l.at)
	}
	n.emit(Event{Down: err})
	return drained, err
}

func (n *Conn) publish(l *link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.link = l
	close(n.up)
}

func (n *Conn) unpublish(l *link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.link == l {
		n.link = nil
		n.up = make(chan struct{})
	}
	n.greeted = nil
}

// register tells f of every hello. If one has been said already and again is
// set, it is said once more, over a new socket.
func (n *Conn) register(f func(*edgev1.HelloResponse), again bool) {
	n.mu.Lock()
	n.onUp = append(n.onUp, f)
	l := n.greeted
	n.mu.Unlock()
	if again && l != nil {
		l.end(errHelloAgain)
	}
}

// open dials and says hello; an access token that the server finds too old is
// renewed once.
func (n *Conn) open(ctx context.Context) (*link, *edgev1.HelloResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, n.opts.HandshakeTimeout)
	defer cancel()
	token, err := n.client.accessToken(ctx)
	if err != nil {
		return nil, nil, err
	}
	l, hello, err := n.greet(ctx, token)
	if isUnauthenticated(err) {
		if token, err = n.client.renew(ctx, token); err != nil {
			return nil, nil, err
		}
		l, hello, err = n.greet(ctx, token)
	}
	return l, hello, err
}

func (n *Conn) greet(ctx context.Context, token string) (*link, *edgev1.HelloResponse, error) {
	i, at := n.client.addresses.current()
	ws, err := n.dial(ctx, at.base)
	if err != nil {
		n.client.addresses.leave(i)
		return nil, nil, err
	}
	l := newLink(ws, i, n.receive)
	answer, err := l.request(ctx, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_Hello{
		Hello: &edgev1.HelloRequest{AccessToken: token, Positions: n.client.Positions()},
	}}, n.opts.HandshakeTimeout)
	hello := answer.GetHello()
	if err == nil && hello == nil {
		err = &Error{Code: connect.CodeInternal, Reason: ReasonBadAnswer, Message: "hello was answered with something else"}
	}
	if err != nil {
		if unserved(err) {
			n.client.addresses.leave(i)
		}
		l.end(err)
		<-l.done
		return nil, nil, err
	}
	return l, hello, nil
}

const socketPath = "/v1/socket"

func (n *Conn) dial(ctx context.Context, base string) (*websocket.Conn, error) {
	ws, response, err := websocket.Dial(ctx, base+socketPath, &websocket.DialOptions{
		HTTPClient: n.client.cfg.HTTPClient, Subprotocols: []string{"bongsu.v1"},
		CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		e := &Error{Code: connect.CodeUnavailable, Message: err.Error(), cause: err}
		if response != nil {
			e.RetryAfter = headerHint(response.Header)
			if response.StatusCode == http.StatusTooManyRequests {
				e.Code = connect.CodeResourceExhausted
			}
		}
		return nil, e
	}
	if ws.Subprotocol() != "bongsu.v1" {
		err := fmt.Errorf("server speaks subprotocol %q, want bongsu.v1", ws.Subprotocol())
		_ = ws.CloseNow() // the socket is of no use either way
		return nil, &Error{Code: connect.CodeUnavailable, Reason: ReasonBadAnswer, Message: err.Error(), cause: err}
	}
	ws.SetReadLimit(maxFrameBytes)
	return ws, nil
}

// errHelloAgain is why a socket ends whose hello came too early.
var errHelloAgain = errors.New("there are more positions to present")

// errDrained is why a socket ends that the server wanted to be rid of.
var errDrained = errors.New("the server asked us to connect again")

// quiesceTimeout bounds how long a draining socket waits for its last answers.
const quiesceTimeout = 5 * time.Second

// serve keeps a socket alive until it ends.
func (n *Conn) serve(ctx context.Context, l *link, hello *edgev1.HelloResponse) (drained bool, err error) {
	// The reader must be gone when serve returns: its events belong before Down.
	defer func() { <-l.done }()
	heartbeat := time.Duration(hello.GetHeartbeatSeconds()) * time.Second
	if heartbeat <= 0 {
		heartbeat = 30 * time.Second
	}
	tick := time.NewTicker(heartbeat / 2)
	defer tick.Stop()
	var drain, look <-chan time.Time
	if len(n.client.addresses.all) > 1 {
		looks := time.NewTicker(silence / 4)
		defer looks.Stop()
		look = looks.C
	}
	var h hush
	for {
		select {
		case <-look:
			switch h.step(time.Now(), l.waiting(), l.quiet()) {
			case hushAsk:
				l.ping(silence)
			case hushOver:
				l.end(errUnserving)
			}
		case <-l.done:
			err := l.failure()
			return errors.Is(err, errHelloAgain), err
		case <-ctx.Done():
			l.end(ctx.Err())
			return false, ctx.Err()
		case <-tick.C:
			if quiet := l.quiet(); quiet > 2*heartbeat {
				err := &Error{Code: connect.CodeUnavailable, Reason: ReasonConnectionLost, Message: fmt.Sprintf("nothing heard for %s", quiet)}
				l.end(err)
				return false, err
			}
			l.ping(heartbeat)
		case within := <-l.drain:
			if drain == nil {
				drain = time.After(jitter(n.client.cfg.Random, within))
			}
		case <-drain:
			n.unpublish(l)
			l.quiesce(ctx, quiesceTimeout)
			l.end(errDrained)
			return true, errDrained
		}
	}
}

// receive takes an event off the socket, on its reading goroutine.
func (n *Conn) receive(f *edgev1.ServerFrame) {
	e := f.GetEvent()
	if n.opts.Tap != nil {
		n.opts.Tap(e)
	}
	n.client.note(f)
	switch b := e.GetEvent().(type) {
	case *edgev1.Event_Message:
		n.feed(b.Message.GetMessage())
	case *edgev1.Event_Lag:
		n.markDirty()
	}
	n.emit(Event{Push: e})
}

func (n *Conn) emit(e Event) {
	if n.events != nil {
		n.events.put(e)
	}
}
