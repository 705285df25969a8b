package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/bongsu-im/bongsu/proof/child"
)

// Side is one of two that are compared.
type Side struct {
	// Bin is a server's binary; empty means our own.
	Bin string
	// Flags of bench for this side alone, such as --shards 1.
	Flags []string
}

func (s Side) String() string {
	bin := s.Bin
	if bin == "" {
		bin = "this binary"
	}
	return strings.Join(append([]string{bin}, s.Flags...), " ")
}

// CompareConfig is two servers and how to measure them.
type CompareConfig struct {
	// Self is our own binary, whose bench measures both.
	Self string
	A, B Side
	// Rounds of one run each, A before B; 0 means 3.
	Rounds int
	// Bench is the arguments of bench, such as send --senders 100.
	Bench []string
	// Seed of the runs of each round; 0 draws one.
	Seed uint64
	// Progress is told how many runs are done.
	Progress func(what string, done, total int)
}

// Comparison is what Compare found.
type Comparison struct {
	Name    string            `json:"name"`
	Seed    uint64            `json:"seed"`
	Seconds float64           `json:"seconds"`
	Passed  bool              `json:"passed"` // all runs did
	Details ComparisonDetails `json:"details"`

	runsA, runsB []Result
}

// ComparisonDetails of a Comparison.
type ComparisonDetails struct {
	A      string   `json:"a"`
	B      string   `json:"b"`
	Bench  []string `json:"bench"`
	Rounds int      `json:"rounds"`
	// Trusted: there were enough rounds for the intervals.
	Trusted bool `json:"trusted"`
	// Uncounted runs had others on the machine use more than a tenth of it.
	Uncounted int          `json:"uncounted"`
	Failed    int          `json:"failed"`
	Figures   []Comparable `json:"figures"`
	Command   string       `json:"command,omitempty"`
	When      string       `json:"when,omitempty"`
}

// Comparable is one figure of both, by round. Ratio is the geometric mean of
// each round's B by A; Low and High bound it with 95 % confidence, from the
// spread of the ratios' logarithms over the rounds (Student's t): what disturbs
// both runs of a round alike does not widen it. With one round both are 0.
type Comparable struct {
	Figure  string    `json:"figure"`
	MedianA float64   `json:"median_a"`
	MedianB float64   `json:"median_b"`
	Ratio   float64   `json:"ratio"`
	Low     float64   `json:"low"`
	High    float64   `json:"high"`
	A       []float64 `json:"a"`
	B       []float64 `json:"b"`
}

// enoughRounds for the interval to mean something.
const enoughRounds = 3

// workloads that a comparison can run.
var workloads = []string{"send", "deliver", "fanout", "receipts", "history", "idle", "ceiling"}

// Compare measures A B A B … with the same generator, each run in a process of
// its own.
func Compare(ctx context.Context, cfg CompareConfig) (Comparison, error) {
	setDefault(&cfg.Rounds, enoughRounds)
	for cfg.Seed == 0 {
		cfg.Seed = rand.Uint64()
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string, int, int) {}
	}
	if len(cfg.Bench) == 0 || !slices.Contains(workloads, cfg.Bench[0]) {
		return Comparison{}, fmt.Errorf("compare by %q: want one of %s with its flags", cfg.Bench, strings.Join(workloads, ", "))
	}
	if slices.ContainsFunc(cfg.Bench, func(a string) bool { return strings.HasPrefix(a, "--target") || strings.HasPrefix(a, "--bin") }) {
		return Comparison{}, errors.New("what is measured are the two binaries: leave --target and --bin out")
	}
	if cfg.A.String() == cfg.B.String() {
		return Comparison{}, fmt.Errorf("both sides are %s", cfg.A)
	}
	began := time.Now()
	var a, b []Result
	for round := range cfg.Rounds {
		for k, side := range []struct {
			Side
			list *[]Result
		}{{cfg.A, &a}, {cfg.B, &b}} {
			cfg.Progress("runs", 2*round+k, 2*cfg.Rounds)
			args := append(slices.Clone(cfg.Bench), side.Flags...)
			if side.Bin != "" {
				args = append(args, "--bin", side.Bin)
			}
			r, err := runBench(ctx, cfg.Self, args, cfg.Seed+uint64(round))
			if err != nil {
				return Comparison{}, fmt.Errorf("round %d, %s: %w", round+1, side.Side, err)
			}
			*side.list = append(*side.list, r)
		}
	}
	cfg.Progress("runs", 2*cfg.Rounds, 2*cfg.Rounds)
	c := compare(a, b)
	c.Seed, c.Seconds = cfg.Seed, round(time.Since(began).Seconds(), 1)
	c.Details.A, c.Details.B, c.Details.Bench, c.Details.Rounds = cfg.A.String(), cfg.B.String(), cfg.Bench, cfg.Rounds
	c.Details.Trusted = cfg.Rounds >= enoughRounds
	return c, nil
}

