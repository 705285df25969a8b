package child

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

// CPU returns the CPU time that a process has used, from /proc.
func CPU(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	return parseStat(string(b))
}

// parseStat takes utime and stime out of /proc/PID/stat. The name of the
// program stands in parentheses and may hold anything, so fields are counted
// from the last one.
func parseStat(text string) (time.Duration, error) {
	end := strings.LastIndexByte(text, ')')
	if end < 0 {
		return 0, errors.New("read CPU time: no program name")
	}
	fields := strings.Fields(text[end+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("read CPU time: %d fields", len(fields))
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	return time.Duration(user+system) * time.Second / ticksPerSecond, nil
}

// Memory returns the resident memory of a process in bytes, from /proc.
func Memory(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	return parseRSS(string(b))
}

func parseRSS(text string) (int64, error) {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, "VmRSS:")
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read memory: %w", err)
		}
		return kib << 10, nil
	}
	return 0, errors.New("read memory: no VmRSS")
}

// Machine is the CPU time of the whole machine since it started.
type Machine struct {
	// Busy is what all programs used, Idle what nobody did, Steal what other
	// machines on the same host took.
	Busy, Idle, Steal time.Duration
}

// ReadMachine reads /proc/stat.
func ReadMachine() (Machine, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return Machine{}, fmt.Errorf("read the machine's CPU time: %w", err)
	}
	return parseMachine(string(b))
}

func parseMachine(text string) (Machine, error) {
	line, _, _ := strings.Cut(text, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return Machine{}, errors.New("read the machine's CPU time: no cpu line")
	}
	var m Machine
	for i, f := range fields[1:9] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return Machine{}, fmt.Errorf("read the machine's CPU time: %w", err)
		}
		d := time.Duration(n) * time.Second / ticksPerSecond
		switch i {
		case 3, 4: // idle, waiting for a disk
			m.Idle += d
		case 7:
			m.Steal += d
		default:
			m.Busy += d
		}
	}
	return m, nil
}

// Sub returns what was used since an earlier reading.
func (m Machine) Sub(before Machine) Machine {
	return Machine{Busy: m.Busy - before.Busy, Idle: m.Idle - before.Idle, Steal: m.Steal - before.Steal}
}
