package lint

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/template"
	"sigs.k8s.io/yaml"
)

const (
	rulesFile = "../prometheus/rules.yaml"
	testsFile = "../prometheus/rules_test.yaml"
	runbooks  = "../../docs/runbooks"
	bookURL   = "https://github.com/bongsu-im/bongsu/blob/main/docs/runbooks/"
)

var promParser = parser.NewParser(parser.Options{})

func readRules(t *testing.T) []rulefmt.RuleGroup {
	t.Helper()
	groups, errs := rulefmt.ParseFile(rulesFile, false, model.LegacyValidation, promParser, slog.New(slog.NewTextHandler(io.Discard, nil)))
	for _, err := range errs {
		t.Error(err)
	}
	if t.Failed() {
		t.FailNow()
	}
	return groups.Groups
}

// alerts are the rules that alert; the same name may stand there twice, with
// another severity or window.
func alerts(groups []rulefmt.RuleGroup) (out []rulefmt.Rule) {
	for _, g := range groups {
		for _, r := range g.Rules {
			if r.Alert != "" {
				out = append(out, r)
			}
		}
	}
	return out
}

// Every alert says how urgent it is, what it is in words, and what to do; every
// runbook is some alert's and has the same five parts.
func TestAlertsHaveRunbooks(t *testing.T) {
	pages := map[string]string{} // file → alert
	all := alerts(readRules(t))
	if len(all) < 20 {
		t.Fatalf("only %d alerts were read", len(all))
	}
	for _, r := range all {
		if s := r.Labels["severity"]; s != "page" && s != "ticket" {
			t.Errorf("%s: severity %q", r.Alert, s)
		}
		if len(r.Annotations["summary"]) < 10 || len(r.Annotations["description"]) < 30 || len(r.Annotations) != 3 {
			t.Errorf("%s: annotations %v", r.Alert, slices.Sorted(maps.Keys(r.Annotations)))
		}
		page, ok := strings.CutPrefix(r.Annotations["runbook_url"], bookURL)
		if !ok || filepath.Base(page) != page {
			t.Errorf("%s: runbook %q", r.Alert, r.Annotations["runbook_url"])
			continue
		}
		if other := pages[page]; other != "" && other != r.Alert {
			t.Errorf("%s is the runbook of %s and of %s", page, other, r.Alert)
		}
		pages[page] = r.Alert
	}
	files, err := filepath.Glob(runbooks + "/*.md")
	if err != nil {
		t.Fatal(err)
	}
	index, err := os.ReadFile(runbooks + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		page := filepath.Base(file)
		if page == "README.md" {
			continue
		}
		alert := pages[page]
		delete(pages, page)
		if alert == "" {
			t.Errorf("%s: no alert leads here", page)
		}
		if !strings.Contains(string(index), "("+page+")") {
			t.Errorf("%s is not in the index", page)
		}
		checkPage(t, file, alert)
	}
	for page, alert := range pages {
		t.Errorf("%s: its runbook %s does not exist", alert, page)
	}
}

var link = regexp.MustCompile(`\]\(([^)#]+\.[a-z]+)\)`)

func checkPage(t *testing.T, file, alert string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for _, part := range []string{"# ", "Alert `" + alert + "`", "**What people notice.**", "**What it means.**", "**Check.**", "**Do.**", "**Over when**"} {
		next := strings.Index(string(text[at:]), part)
		if next < 0 {
			t.Errorf("%s: no %q behind what comes before it", filepath.Base(file), part)
			return
		}
		at += next
	}
	for _, m := range link.FindAllStringSubmatch(string(text), -1) {
		if _, err := os.Stat(filepath.Join(filepath.Dir(file), m[1])); err != nil && !strings.Contains(m[1], "://") {
			t.Errorf("%s: %s leads nowhere", filepath.Base(file), m[1])
		}
	}
}

// promTests is promtool's format of rule tests, as far as ours go.
type promTests struct {
	RuleFiles          []string       `json:"rule_files"`
	EvaluationInterval model.Duration `json:"evaluation_interval"`
	Tests              []promTest     `json:"tests"`
}

