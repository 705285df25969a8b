package raft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/journaltest"
)

// A ledger is what the writers of one shard know: entry n of the shard is
// content(shard, n), so what a log must hold follows from counts alone.
type ledger struct {
	mu       sync.Mutex
	proposed int // entries handed to Append
	acked    []journal.Position
	trimmed  int // entries that Trim was asked to forget
	marked   int // entries under a mark that SyncMarks has acknowledged
}

// content is entry n of a shard: up to about 6 KiB, all of it telling.
func content(shard journal.ShardID, n int) []byte {
	rng := rand.New(rand.NewPCG(uint64(shard), uint64(n)))
	b := make([]byte, 16+8*rng.IntN(1+rng.IntN(800)))
	binary.BigEndian.PutUint64(b, uint64(shard))
	binary.BigEndian.PutUint64(b[8:], uint64(n))
	for i := 16; i < len(b); i += 8 {
		binary.BigEndian.PutUint64(b[i:], rng.Uint64())
	}
	return b
}

// number reads n out of content, and checks the rest.
func number(shard journal.ShardID, b []byte) (int, error) {
	if len(b) < 16 {
		return 0, fmt.Errorf("entry of %d bytes", len(b))
	}
	n := int(binary.BigEndian.Uint64(b[8:]))
	if string(content(shard, n)) != string(b) {
		return 0, fmt.Errorf("entry that calls itself %d is not what was written", n)
	}
	return n, nil
}

// have is what a log holds: entries first, first+1, … in this order.
type have struct {
	first     int
	positions []journal.Position
}

func (h have) end() int { return h.first + len(h.positions) }

// readAll reads a log from its trimmed part to its end.
func readAll(l journal.Log, shard journal.ShardID, g *group) (have, error) {
	after, last := journal.Index(0), l.Last().Index
	g.log.mu.Lock()
	after = g.log.meta.lastCut.Index
	g.log.mu.Unlock()
	h := have{}
	for after < last {
		es, err := l.Read(context.Background(), after, 64<<10)
		if err != nil {
			return h, err
		}
		for _, e := range es {
			n, err := number(shard, e.Data)
			if err != nil {
				return h, fmt.Errorf("silently different: %w", err)
			}
			if len(h.positions) == 0 {
				h.first = n
			}
			if n != h.end() {
				return h, fmt.Errorf("silently different: entry %d in the place of %d", n, h.end())
			}
			h.positions = append(h.positions, e.Position)
			after = e.Index
		}
	}
	return h, nil
}

// world is a set of writers on a disk, across its power cuts.
type world struct {
	t       *testing.T
	rng     *rand.Rand
	shards  int
	ledgers []*ledger
	acks    chan struct{} // one for every acknowledgement, dropped when full
}

func newWorld(t *testing.T, seed uint64, shards int) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 77)), shards: shards, acks: make(chan struct{}, 1)}
	for range shards {
		w.ledgers = append(w.ledgers, &ledger{})
	}
	return w
}

// write appends to a shard until ctx ends or the journal closes, now and then
// trimming and marking.
func (w *world) write(ctx context.Context, j *Journal, shard journal.ShardID, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, uint64(shard)))
	g, l := w.ledgers[shard], j.Log(shard)
	lease, err := l.Lease(ctx)
	if err != nil {
		return
	}
	for ctx.Err() == nil {
		g.mu.Lock()
		n := g.proposed
		g.proposed++
		g.mu.Unlock()
		p, err := l.Append(context.Background(), lease, content(shard, n))
		if err != nil {
			return // closing: unknown
		}
		g.mu.Lock()
		g.acked = append(g.acked, p)
		acked := len(g.acked)
		g.mu.Unlock()
		select {
		case w.acks <- struct{}{}:
		default:
		}
		switch rng.IntN(100) {
		case 0:
			cut := acked - rng.IntN(min(acked, 20)) - 1
			if cut <= g.trimmed {
				continue
			}
			g.mu.Lock()
			g.trimmed = cut
			upTo := g.acked[cut-1].Index
			g.mu.Unlock()
			if err := l.Trim(ctx, upTo); err != nil {
				return
			}
		case 1:
			l.SetMark(journal.Mark{Position: p})
			if err := j.SyncMarks(); err != nil {
				return
			}
			g.mu.Lock()
			g.marked = acked
			g.mu.Unlock()
		}
	}
}

// floors is what had been acknowledged at a moment before a cut.
func (w *world) floors() []int {
	out := make([]int, w.shards)
	for i, g := range w.ledgers {
		g.mu.Lock()
		out[i] = len(g.acked)
		g.mu.Unlock()
	}
	return out
}

// check opens what a cut left and holds it against what was acknowledged before.
func (w *world) check(disk *durable.Crashable, floors []int) error {
	j, err := Open(config(disk, w.shards))
	if err != nil {
		return fmt.Errorf("open after the cut: %w", err)
	}
	defer func() {
		if err := j.Close(); err != nil {
			w.t.Errorf("close: %v", err)
		}
	}()
	if d := j.Damage(); len(d) > 0 {
		return fmt.Errorf("damage after the cut: %w", errors.Join(d...))
	}
	for shard, g := range w.ledgers {
		id := journal.ShardID(shard)
		h, err := readAll(j.Log(id), id, j.groups[shard])
		if err != nil {
			return fmt.Errorf("read after the cut: %w", err)
		}
		g.mu.Lock()
		err = g.holds(h, floors[shard])
		acked := g.acked
		g.mu.Unlock()
		if err != nil {
			return fmt.Errorf("shard %d: %w", shard, err)
		}
		for _, p := range acked[:floors[shard]] {
			if !j.Log(id).Contains(p) {
				return fmt.Errorf("shard %d: %+v was acknowledged and is not contained", shard, p)
			}
		}
	}
	return nil
}

