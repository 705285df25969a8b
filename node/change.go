package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/node/placement"
)

// changer carries out a change of the cluster: shard by shard, a learner first
// and then a voter, one change at a time. Every step looks at how things are, so
// that a change that was interrupted can be asked for again and goes on.
type changer struct {
	c     *cluster
	tell  func(*nodev1.Progress) error
	done  int
	total int
}

const (
	changePause = 50 * time.Millisecond
	// stepWait bounds one step but for the catching up of a learner, which takes
	// as long as it makes progress.
	stepWait    = 30 * time.Second
	catchUpWait = 2 * time.Minute
)

// replicas is who holds each shard, as its leader says, and whom it does not hear.
type replicas struct {
	voters, learners [][]uint64
	missing          []uint64
}

// whole tells whether every leader hears everybody.
func (ch *changer) whole(r *replicas) error {
	if len(r.missing) == 0 {
		return nil
	}
	var names []string
	for _, id := range r.missing {
		names = append(names, fmt.Sprintf("%s (%d)", ch.c.nameOf(id), id))
	}
	return fmt.Errorf("the cluster is not whole, nothing is heard of %s: bring it back or replace it; nothing was changed", strings.Join(names, ", "))
}

func (r *replicas) of(shard int) []uint64 { return slices.Concat(r.voters[shard], r.learners[shard]) }

func (r *replicas) has(node uint64) bool {
	for shard := range r.voters {
		if slices.Contains(r.of(shard), node) {
			return true
		}
	}
	return false
}

// look asks the cluster who holds what. A shard that nobody leads is an error:
// the cluster is not whole, and nothing is changed.
func (ch *changer) look(ctx context.Context) (*replicas, error) {
	shards := ch.c.core.identity.Shards
	r := &replicas{voters: make([][]uint64, shards), learners: make([][]uint64, shards)}
	for _, n := range ch.c.states(ctx) {
		for _, s := range n.GetNode().GetShards() {
			if s.GetRole() != "leader" || int(s.GetShard()) >= shards {
				continue
			}
			for _, m := range s.GetMembers() {
				if !m.GetActive() && !slices.Contains(r.missing, m.GetNode()) {
					r.missing = append(r.missing, m.GetNode())
				}
				if m.GetVoter() {
					r.voters[s.GetShard()] = append(r.voters[s.GetShard()], m.GetNode())
				} else {
					r.learners[s.GetShard()] = append(r.learners[s.GetShard()], m.GetNode())
				}
			}
		}
	}
	for shard, v := range r.voters {
		if len(v) == 0 {
			return nil, fmt.Errorf("nobody leads shard %d: the cluster is not whole; nothing was changed", shard)
		}
	}
	return r, nil
}

// nodes are those that hold shards, and those given besides.
func (ch *changer) nodes(r *replicas, without uint64, besides ...uint64) (out []placement.Node) {
	for _, m := range ch.c.roster.Members() {
		if m.GetId() != without && (r.has(m.GetId()) || slices.Contains(besides, m.GetId())) {
			out = append(out, placement.Node{ID: m.GetId(), Zone: m.GetZone()})
		}
	}
	return out
}

// newcomer is the member of a name that holds nothing yet, or not everything.
func (ch *changer) newcomer(r *replicas, name string) (uint64, error) {
	named := ch.c.roster.Named(name)
	if len(named) == 0 {
		return 0, fmt.Errorf("no node called %s has joined: start it with --join and an empty folder", name)
	}
	var fresh []uint64
	for _, m := range named {
		if !r.has(m.GetId()) {
			fresh = append(fresh, m.GetId())
		}
	}
	switch {
	case len(fresh) == 1 && len(named) == 1:
		return fresh[0], nil
	case len(fresh) == 0 && len(named) == 1:
		return named[0].GetId(), nil // it was interrupted, or is added already
	case len(fresh) > 0 && len(fresh) < len(named):
		return 0, fmt.Errorf("a node called %s is a member already and another has joined under its name: if the first has lost its disk, replace it", name)
	}
	// Several folders have joined under the name; the one that answers counts.
	for _, id := range fresh {
		if ch.c.up(id) {
			return id, nil
		}
	}
	return 0, fmt.Errorf("node %s is not reached", name)
}

