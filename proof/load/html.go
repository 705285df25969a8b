package load

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/bongsu-im/bongsu/proof/load/report"
)

// What workloads are called in reports.
var titles = map[string]string{
	"send": "Send (W1)", "deliver": "Deliver (W2)", "fanout": "Fan-out (W3)", "idle": "Idle sessions (W4)",
	"history": "History (W5)", "receipts": "Receipts (W7)", "ceiling": "Ceiling",
}

var figureNames = map[string]string{
	"ops_per_s": "Rate, /s", "p50_ms": "p50, ms", "p99_ms": "p99, ms", "p99_9_ms": "p99.9, ms",
	"server_cpu_s_per_1000": "Server CPU-s for 1,000", "peak_mib": "Server memory, MiB at the most",
	"kib_per_session": "KiB a session", "ceiling_ratio": "Of the relay’s rate", "journaled_per_message": "Cursor changes journaled a message",
}

func figureName(name string) string {
	if n, ok := figureNames[name]; ok {
		return n
	}
	return name
}

// HTML writes the result as a page of its own.
func (r Result) HTML(w io.Writer) error {
	section := r.section()
	section.Title, section.Lead = "", ""
	p := report.Page{
		Title: "Bongsu bench: " + titles[r.Name], Lead: sentence(r.Details.Workload),
		Badges: section.Badges, Sections: []report.Section{section}, Facts: r.facts(),
	}
	p.Sections[0].Badges = nil
	return p.Write(w)
}

func sentence(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

func (r *Result) badges() []report.Badge {
	d := &r.Details
	out := []report.Badge{{Text: "passed", Tone: report.Good}}
	if !r.Passed {
		out[0] = report.Badge{Text: fmt.Sprintf("failed: %d errors", r.Errors), Tone: report.Bad}
	}
	if d.Behind {
		out = append(out, report.Badge{Text: "fell behind what was offered", Tone: report.Bad})
	}
	switch {
	case d.Counts == nil:
		out = append(out, report.Badge{Text: "whether it counts is not known", Tone: report.Doubt})
	case *d.Counts:
		out = append(out, report.Badge{Text: fmt.Sprintf("counts: others took %.1f %% of the machine", 100*d.OtherShare), Tone: report.Good})
	default:
		out = append(out, report.Badge{Text: fmt.Sprintf("does not count: others took %.1f %% of the machine", 100*d.OtherShare), Tone: report.Doubt})
	}
	if c := d.Ceiling; c != nil && c.Counts != nil && !*c.Counts {
		out = append(out, report.Badge{Text: fmt.Sprintf("the relay’s run does not count: others took %.1f %%", 100*c.OtherShare), Tone: report.Doubt})
	}
	if n := len(d.Goals); n > 0 {
		met := 0
		for _, g := range d.Goals {
			if g.Met {
				met++
			}
		}
		badge := report.Badge{Text: fmt.Sprintf("%d of %d goals met", met, n), Tone: report.Good}
		if met < n {
			badge.Tone = report.Bad
		}
		out = append(out, badge)
	}
	return out
}

func (r *Result) section() report.Section {
	d := &r.Details
	s := report.Section{Title: titles[r.Name], Lead: sentence(d.Workload), Badges: r.badges()}
	tile := func(name, value, unit, figure string) {
		t := report.Tile{Name: name, Value: value, Unit: unit}
		for _, g := range d.Goals {
			if g.Figure != figure {
				continue
			}
			t.Note, t.Tone = fmt.Sprintf("goal %s %s: met", bound(figure), report.Short(g.Want)), report.Good
			if !g.Met {
				t.Note, t.Tone = fmt.Sprintf("goal %s %s: missed", bound(figure), report.Short(g.Want)), report.Bad
			}
		}
		s.Tiles = append(s.Tiles, t)
	}
	tile(sentenceWord(d.Operation), report.Short(r.OpsPerS), "/s", "ops_per_s")
	tile("Median latency", report.Short(r.P50Ms), "ms", "p50_ms")
	tile("99 % within", report.Short(r.P99Ms), "ms", "p99_ms")
	if r.ServerCPUPer1000 != nil && r.KiBPerSession == nil {
		tile("Server CPU for 1,000", report.Short(*r.ServerCPUPer1000), "s", "server_cpu_s_per_1000")
	}
	if r.KiBPerSession != nil {
		tile("Memory a session", report.Short(*r.KiBPerSession), "KiB", "kib_per_session")
	}
	if r.CeilingRatio != nil {
		tile("Of a bare relay’s rate", report.Short(*r.CeilingRatio), "", "ceiling_ratio")
	}
	s.Charts = r.charts()
	s.Tables = append(s.Tables, r.figureTable())
	if c := d.Ceiling; c != nil {
		s.Tables = append(s.Tables, r.ceilingTable(c))
	}
	return s
}

func bound(figure string) string {
	if lowerIsBetter(figure) {
		return "≤"
	}
	return "≥"
}

// grouped writes a count with a comma between thousands.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func sentenceWord(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func row(name, format string, args ...any) []report.Cell {
	return []report.Cell{{Text: name}, {Text: fmt.Sprintf(format, args...)}}
}

