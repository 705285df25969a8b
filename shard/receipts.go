package shard

import (
	"sync"
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
)

const (
	// receiptsEvery is the shortest time between two tellings of a room about
	// read cursors, and receiptsEach what each cursor in the last one adds: in a
	// room of n where everyone reads everything, news of it costs n deliveries of
	// n cursors, so that the larger the room the less often it is told.
	receiptsEvery = 200 * time.Millisecond
	receiptsEach  = 5 * time.Millisecond
	// receiptsSweep is how late a telling may be.
	receiptsSweep = 50 * time.Millisecond
)

// receipts paces what rooms hear of read cursors. The first move after a quiet
// time is told at once; those that follow closely are gathered into one event
// with each member's newest cursor. Clients take the higher of two cursors, so
// that it does not matter when, or in which order, they hear.
type receipts struct {
	publish func([]*nodev1.FeedItem)

	mu       sync.Mutex // guards what follows
	rooms    map[string]*pacedRoom
	sweeping bool
}

// pacedRoom is a room that was told lately.
type pacedRoom struct {
	next  time.Time        // not before then again
	item  *nodev1.FeedItem // the newest one held back; nil: none
	held  []*edgev1.ReadEvent_Change
	place map[string]int // of a user in held
}

func newReceipts(publish func([]*nodev1.FeedItem)) *receipts {
	return &receipts{publish: publish, rooms: make(map[string]*pacedRoom)}
}

// pace returns what is to be told now and holds the rest back.
func (r *receipts) pace(items []*nodev1.FeedItem) []*nodev1.FeedItem {
	reads := false
	for _, item := range items {
		reads = reads || item.GetEvent().GetRead() != nil
	}
	if !reads {
		return items
	}
	now := time.Now()
	out := make([]*nodev1.FeedItem, 0, len(items))
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, item := range items {
		if read := item.GetEvent().GetRead(); read != nil && !r.tellLocked(item, read, now) {
			continue
		}
		out = append(out, item)
	}
	if !r.sweeping && len(r.rooms) > 0 {
		r.sweeping = true
		time.AfterFunc(receiptsSweep, r.sweep)
	}
	return out
}

// tellLocked tells whether an item may go out now; otherwise it is held.
func (r *receipts) tellLocked(item *nodev1.FeedItem, read *edgev1.ReadEvent, now time.Time) bool {
	p := r.rooms[string(item.GetRoomId())]
	if p == nil || p.item == nil && !now.Before(p.next) {
		r.rooms[string(item.GetRoomId())] = &pacedRoom{next: now.Add(pauseAfter(len(read.GetChanges())))}
		return true
	}
	p.item = item
	if p.place == nil {
		p.place = make(map[string]int)
	}
	for _, c := range read.GetChanges() {
		at, known := p.place[c.GetUserId()]
		if !known {
			p.place[c.GetUserId()] = len(p.held)
			p.held = append(p.held, c)
			continue
		}
		p.held[at] = &edgev1.ReadEvent_Change{
			UserId: c.GetUserId(), FromSeq: min(p.held[at].GetFromSeq(), c.GetFromSeq()), ToSeq: max(p.held[at].GetToSeq(), c.GetToSeq()),
		}
	}
	return false
}

func pauseAfter(changes int) time.Duration {
	return max(receiptsEvery, time.Duration(changes)*receiptsEach)
}

// sweep tells the rooms whose pause is over, and forgets the quiet ones.
func (r *receipts) sweep() {
	now := time.Now()
	var due []*nodev1.FeedItem
	r.mu.Lock()
	for room, p := range r.rooms {
		switch {
		case now.Before(p.next):
		case p.item == nil:
			delete(r.rooms, room)
		default:
			due = append(due, &nodev1.FeedItem{
				Shard: p.item.GetShard(), Index: p.item.GetIndex(), RoomId: p.item.GetRoomId(),
				Event: &edgev1.Event{Event: &edgev1.Event_Read{Read: &edgev1.ReadEvent{
					RoomId: p.item.GetEvent().GetRead().GetRoomId(), Changes: p.held,
				}}},
			})
			r.rooms[room] = &pacedRoom{next: now.Add(pauseAfter(len(p.held)))}
		}
	}
	if r.sweeping = len(r.rooms) > 0; r.sweeping {
		time.AfterFunc(receiptsSweep, r.sweep)
	}
	r.mu.Unlock()
	if len(due) > 0 {
		r.publish(due)
	}
}
