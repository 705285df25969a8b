package raft

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
)

// A hole between two starts leaves the first and the last entry in place, and
// the marks agree with both. It must be met at open, not when a view is made
// again years later (found by the damage drill).
func TestOpenNoticesATermThatIsMissing(t *testing.T) {
	disk := durable.NewCrashable()
	cfg := config(disk, 1)
	var ends []journal.Position
	for range 3 { // a term each
		j := mustOpen(t, cfg)
		lease := mustLease(t, j.Log(0))
		for range 4 {
			mustAppend(t, j.Log(0), lease, "words")
		}
		ends = append(ends, j.Log(0).Last())
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	j := mustOpen(t, cfg) // whole, it opens
	err := errors.Join(
		j.store.db.DeleteRange(key(0, keyEntry, uint64(ends[0].Index)+1), key(0, keyEntry, uint64(ends[1].Index)+1), pebble.Sync),
		j.store.db.Delete(key(0, keySpan, uint64(ends[1].Term)), pebble.Sync),
		j.Close(),
	)
	if err != nil {
		t.Fatal(err)
	}
	j, err = Open(cfg)
	var corrupt *journal.CorruptError
	if !errors.As(err, &corrupt) {
		if err == nil {
			_ = j.Close()
		}
		t.Fatalf("entries %d to %d are missing and open says %v", ends[0].Index+1, ends[1].Index, err)
	}
}
