package peers

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// usage is who has used how much CPU time since some beginning.
type usage struct {
	machine      machine
	self, server time.Duration
}

// readUsage reads /proc. roots are the server's processes.
func readUsage(roots []int) (u usage, err error) {
	if u.machine, err = readMachine(); err != nil {
		return u, err
	}
	all, err := readProcesses()
	if err != nil {
		return u, err
	}
	if u.server, err = treeCPU(all, roots); err != nil {
		return u, err
	}
	self := slices.IndexFunc(all, func(s stat) bool { return s.pid == os.Getpid() })
	if self < 0 {
		return u, errors.New("this process is not in /proc")
	}
	u.self = all[self].own // without descendants: the servers are ours
	return u, nil
}

// machine is the CPU time of the whole machine since it started.
type machine struct {
	// busy is what all programs used, idle what nobody did, steal what other
	// machines on the same host took.
	busy, idle, steal time.Duration
}

func readMachine() (machine, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return machine{}, fmt.Errorf("read the machine's CPU time: %w", err)
	}
	return parseMachine(string(b))
}

// parseMachine reads the first line of /proc/stat.
func parseMachine(text string) (m machine, err error) {
	line, _, _ := strings.Cut(text, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return m, errors.New("read the machine's CPU time: no cpu line")
	}
	for i, f := range fields[1:9] { // user nice system idle iowait irq softirq steal
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return machine{}, fmt.Errorf("read the machine's CPU time: %w", err)
		}
		d := time.Duration(ticks) * time.Second / ticksPerSecond
		switch i {
		case 3, 4: // waiting for a disk uses nothing
			m.idle += d
		case 7:
			m.steal += d
		default:
			m.busy += d
		}
	}
	return m, nil
}

func (m machine) sub(before machine) machine {
	return machine{m.busy - before.busy, m.idle - before.idle, m.steal - before.steal}
}

// shares of the machine between two usages, each 0 to 1, and the server's CPU
// seconds.
type shares struct {
	Server    float64 `json:"server"`
	Generator float64 `json:"generator"`
	Other     float64 `json:"other"`
	Steal     float64 `json:"steal"`
	seconds   float64
}

func (u usage) since(before usage) shares {
	m := u.machine.sub(before.machine)
	total := m.busy + m.idle + m.steal
	if total <= 0 {
		return shares{}
	}
	// Rounding of ticks can make the parts more than the whole.
	of := func(d time.Duration) float64 { return max(0, d.Seconds()/total.Seconds()) }
	self, server := u.self-before.self, u.server-before.server
	return shares{
		Server: of(server), Generator: of(self), Other: of(m.busy - self - server), Steal: of(m.steal),
		seconds: server.Seconds(),
	}
}

// probeFsync returns the median time of writing 4 KiB and syncing it, 100
// times, to a file in dir: what the disk under the servers allows at the most.
func probeFsync(dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, "fsync-probe-*")
	if err != nil {
		return 0, fmt.Errorf("probe fsync: %w", err)
	}
	defer func() {
		_ = f.Close() // all it held was synced or has failed already
		_ = os.Remove(f.Name())
	}()
	block, took := make([]byte, 4096), make([]time.Duration, 100)
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
	slices.Sort(took)
	return (took[49] + took[50]) / 2, nil
}