// figureTable is everything that was measured, in words.
func (r *Result) figureTable() report.Table {
	d := &r.Details
	t := report.Table{Title: "Figures", Words: true}
	add := func(name, format string, args ...any) { t.Rows = append(t.Rows, row(name, format, args...)) }
	add(sentenceWord(d.Operation)+" in the window", "%s in %g s", grouped(d.Ops), r.Seconds)
	if d.OfferedPerS > 0 {
		add("Offered", "%g /s", d.OfferedPerS)
	}
	add("p50 · p99 · p99.9 · longest", "%.3f · %.3f · %.3f · %.3f ms", r.P50Ms, r.P99Ms, d.P999Ms, d.MaxMs)
	add("Latencies recorded", "%s", grouped(d.Samples))
	add("Errors", "%d%s", r.Errors, parenthesis(d.FirstError))
	if f := d.Fanout; f != nil {
		add("Acknowledged", "%.1f /s, p50 %.3f, p99 %.3f ms", f.AckPerS, f.AckP50Ms, f.AckP99Ms)
	}
	if p := d.Receipts; p != nil {
		if p.CountedBy != "" {
			add("Cursor changes journaled a message", "%.2f, by %s", p.JournaledPerMessage, p.CountedBy)
		}
		add("Read events delivered a message", "%.2f", p.ReadDeliveriesPerMessage)
		add("Message events delivered a message", "%.2f", p.MessageDeliveriesPerMessage)
		add("Marks asked for a message", "%.2f", p.MarksPerMessage)
		add("Members whose stored cursor is wrong", "%d", p.WrongCursors)
	}
	if i := d.Idle; i != nil {
		add("Server memory before · after", "%.1f · %.1f MiB", i.BeforeMiB, i.MemoryMiB)
		add("Kernel a session, both ends", "%.2f KiB, of it %.2f in TCP’s queues", i.KernelKiB, i.TCPKiB)
		add("Sign-in, with password hashing", "%.0f ms, %.0f ms of CPU", i.SignInMs, i.SignInCPUMs)
	}
	if r.ServerCPUPer1000 != nil {
		add("Server CPU in the window", "%.2f s user, %.2f s system", d.ServerUserS, d.ServerSystemS)
		add("Server memory", "%.1f MiB at the most", d.PeakMiB)
	}
	if c := d.Collector; c != nil {
		add("Garbage collections", "%d, paused %.3f ms in all, %.3f ms at the longest", c.Cycles, c.PauseTotalMs, c.PauseMaxMs)
		add("Allocated by the server for each", "%.2f KiB", c.AllocKiBPerOp)
	}
	add("Shares of the machine", "server %.1f %%, generator %.1f %%, others %.1f %%, stolen %.1f %%",
		100*d.ServerShare, 100*d.GeneratorShare, 100*d.OtherShare, 100*d.StealShare)
	add("fsync of 4 KiB, median of 100", "%.3f ms", d.FsyncMs)
	return t
}

