package backup

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/bongsu-im/bongsu/internal/clock"
	"github.com/bongsu-im/bongsu/journal"
)

// Config says what a Writer archives and where to.
type Config struct {
	Store      Store
	Recipients Recipients

	Cluster ClusterID
	Node    uint64
	Cell    uint16
	Shards  int
	Version string
	Log     func(journal.ShardID) journal.Log
	// Base makes a base of a shard as it is now, and what closes it; nil: a journal
	// that was trimmed beyond the archive cannot be continued.
	Base func(ctx context.Context, shard journal.ShardID) (*Base, func() error, error)
	// Files gives the small files that are not in the journal, by their names in
	// the data folder; nil: none.
	Files func() (map[string][]byte, error)

	Clock  clock.Clock  // nil: clock.System
	Logger *slog.Logger // nil: nothing is logged
	// Rate bounds what is read from the journal, in bytes a second; 0: no bound.
	Rate int64
	// SegmentBytes is where a segment ends, before compression; 0 means 8 MiB.
	SegmentBytes int
}

const (
	// readBytes of entries are read at once.
	readBytes = 1 << 20
	// Small segments at a chain's end are replaced by one that holds them all, so
	// that an archive that is written every minute does not become as many objects
	// as there were minutes. foldCount of them are, once there are so many, while
	// together they have at most foldBytes.
	foldCount = 64
	foldBytes = 1 << 20
	// manifestEvery bounds how much a long pass archives without a manifest.
	manifestEvery = time.Minute
)

// Writer puts a node's journal into an archive. Make one with NewWriter; it
// belongs to one goroutine.
type Writer struct {
	cfg    Config
	shards map[journal.ShardID]*head

	mine      []manifestName // that are in the store, oldest first
	listed    bool
	changed   bool // something is not in a manifest yet
	written   time.Time
	filesHash [32]byte
}

// head is where a shard's chain stands in the archive, as far as this node's
// journal knows it.
type head struct {
	at      journal.Position
	hash    [32]byte
	known   bool // hash is
	hint    hashHint
	objects []object // of the shard, in no order
	foldAt  int      // how many objects there must be before folding is tried again
}

// Stats is what a pass has done.
type Stats struct {
	Segments, Entries, Bytes int // bytes before compression
	Stored                   int // bytes of objects, manifests among them
}

// PartedError: the archive and the journal have different entries at one place.
// Nothing is archived over it.
type PartedError struct {
	Shard journal.ShardID
	At    journal.Position
	Cause error
}

func (e *PartedError) Error() string {
	return fmt.Sprintf("shard %d: the journal and the archive do not agree at term %d index %d: %v", e.Shard, e.At.Term, e.At.Index, e.Cause)
}

func (e *PartedError) Unwrap() error { return e.Cause }

