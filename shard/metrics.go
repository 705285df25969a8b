package shard

import (
	"reflect"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bongsu-im/bongsu/chat"
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
)

// metrics counts what owners do. It is registered where the node says; there is
// no global registry.
type metrics struct {
	commands, bytes         *prometheus.HistogramVec
	wait, decide, append    *prometheus.HistogramVec
	depth                   *prometheus.GaugeVec
	refused                 *prometheus.CounterVec
	unknown, panics         *prometheus.CounterVec
	events                  *prometheus.CounterVec
	feed, delivered, lost   *prometheus.CounterVec
	outboxFailed, recovered *prometheus.CounterVec
	replaced                *prometheus.CounterVec
}

func newMetrics() *metrics {
	shard := []string{"shard"}
	histogram := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "bongsu", Subsystem: "shard", Name: name, Help: help, Buckets: buckets,
		}, shard)
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "bongsu", Subsystem: "shard", Name: name, Help: help,
		}, append(shard, labels...))
	}
	seconds := prometheus.ExponentialBuckets(0.00005, 2, 18) // 50 µs to 6.5 s
	return &metrics{
		commands: histogram("batch_commands", "Commands in a batch.", prometheus.ExponentialBuckets(1, 2, 12)),
		bytes:    histogram("record_bytes", "Encoded bytes of a record.", prometheus.ExponentialBuckets(64, 4, 8)),
		wait:     histogram("queue_wait_seconds", "Time from arrival to decision.", seconds),
		decide:   histogram("decide_duration_seconds", "Time to decide and stage a batch.", seconds),
		append:   histogram("append_duration_seconds", "Time of an append to the journal.", seconds),
		depth: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "bongsu", Subsystem: "shard", Name: "queue_depth", Help: "Commands waiting.",
		}, shard),
		refused:      counter("commands_refused_total", "Commands refused by the shard's condition.", "reason"),
		unknown:      counter("commands_unknown_total", "Commands whose outcome was left unknown."),
		panics:       counter("panics_total", "Commands or events that panicked."),
		events:       counter("events_total", "Events journaled or followed, by kind.", "kind"),
		feed:         counter("feed_items_total", "Items published."),
		delivered:    counter("effects_total", "Effects delivered to other shards."),
		outboxFailed: counter("effects_failed_total", "Deliveries of effects that failed and will be repeated."),
		lost:         counter("lost_positions_total", "Presented positions that the history does not contain."),
		replaced:     counter("views_replaced_total", "Times the view was replaced by a snapshot."),
		recovered:    counter("recoveries_total", "Times ownership was lost or an outcome unknown."),
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{
		m.commands, m.bytes, m.wait, m.decide, m.append, m.depth, m.refused, m.unknown,
		m.panics, m.events, m.feed, m.delivered, m.outboxFailed, m.lost, m.recovered, m.replaced,
	} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// shardMetrics is metrics with the shard's label filled in once.
type shardMetrics struct {
	commands, bytes, wait, decide, append                            prometheus.Observer
	depth                                                            prometheus.Gauge
	unknown, panics, feed, delivered, outboxFailed, lost, recoveries prometheus.Counter
	replaced                                                         prometheus.Counter
	refused                                                          *prometheus.CounterVec

	events *prometheus.CounterVec
	byType map[reflect.Type]prometheus.Counter // of events, by the type of their kind; the owner's alone
}

func (m *metrics) of(shard int) *shardMetrics {
	l := strconv.Itoa(shard)
	// Shown as zero, so that the first time is an increase.
	for _, r := range []reason{queueFull, notOwner, storeFenced, damaged, diskFull, timedOut, panicked} {
		m.refused.WithLabelValues(l, r.reason)
	}
	return &shardMetrics{
		commands: m.commands.WithLabelValues(l), bytes: m.bytes.WithLabelValues(l),
		wait: m.wait.WithLabelValues(l), decide: m.decide.WithLabelValues(l), append: m.append.WithLabelValues(l),
		depth: m.depth.WithLabelValues(l), unknown: m.unknown.WithLabelValues(l),
		panics: m.panics.WithLabelValues(l), feed: m.feed.WithLabelValues(l),
		delivered: m.delivered.WithLabelValues(l), outboxFailed: m.outboxFailed.WithLabelValues(l),
		lost: m.lost.WithLabelValues(l), recoveries: m.recovered.WithLabelValues(l),
		replaced: m.replaced.WithLabelValues(l),
		refused:  m.refused.MustCurryWith(prometheus.Labels{"shard": l}),
		events:   m.events.MustCurryWith(prometheus.Labels{"shard": l}),
		byType:   make(map[reflect.Type]prometheus.Counter),
	}
}

func (m *shardMetrics) refuse(why reason) { m.refused.WithLabelValues(why.reason).Inc() }

// count counts the events of a record. The owner's goroutine calls it.
func (m *shardMetrics) count(rec *journalv1.Record) {
	for _, ev := range rec.Events {
		kind := reflect.TypeOf(ev.GetKind())
		c := m.byType[kind]
		if c == nil { // naming a kind costs more than counting it
			c = m.events.WithLabelValues(chat.EventKind(ev))
			m.byType[kind] = c
		}
		c.Inc()
	}
}
