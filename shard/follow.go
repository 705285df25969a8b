package shard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bongsu-im/bongsu/chat"
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/mutant"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/view"
	"google.golang.org/protobuf/proto"
)

const (
	readBytes  = 4 << 20 // of entries read at once while catching up
	stageBytes = 8 << 20 // of effects after which a stage is committed
	reportTime = 2 * time.Second
)

// catchUp applies everything committed that the view does not have. Before the
// first time it makes sure that the view belongs to this journal.
func (o *owner) catchUp(ctx context.Context, lease journal.Lease) error {
	if err := o.compare(ctx, lease); err != nil {
		return err
	}
	p := o.newProgress()
	for {
		at := journal.Index(o.view.Mark().GetIndex())
		goal := max(lease.Applied, o.log.Last().Index)
		if mutant.On(mutant.SkipCatchUp) {
			goal = 0
		}
		if at >= goal {
			if m := o.view.Mark(); m.GetIndex() > 0 {
				o.log.SetMark(journalMark(m))
			}
			p.done(at)
			return nil
		}
		entries, err := o.read(ctx, at)
		if err != nil {
			err = o.readError(ctx, at, err)
		} else {
			err = o.apply(at, entries)
		}
		if err != nil {
			return err
		}
		p.add(len(entries), goal)
	}
}

// read is log.Read, told to lag.
func (o *owner) read(ctx context.Context, at journal.Index) ([]journal.Entry, error) {
	o.lag.reading(at, o.log.Last().Index)
	defer o.lag.woken()
	return o.log.Read(ctx, at, readBytes)
}

// readError decides what an error of read means; nil if the view has moved since
// and is to be looked at again. If what follows at has been trimmed, the view has
// fallen too far behind, and a peer's is fetched.
func (o *owner) readError(ctx context.Context, at journal.Index, err error) error {
	switch {
	case !errors.Is(err, journal.ErrTrimmed):
		return fmt.Errorf("read journal after entry %d: %w", at, err)
	case o.moved(at):
		return nil // the journal has begun anew behind the view that was taken in
	case o.set.cfg.FetchView == nil:
		return &DamagedError{Shard: o.n, View: position(o.view.Mark()), Journal: o.log.Last(),
			Reason: "the journal no longer has the entries that the view lacks", Cause: err}
	}
	return o.fetchView(ctx, at)
}

// compare checks that the view's mark lies on the journal's history: not
// beyond its end, not on a branch of it, and with the same running hash.
func (o *owner) compare(ctx context.Context, lease journal.Lease) error {
	mark := o.view.Mark()
	at := position(mark)
	if at.Index == 0 {
		return nil
	}
	last := o.log.Last()
	fail := func(why string) error {
		return &DamagedError{Shard: o.n, View: at, Journal: last, Reason: why}
	}
	beyond := at.Index > max(last.Index, lease.Applied)
	switch known := o.log.Contains(at); {
	case beyond && !known:
		return fail("the view has applied entries that the journal does not have")
	case !known:
		return fail("the view stands on an entry that is not in the journal's history")
	case beyond:
		return nil // it was taken from a peer, and the journal is about to go on behind it
	}
	if o.started {
		return nil // what this process applied itself, it has hashed itself
	}
	entries, err := o.log.Read(ctx, at.Index-1, 1)
	switch {
	case errors.Is(err, journal.ErrTrimmed):
		return nil // the next entry, if there is one, carries the hash
	case err != nil:
		return fmt.Errorf("read journal after entry %d: %w", at.Index-1, err)
	case len(entries) == 0 || entries[0].Position != at:
		return fail("the view stands on an entry that the journal cannot show")
	}
	rec := &journalv1.Record{}
	if err := proto.Unmarshal(entries[0].Data, rec); err != nil {
		return fail(fmt.Sprintf("the entry is no record: %v", err))
	}
	if got := runningHash(rec.PreviousHash, entries[0].Data); string(got) != string(mark.Hash) {
		return fail(fmt.Sprintf("their running hashes differ: view %x, journal %x", mark.Hash, got))
	}
	return nil
}

