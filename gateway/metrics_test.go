package gateway

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
)

// reading is a family of metrics as a test wants it.
type reading struct {
	kind   string              // COUNTER, GAUGE, HISTOGRAM
	series []map[string]string // their labels
	sum    float64             // of what a histogram has seen
}

func read(t *testing.T, r *prometheus.Registry, name string) (out reading) {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		out.kind = f.GetType().String()
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			out.series = append(out.series, labels)
			out.sum += m.GetHistogram().GetSampleSum()
		}
	}
	return out
}

// What alerts stand on is there from the first scrape, and says what it should.
func TestMetricsForAlerts(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Version, c.MaxSessions = "v7", 321 })
	if r := read(t, w.registry, "bongsu_build_info"); len(r.series) != 1 || r.series[0]["version"] != "v7" || r.series[0]["go_version"] == "" {
		t.Errorf("build: %v", r)
	}
	if n := w.metric("bongsu_gateway_sessions_limit"); n != 321 {
		t.Errorf("limit of sessions: %v", n)
	}
	if r := read(t, w.registry, "bongsu_gateway_admission_refused_total"); len(r.series) != 8 || w.metric("bongsu_gateway_admission_refused_total") != 0 {
		t.Errorf("refused by class: %v", r)
	}
	if r := read(t, w.registry, "bongsu_gateway_argon2_turned_away_total"); r.kind != "COUNTER" {
		t.Errorf("turned away: %v", r)
	}
	if n := w.metric("bongsu_gateway_ready"); n != 1 {
		t.Errorf("ready: %v", n)
	}
	w.b.set(func() { w.b.ready = errors.New("a shard has no owner") })
	if n := w.metric("bongsu_gateway_ready"); n != 0 {
		t.Errorf("ready without an owner: %v", n)
	}
}

// The delay of the feed is counted for messages, from their own time; a clock
// that is ahead does not make it negative.
func TestFeedDelay(t *testing.T) {
	w := newWorld(t, nil)
	message := func(at time.Time) *nodev1.FeedItem {
		return &nodev1.FeedItem{Event: &edgev1.Event{Event: &edgev1.Event_Message{Message: &edgev1.MessageEvent{Message: &edgev1.Message{SentAt: at.UnixMilli()}}}}}
	}
	now := w.g.now()
	w.g.Feed([]*nodev1.FeedItem{message(now.Add(-40 * time.Second)), message(now.Add(time.Hour)), {Event: &edgev1.Event{Event: &edgev1.Event_Typing{}}}})
	n, r := w.metric("bongsu_gateway_feed_delay_seconds"), read(t, w.registry, "bongsu_gateway_feed_delay_seconds")
	if n != 2 || math.Abs(r.sum-40) > 5 {
		t.Errorf("%v messages, %v s in all", n, r.sum)
	}
}