// newcomerWait is how long a node that is just starting is waited for.
const newcomerWait = 10 * time.Second

func (ch *changer) awaitNewcomer(ctx context.Context, r *replicas, name string) (uint64, error) {
	began := time.Now()
	for {
		node, err := ch.newcomer(r, name)
		if err == nil && !ch.c.up(node) {
			err = fmt.Errorf("node %s is not reached; nothing was changed", name)
		}
		if err == nil || time.Since(began) >= newcomerWait {
			return node, err
		}
		if err := wait(ctx, 4*changePause); err != nil {
			return 0, err
		}
	}
}

func (ch *changer) add(ctx context.Context, name string) error {
	r, err := ch.look(ctx)
	if err != nil {
		return err
	}
	if err := ch.whole(r); err != nil {
		return err
	}
	node, err := ch.awaitNewcomer(ctx, r, name)
	if err != nil {
		return err
	}
	return ch.settle(ctx, r, func(r *replicas) []placement.Step {
		return placement.Plan(ch.nodes(r, 0, node), r.voters, placement.Replicas)
	})
}

func (ch *changer) replace(ctx context.Context, req *nodev1.ReplaceNodeRequest) error {
	r, err := ch.look(ctx)
	if err != nil {
		return err
	}
	old, err := ch.lost(r, req)
	if err != nil {
		return err
	}
	with := req.GetWith()
	if with == "" {
		with = req.GetName()
	}
	for _, m := range ch.c.roster.Named(with) {
		if m.GetId() != old && ch.c.up(m.GetId()) {
			return ch.replaceBy(ctx, old, m.GetId())
		}
	}
	return fmt.Errorf("no other node called %s is there to take the place: start it with --join and an empty folder", with)
}

// replaceBy puts node wherever old is, and takes old off the roster.
func (ch *changer) replaceBy(ctx context.Context, old, node uint64) error {
	r, err := ch.look(ctx)
	if err != nil {
		return err
	}
	var steps []placement.Step
	for shard := range r.voters {
		if slices.Contains(r.of(shard), old) {
			steps = append(steps, placement.Step{Shard: shard, To: node, From: old})
		}
	}
	if err := ch.follow(ctx, r, steps, old); err != nil {
		return err
	}
	return ch.c.roster.Remove(old)
}

// lost is the member whose place is to be taken.
func (ch *changer) lost(r *replicas, req *nodev1.ReplaceNodeRequest) (uint64, error) {
	var found []uint64
	for _, m := range ch.c.roster.Named(req.GetName()) {
		if r.has(m.GetId()) && (req.GetId() == 0 || req.GetId() == m.GetId()) {
			found = append(found, m.GetId())
		}
	}
	switch {
	case len(found) == 0:
		return 0, fmt.Errorf("no member called %s holds anything that could be replaced", req.GetName())
	case len(found) == 1:
		return found[0], nil
	}
	for _, id := range found { // an interrupted replacement: the one that is gone
		if !ch.c.up(id) {
			return id, nil
		}
	}
	return 0, fmt.Errorf("several members are called %s; say which by --id", req.GetName())
}

func (ch *changer) remove(ctx context.Context, name string) error {
	r, err := ch.look(ctx)
	if err != nil {
		return err
	}
	named := ch.c.roster.Named(name)
	if len(named) == 0 {
		return fmt.Errorf("no node is called %s", name)
	}
	if len(named) > 1 {
		return fmt.Errorf("several members are called %s: replace the one that is lost", name)
	}
	node := named[0].GetId()
	if r.missing = slices.DeleteFunc(r.missing, func(id uint64) bool { return id == node }); ch.whole(r) != nil {
		return ch.whole(r)
	}
	others := ch.nodes(r, node)
	if len(others) == 0 {
		return fmt.Errorf("node %s is the last one", name)
	}
	err = ch.settle(ctx, r, func(r *replicas) []placement.Step {
		steps := placement.Plan(ch.nodes(r, node), r.voters, placement.Replicas)
		for shard := range r.voters {
			moved := slices.ContainsFunc(steps, func(s placement.Step) bool { return s.Shard == shard && s.From == node })
			if slices.Contains(r.of(shard), node) && !moved {
				steps = append(steps, placement.Step{Shard: shard, From: node})
			}
		}
		return steps
	})
	if err != nil {
		return err
	}
	return ch.c.roster.Remove(node)
}

