package demo

import (
	"errors"
	"fmt"
	"testing"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

func said(seq uint64, text string) *edgev1.Message {
	return &edgev1.Message{RoomId: "room", Seq: seq, SenderId: "mina", ClientId: "id of " + text, Text: text}
}

// well is a ledger of three messages that everybody has seen.
func well() *Ledger {
	l := NewLedger()
	l.Open("room", 0, "mina", "joon")
	for i := uint64(1); i <= 3; i++ {
		m := said(i, fmt.Sprint("words ", i))
		l.Sent()
		l.Streamed("mina", m)
		l.Acknowledged(m)
		l.Streamed("joon", m)
	}
	l.Read("room", "joon", 0, []*edgev1.Message{said(1, "words 1"), said(2, "words 2"), said(3, "words 3")}, 3)
	return l
}

func TestLedgerOfAGoodServer(t *testing.T) {
	l := well()
	if got := l.Tally(); got.Wrong() != 0 || got.Sent != 3 || got.Acknowledged != 3 || got.Checked != 3 || got.Waiting != 0 {
		t.Errorf("tally = %+v", got)
	}
	// A message of somebody who has no outbox of ours, an acknowledgement that
	// is told again, and one that history has before any stream.
	l.Acknowledged(said(3, "words 3"))
	l.Read("room", "joon", 3, []*edgev1.Message{said(4, "from a person")}, 4)
	if got := l.Tally(); got.Waiting != 1 || got.Acknowledged != 3 {
		t.Errorf("before the streams: %+v", got)
	}
	l.Streamed("joon", said(4, "from a person"))
	l.Streamed("mina", said(4, "from a person"))
	if got := l.Settle(); got.Wrong() != 0 || got.Checked != 4 {
		t.Errorf("tally = %+v", got)
	}
}

// Every way in which a server can be wrong must be counted, and by its name.
func TestLedgerCountsWhatIsWrong(t *testing.T) {
	tests := []struct {
		name string
		do   func(*Ledger)
		want Tally
	}{
		{"a history without an acknowledged message", func(l *Ledger) {
			l.Read("room", "joon", 0, []*edgev1.Message{said(1, "words 1"), said(3, "words 3")}, 3)
		}, Tally{Lost: 1}},
		{"a history that ends before its last number", func(l *Ledger) {
			l.Read("room", "joon", 0, []*edgev1.Message{said(1, "words 1")}, 3)
		}, Tally{Lost: 2}},
		{"the same loss seen twice", func(l *Ledger) {
			l.Read("room", "joon", 0, []*edgev1.Message{said(1, "words 1")}, 2)
			l.Read("room", "mina", 0, []*edgev1.Message{said(1, "words 1")}, 2)
		}, Tally{Lost: 1}},
		{"other words in an acknowledged place", func(l *Ledger) {
			l.Read("room", "joon", 0, []*edgev1.Message{said(1, "words 1"), said(2, "no words")}, 2)
		}, Tally{Lost: 1}},
		{"a message in two places", func(l *Ledger) {
			l.Streamed("joon", said(4, "words 2"))
		}, Tally{Duplicated: 1}},
		{"a stream that shows a number again", func(l *Ledger) {
			l.Streamed("joon", said(3, "words 3"))
		}, Tally{Duplicated: 1}},
		{"a history that shows a number twice", func(l *Ledger) {
			l.Read("room", "joon", 2, []*edgev1.Message{said(3, "words 3"), said(3, "words 3")}, 3)
		}, Tally{Duplicated: 1}},
		{"a stream that jumps", func(l *Ledger) {
			l.Streamed("joon", said(6, "far away"))
		}, Tally{Holes: 2}},
		{"a place that two see differently", func(l *Ledger) {
			l.Streamed("joon", said(4, "one thing"))
			l.Streamed("mina", said(4, "another"))
		}, Tally{Moved: 1}},
		{"a number out of this world", func(l *Ledger) {
			l.Read("room", "joon", 1<<60-1, []*edgev1.Message{said(1<<60, "far out")}, 1<<60)
		}, Tally{Moved: 1}},
		{"an acknowledgement for a place that is another's", func(l *Ledger) {
			l.Streamed("joon", said(4, "one thing"))
			l.Acknowledged(said(4, "another"))
		}, Tally{Lost: 1}},
		{"a refusal", func(l *Ledger) { l.Refused("room", errors.New("no")) }, Tally{Refused: 1}},
		{"acknowledged and never seen", func(l *Ledger) {
			l.Acknowledged(said(4, "into the void"))
			l.Settle()
		}, Tally{Lost: 1}},
		{"a stream that stops", func(l *Ledger) {
			l.Acknowledged(said(4, "more"))
			l.Streamed("mina", said(4, "more"))
			l.Read("room", "mina", 3, []*edgev1.Message{said(4, "more")}, 4)
			l.Settle()
		}, Tally{Lost: 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := well()
			test.do(l)
			got := l.Tally()
			if got.Lost != test.want.Lost || got.Duplicated != test.want.Duplicated || got.Holes != test.want.Holes ||
				got.Moved != test.want.Moved || got.Refused != test.want.Refused {
				t.Errorf("tally = %+v, want %+v", got, test.want)
			}
			if got.Wrong() != 1 && got.Wrong() != 2 || len(got.Details) == 0 {
				t.Errorf("%d wrong, explained by %q", got.Wrong(), got.Details)
			}
		})
	}
}

func TestLedgerKnowsWhatToRead(t *testing.T) {
	l := NewLedger()
	l.Open("room", 10, "mina")
	if len(l.Unread()) != 0 || l.Last()["room"] != 10 || l.Base()["room"] != 10 {
		t.Errorf("an empty room: unread %v, last %v", l.Unread(), l.Last())
	}
	l.Streamed("mina", said(10, "from before"))
	for i := uint64(11); i <= 14; i++ {
		l.Streamed("mina", said(i, fmt.Sprint(i)))
	}
	l.Acknowledged(said(13, "13"))
	l.Read("room", "mina", 8, []*edgev1.Message{said(9, "9"), said(10, "10"), said(11, "11"), said(12, "12")}, 12)
	if got := l.Unread()["room"]; got != 12 {
		t.Errorf("read up to 12, the ledger says %d", got)
	}
	if got := l.Last()["room"]; got != 13 {
		t.Errorf("acknowledged up to 13, the ledger says %d", got)
	}
	if got := l.Tally(); got.Wrong() != 0 || got.Checked != 2 || got.Waiting != 2 {
		t.Errorf("tally = %+v", got)
	}
}