// apply applies entries that follow after and were not staged here, many to a
// stage, and publishes them if they are news. If the view was replaced meanwhile,
// and does not stand at after, they are not what follows it, and are left.
func (o *owner) apply(after journal.Index, entries []journal.Entry) error {
	for len(entries) > 0 {
		n, err := o.applySome(after, entries)
		if n == 0 || err != nil {
			return err
		}
		after = entries[n-1].Index
		entries = entries[n:]
	}
	return nil
}

func (o *owner) applySome(after journal.Index, entries []journal.Entry) (n int, err error) {
	stage, err := o.view.Stage()
	if err != nil {
		return 0, fmt.Errorf("stage: %w", err)
	}
	defer stage.Discard()
	mark := o.view.Mark() // while a stage is open nobody moves it
	if journal.Index(mark.GetIndex()) != after {
		return 0, nil
	}
	o.passing(entries[0].Index)
	var feeds [][]*nodev1.FeedItem
	var records []*journalv1.Record
	for n < len(entries) && stage.Bytes() < stageBytes {
		if n > 0 && o.cuts.between(entries[n-1].Index, entries[n].Index) {
			break
		}
		rec, feed, next, err := o.applyOne(stage, mark, entries[n])
		if err != nil {
			return 0, err
		}
		n, mark = n+1, next
		feeds, records = append(feeds, feed), append(records, rec)
	}
	if err := stage.Commit(mark); err != nil {
		return 0, fmt.Errorf("commit entries up to %d: %w", mark.Index, err)
	}
	o.log.SetMark(journalMark(mark))
	for i, feed := range feeds {
		if o.started {
			o.publish(feed, entries[i].Position)
			o.metrics.count(records[i])
		}
		o.pump.note(records[i])
	}
	o.applied.wake()
	return n, nil
}

func (o *owner) applyOne(stage *view.Stage, mark *journalv1.Mark, e journal.Entry) (*journalv1.Record, []*nodev1.FeedItem, *journalv1.Mark, error) {
	rec, err := decodeEntry(o.n, mark, e)
	if err != nil {
		return nil, nil, nil, err
	}
	feed, asides, err := chat.ApplyRecordWatched(stage, rec)
	if mutant.On(mutant.ApplyTwice) && e.Index%16 == 0 && err == nil {
		_, _, err = chat.ApplyRecordWatched(stage, rec)
	}
	if err == nil {
		err = noteEvents(stage, rec.Events)
	}
	if err != nil {
		var fenced *view.FencedError
		if errors.As(err, &fenced) || errors.Is(err, chat.ErrUnknownRules) {
			return nil, nil, nil, fmt.Errorf("apply entry %d: %w", e.Index, err)
		}
		return nil, nil, nil, &DamagedError{Shard: o.n, View: position(mark), Journal: e.Position,
			Reason: "the entry cannot be applied", Cause: err}
	}
	for _, a := range asides {
		o.tellAside(a)
	}
	next := &journalv1.Mark{
		Term: uint64(e.Term), Index: uint64(e.Index), Hash: runningHash(mark.Hash, e.Data),
		Rules: chat.RulesAfter(max(mark.Rules, 1), rec),
	}
	return rec, feed, next, nil
}

// progress tells people how a replay goes; a short one passes in silence.
type progress struct {
	o               *owner
	began, reported time.Time
	from            uint64
	records         int
}

func (o *owner) newProgress() *progress {
	now := time.Now()
	return &progress{o: o, began: now, reported: now, from: o.view.Mark().GetIndex()}
}

func (p *progress) add(records int, goal journal.Index) {
	p.records += records
	if p.o.started { // a follower that has caught up applies for ever
		return
	}
	if time.Since(p.reported) < reportTime {
		return
	}
	p.reported = time.Now()
	p.o.logger.Info("applying the journal", "records", p.records, "at", p.o.view.Mark().GetIndex(), "of", goal, "records_per_second", p.rate())
}

func (p *progress) done(at journal.Index) {
	if p.records > 0 {
		p.o.logger.Info("journal applied", "records", p.records, "from", p.from, "to", at,
			"took", time.Since(p.began).Round(time.Millisecond), "records_per_second", p.rate())
	}
}

func (p *progress) rate() int {
	return int(float64(p.records) / max(time.Since(p.began).Seconds(), 0.001))
}
