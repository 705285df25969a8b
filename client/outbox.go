package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/bongsu-im/bongsu/internal/id"

	"github.com/bongsu-im/bongsu/internal/clock"
)

// OutboxOptions of an Outbox. The zero value is fine.
type OutboxOptions struct {
	// MaxPending bounds the messages that wait to be acknowledged; 0 means 10,000.
	MaxPending int
	// MaxInFlight bounds the requests under way at once; 0 means 16. Of one
	// room there is never more than one, which keeps its order.
	MaxInFlight int
	// RetainFor is how long acknowledged messages are kept, to be sent again if
	// the server loses its tail; 0 means 24 h. RetainCount bounds how many; 0
	// means 1,000.
	RetainFor   time.Duration
	RetainCount int
	// AttemptTimeout bounds one request; 0 means 10 s.
	AttemptTimeout time.Duration
	// Backoff between attempts of one message.
	Backoff Backoff
	// Budget limits retries over all messages.
	Budget BudgetOptions
	// OnAck is called when a message is acknowledged, also again after it was
	// sent once more because the server had lost it. OnRefused is called when
	// the server has refused one for good, OnRetry when an attempt has failed
	// and the message will be tried again. All are called on the outbox's
	// goroutines and must not close it.
	OnAck     func(*edgev1.Message)
	OnRefused func(Entry, error)
	OnRetry   func(Entry, error)
}

func (o *OutboxOptions) setDefaults() {
	setDefault(&o.MaxPending, 10_000)
	setDefault(&o.MaxInFlight, 16)
	setDefault(&o.RetainFor, 24*time.Hour)
	setDefault(&o.RetainCount, 1000)
	setDefault(&o.AttemptTimeout, 10*time.Second)
	o.Backoff.setDefaults()
	o.Budget.setDefaults()
}

func setDefault[T int | float64 | time.Duration](v *T, value T) {
	if *v <= 0 {
		*v = value
	}
}

// Draft is a message to be sent.
type Draft struct {
	RoomID  string
	Text    string
	ReplyTo uint64
	// ClientID is the idempotency key, a UUID; empty makes a new one.
	ClientID string
}

// Sending is a message on its way.
type Sending struct {
	// ClientID is its idempotency key.
	ClientID string

	done    chan struct{}
	message *edgev1.Message // set before done is closed
	err     error           // likewise
}

// Done is closed when the message has been acknowledged or refused.
func (s *Sending) Done() <-chan struct{} { return s.done }

// Wait returns the message as the server has it, or why it refused it. When ctx
// ends first the message stays in the outbox and is sent all the same.
func (s *Sending) Wait(ctx context.Context) (*edgev1.Message, error) {
	select {
	case <-s.done:
		return s.message, s.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Errors of Outbox.Send.
var (
	// ErrOutboxFull: MaxPending messages wait already.
	ErrOutboxFull = errors.New("client: the outbox is full")
	// ErrOutboxClosed: Close was called.
	ErrOutboxClosed = errors.New("client: the outbox is closed")
	// ErrInOutbox: a message with the same client ID is in the store, waiting
	// or acknowledged.
	ErrInOutbox = errors.New("client: a message with this client ID is in the outbox")
)

// Outbox sends messages until they are acknowledged: in the order of each room,
// with one request of a room under way, spaced by back-off, hints and a budget.
// What it holds is in a Store, so that it outlives the process. Refused
// messages leave it; a session that has ended only stops it, and deletes
// nothing (invariant 11).
//
// Acknowledged messages are kept for a while. When a hello says that the server
// has lost the tail of a shard, those of its rooms are sent again with their
// old IDs, before anything newer.
type Outbox struct {
	conn    *Conn
	store   Store
	opts    OutboxOptions
	budget  *budget
	slots   chan struct{} // one token a request under way
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	storeMu sync.Mutex // serialises calls of store; taken before mu, never after

	mu      sync.Mutex
	closed  bool
	pending int
	rooms   map[string]*lane
	waiting map[string]*Sending // by client ID
	// retained are acknowledged entries, oldest first.
	retained []Entry
}

// lane is the messages of one room that wait, in order.
type lane struct {
	entries []Entry
	running bool
	// again counts the entries at the head that were acknowledged before.
	again int
}

// NewOutbox opens an outbox over a Conn and sends what the store holds. The
// store is closed by the caller, after the Outbox.
func NewOutbox(conn *Conn, store Store, opts OutboxOptions) *Outbox {
	opts.setDefaults()
	// The context is the outbox's own life, ended by Close.
	ctx, cancel := context.WithCancel(context.Background())
	o := &Outbox{
		conn: conn, store: store, opts: opts, budget: newBudget(opts.Budget, time.Now()),
		slots: make(chan struct{}, opts.MaxInFlight), ctx: ctx, cancel: cancel,
		rooms: map[string]*lane{}, waiting: map[string]*Sending{},
	}
	entries := store.Entries()
	o.mu.Lock() // the first push starts goroutines
	for _, e := range entries {
		if e.Ack != nil {
			conn.client.NotePosition(e.Ack.position())
			o.retained = append(o.retained, e)
			continue
		}
		o.push(e)
	}
	again := len(o.retained) > 0
	o.mu.Unlock()
	// A hello said before now has not presented the positions in the store.
	conn.register(o.hello, again)
	return o
}

// Send puts a message into the outbox. When it returns without error the
// message is stored and will be sent, whether or not anyone waits for it.
func (o *Outbox) Send(d Draft) (*Sending, error) {
	now := o.conn.client.cfg.Clock.Now()
	if d.ClientID == "" {
		var err error
		if d.ClientID, err = NewMessageID(now, o.conn.client.cfg.Random); err != nil {
			return nil, fmt.Errorf("client: make a message id: %w", err)
		}
	}
	e := Entry{RoomID: d.RoomID, ClientID: d.ClientID, Text: d.Text, ReplyTo: d.ReplyTo, CreatedMs: now.UnixMilli()}
	// The store's lock is held until the message is in its lane, or two
	// messages of a room could be stored in one order and sent in the other.
	o.storeMu.Lock()
	defer o.storeMu.Unlock()
	if err := o.admit(); err != nil {
		return nil, err
	}
	if err := o.store.Add(e); err != nil {
		o.mu.Lock()
		o.pending--
		o.mu.Unlock()
		return nil, fmt.Errorf("client: store the message: %w", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pending--
	s := &Sending{ClientID: e.ClientID, done: make(chan struct{})}
	o.waiting[e.ClientID] = s
	o.push(e)
	return s, nil
}

// admit takes a place in the outbox.
func (o *Outbox) admit() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return ErrOutboxClosed
	}
	if o.pending >= o.opts.MaxPending {
		return ErrOutboxFull
	}
	o.pending++
	return nil
}

// Pending returns how many messages wait to be acknowledged.
func (o *Outbox) Pending() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pending
}

// Close stops sending and waits for the requests under way. What was not
// acknowledged stays in the store; whoever waits for it gets ErrOutboxClosed.
func (o *Outbox) Close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.cancel()
	o.wg.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, s := range o.waiting {
		s.err = ErrOutboxClosed
		close(s.done)
		delete(o.waiting, id)
	}
}

