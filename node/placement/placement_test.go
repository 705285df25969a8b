package placement

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func nodes(zones string) (out []Node) {
	for i, z := range zones {
		out = append(out, Node{ID: uint64(i + 1), Zone: string(z)})
	}
	return out
}

// apply carries out a plan and checks that no step leaves a shard with less.
func apply(t interface{ Fatalf(string, ...any) }, current [][]uint64, steps []Step) [][]uint64 {
	var out [][]uint64
	for _, on := range current {
		out = append(out, slices.Clone(on))
	}
	for _, s := range steps {
		on := out[s.Shard]
		if slices.Contains(on, s.To) {
			t.Fatalf("step %+v adds what is there: %v", s, on)
		}
		if s.From == 0 {
			out[s.Shard] = append(on, s.To)
			continue
		}
		i := slices.Index(on, s.From)
		if i < 0 {
			t.Fatalf("step %+v takes away what is not there: %v", s, on)
		}
		on[i] = s.To
	}
	return out
}

func TestGrowing(t *testing.T) {
	shards := [][]uint64{{1}, {1}, {1}, {1}}
	for n, want := range []string{1: "", 2: "[[1 2] [1 2] [1 2] [1 2]]", 3: "[[1 2 3] [1 2 3] [1 2 3] [1 2 3]]"} {
		if n < 2 {
			continue
		}
		shards = apply(t, shards, Plan(nodes("abc")[:n], shards, Replicas))
		if got := fmt.Sprint(shards); got != want {
			t.Errorf("%d nodes: %s, want %s", n, got, want)
		}
	}
	steps := Plan(nodes("abca"), shards, Replicas)
	for _, s := range steps { // the fourth stands beside the first: it takes from it alone
		if s.To != 4 || s.From != 1 {
			t.Errorf("step %+v", s)
		}
	}
	if len(steps) != 2 {
		t.Errorf("%d steps for a fourth node, want 2: %v", len(steps), steps)
	}
}

func TestLeaving(t *testing.T) {
	shards := [][]uint64{{1, 2, 3}, {2, 3, 4}, {3, 4, 1}}
	after := apply(t, shards, Plan(nodes("abcd")[:3], shards, Replicas))
	for shard, on := range after {
		if slices.Contains(on, 4) || len(on) != 3 {
			t.Errorf("shard %d is on %v", shard, on)
		}
	}
	// Two nodes cannot hold three copies: the third stays where it is until it is removed.
	if steps := Plan(nodes("ab"), [][]uint64{{1, 2, 3}}, Replicas); len(steps) != 0 {
		t.Errorf("steps %v", steps)
	}
}

// TestPlanProperties: whatever the cluster, a plan ends with as many replicas in
// as many zones as there can be, evenly spread, and a second plan has nothing to do.
func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []Node
		for i := range rapid.IntRange(1, 9).Draw(t, "nodes") {
			all = append(all, Node{ID: uint64(i + 1), Zone: rapid.StringMatching("[abc]").Draw(t, "zone")})
		}
		var current [][]uint64
		for range rapid.IntRange(1, 16).Draw(t, "shards") {
			on := rapid.Permutation(idsOf(all)).Draw(t, "on")
			current = append(current, on[:rapid.IntRange(1, min(3, len(on))).Draw(t, "copies")])
		}
		after := apply(t, current, Plan(all, current, Replicas))
		zones := map[string]bool{}
		load := map[uint64]int{}
		for _, n := range all {
			zones[n.Zone] = true
		}
		for shard, on := range after {
			in := map[string]bool{}
			for _, id := range on {
				in[all[id-1].Zone] = true
				load[id]++
			}
			if want := min(Replicas, len(all)); len(on) != want {
				t.Fatalf("shard %d has %d copies, want %d", shard, len(on), want)
			}
			if want := min(Replicas, len(zones)); len(in) != want {
				t.Fatalf("shard %d is in %d zones, want %d: %v", shard, len(in), want, on)
			}
		}
		if again := Plan(all, after, Replicas); len(again) != 0 {
			t.Fatalf("a second plan: %v", again)
		}
		perZone := map[string][]int{}
		for _, n := range all {
			perZone[n.Zone] = append(perZone[n.Zone], load[n.ID])
		}
		for zone, loads := range perZone {
			if slices.Max(loads)-slices.Min(loads) > 1 {
				t.Fatalf("zone %s is uneven: %v", zone, loads)
			}
		}
	})
}

func idsOf(all []Node) (out []uint64) {
	for _, n := range all {
		out = append(out, n.ID)
	}
	return out
}

// TestLeaders: repeated, the steps even the leaderships and then stop.
func TestLeaders(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(t, "nodes")
		var ids []uint64
		for i := range n {
			ids = append(ids, uint64(i+1))
		}
		leader := rapid.SliceOfN(rapid.Uint64Range(0, uint64(n)), 1, 32).Draw(t, "leader")
		known := 0
		for _, l := range leader {
			if l != 0 {
				known++
			}
		}
		for round := 0; ; round++ {
			steps := Leaders(leader, ids, func(int, uint64) bool { return true })
			if len(steps) == 0 {
				break
			}
			if round > 64 {
				t.Fatalf("it does not end: %v", leader)
			}
			for _, s := range steps {
				if leader[s.Shard] != s.From || s.To == 0 || s.To == s.From {
					t.Fatalf("step %+v of %v", s, leader)
				}
				leader[s.Shard] = s.To
			}
		}
		leads := make([]int, n)
		for _, l := range leader {
			if l != 0 {
				leads[l-1]++
			}
		}
		if slices.Max(leads)-slices.Min(leads) > 1 {
			t.Fatalf("uneven: %v of %d", leads, known)
		}
	})
}

func TestLeadersStayWhereNobodyCanTakeThem(t *testing.T) {
	if s := Leaders([]uint64{1, 1, 1, 1}, []uint64{1, 2}, func(int, uint64) bool { return false }); len(s) != 0 {
		t.Errorf("steps %v", s)
	}
	if s := Leaders([]uint64{9, 9, 9}, []uint64{1, 2}, func(int, uint64) bool { return true }); len(s) != 0 {
		t.Errorf("a leader that is not listed gives nothing: %v", s)
	}
}
