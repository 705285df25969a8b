package chat

import (
	"bytes"
	"slices"
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
}

type pending struct {
	key, value []byte // value nil: deleted
}

const indexAbove = 16

func newOverlay(below Tx) *overlay {
	return &overlay{below: below, writes: make([]pending, 0, 8)}
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
	o.put(key, append(make([]byte, 0, len(value)), value...))
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
	o.writes = append(o.writes, pending{bytes.Clone(key), value})
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

// drop forgets every write.
func (o *overlay) drop() {
	o.writes, o.index = o.writes[:0], nil
}
