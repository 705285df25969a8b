package raft

import (
	"context"
	"fmt"
	"slices"

	etcd "go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	"github.com/bongsu-im/bongsu/journal"
)

// Role is what this node is in a shard.
type Role string

// The roles.
const (
	RoleLeader    Role = "leader"
	RoleFollower  Role = "follower"
	RoleCandidate Role = "candidate"
	RoleLearner   Role = "learner"
	RoleJoining   Role = "joining" // waits to be added
	RoleRemoved   Role = "removed"
	RoleDamaged   Role = "damaged"
)

// Status is one shard as this node sees it.
type Status struct {
	Shard  journal.ShardID
	Role   Role
	Leader NodeID // 0: none known
	Term   journal.Term
	// Commit is the last index known to be committed, Last the last on this disk,
	// First the first that is not trimmed.
	Commit, Last, First journal.Index
	Owner               bool // a lease can be had here
	Changing            bool // a membership change is under way
	Snapshot            SnapshotProgress
	Members             []Member
	// Damage says why this node has no part in the shard: it is damaged here, or
	// the node was removed from it. Empty otherwise.
	Damage string
	// Dropped counts messages from peers for which there was no room.
	Dropped uint64
}

// Member is a member of a shard. Match, Active and what follows are known to the
// leader only.
type Member struct {
	Node  NodeID
	Voter bool
	Match journal.Index // its log is the leader's up to here
	// Active: heard of within an election's time.
	Active bool
	// Snapshot: it needs what is trimmed, or is taking it.
	Snapshot bool
}

// Leader returns who leads a shard and in which term, as far as this node knows;
// 0 if nobody. It does not wait.
func (j *Journal) Leader(shard journal.ShardID) (NodeID, journal.Term) {
	g := j.groups[shard]
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	return g.leader, journal.Term(g.term)
}

// LeaseEnded returns a channel that is closed when the lease is over; it is
// closed already if it is not the shard's current one.
func (j *Journal) LeaseEnded(shard journal.ShardID, lease journal.Lease) <-chan struct{} {
	g := j.groups[shard]
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	if g.owner == 0 || g.owner != uint64(lease.Term) {
		over := make(chan struct{})
		close(over)
		return over
	}
	return g.ended
}

// Status tells about a shard. It waits for the group's loop, which may be at the
// disk.
func (j *Journal) Status(ctx context.Context, shard journal.ShardID) (Status, error) {
	g := j.groups[shard]
	s := Status{Shard: shard}
	g.log.mu.Lock()
	conf := g.log.meta.conf
	s.Leader, s.Term = g.leader, journal.Term(g.term)
	s.Commit, s.Last, s.First = journal.Index(g.log.commit), journal.Index(g.log.last), g.log.meta.trimmed.Index+1
	s.Owner = g.owner != 0
	joining := g.log.joining()
	g.log.mu.Unlock()
	g.inbox.mu.Lock()
	s.Dropped = g.inbox.dropped
	g.inbox.mu.Unlock()
	s.Snapshot = SnapshotProgress{From: g.progress.from.Load(), Bytes: g.progress.bytes.Load()}
	for _, node := range membersOf(conf) {
		s.Members = append(s.Members, Member{Node: node, Voter: slices.Contains(votersOf(conf), node)})
	}
	switch {
	case g.lost.Load() != nil:
		s.Role, s.Damage = RoleDamaged, g.lost.Load().Error()
		return s, nil
	case g.removed.Load() != nil:
		s.Role, s.Damage = RoleRemoved, g.removed.Load().Error()
		return s, nil
	}
	err := g.do(ctx, func() {
		st := g.node.Status()
		switch {
		case st.RaftState == etcd.StateLeader:
			s.Role = RoleLeader
		case joining:
			s.Role = RoleJoining
		case !slices.Contains(votersOf(conf), j.cfg.NodeID):
			s.Role = RoleLearner
		case st.RaftState == etcd.StateFollower:
			s.Role = RoleFollower
		default:
			s.Role = RoleCandidate
		}
		s.Leader, s.Term = st.Lead, journal.Term(st.GetTerm())
		s.Changing, s.Snapshot.Running = g.changing != nil, g.fetching
		for i := range s.Members {
			m := &s.Members[i]
			if p, ok := st.Progress[m.Node]; ok {
				m.Match, m.Active = journal.Index(p.Match), g.active(m.Node)
				m.Snapshot = p.State == tracker.StateSnapshot
			}
		}
	})
	if err != nil {
		return s, fmt.Errorf("status of shard %d: %w", shard, err)
	}
	return s, nil
}

// TrimFloor returns up to where a shard's log may be trimmed without making a
// member take a snapshot: what every member that was heard of lately has. It is
// the commit index where this node does not lead.
func (j *Journal) TrimFloor(ctx context.Context, shard journal.ShardID) (journal.Index, error) {
	s, err := j.Status(ctx, shard)
	if err != nil {
		return 0, err
	}
	floor := s.Commit
	if s.Role == RoleLeader {
		for _, m := range s.Members {
			if m.Active {
				floor = min(floor, m.Match)
			}
		}
	}
	return floor, nil
}
