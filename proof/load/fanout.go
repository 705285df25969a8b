package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bongsu-im/bongsu/client"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

const (
	fanoutSenders     = 10
	fanoutOutstanding = 8
	// inviteChunk is how many may be invited at once.
	inviteChunk = 99
	// maxFanoutSeq bounds the map of what a member has seen.
	maxFanoutSeq = 1 << 24
)

// Fanout measures W3: a room of Members people, all online, 10 of whom keep 8
// messages outstanding each, or send at a Rate together; an operation is a
// message at the socket of a member (the sender's too), its latency counts from
// the call that sent it or, at a Rate, from the time at which it was meant to
// be. It passes if every member was told of every acknowledged message exactly
// once, and the server kept up.
func Fanout(ctx context.Context, cfg Config) (Result, error) {
	return withCeiling(ctx, cfg, fanOut)
}

func fanOut(ctx context.Context, cfg Config) (Result, error) {
	return fanOutWith(ctx, cfg, "fanout", nil)
}

// fanOutWith measures Fanout while readers, if given, mark what they see.
func fanOutWith(ctx context.Context, cfg Config, name string, readers *readers) (_ Result, err error) {
	r, err := open(ctx, cfg, nil)
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, r.shut()) }()
	ctx, cancel := r.guard(ctx)
	defer cancel()
	f := &fanout{
		rig: r, start: time.Now(), sends: &tally{}, sendTimes: newLatencies(), readers: readers,
		tally: &tally{}, latencies: newLatencies(), members: make([]member, cfg.Members),
	}
	if err := f.gather(ctx); err != nil {
		return Result{}, err
	}
	how := fmt.Sprintf("%d messages of %d bytes outstanding each", fanoutOutstanding, cfg.Bytes)
	if cfg.Rate > 0 {
		how = fmt.Sprintf("%s of %d bytes together, open loop", perSecond(cfg.Rate), cfg.Bytes)
	}
	res := r.result(name, fmt.Sprintf("a room of %d, %d senders with %s%s", cfg.Members, len(f.senders), how, readers.words()), "delivered")
	before := f.countersIfRead(ctx)
	w := newWindow(time.Now(), cfg.WarmUp, cfg.Window)
	f.latencies.over(w)
	f.window.Store(&w)
	seen, err := r.measure(ctx, w, f.run)
	if err != nil {
		return Result{}, fmt.Errorf("measure: %w", err)
	}
	if err := f.judgeReaders(ctx, before, &res); err != nil {
		return Result{}, err
	}
	res.fill(w, f.tally, f.latencies, seen)
	res.offered(cfg.Rate, cfg.Members)
	res.Details.Duplicates = f.tally.duplicates.Load()
	res.Details.Fanout = f.details(cfg.Window)
	res.Passed = res.Errors == 0 && res.Details.Duplicates == 0 && res.Details.Ops > 0 && !res.Details.Behind
	if cfg.Rate <= 0 && readers == nil {
		res.judge(fanoutGoals[cfg.Members])
	}
	return res, nil
}

type fanout struct {
	rig     *rig
	start   time.Time // message texts tell nanoseconds since then
	room    string
	senders []person
	members []member
	readers *readers               // nil: nobody marks what was read
	window  atomic.Pointer[window] // nil until the room is ready

	sends     *tally // acknowledgements; errors of sends go to tally
	sendTimes *latencies
	tally     *tally // deliveries
	latencies *latencies

	missing, lagged, ended atomic.Int64

	mu           sync.Mutex
	acknowledged []ackedMessage
}

type ackedMessage struct {
	seq  uint64
	sent time.Time
}

// member is what has arrived at one socket.
type member struct {
	mu   sync.Mutex
	seen []uint64 // bits by seq
}

// take notes an arrival and returns false if it is not the first.
func (m *member) take(seq uint64) (first bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	word, bit := int(seq/64), uint64(1)<<(seq%64)
	if word >= len(m.seen) {
		m.seen = append(m.seen, make([]uint64, word+1-len(m.seen))...)
	}
	first = m.seen[word]&bit == 0
	m.seen[word] |= bit
	return first
}

func (m *member) has(seq uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	word := int(seq / 64)
	return word < len(m.seen) && m.seen[word]&(1<<(seq%64)) != 0
}

// gather brings everyone online and into the room, and waits for the settling.
func (f *fanout) gather(ctx context.Context) error {
	cfg := &f.rig.cfg
	login := func(i int) string { return fmt.Sprintf("bench-fanout-%d", i) }
	clients, err := f.rig.accounts(ctx, cfg.Members, login)
	if err != nil {
		return err
	}
	f.senders, err = f.rig.connect(ctx, clients[:min(fanoutSenders, cfg.Members)], func(i int) client.ConnectOptions {
		return client.ConnectOptions{Queue: -1, Tap: func(e *edgev1.Event) { f.tapped(i, e) }}
	})
	if err != nil {
		return err
	}
	if err := f.connectLean(ctx, clients); err != nil {
		return fmt.Errorf("connect people: %w", err)
	}
	if cfg.relay {
		f.room = relayEveryone
		return nil
	}
	if err := f.makeRoom(ctx, clients); err != nil {
		return fmt.Errorf("make the room: %w", err)
	}
	settle := cfg.Settle
	if settle <= 0 {
		if settle = 30 * time.Second; cfg.Bound > 0 {
			settle = min(settle, cfg.Bound/5)
		}
	}
	if !sleepUntil(ctx, time.Now().Add(settle)) {
		return context.Cause(ctx)
	}
	return nil
}

