package client

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"

	"github.com/bongsu-im/bongsu/internal/clock"
)

// HoleError says that the server's history of a room lacks messages that it
// should have: sequence numbers are dense (invariant 2).
type HoleError struct {
	RoomID string
	// From and To are the first and the last seq that is missing.
	From, To uint64
}

// Error implements error.
func (e *HoleError) Error() string {
	return fmt.Sprintf("room %s has no messages %d to %d", e.RoomID, e.From, e.To)
}

// RewoundError says that the server's history of a room ends before what was
// already followed: a tail was lost. What the outbox still holds is sent again;
// follow the room anew from LastSeq.
type RewoundError struct {
	RoomID string
	// Seen is the last seq that was handed out, LastSeq the server's.
	Seen, LastSeq uint64
}

// Error implements error.
func (e *RewoundError) Error() string {
	return fmt.Sprintf("room %s ends at %d, but message %d was seen", e.RoomID, e.LastSeq, e.Seen)
}

// Follow ranges over the messages of a room with seq > after: each exactly once
// and in order, history first, then as they are sent, across reconnects. It
// ends when the loop does, or with one error: the context's or the Conn's end, a
// refusal (such as of someone who has left), *HoleError or *RewoundError. What
// can pass (a lost socket, an overloaded server) is retried inside.
//
// Messages wait in the server, not in memory: a slow loop is caught up from
// history.
func (n *Conn) Follow(ctx context.Context, roomID string, after uint64) iter.Seq2[*edgev1.Message, error] {
	return func(yield func(*edgev1.Message, error) bool) {
		f := n.addFollower(roomID)
		defer n.removeFollower(roomID, f)
		s := &stream{conn: n, room: roomID, seen: after, yield: yield}
		for !s.stopped {
			batch, dirty := f.take()
			if dirty {
				// Events queued before the listing are in it; later ones that
				// overlap are skipped by their seq.
				s.catchUp(ctx, 0)
				continue
			}
			for _, m := range batch {
				s.event(ctx, m)
			}
			if len(batch) > 0 {
				continue
			}
			select {
			case <-f.ready:
			case <-ctx.Done():
				s.fail(ctx.Err())
			case <-n.done:
				s.fail(n.ended())
			}
		}
	}
}

// stream is the reading side of one Follow, on its goroutine.
type stream struct {
	conn    *Conn
	room    string
	seen    uint64 // the last seq handed out, or where following began
	yield   func(*edgev1.Message, error) bool
	stopped bool
}

func (s *stream) fail(err error) {
	if !s.stopped {
		s.stopped = true
		s.yield(nil, err)
	}
}

func (s *stream) hand(m *edgev1.Message) {
	if !s.stopped {
		s.seen = m.GetSeq()
		s.stopped = !s.yield(m, nil)
	}
}

// event takes a message that the socket brought.
func (s *stream) event(ctx context.Context, m *edgev1.Message) {
	switch {
	case s.stopped || m.GetSeq() <= s.seen:
	case m.GetSeq() == s.seen+1:
		s.hand(m)
	default:
		s.catchUp(ctx, m.GetSeq())
	}
}

// rewindPatience is how long a history may end before what was seen until that
// counts as a loss: a replica that answers may be 2 s behind the one that
// brought the news.
const rewindPatience = 3 * time.Second

// catchUp reads history until nothing is left to read and it holds message
// want: a view that lags behind the event is asked again.
func (s *stream) catchUp(ctx context.Context, want uint64) {
	var behind time.Time // since when the history ends before what was seen; zero if it does not
	for attempt := 0; !s.stopped; {
		if err := s.conn.Ready(ctx); err != nil {
			s.fail(err)
			return
		}
		page, err := s.conn.ListAfter(WithClass(ctx, edgev1.Class_CLASS_HISTORY), s.room, s.seen)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			s.fail(ctx.Err())
			return
		case IsRetryable(err):
			s.pause(ctx, attempt, RetryAfter(err))
			attempt++
			continue
		default:
			s.fail(err)
			return
		}
		if page.GetLastSeq() >= s.seen {
			behind = time.Time{}
		} else if behind.IsZero() {
			behind = time.Now()
		}
		if !behind.IsZero() && time.Since(behind) < rewindPatience {
			s.pause(ctx, attempt, 0)
			attempt++
			continue
		}
		if page.GetLastSeq() < s.seen {
			s.fail(&RewoundError{RoomID: s.room, Seen: s.seen, LastSeq: page.GetLastSeq()})
			return
		}
		before := s.seen
		s.page(ctx, page)
		switch {
		case s.seen > before:
			attempt = 0
		case s.seen < want:
			s.pause(ctx, attempt, 0)
			attempt++
		}
		if !page.GetHasMore() && s.seen >= want {
			return
		}
	}
}

func (s *stream) pause(ctx context.Context, attempt int, hint time.Duration) {
	if !clock.Sleep(ctx, s.conn.opts.Backoff.wait(attempt, hint, s.conn.client.cfg.Random)) {
		s.fail(ctx.Err())
	}
}

func (s *stream) page(ctx context.Context, page *edgev1.ListResponse) {
	for _, m := range page.GetMessages() {
		if s.stopped || m.GetSeq() <= s.seen {
			continue
		}
		if m.GetSeq() != s.seen+1 && !s.mayskip(ctx, m.GetSeq()) {
			s.fail(&HoleError{RoomID: s.room, From: s.seen + 1, To: m.GetSeq() - 1})
			return
		}
		s.hand(m)
	}
}

// mayskip tells whether what lies between is not ours to read, because we
// joined (again) after it.
func (s *stream) mayskip(ctx context.Context, to uint64) bool {
	room, err := s.conn.Room(ctx, s.room)
	return err == nil && room.GetMyJoinedSeq()+1 >= to
}

// follower is the inbox of one Follow: it belongs to the Conn and is filled on
// the socket's reading goroutine.
type follower struct {
	ready chan struct{} // has a token when there is something to take

	mu       sync.Mutex
	messages []*edgev1.Message
	dirty    bool // history must be read
}

// maxFollowed bounds the messages that wait for a Follow; beyond it history is
// read instead.
const maxFollowed = 256

func (n *Conn) addFollower(roomID string) *follower {
	f := &follower{ready: make(chan struct{}, 1), dirty: true}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.followers[roomID] == nil {
		n.followers[roomID] = map[*follower]struct{}{}
	}
	n.followers[roomID][f] = struct{}{}
	return f
}

func (n *Conn) removeFollower(roomID string, f *follower) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.followers[roomID], f)
	if len(n.followers[roomID]) == 0 {
		delete(n.followers, roomID)
	}
}

// feed gives a message to those who follow its room.
func (n *Conn) feed(m *edgev1.Message) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for f := range n.followers[m.GetRoomId()] {
		f.put(m)
	}
}

// markDirty sends every Follow to read history: events may have been missed.
func (n *Conn) markDirty() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, room := range n.followers {
		for f := range room {
			f.put(nil)
		}
	}
}

// put adds a message, or with nil marks the inbox dirty.
func (f *follower) put(m *edgev1.Message) {
	f.mu.Lock()
	switch {
	case m == nil || len(f.messages) >= maxFollowed:
		f.dirty, f.messages = true, nil
	case !f.dirty:
		f.messages = append(f.messages, m)
	}
	f.mu.Unlock()
	select {
	case f.ready <- struct{}{}:
	default:
	}
}

func (f *follower) take() ([]*edgev1.Message, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	batch, dirty := f.messages, f.dirty
	f.messages, f.dirty = nil, false
	return batch, dirty
}
