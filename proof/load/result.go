package load

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
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
	// ServerUserS and ServerSystemS are CPU-seconds of the server's processes
	// over the window, PeakMiB the most memory they ever held (resident).
	ServerUserS   float64 `json:"server_user_s"`
	ServerSystemS float64 `json:"server_system_s"`
	PeakMiB       float64 `json:"peak_mib"`
	// Collector is about the server's garbage collection over the window; absent
	// if it does not tell.
	Collector *CollectorDetails `json:"collector,omitempty"`
	// Seconds of the window one by one, and after it while operations of the
	// window still ended; Curve is the latencies' percentiles.
	Seconds []SecondFigures `json:"seconds,omitempty"`
	Curve   []Percentile    `json:"curve,omitempty"`
	// Machine, Version (of the server's binary), Server (flags it was given) and
	// TLS say what ran where; Command and When are the command line's to fill in.
	Machine Machine  `json:"machine"`
	Version string   `json:"version,omitempty"`
	Server  []string `json:"server,omitempty"`
	TLS     bool     `json:"tls,omitempty"`
	Command string   `json:"command,omitempty"`
	When    string   `json:"when,omitempty"`
	// FsyncMs is the median of 100 writes with fsync beside the data folder.
	FsyncMs float64 `json:"fsync_ms"`
	SetupS  float64 `json:"setup_s"`
	WarmUpS float64 `json:"warm_up_s"`
	// Fanout, Receipts and Idle are of these workloads alone, Ceiling of a run whose
	// ceiling was measured after it.
	Fanout   *FanoutDetails   `json:"fanout,omitempty"`
	Receipts *ReceiptsDetails `json:"receipts,omitempty"`
	Idle     *IdleDetails     `json:"idle,omitempty"`
	Ceiling  *CeilingFigures  `json:"ceiling,omitempty"`
	Goals    []Goal           `json:"goals,omitempty"`
	// MeetsGoals is absent if there are none for this workload.
	MeetsGoals *bool `json:"meets_goals,omitempty"`
}

// CollectorDetails are about garbage collection: pauses of the whole program,
// the longest of the last 256, and what was allocated for an operation.
type CollectorDetails struct {
	Cycles        int64   `json:"cycles"`
	PauseTotalMs  float64 `json:"pause_total_ms"`
	PauseMaxMs    float64 `json:"pause_max_ms"`
	AllocKiBPerOp float64 `json:"alloc_kib_per_op"`
}

