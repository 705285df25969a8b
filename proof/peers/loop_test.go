package peers

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakePeer answers after a time, and can be told to fail.
type fakePeer struct {
	name      string
	takes     time.Duration
	refuses   int  // every so many messages; 0: none
	loses     int  // deliveries, every so many; 0: none
	garbles   bool // delivers what nobody sent, besides
	stallFrom time.Duration
	stallTo   time.Duration
	page      int
	calls     []string

	mu    sync.Mutex
	sent  int
	begun time.Time
}

func (f *fakePeer) Name() string          { return f.name }
func (f *fakePeer) Lacks() string         { return "" }
func (f *fakePeer) Describe() Description { return Description{Version: "fake", Durable: true} }
func (f *fakePeer) Processes() []int      { return []int{os.Getpid()} }

func (f *fakePeer) Start(_ context.Context, dir string) error {
	if _, err := os.Stat(dir); err != nil {
		return err
	}
	f.calls = append(f.calls, "start")
	return nil
}

func (f *fakePeer) Stop() error {
	f.calls = append(f.calls, "stop")
	return nil
}

func (f *fakePeer) Pairs(_ context.Context, n int, arrived Arrived) (out []Sender, err error) {
	f.begun = time.Now()
	for i := range n {
		out = append(out, &fakeSender{f, func(text []byte) { arrived(i, text) }, 1})
	}
	return out, nil
}

func (f *fakePeer) Room(_ context.Context, members, senders int, arrived Arrived) (out []Sender, err error) {
	for range senders {
		out = append(out, &fakeSender{f, func(text []byte) {
			for m := range members {
				arrived(m, text)
			}
		}, members})
	}
	return out, nil
}

func (f *fakePeer) Long(context.Context, int, int) (Fetch, error) {
	return func(ctx context.Context) (int, error) {
		sleepUntil(ctx, time.Now().Add(f.takes))
		return f.page, nil
	}, nil
}

type fakeSender struct {
	peer    *fakePeer
	deliver func(text []byte)
	sockets int
}

func (s *fakeSender) Send(ctx context.Context, text string) error {
	f := s.peer
	sleepUntil(ctx, time.Now().Add(f.takes))
	if at := time.Since(f.begun); f.stallTo > 0 && at >= f.stallFrom && at < f.stallTo {
		sleepUntil(ctx, f.begun.Add(f.stallTo))
	}
	f.mu.Lock()
	f.sent++
	n := f.sent
	f.mu.Unlock()
	if f.refuses > 0 && n%f.refuses == 0 {
		return errors.New("refused")
	}
	if f.loses == 0 || n%f.loses != 0 {
		s.deliver([]byte(text))
	}
	if f.garbles {
		s.deliver([]byte("nobody sent this"))
	}
	return nil
}

var testPlan = Plan{WarmUp: time.Second, Window: 10 * time.Second, Settle: time.Second, Bytes: 128}

func measureFake(t *testing.T, f *fakePeer, workload string) (run Run) {
	t.Helper()
	w, err := ParseWorkload(workload)
	if err != nil {
		t.Fatal(err)
	}
	plan := testPlan
	plan.Dir = t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		if run, err = Measure(t.Context(), f, w, plan); err != nil {
			t.Fatal(err)
		}
	})
	if !slices.Equal(f.calls, []string{"start", "stop"}) {
		t.Errorf("the peer was called %v", f.calls)
	}
	if left, err := os.ReadDir(plan.Dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	return run
}

func near(got, want float64) bool { return math.Abs(got-want) <= want/50 }

func TestClosedLoopCountsAcknowledgements(t *testing.T) {
	run := measureFake(t, &fakePeer{takes: 10 * time.Millisecond}, "w1-20")
	if !near(run.PerSecond, 2000) || !near(run.P50Ms, 10) || run.Errors != 0 {
		t.Errorf("20 pairs at 10 ms: %+v", run)
	}
}

func TestErrorsMakeARunWorthless(t *testing.T) {
	for name, f := range map[string]*fakePeer{
		"refused": {refuses: 100}, "missing": {loses: 100}, "nobody sent": {garbles: true},
	} {
		t.Run(name, func(t *testing.T) {
			f.takes = 10 * time.Millisecond
			run := measureFake(t, f, "w1-5")
			if run.Errors == 0 || run.Counts || !strings.Contains(run.FirstError, name) || !strings.Contains(run.Why, name) {
				t.Errorf("got %+v", run)
			}
		})
	}
}