// push adds an entry to the end of its lane. mu must be held.
func (o *Outbox) push(e Entry) {
	l := o.lane(e.RoomID)
	l.entries = append(l.entries, e)
	o.pending++
	o.start(e.RoomID, l)
}

func (o *Outbox) lane(roomID string) *lane {
	l := o.rooms[roomID]
	if l == nil {
		l = &lane{}
		o.rooms[roomID] = l
	}
	return l
}

func (o *Outbox) start(roomID string, l *lane) {
	if l.running || o.closed {
		return
	}
	l.running = true
	o.wg.Add(1)
	go o.drain(roomID, l)
}

// drain sends the messages of one room until none is left, the outbox ends, or
// nothing can be sent any more. It decides which message is next only once it
// holds the socket that the message will go by: a hello may have put lost
// messages before it.
func (o *Outbox) drain(roomID string, l *lane) {
	defer o.wg.Done()
	attempt, last := 0, ""
	for {
		// Waiting for a socket is no attempt and costs no budget.
		link, err := o.conn.await(o.ctx)
		e, ok := o.head(roomID, l, err)
		if !ok {
			return
		}
		if e.ClientID != last {
			attempt, last = 0, e.ClientID
		}
		answer, err := o.attempt(link, e)
		switch {
		case err == nil:
			if attempt == 0 {
				o.budget.earn(time.Now())
			}
			o.acknowledge(l, e, answer)
		case isUnauthenticated(err):
			// The socket is of no use; the Conn finds out whether the session is.
			link.end(err)
			o.pause(e, attempt, err)
		case IsRefusal(err):
			o.refuse(l, e, err)
		default:
			o.pause(e, attempt, err)
		}
		attempt++
	}
}

// head returns the next message of a lane, or false if the lane is to rest:
// because of stop, the outbox's end, or for want of messages.
func (o *Outbox) head(roomID string, l *lane, stop error) (Entry, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(l.entries) == 0 {
		delete(o.rooms, roomID)
	}
	if len(l.entries) == 0 || stop != nil || o.ctx.Err() != nil {
		l.running = false
		return Entry{}, false
	}
	return l.entries[0], true
}

// pause waits before the same message is tried again.
func (o *Outbox) pause(e Entry, attempt int, err error) {
	if o.opts.OnRetry != nil {
		o.opts.OnRetry(e, err)
	}
	wait := max(o.opts.Backoff.wait(attempt, RetryAfter(err), o.conn.client.cfg.Random), o.budget.spend(time.Now()))
	o.conn.client.cfg.Logger.Debug("message not acknowledged yet", "client_id", e.ClientID, "error", err, "retry_in", wait)
	clock.Sleep(o.ctx, wait)
}

