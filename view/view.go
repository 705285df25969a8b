// Package view keeps the state and history of every shard of a machine,
// arranged for reading, in one Pebble store without a write-ahead log.
//
// The journal is the truth and the view is made from it: after a crash the view
// is where its last completed flush left it, and the shard replays the journal
// from there; a view that is damaged is set aside and made again. So nothing in
// here is ever repaired, guessed or skipped.
//
// Vocabulary: a Mark says where a shard's view stands (term and index of the
// last record applied, the running hash after it, the rules in force) and is
// written in the same batch as that record's effects. A Stage holds the effects
// of one record before it is committed; a Reader is a consistent look at one
// shard; a Snapshot is one as a stream of bytes, and Restore puts what such a
// stream holds in the place of a shard's view. A fenced store has met its first
// checksum or I/O error and answers nothing any more (invariant 7).
//
// Concurrency: a Stage belongs to one goroutine, the shard's owner, and a shard
// has at most one at a time; Readers are made by anyone and used by one
// goroutine each. Store's methods may be called from anywhere.
//
// What it does not do: it knows nothing of what keys and values mean (package
// chat does), writes no journal, and does not decide when to rebuild.
package view

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"google.golang.org/protobuf/proto"
)

// Config says where the store is and how large its buffers are. Zero values of
// optional fields mean the default given with each.
type Config struct {
	Dir    string     // its parent must exist
	FS     durable.FS // nil: durable.Disk
	Shards int        // number of shards of the cell; 1 to 4,096

	// Layout is the version of what the values mean. A store made with another
	// is reported as damaged, so that it is made again from the journal.
	Layout uint32

	CacheBytes        int64         // block cache of all shards, of which Pebble takes the memtables; 256 MiB
	MemTableBytes     int64         // 40 MiB
	FlushEvery        time.Duration // longest time between flushes while anything was written; 30 s
	FlushBytes        int64         // bytes committed that bring a flush forward; 40 MiB
	MaxUnflushedBytes int64         // bytes committed at which Commit itself waits for a flush; 128 MiB
	HoldBytes         int64         // bytes committed to one shard that wait in memory to be written together; 64 KiB

	// BeforeFlush and AfterFlush are called around every flush of Run, Flush and
	// Close, one flush at a time, never for one that failed. AfterFlush gets the
	// marks that are on disk now, one a shard: up to them the journal is no
	// longer needed by this view. An error of BeforeFlush is logged, the flush
	// goes on. Both may be nil.
	BeforeFlush func() error
	AfterFlush  func(marks []*journalv1.Mark)

	Logger *slog.Logger // nil: discards
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("view: no directory given")
	}
	if c.Shards < 1 || c.Shards > 4096 {
		return c, fmt.Errorf("view: %d shards; want 1 to 4096", c.Shards)
	}
	if c.FS == nil {
		c.FS = durable.Disk
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	for _, f := range []struct {
		value *int64
		want  int64
	}{
		{&c.CacheBytes, 256 << 20},
		{&c.MemTableBytes, 40 << 20},
		{&c.FlushBytes, 40 << 20},
		{&c.MaxUnflushedBytes, 128 << 20},
		{&c.HoldBytes, 64 << 10},
	} {
		if *f.value < 0 {
			return c, fmt.Errorf("view: negative size in configuration")
		}
		if *f.value == 0 {
			*f.value = f.want
		}
	}
	// Batches that a memtable does not take in one piece would be files of their own.
	c.HoldBytes = min(c.HoldBytes, c.MemTableBytes/8, c.FlushBytes/2)
	if c.FlushEvery < 0 {
		return c, errors.New("view: negative flush interval")
	}
	if c.FlushEvery == 0 {
		c.FlushEvery = 30 * time.Second
	}
	return c, nil
}

// Store holds the views of all shards of a machine.
type Store struct {
	cfg    Config
	fs     durable.FS // cfg.FS, which fences when it fails to write
	db     *pebble.DB
	cache  *pebble.Cache
	shards []*Shard
	log    *slog.Logger
	fence  fence

	flushMu   sync.Mutex    // one flush at a time; taken before anything of Pebble's
	unflushed atomic.Int64  // bytes committed since the last flush began
	flushNow  chan struct{} // holds one token when FlushBytes has been reached
	compacted chan struct{} // holds one token when a compaction has ended

	// users counts open stages, readers and calls in progress, so that Close
	// never pulls the store from under one. It is added to under mu or a shard's
	// mu, after a look at closing.
	mu        sync.Mutex
	closing   atomic.Bool
	users     sync.WaitGroup
	snapshots map[*Snapshot]struct{} // those that are open; guarded by mu

	tableBytes int // incomingBytes; less in tests
}

