package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/bongsu-im/bongsu/journal"
)

// Archive is one cluster's archive, opened for reading.
type Archive struct {
	store   Store
	keys    Identities
	Cluster ClusterID
	// Manifest is the newest that could be read.
	Manifest *Manifest
	// Problems are what opening found damaged or missing that does not keep
	// entries from being read; Notices what people may want to know.
	Problems []error
	Notices  []string

	manifests []*Manifest // the newest of each node
	shards    map[journal.ShardID]*listing
	names     []string // of all objects that were recognised
}

// DamagedError: an object of the archive is not what was put there.
type DamagedError struct {
	Object string
	Cause  error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("object %s is damaged: %v", e.Object, e.Cause)
}

func (e *DamagedError) Unwrap() error { return e.Cause }

// ErrKey: what was to be read is sealed for others than the identities at hand, or
// damaged where it says for whom.
var ErrKey = errors.New("none of the private keys opens it")

// OpenArchive lists the archive in a store and reads its manifests. cluster may be
// empty if the store holds one alone.
func OpenArchive(ctx context.Context, store Store, keys Identities, cluster string) (*Archive, error) {
	found, strange, err := listAll(ctx, store)
	if err != nil {
		return nil, err
	}
	id, err := choose(ctx, store, keys, found, cluster)
	if err != nil {
		return nil, err
	}
	a := found[id]
	a.store, a.keys = store, keys
	for _, name := range strange {
		a.Notices = append(a.Notices, fmt.Sprintf("object %s is not of an archive", name))
	}
	if err := a.readManifests(ctx); err != nil {
		return nil, err
	}
	return a, nil
}

// listAll sorts what is in a store by cluster.
func listAll(ctx context.Context, store Store) (found map[ClusterID]*Archive, strange []string, err error) {
	found = map[ClusterID]*Archive{}
	of := func(c ClusterID) *Archive {
		if found[c] == nil {
			found[c] = &Archive{Cluster: c, shards: map[journal.ShardID]*listing{}}
		}
		return found[c]
	}
	err = store.List(ctx, "", func(o Object) error {
		if n, ok := parseSegmentName(o.Name); ok {
			a := of(n.cluster)
			a.of(n.shard).segments = append(a.of(n.shard).segments, object{n, o.Bytes})
			a.names = append(a.names, o.Name)
		} else if n, ok := parsePartName(o.Name); ok && n.part < maxParts {
			a := of(n.cluster)
			a.of(n.shard).bases.add(n)
			a.names = append(a.names, o.Name)
		} else if n, ok := parseManifestName(o.Name); ok {
			a := of(n.cluster)
			a.names = append(a.names, o.Name)
		} else {
			strange = append(strange, o.Name)
		}
		return nil
	})
	return found, strange, err
}

// of is what there is of a shard.
func (a *Archive) of(shard journal.ShardID) *listing {
	if a.shards[shard] == nil {
		a.shards[shard] = &listing{bases: bases{}}
	}
	return a.shards[shard]
}

// choose picks the cluster: never by guess, as the newest may be somebody's trial
// of a restore.
func choose(ctx context.Context, store Store, keys Identities, found map[ClusterID]*Archive, want string) (ClusterID, error) {
	if want != "" {
		id, err := parseCluster(want)
		if err == nil && found[id] == nil {
			err = fmt.Errorf("%s holds nothing of cluster %s", store, want)
		}
		return id, err
	}
	var lines []string
	for id, a := range found {
		if len(found) == 1 {
			return id, nil
		}
		a.store, a.keys = store, keys
		what := "no manifest"
		if err := a.readManifests(ctx); err != nil {
			return id, err
		}
		if a.Manifest != nil {
			what = fmt.Sprintf("archived until %s", a.Manifest.Time.Format(time.RFC3339))
		}
		lines = append(lines, fmt.Sprintf("\n  %s  %s", id, what))
	}
	if len(lines) == 0 {
		return ClusterID{}, fmt.Errorf("%s holds no archive", store)
	}
	slices.Sort(lines)
	return ClusterID{}, fmt.Errorf("%s holds the archives of several clusters (a restored one begins its own); say which with --cluster:%s", store, strings.Join(lines, ""))
}

