package shard

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/journal/memory"
)

// readings gathers what a set's census says of its only shard, with the reason
// of the condition.
func readings(t *testing.T, s *Set) (values map[string]float64, why string) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newCensus(s))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values = map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			values[f.GetName()] = m.GetGauge().GetValue()
			for _, l := range m.GetLabel() {
				if l.GetName() == "reason" {
					why = l.GetValue()
				}
			}
		}
	}
	return values, why
}

// The owner and a replica tell who owns and how far each is.
func TestCensus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, memory.Config{})
		s := &seat{disk: w.disk, who: "n1", moved: make(chan struct{})}
		w.wrap = s.as("n1")
		w.build()
		if v, why := readings(t, w.set); why != "starting" || v["bongsu_shard_owner"] != 0 {
			t.Errorf("before it runs: %s, %v", why, v)
		}
		w.start()
		w.ready()
		ann := user("ann")
		w.must(signUp("ann"))
		w.must(openDirect(ann, ann))
		n := w.join(s, "n2")
		time.Sleep(2 * time.Second) // the grace in which it might have become the owner
		at := w.must(send(ann, id.Direct(ann, ann), 1, "hello")).GetPosition().GetIndex()
		synctest.Wait()

		owner, why := readings(t, w.set)
		if why != "ok" || owner["bongsu_shard_owner"] != 1 || owner["bongsu_shard_applied_index"] != float64(at) || owner["bongsu_shard_committed_index"] != float64(at) {
			t.Errorf("the owner at %d: %s, %v", at, why, owner)
		}
		replica, why := readings(t, n.set)
		if why != "not_owner" || replica["bongsu_shard_owner"] != 0 || replica["bongsu_shard_applied_index"] != float64(at) || replica["bongsu_shard_committed_index"] != float64(at) {
			t.Errorf("the replica at %d: %s, %v", at, why, replica)
		}
		n.stop()
		w.end()
	})
}

// A set that is given a registerer shows its census there.
func TestCensusIsRegistered(t *testing.T) {
	registry := prometheus.NewRegistry()
	w := newWorld(t, 3, memory.Config{})
	w.tune = func(c *Config) { c.Registerer = registry }
	w.build()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "bongsu_shard_owner" && len(f.GetMetric()) == 3 {
			return
		}
	}
	t.Errorf("%d families, and none says who owns the three shards", len(families))
}