func TestOpenLoopChargesAStallToEverybody(t *testing.T) {
	run := measureFake(t, &fakePeer{takes: time.Millisecond, stallFrom: 3 * time.Second, stallTo: 5 * time.Second}, "w2-100")
	// 200 of 1,000 messages waited 0 to 2 s: the 99th percentile is near 1.9 s.
	if !near(run.PerSecond, 100) || run.Behind || run.P99Ms < 1700 || run.P99Ms > 2000 || run.P50Ms > 10 {
		t.Errorf("got %+v", run)
	}
	run = measureFake(t, &fakePeer{takes: time.Millisecond, stallFrom: 9 * time.Second, stallTo: 12 * time.Second}, "w2-100")
	if !run.Behind {
		t.Errorf("the last 2 s arrived after the window: %+v", run)
	}
}

func TestFanOutCountsDeliveries(t *testing.T) {
	run := measureFake(t, &fakePeer{takes: 100 * time.Millisecond}, "w3-30")
	// 10 senders with 8 outstanding, 10 a second each, 30 members.
	if !near(run.PerSecond, 24_000) || run.Errors != 0 || !near(run.P50Ms, 100) {
		t.Errorf("got %+v", run)
	}
	if run := measureFake(t, &fakePeer{takes: 100 * time.Millisecond, loses: 200}, "w3-30"); run.Errors == 0 || run.Errors%30 != 0 {
		t.Errorf("lost deliveries: %+v", run)
	}
}

func TestHistoryDemandsWholePages(t *testing.T) {
	run := measureFake(t, &fakePeer{takes: 5 * time.Millisecond, page: pageSize}, "w5-1000")
	if run.Ops != fetches || !near(run.P50Ms, 5) || !near(run.PerSecond, 200) {
		t.Errorf("got %+v", run)
	}
	synctest.Test(t, func(t *testing.T) {
		if run, err := Measure(t.Context(), &fakePeer{page: pageSize - 1}, Workload{History, 1000}, testPlan); err == nil {
			t.Errorf("pages that lack a message: %+v", run)
		}
	})
}

// A peer that does not start is stopped all the same.
func TestMeasureStopsWhatFails(t *testing.T) {
	f := &brokenPeer{}
	if _, err := Measure(t.Context(), f, Workload{Send, 1}, Plan{Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("got %v", err)
	}
	if !slices.Equal(f.calls, []string{"stop"}) {
		t.Errorf("called %v", f.calls)
	}
}

type brokenPeer struct{ fakePeer }

func (*brokenPeer) Start(context.Context, string) error { return errors.New("broken") }

// What a server that is gone has used cannot be known: no figure then.
func TestMeasureNoticesADeadServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run, err := Measure(t.Context(), &deadPeer{fakePeer{takes: time.Millisecond}}, Workload{Send, 2}, testPlan)
		if err == nil || !strings.Contains(err.Error(), "gone") {
			t.Errorf("got %+v, %v", run, err)
		}
	})
}

type deadPeer struct{ fakePeer }

func (*deadPeer) Processes() []int { return []int{1 << 30} } // above the most that Linux gives

