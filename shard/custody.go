package shard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	"github.com/bongsu-im/bongsu/internal/clock"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/view"
)

// MakeSnapshot opens a snapshot of a shard's view and says where it stands. A
// shard that has stopped, or has not compared its view with its journal yet,
// gives none: what is wrong here must not go to others.
func (s *Set) MakeSnapshot(ctx context.Context, shard journal.ShardID) (journal.Mark, io.ReadCloser, error) {
	o, err := s.at(shard)
	if err != nil {
		return journal.Mark{}, nil, err
	}
	if err := ctx.Err(); err != nil {
		return journal.Mark{}, nil, err
	}
	if err := o.trusted(); err != nil {
		return journal.Mark{}, nil, err
	}
	snap, err := o.view.Snapshot()
	if err != nil {
		return journal.Mark{}, nil, fmt.Errorf("snapshot of shard %d: %w", shard, err)
	}
	return journalMark(snap.Mark()), snap, nil
}

// RestoreSnapshot replaces a shard's view by a snapshot that MakeSnapshot has
// made on another node, standing at mark: durably and whole, or not at all. The
// shard need not be stopped for it; it goes on behind mark, once its journal
// does. A view is never taken back to an earlier position.
func (s *Set) RestoreSnapshot(ctx context.Context, shard journal.ShardID, mark journal.Mark, r io.Reader) error {
	o, err := s.at(shard)
	if err != nil {
		return err
	}
	have, began := o.view.Mark().GetIndex(), time.Now()
	want := &journalv1.Mark{Term: uint64(mark.Term), Index: uint64(mark.Index), Hash: mark.Hash[:]}
	if err := o.view.Restore(ctx, want, r); err != nil {
		return err
	}
	o.logger.Info("the view was replaced by a peer's", "from", have, "to", mark.Index, "took", time.Since(began).Round(time.Millisecond))
	o.replaced()
	return nil
}

func (s *Set) at(shard journal.ShardID) (*owner, error) {
	if int(shard) >= len(s.owners) {
		return nil, fmt.Errorf("shard %d: there are %d", shard, len(s.owners))
	}
	return s.owners[shard], nil
}

// trusted tells why the view is not to be shown to other nodes; nil if it is.
func (o *owner) trusted() error {
	if why := o.status.reason(); why != nil && *why != notOwner {
		return fmt.Errorf("shard %d: %w", o.n, o.status.ready())
	}
	if !o.current.Load() {
		return fmt.Errorf("shard %d: its view has not caught up with its journal yet", o.n)
	}
	return nil
}

// replaced goes on after the view has moved without its owner: who waits for a
// position looks again, the outbox is looked through, as its news have not been
// heard, and so must do who listens to the feed.
func (o *owner) replaced() {
	o.metrics.replaced.Inc()
	o.applied.wake()
	o.pump.lookAgain()
	o.set.cfg.Replaced(o.n)
}

// moved tells whether the view stands elsewhere than at: it was replaced.
func (o *owner) moved(at journal.Index) bool { return journal.Index(o.view.Mark().GetIndex()) != at }

const (
	fetchFirst = 200 * time.Millisecond // between two attempts to fetch a view
	fetchLast  = 10 * time.Second
)

// fetchView has the view taken from a peer, because the journal has no longer
// what follows at. It returns nil once the view stands elsewhere.
func (o *owner) fetchView(ctx context.Context, at journal.Index) error {
	o.logger.Warn("the journal no longer has the entries that the view lacks; taking the view from a peer", "view", at, "journal", o.log.Last().Index)
	for wait := fetchFirst; ; wait = min(2*wait, fetchLast) {
		changed := o.applied.wait()
		if o.moved(at) {
			return nil
		}
		err := o.set.cfg.FetchView(ctx, o.n)
		switch {
		case o.moved(at):
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("fetch the view: %w", ctx.Err())
		case fenced(err):
			return fmt.Errorf("fetch the view: %w", err)
		}
		o.logger.Warn("the view could not be taken from a peer", "error", err, "again_in", wait)
		if err := o.pause(ctx, wait, changed); err != nil {
			return fmt.Errorf("fetch the view: %w", err)
		}
	}
}

func (o *owner) pause(ctx context.Context, wait time.Duration, changed <-chan struct{}) error {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-changed:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// fenced tells of errors that no repeating helps against.
func fenced(err error) bool {
	var ofView *view.FencedError
	var ofJournal *journal.FencedError
	return errors.As(err, &ofView) || errors.As(err, &ofJournal) || errors.Is(err, view.ErrClosed) || errors.Is(err, journal.ErrClosed)
}

// Digest hashes all that a shard's view holds, at the position that it returns:
// replicas that stand at the same position have the same digest, or one of them
// is damaged. It reads at no more than Config.DigestRate.
func (s *Set) Digest(ctx context.Context, shard journal.ShardID) (journal.Position, [32]byte, error) {
	o, err := s.at(shard)
	if err != nil {
		return journal.Position{}, [32]byte{}, err
	}
	if err := o.trusted(); err != nil {
		return journal.Position{}, [32]byte{}, err
	}
	look, err := o.view.Reader()
	if err != nil {
		return journal.Position{}, [32]byte{}, fmt.Errorf("digest of shard %d: %w", shard, err)
	}
	return s.digest(ctx, look)
}

// DigestAt is Digest of the view as it stands after the last record at or before
// an index to come, however busy the shard is: it waits until the view stands
// there or is about to go past. A view that is past already is an error. So
// replicas that are asked for an index a little ahead of them all are compared.
func (s *Set) DigestAt(ctx context.Context, shard journal.ShardID, at journal.Index) (journal.Position, [32]byte, error) {
	o, err := s.at(shard)
	if err != nil {
		return journal.Position{}, [32]byte{}, err
	}
	if err := o.trusted(); err != nil {
		return journal.Position{}, [32]byte{}, err
	}
	look, err := o.lookAt(ctx, at)
	if err != nil {
		return journal.Position{}, [32]byte{}, fmt.Errorf("digest of shard %d at %d: %w", shard, at, err)
	}
	return s.digest(ctx, look)
}

// digest hashes a look and closes it.
func (s *Set) digest(ctx context.Context, look *view.Reader) (at journal.Position, sum [32]byte, err error) {
	defer func() { err = errors.Join(err, look.Close()) }()
	mark, err := look.Mark()
	if err != nil {
		return at, sum, err
	}
	began, read := time.Now(), int64(0)
	sum, err = look.Digest(ctx, func(ctx context.Context, n int) error {
		read += int64(n)
		due := time.Duration(float64(read) / float64(s.cfg.DigestRate) * float64(time.Second))
		if !clock.Sleep(ctx, due-time.Since(began)) {
			return ctx.Err()
		}
		return nil
	})
	return position(mark), sum, err
}
