package peers

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// window is the measured time: the warm-up lies between start and begin.
type window struct{ start, begin, end time.Time }

func newWindow(start time.Time, warmUp, length time.Duration) window {
	return window{start, start.Add(warmUp), start.Add(warmUp + length)}
}

func (w window) holds(t time.Time) bool { return !t.Before(w.begin) && t.Before(w.end) }

// stage is what one run of sending and arriving shares between its goroutines.
type stage struct {
	start     time.Time // message texts tell nanoseconds since then
	bytes     int
	window    atomic.Pointer[window] // nil until everybody is online
	latencies *latencies

	acked    atomic.Int64 // messages acknowledged since the window is known
	ackedIn  atomic.Int64 // of those, acknowledged within the window
	arrived  atomic.Int64 // the same of arrivals
	arriveIn atomic.Int64
	errors   atomic.Int64
	strange  atomic.Int64 // arrivals that nobody sent

	mu    sync.Mutex
	first error
}

func newStage(bytes int) *stage {
	return &stage{start: time.Now(), bytes: bytes, latencies: newLatencies()}
}

func (s *stage) fail(err error) {
	s.errors.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == nil {
		s.first = err
	}
}

func (s *stage) firstError() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == nil {
		return ""
	}
	return s.first.Error()
}

// text of a message that counts from a time; sentAt reads it back.
func (s *stage) text(from time.Time) string {
	return body(strconv.FormatInt(int64(from.Sub(s.start)), 10)+" ", s.bytes)
}

// body makes a text of exactly n bytes, or more if head is longer.
func body(head string, n int) string {
	return head + strings.Repeat("x", max(0, n-len(head)))
}

func (s *stage) sentAt(text []byte) (time.Time, bool) {
	var nanos int64
	for i, c := range text {
		switch {
		case c == ' ' && i > 0:
			return s.start.Add(time.Duration(nanos)), true
		case c < '0' || c > '9' || i >= 18: // fewer digits cannot overflow
			return time.Time{}, false
		}
		nanos = nanos*10 + int64(c-'0')
	}
	return time.Time{}, false
}

// delivery returns an Arrived that counts, and records the time since the
// message's own if sample is set.
func (s *stage) delivery(sample bool) Arrived {
	return func(who int, text []byte) {
		now := time.Now()
		w := s.window.Load()
		if w == nil {
			return
		}
		sent, ok := s.sentAt(text)
		if !ok {
			s.strange.Add(1)
			return
		}
		s.arrived.Add(1)
		if w.holds(now) {
			s.arriveIn.Add(1)
		}
		if sample {
			s.sample(w, who, sent, now)
		}
	}
}

// sample records a latency that was under way in the window.
func (s *stage) sample(w *window, who int, from, to time.Time) {
	if from.Before(w.end) && !to.Before(w.begin) {
		s.latencies.record(who, to.Sub(from))
	}
}

// errorPause keeps a loop whose operations fail at once from spinning.
const errorPause = 10 * time.Millisecond

// maxErrors ends a run: a server that is gone will not come back.
const maxErrors = 10_000

// closedLoop has one message outstanding until the window ends. The last one,
// which is under way then, is waited for.
func (s *stage) closedLoop(ctx context.Context, who int, from Sender, sample bool) {
	w := s.window.Load()
	for ctx.Err() == nil && s.errors.Load() < maxErrors {
		began := time.Now()
		if !began.Before(w.end) {
			return
		}
		err := from.Send(ctx, s.text(began))
		ended := time.Now()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.fail(err)
			sleepUntil(ctx, ended.Add(errorPause))
			continue
		}
		s.acked.Add(1)
		if w.holds(ended) {
			s.ackedIn.Add(1)
		}
		if sample {
			s.sample(w, who, began, ended)
		}
	}
}

// maxInFlight bounds the messages of an open loop whose answer is awaited; one
// that finds no place is an error of the run.
const maxInFlight = 50_000

// openLoop begins messages at intended times that depend on nothing, each of
// them counted from its own (no coordinated omission).
func (s *stage) openLoop(ctx context.Context, senders []Sender, rate float64) error {
	w := s.window.Load()
	var wg sync.WaitGroup
	defer wg.Wait()
	places := make(chan struct{}, maxInFlight)
	for k := range int(rate * w.end.Sub(w.start).Seconds()) {
		due := w.start.Add(time.Duration(float64(k) * float64(time.Second) / rate))
		if !sleepUntil(ctx, due) {
			return context.Cause(ctx)
		}
		select {
		case places <- struct{}{}:
		default:
			s.fail(errors.New("the generator has no place for more messages: the server has stalled"))
			continue
		}
		wg.Go(func() {
			defer func() { <-places }()
			if err := senders[k%len(senders)].Send(ctx, s.text(due)); err != nil {
				s.fail(err)
				return
			}
			s.acked.Add(1)
			if w.holds(time.Now()) {
				s.ackedIn.Add(1)
			}
		})
	}
	return nil
}

// drainTimeout is how long messages may still arrive after the window.
const drainTimeout = 10 * time.Second

// drain waits until every acknowledged message has arrived at each of its
// sockets, and charges what has not.
func (s *stage) drain(ctx context.Context, sockets int) {
	for deadline := time.Now().Add(drainTimeout); ; {
		lacking := s.acked.Load()*int64(sockets) - s.arrived.Load()
		if lacking <= 0 {
			break
		}
		if time.Now().After(deadline) || !sleepUntil(ctx, time.Now().Add(20*time.Millisecond)) {
			s.fail(fmt.Errorf("%d deliveries of acknowledged messages are missing after %s", lacking, drainTimeout))
			s.errors.Add(lacking - 1)
			break
		}
	}
	if n := s.strange.Load(); n > 0 {
		s.fail(fmt.Errorf("%d messages arrived that nobody sent", n))
	}
}

// measure runs work over the window that begins now, and reads the clocks of
// the machine at both its ends.
func (s *stage) measure(ctx context.Context, w window, roots []int, work func(ctx context.Context) error) (used shares, err error) {
	s.window.Store(&w)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			if !sleepUntil(ctx, w.begin) {
				return context.Cause(ctx)
			}
			before, err := readUsage(roots)
			if err != nil {
				return err
			}
			if !sleepUntil(ctx, w.end) {
				return context.Cause(ctx)
			}
			after, err := readUsage(roots)
			if err != nil {
				return err
			}
			used = after.since(before)
			return nil
		}()
	}()
	if err := work(ctx); err != nil {
		cancel(err)
		return shares{}, errors.Join(err, <-done)
	}
	return used, <-done
}

// sleepUntil returns false if ctx ended first.
func sleepUntil(ctx context.Context, at time.Time) bool {
	d := time.Until(at)
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// each runs work for 0 … n-1 with at most parallel at once and returns the first
// error, after which no more are begun.
func each(ctx context.Context, n, parallel int, work func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(parallel, n) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := work(ctx, i); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
