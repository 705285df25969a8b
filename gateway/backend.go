package gateway

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
)

// Pauses between attempts: short at first, because a new owner is found within
// a second, then spread out.
const (
	firstPause = 20 * time.Millisecond
	mostPause  = 150 * time.Millisecond
	// mostHint is the longest retry hint that is waited out here.
	mostHint = 2 * time.Second
)

// errUnknown says that the deadline came while the outcome was unknown.
var errUnknown = errors.New("outcome unknown")

// do submits a command until there is an answer, a refusal that waiting does
// not cure, or no time left. Every command may be repeated: it names what it
// makes (message by client_id, room and device by their IDs, refresh token by
// its generation). unsure tells that an earlier attempt may have happened.
func (g *Gateway) do(ctx context.Context, cmd *nodev1.Command) (reply *nodev1.Reply, unsure bool, err error) {
	reply, err = g.backend.Do(ctx, cmd)
	return g.settle(ctx, cmd, reply, err)
}

// settle is do after the first attempt, whose outcome is reply and err.
func (g *Gateway) settle(ctx context.Context, cmd *nodev1.Command, reply *nodev1.Reply, err error) (_ *nodev1.Reply, unsure bool, _ error) {
	last := error(nil)
	for attempt := 0; ; attempt++ {
		switch {
		case err != nil:
			unsure, last = true, errUnknown
			g.log.Debug("command without an answer", "attempt", attempt, "error", err)
		case reply.GetError() == nil:
			return reply, unsure, nil
		case !curable(reply.GetError()):
			return nil, unsure, &refusal{reply.GetError()}
		default:
			last = &refusal{reply.GetError()}
		}
		if !g.pause(ctx, attempt) {
			return nil, unsure, final(last, unsure)
		}
		g.metrics.retries.Inc()
		reply, err = g.backend.Do(ctx, cmd)
	}
}

// query asks until there is an answer, in the same way.
func (g *Gateway) query(ctx context.Context, q *nodev1.Query) (*nodev1.QueryReply, error) {
	last := error(nil)
	for attempt := 0; ; attempt++ {
		reply, err := g.backend.Query(ctx, q)
		switch {
		case err != nil:
			last = errUnknown
			g.log.Debug("query without an answer", "attempt", attempt, "error", err)
		case reply.GetError() == nil:
			return reply, nil
		case !curable(reply.GetError()):
			return nil, &refusal{reply.GetError()}
		default:
			last = &refusal{reply.GetError()}
		}
		if !g.pause(ctx, attempt) {
			return nil, final(last, false)
		}
		g.metrics.retries.Inc()
	}
}

// curable tells whether waiting a moment may help: a change of owner is over
// within a second. A stopped room, a damaged shard or a full disk (their hints
// are long) is not cured by us, and a full queue is answered with its hint.
func curable(e *edgev1.Error) bool {
	switch e.GetCode() {
	case codeUnavailable:
		return e.GetInfo().GetReason() != "room_stopped" && e.GetInfo().GetRetryAfterSeconds() <= mostHint.Seconds()
	case codeDeadline:
		return true // an inner deadline; whether there is time left ours says
	}
	return false
}

// final is what the sender hears when time is up: that nothing happened only
// if every attempt was refused.
func final(last error, unsure bool) error {
	var r *refusal
	if !unsure && errors.As(last, &r) && r.e.GetCode() != codeDeadline {
		return last
	}
	return timedOut()
}

// pause waits before the next attempt; false if ctx would end first.
func (g *Gateway) pause(ctx context.Context, attempt int) bool {
	d := min(firstPause<<min(attempt, 10), mostPause)
	d = d/2 + rand.N(d/2) // spread: jitter needs no seed, it decides nothing
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= d {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// outage tells whether err means that the backend cannot be reached, as
// opposed to having answered.
func outage(err error) bool {
	var r *refusal
	return errors.As(err, &r) && r.e.GetCode() == codeUnavailable
}
