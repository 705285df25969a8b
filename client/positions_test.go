package client

import (
	"fmt"
	"testing"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

func TestPositionsKeepTheHighestOfEachTerm(t *testing.T) {
	s := positions{}
	for _, p := range [][3]uint64{{0, 2, 7}, {0, 1, 9}, {0, 2, 5}, {0, 2, 8}, {3, 1, 1}} {
		s.note(&edgev1.Position{Shard: uint32(p[0]), Term: p[1], Index: p[2]})
	}
	show := func() string {
		var out string
		for _, p := range s[0] {
			out += fmt.Sprintf("%d/%d ", p.GetTerm(), p.GetIndex())
		}
		return out
	}
	if got := show(); got != "1/9 2/8 " || len(s.list()) != 3 {
		t.Errorf("kept %q, %d in all", got, len(s.list()))
	}
	s.forget([]*edgev1.Position{{Shard: 0, Term: 1, Index: 9}})
	if got := show(); got != "2/8 " {
		t.Errorf("after a loss: %q", got)
	}
	for term := range uint64(100) {
		s.note(&edgev1.Position{Shard: 0, Term: term, Index: 1})
	}
	if got := show(); got != "96/1 97/1 98/1 99/1 " {
		t.Errorf("after many terms: %q", got)
	}
	for shard := range uint32(200) {
		for term := range uint64(2) {
			s.note(&edgev1.Position{Shard: shard, Term: 200 + term, Index: 1})
		}
	}
	if list := s.list(); len(list) != 200 || list[0].GetTerm() != 201 {
		t.Errorf("%d positions presented of 200 shards", len(list))
	}
}
