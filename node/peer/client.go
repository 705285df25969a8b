package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/mutant"
)

// Errors of a Client.
var (
	// ErrNoLink: nothing was sent, for certain.
	ErrNoLink = errors.New("peer: no link to the node")
	// ErrLinkBroken: it was sent, and the outcome is unknown.
	ErrLinkBroken = errors.New("peer: the link broke before the answer")
)

const (
	firstRedial = 20 * time.Millisecond
	sweepEvery  = 50 * time.Millisecond
	// maxAsked bounds the requests without an answer on one link.
	maxAsked = 16 << 10
)

// Client keeps a link to one node while Run runs.
type Client struct {
	node  string
	dial  func(context.Context) (net.Conn, error)
	log   *slog.Logger
	times Times

	mu     sync.Mutex // guards what follows
	link   *link      // nil: none
	asked  map[uint64]*asked
	lastID uint64
}

type asked struct {
	deadline time.Time // zero: a stream, which has none
	done     func(*nodev1.PeerFrame, error)
}

// NewClient returns a client of the node; dial connects to it and proves to
// each end who the other is.
func NewClient(node string, dial func(context.Context) (net.Conn, error), log *slog.Logger, times Times) *Client {
	return &Client{node: node, dial: dial, log: log, times: times.withDefaults(), asked: make(map[uint64]*asked)}
}

// Run keeps the link until ctx ends.
func (c *Client) Run(ctx context.Context) {
	var sweeping sync.WaitGroup
	sweeping.Go(func() { c.sweep(ctx) })
	defer sweeping.Wait()
	pause, told := firstRedial, false
	for ctx.Err() == nil {
		began := time.Now()
		err := c.connect(ctx)
		if ctx.Err() != nil {
			return
		}
		if lived := time.Since(began); lived > c.times.Dial {
			pause, told = firstRedial, false
		}
		if !told { // once an outage, not once an attempt
			c.log.Warn("no link to a node", "node", c.node, "error", err)
			told = true
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		pause = min(2*pause, c.times.Redial)
	}
}

// connect makes a link and serves it until it ends.
func (c *Client) connect(ctx context.Context) error {
	dialing, cancel := context.WithTimeout(ctx, c.times.Dial)
	conn, err := c.dial(dialing)
	cancel()
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	l := newLink(conn, c.times)
	c.mu.Lock()
	c.link = l
	c.mu.Unlock()
	c.log.Info("linked to a node", "node", c.node)
	err = l.run(ctx, c.answered)
	c.mu.Lock()
	c.link = nil
	broken := c.asked
	c.asked = make(map[uint64]*asked)
	c.mu.Unlock()
	for _, a := range broken {
		a.done(nil, ErrLinkBroken)
	}
	return err
}

// Linked tells whether there is a link now.
func (c *Client) Linked() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link != nil
}

// ask sends a frame; done is called exactly once.
func (c *Client) ask(f *nodev1.PeerFrame, deadline time.Time, done func(*nodev1.PeerFrame, error)) {
	left := time.Until(deadline)
	if left <= 0 {
		done(nil, fmt.Errorf("%w: %w", ErrNoLink, context.DeadlineExceeded))
		return
	}
	f.DeadlineMs = uint32(max(left.Milliseconds(), 1))
	c.mu.Lock()
	l := c.link
	if l == nil || len(c.asked) >= maxAsked {
		c.mu.Unlock()
		done(nil, ErrNoLink)
		return
	}
	c.lastID++
	f.Id = c.lastID
	c.asked[f.Id] = &asked{deadline, done}
	c.mu.Unlock()
	if err := l.put(f); err != nil {
		if c.forget(f.Id) != nil { // else it was told that the link broke
			done(nil, fmt.Errorf("%w: %w", ErrNoLink, err))
		}
	}
}

func (c *Client) forget(id uint64) *asked {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.asked[id]
	delete(c.asked, id)
	return a
}

func (c *Client) answered(f *nodev1.PeerFrame) {
	if f.GetFeed() != nil {
		c.mu.Lock()
		a := c.asked[f.GetId()]
		c.mu.Unlock()
		if a != nil && a.deadline.IsZero() {
			a.done(f, nil)
		}
		return
	}
	if a := c.forget(f.GetId()); a != nil { // nil: its time was over
		a.done(f, nil)
	}
}

