package load

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"google.golang.org/protobuf/proto"
)

// Receipts measures W7: Fanout with every member reading each message: as soon
// as the answer of its last mark is there, a member marks the newest message it
// has seen. It counts what a message costs in journaled cursor changes and in
// deliveries. It passes if Fanout does, if both are bounded, and if in the end
// every member's stored cursor is at the last message.
func Receipts(ctx context.Context, cfg Config) (Result, error) {
	if err := cfg.setDefaults(); err != nil {
		return Result{}, err
	}
	if cfg.Ceiling {
		return Result{}, errors.New("the relay keeps no cursors: receipts have no ceiling")
	}
	return fanOutWith(ctx, cfg, "receipts", &readers{})
}

// readers are the members of a room who mark what they see. The methods of a nil
// one do nothing, for rooms where nobody does.
type readers struct {
	f       *fanout
	members []reader
	running sync.WaitGroup // senders' calls; begun under their reader's mu
	ctx     context.Context

	marks, readEvents, changes atomic.Int64
}

// reader is how far one member is.
type reader struct {
	mu                  sync.Mutex
	newest, asked, done uint64
	waiting             bool        // for an answer, or for the time to ask again
	stopped             bool        // asks no more
	socket              *leanSocket // nil for a sender
}

// markPause is how long a member whose mark was refused waits.
const markPause = 100 * time.Millisecond

func (r *readers) words() string {
	if r == nil {
		return ""
	}
	return ", everybody marks what they see"
}

// join is called before any member of the room listens.
func (r *readers) join(f *fanout) {
	if r != nil {
		r.f, r.members = f, make([]reader, len(f.members))
	}
}

// start lets senders' marks begin; whoever calls it calls stop.
func (r *readers) start(ctx context.Context) (stop func()) {
	if r == nil {
		return func() {}
	}
	// The answers' goroutines ask on behalf of the run, whose context this is.
	r.ctx = ctx
	return func() {
		for who := range r.members {
			m := &r.members[who]
			m.mu.Lock()
			m.stopped = true
			m.mu.Unlock()
		}
		r.running.Wait()
	}
}

// saw tells that a message of the run has reached a member, by a socket of its
// own or, for nil, by package client.
func (r *readers) saw(who int, seq uint64, s *leanSocket) {
	if r == nil || r.f.window.Load() == nil {
		return
	}
	m := &r.members[who]
	m.mu.Lock()
	defer m.mu.Unlock()
	m.socket, m.newest = s, max(m.newest, seq)
	r.ask(who, m)
}

// ask marks the newest message, if there is one and nothing is under way. mu of
// the member must be held.
func (r *readers) ask(who int, m *reader) {
	if m.waiting || m.stopped || m.newest <= m.done {
		return
	}
	m.waiting, m.asked = true, m.newest
	r.marks.Add(1)
	if m.socket != nil {
		_ = m.socket.write(markFrame(r.f.room, m.asked)) // a broken socket is told of by its reader
		return
	}
	seq := m.asked
	r.running.Go(func() {
		r.ended(who, r.f.senders[who].MarkRead(r.ctx, r.f.room, seq))
	})
}

// answered takes the answer of a mark off a member's own socket.
func (r *readers) answered(who int, payload []byte) {
	if r == nil {
		return
	}
	var err error
	if _, _, ok := field(payload, frameMark); !ok {
		var f edgev1.ServerFrame
		if err = proto.Unmarshal(payload, &f); err == nil {
			err = fmt.Errorf("%s: %s", f.GetError().GetCode(), f.GetError().GetMessage())
		}
	}
	r.ended(who, err)
}

func (r *readers) ended(who int, err error) {
	m := &r.members[who]
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		m.waiting, m.done = false, max(m.done, m.asked)
		r.ask(who, m)
		return
	}
	if m.stopped {
		return
	}
	r.f.tally.fail(fmt.Errorf("member %d marks message %d: %w", who, m.asked, err))
	r.running.Go(func() {
		sleepUntil(r.ctx, time.Now().Add(markPause))
		m.mu.Lock()
		defer m.mu.Unlock()
		m.waiting = false
		r.ask(who, m)
	})
}

