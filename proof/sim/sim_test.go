package sim

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"
)

var (
	seeds   = flag.Int("sim.seeds", 0, "how many seeds to run; 0 means a few")
	seed    = flag.Uint64("sim.seed", 0, "the first seed; 0 draws one")
	within  = flag.Duration("sim.for", 20*time.Second, "begin no seed after this, if sim.seeds is not given")
	verbose = flag.Bool("sim.log", false, "show what nodes log")
)

// TestMain runs everything on one processor: a seed then replays as nearly as
// goroutines can.
func TestMain(m *testing.M) {
	flag.Parse()
	runtime.GOMAXPROCS(1)
	os.Exit(m.Run())
}

// TestSeeds runs whole clusters through faults (invariants 1, 2, 3, 4, 5 and 6).
// Replay one with: go test ./proof/sim -run TestSeeds -sim.seeds=1 -sim.seed=N
func TestSeeds(t *testing.T) {
	first, n := *seed, *seeds
	if first == 0 {
		first = uint64(time.Now().UnixNano()) >> 10 << 10
	}
	bounded := n == 0
	if bounded {
		n = 40
	}
	t.Logf("seeds from %d", first)
	began := time.Now()
	total := Stats{FaultsMet: map[string]int{}}
	ran := 0
	for i := range n {
		if bounded && time.Since(began) > *within {
			break
		}
		r := runSeed(t, first+uint64(i))
		ran++
		total.add(r.Stats)
		if t.Failed() {
			break // the first is the finding
		}
	}
	took := time.Since(began)
	t.Logf("%d seeds in %v, %v each: %s", ran, took.Round(time.Millisecond), (took / time.Duration(max(ran, 1))).Round(time.Millisecond), total.String())
	if ran > 0 && (total.Acked == 0 || total.ReplicasCompared == 0) && !t.Failed() {
		t.Error("nothing was acknowledged or compared: nothing is proved")
	}
	if ran >= 100 { // enough for each kind to have come
		for _, kind := range []string{"kill", "blackout", "stop", "start", "isolate", "one-way cut", "bridge", "loss and delay", "transfer", "fsync error", "disk full", "view fence", "flush", "lost disk", "heal", "snapshot taken"} {
			if total.FaultsMet[kind] == 0 && !t.Failed() {
				t.Errorf("no fault of the kind %q came in %d seeds", kind, ran)
			}
		}
	}
}

func runSeed(t *testing.T, seed uint64) (r Report) {
	t.Run(fmt.Sprint(seed), func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, seed)
		cfg := Config{Seed: seed}
		synctest.Test(t, func(t *testing.T) {
			if *verbose {
				cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
			}
			r = Run(cfg)
		})
		for _, wrong := range r.Wrong {
			t.Error(wrong)
		}
		if t.Failed() {
			t.Logf("stats: %s", r.Stats.String())
			for _, did := range r.Did {
				t.Log(did)
			}
			t.Logf("replay with: go test ./proof/sim -run TestSeeds -sim.seeds=1 -sim.seed=%d", seed)
		}
	})
	return r
}

func (s *Stats) add(o Stats) {
	s.Sent += o.Sent
	s.Acked += o.Acked
	s.Given += o.Given
	s.Reads += o.Reads
	s.Kills += o.Kills
	s.Fences += o.Fences
	s.Lost += o.Lost
	s.Views += o.Views
	s.ParcelsSent += o.ParcelsSent
	s.ParcelsLost += o.ParcelsLost
	s.Virtual += o.Virtual
	s.ReplicasCompared += o.ReplicasCompared
	s.Readings += o.Readings
	for k, n := range o.FaultsMet {
		s.FaultsMet[k] += n
	}
}

func (s *Stats) String() string {
	return fmt.Sprintf("%d sent, %d acknowledged, %d refused for good, %d reads, %d kills, %d fences, %d lost disks, %d deleted views, %d of %d parcels lost, %v of virtual time, %d histories read, %d replicas compared, faults %v",
		s.Sent, s.Acked, s.Given, s.Reads, s.Kills, s.Fences, s.Lost, s.Views, s.ParcelsLost, s.ParcelsSent, s.Virtual.Round(time.Second), s.Readings, s.ReplicasCompared, s.FaultsMet)
}
