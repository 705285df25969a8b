package postgres

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// pgServer is a real PostgreSQL of the tests' own, on loopback, run by the user
// postgres where the tests are run by root, whom it refuses.
type pgServer struct {
	t    testing.TB
	bin  string
	dir  string // PGDATA
	port int
	cred *syscall.Credential
	cmd  *exec.Cmd
	done chan struct{} // closed when the postmaster has ended
}

// binaries finds the newest PostgreSQL of the machine.
func binaries() (string, error) {
	all, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres") // the pattern is well-formed
	slices.Sort(all)
	if len(all) > 0 {
		return filepath.Dir(all[len(all)-1]), nil
	}
	path, err := exec.LookPath("postgres")
	return filepath.Dir(path), err
}

// requirePostgres skips a test, loudly, where there is no PostgreSQL.
func requirePostgres(t testing.TB) string {
	t.Helper()
	bin, err := binaries()
	if err != nil {
		fmt.Fprintf(os.Stderr, "\n*** %s SKIPPED: no PostgreSQL on this machine (Debian: apt install postgresql). The second journal is NOT tested. ***\n\n", t.Name())
		t.Skip("no PostgreSQL server is installed")
	}
	return bin
}

// newServer makes a cluster of databases and starts it; settings are those of
// postgresql.conf. fsync is on unless a setting says otherwise.
func newServer(t testing.TB, settings ...string) *pgServer {
	t.Helper()
	s := bareServer(t)
	s.run("initdb", "-D", s.dir, "-U", "bongsu", "-A", "trust", "-N", "--no-locale", "-E", "UTF8")
	s.configure(settings...)
	s.start()
	return s
}

func bareServer(t testing.TB) *pgServer {
	t.Helper()
	s := &pgServer{t: t, bin: requirePostgres(t), port: freePort(t)}
	root, err := os.MkdirTemp("", "bongsu-postgres-")
	if err != nil {
		t.Fatal(err)
	}
	s.dir = filepath.Join(root, "data")
	if os.Getuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Fatalf("PostgreSQL refuses root, and there is no user postgres: %v", err)
		}
		uid, _ := strconv.Atoi(u.Uid) // numbers on every Unix
		gid, _ := strconv.Atoi(u.Gid)
		s.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(root, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		s.end()
		_ = os.RemoveAll(root) // a leftover in the temporary folder harms nobody
	})
	return s
}

func freePort(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

func (s *pgServer) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = filepath.Dir(s.dir)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.cred, Setpgid: true}
	return cmd
}