// SecondFigures is one second of the window. Ops are those whose latency is a
// sample and which ended in it, failed ones too; it has no latencies if none did.
type SecondFigures struct {
	Ops       int64   `json:"ops"`
	P50Ms     float64 `json:"p50_ms"`
	P99Ms     float64 `json:"p99_ms"`
	MaxMs     float64 `json:"max_ms"`
	ServerCPU float64 `json:"server_cpu_s"`
	MemoryMiB float64 `json:"memory_mib"`
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
	// P50Ratio is the relay's median latency by ours, CPURatio its CPU time for
	// an operation by ours: in an open loop, where the rates are given, these
	// tell how near the limit we are.
	P50Ratio float64         `json:"p50_ratio"`
	CPURatio float64         `json:"cpu_ratio,omitempty"`
	Seconds  []SecondFigures `json:"seconds,omitempty"`
	Curve    []Percentile    `json:"curve,omitempty"`
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

// ReceiptsDetails are about W7, over the whole run with its warm-up and drain.
type ReceiptsDetails struct {
	// Messages that were acknowledged; Marks that members asked for: each asks
	// for the newest it has seen as soon as its last one is answered.
	Messages int64 `json:"messages"`
	Marks    int64 `json:"marks"`
	// Journaled is how many cursor changes stand in the journal; CountedBy says
	// who counted: the server's counter of such events, its counter of all that
	// it published but messages, or nobody.
	Journaled int64  `json:"journaled"`
	CountedBy string `json:"counted_by"`
	// MessageDeliveries and ReadDeliveries are events at members' sockets;
	// ReadChanges is the cursor changes that the latter told of.
	MessageDeliveries int64 `json:"message_deliveries"`
	ReadDeliveries    int64 `json:"read_deliveries"`
	ReadChanges       int64 `json:"read_changes"`
	// The same for one message.
	JournaledPerMessage         float64 `json:"journaled_per_message"`
	MessageDeliveriesPerMessage float64 `json:"message_deliveries_per_message"`
	ReadDeliveriesPerMessage    float64 `json:"read_deliveries_per_message"`
	MarksPerMessage             float64 `json:"marks_per_message"`
	// WrongCursors is members whose stored cursor is not at the last message in
	// the end, Unbounded tells that a message cost more than one cursor change a
	// member or, above 20 members, more read events than a tenth of telling
	// everybody of every change. Either fails the run.
	WrongCursors int  `json:"wrong_cursors"`
	Unbounded    bool `json:"unbounded"`
}

// IdleDetails are about W4. Memory is resident, in MiB.
type IdleDetails struct {
	Accounts    int     `json:"accounts"`
	SignInMs    float64 `json:"sign_in_ms"`
	SignInCPUMs float64 `json:"sign_in_cpu_ms"`
	MemoryMiB   float64 `json:"memory_mib"`
	BeforeMiB   float64 `json:"before_mib"`
	SettleS     float64 `json:"settle_s"`
	// KernelKiB is what the kernel took for a session, both its ends and those
	// of whoever else was there together; TCPKiB the part that is TCP's queues.
	KernelKiB float64 `json:"kernel_kib_per_session"`
	TCPKiB    float64 `json:"tcp_kib_per_session"`
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

// ceilingGoal is the share of the relay's rate to reach in a closed loop.
const ceilingGoal = 0.5

// judge compares with the goals, zero fields of which are none.
func (r *Result) judge(f figures) {
	add := func(figure string, want, got float64, met bool) {
		if want > 0 {
			r.addGoal(Goal{figure, want, got, met})
		}
	}
	add("ops_per_s", f.opsPerS, r.OpsPerS, r.OpsPerS >= f.opsPerS)
	add("p50_ms", f.p50Ms, r.P50Ms, r.P50Ms <= f.p50Ms)
	add("p99_ms", f.p99Ms, r.P99Ms, r.P99Ms <= f.p99Ms)
	if r.ServerCPUPer1000 != nil {
		add("server_cpu_s_per_1000", f.cpuPer1000, *r.ServerCPUPer1000, *r.ServerCPUPer1000 <= f.cpuPer1000)
	}
}

func (r *Result) addGoal(g Goal) {
	r.Details.Goals = append(r.Details.Goals, g)
	met := !slices.ContainsFunc(r.Details.Goals, func(g Goal) bool { return !g.Met })
	r.Details.MeetsGoals = &met
}

// fill puts the measured numbers into the result.
func (r *Result) fill(w window, t *tally, l *latencies, o observation) {
	h := l.merged()
	d := &r.Details
	r.Seconds = round(w.length().Seconds(), 3)
	d.WarmUpS = round(w.begin.Sub(w.start).Seconds(), 3)
	d.Ops, d.Samples = t.ops.Load(), h.TotalCount()
	r.Errors = t.errors.Load()
	d.FirstError = t.firstError()
	r.OpsPerS = round(float64(d.Ops)/w.length().Seconds(), 1)
	r.P50Ms, r.P99Ms = milliseconds(h.ValueAtQuantile(50)), milliseconds(h.ValueAtQuantile(99))
	d.P999Ms, d.MaxMs = milliseconds(h.ValueAtQuantile(99.9)), milliseconds(h.Max())
	d.Curve = curve(h)
	s := o.after.since(o.before)
	d.OtherShare, d.StealShare = round(s.other, 4), round(s.steal, 4)
	d.GeneratorShare, d.ServerShare = round(s.generator, 4), round(s.server, 4)
	d.Seconds = secondsOf(l, o.seconds)
	if !s.serverKnown {
		return
	}
	counts := s.other <= countsBelow
	d.Counts = &counts
	d.ServerUserS, d.ServerSystemS = round(s.serverCPU.User.Seconds(), 2), round(s.serverCPU.System.Seconds(), 2)
	d.PeakMiB = mebibytes(o.after.server.Peak)
	d.Collector = collector(o.first, o.last, d.Ops)
	if d.Ops > 0 {
		cpu := round(s.serverCPU.Total().Seconds()*1000/float64(d.Ops), 5)
		r.ServerCPUPer1000 = &cpu
	}
}

// countsBelow is the share of the machine that others may have at most.
const countsBelow = 0.10

func mebibytes(n int64) float64 { return round(float64(n)/(1<<20), 2) }

func secondsOf(l *latencies, machine []second) []SecondFigures {
	latencies := l.bySecond()
	out := make([]SecondFigures, max(len(latencies), len(machine)))
	for i := range out {
		f := &out[i]
		if i < len(latencies) && latencies[i] != nil {
			h := latencies[i]
			f.Ops, f.P50Ms, f.P99Ms, f.MaxMs = h.TotalCount(), milliseconds(h.ValueAtQuantile(50)), milliseconds(h.ValueAtQuantile(99)), milliseconds(h.Max())
		}
		if i < len(machine) {
			f.ServerCPU, f.MemoryMiB = round(machine[i].cpu.Seconds(), 2), mebibytes(machine[i].memory)
		}
	}
	return out
}

func collector(first, last counters, ops int64) *CollectorDetails {
	cycles, ok1 := grown(first, last, "go_gc_duration_seconds_count")
	paused, ok2 := grown(first, last, "go_gc_duration_seconds_sum")
	longest, ok3 := last.sum("go_gc_duration_seconds", `quantile="1"`)
	if !ok1 || !ok2 || !ok3 {
		return nil
	}
	c := &CollectorDetails{Cycles: int64(cycles), PauseTotalMs: round(paused*1000, 3), PauseMaxMs: round(longest*1000, 3)}
	if allocated, ok := grown(first, last, "go_memstats_alloc_bytes_total"); ok && ops > 0 {
		c.AllocKiBPerOp = round(allocated/1024/float64(ops), 3)
	}
	return c
}

// offered notes the rate of an open loop, each of whose operations was to be
// seen in so many places; a rate of 0 is none.
func (r *Result) offered(rate float64, places int) {
	if rate > 0 {
		r.Details.OfferedPerS = rate * float64(places)
		r.Details.Behind = behind(r.OpsPerS, r.Details.OfferedPerS)
	}
}

// under says how far below the ceiling the result is.
func (r *Result) under(c Result) {
	r.Details.Ceiling = &CeilingFigures{
		OpsPerS: c.OpsPerS, P50Ms: c.P50Ms, P99Ms: c.P99Ms, Errors: c.Errors,
		ServerCPUPer1000: c.ServerCPUPer1000, OtherShare: c.Details.OtherShare, Counts: c.Details.Counts,
		Seconds: c.Details.Seconds, Curve: c.Details.Curve,
	}
	if r.P50Ms > 0 {
		r.Details.Ceiling.P50Ratio = round(c.P50Ms/r.P50Ms, 4)
	}
	if r.ServerCPUPer1000 != nil && c.ServerCPUPer1000 != nil && *r.ServerCPUPer1000 > 0 {
		r.Details.Ceiling.CPURatio = round(*c.ServerCPUPer1000 / *r.ServerCPUPer1000, 4)
	}
	if c.OpsPerS > 0 {
		ratio := round(r.OpsPerS/c.OpsPerS, 4)
		r.CeilingRatio = &ratio
	}
	if r.CeilingRatio != nil && r.Details.OfferedPerS == 0 {
		r.addGoal(Goal{"ceiling_ratio", ceilingGoal, *r.CeilingRatio, *r.CeilingRatio >= ceilingGoal})
	}
}

func round(v float64, digits int) float64 {
	p := math.Pow10(digits)
	return math.Round(v*p) / p
}

// countsWhole tells whether the run counts and, if it had one, its ceiling's.
func (r *Result) countsWhole() bool {
	d := &r.Details
	counts := d.Counts == nil || *d.Counts
	return counts && (d.Ceiling == nil || d.Ceiling.Counts == nil || *d.Ceiling.Counts)
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
		row("server CPU", "%.4f s for 1,000 (%.1f %% of the machine): %.2f s user, %.2f s system", *r.ServerCPUPer1000, 100*d.ServerShare, d.ServerUserS, d.ServerSystemS)
		row("server memory", "%.1f MiB at the most", d.PeakMiB)
	}
	if c := d.Collector; c != nil {
		row("server GC", "%d collections, paused %.3f ms in all, %.3f ms at the longest; %.2f KiB allocated for each", c.Cycles, c.PauseTotalMs, c.PauseMaxMs, c.AllocKiBPerOp)
	}
	if f := d.Fanout; f != nil {
		row("acknowledged", "%.1f /s · p50 %.3f ms · p99 %.3f ms", f.AckPerS, f.AckP50Ms, f.AckP99Ms)
		if f.Missing+f.Lagged+f.Ended > 0 {
			row("WRONG", "%d deliveries missing, %d dropped for lag, %d sockets ended", f.Missing, f.Lagged, f.Ended)
		}
	}
	if p := d.Receipts; p != nil {
		journaled := "unknown"
		if p.CountedBy != "" {
			journaled = fmt.Sprintf("%.2f cursor changes journaled (%d, by %s)", p.JournaledPerMessage, p.Journaled, p.CountedBy)
		}
		row("a message costs", "%s", journaled)
		row("", "%.2f message events and %.2f read events delivered, of %.2f marks asked for", p.MessageDeliveriesPerMessage, p.ReadDeliveriesPerMessage, p.MarksPerMessage)
		if p.WrongCursors > 0 || p.Unbounded {
			row("WRONG", "%d members' cursors are not at the last message; bounded: %v", p.WrongCursors, !p.Unbounded)
		}
	}
	if i := d.Idle; i != nil {
		if r.KiBPerSession != nil {
			row("memory", "%.2f KiB a session: %.1f MiB before, %.1f MiB %.0f s after the last", *r.KiBPerSession, i.BeforeMiB, i.MemoryMiB, i.SettleS)
		}
		row("kernel", "%.2f KiB a session beside that, both ends; of it %.2f in TCP's queues", i.KernelKiB, i.TCPKiB)
		row("sign-in", "%.0f ms, %.0f ms of CPU (%d accounts)", i.SignInMs, i.SignInCPUMs, i.Accounts)
		if i.Silent > 0 {
			row("WRONG", "%d sessions did not answer in the end", i.Silent)
		}
	}
	if c := d.Ceiling; c != nil && r.CeilingRatio != nil {
		row("ceiling", "%.3f of a bare relay's %.1f /s, p50 %.3f ms, p99 %.3f ms", *r.CeilingRatio, c.OpsPerS, c.P50Ms, c.P99Ms)
		row("", "its median takes %.3f of ours, its CPU time %.3f", c.P50Ratio, c.CPURatio)
		if c.Counts != nil && !*c.Counts {
			row("", "THE RELAY'S RUN DOES NOT COUNT (others %.1f %%)", 100*c.OtherShare)
		}
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
