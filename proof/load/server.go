package load

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// server is what is measured: a child process, or somebody else's.
type server struct {
	url string
	// patience with a child that is asked to stop; 0 means stopTimeout.
	patience time.Duration
	// The rest is of a child only.
	cmd    *exec.Cmd
	log    string
	exited chan struct{} // closed when it has been waited for
	err    error         // of its end; set before exited is closed
}

const (
	readyTimeout = 60 * time.Second
	stopTimeout  = 20 * time.Second
)

// startServer starts a child over the folder dir and waits until it is ready.
// (proof/child would not do: it passes on our environment and starts no relay.)
func startServer(ctx context.Context, bin, dir string) (*server, error) {
	return startChild(ctx, bin, dir, func(address string) []string {
		return []string{"serve", "--data", filepath.Join(dir, "data"), "--listen", address, "--echo=false"}
	})
}

// startRelay starts the ceiling's relay, which logs to the folder dir.
func startRelay(ctx context.Context, bin, dir string) (*server, error) {
	return startChild(ctx, bin, dir, func(address string) []string {
		return []string{"bench", "relay", "--listen", address}
	})
}

func startChild(ctx context.Context, bin, dir string, args func(address string) []string) (*server, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	s := &server{url: "http://" + address, log: filepath.Join(dir, "server.log"), exited: make(chan struct{})}
	log, err := os.Create(s.log)
	if err != nil {
		return nil, fmt.Errorf("start the server: %w", err)
	}
	defer log.Close() // the child has its own descriptor
	// Not CommandContext: it would kill where we want to ask first.
	s.cmd = exec.Command(bin, args(address)...)
	s.cmd.Stdout, s.cmd.Stderr, s.cmd.Env = log, log, plainEnvironment(os.Environ())
	// A Ctrl-C at the terminal is for us; we then stop the child ourselves.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the server: %w", err)
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.exited)
	}()
	if err := s.awaitReady(ctx); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// plainEnvironment leaves out settings of the server, which would change what
// is measured.
func plainEnvironment(environment []string) (out []string) {
	for _, e := range environment {
		if !strings.HasPrefix(e, "BONGSU_") {
			out = append(out, e)
		}
	}
	return out
}

// freeAddress finds a loopback port that is free now; someone else may take it
// before the server does, which then says so.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (s *server) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		if ready(ctx, s.url) {
			return nil
		}
		select {
		case <-s.exited:
			return s.died()
		case <-ctx.Done():
			return fmt.Errorf("wait for the server to be ready: %w\n%s", ctx.Err(), s.logTail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func ready(ctx context.Context, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	return response.StatusCode == http.StatusOK
}

func (s *server) died() error {
	return fmt.Errorf("the server ended by itself: %v\n%s", s.err, s.logTail())
}

// logTail returns the end of what the server said.
func (s *server) logTail() string {
	f, err := os.Open(s.log)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	const tail = 4096
	if info, err := f.Stat(); err == nil && info.Size() > tail {
		if _, err := f.Seek(-tail, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, tail))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// pid is 0 if the server is not ours.
func (s *server) pid() int {
	if s.cmd == nil {
		return 0
	}
	return s.cmd.Process.Pid
}

// stop asks the child to end and, if it does not, kills it. Only this process
// is touched, by its ID.
func (s *server) stop() error {
	if s.cmd == nil {
		return nil
	}
	select {
	case <-s.exited:
		return nil // whoever waited for it has said so
	default:
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the server: %w", err)
	}
	select {
	case <-s.exited:
		if s.err != nil {
			return fmt.Errorf("the server stopped badly: %w\n%s", s.err, s.logTail())
		}
		return nil
	case <-time.After(cmp.Or(s.patience, stopTimeout)):
	}
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill the server: %w", err)
	}
	<-s.exited
	return fmt.Errorf("the server did not stop when asked and was killed\n%s", s.logTail())
}
