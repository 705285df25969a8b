// Package child runs a Bongsu server as a process of its own, so that drills
// can kill it and benchmarks can measure it from outside.
//
// A Server is one process at a time on one data folder and one loopback
// address; after it has ended it can be started again. Methods are not safe for
// concurrent use, except that the figures (CPU, Memory) may be read beside them.
//
// It does not know what a server does, only that /readyz says when it can.
package child

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Server is a child process. Bin, Data and Addr must be set.
type Server struct {
	// Bin is the bongsu binary.
	Bin string
	// Data is the folder of the server.
	Data string
	// Addr is its loopback address, HOST:PORT.
	Addr string
	// Args are given after those that follow from the fields above.
	Args []string
	// Verb is what the binary is told to do at --listen Addr; nil means to serve
	// Data without the echo friend.
	Verb []string
	// Output, if set, gets all that the processes print.
	Output io.Writer
	// TLS, if set, makes the base URL https and is what probes trust.
	TLS *tls.Config

	cmd    *exec.Cmd
	ended  chan struct{} // closed when the process is gone
	err    error         // what Wait said; set before ended is closed
	log    tail
	pid    atomic.Int64
	probes http.Client
}

// FreeAddr returns a loopback address on which nobody listens now.
func FreeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// BaseURL is where clients reach the server.
func (s *Server) BaseURL() string {
	if s.TLS != nil {
		return "https://" + s.Addr
	}
	return "http://" + s.Addr
}

// PlainEnvironment leaves settings of Bongsu out of an environment: they would
// change what is proved or measured.
func PlainEnvironment(environment []string) (out []string) {
	for _, e := range environment {
		if !strings.HasPrefix(e, "BONGSU_") {
			out = append(out, e)
		}
	}
	return out
}

// Start starts the process, without our settings in its environment, and
// returns at once.
func (s *Server) Start() error {
	verb := s.Verb
	if verb == nil {
		verb = []string{"serve", "--data", s.Data, "--no-echo"}
	}
	if s.TLS != nil && s.probes.Transport == nil {
		s.probes.Transport = &http.Transport{TLSClientConfig: s.TLS}
	}
	// Not CommandContext: it would kill where we want to ask first.
	cmd := exec.Command(s.Bin, slices.Concat(verb, []string{"--listen", s.Addr}, s.Args)...)
	var out io.Writer = &s.log
	if s.Output != nil {
		out = io.MultiWriter(&s.log, s.Output)
	}
	cmd.Stdout, cmd.Stderr, cmd.Env = out, out, PlainEnvironment(os.Environ())
	cmd.SysProcAttr = attributes()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.Bin, err)
	}
	ended := make(chan struct{})
	s.cmd, s.ended = cmd, ended
	s.pid.Store(int64(cmd.Process.Pid))
	go func() {
		s.err = cmd.Wait()
		close(ended)
	}()
	return nil
}

// Ready waits until /readyz answers 200. It fails when the process ends or ctx
// does.
func (s *Server) Ready(ctx context.Context) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	defer s.probes.CloseIdleConnections()
	for {
		if s.ready(ctx) {
			return nil
		}
		select {
		case <-s.ended:
			return fmt.Errorf("the server ended before it was ready: %w", s.Died())
		case <-ctx.Done():
			return fmt.Errorf("the server is not ready: %w\n%s", ctx.Err(), s.Log())
		case <-tick.C:
		}
	}
}

func (s *Server) ready(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.BaseURL()+"/readyz", nil)
	if err != nil {
		return false
	}
	response, err := s.probes.Do(r)
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10)) // only to reuse the connection
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// Kill ends the process with SIGKILL and waits for it. It is an error if the
// process had ended by itself, for then nothing was killed.
func (s *Server) Kill() error {
	select {
	case <-s.ended:
		return s.Died()
	default:
	}
	if err := s.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill the server: %w", err)
	}
	<-s.ended
	status, ok := s.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
		return s.Died()
	}
	return nil
}

// Stop asks the process to end and kills it if it has not within the time. One
// that had ended before is fine: whoever waited for it has said so.
func (s *Server) Stop(within time.Duration) error {
	if s.cmd == nil {
		return nil
	}
	select {
	case <-s.ended:
		return nil
	default:
	}
	t := time.NewTimer(within)
	defer t.Stop()
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // gone already is as good
	select {
	case <-s.ended:
		if s.err != nil {
			return fmt.Errorf("the server stopped badly: %w\n%s", s.err, s.Log())
		}
		return nil
	case <-t.C:
		_ = s.cmd.Process.Kill()
		<-s.ended
		return fmt.Errorf("the server did not stop within %s and was killed\n%s", within, s.Log())
	}
}

// Ended is closed when the process started last is gone.
func (s *Server) Ended() <-chan struct{} { return s.ended }

// Died says how the process ended by itself. Call it once Ended is closed.
func (s *Server) Died() error {
	err := s.err
	if err == nil {
		err = errors.New("exit status 0")
	}
	return fmt.Errorf("the server ended by itself: %w\n%s", err, s.Log())
}

// PID of the process started last.
func (s *Server) PID() int { return int(s.pid.Load()) }

// Log returns the last of what the processes printed.
func (s *Server) Log() string { return s.log.String() }

// Remove deletes a folder of the stopped server's data, such as "view".
func (s *Server) Remove(name string) error {
	return os.RemoveAll(s.Data + string(os.PathSeparator) + name)
}

// tail keeps the last of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const maxTail = 16 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(p)
	if extra := t.buf.Len() - maxTail; extra > 0 {
		t.buf.Next(extra)
	}
	return len(p), nil
}

// String returns what is kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}
