package raft

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/bongsu-im/bongsu/journal"
)

// protocolVersion is spoken between nodes; another is refused.
const protocolVersion = 1

const handshakeMagic = "bongsu-peer\n"

// Times of connections between nodes.
const (
	handshakeTimeout = 5 * time.Second
	pingInterval     = time.Second
	silenceTimeout   = 5 * time.Second // nothing read: the connection is given up
	redialAfter      = 100 * time.Millisecond
	redialAtMost     = 500 * time.Millisecond
	maxIncoming      = 256 // connections, of all peers
)

// TCPConfig configures a TCP transport.
type TCPConfig struct {
	// Listener gives the peers' connections, encrypted, the other end of each
	// proven to be of this cluster (internal/mtls); the transport closes it.
	Listener net.Listener
	// Dial connects to a node at an address, to the same standard.
	Dial func(ctx context.Context, node NodeID, address string) (net.Conn, error)
	// Verify refuses a peer that calls itself by the ID of another; nil believes
	// whoever is of the cluster.
	Verify func(node NodeID, c net.Conn) error
	// Peers are the addresses (host:port) to reach other nodes at.
	Peers  map[NodeID]string
	Logger *slog.Logger // nil: nothing is logged
}

// TCP is the Transport between machines. Each pair of nodes has two
// connections, one a direction, and one more while a snapshot travels.
type TCP struct {
	cfg     TCPConfig
	self    Identity
	r       Receiver
	ctx     context.Context
	end     context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	peers   map[NodeID]*tcpPeer
	conns   map[net.Conn]struct{}
	started bool
	closed  bool
}

var _ Transport = (*TCP)(nil)

// NewTCP returns a transport that is not started.
func NewTCP(cfg TCPConfig) (*TCP, error) {
	switch {
	case cfg.Listener == nil:
		return nil, errors.New("raft: TCP needs a listener")
	case cfg.Dial == nil:
		return nil, errors.New("raft: TCP needs a way to dial")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	t := &TCP{cfg: cfg, peers: map[NodeID]*tcpPeer{}, conns: map[net.Conn]struct{}{}}
	t.ctx, t.end = context.WithCancel(context.Background())
	return t, nil
}

// Start implements Transport.
func (t *TCP) Start(self Identity, r Receiver) error {
	t.mu.Lock()
	if t.closed || t.started {
		t.mu.Unlock()
		return errors.New("raft: TCP was started or closed before")
	}
	t.self, t.r, t.started = self, r, true
	t.running.Go(t.accept)
	t.mu.Unlock()
	for node, address := range t.cfg.Peers {
		t.SetPeer(node, address)
	}
	return nil
}

// SetPeer says where a node is reached from now on; an empty address forgets it.
func (t *TCP) SetPeer(node NodeID, address string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || !t.started || node == t.self.Node {
		return
	}
	if p := t.peers[node]; p != nil {
		if p.address == address {
			return
		}
		p.end()
		delete(t.peers, node)
	}
	if address == "" {
		return
	}
	p := &tcpPeer{t: t, node: node, address: address, wake: make(chan struct{}, 1), nudge: make(chan struct{}, 1)}
	p.ctx, p.end = context.WithCancel(t.ctx)
	t.peers[node] = p
	t.running.Go(p.run)
}

// PeerState is what a TCP transport knows of one peer.
type PeerState struct {
	Node    NodeID
	Address string
	Up      bool
	Err     error  // why it was not reached last; nil once it was
	Dropped uint64 // parcels for which there was no room or no connection
	Queued  int    // bytes
}

// Peers tells about all peers, in no order.
func (t *TCP) Peers() []PeerState {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []PeerState
	for _, p := range t.peers {
		p.mu.Lock()
		out = append(out, PeerState{Node: p.node, Address: p.address, Up: p.up, Err: p.err, Dropped: p.dropped, Queued: p.bytes})
		p.mu.Unlock()
	}
	return out
}

// Send implements Transport.
func (t *TCP) Send(to NodeID, p Parcel) {
	t.mu.Lock()
	peer := t.peers[to]
	t.mu.Unlock()
	if peer != nil {
		peer.put(p)
	}
}

// Close implements Transport.
func (t *TCP) Close() error {
	t.mu.Lock()
	first := !t.closed
	t.closed = true
	var err error
	if first {
		t.end()
		err = t.cfg.Listener.Close()
		for c := range t.conns {
			_ = c.Close() // whoever uses it finds out
		}
	}
	t.mu.Unlock()
	t.running.Wait()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close the peers' listener: %w", err)
	}
	return nil
}

