package load

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// Result of a measurement. The JSON keys are part of the command line's
// contract.
type Result struct {
	Name string `json:"name"`
	Seed uint64 `json:"seed"`
	// Seconds that were measured, without warm-up and preparations.
	Seconds float64 `json:"seconds"`
	// Passed: no errors, and the server kept up. Goals are in the details.
	Passed  bool    `json:"passed"`
	Details Details `json:"details"`

	OpsPerS float64 `json:"ops_per_s"`
	P50Ms   float64 `json:"p50_ms"`
	P99Ms   float64 `json:"p99_ms"`
	Errors  int64   `json:"errors"`
	// ServerCPUPer1000 is CPU-seconds of the server for 1,000 operations; null
	// if the server was not ours to look at.
	ServerCPUPer1000 *float64 `json:"server_cpu_s_per_1000"`
	// CeilingRatio is our rate by that of a bare relay; null if that was not
	// measured. In an open loop it says no more than who kept up: compare the
	// latencies with those of Details.Ceiling.
	CeilingRatio *float64 `json:"ceiling_ratio"`
	// KiBPerSession is of idle; null if the server's memory was not ours to see.
	KiBPerSession *float64 `json:"kib_per_session"`
}

// Details of a Result.
type Details struct {
	// Workload in words, and what each operation is.
	Workload  string `json:"workload"`
	Operation string `json:"operation"`
	// Ops is how many ended in the window, Samples how many latencies there are.
	Ops     int64   `json:"ops"`
	Samples int64   `json:"samples"`
	MaxMs   float64 `json:"max_ms"`
	P999Ms  float64 `json:"p99_9_ms"`
	// FirstError is one of the errors, in words.
	FirstError string `json:"first_error,omitempty"`
	// OfferedPerS and Behind (below 99 % of what was offered) are of open loops.
	OfferedPerS float64 `json:"offered_per_s,omitempty"`
	Behind      bool    `json:"behind,omitempty"`
	// Duplicates and Disordered are messages that came twice or got a place
	// before an earlier one of the same sender: never right.
	Duplicates int64 `json:"duplicates"`
	Disordered int64 `json:"disordered"`
	// Shares of the machine's CPU time, 0 to 1, over the window. A run counts
	// if the others had at most a tenth. With a Target its server may be among
	// the others, so whether the run counts is left out.
	OtherShare     float64 `json:"other_share"`
	StealShare     float64 `json:"steal_share"`
	GeneratorShare float64 `json:"generator_share"`
	ServerShare    float64 `json:"server_share"`
	Counts         *bool   `json:"counts,omitempty"`
	// FsyncMs is the median of 100 writes with fsync beside the data folder.
	FsyncMs float64 `json:"fsync_ms"`
	SetupS  float64 `json:"setup_s"`
	WarmUpS float64 `json:"warm_up_s"`
	// Fanout and Idle are of these workloads alone, Ceiling of a run whose
	// ceiling was measured after it.
	Fanout  *FanoutDetails  `json:"fanout,omitempty"`
	Idle    *IdleDetails    `json:"idle,omitempty"`
	Ceiling *CeilingFigures `json:"ceiling,omitempty"`
	Goals   []Goal          `json:"goals,omitempty"`
	// MeetsGoals is absent if there are none for this workload.
	MeetsGoals *bool `json:"meets_goals,omitempty"`
}

// CeilingFigures are what the same generator measured on a bare relay.
type CeilingFigures struct {
	OpsPerS          float64  `json:"ops_per_s"`
	P50Ms            float64  `json:"p50_ms"`
	P99Ms            float64  `json:"p99_ms"`
	Errors           int64    `json:"errors"`
	ServerCPUPer1000 *float64 `json:"server_cpu_s_per_1000"`
	OtherShare       float64  `json:"other_share"`
	Counts           *bool    `json:"counts,omitempty"`
}

// FanoutDetails are about the sends and the faults of W3.
type FanoutDetails struct {
	AckPerS  float64 `json:"ack_per_s"`
	AckP50Ms float64 `json:"ack_p50_ms"`
	AckP99Ms float64 `json:"ack_p99_ms"`
	// Missing deliveries of acknowledged messages; the deliveries that the
	// server said it dropped (LagEvent); sockets that ended. All are errors.
	Missing int64 `json:"missing"`
	Lagged  int64 `json:"lagged"`
	Ended   int64 `json:"ended"`
}

