package raft

import (
	"context"
	"fmt"

	etcd "go.etcd.io/raft/v3"

	"github.com/bongsu-im/bongsu/journal"
)

// TransferLeadership gives a shard to another voter and waits until this node
// leads it no more. Appends are refused with journal.ErrNotOwner meanwhile, and
// Lease waits. If the other cannot take it within an election's time, this node
// keeps it and an error says so. to 0 means the voter that is farthest.
func (j *Journal) TransferLeadership(ctx context.Context, shard journal.ShardID, to NodeID) error {
	g := j.groups[shard]
	var err error
	var term uint64
	if e := g.do(ctx, func() { term, err = g.giveTo(to) }); e != nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("transfer shard %d to node %d: %w", shard, to, err)
	}
	for {
		g.log.mu.Lock()
		over, moving, changed := g.owner != term, g.moving, g.log.changed
		g.log.mu.Unlock()
		if over {
			return nil
		}
		if !moving {
			return fmt.Errorf("transfer shard %d to node %d: it did not take over in time", shard, to)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("transfer shard %d to node %d: %w", shard, to, ctx.Err())
		case <-g.stopped:
			return nil
		}
	}
}

// giveTo starts a transfer; the loop's.
func (g *group) giveTo(to NodeID) (term uint64, err error) {
	s := g.node.Status()
	g.log.mu.Lock()
	owner := g.owner
	g.log.mu.Unlock()
	if s.RaftState != etcd.StateLeader || owner == 0 {
		return 0, &NotLeaderError{Shard: g.shard, Leader: s.Lead}
	}
	if to == 0 {
		var best uint64
		for node, p := range s.Progress {
			if node != g.j.cfg.NodeID && !p.IsLearner && g.active(node) && (to == 0 || p.Match > best) {
				to, best = node, p.Match
			}
		}
	}
	if p, ok := s.Progress[to]; !ok || p.IsLearner || to == g.j.cfg.NodeID || !g.active(to) {
		return 0, fmt.Errorf("node %d cannot take over: %w", to, ErrNotMember)
	}
	g.transfer = to
	g.log.mu.Lock()
	g.moving = true
	g.log.mu.Unlock()
	g.node.TransferLeader(to)
	return owner, nil
}

// moved ends a transfer, whether it succeeded or was given up.
func (g *group) moved() {
	g.transfer = 0
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	g.moving = false
	g.log.wake()
}

// handOver gives away what this node leads, before it stops.
func (j *Journal) handOver() {
	if j.store.err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), electionTicks*j.cfg.TickInterval)
	defer cancel()
	done := make(chan struct{}, len(j.groups))
	n := 0
	for _, g := range j.groups {
		g.log.mu.Lock()
		owned := g.owner != 0 && len(votersOf(g.log.meta.conf)) > 1
		g.log.mu.Unlock()
		if !owned {
			continue
		}
		n++
		go func() {
			if err := j.TransferLeadership(ctx, g.shard, 0); err != nil {
				j.cfg.Logger.Info("a shard was not handed over before the stop", "shard", g.shard, "err", err)
			}
			done <- struct{}{}
		}()
	}
	for range n {
		<-done
	}
}
