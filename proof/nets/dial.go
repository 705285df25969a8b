package nets

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// DialFunc opens a connection.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Muffler stands between clients and servers: it can let requests through and
// lose every answer, so that what was done is never heard of.
type Muffler struct {
	dial DialFunc

	mu    sync.Mutex
	conns map[*muffled]struct{}
	lost  atomic.Int64
}

// NewMuffler returns one that muffles nothing yet.
func NewMuffler(dial DialFunc) *Muffler {
	return &Muffler{dial: dial, conns: map[*muffled]struct{}{}}
}

// DialContext is for http.Transport.
func (m *Muffler) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := m.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	wrapped := &muffled{Conn: c, of: m, address: address}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conns[wrapped] = struct{}{}
	return wrapped, nil
}

// Count returns how many connections go to an address.
func (m *Muffler) Count(address string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.conns {
		if c.address == address {
			n++
		}
	}
	return n
}

// Mute loses all that comes from an address over the connections that are open
// now; what goes there arrives. It returns how to end it: by resetting them.
func (m *Muffler) Mute(address string) (unmute func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var muted []*muffled
	for c := range m.conns {
		if c.address == address {
			c.mute.Store(true)
			muted = append(muted, c)
		}
	}
	return func() {
		for _, c := range muted {
			reset(c.Conn)
		}
	}
}

// Lost is how many bytes of answers were lost.
func (m *Muffler) Lost() int64 { return m.lost.Load() }

type muffled struct {
	net.Conn
	of      *Muffler
	address string
	mute    atomic.Bool
}

// Read implements net.Conn. A muted connection reads on and throws away, until
// it is reset.
func (c *muffled) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if !c.mute.Load() || err != nil && n == 0 {
			return n, err
		}
		c.of.lost.Add(int64(n))
		if err != nil {
			return 0, err
		}
	}
}

// Close implements net.Conn.
func (c *muffled) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// dialTimeout bounds one attempt to open a connection.
const dialTimeout = 2 * time.Second

func plainDial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	return d.DialContext(ctx, network, address)
}
