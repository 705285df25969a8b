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
	err   error
}

func (s *space) check() error {
	if s.reserve == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	if since := now.Sub(s.asked); !s.asked.IsZero() && since >= 0 && since < spaceEvery {
		return s.err
	}
	s.asked = now
	usage, err := s.fs.GetDiskUsage(s.dir)
	switch {
	case errors.Is(err, vfs.ErrUnsupported):
		s.err = nil // a file system in memory
	case err != nil:
		s.err = fmt.Errorf("%w: free space unknown: %w", journal.ErrNoSpace, err)
	case usage.AvailBytes < s.reserve:
		s.err = fmt.Errorf("%w: %d MiB free, %d MiB are kept", journal.ErrNoSpace, usage.AvailBytes>>20, s.reserve>>20)
	default:
		s.err = nil
	}
	return s.err
}
