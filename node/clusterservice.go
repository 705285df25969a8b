package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/gen/bongsu/node/v1/nodev1connect"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/highwater"
	"github.com/bongsu-im/bongsu/journal/raft"
	"github.com/bongsu-im/bongsu/node/roster"
)

// clusterService is what nodes and operators ask of this node about the
// cluster. Whoever has a certificate of the cluster may.
type clusterService struct{ c *cluster }

var _ nodev1connect.ClusterServiceHandler = (*clusterService)(nil)

const statusWait = 2 * time.Second

// Join implements nodev1connect.ClusterServiceHandler.
func (s *clusterService) Join(_ context.Context, r *connect.Request[nodev1.JoinRequest]) (*connect.Response[nodev1.JoinResponse], error) {
	m := r.Msg.GetMember()
	if err := roster.Check(m); err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	if m.GetAddress() == "" {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("the node does not say where it is reached"))
	}
	if have := s.c.roster.Get(m.GetId()); have != nil && (have.GetRemoved() || have.GetName() != m.GetName()) {
		return nil, connect.NewError(connect.CodeAlreadyExists, fmt.Errorf("node ID %d was used before", m.GetId()))
	}
	if need := s.c.core.rules(); knownRules(m) < need {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("the cluster decides by rules %d and the release of the node (%s) knows %d: run a newer one", need, m.GetVersion(), knownRules(m)))
	}
	keys, err := s.c.core.sharedKeys()
	if err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, err)
	}
	if _, err := s.c.roster.Merge([]*nodev1.Member{m}); err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	s.c.log.Info("a node has joined and waits to be added", "name", m.GetName(), "zone", m.GetZone(), "address", m.GetAddress())
	cluster := s.c.journal.Identity().Cluster
	return connect.NewResponse(&nodev1.JoinResponse{
		Cluster: cluster[:], Cell: uint32(s.c.core.identity.Cell), Shards: uint32(s.c.core.identity.Shards),
		Members: s.c.roster.All(), Keys: keys,
	}), nil
}

// Exchange implements nodev1connect.ClusterServiceHandler.
func (s *clusterService) Exchange(_ context.Context, r *connect.Request[nodev1.ExchangeRequest]) (*connect.Response[nodev1.ExchangeResponse], error) {
	if _, err := s.c.roster.Merge(r.Msg.GetMembers()); err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	return connect.NewResponse(&nodev1.ExchangeResponse{Members: s.c.roster.All(), Held: s.c.holds()}), nil
}

// GetNode implements nodev1connect.ClusterServiceHandler.
func (s *clusterService) GetNode(ctx context.Context, _ *connect.Request[nodev1.GetNodeRequest]) (*connect.Response[nodev1.GetNodeResponse], error) {
	return connect.NewResponse(s.c.state(ctx)), nil
}

// state is how this node sees itself and its shards.
func (c *cluster) state(ctx context.Context) *nodev1.GetNodeResponse {
	ctx, cancel := context.WithTimeout(ctx, statusWait/2)
	defer cancel()
	out := &nodev1.GetNodeResponse{Member: c.row(), Damage: c.core.damage()}
	if err := c.core.Ready(); err != nil {
		out.Ready = err.Error()
	}
	for n := range c.core.identity.Shards {
		st, err := c.journal.Status(ctx, journal.ShardID(n))
		if err != nil {
			out.Damage = append(out.Damage, err.Error())
			continue
		}
		shard := &nodev1.ShardState{
			Shard: uint32(n), Role: string(st.Role), Leader: st.Leader, Term: uint64(st.Term), Commit: uint64(st.Commit), First: uint64(st.First),
			Applied: c.core.View.Shard(n).Mark().GetIndex(), Rules: c.core.rulesOf(n), Changing: st.Changing, SnapshotBytes: st.Snapshot.Bytes,
		}
		for _, m := range st.Members {
			shard.Members = append(shard.Members, &nodev1.MemberState{
				Node: m.Node, Voter: m.Voter, Match: uint64(m.Match), Snapshot: m.Snapshot, Active: m.Active || m.Node == c.self && st.Role == raft.RoleLeader,
			})
		}
		out.Shards = append(out.Shards, shard)
	}
	return out
}