func (g *ledger) holds(h have, floor int) error {
	if len(h.positions) > 0 && h.first > g.trimmed {
		return fmt.Errorf("log begins at entry %d, only %d were trimmed", h.first, g.trimmed)
	}
	if len(h.positions) == 0 && floor > g.trimmed {
		return fmt.Errorf("log is empty, %d entries were acknowledged", floor)
	}
	if len(h.positions) > 0 && (h.end() < floor || h.end() > g.proposed) {
		return fmt.Errorf("log ends before entry %d; %d were acknowledged, %d proposed", h.end(), floor, g.proposed)
	}
	for i, p := range h.positions {
		if n := h.first + i; n < len(g.acked) && g.acked[n] != p {
			return fmt.Errorf("entry %d is at %+v, acknowledged was %+v", n, p, g.acked[n])
		}
	}
	return nil
}

// adopt takes over what the disk really holds: entries whose outcome was unknown
// are settled now.
func (w *world) adopt(j *Journal) {
	for shard, g := range w.ledgers {
		id := journal.ShardID(shard)
		h, err := readAll(j.Log(id), id, j.groups[shard])
		if err != nil {
			w.t.Fatalf("adopt: %v", err)
		}
		end := h.end()
		if len(h.positions) == 0 {
			end = len(g.acked)
			if g.trimmed < end {
				w.t.Fatalf("shard %d is empty, %d of %d were trimmed", shard, g.trimmed, end)
			}
		}
		for n := len(g.acked); n < end; n++ {
			g.acked = append(g.acked, h.positions[n-h.first])
		}
		g.acked = g.acked[:end]
		g.proposed = end
	}
}

// generation opens the disk, writes, pulls the plug several times and judges
// each copy with judge; it returns the last copy, which lives on.
func (w *world) generation(disk *durable.Crashable, rig func(*rigged), cuts int, judge func(*durable.Crashable, []int)) *durable.Crashable {
	r := &rigged{FS: disk}
	if rig != nil {
		rig(r)
	}
	j, err := Open(config(r, w.shards))
	if err != nil {
		w.t.Fatalf("open: %v", err)
	}
	w.adopt(j)
	ctx, cancel := context.WithCancel(context.Background())
	var writers sync.WaitGroup
	for shard := range w.shards {
		seed := w.rng.Uint64()
		writers.Go(func() { w.write(ctx, j, journal.ShardID(shard), seed) })
	}
	var last *durable.Crashable
	for range cuts {
		for range 1 + w.rng.IntN(40) {
			<-w.acks
		}
		floors := w.floors()
		keep := []float64{0, 0.5, w.rng.Float64(), 1}[w.rng.IntN(4)]
		last = disk.Crash(keep, w.rng.Uint64())
		judge(last.Crash(1, 0), floors)
	}
	// The copy that lives on was cut while entries were in the air: those count
	// as lost unless it holds them.
	cancel()
	if err := j.Close(); err != nil {
		w.t.Fatalf("close: %v", err)
	}
	writers.Wait()
	return last
}

// TestPowerCuts: invariants 1 and 2, at several hundred moments.
func TestPowerCuts(t *testing.T) {
	seed := journaltest.Seed(t)
	generations, cuts := 40, 8
	if testing.Short() {
		generations = 8
	}
	w := newWorld(t, seed, 3)
	disk := durable.NewCrashable()
	for g := range generations {
		// Only the last copy's history goes on; the ledger must forget what was
		// acknowledged after its cut.
		var at []int
		disk = w.generation(disk, nil, cuts, func(copy *durable.Crashable, floors []int) {
			at = floors
			if err := w.check(copy, floors); err != nil {
				t.Fatalf("generation %d: %v", g, err)
			}
		})
		w.rewind(at)
	}
	total := 0
	for _, n := range w.floors() {
		total += n
	}
	t.Logf("%d cuts, %d entries survived to the end", generations*cuts, total)
}

// rewind makes the ledgers those of the moment of the cut that lives on.
func (w *world) rewind(floors []int) {
	for i, g := range w.ledgers {
		// What was acknowledged after floors were taken and before the cut is
		// found by adopt; what came after the cut never happened.
		g.acked = g.acked[:floors[i]]
		g.trimmed = min(g.trimmed, floors[i])
	}
}

// TestPowerCutsNoticeLyingDisk is the test of the test: with the WAL's fsyncs
// taken away, the same checks must find losses, and the marks must prove one.
func TestPowerCutsNoticeLyingDisk(t *testing.T) {
	seed := journaltest.Seed(t)
	noticed, proven, rounds := 0, 0, uint64(0)
	for ; rounds < 6 && (noticed == 0 || proven == 0); rounds++ {
		w := newWorld(t, seed+rounds, 3)
		lie := func(r *rigged) {
			r.onSync = func(name string) error {
				if isWAL(name) {
					return swallow{}
				}
				return nil
			}
		}
		// The first generation makes the store honestly.
		var at []int
		disk := w.generation(durable.NewCrashable(), nil, 1, func(_ *durable.Crashable, floors []int) { at = floors })
		w.rewind(at)
		w.generation(disk, lie, 8, func(copy *durable.Crashable, floors []int) {
			err := w.check(copy, floors)
			var lost *journal.LostTailError
			if err != nil {
				noticed++
			}
			if errors.As(err, &lost) {
				proven++
			}
		})
	}
	t.Logf("losses noticed at %d of %d cuts, %d of them by the marks", noticed, 8*rounds, proven)
	if noticed == 0 || proven == 0 {
		t.Fatal("a disk that loses acknowledged entries passes the test")
	}
}