// connectLean opens the sockets of those who only listen.
func (f *fanout) connectLean(ctx context.Context, clients []*client.Client) error {
	first, dial := len(f.senders), f.rig.dialer()
	sockets := make([]*leanSocket, len(clients)-first)
	err := each(ctx, len(sockets), 32, f.rig.progress("listeners"), func(ctx context.Context, k int) error {
		c := clients[first+k]
		if time.Until(c.Session().ExpiresAt) < time.Minute {
			if err := patiently(ctx, func() error { return c.Refresh(ctx) }); err != nil {
				return err
			}
		}
		s, err := f.rig.dialLean(ctx, dial, c.Session().AccessToken, 8<<10)
		sockets[k] = s
		return err
	})
	var reading sync.WaitGroup
	alive, stop := context.WithCancel(context.WithoutCancel(ctx))
	f.rig.onShut(func() {
		stop()
		for _, s := range sockets {
			if s != nil {
				s.close()
			}
		}
		reading.Wait()
	})
	if err != nil {
		return err
	}
	f.readers.join(f)
	for k, s := range sockets {
		reading.Go(func() {
			if err := f.listen(first+k, s); alive.Err() == nil {
				f.ended.Add(1)
				f.tally.fail(fmt.Errorf("the socket of member %d ended: %w", first+k, err))
			}
		})
	}
	reading.Go(func() { keepAlive(alive, sockets) })
	return nil
}

// makeRoom makes a group of everyone.
func (f *fanout) makeRoom(ctx context.Context, clients []*client.Client) error {
	var others []string
	for _, c := range clients[1:] {
		others = append(others, c.UserID())
	}
	done := 1
	for chunk := range slices.Chunk(others, inviteChunk) {
		err := patiently(ctx, func() error {
			if f.room == "" {
				room, err := f.senders[0].CreateGroup(ctx, "bench fanout", chunk, "")
				f.room = room.GetRoomId()
				return err
			}
			_, err := f.senders[0].Invite(ctx, f.room, chunk...)
			return err
		})
		if err != nil {
			return err
		}
		done += len(chunk)
		f.rig.cfg.Progress("members", done, len(clients))
	}
	return nil
}

func (f *fanout) listen(who int, s *leanSocket) error {
	for {
		payload, err := s.next()
		if err != nil {
			return err
		}
		event, _, ok := field(payload, frameEvent)
		if !ok {
			if _, id, _ := field(payload, frameID); id == markID {
				f.readers.answered(who, payload)
			}
			continue // or the answer of a ping
		}
		if me, _, ok := field(event, eventMessage); ok {
			m, _, _ := field(me, 1)
			room, _, _ := field(m, messageRoom)
			_, seq, _ := field(m, messageSeq)
			text, _, _ := field(m, messageText)
			f.arrived(who, string(room), seq, text)
			f.readers.saw(who, seq, s)
		} else if read, _, ok := field(event, eventRead); ok {
			f.readers.told(countFields(read, readChanges))
		} else if lag, _, ok := field(event, eventLag); ok {
			_, dropped, _ := field(lag, 1)
			f.lag(who, dropped)
		}
	}
}

// tapped is listen for a sender, whose events package client decodes.
func (f *fanout) tapped(who int, e *edgev1.Event) {
	switch b := e.GetEvent().(type) {
	case *edgev1.Event_Message:
		m := b.Message.GetMessage()
		f.arrived(who, m.GetRoomId(), m.GetSeq(), []byte(m.GetText()))
		f.readers.saw(who, m.GetSeq(), nil)
	case *edgev1.Event_Read:
		f.readers.told(len(b.Read.GetChanges()))
	case *edgev1.Event_Lag:
		f.lag(who, b.Lag.GetDropped())
	}
}

func (f *fanout) lag(who int, dropped uint64) {
	if f.window.Load() == nil {
		return
	}
	f.lagged.Add(int64(dropped))
	f.tally.fail(fmt.Errorf("member %d was told of %d dropped events", who, dropped))
}

