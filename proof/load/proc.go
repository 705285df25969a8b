package load

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/bongsu-im/bongsu/proof/child"
)

// usage is who has used how much CPU time since some beginning.
type usage struct {
	machine     child.Machine
	self        time.Duration // this process
	server      child.Family  // with its descendants
	serverKnown bool
}

// readUsage reads /proc; servers are process IDs, whose figures are added up.
func readUsage(servers ...int) (u usage, err error) {
	if u.machine, err = child.ReadMachine(); err != nil {
		return u, err
	}
	self, err := child.CPU(os.Getpid())
	if u.self = self.Total(); err != nil {
		return u, err
	}
	for _, pid := range servers {
		f, err := child.ReadFamily(pid)
		if err != nil {
			return u, err
		}
		u.serverKnown = true
		u.server = u.server.Add(f)
	}
	return u, nil
}

// shares of the machine between two usages, each 0 to 1.
type shares struct {
	other, steal, generator, server float64
	serverCPU                       child.Times
	serverKnown                     bool
}

func (u usage) since(before usage) shares {
	m := u.machine.Sub(before.machine)
	total := m.Busy + m.Idle + m.Steal
	if total <= 0 {
		return shares{}
	}
	of := func(d time.Duration) float64 { return max(0, d.Seconds()/total.Seconds()) }
	self, server := u.self-before.self, u.server.CPU.Sub(before.server.CPU)
	return shares{
		// Rounding of ticks can make the parts more than the whole.
		other: of(m.Busy - self - server.Total()), steal: of(m.Steal), generator: of(self), server: of(server.Total()),
		serverCPU: server, serverKnown: u.serverKnown && before.serverKnown,
	}
}

// observation is what the machine and the server did over a window.
type observation struct {
	before, after usage
	seconds       []second
	// first and last are the server's own counters at the ends of the window;
	// nil if it does not tell.
	first, last counters
}

// second is one of the window, as the machine saw it.
type second struct {
	cpu    time.Duration // of the server
	memory int64
}

// observe reads the clocks of the machine at both ends of a window and every
// second between, and tells the time on the terminal.
func (r *rig) observe(ctx context.Context, w window) (o observation, err error) {
	whole := func(d time.Duration) int { return int(d.Seconds() + 0.5) }
	for t := time.Now(); t.Before(w.begin); t = time.Now() {
		r.cfg.Progress("warming up", min(whole(t.Sub(w.start)), whole(w.begin.Sub(w.start))), whole(w.begin.Sub(w.start)))
		if !sleepUntil(ctx, earlier(w.begin, t.Add(time.Second))) {
			return o, context.Cause(ctx)
		}
	}
	// Counting costs the server CPU time, which is not the workload's.
	o.first = r.counters(ctx)
	if o.before, err = readUsage(r.server.pids()...); err != nil {
		return o, err
	}
	previous := o.before
	for next := w.begin; next.Before(w.end); {
		next = earlier(w.end, next.Add(time.Second))
		if !sleepUntil(ctx, next) {
			return o, context.Cause(ctx)
		}
		u, err := readUsage(r.server.pids()...)
		if err != nil {
			return o, err
		}
		if u.serverKnown {
			o.seconds = append(o.seconds, second{u.server.CPU.Sub(previous.server.CPU).Total(), u.server.Memory})
		}
		previous = u
		r.cfg.Progress("measuring", whole(next.Sub(w.begin)), whole(w.length()))
	}
	o.after = previous
	o.last = r.counters(ctx)
	return o, nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// probeFsync returns the median time of writing 4 KiB and syncing it, 100 times,
// to a file in dir: what the disk under the data folder allows at the most.
func probeFsync(dir string) (_ time.Duration, err error) {
	// Straight to the system: it is the disk that is measured, not our layer.
	f, err := os.CreateTemp(dir, "fsync-probe-*")
	if err != nil {
		return 0, fmt.Errorf("probe fsync: %w", err)
	}
	defer func() {
		_ = f.Close() // all it held was synced or failed already
		_ = os.Remove(f.Name())
	}()
	block := make([]byte, 4096)
	took := make([]time.Duration, 100)
	for i := range took {
		began := time.Now()
		if _, err := f.Write(block); err != nil {
			return 0, fmt.Errorf("probe fsync: %w", err)
		}
		if err := f.Sync(); err != nil {
			return 0, fmt.Errorf("probe fsync: %w", err)
		}
		took[i] = time.Since(began)
	}
	return median(took), nil
}

// median of an even number is the mean of the two in the middle; of none, 0.
func median[T time.Duration | float64](of []T) T {
	s := slices.Sorted(slices.Values(of))
	switch n := len(s); {
	case n == 0:
		return 0
	case n%2 == 0:
		return (s[n/2-1] + s[n/2]) / 2
	default:
		return s[n/2]
	}
}

// Machine is where a run took place.
type Machine struct {
	CPUs      int     `json:"cpus"`
	Model     string  `json:"model"`
	MemoryGiB float64 `json:"memory_gib"`
	System    string  `json:"system"`
}

// thisMachine leaves empty what it cannot read.
func thisMachine() Machine {
	m := Machine{CPUs: runtime.NumCPU(), System: runtime.GOOS + "/" + runtime.GOARCH}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		m.Model = valueOf(string(b), "model name")
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kib float64
		if _, err := fmt.Sscan(valueOf(string(b), "MemTotal"), &kib); err == nil {
			m.MemoryGiB = round(kib/(1<<20), 1)
		}
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.System += " " + strings.TrimSpace(string(b))
	}
	return m
}

// valueOf finds "name : value" in a file of such lines.
func valueOf(text, name string) string {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
