package raft

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	etcd "go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/bongsu-im/bongsu/journal"
)

// group is one shard's Raft group on this node: it implements journal.Log.
//
// One goroutine, the loop, owns the RawNode: it takes ticks, what peers send and
// proposals, and works through each Ready before it takes the next. Others
// speak to it through channels and read the shardLog and the fields below
// state, under shardLog.mu.
type group struct {
	j       *Journal
	shard   journal.ShardID
	log     *shardLog
	lost    atomic.Pointer[journal.LostTailError] // the log is damaged: the loop ends, or never runs
	removed atomic.Pointer[RemovedError]          // this node is a member no more, likewise

	node     *etcd.RawNode // the loop's, as all down to transfer
	pending  *proposal     // in the log, not yet known to be committed
	changing *change       // likewise
	ticks    uint64
	heard    map[NodeID]uint64 // when a peer last sent something, in ticks
	events   []event           // being worked through
	search   search
	fetching bool     // a snapshot is on its way
	restored *base    // the view stands there, the log not yet
	stuck    []NodeID // see retrySnapshots
	transfer NodeID   // to whom the ownership is being given

	proposals chan *proposal
	calls     chan func()
	inbox     inbox
	tick      chan struct{} // room for one
	halt      chan struct{} // closed when lost or removed
	halting   sync.Once
	stopped   chan struct{} // closed when the loop has ended
	progress  progress      // of the snapshot being fetched
	word      word          // the leader's last

	// state, guarded by log.mu; log.changed tells of changes.
	owner    uint64        // the term this node owns the shard in, 0 for none
	ended    chan struct{} // closed when owner changes
	inflight bool          // a proposal is with the loop
	leased   bool          // a lease was given and no append's outcome is unknown since
	moving   bool          // the ownership is being given away
	leader   NodeID
	term     uint64
	serving  map[NodeID]int // snapshots being sent
	acked    map[NodeID]ack // what peers have acknowledged, see memory.go
}

// electionTicks without a word from the leader make a follower campaign, at
// random up to twice as many; heartbeats go out every heartbeatTicks.
const (
	electionTicks  = 10
	heartbeatTicks = 2
)

func newGroup(j *Journal, shard journal.ShardID) *group {
	return &group{
		j: j, shard: shard,
		log:       newShardLog(&j.store, shard, j.cfg.NodeID, j.cfg.CacheBytes),
		heard:     map[NodeID]uint64{},
		proposals: make(chan *proposal),
		calls:     make(chan func()),
		inbox:     newInbox(),
		tick:      make(chan struct{}, 1),
		halt:      make(chan struct{}),
		stopped:   make(chan struct{}),
		ended:     make(chan struct{}),
		word:      word{began: time.Now()},
		acked:     map[NodeID]ack{},
		serving:   map[NodeID]int{},
	}
}

// start makes the RawNode and starts the loop.
func (g *group) start() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = g.log.corrupt(0, "raft refuses the log: %v", r)
		}
	}()
	g.node, err = etcd.NewRawNode(&etcd.Config{
		ID:                        g.j.cfg.NodeID,
		ElectionTick:              electionTicks,
		HeartbeatTick:             heartbeatTicks,
		Storage:                   g.log,
		Applied:                   g.log.commit,
		MaxSizePerMsg:             512 << 10,
		MaxCommittedSizePerReady:  4 << 20,
		MaxUncommittedEntriesSize: 8 << 20,
		MaxInflightMsgs:           64,
		MaxInflightBytes:          4 << 20,
		CheckQuorum:               true,
		PreVote:                   true,
		DisableProposalForwarding: true,
		StepDownOnRemoval:         true,
		Logger:                    raftLogger{g.j.cfg.Logger.With("shard", g.shard)},
	})
	if err != nil {
		return fmt.Errorf("start group of shard %d: %w", g.shard, err)
	}
	members := membersOf(g.log.meta.conf)
	if len(members) > 0 && !slices.Contains(members, g.j.cfg.NodeID) {
		g.removed.Store(&RemovedError{Shard: g.shard, Node: g.j.cfg.NodeID, Why: "it was so when the journal was opened"})
		g.stop()
		close(g.stopped)
		return nil
	}
	if v := votersOf(g.log.meta.conf); len(v) == 1 && v[0] == g.j.cfg.NodeID {
		// There is nobody to wait for.
		if err := g.node.Campaign(); err != nil {
			return fmt.Errorf("campaign for shard %d: %w", g.shard, err)
		}
	}
	g.j.running.Go(g.loop)
	return nil
}

// loop runs the group until the journal closes, its store is fenced, or the
// shard is halted.
func (g *group) loop() {
	g.search.timer = time.NewTimer(time.Hour)
	g.search.timer.Stop()
	defer func() {
		if r := recover(); r != nil {
			g.j.store.trip(fmt.Errorf("group of shard %d: %v\n%s", g.shard, r, debug.Stack()))
		}
		g.search.timer.Stop()
		g.disown()
		g.word.stop()
		close(g.stopped)
	}()
	for {
		for g.node.HasReady() {
			if err := g.ready(); err != nil {
				if g.j.store.err() == nil && g.halted() {
					return
				}
				g.j.store.trip(err)
				return
			}
		}
		select {
		case p := <-g.proposals:
			g.propose(p)
		case <-g.inbox.ready:
			g.events = g.inbox.take(g.events)
			g.step(g.events)
			clear(g.events)
		case f := <-g.calls:
			f()
		case <-g.tick:
			g.ticked()
		case <-g.search.timer.C:
			g.turn()
		case <-g.halt:
			return
		case <-g.j.closing:
			return
		case <-g.j.store.down:
			return
		}
	}
}

