package raft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	etcd "go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

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
	removed atomic.Bool                           // this node is a member no more, likewise

	node     *etcd.RawNode // the loop's, as all down to transfer
	pending  *proposal     // in the log, not yet known to be committed
	changing *change       // likewise
	ticks    uint64
	heard    map[NodeID]uint64 // when a peer last sent something, in ticks
	events   []event           // being worked through
	search   search
	fetching bool         // a snapshot is on its way
	fetched  chan fetched // where it arrives
	restored *base        // the view stands there, the log not yet
	stuck    []NodeID     // see retrySnapshots
	transfer NodeID       // to whom the ownership is being given

	proposals chan *proposal
	calls     chan func()
	inbox     inbox
	tick      chan struct{} // room for one
	halt      chan struct{} // closed when lost or removed
	halting   sync.Once
	stopped   chan struct{} // closed when the loop has ended
	progress  progress      // of the snapshot being fetched

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

type proposal struct {
	data  []byte
	term  uint64
	index uint64
	done  chan outcome // room for one
}

type outcome struct {
	position journal.Position
	err      error
}

var _ journal.Log = (*group)(nil)

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
		fetched:   make(chan fetched),
		tick:      make(chan struct{}, 1),
		halt:      make(chan struct{}),
		stopped:   make(chan struct{}),
		ended:     make(chan struct{}),
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
		g.removed.Store(true)
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
		case f := <-g.fetched:
			g.arrived(f)
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
		if err := g.dead(); err != nil {
			return err
		}
		return journal.ErrClosed
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

// step takes what peers have sent.
func (g *group) step(events []event) {
	for _, e := range events {
		switch {
		case e.down:
			g.lostPeer(e.from)
		case e.removed:
			g.remove("a peer says so", e.from)
			return
		default:
			g.heard[e.from] = g.ticks
			g.receive(e.from, e.message)
		}
	}
}

