package load

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is USER_HZ, the unit of /proc: 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// usage is who has used how many ticks of CPU since some beginning.
type usage struct {
	// total is of all CPUs: busy, idle and stolen.
	total, idle, steal uint64
	self               uint64 // this process
	server             uint64 // its process and those it has waited for
	serverKnown        bool
}

// readUsage reads /proc; server is a process ID, 0 for none.
func readUsage(server int) (usage, error) {
	var u usage
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return u, fmt.Errorf("read the machine's CPU time: %w", err)
	}
	if u.total, u.idle, u.steal, err = parseMachine(string(b)); err != nil {
		return u, err
	}
	if u.self, err = processTicks(os.Getpid()); err != nil || server == 0 {
		return u, err
	}
	u.serverKnown = true
	u.server, err = processTicks(server)
	return u, err
}

// parseMachine reads the first line of /proc/stat: "cpu user nice system idle
// iowait irq softirq steal guest guest_nice". Guests are in user and nice.
func parseMachine(stat string) (total, idle, steal uint64, err error) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, 0, 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var ticks [8]uint64
	for i := range ticks {
		if ticks[i], err = strconv.ParseUint(fields[1+i], 10, 64); err != nil {
			return 0, 0, 0, fmt.Errorf("/proc/stat: %w", err)
		}
		total += ticks[i]
	}
	return total, ticks[3] + ticks[4], ticks[7], nil
}

func processTicks(pid int) (uint64, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, fmt.Errorf("read CPU time of process %d: %w", pid, err)
	}
	return parseProcess(string(b))
}

// parseProcess adds utime, stime, cutime and cstime of /proc/PID/stat (fields 14
// to 17). The command's name, in parentheses, may hold anything.
func parseProcess(stat string) (uint64, error) {
	i := strings.LastIndexByte(stat, ')')
	fields := strings.Fields(stat[i+1:]) // the first is field 3
	if i < 0 || len(fields) < 15 {
		return 0, fmt.Errorf("not a /proc/PID/stat: %q", stat)
	}
	var sum uint64
	for _, f := range fields[11:15] {
		ticks, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/PID/stat: %w", err)
		}
		sum += ticks
	}
	return sum, nil
}

// shares of the machine between two usages, each 0 to 1.
type shares struct {
	other, steal, generator, server float64
	serverSeconds                   float64
	serverKnown                     bool
}

func (u usage) since(before usage) shares {
	total := u.total - before.total
	if u.total <= before.total {
		return shares{}
	}
	of := func(ticks int64) float64 { return float64(max(ticks, 0)) / float64(total) }
	d := func(now, then uint64) int64 { return int64(now - then) }
	steal, self, server := d(u.steal, before.steal), d(u.self, before.self), d(u.server, before.server)
	busy := int64(total) - d(u.idle, before.idle) - steal
	return shares{
		// Rounding of ticks can make the parts more than the whole.
		other: of(busy - self - server), steal: of(steal), generator: of(self), server: of(server),
		serverSeconds: float64(server) / ticksPerSecond, serverKnown: u.serverKnown && before.serverKnown,
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