// sweep tells those whose deadline is over.
func (c *Client) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		var late []*asked
		c.mu.Lock()
		for id, a := range c.asked {
			if !a.deadline.IsZero() && now.After(a.deadline) {
				late = append(late, a)
				delete(c.asked, id)
			}
		}
		c.mu.Unlock()
		for _, a := range late {
			a.done(nil, fmt.Errorf("peer: %w", context.DeadlineExceeded))
		}
	}
}

// Follow asks the node for what it applies of a shard. take gets the batches in
// order, on the link's goroutine; ended is called once, when there will be no
// more. stop ends it from this side.
func (c *Client) Follow(shard int, after uint64, take func(*nodev1.FeedBatch), ended func(error)) (stop func()) {
	f := &nodev1.PeerFrame{Body: &nodev1.PeerFrame_Follow{Follow: &nodev1.Follow{Shard: uint32(shard), After: after}}}
	a := &asked{done: func(f *nodev1.PeerFrame, err error) {
		switch {
		case err != nil:
			ended(err)
		case f.GetFeed() != nil:
			take(f.GetFeed())
		default:
			ended(fmt.Errorf("node %s: %s", c.node, f.GetUnknown()))
		}
	}}
	c.mu.Lock()
	l := c.link
	if l == nil || len(c.asked) >= maxAsked {
		c.mu.Unlock()
		ended(ErrNoLink)
		return func() {}
	}
	c.lastID++
	f.Id = c.lastID
	c.asked[f.Id] = a
	c.mu.Unlock()
	if err := l.put(f); err != nil && c.forget(f.Id) != nil {
		ended(fmt.Errorf("%w: %w", ErrNoLink, err))
	}
	return func() { c.forget(f.Id) }
}

// noLink is the refusal that goes with ErrNoLink: nothing was done.
func noLink() *edgev1.Error {
	return &edgev1.Error{
		Code: "unavailable", Message: "the node that owns this part of the service cannot be reached",
		Info: &edgev1.ErrorInfo{Reason: "not_owner", RetryAfterSeconds: 0.5},
	}
}

// Begin asks the node to do a command. done hears its reply; a refusal that
// nothing was done if it could not be asked; or an error if the outcome is
// unknown.
func (c *Client) Begin(cmd *nodev1.Command, deadline time.Time, done func(*nodev1.Reply, error)) {
	c.ask(&nodev1.PeerFrame{Body: &nodev1.PeerFrame_Command{Command: cmd}}, deadline, func(f *nodev1.PeerFrame, err error) {
		switch b := f.GetBody().(type) {
		case *nodev1.PeerFrame_Reply:
			done(b.Reply, nil)
		case *nodev1.PeerFrame_Unknown:
			done(nil, fmt.Errorf("node %s: %s", c.node, b.Unknown))
		default:
			if errors.Is(err, ErrNoLink) || mutant.On(mutant.UnknownRefused) {
				done(&nodev1.Reply{Error: noLink()}, nil)
				return
			}
			if err == nil {
				err = errors.New("an answer of the wrong kind")
			}
			done(nil, fmt.Errorf("node %s: %w", c.node, err))
		}
	})
}

// Query asks the node a query; an error means that there is no answer.
func (c *Client) Query(ctx context.Context, q *nodev1.Query) (*nodev1.QueryReply, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(mostDeadline)
	}
	type outcome struct {
		frame *nodev1.PeerFrame
		err   error
	}
	answered := make(chan outcome, 1)
	c.ask(&nodev1.PeerFrame{Body: &nodev1.PeerFrame_Query{Query: q}}, deadline, func(f *nodev1.PeerFrame, err error) {
		answered <- outcome{f, err}
	})
	select {
	case o := <-answered:
		switch b := o.frame.GetBody().(type) {
		case *nodev1.PeerFrame_QueryReply:
			return b.QueryReply, nil
		case *nodev1.PeerFrame_Unknown:
			return nil, fmt.Errorf("node %s: %s", c.node, b.Unknown)
		}
		if errors.Is(o.err, ErrNoLink) {
			return &nodev1.QueryReply{Error: noLink()}, nil
		}
		if o.err == nil {
			o.err = errors.New("an answer of the wrong kind")
		}
		return nil, fmt.Errorf("node %s: %w", c.node, o.err)
	case <-ctx.Done():
		return nil, fmt.Errorf("node %s: %w", c.node, ctx.Err())
	}
}
