package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/journal"
)

// proxy stands before a server and can swallow its answers.
type proxy struct {
	port    int
	swallow atomic.Bool
	mu      sync.Mutex
	conns   []net.Conn
}

func newProxy(t *testing.T, s *pgServer) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{port: l.Addr().(*net.TCPAddr).Port}
	var running sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close() // the loop below ends by it
		p.cut()
		running.Wait()
	})
	running.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
			if err != nil {
				_ = client.Close() // the test sees a refused connection
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, client, server)
			p.mu.Unlock()
			running.Go(func() { _, _ = io.Copy(server, client); _ = server.Close() }) // until either side is cut
			running.Go(func() { p.answers(client, server) })
		}
	})
	return p
}

func (p *proxy) answers(client, server net.Conn) {
	defer func() { _ = client.Close() }() // the other side is gone, or we are cut
	buf := make([]byte, 32<<10)
	for {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		if p.swallow.Load() {
			continue
		}
		if _, err := client.Write(buf[:n]); err != nil {
			return
		}
	}
}

// cut breaks all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close() // twice does no harm
	}
	p.conns = nil
}

// proxied is a journal behind a proxy, with one entry, and its lease.
func proxied(t *testing.T) (*pgServer, *proxy, Config, *Journal, journal.Lease) {
	t.Helper()
	s := sharedServer(t)
	p := newProxy(t, s)
	cfg := config(t, s, 1)
	cfg.URL = strings.Replace(cfg.URL, fmt.Sprintf(":%d/", s.port), fmt.Sprintf(":%d/", p.port), 1)
	cfg.LeaseTTL, cfg.Committers = time.Minute, 1
	j := mustOpen(t, cfg)
	lease := mustLease(t, j.Log(0))
	mustAppend(t, j.Log(0), lease, "first")
	return s, p, cfg, j, lease
}

func awaitRows(t *testing.T, s *pgServer, cfg Config, n string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); s.ask("postgres", inSchema(cfg, "SELECT count(*)::text FROM @.entries")) != n; {
		if time.Now().After(deadline) {
			t.Fatalf("the table does not come to %s rows", n)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// The commit happens and the connection is lost with the answer: unknown, and
// the next lease covers the entry.
func TestLostAnswerIsUnknown(t *testing.T) {
	s, p, cfg, j, lease := proxied(t)
	l := j.Log(0)
	p.swallow.Store(true)
	appended := make(chan error, 1)
	go func() {
		_, err := l.Append(bg, lease, []byte("second"))
		appended <- err
	}()
	awaitRows(t, s, cfg, "2")
	p.cut()
	if err := <-appended; !errors.Is(err, journal.ErrUnknown) || journal.Definite(err) {
		t.Fatalf("append: %v, want ErrUnknown", err)
	}
	p.swallow.Store(false)
	expectSecond(t, l, lease)
}

// The caller gives up while its append is under way: likewise, and the old lease
// is over at once.
func TestAbandonedAppendIsUnknown(t *testing.T) {
	s, p, cfg, j, lease := proxied(t)
	l := j.Log(0)
	p.swallow.Store(true)
	ctx, cancel := context.WithCancel(bg)
	appended := make(chan error, 1)
	go func() {
		_, err := l.Append(ctx, lease, []byte("second"))
		appended <- err
	}()
	awaitRows(t, s, cfg, "2")
	cancel()
	if err := <-appended; !errors.Is(err, journal.ErrUnknown) {
		t.Fatalf("append: %v, want ErrUnknown", err)
	}
	if _, err := l.Append(patient(t), lease, []byte("third")); !errors.Is(err, journal.ErrNotOwner) {
		t.Fatalf("append under the lease that an unknown outcome ended: %v", err)
	}
	p.swallow.Store(false)
	p.cut()
	expectSecond(t, l, lease)
}

func expectSecond(t *testing.T, l journal.Log, lease journal.Lease) {
	t.Helper()
	again := mustLease(t, l)
	if again.Term <= lease.Term || again.Applied != 2 {
		t.Fatalf("lease %+v after %+v", again, lease)
	}
	es, err := l.Read(patient(t), 1, 1<<20)
	if err != nil || len(es) != 1 || string(es[0].Data) != "second" || es[0].Term != lease.Term {
		t.Fatalf("read: %+v, %v", es, err)
	}
	mustAppend(t, l, again, "third")
}
