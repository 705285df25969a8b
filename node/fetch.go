package node

import (
	"context"
	"errors"

	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/raft"
)

// FetchView gives what a plane's Neighbours need to take a shard's view from the
// leader. A node that leads a shard without its view could decide nothing, and
// nobody could in its place: it gives the shard away, and takes the view as a
// follower when it is asked again.
func FetchView(j *raft.Journal) func(context.Context, journal.ShardID) error {
	return func(ctx context.Context, shard journal.ShardID) error {
		err := j.FetchView(ctx, shard)
		if errors.Is(err, raft.ErrLeads) {
			err = errors.Join(err, j.TransferLeadership(ctx, shard, 0))
		}
		return err
	}
}
