package client_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bongsu-im/bongsu/client"
	"github.com/bongsu-im/bongsu/client/clienttest"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// streets are two ways to one server, each of which can be closed: then nobody
// can dial it and what went by it is cut.
type streets struct {
	next func(context.Context, string, string) (net.Conn, error)

	mu     sync.Mutex
	closed map[string]bool
	conns  map[string][]net.Conn
	dials  map[string]int
}

const (
	first  = "http://first.test"
	second = "http://second.test"
)

func newStreets(w *world) (*streets, *http.Client) {
	s := &streets{closed: map[string]bool{}, conns: map[string][]net.Conn{}, dials: map[string]int{}}
	s.next = w.http.Transport.(*http.Transport).DialContext
	return s, &http.Client{Transport: &http.Transport{DialContext: s.dial}}
}

func (s *streets) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, _, _ := net.SplitHostPort(addr)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dials[host]++
	if s.closed[host] {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("closed")}
	}
	c, err := s.next(ctx, network, addr)
	s.conns[host] = append(s.conns[host], c)
	return c, err
}

func (s *streets) close(host string, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed[host] = closed
	for _, c := range s.conns[host] {
		_ = c.Close() // what is cut says nothing
	}
	s.conns[host] = nil
}

func (s *streets) dialled(host string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dials[host]
}

func inStreets(t *testing.T, f func(t *testing.T, w *world, s *streets, c *client.Client)) {
	inWorld(t, func(t *testing.T, w *world) {
		s, h := newStreets(w)
		defer h.CloseIdleConnections()
		c, err := client.New(client.Config{BaseURLs: []string{first, second}, HTTPClient: h})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.SignUp(t.Context(), &edgev1.SignUpRequest{Login: "ann", Password: "password"}); err != nil {
			t.Fatal(err)
		}
		f(t, w, s, c)
	})
}

