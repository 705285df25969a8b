package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/bongsu-im/bongsu/internal/clock"
	"github.com/bongsu-im/bongsu/journal"
)

// scrubBytes is how much is read in one step.
const scrubBytes = 1 << 20

// Scrub implements journal.Journal.
func (j *Journal) Scrub(ctx context.Context, progress func(done uint64)) error {
	return j.ScrubEntries(ctx, progress, nil)
}

// ScrubEntries is Scrub that also shows every data entry to visit, shard by
// shard in order, as with journal.Chain to check the running hash. An error of
// visit is taken for damage of the entry.
//
// It reads every entry that is known to be durable and checks that none is
// missing, its checksum, and that its term is that of the table of terms. What
// the database has on its own disks and standbys is the database's to check
// (data checksums, pg_amcheck): a query sees one copy. Damage is returned, and
// fences the store unless it is a lost tail, which leaves its shard alone.
func (j *Journal) ScrubEntries(ctx context.Context, progress func(done uint64), visit func(journal.ShardID, journal.Entry) error) error {
	if err := j.enter(); err != nil {
		return err
	}
	defer j.using.Done()
	var done uint64
	var lost []error
	for _, l := range j.logs {
		err := l.scrub(ctx, visit, func(n int) {
			if done += uint64(n); progress != nil {
				progress(done)
			}
		})
		if errors.As(err, new(*journal.LostTailError)) {
			lost = append(lost, err)
			continue
		}
		if errors.As(err, new(*journal.CorruptError)) {
			j.fence(err)
		}
		if err != nil {
			return fmt.Errorf("scrub: %w", err)
		}
	}
	return errors.Join(lost...)
}

func (l *shardLog) scrub(ctx context.Context, visit func(journal.ShardID, journal.Entry) error, progress func(int)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	at := l.cutNow()
	for failures := 0; ; {
		l.mu.Lock()
		end, lost := l.history.end.Index, l.lost
		at = max(at, l.cut)
		l.mu.Unlock()
		if at >= end {
			if lost != nil {
				return lost
			}
			return nil
		}
		es, err := l.fetch(ctx, at, end, scrubBytes)
		if err != nil {
			if err = l.readFailed(ctx, at, err); err != nil {
				return err
			}
			clock.Sleep(ctx, backoff(failures))
			failures++
			continue
		}
		for _, e := range es {
			if visit != nil {
				if err := visit(l.shard, e); err != nil {
					return &journal.CorruptError{Shard: l.shard, Index: e.Index, Cause: err}
				}
			}
			at = e.Index
		}
		progress(len(es))
	}
}
