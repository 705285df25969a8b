package view

// recent keeps the committed values that stages of one shard have read, within
// a bound: the same few rooms and members are read for message after message,
// and each read of Pebble looks through memtables and tables anew.
//
// It holds committed values only. A stage is the one writer of its shard and
// there is one stage at a time, so what Commit writes is all that can change;
// it is used from the stage's goroutine alone. Keys that were not found are not
// kept: they are mostly new client IDs, asked for once.
type recent struct {
	values map[string][]byte
	bytes  int // of keys and values
}

const (
	maxRecentBytes      = 4 << 20 // a shard
	maxRecentEntryBytes = 1 << 10 // larger ones are messages, not counters
)

func newRecent() *recent { return &recent{values: make(map[string][]byte)} }

func (r *recent) get(key []byte) ([]byte, bool) {
	v, ok := r.values[string(key)]
	return v, ok
}

// keep takes a value that nobody modifies from here on.
func (r *recent) keep(key, value []byte) {
	if len(key)+len(value) > maxRecentEntryBytes {
		return
	}
	r.values[string(key)] = value
	if r.bytes += len(key) + len(value); r.bytes > maxRecentBytes {
		r.shrink()
	}
}

// shrink forgets half, whichever the map names first: what is in use comes
// back with its next read.
func (r *recent) shrink() {
	for k := range r.values {
		if r.bytes <= maxRecentBytes/2 {
			return
		}
		r.forget(k)
	}
}

func (r *recent) forget(key string) {
	r.bytes -= len(key) + len(r.values[key])
	delete(r.values, key)
}

// committed follows a committed write of a key that is kept.
func (r *recent) committed(key, value []byte, deleted bool) {
	old, ok := r.values[string(key)]
	switch {
	case !ok:
	case deleted || len(key)+len(value) > maxRecentEntryBytes:
		r.forget(string(key))
	default:
		r.values[string(key)] = value
		if r.bytes += len(value) - len(old); r.bytes > maxRecentBytes {
			r.shrink()
		}
	}
}
