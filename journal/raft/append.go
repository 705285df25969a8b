package raft

import (
	"context"
	"fmt"

	etcd "go.etcd.io/raft/v3"

	"github.com/bongsu-im/bongsu/journal"
)

type proposal struct {
	data  []byte
	term  uint64
	index uint64
	done  chan outcome // room for one
}

type outcome struct {
	position journal.Position
	err      error
}

// Lease implements journal.Log. Before it gives a term away, a mark of that term
// is durable: were the log to lose the term's first entries, the next start
// would notice, and not use the term again for another history.
func (g *group) Lease(ctx context.Context) (journal.Lease, error) {
	var marked uint64
	for {
		if err := g.dead(); err != nil {
			return journal.Lease{}, err
		}
		g.log.mu.Lock()
		changed := g.log.changed
		if g.owner != 0 && !g.inflight && !g.moving {
			if marked == g.owner {
				g.leased = true
				lease := journal.Lease{Term: journal.Term(g.owner), Applied: g.log.final.Index}
				g.log.mu.Unlock()
				return lease, nil
			}
			owner := g.owner
			g.log.mu.Unlock()
			if err := g.j.marks.cover(g.shard, owner); err != nil {
				return journal.Lease{}, err
			}
			marked = owner
			continue
		}
		g.log.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return journal.Lease{}, fmt.Errorf("wait for the lease of shard %d: %w", g.shard, ctx.Err())
		case <-g.halt:
		case <-g.j.closing:
		case <-g.j.store.down:
		}
	}
}

// Append implements journal.Log.
func (g *group) Append(ctx context.Context, lease journal.Lease, data []byte) (journal.Position, error) {
	if len(data) > journal.MaxEntryBytes {
		return journal.Position{}, fmt.Errorf("append %d bytes to shard %d: %w", len(data), g.shard, journal.ErrTooLarge)
	}
	if err := g.dead(); err != nil {
		return journal.Position{}, err
	}
	if err := ctx.Err(); err != nil {
		return journal.Position{}, fmt.Errorf("%w: %w", journal.ErrCancelled, err)
	}
	g.log.mu.Lock()
	if !g.leased || g.inflight || uint64(lease.Term) != g.owner {
		g.log.mu.Unlock()
		return journal.Position{}, journal.ErrNotOwner
	}
	g.inflight = true
	g.log.mu.Unlock()
	if err := g.j.space.check(); err != nil {
		g.abandon(true)
		return journal.Position{}, err
	}
	p := &proposal{data: data, term: uint64(lease.Term), done: make(chan outcome, 1)}
	select {
	case g.proposals <- p:
	case <-ctx.Done():
		g.abandon(true)
		return journal.Position{}, fmt.Errorf("%w: %w", journal.ErrCancelled, ctx.Err())
	case <-g.stopped:
		g.abandon(false)
		if err := g.dead(); err != nil {
			return journal.Position{}, err
		}
		return journal.Position{}, journal.ErrNotOwner
	case <-g.j.store.down: // the loop may hang in a store that failed
		g.abandon(false)
		return journal.Position{}, g.j.store.err()
	}
	select {
	case o := <-p.done:
		if o.err != nil {
			g.unlease()
		}
		return o.position, o.err
	case <-ctx.Done():
		g.unlease()
		return journal.Position{}, fmt.Errorf("%w: %w", journal.ErrUnknown, ctx.Err())
	case <-g.stopped:
	case <-g.j.store.down:
	}
	if err := g.j.store.err(); err != nil {
		return journal.Position{}, err
	}
	select {
	case o := <-p.done: // it was answered before the loop ended
		return o.position, o.err
	default:
		return journal.Position{}, journal.ErrUnknown
	}
}

// abandon takes back an append that has not begun; keep tells whether the lease
// is still good.
func (g *group) abandon(keep bool) {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	g.inflight = false
	g.leased = g.leased && keep
	g.log.wake()
}

// unlease makes the owner ask for a lease again, which waits until what is in
// flight is settled.
func (g *group) unlease() {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	g.leased = false
}

// resolve answers the pending proposal.
func (g *group) resolve(o outcome) {
	p := g.pending
	if p == nil {
		return
	}
	g.pending = nil
	if err := g.j.store.err(); err != nil {
		o = outcome{err: err} // nothing is acknowledged after the fence
	}
	g.answer(p, o)
}

func (g *group) answer(p *proposal, o outcome) {
	g.log.mu.Lock()
	g.inflight = false // before the owner is told: it may append again at once
	g.log.wake()
	g.log.mu.Unlock()
	p.done <- o
}

// propose hands a proposal to raft, or refuses it for certain.
func (g *group) propose(p *proposal) {
	status := g.node.BasicStatus()
	g.log.mu.Lock()
	owner := g.owner
	index := g.log.last + 1 // every Ready before has been worked through
	g.log.mu.Unlock()
	if status.RaftState != etcd.StateLeader || owner != p.term || status.GetTerm() != p.term || g.pending != nil {
		g.answer(p, outcome{err: journal.ErrNotOwner})
		return
	}
	p.index = index
	if err := g.node.Propose(payload(p.data)); err != nil {
		g.answer(p, outcome{err: fmt.Errorf("%w: raft dropped the proposal: %w", journal.ErrNotOwner, err)})
		return
	}
	g.pending = p
}
