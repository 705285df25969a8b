package overload

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrFull is wrapped by Acquire's refusal when the queue is full or a newer
// waiter took the place: nothing was done, come back later.
var ErrFull = errors.New("no free slot")

// FullError is the refusal of Acquire, with a hint.
type FullError struct{ RetryAfter time.Duration }

func (e *FullError) Error() string {
	return fmt.Sprintf("%v, retry after %v", ErrFull, e.RetryAfter)
}

// Unwrap makes errors.Is(err, ErrFull) true.
func (e *FullError) Unwrap() error { return ErrFull }

// Slots limits how many expensive computations run at once. Who finds none
// free waits in a bounded queue that is served newest first: under overload a
// queue served oldest first would compute only for people who have given up.
// When the queue is full its oldest waiter is turned away for the newcomer.
type Slots struct {
	mu     sync.Mutex // guards what follows
	free   int
	queue  []*waiter // oldest first
	most   int       // bound of queue
	slots  int
	waits  uint64
	turned uint64
}

type waiter struct {
	class    Class
	userHash uint64
	verdict  chan bool // buffered: true is a slot, false is turned away
}

// NewSlots makes slots computations (at least 1) with room for queue waiters.
func NewSlots(slots, queue int) *Slots {
	slots = max(slots, 1)
	return &Slots{free: slots, slots: slots, most: max(queue, 0)}
}

// Acquire takes a slot, waiting for one while ctx lasts. Success must be
// followed by one Release. It fails with a *FullError when turned away and
// with ctx's error when ctx ends first.
func (s *Slots) Acquire(ctx context.Context, class Class, userHash uint64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.free > 0 {
		s.free--
		s.mu.Unlock()
		return nil
	}
	if s.most == 0 {
		s.turned++
		s.mu.Unlock()
		return &FullError{RetryAfter(class, 0, s.slots, userHash)}
	}
	if len(s.queue) == s.most {
		oldest := s.queue[0]
		s.queue = append(s.queue[:0], s.queue[1:]...)
		s.turned++
		oldest.verdict <- false
	}
	w := &waiter{class: class, userHash: userHash, verdict: make(chan bool, 1)}
	s.queue = append(s.queue, w)
	s.waits++
	s.mu.Unlock()

	select {
	case slot := <-w.verdict:
		return s.judge(w, slot)
	case <-ctx.Done():
	}
	s.mu.Lock()
	for i, q := range s.queue {
		if q == w {
			s.queue = append(s.queue[:i], s.queue[i+1:]...)
			s.mu.Unlock()
			return ctx.Err()
		}
	}
	s.mu.Unlock()
	// A verdict crossed our giving up: a slot must not be lost.
	if <-w.verdict {
		s.Release()
	}
	return ctx.Err()
}

func (s *Slots) judge(w *waiter, slot bool) error {
	if slot {
		return nil
	}
	return &FullError{RetryAfter(w.class, s.most, s.slots, w.userHash)}
}

// Release gives a slot back, to the newest waiter if there is one.
func (s *Slots) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.queue); n > 0 {
		newest := s.queue[n-1]
		s.queue[n-1] = nil
		s.queue = s.queue[:n-1]
		newest.verdict <- true
		return
	}
	if s.free == s.slots {
		panic("overload: Release without Acquire")
	}
	s.free++
}

// Stats returns how many are waiting now, how many had to wait so far, and how
// many were turned away so far.
func (s *Slots) Stats() (waiting int, waited, turnedAway uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue), s.waits, s.turned
}
