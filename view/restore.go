package view

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"syscall"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"
)

const (
	// incomingPrefix begins the names of tables that a restore writes. Pebble
	// knows nothing of them until they are whole and it is given them all.
	incomingPrefix = "incoming-"
	// incomingBytes of keys and values go into one of them.
	incomingBytes = 32 << 20
	// incomingSpare is what must be free on the disk to begin another: a
	// snapshot is refused before it fills the disk, which would fence the store.
	incomingSpare = 4 * incomingBytes
)

// restores numbers the restores of the process, for the names of their tables:
// one whose store was closed under it may still hold files when the next store
// is open.
var restores atomic.Uint64

// Restore replaces everything the shard has by what r gives, which Snapshot has
// made of the same shard at the position and running hash that want names, and
// which must end with io.EOF. While it reads, the shard works as ever; then it
// waits for the open stage, if there is one, until ctx ends, and puts the new
// view in place.
//
// It is atomic and durable. The tables are written and fsynced aside; each says
// in one tombstone that what was in its range is gone, and together they cover
// all that is the shard's; Pebble takes them in one synced edit of its list of
// tables, the mark's among them. So after a crash at any moment the view is the
// old one or the new. A tombstone hides nothing from whoever looks at an older
// moment (Pebble's excise does, from its snapshots), so readers that are open
// keep what they look at.
//
// After an error the view is the old one; if it is a *FencedError it is the old
// one or the new, and the next Open knows. ErrStream is in the error if r did not
// give a whole stream of that view.
func (sh *Shard) Restore(ctx context.Context, want *journalv1.Mark, r io.Reader) error {
	if !sh.incoming.CompareAndSwap(false, true) {
		return fmt.Errorf("view: shard %d is being restored already", sh.n)
	}
	defer sh.incoming.Store(false)
	mark, tables, err := sh.receive(ctx, want, r)
	if err == nil {
		err = sh.install(ctx, mark, tables.paths)
	}
	tables.remove() // those that were taken in have other names now
	if f := sh.store.fence.get(); f != nil && err != nil {
		err = f
	}
	if err != nil {
		return fmt.Errorf("restore view of shard %d: %w", sh.n, err)
	}
	return nil
}

// receive turns a stream into tables.
func (sh *Shard) receive(ctx context.Context, want *journalv1.Mark, r io.Reader) (*journalv1.Mark, *incoming, error) {
	in := &incoming{s: sh.store, stem: fmt.Sprintf("%s%d-%d-", incomingPrefix, sh.n, restores.Add(1))}
	d, h, err := decode(r)
	if err == nil {
		err = sh.expects(h, want)
	}
	if err != nil {
		return nil, in, err
	}
	err = sh.fill(ctx, in, d)
	if err == nil {
		err = in.mark(sh.markKey, h.mark)
	}
	return h.mark, in, errors.Join(err, in.abort())
}

// expects tells why a stream is not what this shard is to be restored from.
func (sh *Shard) expects(h streamHeader, want *journalv1.Mark) error {
	cfg := sh.store.cfg
	switch {
	case h.layout != cfg.Layout || h.shards != cfg.Shards:
		return badStream("it is of layout %d and %d shards, this view of layout %d and %d", h.layout, h.shards, cfg.Layout, cfg.Shards)
	case h.shard != sh.n:
		return badStream("it is of shard %d", h.shard)
	case h.mark.GetIndex() == 0:
		return badStream("it is of an empty view")
	case sh.ahead(h.mark) != nil:
		return sh.ahead(h.mark)
	case h.mark.GetTerm() != want.GetTerm() || h.mark.GetIndex() != want.GetIndex() || !bytes.Equal(h.mark.GetHash(), want.GetHash()):
		return badStream("it stands at term %d index %d with the running hash %x, not at term %d index %d with %x",
			h.mark.GetTerm(), h.mark.GetIndex(), h.mark.GetHash(), want.GetTerm(), want.GetIndex(), want.GetHash())
	}
	return nil
}

// ahead tells that the view stands further on than mark.
func (sh *Shard) ahead(mark *journalv1.Mark) error {
	if at := sh.Mark().GetIndex(); at > mark.GetIndex() {
		return fmt.Errorf("view: shard %d stands at entry %d, a snapshot at %d would take it back", sh.n, at, mark.GetIndex())
	}
	return nil
}

// fill writes all entries of a stream, to its end, into tables that cover the
// shard's state and its notes.
func (sh *Shard) fill(ctx context.Context, in *incoming, d *decoder) error {
	notes, notesEnd := ownKey('n', sh.n, ""), ownKey('n', sh.n+1, "")
	in.from = sh.low
	ofNotes := false
	for {
		key, value, err := d.next()
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		ended := err != nil
		if !ofNotes && (ended || bytes.Compare(key, notes) >= 0) {
			if err := in.cover(sh.high); err != nil {
				return err
			}
			in.from, ofNotes = notes, true
		}
		switch {
		case ended:
			return in.cover(notesEnd)
		case !ofNotes && !sh.owns(key), ofNotes && bytes.Compare(key, notesEnd) >= 0:
			return badStream("key %x is not of this shard", key)
		case ctx.Err() != nil:
			return ctx.Err()
		case sh.store.closing.Load():
			return ErrClosed
		}
		if err := in.add(key, value); err != nil {
			return err
		}
	}
}

