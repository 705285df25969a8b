package demo

import (
	"slices"
	"sync"
	"time"
)

const (
	// bucketWidth is a step of the chart, bucketCount how many it keeps.
	bucketWidth = 500 * time.Millisecond
	bucketCount = 180
	// latencyWindow is what the percentiles are of.
	latencyWindow = 10 * time.Second
	// faultWindow after a fault, what is sent counts towards its longest wait.
	faultWindow = 15 * time.Second
	// maxSamples and maxFaults bound what a meter keeps.
	maxSamples = 4096
	maxFaults  = 200
)

// Fault is one thing that was done to a node, and how long senders waited for
// it.
type Fault struct {
	// Kind is kill, freeze, cut or heal.
	Kind string `json:"kind"`
	Node string `json:"node"`
	// At is Unix milliseconds.
	At int64 `json:"at"`
	// LongestMs is the longest that any message waited for its acknowledgement,
	// of those that waited when it happened or were sent in the 15 s after it; -1
	// for a heal.
	LongestMs int64 `json:"longest_ms"`
}

// Bucket is one step of the chart.
type Bucket struct {
	At           int64 `json:"at"` // Unix milliseconds of its beginning
	Acknowledged int   `json:"n"`
	SlowestMs    int64 `json:"ms"`
}

// Figures is what a meter shows.
type Figures struct {
	PerSecond float64  `json:"per_second"`
	P50Ms     float64  `json:"p50_ms"`
	P99Ms     float64  `json:"p99_ms"`
	OldestMs  int64    `json:"oldest_ms"` // how long the message waits that has waited longest
	Buckets   []Bucket `json:"buckets"`
	Faults    []Fault  `json:"faults"`
}

// Meter measures how long senders wait. Time comes in with each call.
type Meter struct {
	mu      sync.Mutex
	waiting map[string]time.Time // by client ID: when it was sent
	samples []sample             // of the last seconds, oldest first
	buckets []Bucket
	faults  []Fault
	fault   int       // index of the last fault that is no heal, or -1
	faultAt time.Time // when it was
}

type sample struct {
	at    time.Time
	after time.Duration
}

// NewMeter returns one that has seen nothing.
func NewMeter() *Meter { return &Meter{waiting: map[string]time.Time{}, fault: -1} }

// Sent notes a message on its way.
func (m *Meter) Sent(clientID string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.waiting[clientID] = now
}

// Gone forgets a message that was refused.
func (m *Meter) Gone(clientID string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.waiting, clientID)
}

// Acknowledged notes that it was. One that is told of twice counts once.
func (m *Meter) Acknowledged(clientID string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	sent, known := m.waiting[clientID]
	if !known {
		return
	}
	delete(m.waiting, clientID)
	after := now.Sub(sent)
	m.samples = append(m.samples, sample{now, after})
	if extra := len(m.samples) - maxSamples; extra > 0 {
		m.samples = slices.Delete(m.samples, 0, extra)
	}
	b := m.bucket(now)
	b.Acknowledged++
	b.SlowestMs = max(b.SlowestMs, after.Milliseconds())
	m.blame(sent, after)
}

// Fault notes that something is done to a node.
func (m *Meter) Fault(kind, node string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := Fault{Kind: kind, Node: node, At: now.UnixMilli()}
	if extra := len(m.faults) + 1 - maxFaults; extra > 0 {
		m.faults = slices.Delete(m.faults, 0, extra)
		m.fault -= extra
	}
	if kind == Heal {
		f.LongestMs = -1
	} else {
		m.fault, m.faultAt = len(m.faults), now
	}
	m.faults = append(m.faults, f)
}

// Figures returns what is shown now.
func (m *Meter) Figures(now time.Time) Figures {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bucket(now)
	fresh, _ := slices.BinarySearchFunc(m.samples, now.Add(-latencyWindow), func(s sample, t time.Time) int { return s.at.Compare(t) })
	m.samples = slices.Delete(m.samples, 0, fresh)
	f := Figures{Buckets: slices.Clone(m.buckets)}
	if n := len(m.samples); n > 0 {
		waits := make([]time.Duration, n)
		for i, s := range m.samples {
			waits[i] = s.after
		}
		slices.Sort(waits)
		f.PerSecond = float64(n) / latencyWindow.Seconds()
		f.P50Ms = milliseconds(waits[(n-1)/2])
		f.P99Ms = milliseconds(waits[(n-1)*99/100])
	}
	for _, sent := range m.waiting {
		waited := now.Sub(sent)
		f.OldestMs = max(f.OldestMs, waited.Milliseconds())
		m.blame(sent, waited) // one that still waits has waited that long already
	}
	f.Faults = slices.Clone(m.faults)
	return f
}

// Waiting returns how many messages are on their way.
func (m *Meter) Waiting() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.waiting)
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// blame counts a wait towards the last fault, if that can be the reason. mu
// must be held.
func (m *Meter) blame(sent time.Time, waited time.Duration) {
	if m.fault < 0 || sent.Add(waited).Before(m.faultAt) || sent.After(m.faultAt.Add(faultWindow)) {
		return
	}
	f := &m.faults[m.fault]
	f.LongestMs = max(f.LongestMs, waited.Milliseconds())
}

// bucket returns the one of now, after filling in those in which nothing came.
// mu must be held.
func (m *Meter) bucket(now time.Time) *Bucket {
	at := now.Truncate(bucketWidth).UnixMilli()
	if n := len(m.buckets); n == 0 || at-m.buckets[n-1].At > bucketCount*bucketWidth.Milliseconds() {
		m.buckets = append(m.buckets[:0], Bucket{At: at})
	}
	for m.buckets[len(m.buckets)-1].At < at {
		m.buckets = append(m.buckets, Bucket{At: m.buckets[len(m.buckets)-1].At + bucketWidth.Milliseconds()})
	}
	if extra := len(m.buckets) - bucketCount; extra > 0 {
		m.buckets = slices.Delete(m.buckets, 0, extra)
	}
	return &m.buckets[len(m.buckets)-1]
}
