package gateway

import (
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// Who connects and says nothing takes places, up to the bound; the next one is
// closed at once, and a place that is free again is given again.
func TestConnectionsAreBounded(t *testing.T) {
	w := newWorld(t, nil)
	server := NewServer(w.g.Handler(), nil)
	bound := Bound(server, 3)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(server.Close(), <-ended); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	silent := []net.Conn{dial(), dial(), dial()}
	eventually(t, "three connections are counted", func() bool { return bound.Open() == 3 })
	fourth := dial()
	if err := fourth.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := fourth.Read(make([]byte, 1)); err == nil || errors.Is(err, errTimeout(err)) {
		t.Errorf("the fourth connection was kept: %v", err)
	}
	if n := bound.TurnedAway(); n != 1 {
		t.Errorf("%d turned away", n)
	}
	_ = silent[0].Close()
	eventually(t, "a place is free", func() bool { return bound.Open() == 2 })
	answer, err := http.Get("http://" + l.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer answer.Body.Close()
	if text, err := io.ReadAll(answer.Body); err != nil || string(text) != "ok\n" {
		t.Errorf("%q, %v", text, err)
	}
}

// errTimeout is err if it is a timeout, else an error that is nothing.
func errTimeout(err error) error {
	var n net.Error
	if errors.As(err, &n) && n.Timeout() {
		return err
	}
	return errors.New("no timeout")
}

// A session is not a connection any more: it has a bound of its own.
func TestSessionsAreNoConnections(t *testing.T) {
	bound := &Connections{most: 1}
	for range 5 {
		ours, theirs := net.Pipe()
		bound.change(ours, http.StateNew)
		bound.change(ours, http.StateActive)
		bound.change(ours, http.StateHijacked)
		_ = theirs.Close()
		_ = ours.Close()
	}
	if bound.Open() != 0 || bound.TurnedAway() != 0 {
		t.Errorf("%d open, %d turned away", bound.Open(), bound.TurnedAway())
	}
}
