package load

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
		_  [48]byte // one cache line each
	}
}

func newLatencies() *latencies {
	l := &latencies{}
	for i := range l.parts {
		l.parts[i].h = hdrhistogram.New(1, latencyMax.Microseconds(), 3)
	}
	return l
}

// record adds a latency; who spreads the recorders over the parts.
func (l *latencies) record(who int, d time.Duration) {
	us := min(max(d, time.Microsecond), latencyMax).Microseconds()
	p := &l.parts[who%len(l.parts)]
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.h.RecordValue(us) // within bounds by the line above
}

func (l *latencies) merged() *hdrhistogram.Histogram {
	all := hdrhistogram.New(1, latencyMax.Microseconds(), 3)
	for i := range l.parts {
		p := &l.parts[i]
		p.mu.Lock()
		all.Merge(p.h)
		p.mu.Unlock()
	}
	return all
}
