package node

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// A histogram of nanoseconds is shown in seconds, every sample at its bound or
// below.
func TestInSeconds(t *testing.T) {
	from := prometheus.NewHistogram(prometheus.HistogramOpts{Buckets: append(prometheus.LinearBuckets(0, 1e5, 50), prometheus.ExponentialBucketsRange(5e6, 1e10, 50)...)})
	for _, ns := range []float64{90_000, 190_000, 190_000, 4_900_000, 40_000_000, 20_000_000_000} {
		from.Observe(ns)
	}
	m, err := inSeconds(prometheus.NewDesc("x_seconds", "x", nil, nil), from)
	if err != nil {
		t.Fatal(err)
	}
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	h := out.GetHistogram()
	if h.GetSampleCount() != 6 || h.GetSampleSum() < 20.0453 || h.GetSampleSum() > 20.0454 {
		t.Errorf("%d samples of %v s", h.GetSampleCount(), h.GetSampleSum())
	}
	want := map[float64]uint64{.0001: 1, .0002: 3, .002: 3, .005: 4, .02: 4, .05: 5, 10: 5}
	for _, b := range h.GetBucket() {
		if n, ok := want[b.GetUpperBound()]; ok && b.GetCumulativeCount() != n {
			t.Errorf("%d samples to %v s, want %d", b.GetCumulativeCount(), b.GetUpperBound(), n)
		}
	}
	if len(h.GetBucket()) != len(fsyncBounds) {
		t.Errorf("%d buckets", len(h.GetBucket()))
	}
}
