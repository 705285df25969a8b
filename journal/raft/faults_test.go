package raft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/highwater"
)

// TestFirstErrorFences: invariant 7. The error comes once; the disk works again
// after it, and still nothing is acknowledged.
func TestFirstErrorFences(t *testing.T) {
	once := func(match func(string) bool) (func(string) error, *atomic.Bool) {
		fired := new(atomic.Bool)
		return func(name string) error {
			if !match(name) || !fired.CompareAndSwap(false, true) {
				return nil
			}
			return errBroken
		}, fired
	}
	isTable := func(name string) bool { return strings.HasSuffix(name, ".sst") }
	isDir := func(name string) bool { return name == "/data/log" }
	isManifest := func(name string) bool { return strings.Contains(name, "MANIFEST") }
	for _, c := range []struct {
		name  string
		match func(string) bool
		op    string
	}{
		{"wal sync", isWAL, "sync"}, {"wal write", isWAL, "write"}, {"wal create", isWAL, "create"},
		{"table sync", isTable, "sync"}, {"table write", isTable, "write"}, {"table create", isTable, "create"},
		{"manifest sync", isManifest, "sync"}, {"manifest write", isManifest, "write"},
		{"folder sync", isDir, "sync"},
		{"marks sync", isMarks, "sync"}, {"marks write", isMarks, "write"}, {"marks create", isMarks, "create"},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk := durable.NewCrashable()
			rig := &rigged{FS: disk}
			j := mustOpen(t, config(rig, 2))
			l, other := j.Log(0), j.Log(1)
			lease, otherLease := mustLease(t, l), mustLease(t, other)
			var acked []journal.Position
			for n := range 20 {
				acked = append(acked, mustAppend(t, l, lease, string(content(0, n))))
			}
			hook, fired := once(c.match)
			rig.set(func(r *rigged) {
				switch c.op {
				case "write":
					r.onWrite = hook
				case "create":
					r.onCreate = hook
				default:
					r.onSync = hook
				}
			})
			var fenced *journal.FencedError
			for n := 20; ; n++ {
				if n == 20_000 {
					t.Fatal("the error was never met")
				}
				l.SetMark(journal.Mark{Position: acked[len(acked)-1]})
				if c.match("marks.0") {
					if err := j.SyncMarks(); err != nil && !errors.As(err, &fenced) {
						t.Fatalf("marks: %v", err)
					}
				}
				p, err := l.Append(bg, lease, content(0, n))
				if err != nil {
					if !errors.As(err, &fenced) {
						t.Fatalf("append: %v, want *FencedError", err)
					}
					break
				}
				acked = append(acked, p)
			}
			if !fired.Load() {
				t.Error("fenced without the error")
			}
			if _, err := l.Append(bg, lease, nil); !errors.As(err, &fenced) {
				t.Fatalf("append after the fence: %v", err)
			}
			if _, err := other.Append(bg, otherLease, nil); !errors.As(err, &fenced) {
				t.Fatalf("another shard's append after the fence: %v", err)
			}
			if j.Fenced() == nil {
				t.Fatal("not fenced")
			}
			cut := disk.Crash(0, 0)
			if err := j.Close(); err != nil {
				t.Fatalf("close after the fence: %v", err)
			}
			again := mustOpen(t, config(cut, 2))
			if d := again.Damage(); len(d) > 0 {
				t.Fatalf("after the fence: %v", d)
			}
			h, err := readAll(again.Log(0), 0, again.groups[0])
			if err != nil || h.end() < len(acked) {
				t.Fatalf("%d entries after the fence, %d were acknowledged: %v", h.end(), len(acked), err)
			}
		})
	}
}

// setClock is a clock that a test sets.
type setClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *setClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *setClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func TestDiskReserve(t *testing.T) {
	rig := &rigged{FS: durable.NewCrashable()}
	free := func(n uint64) { rig.set(func(r *rigged) { r.usage = &vfs.DiskUsage{AvailBytes: n} }) }
	free(1 << 30)
	cfg := config(rig, 1)
	clk := &setClock{now: time.Unix(1e9, 0)}
	cfg.Clock = clk
	j := mustOpen(t, cfg)
	l := j.Log(0)
	lease := mustLease(t, l)
	mustAppend(t, l, lease, "a")
	free(255 << 20)
	mustAppend(t, l, lease, "b") // asked within the second
	clk.add(time.Second)
	if _, err := l.Append(bg, lease, []byte("c")); !errors.Is(err, journal.ErrNoSpace) || !journal.Definite(err) {
		t.Fatalf("append into the reserve: %v, want ErrNoSpace", err)
	}
	if j.Fenced() != nil {
		t.Fatal("the reserve fenced the store")
	}
	free(257 << 20)
	clk.add(time.Second)
	last := mustAppend(t, l, lease, "d") // the lease is still good
	if got := l.Last(); got != last {
		t.Fatalf("last is %+v, want %+v", got, last)
	}
}

