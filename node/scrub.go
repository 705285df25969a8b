package node

import (
	"context"
	"errors"
	"time"

	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/view"
)

// firstScrub is how long after the start the first scrub begins: a start has
// better things to do.
const firstScrub = 10 * time.Minute

// scrub reads every block of both stores back now and then, so that damage is
// found while there is still a whole copy to repair from, and not on the day
// someone opens an old room. Damage fences the store, which says so, and a node of
// a cluster then mends it (repair.go).
func (c *Core) scrub(ctx context.Context) error {
	if c.config.ScrubEvery < 0 {
		return nil
	}
	timer := time.NewTimer(min(firstScrub, c.config.ScrubEvery))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		c.scrubOnce(ctx)
		timer.Reset(c.config.ScrubEvery)
	}
}

func (c *Core) scrubOnce(ctx context.Context) {
	began := time.Now()
	var entries, bytes uint64
	err := errors.Join(
		c.Journal.Scrub(ctx, func(done uint64) { entries = done }),
		c.View.Scrub(ctx, func(p view.Progress) { bytes = p.Done }),
	)
	took := time.Since(began).Round(time.Millisecond)
	switch {
	case ctx.Err() != nil, errors.Is(err, journal.ErrClosed), errors.Is(err, view.ErrClosed):
	case err != nil:
		c.config.Logger.Error("scrub found damage", "error", err, "took", took)
	default:
		c.config.Logger.Info("scrubbed: both stores are whole", "journal_entries", entries, "view_bytes", bytes, "took", took)
		c.compareReplicas(ctx)
	}
}

// compareReplicas is the part of a scrub that needs the other nodes.
func (c *Core) compareReplicas(ctx context.Context) {
	if c.cluster == nil {
		return
	}
	began := time.Now()
	compared, err := c.cluster.compareViews(ctx)
	took := time.Since(began).Round(time.Millisecond)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		c.config.Logger.Error("views of some shards could not be compared with their other replicas", "error", err, "took", took)
	case compared > 0:
		c.config.Logger.Info("compared the views of what this node leads with the other replicas", "shards", compared, "took", took)
	}
}
