package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"
)

// relay is the loop and its sockets.
type relay struct {
	epoll int
	wake  int // an event counter that ends the loop's wait

	mu      sync.Mutex // guards what follows; the loop holds it while it works
	closed  bool
	sockets map[int32]*relaySocket
	people  map[int]*relaySocket
	seq     uint64 // of messages, over all rooms
	dirty   []*relaySocket

	message, event, buffer []byte // scratch of the loop
}

// Relay serves the ceiling's relay on l until ctx ends, and closes l.
func Relay(ctx context.Context, l net.Listener) (err error) {
	r := &relay{sockets: map[int32]*relaySocket{}, people: map[int]*relaySocket{}, buffer: make([]byte, 256<<10)}
	if r.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return errors.Join(fmt.Errorf("relay: %w", err), l.Close())
	}
	defer unix.Close(r.epoll)
	if r.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return errors.Join(fmt.Errorf("relay: %w", err), l.Close())
	}
	defer unix.Close(r.wake)
	if err := r.watch(unix.EPOLL_CTL_ADD, r.wake, unix.EPOLLIN); err != nil {
		return errors.Join(err, l.Close())
	}
	var looping sync.WaitGroup
	var loopErr error
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/v1/socket", r.socket)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	looping.Go(func() {
		loopErr = r.loop()
		_ = server.Close() // its listener's end is what Serve returns
	})
	stop := context.AfterFunc(ctx, r.shut)
	defer stop()
	err = server.Serve(l)
	r.shut()
	looping.Wait()
	if ctx.Err() == nil {
		return fmt.Errorf("relay: %w", errors.Join(err, loopErr))
	}
	return nil
}

func (r *relay) shut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	_, _ = unix.Write(r.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // a counter that is full wakes as well
}

func (r *relay) watch(op, fd int, events uint32) error {
	if err := unix.EpollCtl(r.epoll, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("relay: watch a socket: %w", err)
	}
	return nil
}

// socket takes a connection over from net/http.
func (r *relay) socket(w http.ResponseWriter, q *http.Request) {
	upgrader := ws.HTTPUpgrader{Protocol: func(name string) bool { return name == "bongsu.v1" }}
	conn, buffered, _, err := upgrader.Upgrade(q, w)
	if err != nil {
		return // the client has been told
	}
	defer conn.Close() // the loop has a descriptor of its own
	tcp, ok := conn.(*net.TCPConn)
	if !ok || buffered.Reader.Buffered() > 0 { // our generator waits for the upgrade
		return
	}
	f, err := tcp.File()
	if err != nil {
		return
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || unix.SetNonblock(fd, true) != nil || r.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN) != nil {
		_ = unix.Close(fd)
		return
	}
	r.sockets[int32(fd)] = &relaySocket{fd: fd}
}

func (r *relay) loop() error {
	events := make([]unix.EpollEvent, 1024)
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.closed = true
		for _, s := range r.sockets {
			r.end(s)
		}
	}()
	for {
		n, err := unix.EpollWait(r.epoll, events, -1)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("wait: %w", err)
		}
		if !r.round(events[:max(n, 0)]) {
			return nil
		}
	}
}

// round takes what sockets have sent, and then writes. It returns false when
// the relay is shut.
func (r *relay) round(events []unix.EpollEvent) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	for _, e := range events {
		s := r.sockets[e.Fd]
		if s == nil {
			continue // ended in this round
		}
		if e.Events&unix.EPOLLOUT != 0 && !s.dirty {
			s.dirty = true
			r.dirty = append(r.dirty, s)
		}
		if e.Events&^uint32(unix.EPOLLOUT) != 0 {
			if err := r.take(s); err != nil {
				r.end(s) // a client that goes is no fault
			}
		}
	}
	for _, s := range r.dirty {
		s.dirty = false
		if s.fd < 0 {
			continue
		}
		if err := r.flush(s); err != nil {
			r.end(s)
		}
	}
	clear(r.dirty)
	r.dirty = r.dirty[:0]
	return true
}

func (r *relay) take(s *relaySocket) error {
	n, err := unix.Read(s.fd, r.buffer)
	switch {
	case errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR):
		return nil
	case err != nil:
		return err
	case n == 0:
		return io.EOF
	}
	s.in = append(s.in, r.buffer[:n]...)
	return r.frames(s)
}

// flush writes what it can. What is left waits until the socket takes more; too
// much of it holds everybody up.
func (r *relay) flush(s *relaySocket) error {
	for len(s.out) > 0 {
		n, err := unix.Write(s.fd, s.out)
		if n > 0 {
			s.out = s.out[:copy(s.out, s.out[n:])]
			continue
		}
		switch {
		case errors.Is(err, syscall.EINTR):
		case !errors.Is(err, syscall.EAGAIN):
			return err
		case len(s.out) < relayBacklog:
			return r.await(s, true)
		default:
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}, 1000); err != nil && !errors.Is(err, syscall.EINTR) {
				return err
			}
			if r.stuck(s) {
				return errors.New("a client does not read")
			}
		}
	}
	return r.await(s, false)
}

// stuck tells whether a socket takes nothing even after a wait.
func (r *relay) stuck(s *relaySocket) bool {
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}
	n, _ := unix.Poll(fds, 0) // an error is seen by the next write
	return n == 0
}

// await asks to be told when a socket takes more, or no longer.
func (r *relay) await(s *relaySocket, more bool) error {
	if s.waits == more {
		return nil
	}
	s.waits = more
	events := uint32(unix.EPOLLIN)
	if more {
		events |= unix.EPOLLOUT
	}
	return r.watch(unix.EPOLL_CTL_MOD, s.fd, events)
}

func (r *relay) end(s *relaySocket) {
	delete(r.sockets, int32(s.fd))
	if s.joined && r.people[s.number] == s {
		delete(r.people, s.number)
	}
	_ = unix.Close(s.fd) // it is gone either way
	s.fd = -1
}