func TestComparisonTakesTurns(t *testing.T) {
	var lines []string
	c := Comparison{
		Peers:     []Peer{&fakePeer{name: "a", takes: 10 * time.Millisecond}, &fakePeer{name: "b", takes: 40 * time.Millisecond}},
		Workloads: []Workload{{Send, 10}}, Rounds: 3, Plan: testPlan,
		Progress: func(line string) { lines = append(lines, line) },
	}
	c.Plan.Dir = t.TempDir()
	var report Report
	synctest.Test(t, func(t *testing.T) {
		var err error
		if report, err = c.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	order := ""
	for _, r := range report.Runs {
		order += fmt.Sprintf("%s%d ", r.Peer, r.Round)
	}
	if order != "a1 b1 a2 b2 a3 b3 " {
		t.Errorf("measured in the order %s", order)
	}
	if len(report.Summaries) != 2 || len(lines) != 12 {
		t.Fatalf("%d summaries, %d lines", len(report.Summaries), len(lines))
	}
	if a, b := report.Summaries[0], report.Summaries[1]; a.RatioPerSecond.Median != 0 || !near(b.RatioPerSecond.Median, 4) || b.Runs != 3 {
		t.Errorf("summaries %+v, %+v", a, b)
	}
	var out strings.Builder
	if err := report.Print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"w1-10", "a ÷ b", "acknowledgements a second: 4 [", "of 3"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}

func TestSpreadAndRatio(t *testing.T) {
	if got := spreadOf([]float64{3, 1, 2, 10}); got != (Spread{2.5, 1, 10}) {
		t.Errorf("got %+v", got)
	}
	if got := spreadOf(nil); got != (Spread{}) {
		t.Errorf("got %+v", got)
	}
	var runs []Run
	for round, v := range [][2]float64{{10, 1}, {20, 4}, {9, 0}} { // nothing done: no ratio
		runs = append(runs, Run{Workload: "w1-1", Peer: "a", Round: round, PerSecond: v[0]}, Run{Workload: "w1-1", Peer: "b", Round: round, PerSecond: v[1]})
	}
	got := ratio(runs, []Run{runs[1], runs[3], runs[5]}, "a", perSecond)
	if got != (Spread{7.5, 5, 10}) {
		t.Errorf("got %+v", got)
	}
}

func TestOnlyRunsThatCountAreSummedUp(t *testing.T) {
	w := Workload{Send, 1}
	c := Comparison{Peers: []Peer{&fakePeer{name: "a"}, &fakePeer{name: "b"}}, Workloads: []Workload{w}}
	run := func(peer string, round int, perSecond float64, counts bool) Run {
		return Run{Workload: w.String(), Peer: peer, Round: round, PerSecond: perSecond, Counts: counts}
	}
	got := c.summarise([]Run{
		run("a", 1, 10, true), run("b", 1, 5, true),
		run("a", 2, 1, false), run("b", 2, 4, true), // disturbed
		run("a", 3, 30, true), run("b", 3, 1, false),
	})
	a, b := got[0], got[1]
	if a.Runs != 3 || a.Counting != 2 || a.PerSecond != (Spread{20, 10, 30}) {
		t.Errorf("a: %+v", a)
	}
	if b.Counting != 2 || b.PerSecond != (Spread{4.5, 4, 5}) || b.RatioPerSecond != (Spread{2, 2, 2}) {
		t.Errorf("b: %+v", b)
	}
	got = c.summarise([]Run{run("a", 1, 9, false), run("b", 1, 3, false)})
	if got[0].Counting != 0 || got[0].PerSecond.Median != 9 || got[1].RatioPerSecond.Median != 3 {
		t.Errorf("where none counts: %+v", got)
	}
}

func TestJudge(t *testing.T) {
	for why, r := range map[string]Run{
		"":        {Ops: 1, Shares: shares{Other: 0.1}},
		"others":  {Ops: 1, Shares: shares{Other: 0.11}},
		"errors":  {Ops: 1, Errors: 1},
		"nothing": {},
	} {
		if r.judge(); r.Counts != (why == "") || !strings.Contains(r.Why, why) {
			t.Errorf("%q: %+v", why, r)
		}
	}
}

func TestParseWorkload(t *testing.T) {
	for _, name := range []string{"w1-100", "w2-500", "w3-1000", "w5-100000"} {
		if w, err := ParseWorkload(name); err != nil || w.String() != name {
			t.Errorf("%s: %v, %v", name, w, err)
		}
	}
	for _, name := range []string{"", "w1", "w1-0", "w1--1", "w4-10", "w5-49", "w1-x", "w1-1000001"} {
		if w, err := ParseWorkload(name); err == nil {
			t.Errorf("%q was taken for %v", name, w)
		}
	}
}

func TestTextsTellTheirTime(t *testing.T) {
	s := newStage(128)
	at := s.start.Add(1234567 * time.Nanosecond)
	text := s.text(at)
	if len(text) != 128 {
		t.Errorf("%d bytes", len(text))
	}
	if got, ok := s.sentAt([]byte(text)); !ok || !got.Equal(at) {
		t.Errorf("%q says %v, %v", text, got, ok)
	}
	for _, bad := range []string{"", " ", "12", "x ", "-1 ", "1234567890123456789 "} {
		if got, ok := s.sentAt([]byte(bad)); ok {
			t.Errorf("%q says %v", bad, got)
		}
	}
}

func TestWaiting(t *testing.T) {
	var w waiting
	ctx := t.Context()
	if err := w.ask(ctx, func(n uint64) error { w.end(n, nil); return nil }); err != nil {
		t.Error(err)
	}
	broken := errors.New("broken")
	if err := w.ask(ctx, func(uint64) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("a failed write: %v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := w.ask(gone, func(uint64) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("without an answer: %v", err)
	}
	w.end(99, nil) // of nobody
	if err := w.ask(ctx, func(uint64) error { w.fail(broken); return nil }); !errors.Is(err, broken) {
		t.Errorf("of a broken connection: %v", err)
	}
	if err := w.ask(ctx, func(uint64) error { t.Error("written"); return nil }); !errors.Is(err, broken) {
		t.Errorf("afterwards: %v", err)
	}
	if len(w.answer) != 0 {
		t.Errorf("%d are still waited for", len(w.answer))
	}
}
