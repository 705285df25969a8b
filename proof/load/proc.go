package load

import (
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/bongsu-im/bongsu/proof/child"
)

// usage is who has used how much CPU time since some beginning.
type usage struct {
	machine     child.Machine
	self        time.Duration // this process
	server      time.Duration
	serverKnown bool
}

// readUsage reads /proc; server is a process ID, 0 for none.
func readUsage(server int) (u usage, err error) {
	if u.machine, err = child.ReadMachine(); err != nil {
		return u, err
	}
	if u.self, err = child.CPU(os.Getpid()); err != nil || server == 0 {
		return u, err
	}
	u.serverKnown = true
	u.server, err = child.CPU(server)
	return u, err
}

// shares of the machine between two usages, each 0 to 1.
type shares struct {
	other, steal, generator, server float64
	serverSeconds                   float64
	serverKnown                     bool
}

func (u usage) since(before usage) shares {
	m := u.machine.Sub(before.machine)
	total := m.Busy + m.Idle + m.Steal
	if total <= 0 {
		return shares{}
	}
	of := func(d time.Duration) float64 { return max(0, d.Seconds()/total.Seconds()) }
	self, server := u.self-before.self, u.server-before.server
	return shares{
		// Rounding of ticks can make the parts more than the whole.
		other: of(m.Busy - self - server), steal: of(m.Steal), generator: of(self), server: of(server),
		serverSeconds: server.Seconds(), serverKnown: u.serverKnown && before.serverKnown,
	}
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
func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	switch n := len(s); {
	case n == 0:
		return 0
	case n%2 == 0:
		return (s[n/2-1] + s[n/2]) / 2
	default:
		return s[n/2]
	}
}