// keep registers a connection for Close; false if it is too late or too many.
func (t *TCP) keep(c net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || len(t.conns) >= maxIncoming {
		return false
	}
	t.conns[c] = struct{}{}
	return true
}

func (t *TCP) drop(c net.Conn) {
	t.mu.Lock()
	delete(t.conns, c)
	t.mu.Unlock()
	_ = c.Close() // it is over either way
}

// tcpPeer keeps the connection to a peer and sends what is for it.
type tcpPeer struct {
	t       *TCP
	node    NodeID
	address string
	ctx     context.Context
	end     context.CancelFunc
	wake    chan struct{}
	nudge   chan struct{} // the peer is there: dial at once

	mu      sync.Mutex
	up      bool
	err     error
	queue   []Parcel
	bytes   int
	dropped uint64
}

func (p *tcpPeer) put(parcel Parcel) {
	cost := parcel.cost()
	p.mu.Lock()
	if !p.up || p.bytes+cost > maxPeerBytes {
		p.dropped++
		p.mu.Unlock()
		return
	}
	p.queue = append(p.queue, parcel)
	p.bytes += cost
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run dials until the peer is forgotten, ever more patiently while it fails.
func (p *tcpPeer) run() {
	wait := redialAfter
	for p.ctx.Err() == nil {
		began := time.Now()
		err := p.connect()
		if p.ctx.Err() != nil {
			return
		}
		p.mu.Lock()
		news := p.err == nil || p.err.Error() != err.Error()
		p.err = err
		p.mu.Unlock()
		if news {
			p.t.cfg.Logger.Warn("a peer is not reached", "node", p.node, "address", p.address, "err", err)
		}
		if time.Since(began) > redialAtMost {
			wait = redialAfter
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-p.nudge:
			timer.Stop()
		case <-p.ctx.Done():
			timer.Stop()
			return
		}
		wait = min(2*wait, redialAtMost)
	}
}

// connect makes one connection and uses it until it breaks.
func (p *tcpPeer) connect() error {
	c, err := p.t.dial(p.ctx, p.node, p.address)
	if err != nil {
		return err
	}
	defer p.t.drop(c)
	stop := context.AfterFunc(p.ctx, func() { _ = c.Close() })
	defer stop()
	p.mu.Lock()
	p.up, p.err = true, nil
	p.mu.Unlock()
	p.t.r.Up(p.node)
	defer func() {
		p.mu.Lock()
		p.up, p.queue, p.bytes = false, nil, 0
		p.mu.Unlock()
		if p.t.ctx.Err() == nil {
			p.t.r.Down(p.node)
		}
	}()
	broken := make(chan error, 1)
	p.t.running.Go(func() { // nothing is said on this side: a read ends when the peer does
		var b [1]byte
		_, err := c.Read(b[:])
		if err == nil {
			err = errors.New("the peer spoke out of turn")
		}
		broken <- err
	})
	return p.send(c, broken)
}

// send writes what is queued, as much as there is at a time: what all shards
// have for the peer travels together.
func (p *tcpPeer) send(c net.Conn, broken <-chan error) error {
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	var batch []Parcel
	var buf []byte
	for {
		buf = buf[:0]
		select {
		case <-p.wake:
		case <-ping.C:
			buf = endFrame(beginFrame(buf, framePing))
		case err := <-broken:
			return fmt.Errorf("connection broken: %w", err)
		case <-p.ctx.Done():
			return p.ctx.Err()
		}
		p.mu.Lock()
		batch, p.queue = p.queue, batch[:0]
		p.bytes = 0
		p.mu.Unlock()
		for len(batch) > 0 || len(buf) > 0 {
			if len(buf) == 0 {
				buf, batch = p.pack(buf, batch)
			}
			if err := c.SetWriteDeadline(time.Now().Add(silenceTimeout)); err != nil {
				return err
			}
			if _, err := c.Write(buf); err != nil {
				return fmt.Errorf("send: %w", err)
			}
			buf = buf[:0]
		}
		clear(batch[:cap(batch)])
		if cap(buf) > maxFrameBytes {
			buf = nil
		}
	}
}

// pack makes a frame of as many parcels as fit and returns the rest.
func (p *tcpPeer) pack(buf []byte, batch []Parcel) ([]byte, []Parcel) {
	buf = beginFrame(buf, frameParcels)
	for n, parcel := range batch {
		whole := len(buf)
		if n > 0 && whole+parcel.cost() > maxMessageBytes {
			return endFrame(buf), batch[n:]
		}
		longer, err := appendParcel(buf, parcel)
		if err != nil {
			p.t.cfg.Logger.Error("a message cannot be sent", "node", p.node, "shard", parcel.Shard, "err", err)
			buf = buf[:whole]
			continue
		}
		buf = longer
	}
	return endFrame(buf), nil
}

// dial connects and shakes hands.
func (t *TCP) dial(ctx context.Context, node NodeID, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	c, err := t.cfg.Dial(ctx, node, address)
	if err != nil {
		return nil, err
	}
	if !t.keep(c) {
		_ = c.Close() // the other error matters
		return nil, errors.New("closing, or too many connections")
	}
	if err := t.greet(c, node); err != nil {
		t.drop(c)
		return nil, err
	}
	return c, nil
}

func (t *TCP) greet(c net.Conn, node NodeID) error {
	if err := c.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	if err := writeFrame(c, frameHello, t.hello(nil)); err != nil {
		return fmt.Errorf("greet node %d: %w", node, err)
	}
	peer, greeting, err := readHello(c, frameReply)
	if err != nil {
		return fmt.Errorf("greet node %d: %w", node, err)
	}
	if peer.Node != node {
		return fmt.Errorf("node %d answers where node %d should be", peer.Node, node)
	}
	ours, err := t.admit(c, peer)
	if err == nil {
		err = t.r.Greeted(peer.Node, greeting)
	}
	if err != nil {
		return err
	}
	if err := writeFrame(c, frameWelcome, ours); err != nil {
		return fmt.Errorf("greet node %d: %w", node, err)
	}
	return c.SetDeadline(time.Time{})
}

// admit asks the certificate's judge and the journal about a peer.
func (t *TCP) admit(c net.Conn, peer Identity) (greeting []byte, err error) {
	if t.cfg.Verify != nil {
		if err := t.cfg.Verify(peer.Node, c); err != nil {
			return nil, fmt.Errorf("certificate of node %d: %w", peer.Node, err)
		}
	}
	return t.r.Meet(peer)
}

// hello is what both ends say first: magic, version(2), identity, greeting.
func (t *TCP) hello(greeting []byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte(handshakeMagic), protocolVersion)
	return append(t.self.append(b), greeting...)
}