// ErrClosed is returned once Close has been called.
var ErrClosed = errors.New("view: closed")

// Open opens the store in cfg.Dir, or makes an empty one. Nothing runs in the
// background on our side until Run. A *DamagedError means: what is there cannot
// be trusted, set it aside (SetAside) and open again; the journal has it all.
// Any other error concerns the machine (locked by another process, no
// permission, no space) and leaves the directory as it was.
func Open(cfg Config) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := checkMarker(cfg.FS, cfg.Dir); err != nil {
		return nil, err
	}
	s := &Store{
		cfg:       cfg,
		log:       cfg.Logger.With("store", "view"),
		flushNow:  make(chan struct{}, 1),
		compacted: make(chan struct{}, 1),
		snapshots: make(map[*Snapshot]struct{}),

		tableBytes: incomingBytes,
	}
	s.fence.init()
	s.fs = durable.Watch(cfg.FS, s.writeFailed)
	s.cache = pebble.NewCache(cfg.CacheBytes)
	if s.db, err = s.openPebble(); err != nil {
		s.fence.stop()
		s.cache.Unref()
		return nil, classify(cfg.Dir, fmt.Errorf("open view in %s: %w", cfg.Dir, err))
	}
	if err := s.load(); err != nil {
		s.fence.stop()
		_ = s.db.Close() // the first error is the one to tell
		s.cache.Unref()
		return nil, classify(cfg.Dir, err)
	}
	s.removeIncoming()
	return s, nil
}

// openPebble turns a panic over damaged files into an error: they came from a
// disk, and whatever they hold is no reason to end the process.
func (s *Store) openPebble() (db *pebble.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			db, err = nil, fmt.Errorf("pebble panicked: %v", p)
		}
	}()
	db, err = pebble.Open(s.cfg.Dir, s.options())
	if err == nil && s.fence.get() != nil {
		_ = db.Close() // fenced already
		return nil, s.fence.get().Cause
	}
	return db, err
}

func (s *Store) options() *pebble.Options {
	o := &pebble.Options{
		FS:                 s.fs,
		Cache:              s.cache,
		DisableWAL:         true,
		FormatMajorVersion: pebble.FormatNewest,
		Logger:             pebbleLogger{s},
		EventListener:      s.listener(),
		MemTableSize:       uint64(s.cfg.MemTableBytes),
		MaxOpenFiles:       512,
		// Pebble's own stalls wait for background work that a failed disk never
		// finishes, and would hold an owner for ever. Commit and flush bound
		// memory and levels instead, and let go when the store fences.
		MemTableStopWritesThreshold: 1 << 20,
		// New messages fall all over the key range, so each compaction of the
		// newest level rewrites much of the next: on ten million messages that was
		// a quarter of the server's time with Pebble's 64 MiB base and a threshold
		// of 4. What is rewritten is the same however much is new; so it is done
		// rarely: at 16 sublevels (Pebble's threshold counts double) of 40 MiB. A
		// page of history looks into a few tables more.
		L0CompactionThreshold: 32,
		LBaseMaxBytes:         1 << 30,
		L0StopWritesThreshold: 1 << 20,
	}
	// What Restore hands over is durable when Pebble has taken it, not later.
	o.Experimental.DisableIngestAsFlushable = func() bool { return true }
	// Most of a compaction's cost is a table's and a byte's: fewer tables (with
	// Pebble's 2 MiB, the last level has tables of 4), compressed by what is
	// fastest on this processor.
	o.TargetFileSizes[0] = 8 << 20
	for i := range o.Levels {
		o.Levels[i].BlockSize = 16 << 10
		o.Levels[i].IndexBlockSize = 64 << 10
		o.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.FastestCompression }
		// Most look-ups of message keys by client ID find nothing.
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		o.Levels[i].FilterType = pebble.TableFilter
	}
	// Pebble asks the filters of the last level only of who wants it to: there
	// they would be made anew with every compaction and read by nobody.
	o.Levels[len(o.Levels)-1].FilterPolicy = pebble.NoFilterPolicy
	return o
}

