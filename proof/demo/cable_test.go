package demo

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener and a dialler without a network, so that silence can be
// tested without waiting for it.
type pipes struct {
	accepted chan net.Conn
	closed   chan struct{}
}

func newPipes() *pipes {
	return &pipes{accepted: make(chan net.Conn, 8), closed: make(chan struct{})}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.accepted:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	close(p.closed)
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// dial returns one end and lets Accept return the other.
func (p *pipes) dial(context.Context) (net.Conn, error) {
	a, b := net.Pipe()
	p.accepted <- b
	return a, nil
}

// laid is a cable between two ends in memory.
func laid(t *testing.T) (c *Cable, near, far net.Conn) {
	in, out := newPipes(), newPipes()
	c = newCable(in, out.dial)
	near, _ = in.dial(t.Context())
	far, _ = out.Accept()
	return c, near, far
}

// heard is what a reader of a connection got.
type heard struct {
	text string
	err  error
}

func listen(c net.Conn) <-chan heard {
	out := make(chan heard, 1)
	go func() {
		buf := make([]byte, 64)
		n, err := c.Read(buf)
		out <- heard{string(buf[:n]), err}
	}()
	return out
}

func say(c net.Conn, text string) <-chan error {
	out := make(chan error, 1)
	go func() {
		_, err := c.Write([]byte(text))
		out <- err
	}()
	return out
}

func silent(t *testing.T, c <-chan heard) {
	t.Helper()
	synctest.Wait()
	select {
	case h := <-c:
		t.Errorf("through a cut cable came %q, %v", h.text, h.err)
	default:
	}
}

func TestCableHangsAndGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, near, far := laid(t)
		there, back := listen(far), listen(near)
		say(near, "hello")
		if h := <-there; h.text != "hello" {
			t.Fatalf("heard %q, %v", h.text, h.err)
		}
		c.Cut()
		c.Cut() // again changes nothing
		there = listen(far)
		say(near, "are you there?")
		say(far, "hello?")
		time.Sleep(time.Hour) // of the test's own time
		silent(t, there)
		silent(t, back)
		c.Join()
		c.Join()
		if h := <-there; h.text != "are you there?" {
			t.Errorf("after the cable was joined: %q, %v", h.text, h.err)
		}
		if h := <-back; h.text != "hello?" {
			t.Errorf("back, after the cable was joined: %q, %v", h.text, h.err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if h := <-listen(near); h.err == nil {
			t.Error("a cable that was taken away still carries")
		}
	})
}

// The end of a connection is news as well, which a dead cable does not bring.
func TestCutCableTellsNobodyOfTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, near, far := laid(t)
		there := listen(far)
		c.Cut()
		_ = near.Close()
		time.Sleep(time.Hour)
		silent(t, there)
		c.Join()
		if h := <-there; !errors.Is(h.err, io.EOF) && !errors.Is(h.err, io.ErrClosedPipe) {
			t.Errorf("after the cable was joined: %q, %v", h.text, h.err)
		}
		_ = c.Close()
	})
}

func TestNewConnectionsOverACutCable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := newPipes(), newPipes()
		c := newCable(in, out.dial)
		c.Cut()
		near, _ := in.dial(t.Context())
		answer := listen(near)
		time.Sleep(time.Hour)
		silent(t, answer)
		if len(out.accepted) != 0 {
			t.Error("the target was reached over a cut cable")
		}
		c.Join()
		far, _ := out.Accept()
		say(far, "welcome")
		if h := <-answer; h.text != "welcome" {
			t.Errorf("heard %q, %v", h.text, h.err)
		}
		_ = c.Close()
	})
}

func TestCableToNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newPipes()
		c := newCable(in, func(context.Context) (net.Conn, error) { return nil, errors.New("connection refused") })
		near, _ := in.dial(t.Context())
		if h := <-listen(near); h.err == nil {
			t.Errorf("heard %q from nobody", h.text)
		}
		_ = c.Close()
	})
}

// Over real sockets: the same, and a half-closed connection stays half open.
func TestCableOverTCP(t *testing.T) {
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	go func() {
		for {
			conn, err := target.Accept()
			if err != nil {
				return
			}
			go func() {
				all, _ := io.ReadAll(conn)
				_, _ = conn.Write(append([]byte("you said "), all...))
				_ = conn.Close()
			}()
		}
	}()
	c, err := NewCable(target.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn, err := net.Dial("tcp", c.Addr())
	if err != nil {
		t.Fatal(err)
	}
	c.Cut()
	_, _ = conn.Write([]byte("beacon"))
	_ = conn.(*net.TCPConn).CloseWrite()
	c.Join()
	if all, err := io.ReadAll(conn); err != nil || string(all) != "you said beacon" {
		t.Errorf("heard %q, %v", all, err)
	}
}