// NewWriter checks the configuration. Nothing is read or written before Pass.
func NewWriter(cfg Config) (*Writer, error) {
	if cfg.Store == nil || cfg.Log == nil || len(cfg.Recipients) == 0 || cfg.Cluster == (ClusterID{}) || cfg.Shards < 1 {
		return nil, errors.New("backup: store, recipients, cluster, shards and logs must be given")
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if cfg.SegmentBytes == 0 {
		cfg.SegmentBytes = 8 << 20
	}
	if cfg.SegmentBytes < 1 || cfg.SegmentBytes > MaxObjectBytes/2 {
		return nil, fmt.Errorf("backup: segments of %d bytes", cfg.SegmentBytes)
	}
	return &Writer{cfg: cfg, shards: map[journal.ShardID]*head{}}, nil
}

// Forget makes the next pass look at the store again for where a shard's chain
// stands: another node may have archived it meanwhile.
func (w *Writer) Forget(shard journal.ShardID) { delete(w.shards, shard) }

// Archived is the position that a shard is archived up to, as this writer knows.
func (w *Writer) Archived(shard journal.ShardID) journal.Position {
	if h := w.shards[shard]; h != nil {
		return h.at
	}
	return journal.Position{}
}

// Pass archives what is committed of the shards and not archived yet. A shard
// that fails does not keep the others from being archived; all errors are
// returned. It may be repeated after any error.
func (w *Writer) Pass(ctx context.Context, shards []journal.ShardID) (Stats, error) {
	var stats Stats
	if err := w.begin(ctx, &stats); err != nil {
		return stats, err
	}
	goals := map[journal.ShardID]journal.Index{}
	failed := map[journal.ShardID]error{}
	for _, s := range shards {
		goals[s] = w.cfg.Log(s).Last().Index
	}
	// Round after round, a segment of each, so that no shard waits for another's past.
	for waiting := slices.Clone(shards); len(waiting) > 0 && ctx.Err() == nil; {
		waiting = slices.DeleteFunc(waiting, func(s journal.ShardID) bool {
			more, err := w.step(ctx, s, goals[s], &stats)
			if err != nil {
				failed[s] = err
				w.Forget(s)
			}
			return err != nil || !more
		})
		if w.changed && w.cfg.Clock.Now().Sub(w.written) >= manifestEvery {
			if err := w.manifest(ctx, &stats); err != nil {
				return stats, err
			}
		}
	}
	var errs []error
	for _, s := range slices.Sorted(maps.Keys(failed)) {
		errs = append(errs, failed[s])
	}
	errs = append(errs, w.finish(ctx, &stats), ctx.Err())
	return stats, errors.Join(errs...)
}

// begin finds this node's manifests and makes the first: an archive without one
// cannot be restored.
func (w *Writer) begin(ctx context.Context, stats *Stats) error {
	if !w.listed {
		w.mine = nil
		err := w.cfg.Store.List(ctx, w.cfg.Cluster.String()+"/manifest-", func(o Object) error {
			if n, ok := parseManifestName(o.Name); ok && n.node == w.cfg.Node {
				w.mine = append(w.mine, n)
			}
			return nil
		})
		if err != nil {
			return err
		}
		slices.SortFunc(w.mine, func(a, b manifestName) int { return int(min(max(int64(a.number)-int64(b.number), -1), 1)) })
		w.listed = true
	}
	if len(w.mine) > 0 {
		return nil
	}
	return w.manifest(ctx, stats)
}

// finish writes a manifest if there is anything new to say.
func (w *Writer) finish(ctx context.Context, stats *Stats) error {
	if ctx.Err() != nil {
		return nil // the next pass does it; segments count without
	}
	if !w.changed {
		_, sum, err := w.files()
		if err != nil || sum == w.filesHash {
			return err
		}
	}
	return w.manifest(ctx, stats)
}

func (w *Writer) files() (files map[string][]byte, sum [32]byte, err error) {
	if w.cfg.Files != nil {
		if files, err = w.cfg.Files(); err != nil {
			return nil, sum, fmt.Errorf("read what belongs to the manifest: %w", err)
		}
	}
	if err := checkFiles(files); err != nil {
		return nil, sum, fmt.Errorf("manifest: %w", err)
	}
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(h, "%s %d ", name, len(files[name]))
		h.Write(files[name])
	}
	return files, [32]byte(h.Sum(nil)), nil
}

// manifest writes the next one, then removes all but the two newest.
func (w *Writer) manifest(ctx context.Context, stats *Stats) error {
	files, sum, err := w.files()
	if err != nil {
		return err
	}
	name := manifestName{cluster: w.cfg.Cluster, node: w.cfg.Node, number: 1}
	if n := len(w.mine); n > 0 {
		name.number = w.mine[n-1].number + 1
	}
	now := w.cfg.Clock.Now()
	m := &Manifest{
		Format: manifestFormat, Cluster: name.cluster.String(), Node: name.node, Number: name.number,
		Time: now.UTC(), Version: w.cfg.Version, Cell: w.cfg.Cell, Shards: w.cfg.Shards, Files: files,
	}
	for _, s := range slices.Sorted(maps.Keys(w.shards)) {
		h := w.shards[s]
		if h.at.Index == 0 {
			continue
		}
		end := End{Shard: s, Term: h.at.Term, Index: h.at.Index}
		if h.known {
			end.Hash = h.hash[:]
		}
		m.Ends = append(m.Ends, end)
	}
	plain, err := m.encode()
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	stored, err := w.put(ctx, name.String(), plain)
	if err != nil {
		w.listed = false // it may be there all the same
		return err
	}
	stats.Stored += stored
	w.mine = append(w.mine, name)
	w.changed, w.written, w.filesHash = false, now, sum
	for len(w.mine) > 2 {
		if err := w.cfg.Store.Delete(ctx, w.mine[0].String()); err != nil {
			return err
		}
		w.mine = w.mine[1:]
	}
	return nil
}

func (w *Writer) put(ctx context.Context, name string, plain []byte) (stored int, err error) {
	sealed, err := seal(plain, w.cfg.Recipients)
	if err != nil {
		return 0, err
	}
	if err := w.cfg.Store.Put(ctx, name, sealed); err != nil {
		return 0, err
	}
	return len(sealed), nil
}

