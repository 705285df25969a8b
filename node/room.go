package node

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/bongsu-im/bongsu/internal/durable"
)

const (
	roomEvery = 250 * time.Millisecond
	// roomAgain is how long a disk must have had room before the node wants to lead
	// again, so that one on the edge moves nothing back and forth.
	roomAgain = 10 * time.Second
	// giveAgain is how soon what could not be given away is tried again.
	giveAgain = time.Second
)

// keepRoom has this node lead nothing while its disk is nearly full: the others
// have room, and nobody is refused for it. It goes on following.
func (c *cluster) keepRoom(ctx context.Context) {
	tick := time.NewTicker(roomEvery)
	defer tick.Stop()
	var short, given time.Time
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		if err := c.journal.Room(); err != nil {
			short = now
			c.wasFull.Store(true)
			if !c.full.Swap(true) {
				c.log.Error("the disk is nearly full; this node leads nothing until it has room", "error", err)
				c.soon()
			}
		} else {
			if c.full.Swap(false) {
				c.soon()
			}
			if c.wasFull.Load() && now.Sub(short) >= roomAgain {
				c.wasFull.Store(false)
				c.log.Info("the disk has room again")
				c.soon()
			}
		}
		if c.full.Load() && now.Sub(given) >= giveAgain {
			given = now
			c.giveAll(ctx)
		}
	}
}

const (
	// reopenFree must be free before stores are opened on a disk that was full:
	// what they held in memory is written first.
	reopenFree = 64 << 20
	// probeBytes is what must fit onto it, as not every disk tells what is free.
	probeBytes = 1 << 20
	probeEvery = 500 * time.Millisecond
)

// awaitRoom waits until something can be written to the data folder: stores that
// are opened on a full disk only fail again.
func awaitRoom(ctx context.Context, fs durable.FS, dir string) error {
	for {
		err := tryRoom(fs, dir)
		if err == nil || !isFull(err) {
			return nil // whatever else is wrong is told by who opens the stores
		}
		if wait(ctx, probeEvery) != nil {
			return fmt.Errorf("wait for room on the disk: %w", errors.Join(ctx.Err(), err))
		}
	}
}

// tryRoom writes a file and removes it.
func tryRoom(fs durable.FS, dir string) error {
	if usage, e := fs.GetDiskUsage(dir); e == nil && usage.AvailBytes < reopenFree {
		return fmt.Errorf("%d MiB are free, %d MiB are needed: %w", usage.AvailBytes>>20, reopenFree>>20, syscall.ENOSPC)
	}
	name := fs.PathJoin(dir, "room-probe")
	if err := durable.WriteFile(fs, name, make([]byte, probeBytes), 0o600); err != nil {
		return err // what is there of it is written over by the next
	}
	return fs.Remove(name)
}
