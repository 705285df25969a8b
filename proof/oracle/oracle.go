// Package oracle judges whether a messenger kept its promise: it is the
// independent model of what people were told and what they can read afterwards.
//
// It shares no code with what it judges beyond the generated API types: no
// rules, no client, no store. Vocabulary: an acknowledgement is "sent" as the
// sender saw it; a side is a room's whole history as one reader gets it.
// Lost: acknowledged, and a side lacks it. Duplicated: a side has one client ID
// twice. Moved: a message is at another place than was acknowledged, or two
// sides disagree on a place. Hole: a number that a side does not have between
// its first and its last.
//
// Everything here is pure and single-threaded. It does not run anything.
package oracle

import (
	"cmp"
	"fmt"
	"slices"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// Acknowledgement is one "sent", as the sender was told.
type Acknowledgement struct {
	RoomID, SenderID string
	ClientID         string // UUID text, lower case
	Text             string
	Seq              uint64
}

// Side is the history of a room as one reader gets it, from joining to the end.
type Side struct {
	RoomID, Reader string
	// Joined is the last number before the reader joined: 0 for the first members.
	Joined   uint64
	Messages []*edgev1.Message
}

// Verdict counts broken promises; all zero is what we want.
type Verdict struct {
	Acknowledged                   int
	Lost, Duplicated, Moved, Holes int
	// Details explain the first of them in words, at most MaxDetails.
	Details []string
}

// MaxDetails bounds Verdict.Details.
const MaxDetails = 20

// Wrong is how many promises were broken.
func (v *Verdict) Wrong() int { return v.Lost + v.Duplicated + v.Moved + v.Holes }

func (v *Verdict) note(format string, args ...any) {
	if len(v.Details) < MaxDetails {
		v.Details = append(v.Details, fmt.Sprintf(format, args...))
	}
}

type place struct {
	room string
	seq  uint64
}

// message is what must agree between everyone who sees a place.
type message struct{ sender, clientID, text string }

func of(m *edgev1.Message) message {
	return message{m.GetSenderId(), m.GetClientId(), m.GetText()}
}

// Judge compares what was acknowledged with what each side reads. Every room of
// an acknowledgement needs at least one side, or its messages count as lost.
func Judge(acks []Acknowledgement, sides []Side) Verdict {
	v := Verdict{Acknowledged: len(acks)}
	agreed := map[place]message{}
	bySeq := make([]map[uint64]*edgev1.Message, len(sides))
	byClient := make([]map[message]uint64, len(sides)) // text left empty: sender and client ID
	inRoom := map[string][]int{}
	for i, s := range sides {
		inRoom[s.RoomID] = append(inRoom[s.RoomID], i)
		bySeq[i], byClient[i] = v.readSide(s, agreed)
	}
	placed := map[place]message{}
	for _, a := range sorted(acks) {
		m := message{a.SenderID, a.ClientID, a.Text}
		if other, taken := placed[place{a.RoomID, a.Seq}]; taken && other != m {
			v.Moved++
			v.note("room %s: number %d was acknowledged for %s and for %s", a.RoomID, a.Seq, other.clientID, a.ClientID)
		}
		placed[place{a.RoomID, a.Seq}] = m
		if len(inRoom[a.RoomID]) == 0 {
			v.Lost++
			v.note("room %s: nobody could read it, message %s was acknowledged at %d", a.RoomID, a.ClientID, a.Seq)
		}
		for _, i := range inRoom[a.RoomID] {
			v.look(a, sides[i], bySeq[i], byClient[i])
		}
	}
	return v
}

// look finds one acknowledged message on one side.
func (v *Verdict) look(a Acknowledgement, s Side, bySeq map[uint64]*edgev1.Message, byClient map[message]uint64) {
	if a.Seq <= s.Joined {
		return // from before the reader joined
	}
	if m := bySeq[a.Seq]; m != nil && of(m) == (message{a.SenderID, a.ClientID, a.Text}) {
		return
	}
	at, somewhere := byClient[message{sender: a.SenderID, clientID: a.ClientID}]
	switch {
	case !somewhere:
		v.Lost++
		v.note("room %s, read by %s: message %s, acknowledged at %d, is not there", s.RoomID, s.Reader, a.ClientID, a.Seq)
	case at != a.Seq:
		v.Moved++
		v.note("room %s, read by %s: message %s, acknowledged at %d, is at %d", s.RoomID, s.Reader, a.ClientID, a.Seq, at)
	default:
		v.Lost++
		v.note("room %s, read by %s: message %s at %d has other words than were acknowledged", s.RoomID, s.Reader, a.ClientID, a.Seq)
	}
}

// readSide checks a side in itself and against what other sides have shown.
func (v *Verdict) readSide(s Side, agreed map[place]message) (map[uint64]*edgev1.Message, map[message]uint64) {
	bySeq, byClient := map[uint64]*edgev1.Message{}, map[message]uint64{}
	before := s.Joined
	for _, m := range s.Messages {
		seq := m.GetSeq()
		switch {
		case seq <= before:
			v.Moved++
			v.note("room %s, read by %s: number %d comes after %d", s.RoomID, s.Reader, seq, before)
		case seq > before+1:
			v.Holes += int(min(seq-before-1, 1<<30))
			v.note("room %s, read by %s: nothing between %d and %d", s.RoomID, s.Reader, before, seq)
		}
		before = max(before, seq)
		who := message{sender: m.GetSenderId(), clientID: m.GetClientId()}
		if first, twice := byClient[who]; twice {
			v.Duplicated++
			v.note("room %s, read by %s: message %s is at %d and at %d", s.RoomID, s.Reader, m.GetClientId(), first, seq)
		} else {
			byClient[who] = seq
		}
		bySeq[seq] = m
		at := place{s.RoomID, seq}
		if other, seen := agreed[at]; seen && other != of(m) {
			v.Moved++
			v.note("room %s: %s reads another message at %d than others do", s.RoomID, s.Reader, seq)
		} else {
			agreed[at] = of(m)
		}
	}
	return bySeq, byClient
}

// sorted makes verdicts the same whatever order acknowledgements came in.
func sorted(acks []Acknowledgement) []Acknowledgement {
	return slices.SortedFunc(slices.Values(acks), func(a, b Acknowledgement) int {
		return cmp.Or(cmp.Compare(a.RoomID, b.RoomID), cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.ClientID, b.ClientID))
	})
}