// runBench measures once, in a process of its own.
func runBench(ctx context.Context, self string, bench []string, seed uint64) (r Result, err error) {
	args := append([]string{"bench"}, bench...)
	args = append(args, "--seed", strconv.FormatUint(max(seed, 1), 10), "--json")
	cmd := exec.CommandContext(ctx, self, args...)
	// It has a server to stop and a folder to remove.
	cmd.Cancel, cmd.WaitDelay = func() error { return cmd.Process.Signal(syscall.SIGTERM) }, time.Minute
	cmd.Env = child.PlainEnvironment(cmd.Environ())
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) { // 1: it ran, and something did not hold
		return Result{}, fmt.Errorf("bench %s: %w\n%s", bench[0], err, complaints.Bytes()[max(0, complaints.Len()-2048):])
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r); err != nil {
		return Result{}, fmt.Errorf("read the result of bench %s: %w", bench[0], err)
	}
	return r, nil
}

// figure is one that results have, by the name it has in JSON.
type figure struct {
	name string
	of   func(r *Result) (float64, bool)
}

func always(of func(r *Result) float64) func(r *Result) (float64, bool) {
	return func(r *Result) (float64, bool) { return of(r), true }
}

func ifKnown(of func(r *Result) *float64) func(r *Result) (float64, bool) {
	return func(r *Result) (float64, bool) {
		if p := of(r); p != nil {
			return *p, true
		}
		return 0, false
	}
}

var comparable = []figure{
	{"ops_per_s", always(func(r *Result) float64 { return r.OpsPerS })},
	{"p50_ms", always(func(r *Result) float64 { return r.P50Ms })},
	{"p99_ms", always(func(r *Result) float64 { return r.P99Ms })},
	{"p99_9_ms", always(func(r *Result) float64 { return r.Details.P999Ms })},
	{"server_cpu_s_per_1000", ifKnown(func(r *Result) *float64 { return r.ServerCPUPer1000 })},
	{"peak_mib", always(func(r *Result) float64 { return r.Details.PeakMiB })},
	{"kib_per_session", ifKnown(func(r *Result) *float64 { return r.KiBPerSession })},
	{"ceiling_ratio", ifKnown(func(r *Result) *float64 { return r.CeilingRatio })},
	{"journaled_per_message", func(r *Result) (float64, bool) {
		if d := r.Details.Receipts; d != nil {
			return d.JournaledPerMessage, true
		}
		return 0, false
	}},
}

