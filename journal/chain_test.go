package journal_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	"github.com/bongsu-im/bongsu/journal"
)

// chainOf makes n records, each with the running hash before it.
func chainOf(t *testing.T, n int) []journal.Entry {
	var out []journal.Entry
	var hash [32]byte
	for i := range n {
		data, err := proto.Marshal(&journalv1.Record{Rules: 1, TimeMs: int64(i), PreviousHash: hash[:]})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, journal.Entry{Position: journal.Position{Term: 2, Index: journal.Index(i + 1)}, Data: data})
		hash = journal.NextHash(hash, data)
	}
	return out
}

func check(es []journal.Entry) error {
	var c journal.Chain
	for _, e := range es {
		if err := c.Check(e); err != nil {
			return err
		}
	}
	return nil
}

func TestChain(t *testing.T) {
	es := chainOf(t, 5)
	if err := check(es); err != nil {
		t.Fatal(err)
	}
	if err := check(es[2:]); err != nil {
		t.Fatalf("from the middle: %v", err)
	}
	if err := check(append(es[:2:2], es[3:]...)); err == nil {
		t.Error("a missing record was not noticed")
	}
	if err := check([]journal.Entry{es[0], es[2], es[1]}); err == nil {
		t.Error("exchanged records were not noticed")
	}
	changed := chainOf(t, 5)
	changed[2].Data[3] ^= 1
	if err := check(changed); err == nil {
		t.Error("a changed record was not noticed")
	}
	var c journal.Chain
	c.From([32]byte{1})
	if err := c.Check(es[0]); err == nil {
		t.Error("another beginning was not noticed")
	}
}