// GetCluster implements nodev1connect.ClusterServiceHandler.
func (s *clusterService) GetCluster(ctx context.Context, _ *connect.Request[nodev1.GetClusterRequest]) (*connect.Response[nodev1.GetClusterResponse], error) {
	cluster := s.c.journal.Identity().Cluster
	return connect.NewResponse(&nodev1.GetClusterResponse{
		Cluster: cluster[:], Shards: uint32(s.c.core.identity.Shards), Nodes: s.c.states(ctx),
	}), nil
}

// states asks every member how it is.
func (c *cluster) states(ctx context.Context) []*nodev1.NodeState {
	members := c.roster.Members()
	out := make([]*nodev1.NodeState, len(members))
	var asking sync.WaitGroup
	for i, m := range members {
		out[i] = &nodev1.NodeState{Member: m}
		asking.Go(func() {
			if m.GetId() == c.self {
				out[i].Node, out[i].Up = c.state(ctx), true
				return
			}
			ctx, cancel := context.WithTimeout(ctx, statusWait)
			defer cancel()
			reply, err := c.serviceOf(m.GetId()).GetNode(ctx, connect.NewRequest(&nodev1.GetNodeRequest{}))
			if err != nil {
				out[i].Error = err.Error()
				return
			}
			out[i].Node, out[i].Up = reply.Msg, true
		})
	}
	asking.Wait()
	return out
}

// TransferShard implements nodev1connect.ClusterServiceHandler.
func (s *clusterService) TransferShard(ctx context.Context, r *connect.Request[nodev1.TransferShardRequest]) (*connect.Response[nodev1.TransferShardResponse], error) {
	shard := r.Msg.GetShard()
	if int64(shard) >= int64(s.c.core.identity.Shards) {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("there are %d shards, from 0", s.c.core.identity.Shards))
	}
	var to uint64
	for _, m := range s.c.roster.Named(r.Msg.GetTo()) {
		to = m.GetId()
		if st, err := s.c.journal.Status(ctx, journal.ShardID(shard)); err == nil &&
			slices.ContainsFunc(st.Members, func(m raft.Member) bool { return m.Node == to }) {
			break
		}
	}
	if to == 0 {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("no node is called %q", r.Msg.GetTo()))
	}
	if err := s.c.transfer(ctx, int(shard), to); err != nil {
		var ce *connect.Error
		if errors.As(err, &ce) {
			return nil, ce
		}
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	return connect.NewResponse(&nodev1.TransferShardResponse{}), nil
}

// transfer has a node lead a shard.
func (c *cluster) transfer(ctx context.Context, shard int, to uint64) error {
	switch at := c.leader(shard); at {
	case to:
		return nil
	case c.self:
		return c.journal.TransferLeadership(ctx, journal.ShardID(shard), to)
	case 0:
		return connect.NewError(connect.CodeUnavailable, fmt.Errorf("nobody is known to lead shard %d", shard))
	default:
		_, err := c.serviceOf(at).TransferShard(ctx, connect.NewRequest(&nodev1.TransferShardRequest{Shard: uint32(shard), To: c.nameOf(to)}))
		return err
	}
}

// ChangeMember implements nodev1connect.ClusterServiceHandler.
func (s *clusterService) ChangeMember(ctx context.Context, r *connect.Request[nodev1.ChangeMemberRequest]) (*connect.Response[nodev1.ChangeMemberResponse], error) {
	if err := s.c.changeHere(ctx, r.Msg); err != nil {
		return nil, changeError(err)
	}
	return connect.NewResponse(&nodev1.ChangeMemberResponse{}), nil
}

func (c *cluster) changeHere(ctx context.Context, r *nodev1.ChangeMemberRequest) error {
	shard := journal.ShardID(r.GetShard())
	if int64(r.GetShard()) >= int64(c.core.identity.Shards) {
		return fmt.Errorf("there are %d shards, from 0", c.core.identity.Shards)
	}
	if made, err := c.madeBefore(ctx, shard, r); made || err != nil {
		return err
	}
	switch r.GetChange() {
	case nodev1.ChangeMemberRequest_CHANGE_ADD_LEARNER:
		return c.journal.AddLearner(ctx, shard, r.GetNode(), r.GetInstead())
	case nodev1.ChangeMemberRequest_CHANGE_PROMOTE:
		return c.journal.Promote(ctx, shard, r.GetNode(), r.GetInstead())
	case nodev1.ChangeMemberRequest_CHANGE_REMOVE:
		return c.journal.Remove(ctx, shard, r.GetNode())
	}
	return errors.New("no such change")
}

