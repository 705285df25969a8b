package view

import (
	"context"
	"errors"
	"fmt"
	"time"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
)

// maxSublevels is how many overlapping sublevels of tables a flush tolerates
// before it waits for compactions: each costs every read a look.
const maxSublevels = 26

// Run flushes every FlushEvery, and as soon as FlushBytes are waiting, until
// ctx ends (nil) or the store fences (the *FencedError). One Run a store.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.FlushEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.fence.closed:
			return s.Err()
		case <-tick.C:
		case <-s.flushNow:
		}
		if s.unflushed.Load() == 0 && !s.holding() {
			continue
		}
		if err := s.Flush(); err != nil && !errors.Is(err, ErrClosed) {
			return err
		}
	}
}

// Flush makes everything committed so far durable. The error is a *FencedError
// or ErrClosed.
func (s *Store) Flush() error {
	done, err := s.use()
	if err != nil {
		return err
	}
	defer done()
	return s.flush()
}

func (s *Store) flush() error {
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	if err := s.flushLocked(); err != nil {
		return err
	}
	return s.waitForCompactions()
}

// flushLocked is one flush; the caller holds flushMu.
func (s *Store) flushLocked() error {
	if s.cfg.BeforeFlush != nil {
		if err := s.cfg.BeforeFlush(); err != nil {
			s.log.Warn("before a flush of the view", "error", err)
		}
	}
	// Read before what is held is written and the memtable sealed: what these
	// say is in it or on disk.
	marks := s.Marks()
	for _, sh := range s.shards {
		if err := sh.settle(); err != nil {
			return err
		}
	}
	waiting := s.unflushed.Load()
	sealed, err := s.db.AsyncFlush()
	if err != nil {
		return s.fail(fmt.Errorf("flush view: %w", err), false)
	}
	select {
	case <-sealed:
	case <-s.fence.closed:
	}
	if err := s.Err(); err != nil {
		return err
	}
	s.unflushed.Add(-waiting)
	if s.cfg.AfterFlush != nil {
		s.cfg.AfterFlush(marks)
	}
	return nil
}

// holding tells whether any shard has committed what is not in Pebble yet.
func (s *Store) holding() bool {
	for _, sh := range s.shards {
		sh.mu.Lock()
		holds := sh.held.mark != nil
		sh.mu.Unlock()
		if holds {
			return true
		}
	}
	return false
}

// waitForCompactions holds flushes back while reads would suffer. Commit waits
// in turn, for the flush, once too much is unflushed.
func (s *Store) waitForCompactions() error {
	for s.db.Metrics().Levels[0].Sublevels > maxSublevels {
		select {
		case <-s.compacted:
		case <-s.fence.closed:
			return s.Err()
		}
	}
	return nil
}

// Marks returns where every shard stands now, by number.
func (s *Store) Marks() []*journalv1.Mark {
	marks := make([]*journalv1.Mark, len(s.shards))
	for n, sh := range s.shards {
		marks[n] = sh.Mark()
	}
	return marks
}
