package raft

import (
	"context"
	"errors"
	"fmt"

	etcd "go.etcd.io/raft/v3"

	"github.com/bongsu-im/bongsu/journal"
)

// Errors of FetchView besides those of its Context, Transport and Snapshots.
var (
	// ErrLeads: this node leads the shard, and has nobody to take a view from. It
	// must give the shard away first.
	ErrLeads = errors.New("journal: this node leads the shard and must give it away first")
	// ErrNoLeader: nobody is known to lead the shard.
	ErrNoLeader = errors.New("journal: no leader of the shard is known")
	// ErrFetching: a snapshot of the shard is being taken already.
	ErrFetching = errors.New("journal: a snapshot of the shard is being taken")
)

// FetchView has Config.Snapshots restore a shard's view from its leader. It is for
// a view that was lost while the log, whose beginning is trimmed, is whole: the
// log stays as it is. It returns when the log, too, has the position at which the
// view stands, which may be beyond what was known here to be committed; should
// the node stop before, Contains knows the position from the first.
func (j *Journal) FetchView(ctx context.Context, shard journal.ShardID) error {
	if err := j.groups[shard].fetchView(ctx); err != nil {
		return fmt.Errorf("fetch the view of shard %d: %w", shard, err)
	}
	return nil
}

func (g *group) fetchView(ctx context.Context) error {
	type end struct {
		base base
		err  error
	}
	ended := make(chan end, 1)
	var err error
	e := g.do(ctx, func() {
		s := g.node.BasicStatus()
		switch {
		case g.j.cfg.Snapshots == nil:
			err = errors.New("this node takes no snapshots")
		case s.RaftState == etcd.StateLeader:
			err = ErrLeads
		case s.Lead == 0:
			err = ErrNoLeader
		case g.fetching:
			err = ErrFetching
		default:
			g.background(ctx, s.Lead, g.follows, func(b base, err error) { ended <- end{b, err} })
		}
	})
	if err := errors.Join(e, err); err != nil {
		return err
	}
	select {
	case got := <-ended:
		if got.err != nil {
			return got.err
		}
		return g.awaitPosition(ctx, got.base.final.Position)
	case <-g.stopped:
		return g.over()
	}
}

// follows checks that this log goes on from where a view stands.
func (g *group) follows(b base) error {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	at := b.final.Position
	switch {
	case at.Index < g.log.meta.lastCut.Index:
		return fmt.Errorf("the view stands at %d, and the log has lost what came before %d", at.Index, g.log.meta.lastCut.Index)
	case uint64(at.Index) <= g.log.commit && !g.log.contains(at, g.log.commit):
		return fmt.Errorf("the view stands at term %d index %d, which is not in the log's history", at.Term, at.Index)
	}
	return nil
}

// awaitPosition waits until the log has a position among what is committed.
func (g *group) awaitPosition(ctx context.Context, at journal.Position) error {
	for {
		g.log.mu.Lock()
		has, beyond, changed := g.log.contains(at, g.log.commit), uint64(at.Index) > g.log.commit, g.log.changed
		g.log.mu.Unlock()
		switch {
		case has:
			return nil
		case !beyond:
			return fmt.Errorf("the view was restored at term %d index %d, which has not become part of the log", at.Term, at.Index)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for the log to reach the restored view: %w", ctx.Err())
		case <-g.stopped:
			return g.over()
		}
	}
}
