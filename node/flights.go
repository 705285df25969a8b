package node

import (
	"context"
	"errors"
	"sync"
	"time"
)

// flights are the requests that other nodes have been asked and that are not
// answered. When a shard has another owner, those that were on their way to the
// old one are given up: it may be frozen, or cut off, and not say so for as long as
// they have time. Whoever asked tries the new owner (every request may be
// repeated).
type flights struct {
	mu sync.Mutex
	on map[*flight]struct{}
}

type flight struct {
	shard int
	at    uint64 // the node that was asked
	fail  func()
}

// errMoved: the outcome is unknown.
var errMoved = errors.New("the shard has another owner now, and the old one has not answered")

// moveEvery is how often it is looked who owns what.
const moveEvery = 50 * time.Millisecond

// begin keeps a request. fail is called once, from another goroutine, unless the
// request lands first.
func (f *flights) begin(shard int, at uint64, fail func()) *flight {
	out := &flight{shard: shard, at: at, fail: fail}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.on == nil {
		f.on = map[*flight]struct{}{}
	}
	f.on[out] = struct{}{}
	return out
}

// land ends a request; false if it was given up.
func (f *flights) land(one *flight) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.on[one]
	delete(f.on, one)
	return ok
}

// giveUp fails the requests whose shard is led by another node than was asked.
// Where nobody is known to lead, the one that was asked may still answer.
func (f *flights) giveUp(leader func(shard int) uint64) {
	var late []*flight
	leads := map[int]uint64{} // asked once a shard, however many are on their way
	f.mu.Lock()
	for one := range f.on {
		at, asked := leads[one.shard]
		if !asked {
			at = leader(one.shard)
			leads[one.shard] = at
		}
		if at != 0 && at != one.at {
			late = append(late, one)
			delete(f.on, one)
		}
	}
	f.mu.Unlock()
	for _, one := range late {
		one.fail()
	}
}

// WatchOwners gives up, until ctx ends, what was asked of nodes that own it no more.
func (p *Plane) WatchOwners(ctx context.Context) {
	tick := time.NewTicker(moveEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.router.flying.giveUp(p.router.leader)
		case <-ctx.Done():
			return
		}
	}
}
