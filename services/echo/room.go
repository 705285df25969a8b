package echo

import (
	"cmp"
	"context"
	"errors"
	"hash/fnv"
	"time"

	"connectrpc.com/connect"
	"github.com/bongsu-im/bongsu/client"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"

	"github.com/bongsu-im/bongsu/internal/clock"
)

// room is what the friend remembers of a room.
type room struct {
	friend *friend
	id     string

	// Guarded by friend.mu.
	working bool // a goroutine works it
	awake   bool // there may be something new
	doubted bool // what is known may be wrong

	// The rest belongs to the goroutine that works the room.
	allowance allowance
	known     bool // the fields below are filled in
	direct    bool
	// person is the other one of a direct room, if it is a person.
	person string
	// handled is the last seq that needs no more from us; read is a lower
	// bound of our cursor on the server. read ≤ handled but for the message
	// that is being answered.
	handled, read uint64
}

// work makes passes until nothing wakes the room any more.
func (r *room) work(ctx context.Context) {
	f := r.friend
	for ctx.Err() == nil && r.next() {
		if err := r.pass(ctx); err != nil && ctx.Err() == nil {
			// A refusal (we were taken out, the room is stopped): nothing to be
			// done until something wakes the room again.
			r.known = false
			f.cfg.Logger.Info("the echo friend passes over a room", "room", r.id, "error", err)
		}
	}
}

// next takes the wake-up; without one the room falls asleep.
func (r *room) next() bool {
	f := r.friend
	f.mu.Lock()
	defer f.mu.Unlock()
	if !r.awake {
		r.working = false
		if f.crowded {
			f.crowded = false
			f.lookAround()
		}
		return false
	}
	r.awake = false
	if r.doubted {
		r.doubted, r.known = false, false
	}
	return true
}

// pass handles everything in the room that is not handled yet.
func (r *room) pass(ctx context.Context) error {
	if !r.known {
		if err := r.learn(ctx); err != nil {
			return err
		}
	}
	for {
		page, err := try(ctx, r.friend, r.id, func(ctx context.Context) (*edgev1.ListResponse, error) {
			return r.friend.conn.ListAfter(ctx, r.id, r.handled)
		})
		if err != nil {
			return err
		}
		last := page.GetLastSeq()
		if last < r.handled {
			// The server lost its tail; the hello said so, too.
			if err := r.learn(ctx); err != nil {
				return err
			}
			continue
		}
		if waiting := last - r.handled; waiting > r.friend.cfg.MaxBacklog {
			r.friend.cfg.Logger.Warn("the echo friend leaves messages unanswered", "room", r.id, "messages", waiting-r.friend.cfg.MaxBacklog)
			r.handled = last - r.friend.cfg.MaxBacklog
			continue
		}
		for _, m := range page.GetMessages() {
			if err := r.handle(ctx, m, m.GetSeq() == last); err != nil {
				return err
			}
		}
		if err := r.markRead(ctx, r.handled); err != nil || !page.GetHasMore() {
			return err
		}
	}
}

// learn reads the room from the server, and greets if nobody has said a word.
func (r *room) learn(ctx context.Context) error {
	seen, err := try(ctx, r.friend, r.id, func(ctx context.Context) (*edgev1.Room, error) {
		return r.friend.conn.Room(ctx, r.id)
	})
	if err != nil {
		return err
	}
	r.direct = seen.GetKind() == edgev1.RoomKind_ROOM_KIND_DIRECT
	r.person = ""
	if r.direct {
		for _, m := range seen.GetMembers() {
			if r.friend.isPerson(m) {
				r.person = m.GetUserId()
			}
		}
	}
	r.read = seen.GetMyReadSeq()
	// The message at the cursor may have been marked by a run that ended before
	// it was answered.
	r.handled = max(r.read, 1) - 1
	r.known = true
	if r.direct && r.person != "" && seen.GetLastSeq() == 0 {
		return r.say(ctx, greeting, greetingID(r.id))
	}
	return nil
}

// isPerson tells whether a member is one to talk to: never a bot, never itself,
// or two friends would talk for ever.
func (f *friend) isPerson(m *edgev1.Member) bool {
	return m.GetUserId() != f.me && !m.GetBot()
}

// handle deals with the next message; newest says that none is after it yet.
func (r *room) handle(ctx context.Context, m *edgev1.Message, newest bool) error {
	if m.GetSeq() <= r.handled {
		return nil
	}
	wanted, err := r.wantsAnswer(ctx, m)
	if err != nil {
		return err
	}
	if wanted {
		if err := r.answer(ctx, m, newest); err != nil {
			return err
		}
	}
	r.handled = m.GetSeq()
	return nil
}

