package demo

import (
	"slices"
	"strings"
	"testing"
)

// whole tells whether a cable carries now.
func whole(c *Cable) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.joined:
		return true
	default:
		return false
	}
}

// A cable is cut while either of its ends is cut off.
func TestCutsOverlap(t *testing.T) {
	f, err := NewFleet(FleetConfig{Bin: "/bin/false", Dir: t.TempDir(), Nodes: 3, Shards: 4, Say: func(string, ...any) {}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.closeCables(); err != nil {
			t.Error(err)
		}
	}()
	dead := func() (out []string) {
		for _, n := range f.nodes {
			for to, c := range n.reach {
				if !whole(c) {
					out = append(out, n.name+to)
				}
			}
		}
		slices.Sort(out)
		return out
	}
	for i, step := range []struct{ do, node, want string }{
		{Cut, "n1", "n1n2 n1n3 n2n1 n3n1"},
		{Cut, "n2", "n1n2 n1n3 n2n1 n2n3 n3n1 n3n2"},
		{Heal, "n1", "n1n2 n2n1 n2n3 n3n2"},
		{Heal, "n2", ""},
	} {
		if err := f.Do(step.do, step.node); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(dead(), " "); got != step.want {
			t.Errorf("step %d, %s %s: dead cables %q, want %q", i, step.do, step.node, got, step.want)
		}
	}
	if err := f.Do(Heal, "n3"); err != errNothingToDo {
		t.Errorf("healing one that is well: %v", err)
	}
	if err := f.Do("tickle", "n3"); err == nil {
		t.Error("anything may be done to a node")
	}
}

func TestFleetsKeepTheirAddresses(t *testing.T) {
	dir := t.TempDir()
	cfg := FleetConfig{Bin: "/bin/false", Dir: dir, Nodes: 3, Shards: 4, Say: func(string, ...any) {}}
	var before []string
	for range 2 {
		f, err := NewFleet(cfg)
		if err != nil {
			t.Fatal(err)
		}
		var now []string
		for _, n := range f.nodes {
			now = append(now, n.peerAddr, n.server.Addr)
		}
		if before != nil && !slices.Equal(before, now) {
			t.Errorf("first %q, then %q", before, now)
		}
		before = now
		if err := f.closeCables(); err != nil {
			t.Error(err)
		}
	}
	cfg.Nodes = 5
	if _, err := NewFleet(cfg); err == nil {
		t.Error("five nodes on the folder of three")
	}
	cfg.Nodes = 9
	if _, err := NewFleet(cfg); err == nil {
		t.Error("a fleet of nine")
	}
}
