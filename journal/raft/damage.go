package raft

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/highwater"
)

// markProof is the proof in a LostTailError that the marks give.
const markProof = "this machine's high-water mark"

// lossTermJump is added to the term when a loss is accepted. The lost part may
// have known terms that nobody here remembers; positions of the history that is
// written from now on must be none of its positions.
const lossTermJump = 1 << 20

// compare holds a group's log against its marks, and fences the shard if the log
// has not what the marks prove.
func (j *Journal) compare(g *group) error {
	m := j.marks.durable[g.shard]
	proven := m.End
	if m.Applied.Index > proven.Index {
		proven = m.Applied.Position
	}
	if g.log.contains(m.End, g.log.last) && g.log.contains(m.Applied.Position, g.log.last) {
		// Marks say what was committed; a follower's log alone does not know.
		return g.log.raise(uint64(max(m.End.Index, m.Applied.Index)))
	}
	if g.log.contains(proven, g.log.last) {
		proven = m.Applied.Position
	}
	lost := &journal.LostTailError{Shard: g.shard, Have: g.log.common(proven, g.log.last), Proven: proven, Proof: markProof}
	g.lost.Store(lost)
	j.damage = append(j.damage, lost)
	j.cfg.Logger.Error("acknowledged entries are missing from the journal; the shard is left alone until the loss is accepted", "shard", g.shard, "err", lost)
	return nil
}

// common gives the last position of this log that may also be in the history
// that proven is of: the last entry of no later term and no later index.
func (l *shardLog) common(proven journal.Position, end uint64) journal.Position {
	at := min(end, uint64(proven.Index))
	i := sort.Search(len(l.spans), func(i int) bool {
		return l.spans[i].start > at || l.spans[i].term > uint64(proven.Term)
	})
	if i == 0 {
		return journal.Position{}
	}
	if i < len(l.spans) && l.spans[i].start <= at {
		at = l.spans[i].start - 1
	}
	return journal.Position{Term: journal.Term(l.spans[i-1].term), Index: journal.Index(at)}
}

// Damage tells what is known to be wrong: *journal.LostTailError for each shard
// that lacks what its mark proves (it does not run) or what ReportLost was told
// (it runs), *highwater.Error for damaged copies of the marks, and *ImpostorError for
// nodes that were refused.
func (j *Journal) Damage() []error {
	j.damageMu.Lock()
	defer j.damageMu.Unlock()
	out := append([]error(nil), j.damage...)
	j.identity.mu.Lock()
	for _, node := range slices.Sorted(maps.Keys(j.identity.denied)) {
		out = append(out, j.identity.denied[node])
	}
	j.identity.mu.Unlock()
	for shard := range j.groups {
		if e := j.reported[journal.ShardID(shard)]; e != nil {
			out = append(out, e)
		}
	}
	return out
}

// ReportLost takes note that someone, named by proof, holds a position that was
// acknowledged. It returns nil if the history has it, else the
// *journal.LostTailError, which Damage tells from then on (the farthest of each
// shard). The shard goes on: what a client says does not stop the others.
func (j *Journal) ReportLost(shard journal.ShardID, proven journal.Position, proof string) error {
	g := j.groups[shard]
	g.log.mu.Lock()
	has := g.log.contains(proven, g.log.commit)
	have := g.log.common(proven, g.log.commit)
	g.log.mu.Unlock()
	if has {
		return nil
	}
	e := &journal.LostTailError{Shard: shard, Have: have, Proven: proven, Proof: proof}
	j.damageMu.Lock()
	defer j.damageMu.Unlock()
	if old := j.reported[shard]; old == nil {
		j.cfg.Logger.Error("acknowledged entries are missing from the journal", "shard", shard, "err", e)
		j.reported[shard] = e
	} else if proven.Index > old.Proven.Index {
		j.reported[shard] = e
	}
	return e
}

// ErrPeersHaveIt: AcceptLoss was asked for a shard that has other members. What
// is missing here is there; this node is replaced by one with a new node ID.
var ErrPeersHaveIt = errors.New("journal: the shard has other members; replace this node instead of accepting the loss")

// AcceptLoss lets a shard that was fenced for a missing tail go on from what
// exists, with the journal not open. It returns exactly what is given up, which
// the caller should record. It is safe to repeat if it is cut off: the marks,
// which prove the loss, are put back last.
func AcceptLoss(cfg Config, shard journal.ShardID) (journal.Loss, error) {
	j, err := load(cfg)
	if err != nil {
		return journal.Loss{}, fmt.Errorf("accept loss: %w", err)
	}
	loss, err := j.acceptLoss(shard)
	if err := errors.Join(err, j.Close()); err != nil {
		return journal.Loss{}, fmt.Errorf("accept loss of shard %d: %w", shard, err)
	}
	return loss, nil
}

func (j *Journal) acceptLoss(shard journal.ShardID) (journal.Loss, error) {
	if int(shard) >= len(j.groups) {
		return journal.Loss{}, fmt.Errorf("there are %d shards", len(j.groups))
	}
	g := j.groups[shard]
	e := g.lost.Load()
	if e == nil {
		return journal.Loss{}, journal.ErrNoLoss
	}
	if !isOnly(g.log.meta.conf, j.cfg.NodeID) {
		return journal.Loss{}, ErrPeersHaveIt
	}
	term := max(g.log.hard.GetTerm(), uint64(e.Proven.Term)) + lossTermJump
	commit := g.log.commit
	if err := g.log.save(nil, &raftpb.HardState{Term: &term, Vote: new(uint64), Commit: &commit}); err != nil {
		return journal.Loss{}, err
	}
	next := append([]highwater.Mark(nil), j.marks.durable...)
	next[shard] = highwater.Mark{End: g.durableEnd()}
	if a := j.marks.durable[shard].Applied; g.log.contains(a.Position, g.log.last) {
		next[shard].Applied = a
	}
	j.marks.writing.Lock()
	defer j.marks.writing.Unlock()
	for range highwater.Copies { // both copies: the older one proves the loss as well
		if err := j.marks.write(next); err != nil {
			return journal.Loss{}, err
		}
	}
	return e.Loss(), nil
}
