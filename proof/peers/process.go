package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// stopTimeout is how long a process may take to end after it was asked.
const stopTimeout = 20 * time.Second

// process is a child of ours that serves.
type process struct {
	name   string
	cmd    *exec.Cmd
	log    string
	exited chan struct{} // closed when it has been waited for
	err    error         // of its end; set before exited is closed
}

// startProcess starts cmd with its output in dir. as names the user to run it
// as if we are root; empty means ourselves. It is killed when we die.
func startProcess(name, dir, as string, cmd *exec.Cmd) (*process, error) {
	p := &process{name: name, cmd: cmd, log: filepath.Join(dir, name+".log"), exited: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer log.Close() // the child has its own descriptor
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.Dir == "" {
		cmd.Dir = dir
	}
	// A Ctrl-C at the terminal is for us; we then stop the child ourselves.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if cmd.SysProcAttr.Credential, err = credential(as); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// credential of a user for a child of root; nil if we are not root, for then
// everything runs as ourselves.
func credential(as string) (*syscall.Credential, error) {
	if as == "" || os.Geteuid() != 0 {
		return nil, nil
	}
	uid, gid, err := ids(as)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func ids(name string) (uid, gid int, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, fmt.Errorf("look up the user %s: %w", name, err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	return uid, gid, errors.Join(err1, err2)
}

// makeFolder makes dir/name for a user, as startProcess understands it.
func makeFolder(dir, name, as string) (string, error) {
	path := filepath.Join(dir, name)
	if err := os.Mkdir(path, 0o700); err != nil {
		return "", fmt.Errorf("make a folder: %w", err)
	}
	if as == "" || os.Geteuid() != 0 {
		return path, nil
	}
	uid, gid, err := ids(as)
	if err != nil {
		return "", err
	}
	if err := os.Chown(path, uid, gid); err != nil {
		return "", fmt.Errorf("give a folder to %s: %w", as, err)
	}
	return path, nil
}

// pid of the process.
func (p *process) pid() int { return p.cmd.Process.Pid }

// await tries until try succeeds, the process ends or ctx does.
func (p *process) await(ctx context.Context, try func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended by itself: %v\n%s", p.name, p.err, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w\n%s", p.name, errors.Join(err, ctx.Err()), p.tail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// listens succeeds when somebody accepts connections at address.
func listens(address string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// stop asks the process to end by a signal and, if it does not, kills it. Only
// this process is touched, by its ID. A nil process is stopped already.
func (p *process) stop(ask syscall.Signal) error {
	if p == nil {
		return nil
	}
	select {
	case <-p.exited:
		return fmt.Errorf("%s had ended by itself: %v\n%s", p.name, p.err, p.tail())
	default:
	}
	if err := p.cmd.Process.Signal(ask); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	select {
	case <-p.exited:
		return nil // servers differ in what they exit with when asked
	case <-time.After(stopTimeout):
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	<-p.exited
	return fmt.Errorf("%s did not stop when asked and was killed\n%s", p.name, p.tail())
}

// tail returns the end of what the process said.
func (p *process) tail() string { return fileTail(p.log) }

func fileTail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	const most = 4096
	if info, err := f.Stat(); err == nil && info.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// freePort finds a loopback port that is free now; someone else may take it
// before the server does, which then says so.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