// IdleDetails are about W4. Memory is resident, in MiB.
type IdleDetails struct {
	Accounts    int     `json:"accounts"`
	SignInMs    float64 `json:"sign_in_ms"`
	SignInCPUMs float64 `json:"sign_in_cpu_ms"`
	MemoryMiB   float64 `json:"memory_mib"`
	BeforeMiB   float64 `json:"before_mib"`
	SettleS     float64 `json:"settle_s"`
	// Silent sessions did not answer a ping in the end: errors.
	Silent int `json:"silent"`
}

// Goal is a figure to beat.
type Goal struct {
	Figure string  `json:"figure"`
	Want   float64 `json:"want"`
	Got    float64 `json:"got"`
	Met    bool    `json:"met"`
}

// goal figures of PEERS.md.
type figures struct{ opsPerS, p50Ms, p99Ms, cpuPer1000 float64 }

var (
	sendGoals    = map[int]figures{100: {10_000, 8, 30, 0.10}, 1000: {20_000, 0, 0, 0.06}}
	fanoutGoals  = map[int]figures{100: {150_000, 0, 0, 0.0064}, 1000: {150_000, 0, 0, 0.0064}}
	deliverGoals = map[int]figures{500: {495, 4, 15, 0}, 2000: {1980, 5, 27, 0}}
	historyGoals = map[int]figures{100_000: {0, 0.5, 0, 0.3}}
)

// idleGoal is KiB a session of at least 10,000.
const idleGoal = 6.0

// judge compares with the goals, zero fields of which are none.
func (r *Result) judge(f figures) {
	all := true
	add := func(figure string, want, got float64, met bool) {
		if want > 0 {
			r.Details.Goals = append(r.Details.Goals, Goal{figure, want, got, met})
			all = all && met
		}
	}
	add("ops_per_s", f.opsPerS, r.OpsPerS, r.OpsPerS >= f.opsPerS)
	add("p50_ms", f.p50Ms, r.P50Ms, r.P50Ms <= f.p50Ms)
	add("p99_ms", f.p99Ms, r.P99Ms, r.P99Ms <= f.p99Ms)
	if r.ServerCPUPer1000 != nil {
		add("server_cpu_s_per_1000", f.cpuPer1000, *r.ServerCPUPer1000, *r.ServerCPUPer1000 <= f.cpuPer1000)
	}
	if len(r.Details.Goals) > 0 {
		r.Details.MeetsGoals = &all
	}
}

// fill puts the measured numbers into the result.
func (r *Result) fill(w window, t *tally, l *latencies, before, after usage) {
	h := l.merged()
	ms := func(us int64) float64 { return round(float64(us)/1000, 3) }
	r.Seconds = round(w.length().Seconds(), 3)
	r.Details.WarmUpS = round(w.begin.Sub(w.start).Seconds(), 3)
	r.Details.Ops, r.Details.Samples = t.ops.Load(), h.TotalCount()
	r.Errors = t.errors.Load()
	r.Details.FirstError = t.firstError()
	r.OpsPerS = round(float64(r.Details.Ops)/w.length().Seconds(), 1)
	r.P50Ms, r.P99Ms = ms(h.ValueAtQuantile(50)), ms(h.ValueAtQuantile(99))
	r.Details.P999Ms, r.Details.MaxMs = ms(h.ValueAtQuantile(99.9)), ms(h.Max())
	s := after.since(before)
	r.Details.OtherShare, r.Details.StealShare = round(s.other, 4), round(s.steal, 4)
	r.Details.GeneratorShare, r.Details.ServerShare = round(s.generator, 4), round(s.server, 4)
	if s.serverKnown {
		counts := s.other <= 0.10
		r.Details.Counts = &counts
	}
	if s.serverKnown && r.Details.Ops > 0 {
		cpu := round(s.serverSeconds*1000/float64(r.Details.Ops), 5)
		r.ServerCPUPer1000 = &cpu
	}
}