func (r *Result) ceilingTable(c *CeilingFigures) report.Table {
	t := report.Table{
		Title: "Beside a bare relay, which stores and decides nothing",
		Head:  []string{"", "server", "relay", "relay ÷ server"},
	}
	add := func(name, format string, ours, theirs float64) {
		cells := []report.Cell{{Text: name}, {Text: fmt.Sprintf(format, ours)}, {Text: fmt.Sprintf(format, theirs)}, {Text: "–"}}
		if ours > 0 {
			cells[3].Text = report.Short(theirs / ours)
		}
		t.Rows = append(t.Rows, cells)
	}
	add("Rate, /s", "%.0f", r.OpsPerS, c.OpsPerS)
	add("p50, ms", "%.3f", r.P50Ms, c.P50Ms)
	add("p99, ms", "%.3f", r.P99Ms, c.P99Ms)
	if r.ServerCPUPer1000 != nil && c.ServerCPUPer1000 != nil {
		add("CPU-s for 1,000", "%.5f", *r.ServerCPUPer1000, *c.ServerCPUPer1000)
	}
	return t
}

func (r *Result) charts() []report.Chart {
	rate := report.Chart{
		Title: "Rate over time", Note: sentenceWord(r.Details.Operation) + " in each second of the window",
		XLabel: "seconds", XWhole: true, YLabel: "/s", FromZero: true, Lines: []report.Line{{Name: "server", Points: rates(r.Details.Seconds, r.Seconds)}},
	}
	over := report.Chart{
		Title: "Latency over time", Note: "Milliseconds, of what ended in each second",
		XLabel: "seconds", XWhole: true, YLabel: "ms", YScale: report.Log,
		Lines: []report.Line{
			{Name: "p50", Points: perSecondOf(r.Details.Seconds, r.Seconds, func(s SecondFigures) float64 { return s.P50Ms })},
			{Name: "p99", Points: perSecondOf(r.Details.Seconds, r.Seconds, func(s SecondFigures) float64 { return s.P99Ms })},
			{Name: "longest", Points: perSecondOf(r.Details.Seconds, r.Seconds, func(s SecondFigures) float64 { return s.MaxMs })},
		},
	}
	curve := report.Chart{
		Title: "Latency by percentile", Note: "Milliseconds within which a share of all was done",
		XLabel: "share", YLabel: "ms", XScale: report.Nines, YScale: report.Log,
		Lines: []report.Line{{Name: "server", Points: points(r.Details.Curve, r.P50Ms)}},
		Marks: []report.Mark{{X: 0.5, Y: r.P50Ms, Label: report.Short(r.P50Ms)}, {X: 0.99, Y: r.P99Ms, Label: report.Short(r.P99Ms)}, {X: 0.999, Y: r.Details.P999Ms, Label: report.Short(r.Details.P999Ms)}},
	}
	if c := r.Details.Ceiling; c != nil {
		curve.Lines = append(curve.Lines, report.Line{Name: "bare relay", Points: points(c.Curve, c.P50Ms)})
		rate.Lines = append(rate.Lines, report.Line{Name: "bare relay", Points: rates(c.Seconds, r.Seconds)})
	}
	charts := []report.Chart{curve}
	if len(r.Details.Seconds) > 2 {
		charts = []report.Chart{rate, curve, over}
	}
	if r.Details.PeakMiB > 0 && len(r.Details.Seconds) > 2 {
		charts = append(charts, report.Chart{
			Title: "Server over time", Note: "Cores busy in each second", XLabel: "seconds", XWhole: true, YLabel: "cores", FromZero: true,
			Lines: []report.Line{{Name: "server", Points: cores(r.Details.Seconds, r.Seconds)}},
		})
	}
	return charts
}

