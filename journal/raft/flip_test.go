package raft

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/journaltest"
)

// image makes a disk with something in every class of file: tables, a WAL with
// records under and beyond the marks, both marks. It returns what was
// acknowledged, how much of it lies under a durable mark, and the live tables.
func image(t *testing.T, shards int) (*durable.Crashable, []*ledger, map[string]bool) {
	disk := durable.NewCrashable()
	cfg := config(disk, shards)
	cfg.MarkInterval = time.Hour
	j := mustOpen(t, cfg)
	ledgers := make([]*ledger, shards)
	leases := make([]journal.Lease, shards)
	for i := range ledgers {
		ledgers[i] = &ledger{}
		leases[i] = mustLease(t, j.Log(journal.ShardID(i)))
	}
	write := func(each int) {
		for range each {
			for i, g := range ledgers {
				id := journal.ShardID(i)
				p := mustAppend(t, j.Log(id), leases[i], string(content(id, g.proposed)))
				g.acked = append(g.acked, p)
				g.proposed++
			}
		}
	}
	flush := func() {
		if err := j.store.db.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	write(60)
	flush()
	write(60)
	// The next start deletes what is obsolete, so that a manifest that goes back
	// in time finds it gone.
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = mustOpen(t, cfg)
	for i := range leases {
		leases[i] = mustLease(t, j.Log(journal.ShardID(i)))
	}
	write(60)
	flush()
	write(30)
	for i, g := range ledgers {
		j.Log(journal.ShardID(i)).SetMark(journal.Mark{Position: g.acked[len(g.acked)-1]})
	}
	if err := j.SyncMarks(); err != nil {
		t.Fatal(err)
	}
	for _, g := range ledgers {
		g.marked = len(g.acked)
	}
	write(30)
	live := map[string]bool{}
	levels, err := j.store.db.SSTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, level := range levels {
		for _, table := range level {
			live[fmt.Sprintf("/data/log/%06d.sst", uint64(table.BackingSSTNum))] = true
		}
	}
	return disk.Crash(1, 0), ledgers, live
}

func readFile(t testing.TB, fs durable.FS, name string) []byte {
	t.Helper()
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t testing.TB, fs durable.FS, name string, b []byte) {
	t.Helper()
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// classOf names the class of a file of the journal.
func classOf(name string) string {
	base := path.Base(name)
	switch {
	case strings.HasSuffix(base, ".log"):
		return "wal"
	case strings.HasSuffix(base, ".sst"):
		return "table"
	case strings.HasPrefix(base, "MANIFEST"):
		return "manifest"
	case strings.HasPrefix(base, "OPTIONS"):
		return "options"
	case strings.HasPrefix(base, "marker."):
		return "marker"
	case isMarks(base):
		return "marks"
	}
	return ""
}

func filesOf(t testing.TB, fs durable.FS) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, dir := range []string{"/data", "/data/log"} {
		names, err := fs.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if c := classOf(name); c != "" {
				out[c] = append(out[c], dir+"/"+name)
			}
		}
	}
	return out
}

// verdict is how a damaged disk was met.
type verdict string

const (
	refused  verdict = "refused at open"
	lostTail verdict = "lost tail named"
	warned   verdict = "reported, all served"
	onRead   verdict = "refused at reading"
	onScrub  verdict = "found by the scrub"
	harmless verdict = "all served"
	shorter  verdict = "a tail beyond the marks is missing"
)

// judge opens a damaged disk and says how it was met; the error is a silent
// difference, which must not be.
func judge(disk *durable.Crashable, ledgers []*ledger) (v verdict, err error) {
	j, err := Open(config(disk, len(ledgers)))
	if err != nil {
		return refused, nil
	}
	defer func() { _ = j.Close() }() // a fenced store may fail to close; the verdict stands
	v = harmless
	lost := map[journal.ShardID]bool{}
	for _, d := range j.Damage() {
		var e *journal.LostTailError
		if errors.As(d, &e) {
			v = lostTail
			lost[e.Shard] = true
		} else if v == harmless {
			v = warned
		}
	}
	for i, g := range ledgers {
		id := journal.ShardID(i)
		h, err := readAll(j.Log(id), id, j.groups[i])
		var corrupt *journal.CorruptError
		var fenced *journal.FencedError
		if errors.As(err, &corrupt) || errors.As(err, &fenced) {
			return onRead, nil
		}
		if err != nil {
			return v, err
		}
		if h.first != 0 && len(h.positions) > 0 || h.end() > len(g.acked) {
			return v, fmt.Errorf("shard %d holds entries %d to %d of %d", i, h.first, h.end(), len(g.acked))
		}
		for n, p := range h.positions {
			if p != g.acked[n] {
				return v, fmt.Errorf("shard %d: entry %d at %+v, acknowledged was %+v", i, n, p, g.acked[n])
			}
		}
		if h.end() < g.marked && !lost[id] {
			return v, fmt.Errorf("shard %d ends at entry %d, the marks cover %d, and nothing was said", i, h.end(), g.marked)
		}
		for _, p := range g.acked[h.end():] {
			if j.Log(id).Contains(p) {
				return v, fmt.Errorf("shard %d claims the lost %+v", i, p)
			}
		}
		if h.end() < len(g.acked) && v == harmless {
			v = shorter
		}
	}
	return goesOn(j, disk, ledgers, lost, v)
}

