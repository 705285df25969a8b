package raft

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/bongsu-im/bongsu/journal"
)

// step takes what peers have sent.
func (g *group) step(events []event) {
	for _, e := range events {
		switch {
		case e.down:
			g.lostPeer(e.from)
		case e.removed:
			g.remove(fmt.Sprintf("node %d says so", e.from))
			return
		default:
			g.heard[e.from] = g.ticks
			g.receive(e.from, e.message)
		}
	}
}

// receive looks at a message before raft does: some are not for raft, and from
// some more is learned than raft needs.
func (g *group) receive(from NodeID, m *raftpb.Message) {
	switch m.GetType() { // what any leader has ever told is committed for good
	case raftpb.MsgApp:
		g.word.tell(m.GetCommit())
	case raftpb.MsgSnap:
		g.word.tell(m.GetSnapshot().GetMetadata().GetIndex())
	case raftpb.MsgHeartbeat:
		g.word.tell(m.GetIndex()) // see stamp
	}
	if from == g.leader && m.GetTerm() == g.term {
		g.leaderHeard()
	}
	switch m.GetType() {
	case raftpb.MsgSnap:
		if !g.takes(from, m) {
			return
		}
	case raftpb.MsgVote, raftpb.MsgPreVote:
		g.log.mu.Lock()
		gone := g.log.gone[from]
		g.log.mu.Unlock()
		if gone {
			g.j.cfg.Transport.Send(from, Parcel{Shard: g.shard})
			return
		}
	case raftpb.MsgVoteResp:
		if m.GetReject() {
			g.refused(m)
		}
	case raftpb.MsgAppResp:
		g.noteAck(from, m)
	case raftpb.MsgHeartbeat:
		// A leader names no commit beyond what this node has acknowledged to it.
		// Raft would panic, which would cost all shards.
		if term := g.node.BasicStatus().GetTerm(); m.GetTerm() >= term && m.GetCommit() > g.log.last {
			g.reminded(from, journal.Position{Term: journal.Term(m.GetTerm()), Index: journal.Index(m.GetCommit())})
			return
		}
	}
	// A message that raft cannot use is as good as lost on the way.
	_ = g.node.Step(m)
}

// stamp has a heartbeat say what is committed. Raft's own commit in it goes no
// further than what the receiver has acknowledged, so a member that was cut off
// would take the first one for proof that it has everything. Raft looks at no
// index in a heartbeat; an older release sends none.
func (g *group) stamp(m *raftpb.Message) {
	if m.GetType() != raftpb.MsgHeartbeat {
		return
	}
	commit := g.node.BasicStatus().GetCommit()
	m.Index = &commit
}

// remove stops the group: this node is no member any more.
func (g *group) remove(why string) {
	e := &RemovedError{Shard: g.shard, Node: g.j.cfg.NodeID, Why: why}
	if g.removed.CompareAndSwap(nil, e) {
		g.j.cfg.Logger.Warn("this node stops serving a shard", "shard", g.shard, "err", e)
	}
	g.stop()
}