// settle carries out what plan makes of who holds what. A node is not taken back
// into a shard that it was removed from: it comes back as a new member first, and
// the plan is made again.
func (ch *changer) settle(ctx context.Context, r *replicas, plan func(*replicas) []placement.Step) error {
	for {
		err := ch.follow(ctx, r, plan(r), 0)
		var used *usedNodeError
		if !errors.As(err, &used) {
			return err
		}
		if err := ch.renew(ctx, used.node); err != nil {
			return err
		}
		if r, err = ch.look(ctx); err == nil {
			err = ch.whole(r)
		}
		if err != nil {
			return err
		}
		ch.done = 0
	}
}

// usedNodeError: the node was removed from the shard that it shall hold.
type usedNodeError struct {
	node  uint64
	cause error
}

func (e *usedNodeError) Error() string { return e.cause.Error() }
func (e *usedNodeError) Unwrap() error { return e.cause }

// renew has a node come back as a new member in its own place, and waits for that.
// All that it holds is copied to it once more; until then its shards have one
// replica less.
func (ch *changer) renew(ctx context.Context, node uint64) error {
	name := ch.c.nameOf(node)
	if err := ch.say("%s has held some of what it is to get: it comes back as a new member first", name); err != nil {
		return err
	}
	if node == ch.c.self {
		ch.c.core.beginAnew("asked by a change of the cluster")
		return fmt.Errorf("%s, which you have asked, comes back as a new member: ask again, best another node, when the cluster is whole", name)
	}
	if _, err := ch.c.serviceOf(node).BeginAnew(ctx, connect.NewRequest(&nodev1.BeginAnewRequest{Why: "asked by a change of the cluster"})); err != nil {
		return fmt.Errorf("have %s come back as a new member: %w", name, err)
	}
	for last := ""; ; {
		r, err := ch.look(ctx)
		if err == nil && !r.has(node) {
			if err = ch.whole(r); err == nil {
				return ch.say("%s is back", name)
			}
		}
		said := "its place is being taken"
		if err != nil {
			said = oneLine(err)
		}
		if said != last {
			last = said
			if err := ch.say("waiting for %s: %s", name, said); err != nil {
				return err
			}
		}
		if err := wait(ctx, 4*changePause); err != nil {
			return fmt.Errorf("%s has not come back: %w", name, err)
		}
	}
}

// follow carries out steps; lost is the node that is not waited for.
func (ch *changer) follow(ctx context.Context, r *replicas, steps []placement.Step, lost uint64) error {
	ch.total = 0
	for _, s := range steps {
		if ch.total++; s.To != 0 {
			ch.total++
		}
	}
	if len(steps) == 0 {
		return ch.say("nothing to do: every shard is where it should be")
	}
	for _, s := range steps {
		if err := ch.step(ctx, r, s, lost); err != nil {
			return err
		}
	}
	return nil
}

func (ch *changer) say(format string, args ...any) error {
	return ch.tell(&nodev1.Progress{Text: fmt.Sprintf(format, args...), Done: uint32(ch.done), Total: uint32(ch.total)})
}

