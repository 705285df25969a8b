package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// FrontConfig of a Front. Zero values are what a demo uses.
type FrontConfig struct {
	// ProbeEvery node and for at most ProbeTimeout; 0 means 200 and 600 ms.
	ProbeEvery, ProbeTimeout time.Duration
	// HoldFor is how long a new connection waits for a node that answers; 0
	// means 5 s.
	HoldFor time.Duration
	// OnChange is called when a node comes or goes; it must not block.
	OnChange func(name string, up bool)
}

const (
	// maxFrontConns bounds the connections of a front; those beyond are refused.
	maxFrontConns = 4096
	// missesToFall is how many bad answers in a row take a node out. One that
	// refuses connections is taken out at once.
	missesToFall = 2
)

// Front stands for the load balancer of a deployment: one address whose
// connections go to nodes that are ready. It knows nothing of the buttons:
// like any balancer it asks /readyz, and it closes the connections of a node
// that does not answer, so that clients come again and get another.
type Front struct {
	cfg      FrontConfig
	listener net.Listener
	backends []*backend
	ctx      context.Context // the front's own life, ended by Close
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	mu    sync.Mutex // guards what follows and all in backends that says so
	conns int
}

// backend is one node as the front knows it.
type backend struct {
	name, addr string
	probes     *http.Client

	// Guarded by Front.mu.
	health health
	conns  map[net.Conn]struct{} // clients' ends
}

// health is what probes have shown of a node. Pure.
type health struct {
	up     bool
	misses int
}

// verdict is how a probe went.
type verdict int

const (
	ready verdict = iota
	notReady
	refused // nobody listens there
)

// note takes the answer of a probe and tells whether up has changed.
func (h *health) note(a verdict) (changed bool) {
	was := h.up
	switch {
	case a == ready:
		h.up, h.misses = true, 0
	case a == refused:
		h.up, h.misses = false, 0
	default:
		if h.misses++; h.misses >= missesToFall {
			h.up = false
		}
	}
	return h.up != was
}

// Backend names a node for a front.
type Backend struct{ Name, Addr string }

// NewFront opens a front on an address.
func NewFront(listen string, nodes []Backend, cfg FrontConfig) (*Front, error) {
	if cfg.ProbeEvery <= 0 {
		cfg.ProbeEvery = 200 * time.Millisecond
	}
	if cfg.ProbeTimeout <= 0 {
		cfg.ProbeTimeout = 600 * time.Millisecond
	}
	if cfg.HoldFor <= 0 {
		cfg.HoldFor = 5 * time.Second
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("open the front: %w", err)
	}
	// The context is the front's own life, ended by Close.
	ctx, cancel := context.WithCancel(context.Background())
	f := &Front{cfg: cfg, listener: l, ctx: ctx, cancel: cancel}
	for _, n := range nodes {
		b := &backend{name: n.Name, addr: n.Addr, conns: map[net.Conn]struct{}{}, probes: &http.Client{Transport: &http.Transport{}}}
		f.backends = append(f.backends, b)
		f.wg.Go(func() { f.watch(b) })
	}
	f.wg.Go(f.accept)
	return f, nil
}

// Addr is where the front listens.
func (f *Front) Addr() string { return f.listener.Addr().String() }

// Close ends the front and all its connections.
func (f *Front) Close() error {
	f.cancel()
	err := f.listener.Close()
	f.mu.Lock()
	for _, b := range f.backends {
		closeAll(b.conns)
	}
	f.mu.Unlock()
	f.wg.Wait()
	return err
}

// NodeView is what the front says of a node.
type NodeView struct {
	Up    bool
	Conns int
}

// Nodes tells how each node is.
func (f *Front) Nodes() map[string]NodeView {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]NodeView{}
	for _, b := range f.backends {
		out[b.name] = NodeView{Up: b.health.up, Conns: len(b.conns)}
	}
	return out
}