func (r *room) wantsAnswer(ctx context.Context, m *edgev1.Message) (bool, error) {
	switch sender := m.GetSenderId(); {
	case sender == r.friend.me || reechoed(m.GetText()):
		return false, nil
	case r.direct:
		return sender == r.person, nil
	case !named(m.GetText()):
		return false, nil
	default:
		return r.isFromPerson(ctx, sender)
	}
}

// isFromPerson asks who wrote in a group. Someone who has left is not answered:
// nobody says any more whether it was a bot.
func (r *room) isFromPerson(ctx context.Context, sender string) (bool, error) {
	seen, err := try(ctx, r.friend, r.id, func(ctx context.Context) (*edgev1.Room, error) {
		return r.friend.conn.Room(ctx, r.id)
	})
	if err != nil {
		return false, err
	}
	for _, m := range seen.GetMembers() {
		if m.GetUserId() == sender {
			return r.friend.isPerson(m), nil
		}
	}
	return false, nil
}

// answer marks, types, sends: in this order, see the package comment.
func (r *room) answer(ctx context.Context, m *edgev1.Message, newest bool) error {
	if !clock.Sleep(ctx, r.allowance.take(time.Now())) {
		return ctx.Err()
	}
	if err := r.markRead(ctx, m.GetSeq()); err != nil {
		return err
	}
	r.showTyping(ctx)
	if newest && !clock.Sleep(ctx, r.friend.cfg.TypingPause) {
		return ctx.Err()
	}
	return r.say(ctx, answerTo(m.GetText()), answerID(r.id, m.GetSeq()))
}

// showTyping tries once, and not for long: it is owed to nobody, and the first
// thing that an overloaded server refuses.
func (r *room) showTyping(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := r.friend.conn.Typing(ctx, r.id); err != nil {
		r.friend.cfg.Logger.Debug("the echo friend could not show typing", "room", r.id, "error", err)
	}
}

// say sends until the server has it. A message that the server refuses for
// itself (as one to somebody who has blocked us) is dropped.
func (r *room) say(ctx context.Context, text, clientID string) error {
	sent, err := try(ctx, r.friend, r.id, func(ctx context.Context) (*edgev1.SendResponse, error) {
		return r.friend.conn.Send(ctx, &edgev1.SendRequest{RoomId: r.id, ClientId: clientID, Text: text})
	})
	if refusedForGood(err) {
		r.friend.cfg.Logger.Info("the echo friend is not heard", "room", r.id, "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	if sent.GetMessage().GetSeq() == r.read+1 {
		r.read++ // the server advances the cursor of a sender who had read all
	}
	return nil
}

// refusedForGood tells whether a send was refused because of what it says or
// because of a block, so that the room can go on without it.
func refusedForGood(err error) bool {
	for _, refusal := range []*client.Error{{Reason: "blocked"}, {Reason: "you_blocked"}, {Code: connect.CodeInvalidArgument}} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}

func (r *room) markRead(ctx context.Context, seq uint64) error {
	if seq <= r.read {
		return nil
	}
	_, err := try(ctx, r.friend, r.id, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, r.friend.conn.MarkRead(ctx, r.id, seq)
	})
	if err == nil {
		r.read = seq
	}
	return err
}

// backoff spaces the attempts of one request.
var backoff = client.Backoff{Base: 200 * time.Millisecond, Max: 30 * time.Second}

// try makes a request until it is answered or refused for good; everything here
// is idempotent. A stopped room is not waited for: it is stopped until someone
// acts.
func try[T any](ctx context.Context, f *friend, roomID string, request func(context.Context) (T, error)) (T, error) {
	for attempt := 0; ; attempt++ {
		answer, err := once(ctx, f, request)
		if err == nil || ctx.Err() != nil || !client.IsRetryable(err) || errors.Is(err, &client.Error{Reason: "room_stopped"}) {
			return answer, err
		}
		f.cfg.Logger.Debug("the echo friend tries again", "room", roomID, "error", err)
		if !clock.Sleep(ctx, client.RetryAfter(err)+spread(roomID, attempt)) {
			return answer, cmp.Or(ctx.Err(), err)
		}
	}
}

func once[T any](ctx context.Context, f *friend, request func(context.Context) (T, error)) (answer T, err error) {
	select {
	case f.slots <- struct{}{}:
	case <-ctx.Done():
		return answer, ctx.Err()
	}
	defer func() { <-f.slots }()
	return request(ctx)
}

// spread is the wait before an attempt: between half of its limit and all of
// it, where a hash of the room says, so that rooms which were refused together
// do not return together.
func spread(roomID string, attempt int) time.Duration {
	limit := backoff.Limit(attempt)
	h := fnv.New32a()
	_, _ = h.Write([]byte(roomID)) // a hash never fails
	_, _ = h.Write([]byte{byte(attempt)})
	return limit/2 + time.Duration(float64(limit/2)*float64(h.Sum32())/(1<<32))
}