func (ch *changer) step(ctx context.Context, r *replicas, s placement.Step, lost uint64) error {
	if s.From != 0 && s.From != lost {
		if err := ch.giveUpLead(ctx, s.Shard, s.From); err != nil {
			return err
		}
	}
	if s.To == 0 {
		if err := ch.ask(ctx, &nodev1.ChangeMemberRequest{Shard: uint32(s.Shard), Change: nodev1.ChangeMemberRequest_CHANGE_REMOVE, Node: s.From}, stepWait); err != nil {
			return fmt.Errorf("take node %s out of shard %d: %w", ch.c.nameOf(s.From), s.Shard, err)
		}
		ch.done++
		return ch.say("shard %d: %s removed", s.Shard, ch.c.nameOf(s.From))
	}
	if !slices.Contains(r.learners[s.Shard], s.To) && !slices.Contains(r.voters[s.Shard], s.To) {
		err := ch.ask(ctx, &nodev1.ChangeMemberRequest{Shard: uint32(s.Shard), Change: nodev1.ChangeMemberRequest_CHANGE_ADD_LEARNER, Node: s.To, Instead: lost}, stepWait)
		if connect.CodeOf(err) == connect.CodeAlreadyExists {
			return &usedNodeError{node: s.To, cause: err}
		}
		if err != nil {
			return fmt.Errorf("add node %s to shard %d: %w", ch.c.nameOf(s.To), s.Shard, err)
		}
	}
	ch.done++
	if err := ch.say("shard %d: %s is catching up", s.Shard, ch.c.nameOf(s.To)); err != nil {
		return err
	}
	err := ch.ask(ctx, &nodev1.ChangeMemberRequest{Shard: uint32(s.Shard), Change: nodev1.ChangeMemberRequest_CHANGE_PROMOTE, Node: s.To, Instead: s.From}, catchUpWait)
	if err != nil {
		return fmt.Errorf("give node %s a vote in shard %d: %w", ch.c.nameOf(s.To), s.Shard, err)
	}
	ch.done++
	if s.From == 0 {
		return ch.say("shard %d: %s votes", s.Shard, ch.c.nameOf(s.To))
	}
	return ch.say("shard %d: %s votes in the place of node %d (%s)", s.Shard, ch.c.nameOf(s.To), s.From, ch.c.nameOf(s.From))
}

// giveUpLead has another member lead a shard, if node does.
func (ch *changer) giveUpLead(ctx context.Context, shard int, node uint64) error {
	for end := time.Now().Add(stepWait); ; {
		r, err := ch.look(ctx)
		if err == nil && ch.leaderNow(ctx, shard) != node {
			return nil
		}
		if err == nil {
			for _, to := range r.voters[shard] {
				if to != node && ch.c.up(to) {
					err = ch.c.transfer(ctx, shard, to)
					break
				}
			}
		}
		if time.Now().After(end) {
			return fmt.Errorf("shard %d does not leave node %s: %w", shard, ch.c.nameOf(node), err)
		}
		if err := wait(ctx, changePause); err != nil {
			return err
		}
	}
}

// leaderNow is the leader of a shard as the nodes say, also where this node has
// no replica of it.
func (ch *changer) leaderNow(ctx context.Context, shard int) uint64 {
	if at := ch.c.leader(shard); at != 0 {
		return at
	}
	for _, n := range ch.c.states(ctx) {
		for _, s := range n.GetNode().GetShards() {
			if int(s.GetShard()) == shard && s.GetRole() == "leader" {
				return n.GetMember().GetId()
			}
		}
	}
	return 0
}

// ask has the leader of a shard make a change, and asks again while it says that
// waiting helps.
func (ch *changer) ask(ctx context.Context, r *nodev1.ChangeMemberRequest, within time.Duration) error {
	began := time.Now()
	for {
		err := ch.askOnce(ctx, r)
		var patience time.Duration
		switch connect.CodeOf(err) {
		case connect.CodeUnavailable, connect.CodeDeadlineExceeded:
			patience = within
		case connect.CodeFailedPrecondition:
			patience = wholeWait // members may be restarting
		}
		if err == nil || ctx.Err() != nil || time.Since(began) >= patience {
			return err
		}
		if err := wait(ctx, changePause); err != nil {
			return err
		}
	}
}

// wholeWait is how long a change waits for members that are out of reach.
const wholeWait = 5 * time.Second

func (ch *changer) askOnce(ctx context.Context, r *nodev1.ChangeMemberRequest) error {
	ctx, cancel := context.WithTimeout(ctx, stepWait)
	defer cancel()
	at := ch.leaderNow(ctx, int(r.GetShard()))
	switch at {
	case 0:
		return connect.NewError(connect.CodeUnavailable, errors.New("nobody is known to lead it"))
	case ch.c.self:
		if err := ch.c.changeHere(ctx, r); err != nil {
			return changeError(err)
		}
		return nil
	}
	_, err := ch.c.serviceOf(at).ChangeMember(ctx, connect.NewRequest(r))
	return err
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
