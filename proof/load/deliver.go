package load

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bongsu-im/bongsu/client"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// drainTimeout is how long messages of the window may still arrive after it.
const drainTimeout = 10 * time.Second

// Deliver measures W2: Rate messages a second over Pairs pairs in an open loop;
// an operation is a message at the other's socket, its latency counts from the
// time at which it was meant to be sent. It passes if nothing failed or came
// twice, and at least 99 % of what was offered arrived within the window.
func Deliver(ctx context.Context, cfg Config) (Result, error) {
	setDefault(&cfg.Rate, 500)
	return withCeiling(ctx, cfg, deliver)
}

func deliver(ctx context.Context, cfg Config) (_ Result, err error) {
	r, err := open(ctx, cfg, nil)
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, r.shut()) }()
	ctx, cancel := r.guard(ctx)
	defer cancel()
	o := &offer{rig: r, tally: &tally{}, latencies: newLatencies(), tag: "w2-" + strconv.FormatInt(time.Now().UnixNano(), 36)}
	if o.pairs, err = r.pairs(ctx, cfg.Pairs, o.arrived); err != nil {
		return Result{}, err
	}
	res := r.result("deliver", fmt.Sprintf("%s of %d bytes over %d pairs, open loop", perSecond(cfg.Rate), cfg.Bytes, cfg.Pairs), "delivered")
	o.plan(newWindow(time.Now(), cfg.WarmUp, cfg.Window), cfg.Rate)
	seen, err := r.measure(ctx, o.window, o.run)
	if err != nil {
		return Result{}, fmt.Errorf("measure: %w", err)
	}
	res.fill(o.window, o.tally, o.latencies, seen)
	res.Details.Duplicates = o.tally.duplicates.Load()
	res.offered(cfg.Rate, 1)
	res.Passed = res.Errors == 0 && res.Details.Duplicates == 0 && !res.Details.Behind
	res.judge(deliverGoals[int(cfg.Rate)])
	return res, nil
}

// behind tells whether less than 99 % of what was offered was done.
func behind(got, offered float64) bool { return got < 0.99*offered }

// offer is the state of an open loop whose operations end elsewhere.
type offer struct {
	rig       *rig
	pairs     []pair
	tally     *tally
	latencies *latencies
	tag       string // tells our messages from those of earlier runs

	// Set by plan, before the first message is sent.
	window   window
	schedule schedule
	state    []atomic.Uint32 // by message: bits below
	arrivals atomic.Int64
}

const (
	wasDelivered = 1 << iota
	wasAcknowledged
	hasFailed
)

func (o *offer) plan(w window, rate float64) {
	o.latencies.over(w)
	o.window, o.schedule = w, newSchedule(w, rate)
	o.state = make([]atomic.Uint32, o.schedule.count)
}

// counted tells whether a message belongs to the window and not to the warm-up.
func (o *offer) counted(k int) bool { return o.window.holds(o.schedule.due(k)) }

func (o *offer) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	err := o.schedule.open(ctx, &wg, func(k int) { o.send(ctx, k) }, o.failed)
	if err != nil {
		return err
	}
	o.drain(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	wg.Wait()
	o.settle(time.Now())
	return nil
}

func (o *offer) send(ctx context.Context, k int) {
	p := o.pairs[k%len(o.pairs)]
	// The seed and the message's number make the ID.
	clientID, err := client.NewMessageID(o.schedule.due(k), o.rig.cfg.random(k))
	if err == nil {
		_, err = p.from.Send(ctx, &edgev1.SendRequest{
			RoomId: p.room, ClientId: clientID, Text: body(fmt.Sprintf("%s %d ", o.tag, k), o.rig.cfg.Bytes),
		})
	}
	if err != nil {
		o.failed(k, err)
		return
	}
	o.state[k].Or(wasAcknowledged)
}

func (o *offer) failed(k int, err error) {
	o.state[k].Or(hasFailed)
	if o.counted(k) {
		o.tally.fail(err)
	}
}

// arrived takes an event at a receiver's socket, on its reading goroutine.
func (o *offer) arrived(who int, e *edgev1.Event) {
	now := time.Now()
	k, ok := number(e.GetMessage().GetMessage().GetText(), o.tag)
	if !ok || k >= len(o.state) {
		return
	}
	if o.state[k].Or(wasDelivered)&wasDelivered != 0 {
		o.tally.duplicates.Add(1)
		return
	}
	o.arrivals.Add(1)
	if o.window.holds(now) {
		o.tally.ops.Add(1)
	}
	if o.counted(k) {
		o.latencies.record(who, now, now.Sub(o.schedule.due(k)))
	}
}

// number returns the number of a message with the tag.
func number(text, tag string) (int, bool) {
	rest, ok := strings.CutPrefix(text, tag+" ")
	if !ok {
		return 0, false
	}
	digits, _, _ := strings.Cut(rest, " ")
	k, err := strconv.Atoi(digits)
	return k, err == nil && k >= 0
}

// drain waits until all has arrived, or for as long as anything may.
func (o *offer) drain(ctx context.Context) {
	deadline := time.Now().Add(drainTimeout)
	for o.arrivals.Load() < int64(len(o.state)) && time.Now().Before(deadline) {
		if !sleepUntil(ctx, time.Now().Add(20*time.Millisecond)) {
			return
		}
	}
}

// settle charges what never arrived: as an error, unless its send was one
// already, and as a latency that is at least this long.
func (o *offer) settle(now time.Time) {
	for k := range o.state {
		s := o.state[k].Load()
		if s&wasDelivered != 0 || !o.counted(k) {
			continue
		}
		o.latencies.record(k, now, now.Sub(o.schedule.due(k)))
		if s&hasFailed == 0 {
			o.tally.fail(fmt.Errorf("message %d was acknowledged but did not arrive in %s", k, drainTimeout))
		}
	}
}
