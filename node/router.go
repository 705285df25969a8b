package node

import (
	"context"
	"errors"
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
)

// router sends each command to the node that owns its shard, and answers
// queries here where this node knows enough. It retries nothing: the gateway
// does, within the sender's deadline, and asks again who owns.
type router struct {
	local  localShards
	shards int
	// leader tells which node owns a shard as far as is known here; "" for nobody.
	leader func(shard int) string
	self   string
	peers  map[string]remoteNode // by name; without this node
}

// localShards is the part of shard.Set that a router needs.
type localShards interface {
	ShardOf(cmd *nodev1.Command) (int, *nodev1.Reply)
	Owns(shard int) bool
	Do(ctx context.Context, cmd *nodev1.Command) (*nodev1.Reply, error)
	Begin(cmd *nodev1.Command, deadline time.Time, done func(*nodev1.Reply, error))
	Query(ctx context.Context, q *nodev1.Query) (*nodev1.QueryReply, error)
}

// remoteNode is peer.Client as a router needs it.
type remoteNode interface {
	Begin(cmd *nodev1.Command, deadline time.Time, done func(*nodev1.Reply, error))
	Query(ctx context.Context, q *nodev1.Query) (*nodev1.QueryReply, error)
}

// noDeadline stands for the deadline of a caller that has none.
const noDeadline = 30 * time.Second

// elsewhere returns the node to ask instead of this one, nil if none is known.
func (r *router) elsewhere(shard int) remoteNode {
	if r.local.Owns(shard) {
		return nil
	}
	at := r.leader(shard)
	if at == "" || at == r.self {
		return nil // it may become ours: commands wait for that a moment
	}
	if p, ok := r.peers[at]; ok {
		return p
	}
	return nil
}

// Begin implements gateway.Backend.
func (r *router) Begin(cmd *nodev1.Command, deadline time.Time, done func(*nodev1.Reply, error)) {
	shard, refused := r.local.ShardOf(cmd)
	if refused != nil {
		done(refused, nil)
		return
	}
	if p := r.elsewhere(shard); p != nil {
		p.Begin(cmd, deadline, done)
		return
	}
	r.local.Begin(cmd, deadline, done)
}

// Do implements gateway.Backend.
func (r *router) Do(ctx context.Context, cmd *nodev1.Command) (*nodev1.Reply, error) {
	shard, refused := r.local.ShardOf(cmd)
	if refused != nil {
		return refused, nil
	}
	p := r.elsewhere(shard)
	if p == nil {
		return r.local.Do(ctx, cmd)
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(noDeadline)
	}
	type outcome struct {
		reply *nodev1.Reply
		err   error
	}
	answered := make(chan outcome, 1)
	p.Begin(cmd, deadline, func(reply *nodev1.Reply, err error) { answered <- outcome{reply, err} })
	select {
	case o := <-answered:
		return o.reply, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Query implements gateway.Backend. What this node cannot answer, because it
// has not followed or not lately, it asks of another: any that has is right.
func (r *router) Query(ctx context.Context, q *nodev1.Query) (*nodev1.QueryReply, error) {
	if k := q.GetPositions(); k != nil {
		return r.positions(ctx, q, k)
	}
	reply, err := r.local.Query(ctx, q)
	if err != nil || !notHere(reply.GetError()) {
		return reply, err
	}
	for at, p := range r.peers {
		if r.leads(at) == 0 {
			continue
		}
		there, err := p.Query(ctx, q)
		if err == nil && !notHere(there.GetError()) {
			return there, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return reply, nil
}

// leads counts the shards that a node owns, as far as is known here.
func (r *router) leads(node string) (n int) {
	for shard := range r.shards {
		if r.leader(shard) == node {
			n++
		}
	}
	return n
}

// notHere tells whether a refusal only says that this node is the wrong one.
func notHere(e *edgev1.Error) bool {
	switch e.GetInfo().GetReason() {
	case "not_owner", "starting", "behind":
		return e.GetCode() == "unavailable"
	}
	return false
}

// positions asks each shard's owner about a client's positions: only it knows
// where the journal ends.
func (r *router) positions(ctx context.Context, q *nodev1.Query, k *edgev1.HelloRequest) (*nodev1.QueryReply, error) {
	parts := map[remoteNode][]*edgev1.Position{}
	for _, p := range k.GetPositions() {
		var at remoteNode
		if int64(p.GetShard()) < int64(r.shards) {
			at = r.elsewhere(int(p.GetShard()))
		}
		parts[at] = append(parts[at], p)
	}
	if len(parts[nil]) == 0 {
		parts[nil] = nil // asked all the same: it knows how many shards there are
	}
	out := &nodev1.LostPositions{}
	for at, some := range parts {
		part := &nodev1.Query{Actor: q.GetActor(), Kind: &nodev1.Query_Positions{Positions: &edgev1.HelloRequest{Positions: some}}}
		ask := r.local.Query
		if at != nil {
			ask = at.Query
		}
		reply, err := ask(ctx, part)
		if err != nil || reply.GetError() != nil {
			return reply, err
		}
		if reply.GetLost() == nil {
			return nil, errors.New("a node answered a query about positions with something else")
		}
		out.Lost = append(out.Lost, reply.GetLost().GetLost()...)
		out.ShardCount = max(out.ShardCount, reply.GetLost().GetShardCount())
	}
	return &nodev1.QueryReply{Kind: &nodev1.QueryReply_Lost{Lost: out}}, nil
}
