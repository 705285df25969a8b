package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// SuiteConfig says how the table of PEERS.md is run.
type SuiteConfig struct {
	// Self is our own binary, whose bench measures; Bin the server's, empty
	// meaning Self.
	Self, Bin string
	// Runs of each workload, in turns over all of them; 0 means 3, or 1 if Quick.
	Runs int
	// Quick takes a slice: smaller rooms, short windows.
	Quick bool
	// Within bounds the whole: no run begins after it, and one that is under way
	// is ended. 0 means 4 hours, or 10 minutes if Quick.
	Within time.Duration
	// Seed of the first run of each workload, the second of which has the next;
	// 0 draws one.
	Seed uint64
	// Progress is told how many runs are done, and which comes.
	Progress func(what string, done, total int)
}

// Suite is the result of all workloads.
type Suite struct {
	Name    string       `json:"name"`
	Seed    uint64       `json:"seed"`
	Seconds float64      `json:"seconds"`
	Passed  bool         `json:"passed"` // all runs were made and did
	Details SuiteDetails `json:"details"`
}

// SuiteDetails of a Suite.
type SuiteDetails struct {
	Rows    []SuiteRow `json:"rows"`
	Quick   bool       `json:"quick"`
	Machine Machine    `json:"machine"`
	Version string     `json:"version"`
	Command string     `json:"command,omitempty"`
	When    string     `json:"when,omitempty"`
	// Skipped runs were not made, for the time was over.
	Skipped int `json:"skipped"`
}

// SuiteRow is one workload. Its figures are medians over the runs that count
// or, if none does, over all.
type SuiteRow struct {
	Bench   string `json:"bench"`
	Runs    int    `json:"runs"`
	Counted int    `json:"counted"`
	Failed  int    `json:"failed"`
	// Error is why the last run that could not be made was not.
	Error   string     `json:"error,omitempty"`
	Figures []RowValue `json:"figures"`
	Goals   []Goal     `json:"goals,omitempty"`
	Results []Result   `json:"results"`
}

// RowValue is the median of one figure and its range.
type RowValue struct {
	Figure string  `json:"figure"`
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
}

// suiteWorkloads are the rows of PEERS.md; W6 is a drill.
var suiteWorkloads = []string{
	"send --senders 100 --ceiling",
	"send --senders 1000 --ceiling",
	"deliver --rate 500 --ceiling",
	"deliver --rate 2000 --ceiling",
	"fanout --members 100 --ceiling",
	"fanout --members 1000 --ceiling",
	"fanout --members 100 --rate 20",
	"fanout --members 1000 --rate 2",
	"idle --sessions 10000",
	"idle --sessions 15000",
	"idle --sessions 10000 --tls",
	"history --messages 1000",
	"history --messages 10000",
	"history --messages 100000",
	"receipts --members 100",
	"receipts --members 100 --rate 20",
}

var quickWorkloads = []string{
	"send --senders 20 --seconds 5 --ceiling",
	"deliver --rate 200 --pairs 20 --seconds 5 --ceiling",
	"fanout --members 30 --seconds 5 --ceiling",
	"fanout --members 30 --rate 20 --seconds 5",
	"idle --sessions 1000 --seconds 3",
	"history --messages 5000",
	"receipts --members 30 --seconds 5",
}

// RunSuite measures every workload Runs times, in turns: a disturbance then
// falls on all of them.
func RunSuite(ctx context.Context, cfg SuiteConfig) (Suite, error) {
	list := suiteWorkloads
	if cfg.Quick {
		list = quickWorkloads
		setDefault(&cfg.Runs, 1)
		setDefault(&cfg.Within, 10*time.Minute)
	}
	setDefault(&cfg.Runs, 3)
	setDefault(&cfg.Within, 4*time.Hour)
	for cfg.Seed == 0 {
		cfg.Seed = rand.Uint64()
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string, int, int) {}
	}
	if cfg.Bin == "" {
		cfg.Bin = cfg.Self
	}
	began := time.Now()
	bounded, cancel := context.WithDeadline(ctx, began.Add(cfg.Within))
	defer cancel()
	s := Suite{Name: "suite", Seed: cfg.Seed, Details: SuiteDetails{Quick: cfg.Quick, Machine: thisMachine(), Version: versionOf(ctx, cfg.Bin)}}
	rows := make([]SuiteRow, len(list))
	for run := range cfg.Runs {
		for i, bench := range list {
			cfg.Progress(bench, run*len(list)+i, cfg.Runs*len(list))
			if bounded.Err() != nil {
				s.Details.Skipped++
				continue
			}
			r, err := runBench(bounded, cfg.Self, append(strings.Fields(bench), "--bin", cfg.Bin), cfg.Seed+uint64(run))
			if ctx.Err() != nil {
				return Suite{}, errors.Join(context.Cause(ctx), err)
			}
			// One that cannot run must not take the others' figures with it.
			if err != nil {
				rows[i].Failed++
				rows[i].Error = err.Error()
				continue
			}
			rows[i].Results = append(rows[i].Results, r)
		}
	}
	cfg.Progress("done", cfg.Runs*len(list), cfg.Runs*len(list))
	s.Passed = s.Details.Skipped == 0
	for i, bench := range list {
		rows[i].Bench = bench
		rows[i].sum()
		s.Passed = s.Passed && rows[i].Failed == 0
	}
	s.Details.Rows = rows
	s.Seconds = round(time.Since(began).Seconds(), 1)
	return s, nil
}