// rates of the whole seconds of a window: what trails after it, or fills a
// second only in part, would look like a fall.
func rates(seconds []SecondFigures, window float64) (out []report.Point) {
	for i := range min(len(seconds), int(window)) {
		out = append(out, report.Point{X: float64(i + 1), Y: float64(seconds[i].Ops)})
	}
	return out
}

func cores(seconds []SecondFigures, window float64) (out []report.Point) {
	for i := range min(len(seconds), int(window)) {
		out = append(out, report.Point{X: float64(i + 1), Y: seconds[i].ServerCPU})
	}
	return out
}

// perSecondOf is the latencies of the seconds of a window. What ended after it
// is few, and in the curve.
func perSecondOf(seconds []SecondFigures, window float64, of func(SecondFigures) float64) (out []report.Point) {
	for i := range min(len(seconds), int(math.Ceil(window))) {
		out = append(out, report.Point{X: float64(i + 1), Y: of(seconds[i])})
	}
	return out
}

// points of a curve from its median up: below it a logarithm shows little.
func points(curve []Percentile, median float64) []report.Point {
	out := []report.Point{{X: 0.5, Y: median}}
	for _, p := range curve {
		if p.Q > 0.5 {
			out = append(out, report.Point{X: p.Q, Y: p.Ms})
		}
	}
	return out
}

func machineFacts(m Machine) []report.Fact {
	return []report.Fact{{Name: "Machine", Value: fmt.Sprintf("%d cores, %s, %g GiB, %s", m.CPUs, m.Model, m.MemoryGiB, m.System)}}
}

func runFacts(command, when string) (out []report.Fact) {
	if command != "" {
		out = append(out, report.Fact{Name: "Command", Value: command, Code: true})
	}
	if when != "" {
		out = append(out, report.Fact{Name: "When", Value: when})
	}
	return out
}

func (r *Result) facts() []report.Fact {
	d := &r.Details
	out := runFacts(d.Command, d.When)
	if d.Version != "" {
		out = append(out, report.Fact{Name: "Server", Value: strings.TrimSpace(d.Version + " " + strings.Join(d.Server, " "))})
	}
	if d.TLS {
		out = append(out, report.Fact{Name: "TLS", Value: "spoken by the server itself"})
	}
	out = append(out, machineFacts(d.Machine)...)
	return append(out,
		report.Fact{Name: "Generator", Value: "on the same machine, as a process of its own, through the public API"},
		report.Fact{Name: "Times", Value: fmt.Sprintf("%g s to set up, %g s warm-up, %g s window", d.SetupS, d.WarmUpS, r.Seconds)},
		report.Fact{Name: "Seed", Value: fmt.Sprint(r.Seed), Code: true},
	)
}

