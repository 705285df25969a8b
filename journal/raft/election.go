package raft

import (
	"encoding/binary"
	"io"
	"slices"
	"time"

	etcd "go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// Elections are Raft's. This file only says when a node stands for one before
// Raft's own random timeout has it do so: a connection to the leader that breaks,
// and its silence, are hints that it is gone. Standing begins with the question
// for pre-votes, which disturbs nobody who hears the leader.
//
// Two that stand at the same moment split the votes, so everybody has a turn of
// its own, in an order that differs by shard, and who has promised its vote holds
// back. A turn comes back until a leader is known: others may hear of the loss
// later, and refuse until then.

const (
	// silentTicks without a word from a leader are a hint. After an election's time
	// nobody refuses who heard the same last word; others heard it up to a
	// heartbeat later.
	silentTicks = electionTicks + heartbeatTicks
	// maxTurns bounds the questions after one loss: about four seconds. A node that
	// is cut off from a leader whom all others hear has then asked enough, and goes
	// on at the pace of Raft's timeout.
	maxTurns = 40
	// yieldTicks is how long a node does not stand after it has promised its vote.
	yieldTicks = 5
)

// search is the search for a leader after one was lost. All of it is the loop's.
type search struct {
	timer   *time.Timer // the next turn
	turns   int         // how many are left; 0: nothing is searched
	lost    NodeID      // who led, 0 if nobody
	since   uint64      // when it was lost, in ticks
	word    uint64      // when a leader was last heard of, or a vote given away, in ticks
	term    uint64      // of the election in which
	against int         // so many have voted for another
	split   bool        // it cannot be won
}

// lostPeer: the connection to a peer has broken.
func (g *group) lostPeer(peer NodeID) {
	g.node.ReportUnreachable(peer)
	s := g.node.BasicStatus()
	awaited := s.Lead == 0 && s.GetVote() == peer // it may have died of winning
	if s.RaftState == etcd.StateFollower && (s.Lead == peer || awaited) {
		g.seek(peer)
	}
}

// seek begins to search for a leader in place of lost.
func (g *group) seek(lost NodeID) {
	_ = g.node.ForgetLeader() // only refused in modes we do not use
	if lost == g.j.cfg.NodeID {
		lost = 0 // it steps down, it is not gone
	}
	r := &g.search
	r.lost, r.since, r.split, r.turns = lost, g.ticks, false, 0
	if wait, may := g.nextTurn(); may {
		r.turns = maxTurns
		r.timer.Reset(wait)
	}
}

// nextTurn is how long this node waits for its turn, counted from the loss that
// all hear of at about the same time. false: it is no voter.
func (g *group) nextTurn() (time.Duration, bool) {
	voters := slices.DeleteFunc(g.voters(), func(n NodeID) bool { return n == g.search.lost })
	slices.Sort(voters)
	at := slices.Index(voters, g.j.cfg.NodeID)
	if at < 0 {
		return 0, false
	}
	at = (at + int(g.shard)) % len(voters)
	tick := g.j.cfg.TickInterval
	return time.Duration(at)*tick + tick/10 + g.j.jitter(4*tick/10), true
}

// turn stands for election, unless a leader was found.
func (g *group) turn() {
	r := &g.search
	s := g.node.BasicStatus()
	if s.RaftState == etcd.StateLeader || g.found(s.Lead) {
		r.turns = 0
		return
	}
	// A candidate waits for the votes that it has asked for: asking anew would make
	// those that are at a slow disk worthless.
	if s.RaftState != etcd.StateCandidate || r.split {
		r.split = false
		_ = g.node.ForgetLeader() // as in seek
		_ = g.node.Campaign()     // never refused to a voter that does not lead
	}
	if r.turns--; r.turns > 0 {
		tick := g.j.cfg.TickInterval
		r.timer.Reset(tick*3/2 + g.j.jitter(tick))
	}
}

// found tells whether lead is a leader to stay with. What the lost one has said
// before its connection broke may come after the news that it broke; only if it
// is heard of for longer it is there after all.
func (g *group) found(lead NodeID) bool {
	r := &g.search
	return lead != 0 && (lead != r.lost || g.heard[lead] > r.since+heartbeatTicks)
}

// voters are the group's, in no order.
func (g *group) voters() []NodeID {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	return votersOf(g.log.meta.conf)
}

// leaderHeard: the leader has said something. A new leader does not know itself
// what is committed until an entry of its own term is (Raft §5.4.2): until then
// its word says nothing about what others were acknowledged before.
func (g *group) leaderHeard() {
	g.search.word = g.ticks
	g.log.mu.Lock()
	commit := g.log.commit
	term, _ := g.log.termAt(commit)
	knows := term == g.term
	g.log.mu.Unlock()
	if knows {
		g.word.spoke(commit)
	}
}

// follow takes note of another leader, or of none: however Raft has lost it, it
// is searched for.
func (g *group) follow(was, lead NodeID) {
	self := g.j.cfg.NodeID
	if lead != 0 {
		g.leaderHeard()
	}
	if lead != self { // for one that leads see setOwner
		g.word.stop()
	}
	if lead == 0 && was != 0 && g.search.turns == 0 {
		g.seek(was)
	}
}

// watchLeader is called with every tick: silence is noticed once, until there is
// a leader again.
func (g *group) watchLeader() {
	if r := &g.search; r.turns == 0 && g.ticks-r.word == silentTicks {
		if s := g.node.BasicStatus(); s.RaftState != etcd.StateLeader {
			g.seek(g.leader) // Raft may have noticed with the same tick
		}
	}
}

// refused counts who has voted for another. When too few are left to win, the
// next election needs not wait for the timeout of this one.
func (g *group) refused(m *raftpb.Message) {
	r := &g.search
	s := g.node.BasicStatus()
	if s.RaftState != etcd.StateCandidate || m.GetTerm() != s.GetTerm() {
		return
	}
	if r.term != m.GetTerm() {
		r.term, r.against = m.GetTerm(), 0
	}
	r.against++
	voters := len(g.voters())
	left := voters - r.against
	if r.lost != 0 {
		left--
	}
	if wait, may := g.nextTurn(); may && left <= voters/2 {
		r.split, r.turns = true, max(r.turns, 1)
		r.timer.Reset(wait)
	}
}

// promised: an answer was sent that gives another the vote, or will.
func (g *group) promised(answer *raftpb.Message) {
	if answer.GetType() == raftpb.MsgAppResp || answer.GetReject() {
		return
	}
	g.search.word = g.ticks
	if g.search.turns > 0 {
		g.search.timer.Reset(yieldTicks * g.j.cfg.TickInterval)
	}
}

// jitter draws a duration from 0 to most.
func (j *Journal) jitter(most time.Duration) time.Duration {
	var b [8]byte
	if _, err := io.ReadFull(j.cfg.Random, b[:]); err != nil {
		return most
	}
	return time.Duration(binary.BigEndian.Uint64(b[:]) % uint64(most+1))
}
