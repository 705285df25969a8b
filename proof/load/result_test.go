package load

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/bongsu-im/bongsu/proof/child"
)

// measured is a result of 20 operations in a window of 10 s, on a server that
// used 4 s.
func measured() Result {
	r := Result{Name: "send", Seed: 7, Details: Details{Workload: "two\npairs", Operation: "acknowledged"}}
	t, l := &tally{}, newLatencies()
	t.ops.Store(20)
	w := newWindow(time.Unix(0, 0), 5*time.Second, 10*time.Second)
	l.over(w)
	for i := range 22 {
		l.record(i, w.begin.Add(time.Duration(i)*700*time.Millisecond), time.Duration(i+1)*time.Millisecond)
	}
	cpu := func(user, system int) child.Family {
		return child.Family{CPU: child.Times{User: time.Duration(user) * time.Second, System: time.Duration(system) * time.Second}, Peak: 64 << 20}
	}
	r.fill(w, t, l, observation{
		before:  usage{self: time.Second, server: cpu(1, 1), serverKnown: true},
		after:   usage{machine: child.Machine{Busy: 10 * time.Second, Idle: 10 * time.Second}, self: 3 * time.Second, server: cpu(2, 4), serverKnown: true},
		seconds: []second{{300 * time.Millisecond, 32 << 20}, {time.Second, 64 << 20}},
		first:   parseCounters(strings.NewReader("go_gc_duration_seconds_sum 0.5\ngo_gc_duration_seconds_count 10\ngo_memstats_alloc_bytes_total 0\n")),
		last:    parseCounters(strings.NewReader("go_gc_duration_seconds{quantile=\"1\"} 0.02\ngo_gc_duration_seconds_sum 0.53\ngo_gc_duration_seconds_count 13\ngo_memstats_alloc_bytes_total 40960\n")),
	})
	return r
}

func TestFill(t *testing.T) {
	r := measured()
	if r.OpsPerS != 2 || r.Seconds != 10 || r.Details.WarmUpS != 5 || r.Details.Samples != 22 {
		t.Errorf("%+v", r)
	}
	if *r.ServerCPUPer1000 != 200 { // 4 s for 20
		t.Errorf("CPU %g", *r.ServerCPUPer1000)
	}
	if r.P50Ms < 11 || r.P50Ms > 11.1 || r.P99Ms < 22 || r.P99Ms > 22.1 {
		t.Errorf("p50 %g, p99 %g", r.P50Ms, r.P99Ms)
	}
	d := r.Details
	if d.ServerUserS != 1 || d.ServerSystemS != 3 || d.PeakMiB != 64 {
		t.Errorf("%+v", d)
	}
	if c := d.Collector; c == nil || *c != (CollectorDetails{Cycles: 3, PauseTotalMs: 30, PauseMaxMs: 20, AllocKiBPerOp: 2}) {
		t.Errorf("%+v", c)
	}
	// 22 ended over 15.4 s: what ends after the window is a sample, too.
	if n := len(d.Seconds); n != 15 || d.Seconds[0].Ops != 2 || d.Seconds[0].MaxMs < 2 || d.Seconds[0].ServerCPU != 0.3 || d.Seconds[1].MemoryMiB != 64 || d.Seconds[14].ServerCPU != 0 || d.Seconds[14].Ops != 2 {
		t.Errorf("%+v", d.Seconds)
	}
	if c := d.Curve; len(c) < 8 || c[0].Q != 0 || c[0].Ms > 1.01 || c[len(c)-1].Q > 1-1.0/22 || c[len(c)-1].Ms < 21 {
		t.Errorf("%+v", c)
	}
	if r.Details.OtherShare != 0.2 || *r.Details.Counts {
		t.Errorf("others %g: above a tenth a run does not count", r.Details.OtherShare)
	}
}

// The last line is one JSON object with the keys that checks rely on.
func TestPrintEndsWithOneLineOfJSON(t *testing.T) {
	var out bytes.Buffer
	r := measured()
	if err := r.Print(&out, true); err != nil {
		t.Fatal(err)
	}
	text, ok := strings.CutSuffix(out.String(), "\n")
	last := text[strings.LastIndexByte(text, '\n')+1:]
	var keys map[string]any
	if err := json.Unmarshal([]byte(last), &keys); err != nil || !ok {
		t.Fatalf("%v in %q", err, last)
	}
	for _, k := range []string{"name", "seed", "seconds", "passed", "details", "ops_per_s", "p50_ms", "p99_ms", "errors", "server_cpu_s_per_1000"} {
		if _, ok := keys[k]; !ok {
			t.Errorf("no %s in %s", k, last)
		}
	}
	if ratio, ok := keys["ceiling_ratio"]; !ok || ratio != nil {
		t.Error("a ceiling that was not measured must be null")
	}
	out.Reset()
	if err := r.Print(&out, false); err != nil || strings.Contains(out.String(), "{") {
		t.Errorf("JSON unasked: %s, %v", &out, err)
	}
	// Somebody else's server: its CPU is not known, and not 0.
	r.ServerCPUPer1000 = nil
	if b, err := json.Marshal(r); err != nil || !strings.Contains(string(b), `"server_cpu_s_per_1000":null`) {
		t.Errorf("%s, %v", b, err)
	}
}