// HTML writes the comparison as a page of its own.
func (c Comparison) HTML(w io.Writer) error {
	d := &c.Details
	ratios := report.Table{
		Title: "B ÷ A, with 95 % intervals over the rounds",
		Head:  []string{"", "median A", "range A", "median B", "range B", "B ÷ A", "95 % interval"},
	}
	for _, f := range d.Figures {
		interval, tone := "–", report.Plain
		if f.High > 0 {
			interval = fmt.Sprintf("%.3f to %.3f", f.Low, f.High)
			better, worse := f.Low > 1, f.High < 1
			if lowerIsBetter(f.Figure) {
				better, worse = worse, better
			}
			switch {
			case better:
				tone, interval = report.Good, interval+": better"
			case worse:
				tone, interval = report.Bad, interval+": worse"
			default:
				interval += ": no difference seen"
			}
		}
		ratios.Rows = append(ratios.Rows, []report.Cell{
			{Text: figureName(f.Figure)}, {Text: fmt.Sprintf("%.4g", f.MedianA)}, {Text: rangeOf(f.A)}, {Text: fmt.Sprintf("%.4g", f.MedianB)}, {Text: rangeOf(f.B)},
			{Text: fmt.Sprintf("%.3f", f.Ratio), Tone: tone}, {Text: interval, Tone: tone},
		})
	}
	var badges []report.Badge
	if d.Failed > 0 {
		badges = append(badges, report.Badge{Text: fmt.Sprintf("%d runs failed", d.Failed), Tone: report.Bad})
	} else {
		badges = append(badges, report.Badge{Text: "all runs passed", Tone: report.Good})
	}
	if d.Uncounted > 0 {
		badges = append(badges, report.Badge{Text: fmt.Sprintf("%d of %d runs do not count: others took more than 10 %%", d.Uncounted, 2*d.Rounds), Tone: report.Doubt})
	} else {
		badges = append(badges, report.Badge{Text: fmt.Sprintf("all %d runs count", 2*d.Rounds), Tone: report.Good})
	}
	if !d.Trusted {
		badges = append(badges, report.Badge{Text: "too few rounds for the intervals", Tone: report.Doubt})
	}
	p := report.Page{
		Title:    "Bongsu bench: two servers compared",
		Lead:     fmt.Sprintf("%s, %d rounds in turns: A B A B …", strings.Join(d.Bench, " "), d.Rounds),
		Badges:   badges,
		Sections: []report.Section{{Charts: c.charts(), Tables: []report.Table{ratios}}},
		Facts:    append(runFacts(d.Command, d.When), report.Fact{Name: "A", Value: d.A, Code: true}, report.Fact{Name: "B", Value: d.B, Code: true}),
	}
	if len(c.runsA) > 0 {
		p.Facts = append(p.Facts, machineFacts(c.runsA[0].Details.Machine)...)
		p.Facts = append(p.Facts, report.Fact{Name: "Versions", Value: c.runsA[0].Details.Version + " · " + c.runsB[0].Details.Version})
	}
	p.Facts = append(p.Facts, report.Fact{Name: "Seed", Value: fmt.Sprint(c.Seed), Code: true})
	return p.Write(w)
}

func rangeOf(values []float64) string {
	if len(values) == 0 {
		return "–"
	}
	low, high := values[0], values[0]
	for _, v := range values {
		low, high = min(low, v), max(high, v)
	}
	return fmt.Sprintf("%.4g–%.4g", low, high)
}

// charts lays both over each other: medians over the runs, before the runs
// themselves.
func (c *Comparison) charts() []report.Chart {
	curve := report.Chart{
		Title: "Latency by percentile", Note: "Milliseconds within which a share of all was done: medians, and every run",
		XLabel: "share", YLabel: "ms", XScale: report.Nines, YScale: report.Log,
	}
	rate := report.Chart{
		Title: "Rate over time", Note: "Operations in each second of the window: medians, and every run",
		XLabel: "seconds", XWhole: true, YLabel: "/s", FromZero: true,
	}
	for side, runs := range [][]Result{c.runsA, c.runsB} {
		var curves, over [][]report.Point
		for i := range runs {
			curves = append(curves, points(runs[i].Details.Curve, runs[i].P50Ms))
			over = append(over, rates(runs[i].Details.Seconds, runs[i].Seconds))
		}
		for chart, lines := range map[*report.Chart][][]report.Point{&curve: curves, &rate: over} {
			for _, line := range lines {
				chart.Lines = append(chart.Lines, report.Line{Color: side + 1, Thin: true, Points: line})
			}
			chart.Lines = append(chart.Lines, report.Line{Name: string(rune('A' + side)), Color: side + 1, Points: middle(lines)})
		}
	}
	return []report.Chart{rate, curve}
}