// readManifests reads the newest of every node, and falls back to the one before
// where it is damaged. It fails only if the keys fit none.
func (a *Archive) readManifests(ctx context.Context) error {
	a.Manifest, a.manifests, a.Problems = nil, nil, nil
	var closed error
	byNode := map[uint64][]manifestName{}
	for _, name := range a.names {
		if n, ok := parseManifestName(name); ok {
			byNode[n.node] = append(byNode[n.node], n)
		}
	}
	for node, names := range byNode {
		slices.SortFunc(names, func(a, b manifestName) int { return cmp.Compare(b.number, a.number) })
		if newest := names[0].number; newest > 1 && (len(names) < 2 || names[1].number != newest-1) {
			a.Problems = append(a.Problems, fmt.Errorf("a manifest of node %x is missing: of the last two only number %d is there", node, newest))
		}
		var best *Manifest
		for _, n := range names[:min(len(names), 2)] {
			m, err := a.readManifest(ctx, n)
			if ctx.Err() != nil {
				return err
			}
			if errors.Is(err, ErrKey) {
				closed = err
			}
			if err != nil {
				a.Problems = append(a.Problems, err)
			} else if best == nil {
				best = m
			}
		}
		if best != nil {
			a.manifests = append(a.manifests, best)
			if a.Manifest == nil || best.Time.After(a.Manifest.Time) {
				a.Manifest = best
			}
		}
	}
	if a.Manifest == nil && closed != nil {
		return closed
	}
	if len(byNode) == 0 {
		a.Problems = append(a.Problems, errors.New("the archive has no manifest: what must be there is not known, and neither are the keys that sign tokens"))
	}
	return nil
}

func (a *Archive) readManifest(ctx context.Context, n manifestName) (*Manifest, error) {
	plain, err := a.open(ctx, n.String())
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(n, plain)
	if err != nil {
		return nil, &DamagedError{Object: n.String(), Cause: err}
	}
	return m, nil
}

// open gets and unseals an object.
func (a *Archive) open(ctx context.Context, name string) ([]byte, error) {
	sealed, err := a.store.Get(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("read the archive: %w", err)
	}
	plain, err := unseal(sealed, a.keys)
	if err != nil && wrongKey(err) {
		err = ErrKey
	}
	if err != nil {
		return nil, &DamagedError{Object: name, Cause: err}
	}
	return plain, nil
}

func (a *Archive) openSegment(ctx context.Context, n segmentName) (*segment, error) {
	plain, err := a.open(ctx, n.String())
	if err != nil {
		return nil, err
	}
	s, err := parseSegment(n, plain)
	if err != nil {
		return nil, &DamagedError{Object: n.String(), Cause: err}
	}
	return s, nil
}

// Until says where a shard's history shall end; the zero Until at its end.
type Until struct {
	Index journal.Index // the last entry to have, if not 0
	Time  time.Time     // no entry that was decided after this, if not zero
}

// Base opens what a shard's history begins with; nil if it begins at the beginning.
func (a *Archive) Base(ctx context.Context, shard journal.ShardID, until Until) (*Base, error) {
	from, _, err := a.chain(shard, until)
	if err != nil || from == nil {
		return nil, err
	}
	return a.openBase(ctx, from)
}

func (a *Archive) chain(shard journal.ShardID, until Until) (*base, []object, error) {
	if a.shards[shard] == nil {
		return nil, nil, nil
	}
	return a.shards[shard].chainTo(until.Index)
}

// Entries gives a shard's history from its beginning, or from behind its base, each
// entry proven to follow the one before. An error ends it; what was given before is
// as it was.
func (a *Archive) Entries(ctx context.Context, shard journal.ShardID, until Until) iter.Seq2[journal.Entry, error] {
	return func(yield func(journal.Entry, error) bool) {
		w := &walk{a: a, shard: shard, until: until, yield: yield}
		if err := w.run(ctx); err != nil {
			if w.at.Index > 0 {
				err = fmt.Errorf("%w; shard %d is whole up to index %d (--until-position %d:%d)", err, shard, w.at.Index, shard, w.at.Index)
			}
			yield(journal.Entry{}, err)
		}
	}
}

