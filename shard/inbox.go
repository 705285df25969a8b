package shard

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"google.golang.org/protobuf/proto"
)

// inbox holds the commands that wait for a shard's owner, bounded by count and
// by encoded bytes.
type inbox struct {
	metrics             *shardMetrics
	maxCount, maxBytes  int
	batchCount, batchBy int
	wake                chan struct{} // holds a token while something waits

	mu     sync.Mutex // guards what follows
	queue  []*request
	bytes  int
	closed *reason // why nothing is admitted; nil while it is
	// timed are those requests of Begin that may still have to be told that
	// their time is over; sweeping tells that a timer will look at them.
	timed    []*request
	sweeping bool
}

// sweepEvery is how late, at most, a request of Begin is told that its time is
// over. One timer a shard looks after all of them: a timer of its own would
// cost each more than its place in the queue.
const sweepEvery = 50 * time.Millisecond

func newInbox(cfg Config, m *shardMetrics) *inbox {
	return &inbox{
		metrics:  m,
		maxCount: cfg.InboxCommands, maxBytes: cfg.InboxBytes,
		batchCount: cfg.BatchCommands, batchBy: cfg.BatchBytes,
		wake:   make(chan struct{}, 1),
		closed: &starting,
	}
}

// do puts the command in and waits for its answer. If ctx ends first and the
// owner has not begun with the command, it is withdrawn: a definite refusal.
func (in *inbox) do(ctx context.Context, cmd *nodev1.Command) (*nodev1.Reply, error) {
	if ctx.Err() != nil {
		return in.refuse(timedOut), nil
	}
	type answer struct {
		reply *nodev1.Reply
		err   error
	}
	answered := make(chan answer, 1) // holds one, so that the owner never waits
	r := &request{
		ctx: ctx, cmd: cmd, bytes: proto.Size(cmd), arrived: time.Now(),
		done: func(reply *nodev1.Reply, err error) { answered <- answer{reply, err} },
	}
	if why := in.put(r); why != nil {
		return in.refuse(*why), nil
	}
	select {
	case a := <-answered:
		return a.reply, a.err
	case <-ctx.Done():
	}
	switch {
	case r.withdraw():
		return in.refuse(timedOut), nil
	case r.abandon():
		return nil, in.unknown(context.Cause(ctx))
	}
	a := <-answered // it came at the same moment
	return a.reply, a.err
}

// begin puts the command in and returns; done hears the answer, or that the
// deadline has passed, which is a definite refusal only if the owner had not
// begun. done may be called before begin returns.
func (in *inbox) begin(cmd *nodev1.Command, deadline time.Time, done func(*nodev1.Reply, error)) {
	now := time.Now()
	if !now.Before(deadline) {
		done(in.refuse(timedOut), nil)
		return
	}
	r := &request{deadline: deadline, cmd: cmd, bytes: proto.Size(cmd), arrived: now, done: done}
	if why := in.put(r); why != nil {
		done(in.refuse(*why), nil)
	}
}

func (in *inbox) unknown(cause error) error {
	in.metrics.unknown.Inc()
	return fmt.Errorf("shard: outcome unknown: %w", cause)
}

// sweep tells those whose deadline has passed, forgets those that have been
// answered, and looks again later if any are left.
func (in *inbox) sweep() {
	now := time.Now()
	var late []*request
	in.mu.Lock()
	kept := in.timed[:0]
	for _, r := range in.timed {
		switch {
		case r.fate.Load() == fateSettled:
		case r.over(now):
			late = append(late, r)
		default:
			kept = append(kept, r)
		}
	}
	clear(in.timed[len(kept):])
	in.timed = kept
	if in.sweeping = len(kept) > 0; in.sweeping {
		time.AfterFunc(sweepEvery, in.sweep)
	} else {
		in.timed = nil // lets go of a burst's memory
	}
	in.mu.Unlock()
	for _, r := range late {
		switch {
		case r.withdraw():
			r.done(in.refuse(timedOut), nil)
		case r.abandon():
			r.done(nil, in.unknown(context.DeadlineExceeded))
		}
	}
}

func (in *inbox) refuse(why reason) *nodev1.Reply {
	in.metrics.refuse(why)
	return refusal(why)
}

// put admits the request or says why not; that costs no more than this.
func (in *inbox) put(r *request) *reason {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed != nil {
		return in.closed
	}
	if len(in.queue) >= in.maxCount || in.bytes+r.bytes > in.maxBytes {
		return &queueFull
	}
	in.queue = append(in.queue, r)
	in.bytes += r.bytes
	if !r.deadline.IsZero() {
		in.timed = append(in.timed, r)
		if !in.sweeping {
			in.sweeping = true
			time.AfterFunc(sweepEvery, in.sweep)
		}
	}
	in.metrics.depth.Set(float64(len(in.queue)))
	signal(in.wake)
	return nil
}

// take waits for commands and returns the next batch of those that are still
// wanted, in order of arrival; none if ctx ends.
func (in *inbox) take(ctx context.Context) []*request {
	for {
		if batch := in.drain(); len(batch) > 0 {
			return batch
		}
		select {
		case <-in.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

func (in *inbox) drain() []*request {
	in.mu.Lock()
	defer in.mu.Unlock()
	var batch []*request
	bytes, n := 0, 0
	for _, r := range in.queue {
		if len(batch) >= in.batchCount || (len(batch) > 0 && bytes+r.bytes > in.batchBy) {
			break
		}
		n++
		in.bytes -= r.bytes
		if r.take() {
			bytes += r.bytes
			batch = append(batch, r)
		}
	}
	in.cut(n)
	return batch
}

// cut forgets the first n; the caller holds mu.
func (in *inbox) cut(n int) {
	clear(in.queue[:n])
	in.queue = in.queue[n:]
	if len(in.queue) == 0 {
		in.queue = nil // lets go of a burst's memory
	} else {
		signal(in.wake)
	}
	in.metrics.depth.Set(float64(len(in.queue)))
}

// open admits from now on.
func (in *inbox) open() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = nil
}

// close refuses what waits and what comes, until open.
func (in *inbox) close(why reason) {
	in.mu.Lock()
	waiting := slices.Clone(in.queue) // cut forgets what it takes
	in.closed, in.bytes = &why, 0
	in.cut(len(in.queue))
	in.mu.Unlock()
	for _, r := range waiting {
		if r.take() {
			r.settle(in.refuse(why), nil)
		}
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
