package view

import (
	"bytes"
	"slices"
	"strings"
)

// A shard keeps in memory what its owner works with: one cell a key, from the
// first Get or Set of it until it is forgotten. A cell is where a stage leaves
// its value, where Commit makes that value the committed one, and where
// committed values wait to be written to Pebble together (see hold in
// shard.go). So a counter that a thousand messages have changed goes to the
// store once, and the few rooms and members that message after message reads
// are found without it.
//
// Concurrency: the map and everything in a cell but dirty belong to the
// goroutine that stages. dirty, and value while dirty is set, are guarded by
// Shard.mu, as readers and flushes write held values too: the owner changes
// value under it and reads it without.
type cell struct {
	key     string
	value   []byte // committed; nil: there is none
	staged  []byte // what the open stage would commit; nil: nothing
	known   bool   // value is what is committed; false for a key that is only staged
	touched bool   // the open stage has set or deleted it
	read    bool   // it was asked for, and may be again
	dirty   bool   // value waits to be written to Pebble
}

const (
	maxCellBytes = 4 << 20 // of clean cells a shard
	maxKeptValue = 1 << 10 // larger ones are messages, not counters
	cellOverhead = 160     // of a cell, its key and its place in the map, in bytes
	maxBounds    = 1 << 13 // prefixes a shard whose highest key is remembered
)

// current is the value a stage sees; nil if there is none.
func (c *cell) current() []byte {
	if c.touched {
		return c.staged
	}
	return c.value
}

type cells struct {
	byKey   map[string]*cell
	bytes   int     // of all cells, about
	limit   int     // at which the clean ones are looked through; maxCellBytes
	touched []*cell // by the open stage, in the order of first touching
	staged  int     // bytes of keys and values in touched
}

func newCells() cells { return cells{byKey: make(map[string]*cell), limit: maxCellBytes} }

func (cs *cells) get(key []byte) *cell { return cs.byKey[string(key)] }

func (cs *cells) add(c *cell) {
	cs.byKey[c.key] = c
	cs.bytes += len(c.key) + len(c.value) + cellOverhead
}

func (cs *cells) remove(c *cell) {
	delete(cs.byKey, c.key)
	cs.bytes -= len(c.key) + len(c.value) + cellOverhead
}

// keep remembers a value that was read from the store.
func (cs *cells) keep(key, value []byte) {
	if len(value) <= maxKeptValue {
		cs.add(&cell{key: string(key), value: value, known: true, read: true})
	}
}

// put stages a value, nil to delete; it keeps value and copies key.
func (cs *cells) put(key, value []byte) {
	c := cs.byKey[string(key)]
	if c == nil {
		c = &cell{key: string(key)}
		cs.add(c)
	}
	if !c.touched {
		c.touched = true
		cs.touched = append(cs.touched, c)
		cs.staged += len(c.key)
	}
	cs.staged += len(value) - len(c.staged)
	c.staged = value
}

// commit makes what is staged the committed values and tells of each cell that
// was not dirty before. The caller holds Shard.mu.
func (cs *cells) commit(dirtied func(*cell)) {
	for _, c := range cs.touched {
		cs.bytes += len(c.staged) - len(c.value)
		c.value, c.staged, c.known, c.touched = c.staged, nil, true, false
		if !c.dirty {
			c.dirty = true
			dirtied(c)
		}
	}
	cs.reset()
}

// discard drops what is staged.
func (cs *cells) discard() {
	for _, c := range cs.touched {
		c.staged, c.touched = nil, false
		if !c.known {
			cs.remove(c)
		}
	}
	cs.reset()
}

// reset keeps the memory of an ordinary stage, not that of the largest.
func (cs *cells) reset() {
	clear(cs.touched)
	if cap(cs.touched) > 1<<12 {
		cs.touched = nil
	}
	cs.touched, cs.staged = cs.touched[:0], 0
}

// written looks at cells whose values have been written to Pebble: one that
// nobody has asked for is not needed any more. The caller holds Shard.mu, and
// no stage is open.
func (cs *cells) written(clean []*cell) {
	for _, c := range clean {
		if !c.dirty && (!c.read || c.value == nil || len(c.value) > maxKeptValue) && cs.byKey[c.key] == c {
			cs.remove(c)
		}
	}
}

// shrink forgets half of what is clean once that is too much, whichever the map
// names first: what is in use comes back with its next read. The caller holds
// Shard.mu, and no stage is open.
func (cs *cells) shrink() {
	if cs.bytes <= cs.limit {
		return
	}
	for _, c := range cs.byKey {
		if cs.bytes <= cs.limit/2 {
			return
		}
		if !c.dirty {
			cs.remove(c)
		}
	}
}

// stagedIn returns the staged cells with low ≤ key < high in order.
func (cs *cells) stagedIn(low, high []byte, reverse bool) []*cell {
	var in []*cell
	for _, c := range cs.touched {
		if c.key >= string(low) && c.key < string(high) {
			in = append(in, c)
		}
	}
	slices.SortFunc(in, func(a, b *cell) int {
		if reverse {
			a, b = b, a
		}
		return strings.Compare(a.key, b.key)
	})
	return in
}

// bounds knows, for some prefixes, a key that no key of the state with that
// prefix is greater than. It counts whatever was set, committed or not, so it
// may be too high but never too low. It belongs to the goroutine that stages.
type bounds struct {
	length   int // of every prefix; 0 before the first was asked for
	byPrefix map[string]*bound
}

type bound struct {
	highest []byte // what follows the prefix
	// complete: the store was asked too. Otherwise highest is that of the keys
	// set since this bound is here, which is longer than any of them is held.
	complete bool
}

func newBounds() bounds { return bounds{byPrefix: make(map[string]*bound)} }

// set hears of every key that is set.
func (bs *bounds) set(key []byte) {
	if bs.length == 0 || len(key) <= bs.length {
		return
	}
	bs.of(key[:bs.length]).raise(key[bs.length:])
}

func (bs *bounds) of(prefix []byte) *bound {
	b := bs.byPrefix[string(prefix)]
	if b == nil {
		b = &bound{}
		bs.byPrefix[string(prefix)] = b
	}
	return b
}

func (b *bound) raise(rest []byte) {
	if bytes.Compare(rest, b.highest) > 0 {
		b.highest = append(b.highest[:0], rest...)
	}
}

func (bs *bounds) tooMany() bool { return len(bs.byPrefix) > maxBounds }

// shrink forgets half. Only what the store has may be forgotten: nothing may
// be staged or held.
func (bs *bounds) shrink() {
	for prefix := range bs.byPrefix {
		if len(bs.byPrefix) <= maxBounds/2 {
			return
		}
		delete(bs.byPrefix, prefix)
	}
}
