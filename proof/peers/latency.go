package peers

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// latencyMax is the longest latency told apart; longer ones count as this.
const latencyMax = 5 * time.Minute

// latencies is a histogram (microseconds, three digits) that many goroutines
// record into, in parts so that they do not wait for each other.
type latencies struct {
	parts [8]struct {
		mu sync.Mutex
		h  *hdrhistogram.Histogram
	}
}

func newLatencies() *latencies {
	l := &latencies{}
	for i := range l.parts {
		l.parts[i].h = hdrhistogram.New(1, latencyMax.Microseconds(), 3)
	}
	return l
}

// record takes a latency; who spreads the callers over the parts.
func (l *latencies) record(who int, d time.Duration) {
	p := &l.parts[who%len(l.parts)]
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.h.RecordValue(min(max(d, time.Microsecond), latencyMax).Microseconds()) // in range by then
}

// quantile in milliseconds; q is 0 to 100. It is 0 if nothing was recorded.
func (l *latencies) quantile(q float64) float64 {
	all := hdrhistogram.New(1, latencyMax.Microseconds(), 3)
	for i := range l.parts {
		p := &l.parts[i]
		p.mu.Lock()
		all.Merge(p.h)
		p.mu.Unlock()
	}
	return float64(all.ValueAtQuantile(q)) / 1000
}