type promTest struct {
	Name        string         `json:"name"`
	Interval    model.Duration `json:"interval"`
	InputSeries []struct {
		Series string `json:"series"`
		Values string `json:"values"`
	} `json:"input_series"`
	AlertRuleTest []struct {
		EvalTime  model.Duration `json:"eval_time"`
		Alertname string         `json:"alertname"`
		ExpAlerts []struct {
			ExpLabels      map[string]string `json:"exp_labels"`
			ExpAnnotations map[string]string `json:"exp_annotations"`
		} `json:"exp_alerts"`
	} `json:"alert_rule_test"`
	PromqlExprTest []struct {
		Expr       string         `json:"expr"`
		EvalTime   model.Duration `json:"eval_time"`
		ExpSamples []struct {
			Labels string  `json:"labels"`
			Value  float64 `json:"value"`
		} `json:"exp_samples"`
	} `json:"promql_expr_test"`
}

// Alerts fire when they should and stay silent when they should: the cases
// stand in deploy/prometheus/rules_test.yaml, which `promtool test rules` reads
// as well. Every alert, by severity, must fire in at least one case and stay
// silent in at least one.
func TestRules(t *testing.T) {
	groups := readRules(t)
	text, err := os.ReadFile(testsFile)
	if err != nil {
		t.Fatal(err)
	}
	var file promTests
	if err := yaml.UnmarshalStrict(text, &file); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(file.RuleFiles, []string{"rules.yaml"}) {
		t.Errorf("rule_files %v", file.RuleFiles)
	}
	fired, silent := map[string]bool{}, map[string]bool{}
	for _, test := range file.Tests {
		t.Run(test.Name, func(t *testing.T) {
			w := newWatch(t, groups)
			w.load(test)
			w.run(test, time.Duration(file.EvaluationInterval), fired, silent)
		})
	}
	for _, r := range alerts(groups) {
		if key := r.Alert + " " + r.Labels["severity"]; !fired[key] {
			t.Errorf("%s fires in no case", key)
		} else if !silent[r.Alert] {
			t.Errorf("%s is asked to stay silent in no case", r.Alert)
		}
	}
}

// watch is a Prometheus as far as rules need one: it evaluates the groups in
// their order and remembers since when each alert holds.
type watch struct {
	t       *testing.T
	groups  []rulefmt.RuleGroup
	memory  *memory
	engine  *promql.Engine
	yielded map[string]map[uint64]labels.Labels // by rule: what it recorded last
	since   map[string]map[uint64]time.Time     // by rule: since when an alert holds
	active  map[string][]firing                 // by name: what fires now
}

type firing struct {
	labels, annotations map[string]string
}

func newWatch(t *testing.T, groups []rulefmt.RuleGroup) *watch {
	return &watch{
		t: t, groups: groups, memory: newMemory(),
		engine: promql.NewEngine(promql.EngineOpts{
			MaxSamples: 1e6, Timeout: time.Minute, EnableAtModifier: true, EnableNegativeOffset: true, Parser: promParser,
			NoStepSubqueryIntervalFn: func(int64) int64 { return time.Minute.Milliseconds() },
		}),
		yielded: map[string]map[uint64]labels.Labels{}, since: map[string]map[uint64]time.Time{}, active: map[string][]firing{},
	}
}

func (w *watch) load(test promTest) {
	w.t.Helper()
	for _, in := range test.InputSeries {
		l, values, err := promParser.ParseSeriesDesc(in.Series + " " + in.Values)
		if err != nil {
			w.t.Fatalf("%s: %v", in.Series, err)
		}
		for i, v := range values {
			if !v.Omitted {
				w.memory.add(l, int64(i)*time.Duration(test.Interval).Milliseconds(), v.Value)
			}
		}
	}
}

// run steps through the time of a test and checks what is asked at each moment.
func (w *watch) run(test promTest, every time.Duration, fired, silent map[string]bool) {
	w.t.Helper()
	var last time.Duration
	for _, a := range test.AlertRuleTest {
		last = max(last, time.Duration(a.EvalTime))
	}
	for _, e := range test.PromqlExprTest {
		last = max(last, time.Duration(e.EvalTime))
	}
	for now := time.Duration(0); now <= last; now += every {
		w.step(now)
		for _, a := range test.AlertRuleTest {
			if time.Duration(a.EvalTime) != now {
				continue
			}
			var want []string
			for _, e := range a.ExpAlerts {
				want = append(want, fmt.Sprint(e.ExpLabels, e.ExpAnnotations))
			}
			var got []string
			for _, f := range w.active[a.Alertname] {
				got = append(got, fmt.Sprint(f.labels, f.annotations))
				fired[a.Alertname+" "+f.labels["severity"]] = true
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				w.t.Errorf("%s at %v fires as %v, want %v", a.Alertname, now, got, want)
			}
			silent[a.Alertname] = silent[a.Alertname] || len(got) == 0 && len(want) == 0
		}
		for _, e := range test.PromqlExprTest {
			if time.Duration(e.EvalTime) == now {
				w.expect(e.Expr, now, e.ExpSamples)
			}
		}
	}
}

