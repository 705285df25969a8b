package view

import (
	"io"
	"sync"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
)

// Snapshot is a consistent look at one shard as a stream of bytes (stream.go),
// from which Restore makes the same view elsewhere. It reads the store as it is
// read itself, a page at a time, and holds one page in memory. It keeps what it
// looks at from being freed, compacted or not, until it is closed; Close of the
// store ends it. Read and Close may be called from different goroutines.
type Snapshot struct {
	mark *journalv1.Mark

	mu    sync.Mutex // guards what follows
	look  *Reader
	walk  walk
	enc   *encoder
	ready []byte // encoded and not read yet
	buf   []byte // what ready is cut from
	err   error  // what Read returns once nothing is ready
}

// Snapshot begins a snapshot of everything committed so far.
func (sh *Shard) Snapshot() (*Snapshot, error) {
	look, err := sh.Reader()
	if err != nil {
		return nil, err
	}
	s, err := newSnapshot(look)
	if err != nil {
		_ = look.Close() // frees memory only
		return nil, err
	}
	sh.store.mu.Lock()
	defer sh.store.mu.Unlock()
	if sh.store.closing.Load() {
		_ = look.Close() // as above
		return nil, ErrClosed
	}
	sh.store.snapshots[s] = struct{}{}
	return s, nil
}

func newSnapshot(look *Reader) (*Snapshot, error) {
	mark, err := look.Mark()
	if err != nil {
		return nil, err
	}
	sh := look.sh
	s := &Snapshot{mark: mark, look: look, walk: look.walk(), enc: newEncoder()}
	s.buf, err = s.enc.header(nil, streamHeader{
		layout: sh.store.cfg.Layout, shards: sh.store.cfg.Shards, shard: sh.n, mark: mark,
	})
	s.ready = s.buf
	return s, err
}

// Mark returns where the shard stands in this snapshot. The caller must not
// modify it.
func (s *Snapshot) Mark() *journalv1.Mark { return s.mark }

// Read implements io.Reader.
func (s *Snapshot) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.ready) == 0 && s.err == nil {
		s.fillLocked()
	}
	if len(s.ready) == 0 {
		return 0, s.err
	}
	n := copy(p, s.ready)
	s.ready = s.ready[n:]
	return n, nil
}

// fillLocked encodes the next page, or the end behind the last.
func (s *Snapshot) fillLocked() {
	more, err := s.walk.next(s.enc.add)
	if err != nil {
		s.err = err
		return
	}
	s.buf = s.enc.flush(s.buf[:0])
	if !more {
		s.buf = s.enc.end(s.buf)
		s.err = io.EOF
	}
	s.ready = s.buf
}

// Close ends the snapshot; it may be called again.
func (s *Snapshot) Close() error { return s.end(ErrClosed) }

// end closes the look; what is read from now on fails with why.
func (s *Snapshot) end(why error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.look == nil {
		return nil
	}
	store := s.look.sh.store
	store.mu.Lock()
	delete(store.snapshots, s)
	store.mu.Unlock()
	err := s.look.Close()
	s.look, s.ready, s.buf, s.err = nil, nil, nil, why
	return err
}

// walk goes through everything a look shows but the mark, in the order of Dump,
// some at a time.
type walk struct {
	r      *Reader
	ranges [][2][]byte // that are left
}

func (r *Reader) walk() walk {
	return walk{r: r, ranges: [][2][]byte{
		{r.sh.low, r.sh.high},
		{ownKey('n', r.sh.n, ""), ownKey('n', r.sh.n+1, "")},
	}}
}

// next shows fn entries until it has enough, or has had them all: then more is
// false. After an error of fn the walk is of no more use.
func (w *walk) next(fn func(key, value []byte) (enough bool, err error)) (more bool, err error) {
	for len(w.ranges) > 0 {
		var last []byte
		var failed error
		enough := false
		err := w.r.scan(w.ranges[0][0], w.ranges[0][1], false, func(k, v []byte) bool {
			enough, failed = fn(k, v)
			if enough {
				last = append(last, k...)
			}
			return failed == nil && !enough
		})
		if err != nil {
			return false, err
		}
		if failed != nil {
			return false, failed
		}
		if enough {
			w.ranges[0][0] = append(last, 0) // the smallest key behind it
			return true, nil
		}
		w.ranges = w.ranges[1:]
	}
	return false, nil
}
