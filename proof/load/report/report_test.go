package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

func fixed() Chart {
	return Chart{
		Title: `Latency <by> "percentile" & more`, Note: "Milliseconds", XLabel: "share", YLabel: "ms", XScale: Nines, YScale: Log,
		Lines: []Line{
			{Name: "server <1>", Points: []Point{{0, 1}, {0.5, 2}, {0.9, 4}, {0.99, 30}, {0.999, 200}, {1, 900}}},
			{Name: "relay", Points: []Point{{0, 0.5}, {0.9, math.NaN()}, {0.99, 3}, {0.999, 0}}},
			{Thin: true, Color: 1, Points: []Point{{0.5, 2.5}, {0.9, 5}}},
		},
		Marks: []Mark{{0.5, 2, "2 ms & <half>"}, {0.999, 200, "200 ms"}, {1, 900, "nowhere"}},
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := "testdata/" + name
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (-update writes it anew; look at it in a browser):\n%s", name, got)
	}
}

// wellFormed fails unless text is XML, and returns what is said in it.
func wellFormed(t *testing.T, text string) (said string) {
	t.Helper()
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return said
		}
		if err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		if words, ok := token.(xml.CharData); ok {
			said += string(words) + "\n"
		}
	}
}

func TestChartsAreGolden(t *testing.T) {
	rate := Chart{Title: "Rate", XLabel: "seconds", FromZero: true, XWhole: true, Lines: []Line{{Name: "server", Points: []Point{{1, 14000}, {2, 15500}, {3, 0}, {4, 14900}}}}}
	for name, c := range map[string]Chart{"curve.svg": fixed(), "rate.svg": rate, "empty.svg": {Title: "nothing"}} {
		svg := c.SVG()
		said := wellFormed(t, svg)
		golden(t, name, strings.ReplaceAll(svg, "><", ">\n<")+"\n")
		for _, bad := range []string{"NaN", "Inf", "<by>", "<half>", "nowhere"} {
			if strings.Contains(svg, bad) || bad[0] != '<' && strings.Contains(said, bad) {
				t.Errorf("%s holds %s", name, bad)
			}
		}
	}
	if said := wellFormed(t, fixed().SVG()); !strings.Contains(said, "2 ms & <half>") || !strings.Contains(said, "server <1>") || !strings.Contains(said, "99.9 %") {
		t.Errorf("labels are lost: %s", said)
	}
}

// Whatever the values, a drawing is well-formed and inside its box.
func TestChartsOfAnything(t *testing.T) {
	odd := []float64{0, 1, -1, 1e-9, 1e12, 1e18, 1e18 + 1e6, math.NaN(), math.Inf(1), math.Inf(-1), 0.5, 0.999999}
	for _, xs := range []Scale{Linear, Log, Nines} {
		for _, ys := range []Scale{Linear, Log, Nines} {
			for i := range odd {
				var points []Point
				for k := range i + 1 {
					points = append(points, Point{odd[k], odd[(k*7+i)%len(odd)]})
				}
				c := Chart{XScale: xs, YScale: ys, FromZero: i%2 == 0, Lines: []Line{{Points: points}}, Marks: []Mark{{odd[i], odd[i], "x"}}}
				svg := c.SVG()
				wellFormed(t, svg)
				if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") || len(svg) > 20_000 {
					t.Fatalf("scales %d and %d, %v: %d bytes, %.2000s", xs, ys, points, len(svg), svg)
				}
			}
		}
	}
}

func TestShort(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.25: "0.25", 0.0064: "0.0064", 9.87: "9.87", 12.34: "12.3", 123.4: "123", 999.6: "1,000", 1234: "1,234", 14857.4: "14,857",
		100_000: "100k", 151_023: "151k", 999_499: "999k", 3.2e6: "3.2M", -4: "-4", 100: "100", 20: "20",
	} {
		if got := Short(v); got != want {
			t.Errorf("Short(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestTicksAreRoundAndFew(t *testing.T) {
	for _, c := range []struct {
		axis axis
		want string
	}{
		{axis{Linear, 0, 15500, false}, "0 5,000 10,000 15,000"},
		{axis{Linear, 1, 4, true}, "1 2 3 4"},
		{axis{Linear, 0, 1, false}, "0 0.2 0.4 0.6 0.8 1"},
		{axis{Log, -0.1, 1.2, false}, "1 2 5 10"},
		{axis{Log, -0.1, 2.1, false}, "1 3 10 30 100"},
		{axis{Log, -0.5, 3.1, false}, "1 10 100 1,000"},
		{axis{Nines, 0.3, 2.1, false}, "50 % 90 % 99 %"},
		{axis{Nines, 0, 3.3, false}, "0 % 90 % 99 % 99.9 %"},
	} {
		var labels []string
		for _, tick := range c.axis.ticks(5) {
			labels = append(labels, tick.label)
		}
		if got := strings.Join(labels, " "); got != c.want {
			t.Errorf("%+v: %s, want %s", c.axis, got, c.want)
		}
	}
}

// One file, nothing fetched, nothing run, and words stay words.
func TestPageStandsAlone(t *testing.T) {
	evil := `<script>alert("x")</script>`
	p := Page{
		Title: "Bench " + evil, Lead: evil, Badges: []Badge{{"passed", Good}, {evil, Bad}},
		Sections: []Section{{
			Title: evil, Lead: evil, Tiles: []Tile{{Name: "Rate", Value: "14,857", Unit: "/s", Note: "goal ≥ 10,000: met", Tone: Good}},
			Tables: []Table{{Title: evil, Words: true, Head: []string{"", "a"}, Rows: [][]Cell{{{Text: evil}, {Text: "1", Tone: Bad}}}}},
			Charts: []Chart{fixed(), {Title: evil, Lines: []Line{{Name: evil, Points: []Point{{1, 1}}}, {Name: "b"}}}}, Facts: []Fact{{Name: evil, Value: evil, Code: true}},
		}},
		Facts: []Fact{{Name: "Command", Value: "bongsu bench", Code: true}},
	}
	var out bytes.Buffer
	if err := p.Write(&out); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, bad := range []string{"<script", "src=", "href=", "url(", "@import", "ZgotmplZ"} {
		if strings.Contains(strings.ToLower(text), strings.ToLower(bad)) {
			t.Errorf("the page holds %s", bad)
		}
	}
	for _, want := range []string{"prefers-color-scheme: dark", "width=device-width", `class="note good"`, `<td class="bad">1</td>`, "14,857", "<code>bongsu bench</code>", "<svg viewBox"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	if err := p.Write(broken{}); err == nil {
		t.Error("a page that could not be written")
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("full") }