// maxHelloBytes bounds a hello with a greeting of all shards.
const maxHelloBytes = len(handshakeMagic) + 2 + identityBytes + 1 + 1 + maxShards*memoryBytes

func parseHello(b []byte) (peer Identity, greeting []byte, err error) {
	head := len(handshakeMagic) + 2
	if len(b) < head || string(b[:len(handshakeMagic)]) != handshakeMagic {
		return Identity{}, nil, errors.New("this is no Bongsu node")
	}
	if v := binary.BigEndian.Uint16(b[len(handshakeMagic):]); v != protocolVersion {
		return Identity{}, nil, fmt.Errorf("the node speaks version %d of the protocol, this one %d", v, protocolVersion)
	}
	if b = b[head:]; len(b) < identityBytes {
		return Identity{}, nil, errors.New("the node's identity is cut")
	}
	peer, err = parseIdentity(b[:identityBytes])
	return peer, append([]byte(nil), b[identityBytes:]...), err
}

// RefusedError: a peer has refused this node, and says why.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "refused by the peer: " + e.Reason }

func readHello(r io.Reader, want frameKind) (Identity, []byte, error) {
	kind, body, _, err := readFrame(r, nil, maxHelloBytes)
	switch {
	case err != nil:
		return Identity{}, nil, err
	case kind == frameRefuse:
		return Identity{}, nil, &RefusedError{Reason: string(body[:min(len(body), 1<<10)])}
	case kind != want:
		return Identity{}, nil, fmt.Errorf("%w: kind %d instead of %d", errFrame, kind, want)
	}
	return parseHello(body)
}

