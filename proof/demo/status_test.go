package demo

import (
	"slices"
	"testing"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
)

func TestStatusOf(t *testing.T) {
	names := map[uint64]string{1: "n1", 2: "n2", 3: "n3"}
	all := []*nodev1.MemberState{{Node: 1, Voter: true}, {Node: 2, Voter: true}, {Node: 3}}
	answers := []*nodev1.GetNodeResponse{
		{Member: &nodev1.Member{Id: 1}, Shards: []*nodev1.ShardState{
			{Shard: 0, Role: "leader", Term: 4, Members: all},
			{Shard: 1, Role: "leader", Term: 2, Members: all}, // does not know yet that it was deposed
			{Shard: 2, Role: "follower", Term: 7, Leader: 3},  // of one that is dead
		}},
		{Member: &nodev1.Member{Id: 2}, Shards: []*nodev1.ShardState{
			{Shard: 2, Role: "candidate", Term: 8},
			{Shard: 1, Role: "leader", Term: 3, Members: all},
			{Shard: 3, Role: "leader", Term: 1},
			{Shard: 1 << 30, Role: "leader", Term: 1},
		}},
	}
	for range 2 {
		s := statusOf(answers, names)
		if !slices.Equal(s.leaders, []string{"n1", "n2", "", "n2"}) {
			t.Errorf("leaders: %q", s.leaders)
		}
		if s.voters["n1"] < 2 || s.voters["n3"] != 0 {
			t.Errorf("voters: %v", s.voters)
		}
		slices.Reverse(answers) // the order of the answers says nothing
	}
}
