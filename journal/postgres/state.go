package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bongsu-im/bongsu/journal"
)

// state is a shard as the database has it at one moment.
type state struct {
	term             journal.Term
	owner, ownerNode string
	lineage          lineage
	cut              journal.Index
	history          history
	// missing: the shard's row says that the log ends at claimed, but entries
	// before it do not exist any more; history ends where they do.
	missing bool
	claimed journal.Position
}

// querier is a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// left tells how long the shard's owner may live yet, if it is another node's;
// it takes no lock, so that those who wait do not hold up the owner's appends.
func (j *Journal) left(ctx context.Context, q querier, shard journal.ShardID) (time.Duration, error) {
	var seconds float64
	err := q.QueryRow(ctx, j.sql.left, shard, j.instance, j.node()).Scan(&seconds)
	return time.Duration(max(seconds, 0) * float64(time.Second)), err
}

// load reads a shard's state; lock holds its row until the transaction ends.
func (j *Journal) load(ctx context.Context, q querier, shard journal.ShardID, lock bool) (s state, err error) {
	sql := j.sql.shard
	if lock {
		sql += " FOR UPDATE"
	}
	end := &s.history.end
	err = q.QueryRow(ctx, sql, shard).Scan(&s.term, &s.owner, &s.ownerNode, &s.lineage, &end.Term, &end.Index, &s.cut)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, &journal.CorruptError{Shard: shard, Cause: errors.New("the shard has no row")}
	}
	if err != nil {
		return s, err
	}
	rows, err := q.Query(ctx, j.sql.terms, shard, maxSpans)
	if err != nil {
		return s, err
	}
	s.history.spans, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (sp span, err error) {
		err = r.Scan(&sp.term, &sp.start)
		return sp, err
	})
	if err != nil {
		return s, err
	}
	slices.Reverse(s.history.spans)
	if err := s.history.sound(); err != nil {
		return s, &journal.CorruptError{Shard: shard, Cause: err}
	}
	return s, j.checkTail(ctx, q, shard, &s)
}

// sound checks what must be true of any history.
func (h history) sound() error {
	for i := 1; i < len(h.spans); i++ {
		if a, b := h.spans[i-1], h.spans[i]; a.term >= b.term || a.start >= b.start {
			return fmt.Errorf("term %d starts at %d, the one before, %d, at %d", b.term, b.start, a.term, a.start)
		}
	}
	if h.end.Index > 0 && !h.contains(h.end) {
		return fmt.Errorf("the log ends at term %d index %d, which its terms do not have", h.end.Term, h.end.Index)
	}
	return nil
}

// checkTail looks whether the last entry that the row speaks of exists.
func (j *Journal) checkTail(ctx context.Context, q querier, shard journal.ShardID, s *state) error {
	end := s.history.end
	if end.Index <= s.cut {
		return nil
	}
	var term journal.Term
	err := q.QueryRow(ctx, j.sql.tail, shard, end.Index).Scan(&term)
	switch {
	case err == nil && term != end.Term:
		return &journal.CorruptError{Shard: shard, Index: end.Index, Cause: fmt.Errorf("the last entry is of term %d, the shard's row says %d", term, end.Term)}
	case !errors.Is(err, pgx.ErrNoRows):
		return err
	}
	var longest journal.Index
	if err := q.QueryRow(ctx, j.sql.longest, shard, end.Index).Scan(&longest); err != nil {
		return err
	}
	s.missing, s.claimed = true, end
	s.history.end = s.history.common(journal.Position{Term: end.Term, Index: max(longest, s.cut)})
	return nil
}
