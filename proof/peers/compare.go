package peers

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"
)

// Comparison is what a whole session measures.
type Comparison struct {
	Peers     []Peer
	Workloads []Workload
	Rounds    int
	Plan      Plan
	// Progress is told what happens, a line at a time.
	Progress func(line string)
}

// Report is all that a session measured.
type Report struct {
	Began     time.Time `json:"began"`
	Machine   string    `json:"machine"`
	WarmUpS   float64   `json:"warm_up_s"`
	WindowS   float64   `json:"window_s"`
	Bytes     int       `json:"bytes"`
	Rounds    int       `json:"rounds"`
	Runs      []Run     `json:"runs"`
	Summaries []Summary `json:"summaries"`
}

// Spread is a median with the range around it.
type Spread struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
}

// spreadOf values; the median of an even number is the mean of the two in the
// middle.
func spreadOf(values []float64) Spread {
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	if n == 0 {
		return Spread{}
	}
	return Spread{Median: (s[(n-1)/2] + s[n/2]) / 2, Low: s[0], High: s[n-1]}
}

// Summary is one peer in one workload, over the runs that count or, if none
// does, over all, which Counting then says.
type Summary struct {
	Workload     string `json:"workload"`
	Peer         string `json:"peer"`
	Durable      bool   `json:"durable"`
	Operation    string `json:"operation"`
	Runs         int    `json:"runs"`
	Counting     int    `json:"counting"`
	Behind       int    `json:"behind"`
	PerSecond    Spread `json:"per_s"`
	PerCPUSecond Spread `json:"per_cpu_s"`
	CPUPer1000   Spread `json:"cpu_s_per_1000"`
	P50Ms        Spread `json:"p50_ms"`
	P99Ms        Spread `json:"p99_ms"`
	// Ratio of the first peer's figures to this one's, from the runs of the
	// same round; zero for the first itself.
	RatioPerSecond    Spread `json:"first_over_this_per_s"`
	RatioPerCPUSecond Spread `json:"first_over_this_per_cpu_s"`
}