// install puts the tables in the place of what the shard has.
func (sh *Shard) install(ctx context.Context, mark *journalv1.Mark, paths []string) error {
	if err := sh.use(); err != nil {
		return err
	}
	defer sh.store.users.Done()
	if err := sh.turn.restore(ctx); err != nil {
		return fmt.Errorf("wait for the open stage to end: %w", err)
	}
	defer sh.turn.end()
	if err := sh.ahead(mark); err != nil { // it may have got there meanwhile
		return err
	}
	s := sh.store
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	// Nothing of the shard may be in memory when Pebble takes the tables: it
	// would have to flush that itself, and does not let go when the disk fails.
	if err := s.flushLocked(); err != nil {
		return err
	}
	if err := s.ingest(ctx, paths); err != nil {
		return s.fail(fmt.Errorf("take in a view of shard %d: %w", sh.n, err), false)
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.cells, sh.bounds, sh.held = newCells(), newBounds(), held{}
	sh.mark.Store(mark)
	if f := s.fence.get(); f != nil {
		return f
	}
	return nil
}

func (s *Store) ingest(ctx context.Context, paths []string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("pebble panicked: %v", p)
		}
	}()
	return s.db.Ingest(context.WithoutCancel(ctx), paths) // half of it would be an unknown outcome
}

// incoming writes tables that Pebble can take in.
type incoming struct {
	s     *Store
	stem  string
	paths []string

	w    *sstable.Writer // of the table that is open; nil: none
	from []byte          // where the range begins that it will cover
	size int             // of what is in it
}

// add puts an entry behind all others, in a new table once the last is full.
func (in *incoming) add(key, value []byte) error {
	if in.w != nil && in.size >= in.s.tableBytes {
		next := bytes.Clone(key)
		if err := in.cover(next); err != nil {
			return err
		}
		in.from = next
	}
	if err := in.open(); err != nil {
		return err
	}
	in.size += len(key) + len(value)
	if err := in.w.Set(key, value); err != nil {
		return fmt.Errorf("write %s: %w", in.paths[len(in.paths)-1], err)
	}
	return nil
}

// cover ends the table: from where it began to end, nothing is but what is in it.
func (in *incoming) cover(end []byte) error {
	if err := in.open(); err != nil {
		return err
	}
	if err := in.w.DeleteRange(in.from, end); err != nil {
		return fmt.Errorf("write %s: %w", in.paths[len(in.paths)-1], err)
	}
	return in.close()
}

// mark writes the table that has nothing but the mark.
func (in *incoming) mark(key []byte, mark *journalv1.Mark) error {
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(mark)
	if err != nil {
		return fmt.Errorf("encode mark: %w", err)
	}
	if err := in.add(key, value); err != nil {
		return err
	}
	return in.close()
}

func (in *incoming) open() error {
	if in.w != nil {
		return nil
	}
	s := in.s
	if err := s.Err(); err != nil {
		return err
	}
	// Not every file system tells; then the disk's own answer must do.
	if usage, err := s.cfg.FS.GetDiskUsage(s.cfg.Dir); err == nil && usage.AvailBytes < incomingSpare {
		return fmt.Errorf("%d bytes are free on the disk, a view is taken in with %d: %w", usage.AvailBytes, incomingSpare, syscall.ENOSPC)
	}
	path := s.cfg.FS.PathJoin(s.cfg.Dir, fmt.Sprintf("%s%d", in.stem, len(in.paths)))
	f, err := s.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	in.paths = append(in.paths, path)
	in.w = sstable.NewWriter(objstorageprovider.NewFileWritable(f), s.writerOptions())
	in.size = 0
	return nil
}

func (in *incoming) close() error {
	w := in.w
	in.w = nil
	if err := w.Close(); err != nil { // it fsyncs
		return fmt.Errorf("write %s: %w", in.paths[len(in.paths)-1], err)
	}
	return nil
}

// abort gives up the table that is open, if there is one: something was wrong
// with what came.
func (in *incoming) abort() error {
	if in.w == nil {
		return nil
	}
	return in.close()
}

// remove removes the files, as far as it can; Open removes what is left.
func (in *incoming) remove() {
	for _, path := range in.paths {
		_ = in.s.cfg.FS.Remove(path) // gone already, if Pebble has taken it in
	}
}

func (s *Store) writerOptions() sstable.WriterOptions {
	o := s.options()
	o.EnsureDefaults()
	return o.MakeWriterOptions(0, pebble.FormatNewest.MaxTableFormat())
}

// removeIncoming removes what a restore has left that a crash cut off.
func (s *Store) removeIncoming() {
	names, err := s.cfg.FS.List(s.cfg.Dir)
	for _, name := range names {
		if strings.HasPrefix(name, incomingPrefix) {
			err = errors.Join(err, s.cfg.FS.Remove(s.cfg.FS.PathJoin(s.cfg.Dir, name)))
		}
	}
	if err != nil {
		s.log.Warn("tables of a restore that was cut off could not be removed", "error", err)
	}
}
