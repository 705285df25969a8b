package client

import (
	"context"
	"sync"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// Event is one thing that happened on a Conn. Exactly one field is set.
type Event struct {
	// Up: a socket is there (again). Whatever happened while none was is not
	// told by events: read rooms and history, or follow the rooms.
	Up *edgev1.HelloResponse
	// Down: the socket went, for this reason. The Conn is making another.
	Down error
	// Push is an event of the server. A LagEvent among them, whether the
	// server's or the Conn's own, says that some before it were dropped.
	Push *edgev1.Event
}

// queue is a bounded line of events. When it is full, events are dropped and
// counted, and a LagEvent takes their place as soon as there is room: the
// socket is never held up, because answers come by it too.
type queue struct {
	bound int
	ready chan struct{} // has a token when events may be there

	mu      sync.Mutex
	events  []Event
	dropped uint64
}

func newQueue(bound int) *queue {
	return &queue{bound: bound, ready: make(chan struct{}, 1)}
}

func (q *queue) put(e Event) {
	q.mu.Lock()
	switch {
	case len(q.events) >= q.bound:
		q.dropped++
	default:
		q.flushLag()
		q.events = append(q.events, e)
	}
	q.mu.Unlock()
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// flushLag must be called with mu held.
func (q *queue) flushLag() {
	if q.dropped > 0 {
		lag := &edgev1.LagEvent{Dropped: q.dropped}
		q.events = append(q.events, Event{Push: &edgev1.Event{Event: &edgev1.Event_Lag{Lag: lag}}})
		q.dropped = 0
	}
}

func (q *queue) take() (Event, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.events) == 0 {
		q.flushLag()
	}
	if len(q.events) == 0 {
		q.events = nil // let a burst's memory go
		return Event{}, false
	}
	e := q.events[0]
	q.events[0] = Event{}
	q.events = q.events[1:]
	return e, true
}

// next waits for an event until ctx or done ends; what is queued is still
// handed out after done.
func (q *queue) next(ctx context.Context, done <-chan struct{}) (Event, bool) {
	for {
		if ctx.Err() != nil {
			return Event{}, false
		}
		if e, ok := q.take(); ok {
			return e, true
		}
		select {
		case <-q.ready:
		case <-ctx.Done():
			return Event{}, false
		case <-done:
			return q.take()
		}
	}
}
