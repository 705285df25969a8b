package raft

import (
	"context"
	"errors"
	"fmt"
	"slices"

	etcd "go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"

	"github.com/bongsu-im/bongsu/journal"
)

// Errors of membership changes besides the typed ones below.
var (
	// ErrChanging: another change of this shard is under way.
	ErrChanging = errors.New("journal: another membership change of the shard is under way")
	// ErrChangeRefused: the change did not take place, for certain.
	ErrChangeRefused = errors.New("journal: the membership change did not take place")
	// ErrUsedNode: the node was a member of this shard and was removed; a node
	// comes back under a new ID.
	ErrUsedNode = errors.New("journal: the node was removed from the shard before; it must join under a new node ID")
	// ErrNotMember: the node is not what the change needs it to be.
	ErrNotMember = errors.New("journal: the node is not such a member of the shard")
)

// NotLeaderError: changes are made at the shard's leader. Leader is 0 if there
// is none known.
type NotLeaderError struct {
	Shard  journal.ShardID
	Leader NodeID
}

func (e *NotLeaderError) Error() string {
	return fmt.Sprintf("journal: this node does not lead shard %d, node %d does (0: none known)", e.Shard, e.Leader)
}

// NotWholeError: members are out of reach or behind, and the change would risk
// the quorum.
type NotWholeError struct {
	Shard   journal.ShardID
	Missing []NodeID
}

func (e *NotWholeError) Error() string {
	return fmt.Sprintf("journal: shard %d is not whole, nodes %v are out of reach or behind; bring them back or name the one to replace", e.Shard, e.Missing)
}

// BehindError: the learner is not close enough to the end to become a voter.
type BehindError struct {
	Shard  journal.ShardID
	Node   NodeID
	Behind uint64 // entries
}

func (e *BehindError) Error() string {
	return fmt.Sprintf("journal: node %d is %d entries behind in shard %d", e.Node, e.Behind, e.Shard)
}

// RemovedError: this node was removed from the shard's group. To appenders it is
// journal.ErrNotOwner.
type RemovedError struct {
	Shard journal.ShardID
	Node  NodeID
	Why   string
}

func (e *RemovedError) Error() string {
	return fmt.Sprintf("journal: node %d was removed from shard %d: %s", e.Node, e.Shard, e.Why)
}

// Is makes errors.Is(err, journal.ErrNotOwner) true.
func (e *RemovedError) Is(target error) bool { return target == journal.ErrNotOwner }

// caughtUp is how many entries a member may be behind and still count as near.
const caughtUp = 256

// change is a membership change that was proposed.
type change struct {
	index, term uint64
	done        chan error // room for one
}

// changed answers the change that is under way.
func (g *group) changed(err error) {
	if c := g.changing; c != nil {
		g.changing = nil
		c.done <- err
	}
}

// AddLearner lets a node take part in a shard without a vote, to catch up. It is
// refused while the shard is not whole; instead names a member that is lost and
// shall be replaced, 0 if none. It must be asked of the leader's node.
func (j *Journal) AddLearner(ctx context.Context, shard journal.ShardID, node, instead NodeID) error {
	return j.change(ctx, shard, func(g *group, s etcd.Status) (*raftpb.ConfChangeV2, error) {
		g.log.mu.Lock()
		gone, conf := g.log.gone[node], g.log.meta.conf
		g.log.mu.Unlock()
		switch {
		case gone:
			return nil, ErrUsedNode
		case node == 0 || etcd.IsLocalMsgTarget(node) || slices.Contains(membersOf(conf), node):
			return nil, fmt.Errorf("add node %d: %w", node, ErrNotMember)
		}
		return changes(raftpb.ConfChangeAddLearnerNode, node), g.whole(s, instead)
	})
}

// Promote makes a learner that has caught up a voter. If instead is not 0, that
// voter is removed in the same step: the number of voters stays what it was.
func (j *Journal) Promote(ctx context.Context, shard journal.ShardID, node, instead NodeID) error {
	return j.change(ctx, shard, func(g *group, s etcd.Status) (*raftpb.ConfChangeV2, error) {
		p, ok := s.Progress[node]
		if !ok || !p.IsLearner {
			return nil, fmt.Errorf("promote node %d: %w", node, ErrNotMember)
		}
		if err := g.whole(s, instead, node); err != nil {
			return nil, err
		}
		if behind := g.behind(p); behind > 0 || !g.active(node) {
			return nil, &BehindError{Shard: shard, Node: node, Behind: behind}
		}
		cc := changes(raftpb.ConfChangeAddNode, node)
		if instead != 0 {
			if p, ok := s.Progress[instead]; !ok || p.IsLearner || instead == g.j.cfg.NodeID {
				return nil, fmt.Errorf("remove node %d: %w", instead, ErrNotMember)
			}
			cc.Changes = append(cc.Changes, changes(raftpb.ConfChangeRemoveNode, instead).Changes...)
		}
		return cc, nil
	})
}

