package drill

import (
	"fmt"
	"html"
	"html/template"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/bongsu-im/bongsu/proof/load/report"
)

// HTML writes the result as one page that needs nothing else, with a picture of
// the whole run.
func (r *ClusterResult) HTML(w io.Writer, facts ...report.Fact) error {
	tone := func(bad bool) report.Tone {
		if bad {
			return report.Bad
		}
		return report.Good
	}
	verdict := report.Badge{Text: "passed", Tone: report.Good}
	if !r.Passed {
		verdict = report.Badge{Text: "failed", Tone: report.Bad}
	}
	count := func(name string, n int) report.Tile {
		return report.Tile{Name: name, Value: fmt.Sprint(n), Tone: tone(n > 0)}
	}
	page := report.Page{
		Title:  "Bongsu drill: a cluster that is hurt",
		Lead:   fmt.Sprintf("%d nodes in %s, hurt %d times in %.0f s while people wrote; afterwards every room was read from every replica.", r.nodes, r.Network, r.Faults, r.Seconds),
		Badges: []report.Badge{verdict},
		Sections: []report.Section{
			{
				Tiles: []report.Tile{
					{Name: "Faults", Value: fmt.Sprint(r.Faults)}, {Name: "Acknowledged", Value: report.Short(float64(r.Acknowledged))},
					count("Lost", r.Lost), count("Duplicated", r.Duplicated), count("Moved", r.Moved), count("Holes", r.Holes),
					count("Rooms without a linear order", r.LinearizabilityViolations),
				},
				Drawings: []report.Drawing{r.picture()},
				Tables:   r.tables(),
			},
		},
		Facts: append(facts, report.Fact{Name: "Seed", Value: fmt.Sprint(r.Seed), Code: true}),
	}
	if r.FailoverP50Ms > 0 {
		tiles := &page.Sections[0].Tiles
		*tiles = append(*tiles, report.Tile{Name: "Owner killed → next acknowledgement, median", Value: report.Short(r.FailoverP50Ms), Unit: "ms"},
			report.Tile{Name: "99 % within", Value: report.Short(r.FailoverP99Ms), Unit: "ms"})
	}
	return page.Write(w)
}

func (r *ClusterResult) tables() (tables []report.Table) {
	if len(r.Details) > 0 {
		t := report.Table{Title: "What is to be said", Words: true}
		for i, d := range r.Details {
			t.Rows = append(t.Rows, []report.Cell{{Text: fmt.Sprint(i + 1)}, {Text: d}})
		}
		tables = append(tables, t)
	}
	t := report.Table{Title: "Faults", Words: true, Head: []string{"", "of", "at", "whole after", "proof that it fired, and what came of it"}}
	for _, f := range r.Records {
		whole := report.Cell{Text: "never", Tone: report.Bad}
		if f.Whole > 0 {
			whole = report.Cell{Text: fmt.Sprintf("%.1f s", f.Whole-f.End)}
		}
		proof := report.Cell{Text: f.Proof}
		if !f.Fired {
			proof = report.Cell{Text: "did not fire; " + f.Proof, Tone: report.Doubt}
		}
		if f.Wrong != "" {
			proof = report.Cell{Text: f.Proof + "; wrong: " + f.Wrong, Tone: report.Bad}
		}
		t.Rows = append(t.Rows, []report.Cell{{Text: fmt.Sprintf("%d %s", f.Number, f.Kind)}, {Text: strings.Join(f.Nodes, " ")}, {Text: fmt.Sprintf("%.1f s", f.Begin)}, whole, proof})
	}
	tables = append(tables, t)
	figures := report.Table{Title: "Figures", Words: true}
	for _, name := range sortedKeys(r.Figures) {
		figures.Rows = append(figures.Rows, []report.Cell{{Text: strings.ReplaceAll(name, "_", " ")}, {Text: report.Short(r.Figures[name])}})
	}
	tables = append(tables, figures)
	if len(r.Notes) > 0 {
		notes := report.Table{Title: "Processes that ended by themselves, and were started again", Words: true}
		for _, n := range r.Notes {
			notes.Rows = append(notes.Rows, []report.Cell{{Text: fmt.Sprintf("%s at %.1f s", n.Node, n.At)}, {Text: n.Text}})
		}
		tables = append(tables, notes)
	}
	return tables
}

// families of faults have a colour each.
var families = []string{"processes", "network", "disks", "operation and clients"}

func family(k FaultKind) int {
	switch k {
	case KillOwner, KillAll, FreezeOwner, FreezeDoor:
		return 0
	case CutOff, CutOneWay, CutBridge, SlowLink, LossyLink:
		return 1
	case SlowDisk, FsyncError, NoSpace, TornTail, FlippedBit, Truncated, DamagedView, LostDisk, LostMetadata:
		return 2
	default:
		return 3
	}
}

// The drawing in the units of its view box.
const (
	drawWidth  = 1040.0
	drawLeft   = 96.0
	drawRight  = 12.0
	nodeHeight = 26.0
	leadHeight = 11.0
	plotHeight = 90.0
	gapHeight  = 26.0
)

// canvas draws rows from the top down on one axis of time.
type canvas struct {
	b    strings.Builder
	y    float64
	from float64 // seconds
	span float64
}

func (c *canvas) x(at float64) float64 {
	return drawLeft + (drawWidth-drawLeft-drawRight)*min(max((at-c.from)/c.span, 0), 1)
}