// goesOn appends to what survived and looks whether it is still there, with all
// before it, after the next start: damage may hide what is written after it.
func goesOn(j *Journal, disk *durable.Crashable, ledgers []*ledger, lost map[journal.ShardID]bool, v verdict) (verdict, error) {
	if err := j.Scrub(bg, nil); err != nil {
		return onScrub, nil
	}
	after := map[journal.ShardID]journal.Position{}
	for i := range ledgers {
		id := journal.ShardID(i)
		lease, err := j.Log(id).Lease(bg)
		if lost[id] {
			if err == nil {
				return v, fmt.Errorf("shard %d lost its tail and gives leases", i)
			}
			continue
		}
		if err != nil {
			return onRead, nil
		}
		p, err := j.Log(id).Append(bg, lease, []byte("after"))
		if err != nil {
			return onRead, nil
		}
		after[id] = p
	}
	if err := j.Close(); err != nil {
		return onRead, nil
	}
	again, err := Open(config(disk, len(ledgers)))
	if err != nil {
		return refused, nil
	}
	defer func() { _ = again.Close() }() // as in judge
	for id, p := range after {
		if !again.Log(id).Contains(p) || again.Log(id).Last() != p {
			return v, fmt.Errorf("shard %d: %+v was acknowledged after the damage and is gone, last is %+v", id, p, again.Log(id).Last())
		}
		es, err := again.Log(id).Read(bg, p.Index-1, 1)
		if err != nil {
			return onRead, nil
		}
		if string(es[0].Data) != "after" {
			return v, fmt.Errorf("shard %d: another entry is at %+v", id, p)
		}
	}
	return v, nil
}

// TestDamage: invariant 6, over every class of file.
func TestDamage(t *testing.T) {
	seed := journaltest.Seed(t)
	rng := rand.New(rand.NewPCG(seed, 1))
	disk, ledgers, live := image(t, 2)
	if v, err := judge(disk.Crash(1, 0), ledgers); err != nil || v != harmless {
		t.Fatalf("the undamaged disk: %s, %v", v, err)
	}
	files := filesOf(t, disk)
	files["table"] = slices.DeleteFunc(files["table"], func(name string) bool { return !live[name] })
	trials := 40
	if testing.Short() {
		trials = 12
	}
	for _, class := range []string{"wal", "table", "manifest", "options", "marker", "marks"} {
		names := files[class]
		if len(names) == 0 {
			t.Fatalf("the image has no file of class %s", class)
		}
		for _, how := range []string{"flip", "truncate", "zero", "remove"} {
			t.Run(class+"/"+how, func(t *testing.T) {
				met := map[verdict]int{}
				for range trials {
					copy := disk.Crash(1, 0)
					name := names[rng.IntN(len(names))]
					what := damage(t, copy, name, how, rng)
					v, err := judge(copy, ledgers)
					if err != nil {
						t.Errorf("%s: %s: %v", what, v, err)
					}
					met[v]++
					if how == "remove" && len(names) == 1 {
						break
					}
				}
				t.Logf("%v", met)
				if class == "marks" && met[warned] == 0 {
					t.Error("damaged marks were never reported")
				}
				if class == "table" && met[harmless]+met[shorter] > 0 && how != "zero" {
					t.Error("a damaged table was not noticed")
				}
			})
		}
	}
}

func damage(t testing.TB, fs durable.FS, name, how string, rng *rand.Rand) string {
	b := readFile(t, fs, name)
	if len(b) == 0 && how != "remove" {
		how = "grow" // marker files are empty: their name is what counts
	}
	switch how {
	case "flip":
		at, bit := rng.IntN(len(b)), rng.IntN(8)
		b[at] ^= 1 << bit
		writeFile(t, fs, name, b)
		return fmt.Sprintf("%s: flip bit %d of byte %d of %d", name, bit, at, len(b))
	case "truncate":
		at := rng.IntN(len(b))
		writeFile(t, fs, name, b[:at])
		return fmt.Sprintf("%s: truncate to %d of %d", name, at, len(b))
	case "zero":
		at := rng.IntN(len(b))
		n := 1 + rng.IntN(min(4096, len(b)-at))
		clear(b[at : at+n])
		writeFile(t, fs, name, b)
		return fmt.Sprintf("%s: zero %d bytes at %d of %d", name, n, at, len(b))
	case "grow":
		writeFile(t, fs, name, []byte{byte(rng.Uint32())})
		return name + ": grow"
	default:
		if err := fs.Remove(name); err != nil {
			t.Fatal(err)
		}
		return name + ": remove"
	}
}
