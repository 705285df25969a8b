package durable

import (
	"math/rand/v2"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Crashable is a file system in memory on which the plug can be pulled: it
// knows which bytes were fsynced (by file) and which names were (by directory),
// and Crash returns the disk as it may look after the power comes back.
//
// It is safe for concurrent use, Crash included: a cut may come at any moment
// under concurrent writers, who go on writing to the old disk unharmed.
type Crashable struct {
	*vfs.MemFS
}

// NewCrashable returns an empty crashable file system.
func NewCrashable() *Crashable {
	return &Crashable{MemFS: vfs.NewCrashableMem()}
}

// Crash returns a copy of the disk as a power cut at this moment may leave it:
// all that was synced, and of what was not each 4 KiB block and each directory
// entry with probability keepUnsynced (0 none, 1 all). Blocks that are kept
// behind blocks that are not leave zeros between them, which is a torn tail.
// The same seed on the same state gives the same copy, up to the order in which
// Go iterates over a directory's names.
func (c *Crashable) Crash(keepUnsynced float64, seed uint64) *Crashable {
	percent := int(min(max(keepUnsynced, 0), 1)*100 + 0.5)
	return &Crashable{MemFS: c.CrashClone(vfs.CrashCloneCfg{
		UnsyncedDataPercent: percent,
		RNG:                 rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15)),
	})}
}