// compare takes as many results of either.
func compare(a, b []Result) Comparison {
	c := Comparison{Name: "compare", runsA: a, runsB: b}
	for _, r := range slices.Concat(a, b) {
		if !r.Passed {
			c.Details.Failed++
		}
		if !r.countsWhole() {
			c.Details.Uncounted++
		}
	}
	c.Passed = c.Details.Failed == 0
	for _, f := range comparable {
		as, allA := figuresOf(a, f.of)
		bs, allB := figuresOf(b, f.of)
		if !allA || !allB || slices.Min(as) <= 0 || slices.Min(bs) <= 0 {
			continue
		}
		ratio, low, high := ratioOf(as, bs)
		c.Details.Figures = append(c.Details.Figures, Comparable{
			Figure: f.name, MedianA: median(as), MedianB: median(bs),
			Ratio: round(ratio, 4), Low: round(low, 4), High: round(high, 4), A: as, B: bs,
		})
	}
	return c
}

func figuresOf(results []Result, of func(*Result) (float64, bool)) (out []float64, all bool) {
	for i := range results {
		v, ok := of(&results[i])
		if !ok {
			return nil, false
		}
		out = append(out, v)
	}
	return out, len(out) > 0
}

// ratioOf returns the geometric mean of b by a, pair by pair, and its 95 %
// interval; 0, 0 of one pair. All must be above 0.
func ratioOf(a, b []float64) (ratio, low, high float64) {
	n := float64(len(a))
	var sum, squares float64
	for i := range a {
		sum += math.Log(b[i] / a[i])
	}
	mean := sum / n
	if len(a) < 2 {
		return math.Exp(mean), 0, 0
	}
	for i := range a {
		d := math.Log(b[i]/a[i]) - mean
		squares += d * d
	}
	half := student(len(a)-1) * math.Sqrt(squares/(n-1)/n)
	return math.Exp(mean), math.Exp(mean - half), math.Exp(mean + half)
}

// student is the 97.5 % quantile of Student's t distribution.
func student(degrees int) float64 {
	table := [...]float64{
		12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
		2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
	}
	if degrees <= len(table) {
		return table[degrees-1]
	}
	// Cornish and Fisher's expansion about the normal one, within 0.01 % here.
	n := float64(degrees)
	return 1.95996 + 2.3723/n + 2.823/(n*n)
}

// Print writes the comparison as a table for people and, if asJSON, as one last
// line of JSON.
func (c Comparison) Print(w io.Writer, asJSON bool) error {
	var b strings.Builder
	d := &c.Details
	fmt.Fprintf(&b, "bench compare: %s, %d rounds, seed %d\n  A %s\n  B %s\n", strings.Join(d.Bench, " "), d.Rounds, c.Seed, d.A, d.B)
	fmt.Fprintf(&b, "  %-22s %28s %28s %8s  %s\n", "", "median A (range)", "median B (range)", "B/A", "95 %")
	for _, f := range d.Figures {
		interval := "one round tells none"
		if f.High > 0 {
			interval = fmt.Sprintf("%.3f to %.3f", f.Low, f.High)
		}
		fmt.Fprintf(&b, "  %-22s %28s %28s %8.3f  %s\n", f.Figure, spread(f.A), spread(f.B), f.Ratio, interval)
	}
	if d.Rounds < enoughRounds {
		fmt.Fprintf(&b, "  %d rounds are too few for the interval to be trusted: want %d\n", d.Rounds, enoughRounds)
	}
	if d.Failed > 0 {
		fmt.Fprintf(&b, "  %d RUNS FAILED\n", d.Failed)
	}
	b.WriteString(uncounted(d.Uncounted, 2*d.Rounds))
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("print the comparison: %w", err)
	}
	if !asJSON {
		return nil
	}
	if err := json.NewEncoder(w).Encode(c); err != nil {
		return fmt.Errorf("print the comparison: %w", err)
	}
	return nil
}

func uncounted(n, of int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("  %d OF %d RUNS DO NOT COUNT (others above 10 %%)\n", n, of)
}

// spread is a median and, of several, the range.
func spread(values []float64) string {
	if len(values) == 1 {
		return fmt.Sprintf("%.4g", values[0])
	}
	return fmt.Sprintf("%.4g (%.4g–%.4g)", median(values), slices.Min(values), slices.Max(values))
}
