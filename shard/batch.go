package shard

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/bongsu-im/bongsu/chat"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/mutant"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/view"
)

// batch is what becomes one record. answered holds, in order, everyone whose
// answer stands on the staged state and must wait for the commit.
type batch struct {
	stage    *view.Stage
	meta     chat.Meta
	events   []*journalv1.Event
	encoded  []byte // events, as they will be in the record
	feed     []*nodev1.FeedItem
	answered []decided
}

type decided struct {
	request *request
	reply   *nodev1.Reply
}

// process takes requests through decision, append, commit and answer. When it
// returns every one of them has been answered. An error ends the reign.
func (o *owner) process(ctx context.Context, lease journal.Lease, requests []*request) error {
	for len(requests) > 0 {
		rest, err := o.processSome(ctx, lease, requests)
		if err != nil {
			why := o.told(reasonOf(err))
			for _, r := range rest {
				r.settle(o.inbox.refuse(why), nil)
			}
			return err
		}
		requests = rest
	}
	return nil
}

// processSome handles requests from the front until a record is full, and
// returns those that are left untouched.
func (o *owner) processSome(ctx context.Context, lease journal.Lease, requests []*request) (rest []*request, err error) {
	stage, err := o.view.Stage()
	if err != nil {
		return requests, fmt.Errorf("stage: %w", err)
	}
	defer stage.Discard()
	mark := o.view.Mark()
	b := &batch{stage: stage, encoded: make([]byte, 0, o.encoding), meta: chat.Meta{TimeMs: o.set.cfg.Clock.Now().UnixMilli(), Rules: max(mark.GetRules(), 1)}}
	began := time.Now()
	rest, again, err := o.decide(b, requests)
	o.metrics.decide.Observe(time.Since(began).Seconds())
	if err != nil {
		for _, d := range b.answered {
			d.request.settle(o.inbox.refuse(o.told(reasonOf(err))), nil)
		}
		return rest, fmt.Errorf("decide: %w", err)
	}
	if again != nil { // a panic spoiled the stage: decide the others afresh
		return append(again, rest...), nil
	}
	if len(b.answered) == 0 {
		return rest, nil
	}
	return rest, o.commit(ctx, lease, b, mark)
}

// decide steps through requests until the record is full. If a step panics
// past all containment in package chat, the stage cannot be trusted: that
// command is refused, and again holds the others, to be decided on a new stage.
func (o *owner) decide(b *batch, requests []*request) (rest, again []*request, err error) {
	mark, now := o.view.Mark(), time.Now()
	for i, r := range requests {
		if len(b.answered) > 0 && len(b.encoded) >= o.set.cfg.BatchBytes {
			return requests[i:], nil, nil
		}
		if r.over(now) {
			r.settle(o.inbox.refuse(timedOut), nil)
			continue
		}
		o.metrics.wait.Observe(now.Sub(r.arrived).Seconds())
		if r.proof {
			b.answered = append(b.answered, decided{r, &nodev1.Reply{}})
			continue
		}
		out, fault, err := o.safeStep(b, r.cmd)
		if fault != "" {
			o.metrics.panics.Inc()
			o.logger.Error("a command panicked; it is refused", "command", chat.CommandKind(r.cmd), "panic", fault)
			r.settle(o.inbox.refuse(panicked), nil)
			for _, d := range b.answered {
				again = append(again, d.request)
			}
			if again == nil {
				again = []*request{}
			}
			return requests[i+1:], again, nil
		}
		if err != nil {
			b.answered = append(b.answered, decided{request: r})
			return requests[i+1:], nil, err
		}
		o.tell(r.cmd, out)
		if b.encoded, err = appendEvents(b.encoded, out.Events); err != nil {
			b.answered = append(b.answered, decided{request: r})
			return requests[i+1:], nil, err
		}
		b.events = append(b.events, out.Events...)
		b.feed = append(b.feed, out.Feed...)
		if len(b.events) == 0 && (!isNo(out.Reply.GetError()) || o.alone()) {
			// It stands on committed state alone: no need to wait for anyone. A no
			// may stand on a state that another owner has left behind, and waits.
			o.reply(decided{r, out.Reply}, position(mark))
			continue
		}
		b.answered = append(b.answered, decided{r, out.Reply})
	}
	return nil, nil, nil
}

// safeStep is chat.Step with what concerns the shard as a whole.
func (o *owner) safeStep(b *batch, cmd *nodev1.Command) (out chat.Outcome, fault string, err error) {
	defer func() {
		if p := recover(); p != nil {
			fault = fmt.Sprintf("%v\n%s", p, debug.Stack())
		}
	}()
	if note := cmd.GetNoteTailLost(); note != nil {
		known, err := tailKnown(b.stage, note.GetProvenTerm(), note.GetProvenIndex())
		if err != nil || known {
			return chat.Outcome{Reply: &nodev1.Reply{}}, "", err
		}
	}
	out, err = o.step(b.stage, b.meta, cmd)
	if err != nil {
		return out, "", err
	}
	have := o.view.Mark()
	for _, ev := range out.Events {
		if lost := ev.GetTailLost(); lost != nil {
			lost.Term, lost.Index = have.GetTerm(), have.GetIndex()
		}
	}
	return out, "", noteEvents(b.stage, out.Events)
}

