package client

import (
	"slices"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// positions is what a client has seen acknowledged, by shard: of each of the
// latest terms the highest, oldest term first. One a shard would not do: a
// journal that has lost its tail goes on in a later term, and an answer of that
// term, if it came before the next hello, would hide the position that shows
// the loss.
type positions map[uint32][]*edgev1.Position

const (
	// maxTerms bounds the positions that are kept of a shard.
	maxTerms = 4
	// maxPresented is how many positions a server takes in one hello.
	maxPresented = 256
)

func (s positions) note(p *edgev1.Position) {
	of := s[p.GetShard()]
	i, known := slices.BinarySearchFunc(of, p.GetTerm(), func(old *edgev1.Position, term uint64) int {
		switch {
		case old.GetTerm() < term:
			return -1
		case old.GetTerm() > term:
			return 1
		}
		return 0
	})
	switch {
	case known && of[i].GetIndex() < p.GetIndex():
		of[i] = p
	case !known:
		of = slices.Insert(of, i, p)
		s[p.GetShard()] = of[max(len(of)-maxTerms, 0):]
	}
}

// forget drops what the server has said its history lacks.
func (s positions) forget(lost []*edgev1.Position) {
	for _, p := range lost {
		s[p.GetShard()] = slices.DeleteFunc(s[p.GetShard()], func(old *edgev1.Position) bool {
			return old.GetTerm() == p.GetTerm()
		})
	}
}

// list is what a hello presents.
func (s positions) list() []*edgev1.Position {
	var all, highest []*edgev1.Position
	for _, of := range s {
		all = append(all, of...)
		if len(of) > 0 {
			highest = append(highest, of[len(of)-1])
		}
	}
	if len(all) > maxPresented {
		return highest
	}
	return all
}

// Positions returns the highest positions that the client has seen, of the
// latest terms of each shard.
func (c *Client) Positions() []*edgev1.Position {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.positions.list()
}

// NotePosition tells the client a position learnt elsewhere, such as by an
// earlier run: the next hello presents it.
func (c *Client) NotePosition(p *edgev1.Position) {
	if p == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.positions.note(p)
}

func (c *Client) forget(lost []*edgev1.Position) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.positions.forget(lost)
}
