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
// failed and each sender's messages kept their order.
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
	res := r.result("send", fmt.Sprintf("%d pairs, one message of %d bytes outstanding each", cfg.Senders, cfg.Bytes), "acknowledged")
	t, l := &tally{}, newLatencies()
	w := newWindow(time.Now(), cfg.WarmUp, cfg.Window)
	before, after, err := r.measure(ctx, w, func(ctx context.Context) error {
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
	res.fill(w, t, l, before, after)
	res.Details.Disordered = t.disordered.Load()
	res.Passed = res.Errors == 0 && res.Details.Disordered == 0 && res.Details.Ops > 0
	res.judge(sendGoals[cfg.Senders])
	return res, nil
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
