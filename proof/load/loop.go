package load

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bongsu-im/bongsu/client"
)

// window is the measured time: the warm-up lies between start and begin.
type window struct{ start, begin, end time.Time }

func newWindow(start time.Time, warmUp, length time.Duration) window {
	return window{start, start.Add(warmUp), start.Add(warmUp + length)}
}

func (w window) length() time.Duration { return w.end.Sub(w.begin) }

func (w window) holds(t time.Time) bool { return !t.Before(w.begin) && t.Before(w.end) }

// tally counts what happened in a window.
type tally struct {
	ops, errors, duplicates, disordered atomic.Int64

	mu    sync.Mutex
	first error
}

func (t *tally) fail(err error) {
	t.errors.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.first == nil {
		t.first = err
	}
}

func (t *tally) firstError() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.first == nil {
		return ""
	}
	return t.first.Error()
}

// errorPause keeps a loop whose operations are refused at once from spinning.
const errorPause = 10 * time.Millisecond

// closedLoop runs op again and again until the window ends. The last one, which
// is under way then, is waited for: its latency is a sample.
func closedLoop(ctx context.Context, w window, who int, t *tally, l *latencies, op func(context.Context) error) {
	for ctx.Err() == nil {
		began := time.Now()
		if !began.Before(w.end) {
			return
		}
		err := op(ctx)
		ended := time.Now()
		if ctx.Err() != nil {
			return
		}
		if !ended.Before(w.begin) {
			l.record(who, ended, ended.Sub(began))
			if err != nil {
				t.fail(err)
			} else if w.holds(ended) {
				t.ops.Add(1)
			}
		}
		if err != nil {
			sleepUntil(ctx, ended.Add(max(client.RetryAfter(err), errorPause)))
		}
	}
}

// schedule is the intended times of an open loop: operation k of it, from 0, is
// due k/rate seconds after start.
type schedule struct {
	start time.Time
	rate  float64
	count int
}

func newSchedule(w window, rate float64) schedule {
	return schedule{w.start, rate, int(rate * w.end.Sub(w.start).Seconds())}
}

func (s schedule) due(k int) time.Time {
	return s.start.Add(time.Duration(float64(k) * float64(time.Second) / s.rate))
}

// run calls fire for each operation at its time or, when it is behind, as soon
// as it can; it never skips one. fire must not wait for the operation.
func (s schedule) run(ctx context.Context, fire func(k int)) error {
	for k := range s.count {
		if !sleepUntil(ctx, s.due(k)) {
			return context.Cause(ctx)
		}
		fire(k)
	}
	return nil
}

// maxInFlight bounds the operations of an open loop that are under way; one
// that finds no place is an error of the run.
const maxInFlight = 50_000

var errNoPlace = errors.New("the generator has no place for more operations: the server has stalled")

// open runs do for each operation at its time, each on a goroutine of wg, and
// tells of those that found no place.
func (s schedule) open(ctx context.Context, wg *sync.WaitGroup, do func(k int), refused func(k int, err error)) error {
	places := make(chan struct{}, maxInFlight)
	return s.run(ctx, func(k int) {
		select {
		case places <- struct{}{}:
		default:
			refused(k, errNoPlace)
			return
		}
		wg.Go(func() {
			defer func() { <-places }()
			do(k)
		})
	})
}

// openLoop runs op at the intended times of a schedule and waits for the last
// one. A latency counts from the intended time; all that are due in the window
// are samples, however late they end and whether they succeed or not.
func openLoop(ctx context.Context, w window, rate float64, t *tally, l *latencies, op func(ctx context.Context, k int, due time.Time) error) error {
	s := newSchedule(w, rate)
	end := func(k int, err error) {
		due, ended := s.due(k), time.Now()
		if ctx.Err() != nil || !w.holds(due) {
			return
		}
		l.record(k, ended, ended.Sub(due))
		if err != nil {
			t.fail(err)
		} else if w.holds(ended) {
			t.ops.Add(1)
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	return s.open(ctx, &wg, func(k int) { end(k, op(ctx, k, s.due(k))) }, end)
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
func each(ctx context.Context, n, parallel int, progress func(done, total int), work func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		next atomic.Int64
		mu   sync.Mutex
		done int
		wg   sync.WaitGroup
	)
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
				mu.Lock()
				done++
				progress(done, n)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