// watch probes a node until the front ends.
func (f *Front) watch(b *backend) {
	tick := time.NewTicker(f.cfg.ProbeEvery)
	defer tick.Stop()
	defer b.probes.CloseIdleConnections()
	for {
		f.noted(b, f.probe(b))
		select {
		case <-tick.C:
		case <-f.ctx.Done():
			return
		}
	}
}

func (f *Front) probe(b *backend) verdict {
	ctx, cancel := context.WithTimeout(f.ctx, f.cfg.ProbeTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.addr+"/readyz", nil)
	if err != nil {
		return notReady
	}
	response, err := b.probes.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			return notReady
		}
		return refused
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10)) // only to reuse the connection
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return notReady
	}
	return ready
}

// noted takes a probe's answer. The connections of a node that falls are closed
// only if another stands: else waiting is all that anyone can do.
func (f *Front) noted(b *backend, a verdict) {
	f.mu.Lock()
	changed := b.health.note(a)
	if !b.health.up && f.anyUp() {
		closeAll(b.conns)
	}
	up := b.health.up
	f.mu.Unlock()
	if changed && f.cfg.OnChange != nil {
		f.cfg.OnChange(b.name, up)
	}
}

func (f *Front) anyUp() bool {
	for _, b := range f.backends {
		if b.health.up {
			return true
		}
	}
	return false
}

func closeAll(conns map[net.Conn]struct{}) {
	for c := range conns {
		_ = c.Close() // its goroutine takes it off the list
	}
}

func (f *Front) accept() {
	for {
		conn, err := f.listener.Accept()
		if err != nil {
			if f.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			continue // of one connection, such as one that was gone already
		}
		f.mu.Lock()
		full := f.conns >= maxFrontConns
		if !full {
			f.conns++
		}
		f.mu.Unlock()
		if full {
			_ = conn.Close() // refused
			continue
		}
		f.wg.Go(func() {
			f.serve(conn)
			_ = conn.Close() // done with
			f.mu.Lock()
			f.conns--
			f.mu.Unlock()
		})
	}
}

// serve leads one connection to a node.
func (f *Front) serve(client net.Conn) {
	b, node := f.reach(client)
	if node == nil {
		return
	}
	defer func() {
		_ = node.Close() // done with
		f.mu.Lock()
		delete(b.conns, client)
		f.mu.Unlock()
	}()
	var both sync.WaitGroup
	both.Go(func() { splice(node, client) })
	both.Go(func() { splice(client, node) })
	both.Wait()
}

// splice copies one direction and passes its end on.
func splice(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if half, ok := to.(*net.TCPConn); ok && err == nil {
		_ = half.CloseWrite() // gone already is as good
		return
	}
	_ = to.Close()
	_ = from.Close()
}

// reach connects to the node with the fewest connections that answers, waiting
// for one. The connection is on the node's list when it returns.
func (f *Front) reach(client net.Conn) (*backend, net.Conn) {
	ctx, cancel := context.WithTimeout(f.ctx, f.cfg.HoldFor)
	defer cancel()
	var d net.Dialer
	for avoid := map[*backend]bool{}; ; {
		b := f.choose(avoid)
		if b == nil {
			clear(avoid)
			if !rest(ctx, f.cfg.ProbeEvery/4) {
				return nil, nil
			}
			continue
		}
		attempt, done := context.WithTimeout(ctx, f.cfg.ProbeTimeout)
		node, err := d.DialContext(attempt, "tcp", b.addr)
		done()
		if err != nil {
			avoid[b] = true
			continue
		}
		f.mu.Lock()
		b.conns[client] = struct{}{}
		f.mu.Unlock()
		return b, node
	}
}

func (f *Front) choose(avoid map[*backend]bool) (best *backend) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, b := range f.backends {
		if b.health.up && !avoid[b] && (best == nil || len(b.conns) < len(best.conns)) {
			best = b
		}
	}
	return best
}

// rest waits; false means that ctx ended first.
func rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
