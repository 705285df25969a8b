package demo

import (
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sync"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// maxMessages bounds what a ledger remembers: 7 hours at 40 messages a second.
// Beyond it the bots fall silent, rather than say what nobody checks.
const maxMessages = 1 << 20

// maxAhead bounds how far beyond the end of a room a place may be that a server
// names; a number beyond it is counted as wrong and not remembered.
const maxAhead = 1 << 12

// Tally is what a ledger has counted.
type Tally struct {
	// Sent were put into outboxes; Acknowledged of them the server has said "sent".
	Sent         int `json:"sent"`
	Acknowledged int `json:"acknowledged"`
	// Checked were seen by every member's live stream and in the room's history.
	Checked int `json:"checked"`
	// Lost were acknowledged and are not where a reader should find them.
	Lost int `json:"lost"`
	// Duplicated were shown twice, in two places or by one stream.
	Duplicated int `json:"duplicated"`
	// Holes are places that a stream or a history jumped over.
	Holes int `json:"holes"`
	// Moved stand elsewhere for one than for another.
	Moved int `json:"moved"`
	// Refused were turned down for good.
	Refused int `json:"refused"`
	// Waiting were said by somebody and are not Checked yet.
	Waiting int `json:"waiting"`
	// Details explain the first broken promises in words.
	Details []string `json:"details,omitempty"`
}

// Wrong is how many promises were broken.
func (t Tally) Wrong() int { return t.Lost + t.Duplicated + t.Moved + t.Holes + t.Refused }

// maxDetails bounds Tally.Details.
const maxDetails = 20

// Ledger checks that every acknowledged message is seen exactly once, at its
// place, by each member's live stream and in the history.
type Ledger struct {
	seed maphash.Seed

	mu    sync.Mutex
	books map[string]*book // by room
	size  int              // places in all books
	tally Tally
}

// book is the ledger of one room.
type book struct {
	base    uint64 // the last number before we began to look
	entries []entry
	// readers are the members whose streams are watched, and the last number
	// that each has shown.
	readers map[string]uint64
	// places say where a message is: by sender and client ID.
	places map[[2]string]uint64
}

// entry is one place of a room.
type entry struct {
	digest  uint64 // of sender, client ID and text; 0 while nobody has shown it
	streams uint16 // how many readers' streams have shown it
	flags   uint8
}

const (
	isAcked   = 1 << iota // its sender was told so
	isRead                // a history had it
	isChecked             // counted in Checked
	isLost                // counted in Lost
)

// NewLedger returns an empty one.
func NewLedger() *Ledger {
	return &Ledger{seed: maphash.MakeSeed(), books: map[string]*book{}}
}

// Open begins to watch a room from the number after base, as these readers'
// streams show it. A room that is open gets the new readers besides.
func (l *Ledger) Open(roomID string, base uint64, readers ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.books[roomID]
	if b == nil {
		b = &book{base: base, readers: map[string]uint64{}, places: map[[2]string]uint64{}}
		l.books[roomID] = b
	}
	for _, r := range readers {
		b.readers[r] = base
	}
}

// Full tells that the ledger has no place for more messages.
func (l *Ledger) Full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size >= maxMessages
}

// Sent notes that a message was put into an outbox.
func (l *Ledger) Sent() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally.Sent++
}

// Refused notes that the server has refused a message for good.
func (l *Ledger) Refused(roomID string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally.Refused++
	l.note("room %s: a message was refused: %v", roomID, err)
}

// Acknowledged notes what a sender was told.
func (l *Ledger) Acknowledged(m *edgev1.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.books[m.GetRoomId()]
	if b == nil {
		return
	}
	l.tally.Acknowledged++
	e := l.place(b, m, "its sender")
	if e == nil {
		return
	}
	if e.flags&isAcked != 0 && e.digest == l.digest(m) {
		l.tally.Acknowledged-- // told once more, about the same
		return
	}
	if e.digest != l.digest(m) {
		l.lose(e, "room %s: number %d was acknowledged for %s, and others see something else there", m.GetRoomId(), m.GetSeq(), m.GetClientId())
		return
	}
	e.flags |= isAcked
	l.check(b, e)
}

// Streamed notes what a reader's live stream has shown.
func (l *Ledger) Streamed(reader string, m *edgev1.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.books[m.GetRoomId()]
	if b == nil {
		return
	}
	last, watched := b.readers[reader]
	switch {
	case !watched || m.GetSeq() <= b.base:
		return
	case m.GetSeq() <= last:
		l.tally.Duplicated++
		l.note("room %s: the stream of %s shows %d after %d", m.GetRoomId(), reader, m.GetSeq(), last)
		return
	case m.GetSeq() > last+1:
		l.hole(b, m.GetRoomId(), "the stream of "+reader, last+1, m.GetSeq()-1)
	}
	b.readers[reader] = m.GetSeq()
	if e := l.place(b, m, "the stream of "+reader); e != nil {
		e.streams++
		l.agree(e, m, "the stream of "+reader)
		l.check(b, e)
	}
}

// Read notes a stretch of history as reader got it: everything after a number,
// up to the last of messages, or up to end if that is more (the room's last
// number as the server said with the last page).
func (l *Ledger) Read(roomID, reader string, after uint64, messages []*edgev1.Message, end uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.books[roomID]
	if b == nil {
		return
	}
	last := after
	for _, m := range messages {
		if m.GetSeq() <= last {
			l.tally.Duplicated++
			l.note("room %s: the history of %s has %d after %d", roomID, reader, m.GetSeq(), last)
			continue
		}
		if m.GetSeq() > last+1 {
			l.hole(b, roomID, "the history of "+reader, last+1, m.GetSeq()-1)
		}
		last = m.GetSeq()
		if last <= b.base {
			continue
		}
		if e := l.place(b, m, "the history of "+reader); e != nil {
			e.flags |= isRead
			l.agree(e, m, "the history of "+reader)
			l.check(b, e)
		}
	}
	if end > last {
		l.hole(b, roomID, "the history of "+reader, last+1, min(end, last+maxAhead))
	}
}

