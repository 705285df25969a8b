package shard

import (
	"context"
	"time"

	"github.com/bongsu-im/bongsu/chat"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
)

// An owner that was frozen or cut off believes for a moment that it still owns
// its shard. What it says yes to must be committed and fails; but a no is not
// committed, and one that stands on its old state would be taken for good: a
// room "does not exist", and clients drop the message. So where there are other
// nodes a no waits for a commit: that of what is decided with it, or of an empty
// record. No time that a proof might hold is safe to build on: two nodes that
// lose their connections to a third elect another at once.

// proofWait bounds how long a query waits for a proof.
const proofWait = 2 * time.Second

// isNo tells a refusal that a newer state may not give: what does not exist may
// have been made, who may not may have been let in.
func isNo(e *edgev1.Error) bool {
	switch e.GetCode() {
	case "not_found", "permission_denied", "already_exists", "failed_precondition":
		return true
	}
	return false
}

// alone tells that there are no other nodes.
func (o *owner) alone() bool { return o.set.cfg.Elsewhere == nil }

// prove waits for a commit that shows that this node owns the shard.
func (o *owner) prove(ctx context.Context) bool {
	if o.alone() {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, proofWait)
	defer cancel()
	proved := make(chan bool, 1) // holds one, so that the owner never waits
	r := &request{ctx: ctx, proof: true, cmd: &nodev1.Command{}, arrived: time.Now(), done: func(reply *nodev1.Reply, err error) {
		proved <- err == nil && reply.GetError() == nil
	}}
	if o.inbox.put(r) != nil {
		return false
	}
	select {
	case ok := <-proved:
		return ok
	case <-ctx.Done():
		r.withdraw()
		return false
	}
}

// sure tells whether a no to a query is certain here. A replica's is not this
// node's to judge: who routes asks the owner.
func (s *Set) sure(ctx context.Context, q *nodev1.Query) bool {
	p, err := chat.QueryPartition(q)
	if err != nil {
		return true
	}
	o := s.owners[p.Shard(len(s.owners))]
	return !o.owned.Load() || o.prove(ctx)
}
