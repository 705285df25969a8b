package child

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	own, gone, err := parseStat("12 (a ) (name) S 1 2 3 4 5 6 7 8 9 10 150 50 3 4 20")
	if err != nil || own != (Times{1500 * time.Millisecond, 500 * time.Millisecond}) || gone != (Times{30 * time.Millisecond, 40 * time.Millisecond}) || own.Total() != 2*time.Second {
		t.Errorf("CPU = %+v, %+v, %v", own, gone, err)
	}
	if n, err := parseKiB("Name:\tx\nVmRSS:\t    2048 kB\nThreads: 1\n", "VmRSS:"); err != nil || n != 2<<20 {
		t.Errorf("memory = %d, %v", n, err)
	}
	if n, err := parseSockstat("sockets: used 9\nTCP: inuse 3 orphan 0 tw 2 alloc 5 mem 17\nUDP: inuse 0 mem 1\n"); err != nil || n != 17 {
		t.Errorf("TCP pages = %d, %v", n, err)
	}
	m, err := parseMachine("cpu  100 0 100 400 100 0 0 50 0 0\ncpu0 1\n")
	if err != nil || m != (Machine{Busy: 2 * time.Second, Idle: 5 * time.Second, Steal: 500 * time.Millisecond}) {
		t.Errorf("machine = %+v, %v", m, err)
	}
	for _, bad := range []string{"", "x", "12 (a) S", "cpu 1 2", "VmRSS: many kB"} {
		if _, err := parseSockstat(bad); err == nil {
			t.Errorf("TCP pages of %q", bad)
		}
		if _, _, err := parseStat(bad); err == nil {
			t.Errorf("CPU of %q", bad)
		}
		if _, err := parseKiB(bad, "VmRSS:"); err == nil {
			t.Errorf("memory of %q", bad)
		}
		if _, err := parseMachine(bad); err == nil {
			t.Errorf("machine of %q", bad)
		}
	}
}

// The figures of a process hold those of what it has started.
func TestFamilyHoldsDescendants(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	before, err := ReadFamily(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// One that answers has its memory.
	if _, err := in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d/children", os.Getpid(), os.Getpid())); err != nil {
		t.Skip("this kernel lists no children")
	}
	with, err := ReadFamily(os.Getpid())
	if one, oneErr := readOne(os.Getpid()); err != nil || oneErr != nil || with.Peak <= one.Peak {
		t.Errorf("with a child %+v, alone %+v (before %+v), %v, %v", with, one, before, err, oneErr)
	}
	if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
		t.Error(err)
	}
	if _, err := ReadFamily(1 << 30); err == nil {
		t.Error("a process that is not has a family")
	}
}

func TestOwnFigures(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	if f, err := ReadFamily(os.Getpid()); err != nil || f.Memory < 1<<20 || f.Peak < f.Memory {
		t.Errorf("family = %+v, %v", f, err)
	}
	if k, err := ReadKernel(); err != nil || k.Slab < 1<<20 {
		t.Errorf("kernel = %+v, %v", k, err)
	}
	if _, err := CPU(os.Getpid()); err != nil {
		t.Error(err)
	}
	if m, err := ReadMachine(); err != nil || m.Busy == 0 {
		t.Errorf("machine = %+v, %v", m, err)
	}
}
