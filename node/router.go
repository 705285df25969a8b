package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/bongsu-im/bongsu/chat"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/internal/mutant"
)

// router sends each command to the node that owns its shard, and answers
// queries here where this node knows enough. It retries nothing but what shards
// ask of each other: the gateway does, within the sender's deadline, and asks
// again who owns.
//
// What a replica that does not own may answer: it is right about what was, and
// may not know of the last moment. So a node never shows less than what it has
// itself acknowledged (floors), clients carry the positions they know to other
// nodes, and a no (not found, not permitted, no such session) is only the
// owner's to give: shard.Set refuses to where it does not own, and it is asked of
// the others.
type router struct {
	local  localShards
	shards int
	self   uint64
	leader func(shard int) uint64       // 0: none known
	node   func(node uint64) RemoteNode // nil: no such node, or this one
	nodes  func() []uint64              // all of them
	// source is the node whose stream of a shard comes here; 0: none.
	source func(shard int) uint64

	mu     sync.Mutex         // guards floors
	floors []*edgev1.Position // by shard: the last position acknowledged through this node

	flying flights
}

// localShards is the part of shard.Set that a router needs.
type localShards interface {
	ShardOf(cmd *nodev1.Command) (int, *nodev1.Reply)
	Owns(shard int) bool
	Do(ctx context.Context, cmd *nodev1.Command) (*nodev1.Reply, error)
	Begin(cmd *nodev1.Command, deadline time.Time, done func(*nodev1.Reply, error))
	Query(ctx context.Context, q *nodev1.Query) (*nodev1.QueryReply, error)
}

func newRouter(shards int, self uint64, leader func(int) uint64, node func(uint64) RemoteNode, nodes func() []uint64) *router {
	return &router{shards: shards, self: self, leader: leader, node: node, nodes: nodes, source: func(int) uint64 { return 0 }, floors: make([]*edgev1.Position, shards)}
}

// noDeadline stands for the deadline of a caller that has none.
const noDeadline = 30 * time.Second

// elsewhere returns the node to ask instead of this one and its ID, nil if none is
// known.
func (r *router) elsewhere(shard int) (RemoteNode, uint64) {
	if r.local.Owns(shard) {
		return nil, 0
	}
	at := r.leader(shard)
	if at == 0 || at == r.self {
		return nil, 0 // it may become ours: commands wait for that a moment
	}
	return r.node(at), at
}

// Begin implements gateway.Backend.
func (r *router) Begin(cmd *nodev1.Command, deadline time.Time, done func(*nodev1.Reply, error)) {
	shard, refused := r.local.ShardOf(cmd)
	if refused != nil {
		done(refused, nil)
		return
	}
	answer := func(reply *nodev1.Reply, err error) {
		r.note(reply.GetPosition())
		done(reply, err)
	}
	p, at := r.elsewhere(shard)
	if p == nil {
		r.local.Begin(cmd, deadline, answer)
		return
	}
	f := r.flying.begin(shard, at, func() { answer(nil, errMoved) })
	p.Begin(cmd, deadline, func(reply *nodev1.Reply, err error) {
		if r.flying.land(f) {
			answer(reply, err)
		}
	})
}

// note remembers what was acknowledged through this node: what it shows from here
// on is not older. That goes for what it decided itself, too: with a failed store
// it passes questions on to replicas that may not have its last moment yet.
func (r *router) note(p *edgev1.Position) {
	if p == nil || int64(p.GetShard()) >= int64(r.shards) || mutant.On(mutant.NoFloors) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if have := r.floors[p.GetShard()]; have == nil || have.GetIndex() < p.GetIndex() {
		r.floors[p.GetShard()] = p
	}
}