// told counts a read event at a member's socket.
func (r *readers) told(changes int) {
	if r == nil || r.f.window.Load() == nil {
		return
	}
	r.readEvents.Add(1)
	r.changes.Add(int64(changes))
}

// settle waits until everybody has marked all they have seen.
func (r *readers) settle(ctx context.Context) {
	if r == nil {
		return
	}
	behind := func() bool {
		for who := range r.members {
			m := &r.members[who]
			m.mu.Lock()
			lags := m.done < m.newest
			m.mu.Unlock()
			if lags {
				return true
			}
		}
		return false
	}
	for deadline := time.Now().Add(drainTimeout); behind() && time.Now().Before(deadline); {
		if !sleepUntil(ctx, time.Now().Add(20*time.Millisecond)) {
			return
		}
	}
}

// Counters of the server that tell what was journaled: of cursor changes alone,
// or of all that it published, which in a run is messages and cursor changes.
const (
	cursorCounter, cursorLabel = "bongsu_shard_events_total", `kind="read_advanced"`
	publishedCounter           = "bongsu_shard_feed_items_total"
)

func (f *fanout) countersIfRead(ctx context.Context) counters {
	if f.readers == nil {
		return nil
	}
	return f.rig.counters(ctx)
}

// judgeReaders counts what reading has cost since before, and looks at the
// cursors that are stored.
func (f *fanout) judgeReaders(ctx context.Context, before counters, res *Result) error {
	r := f.readers
	if r == nil {
		return nil
	}
	d := &ReceiptsDetails{
		Messages: int64(len(f.acknowledged)), Marks: r.marks.Load(),
		ReadDeliveries: r.readEvents.Load(), ReadChanges: r.changes.Load(),
	}
	var last uint64
	for who := range f.members {
		n, highest := f.members[who].count()
		d.MessageDeliveries += n
		last = max(last, highest)
	}
	after := f.rig.counters(ctx)
	if n, ok := grown(before, after, cursorCounter, cursorLabel); ok {
		d.Journaled, d.CountedBy = int64(n), "the server's counter of cursor changes"
	} else if n, ok := grown(before, after, publishedCounter); ok {
		d.Journaled, d.CountedBy = int64(n)-int64(last), "what the server published less the messages"
	}
	room, err := f.senders[0].Room(ctx, f.room)
	if err != nil {
		return fmt.Errorf("read the cursors: %w", err)
	}
	d.WrongCursors = wrongCursors(room, len(f.members), last)
	if d.Messages > 0 {
		per := func(n int64) float64 { return round(float64(n)/float64(d.Messages), 3) }
		d.JournaledPerMessage, d.MarksPerMessage = per(d.Journaled), per(d.Marks)
		d.MessageDeliveriesPerMessage, d.ReadDeliveriesPerMessage = per(d.MessageDeliveries), per(d.ReadDeliveries)
	}
	members := float64(len(f.members))
	told := mostReadEvents(members)
	d.Unbounded = d.JournaledPerMessage > members || d.ReadDeliveriesPerMessage > told
	if d.WrongCursors > 0 {
		f.tally.fail(fmt.Errorf("%d of %d members have a cursor that is not at message %d", d.WrongCursors, len(f.members), last))
	}
	if d.Unbounded {
		f.tally.fail(fmt.Errorf("a message costs %g cursor changes and %g read events: at most %g and %g", d.JournaledPerMessage, d.ReadDeliveriesPerMessage, members, told))
	}
	res.Details.Receipts = d
	return nil
}

// mostReadEvents is how many read events a message may cause in a room: a tenth
// of telling everybody of everybody's change; up to 20 members may do just that.
func mostReadEvents(members float64) float64 {
	return max(members*members/10, min(members*members, 400))
}

// wrongCursors counts the members whose cursor is not at the last message, and
// those who are missing.
func wrongCursors(room *edgev1.Room, members int, last uint64) int {
	right := 0
	for _, m := range room.GetMembers() {
		if m.GetReadSeq() == last {
			right++
		}
	}
	return members - right
}

// count returns how many messages a member has seen, and the highest.
func (m *member) count() (n int64, highest uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for word, seen := range m.seen {
		n += int64(bits.OnesCount64(seen))
		if seen != 0 {
			highest = uint64(word)*64 + uint64(bits.Len64(seen)) - 1
		}
	}
	return n, highest
}
