package nets

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers each line with itself, at the peer address of a place.
func echo(t *testing.T, n *Network, place int) {
	t.Helper()
	var l net.Listener
	if err := n.In(place, func() (err error) {
		l, err = net.Listen("tcp", n.Peer(place))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c) // until the other side ends
				_ = c.Close()
			}()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
}

// call opens a connection from one place to another.
func call(n *Network, from, to int) (c net.Conn, err error) {
	err = n.In(from, func() (err error) {
		c, err = plainDial(context.Background(), "tcp", n.Reach(from, to))
		return err
	})
	return c, err
}

// ask sends a line and reads it back within a time.
func ask(c net.Conn, within time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c, "are you there?"); err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && line != "are you there?\n" {
		err = fmt.Errorf("answered %q", line)
	}
	return err
}

const (
	soon = 5 * time.Second
	cut  = 300 * time.Millisecond
)

// both runs a test on each kind of network that can be had here.
func both(t *testing.T, f func(t *testing.T, n *Network)) {
	t.Run("loopback", func(t *testing.T) {
		n, err := Loopback(3)
		if err != nil {
			t.Fatal(err)
		}
		f(t, n)
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("namespaces", func(t *testing.T) {
		if err := Supported(); err != nil {
			t.Skip(err) // needs root, ip and nft; loopback stands in for it then
		}
		n, err := Spaces(3, [2]int{1, 2})
		if err != nil {
			t.Fatal(err)
		}
		f(t, n)
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
}

func open(t *testing.T, n *Network, from, to int) net.Conn {
	t.Helper()
	c, err := call(n, from, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestCuts(t *testing.T) {
	both(t, func(t *testing.T, n *Network) {
		for place := range 3 {
			echo(t, n, place)
		}
		for _, pair := range [][2]int{{0, 1}, {1, 2}} { // in namespaces only the second has proxies
			a, b := pair[0], pair[1]
			for _, w := range []way{{a, b}, {b, a}} {
				before, err := n.Met()
				if err != nil {
					t.Fatal(err)
				}
				c := open(t, n, a, b)
				if err := ask(c, soon); err != nil {
					t.Fatalf("%v open: %v", pair, err)
				}
				if err := n.Cut(w.from, w.to); err != nil {
					t.Fatal(err)
				}
				if err := ask(c, cut); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%v with the way %v cut: %v", pair, w, err)
				}
				if err := ask(open(t, n, 0, 2), soon); err != nil {
					t.Errorf("with the way %v cut, place 0 does not reach 2: %v", w, err)
				}
				if met, err := n.Met(); err != nil || met <= before {
					t.Errorf("%v: the cut of %v was met %d times before, %d after, %v", pair, w, before, met, err)
				}
				if err := n.Heal(); err != nil {
					t.Fatal(err)
				}
				c = open(t, n, a, b)
				if err := ask(c, soon); err != nil {
					t.Errorf("%v healed: %v", pair, err)
				}
			}
		}
	})
}

// What was cut off keeps its connection: it goes on once the cut is healed.
func TestConnectionsOutliveACut(t *testing.T) {
	both(t, func(t *testing.T, n *Network) {
		echo(t, n, 2)
		c := open(t, n, 1, 2)
		if err := n.Cut(1, 2); err != nil {
			t.Fatal(err)
		}
		if err := ask(c, cut); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("cut: %v", err)
		}
		if err := n.Heal(); err != nil {
			t.Fatal(err)
		}
		// The line of before comes first; it was asked twice.
		if err := ask(c, soon); err != nil {
			t.Errorf("healed: %v", err)
		}
	})
}

func TestSlowAndLossy(t *testing.T) {
	both(t, func(t *testing.T, n *Network) {
		echo(t, n, 2)
		c := open(t, n, 1, 2)
		if err := n.Slow(1, 2, 100*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := ask(c, soon); err != nil || time.Since(began) < 200*time.Millisecond {
			t.Errorf("slow, there and back: %v after %v", err, time.Since(began))
		}
		if err := n.Heal(); err != nil {
			t.Fatal(err)
		}
		if broken := n.Break(1, 2); broken != 1 {
			t.Errorf("%d connections broken, want 1", broken)
		}
		if err := ask(c, soon); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a broken connection: %v", err)
		}
		if err := ask(open(t, n, 1, 2), soon); err != nil {
			t.Errorf("a new one: %v", err)
		}
	})
}

// A process that ends is noticed through a proxy.
func TestAnEndPassesAProxy(t *testing.T) {
	n, err := Loopback(2)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = n.Close() }()
	l, err := net.Listen("tcp", n.Peer(1))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c := open(t, n, 0, 1)
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(far, "last words"); err != nil {
		t.Fatal(err)
	}
	_ = far.Close()
	_ = c.SetDeadline(time.Now().Add(soon))
	if b, err := io.ReadAll(c); string(b) != "last words\n" || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %q, %v", b, err)
	}
}

func TestMuffler(t *testing.T) {
	n, err := Loopback(1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = n.Close() }()
	echo(t, n, 0)
	m := NewMuffler(n.DialContext)
	c, err := m.DialContext(t.Context(), "tcp", n.Peer(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := ask(c, soon); err != nil || m.Count(n.Peer(0)) != 1 {
		t.Fatalf("%v, %d connections", err, m.Count(n.Peer(0)))
	}
	unmute := m.Mute(n.Peer(0))
	if err := ask(c, cut); !errors.Is(err, os.ErrDeadlineExceeded) || m.Lost() == 0 {
		t.Errorf("muted: %v, %d bytes lost", err, m.Lost())
	}
	unmute()
	if err := ask(c, soon); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("unmuted it is over: %v", err)
	}
	_ = c.Close()
	if n := m.Count(n.Peer(0)); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}
