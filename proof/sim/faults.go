package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/raft"
)

func newDisk() *durable.Crashable { return durable.NewCrashable() }

// faults does n things to the cluster, some time apart, and says what.
func (w *world) faults(n int) (did []string) {
	began := time.Now()
	<-time.After(time.Second) // people sign up
	lost := w.rng.IntN(3) == 0
	for i := range n {
		var what string
		if lost && i == n/2 {
			what = w.loseDisk()
		} else {
			what = w.fault()
		}
		did = append(did, fmt.Sprintf("%v %s", time.Since(began).Round(time.Millisecond), what))
		w.log.Info("FAULT", "what", what)
		<-time.After(time.Duration(w.rng.IntN(700)) * time.Millisecond)
		w.mendAll()
	}
	return did
}

// mendAll starts nodes again whose stores have failed.
func (w *world) mendAll() {
	for _, m := range w.machines {
		mended, err := m.mend()
		if err != nil {
			w.wrong("machine %d does not open after its store has failed: %v", m.at, err)
		}
		if mended {
			w.count(&w.stats.Fences)
		}
	}
}

func (w *world) anyOf(up bool) *machine {
	var all []*machine
	for _, m := range w.machines {
		if (m.up() != nil) == up {
			all = append(all, m)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[w.rng.IntN(len(all))]
}

// fault does one thing.
func (w *world) fault() string {
	up, down := w.anyOf(true), w.anyOf(false)
	a, b := w.machines[w.rng.IntN(len(w.machines))], w.machines[w.rng.IntN(len(w.machines))]
	switch k := w.rng.IntN(28); {
	case k < 5 && up != nil:
		return w.kill(up)
	case k == 5 && up != nil:
		up.stop()
		w.met("stop")
		return fmt.Sprint("stop ", up.at)
	case k < 9 && down != nil:
		return w.restart(down)
	case k < 11:
		w.isolate(a)
		w.met("isolate")
		return fmt.Sprint("isolate ", a.at)
	case k == 11:
		w.cut(a, b)
		w.met("one-way cut")
		return fmt.Sprint("cut ", a.at, " to ", b.at)
	case k == 12:
		if len(w.machines) > 2 && a != b {
			w.cut(a, b) // both see the others: a bridge
			w.cut(b, a)
		}
		w.met("bridge")
		return fmt.Sprint("cut between ", a.at, " and ", b.at)
	case k < 15:
		w.net.SetFaults(raft.Faults{
			Drop: float64(w.rng.IntN(25)) / 100, Duplicate: float64(w.rng.IntN(20)) / 100, Reorder: float64(w.rng.IntN(20)) / 100,
			MinDelay: time.Duration(w.rng.IntN(20)) * time.Millisecond, MaxDelay: time.Duration(w.rng.IntN(200)) * time.Millisecond,
		})
		w.wires.change(func() { w.wires.delay = time.Duration(1+w.rng.IntN(40)) * time.Millisecond })
		w.met("loss and delay")
		return "loss and delay"
	case k == 15 && up != nil:
		return w.transfer(up)
	case k == 16 && up != nil:
		up.up().disk.set(func(d *disk) { d.failSync = true })
		w.met("fsync error")
		return fmt.Sprint("fsync error at ", up.at)
	case k == 17 && up != nil:
		hard := w.rng.IntN(2) == 0
		up.up().disk.set(func(d *disk) { d.reserve, d.noWrites = true, hard })
		w.met("disk full")
		return fmt.Sprint("disk full at ", up.at, ", without a byte: ", hard)
	case k == 18 && up != nil:
		up.up().plane.View.Fence(errors.New("a seed's doubt"))
		w.met("view fence")
		return fmt.Sprint("fence the view of ", up.at)
	case k < 22 && up != nil:
		_ = up.up().plane.View.Flush() // a fence is seen by mend
		w.met("flush")
		return fmt.Sprint("flush the view of ", up.at)
	case k == 22:
		return w.blackout()
	default:
		w.heal()
		w.met("heal")
		return "heal"
	}
}

func (w *world) kill(m *machine) string {
	keep := []float64{0, 0, 0.1, 0.5, 0.9}[w.rng.IntN(5)]
	syncs := w.rng.IntN(12)
	if w.rng.IntN(2) == 0 {
		syncs = -1
	}
	m.kill(keep, w.rng.Uint64(), syncs)
	w.count(&w.stats.Kills)
	w.met("kill")
	return fmt.Sprintf("kill %d, keeping %.0f %% of what was not synced", m.at, 100*keep)
}

// blackout cuts the power of all machines, one after the other in an instant, and
// starts them again.
func (w *world) blackout() string {
	for _, m := range w.machines {
		m.kill(w.rng.Float64()*w.rng.Float64(), w.rng.Uint64(), -1)
	}
	for _, m := range w.machines {
		w.startOne(m)
	}
	w.met("blackout")
	return "the power of all machines is cut, and comes back"
}

func (w *world) restart(m *machine) string {
	what := fmt.Sprint("start ", m.at)
	if w.rng.IntN(5) == 0 {
		if err := m.disk.RemoveAll(viewDir); err != nil {
			w.wrong("delete a view: %v", err)
		}
		w.count(&w.stats.Views)
		what += " without its view"
	}
	w.startOne(m)
	w.met("start")
	return what
}

func (w *world) startOne(m *machine) {
	if err := m.start(); err != nil {
		w.wrong("machine %d does not start after honest cuts: %v", m.at, err)
	}
}

func (w *world) cut(a, b *machine) {
	if a == b {
		return
	}
	w.net.Cut(a.id(), b.id())
	w.wires.change(func() { w.wires.cut[[2]int{a.at, b.at}] = true })
}

func (w *world) isolate(m *machine) {
	for _, o := range w.machines {
		w.cut(m, o)
		w.cut(o, m)
	}
}

func (w *world) heal() {
	w.net.Heal()
	w.net.SetFaults(raft.Faults{})
	w.wires.change(func() { clear(w.wires.cut); w.wires.delay = 2 * time.Millisecond })
	for _, m := range w.machines {
		if l := m.up(); l != nil {
			l.disk.set(func(d *disk) { d.reserve, d.noWrites = false, false })
		}
	}
}

func (w *world) transfer(m *machine) string {
	shard := journal.ShardID(w.rng.IntN(w.shards))
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	w.met("transfer")
	return fmt.Sprintf("transfer shard %d from %d: %v", shard, m.at, m.up().journal.TransferLeadership(ctx, shard, 0))
}

// healAll ends every fault and starts every node.
func (w *world) healAll() {
	w.heal()
	w.mendAll()
	for _, m := range w.machines {
		if m.up() == nil {
			w.startOne(m)
		}
	}
}

// loseDisk lets a machine come back with an empty disk, as a new member in the
// place of the node that it was. It is healed before: one replica at a time.
func (w *world) loseDisk() string {
	w.healAll()
	m := w.machines[w.rng.IntN(len(w.machines))]
	if !w.await(30*time.Second, w.whole) {
		return "no disk is lost: the cluster is not whole"
	}
	m.kill(0, 1, -1)
	old := m.id()
	m.disk, m.join = newDisk(), true
	w.lastNode++
	m.mu.Lock()
	m.node = w.lastNode
	m.mu.Unlock()
	w.startOne(m)
	for _, o := range w.machines {
		if l := o.up(); l != nil {
			l.relink()
		}
	}
	for shard := range w.shards {
		if !w.await(40*time.Second, func() bool { return w.replace(journal.ShardID(shard), old, m.id()) }) {
			w.wrong("node %d did not take the place of %d in shard %d", m.id(), old, shard)
			return "a lost disk that could not be replaced"
		}
	}
	w.count(&w.stats.Lost)
	w.met("lost disk")
	return fmt.Sprintf("lose the disk of %d, node %d comes in the place of %d", m.at, m.id(), old)
}

// replace makes one more step towards id in the place of old; true when done.
func (w *world) replace(shard journal.ShardID, old, id uint64) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, m := range w.machines {
		l := m.up()
		if l == nil {
			continue
		}
		st, err := l.journal.Status(ctx, shard)
		if err != nil || !st.Owner {
			continue
		}
		member, voter, there := false, false, false
		for _, x := range st.Members {
			if x.Node == id {
				member, voter = true, x.Voter
			}
			there = there || x.Node == old
		}
		switch {
		case voter && !there:
			return true
		case !member:
			err = l.journal.AddLearner(ctx, shard, id, old)
		case !voter:
			err = l.journal.Promote(ctx, shard, id, old)
		}
		w.log.Info("membership", "shard", shard, "at", m.at, "error", err)
	}
	return false
}

// whole tells whether every shard is served, and reached from every machine.
func (w *world) whole() bool {
	for _, m := range w.machines {
		if l := m.up(); l == nil || l.plane.Ready() != nil {
			return false
		}
	}
	return true
}

// await waits until ok holds, for most at most.
func (w *world) await(most time.Duration, ok func() bool) bool {
	for end := time.Now().Add(most); time.Now().Before(end); {
		if ok() {
			return true
		}
		<-time.After(20 * time.Millisecond)
		w.mendAll()
	}
	return false
}
