package shard

import (
	"bytes"
	"testing"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
)

// A record whose events were encoded one after the other, as they were decided, has
// the bytes of one that is encoded whole: formats are for ever.
func TestEventsAreEncodedAsTheRecordWouldBe(t *testing.T) {
	events := []*journalv1.Event{
		{Kind: &journalv1.Event_RulesActivated{RulesActivated: &journalv1.RulesActivated{Version: 300}}},
		{},
		{Kind: &journalv1.Event_TailLost{TailLost: &journalv1.TailLost{ProvenTerm: 1 << 40, Proof: string(bytes.Repeat([]byte("x"), 300))}}},
		{Kind: &journalv1.Event_MessageSent{MessageSent: &journalv1.MessageSent{Text: "안녕", Seq: 7}}},
	}
	for n := range len(events) + 1 {
		rec := &journalv1.Record{Rules: 1, TimeMs: 1795380420000, PreviousHash: make([]byte, 32)}
		got, err := encodeRecord(rec)
		if err != nil {
			t.Fatal(err)
		}
		if got, err = appendEvents(got, events[:n]); err != nil {
			t.Fatal(err)
		}
		rec.Events = events[:n]
		want, err := encodeRecord(rec)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d events: %x, want %x, %v", n, got, want, err)
		}
	}
}
