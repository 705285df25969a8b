package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"testing"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
)

// broken is a node of a cluster with a folder that holds an identity and stores.
func broken(t *testing.T) (*Node, Layout) {
	t.Helper()
	l := Layout{t.TempDir()}
	n := &Node{cfg: Config{Data: l.Dir, FS: durable.Disk, Cluster: &ClusterConfig{Join: []string{"127.0.0.1:1"}}, Logger: slog.New(slog.DiscardHandler)}, mended: newMended(), serves: func(context.Context) error { return nil }}
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
			if err := n.mend(t.Context(), fencedBy(cause), &m); err != nil {
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
		if err := n.mend(t.Context(), fencedBy(syscall.EIO), &m); err != nil {
			t.Fatal(err)
		}
		if asides, err := l.asides(durable.Disk); err != nil || len(asides) != want {
			t.Errorf("after %d: set aside %v, %v", i+1, asides, err)
		}
	}
}

// What fails while the stores are being opened is mended as what fails later: a
// process that only ended would be started over the same damage for ever.
func TestDamageFoundAtTheStartIsMended(t *testing.T) {
	for cause, want := range map[error]int{&journal.CorruptError{Cause: errors.New("block 7: checksum mismatch")}: 1, syscall.EIO: 0} {
		n, l := broken(t)
		err := fmt.Errorf("open journal: %w", &journal.FencedError{Store: "journal", Cause: cause})
		if err := n.mend(t.Context(), err, &mending{}); err != nil {
			t.Fatalf("%v: %v", cause, err)
		}
		if asides, err := l.asides(durable.Disk); err != nil || len(asides) != want {
			t.Errorf("%v: set aside %v, %v, want %d", cause, asides, err, want)
		}
	}
}

// Where the others do not serve without it, a node keeps what it has: all disks may
// have failed at once.
func TestNobodyIsTheFirstToGiveUp(t *testing.T) {
	n, l := broken(t)
	n.serves = func(context.Context) error { return errors.New("nobody there") }
	m := mending{}
	for range 3 {
		if err := n.mend(t.Context(), fencedBy(syscall.EIO), &m); err != nil {
			t.Fatal(err)
		}
	}
	if asides, err := l.asides(durable.Disk); err != nil || len(asides) != 0 {
		t.Fatalf("set aside %v, %v", asides, err)
	}
	n.serves = nil // nobody listens at its door
	if err := n.othersServe(t.Context()); err == nil {
		t.Error("others serve that are not there")
	}
}

func TestServedWithout(t *testing.T) {
	node := func(id uint64, name string, shards ...*nodev1.ShardState) *nodev1.NodeState {
		return &nodev1.NodeState{Member: &nodev1.Member{Id: id, Name: name}, Up: true, Node: &nodev1.GetNodeResponse{Shards: shards}}
	}
	shard := func(n uint32, role string, active ...bool) *nodev1.ShardState {
		s := &nodev1.ShardState{Shard: n, Role: role}
		for i, a := range active {
			s.Members = append(s.Members, &nodev1.MemberState{Node: uint64(i + 1), Voter: true, Active: a})
		}
		return s
	}
	for name, c := range map[string]struct {
		nodes []*nodev1.NodeState
		well  bool
	}{
		"two of three":           {[]*nodev1.NodeState{node(1, "n1", shard(0, "leader", true, true, false)), node(2, "n2", shard(1, "leader", true, true, false))}, true},
		"only with it":           {[]*nodev1.NodeState{node(1, "n1", shard(0, "leader", true, false, true), shard(1, "leader", true, true, true))}, false},
		"led by it":              {[]*nodev1.NodeState{node(1, "n1", shard(0, "leader", true, true, true)), node(3, "n3", shard(1, "leader", true, true, true))}, false},
		"a shard without leader": {[]*nodev1.NodeState{node(1, "n1", shard(0, "leader", true, true, true), shard(1, "follower"))}, false},
		"nobody answers":         {nil, false},
	} {
		state := &nodev1.GetClusterResponse{Shards: 2, Nodes: append(c.nodes, &nodev1.NodeState{Member: &nodev1.Member{Id: 3, Name: "n3"}})}
		if err := servedWithout(state, "n3"); (err == nil) != c.well {
			t.Errorf("%s: %v", name, err)
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
		if err := n.mend(t.Context(), damage, &m); err != nil {
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
	if err := n.mend(t.Context(), damage, &m); err == nil {
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
