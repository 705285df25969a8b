package shard

import (
	"github.com/bongsu-im/bongsu/chat"
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/journal"
)

// publish hands on what one record has changed, in the order of the journal.
// It runs on the owner's goroutine, so that nothing overtakes anything; only
// read cursors may come later (receipts).
func (o *owner) publish(items []*nodev1.FeedItem, at journal.Position) {
	if len(items) == 0 {
		return
	}
	for _, item := range items {
		item.Shard, item.Index = uint32(o.n), uint64(at.Index)
		if m := item.GetEvent().GetMessage(); m != nil {
			m.Position = o.edgePosition(at)
		}
		if r := item.GetEvent().GetRoom(); r != nil {
			o.set.nameRoomEvent(r)
		}
	}
	o.metrics.feed.Add(float64(len(items)))
	if items = o.receipts.pace(chat.MergeReads(items)); len(items) > 0 {
		o.set.cfg.Feed(items)
	}
}

// announce wakes whoever waits for what the record has changed here.
func (o *owner) announce(rec *journalv1.Record) {
	o.metrics.count(rec)
	o.applied.wake()
	o.pump.note(rec)
}
