package raft

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/bongsu-im/bongsu/internal/clock"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
)

// spaceEvery is how often the disk is asked what is free.
const spaceEvery = time.Second

// space refuses appends while the disk has less than the reserve free, so that a
// full disk is met by a definite refusal and not by the fence.
type space struct {
	fs      durable.FS
	dir     string
	reserve uint64 // bytes; 0 turns the check off
	clock   clock.Clock

	mu    sync.Mutex
	asked time.Time
	avail uint64
	err   error // why avail is not known
}

// check refuses while less than the reserve is free.
func (s *space) check() error { return s.short(s.reserve) }

// short refuses while less than want bytes are free.
func (s *space) short(want uint64) error {
	if s.reserve == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	if since := now.Sub(s.asked); s.asked.IsZero() || since < 0 || since >= spaceEvery {
		s.asked = now
		usage, err := s.fs.GetDiskUsage(s.dir)
		s.avail, s.err = usage.AvailBytes, err
	}
	switch {
	case errors.Is(s.err, vfs.ErrUnsupported):
		return nil // a file system in memory
	case s.err != nil:
		return fmt.Errorf("%w: free space unknown: %w", journal.ErrNoSpace, s.err)
	case s.avail < want:
		return fmt.Errorf("%w: %d MiB free, %d MiB are kept", journal.ErrNoSpace, s.avail>>20, s.reserve>>20)
	}
	return nil
}

// Room returns an error that wraps journal.ErrNoSpace while the disk has less
// free than the reserve and half as much again: who leads a shard then does well
// to give it away, before appends are refused.
func (j *Journal) Room() error { return j.space.short(j.space.reserve + j.space.reserve/2) }
