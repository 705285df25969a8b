package lint

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
)

const dashboardFile = "../grafana/dashboard.json"

// dashboard is Grafana's JSON as far as it is checked.
type dashboard struct {
	Panels []struct {
		ID          int
		Type, Title string
		Description string
		GridPos     struct{ X, Y, W, H int }
		Targets     []struct{ Expr, LegendFormat string }
		FieldConfig struct{ Defaults struct{ Unit string } }
	}
	Templating struct {
		List []struct{ Name, Type, Definition string }
	}
	Annotations struct {
		List []struct{ Expr string }
	}
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	text, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if len(d.Panels) < 40 {
		t.Fatalf("only %d panels were read", len(d.Panels))
	}
	return d
}

// asProm puts values in the place of Grafana's variables.
var asProm = strings.NewReplacer("$__rate_interval", "5m", "$__range", "3h", "$datasource", "prometheus", "$job", "bongsu", "$instance", "n1", "$shard", "0")

// expressions are every query of the dashboard with where it stands.
func (d dashboard) expressions() map[string]string {
	out := map[string]string{}
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			out[asProm.Replace(q.Expr)] = "panel " + p.Title
		}
	}
	for _, a := range d.Annotations.List {
		out[asProm.Replace(a.Expr)] = "annotation"
	}
	return out
}

// The committed dashboard is what its generator makes.
func TestDashboardIsGenerated(t *testing.T) {
	made := filepath.Join(t.TempDir(), "dashboard.json")
	if out, err := exec.Command("go", "run", "./dashboard", "-file", made).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Error("deploy/grafana/dashboard.json is not what panels.go says: go run -C deploy/lint ./dashboard")
	}
}

// Every query parses, panels do not lie on each other, and seconds, bytes and
// shares are shown as such.
func TestDashboard(t *testing.T) {
	d := readDashboard(t)
	taken, ids := map[[2]int]string{}, map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("%s: ID %d is taken", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x > 23 {
					t.Fatalf("%s lies on %q", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Description == "" || len(p.Targets) == 0 {
			t.Errorf("%s: no description or no query", p.Title)
		}
		for _, q := range p.Targets {
			expr, err := promParser.ParseExpr(asProm.Replace(q.Expr))
			if err != nil {
				t.Errorf("%s: %s: %v", p.Title, q.Expr, err)
				continue
			}
			if unit := unitOf(expr); unit != "" && unit != p.FieldConfig.Defaults.Unit {
				t.Errorf("%s: %s is in %s, the panel in %s", p.Title, q.Expr, unit, p.FieldConfig.Defaults.Unit)
			}
		}
	}
	for _, v := range d.Templating.List {
		if v.Type == "query" && !strings.HasPrefix(v.Definition, "label_values(") {
			t.Errorf("variable %s: %s", v.Name, v.Definition)
		}
	}
	for expr, where := range d.expressions() {
		if strings.Contains(expr, "$") {
			t.Errorf("%s: %s has a variable that is not known", where, expr)
		}
	}
}

// unitOf is the unit in which a query must be shown, where its shape says so:
// a quantile of seconds, a gauge of seconds or bytes.
func unitOf(e parser.Expr) string {
	switch e := e.(type) {
	case *parser.Call:
		if e.Func.Name == "histogram_quantile" && strings.Contains(e.String(), "_seconds_bucket") {
			return "s"
		}
	case *parser.VectorSelector:
		switch {
		case strings.HasSuffix(e.Name, "_seconds"):
			return "s"
		case strings.HasSuffix(e.Name, "_bytes"):
			return "bytes"
		}
	case *parser.AggregateExpr:
		return unitOf(e.Expr)
	}
	return ""
}
