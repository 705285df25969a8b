package shard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bongsu-im/bongsu/journal"
)

// follow waits for ownership. Meanwhile it applies what other owners append, so
// that this replica can be read, its feed goes on, and it takes over at once.
func (o *owner) follow(ctx context.Context) (journal.Lease, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		lease journal.Lease
		err   error
	}
	ended := make(chan outcome, 1)
	reading, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		defer stop()
		lease, err := o.lease(ctx)
		ended <- outcome{lease, err}
	}()
	err := o.replicate(reading)
	if reading.Err() == nil { // it failed, and nobody told it to end
		cancel()
		<-ended
		return journal.Lease{}, err
	}
	out := <-ended
	return out.lease, out.err
}

// replicate applies committed entries as they come, until ctx ends. Its error
// means something only while ctx lives.
func (o *owner) replicate(ctx context.Context) error {
	began := time.Now()
	if at := position(o.view.Mark()); at.Index > 0 && !o.started {
		// Until the entry that the view stands on is known to be committed here,
		// this journal does not know its own end.
		_, err := o.log.Read(ctx, at.Index-1, 1)
		if err != nil && !errors.Is(err, journal.ErrTrimmed) {
			return fmt.Errorf("read journal after entry %d: %w", at.Index-1, err)
		}
		if err := o.compare(ctx, journal.Lease{}); err != nil {
			return err
		}
	}
	p := o.newProgress()
	var goal horizon
	for {
		at := journal.Index(o.view.Mark().GetIndex())
		left := o.set.cfg.LeaseGrace - time.Since(began)
		if !o.started && left <= 0 && goal.reached(at, o.log) {
			// Another node owns the shard: from here on what it appends is news.
			p.done(at)
			o.turnFollower()
		}
		entries, err := o.awaitEntries(ctx, at, left)
		if err != nil {
			err = o.readError(ctx, at, err)
		} else {
			err = o.apply(at, entries)
		}
		if err != nil {
			return err
		}
		p.add(len(entries), o.log.Last().Index)
	}
}

// horizon is where a log ended at a moment. Who has applied it as far as that a
// moment later is near its end: under steady traffic no one is ever at it.
type horizon struct {
	index journal.Index
	at    time.Time // zero: not looked yet
}

// near is how long ago the end must have been where a follower is now.
const near = time.Second

func (h *horizon) reached(at journal.Index, log journal.Log) bool {
	if !h.at.IsZero() && at < h.index {
		return false
	}
	if h.at.IsZero() || time.Since(h.at) > near {
		h.index, h.at = log.Last().Index, time.Now()
	}
	return at >= h.index
}

// awaitEntries waits for entries after at; for none of them longer than what is
// left of the grace in which this node may still become the owner.
func (o *owner) awaitEntries(ctx context.Context, at journal.Index, left time.Duration) ([]journal.Entry, error) {
	if left <= 0 || o.started {
		return o.read(ctx, at)
	}
	brief, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	entries, err := o.read(brief, at)
	if err != nil && brief.Err() != nil && ctx.Err() == nil && !errors.Is(err, journal.ErrTrimmed) {
		return nil, nil
	}
	return entries, err
}

// turnFollower begins to answer reads, and to publish, without owning.
func (o *owner) turnFollower() {
	o.started = true
	o.current.Store(true)
	if o.status.setIf(&notOwner, errors.New("another node owns it")) {
		o.inbox.close(notOwner)
	}
}
