package raft

import (
	"context"
	"errors"
	"fmt"

	etcd "go.etcd.io/raft/v3"

	"github.com/bongsu-im/bongsu/journal"
)

var _ journal.Log = (*group)(nil)

// Read implements journal.Log.
func (g *group) Read(ctx context.Context, after journal.Index, maxBytes int) ([]journal.Entry, error) {
	for {
		g.log.mu.Lock()
		cut, final, commit, changed := g.log.meta.lastCut.Index, g.log.final.Index, g.log.commit, g.log.changed
		first := uint64(g.log.meta.trimmed.Index) + 1
		g.log.mu.Unlock()
		if err := g.dead(); errors.Is(err, journal.ErrClosed) {
			return nil, err
		}
		if cut > after {
			return nil, fmt.Errorf("read shard %d after %d: %w", g.shard, after, journal.ErrTrimmed)
		}
		if final > after {
			out, err := g.read(max(uint64(after)+1, first), commit, maxBytes)
			if err != nil && errors.Is(err, etcd.ErrCompacted) {
				continue // trimmed meanwhile: look again
			}
			return out, err
		}
		if err := g.dead(); err != nil {
			return nil, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("read shard %d after %d: %w", g.shard, after, ctx.Err())
		case <-g.halt:
		case <-g.j.closing:
		case <-g.j.store.down:
		}
	}
}

// read returns the data entries of [low, commit], of which there is at least
// one, going over internal ones.
func (g *group) read(low, commit uint64, maxBytes int) ([]journal.Entry, error) {
	if !g.j.use.TryRLock() {
		return nil, journal.ErrClosed
	}
	defer g.j.use.RUnlock()
	if g.j.gone {
		return nil, journal.ErrClosed
	}
	var out []journal.Entry
	for low <= commit && len(out) == 0 {
		es, err := g.log.fetch(low, commit+1, uint64(max(maxBytes, 0)))
		if err != nil {
			return nil, err
		}
		for _, e := range es {
			if kindOf(e) == kindData {
				out = append(out, journal.Entry{Position: position(e), Data: record(e)})
			}
		}
		low = es[len(es)-1].GetIndex() + 1
	}
	return out, nil
}

// Last implements journal.Log.
func (g *group) Last() journal.Position {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	return g.log.final
}

// Contains implements journal.Log.
func (g *group) Contains(p journal.Position) bool {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	// A view taken from a peer is there before the log has gone on behind it.
	return g.log.contains(p, g.log.commit) || (p == g.log.incoming && p.Index != 0)
}

// SetMark implements journal.Log.
func (g *group) SetMark(m journal.Mark) { g.j.marks.Set(g.shard, m) }

// Trim implements journal.Log.
func (g *group) Trim(ctx context.Context, upTo journal.Index) error {
	if err := g.dead(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("trim shard %d: %w", g.shard, err)
	}
	if !g.j.use.TryRLock() {
		return journal.ErrClosed
	}
	defer g.j.use.RUnlock()
	if g.j.gone {
		return journal.ErrClosed
	}
	return g.log.trim(uint64(upTo))
}

// durableEnd is the last position that is committed and on this disk.
func (g *group) durableEnd() journal.Position {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	at := min(g.log.commit, g.log.last)
	t, _ := g.log.termAt(at)
	return journal.Position{Term: journal.Term(t), Index: journal.Index(at)}
}
