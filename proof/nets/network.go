package nets

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Network joins the places of nodes, and them with the outside. Make it with
// Spaces or Loopback.
type Network struct {
	places  []place
	proxies map[way]*Proxy
	// outside is where clients are; without namespaces it does nothing.
	outside func(func() error) error
	rules   rules // nil without namespaces
	end     func() error

	mu   sync.Mutex
	cuts map[way]bool
	slow map[way]time.Duration
}

// place is where a node is.
type place struct {
	public, peer string
	in           func(func() error) error
}

// way is from one place to another: of connections opened there, or of bytes.
type way struct{ from, to int }

// rules drop packets on their way into places.
type rules interface {
	// block makes one place drop what comes from others; nil opens it.
	block(at int, from []int) error
	// dropped counts the packets that were.
	dropped() (int64, error)
}

// Public is the address of a place for clients, Peer for other nodes.
func (n *Network) Public(i int) string { return n.places[i].public }

// Peer is the address at which the node at a place listens for other nodes.
func (n *Network) Peer(i int) string { return n.places[i].peer }

// Reach returns where the node at one place finds that of another: its own
// address, or that of the proxy between.
func (n *Network) Reach(from, to int) string {
	if p := n.proxies[way{from, to}]; p != nil {
		return p.listener.Addr().String()
	}
	return n.places[to].peer
}

// Proxied tells whether a proxy stands between two places.
func (n *Network) Proxied(a, b int) bool { return n.proxies[way{a, b}] != nil }

// In runs f where processes of the place are started.
func (n *Network) In(i int, f func() error) error { return n.places[i].in(f) }

// Outside runs f where clients are.
func (n *Network) Outside(f func() error) error { return n.outside(f) }

// DialContext opens a connection from outside.
func (n *Network) DialContext(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = n.outside(func() (err error) {
		c, err = plainDial(ctx, network, address)
		return err
	})
	return c, err
}

// Cut lets nothing through from one place to another; the way back stays open.
func (n *Network) Cut(from, to int) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cuts[way{from, to}] = true
	return n.apply()
}

// Slow delays what two places say to each other, both ways; only where proxies
// stand between them.
func (n *Network) Slow(a, b int, d time.Duration) error {
	if !n.Proxied(a, b) {
		return fmt.Errorf("no proxy stands between places %d and %d", a, b)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.slow[way{a, b}], n.slow[way{b, a}] = d, d
	return n.apply()
}

// Break resets the connections between two places, and returns how many.
func (n *Network) Break(a, b int) (broken int) {
	for _, w := range []way{{a, b}, {b, a}} {
		if p := n.proxies[w]; p != nil {
			broken += p.Break()
		}
	}
	return broken
}

// Heal ends every cut and delay.
func (n *Network) Heal() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cuts)
	clear(n.slow)
	return n.apply()
}

// Open ends one cut.
func (n *Network) Open(from, to int) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.cuts, way{from, to})
	return n.apply()
}

// apply brings rules and proxies to what is wanted. mu must be held.
func (n *Network) apply() error {
	for w, p := range n.proxies {
		back := way{w.to, w.from}
		p.Set(Flow{Cut: n.cuts[w], Delay: n.slow[w]}, Flow{Cut: n.cuts[back], Delay: n.slow[back]})
	}
	if n.rules == nil {
		return nil
	}
	var errs []error
	for at := range n.places {
		var from []int
		for w, cut := range n.cuts {
			if cut && w.to == at {
				from = append(from, w.from)
			}
		}
		errs = append(errs, n.rules.block(at, from))
	}
	return errors.Join(errs...)
}

// Met is how much traffic has met a cut or a delay so far: packets dropped and
// pieces held up.
func (n *Network) Met() (int64, error) {
	var total int64
	for _, p := range n.proxies {
		total += p.Met()
	}
	if n.rules == nil {
		return total, nil
	}
	dropped, err := n.rules.dropped()
	return total + dropped, err
}

// Close ends the proxies and takes the network down.
func (n *Network) Close() error {
	var errs []error
	for _, p := range n.proxies {
		errs = append(errs, p.Close())
	}
	return errors.Join(append(errs, n.end())...)
}

// addProxy puts a proxy on the way from one place to another; listening is an
// address that is free where listen is run.
func (n *Network) addProxy(w way, address string) error {
	var listener net.Listener
	err := n.outside(func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		return fmt.Errorf("listen between places %d and %d: %w", w.from, w.to, err)
	}
	target := n.places[w.to].peer
	n.proxies[w] = NewProxy(listener, func(ctx context.Context) (net.Conn, error) {
		return n.DialContext(ctx, "tcp", target)
	})
	return nil
}

func here(f func() error) error { return f() }

// Loopback joins n places on this machine's loopback, each two by proxies.
func Loopback(n int) (*Network, error) {
	joined := &Network{
		proxies: map[way]*Proxy{}, outside: here, end: func() error { return nil },
		cuts: map[way]bool{}, slow: map[way]time.Duration{},
	}
	for range n {
		addresses, err := freeAddresses(2)
		if err != nil {
			return nil, err
		}
		joined.places = append(joined.places, place{public: addresses[0], peer: addresses[1], in: here})
	}
	for from := range n {
		for to := range n {
			if from == to {
				continue
			}
			if err := joined.addProxy(way{from, to}, "127.0.0.1:0"); err != nil {
				return nil, errors.Join(err, joined.Close())
			}
		}
	}
	return joined, nil
}

// freeAddresses returns loopback addresses on which nobody listens now.
func freeAddresses(n int) (addresses []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer func() { _ = l.Close() }() // held until all are found, so that they differ
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}
