package node

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/chat"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// someNode notes what it is asked. It owns some shards; the shard of a command
// is the first byte of its actor.
type someNode struct {
	name  string
	owns  map[int]bool
	asked []string
	blind bool   // it does not answer queries
	knows string // what it answers to a decisive query, or "" for not found
	seen  []*nodev1.Query
	lost  []uint64
}

func (n *someNode) Linked() bool { return true }

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
	n.seen = append(n.seen, q)
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
	if q.GetHistory() != nil || q.GetCredential() != nil {
		p, _ := chat.QueryPartition(q)
		if n.knows == "" && !n.owns[p.Shard(3)] { // as shard.Set does
			return &nodev1.QueryReply{Error: &edgev1.Error{Code: "unavailable", Info: &edgev1.ErrorInfo{Reason: "not_owner"}}}, nil
		}
		if n.knows == "" {
			return &nodev1.QueryReply{Error: &edgev1.Error{Code: "not_found"}}, nil
		}
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_Credential{Credential: &nodev1.Credential{PasswordHash: n.knows}}}, nil
	}
	return &nodev1.QueryReply{Kind: &nodev1.QueryReply_RoomIds{RoomIds: &nodev1.RoomIDs{RoomIds: [][]byte{[]byte(n.name)}}}}, nil
}