func (w *watch) expect(expr string, now time.Duration, want []struct {
	Labels string  `json:"labels"`
	Value  float64 `json:"value"`
}) {
	w.t.Helper()
	got := w.query(expr, now)
	if len(got) != len(want) {
		w.t.Errorf("%s at %v gives %v, want %d samples", expr, now, got, len(want))
		return
	}
	for _, e := range want {
		l, err := promParser.ParseMetric(e.Labels)
		if err != nil {
			w.t.Fatal(err)
		}
		at := slices.IndexFunc(got, func(s promql.Sample) bool { return labels.Equal(s.Metric, l) })
		if at < 0 || got[at].F-e.Value > 1e-6 || e.Value-got[at].F > 1e-6 {
			w.t.Errorf("%s at %v gives %v, want %s %v", expr, now, got, e.Labels, e.Value)
		}
	}
}

// query evaluates an expression at a moment.
func (w *watch) query(expr string, now time.Duration) promql.Vector {
	w.t.Helper()
	q, err := w.engine.NewInstantQuery(w.t.Context(), w.memory, nil, expr, time.UnixMilli(now.Milliseconds()))
	if err != nil {
		w.t.Fatalf("%s: %v", expr, err)
	}
	defer q.Close()
	result := q.Exec(w.t.Context())
	switch v := result.Value.(type) {
	case promql.Vector:
		return slices.Clone(v)
	case promql.Scalar:
		return promql.Vector{{T: v.T, F: v.V}}
	}
	w.t.Fatalf("%s: %v, %v", expr, result.Value, result.Err)
	return nil
}

// step evaluates every rule once. Recorded ones are seen by those behind them.
func (w *watch) step(now time.Duration) {
	w.t.Helper()
	w.active = map[string][]firing{}
	for _, g := range w.groups {
		for i, r := range g.Rules {
			key := fmt.Sprint(g.Name, i)
			samples := w.query(r.Expr, now)
			if r.Record != "" {
				w.record(key, r.Record, samples, now)
			} else {
				w.judge(key, r, samples, now)
			}
		}
	}
}

func (w *watch) record(key, name string, samples promql.Vector, now time.Duration) {
	was, is := w.yielded[key], map[uint64]labels.Labels{}
	for _, s := range samples {
		l := labels.NewBuilder(s.Metric).Set(model.MetricNameLabel, name).Labels()
		is[l.Hash()] = l
		w.memory.add(l, now.Milliseconds(), s.F)
	}
	for hash, l := range was {
		if _, ok := is[hash]; !ok {
			w.memory.stale(l, now.Milliseconds())
		}
	}
	w.yielded[key] = is
}

func (w *watch) judge(key string, r rulefmt.Rule, samples promql.Vector, now time.Duration) {
	w.t.Helper()
	is := map[uint64]time.Time{}
	at := time.UnixMilli(now.Milliseconds())
	for _, s := range samples {
		hash := s.Metric.Hash()
		since, held := w.since[key][hash]
		if !held {
			since = at
		}
		is[hash] = since
		if at.Sub(since) < time.Duration(r.For) {
			continue
		}
		l := labels.NewBuilder(s.Metric).Del(model.MetricNameLabel).Labels().Map()
		maps.Copy(l, r.Labels)
		w.active[r.Alert] = append(w.active[r.Alert], firing{l, w.words(r, l, s, at)})
	}
	w.since[key] = is
}

// words expands an alert's annotations, as a person reads them.
func (w *watch) words(r rulefmt.Rule, l map[string]string, s promql.Sample, at time.Time) map[string]string {
	w.t.Helper()
	data := template.AlertTemplateData(l, nil, "", s)
	out := map[string]string{}
	for name, text := range r.Annotations {
		const heads = "{{$labels := .Labels}}{{$externalLabels := .ExternalLabels}}{{$externalURL := .ExternalURL}}{{$value := .Value}}"
		said, err := template.NewTemplateExpander(context.Background(), heads+text, r.Alert, data, model.TimeFromUnixNano(at.UnixNano()), nil, &url.URL{}, nil).Expand()
		if err != nil || strings.Contains(said, "<no value>") || strings.Contains(said, "%!") {
			w.t.Errorf("%s, %s: %q, %v", r.Alert, name, said, err)
		}
		out[name] = said
	}
	return out
}
