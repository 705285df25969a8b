package view

import "math/bits"

// overlay holds what a stage has written, one value a key, in key order: a map
// for look-ups and a skip list for scans. Entries are never removed, so a scan
// may go on while it is written to.
//
// Why not Pebble's indexed batch: a batch of a thousand sends rewrites the same
// few counters a thousand times, and an indexed batch keeps every version of
// them, through commit, memtable and flush; and each read of it first builds an
// iterator over batch, memtables and tables. Here a key that was written costs
// one map look-up, and only its last value goes to the store.
type overlay struct {
	byKey map[string]*overlayNode
	head  overlayNode // its key is never looked at
	level int
	seed  uint64
	bytes int // of keys and values, for the size of the batch
}

const overlayLevels = 16

type overlayNode struct {
	key     []byte
	value   []byte
	deleted bool
	next    []*overlayNode
}

func newOverlay() *overlay {
	return &overlay{
		byKey: make(map[string]*overlayNode),
		head:  overlayNode{next: make([]*overlayNode, overlayLevels)},
		level: 1,
		seed:  1,
	}
}

func (o *overlay) count() int { return len(o.byKey) }

// get returns nil if key was not written here.
func (o *overlay) get(key []byte) *overlayNode { return o.byKey[string(key)] }

// put copies key and value.
func (o *overlay) put(key, value []byte, deleted bool) {
	if n := o.byKey[string(key)]; n != nil {
		o.bytes += len(value) - len(n.value)
		// A fresh slice: a reader may still hold the old one.
		n.value, n.deleted = append([]byte{}, value...), deleted
		return
	}
	n := &overlayNode{key: append([]byte{}, key...), value: append([]byte{}, value...), deleted: deleted}
	o.byKey[string(n.key)] = n
	o.bytes += len(key) + len(value)
	o.link(n)
}

func (o *overlay) link(n *overlayNode) {
	height := o.height()
	if height > o.level {
		o.level = height
	}
	n.next = make([]*overlayNode, height)
	at := &o.head
	for l := o.level - 1; l >= 0; l-- {
		for at.next[l] != nil && string(at.next[l].key) < string(n.key) {
			at = at.next[l]
		}
		if l < height {
			n.next[l], at.next[l] = at.next[l], n
		}
	}
}

// height is geometric with ratio 1/4, from a xorshift generator of its own: the
// shape of the list changes nothing that can be seen.
func (o *overlay) height() int {
	o.seed ^= o.seed << 13
	o.seed ^= o.seed >> 7
	o.seed ^= o.seed << 17
	return min(1+bits.TrailingZeros64(o.seed|1<<62)/2, overlayLevels)
}

// atOrAfter returns the first node with a key not below key.
func (o *overlay) atOrAfter(key []byte) *overlayNode {
	return o.lastBelow(key).next[0]
}

// before returns the last node with a key below key, or nil.
func (o *overlay) before(key []byte) *overlayNode {
	if n := o.lastBelow(key); n != &o.head {
		return n
	}
	return nil
}

func (o *overlay) lastBelow(key []byte) *overlayNode {
	at := &o.head
	for l := o.level - 1; l >= 0; l-- {
		for at.next[l] != nil && string(at.next[l].key) < string(key) {
			at = at.next[l]
		}
	}
	return at
}
