package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/raft"
)

// The running hash proves that replicas have applied the same records; that they
// made the same of them is compared here, after each scrub, by the leader of each
// shard: all replicas hash what their views hold at one position. One that differs
// from the majority makes its view again.

const (
	// digestWait bounds one look at all replicas: a busy shard comes to a position
	// ahead within a moment, one that is quiet stands there already, and then the
	// view is read at shard.Config.DigestRate.
	digestWait = 10 * time.Minute
	// digestTries is how often a shard that does not stand still is tried, each
	// time further ahead.
	digestTries = 4
	digestAhead = 64 // entries, four times as many with each try
)

// viewDigest is what one replica says.
type viewDigest struct {
	node uint64
	at   journal.Position
	sum  [32]byte
	err  error
}

// compareViews compares the replicas of every shard that this node leads. What
// could not be compared is told of and left for the next time.
func (c *cluster) compareViews(ctx context.Context) (compared int, err error) {
	var errs []error
	for shard := range c.core.identity.Shards {
		st, err := c.journal.Status(ctx, journal.ShardID(shard))
		if err != nil || st.Role != raft.RoleLeader {
			continue
		}
		if err := c.compareView(ctx, shard, st); err != nil {
			errs = append(errs, fmt.Errorf("shard %d: %w", shard, err))
			continue
		}
		compared++
	}
	return compared, errors.Join(errs...)
}

func (c *cluster) compareView(ctx context.Context, shard int, st raft.Status) error {
	var err error
	for try, ahead := 0, uint64(0); try < digestTries; try, ahead = try+1, max(4*ahead, digestAhead) {
		digests := c.digests(ctx, shard, st.Members, c.core.View.Shard(shard).Mark().GetIndex()+ahead)
		if err = errors.Join(errorsOf(digests)...); err != nil {
			continue // most of all: one was past the position already
		}
		return c.judgeDigests(ctx, shard, digests)
	}
	return fmt.Errorf("the replicas could not be compared: %w", err)
}

func errorsOf(digests []viewDigest) (errs []error) {
	for _, d := range digests {
		errs = append(errs, d.err)
	}
	return errs
}

// digests asks all members at once.
func (c *cluster) digests(ctx context.Context, shard int, members []raft.Member, at uint64) []viewDigest {
	ctx, cancel := context.WithTimeout(ctx, digestWait)
	defer cancel()
	out := make([]viewDigest, len(members))
	var asking sync.WaitGroup
	for i, m := range members {
		asking.Go(func() {
			d := &out[i]
			d.node = m.Node
			if m.Node == c.self {
				d.at, d.sum, d.err = c.core.Shards.DigestAt(ctx, journal.ShardID(shard), journal.Index(at))
			} else {
				var reply *connect.Response[nodev1.DigestViewResponse]
				if reply, d.err = c.serviceOf(m.Node).DigestView(ctx, connect.NewRequest(&nodev1.DigestViewRequest{Shard: uint32(shard), At: at})); d.err == nil {
					d.at = journal.Position{Term: journal.Term(reply.Msg.GetTerm()), Index: journal.Index(reply.Msg.GetIndex())}
					copy(d.sum[:], reply.Msg.GetSum())
				}
			}
			if d.err != nil {
				cancel() // the others would wait for nothing
			}
		})
	}
	asking.Wait()
	return out
}

// odd returns those that differ from what more than half of all hold; all of them
// if there is no such thing.
func odd(digests []viewDigest) (out []viewDigest) {
	type content struct {
		at  journal.Position
		sum [32]byte
	}
	count := map[content]int{}
	for _, d := range digests {
		count[content{d.at, d.sum}]++
	}
	for _, d := range digests {
		if 2*count[content{d.at, d.sum}] <= len(digests) {
			out = append(out, d)
		}
	}
	return out
}

func (c *cluster) judgeDigests(ctx context.Context, shard int, digests []viewDigest) error {
	wrong := odd(digests)
	if len(wrong) == len(digests) && len(digests) > 1 {
		return fmt.Errorf("no majority of the replicas hold the same at one position: %s", c.digestWords(digests))
	}
	var errs []error
	for _, d := range wrong {
		why := fmt.Sprintf("its view of shard %d differs from that of the majority: %s", shard, c.digestWords(digests))
		c.log.Error("a replica's view differs from the others'; it is made again", "shard", shard, "node", c.nameOf(d.node), "views", c.digestWords(digests))
		if d.node == c.self {
			c.core.distrust(why)
			continue
		}
		_, err := c.serviceOf(d.node).RenewView(ctx, connect.NewRequest(&nodev1.RenewViewRequest{Shard: uint32(shard), Why: why}))
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (c *cluster) digestWords(digests []viewDigest) (words string) {
	for i, d := range digests {
		if i > 0 {
			words += ", "
		}
		words += fmt.Sprintf("%s %x at %d/%d", c.nameOf(d.node), d.sum[:4], d.at.Term, d.at.Index)
	}
	return words
}

// DigestView implements nodev1connect.ClusterServiceHandler.
func (s *clusterService) DigestView(ctx context.Context, r *connect.Request[nodev1.DigestViewRequest]) (*connect.Response[nodev1.DigestViewResponse], error) {
	at, sum, err := s.c.core.Shards.DigestAt(ctx, journal.ShardID(r.Msg.GetShard()), journal.Index(r.Msg.GetAt()))
	if err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, err)
	}
	return connect.NewResponse(&nodev1.DigestViewResponse{Term: uint64(at.Term), Index: uint64(at.Index), Sum: sum[:]}), nil
}

// RenewView implements nodev1connect.ClusterServiceHandler.
func (s *clusterService) RenewView(_ context.Context, r *connect.Request[nodev1.RenewViewRequest]) (*connect.Response[nodev1.RenewViewResponse], error) {
	s.c.core.distrust(r.Msg.GetWhy())
	return connect.NewResponse(&nodev1.RenewViewResponse{}), nil
}