// Do implements gateway.Backend.
func (r *router) Do(ctx context.Context, cmd *nodev1.Command) (*nodev1.Reply, error) {
	shard, refused := r.local.ShardOf(cmd)
	if refused != nil {
		return refused, nil
	}
	if p, _ := r.elsewhere(shard); p == nil {
		reply, err := r.local.Do(ctx, cmd)
		r.note(reply.GetPosition())
		return reply, err
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
	r.Begin(cmd, deadline, func(reply *nodev1.Reply, err error) { answered <- outcome{reply, err} })
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
	if decisive(q) {
		if reply := r.askOwner(ctx, q); reply != nil {
			return reply, nil
		}
	}
	q = r.withFloors(q)
	reply, err := r.local.Query(ctx, q)
	if err == nil && notHere(reply.GetError()) {
		return r.anywhere(ctx, q, reply)
	}
	return reply, err
}

// others asks only other nodes, for shards here that lack something for an answer:
// asked of this one, the question would come back to it for ever.
func (r *router) others(ctx context.Context, q *nodev1.Query) (*nodev1.QueryReply, error) {
	return r.anywhere(ctx, r.withFloors(q), &nodev1.QueryReply{Error: &edgev1.Error{
		Code: "unavailable", Message: "no server that has this can be asked now",
		Info: &edgev1.ErrorInfo{Reason: "behind", RetryAfterSeconds: 0.5},
	}})
}

// decisive tells which queries are about whether someone may: a replica that is
// a moment behind would sign people out who have just signed in, and let in whom
// they have just thrown out.
func decisive(q *nodev1.Query) bool {
	switch q.GetKind().(type) {
	case *nodev1.Query_Credential, *nodev1.Query_Session, *nodev1.Query_Devices:
		return true
	}
	return false
}

// askOwner is the answer of the other node that owns what a query is about; nil if
// it is this one, nobody is known, there is no answer, or the query is about many
// shards.
func (r *router) askOwner(ctx context.Context, q *nodev1.Query) *nodev1.QueryReply {
	p, err := chat.QueryPartition(q)
	if err != nil {
		return nil
	}
	shard := p.Shard(r.shards)
	owner, at := r.elsewhere(shard)
	if owner == nil || !owner.Linked() {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := r.flying.begin(shard, at, cancel)
	reply, err := owner.Query(ctx, q)
	r.flying.land(f)
	if err != nil || notHere(reply.GetError()) {
		return nil
	}
	return reply
}

// withFloors adds to a query what this node has acknowledged of the shards that
// it follows.
func (r *router) withFloors(q *nodev1.Query) *nodev1.Query {
	asked := map[uint32]uint64{}
	for _, p := range q.GetAtLeast() {
		asked[p.GetShard()] = max(asked[p.GetShard()], p.GetIndex())
	}
	one := -1
	if p, err := chat.QueryPartition(q); err == nil {
		one = p.Shard(r.shards)
	}
	var more []*edgev1.Position
	r.mu.Lock()
	for shard, p := range r.floors {
		if p != nil && (one < 0 || one == shard) && p.GetIndex() > asked[uint32(shard)] {
			more = append(more, p)
		}
	}
	r.mu.Unlock()
	if len(more) == 0 {
		return q
	}
	return &nodev1.Query{Actor: q.GetActor(), AtLeast: append(more, q.GetAtLeast()...), Kind: q.GetKind()}
}

// anywhere asks the others, those first that own most; otherwise is the answer
// if nobody has a better one.
func (r *router) anywhere(ctx context.Context, q *nodev1.Query, otherwise *nodev1.QueryReply) (*nodev1.QueryReply, error) {
	tried := map[uint64]bool{r.self: true}
	p, err := chat.QueryPartition(q)
	if user, userErr := id.FromBytes(id.User, q.GetActor()); err != nil && q.GetListRooms() != nil && userErr == nil {
		p, err = user.Partition(), nil // who has the list can ask for the rooms
	}
	if k := q.GetPeople(); k != nil && len(k.GetUserIds()) > 0 {
		if user, userErr := id.FromBytes(id.User, k.GetUserIds()[0]); userErr == nil {
			p, err = user.Partition(), nil // shards ask about the people of one shard
		}
	}
	if err == nil {
		// First whose stream comes here: another may be behind it, and what its
		// stream has told before a session began would then be missed.
		for _, at := range []uint64{r.source(p.Shard(r.shards)), r.leader(p.Shard(r.shards))} {
			if at == 0 || tried[at] {
				continue
			}
			tried[at] = true
			if reply := r.askAt(ctx, at, q); reply != nil {
				return reply, nil
			}
		}
	}
	for _, at := range r.nodes() {
		if tried[at] {
			continue
		}
		tried[at] = true
		if reply := r.askAt(ctx, at, q); reply != nil {
			return reply, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return otherwise, nil
}

// askAt is the answer of one node; nil if it has none.
func (r *router) askAt(ctx context.Context, at uint64, q *nodev1.Query) *nodev1.QueryReply {
	n := r.node(at)
	if n == nil || !n.Linked() {
		return nil
	}
	reply, err := n.Query(ctx, q)
	if err != nil || notHere(reply.GetError()) {
		return nil
	}
	return reply
}

// notHere tells whether a refusal only says that this node is the wrong one.
func notHere(e *edgev1.Error) bool {
	switch e.GetInfo().GetReason() {
	case "not_owner", "starting", "behind", "draining", "store_fenced", "shard_damaged", "release_too_old":
		return e.GetCode() == "unavailable"
	}
	return false
}

// positions asks each shard's owner about a client's positions: only it knows
// where the journal ends.
func (r *router) positions(ctx context.Context, q *nodev1.Query, k *edgev1.HelloRequest) (*nodev1.QueryReply, error) {
	parts := map[RemoteNode][]*edgev1.Position{}
	for _, p := range k.GetPositions() {
		var at RemoteNode
		if int64(p.GetShard()) < int64(r.shards) {
			at, _ = r.elsewhere(int(p.GetShard()))
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

const (
	againFirst = 20 * time.Millisecond
	againMost  = 500 * time.Millisecond
)

// doAgain is Do for shards that ask other shards: their effects go on when the
// owner changes. It gives up with ctx, as the effect stays in its outbox.
func (r *router) doAgain(ctx context.Context, cmd *nodev1.Command) (*nodev1.Reply, error) {
	for pause := againFirst; ; pause = min(2*pause, againMost) {
		reply, err := r.Do(ctx, cmd)
		if err == nil && !notHere(reply.GetError()) {
			return reply, nil
		}
		if wait(ctx, pause) != nil {
			return reply, err
		}
	}
}
