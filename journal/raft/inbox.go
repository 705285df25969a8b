package raft

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"
)

// event is what peers do to a group: send a message, vanish, or tell that this
// node is a member no more.
type event struct {
	from    NodeID
	message *raftpb.Message
	down    bool
	removed bool
	cost    int
}

// inbox holds events until the group's loop takes them, bounded by count and by
// bytes: what does not fit is dropped, as networks do.
type inbox struct {
	ready chan struct{} // room for one: something is there

	mu      sync.Mutex
	events  []event
	bytes   int
	dropped uint64
}

func newInbox() inbox { return inbox{ready: make(chan struct{}, 1)} }

func (b *inbox) put(e event) {
	b.mu.Lock()
	full := len(b.events) >= maxInboxItems || (b.bytes > 0 && b.bytes+e.cost > maxInboxBytes)
	if full && (e.message != nil || len(b.events) >= 2*maxInboxItems) { // other events are few and matter
		b.dropped++
		b.mu.Unlock()
		return
	}
	b.events = append(b.events, e)
	b.bytes += e.cost
	b.mu.Unlock()
	select {
	case b.ready <- struct{}{}:
	default:
	}
}

// take empties the inbox into reuse.
func (b *inbox) take(reuse []event) []event {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.events
	b.events, b.bytes = reuse[:0], 0
	return out
}
