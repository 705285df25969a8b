package node

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/bongsu-im/bongsu/internal/mtls"
	"github.com/bongsu-im/bongsu/node/peer"
)

// What is spoken on the peer address, by ALPN: Raft's messages, requests for
// shards, and HTTP for what concerns the cluster itself.
const (
	protocolRaft    = "bongsu-raft/1"
	protocolCluster = "http/1.1"
)

const (
	shakeTimeout = 5 * time.Second
	// maxShaking bounds the connections whose other end has yet to prove itself.
	maxShaking = 128
	// maxUnclaimed bounds those that wait to be taken by who speaks their protocol.
	maxUnclaimed = 64
)

// peerPort takes connections of other nodes and hands each, once both ends have
// proven to be of the cluster, to whoever speaks its protocol.
type peerPort struct {
	listener net.Listener
	identity *mtls.Identity
	log      *slog.Logger
	lines    map[string]*line
	running  sync.WaitGroup
}

func listenForPeers(address string, identity *mtls.Identity, log *slog.Logger) (*peerPort, error) {
	l, err := (&net.ListenConfig{Control: giveUpSoon}).Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("take the peer address: %w", err)
	}
	p := &peerPort{listener: l, identity: identity, log: log, lines: map[string]*line{}}
	for _, name := range []string{protocolRaft, peer.Protocol, protocolCluster} {
		p.lines[name] = &line{addr: l.Addr(), conns: make(chan net.Conn, maxUnclaimed), closed: make(chan struct{})}
	}
	return p, nil
}

// line is the listener of one protocol. Closing one leaves the others alone.
type line struct {
	addr   net.Addr
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

// Accept implements net.Listener.
func (l *line) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *line) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *line) Addr() net.Addr { return l.addr }

func (l *line) give(c net.Conn) bool {
	select {
	case <-l.closed:
		return false
	case l.conns <- c:
		return true
	default:
		return false
	}
}

// run takes connections until the port closes.
func (p *peerPort) run(ctx context.Context) {
	settings := p.identity.Server(protocolRaft, peer.Protocol, protocolCluster)
	slots := make(chan struct{}, maxShaking)
	for {
		c, err := p.listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = c.Close() // nobody is left to speak with it
			}
			return
		}
		if err != nil {
			p.log.Warn("accept a peer", "error", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = c.Close() // it will be dialled again
			continue
		}
		p.running.Go(func() {
			defer func() { <-slots }()
			if err := p.admit(ctx, tls.Server(c, settings)); err != nil {
				_ = c.Close()
				if ctx.Err() == nil {
					p.log.Warn("a connection to the peer address was refused", "from", c.RemoteAddr().String(), "error", err)
				}
			}
		})
	}
}

func (p *peerPort) admit(ctx context.Context, c *tls.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, shakeTimeout)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	l := p.lines[c.ConnectionState().NegotiatedProtocol]
	if l == nil {
		return fmt.Errorf("it speaks %q", c.ConnectionState().NegotiatedProtocol)
	}
	if !l.give(c) {
		return fmt.Errorf("nobody takes %q now", c.ConnectionState().NegotiatedProtocol)
	}
	return nil
}

// close stops taking connections; those that were given away are their users'.
func (p *peerPort) close() {
	_ = p.listener.Close()
	for _, l := range p.lines {
		_ = l.Close()
	}
	p.running.Wait()
	for _, l := range p.lines {
		for {
			select {
			case c := <-l.conns:
				_ = c.Close()
				continue
			default:
			}
			break
		}
	}
}

// dial connects to a node of the cluster; name "" is whichever answers there.
func (p *peerPort) dial(ctx context.Context, name, address, protocol string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, shakeTimeout)
	defer cancel()
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 2 * time.Second, KeepAlive: 5 * time.Second, Control: giveUpSoon}, Config: p.identity.Client(name, protocol)}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connect to node %s at %s: %w", name, address, err)
	}
	if got := c.(*tls.Conn).ConnectionState().NegotiatedProtocol; got != protocol {
		return nil, fmt.Errorf("connect to node %s at %s: it speaks %q, not %q", name, address, got, protocol)
	}
	return c, nil
}
