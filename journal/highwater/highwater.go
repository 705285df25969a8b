// Package highwater is what the journals that keep their logs elsewhere than in
// memory share about high-water marks: what a node knows, apart from its log,
// about how far that log has been durable. A log that ends before its mark has
// lost something, which no checksum can show.
//
// Vocabulary: a Mark is one shard's; a copy is one of the two files that hold the
// marks of all shards, written in turn, so that whatever a cut or a flip does to
// one, the other is whole and at most one interval older.
//
// What it does not do: it knows no format (each journal has its own, for ever),
// decides about no damage and starts no goroutine. Applied may be used from any
// goroutine; who writes copies sees to it that there is one writer.
package highwater

import (
	"fmt"
	"sync"

	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
)

// Mark is what one shard had for certain when the marks were written: the log
// held the entry at End, and the shard had applied up to Applied.
type Mark struct {
	End     journal.Position
	Applied journal.Mark
}

// Error tells of a damaged copy. It fences nothing: the other copy is used, or,
// if there is none, a missing tail goes unnoticed until a view, a client or a
// peer proves it.
type Error struct {
	File  string
	Cause error
	// Unguarded: no copy could be read.
	Unguarded bool
}

func (e *Error) Error() string {
	if e.Unguarded {
		return fmt.Sprintf("high-water marks %s: %v; no copy is left, a missing tail cannot be noticed", e.File, e.Cause)
	}
	return fmt.Sprintf("high-water marks %s: %v; the older copy is used", e.File, e.Cause)
}

func (e *Error) Unwrap() error { return e.Cause }

// Copies are the names of the two.
var Copies = [2]string{"marks.0", "marks.1"}

// Read returns what a copy in dir holds. A missing one gives os.ErrNotExist.
func Read(fs durable.FS, dir, name string) ([]byte, error) {
	return durable.ReadFile(fs, fs.PathJoin(dir, name))
}

// Write replaces the older copy in dir. seq numbers the writes; it is in the
// content, too, and tells which copy is the newer one.
func Write(fs durable.FS, dir string, seq uint64, content []byte) error {
	return durable.WriteFile(fs, fs.PathJoin(dir, Copies[seq%2]), content, 0o600)
}

// Applied is what each shard has applied, as far as it says.
type Applied struct {
	mu    sync.Mutex
	marks []journal.Mark
}

// Load begins with what was saved.
func (a *Applied) Load(saved []Mark) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.marks = make([]journal.Mark, len(saved))
	for i, s := range saved {
		a.marks[i] = s.Applied
	}
}

// Set raises a shard's mark; it never lowers one.
func (a *Applied) Set(shard journal.ShardID, to journal.Mark) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if to.Index >= a.marks[shard].Index {
		a.marks[shard] = to
	}
}

// Get returns a shard's mark.
func (a *Applied) Get(shard journal.ShardID) journal.Mark {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.marks[shard]
}

// Next returns the marks to write after saved, and whether they differ. end gives
// where a shard's log is proven to end, false to leave its mark alone; a mark
// never goes back.
func (a *Applied) Next(saved []Mark, end func(journal.ShardID) (journal.Position, bool)) (next []Mark, changed bool) {
	next = append([]Mark(nil), saved...)
	for i := range next {
		at, ok := end(journal.ShardID(i))
		if !ok || at.Index < saved[i].End.Index {
			continue
		}
		next[i].End = at
		// A mark that the log does not hold would prove a loss that is none.
		if m := a.Get(journal.ShardID(i)); m.Index <= at.Index {
			next[i].Applied = m
		}
		changed = changed || next[i] != saved[i]
	}
	return next, changed
}
