// Package faults plays the fault file of a drill on the disk and the clock of a
// process: a text file that says from outside what shall go wrong inside.
//
// Each line is a fault, which stands while its line does:
//
//	fsync-error        the next fsync of a file fails, once each time the line appears
//	no-space           writes fail with ENOSPC
//	low-space          the disk says that it is nearly full, and writes go on
//	slow-disk 20ms     each fsync takes longer by this
//	clock +1h          the wall clock is wrong by this
//
// Empty lines and those that begin with # mean nothing. A missing file has no
// faults; one that cannot be understood changes nothing and is told of.
//
// So that a drill can prove that its faults fired, the file NAME.met says how
// often each was met: "fsync-error 1".
//
// Concurrency: Disk and Clock may be used from any goroutine; Run by one. It
// is for drills: a server that is not given a fault file has none of this.
package faults

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/bongsu-im/bongsu/internal/clock"
	"github.com/bongsu-im/bongsu/internal/durable"
)

// every is how often the file is read.
const every = 25 * time.Millisecond

// maxFileBytes bounds the fault file.
const maxFileBytes = 4 << 10

// MetSuffix is added to the file's name for the file of what was met.
const MetSuffix = ".met"

// Set is the faults that stand.
type Set struct {
	FsyncError bool
	NoSpace    bool
	LowSpace   bool
	SlowDisk   time.Duration
	Clock      time.Duration
}

// Parse reads the lines of a fault file.
func Parse(text string) (s Set, err error) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		switch {
		case fields[0] == "fsync-error" && len(fields) == 1:
			s.FsyncError = true
		case fields[0] == "no-space" && len(fields) == 1:
			s.NoSpace = true
		case fields[0] == "low-space" && len(fields) == 1:
			s.LowSpace = true
		case fields[0] == "slow-disk" && len(fields) == 2:
			if s.SlowDisk, err = time.ParseDuration(fields[1]); err != nil || s.SlowDisk < 0 {
				return Set{}, fmt.Errorf("fault %q: want a time such as 20ms", strings.TrimSpace(line))
			}
		case fields[0] == "clock" && len(fields) == 2:
			if s.Clock, err = time.ParseDuration(fields[1]); err != nil {
				return Set{}, fmt.Errorf("fault %q: want a time such as +1h", strings.TrimSpace(line))
			}
		default:
			return Set{}, fmt.Errorf("fault %q: there is none such", strings.TrimSpace(line))
		}
	}
	return s, nil
}

// String is what Parse reads.
func (s Set) String() string {
	var b strings.Builder
	if s.FsyncError {
		b.WriteString("fsync-error\n")
	}
	if s.NoSpace {
		b.WriteString("no-space\n")
	}
	if s.LowSpace {
		b.WriteString("low-space\n")
	}
	if s.SlowDisk > 0 {
		fmt.Fprintf(&b, "slow-disk %v\n", s.SlowDisk)
	}
	if s.Clock != 0 {
		fmt.Fprintf(&b, "clock %v\n", s.Clock)
	}
	return b.String()
}

// Player makes the faults of a file happen on its Disk and Clock.
type Player struct {
	Disk  *durable.Faulty
	Clock *clock.Offset

	name string
	log  *slog.Logger
	text string // the file as it was played
	now  Set
	met  string // the met file as it was written
}

// New returns a player of the file on the machine's disk and clock, with the
// faults that stand in it already.
func New(name string, log *slog.Logger) *Player {
	p := &Player{Disk: durable.NewFaulty(durable.Disk), Clock: &clock.Offset{}, name: name, log: log}
	p.play()
	return p
}

// Run plays the file until ctx ends.
func (p *Player) Run(ctx context.Context) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.play()
		case <-ctx.Done():
			return
		}
	}
}

// play takes over what the file says now, and tells what was met. The file is
// read past Disk, which may be failing.
func (p *Player) play() {
	b, err := os.ReadFile(p.name)
	if err != nil && !errors.Is(err, os.ErrNotExist) || len(b) > maxFileBytes {
		p.log.Error("cannot read the fault file", "file", p.name, "bytes", len(b), "error", err)
		return
	}
	if text := string(b); text != p.text {
		p.text = text
		next, err := Parse(text)
		if err != nil {
			p.log.Error("cannot understand the fault file", "file", p.name, "error", err)
			return
		}
		p.apply(next)
	}
	p.tell()
}

func (p *Player) apply(next Set) {
	if next.FsyncError && !p.now.FsyncError {
		p.Disk.FailSync()
	}
	p.Disk.SetFull(next.NoSpace)
	p.Disk.SetLow(next.LowSpace)
	p.Disk.SetSlow(next.SlowDisk)
	p.Clock.Set(next.Clock)
	p.log.Warn("faults are being played", "before", strings.Fields(p.now.String()), "now", strings.Fields(next.String()))
	p.now = next
}

// tell writes what was met, if that has changed: whole, under another name
// first, as a reader may look at any moment.
func (p *Player) tell() {
	m := p.Disk.Met()
	met := fmt.Sprintf("fsync-error %d\nno-space %d\nlow-space %d\nslow-disk %d\nclock %d\n", m.SyncErrors, m.NoSpace, m.LowSpace, m.SlowSyncs, p.Clock.Told())
	if met == p.met {
		return
	}
	name := p.name + MetSuffix
	if err := os.WriteFile(name+".new", []byte(met), 0o600); err != nil {
		p.log.Error("cannot tell what faults were met", "error", err)
		return
	}
	if err := os.Rename(name+".new", name); err != nil {
		p.log.Error("cannot tell what faults were met", "error", err)
		return
	}
	p.met = met
}

// ReadMet reads what was met of each fault by the process that plays the file;
// nothing if it has not begun.
func ReadMet(name string) (map[string]int, error) {
	b, err := os.ReadFile(name + MetSuffix)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read what faults were met: %w", err)
	}
	met := map[string]int{}
	for line := range strings.Lines(string(b)) {
		var kind string
		var n int
		if _, err := fmt.Sscan(line, &kind, &n); err != nil {
			return nil, fmt.Errorf("read what faults were met: %q: %w", line, err)
		}
		met[kind] = n
	}
	return met, nil
}