func (g *group) halted() bool {
	select {
	case <-g.halt:
		return true
	default:
		return false
	}
}

// dead returns why the log does nothing more, or nil.
func (g *group) dead() error {
	select {
	case <-g.j.closing:
		return journal.ErrClosed
	default:
	}
	if lost := g.lost.Load(); lost != nil {
		return lost
	}
	if removed := g.removed.Load(); removed != nil {
		return removed
	}
	return g.j.store.err()
}

// over is dead for when the loop has ended.
func (g *group) over() error {
	if err := g.dead(); err != nil {
		return err
	}
	return journal.ErrClosed
}

// stop halts the group for good; it may be called from anywhere.
func (g *group) stop() { g.halting.Do(func() { close(g.halt) }) }

// do has the loop run f and waits for it.
func (g *group) do(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case g.calls <- func() { defer close(done); f() }:
	case <-ctx.Done():
		return fmt.Errorf("shard %d: %w", g.shard, ctx.Err())
	case <-g.stopped:
		return g.over()
	}
	select {
	case <-done:
		return nil
	case <-g.stopped:
		select {
		case <-done:
			return nil
		default:
			return journal.ErrClosed
		}
	}
}

// ticked is a tick of Raft's clock.
func (g *group) ticked() {
	g.ticks++
	g.node.Tick()
	g.watchLeader()
	if g.ticks%(2*electionTicks) == 0 {
		g.retrySnapshots()
	}
	if g.transfer != 0 && g.node.Status().LeadTransferee != g.transfer {
		g.moved()
	}
}

// disown takes the ownership away and settles what can be settled.
func (g *group) disown() {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	g.setOwner(0)
}

// setOwner says in which term this node owns the shard; the caller holds log.mu.
func (g *group) setOwner(term uint64) {
	if g.owner != 0 && g.owner != term {
		close(g.ended)
		g.ended = make(chan struct{})
	}
	g.owner, g.leased = term, false
	if term != 0 {
		g.word.leading.Store(true) // it knows what is committed from here on
	} else {
		g.word.stop()
	}
	g.log.wake()
}

// ready works through one Ready: first what peers may know before it is on this
// disk (so that their disks work while ours does), then the disk, then what
// promises that it is there, then what is committed. The commit index alone is
// not written: it is found again by the next election or in the marks, and goes
// with the next batch that must be synced.
func (g *group) ready() error {
	rd := g.node.Ready()
	for _, m := range rd.Messages {
		if !isAnswer(m) {
			g.stamp(m)
			g.j.cfg.Transport.Send(m.GetTo(), Parcel{Shard: g.shard, Message: m})
		}
	}
	if !etcd.IsEmptySnap(rd.Snapshot) {
		s, err := decodeBase(g.shard, rd.Snapshot)
		if err != nil {
			return fmt.Errorf("snapshot of shard %d: %w", g.shard, err) // it was checked when it came
		}
		if err := g.log.install(s, g.node.BasicStatus().HardState); err != nil {
			return err
		}
		g.restored = nil
	}
	if rd.MustSync {
		hard := g.node.BasicStatus().HardState
		if err := g.log.save(rd.Entries, hard); err != nil {
			return err
		}
	}
	for _, m := range rd.Messages {
		if isAnswer(m) {
			g.j.cfg.Transport.Send(m.GetTo(), Parcel{Shard: g.shard, Message: m})
			g.promised(m)
		}
	}
	if rd.SoftState != nil || (!etcd.IsEmptyHardState(rd.HardState) && rd.HardState.GetTerm() != g.term) {
		g.softState(g.node.BasicStatus())
	}
	if err := g.apply(rd.CommittedEntries); err != nil {
		return err
	}
	g.node.Advance(rd)
	return nil
}

// softState takes note of who leads, and in which term.
func (g *group) softState(s etcd.BasicStatus) {
	term := s.GetTerm()
	g.log.mu.Lock()
	was := g.leader
	if g.leader != s.Lead || g.term != term {
		g.leader, g.term = s.Lead, term
		g.log.wake()
	}
	if g.owner != 0 && (s.RaftState != etcd.StateLeader || g.owner != term) {
		g.setOwner(0)
	}
	g.log.mu.Unlock()
	g.follow(was, s.Lead)
	if s.RaftState != etcd.StateLeader {
		g.resolve(outcome{err: journal.ErrUnknown})
		g.changed(journal.ErrUnknown)
		if g.transfer != 0 {
			g.moved()
		}
	}
}

// apply takes note of committed entries, and answers the proposal among them.
func (g *group) apply(entries []*raftpb.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	for _, e := range entries {
		if err := g.applyConfChange(e); err != nil {
			return err
		}
	}
	status := g.node.BasicStatus()
	g.log.committed(entries)
	for _, e := range entries {
		if status.RaftState == etcd.StateLeader && e.GetTerm() == status.GetTerm() {
			// An entry of our own term is committed, so all before it is.
			g.log.mu.Lock()
			if g.owner != e.GetTerm() {
				g.setOwner(e.GetTerm())
			}
			g.log.mu.Unlock()
		}
		if p := g.pending; p != nil && e.GetIndex() == p.index {
			if e.GetTerm() == p.term {
				g.resolve(outcome{position: position(e)})
			} else {
				g.resolve(outcome{err: journal.ErrNotOwner}) // another's entry took the place
			}
		}
	}
	return nil
}
