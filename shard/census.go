package shard

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// census tells where every shard of this node stands, when it is asked. Of a
// cluster, the sum of who owns a shard is 1, and the difference of what is
// committed anywhere and applied here is how far this replica is behind.
type census struct {
	set                                  *Set
	owner, condition, committed, applied *prometheus.Desc
}

func newCensus(s *Set) census {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("bongsu_shard_"+name, help, append([]string{"shard"}, labels...), nil)
	}
	return census{
		set:       s,
		owner:     desc("owner", "1 where this node decides for the shard."),
		condition: desc("condition", "Always 1; the label says why the shard does not serve commands here, or ok.", "reason"),
		committed: desc("committed_index", "Index of the last record known here to be committed."),
		applied:   desc("applied_index", "Index of the last record that the view here has applied."),
	}
}

// Describe implements prometheus.Collector.
func (c census) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.owner, c.condition, c.committed, c.applied} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c census) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for n, o := range c.set.owners {
		shard := strconv.Itoa(n)
		owns := 0.0
		if o.owned.Load() {
			owns = 1
		}
		why := "ok"
		if r := o.status.reason(); r != nil {
			why = r.reason
		}
		gauge(c.owner, owns, shard)
		gauge(c.condition, 1, shard, why)
		// What is applied first: what is committed may only be ahead of it.
		gauge(c.applied, float64(o.view.Mark().GetIndex()), shard)
		gauge(c.committed, float64(o.log.Last().Index), shard)
	}
}
