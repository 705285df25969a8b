package raft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
)

const storeName = "journal"

// fence is the store's one-way switch (invariant 7): the first error of the
// disk, of a checksum or of space turns it, and nothing is acknowledged after.
type fence struct {
	log   *slog.Logger
	cause atomic.Pointer[journal.FencedError]
	once  sync.Once
	down  chan struct{} // closed when fenced
}

func newFence(log *slog.Logger) *fence { return &fence{log: log, down: make(chan struct{})} }

// trip fences the store; later causes are only logged. It neither blocks nor
// calls into Pebble, which may hold its locks.
func (f *fence) trip(cause error) *journal.FencedError {
	f.once.Do(func() {
		f.cause.Store(&journal.FencedError{Store: storeName, Cause: cause})
		close(f.down)
		f.log.Error("the journal store is fenced: nothing is acknowledged from now on", "cause", cause)
	})
	return f.cause.Load()
}

// err returns the *journal.FencedError once fenced, else nil.
func (f *fence) err() error {
	if e := f.cause.Load(); e != nil {
		return e
	}
	return nil
}

// pebbleLogger keeps Pebble from ending the process: what is fatal to it fences
// the store. Pebble then goes on as if the write had happened, so every commit
// looks at the fence before it believes Pebble (see store.commit).
type pebbleLogger struct{ f *fence }

func (l pebbleLogger) Infof(format string, args ...any) {
	l.f.log.Debug(fmt.Sprintf(format, args...), "store", storeName)
}

func (l pebbleLogger) Errorf(format string, args ...any) {
	l.f.log.Warn(fmt.Sprintf(format, args...), "store", storeName)
}

func (l pebbleLogger) Fatalf(format string, args ...any) {
	l.f.trip(fmt.Errorf(format, args...))
}

// store is the Pebble store that all groups of a node share.
type store struct {
	db   *pebble.DB
	fs   durable.FS // watched: an error of writing or syncing fences
	dir  string
	opts *pebble.Options
	*fence
}

func (c *Config) pebbleOptions(f *fence, fs durable.FS) *pebble.Options {
	o := &pebble.Options{
		FS:                          fs,
		FormatMajorVersion:          pebble.FormatNewest,
		Logger:                      pebbleLogger{f},
		MemTableSize:                uint64(c.MemTableBytes),
		MemTableStopWritesThreshold: 4,
		CacheSize:                   c.BlockCacheBytes,
		MaxOpenFiles:                512,
	}
	o.EventListener = &pebble.EventListener{
		BackgroundError: func(err error) {
			if !errors.Is(err, context.Canceled) && !errors.Is(err, pebble.ErrCancelledCompaction) {
				f.trip(damageOf(fmt.Errorf("background work: %w", err)))
			}
		},
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			f.trip(&journal.CorruptError{Cause: fmt.Errorf("damaged file: %s", info)})
		},
		DiskSlow: func(info pebble.DiskSlowInfo) {
			f.log.Warn("the disk is slow", "store", storeName, "what", info.String())
		},
	}
	o.EnsureDefaults()
	return o
}

// damageOf marks an error of Pebble that is about what is stored: the disk may be
// well, and opening the store again cures nothing.
func damageOf(err error) error {
	if pebble.IsCorruptionError(err) {
		return &journal.CorruptError{Cause: err}
	}
	return err
}

// openPebble opens the store's Pebble. Damaged files can make Pebble panic: that
// too is an error to us.
func (s *store) openPebble(c *Config) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &journal.CorruptError{Cause: fmt.Errorf("open store: %v", r)}
		}
	}()
	s.fs = durable.Watch(c.FS, func(err error) { s.trip(err) })
	s.dir = c.FS.PathJoin(c.Dir, "log")
	s.opts = c.pebbleOptions(s.fence, &fenceFS{FS: s.fs, f: s.fence})
	if err := durable.MkdirAll(c.FS, s.dir, 0o750); err != nil {
		return fmt.Errorf("make folder of the journal store: %w", err)
	}
	s.db, err = pebble.Open(s.dir, s.opts)
	if err != nil {
		return fmt.Errorf("open journal store: %w", err)
	}
	return nil
}

// commit writes the batch, fsynced if sync is set. It returns nil only if the
// store was not fenced when the write had become durable. A panic inside Pebble
// (a WAL that cannot be rotated) fences.
func (s *store) commit(b *pebble.Batch, sync bool) (err error) {
	if err := s.err(); err != nil {
		return err
	}
	defer func() {
		if r := recover(); r != nil {
			err = s.trip(fmt.Errorf("commit: %v", r))
		}
	}()
	o := pebble.NoSync
	if sync {
		o = pebble.Sync
		if mutantNoSync {
			o = pebble.NoSync
		}
	}
	if err := b.Commit(o); err != nil {
		return s.trip(fmt.Errorf("commit: %w", err))
	}
	return s.err()
}

// get returns a copy of the value, nil if there is none.
func (s *store) get(k []byte) ([]byte, error) {
	v, closer, err := s.db.Get(k)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	v = append([]byte(nil), v...)
	return v, closer.Close()
}