// accept takes connections until the listener closes.
func (t *TCP) accept() {
	for {
		c, err := t.cfg.Listener.Accept()
		if err != nil {
			if t.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			t.cfg.Logger.Warn("accept a peer", "err", err)
			timer := time.NewTimer(redialAfter)
			select {
			case <-timer.C:
			case <-t.ctx.Done():
				timer.Stop()
			}
			continue
		}
		if !t.keep(c) {
			_ = c.Close() // it will be dialled again
			continue
		}
		t.running.Go(func() {
			defer t.drop(c)
			if err := t.receive(c); err != nil && t.ctx.Err() == nil {
				t.cfg.Logger.Info("the connection of a peer ended", "address", c.RemoteAddr().String(), "err", err)
			}
		})
	}
}

// receive shakes hands with who has dialled, and takes what it sends.
func (t *TCP) receive(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	peer, _, err := readHello(c, frameHello)
	var greeting []byte
	if err == nil {
		greeting, err = t.admit(c, peer)
	}
	if err != nil {
		return errors.Join(err, writeFrame(c, frameRefuse, []byte(err.Error())))
	}
	if err := writeFrame(c, frameReply, t.hello(greeting)); err != nil {
		return err
	}
	r := bufio.NewReaderSize(c, 64<<10)
	kind, body, buf, err := readFrame(r, nil, maxHelloBytes)
	if err == nil && kind != frameWelcome {
		err = fmt.Errorf("%w: kind %d instead of a welcome", errFrame, kind)
	}
	if err == nil {
		err = t.r.Greeted(peer.Node, body)
	}
	if err != nil {
		return fmt.Errorf("node %d: %w", peer.Node, err)
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return err
	}
	t.nudge(peer.Node)
	for {
		if err := c.SetReadDeadline(time.Now().Add(silenceTimeout)); err != nil {
			return err
		}
		kind, body, buf, err = readFrame(r, buf, maxFrameBytes)
		if err != nil {
			return fmt.Errorf("node %d: %w", peer.Node, err)
		}
		switch kind {
		case framePing:
		case frameParcels:
			if err := parseParcels(body, func(p Parcel) { t.r.Receive(peer.Node, p) }); err != nil {
				return fmt.Errorf("node %d: %w", peer.Node, err)
			}
		case frameAsk:
			if len(body) != 2 {
				return fmt.Errorf("node %d: %w: question of %d bytes", peer.Node, errFrame, len(body))
			}
			return t.serve(c, peer.Node, journal.ShardID(binary.BigEndian.Uint16(body)))
		default:
			return fmt.Errorf("node %d: %w: kind %d", peer.Node, errFrame, kind)
		}
	}
}

// nudge has a peer that was just heard of dialled without further waiting.
func (t *TCP) nudge(node NodeID) {
	t.mu.Lock()
	p := t.peers[node]
	t.mu.Unlock()
	if p == nil {
		return
	}
	p.mu.Lock()
	up := p.up
	p.mu.Unlock()
	if up {
		return
	}
	select {
	case p.nudge <- struct{}{}:
	default:
	}
}

