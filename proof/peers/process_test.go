package peers

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestProcessThatEndsByItselfIsTold(t *testing.T) {
	p, err := startProcess("short", t.TempDir(), "", exec.Command("sh", "-c", "echo out of luck; exit 3"))
	if err != nil {
		t.Fatal(err)
	}
	err = p.await(t.Context(), func(context.Context) error { return errors.New("not yet") })
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "out of luck") {
		t.Errorf("await: %v", err)
	}
	if err := p.stop(syscall.SIGTERM); err == nil || !strings.Contains(err.Error(), "out of luck") {
		t.Errorf("stop: %v", err)
	}
}

func TestProcessStopsWhenAsked(t *testing.T) {
	p, err := startProcess("long", t.TempDir(), "", exec.Command("sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	select {
	case <-p.exited:
	default:
		t.Error("it still runs")
	}
	var none *process
	if err := none.stop(syscall.SIGTERM); err != nil {
		t.Errorf("what was never started: %v", err)
	}
}

func TestEjabberdIsConfigured(t *testing.T) {
	read := func(e *Ejabberd) string {
		e.database = &postgres{port: 4321, password: "hush"}
		path := filepath.Join(t.TempDir(), "ejabberd.yml")
		if err := e.configure(path, 1234); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	lean, stock := read(&Ejabberd{}), read(&Ejabberd{Stock: true, SQLPool: 32})
	for _, both := range []string{"port: 1234", "sql_port: 4321", `sql_password: "hush"`, "default: always", "starttls: false", "default_db: sql"} {
		if !strings.Contains(lean, both) || !strings.Contains(stock, both) {
			t.Errorf("%q is missing", both)
		}
	}
	for _, s := range []string{"mod_carboncopy", "mod_stream_mgmt", "sql_pool_size: 32"} {
		if strings.Contains(lean, s) || !strings.Contains(stock, s) {
			t.Errorf("%q is where it should not be, or not where it should", s)
		}
	}
	if !strings.Contains(lean, "sql_pool_size: 10") {
		t.Error("the default of ejabberd's pool is missing")
	}
}
