package raft

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/cockroachdb/pebble/v2/objstorage"
	"github.com/cockroachdb/pebble/v2/sstable"

	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/highwater"
)

// scrubBytes is how much is read in one step, between looks at the context.
const scrubBytes = 1 << 20

// ScrubEntries is Scrub that also shows every data entry to visit, shard by
// shard in order, as with journal.Chain to check the running hash. An error of
// visit is taken for damage of the entry.
//
// It writes out what is only in the WAL, then checks every block of every file
// by its checksum, read from the disk and not from a cache; every entry by its
// own; that indexes are contiguous from the trimmed part to the end; that terms
// are those of the table and never fall; that the group's other values and both
// copies of the marks can be read. Damage is returned, and fences the store unless
// it is only of the marks, which are written again.
func (j *Journal) ScrubEntries(ctx context.Context, progress func(done uint64), visit func(journal.ShardID, journal.Entry) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("scrub: %w", err)
	}
	if !j.use.TryRLock() {
		return journal.ErrClosed
	}
	defer j.use.RUnlock()
	if j.gone {
		return journal.ErrClosed
	}
	err := j.scrub(ctx, progress, visit)
	var corrupt *journal.CorruptError
	if errors.As(err, &corrupt) {
		j.store.trip(err)
	}
	if err != nil {
		return fmt.Errorf("scrub: %w", err)
	}
	return nil
}

func (j *Journal) scrub(ctx context.Context, progress func(uint64), visit func(journal.ShardID, journal.Entry) error) error {
	if err := j.store.err(); err != nil {
		return err
	}
	if err := j.store.db.Flush(); err != nil {
		return j.store.trip(fmt.Errorf("flush: %w", err))
	}
	if err := j.scrubTables(ctx); err != nil {
		return err
	}
	s := scrubber{j: j, progress: progress, visit: visit}
	for _, g := range j.groups {
		if err := s.group(ctx, g); err != nil {
			return err
		}
	}
	return j.scrubMarks()
}

// scrubMarks reads both copies of the marks. A damaged one is told of and both
// are written again: what memory knows is newer than either. Nothing is fenced.
func (j *Journal) scrubMarks() error {
	j.marks.writing.Lock() // the ticker replaces the files
	defer j.marks.writing.Unlock()
	var bad []error
	for _, name := range highwater.Copies {
		if _, _, err := j.marks.read(name); err != nil {
			bad = append(bad, &highwater.Error{File: name, Cause: err})
		}
	}
	if len(bad) == 0 {
		return nil
	}
	j.damageMu.Lock()
	j.damage = append(j.damage, bad...)
	j.damageMu.Unlock()
	return errors.Join(errors.Join(bad...), j.marks.renew())
}

// scrubTables verifies the checksum of every block of every table on the disk.
func (j *Journal) scrubTables(ctx context.Context) error {
	levels, err := j.store.db.SSTables()
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	for _, level := range levels {
		for _, t := range level {
			if err := j.interrupted(ctx); err != nil {
				return err
			}
			name := j.store.fs.PathJoin(j.store.dir, fmt.Sprintf("%06d.sst", uint64(t.BackingSSTNum)))
			err := j.scrubTable(ctx, name)
			if errors.Is(err, os.ErrNotExist) && !j.isLive(uint64(t.BackingSSTNum)) {
				continue // compacted away meanwhile, which has read it as well
			}
			if err != nil {
				return &journal.CorruptError{Cause: fmt.Errorf("%s: %w", name, err)}
			}
		}
	}
	return nil
}

// isLive tells whether a table is still part of the store.
func (j *Journal) isLive(number uint64) bool {
	levels, err := j.store.db.SSTables()
	if err != nil {
		return true
	}
	for _, level := range levels {
		for _, t := range level {
			if uint64(t.BackingSSTNum) == number {
				return true
			}
		}
	}
	return false
}

func (j *Journal) scrubTable(ctx context.Context, name string) (err error) {
	f, err := j.store.fs.Open(name)
	if err != nil {
		return err
	}
	var readable objstorage.Readable
	if readable, err = sstable.NewSimpleReadable(f); err != nil {
		return errors.Join(err, f.Close())
	}
	r, err := sstable.NewReader(ctx, readable, j.store.opts.MakeReaderOptions())
	if err != nil {
		return err // the reader has closed the file
	}
	return errors.Join(r.ValidateBlockChecksums(), r.Close())
}

func (j *Journal) interrupted(ctx context.Context) error {
	select {
	case <-j.closing:
		return journal.ErrClosed
	default:
	}
	return ctx.Err()
}

type scrubber struct {
	j        *Journal
	done     uint64
	progress func(uint64)
	visit    func(journal.ShardID, journal.Entry) error
}

func (s *scrubber) group(ctx context.Context, g *group) error {
	fresh := newShardLog(&s.j.store, g.shard, s.j.cfg.NodeID, 0)
	g.log.writing.Lock() // its parts change together
	err := fresh.load()
	g.log.writing.Unlock()
	if err != nil {
		return err
	}
	low, high := uint64(fresh.meta.trimmed.Index)+1, fresh.last+1
	var term uint64
	for low < high {
		if err := s.j.interrupted(ctx); err != nil {
			return err
		}
		es, err := fresh.fetchDisk(low, high, scrubBytes)
		if err != nil {
			g.log.mu.Lock()
			first := uint64(g.log.meta.trimmed.Index) + 1
			g.log.mu.Unlock()
			if first > low { // trimmed meanwhile
				low = first
				continue
			}
			return err
		}
		for _, e := range es {
			if t, ok := fresh.termAt(e.GetIndex()); !ok || t != e.GetTerm() || t < term {
				return fresh.corrupt(e.GetIndex(), "entry has term %d, the table says %d, the entry before has %d", e.GetTerm(), t, term)
			}
			term = e.GetTerm()
			if kindOf(e) == kindData && s.visit != nil {
				if err := s.visit(g.shard, journal.Entry{Position: position(e), Data: record(e)}); err != nil {
					return fresh.corrupt(e.GetIndex(), "%w", err)
				}
			}
		}
		low += uint64(len(es))
		s.done += uint64(len(es))
		if s.progress != nil {
			s.progress(s.done)
		}
	}
	return nil
}
