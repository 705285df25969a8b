package raft

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/journaltest"
)

// history is what all owners of all shards have been told, over all faults.
type history struct {
	mu     sync.Mutex
	next   uint64                      // numbers that entries carry
	acked  map[uint64]journal.Position // acknowledged entries, by number
	order  map[journal.ShardID][]uint64
	shard  map[uint64]journal.ShardID
	reigns map[reign]NodeID // who held a lease in which term
	wrong  []error
}

func (h *history) fail(format string, args ...any) {
	h.wrong = append(h.wrong, fmt.Errorf(format, args...))
}

// chaos is a cluster whose nodes each try to own every shard, as servers do.
type chaos struct {
	*cluster
	history
	rng  *rand.Rand
	down map[NodeID]context.CancelFunc // ends the owners of a node that is up
	busy map[NodeID]*sync.WaitGroup
	dead map[*Journal]bool // killed: what it says no longer counts; guarded by history.mu
	// With folds the logs are trimmed: what counts is in each node's view then.
	folds map[NodeID]*folds
}

// folds is a test double for a node's views. It outlives the node's crashes, as
// views do that are written more often than they need be.
type folds struct {
	mu    sync.Mutex
	shard map[journal.ShardID]*fold
	taken int // snapshots
	// dead: the node was killed; what its last moments still apply never happened.
	dead bool
}

// fold is what was applied of one shard: number(8) term(8) index(8) an entry.
type fold struct {
	at      journal.Mark
	entries []byte
}

func (f *folds) Make(_ context.Context, shard journal.ShardID) (journal.Mark, io.ReadCloser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.shard[shard]
	return v.at, io.NopCloser(bytes.NewReader(bytes.Clone(v.entries))), nil
}

func (f *folds) Restore(_ context.Context, shard journal.ShardID, at journal.Mark, r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return errBroken
	}
	if f.shard[shard].at.Index < at.Index {
		f.shard[shard] = &fold{at: at, entries: b}
		f.taken++
	}
	return nil
}

// apply follows a shard's log on one node, trimming behind itself.
func (f *folds) apply(ctx context.Context, x *chaos, m *member, j *Journal, shard journal.ShardID) {
	l := j.Log(shard)
	for n := 1; ; n++ {
		f.mu.Lock()
		after, dead := f.shard[shard].at, f.dead
		f.mu.Unlock()
		if dead {
			return
		}
		es, err := l.Read(ctx, after.Index, 8<<10)
		if err != nil {
			x.mu.Lock()
			if errors.Is(err, journal.ErrTrimmed) && !x.dead[j] {
				f.mu.Lock()
				if f.shard[shard].at == after { // or a snapshot came meanwhile
					x.fail("node %d, shard %d: the log goes on behind the view at %+v: %v", m.id, shard, after, err)
				}
				f.mu.Unlock()
			}
			x.mu.Unlock()
			if errors.Is(err, journal.ErrTrimmed) {
				continue
			}
			return
		}
		f.mu.Lock()
		v := f.shard[shard]
		if v.at == after && !f.dead {
			next := &fold{at: after, entries: v.entries}
			for _, e := range es {
				next.at = journal.Mark{Position: e.Position, Hash: journal.NextHash(next.at.Hash, e.Data)}
				next.entries = append(next.entries, e.Data[:8]...)
				next.entries = binary.BigEndian.AppendUint64(next.entries, uint64(e.Term))
				next.entries = binary.BigEndian.AppendUint64(next.entries, uint64(e.Index))
			}
			f.shard[shard] = next
			l.SetMark(next.at)
		}
		f.mu.Unlock()
		if n%8 == 0 {
			_ = l.Trim(ctx, es[0].Index) // a node that stops refuses
		}
	}
}

