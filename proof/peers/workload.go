package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Kind of a workload, as in the project's list of workloads.
type Kind string

// The kinds that are measured.
const (
	Send    Kind = "w1" // pairs, each sender with one message outstanding
	Deliver Kind = "w2" // an open loop at a rate over deliverPairs pairs
	FanOut  Kind = "w3" // one room, fanOutSenders senders with fanOutEach outstanding
	History Kind = "w5" // the last 50 of a room of two
)

const (
	deliverPairs  = 200
	fanOutSenders = 10
	fanOutEach    = 8
	warmFetches   = 5
	fetches       = 200
	// behindBelow is the part of what was offered that must arrive in time.
	behindBelow = 0.99
	// otherMost is the part of the machine that others may use in a run that
	// counts.
	otherMost = 0.10
)

// Workload is a kind with its size: pairs, messages a second, members,
// messages.
type Workload struct {
	Kind Kind
	Size int
}

// ParseWorkload reads a name such as w1-100.
func ParseWorkload(name string) (Workload, error) {
	kind, size, _ := strings.Cut(name, "-")
	w := Workload{Kind: Kind(kind)}
	var err error
	if w.Size, err = strconv.Atoi(size); err != nil || w.Size < 1 || w.Size > 1_000_000 {
		return w, fmt.Errorf("workload %q: want w1-PAIRS, w2-RATE, w3-MEMBERS or w5-MESSAGES", name)
	}
	switch w.Kind {
	case Send, Deliver, FanOut:
		return w, nil
	case History:
		if w.Size >= pageSize {
			return w, nil
		}
	}
	return w, fmt.Errorf("workload %q: want w1-PAIRS, w2-RATE, w3-MEMBERS or w5-MESSAGES (%d at least)", name, pageSize)
}

// String returns the name.
func (w Workload) String() string { return fmt.Sprintf("%s-%d", w.Kind, w.Size) }

// operation is what the workload counts.
func (w Workload) operation() string {
	switch w.Kind {
	case Send:
		return "acknowledgements"
	case History:
		return "fetches"
	default:
		return "deliveries"
	}
}

// Plan is how each run is made.
type Plan struct {
	WarmUp, Window, Settle time.Duration
	Bytes                  int
	// Dir is where temporary folders are made; empty means os.TempDir.
	Dir string
}

// Run is one workload against one peer.
type Run struct {
	Workload string  `json:"workload"`
	Peer     string  `json:"peer"`
	Round    int     `json:"round"`
	Ops      int64   `json:"ops"`
	Seconds  float64 `json:"seconds"`
	// PerSecond is operations a second; PerCPUSecond is operations for each
	// second of CPU time that the server and its database used, and CPUPer1000
	// the same the other way round.
	PerSecond    float64 `json:"per_s"`
	PerCPUSecond float64 `json:"per_cpu_s"`
	CPUPer1000   float64 `json:"cpu_s_per_1000"`
	CPUSeconds   float64 `json:"cpu_s"` // in the window
	P50Ms        float64 `json:"p50_ms"`
	P99Ms        float64 `json:"p99_ms"`
	Errors       int64   `json:"errors"`
	FirstError   string  `json:"first_error,omitempty"`
	// Behind is whether an open loop was not kept up with.
	Behind  bool    `json:"behind"`
	Shares  shares  `json:"shares"`
	FsyncMs float64 `json:"fsync_ms"`
	// SetupS is seconds from nothing to the start of the warm-up.
	SetupS float64     `json:"setup_s"`
	About  Description `json:"about"`
	// Counts is whether the run may be quoted, and Why why not.
	Counts bool   `json:"counts"`
	Why    string `json:"why,omitempty"`
}

// judge decides whether the run counts.
func (r *Run) judge() {
	var why []string
	if r.Errors > 0 {
		why = append(why, fmt.Sprintf("%d errors: %s", r.Errors, r.FirstError))
	}
	if r.Ops == 0 {
		why = append(why, "nothing was done")
	}
	if r.Shares.Other > otherMost {
		why = append(why, fmt.Sprintf("others used %.0f %% of the machine", 100*r.Shares.Other))
	}
	r.Why = strings.Join(why, "; ")
	r.Counts = len(why) == 0
}

// fill takes the figures of a window.
func (r *Run) fill(ops int64, length time.Duration, used shares, l *latencies) {
	r.Ops, r.Seconds, r.Shares, r.CPUSeconds = ops, length.Seconds(), used, used.seconds
	if r.Seconds > 0 {
		r.PerSecond = float64(ops) / r.Seconds
	}
	if used.seconds > 0 {
		r.PerCPUSecond = float64(ops) / used.seconds
	}
	if ops > 0 {
		r.CPUPer1000 = used.seconds / float64(ops) * 1000
	}
	r.P50Ms, r.P99Ms = l.quantile(50), l.quantile(99)
}

