package peers

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is USER_HZ, which is 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// stat is one process in /proc.
type stat struct {
	pid, parent int
	// own is user and system time of the process itself.
	own time.Duration
	// used is user and system time of the process and of those of its children
	// that have ended and been waited for. Summed over all that live, nothing
	// is counted twice.
	used time.Duration
}

// parseStat reads /proc/PID/stat. The program's name stands in parentheses and
// may hold anything, so fields are counted from the last one.
func parseStat(text string) (stat, error) {
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return stat{}, errors.New("read a process: no program name")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(text[:open]))
	if err != nil {
		return stat{}, fmt.Errorf("read a process: %w", err)
	}
	fields := strings.Fields(text[end+1:])
	if len(fields) < 15 {
		return stat{}, fmt.Errorf("read a process: %d fields", len(fields))
	}
	s := stat{pid: pid}
	if s.parent, err = strconv.Atoi(fields[1]); err != nil {
		return stat{}, fmt.Errorf("read a process: %w", err)
	}
	for i, f := range fields[11:15] { // utime stime cutime cstime
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return stat{}, fmt.Errorf("read a process: %w", err)
		}
		d := time.Duration(ticks) * time.Second / ticksPerSecond
		if s.used += d; i < 2 {
			s.own += d
		}
	}
	return s, nil
}

// readProcesses reads all processes of the machine.
func readProcesses() ([]stat, error) {
	folders, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("read the processes: %w", err)
	}
	var all []stat
	for _, f := range folders {
		if f.Name()[0] < '0' || f.Name()[0] > '9' {
			continue
		}
		b, err := os.ReadFile("/proc/" + f.Name() + "/stat")
		if err != nil {
			continue // it has ended meanwhile
		}
		s, err := parseStat(string(b))
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// treeCPU sums what the roots and all their descendants have used. A root that
// is gone is an error: its time is gone with it.
func treeCPU(all []stat, roots []int) (time.Duration, error) {
	children := map[int][]stat{}
	var next []stat
	for _, s := range all {
		children[s.parent] = append(children[s.parent], s)
	}
	for _, root := range roots {
		found := false
		for _, s := range all {
			if s.pid == root {
				next, found = append(next, s), true
			}
		}
		if !found {
			return 0, fmt.Errorf("process %d of the server is gone", root)
		}
	}
	var sum time.Duration
	counted := map[int]bool{}
	for len(next) > 0 {
		s := next[len(next)-1]
		next = next[:len(next)-1]
		if counted[s.pid] {
			continue
		}
		counted[s.pid] = true
		sum += s.used
		next = append(next, children[s.pid]...)
	}
	return sum, nil
}