// Run measures everything: for each workload, each round, each peer in turn. A
// run that fails ends the session, with a report of what was measured until
// then.
func (c *Comparison) Run(ctx context.Context) (Report, error) {
	report := Report{
		Began: time.Now().UTC().Truncate(time.Second), Machine: fmt.Sprintf("%s/%s, %d cores, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version()),
		WarmUpS: c.Plan.WarmUp.Seconds(), WindowS: c.Plan.Window.Seconds(), Bytes: c.Plan.Bytes, Rounds: c.Rounds,
	}
	for _, w := range c.Workloads {
		for round := 1; round <= c.Rounds; round++ {
			for _, p := range c.Peers {
				c.Progress(fmt.Sprintf("%s, round %d of %d, %s …", w, round, c.Rounds, p.Name()))
				run, err := Measure(ctx, p, w, c.Plan)
				if err != nil {
					report.Summaries = c.summarise(report.Runs)
					return report, err
				}
				run.Round = round
				report.Runs = append(report.Runs, run)
				c.Progress("  " + run.line(w))
			}
		}
	}
	report.Summaries = c.summarise(report.Runs)
	return report, nil
}

// line is a run for whoever watches.
func (r *Run) line(w Workload) string {
	text := fmt.Sprintf("%.0f %s/s, %.4g CPU-s per 1,000, p50 %.4g ms, p99 %.4g ms; server %.0f %%, generator %.0f %%, others %.0f %% of the machine; fsync %.3g ms; ready after %.0f s",
		r.PerSecond, w.operation(), r.CPUPer1000, r.P50Ms, r.P99Ms, 100*r.Shares.Server, 100*r.Shares.Generator, 100*r.Shares.Other, r.FsyncMs, r.SetupS)
	if r.Behind {
		text += "; FELL BEHIND"
	}
	if !r.Counts {
		text += "; DOES NOT COUNT: " + r.Why
	}
	return text
}

func (c *Comparison) summarise(runs []Run) (out []Summary) {
	for _, w := range c.Workloads {
		for _, p := range c.Peers {
			var mine []Run
			for _, r := range runs {
				if r.Workload == w.String() && r.Peer == p.Name() {
					mine = append(mine, r)
				}
			}
			if len(mine) == 0 {
				continue
			}
			s := Summary{Workload: w.String(), Peer: p.Name(), Durable: mine[0].About.Durable, Operation: w.operation(), Runs: len(mine)}
			for _, r := range mine {
				if r.Counts {
					s.Counting++
				}
				if r.Behind {
					s.Behind++
				}
			}
			mine = counting(mine)
			of := func(get func(Run) float64) Spread {
				var v []float64
				for _, r := range mine {
					v = append(v, get(r))
				}
				return spreadOf(v)
			}
			s.PerSecond, s.PerCPUSecond = of(perSecond), of(perCPUSecond)
			s.CPUPer1000 = of(func(r Run) float64 { return r.CPUPer1000 })
			s.P50Ms, s.P99Ms = of(func(r Run) float64 { return r.P50Ms }), of(func(r Run) float64 { return r.P99Ms })
			if first := c.Peers[0].Name(); p.Name() != first {
				s.RatioPerSecond = ratio(runs, mine, first, perSecond)
				s.RatioPerCPUSecond = ratio(runs, mine, first, perCPUSecond)
			}
			out = append(out, s)
		}
	}
	return out
}

func perSecond(r Run) float64    { return r.PerSecond }
func perCPUSecond(r Run) float64 { return r.PerCPUSecond }

// counting returns the runs that count or, if none does, all.
func counting(runs []Run) []Run {
	good := slices.DeleteFunc(slices.Clone(runs), func(r Run) bool { return !r.Counts })
	if len(good) == 0 {
		return runs
	}
	return good
}

// ratio divides the first peer's figure by this one's, round by round: of those
// rounds in which both count or, if there is none, of all.
func ratio(runs, mine []Run, first string, get func(Run) float64) Spread {
	var good, all []float64
	for _, m := range mine {
		for _, r := range runs {
			if r.Workload != m.Workload || r.Round != m.Round || r.Peer != first || get(m) <= 0 {
				continue
			}
			v := get(r) / get(m)
			if all = append(all, v); r.Counts && m.Counts {
				good = append(good, v)
			}
		}
	}
	if len(good) > 0 {
		return spreadOf(good)
	}
	return spreadOf(all)
}

// Print writes the table.
func (r *Report) Print(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\n%s; warm-up %g s, window %g s, %d bytes; median [lowest – highest]\n\n", r.Machine, r.WarmUpS, r.WindowS, r.Bytes)
	fmt.Fprintln(t, "workload\tpeer\tdurable\ta second\ta CPU-second\tCPU-s per 1,000\tp50 ms\tp99 ms\tcount")
	for _, s := range r.Summaries {
		behind := ""
		if s.Behind > 0 {
			behind = fmt.Sprintf(", %d fell behind", s.Behind)
		}
		durable := "yes"
		if !s.Durable {
			durable = "NO"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%v\t%v\t%v\t%v\t%v\t%d of %d%s\n", s.Workload, s.Peer, durable,
			s.PerSecond, s.PerCPUSecond, s.CPUPer1000, s.P50Ms, s.P99Ms, s.Counting, s.Runs, behind)
	}
	fmt.Fprintln(t)
	for _, s := range r.Summaries {
		if s.RatioPerSecond.Median > 0 {
			fmt.Fprintf(t, "%s\t%s ÷ %s\t%s a second: %v\ta CPU-second: %v\n", s.Workload, r.Summaries[0].Peer, s.Peer, s.Operation, s.RatioPerSecond, s.RatioPerCPUSecond)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	told := map[string]bool{}
	for _, run := range r.Runs {
		if !told[run.Peer] {
			told[run.Peer] = true
			fmt.Fprintf(out, "%s (%s): acknowledged means that %s.\n", run.Peer, run.About.Version, run.About.Ack)
		}
	}
	_, err := fmt.Fprintln(out, "\nA run counts if nothing failed and other processes used at most 10 % of the machine; figures are of the runs that count or, where none does, of all.")
	return err
}

// String prints three or four digits.
func (s Spread) String() string {
	return figure(s.Median) + " [" + figure(s.Low) + " – " + figure(s.High) + "]"
}

func figure(f float64) string {
	if f >= 1000 {
		return fmt.Sprintf("%.0f", f)
	}
	return fmt.Sprintf("%.3g", f)
}
