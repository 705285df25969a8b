package shard

import (
	"fmt"
	"sync"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	"github.com/bongsu-im/bongsu/view"
	"google.golang.org/protobuf/proto"
)

// tailNote is the name under which a shard keeps which lost tails its history
// tells of: a Record of TailLost events, one a proven term.
const tailNote = "lost tails"

// maxLostTails bounds them. Each comes from a disk that lost data, or from a
// client that lies; beyond this many nobody learns anything from one more.
const maxLostTails = 64

// noter is what view.Stage and view.Reader have in common here.
type noter interface {
	Note(name string) ([]byte, error)
}

func readTails(n noter) (*journalv1.Record, error) {
	value, err := n.Note(tailNote)
	if err != nil {
		return nil, fmt.Errorf("read lost tails: %w", err)
	}
	rec := &journalv1.Record{}
	if err := proto.Unmarshal(value, rec); err != nil {
		return nil, fmt.Errorf("read lost tails: %w", err)
	}
	return rec, nil
}

// tailKnown tells whether the history tells of a lost tail that covers this
// position, or of so many that one more is not worth a record.
func tailKnown(n noter, term, index uint64) (bool, error) {
	rec, err := readTails(n)
	if err != nil {
		return false, err
	}
	for _, ev := range rec.Events {
		if t := ev.GetTailLost(); t.GetProvenTerm() == term && t.GetProvenIndex() >= index {
			return true, nil
		}
	}
	return len(rec.Events) >= maxLostTails, nil
}

// noteEvents keeps what events say about the shard as a whole. It is part of
// applying a record, so it reads nothing but the stage.
func noteEvents(st *view.Stage, events []*journalv1.Event) error {
	for _, ev := range events {
		if ev.GetTailLost() == nil {
			continue
		}
		rec, err := readTails(st)
		if err != nil {
			return err
		}
		value, err := encodeRecord(mergeTail(rec, ev))
		if err != nil {
			return err
		}
		st.SetNote(tailNote, value)
	}
	return nil
}

func mergeTail(rec *journalv1.Record, ev *journalv1.Event) *journalv1.Record {
	for i, have := range rec.Events {
		if have.GetTailLost().GetProvenTerm() != ev.GetTailLost().GetProvenTerm() {
			continue
		}
		if have.GetTailLost().GetProvenIndex() < ev.GetTailLost().GetProvenIndex() {
			rec.Events[i] = ev
		}
		return rec
	}
	if len(rec.Events) < maxLostTails {
		rec.Events = append(rec.Events, ev)
	}
	return rec
}

// witnesses remembers the highest proven index a term, so that a crowd of
// clients with the same loss is one line in the log and one command.
type witnesses struct {
	mu     sync.Mutex
	proven map[uint64]uint64 // by term; at most maxLostTails
}

// first tells whether this proves more than anyone has before.
func (w *witnesses) first(term, index uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	have, ok := w.proven[term]
	if ok && have >= index || !ok && len(w.proven) >= maxLostTails {
		return false
	}
	if w.proven == nil {
		w.proven = make(map[uint64]uint64)
	}
	w.proven[term] = index
	return true
}

func (w *witnesses) forget(term uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.proven, term)
}
