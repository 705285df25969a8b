package backup

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/bongsu-im/bongsu/journal"
)

// object is a segment as the listing of a store shows it.
type object struct {
	segmentName
	bytes int64
}

// later orders positions as histories replace each other: an owner of a later
// term has the last word.
func later(a, b journal.Position) int {
	return cmp.Or(cmp.Compare(a.Term, b.Term), cmp.Compare(a.Index, b.Index))
}

// listing is what a store holds of one shard, by names.
type listing struct {
	segments []object
	bases    bases
}

// newestBase is the latest base that is whole and not behind limit, if that is
// not 0; nil if there is none.
func (l *listing) newestBase(limit journal.Index) (newest *base) {
	for _, b := range l.bases {
		if b.whole() && (limit == 0 || b.at.Index <= limit) && (newest == nil || later(b.at, newest.at) > 0) {
			newest = b
		}
	}
	return newest
}

// chainTo finds the segments that lead from the beginning, or from a base, to the
// end of a shard's history, or up to an index if limit is not 0, by their names.
// Each is used up to where the next begins.
//
// Names may fork: a journal that lost its end and went on without it has another
// history from there. As in the journal itself the later term wins. Names may
// overlap: where two nodes archived at a time, and where small segments were
// replaced by a large one and have not been removed yet.
func (l *listing) chainTo(limit journal.Index) (from *base, path []object, err error) {
	newest := l.newestBase(limit)
	at, ok := lastOf(l.segments, limit)
	if !ok || newest != nil && later(newest.at, at.to) >= 0 {
		return newest, nil, nil // the base alone, or nothing
	}
	for {
		path = append(path, at)
		from := l.bases[at.after]
		if at.after.Index == 0 || from != nil && from.whole() {
			slices.Reverse(path)
			return from, path, nil
		}
		before, ok := before(l.segments, at.after)
		if !ok {
			return nil, nil, &GapError{Shard: at.shard, Before: at.after.Index, Whole: l.wholeBelow(at.after.Index)}
		}
		at = before
	}
}

// lastOf finds the segment that a history ends with, or that limit lies in.
func lastOf(all []object, limit journal.Index) (last object, found bool) {
	for _, o := range all {
		if limit != 0 && o.after.Index >= limit {
			continue
		}
		if !found || later(o.to, last.to) > 0 || o.to == last.to && o.after.Index < last.after.Index {
			last, found = o, true
		}
	}
	return last, found
}

// before finds the segment that leads to a position: one that ends there, the
// longest of these, else one that goes over it.
func before(all []object, at journal.Position) (best object, found bool) {
	for _, o := range all {
		if o.to == at && (!found || o.after.Index < best.after.Index) {
			best, found = o, true
		}
	}
	if found {
		return best, true
	}
	for _, o := range all {
		over := o.after.Index < at.Index && at.Index < o.to.Index && o.after.Term <= at.Term && at.Term <= o.to.Term
		if over && (!found || later(o.to, best.to) > 0) {
			best, found = o, true
		}
	}
	return best, found
}

// wholeBelow is the greatest index below which some chain reaches, 0 if none.
func (l *listing) wholeBelow(index journal.Index) (whole journal.Index) {
	for _, o := range l.segments {
		if o.to.Index < index && o.to.Index > whole {
			if _, _, err := l.chainTo(o.to.Index); err == nil {
				whole = o.to.Index
			}
		}
	}
	return whole
}

// GapError: segments of a shard are missing from the archive.
type GapError struct {
	Shard  journal.ShardID
	Before journal.Index // what is behind this index is there, what leads to it is not
	Whole  journal.Index // what is there without a gap
}

func (e *GapError) Error() string {
	return fmt.Sprintf("shard %d: the segment that leads to index %d is missing; the archive is whole up to index %d", e.Shard, e.Before, e.Whole)
}

// covered finds the segments that another one holds all entries of.
func covered(all []object, by segmentName) (names []segmentName) {
	for _, o := range all {
		if o.segmentName != by && o.after.Index >= by.after.Index && o.to.Index <= by.to.Index {
			names = append(names, o.segmentName)
		}
	}
	return names
}