// own is the owner of a shard on one node: lease, catch up, append, and again.
func (x *chaos) own(ctx context.Context, m *member, j *Journal, shard journal.ShardID) {
	l := j.Log(shard)
	for ctx.Err() == nil {
		// What was acknowledged before the lease was asked for must be under it.
		x.mu.Lock()
		must := append([]uint64(nil), x.order[shard]...)
		x.mu.Unlock()
		lease, err := l.Lease(ctx)
		if err != nil {
			var lost *journal.LostTailError
			if errors.As(err, &lost) {
				x.mu.Lock()
				x.fail("node %d: %v", m.id, err)
				x.mu.Unlock()
			}
			return
		}
		x.mu.Lock()
		r := reign{shard, lease.Term}
		if by, ok := x.reigns[r]; ok && by != m.id && !x.dead[j] {
			x.fail("nodes %d and %d both held shard %d in term %d", by, m.id, shard, lease.Term)
		}
		x.reigns[r] = m.id
		x.mu.Unlock()
		if err := x.underLease(l, lease, must); err != nil {
			x.mu.Lock()
			if !x.dead[j] && ctx.Err() == nil {
				x.fail("node %d, shard %d, %+v: %v", m.id, shard, lease, err)
			}
			x.mu.Unlock()
			return
		}
		for ctx.Err() == nil {
			x.mu.Lock()
			x.next++
			n := x.next
			x.shard[n] = shard
			pause := time.Duration(x.rng.IntN(20)) * time.Millisecond
			size := x.rng.IntN(2000)
			x.mu.Unlock()
			data := binary.BigEndian.AppendUint64(make([]byte, 0, 8+size), n)
			p, err := l.Append(ctx, lease, append(data, make([]byte, size)...))
			if err != nil {
				break
			}
			x.mu.Lock()
			if !x.dead[j] {
				x.acked[n] = p
				x.order[shard] = append(x.order[shard], n)
			}
			x.mu.Unlock()
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
	}
}

// underLease checks that a lease covers everything acknowledged before it.
func (x *chaos) underLease(l journal.Log, lease journal.Lease, must []uint64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, n := range must {
		p := x.acked[n]
		if p.Index > lease.Applied {
			return fmt.Errorf("entry %d at %+v was acknowledged before and is not covered", n, p)
		}
		if !l.Contains(p) {
			return fmt.Errorf("entry %d at %+v was acknowledged and is not contained", n, p)
		}
	}
	return nil
}

func (x *chaos) up(m *member) {
	x.open(m)
	if d := m.j.Damage(); len(d) > 0 {
		x.t.Fatalf("node %d opened with damage: %v", m.id, d)
	}
	ctx, cancel := context.WithCancel(context.Background())
	wg := &sync.WaitGroup{}
	j := m.j
	for shard := range m.cfg.Shards {
		wg.Go(func() { x.own(ctx, m, j, journal.ShardID(shard)) })
	}
	if f := x.folds[m.id]; f != nil {
		f.mu.Lock()
		f.dead = false
		f.mu.Unlock()
		for shard := range m.cfg.Shards {
			wg.Go(func() { f.apply(ctx, x, m, j, journal.ShardID(shard)) })
		}
	}
	x.down[m.id], x.busy[m.id] = cancel, wg
}

func (x *chaos) stop(m *member, kill bool) {
	if kill {
		disk := x.crash(m)
		x.down[m.id]()
		x.close(m)
		x.busy[m.id].Wait()
		m.disk = disk
		return
	}
	x.close(m)
	x.down[m.id]()
	x.busy[m.id].Wait()
}

// crash pulls a node's plug: half of the time just before something reaches the
// disk, with what depends on it perhaps already said, else when all is quiet
// (the clock of the bubble, which the faults follow, moves only then).
func (x *chaos) crash(m *member) *durable.Crashable {
	x.mu.Lock()
	keep, seed, busy, after := x.rng.Float64()*x.rng.Float64(), x.rng.Uint64(), x.rng.IntN(2) == 0, x.rng.IntN(12)
	x.mu.Unlock()
	crashed := make(chan *durable.Crashable, 1)
	var once sync.Once
	pull := func() {
		once.Do(func() {
			x.mu.Lock()
			x.dead[m.j] = true // from now on its acknowledgements are nobody's
			x.mu.Unlock()
			if f := x.folds[m.id]; f != nil {
				f.mu.Lock()
				f.dead = true
				f.mu.Unlock()
			}
			m.ep.end()
			crashed <- m.disk.Crash(keep, seed)
		})
	}
	if busy {
		m.rig.set(func(r *rigged) {
			r.onSync = func(name string) error {
				if after--; isWAL(name) && after < 0 {
					for range 100 { // let others hear what was said too early
						runtime.Gosched()
					}
					pull()
				}
				return nil
			}
		})
		select {
		case disk := <-crashed:
			return disk
		case <-time.After(300 * time.Millisecond):
		}
	}
	pull()
	return <-crashed
}

func (x *chaos) pick(n int) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.rng.IntN(n)
}

