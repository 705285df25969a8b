package load

import (
	"context"
	"errors"
	"math"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if kind := os.Getenv("LOAD_TEST_CHILD"); kind != "" {
		playServer(kind, os.Args[1:])
		return
	}
	goleak.VerifyTestMain(m)
}

// An open loop keeps its times, whatever operations cost: after a stall it
// fires what is due at once, and no intended time moves.
func TestScheduleKeepsItsTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().Add(time.Second)
		s := newSchedule(newWindow(start, 2*time.Second, 3*time.Second), 100)
		if s.count != 500 {
			t.Fatalf("%d operations in 5 s at 100/s", s.count)
		}
		var fired []time.Duration
		err := s.run(t.Context(), func(k int) {
			fired = append(fired, time.Since(start))
			if due := s.due(k).Sub(start); due != time.Duration(k)*10*time.Millisecond {
				t.Fatalf("operation %d is due after %s", k, due)
			}
			if k == 100 {
				time.Sleep(500 * time.Millisecond) // the generator stalls
			}
		})
		if err != nil || len(fired) != 500 {
			t.Fatalf("%d fired, %v", len(fired), err)
		}
		for k, at := range fired {
			want := time.Duration(k) * 10 * time.Millisecond
			if k > 100 && k < 150 {
				want = 1500 * time.Millisecond // all at once when the stall ends
			}
			if at != want {
				t.Fatalf("operation %d fired after %s, want %s", k, at, want)
			}
		}
	})
}

func TestScheduleOfAnUnevenRate(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	s := newSchedule(newWindow(start, 0, time.Hour), 7)
	if s.count != 7*3600 {
		t.Errorf("%d operations", s.count)
	}
	// Times are computed, not added up: no error gathers.
	if got, want := s.due(7*3599), start.Add(3599*time.Second); got.Sub(want).Abs() > time.Microsecond {
		t.Errorf("operation %d is due at %s, want %s", 7*3599, got, want)
	}
	if !s.due(s.count - 1).Before(start.Add(time.Hour)) {
		t.Error("the last operation is due after the end")
	}
}

func TestScheduleEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		boom := errors.New("boom")
		fired := 0
		err := newSchedule(newWindow(time.Now(), 0, time.Minute), 10).run(ctx, func(int) {
			if fired++; fired == 3 {
				cancel(boom)
			}
		})
		if !errors.Is(err, boom) || fired != 3 {
			t.Errorf("%v after %d", err, fired)
		}
	})
}

// A closed loop: the rate counts what ends in the window; the percentiles hold
// all that is under way in it, the slow last one and the failed ones too.
func TestClosedLoopCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWindow(time.Now(), 2*time.Second, 10*time.Second)
		tl, l := &tally{}, newLatencies()
		n := 0
		closedLoop(t.Context(), w, 3, tl, l, func(context.Context) error {
			n++
			switch {
			case n == 1:
				time.Sleep(3 * time.Second) // from the warm-up into the window: 3 s
			case n == 5:
				time.Sleep(time.Second)
				return errors.New("refused")
			case n == 9:
				time.Sleep(time.Minute) // begun in the window, ended far after
			default:
				time.Sleep(time.Second)
			}
			return nil
		})
		// Ends: 3 (n=1), 4, 5, 6, error at 7, pause of 10 ms, 8.01 … 10.01
		// (n=6, 7, 8), and one at 70.01.
		if n != 9 || tl.ops.Load() != 7 || tl.errors.Load() != 1 || tl.firstError() != "refused" {
			t.Errorf("%d begun, %d counted, %d errors (%s)", n, tl.ops.Load(), tl.errors.Load(), tl.firstError())
		}
		h := l.merged()
		if h.TotalCount() != 9 {
			t.Errorf("%d samples, want all 9", h.TotalCount())
		}
		near := func(us int64, want time.Duration) bool {
			return math.Abs(float64(us)-float64(want.Microseconds())) < 0.002*float64(want.Microseconds())
		}
		if !near(h.Max(), time.Minute) || !near(h.ValueAtQuantile(50), time.Second) {
			t.Errorf("max %d µs, median %d µs", h.Max(), h.ValueAtQuantile(50))
		}
	})
}

