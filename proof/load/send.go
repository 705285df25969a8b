package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/bongsu-im/bongsu/client"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// Send measures W1: Senders pairs, both online, each sender with one message
// outstanding; an operation is a message acknowledged. It passes if nothing
// failed and each sender's messages kept their order. With a Rate it is an open
// loop over the same pairs, whose messages may overtake each other; it then
// passes if nothing failed and the server kept up.
func Send(ctx context.Context, cfg Config) (Result, error) {
	return withCeiling(ctx, cfg, send)
}

func send(ctx context.Context, cfg Config) (_ Result, err error) {
	r, err := open(ctx, cfg, nil)
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, r.shut()) }()
	ctx, cancel := r.guard(ctx)
	defer cancel()
	pairs, err := r.pairs(ctx, cfg.Senders, nil)
	if err != nil {
		return Result{}, err
	}
	how, goals := "one message of %d bytes outstanding each", sendGoals[cfg.Senders]
	if cfg.Rate > 0 {
		how, goals = "open loop, "+perSecond(cfg.Rate)+" of %d bytes", figures{}
	}
	res := r.result("send", fmt.Sprintf("%d pairs, "+how, cfg.Senders, cfg.Bytes), "acknowledged")
	t, l := &tally{}, newLatencies()
	w := newWindow(time.Now(), cfg.WarmUp, cfg.Window)
	l.over(w)
	seen, err := r.measure(ctx, w, func(ctx context.Context) error {
		if cfg.Rate > 0 {
			return r.sendOpen(ctx, w, pairs, t, l)
		}
		var wg sync.WaitGroup
		for i, p := range pairs {
			send := r.sender(i, p, t)
			wg.Go(func() { closedLoop(ctx, w, i, t, l, send) })
		}
		wg.Wait()
		return context.Cause(ctx)
	})
	if err != nil {
		return Result{}, fmt.Errorf("measure: %w", err)
	}
	res.fill(w, t, l, seen)
	res.offered(cfg.Rate, 1)
	res.Details.Disordered = t.disordered.Load()
	res.Passed = res.Errors == 0 && res.Details.Disordered == 0 && res.Details.Ops > 0 && !res.Details.Behind
	res.judge(goals)
	return res, nil
}

func perSecond(rate float64) string { return fmt.Sprintf("%g messages/s", rate) }

// sendOpen sends at a rate, by the pairs in turns.
func (r *rig) sendOpen(ctx context.Context, w window, pairs []pair, t *tally, l *latencies) error {
	text := body("open loop ", r.cfg.Bytes)
	return openLoop(ctx, w, r.cfg.Rate, t, l, func(ctx context.Context, k int, due time.Time) error {
		clientID, err := client.NewMessageID(due, r.cfg.random(k))
		if err != nil {
			return err
		}
		p := pairs[k%len(pairs)]
		_, err = p.from.Send(ctx, &edgev1.SendRequest{RoomId: p.room, ClientId: clientID, Text: text})
		return err
	})
}

// sender returns what sends one message of a pair and waits for the answer.
func (r *rig) sender(who int, p pair, t *tally) func(context.Context) error {
	random := r.cfg.random(who)
	text := body(fmt.Sprintf("pair %d: ", who), r.cfg.Bytes)
	var last uint64
	return func(ctx context.Context) error {
		clientID, err := client.NewMessageID(time.Now(), random)
		if err != nil {
			return err
		}
		sent, err := p.from.Send(ctx, &edgev1.SendRequest{RoomId: p.room, ClientId: clientID, Text: text})
		if err != nil {
			return err
		}
		if seq := sent.GetMessage().GetSeq(); seq <= last {
			t.disordered.Add(1)
		} else {
			last = seq
		}
		return nil
	}
}