// fault does one thing to the cluster.
func (x *chaos) fault() string {
	var downs, ups []*member
	for _, m := range x.members {
		if m.j == nil {
			downs = append(downs, m)
		} else {
			ups = append(ups, m)
		}
	}
	ids := make([]NodeID, 0, len(x.members))
	for _, m := range x.members {
		ids = append(ids, m.id)
	}
	switch k := x.pick(12); {
	case k < 3 && len(ups) > 0:
		m := ups[x.pick(len(ups))]
		x.stop(m, true)
		return fmt.Sprint("kill ", m.id)
	case k == 3 && len(ups) > 0:
		m := ups[x.pick(len(ups))]
		x.stop(m, false)
		return fmt.Sprint("close ", m.id)
	case k < 7 && len(downs) > 0:
		m := downs[x.pick(len(downs))]
		x.up(m)
		return fmt.Sprint("start ", m.id)
	case k == 7:
		id := ids[x.pick(len(ids))]
		x.net.Isolate(id, ids...)
		return fmt.Sprint("isolate ", id)
	case k == 8:
		a, b := ids[x.pick(len(ids))], ids[x.pick(len(ids))]
		x.net.Cut(a, b)
		return fmt.Sprint("cut ", a, " to ", b)
	case k == 9:
		x.net.SetFaults(Faults{Drop: float64(x.pick(30)) / 100, Duplicate: float64(x.pick(20)) / 100, Reorder: float64(x.pick(20)) / 100,
			MinDelay: time.Duration(x.pick(5)) * time.Millisecond, MaxDelay: time.Duration(x.pick(80)) * time.Millisecond})
		return "loss and delay"
	case k == 10 && len(ups) > 0:
		m := ups[x.pick(len(ups))]
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		return fmt.Sprint("transfer from ", m.id, ": ", m.j.TransferLeadership(ctx, 0, 0))
	default:
		x.net.Heal()
		x.net.SetFaults(Faults{})
		return "heal"
	}
}

// settle ends all faults, waits for progress, and judges every node's logs.
func (x *chaos) settle() {
	x.net.Heal()
	x.net.SetFaults(Faults{})
	for _, m := range x.members {
		if m.j == nil {
			x.up(m)
		}
	}
	healed := time.Now()
	for shard := range x.members[0].cfg.Shards {
		before := x.count(journal.ShardID(shard))
		x.await(fmt.Sprintf("appends to shard %d after healing", shard), func() bool { return x.count(journal.ShardID(shard)) > before+3 })
	}
	if took := time.Since(healed); took > 10*time.Second {
		x.t.Fatalf("%v from healing to progress", took)
	}
	if x.folds != nil {
		x.judgeFolds()
		return
	}
	for _, m := range x.members {
		x.down[m.id]()
		x.busy[m.id].Wait()
	}
	for shard := range x.members[0].cfg.Shards {
		x.judge(journal.ShardID(shard))
	}
	x.report()
}

// judgeFolds waits until every node has applied everything that was acknowledged,
// and compares what they have applied: the running hashes, and entry by entry.
func (x *chaos) judgeFolds() {
	defer x.report()
	for shard := range x.members[0].cfg.Shards {
		shard := journal.ShardID(shard)
		x.mu.Lock()
		order := slices.Clone(x.order[shard])
		x.mu.Unlock()
		for _, m := range x.members {
			f := x.folds[m.id]
			var entries []byte
			goal := x.position(order[len(order)-1]).Index
			x.await(fmt.Sprintf("node %d to apply all of shard %d", m.id, shard), func() bool {
				f.mu.Lock()
				defer f.mu.Unlock()
				entries = f.shard[shard].entries
				return f.shard[shard].at.Index >= goal
			})
			seen := map[uint64]bool{}
			x.mu.Lock()
			for ; len(entries) > 0; entries = entries[24:] {
				n := binary.BigEndian.Uint64(entries)
				p := journal.Position{Term: journal.Term(binary.BigEndian.Uint64(entries[8:])), Index: journal.Index(binary.BigEndian.Uint64(entries[16:]))}
				if seen[n] {
					x.fail("node %d, shard %d: entry %d was applied twice", m.id, shard, n)
				}
				if was, ok := x.acked[n]; ok && was != p {
					x.fail("node %d, shard %d: entry %d is at %+v, acknowledged was %+v", m.id, shard, n, p, was)
				}
				seen[n] = true
			}
			for _, n := range order {
				if !seen[n] {
					x.fail("node %d, shard %d: entry %d was acknowledged and not applied", m.id, shard, n)
				}
			}
			x.mu.Unlock()
		}
		// At the same place they have the same hash.
		marks := map[journal.Position][32]byte{}
		x.await("the same place", func() bool {
			marks = map[journal.Position][32]byte{}
			same := 0
			for _, f := range x.folds {
				f.mu.Lock()
				at := f.shard[shard].at
				f.mu.Unlock()
				if h, ok := marks[at.Position]; ok {
					if same++; h != at.Hash {
						x.t.Fatalf("shard %d: nodes differ at %+v", shard, at.Position)
					}
				}
				marks[at.Position] = at.Hash
			}
			return same == len(x.folds)-1
		})
	}
}

func (x *chaos) position(n uint64) journal.Position {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.acked[n]
}

// report tells what was found wrong.
func (x *chaos) report() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, err := range x.wrong {
		x.t.Error(err)
	}
}

func (x *chaos) count(shard journal.ShardID) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.order[shard])
}