// three is a router on n1, which owns shard 0; n2 owns 1, n3 owns 2.
func three() (r *router, n1, n2, n3 *someNode, leaders []uint64) {
	n1 = &someNode{name: "n1", owns: map[int]bool{0: true}}
	n2 = &someNode{name: "n2", owns: map[int]bool{1: true}}
	n3 = &someNode{name: "n3", owns: map[int]bool{2: true}}
	leaders = []uint64{1, 2, 3}
	r = newRouter(3, 1, func(s int) uint64 { return leaders[s] }, func(node uint64) RemoteNode {
		switch node {
		case 2:
			return n2
		case 3:
			return n3
		}
		return nil
	}, func() []uint64 { return []uint64{1, 2, 3} })
	r.local = n1
	return r, n1, n2, n3, leaders
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
	leaders[1] = 3
	if _, reason := try(1); reason != "not_owner" {
		t.Errorf("the wrong node was asked: %q", reason)
	}
	// Nobody known, or a node that is not ours: it may become ours.
	for _, nobody := range []uint64{0, 9, 1} {
		leaders[1], n1.asked = nobody, nil
		if _, reason := try(1); reason != "not_owner" || len(n1.asked) != 2 {
			t.Errorf("leader %d: %q, this node was asked %v", nobody, reason, n1.asked)
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

// about is a query about a room of a shard, of three.
func about(shard int, kind func(room []byte) *nodev1.Query) *nodev1.Query {
	p := id.Partition(shard*id.Partitions/3 + 10)
	room := id.New(0, id.Room, p, make([]byte, 12))
	return kind(room.Bytes())
}

// TestANoIsAskedOfTheOwner: a replica that does not know of the last moment must
// not deny what exists, and its word alone signs nobody in or out.
func TestANoIsAskedOfTheOwner(t *testing.T) {
	r, n1, n2, _, _ := three()
	history := func(shard int) *nodev1.Query {
		return about(shard, func(room []byte) *nodev1.Query {
			return &nodev1.Query{Kind: &nodev1.Query_History{History: &nodev1.HistoryQuery{RoomId: room}}}
		})
	}
	n2.knows = "the owner's word"
	reply, err := r.Query(t.Context(), history(1))
	if err != nil || reply.GetCredential().GetPasswordHash() != n2.knows {
		t.Errorf("not found here, found by the owner: %v, %v", reply, err)
	}
	n2.blind = true
	if reply, err := r.Query(t.Context(), history(1)); err != nil || !notHere(reply.GetError()) {
		t.Errorf("the owner cannot answer: %v, %v", reply, err)
	}
	if reply, err := r.Query(t.Context(), history(0)); err != nil || reply.GetError().GetCode() != "not_found" {
		t.Errorf("the owner's own no: %v, %v", reply, err)
	}
	n2.blind, n2.asked, n1.knows = false, nil, "an old word"
	if reply, _ := r.Query(t.Context(), history(1)); reply.GetCredential().GetPasswordHash() != n1.knows || len(n2.asked) != 0 {
		t.Errorf("a yes needs nobody else: %v, the owner was asked %v", reply, n2.asked)
	}
	var login string
	for n := 0; ; n++ {
		if login = fmt.Sprint("somebody", n); id.LoginPartition(login).Shard(3) == 1 {
			break
		}
	}
	credential := &nodev1.Query{Kind: &nodev1.Query_Credential{Credential: &nodev1.CredentialQuery{Login: login}}}
	if reply, _ := r.Query(t.Context(), credential); reply.GetCredential().GetPasswordHash() != n2.knows {
		t.Errorf("a credential was answered by a replica: %v", reply)
	}
	n2.blind = true
	if reply, _ := r.Query(t.Context(), credential); reply.GetCredential().GetPasswordHash() != n1.knows {
		t.Errorf("without its owner a credential is answered by a replica: %v", reply)
	}
}

// TestNothingOlderThanAcknowledged: what was acknowledged through this node by
// another is demanded of this node's own replica.
func TestNothingOlderThanAcknowledged(t *testing.T) {
	r, n1, _, _, _ := three()
	r.note(&edgev1.Position{Shard: 1, Term: 1, Index: 7})
	r.note(&edgev1.Position{Shard: 1, Term: 1, Index: 5})
	r.note(&edgev1.Position{Shard: 2, Term: 1, Index: 9})
	r.note(&edgev1.Position{Shard: 88, Term: 1, Index: 9})
	ask := func(q *nodev1.Query) string {
		n1.seen = nil
		if _, err := r.Query(t.Context(), q); err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, p := range n1.seen[0].GetAtLeast() {
			out = append(out, fmt.Sprint(p.GetShard(), "/", p.GetIndex()))
		}
		slices.Sort(out)
		return fmt.Sprint(out)
	}
	n1.knows = "yes"
	history := func(room []byte) *nodev1.Query {
		return &nodev1.Query{Kind: &nodev1.Query_History{History: &nodev1.HistoryQuery{RoomId: room}}}
	}
	for shard, want := range []string{"[]", "[1/7]", "[2/9]"} {
		if got := ask(about(shard, history)); got != want {
			t.Errorf("history in shard %d demands %s, want %s", shard, got, want)
		}
	}
	if got := ask(&nodev1.Query{}); got != "[1/7 2/9]" {
		t.Errorf("a query of many shards demands %s", got)
	}
	knows := about(1, history)
	knows.AtLeast = []*edgev1.Position{{Shard: 1, Term: 1, Index: 8}}
	if got := ask(knows); got != "[1/8]" {
		t.Errorf("the client knows more: %s", got)
	}
}

// What shards here ask for an answer of theirs goes to other nodes only: this one
// would ask them for it again, and so on until the time is over.
func TestOthersNeverAskOneself(t *testing.T) {
	r, n1, n2, n3, _ := three()
	q := &nodev1.Query{Kind: &nodev1.Query_People{People: &nodev1.PeopleQuery{UserIds: [][]byte{make([]byte, 16)}}}}
	if reply, err := r.others(t.Context(), q); err != nil || reply.GetError() != nil || len(n1.asked) > 0 || len(n2.asked)+len(n3.asked) != 1 {
		t.Errorf("%v, %v; asked: here %v, there %v and %v", reply, err, n1.asked, n2.asked, n3.asked)
	}
	n2.blind, n3.blind = true, true
	if reply, err := r.others(t.Context(), q); err != nil || reply.GetError().GetInfo().GetReason() != "behind" || len(n1.asked) > 0 {
		t.Errorf("with nobody who knows: %v, %v; asked here: %v", reply, err, n1.asked)
	}
}

// frozenNode takes requests and does not answer.
type frozenNode struct {
	someNode
	done []func(*nodev1.Reply, error)
}

func (n *frozenNode) Begin(_ *nodev1.Command, _ time.Time, done func(*nodev1.Reply, error)) {
	n.done = append(n.done, done)
}

func (n *frozenNode) Query(ctx context.Context, _ *nodev1.Query) (*nodev1.QueryReply, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// What an owner was asked that froze is given up as soon as another one is known,
// and not before; its answer, if it comes after all, is not heard.
func TestWhatAFrozenOwnerWasAskedIsGivenUp(t *testing.T) {
	leader := uint64(2)
	frozen, here := &frozenNode{}, &someNode{name: "here"}
	r := newRouter(3, 1, func(int) uint64 { return leader }, func(uint64) RemoteNode { return frozen }, func() []uint64 { return []uint64{1, 2, 3} })
	r.local = here
	var answers []error
	r.Begin(&nodev1.Command{Actor: []byte{1}}, time.Now().Add(time.Hour), func(_ *nodev1.Reply, err error) { answers = append(answers, err) })
	for _, at := range []uint64{2, 0} { // it leads, and then nobody is known to
		leader = at
		r.flying.giveUp(r.leader)
		if len(answers) != 0 {
			t.Fatalf("given up while %d leads: %v", at, answers)
		}
	}
	leader = 3
	r.flying.giveUp(r.leader)
	if len(answers) != 1 || !errors.Is(answers[0], errMoved) {
		t.Fatalf("answers: %v", answers)
	}
	frozen.done[0](&nodev1.Reply{}, nil)
	r.flying.giveUp(r.leader)
	if len(answers) != 1 || len(r.flying.on) != 0 {
		t.Fatalf("answers: %v, on their way: %d", answers, len(r.flying.on))
	}

	leader = 2
	asked := make(chan *nodev1.QueryReply)
	go func() {
		asked <- r.askOwner(t.Context(), &nodev1.Query{Kind: &nodev1.Query_Credential{Credential: &nodev1.CredentialQuery{Login: "ann"}}})
	}()
	for {
		r.flying.mu.Lock()
		n := len(r.flying.on)
		r.flying.mu.Unlock()
		if n == 1 {
			break
		}
		runtime.Gosched()
	}
	r.flying.giveUp(func(int) uint64 { return 3 })
	if reply := <-asked; reply != nil {
		t.Errorf("a query that was given up: %v", reply)
	}
}