// TestLostTail: a log that ends before its mark is fenced, says what is missing,
// and goes on when someone accepts it.
func TestLostTail(t *testing.T) {
	disk := durable.NewCrashable()
	cfg := config(disk, 2)
	j := mustOpen(t, cfg)
	l := j.Log(1)
	lease := mustLease(t, l)
	var ps []journal.Position
	for n := range 10 {
		ps = append(ps, mustAppend(t, l, lease, string(content(1, n))))
	}
	l.SetMark(journal.Mark{Position: ps[9], Hash: [32]byte{9}})
	if err := j.Close(); err != nil { // writes the marks
		t.Fatal(err)
	}
	if loss, err := AcceptLoss(cfg, 1); !errors.Is(err, journal.ErrNoLoss) {
		t.Fatalf("accepting no loss: %+v, %v", loss, err)
	}
	cutTail(t, cfg, 1, uint64(ps[6].Index), false)

	for range 2 { // a restart does not heal it
		j = mustOpen(t, cfg)
		var lost *journal.LostTailError
		if d := j.Damage(); len(d) != 1 || !errors.As(d[0], &lost) {
			t.Fatalf("damage: %v", d)
		}
		if lost.Shard != 1 || lost.Have != ps[5] || lost.Proven != ps[9] {
			t.Fatalf("lost tail: %+v", lost)
		}
		l = j.Log(1)
		if _, err := l.Lease(bg); !errors.As(err, &lost) {
			t.Fatalf("lease: %v", err)
		}
		if _, err := l.Append(bg, lease, nil); !errors.As(err, &lost) {
			t.Fatalf("append: %v", err)
		}
		if h, err := readAll(l, 1, j.groups[1]); err != nil || h.end() != 6 {
			t.Fatalf("read what exists: %d, %v", h.end(), err)
		}
		if _, err := l.Read(bg, ps[5].Index, 1); !errors.As(err, &lost) {
			t.Fatalf("read beyond what exists: %v", err)
		}
		if l.Contains(ps[6]) || !l.Contains(ps[5]) {
			t.Fatal("contains is wrong about the lost tail")
		}
		mustAppend(t, j.Log(0), mustLease(t, j.Log(0)), "the other shard works")
		if err := j.SyncMarks(); err != nil { // must keep the proof
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	loss, err := AcceptLoss(cfg, 1)
	if err != nil || loss.Have != ps[5] || loss.Proven != ps[9] || loss.From != ps[6].Index || loss.To != ps[9].Index {
		t.Fatalf("accept: %+v, %v", loss, err)
	}
	j = mustOpen(t, cfg)
	if d := j.Damage(); len(d) != 0 {
		t.Fatalf("damage after accepting: %v", d)
	}
	l = j.Log(1)
	again := mustLease(t, l)
	if again.Term <= lease.Term+lossTermJump || again.Applied != ps[5].Index {
		t.Fatalf("lease after accepting: %+v", again)
	}
	for range 10 {
		mustAppend(t, l, again, "new history")
	}
	for _, p := range ps[6:] {
		if l.Contains(p) {
			t.Fatalf("claims the lost %+v", p)
		}
		var lost *journal.LostTailError
		if err := j.ReportLost(1, p, "a client"); !errors.As(err, &lost) || lost.Have != ps[5] || lost.Proven != p {
			t.Fatalf("report of %+v: %v", p, err)
		}
	}
	if err := j.ReportLost(1, ps[5], "a client"); err != nil {
		t.Fatalf("report of what is there: %v", err)
	}
	if d := j.Damage(); len(d) != 1 {
		t.Fatalf("damage after reports: %v", d)
	}
	mustAppend(t, l, again, "goes on")
}

// TestLostStore: the whole store is gone, the marks are not.
func TestLostStore(t *testing.T) {
	disk := durable.NewCrashable()
	j := mustOpen(t, config(disk, 2))
	p := mustAppend(t, j.Log(1), mustLease(t, j.Log(1)), "x")
	mustLease(t, j.Log(0))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := disk.RemoveAll("/data/log"); err != nil {
		t.Fatal(err)
	}
	j = mustOpen(t, config(disk, 2))
	var lost *journal.LostTailError
	if d := j.Damage(); len(d) != 2 || !errors.As(d[1], &lost) || lost.Proven != p {
		t.Fatalf("damage: %v", d)
	}
}

// TestLeaseIsCoveredByMarks: whatever happens to the log's tail, a term that
// positions were acknowledged in is not given twice.
func TestLeaseIsCoveredByMarks(t *testing.T) {
	disk := durable.NewCrashable()
	cfg := config(disk, 1)
	cfg.MarkInterval = time.Hour
	j := mustOpen(t, cfg)
	lease := mustLease(t, j.Log(0))
	m := marks{fs: disk, dir: "/data"}
	if damage := m.load(1); len(damage) > 0 || m.durable[0].End.Term != lease.Term {
		t.Fatalf("marks on disk are of term %d, the lease is of %d; %v", m.durable[0].End.Term, lease.Term, damage)
	}
}

func TestOtherStoreIsRefused(t *testing.T) {
	disk := durable.NewCrashable()
	if err := mustOpen(t, config(disk, 2)).Close(); err != nil {
		t.Fatal(err)
	}
	shards, node := config(disk, 3), config(disk, 2)
	node.NodeID = 7
	for _, cfg := range []Config{shards, node} {
		if j, err := Open(cfg); err == nil {
			t.Errorf("opened with %d shards as node %d", cfg.Shards, cfg.NodeID)
			_ = j.Close() // the test has failed already
		}
	}
}

// TestCacheIsBounded: the tail in memory stays within its bytes, and what is
// older comes from the disk.
func TestCacheIsBounded(t *testing.T) {
	j := mustOpen(t, config(durable.NewCrashable(), 1))
	l, g := j.Log(0), j.groups[0]
	lease := mustLease(t, l)
	for n := range 400 {
		mustAppend(t, l, lease, string(content(0, n)))
		g.log.mu.Lock()
		size, entries := 0, len(g.log.tail)
		for _, e := range g.log.tail {
			size += cost(e)
		}
		counted := g.log.size
		g.log.mu.Unlock()
		if size != counted || size > j.cfg.CacheBytes {
			t.Fatalf("%d entries of %d bytes in memory, counted %d, bound %d", entries, size, counted, j.cfg.CacheBytes)
		}
		if n == 399 && entries >= 400 {
			t.Fatal("nothing was ever dropped")
		}
	}
	if h, err := readAll(l, 0, g); err != nil || h.end() != 400 {
		t.Fatalf("read %d of 400: %v", h.end(), err)
	}
}

// TestScrubFindsRot flips one bit of a table under an open store, in its file's
// memory, and expects the scrub to find it and the store to be fenced.
func TestScrubFindsRot(t *testing.T) {
	disk := durable.NewCrashable()
	j := mustOpen(t, config(disk, 1))
	l := j.Log(0)
	lease := mustLease(t, l)
	for n := range 100 {
		mustAppend(t, l, lease, string(content(0, n)))
	}
	visited := 0
	if err := j.ScrubEntries(bg, nil, func(s journal.ShardID, e journal.Entry) error {
		n, err := number(s, e.Data)
		if err == nil && n != visited {
			err = fmt.Errorf("entry %d after %d", n, visited)
		}
		visited++
		return err
	}); err != nil || visited != 100 {
		t.Fatalf("scrub of a whole store: %d entries, %v", visited, err)
	}
	tables := filesOf(t, disk)["table"]
	if len(tables) == 0 {
		t.Fatal("no table to damage")
	}
	buf, err := disk.UnsafeGetFileDataBuffer(tables[len(tables)-1])
	if err != nil {
		t.Fatal(err)
	}
	buf[len(buf)/3] ^= 4
	var corrupt *journal.CorruptError
	if err := j.Scrub(bg, nil); !errors.As(err, &corrupt) {
		t.Fatalf("scrub over a flipped bit: %v", err)
	}
	var fenced *journal.FencedError
	if _, err := l.Append(bg, lease, nil); !errors.As(err, &fenced) {
		t.Fatalf("append after rot was found: %v", err)
	}
}

// TestVisitErrorIsDamage: a broken hash chain counts as a damaged entry.
func TestVisitErrorIsDamage(t *testing.T) {
	j := mustOpen(t, config(durable.NewCrashable(), 1))
	p := mustAppend(t, j.Log(0), mustLease(t, j.Log(0)), "x")
	var corrupt *journal.CorruptError
	err := j.ScrubEntries(bg, nil, func(journal.ShardID, journal.Entry) error { return errors.New("chain") })
	if !errors.As(err, &corrupt) || corrupt.Index != p.Index || j.Fenced() == nil {
		t.Fatalf("scrub: %v, fenced: %v", err, j.Fenced())
	}
}

// TestScrubRenewsMarks: a damaged copy of the marks is told of once, not fenced
// for, and written again.
func TestScrubRenewsMarks(t *testing.T) {
	disk := durable.NewCrashable()
	cfg := config(disk, 1)
	cfg.MarkInterval = time.Hour
	j := mustOpen(t, cfg)
	mustAppend(t, j.Log(0), mustLease(t, j.Log(0)), "x")
	writeFile(t, disk, "/data/marks.0", []byte("rot"))
	var bad *highwater.Error
	if err := j.Scrub(bg, nil); !errors.As(err, &bad) || bad.File != "marks.0" || j.Fenced() != nil {
		t.Fatalf("scrub: %v, fenced: %v", err, j.Fenced())
	}
	if d := j.Damage(); len(d) != 1 || !errors.As(d[0], &bad) {
		t.Fatalf("damage: %v", d)
	}
	if err := j.Scrub(bg, nil); err != nil {
		t.Fatalf("scrub after the repair: %v", err)
	}
}

// TestUnknownOutcomeIsSettledBeforeTheNextLease: an append whose context ends
// while its fsync is on the way is unknown; the next lease waits for it.
func TestUnknownOutcomeIsSettledBeforeTheNextLease(t *testing.T) {
	rig := &rigged{FS: durable.NewCrashable()}
	j := mustOpen(t, config(rig, 1))
	l := j.Log(0)
	lease := mustLease(t, l)
	a := mustAppend(t, l, lease, "a")
	syncing, proceed := make(chan struct{}), make(chan struct{})
	rig.set(func(r *rigged) {
		r.onSync = func(name string) error {
			if isWAL(name) {
				close(syncing)
				<-proceed
				r.set(func(r *rigged) { r.onSync = nil })
			}
			return nil
		}
	})
	ctx, cancel := context.WithCancel(bg)
	go func() {
		<-syncing
		cancel()
	}()
	if _, err := l.Append(ctx, lease, []byte("b")); !errors.Is(err, journal.ErrUnknown) || journal.Definite(err) {
		t.Fatalf("append cut off: %v, want ErrUnknown", err)
	}
	if _, err := l.Append(bg, lease, []byte("c")); !errors.Is(err, journal.ErrNotOwner) {
		t.Fatalf("append with an outcome open: %v, want ErrNotOwner", err)
	}
	short, stop := context.WithCancel(bg)
	stop()
	if got, err := l.Lease(short); err == nil {
		t.Fatalf("lease %+v while an append is on the way", got)
	}
	close(proceed)
	again := mustLease(t, l)
	if again.Applied <= a.Index {
		t.Fatalf("the lease wants %d applied, the unknown entry came after %d", again.Applied, a.Index)
	}
	es, err := l.Read(bg, a.Index, 1)
	if err != nil || string(es[0].Data) != "b" {
		t.Fatalf("the unknown entry: %v, %v", es, err)
	}
	mustAppend(t, l, again, "c")
}

// TestADamagedTableIsDamage: what Pebble finds damaged is told as damage, which a
// node of a cluster mends, and not as an error of the device, after which stores
// are opened again.
func TestADamagedTableIsDamage(t *testing.T) {
	bad := errors.New("block 7: checksum mismatch")
	for name, tell := range map[string]func(*pebble.EventListener){
		"read": func(l *pebble.EventListener) {
			l.DataCorruption(pebble.DataCorruptionInfo{Path: "7.sst", Details: bad})
		},
		"background": func(l *pebble.EventListener) { l.BackgroundError(pebble.ErrCorruption) },
	} {
		f := newFence(slog.New(slog.DiscardHandler))
		tell((&Config{}).pebbleOptions(f, vfs.NewMem()).EventListener)
		var damage *journal.CorruptError
		if err := f.err(); !errors.As(err, &damage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f := newFence(slog.New(slog.DiscardHandler))
	(&Config{}).pebbleOptions(f, vfs.NewMem()).EventListener.BackgroundError(errBroken)
	var damage *journal.CorruptError
	if err := f.err(); err == nil || errors.As(err, &damage) {
		t.Errorf("an error of the device: %v", err)
	}
}
