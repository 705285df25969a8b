package sim

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"
)

// wires are the connections for requests between machines. As in TCP, what is
// written while a direction is cut arrives after it has healed, if anybody still
// waits for it; an end that closes is seen by the other unless it is cut off.
type wires struct {
	mu     sync.Mutex // guards what follows, and every half
	rng    *rand.Rand
	cut    map[[2]int]bool
	delay  time.Duration // the longest, of each write
	heal   chan struct{} // closed and made anew when anything changes
	opened map[*conn]bool
}

func newWires(seed uint64) *wires {
	return &wires{rng: rand.New(rand.NewPCG(seed, 11)), cut: map[[2]int]bool{}, heal: make(chan struct{}), opened: map[*conn]bool{}}
}

func (w *wires) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	w.wakeLocked()
}

func (w *wires) wakeLocked() {
	close(w.heal)
	w.heal = make(chan struct{})
}

// connect makes a connection of machine a to machine b.
func (w *wires) connect(a, b int) (near, far net.Conn, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut[[2]int{a, b}] || w.cut[[2]int{b, a}] {
		return nil, nil, errors.New("sim: no route")
	}
	there, back := &half{from: a, to: b}, &half{from: b, to: a}
	n, f := &conn{w: w, out: there, in: back}, &conn{w: w, out: back, in: there}
	n.other, f.other = f, n
	w.opened[n], w.opened[f] = true, true
	return n, f, nil
}

// drop ends every connection of a machine, as its death does.
func (w *wires) drop(machine int) {
	w.change(func() {
		for c := range w.opened {
			if c.out.from == machine {
				w.closeLocked(c)
			}
		}
	})
}

// half is one direction of a connection.
type half struct {
	from, to int
	queue    []piece
	over     bool // no more comes
}

type piece struct {
	b   []byte
	due time.Time
}

type conn struct {
	w             *wires
	out, in       *half
	other         *conn
	closed        bool
	readDeadline  time.Time
	writeDeadline time.Time
}

func (w *wires) closeLocked(c *conn) {
	if c.closed {
		return
	}
	c.closed, c.out.over = true, true
	delete(w.opened, c)
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	for {
		c.w.mu.Lock()
		now := time.Now()
		var until time.Duration = -1
		switch {
		case c.closed:
			c.w.mu.Unlock()
			return 0, net.ErrClosed
		case !c.readDeadline.IsZero() && !now.Before(c.readDeadline):
			c.w.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case c.w.cut[[2]int{c.in.from, c.in.to}]:
		case len(c.in.queue) > 0 && !c.in.queue[0].due.After(now):
			first := &c.in.queue[0]
			n := copy(p, first.b)
			if first.b = first.b[n:]; len(first.b) == 0 {
				c.in.queue = c.in.queue[1:]
			}
			c.w.mu.Unlock()
			return n, nil
		case len(c.in.queue) > 0:
			until = c.in.queue[0].due.Sub(now)
		case c.in.over:
			c.w.mu.Unlock()
			return 0, io.EOF
		}
		if left := c.readDeadline.Sub(now); !c.readDeadline.IsZero() && (until < 0 || left < until) {
			until = left
		}
		changed := c.w.heal
		c.w.mu.Unlock()
		if until < 0 {
			<-changed
			continue
		}
		t := time.NewTimer(until)
		select {
		case <-t.C:
		case <-changed:
			t.Stop()
		}
	}
}

// Write implements net.Conn; it never blocks, as the link bounds what waits.
func (c *conn) Write(p []byte) (int, error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	if c.other.closed {
		return 0, io.ErrClosedPipe
	}
	due := time.Now()
	if c.w.delay > 0 {
		due = due.Add(time.Duration(c.w.rng.Int64N(int64(c.w.delay))))
	}
	if n := len(c.out.queue); n > 0 && c.out.queue[n-1].due.After(due) {
		due = c.out.queue[n-1].due // a stream keeps its order
	}
	c.out.queue = append(c.out.queue, piece{append([]byte(nil), p...), due})
	c.w.wakeLocked()
	return len(p), nil
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.w.change(func() { c.w.closeLocked(c) })
	return nil
}

type wireAddr struct{}

func (wireAddr) Network() string { return "sim" }
func (wireAddr) String() string  { return "sim" }

func (c *conn) LocalAddr() net.Addr  { return wireAddr{} }
func (c *conn) RemoteAddr() net.Addr { return wireAddr{} }

func (c *conn) SetDeadline(t time.Time) error {
	c.w.change(func() { c.readDeadline, c.writeDeadline = t, t })
	return nil
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.w.mu.Lock() // the reader itself sets it: nobody has to wake
	defer c.w.mu.Unlock()
	c.readDeadline = t
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.writeDeadline = t
	return nil
}