// judge reads a shard from every node: all the same, everything acknowledged in
// its place, nothing twice.
func (x *chaos) judge(shard journal.ShardID) {
	// An append that was given up may still commit: judge up to a moment.
	var last journal.Position
	x.await("equal commits", func() bool {
		last = x.members[0].log(shard).Last()
		for _, m := range x.members {
			if m.log(shard).Last() != last {
				return false
			}
		}
		return true
	})
	var first []journal.Entry
	for i, m := range x.members {
		var all []journal.Entry
		for after := journal.Index(0); after < last.Index; {
			es, err := m.log(shard).Read(context.Background(), after, 1<<20)
			if err != nil {
				x.t.Fatalf("node %d: read shard %d after %d: %v", m.id, shard, after, err)
			}
			all = append(all, es...)
			after = es[len(es)-1].Index
		}
		all = slices.DeleteFunc(all, func(e journal.Entry) bool { return e.Index > last.Index })
		if i == 0 {
			first = all
			continue
		}
		if len(all) != len(first) {
			x.t.Fatalf("shard %d: node %d has %d entries, node %d has %d", shard, m.id, len(all), x.members[0].id, len(first))
		}
		for k, e := range all {
			if e.Position != first[k].Position || string(e.Data) != string(first[k].Data) {
				x.t.Fatalf("shard %d: nodes differ at entry %d: %+v and %+v", shard, k, e.Position, first[k].Position)
			}
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	seen := map[uint64]journal.Position{}
	for _, e := range first {
		n := binary.BigEndian.Uint64(e.Data)
		if was, twice := seen[n]; twice {
			x.fail("shard %d: entry %d is at %+v and at %+v", shard, n, was, e.Position)
		}
		seen[n] = e.Position
		if p, ok := x.acked[n]; ok && p != e.Position {
			x.fail("shard %d: entry %d is at %+v, acknowledged was %+v", shard, n, e.Position, p)
		}
		if x.shard[n] != shard {
			x.fail("shard %d has entry %d of shard %d", shard, n, x.shard[n])
		}
	}
	for _, n := range x.order[shard] {
		if _, ok := seen[n]; !ok {
			x.fail("shard %d: entry %d was acknowledged at %+v and is gone", shard, n, x.acked[n])
		}
	}
}

// TestChaos runs three nodes through faults of all kinds and judges what is left:
// invariants 1, 2 and 4. A schedule of faults replays by its seed; how goroutines
// meet it does not entirely.
func TestChaos(t *testing.T) {
	seed := journaltest.Seed(t)
	rounds, steps := 12, 40
	if testing.Short() {
		rounds, steps = 3, 25
	}
	for round := range rounds {
		t.Run(fmt.Sprint(seed+uint64(round)), func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, seed+uint64(round))
			// Every third round trims, so that members need snapshots.
			synctest.Test(t, func(t *testing.T) { runChaos(t, seed+uint64(round), steps, round%3 == 2) })
		})
	}
}

func runChaos(t *testing.T, seed uint64, steps int, trim bool) {
	x := &chaos{cluster: &cluster{t: t, net: NewNetwork(seed)}, rng: rand.New(rand.NewPCG(seed, 5)),
		history: history{acked: map[uint64]journal.Position{}, order: map[journal.ShardID][]uint64{}, shard: map[uint64]journal.ShardID{}, reigns: map[reign]NodeID{}},
		down:    map[NodeID]context.CancelFunc{}, busy: map[NodeID]*sync.WaitGroup{}, dead: map[*Journal]bool{}}
	voters := []NodeID{1, 2, 3}
	for _, id := range voters {
		x.add(id, 2).cfg.Voters = voters
	}
	if trim {
		x.folds = map[NodeID]*folds{}
		for _, m := range x.members {
			x.folds[m.id] = &folds{shard: map[journal.ShardID]*fold{0: {}, 1: {}}}
			m.cfg.Snapshots = x.folds[m.id]
		}
	}
	for _, m := range x.members {
		x.up(m)
	}
	defer func() {
		for _, m := range x.members {
			x.down[m.id]()
			x.close(m)
			x.busy[m.id].Wait()
		}
	}()
	var did []string
	for range steps {
		did = append(did, x.fault())
		<-time.After(time.Duration(x.pick(700)) * time.Millisecond)
	}
	x.settle()
	sent, lost := x.net.Count()
	x.mu.Lock()
	t.Logf("%d entries proposed, %d acknowledged, %d ownerships, %d parcels sent, %d lost", x.next, len(x.acked), len(x.reigns), sent, lost)
	x.mu.Unlock()
	for id, f := range x.folds {
		f.mu.Lock()
		t.Logf("node %d took %d snapshots", id, f.taken)
		f.mu.Unlock()
	}
	if t.Failed() {
		t.Logf("faults: %q", did)
	}
}