// Remove takes a member out of a shard, for good. The others must be whole. A
// leader is not removed: transfer the leadership first.
func (j *Journal) Remove(ctx context.Context, shard journal.ShardID, node NodeID) error {
	return j.change(ctx, shard, func(g *group, s etcd.Status) (*raftpb.ConfChangeV2, error) {
		p, ok := s.Progress[node]
		if !ok || node == g.j.cfg.NodeID {
			return nil, fmt.Errorf("remove node %d: %w", node, ErrNotMember)
		}
		if p.IsLearner { // no quorum changes
			return changes(raftpb.ConfChangeRemoveNode, node), nil
		}
		return changes(raftpb.ConfChangeRemoveNode, node), g.whole(s, node)
	})
}

func changes(what raftpb.ConfChangeType, node NodeID) *raftpb.ConfChangeV2 {
	return &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{Type: what.Enum(), NodeId: &node}}}
}

// change proposes what build makes, and waits until it is in force.
func (j *Journal) change(ctx context.Context, shard journal.ShardID, build func(*group, etcd.Status) (*raftpb.ConfChangeV2, error)) error {
	g := j.groups[shard]
	done := make(chan error, 1)
	err := g.do(ctx, func() { g.proposeChange(build, done) })
	if err == nil {
		select {
		case err = <-done:
		case <-ctx.Done():
			err = fmt.Errorf("%w: %w", journal.ErrUnknown, ctx.Err())
		case <-g.stopped:
			err = journal.ErrUnknown
		}
	}
	if err != nil {
		return fmt.Errorf("change the members of shard %d: %w", shard, err)
	}
	return nil
}

func (g *group) proposeChange(build func(*group, etcd.Status) (*raftpb.ConfChangeV2, error), done chan error) {
	s := g.node.Status()
	g.log.mu.Lock()
	owner, index, joint := g.owner, g.log.last+1, len(g.log.meta.conf.GetVotersOutgoing()) > 0
	g.log.mu.Unlock()
	switch {
	case s.RaftState != etcd.StateLeader || owner != s.GetTerm():
		done <- &NotLeaderError{Shard: g.shard, Leader: s.Lead}
		return
	case g.changing != nil || joint:
		done <- ErrChanging
		return
	}
	cc, err := build(g, s)
	if err == nil {
		err = g.node.ProposeConfChange(cc)
	}
	if err != nil {
		done <- err
		return
	}
	g.changing = &change{index: index, term: owner, done: done}
}

// active tells whether a peer was heard of within an election's time.
func (g *group) active(node NodeID) bool {
	at, ok := g.heard[node]
	return node == g.j.cfg.NodeID || (ok && g.ticks-at <= electionTicks)
}

// behind is by how many entries a member is too far behind to count as near.
func (g *group) behind(p tracker.Progress) uint64 {
	last := g.log.last // the loop alone changes it
	switch {
	case p.State == tracker.StateSnapshot:
		return last
	case p.Match+caughtUp >= last:
		return 0
	}
	return last - p.Match
}

// whole returns a *NotWholeError if a voter, other than those excepted, is out of
// reach or behind.
func (g *group) whole(s etcd.Status, except ...NodeID) error {
	var missing []NodeID
	for node, p := range s.Progress {
		if p.IsLearner || slices.Contains(except, node) {
			continue
		}
		if !g.active(node) || g.behind(p) > 0 {
			missing = append(missing, node)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return &NotWholeError{Shard: g.shard, Missing: missing}
}

// applyConfChange puts a committed change in force, if the entry is one, once it
// is durable, and tells who has asked for it.
func (g *group) applyConfChange(e *raftpb.Entry) error {
	var cc raftpb.ConfChangeI
	switch kindOf(e) {
	case kindConfChange:
		one := &raftpb.ConfChange{}
		if err := proto.Unmarshal(e.GetData(), one); err != nil {
			return g.log.corrupt(e.GetIndex(), "membership change: %w", err)
		}
		cc = one
	case kindConfChangeV2:
		two := &raftpb.ConfChangeV2{}
		if err := proto.Unmarshal(e.GetData(), two); err != nil {
			return g.log.corrupt(e.GetIndex(), "membership change: %w", err)
		}
		cc = two
	default:
		if c := g.changing; c != nil && c.index == e.GetIndex() {
			g.changed(ErrChangeRefused) // raft put an empty entry in its place
		}
		return nil
	}
	conf := g.node.ApplyConfChange(cc)
	if err := g.log.setConf(e.GetIndex(), conf); err != nil {
		return err
	}
	g.j.cfg.Logger.Info("a shard's members changed", "shard", g.shard, "index", e.GetIndex(), "members", conf.String())
	if c := g.changing; c != nil && len(conf.GetVotersOutgoing()) == 0 {
		switch {
		case c.index > e.GetIndex():
		case c.index == e.GetIndex() && c.term != e.GetTerm():
			g.changed(ErrChangeRefused)
		default:
			g.changed(nil)
		}
	}
	if !slices.Contains(membersOf(conf), g.j.cfg.NodeID) {
		g.remove("the change is committed")
	}
	return nil
}
