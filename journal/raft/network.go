package raft

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/bongsu-im/bongsu/journal"
)

// Network joins the journals of one process in memory, for tests, with faults on
// demand: parcels lost, doubled, late or out of order by probability, links cut in
// one direction or both. What travels is encoded and decoded as on a wire. It
// waits with package time only, so that it runs under testing/synctest.
//
// Connections are what they are in TCP: a node that ends is seen to end by its
// peers at once, a link that is cut is not.
type Network struct {
	mu     sync.Mutex
	rng    *rand.Rand
	faults Faults
	cut    map[[2]NodeID]bool
	nodes  map[NodeID]*Endpoint
	links  map[[2]NodeID]*link
	sent   uint64
	lost   uint64
}

// Faults are what may happen to a parcel, each by its probability from 0 to 1.
type Faults struct {
	Drop, Duplicate, Reorder float64
	MinDelay, MaxDelay       time.Duration
}

// NewNetwork returns a network without faults; seed is of those to come.
func NewNetwork(seed uint64) *Network {
	return &Network{rng: rand.New(rand.NewPCG(seed, 4)), cut: map[[2]NodeID]bool{}, nodes: map[NodeID]*Endpoint{}, links: map[[2]NodeID]*link{}}
}

// SetFaults replaces the faults from now on.
func (n *Network) SetFaults(f Faults) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults = f
}

// Cut stops everything from one node to another, one way.
func (n *Network) Cut(from, to NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]NodeID{from, to}] = true
}

// Isolate cuts a node off from all others, both ways.
func (n *Network) Isolate(node NodeID, others ...NodeID) {
	for _, o := range others {
		n.Cut(node, o)
		n.Cut(o, node)
	}
}

// Heal ends all cuts.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
}

// Count tells how many parcels were sent and how many of them were lost.
func (n *Network) Count() (sent, lost uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sent, n.lost
}

// Endpoint returns a transport for a node's next start.
func (n *Network) Endpoint() *Endpoint {
	return &Endpoint{net: n}
}

// Endpoint is one start of a node on a Network; it implements Transport.
type Endpoint struct {
	net     *Network
	self    Identity
	r       Receiver
	running sync.WaitGroup

	started, closed bool               // guarded by net.mu
	refused         map[NodeID]refusal // likewise
}

// refusal remembers who refused us, so that it is not asked again for ever.
type refusal struct {
	by  *Endpoint
	err error
}

var _ Transport = (*Endpoint)(nil)

// link is a connection of two endpoints, in one direction.
type link struct {
	from, to *Endpoint
	up       bool // greeted; guarded by net.mu
	queue    chan delivery
	bytes    int           // in the queue; guarded by net.mu
	ended    chan struct{} // closed when the connection ends
}

type delivery struct {
	b   []byte
	due time.Time
}

// Start implements Transport.
func (e *Endpoint) Start(self Identity, r Receiver) error {
	n := e.net
	n.mu.Lock()
	if old := n.nodes[self.Node]; old != nil {
		n.mu.Unlock()
		return fmt.Errorf("node %d is on the network already", self.Node)
	}
	e.self, e.r, e.started, e.refused = self, r, true, map[NodeID]refusal{}
	n.nodes[self.Node] = e
	var others []*Endpoint
	for _, o := range n.nodes {
		if o != e {
			others = append(others, o)
		}
	}
	n.mu.Unlock()
	for _, o := range others {
		e.connect(o)
	}
	return nil
}

// connect makes the connection of two endpoints in the background, unless there
// is one or one refused the other.
func (e *Endpoint) connect(o *Endpoint) {
	n := e.net
	there, back := [2]NodeID{e.self.Node, o.self.Node}, [2]NodeID{o.self.Node, e.self.Node}
	n.mu.Lock()
	defer n.mu.Unlock()
	if e.closed || o.closed || n.links[there] != nil || n.cut[there] || n.cut[back] || e.refused[o.self.Node].by == o {
		return
	}
	a := &link{from: e, to: o, queue: make(chan delivery, 1<<14), ended: make(chan struct{})}
	b := &link{from: o, to: e, queue: make(chan delivery, 1<<14), ended: a.ended}
	n.links[there], n.links[back] = a, b
	e.running.Go(func() {
		err := greet(e, o)
		n.mu.Lock()
		if n.links[there] != a { // ended meanwhile
			n.mu.Unlock()
			return
		}
		if err != nil {
			e.refused[o.self.Node], o.refused[e.self.Node] = refusal{o, err}, refusal{e, err}
			delete(n.links, there)
			delete(n.links, back)
			close(a.ended)
			n.mu.Unlock()
			return
		}
		a.up, b.up = true, true
		e.running.Go(a.carry)
		e.running.Go(b.carry)
		n.mu.Unlock()
		e.r.Up(o.self.Node)
		o.r.Up(e.self.Node)
	})
}

func greet(e, o *Endpoint) error {
	toE, err := o.r.Meet(e.self)
	if err != nil {
		return err
	}
	toO, err := e.r.Meet(o.self)
	if err != nil {
		return err
	}
	return errors.Join(e.r.Greeted(o.self.Node, toE), o.r.Greeted(e.self.Node, toO))
}

// Refused tells why a peer and this endpoint do not talk, nil if they may.
func (e *Endpoint) Refused(peer NodeID) error {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	return e.refused[peer].err
}