// load checks what the store was made for, and reads the marks.
func (s *Store) load() error {
	want := fmt.Sprintf("bongsu view 1, layout %d, %d shards", s.cfg.Layout, s.cfg.Shards)
	have, err := s.get(infoKey)
	if err != nil {
		return fmt.Errorf("read view information: %w", err)
	}
	if have != nil && string(have) != want {
		return &DamagedError{Dir: s.cfg.Dir, Cause: fmt.Errorf("made as %q, this release makes %q", have, want)}
	}
	if have == nil {
		if err := s.mustBeEmpty(); err != nil {
			return err
		}
		// Durable with the first flush, together with what it describes.
		if err := s.db.Set(infoKey, []byte(want), pebble.NoSync); err != nil {
			return fmt.Errorf("write view information: %w", err)
		}
	}
	for n := range s.cfg.Shards {
		sh := newShard(s, n)
		value, err := s.get(sh.markKey)
		if err != nil {
			return fmt.Errorf("read mark of shard %d: %w", n, err)
		}
		m, err := decodeMark(value)
		if err != nil {
			return &DamagedError{Dir: s.cfg.Dir, Cause: fmt.Errorf("mark of shard %d: %w", n, err)}
		}
		sh.mark.Store(m)
		s.shards = append(s.shards, sh)
	}
	return nil
}

func (s *Store) mustBeEmpty() error {
	it, err := s.db.NewIter(nil)
	if err != nil {
		return fmt.Errorf("read view: %w", err)
	}
	found := it.First()
	if err := it.Close(); err != nil {
		return fmt.Errorf("read view: %w", err)
	}
	if found {
		return &DamagedError{Dir: s.cfg.Dir, Cause: errors.New("it holds data but does not say what made it")}
	}
	return nil
}

func decodeMark(value []byte) (*journalv1.Mark, error) {
	if value == nil {
		return &journalv1.Mark{Hash: make([]byte, 32)}, nil
	}
	m := &journalv1.Mark{}
	if err := proto.Unmarshal(value, m); err != nil {
		return nil, err
	}
	if len(m.Hash) != 32 {
		return nil, fmt.Errorf("hash has %d bytes", len(m.Hash))
	}
	return m, nil
}

// Shard returns the view of shard n; it panics for one the store was not
// opened with, as that is a fault of the program.
func (s *Store) Shard(n int) *Shard { return s.shards[n] }

// Shards returns how many shards the store has.
func (s *Store) Shards() int { return len(s.shards) }

// Err returns a *FencedError once the store is fenced, else nil.
func (s *Store) Err() error {
	if f := s.fence.get(); f != nil {
		return f
	}
	return nil
}

// Fenced is closed when the store fences.
func (s *Store) Fenced() <-chan struct{} { return s.fence.closed }

// use begins a call; done ends it.
func (s *Store) use() (done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return nil, ErrClosed
	}
	if f := s.fence.get(); f != nil {
		return nil, f
	}
	s.users.Add(1)
	return s.users.Done, nil
}

// Close refuses new stages and readers, waits for those that are open, ends
// snapshots, flushes and closes. The error of the flush is returned: what was not flushed is
// replayed at the next start.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closing.Swap(true) {
		s.mu.Unlock()
		return nil
	}
	open := slices.Collect(maps.Keys(s.snapshots))
	s.mu.Unlock()
	for _, snap := range open { // they may be read at the pace of a slow peer
		snap.end(ErrClosed)
	}
	for _, sh := range s.shards { // whoever has looked at closing before is counted now
		sh.mu.Lock()
		sh.mu.Unlock() //nolint:staticcheck // nothing to do within
	}
	s.users.Wait()

	var flushErr error
	if s.fence.get() == nil {
		flushErr = s.flush()
	}
	s.fence.stop()
	err := s.closePebble()
	s.cache.Unref()
	if s.fence.get() != nil && flushErr == nil {
		return nil // told already, by everything since; closing cannot add to it
	}
	return errors.Join(flushErr, err)
}

func (s *Store) closePebble() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("close view: pebble panicked: %v", p)
		}
	}()
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close view: %w", err)
	}
	return nil
}
