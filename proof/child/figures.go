package child

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is USER_HZ, which is 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// Times is CPU time that was used.
type Times struct {
	User, System time.Duration
}

// Total is the sum of both.
func (t Times) Total() time.Duration { return t.User + t.System }

// Add returns the sum, Sub the difference.
func (t Times) Add(o Times) Times { return Times{t.User + o.User, t.System + o.System} }

// Sub returns what was used since an earlier reading.
func (t Times) Sub(before Times) Times {
	return Times{t.User - before.User, t.System - before.System}
}

// CPU returns the CPU time that a process has used, from /proc.
func CPU(pid int) (Times, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Times{}, fmt.Errorf("read CPU time: %w", err)
	}
	own, _, err := parseStat(string(b))
	return own, err
}

// Family is what a process and all its descendants have used and hold.
type Family struct {
	CPU Times
	// Memory is resident now, Peak the sum of the most that each ever had; bytes.
	Memory, Peak int64
}

// Add is what both take together.
func (f Family) Add(o Family) Family {
	return Family{CPU: f.CPU.Add(o.CPU), Memory: f.Memory + o.Memory, Peak: f.Peak + o.Peak}
}

// ReadFamily reads /proc. Descendants that are gone count once they have been
// waited for; one that goes while we look is left out.
func ReadFamily(pid int) (Family, error) {
	f, err := readOne(pid)
	if err != nil {
		return Family{}, err
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return Family{}, fmt.Errorf("read descendants: %w", err)
	}
	for _, name := range tasks {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		for _, field := range strings.Fields(string(b)) {
			n, err := strconv.Atoi(field)
			if err != nil {
				return Family{}, fmt.Errorf("read descendants: %w", err)
			}
			if c, err := ReadFamily(n); err == nil {
				f.CPU, f.Memory, f.Peak = f.CPU.Add(c.CPU), f.Memory+c.Memory, f.Peak+c.Peak
			}
		}
	}
	return f, nil
}

func readOne(pid int) (f Family, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return f, fmt.Errorf("read CPU time: %w", err)
	}
	own, gone, err := parseStat(string(stat))
	if err != nil {
		return f, err
	}
	f.CPU = own.Add(gone)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return f, fmt.Errorf("read memory: %w", err)
	}
	if f.Memory, err = parseKiB(string(status), "VmRSS:"); err != nil {
		return f, fmt.Errorf("read memory: %w", err)
	}
	if f.Peak, err = parseKiB(string(status), "VmHWM:"); err != nil {
		return f, fmt.Errorf("read memory: %w", err)
	}
	return f, nil
}

// parseStat takes utime and stime out of /proc/PID/stat, and those of children
// that have been waited for. The name of the program stands in parentheses and
// may hold anything, so fields are counted from the last one.
func parseStat(text string) (own, gone Times, err error) {
	end := strings.LastIndexByte(text, ')')
	if end < 0 {
		return own, gone, errors.New("read CPU time: no program name")
	}
	fields := strings.Fields(text[end+1:])
	if len(fields) < 15 {
		return own, gone, fmt.Errorf("read CPU time: %d fields", len(fields))
	}
	for i, to := range []*time.Duration{&own.User, &own.System, &gone.User, &gone.System} {
		n, err := strconv.ParseInt(fields[11+i], 10, 64)
		if err != nil {
			return own, gone, fmt.Errorf("read CPU time: %w", err)
		}
		*to = time.Duration(n) * time.Second / ticksPerSecond
	}
	return own, gone, nil
}

// parseKiB finds the line of a name in a file like /proc/meminfo, in bytes.
func parseKiB(text, name string) (int64, error) {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s %w", name, err)
		}
		return kib << 10, nil
	}
	return 0, fmt.Errorf("no %s", name)
}

// Kernel is memory that the kernel holds for itself, of the whole machine.
type Kernel struct {
	// Slab is its small objects (sockets, inodes, files), Buffers what waits in
	// TCP's queues; bytes.
	Slab, Buffers int64
}

// ReadKernel reads /proc/meminfo and /proc/net/sockstat.
func ReadKernel() (k Kernel, err error) {
	memory, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return k, fmt.Errorf("read the kernel's memory: %w", err)
	}
	if k.Slab, err = parseKiB(string(memory), "Slab:"); err != nil {
		return k, fmt.Errorf("read the kernel's memory: %w", err)
	}
	sockets, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		return k, fmt.Errorf("read the kernel's memory: %w", err)
	}
	pages, err := parseSockstat(string(sockets))
	k.Buffers = pages * int64(os.Getpagesize())
	return k, err
}

// parseSockstat takes the pages that TCP uses out of /proc/net/sockstat.
func parseSockstat(text string) (pages int64, err error) {
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] == "TCP:" {
			for i := 1; i+1 < len(fields); i += 2 {
				if fields[i] == "mem" {
					return strconv.ParseInt(fields[i+1], 10, 64)
				}
			}
		}
	}
	return 0, errors.New("read the kernel's memory: no TCP in sockstat")
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
