package postgres

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/journaltest"
)

// The crash drill: an owner in a process of its own appends to every shard and
// says what was acknowledged; it and the database are killed again and again.

const (
	childEnv    = "BONGSU_JOURNAL_CHILD" // the URL; set in the owner's process only
	childDir    = "BONGSU_JOURNAL_CHILD_DIR"
	childShards = "BONGSU_JOURNAL_CHILD_SHARDS"
)

// content is entry n of a shard: up to about 6 KiB, all of it telling.
func content(shard journal.ShardID, n uint64) []byte {
	rng := rand.New(rand.NewPCG(uint64(shard), n))
	b := make([]byte, 16+8*rng.IntN(1+rng.IntN(800)))
	binary.BigEndian.PutUint64(b, uint64(shard))
	binary.BigEndian.PutUint64(b[8:], n)
	for i := 16; i < len(b); i += 8 {
		binary.BigEndian.PutUint64(b[i:], rng.Uint64())
	}
	return b
}

// number reads n out of content, and checks the rest.
func number(shard journal.ShardID, b []byte) (uint64, error) {
	if len(b) < 16 {
		return 0, fmt.Errorf("entry of %d bytes", len(b))
	}
	n := binary.BigEndian.Uint64(b[8:])
	if string(content(shard, n)) != string(b) {
		return 0, fmt.Errorf("entry that calls itself %d is not what was written", n)
	}
	return n, nil
}

// writer is an owner as package shard is one: it goes on only from what it has
// read, and leases again after every outcome that is not an acknowledgement.
type writer struct {
	log   journal.Log
	shard journal.ShardID
	next  uint64 // number of the next entry
	at    journal.Index
	acked func(n uint64, p journal.Position)
}

// reign leases, reads what it has not read, and appends until something fails.
func (w *writer) reign(ctx context.Context) error {
	lease, err := w.log.Lease(ctx)
	if err != nil {
		return err
	}
	for w.at < lease.Applied {
		es, err := w.log.Read(ctx, w.at, 1<<20)
		if err != nil {
			return err
		}
		for _, e := range es {
			n, err := number(w.shard, e.Data)
			if err != nil || n != w.next {
				return fmt.Errorf("shard %d index %d: entry %d in the place of %d: %w", w.shard, e.Index, n, w.next, err)
			}
			w.next, w.at = n+1, e.Index
		}
	}
	for ctx.Err() == nil {
		p, err := w.log.Append(context.WithoutCancel(ctx), lease, content(w.shard, w.next))
		if err != nil {
			return err
		}
		w.log.SetMark(journal.Mark{Position: p})
		w.acked(w.next, p)
		w.next, w.at = w.next+1, p.Index
	}
	return nil
}

// run reigns until ctx ends, or what it meets is not to be ridden out.
func (w *writer) run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := w.reign(ctx)
		if !errors.Is(err, journal.ErrUnknown) && !errors.Is(err, journal.ErrNotOwner) && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// childMain is the owner's process: it says "shard n term index" for every
// acknowledgement, and ends only by being killed, or with a reason.
func childMain() int {
	shards, _ := strconv.Atoi(os.Getenv(childShards)) // the parent wrote it
	j, err := Open(bg, Config{URL: os.Getenv(childEnv), Dir: os.Getenv(childDir), Shards: shards,
		LeaseTTL: time.Second, MarkInterval: 20 * time.Millisecond})
	if err != nil {
		fmt.Fprintln(os.Stderr, "open:", err)
		return 1
	}
	var mu sync.Mutex
	failed := make(chan error, shards)
	for s := range shards {
		id := journal.ShardID(s)
		w := &writer{log: j.Log(id), shard: id, acked: func(n uint64, p journal.Position) {
			mu.Lock()
			defer mu.Unlock()
			fmt.Printf("%d %d %d %d\n", id, n, p.Term, p.Index)
		}}
		go func() { failed <- w.run(bg) }()
	}
	fmt.Fprintln(os.Stderr, "writer:", <-failed)
	return 1
}

// ledger is what a shard's writers were told: entry n is at acked[n].
type ledger struct {
	mu    sync.Mutex
	acked map[uint64]journal.Position
	total int
	last  time.Time
	pause time.Duration // the longest between two acknowledgements
}

func newLedger() *ledger { return &ledger{acked: map[uint64]journal.Position{}} }

func (g *ledger) add(n uint64, p journal.Position) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if old, twice := g.acked[n]; twice {
		return fmt.Errorf("entry %d was acknowledged at %+v and again at %+v", n, old, p)
	}
	g.acked[n] = p
	g.total++
	if now := time.Now(); g.last.IsZero() {
		g.last = now
	} else {
		g.pause, g.last = max(g.pause, now.Sub(g.last)), now
	}
	return nil
}