// tell logs what package chat has contained.
func (o *owner) tell(cmd *nodev1.Command, out chat.Outcome) {
	if out.Panic != "" {
		o.metrics.panics.Inc()
		o.logger.Error("deciding a command panicked; it is refused", "command", chat.CommandKind(cmd), "panic", out.Panic)
	}
	if out.Aside != nil {
		o.tellAside(out.Aside)
	}
}

func (o *owner) tellAside(a *chat.SetAside) {
	o.metrics.panics.Inc()
	o.logger.Error("an event could not be applied and is set aside", "event", a.Kind, "stopped_room", a.Room.String(), "panic", a.Panic, "stack", a.Stack)
}

// commit appends the record and, once it is committed, makes the stage visible.
func (o *owner) commit(ctx context.Context, lease journal.Lease, b *batch, mark *journalv1.Mark) error {
	rec := &journalv1.Record{Rules: b.meta.Rules, TimeMs: b.meta.TimeMs, PreviousHash: mark.GetHash()}
	data, err := encodeRecord(rec)
	if err != nil {
		return o.failed(b, err)
	}
	data = append(data, b.encoded...)
	rec.Events = b.events
	o.encoding = len(b.encoded) + len(b.encoded)/4 // of the next one, as like as not
	if mutant.On(mutant.AckEarly) {
		o.answer(b, journal.Position{Term: lease.Term, Index: journal.Index(mark.GetIndex() + 1)})
	}
	at, err := o.append(ctx, lease, data)
	if err != nil {
		return o.failed(b, err)
	}
	next := &journalv1.Mark{
		Term: uint64(at.Term), Index: uint64(at.Index),
		Hash: runningHash(mark.GetHash(), data), Rules: chat.RulesAfter(b.meta.Rules, rec),
	}
	o.passing(at.Index)
	if err := b.stage.Commit(next); err != nil {
		// It is in the journal and will be applied by whoever starts next, but
		// it is not applied here: not to be acknowledged (invariant 1).
		o.unknown(b, fmt.Errorf("record %d is durable but could not be applied: %w", at.Index, err))
		return fmt.Errorf("commit record %d: %w", at.Index, err)
	}
	o.metrics.commands.Observe(float64(len(b.answered)))
	o.metrics.bytes.Observe(float64(len(data)))
	o.log.SetMark(journalMark(next))
	o.answer(b, at)
	o.publish(b.feed, at)
	o.announce(rec)
	return nil
}

// append proposes the record. The proposal outlives the cancelling of Run by
// DrainTimeout, so that a graceful stop knows its outcome.
func (o *owner) append(ctx context.Context, lease journal.Lease, data []byte) (journal.Position, error) {
	began := time.Now()
	defer func() { o.metrics.append.Observe(time.Since(began).Seconds()) }()
	actx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.set.cfg.AppendTimeout)
	defer cancel()
	unhook := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(o.set.cfg.DrainTimeout):
			cancel()
		case <-actx.Done():
		}
	})
	defer unhook()
	return o.log.Append(actx, lease, data)
}

// failed answers everyone in a batch whose append failed, and tells how the
// reign goes on: nil if it does.
func (o *owner) failed(b *batch, err error) error {
	var fenced *journal.FencedError
	var lost *journal.LostTailError
	refuse := func(why reason) {
		for _, d := range b.answered {
			d.request.settle(o.inbox.refuse(why), nil)
		}
	}
	switch {
	case errors.Is(err, journal.ErrNotOwner):
		refuse(notOwner)
		return errReignOver
	case errors.Is(err, journal.ErrNoSpace):
		o.logger.Error("the journal's disk reserve is reached; changes are refused")
		refuse(o.told(diskFull))
		return nil
	case errors.Is(err, journal.ErrTooLarge):
		o.logger.Error("a record is too large for the journal", "commands", len(b.answered), "bytes", len(b.encoded))
		refuse(tooLarge)
		return nil
	case errors.Is(err, journal.ErrCancelled), errors.Is(err, journal.ErrClosed):
		refuse(draining)
		return fmt.Errorf("append: %w", err)
	case errors.As(err, &lost):
		refuse(damaged)
		return fmt.Errorf("append: %w", err)
	case errors.As(err, &fenced):
		// The entry may be on the disk all the same: not a refusal.
		o.unknown(b, err)
		return fmt.Errorf("append: %w", err)
	}
	o.logger.Warn("the outcome of an append is unknown; starting over", "commands", len(b.answered), "error", err)
	o.unknown(b, err)
	return errReignOver
}

func (o *owner) unknown(b *batch, err error) {
	for _, d := range b.answered {
		o.metrics.unknown.Inc()
		d.request.settle(nil, fmt.Errorf("shard %d: outcome unknown: %w", o.n, err))
	}
}

// answer tells everyone in the batch, who now stand on a durable position.
func (o *owner) answer(b *batch, at journal.Position) {
	for _, d := range b.answered {
		o.reply(d, at)
	}
}

func (o *owner) reply(d decided, at journal.Position) {
	if d.reply.Error == nil {
		d.reply.Position = o.edgePosition(at)
	}
	d.request.settle(d.reply, nil)
}

func (o *owner) edgePosition(at journal.Position) *edgev1.Position {
	return &edgev1.Position{Shard: uint32(o.n), Term: uint64(at.Term), Index: uint64(at.Index)}
}
