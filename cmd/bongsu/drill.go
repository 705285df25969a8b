package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/bongsu-im/bongsu/proof/drill"
)

type drillCmd struct {
	Crash   crashCmd        `cmd:"" help:"Kill the server with SIGKILL under load, again and again, and count what is missing."`
	Power   powerCmd        `cmd:"" help:"Pull the plug: everything that was not fsynced is gone. In process, on a disk in memory."`
	Cluster clusterDrillCmd `cmd:"" help:"Hurt a cluster of real processes in every way, and count what is missing on every replica."`
	Upgrade upgradeCmd      `cmd:"" help:"Roll a cluster of another release to this one under load, and back, and count what is missing."`
	Restore drillRestoreCmd `cmd:"" help:"Lose the disk under load, restore the backup onto an empty folder, timed, and count what is missing."`
}

// drillFlags are those that every drill has.
type drillFlags struct {
	Seconds int    `help:"End after this many seconds at the latest; 0 means no bound." default:"0"`
	Seed    uint64 `help:"Replays a run; 0 draws one."`
	JSON    bool   `name:"json" help:"Print one JSON object as the last line of standard output."`
}

func (f *drillFlags) seed() uint64 {
	if f.Seed == 0 {
		f.Seed = rand.Uint64()>>1 | 1
	}
	return f.Seed
}

func (f *drillFlags) bound() time.Duration { return time.Duration(f.Seconds) * time.Second }

// out is where progress goes: not into what a machine reads.
func (f *drillFlags) out() io.Writer { return os.Stderr }

// finish prints the result and turns it into the exit status.
func (f *drillFlags) finish(r drill.Result, err error) error {
	return f.show(&r, r.Name, r.Passed, err)
}

// drillReport is what a drill ends with.
type drillReport interface {
	Print(io.Writer) error
	JSON(io.Writer) error
}

func (f *drillFlags) show(r drillReport, name string, passed bool, err error) error {
	fmt.Fprintln(os.Stderr)
	if err != nil {
		return fmt.Errorf("drill %s (seed %d): %w", name, f.Seed, err)
	}
	show := r.Print
	if f.JSON {
		show = r.JSON
	}
	if err := show(os.Stdout); err != nil {
		return err
	}
	if !passed {
		return errRed
	}
	return nil
}

// self is the binary to hurt: the one named, or this very one.
func self(bin string) (string, error) {
	if bin != "" {
		return bin, nil
	}
	bin, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this binary: %w", err)
	}
	return bin, nil
}

type crashCmd struct {
	drillFlags
	Kills  int    `help:"How often the server is killed." default:"100"`
	Pairs  int    `help:"Pairs of people who talk." default:"20"`
	Groups int    `help:"Groups of ten of them." default:"2"`
	Bin    string `help:"Server to kill; without it this very binary." type:"existingfile"`
}

func (c *crashCmd) Run(ctx context.Context) error {
	bin, err := self(c.Bin)
	if err != nil {
		return err
	}
	r, err := drill.Crash(ctx, drill.CrashConfig{
		Bin: bin, Kills: c.Kills, Seed: c.seed(), For: c.bound(), Out: c.out(), Pairs: c.Pairs, Groups: c.Groups,
	})
	return c.finish(r, err)
}

type powerCmd struct {
	drillFlags
	Cuts int `help:"How often the plug is pulled." default:"1000"`
}

func (c *powerCmd) Run(ctx context.Context) error {
	r, err := drill.Power(ctx, drill.PowerConfig{Cuts: c.Cuts, Seed: c.seed(), For: c.bound(), Out: c.out()})
	return c.finish(r, err)
}

type drillRestoreCmd struct {
	drillFlags
	Messages int           `help:"Messages that the store has before people begin to send." default:"100000"`
	Load     time.Duration `help:"How long people send before the disk is lost." default:"6s"`
	Every    time.Duration `help:"Time between two passes of the backup." default:"1s"`
	Bin      string        `help:"Server to lose; without it this very binary." type:"existingfile"`
}

func (c *drillRestoreCmd) Run(ctx context.Context) error {
	bin := c.Bin
	if bin == "" {
		var err error
		if bin, err = os.Executable(); err != nil {
			return fmt.Errorf("find this binary: %w", err)
		}
	}
	if bound := c.bound(); bound > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, bound)
		defer cancel()
	}
	r, err := drill.Restore(ctx, drill.RestoreConfig{Bin: bin, Messages: c.Messages, Seed: c.seed(), Load: c.Load, Every: c.Every, Out: c.out()})
	return c.finish(r, err)
}