func (o *Outbox) attempt(l *link, e Entry) (*edgev1.SendResponse, error) {
	select {
	case o.slots <- struct{}{}:
		defer func() { <-o.slots }()
	case <-o.ctx.Done():
		return nil, o.ctx.Err()
	}
	ctx, cancel := context.WithTimeout(o.ctx, o.opts.AttemptTimeout)
	defer cancel()
	api := API{carrier: overLink{client: o.conn.client, link: l}}
	answer, err := api.Send(ctx, &edgev1.SendRequest{RoomId: e.RoomID, ClientId: e.ClientID, Text: e.Text, ReplyTo: e.ReplyTo})
	if err == nil && answer.GetMessage().GetSeq() == 0 {
		return nil, &Error{Code: connect.CodeInternal, Reason: ReasonBadAnswer, Message: "acknowledged without a message"}
	}
	return answer, err
}

// acknowledge notes the answer in the store, then tells who waits.
func (o *Outbox) acknowledge(l *lane, e Entry, answer *edgev1.SendResponse) {
	p := answer.GetPosition()
	e.Ack = &Ack{
		Seq: answer.GetMessage().GetSeq(), AckedMs: o.conn.client.cfg.Clock.Now().UnixMilli(),
		Shard: p.GetShard(), Term: p.GetTerm(), Index: p.GetIndex(),
	}
	o.storeMu.Lock()
	if err := o.store.SetAck(e.ClientID, *e.Ack); err != nil {
		// It will be sent once more after a restart, which changes nothing
		// (invariant 3).
		o.conn.client.cfg.Logger.Error("could not store an acknowledgement", "client_id", e.ClientID, "error", err)
	}
	old := o.retire(l, e)
	if len(old) > 0 {
		if err := o.store.Remove(old...); err != nil {
			o.conn.client.cfg.Logger.Error("could not drop old messages from the outbox", "error", err)
		}
	}
	o.storeMu.Unlock()
	o.settle(e.ClientID, answer.GetMessage(), nil)
	if o.opts.OnAck != nil {
		o.opts.OnAck(answer.GetMessage())
	}
}

// retire moves an acknowledged entry from its lane to the retained ones and
// returns those that have been kept long enough.
func (o *Outbox) retire(l *lane, e Entry) (old []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pop(l, e)
	o.retained = append(o.retained, e)
	before := e.Ack.AckedMs - o.opts.RetainFor.Milliseconds()
	n := 0
	for n < len(o.retained) && (len(o.retained)-n > o.opts.RetainCount || o.retained[n].Ack.AckedMs < before) {
		old = append(old, o.retained[n].ClientID)
		n++
	}
	o.retained = slices.Delete(o.retained, 0, n)
	return old
}

// pop takes e, which was just dealt with, out of its lane. It need not be the
// first any more: a hello may have put lost messages before it.
func (o *Outbox) pop(l *lane, e Entry) {
	i := slices.IndexFunc(l.entries, func(x Entry) bool { return x.ClientID == e.ClientID })
	if i < 0 {
		return
	}
	if i < l.again {
		l.again--
	}
	l.entries = slices.Delete(l.entries, i, i+1)
	o.pending--
}

// refuse drops a message that the server will never take.
func (o *Outbox) refuse(l *lane, e Entry, err error) {
	o.storeMu.Lock()
	if failed := o.store.Remove(e.ClientID); failed != nil {
		o.conn.client.cfg.Logger.Error("could not drop a refused message", "client_id", e.ClientID, "error", failed)
	}
	o.mu.Lock()
	o.pop(l, e)
	o.mu.Unlock()
	o.storeMu.Unlock()
	o.settle(e.ClientID, nil, err)
	if o.opts.OnRefused != nil {
		o.opts.OnRefused(e, err)
	}
}

func (o *Outbox) settle(clientID string, m *edgev1.Message, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s := o.waiting[clientID]; s != nil {
		s.message, s.err = m, err
		close(s.done)
		delete(o.waiting, clientID)
	}
}

// hello sends again what was acknowledged in shards whose tail is lost. It runs
// before any request on the new socket.
func (o *Outbox) hello(h *edgev1.HelloResponse) {
	if len(h.GetLost()) == 0 {
		return
	}
	lost := map[uint32]bool{}
	for _, p := range h.GetLost() {
		lost[p.GetShard()] = true
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	var kept []Entry
	again := map[string][]Entry{}
	for _, e := range o.retained {
		if lost[shardOf(e, int(h.GetShardCount()))] {
			e.Ack = nil
			again[e.RoomID] = append(again[e.RoomID], e)
		} else {
			kept = append(kept, e)
		}
	}
	o.retained = kept
	for roomID, entries := range again {
		l := o.lane(roomID)
		// Behind those of an earlier loss that still wait, before what is new.
		l.entries = slices.Insert(l.entries, l.again, entries...)
		l.again += len(entries)
		o.pending += len(entries)
		o.start(roomID, l)
	}
	o.conn.client.cfg.Logger.Warn("the server lost acknowledged messages; sending them again", "rooms", len(again))
}

// shardOf computes the shard of an entry's room as the server does now; the
// position's shard serves if that cannot be.
func shardOf(e Entry, count int) uint32 {
	room, err := id.Parse(id.Room, e.RoomID)
	if err != nil || count <= 0 {
		return e.Ack.Shard
	}
	return uint32(room.Partition().Shard(count))
}
