package shard

import (
	"context"
	"errors"
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
			return o.readError(at.Index-1, err)
		}
		if err := o.compare(ctx, journal.Lease{}); err != nil {
			return err
		}
	}
	p := o.newProgress()
	for {
		at := journal.Index(o.view.Mark().GetIndex())
		entries, patience, err := o.awaitEntries(ctx, at, began)
		if err != nil {
			return o.readError(at, err)
		}
		if !patience && !o.started && at >= o.log.Last().Index {
			// Another node owns the shard: from here on what it appends is news.
			p.done(at)
			o.turnFollower()
		}
		if len(entries) == 0 {
			continue
		}
		if err := o.apply(entries); err != nil {
			return err
		}
		p.add(len(entries), o.log.Last().Index)
	}
}

// awaitEntries waits for entries after at; for none of them longer than the
// grace in which this node may still become the owner. patience tells that the
// grace is not over.
func (o *owner) awaitEntries(ctx context.Context, at journal.Index, began time.Time) (_ []journal.Entry, patience bool, _ error) {
	left := o.set.cfg.LeaseGrace - time.Since(began)
	if left <= 0 || o.started {
		entries, err := o.log.Read(ctx, at, readBytes)
		return entries, false, err
	}
	brief, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	entries, err := o.log.Read(brief, at, readBytes)
	if err != nil && brief.Err() != nil && ctx.Err() == nil {
		return nil, false, nil
	}
	return entries, true, err
}

// turnFollower begins to answer reads, and to publish, without owning.
func (o *owner) turnFollower() {
	o.started = true
	o.current.Store(true)
	if o.status.setIf(&notOwner, errors.New("another node owns it")) {
		o.inbox.close(notOwner)
	}
}
