package shard

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
)

func readItem(room string, index uint64, changes ...*edgev1.ReadEvent_Change) *nodev1.FeedItem {
	return &nodev1.FeedItem{RoomId: []byte(room), Index: index, Event: &edgev1.Event{Event: &edgev1.Event_Read{
		Read: &edgev1.ReadEvent{RoomId: "text of " + room, Changes: changes},
	}}}
}

func moved(user string, from, to uint64) *edgev1.ReadEvent_Change {
	return &edgev1.ReadEvent_Change{UserId: user, FromSeq: from, ToSeq: to}
}

// told is what a room has heard, by user the newest cursor, and how often.
type told struct {
	mu     sync.Mutex
	times  map[string]int
	cursor map[string]uint64
	held   []*nodev1.FeedItem
}

func (h *told) hear(items []*nodev1.FeedItem) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, i := range items {
		h.held = append(h.held, i)
		if r := i.GetEvent().GetRead(); r != nil {
			h.times[string(i.GetRoomId())]++
			for _, c := range r.GetChanges() {
				h.cursor[string(i.GetRoomId())+"/"+c.GetUserId()] = c.GetToSeq()
			}
		}
	}
}

func TestReceiptsArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &told{times: map[string]int{}, cursor: map[string]uint64{}}
		r := newReceipts(h.hear)
		say := func(items ...*nodev1.FeedItem) { h.hear(r.pace(items)) }

		// After a quiet time at once; soon after, gathered; other news never waits.
		say(readItem("a", 1, moved("x", 0, 1)))
		if h.times["a"] != 1 {
			t.Fatal("the first move was held back")
		}
		message := &nodev1.FeedItem{RoomId: []byte("a"), Index: 4, Event: &edgev1.Event{Event: &edgev1.Event_Message{Message: &edgev1.MessageEvent{}}}}
		say(readItem("a", 2, moved("y", 0, 1)), readItem("b", 3, moved("x", 0, 9)), message)
		if h.times["a"] != 1 || h.times["b"] != 1 || h.held[len(h.held)-1] != message {
			t.Errorf("a told %d times, b %d; last %v", h.times["a"], h.times["b"], h.held[len(h.held)-1])
		}
		say(readItem("a", 5, moved("y", 1, 3)))
		time.Sleep(receiptsEvery + receiptsSweep)
		synctest.Wait()
		last := h.held[len(h.held)-1]
		if c := last.GetEvent().GetRead().GetChanges(); h.times["a"] != 2 || len(c) != 1 || c[0].GetFromSeq() != 0 || c[0].GetToSeq() != 3 || last.GetIndex() != 5 ||
			last.GetEvent().GetRead().GetRoomId() != "text of a" {
			t.Errorf("gathered: %v, told %d times", last, h.times["a"])
		}

		// A large room where everyone reads everything: told seldom, of everyone, up to the end.
		const members, messages = 400, 200
		began := time.Now()
		for m := range uint64(messages) {
			var all []*edgev1.ReadEvent_Change
			for u := range members {
				all = append(all, moved(fmt.Sprint(u), m, m+1))
			}
			for part := range slices.Chunk(all, 40) {
				say(readItem("big", m, part...))
			}
			time.Sleep(50 * time.Millisecond) // 20 messages a second
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		took := time.Since(began)
		if most := int(took/(members*receiptsEach)) + 2; h.times["big"] > most {
			t.Errorf("told %d times in %v, at most %d wanted", h.times["big"], took, most)
		}
		for u := range members {
			if at := h.cursor["big/"+fmt.Sprint(u)]; at != messages {
				t.Fatalf("member %d's cursor was last told as %d of %d", u, at, messages)
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.rooms) > 0 || r.sweeping {
			t.Errorf("%d quiet rooms are still remembered", len(r.rooms))
		}
	})
}
