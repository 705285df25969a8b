package view

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/chat"
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	"github.com/bongsu-im/bongsu/internal/durable"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The store is what the rules stand on.
var (
	_ chat.Tx      = (*Stage)(nil)
	_ chat.Ceiling = (*Stage)(nil)
	_ chat.Reader  = (*Reader)(nil)
)

func seedOf(t testing.TB) uint64 {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("BONGSU_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("BONGSU_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("replay with BONGSU_SEED=%d", seed)
	return seed
}

func config(fs durable.FS, shards int) Config {
	return Config{Dir: "view", FS: fs, Shards: shards, Layout: 1, CacheBytes: 1 << 20, MemTableBytes: 256 << 10}
}

func mustOpen(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// record is what one journal entry does to shard n: a deterministic mix of new,
// changed and deleted keys, so that a state tells which records made it.
func record(n, i int) func(set func(k, v []byte), del func(k []byte)) {
	return func(set func(k, v []byte), del func(k []byte)) {
		rng := rand.New(rand.NewPCG(uint64(n), uint64(i)))
		for range 1 + rng.IntN(20) {
			k := key(n, rng.IntN(300))
			if rng.IntN(4) == 0 {
				del(k)
				continue
			}
			v := make([]byte, rng.IntN(200))
			for j := range v {
				v[j] = byte(rng.Uint32())
			}
			set(k, v)
		}
	}
}

// key is the i-th key of shard n of 4; the first bytes are its partition.
func key(n, i int) []byte {
	p := n*1024 + i%7
	return append(binary.BigEndian.AppendUint16(nil, uint16(p)), fmt.Sprintf("k%05d", i)...)
}

func markOf(i int) *journalv1.Mark {
	h := sha256.Sum256([]byte(strconv.Itoa(i)))
	return &journalv1.Mark{Term: 1, Index: uint64(i), Hash: h[:], Rules: 1}
}

func apply(t testing.TB, s *Store, n, i int) error {
	st, err := s.Shard(n).Stage()
	if err != nil {
		return err
	}
	defer st.Discard()
	record(n, i)(
		func(k, v []byte) { err = errors.Join(err, st.Set(k, v)) },
		func(k []byte) { err = errors.Join(err, st.Delete(k)) },
	)
	if err != nil {
		return err
	}
	return st.Commit(markOf(i))
}

func mustApply(t testing.TB, s *Store, n, i int) {
	t.Helper()
	if err := apply(t, s, n, i); err != nil {
		t.Fatalf("apply record %d: %v", i, err)
	}
}

// wanted is the state of shard n after records 1 to i, as a map says.
func wanted(n, i int) map[string]string {
	m := map[string]string{}
	for r := 1; r <= i; r++ {
		record(n, r)(
			func(k, v []byte) { m[string(k)] = string(v) },
			func(k []byte) { delete(m, string(k)) },
		)
	}
	return m
}

// have reads all of a shard's state.
func have(s *Store, n int) (map[string]string, *journalv1.Mark, error) {
	r, err := s.Shard(n).Reader()
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	m := map[string]string{}
	if err := r.Scan(nil, nil, false, func(k, v []byte) bool { m[string(k)] = string(v); return true }); err != nil {
		return nil, nil, err
	}
	mark, err := r.Mark()
	return m, mark, err
}

func same(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

// checkState demands that the shard is exactly what its mark says.
func checkState(t testing.TB, s *Store, n int) (index int) {
	t.Helper()
	got, mark, err := have(s, n)
	if err != nil {
		t.Fatalf("read shard %d: %v", n, err)
	}
	if !same(got, wanted(n, int(mark.Index))) {
		t.Fatalf("shard %d says entry %d, but its state is not that of records 1 to %d", n, mark.Index, mark.Index)
	}
	if mark.Index > 0 && !bytes.Equal(mark.Hash, markOf(int(mark.Index)).Hash) {
		t.Fatalf("shard %d: mark %v has the wrong hash", n, mark)
	}
	return int(mark.Index)
}

// mapTx is chat.Tx over a map: the other implementation, which decides.
type mapTx map[string][]byte

func (m mapTx) Get(key []byte) ([]byte, error) { return m[string(key)], nil }

func (m mapTx) Set(key, value []byte) error {
	m[string(key)] = append([]byte{}, value...)
	return nil
}

func (m mapTx) Delete(key []byte) error { delete(m, string(key)); return nil }

func (m mapTx) Scan(low, high []byte, reverse bool, fn func(key, value []byte) bool) error {
	var keys []string
	for k := range m {
		if k >= string(low) && (high == nil || k < string(high)) {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	if reverse {
		slices.Reverse(keys)
	}
	for _, k := range keys {
		if !fn([]byte(k), m[k]) {
			break
		}
	}
	return nil
}

// TestStageIsATx does the same to a stage and to a map: both must always say
// the same, through commits, discards, flushes and restarts.
func TestStageIsATx(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		fs := durable.NewCrashable()
		cfg := config(fs, 4)
		cfg.HoldBytes = rapid.SampledFrom([]int64{1, 100, 1 << 20}).Draw(rt, "hold")
		s, err := Open(cfg)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		committed := mapTx{}
		index := uint64(0)
		aKey := rapid.Custom(func(t *rapid.T) []byte { return key(2, rapid.IntRange(0, 40).Draw(t, "key")) })
		for range rapid.IntRange(1, 6).Draw(rt, "stages") {
			st, err := s.Shard(2).Stage()
			if err != nil {
				rt.Fatal(err)
			}
			defer st.Discard() // a failure must not leave Close waiting for it
			want := mapTx{}
			for k, v := range committed {
				want[k] = v
			}
			for range rapid.IntRange(0, 40).Draw(rt, "operations") {
				switch rapid.IntRange(0, 4).Draw(rt, "operation") {
				case 0:
					k, v := aKey.Draw(rt, "k"), rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(rt, "v")
					_, _ = st.Set(k, v), want.Set(k, v)
				case 1:
					k := aKey.Draw(rt, "k")
					_, _ = st.Delete(k), want.Delete(k)
				case 2:
					k := aKey.Draw(rt, "k")
					got, err := st.Get(k)
					if w := want[string(k)]; err != nil || !bytes.Equal(got, w) || (got == nil) != (w == nil) {
						rt.Fatalf("Get(%x) = %x, %v; want %x", k, got, err, w)
					}
				case 3:
					low, high := aKey.Draw(rt, "low"), aKey.Draw(rt, "high")
					checkScan(rt, st, want, low, high, rapid.Bool().Draw(rt, "reverse"), rapid.IntRange(1, 30).Draw(rt, "limit"))
				case 4:
					k, prefix := aKey.Draw(rt, "k"), rapid.SampledFrom([]int{2, 6, 6, 6}).Draw(rt, "prefix")
					above, err := st.Above(k, prefix)
					if err != nil {
						rt.Fatal(err)
					}
					for w := range want {
						if above && w[:prefix] == string(k[:prefix]) && w >= string(k) {
							rt.Fatalf("%x is said to be above all that begins as its first %d bytes, but there is %x", k, prefix, w)
						}
					}
				}
			}
			checkScan(rt, st, want, nil, nil, false, 1000)
			if rapid.Bool().Draw(rt, "commit") {
				index++
				if err := st.Commit(&journalv1.Mark{Term: 1, Index: index, Hash: make([]byte, 32)}); err != nil {
					rt.Fatal(err)
				}
				committed = want
			} else {
				st.Discard()
			}
			switch rapid.IntRange(0, 5).Draw(rt, "then") {
			case 0:
				if err := s.Flush(); err != nil {
					rt.Fatal(err)
				}
			case 1:
				if err := s.Close(); err != nil {
					rt.Fatal(err)
				}
				if s, err = Open(cfg); err != nil {
					rt.Fatal(err)
				}
			case 2, 3:
				continue // nobody reads: what was committed may still be held
			}
			r, err := s.Shard(2).Reader()
			if err != nil {
				rt.Fatal(err)
			}
			defer r.Close()
			checkScan(rt, r, committed, nil, nil, rapid.Bool().Draw(rt, "reverse"), 1000)
			if m, err := r.Mark(); err != nil || m.Index != index || s.Shard(2).Mark().Index != index {
				rt.Fatalf("mark %v, %v; want %d", m, err, index)
			}
			if err := r.Close(); err != nil {
				rt.Fatal(err)
			}
		}
	})
}

func checkScan(t *rapid.T, got, want chat.Reader, low, high []byte, reverse bool, limit int) {
	list := func(r chat.Reader) (out []string) {
		err := r.Scan(low, high, reverse, func(k, v []byte) bool {
			out = append(out, fmt.Sprintf("%x=%x", k, v))
			return len(out) < limit
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if g, w := list(got), list(want); !slices.Equal(g, w) {
		t.Fatalf("Scan(%x, %x, %v, %d):\n got %v\nwant %v", low, high, reverse, limit, g, w)
	}
}

// TestReaderStaysAtItsMoment makes readers at different moments of a shard that
// goes on being changed, flushed and compacted, and asks them all kinds of
// things in any order, also within their scans: each must always answer as a map
// of its moment does.
func TestReaderStaysAtItsMoment(t *testing.T) {
	type moment struct {
		r     *Reader
		state mapTx
		index uint64
	}
	rapid.Check(t, func(rt *rapid.T) {
		cfg := config(durable.NewCrashable(), 4)
		cfg.HoldBytes = rapid.SampledFrom([]int64{1, 100, 1 << 20}).Draw(rt, "hold")
		s, err := Open(cfg)
		if err != nil {
			rt.Fatal(err)
		}
		var open []*moment
		defer func() {
			for _, m := range open {
				_ = m.r.Close() // a failure must not leave Close waiting for it
			}
			_ = s.Close()
		}()
		state, index := mapTx{}, uint64(0)
		aKey := rapid.Custom(func(t *rapid.T) []byte { return key(2, rapid.IntRange(0, 60).Draw(t, "key")) })
		checkGet := func(m *moment) {
			k := aKey.Draw(rt, "k")
			got, err := m.r.Get(k)
			if w := m.state[string(k)]; err != nil || !bytes.Equal(got, w) || (got == nil) != (w == nil) {
				rt.Fatalf("Get(%x) at entry %d = %x, %v; want %x", k, m.index, got, err, w)
			}
		}
		checkRange := func(m *moment) {
			low, high := aKey.Draw(rt, "low"), aKey.Draw(rt, "high")
			checkScan(rt, m.r, m.state, low, high, rapid.Bool().Draw(rt, "reverse"), rapid.IntRange(1, 30).Draw(rt, "limit"))
		}
		for range rapid.IntRange(1, 60).Draw(rt, "operations") {
			op := rapid.IntRange(0, 8).Draw(rt, "operation")
			if op >= 4 && len(open) == 0 {
				op = 3
			}
			var m *moment
			if op >= 4 {
				m = open[rapid.IntRange(0, len(open)-1).Draw(rt, "reader")]
			}
			switch op {
			case 0, 1:
				st, err := s.Shard(2).Stage()
				if err != nil {
					rt.Fatal(err)
				}
				next := mapTx{}
				for k, v := range state {
					next[k] = v
				}
				for range rapid.IntRange(1, 30).Draw(rt, "writes") {
					k := aKey.Draw(rt, "k")
					if rapid.IntRange(0, 2).Draw(rt, "what") == 0 {
						_, _ = st.Delete(k), next.Delete(k)
						continue
					}
					v := rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(rt, "v")
					_, _ = st.Set(k, v), next.Set(k, v)
				}
				index++
				if err := st.Commit(&journalv1.Mark{Term: 1, Index: index, Hash: make([]byte, 32)}); err != nil {
					rt.Fatal(err)
				}
				state = next
			case 2:
				if err := s.Flush(); err != nil {
					rt.Fatal(err)
				}
				if rapid.Bool().Draw(rt, "compact") {
					if err := s.db.Compact(context.Background(), []byte{0}, []byte{0xff, 0xff, 0xff}, false); err != nil {
						rt.Fatal(err)
					}
				}
			case 3:
				r, err := s.Shard(2).Reader()
				if err != nil {
					rt.Fatal(err)
				}
				open = append(open, &moment{r: r, state: state, index: index})
			case 4:
				checkGet(m)
			case 5:
				checkRange(m)
			case 6: // look-ups within a scan do not disturb it
				var got []string
				err := m.r.Scan(nil, nil, false, func(k, v []byte) bool {
					checkGet(m)
					checkRange(m)
					got = append(got, fmt.Sprintf("%x=%x", k, v))
					return len(got) < 5
				})
				var want []string
				_ = m.state.Scan(nil, nil, false, func(k, v []byte) bool {
					want = append(want, fmt.Sprintf("%x=%x", k, v))
					return len(want) < 5
				})
				if err != nil || !slices.Equal(got, want) {
					rt.Fatalf("a scan with look-ups in it: %v, %v; want %v", got, err, want)
				}
			case 7:
				if at, err := m.r.Mark(); err != nil || at.Index != m.index {
					rt.Fatalf("mark %v, %v; want %d", at, err, m.index)
				}
			case 8:
				if err := m.r.Close(); err != nil {
					rt.Fatal(err)
				}
				open = slices.DeleteFunc(open, func(o *moment) bool { return o == m })
			}
		}
		for _, m := range open {
			checkScan(rt, m.r, m.state, nil, nil, false, 1000)
		}
	})
}

func TestShardsDoNotMeet(t *testing.T) {
	s := mustOpen(t, config(durable.NewCrashable(), 4))
	for n := range 4 {
		for i := 1; i <= 20; i++ {
			mustApply(t, s, n, i+n)
		}
	}
	for n := range 4 {
		got, mark, err := have(s, n)
		if err != nil || int(mark.Index) != 20+n {
			t.Fatalf("shard %d: %v, %v", n, mark, err)
		}
		for k := range got {
			if int(binary.BigEndian.Uint16([]byte(k)))/1024 != n {
				t.Errorf("shard %d shows key %x", n, k)
			}
		}
	}
	st, err := s.Shard(1).Stage()
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Set(key(2, 1), []byte("x")); err == nil {
		t.Error("a key of another shard was taken")
	}
	if _, err := s.Shard(1).Stage(); err == nil {
		t.Error("a second stage of one shard was given")
	}
	if v, err := st.Get(key(2, 1)); v != nil || err != nil {
		t.Errorf("another shard's key: %x, %v", v, err)
	}
	if err := st.Commit(markOf(3)); err == nil {
		t.Error("a mark that goes back was committed")
	}
	if err := st.Set(key(1, 1), nil); !errors.Is(err, ErrStageEnded) {
		t.Errorf("after commit: %v", err)
	}
}

// Notes live beside the state, in the same batch.
func TestNotes(t *testing.T) {
	fs := durable.NewCrashable()
	s := mustOpen(t, config(fs, 4))
	st, _ := s.Shard(1).Stage()
	st.SetNote("a", []byte("one"))
	if v, err := st.Note("a"); string(v) != "one" || err != nil {
		t.Fatalf("own note: %q, %v", v, err)
	}
	if err := st.Commit(markOf(1)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, config(fs, 4))
	for n, want := range map[int]string{0: "", 1: "one", 2: ""} {
		r, err := s.Shard(n).Reader()
		if err != nil {
			t.Fatal(err)
		}
		if v, err := r.Note("a"); string(v) != want || err != nil {
			t.Errorf("note of shard %d: %q, %v", n, v, err)
		}
		_ = r.Close()
	}
}

// A power cut leaves every shard at some earlier mark, and its state is exactly
// that of the records up to it; going on from there gives the same bytes as
// never having stopped, and as starting from nothing.
func TestCrash(t *testing.T) {
	seed := seedOf(t)
	const records = 150
	rng := rand.New(rand.NewPCG(seed, 3))
	for round := range 25 {
		fs := durable.NewCrashable()
		cfg := config(fs, 4)
		cfg.MemTableBytes = 64 << 10 // Pebble flushes by itself as well
		s, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		crashed := fs
		cut := rng.IntN(records)
		flushed := make([]int, 4)
		for i := 1; i <= records; i++ {
			n := i % 4
			mustApply(t, s, n, int(s.Shard(n).Mark().Index)+1)
			if rng.IntN(25) == 0 {
				if err := s.Flush(); err != nil {
					t.Fatal(err)
				}
				if i <= cut {
					for n, m := range s.Marks() {
						flushed[n] = int(m.Index)
					}
				}
			}
			if i == cut {
				crashed = fs.Crash(float64(round%3)/2, rng.Uint64())
			}
		}
		if cut > 0 {
			t2 := mustOpenOrRebuild(t, crashed)
			for n := range 4 {
				at := checkState(t, t2, n)
				if at < flushed[n] {
					t.Fatalf("round %d, shard %d: at entry %d after the cut, but %d was flushed", round, n, at, flushed[n])
				}
				for i := at + 1; i <= int(s.Shard(n).Mark().Index); i++ {
					mustApply(t, t2, n, i)
				}
				if a, b := dump(t, s, n), dump(t, t2, n); a != b {
					t.Fatalf("round %d, shard %d: replayed after the cut it differs", round, n)
				}
			}
			if err := t2.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// mustOpenOrRebuild fails if a mere power cut counts as damage: only files that
// were being created may be torn, and Pebble copes with those.
func mustOpenOrRebuild(t *testing.T, fs durable.FS) *Store {
	t.Helper()
	s, err := Open(config(fs, 4))
	var damaged *DamagedError
	if errors.As(err, &damaged) && strings.Contains(err.Error(), "pristine") {
		// The cut came while the very first files were made.
		if _, err := SetAside(fs, "view", fixedClock{}); err != nil {
			t.Fatal(err)
		}
		s, err = Open(config(fs, 4))
	}
	if err != nil {
		t.Fatalf("after a power cut: %v", err)
	}
	return s
}

func dump(t testing.TB, s *Store, n int) string {
	t.Helper()
	r, err := s.Shard(n).Reader()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var b strings.Builder
	if err := r.Dump(func(k, v []byte) bool { fmt.Fprintf(&b, "%x=%x\n", k, v); return true }); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

type fixedClock struct{}

func (fixedClock) Now() time.Time { return time.Date(2026, 11, 22, 1, 2, 3, 0, time.UTC) }

func readAll(t testing.TB, fs durable.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func writeAll(t testing.TB, fs durable.FS, path string, data []byte) {
	t.Helper()
	f, err := fs.Create(path, "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// makeStore returns a disk with a closed store of some tables on it.
func makeStore(t testing.TB) *durable.Crashable {
	t.Helper()
	fs := durable.NewCrashable()
	s, err := Open(config(fs, 4))
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 60; i++ {
		for n := range 4 {
			mustApply(t, s, n, i)
		}
		if i%15 == 0 {
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return fs
}

// TestDamageIsNeverServed flips bits in, truncates and removes every file: each
// time it is noticed, at open, by the scrub or by reading; or what is read is
// exactly the state of some mark, from which replay goes on (invariant 6).
func TestDamageIsNeverServed(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 4))
	good := makeStore(t)
	names, err := good.List("view")
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(names)
	rounds := 40
	if testing.Short() {
		rounds = 8
	}
	noticed, earlier, identical, replaced := map[string]int{}, map[string]int{}, map[string]int{}, 0
	for _, name := range names {
		class := strings.Trim(name, "0123456789-")
		path := "view/" + name
		size := len(readAll(t, good, path))
		for round := range rounds {
			fs := good.Crash(1, 1) // a copy
			what := "removed"
			switch {
			case round == 0:
				if err := fs.Remove(path); err != nil {
					t.Fatal(err)
				}
			case size == 0:
				continue
			case round%4 == 1:
				cut := rng.IntN(size)
				what = fmt.Sprintf("cut to %d of %d", cut, size)
				writeAll(t, fs, path, readAll(t, good, path)[:cut])
			default:
				bit := rng.IntN(size * 8)
				what = fmt.Sprintf("bit %d of %d flipped", bit, size*8)
				data := slices.Clone(readAll(t, good, path))
				data[bit/8] ^= 1 << (bit % 8)
				writeAll(t, fs, path, data)
			}
			switch outcome := examine(t, fs); {
			case outcome == "damage":
				noticed[class]++
			case outcome == "whole" && round > 0 && class == ".sst" && gone(fs, path):
				// A compaction that Open has begun wrote its contents anew, which
				// are whole, and needed not the block that is damaged (its filter).
				replaced++
			case outcome == "whole":
				identical[class]++
			case outcome == "earlier":
				earlier[class]++
			default:
				t.Errorf("%s %s: %s (BONGSU_SEED=%d)", name, what, outcome, seed)
			}
		}
	}
	t.Logf("noticed %v, an earlier mark %v, identical %v, tables replaced in time %d", noticed, earlier, identical, replaced)
	if noticed[".sst"] == 0 {
		t.Error("no damage to a table was ever noticed")
	}
	if identical[".sst"] > 0 {
		t.Errorf("%d damaged tables went unnoticed by the scrub", identical[".sst"])
	}
}

func gone(fs durable.FS, path string) bool {
	_, err := fs.Stat(path)
	return errors.Is(err, iofs.ErrNotExist)
}

// examine opens, scrubs and reads a disk. "damage": it was noticed, and from
// then on nothing is served; "whole": everything is there; "earlier": all
// shards are at marks further back; anything else is what went wrong.
func examine(t *testing.T, fs durable.FS) string {
	s, err := Open(config(fs, 4))
	var damaged *DamagedError
	if errors.As(err, &damaged) {
		return "damage"
	}
	if err != nil {
		return fmt.Sprintf("open: %v", err)
	}
	defer func() { _ = s.Close() }()
	outcome := "whole"
	var fenced *FencedError
	for n := range 4 {
		got, mark, err := have(s, n)
		if errors.As(err, &fenced) {
			return afterFence(s, fs)
		}
		if err != nil {
			return fmt.Sprintf("read: %v", err)
		}
		if !same(got, wanted(n, int(mark.Index))) {
			return fmt.Sprintf("shard %d at entry %d serves what no journal says", n, mark.Index)
		}
		if mark.Index < 60 {
			outcome = "earlier"
		}
	}
	if err := s.Scrub(context.Background(), nil); errors.As(err, &fenced) {
		return afterFence(s, fs)
	} else if err != nil {
		return fmt.Sprintf("scrub: %v", err)
	}
	return outcome
}

// afterFence checks that a fenced store stays so, and is rebuilt next time.
func afterFence(s *Store, fs durable.FS) string {
	var fenced *FencedError
	if _, err := s.Shard(0).Reader(); !errors.As(err, &fenced) {
		return fmt.Sprintf("a fenced store gave a reader: %v", err)
	}
	if _, err := s.Shard(0).Stage(); !errors.As(err, &fenced) {
		return fmt.Sprintf("a fenced store gave a stage: %v", err)
	}
	if err := s.Flush(); !errors.As(err, &fenced) {
		return fmt.Sprintf("a fenced store flushed: %v", err)
	}
	if err := s.Close(); err != nil {
		return fmt.Sprintf("close: %v", err)
	}
	var damaged *DamagedError
	if _, err := Open(config(fs, 4)); !errors.As(err, &damaged) {
		return fmt.Sprintf("after a fence over damage it opened again: %v", err)
	}
	return "damage"
}

// The scrub reads the disk, not the cache: damage under a table whose blocks
// are all cached is found, and fences.
func TestScrubReadsTheDisk(t *testing.T) {
	fs := makeStore(t)
	s := mustOpen(t, config(fs, 4))
	for n := range 4 {
		checkState(t, s, n)
	}
	var last Progress
	if err := s.Scrub(context.Background(), func(p Progress) { last = p }); err != nil {
		t.Fatalf("scrub of a good store: %v", err)
	}
	if last.Total == 0 || last.Done != last.Total {
		t.Errorf("progress ended at %v", last)
	}
	names, err := fs.List("view")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".sst") {
			data := slices.Clone(readAll(t, fs, "view/"+name))
			data[len(data)/3] ^= 4
			writeAll(t, fs, "view/"+name, data)
			break
		}
	}
	var fenced *FencedError
	if err := s.Scrub(context.Background(), nil); !errors.As(err, &fenced) {
		t.Fatalf("scrub of a damaged store: %v", err)
	}
	if got := afterFence(s, fs); got != "damage" {
		t.Error(got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	good := mustOpen(t, config(makeStore(t), 4))
	if err := good.Scrub(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled scrub: %v", err)
	}
}

func TestSetAside(t *testing.T) {
	fs := makeStore(t)
	at := func(fs durable.FS) Config { c := config(fs, 4); c.Dir = "/view"; return c }
	var asides []string
	for range 4 {
		s, err := Open(at(fs))
		if err != nil {
			t.Fatal(err)
		}
		s.fail(errors.New("test"), true)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		var damaged *DamagedError
		if _, err := Open(at(fs)); !errors.As(err, &damaged) {
			t.Fatalf("marked as damaged, but: %v", err)
		}
		aside, err := SetAside(fs, "/view", fixedClock{})
		if err != nil {
			t.Fatal(err)
		}
		asides = append(asides, aside)
		fs = fs.Crash(0, 1) // the renaming is durable
		if s, err = Open(at(fs)); err != nil {
			t.Fatalf("in place of one set aside: %v", err)
		}
		if index := checkState(t, s, 0); index != 0 {
			t.Errorf("a new view stands at entry %d", index)
		}
		mustApply(t, s, 0, 1)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if want := "/view.damaged-20261122T010203.000Z"; asides[0] != want {
		t.Errorf("set aside as %s, want %s", asides[0], want)
	}
	names, err := fs.List("/")
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != keptAside+1 || !slices.Contains(names, asides[3][1:]) {
		t.Errorf("%v is kept of %v", names, asides)
	}
}

// A store made for something else is made again, not misread.
func TestMadeForSomethingElse(t *testing.T) {
	fs := makeStore(t)
	for name, change := range map[string]func(*Config){
		"layout": func(c *Config) { c.Layout++ },
		"shards": func(c *Config) { c.Shards = 8 },
	} {
		cfg := config(fs, 4)
		change(&cfg)
		var damaged *DamagedError
		if _, err := Open(cfg); !errors.As(err, &damaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := mustOpen(t, config(fs, 4))
	var damaged *DamagedError
	if _, err := Open(config(fs, 4)); err == nil || errors.As(err, &damaged) {
		t.Errorf("a store that is open already: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