// A latency of an open loop counts from the intended time, and what is due in
// the window is a sample even if it fails or ends long after.
func TestOpenLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWindow(time.Now(), 2*time.Second, 4*time.Second)
		tl, l := &tally{}, newLatencies()
		err := openLoop(t.Context(), w, 10, tl, l, func(_ context.Context, k int, due time.Time) error {
			if !due.Equal(time.Now()) {
				t.Errorf("operation %d is %s late", k, time.Since(due))
			}
			switch {
			case k == 5 || k == 30:
				return errors.New("refused") // of the warm-up, and of the window
			case k == 59:
				time.Sleep(time.Minute)
			default:
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		})
		h := l.merged()
		// Due at 2.0 … 5.9 s, of which those due by 5.8 s end by 5.9 s.
		if err != nil || h.TotalCount() != 40 || tl.ops.Load() != 38 || tl.errors.Load() != 1 || h.Max() < 59_900_000 {
			t.Errorf("%v: %d samples up to %d µs, %d operations, %d errors", err, h.TotalCount(), h.Max(), tl.ops.Load(), tl.errors.Load())
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		boom := errors.New("boom")
		err = openLoop(ctx, newWindow(time.Now(), 0, time.Hour), 1, tl, l, func(context.Context, int, time.Time) error {
			cancel(boom)
			return nil
		})
		if !errors.Is(err, boom) {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestClosedLoopCountsNothingOfTheWarmUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWindow(time.Now(), 5*time.Second, time.Second)
		tl, l := &tally{}, newLatencies()
		closedLoop(t.Context(), w, 0, tl, l, func(context.Context) error {
			time.Sleep(400 * time.Millisecond)
			if time.Now().Before(w.begin) {
				return errors.New("early")
			}
			return nil
		})
		if tl.errors.Load() != 0 || tl.ops.Load() < 2 || tl.ops.Load() > 3 {
			t.Errorf("%d operations, %d errors", tl.ops.Load(), tl.errors.Load())
		}
	})
}

func TestLatencies(t *testing.T) {
	l := newLatencies()
	w := newWindow(time.Now(), time.Second, time.Second)
	l.over(w)
	for i := 1; i <= 1000; i++ {
		l.record(i, w.begin.Add(time.Duration(i)*2*time.Millisecond), time.Duration(i)*time.Millisecond)
	}
	l.record(1, w.start, 0) // before the window: of its first second
	l.record(1, w.begin.Add(24*time.Hour), 24*time.Hour)
	seconds := l.bySecond()
	if len(seconds) != maxSeconds || seconds[0].TotalCount() != 500 || seconds[1].TotalCount() != 500 || seconds[2].TotalCount() != 1 ||
		seconds[3] != nil || seconds[maxSeconds-1].TotalCount() != 1 {
		t.Errorf("%d seconds, the first of %d", len(seconds), seconds[0].TotalCount())
	}
	h := l.merged()
	if h.TotalCount() != 1002 || h.Min() != 1 || h.Max() < latencyMax.Microseconds() {
		t.Errorf("%d samples from %d to %d µs", h.TotalCount(), h.Min(), h.Max())
	}
	for q, want := range map[float64]int64{50: 500_000, 90: 901_000, 99: 991_000} {
		if got := h.ValueAtQuantile(q); math.Abs(float64(got-want)) > 2000 {
			t.Errorf("p%g = %d µs, want about %d", q, got, want)
		}
	}
}

func TestEach(t *testing.T) {
	var last int
	seen := make([]bool, 100)
	err := each(t.Context(), 100, 7, func(done, total int) { last = done }, func(_ context.Context, i int) error {
		seen[i] = true
		return nil
	})
	if err != nil || last != 100 || slices.Contains(seen, false) {
		t.Errorf("%v, %d done", err, last)
	}
	boom := errors.New("boom")
	begun := 0
	err = each(t.Context(), 100, 1, func(int, int) {}, func(_ context.Context, i int) error {
		begun++
		if i == 4 {
			return boom
		}
		return nil
	})
	if !errors.Is(err, boom) || begun != 5 {
		t.Errorf("%v after %d", err, begun)
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []time.Duration
		want time.Duration
	}{{nil, 0}, {[]time.Duration{5}, 5}, {[]time.Duration{9, 1}, 5}, {[]time.Duration{3, 1, 2}, 2}, {[]time.Duration{4, 1, 100, 2}, 3}} {
		if got := median(c.in); got != c.want {
			t.Errorf("median(%v) = %v", c.in, got)
		}
	}
}

func TestProbeFsyncLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	d, err := probeFsync(dir)
	if err != nil || d <= 0 {
		t.Errorf("%s, %v", d, err)
	}
	if _, err := probeFsync(dir + "/missing"); err == nil {
		t.Error("a missing folder can be probed")
	}
}