func TestGoals(t *testing.T) {
	cpu := 0.09
	r := Result{OpsPerS: 10_001, P50Ms: 8, P99Ms: 31, ServerCPUPer1000: &cpu}
	r.judge(sendGoals[100])
	if len(r.Details.Goals) != 4 || *r.Details.MeetsGoals {
		t.Errorf("%+v", r.Details.Goals)
	}
	for _, g := range r.Details.Goals {
		if g.Met != (g.Figure != "p99_ms") {
			t.Errorf("%+v", g)
		}
	}
	none := Result{}
	none.judge(sendGoals[17])
	if none.Details.MeetsGoals != nil {
		t.Error("goals of a workload that has none")
	}
}

// A run counts if others had at most a tenth of the machine, during the relay's
// run as well.
func TestCountsWhole(t *testing.T) {
	yes, no := true, false
	for _, c := range []struct {
		run, relay *bool
		ceiling    bool
		want       bool
	}{{nil, nil, false, true}, {&yes, nil, false, true}, {&no, nil, false, false}, {&yes, &yes, true, true}, {&yes, &no, true, false}, {&no, &yes, true, false}} {
		r := Result{Details: Details{Counts: c.run}}
		if c.ceiling {
			r.Details.Ceiling = &CeilingFigures{Counts: c.relay}
		}
		if got := r.countsWhole(); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestBehind(t *testing.T) {
	if behind(495, 500) || !behind(494.9, 500) {
		t.Error("behind is below 99 % of what was offered")
	}
}

func TestNumber(t *testing.T) {
	for text, want := range map[string]int{
		"tag 17 xxxx": 17, "tag 0": 0, "tag 17": 17, "tag -1 x": -1, "tag x": -1, "other 17 x": -1, "": -1, "tag": -1,
	} {
		k, ok := number(text, "tag")
		if ok != (want >= 0) || ok && k != want {
			t.Errorf("number(%q) = %d, %v", text, k, ok)
		}
	}
}

func TestWhole(t *testing.T) {
	page := func(n, first, count int) *edgev1.ListResponse {
		p := &edgev1.ListResponse{LastSeq: uint64(n), HasMore: n > count}
		for i := range count {
			p.Messages = append(p.Messages, &edgev1.Message{Seq: uint64(first + i)})
		}
		return p
	}
	for _, good := range []struct{ page *edgev1.ListResponse }{{page(100, 51, 50)}, {page(50, 1, 50)}, {page(3, 1, 3)}} {
		if err := whole(good.page, int(good.page.LastSeq)); err != nil {
			t.Error(err)
		}
	}
	hole := page(100, 51, 50)
	hole.Messages[7].Seq = 57
	for name, bad := range map[string]*edgev1.ListResponse{
		"another end": page(101, 52, 50), "short": page(100, 52, 49), "a hole": hole, "empty": {}, "the oldest": page(100, 1, 50),
	} {
		if whole(bad, 100) == nil {
			t.Errorf("%s: is called whole", name)
		}
	}
}

func TestConfig(t *testing.T) {
	c := Config{Target: "http://127.0.0.1:1"}
	if err := c.setDefaults(); err != nil {
		t.Fatal(err)
	}
	if c.WarmUp != 8*time.Second || c.Window != 30*time.Second || c.Bytes != 128 || c.Senders != 100 || c.Rate != 0 || c.Pairs != 200 || c.Messages != 100_000 || c.Seed == 0 {
		t.Errorf("%+v", c)
	}
	for bound, want := range map[time.Duration][2]time.Duration{
		10 * time.Second: {2 * time.Second, 8 * time.Second}, time.Minute: {8 * time.Second, 52 * time.Second},
	} {
		c := Config{Target: "http://127.0.0.1:1", Bound: bound}
		if err := c.setDefaults(); err != nil || c.WarmUp != want[0] || c.Window != want[1] {
			t.Errorf("%s: %s + %s, %v", bound, c.WarmUp, c.Window, err)
		}
	}
	for name, bad := range map[string]Config{
		"too many": {Senders: 8001}, "too fast": {Rate: 2e6}, "too long": {Rate: 100_000, Window: time.Hour},
		"too short for a tag": {Bytes: 39}, "not a URL": {Target: "localhost"},
		"a ceiling with TLS": {TLS: true, Ceiling: true}, "TLS of somebody else's": {TLS: true, Target: "http://127.0.0.1:1"},
		"flags for somebody else's": {Server: []string{"--shards", "1"}, Target: "http://127.0.0.1:1"},
		"data for somebody else's":  {From: "x", Target: "http://127.0.0.1:1"}, "a negative rate": {Rate: -1},
	} {
		if bad.setDefaults() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if c := (Config{Senders: 1}); c.setDefaults() != nil || c.Bin == "" {
		t.Error("without a target the running binary is meant")
	}
}

// The same seed draws the same, and each part its own.
func TestRandomIsSeeded(t *testing.T) {
	draw := func(seed uint64, part int) string {
		b := make([]byte, 16)
		if _, err := (&Config{Seed: seed}).random(part).Read(b); err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if draw(1, 2) != draw(1, 2) || draw(1, 2) == draw(1, 3) || draw(1, 2) == draw(2, 2) {
		t.Error("streams are not told apart")
	}
}
