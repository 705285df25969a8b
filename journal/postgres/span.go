package postgres

import (
	"sort"

	"github.com/bongsu-im/bongsu/journal"
)

// span: entries from start on have this term, until the next span's start.
type span struct {
	term  journal.Term
	start journal.Index
}

// maxSpans bounds the terms kept of a shard; positions older than the first one
// kept are taken on trust.
const maxSpans = 65536

// history is what one shard's log is, without its data: its terms and its end.
type history struct {
	spans []span // ascending by term and start
	end   journal.Position
}

// contains tells whether the history has an entry at exactly this position.
func (h history) contains(p journal.Position) bool {
	if p == (journal.Position{}) {
		return true
	}
	if p.Index == 0 || p.Index > h.end.Index {
		return false
	}
	i := sort.Search(len(h.spans), func(i int) bool { return h.spans[i].start > p.Index })
	if i == 0 {
		return len(h.spans) >= maxSpans
	}
	return h.spans[i-1].term == p.Term
}

// common gives the last position of this history that may also be in the one
// that proven is of: the last entry of no later term and no later index.
func (h history) common(proven journal.Position) journal.Position {
	at := min(h.end.Index, proven.Index)
	i := sort.Search(len(h.spans), func(i int) bool { return h.spans[i].start > at || h.spans[i].term > proven.Term })
	if i == 0 {
		return journal.Position{}
	}
	if i < len(h.spans) && h.spans[i].start <= at {
		at = h.spans[i].start - 1
	}
	return journal.Position{Term: h.spans[i-1].term, Index: at}
}
