package node

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
)

// someNode notes what it is asked. It owns some shards; the shard of a command
// is the first byte of its actor.
type someNode struct {
	name  string
	owns  map[int]bool
	asked []string
	blind bool // it does not answer queries
	lost  []uint64
}

func (n *someNode) ShardOf(cmd *nodev1.Command) (int, *nodev1.Reply) {
	if len(cmd.GetActor()) == 0 {
		return 0, &nodev1.Reply{Error: &edgev1.Error{Code: "invalid_argument"}}
	}
	return int(cmd.GetActor()[0]), nil
}

func (n *someNode) Owns(shard int) bool { return n.owns[shard] }

func (n *someNode) Begin(cmd *nodev1.Command, _ time.Time, done func(*nodev1.Reply, error)) {
	n.asked = append(n.asked, fmt.Sprint("command ", cmd.GetActor()[0]))
	if !n.owns[int(cmd.GetActor()[0])] {
		done(&nodev1.Reply{Error: &edgev1.Error{Code: "unavailable", Info: &edgev1.ErrorInfo{Reason: "not_owner"}}}, nil)
		return
	}
	done(&nodev1.Reply{Kind: &nodev1.Reply_Message{Message: &edgev1.Message{Text: n.name}}}, nil)
}

func (n *someNode) Do(_ context.Context, cmd *nodev1.Command) (reply *nodev1.Reply, err error) {
	n.Begin(cmd, time.Time{}, func(r *nodev1.Reply, e error) { reply, err = r, e })
	return reply, err
}

func (n *someNode) Query(_ context.Context, q *nodev1.Query) (*nodev1.QueryReply, error) {
	n.asked = append(n.asked, "query")
	if k := q.GetPositions(); k != nil {
		out := &nodev1.LostPositions{ShardCount: 3}
		for _, p := range k.GetPositions() {
			if slices.Contains(n.lost, p.GetIndex()) {
				out.Lost = append(out.Lost, p)
			}
		}
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_Lost{Lost: out}}, nil
	}
	if n.blind {
		return &nodev1.QueryReply{Error: &edgev1.Error{Code: "unavailable", Info: &edgev1.ErrorInfo{Reason: "behind"}}}, nil
	}
	return &nodev1.QueryReply{Kind: &nodev1.QueryReply_RoomIds{RoomIds: &nodev1.RoomIDs{RoomIds: [][]byte{[]byte(n.name)}}}}, nil
}

// three is a router on n1, which owns shard 0; n2 owns 1, n3 owns 2.
func three() (r *router, n1, n2, n3 *someNode, leaders []string) {
	n1 = &someNode{name: "n1", owns: map[int]bool{0: true}}
	n2 = &someNode{name: "n2", owns: map[int]bool{1: true}}
	n3 = &someNode{name: "n3", owns: map[int]bool{2: true}}
	leaders = []string{"n1", "n2", "n3"}
	return &router{
		local: n1, shards: 3, self: "n1", leader: func(s int) string { return leaders[s] },
		peers: map[string]remoteNode{"n2": n2, "n3": n3},
	}, n1, n2, n3, leaders
}

func TestCommandsGoToTheOwner(t *testing.T) {
	r, n1, _, _, leaders := three()
	try := func(shard byte) (string, string) {
		cmd := &nodev1.Command{Actor: []byte{shard}}
		reply, err := r.Do(t.Context(), cmd)
		if err != nil {
			t.Fatal(err)
		}
		var begun *nodev1.Reply
		r.Begin(cmd, time.Now().Add(time.Minute), func(b *nodev1.Reply, _ error) { begun = b })
		if begun.GetMessage().GetText() != reply.GetMessage().GetText() {
			t.Errorf("shard %d: Do %v, Begin %v", shard, reply, begun)
		}
		return reply.GetMessage().GetText(), reply.GetError().GetInfo().GetReason()
	}
	for shard, want := range []string{"n1", "n2", "n3"} {
		if got, _ := try(byte(shard)); got != want {
			t.Errorf("shard %d was answered by %q, want %s", shard, got, want)
		}
	}
	// Ownership moved and we have not heard: a refusal that the gateway cures.
	leaders[1] = "n3"
	if _, reason := try(1); reason != "not_owner" {
		t.Errorf("the wrong node was asked: %q", reason)
	}
	// Nobody known, or a node that is not ours: it may become ours.
	for _, nobody := range []string{"", "n9", "n1"} {
		leaders[1], n1.asked = nobody, nil
		if _, reason := try(1); reason != "not_owner" || len(n1.asked) != 2 {
			t.Errorf("leader %q: %q, this node was asked %v", nobody, reason, n1.asked)
		}
	}
	if reply, _ := r.Do(t.Context(), &nodev1.Command{}); reply.GetError().GetCode() != "invalid_argument" {
		t.Errorf("a command of nowhere: %v", reply)
	}
}

func TestQueriesGoWhereTheyCanBeAnswered(t *testing.T) {
	r, n1, n2, n3, _ := three()
	ask := func() string {
		reply, err := r.Query(t.Context(), &nodev1.Query{})
		if err != nil {
			t.Fatal(err)
		}
		if e := reply.GetError(); e != nil {
			return e.GetInfo().GetReason()
		}
		return string(reply.GetRoomIds().GetRoomIds()[0])
	}
	if got := ask(); got != "n1" || len(n2.asked)+len(n3.asked) > 0 {
		t.Errorf("answered by %s, others were asked %v %v", got, n2.asked, n3.asked)
	}
	n1.blind, n2.blind = true, true
	if got := ask(); got != "n3" {
		t.Errorf("answered by %s", got)
	}
	n3.blind = true
	if got := ask(); got != "behind" {
		t.Errorf("answered by %s", got)
	}
}

func TestPositionsAreAskedOfTheOwners(t *testing.T) {
	r, n1, n2, n3, _ := three()
	n1.lost, n2.lost, n3.lost = []uint64{1, 99}, []uint64{2}, []uint64{30}
	reply, err := r.Query(t.Context(), &nodev1.Query{Kind: &nodev1.Query_Positions{Positions: &edgev1.HelloRequest{Positions: []*edgev1.Position{
		{Shard: 0, Index: 1}, {Shard: 0, Index: 2}, {Shard: 1, Index: 2}, {Shard: 2, Index: 3}, {Shard: 77, Index: 99},
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	var lost []string
	for _, p := range reply.GetLost().GetLost() {
		lost = append(lost, fmt.Sprint(p.GetShard(), "/", p.GetIndex()))
	}
	slices.Sort(lost)
	if fmt.Sprint(lost) != "[0/1 1/2 77/99]" || reply.GetLost().GetShardCount() != 3 {
		t.Errorf("lost %v of %d shards", lost, reply.GetLost().GetShardCount())
	}
}