// A call that cannot reach an address is made at the next, and the one after it
// goes there at once.
func TestRPCGoesToTheNextAddress(t *testing.T) {
	inStreets(t, func(t *testing.T, _ *world, s *streets, c *client.Client) {
		s.close("first.test", true)
		before := s.dialled("first.test")
		for range 3 {
			if _, err := c.Me(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.dialled("first.test") - before; n != 1 {
			t.Errorf("a closed address was dialled %d times, want once", n)
		}
		s.close("second.test", true)
		if _, err := c.Me(t.Context()); err == nil || !client.IsRetryable(err) {
			t.Errorf("with both closed: %v, want what can be retried", err)
		}
		s.close("first.test", false)
		s.close("second.test", false)
		if _, err := c.Me(t.Context()); err != nil {
			t.Errorf("with both open: %v", err)
		}
	})
}

// A refusal is an answer: the address stays.
func TestARefusalKeepsTheAddress(t *testing.T) {
	inStreets(t, func(t *testing.T, _ *world, s *streets, c *client.Client) {
		for range 3 {
			if _, err := c.Find(t.Context(), "nobody"); err == nil {
				t.Fatal("found nobody")
			}
		}
		if n := s.dialled("second.test"); n != 0 {
			t.Errorf("the second address was dialled %d times", n)
		}
	})
}

func TestConnGoesToTheNextAddress(t *testing.T) {
	inStreets(t, func(t *testing.T, _ *world, s *streets, c *client.Client) {
		conn := c.Connect(t.Context(), client.ConnectOptions{Queue: -1})
		defer conn.Close()
		if err := conn.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.close("first.test", true)
		synctest.Wait()
		began := time.Now()
		if _, err := conn.Me(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d > 250*time.Millisecond || s.dialled("second.test") != 1 {
			t.Errorf("over the second address (dialled %d times) after %v, want at most the first back-off", s.dialled("second.test"), d)
		}
	})
}

// A server that says to come back later, because it is starting or stopping, speaks
// for itself: the next address is tried at once. One that is too busy speaks for
// all.
func TestAHintOfOneServerIsNotWaitedForAtTheNext(t *testing.T) {
	for code, want := range map[string]time.Duration{"unavailable": 0, "resource_exhausted": 5 * time.Second} {
		t.Run(code, func(t *testing.T) {
			inStreets(t, func(t *testing.T, w *world, s *streets, c *client.Client) {
				hellos := 0
				w.Intercept(func(_ string, f *edgev1.ClientFrame) clienttest.Fault {
					if f.GetHello() == nil {
						return clienttest.Fault{}
					}
					if hellos++; hellos > 1 {
						return clienttest.Fault{}
					}
					return clienttest.Fault{Error: fault(code, 5)}
				})
				began := time.Now()
				conn := c.Connect(t.Context(), client.ConnectOptions{Queue: -1})
				defer conn.Close()
				if err := conn.Ready(t.Context()); err != nil {
					t.Fatal(err)
				}
				if d := time.Since(began); d < want || d > want+250*time.Millisecond {
					t.Errorf("ready after %v, want %v and at most the first back-off", d, want)
				}
			})
		})
	}
}

// A server that keeps a socket and serves nothing, because it is frozen or cut
// off, is left after a while; one that is only busy is not.
func TestConnLeavesAServerThatServesNothing(t *testing.T) {
	for name, fault := range map[string]clienttest.Fault{
		"hangs":       {Hang: true},
		"unavailable": {Error: fault("unavailable", 0)},
	} {
		t.Run(name, func(t *testing.T) {
			inStreets(t, func(t *testing.T, w *world, s *streets, c *client.Client) {
				conn := c.Connect(t.Context(), client.ConnectOptions{Queue: -1})
				defer conn.Close()
				if err := conn.Ready(t.Context()); err != nil {
					t.Fatal(err)
				}
				w.Intercept(func(_ string, f *edgev1.ClientFrame) clienttest.Fault {
					if f.GetHello() != nil || s.dialled("second.test") > 0 {
						return clienttest.Fault{}
					}
					return fault
				})
				began := time.Now()
				for {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					_, err := conn.Me(ctx)
					cancel()
					if err == nil {
						break
					}
					time.Sleep(100 * time.Millisecond)
				}
				if d := time.Since(began); d < 1500*time.Millisecond || d > 4*time.Second {
					t.Errorf("served again after %v, want 1.5 to 4 s", d)
				}
			})
		})
	}
	// However long a request may wait: what is silent as a whole is found out by a
	// ping.
	t.Run("silent", func(t *testing.T) {
		inStreets(t, func(t *testing.T, w *world, s *streets, c *client.Client) {
			conn := c.Connect(t.Context(), client.ConnectOptions{Queue: -1})
			defer conn.Close()
			if err := conn.Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.Intercept(func(_ string, f *edgev1.ClientFrame) clienttest.Fault {
				return clienttest.Fault{Hang: f.GetHello() == nil && s.dialled("second.test") == 0}
			})
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if _, err := conn.Me(ctx); err == nil {
				t.Fatal("a server that hangs has answered")
			}
			if d := time.Since(began); d > 2100*time.Millisecond {
				t.Errorf("the silent server was left after %v, want at most 2.1 s", d)
			}
			time.Sleep(250 * time.Millisecond) // the first back-off
			if _, err := conn.Me(ctx); err != nil {
				t.Errorf("at the next address: %v", err)
			}
		})
	})
	// One that is only slow answers the ping, and is not left.
	t.Run("slow", func(t *testing.T) {
		inStreets(t, func(t *testing.T, w *world, s *streets, c *client.Client) {
			conn := c.Connect(t.Context(), client.ConnectOptions{Queue: -1})
			defer conn.Close()
			if err := conn.Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.Intercept(func(_ string, f *edgev1.ClientFrame) clienttest.Fault {
				return clienttest.Fault{Hang: f.GetHello() == nil && f.GetPing() == nil}
			})
			ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
			defer cancel()
			if _, err := conn.Me(ctx); err == nil {
				t.Fatal("answered")
			}
			if n := s.dialled("second.test"); n != 0 {
				t.Errorf("the second address was dialled %d times", n)
			}
		})
	})
	t.Run("busy", func(t *testing.T) {
		inStreets(t, func(t *testing.T, w *world, s *streets, c *client.Client) {
			conn := c.Connect(t.Context(), client.ConnectOptions{Queue: -1})
			defer conn.Close()
			if err := conn.Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.Intercept(func(string, *edgev1.ClientFrame) clienttest.Fault {
				return clienttest.Fault{Error: fault("resource_exhausted", 1)}
			})
			for range 10 {
				if _, err := conn.Me(t.Context()); err == nil {
					t.Fatal("answered")
				}
				time.Sleep(time.Second)
			}
			if n := s.dialled("second.test"); n != 0 {
				t.Errorf("the second address was dialled %d times", n)
			}
		})
	})
}

func TestAddressesAreChecked(t *testing.T) {
	for _, cfg := range []client.Config{
		{}, {BaseURL: "bongsu.test"}, {BaseURLs: []string{first, "ftp://x"}}, {BaseURL: first, BaseURLs: []string{""}},
	} {
		if c, err := client.New(cfg); err == nil {
			c.Close()
			t.Errorf("%v and %q were taken", cfg.BaseURL, cfg.BaseURLs)
		}
	}
}
