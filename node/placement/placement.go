// Package placement says which node should hold which shard.
//
// Vocabulary: a replica is a shard on a node; a step moves or adds one. Replicas
// of a shard stand in different zones as far as there are zones, nodes have
// about equally many, and as little moves as possible. A plan is the steps from
// what is to what should be, one replica at a time, so that a shard never has
// fewer replicas than before.
//
// Everything here is pure. What it does not do: move anything, or know who is up.
package placement

import (
	"cmp"
	"slices"
)

// Replicas is how many nodes hold each shard, if there are as many.
const Replicas = 3

// Node is where shards can be.
type Node struct {
	ID   uint64
	Zone string
}

// Step gives a shard a replica on To, in the place of From if that is not 0.
type Step struct {
	Shard    int
	To, From uint64
}

// Plan returns the steps that bring shards to where they should be. current has
// the replicas of each shard; those on nodes that are not listed stay, unless a
// node of the list can take their place: they are on their way out.
func Plan(nodes []Node, current [][]uint64, replicas int) []Step {
	p := newPlanner(nodes, current, replicas)
	p.fill()
	p.balance()
	return p.steps
}

type planner struct {
	nodes    []Node
	zone     map[uint64]string
	shards   [][]uint64
	replicas int
	load     map[uint64]int
	steps    []Step
}

func newPlanner(nodes []Node, current [][]uint64, replicas int) *planner {
	p := &planner{nodes: slices.Clone(nodes), zone: map[uint64]string{}, replicas: min(replicas, len(nodes)), load: map[uint64]int{}}
	slices.SortFunc(p.nodes, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	for _, n := range p.nodes {
		p.zone[n.ID] = n.Zone
		p.load[n.ID] = 0
	}
	for _, on := range current {
		p.shards = append(p.shards, slices.Clone(on))
		for _, id := range on {
			if _, listed := p.zone[id]; listed {
				p.load[id]++
			}
		}
	}
	return p
}

// fill replaces replicas on nodes that are going, then adds what is missing.
func (p *planner) fill() {
	for shard := range p.shards {
		for _, id := range slices.Clone(p.shards[shard]) {
			if _, listed := p.zone[id]; !listed {
				if to, ok := p.best(shard, id); ok {
					p.step(shard, to, id)
				}
			}
		}
		for len(p.shards[shard]) < p.replicas {
			to, ok := p.best(shard, 0)
			if !ok {
				break
			}
			p.step(shard, to, 0)
		}
	}
}

// best is the node where a further replica of a shard does most good: in a zone
// that has none, then where there are fewest. without does not count.
func (p *planner) best(shard int, without uint64) (uint64, bool) {
	best, found := Node{}, false
	key := func(n Node) (int, int) { return p.crowd(shard, n.Zone, without), p.load[n.ID] }
	for _, n := range p.nodes {
		if slices.Contains(p.shards[shard], n.ID) {
			continue
		}
		crowd, load := key(n)
		bestCrowd, bestLoad := key(best)
		if !found || crowd < bestCrowd || crowd == bestCrowd && load < bestLoad {
			best, found = n, true
		}
	}
	return best.ID, found
}

// crowd is how many replicas of a shard a zone has, one of them left out.
func (p *planner) crowd(shard int, zone string, without uint64) (n int) {
	for _, id := range p.shards[shard] {
		if z, listed := p.zone[id]; listed && id != without && z == zone {
			n++
		}
	}
	return n
}

func (p *planner) step(shard int, to, from uint64) {
	p.steps = append(p.steps, Step{Shard: shard, To: to, From: from})
	on := p.shards[shard]
	if i := slices.Index(on, from); from != 0 && i >= 0 {
		on[i] = to
		if _, listed := p.zone[from]; listed {
			p.load[from]--
		}
	} else {
		p.shards[shard] = append(on, to)
	}
	p.load[to]++
}

// balance moves replicas, each step making things better: first shards out of
// crowded zones, then from the fullest node to the emptiest, while that does not
// crowd a zone more.
func (p *planner) balance() {
	for shard := range p.shards {
		for _, id := range slices.Clone(p.shards[shard]) {
			to, ok := p.best(shard, id)
			if ok && p.crowd(shard, p.zone[to], id) < p.crowd(shard, p.zone[id], id) {
				p.step(shard, to, id)
			}
		}
	}
	for p.even() {
	}
}

// even makes one step that evens the nodes' loads; false if there is none.
func (p *planner) even() bool {
	byLoad := slices.Clone(p.nodes)
	slices.SortStableFunc(byLoad, func(a, b Node) int { return cmp.Compare(p.load[a.ID], p.load[b.ID]) })
	for _, to := range byLoad {
		for _, from := range slices.Backward(byLoad) {
			if p.load[from.ID]-p.load[to.ID] < 2 {
				break
			}
			for shard, on := range p.shards {
				if slices.Contains(on, from.ID) && !slices.Contains(on, to.ID) &&
					p.crowd(shard, to.Zone, from.ID) <= p.crowd(shard, from.Zone, from.ID) {
					p.step(shard, to.ID, from.ID)
					return true
				}
			}
		}
	}
	return false
}

// Leaders returns which leaderships should be given away, and to whom, so that
// every node leads about equally many shards: at most one from each node, so
// that a second look corrects the first. leader has the leader of each shard, 0
// if unknown; can tells whether a node can lead a shard now.
func Leaders(leader []uint64, nodes []uint64, can func(shard int, node uint64) bool) []Step {
	leads := map[uint64]int{}
	for _, n := range nodes {
		leads[n] = 0
	}
	for _, n := range leader {
		if _, ok := leads[n]; ok {
			leads[n]++
		}
	}
	var steps []Step
	given := map[uint64]bool{}
	for shard, from := range leader {
		if from == 0 || given[from] {
			continue
		}
		var to uint64
		for _, n := range slices.Sorted(slices.Values(nodes)) {
			if n != from && can(shard, n) && leads[from]-leads[n] >= 2 && (to == 0 || leads[n] < leads[to]) {
				to = n
			}
		}
		if to != 0 {
			steps = append(steps, Step{Shard: shard, To: to, From: from})
			given[from] = true
			leads[from]--
			leads[to]++
		}
	}
	return steps
}
