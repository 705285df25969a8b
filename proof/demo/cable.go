package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// maxCableConns bounds the connections of a cable; those beyond are refused.
	maxCableConns = 256
	dialTimeout   = 2 * time.Second
)

// Cable is the way by which one node reaches another: it passes on each
// connection to a target. Cut, it behaves as a dead cable does: nothing is
// closed and nothing refused, there is only silence; new connections are taken
// and hear nothing. Joined, what was under way goes on, as TCP would.
type Cable struct {
	listener net.Listener
	dial     func(context.Context) (net.Conn, error)
	ctx      context.Context // the cable's own life, ended by Close
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	mu     sync.Mutex
	joined chan struct{} // closed while the cable is whole
	conns  map[net.Conn]struct{}
}

// NewCable lays a cable to an address, on a free loopback port.
func NewCable(target string) (*Cable, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("lay a cable to %s: %w", target, err)
	}
	var d net.Dialer
	return newCable(l, func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", target) }), nil
}

func newCable(l net.Listener, dial func(context.Context) (net.Conn, error)) *Cable {
	// The context is the cable's own life, ended by Close.
	ctx, cancel := context.WithCancel(context.Background())
	c := &Cable{listener: l, dial: dial, ctx: ctx, cancel: cancel, joined: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	close(c.joined)
	c.wg.Go(c.accept)
	return c
}

// Addr is where to dial instead of the target.
func (c *Cable) Addr() string { return c.listener.Addr().String() }

// Cut silences the cable until Join.
func (c *Cable) Cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.joined:
		c.joined = make(chan struct{})
	default:
	}
}

// Join makes it whole again.
func (c *Cable) Join() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.joined:
	default:
		close(c.joined)
	}
}

// Close takes the cable away, and all that goes through it.
func (c *Cable) Close() error {
	c.cancel()
	err := c.listener.Close()
	c.mu.Lock()
	for conn := range c.conns {
		_ = conn.Close() // it is thrown away
	}
	c.mu.Unlock()
	c.wg.Wait()
	return err
}

// whole waits until the cable is joined; false means that it was closed.
func (c *Cable) whole() bool {
	c.mu.Lock()
	joined := c.joined
	c.mu.Unlock()
	select {
	case <-joined:
		return c.ctx.Err() == nil
	case <-c.ctx.Done():
		return false
	}
}

func (c *Cable) accept() {
	for {
		conn, err := c.listener.Accept()
		if err != nil {
			if c.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			continue // of one connection, such as one that was gone already
		}
		if !c.keep(conn) {
			_ = conn.Close() // refused
			continue
		}
		c.wg.Go(func() { c.carry(conn) })
	}
}

// keep remembers a connection; false means that there is no place for it.
func (c *Cable) keep(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil || len(c.conns) >= 2*maxCableConns {
		return false
	}
	c.conns[conn] = struct{}{}
	return true
}

func (c *Cable) drop(conn net.Conn) {
	_ = conn.Close() // both ends are done with it
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, conn)
}

// carry passes one connection on.
func (c *Cable) carry(near net.Conn) {
	defer c.drop(near)
	if !c.whole() {
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, dialTimeout)
	far, err := c.dial(ctx)
	cancel()
	if err != nil || !c.keep(far) {
		if err == nil {
			_ = far.Close() // no place for it
		}
		return // nobody is there: the dialler finds its connection closed
	}
	defer c.drop(far)
	var both sync.WaitGroup
	both.Go(func() { c.pump(far, near) })
	both.Go(func() { c.pump(near, far) })
	both.Wait()
}

// pump carries one direction. It ends when the source does, which it then tells
// the destination; never while the cable is cut.
func (c *Cable) pump(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for c.whole() {
		n, err := from.Read(buf)
		if !c.whole() {
			return
		}
		if n > 0 {
			if _, failed := to.Write(buf[:n]); failed != nil {
				_ = from.Close() // nobody hears it any more
				return
			}
		}
		if err == nil {
			continue
		}
		if half, ok := to.(interface{ CloseWrite() error }); ok && errors.Is(err, io.EOF) {
			_ = half.CloseWrite() // gone already is as good
		} else {
			_ = to.Close()
		}
		return
	}
}
