package shard

import (
	"bytes"
	"crypto/sha256"
	"fmt"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	"github.com/bongsu-im/bongsu/journal"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// runningHash is the hash of all records up to and including this one:
// SHA-256 over the hash before it and its bytes. Before the first record it is
// 32 zero bytes. It is stored in every next record, so the definition is for ever.
func runningHash(previous, record []byte) []byte {
	h := sha256.New()
	h.Write(previous)
	h.Write(record)
	return h.Sum(nil)
}

// encodeRecord gives the bytes that are appended and hashed.
func encodeRecord(rec *journalv1.Record) ([]byte, error) {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(rec)
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return data, nil
}

// appendEvents encodes events as a record's, behind its other fields and those
// before. So each is sized and encoded once, when it is decided.
func appendEvents(b []byte, events []*journalv1.Event) ([]byte, error) {
	options := proto.MarshalOptions{Deterministic: true, UseCachedSize: true}
	for _, ev := range events {
		b = protowire.AppendTag(b, recordEvents, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(proto.Size(ev)))
		var err error
		if b, err = options.MarshalAppend(b, ev); err != nil {
			return nil, fmt.Errorf("encode event: %w", err)
		}
	}
	return b, nil
}

// recordEvents is the number of Record.events. It must be above those of the
// other fields that owners write: then the bytes are those that encodeRecord
// would have made.
const recordEvents = 4

// decodeEntry reads a record back and checks that it continues the history that
// mark stands on.
func decodeEntry(shard int, mark *journalv1.Mark, e journal.Entry) (*journalv1.Record, error) {
	rec := &journalv1.Record{}
	if err := proto.Unmarshal(e.Data, rec); err != nil {
		return nil, &DamagedError{Shard: shard, View: position(mark), Journal: e.Position,
			Reason: fmt.Sprintf("the entry is no record: %v", err)}
	}
	if !bytes.Equal(rec.PreviousHash, mark.Hash) {
		return nil, &DamagedError{Shard: shard, View: position(mark), Journal: e.Position,
			Reason: fmt.Sprintf("the entry follows a history with the running hash %x, the view has %x", rec.PreviousHash, mark.Hash)}
	}
	return rec, nil
}

func position(m *journalv1.Mark) journal.Position {
	return journal.Position{Term: journal.Term(m.GetTerm()), Index: journal.Index(m.GetIndex())}
}

func journalMark(m *journalv1.Mark) journal.Mark {
	out := journal.Mark{Position: position(m)}
	copy(out.Hash[:], m.GetHash())
	return out
}

// DamagedError: the view and the journal of a shard do not fit together, or a
// record cannot be understood. The shard serves nothing until it is repaired;
// the journal is the truth, so setting the view aside is what to try first.
type DamagedError struct {
	Shard         int
	View, Journal journal.Position // where each stands, or the entry at fault
	Reason        string
	Cause         error
}

func (e *DamagedError) Error() string {
	s := fmt.Sprintf("shard %d is damaged: view at term %d index %d, journal at term %d index %d: %s",
		e.Shard, e.View.Term, e.View.Index, e.Journal.Term, e.Journal.Index, e.Reason)
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

func (e *DamagedError) Unwrap() error { return e.Cause }
