package raft

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
)

// TestOneSyncAnAppend: a lone append costs one fsync, and waits for no tick.
func TestOneSyncAnAppend(t *testing.T) {
	rig := &rigged{FS: durable.NewCrashable()}
	cfg := config(rig, 1)
	cfg.MarkInterval, cfg.TickInterval = time.Hour, time.Hour
	j := mustOpen(t, cfg)
	l := j.Log(0)
	lease := mustLease(t, l)
	before := rig.syncs.Load()
	for range 100 {
		mustAppend(t, l, lease, "x")
	}
	if n := rig.syncs.Load() - before; n != 100 {
		t.Fatalf("100 appends took %d fsyncs", n)
	}
}

// TestShardsShareSyncs: while one fsync is on the way, the other shards' appends
// gather for the next. The disk is given the latency of a real one, 2 ms a sync;
// the bound leaves room for a scheduler that is four times slower than needed.
// (Pebble does not run in a synctest bubble: it waits on mutexes.)
func TestShardsShareSyncs(t *testing.T) {
	const shards, each = 16, 25
	rig := &rigged{FS: durable.NewCrashable()}
	cfg := config(rig, shards)
	cfg.MarkInterval = time.Hour
	j := mustOpen(t, cfg)
	leases := make([]journal.Lease, shards)
	for i := range leases {
		leases[i] = mustLease(t, j.Log(journal.ShardID(i)))
	}
	rig.set(func(r *rigged) {
		r.onSync = func(string) error { <-time.After(2 * time.Millisecond); return nil }
	})
	before := rig.syncs.Load()
	var wg sync.WaitGroup
	for i := range shards {
		wg.Go(func() {
			for range each {
				if _, err := j.Log(journal.ShardID(i)).Append(bg, leases[i], make([]byte, 400)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	n := rig.syncs.Load() - before
	t.Logf("%d appends, %d fsyncs", shards*each, n)
	if n*4 > shards*each {
		t.Fatalf("%d appends took %d fsyncs", shards*each, n)
	}
}

func benchmarkAppend(b *testing.B, shards, size int) {
	rig := &rigged{FS: durable.Disk}
	cfg := Config{Dir: b.TempDir(), FS: rig, Shards: shards}
	began := time.Now()
	j := mustOpen(b, cfg)
	leases := make([]journal.Lease, shards)
	for i := range leases {
		leases[i] = mustLease(b, j.Log(journal.ShardID(i)))
	}
	opened := time.Since(began)
	data := make([]byte, size)
	took := make([][]time.Duration, shards)
	before := rig.syncs.Load()
	b.ResetTimer()
	start := time.Now()
	var wg sync.WaitGroup
	for i := range shards {
		wg.Go(func() {
			for n := i; n < b.N; n += shards {
				at := time.Now()
				if _, err := j.Log(journal.ShardID(i)).Append(bg, leases[i], data); err != nil {
					b.Error(err)
					return
				}
				took[i] = append(took[i], time.Since(at))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	all := slices.Concat(took...)
	slices.Sort(all)
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "appends/s")
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(opened.Microseconds())/1000, "open-ms")
	b.ReportMetric(float64(rig.syncs.Load()-before)/float64(b.N), "fsyncs/append")
}

func BenchmarkAppend1Shard400B(b *testing.B)    { benchmarkAppend(b, 1, 400) }
func BenchmarkAppend16Shards400B(b *testing.B)  { benchmarkAppend(b, 16, 400) }
func BenchmarkAppend16Shards16KiB(b *testing.B) { benchmarkAppend(b, 16, 16<<10) }
