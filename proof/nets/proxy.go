package nets

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Flow is what a proxy does to the bytes that go one way. The zero Flow lets
// them pass.
type Flow struct {
	// Cut lets nothing pass: bytes, ends of connections and new ones wait, as
	// they do on a network that drops every packet.
	Cut bool
	// Delay is how much later each byte arrives.
	Delay time.Duration
}

// Proxy is the way of one node to another, for the connections that the one
// opens. Forward is towards who listens.
type Proxy struct {
	listener net.Listener
	dial     func(context.Context) (net.Conn, error)
	ctx      context.Context // the proxy's own life, ended by Close
	cancel   context.CancelFunc
	running  sync.WaitGroup
	met      atomic.Int64 // chunks that were held up

	mu            sync.Mutex
	forward, back Flow
	changed       chan struct{} // closed when a flow changes
	conns         map[net.Conn]struct{}
}

// NewProxy carries what is accepted to what dial opens, until Close.
func NewProxy(listener net.Listener, dial func(context.Context) (net.Conn, error)) *Proxy {
	p := &Proxy{listener: listener, dial: dial, changed: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.running.Go(p.accept)
	return p
}

// Set changes what happens to bytes from now on, those held up included.
func (p *Proxy) Set(forward, back Flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forward, p.back = forward, back
	close(p.changed)
	p.changed = make(chan struct{})
}

// Flows returns what happens to bytes now.
func (p *Proxy) Flows() (forward, back Flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.forward, p.back
}

// Break resets every connection and returns how many there were.
func (p *Proxy) Break() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.conns)
	for c := range p.conns {
		reset(c)
	}
	return n / 2
}

// Met is how many pieces of traffic were held up by a cut or a delay so far.
func (p *Proxy) Met() int64 { return p.met.Load() }

// Close ends the proxy and waits for it.
func (p *Proxy) Close() error {
	p.cancel()
	err := p.listener.Close()
	p.Break()
	p.running.Wait()
	return err
}

// reset closes a connection as a crash of the other side would.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // then it is an ordinary end
	}
	_ = c.Close() // it is over whatever closing says
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.running.Go(func() { p.carry(c) })
	}
}

// carry joins an accepted connection with one to the other side.
func (p *Proxy) carry(near net.Conn) {
	if !p.hold(near) {
		reset(near)
		return
	}
	defer p.drop(near)
	if !p.await(0, func() Flow { f, _ := p.Flows(); return f }) {
		return
	}
	ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
	far, err := p.dial(ctx)
	cancel()
	if err != nil {
		return
	}
	if !p.hold(far) {
		reset(far)
		return
	}
	defer p.drop(far)
	var both sync.WaitGroup
	both.Go(func() { p.pump(near, far, func() Flow { f, _ := p.Flows(); return f }) })
	both.Go(func() { p.pump(far, near, func() Flow { _, b := p.Flows(); return b }) })
	both.Wait()
}

// hold keeps a connection where Break and Close find it.
func (p *Proxy) hold(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	reset(c)
}

const (
	chunkBytes = 16 << 10
	maxChunks  = 64 // on the way, one way of a connection
)

// chunk is a piece of traffic and when it came.
type chunk struct {
	bytes []byte
	at    time.Time
}

// pump carries what comes from one side to the other. When one side ends, what
// came before is delivered, and then both are over: who speaks to a node that
// has closed gets nothing by speaking on.
func (p *Proxy) pump(from, to net.Conn, flow func() Flow) {
	way := make(chan chunk, maxChunks)
	gone := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(way)
		for {
			b := make([]byte, chunkBytes)
			n, err := from.Read(b)
			if n > 0 {
				select {
				case way <- chunk{b[:n], time.Now()}:
				case <-gone:
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	p.deliver(way, to, flow)
	close(gone)
	reset(from)
	_ = to.Close() // both are over
	reading.Wait()
}

func (p *Proxy) deliver(way <-chan chunk, to net.Conn, flow func() Flow) {
	for c := range way {
		if !p.await(time.Until(c.at), flow) {
			return
		}
		if _, err := to.Write(c.bytes); err != nil {
			return
		}
	}
	// The end of a connection is a packet like any other.
	p.await(0, flow)
}

// await waits until the flow lets something pass that came `age` ago, told as a
// time that is not above 0. False means that the proxy ended first.
func (p *Proxy) await(age time.Duration, flow func() Flow) bool {
	came := time.Now().Add(age)
	held := false
	for {
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		f := flow()
		left := time.Until(came.Add(f.Delay))
		if !f.Cut && left <= 0 {
			return p.ctx.Err() == nil
		}
		if !held {
			held = true
			p.met.Add(1)
		}
		var due <-chan time.Time
		if !f.Cut {
			due = time.After(left)
		}
		select {
		case <-due:
		case <-changed:
		case <-p.ctx.Done():
			return false
		}
	}
}