// Send implements Transport.
func (e *Endpoint) Send(to NodeID, p Parcel) {
	b, err := appendParcel(nil, p)
	n := e.net
	n.mu.Lock()
	n.sent++
	l := n.links[[2]NodeID{e.self.Node, to}]
	o := n.nodes[to]
	f := n.faults
	if err != nil || e.closed || l == nil || !l.up || l.bytes+len(b) > maxPeerBytes || n.rng.Float64() < f.Drop {
		n.lost++
		n.mu.Unlock()
		if l == nil && o != nil {
			e.connect(o)
		}
		return
	}
	copies := 1
	if n.rng.Float64() < f.Duplicate {
		copies = 2
	}
	for range copies {
		due := time.Now().Add(f.delay(n.rng))
		if n.rng.Float64() < f.Reorder {
			time.AfterFunc(time.Until(due)+f.MaxDelay, func() { l.deliver(b) })
			continue
		}
		select {
		case l.queue <- delivery{b, due}:
			l.bytes += len(b)
		default:
			n.lost++
		}
	}
	n.mu.Unlock()
}

func (f Faults) delay(rng *rand.Rand) time.Duration {
	if f.MaxDelay <= f.MinDelay {
		return f.MinDelay
	}
	return f.MinDelay + time.Duration(rng.Int64N(int64(f.MaxDelay-f.MinDelay)))
}

// carry delivers in order until the connection ends.
func (l *link) carry() {
	for {
		select {
		case d := <-l.queue:
			if wait := time.Until(d.due); wait > 0 {
				t := time.NewTimer(wait)
				select {
				case <-t.C:
				case <-l.ended:
					t.Stop()
					return
				}
			}
			l.from.net.mu.Lock()
			l.bytes -= len(d.b)
			l.from.net.mu.Unlock()
			l.deliver(d.b)
		case <-l.ended:
			return
		}
	}
}

// deliver hands a parcel over, unless the link is cut or has ended by now.
func (l *link) deliver(b []byte) {
	n := l.from.net
	n.mu.Lock()
	key := [2]NodeID{l.from.self.Node, l.to.self.Node}
	if n.links[key] != l || n.cut[key] {
		n.lost++
		n.mu.Unlock()
		return
	}
	n.mu.Unlock()
	if err := parseParcels(b, func(p Parcel) { l.to.r.Receive(l.from.self.Node, p) }); err != nil {
		panic(fmt.Sprintf("raft: the network made a parcel it cannot read: %v", err))
	}
}

// Fetch implements Transport.
func (e *Endpoint) Fetch(ctx context.Context, from NodeID, shard journal.ShardID) (io.ReadCloser, error) {
	n := e.net
	n.mu.Lock()
	l := n.links[[2]NodeID{from, e.self.Node}]
	if l == nil || !l.up || !n.isOpen(from, e.self.Node) || e.closed {
		n.mu.Unlock()
		return nil, fmt.Errorf("fetch from node %d: not connected", from)
	}
	pr, pw := io.Pipe()
	ctx, cancel := context.WithCancel(ctx)
	e.running.Go(func() {
		defer cancel()
		stop := context.AfterFunc(ctx, func() { pw.CloseWithError(ctx.Err()) })
		defer stop()
		pw.CloseWithError(l.from.r.Serve(ctx, e.self.Node, shard, &gate{l: l, w: pw}))
	})
	n.mu.Unlock()
	return &fetching{PipeReader: pr, cancel: cancel}, nil
}

type fetching struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (f *fetching) Close() error {
	f.cancel()
	return f.PipeReader.Close()
}

// gate is a stream that breaks when its link is cut or ends.
type gate struct {
	l *link
	w io.Writer
}

func (g *gate) Write(p []byte) (int, error) {
	n := g.l.from.net
	n.mu.Lock()
	key := [2]NodeID{g.l.from.self.Node, g.l.to.self.Node}
	ok := n.links[key] == g.l && !n.cut[key]
	n.mu.Unlock()
	if !ok {
		return 0, io.ErrUnexpectedEOF
	}
	return g.w.Write(p)
}

func (n *Network) isOpen(a, b NodeID) bool { return !n.cut[[2]NodeID{a, b}] && !n.cut[[2]NodeID{b, a}] }

// Close implements Transport: peers that are not cut off see the end at once, the
// others when they have a connection again.
func (e *Endpoint) Close() error {
	e.end()
	e.running.Wait()
	return nil
}

// Kill takes the endpoint off the network at once, as the death of its process
// does. Close has to follow.
func (e *Endpoint) Kill() { e.end() }

// end takes the endpoint off the network; it does not wait.
func (e *Endpoint) end() {
	n := e.net
	n.mu.Lock()
	first := e.started && !e.closed
	e.closed = true
	if !first {
		n.mu.Unlock()
		return
	}
	if n.nodes[e.self.Node] == e {
		delete(n.nodes, e.self.Node)
	}
	var told []*Endpoint
	for key, l := range n.links {
		if l.from != e {
			continue
		}
		if l.up && !n.cut[key] {
			told = append(told, l.to)
		}
		delete(n.links, key)
		delete(n.links, [2]NodeID{key[1], key[0]})
		close(l.ended)
	}
	n.mu.Unlock()
	for _, o := range told {
		o.r.Down(e.self.Node)
	}
}
