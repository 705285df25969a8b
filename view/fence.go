package view

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// FencedError: the view store has met its first checksum or I/O error and
// reads and writes nothing any more. The process goes on; the machine's shards
// do not serve until a restart, which rebuilds the view if it was damaged.
type FencedError struct {
	Cause error
}

func (e *FencedError) Error() string { return fmt.Sprintf("store view is fenced: %v", e.Cause) }

func (e *FencedError) Unwrap() error { return e.Cause }

// fence remembers the first error for ever.
type fence struct {
	err     atomic.Pointer[FencedError]
	closed  chan struct{} // closed with the first error
	stopped chan struct{} // closed when the store closes: handlers wait no more
	once    sync.Once
	stopOne sync.Once
}

func (f *fence) init() {
	f.closed = make(chan struct{})
	f.stopped = make(chan struct{})
}

func (f *fence) get() *FencedError { return f.err.Load() }

// set returns true for the first error only.
func (f *fence) set(cause error) (first bool) {
	f.once.Do(func() {
		first = true
		f.err.Store(&FencedError{Cause: cause})
		close(f.closed)
	})
	return first
}

func (f *fence) stop() { f.stopOne.Do(func() { close(f.stopped) }) }

// Fence fences the store over a doubt that its user has: nothing is read or
// written any more, and the next Open reports damage.
func (s *Store) Fence(cause error) { s.fail(cause, true) }

// fail fences the store. suspect says that what the disk holds is in doubt, so
// that the next start must make the view again; a write that failed leaves the
// last completed flush as it was, and rebuilding on a full disk would only hurt.
func (s *Store) fail(cause error, suspect bool) *FencedError {
	if s.fence.set(cause) {
		s.log.Error("view store is fenced: it reads and writes nothing until the next start",
			"cause", cause, "rebuild_at_start", suspect)
	}
	if suspect {
		s.writeMarker(cause)
	}
	return s.fence.get()
}

// writeFailed hears of a failed write or fsync before Pebble does.
func (s *Store) writeFailed(err error) { s.fail(fmt.Errorf("view store: %w", err), false) }

// readFailed fences over an error of a read: nothing that Pebble could not read
// back is guessed at. A store that is fenced already, over a compaction that met
// the same error perhaps, is marked as damaged all the same.
func (s *Store) readFailed(err error) error { return s.fail(err, true) }

// listener hears of errors that no call of ours returns.
func (s *Store) listener() *pebble.EventListener {
	return &pebble.EventListener{
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			s.fail(fmt.Errorf("%s is damaged: %w", info.Path, info.Details), true)
		},
		BackgroundError: s.backgroundError,
		CompactionEnd:   func(pebble.CompactionInfo) { signal(s.compacted) },
	}
}

// backgroundError is called by flushes and compactions that failed; Pebble
// tries them again at once, for ever. Once fenced there is no use in that, so
// each further failure is made to wait: 100 ms, or until Close.
func (s *Store) backgroundError(err error) {
	if errors.Is(err, pebble.ErrClosed) {
		return
	}
	if s.fence.get() == nil {
		s.fail(fmt.Errorf("background work of the view store: %w", err), pebble.IsCorruptionError(err))
		return
	}
	t := time.NewTimer(100 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.fence.stopped:
	}
}

// pebbleLogger keeps Pebble's chatter out of our log and its Fatalf from ending
// the process: that fences instead. Pebble goes on after Fatalf with whatever
// it has; nothing of it is used any more, as every result is checked against
// the fence before it is handed out.
type pebbleLogger struct{ s *Store }

func (l pebbleLogger) Infof(format string, args ...any) {}

func (l pebbleLogger) Errorf(format string, args ...any) {
	l.s.log.Warn("pebble: " + fmt.Sprintf(format, args...))
}

func (l pebbleLogger) Fatalf(format string, args ...any) {
	err := fmt.Errorf("pebble: "+format, args...)
	// A MANIFEST that cannot be written leaves the one before it in force.
	l.s.fail(err, !strings.Contains(err.Error(), "MANIFEST"))
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