func (g *ledger) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.total
}

// verify reads a log whole and holds it against the ledger: every entry that was
// acknowledged is where it was said to be, none is there twice or out of order.
func (g *ledger) verify(t *testing.T, l journal.Log, shard journal.ShardID) (entries uint64) {
	t.Helper()
	mustLease(t, l)
	found := map[uint64]journal.Position{}
	for at := journal.Index(0); at < l.Last().Index; {
		es, err := l.Read(patient(t), at, 1<<20)
		if err != nil {
			t.Fatalf("shard %d: %v", shard, err)
		}
		for _, e := range es {
			n, err := number(shard, e.Data)
			if err != nil || n != entries {
				t.Fatalf("shard %d index %d: entry %d in the place of %d: %v", shard, e.Index, n, entries, err)
			}
			found[n], at = e.Position, e.Index
			entries++
		}
	}
	for n, p := range g.acked {
		if found[n] != p {
			t.Errorf("shard %d: LOST: entry %d was acknowledged at %+v, the log has %+v", shard, n, p, found[n])
		}
		if !l.Contains(p) {
			t.Errorf("shard %d: %+v was acknowledged and is not contained", shard, p)
		}
	}
	return entries
}

// owner is the owner's process.
type owner struct {
	cmd  *exec.Cmd
	told sync.WaitGroup
}

func startOwner(t *testing.T, url, dir string, ledgers []*ledger) *owner {
	t.Helper()
	o := &owner{cmd: exec.Command(os.Args[0], "-test.run=^$")}
	o.cmd.Env = append(os.Environ(), childEnv+"="+url, childDir+"="+dir, childShards+"="+strconv.Itoa(len(ledgers)))
	o.cmd.Stderr = os.Stderr
	out, err := o.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := o.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	o.told.Go(func() { // what was written before the kill is still in the pipe
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var shard, n uint64
			var p journal.Position
			if c, _ := fmt.Sscan(lines.Text(), &shard, &n, &p.Term, &p.Index); c != 4 {
				continue // cut off by the kill
			}
			if err := ledgers[shard].add(n, p); err != nil {
				t.Errorf("shard %d: %v", shard, err)
			}
		}
	})
	return o
}

func (o *owner) kill() {
	_ = o.cmd.Process.Signal(syscall.SIGKILL) // it may have ended, which the ledger shows
	o.told.Wait()
	_ = o.cmd.Wait() // killed, as asked
}

func counts(ledgers []*ledger) (total int) {
	for _, g := range ledgers {
		total += g.count()
	}
	return total
}

// moreAcks waits until so many more acknowledgements have come.
func moreAcks(t *testing.T, ledgers []*ledger, more int) {
	t.Helper()
	goal := counts(ledgers) + more
	for deadline := time.Now().Add(30 * time.Second); counts(ledgers) < goal; {
		if time.Now().After(deadline) {
			t.Fatalf("no acknowledgements: %d of %d", counts(ledgers), goal)
		}
		<-time.After(2 * time.Millisecond)
	}
}

func TestCrashDrill(t *testing.T) {
	const shards = 4
	rounds := 12
	if testing.Short() {
		rounds = 4
	}
	seed := journaltest.Seed(t)
	rng := rand.New(rand.NewPCG(seed, 1))
	s := newServer(t) // fsync is on: durability is what is tested
	cfg := config(t, s, shards)
	ledgers := make([]*ledger, shards)
	for i := range ledgers {
		ledgers[i] = newLedger()
	}
	kills := map[string]int{}
	o := startOwner(t, cfg.URL, cfg.Dir, ledgers)
	for round := range rounds {
		moreAcks(t, ledgers, 40+rng.IntN(300))
		ownerToo, databaseToo := round%3 != 1, round%3 != 0
		if databaseToo {
			s.kill()
			kills["database"]++
		}
		if ownerToo {
			o.kill()
			kills["owner"]++
		}
		if databaseToo {
			s.start()
		}
		if ownerToo {
			o = startOwner(t, cfg.URL, cfg.Dir, ledgers)
		}
	}
	moreAcks(t, ledgers, 100)
	o.kill()
	j := mustOpen(t, cfg)
	if d := j.Damage(); len(d) > 0 {
		t.Fatalf("damage: %v", d)
	}
	var entries uint64
	for i, g := range ledgers {
		entries += g.verify(t, j.Log(journal.ShardID(i)), journal.ShardID(i))
	}
	if err := j.Scrub(bg, nil); err != nil {
		t.Fatal(err)
	}
	t.Logf("%v: %d acknowledged, %d in the log, 0 lost, 0 doubled", kills, counts(ledgers), entries)
}
