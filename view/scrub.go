package view

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
)

// Progress tells how far a scrub is, in bytes of tables as they were when it began.
type Progress struct {
	Done, Total uint64
}

// Scrub reads every block of every table back from the disk, past all caches,
// and checks its checksum; then it checks that keys are in order throughout.
// progress may be nil. Damage fences the store and comes back as *FencedError;
// otherwise the error is ctx's, or ErrClosed.
func (s *Store) Scrub(ctx context.Context, progress func(Progress)) error {
	done, err := s.use()
	if err != nil {
		return err
	}
	defer done()
	tables, p, err := s.tables()
	if err != nil {
		return err
	}
	for _, t := range tables {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("scrub view: %w", err)
		}
		if err := s.scrubTable(ctx, t); err != nil {
			return err
		}
		p.Done += t.size
		if progress != nil {
			progress(p)
		}
	}
	if err := s.db.CheckLevels(nil); err != nil {
		return s.readFailed(fmt.Errorf("scrub view: %w", err))
	}
	return s.Err()
}

type table struct {
	name string
	size uint64
}

func (s *Store) tables() ([]table, Progress, error) {
	levels, err := s.db.SSTables()
	if err != nil {
		return nil, Progress{}, s.readFailed(fmt.Errorf("list tables: %w", err))
	}
	var all []table
	var p Progress
	seen := make(map[string]bool)
	for _, level := range levels {
		for _, info := range level {
			name := fmt.Sprintf("%s.sst", info.BackingSSTNum)
			if seen[name] { // virtual tables share a file
				continue
			}
			seen[name] = true
			all = append(all, table{name: name, size: info.Size})
			p.Total += info.Size
		}
	}
	return all, p, nil
}

func (s *Store) scrubTable(ctx context.Context, t table) error {
	err := s.readTable(ctx, t)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("scrub view: %w", ctx.Err())
	}
	if errors.Is(err, fs.ErrNotExist) {
		live, err2 := s.isLive(t)
		if err2 != nil {
			return err2
		}
		if !live { // a compaction has replaced it meanwhile
			return nil
		}
	}
	return s.readFailed(fmt.Errorf("scrub table %s: %w", t.name, err))
}

func (s *Store) isLive(t table) (bool, error) {
	tables, _, err := s.tables()
	for _, have := range tables {
		if have.name == t.name {
			return true, err
		}
	}
	return false, err
}

func (s *Store) readTable(ctx context.Context, t table) (err error) {
	defer func() {
		if p := recover(); p != nil { // what a disk returns must not end the process
			err = fmt.Errorf("pebble panicked: %v", p)
		}
	}()
	f, err := s.cfg.FS.Open(s.cfg.FS.PathJoin(s.cfg.Dir, t.name))
	if err != nil {
		return err
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r, err := sstable.NewReader(ctx, readable, s.readerOptions())
	if err != nil {
		return errors.Join(err, readable.Close())
	}
	return errors.Join(r.ValidateBlockChecksums(), r.Close())
}

func (s *Store) readerOptions() sstable.ReaderOptions {
	o := &pebble.Options{FormatMajorVersion: pebble.FormatNewest}
	o.EnsureDefaults()
	return o.MakeReaderOptions()
}
