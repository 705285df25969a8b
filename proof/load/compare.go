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
)

// CompareConfig is two servers and how to measure them.
type CompareConfig struct {
	// Self is our own binary, whose bench measures both; A and B are servers'.
	Self, A, B string
	// Rounds of one run each, A before B; 0 means 6.
	Rounds int
	// Bench is the arguments of bench, such as send --senders 100.
	Bench []string
	// Seed of the bootstrap, and of the runs of each round; 0 draws one.
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
}

// Comparable is one figure of both. Ratio is median B by median A; Low and High
// bound it with 95 % confidence if there were enoughRounds: the bootstrap of
// fewer draws the same few numbers again and again, and is too sure of itself.
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
const enoughRounds = 6

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
	if len(cfg.Bench) == 0 || !slices.Contains([]string{"send", "deliver", "fanout", "history", "idle"}, cfg.Bench[0]) {
		return Comparison{}, fmt.Errorf("compare by %q: want send, deliver, fanout, history or idle with its flags", cfg.Bench)
	}
	if slices.ContainsFunc(cfg.Bench, func(a string) bool { return strings.HasPrefix(a, "--target") || strings.HasPrefix(a, "--bin") }) {
		return Comparison{}, errors.New("what is measured are the two binaries: leave --target and --bin out")
	}
	began := time.Now()
	var a, b []Result
	for round := range cfg.Rounds {
		for k, side := range []struct {
			bin  string
			list *[]Result
		}{{cfg.A, &a}, {cfg.B, &b}} {
			cfg.Progress("runs", 2*round+k, 2*cfg.Rounds)
			r, err := runBench(ctx, cfg, side.bin, cfg.Seed+uint64(round))
			if err != nil {
				return Comparison{}, fmt.Errorf("round %d, %s: %w", round+1, side.bin, err)
			}
			*side.list = append(*side.list, r)
		}
	}
	cfg.Progress("runs", 2*cfg.Rounds, 2*cfg.Rounds)
	c := compare(a, b, cfg.Seed)
	c.Details.Trusted = cfg.Rounds >= enoughRounds
	c.Seconds = round(time.Since(began).Seconds(), 1)
	c.Details.A, c.Details.B, c.Details.Bench, c.Details.Rounds = cfg.A, cfg.B, cfg.Bench, cfg.Rounds
	return c, nil
}

// runBench measures one binary once.
func runBench(ctx context.Context, cfg CompareConfig, bin string, seed uint64) (r Result, err error) {
	args := append([]string{"bench"}, cfg.Bench...)
	args = append(args, "--bin", bin, "--seed", strconv.FormatUint(max(seed, 1), 10), "--json")
	cmd := exec.CommandContext(ctx, cfg.Self, args...)
	// It has a server to stop and a folder to remove.
	cmd.Cancel, cmd.WaitDelay = func() error { return cmd.Process.Signal(syscall.SIGTERM) }, time.Minute
	cmd.Env = plainEnvironment(cmd.Environ())
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) { // 1: it ran, and something did not hold
		return Result{}, fmt.Errorf("bench %s: %w\n%s", cfg.Bench[0], err, complaints.Bytes()[max(0, complaints.Len()-2048):])
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r); err != nil {
		return Result{}, fmt.Errorf("read the result of bench %s: %w", cfg.Bench[0], err)
	}
	return r, nil
}

// compare takes as many results of either.
func compare(a, b []Result, seed uint64) Comparison {
	c := Comparison{Name: "compare", Seed: seed}
	for _, r := range slices.Concat(a, b) {
		if !r.Passed {
			c.Details.Failed++
		}
		if r.Details.Counts != nil && !*r.Details.Counts {
			c.Details.Uncounted++
		}
	}
	c.Passed = c.Details.Failed == 0
	random := rand.New(rand.NewPCG(seed, 0))
	known := func(p *float64) (float64, bool) {
		if p == nil {
			return 0, false
		}
		return *p, true
	}
	for _, f := range []struct {
		name string
		of   func(r *Result) (float64, bool)
	}{
		{"ops_per_s", func(r *Result) (float64, bool) { return r.OpsPerS, true }},
		{"p50_ms", func(r *Result) (float64, bool) { return r.P50Ms, true }},
		{"p99_ms", func(r *Result) (float64, bool) { return r.P99Ms, true }},
		{"server_cpu_s_per_1000", func(r *Result) (float64, bool) { return known(r.ServerCPUPer1000) }},
		{"kib_per_session", func(r *Result) (float64, bool) { return known(r.KiBPerSession) }},
		{"ceiling_ratio", func(r *Result) (float64, bool) { return known(r.CeilingRatio) }},
	} {
		as, all := figuresOf(a, f.of)
		bs, allB := figuresOf(b, f.of)
		if !all || !allB || medianOf(as) <= 0 {
			continue
		}
		low, high := bootstrapRatio(as, bs, random)
		c.Details.Figures = append(c.Details.Figures, Comparable{
			Figure: f.name, MedianA: medianOf(as), MedianB: medianOf(bs), Ratio: round(medianOf(bs)/medianOf(as), 4),
			Low: round(low, 4), High: round(high, 4), A: as, B: bs,
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

// medianOf an even number is the mean of the two in the middle; of none, 0.
func medianOf(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	switch n := len(s); {
	case n == 0:
		return 0
	case n%2 == 0:
		return (s[n/2-1] + s[n/2]) / 2
	default:
		return s[n/2]
	}
}

const resamples = 10_000

// bootstrapRatio returns the 95 % interval of median b by median a. Rounds are
// drawn whole, with replacement: what disturbed one run disturbed its neighbour.
func bootstrapRatio(a, b []float64, random *rand.Rand) (low, high float64) {
	ratios := make([]float64, 0, resamples)
	as, bs := make([]float64, len(a)), make([]float64, len(b))
	for range resamples {
		for k := range as {
			round := random.IntN(len(a))
			as[k], bs[k] = a[round], b[round]
		}
		if m := medianOf(as); m > 0 {
			ratios = append(ratios, medianOf(bs)/m)
		}
	}
	if len(ratios) == 0 {
		return 0, 0
	}
	slices.Sort(ratios)
	at := func(q float64) float64 { return ratios[int(math.Round(q*float64(len(ratios)-1)))] }
	return at(0.025), at(0.975)
}

// Print writes the comparison as a table for people and, if asJSON, as one last
// line of JSON.
func (c Comparison) Print(w io.Writer, asJSON bool) error {
	var b strings.Builder
	d := &c.Details
	fmt.Fprintf(&b, "bench compare: %s, %d rounds, seed %d\n  A %s\n  B %s\n", strings.Join(d.Bench, " "), d.Rounds, c.Seed, d.A, d.B)
	fmt.Fprintf(&b, "  %-22s %12s %12s %8s  %s\n", "", "median A", "median B", "B/A", "95 %")
	for _, f := range d.Figures {
		fmt.Fprintf(&b, "  %-22s %12.4g %12.4g %8.3f  %.3f to %.3f\n", f.Figure, f.MedianA, f.MedianB, f.Ratio, f.Low, f.High)
	}
	if d.Rounds < enoughRounds {
		fmt.Fprintf(&b, "  %d rounds are too few for the interval to be trusted: want %d\n", d.Rounds, enoughRounds)
	}
	if d.Failed > 0 {
		fmt.Fprintf(&b, "  %d RUNS FAILED\n", d.Failed)
	}
	if d.Uncounted > 0 {
		fmt.Fprintf(&b, "  %d of %d runs do not count (others above 10 %%)\n", d.Uncounted, 2*d.Rounds)
	}
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
