package report

import (
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
)

// Scale is how an axis spreads its values.
type Scale int

// The scales there are.
const (
	Linear Scale = iota
	// Log wants values above 0; others leave a gap.
	Log
	// Nines spreads shares (0 to 1) by how rare the rest is: 0.9, 0.99 and 0.999
	// are equally far apart. 1 leaves a gap.
	Nines
)

// Point of a line. A Y that is NaN leaves a gap.
type Point struct{ X, Y float64 }

// Line is one curve. Lines are coloured by their order.
type Line struct {
	Name   string
	Points []Point
	// Thin lines are the runs behind a thicker one.
	Thin bool
	// Color of the line: 0 is its place among the lines, 1 … that place.
	Color int
}

// Mark is a word at a point of the plot.
type Mark struct {
	X, Y  float64
	Label string
}

// Chart is one plot.
type Chart struct {
	Title string
	// Note is what the reader should know, under the title.
	Note           string
	XLabel, YLabel string
	XScale, YScale Scale
	// FromZero begins a linear Y axis at 0; XWhole has no ticks between whole
	// numbers.
	FromZero, XWhole bool
	Lines            []Line
	Marks            []Mark
}

// The plot in the units of its view box. A phone shows it at about 0.85, a desk
// at 1.2 of this size.
const (
	width, height            = 440.0, 264.0
	left, right, top, bottom = 52.0, 14.0, 14.0, 40.0
	colors                   = 4
)

// SVG draws the chart. The classes of its elements take their colours from the
// page.
func (c Chart) SVG() string {
	x := c.axis(c.XScale, false, func(p Point) float64 { return p.X })
	y := c.axis(c.YScale, c.FromZero, func(p Point) float64 { return p.Y })
	y.widen(c.FromZero)
	x.whole = c.XWhole
	px := func(v float64) float64 { return left + (width-left-right)*x.at(v) }
	py := func(v float64) float64 { return height - bottom - (height-top-bottom)*y.at(v) }

	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, width, height, html.EscapeString(c.Title))
	for _, t := range y.ticks(5) {
		at := py(t.value)
		fmt.Fprintf(&b, `<line class="grid" x1="%g" x2="%g" y1="%s" y2="%s"/>`, left, width-right, number(at), number(at))
		fmt.Fprintf(&b, `<text class="tick" x="%g" y="%s" text-anchor="end">%s</text>`, left-7, number(at+4), html.EscapeString(t.label))
	}
	for _, t := range x.ticks(6) {
		at := px(t.value)
		fmt.Fprintf(&b, `<line class="tickmark" x1="%s" x2="%s" y1="%g" y2="%g"/>`, number(at), number(at), height-bottom, height-bottom+4)
		fmt.Fprintf(&b, `<text class="tick" x="%s" y="%g" text-anchor="middle">%s</text>`, number(at), height-bottom+17, html.EscapeString(t.label))
	}
	fmt.Fprintf(&b, `<line class="axis" x1="%g" x2="%g" y1="%g" y2="%g"/>`, left, width-right, height-bottom, height-bottom)
	fmt.Fprintf(&b, `<text class="label" x="%s" y="%g" text-anchor="middle">%s</text>`, number((left+width-right)/2), height-6, html.EscapeString(c.XLabel))
	for i, l := range c.Lines {
		color := l.Color
		if color == 0 {
			color = i + 1
		}
		class := fmt.Sprintf("line c%d", (color-1)%colors+1)
		if l.Thin {
			class += " thin"
		}
		if d := path(l.Points, x, y, px, py); d != "" {
			fmt.Fprintf(&b, `<path class="%s" d="%s"><title>%s</title></path>`, class, d, html.EscapeString(l.Name))
		}
	}
	for _, m := range c.Marks {
		if !x.holds(m.X) || !y.holds(m.Y) {
			continue
		}
		// Inside the plot at its edges, else over the point.
		cx, cy := px(m.X), py(m.Y)
		anchor, dx := "middle", 0.0
		if cx > width-right-40 {
			anchor, dx = "end", -8
		} else if cx < left+20 {
			anchor, dx = "start", 2
		}
		fmt.Fprintf(&b, `<circle class="mark" cx="%s" cy="%s" r="3.2"/>`, number(cx), number(cy))
		fmt.Fprintf(&b, `<text class="value" x="%s" y="%s" text-anchor="%s">%s</text>`, number(cx+dx), number(max(cy-9, 10)), anchor, html.EscapeString(m.Label))
	}
	b.WriteString(`</svg>`)
	return b.String()
}

// path draws what lies on both axes, broken where a point does not.
func path(points []Point, x, y axis, px, py func(float64) float64) string {
	var b strings.Builder
	pen, alone := false, ""
	lift := func() {
		b.WriteString(alone) // a point without neighbours would not be seen
		pen, alone = false, ""
	}
	for _, p := range points {
		if !x.holds(p.X) || !y.holds(p.Y) {
			lift()
			continue
		}
		command := "L"
		if !pen {
			command = "M"
		}
		fmt.Fprintf(&b, "%s%s %s", command, number(px(p.X)), number(py(p.Y)))
		if alone = ""; !pen {
			alone = "h0.01"
		}
		pen = true
	}
	lift()
	return b.String()
}