// under says how far below the ceiling the result is.
func (r *Result) under(c Result) {
	r.Details.Ceiling = &CeilingFigures{
		OpsPerS: c.OpsPerS, P50Ms: c.P50Ms, P99Ms: c.P99Ms, Errors: c.Errors,
		ServerCPUPer1000: c.ServerCPUPer1000, OtherShare: c.Details.OtherShare, Counts: c.Details.Counts,
	}
	if c.OpsPerS > 0 {
		ratio := round(r.OpsPerS/c.OpsPerS, 4)
		r.CeilingRatio = &ratio
	}
}

func round(v float64, digits int) float64 {
	p := math.Pow10(digits)
	return math.Round(v*p) / p
}

// Print writes the result as a table for people and, if asJSON, as one last
// line of JSON.
func (r Result) Print(w io.Writer, asJSON bool) error {
	if _, err := io.WriteString(w, r.table()); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	if !asJSON {
		return nil
	}
	if err := json.NewEncoder(w).Encode(r); err != nil { // ends with a newline, holds none
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}

func (r Result) table() string {
	d := &r.Details
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-16s "+format+"\n", append([]any{name}, args...)...)
	}
	fmt.Fprintf(&b, "bench %s: %s\n", r.Name, d.Workload)
	row(d.Operation, "%.1f /s (%d in %.1f s)", r.OpsPerS, d.Ops, r.Seconds)
	if d.OfferedPerS > 0 {
		verdict := "kept up"
		if d.Behind {
			verdict = "FELL BEHIND"
		}
		row("offered", "%.1f /s: %s", d.OfferedPerS, verdict)
	}
	row("latency", "p50 %.3f ms · p99 %.3f ms · p99.9 %.3f ms · max %.3f ms (%d samples)", r.P50Ms, r.P99Ms, d.P999Ms, d.MaxMs, d.Samples)
	row("errors", "%d%s", r.Errors, parenthesis(d.FirstError))
	if d.Duplicates+d.Disordered > 0 {
		row("WRONG", "%d duplicates, %d out of order", d.Duplicates, d.Disordered)
	}
	if r.ServerCPUPer1000 != nil {
		row("server CPU", "%.4f s for 1,000 (%.1f %% of the machine)", *r.ServerCPUPer1000, 100*d.ServerShare)
	}
	if f := d.Fanout; f != nil {
		row("acknowledged", "%.1f /s · p50 %.3f ms · p99 %.3f ms", f.AckPerS, f.AckP50Ms, f.AckP99Ms)
		if f.Missing+f.Lagged+f.Ended > 0 {
			row("WRONG", "%d deliveries missing, %d dropped for lag, %d sockets ended", f.Missing, f.Lagged, f.Ended)
		}
	}
	if i := d.Idle; i != nil {
		if r.KiBPerSession != nil {
			row("memory", "%.2f KiB a session: %.1f MiB before, %.1f MiB %.0f s after the last", *r.KiBPerSession, i.BeforeMiB, i.MemoryMiB, i.SettleS)
		}
		row("sign-in", "%.0f ms, %.0f ms of CPU (%d accounts)", i.SignInMs, i.SignInCPUMs, i.Accounts)
		if i.Silent > 0 {
			row("WRONG", "%d sessions did not answer in the end", i.Silent)
		}
	}
	if c := d.Ceiling; c != nil && r.CeilingRatio != nil {
		row("ceiling", "%.3f of a bare relay's %.1f /s, p50 %.3f ms, p99 %.3f ms", *r.CeilingRatio, c.OpsPerS, c.P50Ms, c.P99Ms)
	}
	verdict := "the server may be among the others"
	switch {
	case d.Counts != nil && *d.Counts:
		verdict = "the run counts"
	case d.Counts != nil:
		verdict = "THE RUN DOES NOT COUNT (others above 10 %)"
	}
	row("machine", "others %.1f %% · steal %.1f %% · generator %.1f %%: %s", 100*d.OtherShare, 100*d.StealShare, 100*d.GeneratorShare, verdict)
	row("fsync", "%.3f ms (median of 100)", d.FsyncMs)
	for _, g := range d.Goals {
		met := "met"
		if !g.Met {
			met = "missed"
		}
		row("goal", "%s %g: %s (%g)", g.Figure, g.Want, met, g.Got)
	}
	row("set up in", "%s, seed %d", time.Duration(d.SetupS*float64(time.Second)).Round(time.Second/10), r.Seed)
	return b.String()
}

func parenthesis(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}