// serve answers a question for a snapshot: chunks, and at the end their sum.
func (t *TCP) serve(c net.Conn, to NodeID, shard journal.ShardID) error {
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	t.running.Go(func() { // the peer says nothing more: a read ends when it leaves
		var b [1]byte
		_, _ = c.Read(b[:])
		cancel()
	})
	defer func() { _ = c.Close() }() // ends that read
	w := &chunks{c: c, sum: sha256.New()}
	if err := t.r.Serve(ctx, to, shard, w); err != nil {
		return errors.Join(err, writeFrame(c, frameRefuse, []byte(err.Error())))
	}
	return writeFrame(c, frameEnd, w.sum.Sum(binary.BigEndian.AppendUint64(nil, w.n)))
}

const maxChunkBytes = 256 << 10

// chunks cuts what is written into frames.
type chunks struct {
	c   net.Conn
	n   uint64
	sum hash.Hash
}

func (w *chunks) Write(p []byte) (int, error) {
	total := 0
	for len(p) > 0 {
		part := p[:min(len(p), maxChunkBytes)]
		if err := w.c.SetWriteDeadline(time.Now().Add(silenceTimeout)); err != nil {
			return total, err
		}
		if err := writeFrame(w.c, frameChunk, part); err != nil {
			return total, err
		}
		w.sum.Write(part)
		w.n += uint64(len(part))
		total += len(part)
		p = p[len(part):]
	}
	return total, nil
}

// Fetch implements Transport, by a connection of its own.
func (t *TCP) Fetch(ctx context.Context, from NodeID, shard journal.ShardID) (io.ReadCloser, error) {
	t.mu.Lock()
	p := t.peers[from]
	t.mu.Unlock()
	if p == nil {
		return nil, fmt.Errorf("fetch from node %d: its address is not known", from)
	}
	c, err := t.dial(ctx, from, p.address)
	if err == nil {
		if err = writeFrame(c, frameAsk, binary.BigEndian.AppendUint16(nil, uint16(shard))); err != nil {
			t.drop(c)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("fetch from node %d: %w", from, err)
	}
	f := &download{t: t, c: c, r: bufio.NewReaderSize(c, 64<<10), sum: sha256.New()}
	f.stop = context.AfterFunc(ctx, func() { _ = c.Close() })
	return f, nil
}

// download reads a snapshot; io.EOF comes only after the sum has agreed.
type download struct {
	t    *TCP
	c    net.Conn
	r    *bufio.Reader
	stop func() bool
	buf  []byte
	rest []byte
	n    uint64
	sum  hash.Hash
	err  error
}

func (d *download) Read(p []byte) (int, error) {
	for len(d.rest) == 0 && d.err == nil {
		d.err = d.next()
	}
	if len(d.rest) == 0 {
		return 0, d.err
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

func (d *download) next() error {
	// A peer that makes a snapshot may be silent for a while; not for ever.
	if err := d.c.SetReadDeadline(time.Now().Add(12 * silenceTimeout)); err != nil {
		return err
	}
	kind, body, buf, err := readFrame(d.r, d.buf, maxChunkBytes+1)
	d.buf = buf
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF // it has not said that this is the end
	}
	if err != nil {
		return err
	}
	switch kind {
	case frameChunk:
		d.sum.Write(body)
		d.n += uint64(len(body))
		d.rest = body
		return nil
	case frameRefuse:
		return &RefusedError{Reason: string(body[:min(len(body), 1<<10)])}
	case frameEnd:
		if want := d.sum.Sum(binary.BigEndian.AppendUint64(nil, d.n)); string(want) != string(body) {
			return fmt.Errorf("%w: the snapshot is not what was sent", errFrame)
		}
		return io.EOF
	}
	return fmt.Errorf("%w: kind %d in a snapshot", errFrame, kind)
}

func (d *download) Close() error {
	d.stop()
	d.t.drop(d.c)
	return nil
}