func (g *group) receive(from NodeID, m *raftpb.Message) {
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

// remove stops the group: this node is no member any more.
func (g *group) remove(why string, by NodeID) {
	if g.removed.CompareAndSwap(false, true) {
		g.j.cfg.Logger.Warn("this node was removed from a shard's group and stops serving it", "shard", g.shard, "why", why, "by", by)
	}
	g.stop()
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

// moved ends a transfer, whether it succeeded or was given up.
func (g *group) moved() {
	g.transfer = 0
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	g.moving = false
	g.log.wake()
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
	if rd.SoftState != nil {
		g.softState(rd.SoftState)
	}
	if err := g.apply(rd.CommittedEntries); err != nil {
		return err
	}
	g.node.Advance(rd)
	return nil
}

// softState takes note of who leads.
func (g *group) softState(s *etcd.SoftState) {
	term := g.node.BasicStatus().GetTerm()
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
		g.remove("the change is committed", g.j.cfg.NodeID)
	}
	return nil
}

// resolve answers the pending proposal.
func (g *group) resolve(o outcome) {
	p := g.pending
	if p == nil {
		return
	}
	g.pending = nil
	if err := g.j.store.err(); err != nil {
		o = outcome{err: err} // nothing is acknowledged after the fence
	}
	g.answer(p, o)
}

func (g *group) answer(p *proposal, o outcome) {
	g.log.mu.Lock()
	g.inflight = false // before the owner is told: it may append again at once
	g.log.wake()
	g.log.mu.Unlock()
	p.done <- o
}

// propose hands a proposal to raft, or refuses it for certain.
func (g *group) propose(p *proposal) {
	status := g.node.BasicStatus()
	g.log.mu.Lock()
	owner := g.owner
	index := g.log.last + 1 // every Ready before has been worked through
	g.log.mu.Unlock()
	if status.RaftState != etcd.StateLeader || owner != p.term || status.GetTerm() != p.term || g.pending != nil {
		g.answer(p, outcome{err: journal.ErrNotOwner})
		return
	}
	p.index = index
	if err := g.node.Propose(payload(p.data)); err != nil {
		g.answer(p, outcome{err: fmt.Errorf("%w: raft dropped the proposal: %w", journal.ErrNotOwner, err)})
		return
	}
	g.pending = p
}

// Lease implements journal.Log. Before it gives a term away, a mark of that term
// is durable: were the log to lose the term's first entries, the next start
// would notice, and not use the term again for another history.
func (g *group) Lease(ctx context.Context) (journal.Lease, error) {
	var marked uint64
	for {
		if err := g.dead(); err != nil {
			return journal.Lease{}, err
		}
		g.log.mu.Lock()
		changed := g.log.changed
		if g.owner != 0 && !g.inflight && !g.moving {
			if marked == g.owner {
				g.leased = true
				lease := journal.Lease{Term: journal.Term(g.owner), Applied: g.log.final.Index}
				g.log.mu.Unlock()
				return lease, nil
			}
			owner := g.owner
			g.log.mu.Unlock()
			if err := g.j.marks.cover(g.shard, owner); err != nil {
				return journal.Lease{}, err
			}
			marked = owner
			continue
		}
		g.log.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return journal.Lease{}, fmt.Errorf("wait for the lease of shard %d: %w", g.shard, ctx.Err())
		case <-g.halt:
		case <-g.j.closing:
		case <-g.j.store.down:
		}
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
	if g.removed.Load() {
		return &RemovedError{Shard: g.shard, Node: g.j.cfg.NodeID}
	}
	return g.j.store.err()
}

// Append implements journal.Log.
func (g *group) Append(ctx context.Context, lease journal.Lease, data []byte) (journal.Position, error) {
	if len(data) > journal.MaxEntryBytes {
		return journal.Position{}, fmt.Errorf("append %d bytes to shard %d: %w", len(data), g.shard, journal.ErrTooLarge)
	}
	if err := g.dead(); err != nil {
		return journal.Position{}, err
	}
	if err := ctx.Err(); err != nil {
		return journal.Position{}, fmt.Errorf("%w: %w", journal.ErrCancelled, err)
	}
	g.log.mu.Lock()
	if !g.leased || g.inflight || uint64(lease.Term) != g.owner {
		g.log.mu.Unlock()
		return journal.Position{}, journal.ErrNotOwner
	}
	g.inflight = true
	g.log.mu.Unlock()
	if err := g.j.space.check(); err != nil {
		g.abandon(true)
		return journal.Position{}, err
	}
	p := &proposal{data: data, term: uint64(lease.Term), done: make(chan outcome, 1)}
	select {
	case g.proposals <- p:
	case <-ctx.Done():
		g.abandon(true)
		return journal.Position{}, fmt.Errorf("%w: %w", journal.ErrCancelled, ctx.Err())
	case <-g.stopped:
		g.abandon(false)
		if err := g.dead(); err != nil {
			return journal.Position{}, err
		}
		return journal.Position{}, journal.ErrNotOwner
	case <-g.j.store.down: // the loop may hang in a store that failed
		g.abandon(false)
		return journal.Position{}, g.j.store.err()
	}
	select {
	case o := <-p.done:
		if o.err != nil {
			g.unlease()
		}
		return o.position, o.err
	case <-ctx.Done():
		g.unlease()
		return journal.Position{}, fmt.Errorf("%w: %w", journal.ErrUnknown, ctx.Err())
	case <-g.stopped:
	case <-g.j.store.down:
	}
	if err := g.j.store.err(); err != nil {
		return journal.Position{}, err
	}
	select {
	case o := <-p.done: // it was answered before the loop ended
		return o.position, o.err
	default:
		return journal.Position{}, journal.ErrUnknown
	}
}

// abandon takes back an append that has not begun; keep tells whether the lease
// is still good.
func (g *group) abandon(keep bool) {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	g.inflight = false
	g.leased = g.leased && keep
	g.log.wake()
}

// unlease makes the owner ask for a lease again, which waits until what is in
// flight is settled.
func (g *group) unlease() {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	g.leased = false
}

// Read implements journal.Log.
func (g *group) Read(ctx context.Context, after journal.Index, maxBytes int) ([]journal.Entry, error) {
	for {
		g.log.mu.Lock()
		cut, final, commit, changed := g.log.meta.lastCut.Index, g.log.final.Index, g.log.commit, g.log.changed
		first := uint64(g.log.meta.trimmed.Index) + 1
		g.log.mu.Unlock()
		if err := g.dead(); errors.Is(err, journal.ErrClosed) {
			return nil, err
		}
		if cut > after {
			return nil, fmt.Errorf("read shard %d after %d: %w", g.shard, after, journal.ErrTrimmed)
		}
		if final > after {
			out, err := g.read(max(uint64(after)+1, first), commit, maxBytes)
			if err != nil && errors.Is(err, etcd.ErrCompacted) {
				continue // trimmed meanwhile: look again
			}
			return out, err
		}
		if err := g.dead(); err != nil {
			return nil, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("read shard %d after %d: %w", g.shard, after, ctx.Err())
		case <-g.halt:
		case <-g.j.closing:
		case <-g.j.store.down:
		}
	}
}

// read returns the data entries of [low, commit], of which there is at least
// one, going over internal ones.
func (g *group) read(low, commit uint64, maxBytes int) ([]journal.Entry, error) {
	if !g.j.use.TryRLock() {
		return nil, journal.ErrClosed
	}
	defer g.j.use.RUnlock()
	if g.j.gone {
		return nil, journal.ErrClosed
	}
	var out []journal.Entry
	for low <= commit && len(out) == 0 {
		es, err := g.log.fetch(low, commit+1, uint64(max(maxBytes, 0)))
		if err != nil {
			return nil, err
		}
		for _, e := range es {
			if kindOf(e) == kindData {
				out = append(out, journal.Entry{Position: position(e), Data: record(e)})
			}
		}
		low = es[len(es)-1].GetIndex() + 1
	}
	return out, nil
}

// Last implements journal.Log.
func (g *group) Last() journal.Position {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	return g.log.final
}

// Contains implements journal.Log.
func (g *group) Contains(p journal.Position) bool {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	// A view taken from a peer is there before the log has gone on behind it.
	return g.log.contains(p, g.log.commit) || (p == g.log.incoming && p.Index != 0)
}

// SetMark implements journal.Log.
func (g *group) SetMark(m journal.Mark) { g.j.marks.set(g.shard, m) }

// Trim implements journal.Log.
func (g *group) Trim(ctx context.Context, upTo journal.Index) error {
	if err := g.dead(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("trim shard %d: %w", g.shard, err)
	}
	if !g.j.use.TryRLock() {
		return journal.ErrClosed
	}
	defer g.j.use.RUnlock()
	if g.j.gone {
		return journal.ErrClosed
	}
	return g.log.trim(uint64(upTo))
}

// durableEnd is the last position that is committed and on this disk.
func (g *group) durableEnd() journal.Position {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	at := min(g.log.commit, g.log.last)
	t, _ := g.log.termAt(at)
	return journal.Position{Term: journal.Term(t), Index: journal.Index(at)}
}

// raftLogger passes what etcd's raft says to our log; its panics stay panics,
// which the loop turns into a fence.
type raftLogger struct{ log *slog.Logger }

func (l raftLogger) Debug(v ...any)                   {}
func (l raftLogger) Debugf(format string, v ...any)   {}
func (l raftLogger) Info(v ...any)                    { l.log.Debug(fmt.Sprint(v...)) }
func (l raftLogger) Infof(format string, v ...any)    { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l raftLogger) Warning(v ...any)                 { l.log.Warn(fmt.Sprint(v...)) }
func (l raftLogger) Warningf(format string, v ...any) { l.log.Warn(fmt.Sprintf(format, v...)) }
func (l raftLogger) Error(v ...any)                   { l.log.Error(fmt.Sprint(v...)) }
func (l raftLogger) Errorf(format string, v ...any)   { l.log.Error(fmt.Sprintf(format, v...)) }
func (l raftLogger) Fatal(v ...any)                   { panic(fmt.Sprint(v...)) }
func (l raftLogger) Fatalf(format string, v ...any)   { panic(fmt.Sprintf(format, v...)) }
func (l raftLogger) Panic(v ...any)                   { panic(fmt.Sprint(v...)) }
func (l raftLogger) Panicf(format string, v ...any)   { panic(fmt.Sprintf(format, v...)) }
