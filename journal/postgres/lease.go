package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bongsu-im/bongsu/journal"
)

// lineageJump is added to the term, instead of 1, when the database is not the
// one that the last term was given by (a promoted standby, a restored copy): a
// history that was lost may have known terms that nobody here remembers, and
// none of its positions may be given again.
const lineageJump = 1 << 20

// Lease implements journal.Log. It rides out a database that is away, however
// long; ctx ends it.
func (l *shardLog) Lease(ctx context.Context) (journal.Lease, error) {
	if err := l.j.enter(); err != nil {
		return journal.Lease{}, err
	}
	defer l.j.using.Done()
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return journal.Lease{}, fmt.Errorf("lease of shard %d: %w", l.shard, ctx.Err())
	case <-l.j.closing:
		return journal.Lease{}, journal.ErrClosed
	}
	for failures := 0; ; {
		if err := l.mayLease(ctx); err != nil {
			return journal.Lease{}, err
		}
		if lease, ok := l.held(); ok {
			return lease, nil
		}
		freed := l.j.freed.wait()
		left, err := l.take(ctx)
		if err == nil && left == 0 {
			continue
		}
		pause := min(left, 500*time.Millisecond) + backoff(0) // a notice may get lost
		if err != nil {
			if err = l.leaseFailed(err); err != nil {
				return journal.Lease{}, err
			}
			pause = backoff(failures)
			failures, freed = failures+1, nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-freed:
		case <-ctx.Done():
		case <-l.j.closing:
		case <-l.j.down:
		}
		timer.Stop()
	}
}

func (l *shardLog) mayLease(ctx context.Context) error {
	if err := l.j.dead(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("lease of shard %d: %w", l.shard, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost != nil {
		return l.lost
	}
	return nil
}

// held returns the lease that we have, brought up to date. No append is under
// way, as the caller has the turn, and one whose outcome is unknown has ended
// the lease: the end is all there is.
func (l *shardLog) held() (journal.Lease, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lease.Applied = l.history.end.Index
	return l.lease, l.owned
}

// leaseFailed tells what a failed attempt means: nil to try again.
func (l *shardLog) leaseFailed(err error) error {
	var lost *journal.LostTailError
	if errors.As(err, &lost) {
		return lost
	}
	if l.j.ctx.Err() == nil {
		if err := l.j.judge(err); errors.As(err, new(*journal.FencedError)) {
			return err
		}
		l.j.cfg.Logger.Warn("ownership waits for the journal's database", "shard", l.shard, "error", err)
	}
	return nil
}

// take makes this instance the owner, or returns how long the present one may
// still be alive. The shard's row is locked first: an append that is under way
// anywhere has then been settled, one that comes later finds another term.
func (l *shardLog) take(ctx context.Context) (left time.Duration, err error) {
	ctx, cancel := l.j.during(ctx, l.j.cfg.CommitTimeout)
	defer cancel()
	var s state
	err = l.j.pool.use(ctx, func(k *link) error {
		if left, err = l.j.left(ctx, k.conn, l.shard); err != nil || left > 0 {
			return err
		}
		err := k.transact(ctx, func(tx pgx.Tx) error {
			if s, err = l.j.load(ctx, tx, l.shard, true); err != nil {
				return err
			}
			if left, err = l.j.left(ctx, tx, l.shard); err != nil || left > 0 {
				return err
			}
			if err := l.check(s, l.provenNow()); err != nil {
				return err
			}
			return l.crown(ctx, tx, k.server.lineage, &s)
		})
		// Committed and acknowledged: everything that was visible is durable.
		if err == nil && left == 0 {
			l.accept(s)
		}
		return err
	})
	var lost *journal.LostTailError
	if errors.As(err, &lost) {
		l.lose(lost, s)
	}
	return left, err
}

func (j *Journal) node() string { return strconv.FormatUint(j.cfg.Node, 10) }

// crown writes the new term into the shard's row and changes s to it.
func (l *shardLog) crown(ctx context.Context, tx pgx.Tx, lineage lineage, s *state) error {
	term := s.term + 1
	if s.lineage != "" && s.lineage != lineage {
		term = s.term + lineageJump
	}
	term = max(term, l.provenNow().Term+1)
	if _, err := tx.Exec(ctx, l.j.sql.take, l.shard, term, l.j.instance, l.j.node(), lineage); err != nil {
		return err
	}
	start := s.history.end.Index + 1
	spans := s.history.spans
	for len(spans) > 0 && spans[len(spans)-1].start >= start {
		spans = spans[:len(spans)-1]
	}
	if len(spans) >= maxSpans {
		spans = spans[len(spans)-maxSpans+1:]
	}
	oldest := term
	if len(spans) > 0 {
		oldest = spans[0].term
	}
	if _, err := tx.Exec(ctx, l.j.sql.dropTerms, l.shard, start, oldest); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, l.j.sql.addTerm, l.shard, term, start); err != nil {
		return err
	}
	s.term, s.history.spans = term, append(spans, span{term: term, start: start})
	return nil
}

// accept makes s, in which this instance owns the shard, ours.
func (l *shardLog) accept(s state) {
	l.mu.Lock()
	l.history, l.cut = s.history, max(l.cut, s.cut)
	l.lease, l.owned = journal.Lease{Term: s.term, Applied: s.history.end.Index}, true
	l.mu.Unlock()
	l.changed.wake()
}

// provenNow is the farthest position that the log is known to have had.
func (l *shardLog) provenNow() journal.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.proven.Index > l.history.end.Index {
		return l.proven
	}
	return l.history.end
}

// check returns the *journal.LostTailError if the database lacks what is proven.
func (l *shardLog) check(s state, proven journal.Position) error {
	l.mu.Lock()
	byMarks := l.proven
	l.mu.Unlock()
	e := &journal.LostTailError{Shard: l.shard}
	switch {
	case !s.history.contains(proven):
		e.Proven, e.Proof = proven, "what this node has seen acknowledged"
		if proven == byMarks {
			e.Proof = "this machine's high-water mark"
		}
	case !s.history.contains(byMarks):
		e.Proven, e.Proof = byMarks, "this machine's high-water mark"
	case s.missing:
		e.Proven, e.Proof = s.claimed, "the shard's own row in the database"
	default:
		return nil
	}
	e.Have = s.history.common(e.Proven)
	return e
}

// lose leaves the shard alone from now on: what exists is shown, nothing follows.
func (l *shardLog) lose(e *journal.LostTailError, s state) {
	l.mu.Lock()
	first := l.lost == nil
	if first {
		l.lost, l.owned = e, false
		l.history, l.cut = s.history, s.cut
		l.history.end = e.Have
	}
	l.mu.Unlock()
	l.changed.wake()
	if first {
		l.j.noteLost(e)
	}
}

// adopt compares what the database has with a position that it must have, and
// takes note of what is new, which the caller knows to be durable. It returns
// the *journal.LostTailError if the shard is damaged.
func (l *shardLog) adopt(s state, known journal.Position) error {
	err := l.check(s, known)
	var lost *journal.LostTailError
	if errors.As(err, &lost) {
		l.lose(lost, s)
		return lost
	}
	l.mu.Lock()
	if l.lost != nil {
		defer l.mu.Unlock()
		return l.lost
	}
	if !l.owned && s.history.end.Index >= l.history.end.Index {
		l.history = s.history
	}
	l.cut = max(l.cut, s.cut)
	l.mu.Unlock()
	l.changed.wake()
	return nil
}
