package child

import (
	"os"
	"runtime"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	if d, err := parseStat("12 (a ) (name) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20"); err != nil || d != 2*time.Second {
		t.Errorf("CPU = %s, %v", d, err)
	}
	if n, err := parseRSS("Name:\tx\nVmRSS:\t    2048 kB\nThreads: 1\n"); err != nil || n != 2<<20 {
		t.Errorf("memory = %d, %v", n, err)
	}
	m, err := parseMachine("cpu  100 0 100 400 100 0 0 50 0 0\ncpu0 1\n")
	if err != nil || m != (Machine{Busy: 2 * time.Second, Idle: 5 * time.Second, Steal: 500 * time.Millisecond}) {
		t.Errorf("machine = %+v, %v", m, err)
	}
	for _, bad := range []string{"", "x", "12 (a) S", "cpu 1 2", "VmRSS: many kB"} {
		if _, err := parseStat(bad); err == nil {
			t.Errorf("CPU of %q", bad)
		}
		if _, err := parseRSS(bad); err == nil {
			t.Errorf("memory of %q", bad)
		}
		if _, err := parseMachine(bad); err == nil {
			t.Errorf("machine of %q", bad)
		}
	}
}

func TestOwnFigures(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	if n, err := Memory(os.Getpid()); err != nil || n < 1<<20 {
		t.Errorf("memory = %d, %v", n, err)
	}
	if _, err := CPU(os.Getpid()); err != nil {
		t.Error(err)
	}
	if m, err := ReadMachine(); err != nil || m.Busy == 0 {
		t.Errorf("machine = %+v, %v", m, err)
	}
}