// Measure starts a peer over a fresh folder, runs one workload and stops it.
func Measure(ctx context.Context, peer Peer, w Workload, plan Plan) (_ Run, err error) {
	began := time.Now()
	dir, err := os.MkdirTemp(plan.Dir, "peers-*")
	if err != nil {
		return Run{}, fmt.Errorf("make a temporary folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// Databases refuse to run as root: their own user must get through, and
	// Erlang reads the folder above its own. What is secret is one deeper.
	if err := os.Chmod(dir, 0o755); err != nil {
		return Run{}, fmt.Errorf("open the temporary folder: %w", err)
	}
	run := Run{Workload: w.String(), Peer: peer.Name()}
	fsync, err := probeFsync(dir)
	if err != nil {
		return Run{}, err
	}
	run.FsyncMs = float64(fsync.Microseconds()) / 1000
	defer func() { err = errors.Join(err, peer.Stop()) }()
	if err := peer.Start(ctx, dir); err != nil {
		return Run{}, fmt.Errorf("start %s: %w", peer.Name(), err)
	}
	run.About = peer.Describe()
	switch w.Kind {
	case Send:
		err = run.send(ctx, peer, w.Size, plan, began)
	case Deliver:
		err = run.deliver(ctx, peer, w.Size, plan, began)
	case FanOut:
		err = run.fanOut(ctx, peer, w.Size, plan, began)
	case History:
		err = run.history(ctx, peer, w.Size, plan, began)
	default:
		err = fmt.Errorf("no workload %q", w.Kind)
	}
	if err != nil {
		return Run{}, fmt.Errorf("%s against %s: %w", w, peer.Name(), err)
	}
	run.judge()
	return run, nil
}

func (r *Run) begin(plan Plan, began time.Time) window {
	r.SetupS = time.Since(began).Seconds()
	return newWindow(time.Now(), plan.WarmUp, plan.Window)
}

func (r *Run) end(s *stage) { r.Errors, r.FirstError = s.errors.Load(), s.firstError() }

func (r *Run) send(ctx context.Context, peer Peer, pairs int, plan Plan, began time.Time) error {
	s := newStage(plan.Bytes)
	senders, err := peer.Pairs(ctx, pairs, s.delivery(false))
	if err != nil {
		return err
	}
	used, err := s.measure(ctx, r.begin(plan, began), peer.Processes(), func(ctx context.Context) error {
		s.closedLoops(ctx, senders, 1, true)
		s.drain(ctx, 1)
		return context.Cause(ctx)
	})
	if err != nil {
		return err
	}
	r.fill(s.ackedIn.Load(), plan.Window, used, s.latencies)
	r.end(s)
	return nil
}

func (s *stage) closedLoops(ctx context.Context, senders []Sender, each int, sample bool) {
	var wg sync.WaitGroup
	for i, from := range senders {
		for range each {
			wg.Go(func() { s.closedLoop(ctx, i, from, sample) })
		}
	}
	wg.Wait()
}

func (r *Run) deliver(ctx context.Context, peer Peer, rate int, plan Plan, began time.Time) error {
	s := newStage(plan.Bytes)
	senders, err := peer.Pairs(ctx, deliverPairs, s.delivery(true))
	if err != nil {
		return err
	}
	used, err := s.measure(ctx, r.begin(plan, began), peer.Processes(), func(ctx context.Context) error {
		if err := s.openLoop(ctx, senders, float64(rate)); err != nil {
			return err
		}
		s.drain(ctx, 1)
		return context.Cause(ctx)
	})
	if err != nil {
		return err
	}
	r.fill(s.arriveIn.Load(), plan.Window, used, s.latencies)
	r.Behind = r.PerSecond < behindBelow*float64(rate)
	r.end(s)
	return nil
}

func (r *Run) fanOut(ctx context.Context, peer Peer, members int, plan Plan, began time.Time) error {
	s := newStage(plan.Bytes)
	senders, err := peer.Room(ctx, members, min(fanOutSenders, members), s.delivery(true))
	if err != nil {
		return err
	}
	if !sleepUntil(ctx, time.Now().Add(plan.Settle)) {
		return context.Cause(ctx)
	}
	used, err := s.measure(ctx, r.begin(plan, began), peer.Processes(), func(ctx context.Context) error {
		s.closedLoops(ctx, senders, fanOutEach, false)
		s.drain(ctx, members)
		return context.Cause(ctx)
	})
	if err != nil {
		return err
	}
	r.fill(s.arriveIn.Load(), plan.Window, used, s.latencies)
	r.end(s)
	return nil
}

func (r *Run) history(ctx context.Context, peer Peer, messages int, plan Plan, began time.Time) error {
	fetch, err := peer.Long(ctx, messages, plan.Bytes)
	if err != nil {
		return err
	}
	whole := func() error {
		n, err := fetch(ctx)
		if err == nil && n != pageSize {
			err = fmt.Errorf("a page of %d messages, want %d", n, pageSize)
		}
		return err
	}
	for range warmFetches {
		if err := whole(); err != nil {
			return fmt.Errorf("fetch: %w", err)
		}
	}
	r.SetupS = time.Since(began).Seconds()
	s := newStage(plan.Bytes)
	before, err := readUsage(peer.Processes())
	if err != nil {
		return err
	}
	first, ops := time.Now(), int64(0)
	for range fetches {
		fetchBegan := time.Now()
		err := whole()
		s.latencies.record(0, time.Since(fetchBegan))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			s.fail(err)
			continue
		}
		ops++
	}
	length := time.Since(first)
	after, err := readUsage(peer.Processes())
	if err != nil {
		return err
	}
	r.fill(ops, length, after.since(before), s.latencies)
	r.end(s)
	return nil
}
