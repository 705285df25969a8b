package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/highwater"
)

// noteLost takes note of a shard that is left alone.
func (j *Journal) noteLost(e *journal.LostTailError) {
	j.mu.Lock()
	j.damage = append(j.damage, e)
	j.mu.Unlock()
	j.cfg.Logger.Error("acknowledged entries are missing from the journal; the shard is left alone until the loss is accepted",
		"shard", e.Shard, "err", e)
}

// Damage tells what is known to be wrong: *journal.LostTailError for each shard
// that lacks what is proven (it does not run) or what ReportLost was told (it
// runs), and *highwater.Error for damaged copies of the marks. It can grow while the
// journal is open: a database may fail over at any time.
func (j *Journal) Damage() []error {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := append([]error(nil), j.damage...)
	for shard := range j.logs {
		if e := j.reported[journal.ShardID(shard)]; e != nil {
			out = append(out, e)
		}
	}
	return out
}

// ReportLost takes note that someone, named by proof, holds a position that was
// acknowledged. It returns nil if the history has it, else the
// *journal.LostTailError, which Damage tells from then on (the farthest of each
// shard). The shard goes on: what a client says does not stop the others.
func (j *Journal) ReportLost(shard journal.ShardID, proven journal.Position, proof string) error {
	l := j.logs[shard]
	l.mu.Lock()
	has, have := l.history.contains(proven), l.history.common(proven)
	l.mu.Unlock()
	if has {
		return nil
	}
	e := &journal.LostTailError{Shard: shard, Have: have, Proven: proven, Proof: proof}
	j.mu.Lock()
	defer j.mu.Unlock()
	if old := j.reported[shard]; old == nil || proven.Index > old.Proven.Index {
		j.reported[shard] = e
		if old == nil {
			j.cfg.Logger.Error("acknowledged entries are missing from the journal", "shard", shard, "err", e)
		}
	}
	return e
}

// AcceptLoss lets a shard that was left alone for a missing tail go on from what
// exists, for all nodes, with no journal of this node open. It returns exactly
// what is given up, which the caller should record. It is safe to repeat if it
// is cut off: the marks, which prove the loss, are put back last.
func AcceptLoss(ctx context.Context, cfg Config, shard journal.ShardID) (journal.Loss, error) {
	j, err := prepare(cfg)
	if err != nil {
		return journal.Loss{}, fmt.Errorf("accept loss: %w", err)
	}
	var loss journal.Loss
	if err = j.reach(ctx); err == nil {
		loss, err = j.acceptLoss(ctx, shard)
	}
	if err := errors.Join(err, j.Close()); err != nil {
		return journal.Loss{}, fmt.Errorf("accept loss of shard %d: %w", shard, err)
	}
	return loss, nil
}

func (j *Journal) acceptLoss(ctx context.Context, shard journal.ShardID) (journal.Loss, error) {
	if int(shard) >= len(j.logs) {
		return journal.Loss{}, fmt.Errorf("there are %d shards", len(j.logs))
	}
	l := j.logs[shard]
	e := l.lost
	if e == nil {
		return journal.Loss{}, journal.ErrNoLoss
	}
	ctx, cancel := j.during(ctx, j.cfg.OpenTimeout)
	defer cancel()
	err := j.pool.use(ctx, func(k *link) error {
		return k.transact(ctx, func(tx pgx.Tx) error {
			s, err := j.load(ctx, tx, shard, true)
			if err != nil {
				return err
			}
			return j.cutOff(ctx, tx, s, e)
		})
	})
	if err != nil {
		return journal.Loss{}, err
	}
	j.marks.writing.Lock()
	defer j.marks.writing.Unlock()
	next := append([]highwater.Mark(nil), j.marks.saved...)
	next[shard] = highwater.Mark{End: e.Have}
	for range highwater.Copies { // both copies: the older one proves the loss as well
		if err := j.marks.write(next); err != nil {
			return journal.Loss{}, err
		}
	}
	return e.Loss(), nil
}

// cutOff makes the history end at what is common with the lost one, or, where
// another has grown past it that others have been told of, leaves that as it is.
// The next term is far above any that the lost part can have used.
func (j *Journal) cutOff(ctx context.Context, tx pgx.Tx, s state, e *journal.LostTailError) error {
	end := s.history.end
	if s.missing {
		end = e.Have
	}
	term := max(s.term, e.Proven.Term) + lineageJump
	if _, err := tx.Exec(ctx, j.sql.setEnd, e.Shard, term, end.Term, end.Index); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, j.sql.cutTail, e.Shard, end.Index); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, j.sql.cutTerms, e.Shard, end.Index)
	return err
}
