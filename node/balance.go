package node

import (
	"context"
	"slices"
	"time"

	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/raft"
	"github.com/bongsu-im/bongsu/node/placement"
)

const (
	balanceEvery = 2 * time.Second
	// settled is how long a node must have been up before it is given anything:
	// one that comes and goes shall not move leaderships each time.
	settled = 3 * balanceEvery
	// nearLeader is how far a member may be behind, in entries, to take over
	// without making anybody wait.
	nearLeader   = 64
	transferWait = 2 * time.Second
)

// keepBalance gives leaderships away while this node has more than its share.
func (c *cluster) keepBalance(ctx context.Context) {
	tick := time.NewTicker(balanceEvery)
	defer tick.Stop()
	since := map[uint64]time.Time{}
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if c.leaving.Load() || c.wasFull.Load() {
			continue
		}
		now := time.Now()
		nodes := []uint64{c.self}
		for _, m := range c.roster.Members() {
			id := m.GetId()
			if id == c.self {
				continue
			}
			if !c.up(id) || !c.linked(id) || m.GetLeaving() {
				delete(since, id)
				continue
			}
			if since[id].IsZero() {
				since[id] = now
			}
			if now.Sub(since[id]) >= settled {
				nodes = append(nodes, id)
			}
		}
		c.balance(ctx, nodes)
	}
}

func (c *cluster) balance(ctx context.Context, nodes []uint64) {
	shards := c.core.identity.Shards
	leader := make([]uint64, shards)
	takers := make([][]uint64, shards)
	for shard := range shards {
		leader[shard] = c.leader(shard)
		if leader[shard] != c.self {
			continue
		}
		st, err := c.journal.Status(ctx, journal.ShardID(shard))
		if err != nil || st.Changing {
			continue
		}
		takers[shard] = takersOf(st, c.self)
	}
	steps := placement.Leaders(leader, nodes, func(shard int, node uint64) bool { return slices.Contains(takers[shard], node) })
	for _, s := range steps {
		if s.From != c.self {
			continue
		}
		c.giveAway(ctx, s.Shard, s.To)
	}
}

// takersOf are the voters that could lead at once.
func takersOf(st raft.Status, self uint64) (out []uint64) {
	for _, m := range st.Members {
		if m.Node != self && m.Voter && m.Active && !m.Snapshot && m.Match+nearLeader >= st.Last {
			out = append(out, m.Node)
		}
	}
	return out
}

func (c *cluster) giveAway(ctx context.Context, shard int, to uint64) {
	ctx, cancel := context.WithTimeout(ctx, transferWait)
	defer cancel()
	err := c.journal.TransferLeadership(ctx, journal.ShardID(shard), to)
	if err != nil {
		c.log.Info("a shard was not given away", "shard", shard, "to", c.nameOf(to), "error", err)
		return
	}
	c.log.Info("gave a shard away", "shard", shard, "to", c.nameOf(to))
}

// leave gives everything away that this node leads, and says that it wants
// nothing back; before a planned stop, while it still serves.
func (c *cluster) leave(ctx context.Context) {
	c.leaving.Store(true)
	c.soon()
	c.giveAll(ctx)
}

// giveAll gives away what this node leads, to nodes that want it or, where there
// is none, to any that has room.
func (c *cluster) giveAll(ctx context.Context) {
	for shard := range c.core.identity.Shards {
		if c.leader(shard) != c.self {
			continue
		}
		st, err := c.journal.Status(ctx, journal.ShardID(shard))
		if err != nil {
			continue
		}
		takers := slices.DeleteFunc(takersOf(st, c.self), func(node uint64) bool { return c.roster.Get(node).GetFull() })
		if willing := slices.DeleteFunc(slices.Clone(takers), func(node uint64) bool { return c.roster.Get(node).GetLeaving() }); len(willing) > 0 {
			takers = willing
		}
		if len(takers) == 0 {
			continue
		}
		// Spread, so that no node gets all of it.
		c.giveAway(ctx, shard, takers[shard%len(takers)])
	}
}
