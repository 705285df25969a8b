package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bongsu-im/bongsu/chat"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/mutant"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/view"
)

// owner decides for one shard. Its goroutine is the only one that stages,
// appends and commits; what it shares has a lock of its own (see the package
// comment).
type owner struct {
	set     *Set
	n       int
	log     journal.Log
	view    *view.Shard
	logger  *slog.Logger
	metrics *shardMetrics

	inbox    *inbox
	status   status
	applied  broadcast // wakes queries that wait for a position
	pump     *pump
	receipts *receipts

	// started is set once the view has caught up with the journal for the first
	// time: what is applied after that is news to someone and is published.
	// Goroutine only.
	started bool
	// current is started for other goroutines; owned tells that this node decides.
	current   atomic.Bool
	owned     atomic.Bool
	witnessed witnesses
	lag       lag
	cuts      cuts
	encoding  int // bytes that the events of a record are expected to take
	// step is chat.Step; tests put faults in its place.
	step func(chat.Tx, chat.Meta, *nodev1.Command) (chat.Outcome, error)
}

func newOwner(s *Set, n int) *owner {
	o := &owner{
		set: s, n: n,
		log:     s.cfg.Journal.Log(journal.ShardID(n)),
		view:    s.cfg.View.Shard(n),
		logger:  s.cfg.Logger.With("shard", n),
		metrics: s.metrics.of(n),
		step:    chat.Step,
	}
	o.status.set(&starting, errors.New("starting"))
	o.inbox = newInbox(s.cfg, o.metrics)
	o.pump = newPump(o)
	o.receipts = newReceipts(s.cfg.Feed)
	return o
}

// run owns the shard until ctx ends: lease, catch up, serve, and again from the
// beginning whenever ownership is lost or an outcome unknown, so that the
// recovery path is the start-up path. Damage and fenced stores end it.
func (o *owner) run(ctx context.Context) {
	context.AfterFunc(ctx, func() { o.stop(draining, errors.New("stopping")) })
	for ctx.Err() == nil {
		err := o.reign(ctx)
		switch {
		case ctx.Err() != nil:
		case err == nil || errors.Is(err, errReignOver):
			o.metrics.recoveries.Inc()
		default:
			o.giveUp(err)
			<-ctx.Done()
		}
	}
	o.stop(draining, errors.New("stopping"))
}

// knows tells whether this release knows the rules by which the shard is decided
// from where its view stands.
func (o *owner) knows() error {
	if rules := o.view.Mark().GetRules(); rules > chat.RulesVersion {
		return fmt.Errorf("the view stands at rules %d: %w (it knows up to %d)", rules, chat.ErrUnknownRules, chat.RulesVersion)
	}
	return nil
}

// errReignOver: ownership was lost, or the outcome of an append is unknown.
// What was staged is dropped already.
var errReignOver = errors.New("shard: ownership ended")

// reign is one ownership, from its lease to its end.
func (o *owner) reign(ctx context.Context) error {
	if err := o.knows(); err != nil {
		return err
	}
	lease, err := o.follow(ctx)
	if err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	reigning, end := o.whileLeased(ctx, lease)
	defer end()
	if err := o.catchUp(reigning, lease); err != nil {
		if reigning.Err() != nil && ctx.Err() == nil {
			return errReignOver // a view to be fetched is fetched as a follower
		}
		return err
	}
	if err := o.knows(); err != nil {
		return err // the newer rules may be the last thing that was applied
	}
	o.started = true
	o.current.Store(true)
	o.owned.Store(true)
	defer func() {
		o.lag.owned()
		o.owned.Store(false)
	}()
	o.open(ctx)
	o.pump.serve(true)
	defer o.pump.serve(false)
	return o.serve(ctx, reigning, lease)
}

// lease waits for ownership. Commands may wait with it for a moment, as losing
// and regaining it is mostly quick; then they are refused and can try another
// server.
func (o *owner) lease(ctx context.Context) (journal.Lease, error) {
	// Stopping a timer does not wait for what it has begun: were that to close the
	// inbox after the lease has opened it, the owner would refuse for ever.
	var mu sync.Mutex
	over := false
	impatient := time.AfterFunc(o.set.cfg.LeaseGrace, func() {
		mu.Lock()
		defer mu.Unlock()
		if over || !o.current.Load() {
			return // had in time, or nothing is admitted yet anyway
		}
		if o.status.setIf(&notOwner, errors.New("waiting for ownership")) {
			o.inbox.close(notOwner)
		}
	})
	defer func() {
		impatient.Stop()
		mu.Lock()
		defer mu.Unlock()
		over = true
	}()
	return o.log.Lease(ctx)
}

