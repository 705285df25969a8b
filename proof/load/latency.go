package load

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	// latencyMax is the longest latency told apart; longer ones count as this.
	latencyMax = 5 * time.Minute
	// maxSeconds bounds the seconds that are told apart; later ones count as
	// the last.
	maxSeconds = 600
)

// latencies is a histogram (microseconds, three digits) that many goroutines
// record into, in parts so that they do not wait for each other; and a coarser
// one of each second of the window.
type latencies struct {
	begin atomic.Int64 // of the window, Unix nanoseconds; 0 tells no seconds
	parts [8]latencyPart
}

type latencyPart struct {
	mu      sync.Mutex
	whole   *hdrhistogram.Histogram
	seconds []*hdrhistogram.Histogram // nil where nothing ended
	_       [24]byte                  // one cache line each
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, latencyMax.Microseconds(), 3)
}

// newSecond has two digits: the memory of 600 of them is bounded.
func newSecond() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, latencyMax.Microseconds(), 2)
}

func newLatencies() *latencies {
	l := &latencies{}
	for i := range l.parts {
		l.parts[i].whole = newHistogram()
	}
	return l
}

// over tells when the window begins, before anything is recorded.
func (l *latencies) over(w window) { l.begin.Store(w.begin.UnixNano()) }

// record adds a latency that ended at a time; who spreads the recorders over
// the parts.
func (l *latencies) record(who int, ended time.Time, d time.Duration) {
	us := min(max(d, time.Microsecond), latencyMax).Microseconds()
	at := -1
	if begin := l.begin.Load(); begin != 0 {
		at = int(min(max(ended.UnixNano()-begin, 0)/int64(time.Second), maxSeconds-1))
	}
	p := &l.parts[who%len(l.parts)]
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.whole.RecordValue(us) // within bounds by the line above, as is the next
	if at < 0 {
		return
	}
	for len(p.seconds) <= at {
		p.seconds = append(p.seconds, nil)
	}
	if p.seconds[at] == nil {
		p.seconds[at] = newSecond()
	}
	_ = p.seconds[at].RecordValue(us)
}

func (l *latencies) merged() *hdrhistogram.Histogram {
	all := newHistogram()
	for i := range l.parts {
		p := &l.parts[i]
		p.mu.Lock()
		all.Merge(p.whole)
		p.mu.Unlock()
	}
	return all
}

// bySecond returns the histogram of each second, nil where nothing ended.
func (l *latencies) bySecond() (out []*hdrhistogram.Histogram) {
	for i := range l.parts {
		p := &l.parts[i]
		p.mu.Lock()
		for k, h := range p.seconds {
			if k == len(out) {
				out = append(out, nil)
			}
			switch {
			case h == nil:
			case out[k] == nil:
				out[k] = newSecond()
				fallthrough
			default:
				out[k].Merge(h)
			}
		}
		p.mu.Unlock()
	}
	return out
}

// Percentile is one point of a latency curve: the share Q (0 to 1) of all
// samples took at most Ms.
type Percentile struct {
	Q  float64 `json:"q"`
	Ms float64 `json:"ms"`
}

// stepsPerDecade of the latency curve.
const stepsPerDecade = 6

// curve reads off a histogram the percentiles 1 − 10^−x, up to the last that
// its samples can tell.
func curve(h *hdrhistogram.Histogram) (out []Percentile) {
	total := float64(h.TotalCount())
	for i := 0; ; i++ {
		rest := math.Pow(10, -float64(i)/stepsPerDecade)
		if rest*total < 1 {
			break
		}
		q := 1 - rest
		out = append(out, Percentile{round(q, 9), milliseconds(h.ValueAtQuantile(100 * q))})
	}
	return out
}

func milliseconds(us int64) float64 { return round(float64(us)/1000, 3) }