// walk follows one shard's chain.
type walk struct {
	a     *Archive
	shard journal.ShardID
	until Until
	yield func(journal.Entry, error) bool

	at    journal.Position
	hash  [32]byte
	time  int64
	ended bool
}

func (w *walk) run(ctx context.Context) error {
	from, path, err := w.a.chain(w.shard, w.until)
	if err != nil {
		return err
	}
	ends := w.a.endsOf(w.shard)
	if from != nil {
		b, err := w.a.openBase(ctx, from)
		if err != nil {
			return err
		}
		w.at, w.hash = b.At.Position, b.At.Hash
	}
	for i, o := range path {
		s, err := w.a.openSegment(ctx, o.segmentName)
		if err != nil {
			return err
		}
		if o.after != w.at || s.before != w.hash {
			return &DamagedError{Object: o.String(), Cause: fmt.Errorf("it does not continue what comes before it at term %d index %d", w.at.Term, w.at.Index)}
		}
		to := o.to.Index
		if i+1 < len(path) {
			to = path[i+1].after.Index // a later history replaces the rest, or repeats it
		}
		if w.until.Index != 0 {
			to = min(to, w.until.Index)
		}
		if err := w.segment(s, to, ends); err != nil || w.ended {
			return err
		}
	}
	return w.checkEnd(ends)
}

// segment gives the entries of one segment up to an index.
func (w *walk) segment(s *segment, to journal.Index, ends []End) error {
	for _, e := range s.entries {
		if e.Index > to {
			return nil
		}
		head, err := peek(e)
		if err != nil {
			return err // it was read before
		}
		if !w.until.Time.IsZero() && head.time > w.until.Time.UnixMilli() {
			w.ended = true
			return nil
		}
		hash := journal.NextHash(head.before, e.Data)
		for _, end := range ends {
			// One of an earlier term was given up when the history went on without it.
			if end.Index == e.Index && (end.Term > e.Term || end.Term == e.Term && len(end.Hash) > 0 && [32]byte(end.Hash) != hash) {
				return fmt.Errorf("shard %d: a manifest proves another entry at index %d, of term %d", w.shard, end.Index, end.Term)
			}
		}
		w.at, w.hash, w.time = e.Position, hash, head.time
		if !w.yield(e, nil) {
			w.ended = true
			return nil
		}
	}
	return nil
}

// checkEnd holds where the chain ends against what must be there.
func (w *walk) checkEnd(ends []End) error {
	if w.until.Index != 0 {
		if w.at.Index < w.until.Index {
			return fmt.Errorf("shard %d: the archive ends at index %d, before %d", w.shard, w.at.Index, w.until.Index)
		}
		return nil
	}
	for _, end := range ends {
		// An end of an earlier term behind a later history was given up with it.
		if end.Index > w.at.Index && end.Term >= w.at.Term {
			return fmt.Errorf("shard %d: segments are missing at the end: a manifest proves term %d index %d, the archive ends at term %d index %d", w.shard, end.Term, end.Index, w.at.Term, w.at.Index)
		}
	}
	return nil
}

// endsOf are the ends that manifests prove for a shard.
func (a *Archive) endsOf(shard journal.ShardID) (ends []End) {
	for _, m := range a.manifests {
		for _, e := range m.Ends {
			if e.Shard == shard {
				ends = append(ends, e)
			}
		}
	}
	return ends
}

// Shards is how many shards the cluster has.
func (a *Archive) Shards() (int, error) {
	if a.Manifest == nil {
		return 0, errors.Join(append([]error{errors.New("no manifest of the archive can be read")}, a.Problems...)...)
	}
	return a.Manifest.Shards, nil
}