// whileLeased gives a context that ends with the lease, as far as that is told.
func (o *owner) whileLeased(ctx context.Context, lease journal.Lease) (context.Context, context.CancelFunc) {
	reigning, end := context.WithCancel(ctx)
	if o.set.cfg.LeaseEnded == nil || mutant.On(mutant.StaleOwner) {
		return reigning, end
	}
	over := o.set.cfg.LeaseEnded(o.n, lease)
	go func() {
		select {
		case <-over:
			end()
		case <-reigning.Done():
		}
	}()
	return reigning, end
}

// serve decides until ctx ends, or reigning, which is ctx while the lease lasts.
func (o *owner) serve(ctx, reigning context.Context, lease journal.Lease) error {
	for {
		batch := o.inbox.take(reigning)
		if reigning.Err() != nil && ctx.Err() == nil {
			for _, r := range batch {
				r.settle(o.inbox.refuse(notOwner), nil)
			}
			return errReignOver
		}
		if ctx.Err() != nil {
			for _, r := range batch {
				r.settle(o.inbox.refuse(draining), nil)
			}
			return nil
		}
		if err := o.process(ctx, lease, batch); err != nil {
			return err
		}
	}
}

// open begins to serve, unless the set is stopping meanwhile.
func (o *owner) open(ctx context.Context) {
	if o.status.setIf(nil, nil) {
		o.inbox.open()
	}
	if ctx.Err() != nil { // the two may have crossed
		o.stop(draining, errors.New("stopping"))
	}
}

// stop refuses everything from now on; the first final reason stays.
func (o *owner) stop(why reason, cause error) {
	o.status.final(&why, cause)
	o.inbox.close(why)
	o.applied.wake()
}

// giveUp stops a shard that must not go on, loudly.
func (o *owner) giveUp(err error) {
	why := reasonOf(err)
	o.logger.Error("shard stops serving", "reason", why.reason, "error", err)
	o.status.final(&why, err)
	o.inbox.close(o.told(why))
	o.applied.wake()
}

// told is what those hear who wanted something of a shard that has stopped. Where
// there are other nodes a failed store or a full disk is no news to them, and its
// long hint would keep them from the next owner: the shard is changing hands.
func (o *owner) told(why reason) reason {
	if o.set.cfg.Elsewhere == nil {
		return why
	}
	switch why {
	case storeFenced, damaged, tooOld:
		return notOwner
	case diskFull:
		why.retrySeconds = notOwner.retrySeconds // a node with room takes it over
	}
	return why
}

// reasonOf is what those hear whose commands were not begun when err ended a reign.
func reasonOf(err error) reason {
	var journalFence *journal.FencedError
	var viewFence *view.FencedError
	switch {
	case errors.Is(err, errReignOver):
		return notOwner
	case errors.Is(err, journal.ErrClosed), errors.Is(err, journal.ErrCancelled), errors.Is(err, view.ErrClosed):
		return draining
	case errors.As(err, &journalFence), errors.As(err, &viewFence):
		return storeFenced
	case errors.Is(err, chat.ErrUnknownRules):
		return tooOld
	}
	return damaged
}

// status is why a shard does not serve.
type status struct {
	mu     sync.Mutex
	why    *reason // nil: it serves
	cause  error
	closed bool // a final reason was given
}

func (s *status) set(why *reason, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.why, s.cause = why, cause
}

// setIf sets a reason (nil: serving) unless a final one was given.
func (s *status) setIf(why *reason, cause error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.why, s.cause = why, cause
	return true
}

func (s *status) final(why *reason, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.why, s.cause, s.closed = why, cause, true
	}
}

func (s *status) ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", s.why.reason, s.cause)
}

// ready tells why the shard serves nobody; nil if it does, or if this node
// follows and another serves.
func (o *owner) ready() error {
	err := o.status.ready()
	absent := o.set.cfg.Absent != nil && o.set.cfg.Absent(o.n)
	if err == nil || o.set.cfg.Elsewhere == nil || o.status.reason() != &notOwner && !absent {
		return err
	}
	if why := o.set.cfg.Elsewhere(o.n); why != nil {
		return fmt.Errorf("%w: %w", err, why)
	}
	return nil
}

func (s *status) reason() *reason {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}

// broadcast wakes everyone who waits; wait before looking.
type broadcast struct {
	mu sync.Mutex
	c  chan struct{} // nil while nobody waits, as is usual
}

func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c == nil {
		b.c = make(chan struct{})
	}
	return b.c
}

func (b *broadcast) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c != nil {
		close(b.c)
		b.c = nil
	}
}
