package backup

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/bongsu-im/bongsu/journal"
)

// Report is what Verify found.
type Report struct {
	Where    string
	Cluster  ClusterID
	Manifest *Manifest
	Objects  int
	Shards   []ShardReport
	Problems []error
	Notices  []string
}

// ShardReport is one shard's part of it.
type ShardReport struct {
	Shard   journal.ShardID
	Base    journal.Index // the chain begins with a base there; 0: at the beginning
	Entries int
	Bytes   int64
	End     journal.Position
	Time    time.Time // of the last record
}

// Whole tells whether nothing is wrong.
func (r *Report) Whole() bool { return len(r.Problems) == 0 }

// Text is the report for people.
func (r *Report) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: cluster %s, %d objects read\n", r.Where, r.Cluster, r.Objects)
	if m := r.Manifest; m != nil {
		fmt.Fprintf(&b, "newest manifest: %s, by node %x (version %s), %d shards, %d files\n", m.Time.Format(time.RFC3339), m.Node, m.Version, m.Shards, len(m.Files))
	}
	for _, s := range r.Shards {
		if s.Base > 0 {
			fmt.Fprintf(&b, "  shard %3d  begins with a snapshot of its view at index %d\n", s.Shard, s.Base)
		}
		if s.End.Index == 0 {
			fmt.Fprintf(&b, "  shard %3d  empty\n", s.Shard)
			continue
		}
		fmt.Fprintf(&b, "  shard %3d  %9d entries, %8.1f MB, up to index %d of term %d (%s)\n", s.Shard, s.Entries, float64(s.Bytes)/1e6, s.End.Index, s.End.Term, s.Time.UTC().Format(time.RFC3339))
	}
	for _, n := range r.Notices {
		fmt.Fprintf(&b, "note     %s\n", n)
	}
	for _, e := range r.Problems {
		fmt.Fprintf(&b, "PROBLEM  %v\n", e)
	}
	if r.Whole() {
		b.WriteString("whole: every object, every entry and the running hashes agree\n")
	}
	return b.String()
}

// Verify reads back every object of the archive, follows every shard's running
// hash from its beginning, and holds the ends against the manifests. progress may
// be nil. The error is one that kept it from looking.
func (a *Archive) Verify(ctx context.Context, progress func(what string, done, total int)) (*Report, error) {
	if progress == nil {
		progress = func(string, int, int) {}
	}
	r := &Report{Where: a.store.String(), Cluster: a.Cluster, Manifest: a.Manifest, Problems: slices.Clone(a.Problems), Notices: slices.Clone(a.Notices)}
	// Every object once, whether a chain needs it or not.
	for i, name := range a.names {
		err := a.look(ctx, name)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil && !slices.ContainsFunc(r.Problems, func(p error) bool { return p.Error() == err.Error() }) {
			r.Problems = append(r.Problems, err)
		}
		r.Objects++
		progress("objects", i+1, len(a.names))
	}
	if a.Manifest == nil {
		return r, nil
	}
	for s := range a.Manifest.Shards {
		report, err := a.verifyShard(ctx, journal.ShardID(s))
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			r.Problems = append(r.Problems, err)
		}
		r.Shards = append(r.Shards, report)
		progress("shards", s+1, a.Manifest.Shards)
	}
	for s := range a.shards {
		if int(s) >= a.Manifest.Shards {
			r.Problems = append(r.Problems, fmt.Errorf("there are segments of shard %d, the cluster has %d shards", s, a.Manifest.Shards))
		}
	}
	r.Notices = append(r.Notices, a.unfinished(r)...)
	return r, nil
}

// look reads one object as what its name says that it is.
func (a *Archive) look(ctx context.Context, name string) error {
	if n, ok := parseSegmentName(name); ok {
		_, err := a.openSegment(ctx, n)
		return err
	}
	if n, ok := parsePartName(name); ok {
		plain, err := a.open(ctx, name)
		if err != nil {
			return err
		}
		if _, _, _, err := parsePart(n, plain); err != nil {
			return &DamagedError{Object: name, Cause: err}
		}
		return nil
	}
	n, _ := parseManifestName(name)
	_, err := a.readManifest(ctx, n)
	return err
}

func (a *Archive) verifyShard(ctx context.Context, shard journal.ShardID) (ShardReport, error) {
	r := ShardReport{Shard: shard}
	b, err := a.Base(ctx, shard, Until{})
	if err == nil && b != nil {
		r.End, r.Base = b.At.Position, b.At.Index
		r.Bytes, err = io.Copy(io.Discard, b.View)
	}
	if err != nil {
		return r, err
	}
	for e, err := range a.Entries(ctx, shard, Until{}) {
		if err != nil {
			return r, err
		}
		r.Entries++
		r.Bytes += int64(len(e.Data))
		r.End = e.Position
		if head, err := peek(e); err == nil {
			r.Time = time.UnixMilli(head.time)
		}
	}
	return r, nil
}

// unfinished tells of entries that no manifest speaks of.
func (a *Archive) unfinished(r *Report) (notices []string) {
	for _, s := range r.Shards {
		var proven journal.Index
		for _, e := range a.endsOf(s.Shard) {
			proven = max(proven, e.Index)
		}
		if s.End.Index > proven {
			notices = append(notices, fmt.Sprintf("shard %d: entries behind index %d are in no manifest: the last run was cut off, or is going on, or its manifest was removed", s.Shard, proven))
		}
	}
	return notices
}
