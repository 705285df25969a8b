package load

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/bongsu-im/bongsu/proof/load/report"
)

// A page holds what was measured, whether it was reached, and plots of it.
func TestResultAsHTML(t *testing.T) {
	r := measured()
	r.Passed = true
	ratio := 0.25
	r.CeilingRatio, r.Details.Ceiling = &ratio, &CeilingFigures{OpsPerS: 8, P50Ms: 1, P99Ms: 2, Curve: r.Details.Curve, Seconds: r.Details.Seconds}
	r.judge(figures{opsPerS: 1, p99Ms: 1})
	r.Details.Command, r.Details.FirstError = `bongsu bench "x"`, "<b>worst</b>"
	var out bytes.Buffer
	if err := r.HTML(&out); err != nil {
		t.Fatal(err)
	}
	page := out.String()
	for _, want := range []string{
		"Send (W1)", "does not count", "1 of 2 goals met", "goal ≥ 1: met", "goal ≤ 1: missed", "Rate over time", "Latency by percentile", "Latency over time",
		"bare relay", "3, paused 30.000 ms in all", "1.00 s user, 3.00 s system", "bongsu bench &#34;x&#34;", "&lt;b&gt;worst&lt;/b&gt;",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in the page", want)
		}
	}
	if n := strings.Count(page, "<svg"); n != 4 {
		t.Errorf("%d plots", n)
	}
}

func TestSuiteAsHTML(t *testing.T) {
	counted, uncountedRun := measured(), measured()
	yes := true
	counted.Passed, counted.Details.Counts, counted.OpsPerS = true, &yes, 500
	counted.judge(figures{opsPerS: 400, p50Ms: 1})
	uncountedRun.Passed = true
	row := SuiteRow{Bench: "send --senders 2", Results: []Result{uncountedRun, counted}}
	row.sum()
	if v := row.value("ops_per_s"); v.Median != 500 || row.Counted != 1 || row.Runs != 2 || row.Failed != 0 {
		t.Errorf("%+v: only runs that count are taken", row)
	}
	if !slices.Equal(row.Goals, []Goal{{"ops_per_s", 400, 500, true}, {"p50_ms", 1, counted.P50Ms, false}}) {
		t.Errorf("%+v", row.Goals)
	}
	s := Suite{Name: "suite", Details: SuiteDetails{Rows: []SuiteRow{row, {Bench: "idle", Failed: 1, Error: "no room\nfor it"}}, Quick: true}}
	var page, table bytes.Buffer
	if err := s.HTML(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"send --senders 2", "1 of 2", "not all runs passed", "no figures to quote", "1 failed", "The last of 2 runs"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("no %q in the page", want)
		}
	}
	if err := s.Print(&table, true); err != nil || !strings.Contains(table.String(), "1 FAILED") || !strings.Contains(table.String(), "no room\n") || !strings.Contains(table.String(), `"name":"suite"`) {
		t.Errorf("%v in %s", err, &table)
	}
}

func TestMiddle(t *testing.T) {
	lines := [][]report.Point{{{X: 1, Y: 1}, {X: 2, Y: 9}, {X: 3, Y: 1}}, {{X: 1, Y: 5}, {X: 2, Y: 2}}, {{X: 1, Y: 3}, {X: 2, Y: 4}}}
	if got := middle(lines); !slices.Equal(got, []report.Point{{X: 1, Y: 3}, {X: 2, Y: 4}}) {
		t.Errorf("%v", got)
	}
	if got := middle(nil); got != nil {
		t.Errorf("of none: %v", got)
	}
}

func TestGrouped(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1000: "-1,000", 1234567: "1,234,567", -123456: "-123,456"} {
		if got := grouped(n); got != want {
			t.Errorf("grouped(%d) = %s, want %s", n, got, want)
		}
	}
}
