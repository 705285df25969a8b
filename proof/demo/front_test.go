package demo

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// fakeNode answers /readyz as told, and keeps other connections open, saying
// its name.
type fakeNode struct {
	*httptest.Server
	status atomic.Int64
}

func newFakeNode(t *testing.T, name string) *fakeNode {
	n := &fakeNode{}
	n.status.Store(http.StatusOK)
	n.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" {
			w.WriteHeader(int(n.status.Load()))
			return
		}
		_, _ = fmt.Fprintln(w, name)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(func() {
		n.CloseClientConnections()
		n.Close()
	})
	return n
}

func (n *fakeNode) addr() string { return n.Listener.Addr().String() }

type fakeFront struct {
	*Front
	changes chan string
}

func newFakeFront(t *testing.T, hold time.Duration, nodes ...*fakeNode) *fakeFront {
	var backends []Backend
	for i, n := range nodes {
		backends = append(backends, Backend{Name: fmt.Sprint("n", i+1), Addr: n.addr()})
	}
	changes := make(chan string, 64)
	f, err := NewFront("127.0.0.1:0", backends, FrontConfig{
		ProbeEvery: 5 * time.Millisecond, ProbeTimeout: 2 * time.Second, HoldFor: hold,
		OnChange: func(name string, up bool) { changes <- fmt.Sprint(name, " ", up) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return &fakeFront{f, changes}
}

// wait takes as many changes as are named, in any order.
func (f *fakeFront) wait(t *testing.T, want ...string) {
	t.Helper()
	open := map[string]bool{}
	for _, w := range want {
		open[w] = true
	}
	for len(open) > 0 {
		select {
		case c := <-f.changes:
			if !open[c] {
				t.Fatalf("unexpected change %q", c)
			}
			delete(open, c)
		case <-time.After(20 * time.Second):
			t.Fatalf("still waiting for %v", open)
		}
	}
}

// visit opens a connection and returns the name of the node that it got.
func (f *fakeFront) visit(t *testing.T) (string, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", f.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "GET /name HTTP/1.1\r\nHost: x\r\n\r\n")
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("no name: %v", err)
		}
		if line = strings.TrimSpace(line); line == "n1" || line == "n2" {
			return line, r
		}
	}
}

// ended reads a connection to its end, which must come.
func ended(t *testing.T, r io.Reader) {
	t.Helper()
	if _, err := io.ReadAll(r); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the connection lives on")
	}
}

func TestFrontLeadsAwayFromSickNodes(t *testing.T) {
	a, b := newFakeNode(t, "n1"), newFakeNode(t, "n2")
	f := newFakeFront(t, time.Minute, a, b)
	f.wait(t, "n1 true", "n2 true")
	first, one := f.visit(t)
	second, other := f.visit(t)
	if first == second {
		t.Fatalf("both connections went to %s", first)
	}
	if first == "n2" {
		one, other = other, one
	}
	a.status.Store(http.StatusServiceUnavailable)
	f.wait(t, "n1 false")
	ended(t, one)
	if f.Nodes()["n1"].Up || !f.Nodes()["n2"].Up {
		t.Errorf("nodes: %+v", f.Nodes())
	}
	for range 3 {
		if name, _ := f.visit(t); name != "n2" {
			t.Errorf("a new connection went to %s", name)
		}
	}
	// The last one that stands is not abandoned: there is nothing better.
	b.status.Store(http.StatusServiceUnavailable)
	f.wait(t, "n2 false")
	if f.Nodes()["n2"].Conns != 4 {
		t.Errorf("nodes: %+v", f.Nodes())
	}
	_ = other
	a.status.Store(http.StatusOK)
	f.wait(t, "n1 true")
	if name, _ := f.visit(t); name != "n1" {
		t.Errorf("a new connection went to %s", name)
	}
	// Once n1 stands, the connection to n2 ends: reading it to the end returns.
	ended(t, other)
}

func TestFrontWaitsForANode(t *testing.T) {
	a := newFakeNode(t, "n1")
	a.status.Store(http.StatusServiceUnavailable)
	f := newFakeFront(t, time.Minute, a)
	got := make(chan string)
	go func() {
		conn, err := net.Dial("tcp", f.Addr())
		if err != nil {
			got <- err.Error()
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
		line, _ := bufio.NewReader(conn).ReadString('\n')
		got <- strings.TrimSpace(line)
	}()
	a.status.Store(http.StatusOK)
	if line := <-got; line != "HTTP/1.1 200 OK" {
		t.Errorf("heard %q", line)
	}
}

func TestFrontWithoutNodes(t *testing.T) {
	f := newFakeFront(t, 20*time.Millisecond)
	conn, err := net.Dial("tcp", f.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("heard something from nobody")
	}
}

func TestHealth(t *testing.T) {
	var h health
	for i, step := range []struct {
		a           verdict
		changed, up bool
	}{
		{notReady, false, false}, {ready, true, true}, {notReady, false, true}, {ready, false, true}, {notReady, false, true},
		{notReady, true, false}, {notReady, false, false}, {ready, true, true}, {refused, true, false}, {refused, false, false}, {ready, true, true},
	} {
		if changed := h.note(step.a); changed != step.changed || h.up != step.up {
			t.Errorf("step %d: changed %v, up %v", i, changed, h.up)
		}
	}
}
