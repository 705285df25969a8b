package chat

import (
	"bytes"
	"slices"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// overlay is a savepoint: it reads through to the transaction below and holds
// back writes until flush, so that an event is applied whole or not at all.
type overlay struct {
	below  Tx
	writes []pending
	// index finds a write by key once there are too many to look through; most
	// events write fewer than indexAbove entries and never pay for it.
	index map[string]int
	// inStore is set while a call to below is under way: a panic there is the
	// store's failure, never the event's.
	inStore bool
	decided decidedOn
	first   [6]pending // of writes: as many as most events make
}

type pending struct {
	key, value []byte // value nil: deleted
}

const indexAbove = 16

func newOverlay(below Tx) *overlay {
	o := &overlay{below: below}
	o.writes = o.first[:0]
	return o
}

func (o *overlay) find(key []byte) int {
	if o.index != nil {
		if i, ok := o.index[string(key)]; ok {
			return i
		}
		return -1
	}
	for i := len(o.writes) - 1; i >= 0; i-- {
		if bytes.Equal(o.writes[i].key, key) {
			return i
		}
	}
	return -1
}

// Get implements Reader.
func (o *overlay) Get(key []byte) ([]byte, error) {
	if i := o.find(key); i >= 0 {
		return o.writes[i].value, nil
	}
	o.inStore = true
	v, err := o.below.Get(key)
	o.inStore = false
	return v, err
}

// Scan implements Reader: what lies below, with our writes laid over it.
func (o *overlay) Scan(low, high []byte, reverse bool, fn func(key, value []byte) bool) error {
	ours := o.inRange(low, high, reverse)
	less := func(a, b []byte) bool {
		if reverse {
			return bytes.Compare(a, b) > 0
		}
		return bytes.Compare(a, b) < 0
	}
	stopped := false
	emit := func(key, value []byte) bool {
		o.inStore = false
		if value != nil && !fn(key, value) {
			stopped = true
		}
		o.inStore = true
		return !stopped
	}
	o.inStore = true
	err := o.below.Scan(low, high, reverse, func(key, value []byte) bool {
		for len(ours) > 0 && less(ours[0].key, key) {
			if !emit(ours[0].key, ours[0].value) {
				return false
			}
			ours = ours[1:]
		}
		if len(ours) > 0 && bytes.Equal(ours[0].key, key) {
			value, ours = ours[0].value, ours[1:]
		}
		return emit(key, value)
	})
	for err == nil && !stopped && len(ours) > 0 {
		emit(ours[0].key, ours[0].value)
		ours = ours[1:]
	}
	o.inStore = false
	return err
}

func (o *overlay) inRange(low, high []byte, reverse bool) []pending {
	var in []pending
	for _, w := range o.writes {
		if bytes.Compare(w.key, low) >= 0 && bytes.Compare(w.key, high) < 0 {
			in = append(in, w)
		}
	}
	slices.SortFunc(in, func(a, b pending) int {
		if reverse {
			a, b = b, a
		}
		return bytes.Compare(a.key, b.key)
	})
	return in
}

// Set implements Tx. An empty value is kept as a value.
func (o *overlay) Set(key, value []byte) error {
	if value == nil {
		value = []byte{}
	}
	o.put(key, value)
	return nil
}

// Delete implements Tx.
func (o *overlay) Delete(key []byte) error {
	o.put(key, nil)
	return nil
}

func (o *overlay) put(key, value []byte) {
	if i := o.find(key); i >= 0 {
		o.writes[i].value = value
		return
	}
	o.writes = append(o.writes, pending{key, value})
	switch {
	case o.index != nil:
		o.index[string(key)] = len(o.writes) - 1
	case len(o.writes) > indexAbove:
		o.index = make(map[string]int, 4*indexAbove)
		for i, w := range o.writes {
			o.index[string(w.key)] = i
		}
	}
}

// flush writes everything to the transaction below, in the order of first writing.
func (o *overlay) flush() error {
	o.inStore = true
	defer func() { o.inStore = false }()
	for _, w := range o.writes {
		var err error
		if w.value == nil {
			err = remove(o.below, w.key)
		} else {
			err = set(o.below, w.key, w.value)
		}
		if err != nil {
			return err
		}
	}
	o.drop()
	return nil
}

// drop forgets every write, and what was decided on.
func (o *overlay) drop() {
	o.writes, o.index, o.decided = o.writes[:0], nil, decidedOn{}
}

// Above implements Ceiling, as far as the transaction below does.
func (o *overlay) Above(key []byte, prefix int) (bool, error) {
	c, ok := o.below.(Ceiling)
	if !ok || len(o.writes) > 0 {
		return false, nil
	}
	o.inStore = true
	above, err := c.Above(key, prefix)
	o.inStore = false
	return above, err
}

// decidedOn is the room and the member that a command was decided on, decoded.
// The event that follows takes them instead of decoding the same bytes again.
// They are taken once and only before the first write, as whoever takes them
// changes them.
type decidedOn struct {
	room     *journalv1.RoomState
	member   *journalv1.MemberState
	memberOf id.ID // the room that member is of
	user     id.ID // who member is
}

// keepRoom and keepMember remember what a decision reads through an overlay.
func keepRoom(r Reader, s *journalv1.RoomState) {
	if o, ok := r.(*overlay); ok && len(o.writes) == 0 {
		o.decided.room = s
	}
}

func keepMember(r Reader, room, user id.ID, m *journalv1.MemberState) {
	if o, ok := r.(*overlay); ok && len(o.writes) == 0 {
		o.decided.member, o.decided.memberOf, o.decided.user = m, room, user
	}
}

// takeRoom returns the room if it is the one kept, else nil.
func takeRoom(r Reader, room id.ID) *journalv1.RoomState {
	o, ok := r.(*overlay)
	if !ok || len(o.writes) > 0 || !bytes.Equal(o.decided.room.GetRoomId(), room[:]) {
		return nil
	}
	s := o.decided.room
	o.decided.room = nil
	return s
}

func takeMember(r Reader, room, user id.ID) *journalv1.MemberState {
	o, ok := r.(*overlay)
	if !ok || len(o.writes) > 0 || o.decided.memberOf != room || o.decided.user != user {
		return nil
	}
	m := o.decided.member
	o.decided.member = nil
	return m
}
