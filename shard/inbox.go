package shard

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"google.golang.org/protobuf/proto"
)

// request is one command on its way. Its fate is settled once: the owner takes
// it, or its sender withdraws it before that (then nothing was done, for sure).
type request struct {
	ctx     context.Context // the sender's; kept because the owner judges its deadline
	cmd     *nodev1.Command
	bytes   int
	arrived time.Time
	fate    atomic.Int32
	answer  chan answer // holds one, so that the owner never waits for a sender
}

const (
	fateWaiting = iota
	fateTaken
	fateWithdrawn
)

// answer has either a reply or an error (outcome unknown).
type answer struct {
	reply *nodev1.Reply
	err   error
}

func (r *request) settle(reply *nodev1.Reply, err error) { r.answer <- answer{reply, err} }

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
}

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
	r := &request{ctx: ctx, cmd: cmd, bytes: proto.Size(cmd), arrived: time.Now(), answer: make(chan answer, 1)}
	if why := in.put(r); why != nil {
		return in.refuse(*why), nil
	}
	select {
	case a := <-r.answer:
		return a.reply, a.err
	case <-ctx.Done():
	}
	if r.fate.CompareAndSwap(fateWaiting, fateWithdrawn) {
		return in.refuse(timedOut), nil
	}
	select {
	case a := <-r.answer: // it came at the same moment
		return a.reply, a.err
	default:
	}
	in.metrics.unknown.Inc()
	return nil, fmt.Errorf("shard: outcome unknown: %w", context.Cause(ctx))
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
		if r.fate.CompareAndSwap(fateWaiting, fateTaken) {
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
		if r.fate.CompareAndSwap(fateWaiting, fateTaken) {
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