func (c *canvas) text(class string, x, y float64, anchor, text string) {
	fmt.Fprintf(&c.b, `<text class="%s" x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, class, x, y, anchor, html.EscapeString(text))
}

func (c *canvas) bar(class string, from, to, y, height float64, title string) {
	x := c.x(from)
	fmt.Fprintf(&c.b, `<rect class="area %s" x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="1.5"><title>%s</title></rect>`,
		class, x, y, max(c.x(to)-x, 1.5), height, html.EscapeString(title))
}

func (c *canvas) rule(y float64) {
	fmt.Fprintf(&c.b, `<line class="grid" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/>`, drawLeft, drawWidth-drawRight, y, y)
}

// picture is the run: what hurt which node, who led, how many messages were
// acknowledged and how long they waited.
func (r *ClusterResult) picture() report.Drawing {
	c := &canvas{y: 8, from: r.talking, span: max(r.Seconds-r.talking, 1)}
	r.drawFaults(c)
	r.drawLeads(c)
	var counts, middle, longest []float64
	first := int(r.talking)
	for i, waits := range r.waits {
		if i < first {
			continue
		}
		counts = append(counts, float64(len(waits)))
		ms := func(q float64) float64 {
			if len(waits) == 0 {
				return math.NaN()
			}
			return quantileMs(waits, q)
		}
		middle, longest = append(middle, ms(0.5)), append(longest, ms(1))
	}
	c.plot("acked /s", first, false, counts)
	c.plot("waited ms", first, true, middle, longest)
	c.axis()
	svg := fmt.Sprintf(`<svg viewBox="0 0 %g %.0f" role="img" aria-label="The run over time">%s</svg>`, drawWidth, c.y, c.b.String())
	return report.Drawing{
		Title:  "The run over time",
		Note:   "Solid: the fault stands. Faint: until the cluster is whole again. Below, who led each shard (a colour a node, gaps where nobody did), messages acknowledged each second, and how long those waited: median, and longest thin.",
		Legend: families, SVG: template.HTML(svg),
	}
}

func (r *ClusterResult) drawFaults(c *canvas) {
	for node := range r.nodes {
		name := fmt.Sprintf("n%d", node+1)
		c.text("tick", drawLeft-8, c.y+nodeHeight/2+4, "end", name)
		c.rule(c.y + nodeHeight - 2)
		for _, f := range r.Records {
			if !slices.Contains(f.Nodes, name) {
				continue
			}
			class := fmt.Sprintf("c%d", family(f.Kind)+1)
			title := fmt.Sprintf("%d %s at %.1f s: %s %s", f.Number, f.Kind, f.Begin, f.Proof, f.Wrong)
			c.bar(class, f.Begin, f.End, c.y+3, nodeHeight-9, title)
			whole := f.Whole
			if whole == 0 {
				class, whole = "none", r.Seconds
			}
			c.bar(class+" faint", f.End, whole, c.y+3, nodeHeight-9, title)
		}
		for _, n := range r.Notes {
			if n.Node == name {
				c.text("value", c.x(n.At), c.y+10, "middle", "×")
			}
		}
		c.y += nodeHeight
	}
	c.y += 8
}

func (r *ClusterResult) drawLeads(c *canvas) {
	if len(r.leads) == 0 {
		return
	}
	for shard := range r.leads[0].leaders {
		c.text("tick", drawLeft-8, c.y+leadHeight-1, "end", fmt.Sprintf("shard %d", shard))
		for i, l := range r.leads {
			until := r.Seconds
			if i+1 < len(r.leads) {
				until = r.leads[i+1].at
			}
			if shard >= len(l.leaders) || l.leaders[shard] == "" {
				continue
			}
			var number int
			if _, err := fmt.Sscanf(l.leaders[shard], "n%d", &number); err != nil {
				continue
			}
			c.bar(fmt.Sprintf("c%d", (number-1)%4+1), l.at, until, c.y+2, leadHeight-3, fmt.Sprintf("shard %d: %s from %.1f s", shard, l.leaders[shard], l.at))
		}
		c.y += leadHeight
	}
	c.y += gapHeight
}

// plot draws values of each second, the first as an area or strong line.
func (c *canvas) plot(label string, first int, log bool, lines ...[]float64) {
	scale := func(v float64) float64 { return v }
	if log {
		scale = func(v float64) float64 { return math.Log10(max(v, 1)) }
	}
	top := 1.0
	for _, l := range lines {
		for _, v := range l {
			if !math.IsNaN(v) {
				top = max(top, scale(v))
			}
		}
	}
	base := c.y + plotHeight
	y := func(v float64) float64 { return base - plotHeight*scale(v)/top }
	most := top
	if log {
		most = math.Pow(10, top)
	}
	c.text("tick", drawLeft-8, c.y+8, "end", report.Short(most))
	c.text("label", drawLeft-8, c.y+plotHeight/2, "end", label)
	c.rule(c.y)
	c.rule(base)
	for i, l := range lines {
		class := "line c2"
		if i > 0 {
			class = "line c1 thin"
		}
		var d strings.Builder
		pen := "M"
		for s, v := range l {
			if math.IsNaN(v) {
				pen = "M"
				continue
			}
			fmt.Fprintf(&d, "%s%.1f %.1f", pen, c.x(float64(first+s)+0.5), y(v))
			pen = "L"
		}
		fmt.Fprintf(&c.b, `<path class="%s" d="%s"/>`, class, d.String())
	}
	c.y = base + gapHeight
}

// axis writes the seconds below everything.
func (c *canvas) axis() {
	step := 10.0
	for c.span/step > 14 {
		step *= 2
	}
	for at := math.Ceil(c.from/step) * step; at <= c.from+c.span; at += step {
		c.text("tick", c.x(at), c.y, "middle", (time.Duration(at) * time.Second).String())
	}
	c.y += 10
}
