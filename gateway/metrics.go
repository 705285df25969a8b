package gateway

import (
	"fmt"
	"runtime"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bongsu-im/bongsu/overload"
)

// metrics are what the gateway counts. Labels are bounded: methods, codes,
// classes and kinds are sets in the code, never words of a client.
type metrics struct {
	requests      *prometheus.CounterVec // method, code
	latency       *prometheus.HistogramVec
	retries       prometheus.Counter
	panics        prometheus.Counter
	refused       *prometheus.CounterVec // class
	handshakes    *prometheus.CounterVec // result
	framesIn      [codecs]prometheus.Counter
	framesOut     [codecs]prometheus.Counter
	writes        prometheus.Counter
	badFrames     *prometheus.CounterVec // kind
	eventsDropped prometheus.Counter
	badFeed       prometheus.Counter
	graces        prometheus.Counter
	hashWait      prometheus.Histogram
	feedDelay     prometheus.Histogram

	methods sync.Map // name to *methodMetrics
}

// methodMetrics are the metrics of one method, looked up once: finding them by
// their labels costs as much as a small request.
type methodMetrics struct {
	name    string
	vec     *prometheus.CounterVec
	ok      prometheus.Counter
	latency prometheus.Observer
}

func (m *methodMetrics) count(code string) {
	if code == codeOK {
		m.ok.Inc()
		return
	}
	m.vec.WithLabelValues(m.name, code).Inc()
}

// method finds the metrics of a method; names are words of the code.
func (m *metrics) method(name string) *methodMetrics {
	if found, ok := m.methods.Load(name); ok {
		return found.(*methodMetrics)
	}
	made, _ := m.methods.LoadOrStore(name, &methodMetrics{
		name: name, vec: m.requests, ok: m.requests.WithLabelValues(name, codeOK), latency: m.latency.WithLabelValues(name),
	})
	return made.(*methodMetrics)
}

func newMetrics(r prometheus.Registerer, g *Gateway) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "bongsu", Subsystem: "gateway", Name: name, Help: help})
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "bongsu", Subsystem: "gateway", Name: name, Help: help}, labels)
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "bongsu", Subsystem: "gateway", Name: name, Help: help}, value)
	}
	framesIn := vec("frames_in_total", "WebSocket messages received.", "protocol")
	framesOut := vec("frames_out_total", "WebSocket messages written.", "protocol")
	m := &metrics{
		requests: vec("requests_total", "Requests by method and code, RPC and sockets alike.", "method", "code"),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "bongsu", Subsystem: "gateway", Name: "request_duration_seconds", Help: "Time from decoded request to answer.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60},
		}, []string{"method"}),
		retries:       counter("backend_retries_total", "Commands and queries submitted again inside their deadline."),
		panics:        counter("panics_total", "Methods that panicked."),
		refused:       vec("admission_refused_total", "Requests turned away by class before any work.", "class"),
		handshakes:    vec("handshakes_total", "WebSocket handshakes by result.", "result"),
		writes:        counter("writes_total", "Writes to sockets; one may hold several messages."),
		badFrames:     vec("frames_bad_total", "Frames that are no request, by what is wrong.", "kind"),
		eventsDropped: counter("events_dropped_total", "Events not queued because a session lagged."),
		badFeed:       counter("feed_bad_total", "Feed items that cannot be read or encoded."),
		graces:        counter("grace_sessions_total", "Sessions honoured while the backend could not be asked."),
		hashWait: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "bongsu", Subsystem: "gateway", Name: "argon2_wait_seconds", Help: "Wait for a slot to hash a password.",
			Buckets: []float64{.001, .01, .05, .1, .2, .5, 1, 2, 5, 10},
		}),
		feedDelay: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "bongsu", Subsystem: "gateway", Name: "feed_delay_seconds", Help: "Time from a message's acceptance by its owner to its hand-over to the sessions here, by both machines' clocks.",
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60},
		}),
	}
	for c := range codecs {
		m.framesIn[c], m.framesOut[c] = framesIn.WithLabelValues(c.String()), framesOut.WithLabelValues(c.String())
	}
	// What may never happen is shown as zero, so that the first time is an increase.
	for c := overload.Send; c.Valid(); c++ {
		m.refused.WithLabelValues(c.String())
	}
	for _, result := range []string{"ok", "refused", "failed", "origin", "protocol"} {
		m.handshakes.WithLabelValues(result)
	}
	m.badFrames.WithLabelValues("protocol")
	all := []prometheus.Collector{
		m.requests, m.latency, m.retries, m.panics, m.refused, m.handshakes, framesIn, framesOut, m.writes, m.badFrames,
		m.eventsDropped, m.badFeed, m.graces, m.hashWait, m.feedDelay,
		newCensus(g),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "bongsu", Name: "build_info", Help: "Always 1; the labels say which release runs.",
			ConstLabels: prometheus.Labels{"version": g.cfg.Version, "go_version": runtime.Version()},
		}, func() float64 { return 1 }),
		gauge("ready", "1 where /readyz says 200.", func() float64 { return oneIf(g.Ready() == nil) }),
		gauge("sessions", "Open sockets.", func() float64 { return float64(g.Sessions()) }),
		gauge("sessions_limit", "Most sockets that may be open.", func() float64 { return float64(g.cfg.MaxSessions) }),
		gauge("argon2_waiting", "Passwords waiting to be hashed.", func() float64 { n, _, _ := g.hashing.Stats(); return float64(n) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "bongsu", Subsystem: "gateway", Name: "argon2_turned_away_total", Help: "Passwords not hashed because the queue was full.",
		}, func() float64 { _, _, n := g.hashing.Stats(); return float64(n) }),
		gauge("revoked_devices", "Devices revoked within a token's life.", func() float64 { n, _ := g.revoked.Len(); return float64(n) }),
	}
	for c := overload.Send; c.Valid(); c++ {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "bongsu", Subsystem: "gateway", Name: "requests_in_flight", Help: "Requests being served, by class.",
			ConstLabels: prometheus.Labels{"class": c.String()},
		}, func() float64 { return float64(g.admission.InFlight(c)) }))
	}
	for _, c := range all {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// census counts the sessions and what they hold, when it is asked.
type census struct {
	g       *Gateway
	drivers *prometheus.Desc
	held    *prometheus.Desc
}

func newCensus(g *Gateway) census {
	return census{
		g:       g,
		drivers: prometheus.NewDesc("bongsu_gateway_driven_sessions", "Open sockets by what carries them.", []string{"driver"}, nil),
		held:    prometheus.NewDesc("bongsu_gateway_held_bytes", "Bytes that sessions hold: of unfinished messages that came, and of frames not written yet.", []string{"where"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c census) Describe(out chan<- *prometheus.Desc) {
	out <- c.drivers
	out <- c.held
}

// Collect implements prometheus.Collector.
func (c census) Collect(out chan<- prometheus.Metric) {
	c.g.mu.Lock()
	sessions := c.g.snapshotLocked()
	c.g.mu.Unlock()
	var carried [drivers]int
	var parsers, queues int
	for _, s := range sessions {
		carried[s.wire.driver()]++
		parsers += int(s.held.Load())
		queues += s.queued()
	}
	gauge := func(d *prometheus.Desc, n int, label string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), label)
	}
	for d, n := range carried {
		gauge(c.drivers, n, driver(d).String())
	}
	gauge(c.held, parsers, "parser")
	gauge(c.held, queues, "queue")
}
