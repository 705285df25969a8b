package peers

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	// A program may be named like a stat line.
	line := "4711 (a) S (b) 1 2 (c)) S 17 4711 4711 0 -1 4194560 1 2 3 4 100 50 30 20 20 0 1 0 99"
	got, err := parseStat(line)
	if err != nil {
		t.Fatal(err)
	}
	if want := (stat{pid: 4711, parent: 17, own: 1500 * time.Millisecond, used: 2 * time.Second}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, bad := range []string{"", "1", "1 (a", "x (a) S 1", "1 (a) S 1 2 3", strings.Replace(line, "100", "x", 1), strings.Replace(line, "S 17", "S x", 1)} {
		if got, err := parseStat(bad); err == nil {
			t.Errorf("%q was taken for %+v", bad, got)
		}
	}
}

func TestTreeCPUCountsEachDescendantOnce(t *testing.T) {
	all := []stat{
		{pid: 1, parent: 0, used: 1 << 40},
		{pid: 10, parent: 1, used: 1},
		{pid: 12, parent: 11, used: 100},
		{pid: 11, parent: 10, used: 10},
		{pid: 20, parent: 1, used: 1000},
		{pid: 30, parent: 1, used: 1 << 30}, // somebody else
	}
	// 11 is a root and a descendant of another root.
	got, err := treeCPU(all, []int{10, 20, 11})
	if err != nil || got != 1111 {
		t.Errorf("got %d, %v", got, err)
	}
	if _, err := treeCPU(all, []int{10, 99}); err == nil {
		t.Error("a root that is gone was not noticed")
	}
}

// Of a real tree, in which the grandchild does the work.
func TestTreeCPUOfLivingProcesses(t *testing.T) {
	p, err := startProcess("busy", t.TempDir(), "", exec.Command("sh", "-c", "sh -c 'while :; do :; done' & wait"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(-p.pid(), syscall.SIGKILL); <-p.exited })
	for deadline := time.Now().Add(30 * time.Second); ; {
		all, err := readProcesses()
		if err != nil {
			t.Fatal(err)
		}
		used, err := treeCPU(all, []int{p.pid()})
		if err != nil {
			t.Fatal(err)
		}
		own := time.Duration(-1)
		for _, s := range all {
			if s.pid == p.pid() {
				own = s.own
			}
		}
		if used >= 200*time.Millisecond {
			if own >= used/2 {
				t.Fatalf("the shell used %v of %v itself: the tree was not what is tested", own, used)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after 30 s a busy tree has used %v", used)
		}
	}
}

func TestParseMachine(t *testing.T) {
	got, err := parseMachine("cpu  100 20 30 400 50 6 7 8 9 10\ncpu0 1 2 3\n")
	want := machine{busy: 1630 * time.Millisecond, idle: 4500 * time.Millisecond, steal: 80 * time.Millisecond}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "cpu 1 2 3", "cpu0 1 2 3 4 5 6 7 8 9", "cpu 1 2 3 4 5 6 7 x 9"} {
		if _, err := parseMachine(bad); err == nil {
			t.Errorf("%q was understood", bad)
		}
	}
}

func TestSharesOfTheMachine(t *testing.T) {
	before := usage{machine{10 * time.Second, 10 * time.Second, 0}, time.Second, 2 * time.Second}
	after := usage{machine{18 * time.Second, 11 * time.Second, time.Second}, 3 * time.Second, 7 * time.Second}
	got := after.since(before)
	if want := (shares{Server: 0.5, Generator: 0.2, Other: 0.1, Steal: 0.1, seconds: 5}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := before.since(before); got != (shares{}) {
		t.Errorf("of no time: %+v", got)
	}
}
