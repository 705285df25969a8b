package load

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// playServer is this test binary playing the server's.
func playServer(kind string, args []string) {
	switch kind {
	case "relay":
		playRelay(args)
		return
	case "bench":
		playBench(args)
		return
	}
	if slices.Equal(args, []string{"version"}) {
		fmt.Println("played 1")
		return
	}
	want := []string{"serve", "--data", "", "--no-echo", "--listen", "", "--shards", "1"}
	if len(args) != len(want) || args[0] != "serve" || args[1] != "--data" || args[3] != "--no-echo" || args[4] != "--listen" || !slices.Equal(args[6:], want[6:]) {
		fmt.Println("bad arguments:", args)
		os.Exit(2)
	}
	for _, e := range os.Environ() {
		if strings.HasPrefix(e, "BONGSU_") {
			fmt.Println("a setting of the caller's:", e)
			os.Exit(2)
		}
	}
	if kind == "dies" {
		fmt.Println("no room on this disk")
		os.Exit(3)
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	refusals := 2 // not ready at once
	go func() {
		_ = http.ListenAndServe(args[5], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if refusals--; refusals >= 0 || r.URL.Path != "/readyz" {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		})) // ends with the process
	}()
	for range asked {
		if kind == "willing" {
			fmt.Println("bye")
			os.Exit(0)
		}
	}
}

func startPlayed(t *testing.T, kind string) (*server, error) {
	t.Helper()
	t.Setenv("LOAD_TEST_CHILD", kind)
	t.Setenv("BONGSU_SHARDS", "1")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r := &rig{cfg: Config{Bin: os.Args[0], Server: []string{"--shards", "1"}}, dir: t.TempDir()}
	err := r.startServer(ctx)
	http.DefaultClient.CloseIdleConnections() // of the probes, for goleak
	return r.server, err
}

func gone(pid int) bool { return syscall.Kill(pid, 0) != nil }

func TestServerIsStoppedByAsking(t *testing.T) {
	s, err := startPlayed(t, "willing")
	if err != nil {
		t.Fatal(err)
	}
	pid := s.child.PID()
	if gone(pid) {
		t.Fatal("it does not run")
	}
	if err := s.stop(); err != nil || !gone(pid) || !strings.Contains(s.child.Log(), "bye") {
		t.Errorf("%v; gone: %v; it said %q", err, gone(pid), s.child.Log())
	}
	if err := s.stop(); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestServerThatDoesNotStopIsKilled(t *testing.T) {
	s, err := startPlayed(t, "stubborn")
	if err != nil {
		t.Fatal(err)
	}
	s.patience = 50 * time.Millisecond
	if err := s.stop(); err == nil || !strings.Contains(err.Error(), "was killed") || !gone(s.child.PID()) {
		t.Errorf("%v; gone: %v", err, gone(s.child.PID()))
	}
}

func TestServerThatDiesSaysWhy(t *testing.T) {
	if _, err := startPlayed(t, "dies"); err == nil || !strings.Contains(err.Error(), "no room on this disk") {
		t.Errorf("%v", err)
	}
}

func TestVersionOf(t *testing.T) {
	t.Setenv("LOAD_TEST_CHILD", "willing")
	if v := versionOf(t.Context(), os.Args[0]); v != "played 1" {
		t.Errorf("%q", v)
	}
	if v := versionOf(t.Context(), "/no/such/binary"); v != "unknown" {
		t.Errorf("%q", v)
	}
}

// A measurement whose server dies ends with what the server said.
func TestGuard(t *testing.T) {
	s, err := startPlayed(t, "willing")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := (&rig{server: s}).guard(t.Context())
	defer cancel()
	if err := syscall.Kill(s.child.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
	if err := context.Cause(ctx); !strings.Contains(err.Error(), "ended by itself") {
		t.Errorf("cause %v", err)
	}
}

func playRelay(args []string) {
	if slices.Equal(args, []string{"version"}) {
		fmt.Println("played 1")
		return
	}
	if len(args) != 4 || !slices.Equal(args[:3], []string{"bench", "relay", "--listen"}) {
		fmt.Println("bad arguments:", args)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	l, err := net.Listen("tcp", args[3])
	if err == nil {
		err = Relay(ctx, l)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(2)
	}
}

// A copied data folder keeps the modes of its files: servers refuse keys that
// others may read.
func TestCopyFolderKeepsModes(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(filepath.Join(from, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"node.json": 0o644, "keys/auth-keys.json": 0o600} {
		if err := os.WriteFile(filepath.Join(from, name), []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := copyFolder(to, from); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"node.json": 0o644, "keys/auth-keys.json": 0o600} {
		info, err := os.Stat(filepath.Join(to, name))
		if err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v, want %v", name, info.Mode(), err, mode)
		}
	}
}
