package shard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/bongsu-im/bongsu/chat"
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

const (
	outboxPage    = 256 // effects carried in one round; at most chat.MaxOutboxKeys
	effectTimeout = 10 * time.Second
	backoffFirst  = 100 * time.Millisecond
	backoffLast   = 10 * time.Second
)

// pump carries a shard's outbox to other shards while it is the owner: at least
// once, each effect idempotent by its version. It remembers which partitions
// may have effects waiting; what they are it reads from the view each time, so
// that nothing waits anywhere but in the state.
type pump struct {
	o    *owner
	wake chan struct{} // holds a token when there may be work

	mu      sync.Mutex // guards what follows
	serving bool
	looked  bool // at every partition
	waiting map[id.Partition]retry
}

// retry says when a partition is looked at next: at once (zero), or after a
// failure some time later.
type retry struct {
	due     time.Time
	backoff time.Duration
}

func newPump(o *owner) *pump {
	return &pump{o: o, wake: make(chan struct{}, 1), waiting: make(map[id.Partition]retry)}
}

// serve turns the pump on or off. The first time it looks at every partition,
// for what an earlier process has left; after that, note tells it all.
func (p *pump) serve(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serving = on
	if on {
		p.lookLocked()
	}
}

// lookAgain makes the pump look at every partition once more: the view has
// effects that note has not heard of.
func (p *pump) lookAgain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.looked = false
	if p.serving {
		p.lookLocked()
	}
}

func (p *pump) lookLocked() {
	signal(p.wake)
	if p.looked {
		return
	}
	p.looked = true
	for _, part := range p.o.partitions() {
		p.waiting[part] = retry{}
	}
}

// partitions returns those of the shard; the shard map is equal ranges.
func (o *owner) partitions() []id.Partition {
	var all []id.Partition
	for part := range id.Partition(id.Partitions) {
		if part.Shard(len(o.set.owners)) == o.n {
			all = append(all, part)
		}
	}
	return all
}

// note marks the partitions in whose outbox a record may have put something.
func (p *pump) note(rec *journalv1.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ev := range rec.Events {
		if part, ok := chat.EffectsIn(ev); ok {
			p.waiting[part] = retry{}
			signal(p.wake)
		}
	}
}

// next takes the next partition behind after that is due, around the end, so
// that none starves another. Without one it says how long until there is; below
// 0 for ever.
func (p *pump) next(after id.Partition) (part id.Partition, r retry, in time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in = -1
	if !p.serving {
		return 0, retry{}, in
	}
	now, nearest := time.Now(), id.Partitions
	for candidate, at := range p.waiting {
		if wait := at.due.Sub(now); wait > 0 {
			if in < 0 || wait < in {
				in = wait
			}
			continue
		}
		if d := (int(candidate) - int(after) - 1 + id.Partitions) % id.Partitions; d < nearest {
			nearest, part, r = d, candidate, at
		}
	}
	if nearest < id.Partitions {
		delete(p.waiting, part)
		in = 0
	}
	return part, r, in
}

// later puts a partition back after a failure, unless there is news of it.
func (p *pump) later(part id.Partition, r retry) retry {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.backoff = min(max(2*r.backoff, backoffFirst), backoffLast)
	r.due = time.Now().Add(r.backoff)
	if _, news := p.waiting[part]; !news {
		p.waiting[part] = r
	}
	return r
}

// run works until ctx ends.
func (p *pump) run(ctx context.Context) {
	var at id.Partition
	for ctx.Err() == nil {
		part, r, in := p.next(at)
		if in != 0 {
			p.sleep(ctx, in)
			continue
		}
		at = part
		if err := p.carry(ctx, part); err != nil {
			r = p.later(part, r)
			p.o.logger.Debug("effects wait", "partition", part, "error", err, "retry_in", r.backoff)
		}
	}
}

func (p *pump) sleep(ctx context.Context, in time.Duration) {
	var due <-chan time.Time
	if in > 0 {
		t := time.NewTimer(in)
		defer t.Stop()
		due = t.C
	}
	select {
	case <-due:
	case <-p.wake:
	case <-ctx.Done():
	}
}

// carry delivers all effects of one partition. An error means that some are
// still waiting; those that were delivered are finished all the same.
func (p *pump) carry(ctx context.Context, part id.Partition) error {
	var after []byte
	var failed error
	for {
		items, err := p.read(part, after)
		if err != nil {
			return fmt.Errorf("read outbox: %w", err)
		}
		if len(items) == 0 {
			return failed
		}
		after = items[len(items)-1].Key
		done, err := p.deliver(ctx, items)
		failed = errors.Join(failed, err)
		if err := p.finish(ctx, done); err != nil {
			return errors.Join(failed, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (p *pump) read(part id.Partition, after []byte) ([]chat.OutboxItem, error) {
	r, err := p.o.view.Reader()
	if err != nil {
		return nil, err
	}
	items, err := chat.OutboxAfter(r, after, part, part, outboxPage)
	return items, errors.Join(err, r.Close())
}

// deliver asks the targets' owners, several at once, and returns the keys of
// those that have the effect now.
func (p *pump) deliver(ctx context.Context, items []chat.OutboxItem) (done [][]byte, err error) {
	ok := make([]bool, len(items))
	errs := make([]error, len(items))
	slots := make(chan struct{}, p.o.set.cfg.OutboxInFlight)
	var wg sync.WaitGroup
	for i, item := range items {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = p.apply(ctx, item)
			ok[i] = errs[i] == nil
		})
	}
	wg.Wait()
	for i, item := range items {
		if ok[i] {
			done = append(done, item.Key)
			p.o.metrics.delivered.Inc()
		} else {
			p.o.metrics.outboxFailed.Inc()
			err = errs[i]
		}
	}
	return done, err
}

func (p *pump) apply(ctx context.Context, item chat.OutboxItem) error {
	cmd := &nodev1.Command{Kind: &nodev1.Command_ApplyEffect{ApplyEffect: &nodev1.ApplyEffect{Effect: item.Effect}}}
	e, err := p.ask(ctx, cmd)
	if err == nil && e != nil && e.code == "invalid_argument" {
		// Repeating will not help, and forgetting it would lose it: it stays for
		// people to look at.
		p.o.logger.Error("an effect is refused by its target", "key", fmt.Sprintf("%x", item.Key), "reason", e.reason)
	}
	if err == nil && e != nil {
		err = fmt.Errorf("refused: %s", e.reason)
	}
	return err
}

func (p *pump) finish(ctx context.Context, keys [][]byte) error {
	if len(keys) == 0 {
		return nil
	}
	e, err := p.ask(ctx, &nodev1.Command{Kind: &nodev1.Command_FinishEffects{
		FinishEffects: &nodev1.FinishEffects{Shard: uint32(p.o.n), Keys: keys},
	}})
	if err == nil && e != nil {
		err = fmt.Errorf("refused: %s", e.reason)
	}
	if err != nil {
		return fmt.Errorf("finish effects: %w", err)
	}
	return nil
}

func (p *pump) ask(ctx context.Context, cmd *nodev1.Command) (*reason, error) {
	ctx, cancel := context.WithTimeout(ctx, effectTimeout)
	defer cancel()
	reply, err := p.o.set.cfg.Do(ctx, cmd)
	if err != nil {
		return nil, err
	}
	if e := reply.GetError(); e != nil {
		return &reason{code: e.GetCode(), reason: e.GetInfo().GetReason()}, nil
	}
	return nil, nil
}
