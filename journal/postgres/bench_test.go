package postgres

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/journal"
)

// benchmarkAppend measures as journal/raft's does, on a server with fsync and
// without a standby.
func benchmarkAppend(b *testing.B, shards, size, committers int) {
	s := sharedServer(b)
	cfg := config(b, s, shards)
	cfg.Committers, cfg.LeaseTTL = committers, 10*time.Second
	j := mustOpen(b, cfg)
	leases := make([]journal.Lease, shards)
	for i := range leases {
		leases[i] = mustLease(b, j.Log(journal.ShardID(i)))
	}
	data := make([]byte, size)
	took := make([][]time.Duration, shards)
	syncs := func() float64 {
		n, err := strconv.ParseFloat(s.ask("postgres", "SELECT wal_sync::text FROM pg_stat_wal"), 64)
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	b.ResetTimer()
	start, ours, theirs, synced := time.Now(), cpu(b), s.cpu(), syncs()
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
	elapsed, n := time.Since(start), float64(b.N)
	b.ReportMetric((cpu(b)-ours).Seconds()*1e6/n, "our-cpu-us/append")
	b.ReportMetric((s.cpu()-theirs).Seconds()*1e6/n, "their-cpu-us/append")
	if err := j.Close(); err != nil { // a backend tells what it has done when it ends, if not before
		b.Fatal(err)
	}
	<-time.After(200 * time.Millisecond)
	b.ReportMetric((syncs()-synced)/n, "fsyncs/append")
	all := slices.Concat(took...)
	slices.Sort(all)
	b.ReportMetric(n/elapsed.Seconds(), "appends/s")
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
}

// cpu is the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// cpu is the processor time that the server's processes have used, those that
// ended included, in steps of 10 ms.
func (s *pgServer) cpu() (total time.Duration) {
	pids := append(s.children(), s.cmd.Process.Pid)
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it ended between the two looks
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))
		own := fields[11:13]
		if pid == s.cmd.Process.Pid {
			own = fields[11:15]
		}
		for _, f := range own {
			ticks, _ := strconv.Atoi(f) // the kernel writes numbers
			total += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return total
}

func BenchmarkAppend1Shard400B(b *testing.B) { benchmarkAppend(b, 1, 400, 2) }

func BenchmarkAppend16Shards400B(b *testing.B) {
	for _, n := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("committers=%d", n), func(b *testing.B) { benchmarkAppend(b, 16, 400, n) })
	}
}

func BenchmarkAppend16Shards16KiB(b *testing.B) { benchmarkAppend(b, 16, 16<<10, 2) }
