package lint

import (
	"context"
	"math"
	"slices"
	"sort"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// memory is a Prometheus storage of a few series. (Prometheus' own drags in the
// clients of every cloud.) One goroutine uses it.
type memory struct {
	series map[uint64]*stored
}

type stored struct {
	labels  labels.Labels
	samples []chunks.Sample
}

func newMemory() *memory { return &memory{series: map[uint64]*stored{}} }

// add appends a sample; time in milliseconds must not go back.
func (m *memory) add(l labels.Labels, t int64, v float64) {
	s := m.series[l.Hash()]
	if s == nil {
		s = &stored{labels: l}
		m.series[l.Hash()] = s
	}
	s.samples = append(s.samples, point{t, v})
}

// stale ends a series, as Prometheus does when a rule no longer yields it.
func (m *memory) stale(l labels.Labels, t int64) { m.add(l, t, math.Float64frombits(value.StaleNaN)) }

// point is one float sample.
type point struct {
	t int64
	v float64
}

func (p point) T() int64                      { return p.t }
func (p point) ST() int64                     { return 0 }
func (p point) F() float64                    { return p.v }
func (p point) H() *histogram.Histogram       { return nil }
func (p point) FH() *histogram.FloatHistogram { return nil }
func (p point) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (p point) Copy() chunks.Sample           { return p }

// Querier implements storage.Queryable.
func (m *memory) Querier(mint, maxt int64) (storage.Querier, error) {
	return &window{m, mint, maxt}, nil
}

type window struct {
	m          *memory
	mint, maxt int64
}

// Select implements storage.Querier.
func (w *window) Select(_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	var found []storage.Series
	for _, s := range w.m.series {
		if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(s.labels.Get(m.Name)) }) {
			from := sort.Search(len(s.samples), func(i int) bool { return s.samples[i].T() >= w.mint })
			to := sort.Search(len(s.samples), func(i int) bool { return s.samples[i].T() > w.maxt })
			found = append(found, storage.NewListSeries(s.labels, s.samples[from:max(from, to):max(from, to)]))
		}
	}
	slices.SortFunc(found, func(a, b storage.Series) int { return labels.Compare(a.Labels(), b.Labels()) })
	return &set{found, -1}
}

func (w *window) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil // rules do not ask
}

func (w *window) LabelNames(context.Context, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil // rules do not ask
}

func (w *window) Close() error { return nil }

type set struct {
	series []storage.Series
	at     int
}

func (s *set) Next() bool                        { s.at++; return s.at < len(s.series) }
func (s *set) At() storage.Series                { return s.series[s.at] }
func (s *set) Err() error                        { return nil }
func (s *set) Warnings() annotations.Annotations { return nil }