// madeBefore tells whether a change was made by an attempt whose answer was lost.
func (c *cluster) madeBefore(ctx context.Context, shard journal.ShardID, r *nodev1.ChangeMemberRequest) (bool, error) {
	st, err := c.journal.Status(ctx, shard)
	if err != nil {
		return false, err
	}
	if st.Role != raft.RoleLeader {
		return false, &raft.NotLeaderError{Shard: shard, Leader: st.Leader}
	}
	voter, member := map[uint64]bool{}, map[uint64]bool{}
	for _, m := range st.Members {
		member[m.Node], voter[m.Node] = true, m.Voter
	}
	switch r.GetChange() {
	case nodev1.ChangeMemberRequest_CHANGE_ADD_LEARNER:
		return member[r.GetNode()], nil
	case nodev1.ChangeMemberRequest_CHANGE_PROMOTE:
		return voter[r.GetNode()] && !member[r.GetInstead()], nil
	case nodev1.ChangeMemberRequest_CHANGE_REMOVE:
		return !member[r.GetNode()], nil
	}
	return false, nil
}

// changeError keeps apart what may be tried again at once (unavailable), what
// the cluster's condition forbids, what the node's past forbids (already
// exists), and what is wrong for good.
func changeError(err error) error {
	var notLeader *raft.NotLeaderError
	var notWhole *raft.NotWholeError
	var behind *raft.BehindError
	switch {
	case errors.As(err, &notLeader), errors.As(err, &behind), errors.Is(err, raft.ErrChanging), errors.Is(err, raft.ErrChangeRefused),
		errors.Is(err, journal.ErrUnknown), errors.Is(err, journal.ErrClosed):
		return connect.NewError(connect.CodeUnavailable, err)
	case errors.As(err, &notWhole):
		return connect.NewError(connect.CodeFailedPrecondition, err)
	case errors.Is(err, raft.ErrUsedNode):
		return connect.NewError(connect.CodeAlreadyExists, err)
	case errors.Is(err, raft.ErrNotMember):
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	return connect.NewError(connect.CodeInternal, err)
}

// AddNode implements nodev1connect.ClusterServiceHandler.
func (s *clusterService) AddNode(ctx context.Context, r *connect.Request[nodev1.AddNodeRequest], out *connect.ServerStream[nodev1.Progress]) error {
	return s.change(ctx, out, func(ch *changer) error { return ch.add(ctx, r.Msg.GetName()) })
}

// ReplaceNode implements nodev1connect.ClusterServiceHandler.
func (s *clusterService) ReplaceNode(ctx context.Context, r *connect.Request[nodev1.ReplaceNodeRequest], out *connect.ServerStream[nodev1.Progress]) error {
	return s.change(ctx, out, func(ch *changer) error { return ch.replace(ctx, r.Msg) })
}

// RemoveNode implements nodev1connect.ClusterServiceHandler.
func (s *clusterService) RemoveNode(ctx context.Context, r *connect.Request[nodev1.RemoveNodeRequest], out *connect.ServerStream[nodev1.Progress]) error {
	return s.change(ctx, out, func(ch *changer) error { return ch.remove(ctx, r.Msg.GetName()) })
}

func (s *clusterService) change(ctx context.Context, out *connect.ServerStream[nodev1.Progress], run func(*changer) error) error {
	ch := &changer{c: s.c, tell: func(p *nodev1.Progress) error { return errors.Join(s.c.tellChange(p), out.Send(p)) }}
	if err := run(ch); err != nil {
		s.c.log.Warn("a change of the cluster did not go through", "error", err)
		var ce *connect.Error
		if errors.As(err, &ce) {
			return ce
		}
		if ctx.Err() != nil {
			return connect.NewError(connect.CodeCanceled, err)
		}
		return connect.NewError(connect.CodeFailedPrecondition, err)
	}
	return nil
}

func (c *cluster) tellChange(p *nodev1.Progress) error {
	c.log.Info("changing the cluster", "step", p.GetText(), "done", p.GetDone(), "total", p.GetTotal())
	return nil
}

// damage is what is wrong with this node's stores, in words.
func (c *Core) damage() (out []string) {
	for _, err := range c.Journal.Damage() {
		var marks *highwater.Error
		if errors.As(err, &marks) {
			continue // the log has told; both copies were written again when the journal opened
		}
		out = append(out, oneLine(err))
	}
	if err := c.View.Err(); err != nil {
		out = append(out, oneLine(err))
	}
	return out
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