// step archives the next segment of a shard, if there is one; more tells whether
// there may be another before goal.
func (w *Writer) step(ctx context.Context, shard journal.ShardID, goal journal.Index, stats *Stats) (more bool, err error) {
	h := w.shards[shard]
	if h == nil {
		if h, err = w.resume(ctx, shard); err != nil {
			return false, err
		}
		w.shards[shard] = h
		w.changed = w.changed || h.at.Index > 0 // proven once more, by this node
	}
	if h.at.Index >= goal {
		return false, nil
	}
	began := w.cfg.Clock.Now()
	s, err := w.collect(ctx, shard, h, goal)
	if errors.Is(err, journal.ErrTrimmed) && w.cfg.Base != nil {
		return true, w.rebase(ctx, shard, h, stats)
	}
	if err != nil {
		return false, err
	}
	name, plain := s.end()
	stored, err := w.put(ctx, name.String(), plain)
	if err != nil {
		return false, err
	}
	h.objects = append(h.objects, object{name, int64(stored)})
	if name.to.Index > h.at.Index {
		h.at, h.hash, h.known = name.to, s.hash, true
	}
	w.changed = true
	stats.Segments, stats.Entries, stats.Bytes, stats.Stored = stats.Segments+1, stats.Entries+int(s.count), stats.Bytes+len(plain), stats.Stored+stored
	if err := w.tidy(ctx, shard, h, name); err != nil {
		return false, err
	}
	return h.at.Index < goal, w.pace(ctx, began, len(plain))
}

// rebase has a shard's chain begin anew, with its view as it is now: the journal no
// longer has what would continue the old one.
func (w *Writer) rebase(ctx context.Context, shard journal.ShardID, h *head, stats *Stats) error {
	b, done, err := w.cfg.Base(ctx, shard)
	if err != nil {
		return fmt.Errorf("make a base of shard %d: %w", shard, err)
	}
	w.cfg.Logger.Warn("the journal no longer has what continues its archive; the chain begins anew with the view", "shard", shard, "archived", h.at.Index, "base", b.At.Index)
	if b.At.Index <= h.at.Index {
		err = fmt.Errorf("the view of shard %d stands at index %d, not behind the archive's end at %d", shard, b.At.Index, h.at.Index)
	} else {
		err = w.putBase(ctx, shard, b, stats)
	}
	if err := errors.Join(err, done()); err != nil {
		return err
	}
	h.at, h.hash, h.known = b.At.Position, b.At.Hash, true
	w.changed = true
	return nil
}

// collect reads the entries of the next segment: behind the chain's end, or from
// before its last small segments on, to replace them, if they are many and fit.
func (w *Writer) collect(ctx context.Context, shard journal.ShardID, h *head, goal journal.Index) (*segmentWriter, error) {
	if from, ok := foldFrom(h.objects, h.at); ok && len(h.objects) >= h.foldAt {
		s, err := w.fold(ctx, shard, from, h.at.Index, goal)
		if s != nil || err != nil {
			return s, err
		}
		h.foldAt = len(h.objects) + foldCount // not before there are as many again
	}
	var hash *[32]byte
	if h.known {
		hash = &h.hash
	}
	return w.read(ctx, shard, h.at, hash, h.hint, goal)
}

// fold reads a segment that reaches over a chain's end; nil if it cannot.
func (w *Writer) fold(ctx context.Context, shard journal.ShardID, from journal.Position, over, goal journal.Index) (*segmentWriter, error) {
	hash, err := hashAt(ctx, w.cfg.Log(shard), from)
	if errors.Is(err, journal.ErrTrimmed) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s, err := w.read(ctx, shard, from, &hash, hashHint{}, goal)
	if err == nil && s.name.to.Index <= over {
		return nil, nil // full before it got there: there would be as many as before
	}
	return s, err
}

// read reads entries behind a position up to goal or a segment's size. hash is nil
// if the journal cannot tell it; then the first entry must agree with the hint.
func (w *Writer) read(ctx context.Context, shard journal.ShardID, after journal.Position, hash *[32]byte, hint hashHint, goal journal.Index) (*segmentWriter, error) {
	var s *segmentWriter
	for at := after.Index; at < goal && (s == nil || len(s.plain) < w.cfg.SegmentBytes); {
		entries, err := w.cfg.Log(shard).Read(ctx, at, readBytes)
		if errors.Is(err, journal.ErrTrimmed) {
			return nil, fmt.Errorf("shard %d: the journal no longer has what comes behind index %d in the archive: %w", shard, at, err)
		}
		if err != nil {
			return nil, fmt.Errorf("read the journal of shard %d: %w", shard, err)
		}
		if s == nil {
			if hash == nil {
				r, err := peek(entries[0])
				if err == nil && hintOf(r.before) != hint {
					err = errors.New("their running hashes differ")
				}
				if err != nil {
					return nil, &PartedError{Shard: shard, At: after, Cause: err}
				}
				hash = &r.before
			}
			s = beginSegment(w.cfg.Cluster, shard, after, *hash)
		}
		for _, e := range entries {
			if len(s.plain) >= w.cfg.SegmentBytes {
				break
			}
			if err := s.add(e); err != nil {
				return nil, &PartedError{Shard: shard, At: s.name.to, Cause: err}
			}
			at = e.Index
		}
	}
	return s, nil
}