// arrived takes one delivery, on the goroutine that reads the member's socket.
func (f *fanout) arrived(who int, room string, seq uint64, text []byte) {
	now := time.Now()
	w := f.window.Load()
	if w == nil || room != f.room {
		return
	}
	sent, ok := f.sentAt(text)
	if !ok || seq == 0 || seq > maxFanoutSeq {
		f.tally.fail(fmt.Errorf("member %d was told of message %d, which nobody sent", who, seq))
		return
	}
	if !f.members[who].take(seq) {
		f.tally.duplicates.Add(1)
		return
	}
	if w.holds(now) {
		f.tally.ops.Add(1)
	}
	f.sample(w, who, sent, now)
}

// sample records a latency that was under way in the window.
func (f *fanout) sample(w *window, who int, sent, ended time.Time) {
	if sent.Before(w.end) && !ended.Before(w.begin) {
		f.latencies.record(who, ended, ended.Sub(sent))
	}
}

// text of a message sent at a time; sentAt reads it back.
func (f *fanout) text(sent time.Time) string {
	return body(strconv.FormatInt(int64(sent.Sub(f.start)), 10)+" ", f.rig.cfg.Bytes)
}

func (f *fanout) sentAt(text []byte) (time.Time, bool) {
	var nanos int64
	for i, c := range text {
		switch {
		case c == ' ' && i > 0:
			return f.start.Add(time.Duration(nanos)), true
		case c < '0' || c > '9' || i >= 18: // fewer digits cannot overflow
			return time.Time{}, false
		}
		nanos = nanos*10 + int64(c-'0')
	}
	return time.Time{}, false
}

func (f *fanout) run(ctx context.Context) error {
	w := *f.window.Load()
	stopReaders := f.readers.start(ctx)
	defer stopReaders()
	if err := f.sendAll(ctx, w); err != nil {
		return err
	}
	for deadline := time.Now().Add(drainTimeout); f.lacking(nil) && time.Now().Before(deadline); {
		if !sleepUntil(ctx, time.Now().Add(20*time.Millisecond)) {
			break
		}
	}
	f.readers.settle(ctx)
	f.settle(time.Now())
	return context.Cause(ctx)
}

// sendAll sends until the window ends, and waits for all answers.
func (f *fanout) sendAll(ctx context.Context, w window) error {
	if rate := f.rig.cfg.Rate; rate > 0 {
		return openLoop(ctx, w, rate, f.sends, f.sendTimes, func(ctx context.Context, k int, due time.Time) error {
			return f.send(ctx, f.senders[k%len(f.senders)], f.rig.cfg.random(k), due)
		})
	}
	var wg sync.WaitGroup
	for i := range len(f.senders) * fanoutOutstanding {
		random, from := f.rig.cfg.random(i), f.senders[i%len(f.senders)]
		wg.Go(func() {
			closedLoop(ctx, w, i, f.sends, f.sendTimes, func(ctx context.Context) error {
				return f.send(ctx, from, random, time.Now())
			})
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// send sends one message as of a time.
func (f *fanout) send(ctx context.Context, from person, random io.Reader, at time.Time) error {
	clientID, err := client.NewMessageID(at, random)
	if err != nil {
		return err
	}
	answer, err := from.Send(ctx, &edgev1.SendRequest{RoomId: f.room, ClientId: clientID, Text: f.text(at)})
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.acknowledged = append(f.acknowledged, ackedMessage{answer.GetMessage().GetSeq(), at})
	return nil
}

// lacking tells whether an acknowledged message has not arrived everywhere, and
// calls missed, if given, for each place.
func (f *fanout) lacking(missed func(who int, m ackedMessage)) (lacking bool) {
	f.mu.Lock()
	acknowledged := f.acknowledged
	f.mu.Unlock()
	for who := range f.members {
		for _, m := range slices.Backward(acknowledged) { // the last ones are what is lacking
			if f.members[who].has(m.seq) {
				continue
			}
			if missed == nil {
				return true
			}
			lacking = true
			missed(who, m)
		}
	}
	return lacking
}

// settle charges what never arrived, and the errors of sends.
func (f *fanout) settle(now time.Time) {
	w := f.window.Load()
	f.lacking(func(who int, m ackedMessage) {
		if f.missing.Add(1) == 1 {
			f.tally.fail(fmt.Errorf("message %d was acknowledged but did not reach member %d in %s", m.seq, who, drainTimeout))
		}
		f.sample(w, who, m.sent, now)
	})
	if n := f.missing.Load(); n > 1 {
		f.tally.errors.Add(n - 1)
	}
	if n := f.sends.errors.Load(); n > 0 {
		f.tally.fail(fmt.Errorf("send: %s", f.sends.firstError()))
		f.tally.errors.Add(n - 1)
	}
}

func (f *fanout) details(length time.Duration) *FanoutDetails {
	h := f.sendTimes.merged()
	return &FanoutDetails{
		AckPerS:  round(float64(f.sends.ops.Load())/length.Seconds(), 1),
		AckP50Ms: milliseconds(h.ValueAtQuantile(50)), AckP99Ms: milliseconds(h.ValueAtQuantile(99)),
		Missing: f.missing.Load(), Lagged: f.lagged.Load(), Ended: f.ended.Load(),
	}
}