// middle is the median line, as far as all of them go.
func middle(lines [][]report.Point) (out []report.Point) {
	for i := 0; ; i++ {
		var values []float64
		for _, l := range lines {
			if i < len(l) {
				values = append(values, l[i].Y)
			}
		}
		if len(values) == 0 || len(values) < len(lines) {
			return out
		}
		out = append(out, report.Point{X: lines[0][i].X, Y: median(values)})
	}
}

// HTML writes the suite as a page of its own.
func (s Suite) HTML(w io.Writer) error {
	d := &s.Details
	table := report.Table{Title: "Medians", Head: []string{"", "/s", "p50 ms", "p99 ms", "CPU-s for 1,000", "KiB a session", "of the relay", "goals met", "runs that count"}}
	p := report.Page{Title: "Bongsu bench: every workload", Lead: fmt.Sprintf("%d workloads in turns, in %s.", len(d.Rows), time.Duration(s.Seconds*float64(time.Second)).Round(time.Second))}
	if s.Passed {
		p.Badges = append(p.Badges, report.Badge{Text: "all runs passed", Tone: report.Good})
	} else {
		p.Badges = append(p.Badges, report.Badge{Text: "not all runs passed", Tone: report.Bad})
	}
	if d.Quick {
		p.Badges = append(p.Badges, report.Badge{Text: "a quick slice: no figures to quote", Tone: report.Doubt})
	}
	sections := []report.Section{{}}
	for i := range d.Rows {
		table.Rows = append(table.Rows, d.Rows[i].cells())
		if n := len(d.Rows[i].Results); n > 0 {
			section := d.Rows[i].Results[n-1].section()
			section.Title = d.Rows[i].Bench
			if n > 1 {
				section.Lead += fmt.Sprintf(" The last of %d runs:", n)
			}
			section.Facts = runFacts(d.Rows[i].Results[n-1].Details.Command, "")
			sections = append(sections, section)
		}
	}
	sections[0].Tables = []report.Table{table}
	sections[0].Lead = "Each figure is the median over the runs that count or, if none does, over all. A run counts if other processes took at most a tenth of the machine."
	p.Sections = sections
	p.Facts = append(runFacts(d.Command, d.When), report.Fact{Name: "Server", Value: d.Version})
	p.Facts = append(p.Facts, machineFacts(d.Machine)...)
	p.Facts = append(p.Facts, report.Fact{Name: "Seed", Value: fmt.Sprint(s.Seed), Code: true})
	return p.Write(w)
}

func (row *SuiteRow) cells() []report.Cell {
	out := []report.Cell{{Text: row.Bench}}
	for _, name := range []string{"ops_per_s", "p50_ms", "p99_ms", "server_cpu_s_per_1000", "kib_per_session", "ceiling_ratio"} {
		v := row.value(name)
		cell := report.Cell{Text: "–"}
		if v.Median != 0 {
			cell.Text = report.Short(v.Median)
		}
		for _, g := range row.Goals {
			if g.Figure == name && g.Met {
				cell.Tone = report.Good
			} else if g.Figure == name {
				cell.Tone = report.Bad
			}
		}
		out = append(out, cell)
	}
	met := 0
	for _, g := range row.Goals {
		if g.Met {
			met++
		}
	}
	goals := report.Cell{Text: "–"}
	if n := len(row.Goals); n > 0 {
		goals = report.Cell{Text: fmt.Sprintf("%d of %d", met, n), Tone: report.Good}
		if met < n {
			goals.Tone = report.Bad
		}
	}
	runs := report.Cell{Text: fmt.Sprintf("%d of %d", row.Counted, row.Runs)}
	switch {
	case row.Failed > 0:
		runs.Text, runs.Tone = runs.Text+fmt.Sprintf(", %d failed", row.Failed), report.Bad
	case row.Counted == 0:
		runs.Tone = report.Doubt
	}
	return append(out, goals, runs)
}