// number prints a coordinate shortly.
func number(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

// axis maps values to 0 … 1.
type axis struct {
	scale     Scale
	low, high float64 // after the scale
	whole     bool
}

func (s Scale) of(v float64) float64 {
	switch s {
	case Log:
		return math.Log10(v)
	case Nines:
		return -math.Log10(1 - v)
	default:
		return v
	}
}

func (c Chart) axis(s Scale, fromZero bool, of func(Point) float64) axis {
	a := axis{scale: s, low: math.Inf(1), high: math.Inf(-1)}
	add := func(v float64) {
		if v = s.of(v); !math.IsNaN(v) && !math.IsInf(v, 0) {
			a.low, a.high = min(a.low, v), max(a.high, v)
		}
	}
	for _, l := range c.Lines {
		for _, p := range l.Points {
			add(of(p))
		}
	}
	if fromZero && s == Linear {
		add(0)
	}
	if a.low > a.high {
		a.low, a.high = 0, 1
	}
	if a.high-a.low < 1e-9 {
		a.low, a.high = a.low-0.5, a.high+0.5
	}
	return a
}

// widen leaves air above the highest and, unless that is 0, below the lowest value.
func (a *axis) widen(keepLow bool) {
	air := (a.high - a.low) * 0.08
	a.high += air
	if !keepLow || a.scale != Linear {
		a.low -= air
	}
}

func (a axis) at(v float64) float64 { return (a.scale.of(v) - a.low) / (a.high - a.low) }

func (a axis) holds(v float64) bool {
	at := a.at(v)
	return at >= -1e-9 && at <= 1+1e-9 // false for NaN
}

type tick struct {
	value float64
	label string
}

// ticks returns at most about n of them, at round values.
func (a axis) ticks(n int) (out []tick) {
	switch a.scale {
	case Nines:
		if a.holds(0.5) && !a.holds(0) {
			out = append(out, tick{0.5, "50 %"}) // a curve that begins at its median
		}
		for nines := math.Ceil(a.low - 1e-9); nines <= a.high+1e-9; nines++ {
			share := 1 - math.Pow(10, -nines)
			out = append(out, tick{share, strconv.FormatFloat(math.Round(share*1e9)/1e7, 'f', -1, 64) + " %"})
		}
	case Log:
		factors := []float64{1, 2, 5}
		switch span := a.high - a.low; {
		case span > 3.2:
			factors = []float64{1}
		case span > 1.6:
			factors = []float64{1, 3}
		}
		each := max(1, math.Ceil((a.high-a.low)/8))
		for decade := math.Floor(a.low/each) * each; decade <= a.high; decade += each {
			for _, f := range factors {
				if v := f * math.Pow(10, decade); a.holds(v) {
					out = append(out, tick{v, Short(v)})
				}
			}
		}
	default:
		step := roundStep((a.high - a.low) / float64(n))
		if a.whole {
			step = max(step, 1)
		}
		first := math.Ceil(a.low/step - 1e-9)
		for i := range 2 * n { // bounded where a step is lost in the size of the value
			v := (first + float64(i)) * step
			if v > a.high+step*1e-9 {
				break
			}
			out = append(out, tick{v, Short(v)})
		}
	}
	return out
}

// roundStep is the next of 1, 2 or 5 times a power of ten.
func roundStep(least float64) float64 {
	p := math.Pow(10, math.Floor(math.Log10(least)))
	for _, f := range []float64{1, 2, 5} {
		if f*p >= least*(1-1e-9) {
			return f * p
		}
	}
	return 10 * p
}

// Short writes a number for people, with three digits that count: 0.25, 9.87,
// 1,234, 151k, 3.2M.
func Short(v float64) string {
	a := math.Abs(v)
	switch {
	case a == 0:
		return "0" // and never -0
	case math.IsNaN(v) || math.IsInf(v, 0):
		return strconv.FormatFloat(v, 'f', -1, 64)
	case a >= 999_500:
		return trim(v/1e6, a/1e6) + "M"
	case a >= 99_950:
		return trim(v/1e3, a/1e3) + "k"
	case a >= 999.5:
		whole := strconv.FormatFloat(math.Round(v), 'f', 0, 64)
		return whole[:len(whole)-3] + "," + whole[len(whole)-3:]
	default:
		return trim(v, a)
	}
}

func trim(v, size float64) string {
	digits := max(0, 2-int(math.Floor(math.Log10(size))))
	s := strconv.FormatFloat(v, 'f', min(digits, 9), 64)
	if strings.Contains(s, ".") {
		s = strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
	}
	return s
}