func (s *pgServer) run(name string, args ...string) {
	s.t.Helper()
	if out, err := s.command(name, args...).CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// configure adds lines to postgresql.conf; later ones win.
func (s *pgServer) configure(settings ...string) {
	s.t.Helper()
	f, err := os.OpenFile(filepath.Join(s.dir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	base := []string{
		"listen_addresses = '127.0.0.1'", fmt.Sprintf("port = %d", s.port), "unix_socket_directories = ''",
		"max_connections = 60", "shared_buffers = 32MB", "autovacuum_naptime = 5s",
	}
	_, err = f.WriteString("\n" + strings.Join(append(base, settings...), "\n") + "\n")
	if err := f.Close(); err != nil {
		s.t.Fatal(err)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// start starts the postmaster and waits until it answers. After a kill the old
// backends must notice first, so it tries again.
func (s *pgServer) start() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	log, err := os.OpenFile(filepath.Join(filepath.Dir(s.dir), "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	for ctx.Err() == nil {
		cmd := s.command("postgres", "-D", s.dir)
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			s.t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { _ = cmd.Wait(); close(done) }() // how it ended is in the log
		s.cmd, s.done = cmd, done
		if s.answers(ctx, done) {
			return
		}
		<-time.After(100 * time.Millisecond)
	}
	text, _ := os.ReadFile(log.Name())
	s.t.Fatalf("PostgreSQL does not start:\n%s", text)
}

func (s *pgServer) answers(ctx context.Context, done chan struct{}) bool {
	for ctx.Err() == nil {
		conn, err := pgx.Connect(ctx, s.url("postgres")+"?connect_timeout=2")
		if err == nil {
			return conn.Close(ctx) == nil
		}
		select {
		case <-done:
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
	return false
}

// kill ends the postmaster as kill -9 does; its backends notice and follow.
func (s *pgServer) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(syscall.SIGKILL) // it may have ended
		<-s.done
		s.cmd = nil
	}
}

// end ends every process of the server, those that a test has frozen included.
func (s *pgServer) end() {
	if s.cmd != nil {
		children := s.children()
		s.kill()
		for _, pid := range children {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have followed the postmaster
		}
	}
}

// stop ends the server in order, but without waiting for its clients.
func (s *pgServer) stop() {
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(syscall.SIGINT) // it may have ended
		<-s.done
		s.cmd = nil
	}
}

// signalAll signals the postmaster and all its processes, as to freeze them.
func (s *pgServer) signalAll(sig syscall.Signal) {
	for _, pid := range append(s.children(), s.cmd.Process.Pid) {
		_ = syscall.Kill(pid, sig) // it may have ended
	}
}

// children are the server's processes but for the postmaster.
func (s *pgServer) children() (pids []int) {
	s.t.Helper()
	out, err := exec.Command("pgrep", "-P", strconv.Itoa(s.cmd.Process.Pid)).Output()
	if err != nil && len(out) > 0 { // none found is an error too
		s.t.Fatalf("pgrep: %v", err)
	}
	for _, f := range strings.Fields(string(out)) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			s.t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

func (s *pgServer) url(database string) string {
	return fmt.Sprintf("postgres://bongsu@127.0.0.1:%d/%s", s.port, database)
}

// exec runs statements, each by itself.
func (s *pgServer) exec(database string, statements ...string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url(database))
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			s.t.Fatalf("%s: %v", sql, err)
		}
	}
}

func (s *pgServer) ask(database, sql string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url(database))
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	var v string
	if err := conn.QueryRow(ctx, sql).Scan(&v); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// setting changes a setting of the whole server and waits until it is in force.
func (s *pgServer) setting(name, value string) {
	s.t.Helper()
	s.exec("postgres", fmt.Sprintf("ALTER SYSTEM SET %s = '%s'", name, value), "SELECT pg_reload_conf()")
	for deadline := time.Now().Add(10 * time.Second); s.ask("postgres", "SHOW "+name) != value; {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s does not become %s", name, value)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// standby makes a standby of s, called name, and starts it.
func (s *pgServer) standby(name string, settings ...string) *pgServer {
	s.t.Helper()
	b := bareServer(s.t)
	b.run("pg_basebackup", "-D", b.dir, "-R", "-X", "stream", "-c", "fast",
		"-d", fmt.Sprintf("host=127.0.0.1 port=%d user=bongsu application_name=%s", s.port, name))
	b.configure(settings...)
	b.start()
	return b
}

func (s *pgServer) promote() {
	s.t.Helper()
	s.exec("postgres", "SELECT pg_promote(true, 60)")
}

// shared is the one server of the tests that do not harm theirs. It fsyncs as
// all do: the journal would refuse one that does not.
var shared struct {
	sync.Mutex
	server *pgServer
	number atomic.Int64
}

// sharedServer outlives the test that asks first.
type packageTB struct {
	testing.TB
	cleanups []func()
}

func (p *packageTB) Cleanup(f func()) { p.cleanups = append(p.cleanups, f) }

var sharedTB packageTB

func sharedServer(t testing.TB) *pgServer {
	t.Helper()
	requirePostgres(t)
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		sharedTB.TB = t
		shared.server = newServer(&sharedTB)
	}
	shared.server.t = t
	return shared.server
}

// newSchema names a schema that nobody has used.
func newSchema() string { return fmt.Sprintf("test_%d", shared.number.Add(1)) }

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(childMain())
	}
	code := m.Run()
	for _, f := range sharedTB.cleanups {
		f()
	}
	os.Exit(code)
}
