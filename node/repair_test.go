package node

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"testing"

	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
)

// broken is a node of a cluster with a folder that holds an identity and stores.
func broken(t *testing.T) (*Node, Layout) {
	t.Helper()
	l := Layout{t.TempDir()}
	n := &Node{cfg: Config{Data: l.Dir, FS: durable.Disk, Cluster: &ClusterConfig{Join: []string{"127.0.0.1:1"}}, Logger: slog.New(slog.DiscardHandler)}, mended: newMended()}
	refill(t, l)
	return n, l
}

func refill(t *testing.T, l Layout) {
	t.Helper()
	for _, dir := range []string{l.Journal(), l.View()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(l.identity(), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func fencedBy(cause error) error {
	return &brokenError{cause: &journal.FencedError{Store: "journal", Cause: fmt.Errorf("create marks: %w", &os.PathError{Op: "open", Path: "marks.0.new", Err: cause})}}
}

// A full disk, or no descriptor left, may meet all nodes at once and says
// nothing against what they have: they never begin anew for it, however often.
func TestFullDoesNotBeginAnew(t *testing.T) {
	for _, cause := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE} {
		n, l := broken(t)
		m := mending{}
		for range 5 {
			if err := n.mend(fencedBy(cause), &m); err != nil {
				t.Fatal(err)
			}
		}
		if asides, err := l.asides(durable.Disk); err != nil || len(asides) != 0 {
			t.Errorf("%v: set aside %v, %v", cause, asides, err)
		}
	}
}

// An error of the device that comes back does.
func TestFailingDiskBeginsAnew(t *testing.T) {
	n, l := broken(t)
	m := mending{}
	for i, want := range []int{0, 1} {
		if err := n.mend(fencedBy(syscall.EIO), &m); err != nil {
			t.Fatal(err)
		}
		if asides, err := l.asides(durable.Disk); err != nil || len(asides) != want {
			t.Errorf("after %d: set aside %v, %v", i+1, asides, err)
		}
	}
}

// What was set aside first may be all there is: it stays until the node is whole
// again, and a node that never is stops at a bound.
func TestWhatWasSetAsideStays(t *testing.T) {
	n, l := broken(t)
	damage := &brokenError{cause: errors.New("not whole"), anew: true}
	m := mending{}
	first := ""
	for i := range mostAside {
		if i > 0 {
			refill(t, l)
		}
		if err := n.mend(damage, &m); err != nil {
			t.Fatalf("the %d. time: %v", i+1, err)
		}
		asides, err := l.asides(durable.Disk)
		if err != nil || len(asides) != i+1 {
			t.Fatalf("after %d: %v, %v", i+1, asides, err)
		}
		if first == "" {
			first = asides[0]
		}
		if asides[0] != first {
			t.Fatalf("the first one, %s, is gone: %v", first, asides)
		}
	}
	refill(t, l)
	if err := n.mend(damage, &m); err == nil {
		t.Error("it goes on for ever")
	}
	if _, err := os.Stat(l.Journal()); err != nil {
		t.Errorf("the store was moved all the same: %v", err)
	}
	if err := l.tidyAside(durable.Disk); err != nil {
		t.Fatal(err)
	}
	if asides, err := l.asides(durable.Disk); err != nil || len(asides) != 1 || asides[0] == first {
		t.Errorf("whole again, and kept are %v, %v", asides, err)
	}
}
