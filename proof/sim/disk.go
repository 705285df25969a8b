package sim

import (
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/bongsu-im/bongsu/internal/durable"
)

// disk is a machine's disk during one life, which fails when told to. No fault
// of it takes time: whoever waits for a disk may hold a lock, and a bubble's
// clock stands still while anybody waits for that.
type disk struct {
	durable.FS

	mu       sync.Mutex // guards what follows
	failSync bool       // the next fsync fails
	noWrites bool       // no space at all
	reserve  bool       // little space is left
	syncs    int        // until onSync is called; below 0: not counting
	onSync   func()     // called before an fsync of the journal's log
	met      func(fault string)
}

func newDiskLife(fs durable.FS, met func(string)) *disk {
	d := &disk{met: met, syncs: -1}
	d.FS = durable.Hook(fs, durable.Hooks{Sync: d.sync, Write: d.write, Free: d.free})
	return d
}

func (d *disk) set(f func(*disk)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

func (d *disk) sync(name string) error {
	d.mu.Lock()
	var hook func()
	if strings.HasSuffix(name, ".log") && d.syncs >= 0 {
		if d.syncs--; d.syncs < 0 {
			hook = d.onSync
		}
	}
	fail := d.failSync && !ofView(name)
	d.failSync = d.failSync && !fail
	d.mu.Unlock()
	if hook != nil {
		for range 100 { // let others hear what was said too early
			runtime.Gosched()
		}
		hook()
	}
	if fail {
		d.met("fsync error met")
		return &os.PathError{Op: "sync", Path: name, Err: syscall.EIO}
	}
	return nil
}

// ofView tells the view's files, which do not fail here: the view makes Pebble's
// repeated attempts wait while Pebble holds a lock, and the bubble's clock would
// stand still for whoever wants it. The schedule fences views instead.
func ofView(name string) bool { return strings.Contains(name, viewDir) }

func (d *disk) write(name string) error {
	d.mu.Lock()
	full := d.noWrites && !ofView(name)
	d.mu.Unlock()
	if !full {
		return nil
	}
	d.met("no space met")
	return &os.PathError{Op: "write", Path: name, Err: syscall.ENOSPC}
}

func (d *disk) free() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.noWrites:
		return 0
	case d.reserve:
		return 1 << 20
	}
	return 1 << 39
}