// sum takes the medians.
func (row *SuiteRow) sum() {
	var counted []Result
	for _, r := range row.Results {
		row.Runs++
		if !r.Passed {
			row.Failed++
		}
		if r.countsWhole() {
			counted = append(counted, r)
		}
	}
	row.Counted = len(counted)
	if len(counted) == 0 {
		counted = row.Results
	}
	medians := map[string]float64{}
	for _, f := range comparable {
		values, all := figuresOf(counted, f.of)
		if !all {
			continue
		}
		medians[f.name] = median(values)
		row.Figures = append(row.Figures, RowValue{f.name, median(values), slices.Min(values), slices.Max(values)})
	}
	if len(counted) == 0 {
		return
	}
	for _, g := range counted[0].Details.Goals {
		got := medians[g.Figure]
		met := got >= g.Want
		if lowerIsBetter(g.Figure) {
			met = got <= g.Want
		}
		row.Goals = append(row.Goals, Goal{g.Figure, g.Want, got, met})
	}
}

func lowerIsBetter(figure string) bool { return figure != "ops_per_s" && figure != "ceiling_ratio" }

// value of a row's figure; unknown ones are 0.
func (row *SuiteRow) value(name string) RowValue {
	for _, v := range row.Figures {
		if v.Figure == name {
			return v
		}
	}
	return RowValue{Figure: name}
}

// Print writes the suite as a table for people and, if asJSON, as one last line
// of JSON.
func (s Suite) Print(w io.Writer, asJSON bool) error {
	var b strings.Builder
	fmt.Fprintf(&b, "bench suite: %s, %d workloads, %.0f s, seed %d\n", s.Details.Version, len(s.Details.Rows), s.Seconds, s.Seed)
	fmt.Fprintf(&b, "  %-44s %10s %9s %9s %11s %8s %8s  %s\n", "median", "/s", "p50 ms", "p99 ms", "CPU-s/1000", "ceiling", "goals", "runs")
	for _, row := range s.Details.Rows {
		met := 0
		for _, g := range row.Goals {
			if g.Met {
				met++
			}
		}
		goals := "–"
		if len(row.Goals) > 0 {
			goals = fmt.Sprintf("%d of %d", met, len(row.Goals))
		}
		runs := fmt.Sprintf("%d, %d count", row.Runs, row.Counted)
		if row.Failed > 0 {
			runs += fmt.Sprintf(", %d FAILED", row.Failed)
		}
		if row.Runs > 0 && row.Counted == 0 {
			runs += ": NO FIGURE OF THIS ROW COUNTS"
		}
		fmt.Fprintf(&b, "  %-44s %10.1f %9.3f %9.3f %11.5f %8s %8s  %s\n", row.Bench, row.value("ops_per_s").Median,
			row.value("p50_ms").Median, row.value("p99_ms").Median, row.value("server_cpu_s_per_1000").Median, orDash("%.3f", row.value("ceiling_ratio").Median), goals, runs)
		if kib := row.value("kib_per_session").Median; kib > 0 {
			fmt.Fprintf(&b, "  %-44s %.2f KiB a session\n", "", kib)
		}
		if row.Error != "" {
			first, _, _ := strings.Cut(row.Error, "\n")
			fmt.Fprintf(&b, "  %-44s %s\n", "", first)
		}
	}
	if s.Details.Skipped > 0 {
		fmt.Fprintf(&b, "  %d RUNS WERE NOT MADE: the time was over\n", s.Details.Skipped)
	}
	b.WriteString("  kill -9 (W6) is a drill: bongsu drill crash\n")
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("print the suite: %w", err)
	}
	if !asJSON {
		return nil
	}
	if err := json.NewEncoder(w).Encode(s); err != nil {
		return fmt.Errorf("print the suite: %w", err)
	}
	return nil
}

func orDash(format string, v float64) string {
	if v == 0 {
		return "–"
	}
	return fmt.Sprintf(format, v)
}