// Unread returns the number after which nothing has been read from history yet,
// for rooms that have more than that.
func (l *Ledger) Unread() map[string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]uint64{}
	for room, b := range l.books {
		if i := slices.IndexFunc(b.entries, func(e entry) bool { return e.flags&(isRead|isLost) == 0 }); i >= 0 {
			out[room] = b.base + uint64(i)
		}
	}
	return out
}

// Last returns, by room, the last number that was acknowledged.
func (l *Ledger) Last() map[string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]uint64{}
	for room, b := range l.books {
		out[room] = b.base
		for i, e := range slices.Backward(b.entries) {
			if e.flags&isAcked != 0 {
				out[room] = b.base + uint64(i) + 1
				break
			}
		}
	}
	return out
}

// Base returns, by room, the last number before the ledger began.
func (l *Ledger) Base() map[string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]uint64{}
	for room, b := range l.books {
		out[room] = b.base
	}
	return out
}

// Tally returns what was counted so far.
func (l *Ledger) Tally() Tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tally
	t.Waiting = l.size - t.Checked
	t.Details = slices.Clone(t.Details)
	return t
}

// Settle ends the waiting: what was acknowledged and has not been shown by
// every stream and by history by now is lost. It returns the final tally.
func (l *Ledger) Settle() Tally {
	l.mu.Lock()
	for _, room := range slices.Sorted(maps.Keys(l.books)) {
		b := l.books[room]
		for i := range b.entries {
			e := &b.entries[i]
			if e.flags&isAcked != 0 && e.flags&isChecked == 0 {
				l.lose(e, "room %s: number %d was acknowledged, but only %d of %d streams have shown it (history: %v)",
					room, b.base+uint64(i)+1, e.streams, len(b.readers), e.flags&isRead != 0)
			}
		}
	}
	l.mu.Unlock()
	return l.Tally()
}

// The rest runs with mu held.

func (l *Ledger) note(format string, args ...any) {
	if len(l.tally.Details) < maxDetails {
		l.tally.Details = append(l.tally.Details, fmt.Sprintf(format, args...))
	}
}

// digest is never 0. Two messages have the same by a chance of 1 in 2⁶⁴.
func (l *Ledger) digest(m *edgev1.Message) uint64 {
	var h maphash.Hash
	h.SetSeed(l.seed)
	for _, s := range []string{m.GetSenderId(), m.GetClientId(), m.GetText()} {
		_, _ = h.WriteString(s) // never fails
		_ = h.WriteByte(0)
	}
	return h.Sum64() | 1
}

// place returns the entry of a message's number, and remembers the message
// there if nobody has shown it yet. It returns nil for a number that cannot be.
func (l *Ledger) place(b *book, m *edgev1.Message, who string) *entry {
	seq := m.GetSeq()
	if seq <= b.base {
		return nil
	}
	i := seq - b.base - 1
	if i >= uint64(len(b.entries))+maxAhead {
		l.tally.Moved++
		l.note("room %s: %s has number %d, %d beyond the end", m.GetRoomId(), who, seq, i-uint64(len(b.entries))+1)
		return nil
	}
	for uint64(len(b.entries)) <= i {
		b.entries = append(b.entries, entry{})
		l.size++
	}
	e := &b.entries[i]
	if e.digest == 0 {
		e.digest = l.digest(m)
		key := [2]string{m.GetSenderId(), m.GetClientId()}
		if first, known := b.places[key]; known && first != seq {
			l.tally.Duplicated++
			l.note("room %s: message %s is at %d and at %d", m.GetRoomId(), m.GetClientId(), first, seq)
		}
		b.places[key] = seq
	}
	return e
}

// agree checks that a place holds for this one what it holds for all.
func (l *Ledger) agree(e *entry, m *edgev1.Message, who string) {
	switch {
	case e.digest == l.digest(m):
	case e.flags&isAcked != 0:
		l.lose(e, "room %s: for %s number %d is not what was acknowledged there", m.GetRoomId(), who, m.GetSeq())
	default:
		l.tally.Moved++
		l.note("room %s: for %s number %d is not what others see there", m.GetRoomId(), who, m.GetSeq())
	}
}

// hole counts the places that somebody jumped over; acknowledged ones are lost.
func (l *Ledger) hole(b *book, roomID, who string, from, to uint64) {
	l.note("room %s: %s has nothing from %d to %d", roomID, who, from, to)
	for seq := max(from, b.base+1); seq <= to && seq-from < maxAhead; seq++ {
		i := seq - b.base - 1
		if i < uint64(len(b.entries)) && b.entries[i].flags&isAcked != 0 {
			l.lose(&b.entries[i], "room %s: number %d was acknowledged, and %s lacks it", roomID, seq, who)
			continue
		}
		l.tally.Holes++
	}
}

// lose counts an acknowledged message as lost, once.
func (l *Ledger) lose(e *entry, format string, args ...any) {
	if e.flags&isLost == 0 {
		e.flags |= isLost
		l.tally.Lost++
		l.note(format, args...)
	}
}

func (l *Ledger) check(b *book, e *entry) {
	if e.flags&(isChecked|isLost) == 0 && e.flags&isRead != 0 && int(e.streams) == len(b.readers) {
		e.flags |= isChecked
		l.tally.Checked++
	}
}