// foldFrom tells where the small segments begin that a chain ends with, if they
// are many enough.
func foldFrom(all []object, tip journal.Position) (from journal.Position, ok bool) {
	at, bytes, n := tip, int64(0), 0
	for n < foldCount {
		o, found := before(all, at)
		if bytes += o.bytes; !found || o.to != at || bytes > foldBytes {
			return from, false
		}
		at = o.after
		n++
	}
	return at, true
}

// tidy removes segments whose entries another one holds that has just been
// written. Those of a history that the journal does not have stay.
func (w *Writer) tidy(ctx context.Context, shard journal.ShardID, h *head, by segmentName) error {
	log := w.cfg.Log(shard)
	for _, n := range covered(h.objects, by) {
		if !log.Contains(n.to) {
			continue
		}
		if err := w.cfg.Store.Delete(ctx, n.String()); err != nil {
			return err
		}
		h.objects = slices.DeleteFunc(h.objects, func(o object) bool { return o.segmentName == n })
	}
	return nil
}

// resume finds where a shard's chain stands, and proves that the journal has the
// same entry there.
func (w *Writer) resume(ctx context.Context, shard journal.ShardID) (*head, error) {
	h := &head{known: true}
	found := listing{bases: bases{}}
	err := w.cfg.Store.List(ctx, shardPrefix(w.cfg.Cluster, shard), func(o Object) error {
		if n, ok := parseSegmentName(o.Name); ok {
			h.objects = append(h.objects, object{n, o.Bytes})
		} else if n, ok := parsePartName(o.Name); ok && n.part < maxParts {
			found.bases.add(n)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	log := w.cfg.Log(shard)
	strange := 0
	for _, o := range h.objects {
		switch {
		case !log.Contains(o.to):
			strange++
		case o.to.Index > h.at.Index:
			h.at, h.hint = o.to, o.hash
		}
	}
	if b := found.newestBase(0); b != nil && b.at.Index > h.at.Index && log.Contains(b.at) {
		h.at, h.hint = b.at, b.hash
	}
	if strange > 0 {
		w.cfg.Logger.Warn("the archive holds a history that this journal does not have; it stays there, and the archive goes on from where they part",
			"shard", shard, "segments", strange, "from_index", h.at.Index)
	}
	if h.at.Index == 0 {
		return h, nil
	}
	hash, err := hashAt(ctx, log, h.at)
	switch {
	case errors.Is(err, journal.ErrTrimmed):
		h.known = false
	case err != nil:
		return nil, err
	case hintOf(hash) != h.hint:
		return nil, &PartedError{Shard: shard, At: h.at, Cause: errors.New("their running hashes differ")}
	default:
		h.hash = hash
	}
	return h, nil
}

// hashAt is the running hash after an entry that the journal has.
func hashAt(ctx context.Context, log journal.Log, at journal.Position) (hash [32]byte, err error) {
	if at.Index == 0 {
		return hash, nil
	}
	entries, err := log.Read(ctx, at.Index-1, 1)
	if err != nil {
		return hash, fmt.Errorf("read the journal at index %d: %w", at.Index, err)
	}
	if entries[0].Position != at {
		return hash, fmt.Errorf("the journal has term %d index %d where the archive has term %d index %d", entries[0].Term, entries[0].Index, at.Term, at.Index)
	}
	r, err := peek(entries[0])
	if err != nil {
		return hash, err
	}
	return journal.NextHash(r.before, entries[0].Data), nil
}

// pace rests so that bytes since began are no more than the rate allows.
func (w *Writer) pace(ctx context.Context, began time.Time, bytes int) error {
	if w.cfg.Rate <= 0 {
		return nil
	}
	due := time.Duration(float64(bytes) / float64(w.cfg.Rate) * float64(time.Second))
	if !clock.Sleep(ctx, min(due-w.cfg.Clock.Now().Sub(began), due)) {
		return ctx.Err()
	}
	return nil
}
