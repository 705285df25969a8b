package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/memory"
)

// seed draws what a random test does, and says it; BONGSU_SEED replays.
func seed(t *testing.T) *rand.Rand {
	t.Helper()
	n := rand.Uint64()
	if given, err := strconv.ParseUint(os.Getenv("BONGSU_SEED"), 10, 64); err == nil {
		n = given
	}
	t.Logf("BONGSU_SEED=%d replays this", n)
	return rand.New(rand.NewPCG(n, 0))
}

var testKey = sync.OnceValue(func() Key {
	k, err := NewKey()
	if err != nil {
		panic(err)
	}
	return k
})

func testRecipients(t *testing.T) Recipients {
	t.Helper()
	r, err := ParseRecipients([]string{testKey().Public})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func testIdentities(t *testing.T) Identities {
	t.Helper()
	ids, err := ParseIdentities(strings.NewReader(testKey().Private + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// world is a journal in memory with an archive.
type world struct {
	t     *testing.T
	disk  *memory.Store
	j     *memory.Journal
	store Store
	cfg   Config
	now   time.Time
	// all entries that were ever committed, by shard, and the hash at the end.
	all  [][]journal.Entry
	hash [][32]byte
}

const worldShards = 3

func newWorld(t *testing.T, store Store) *world {
	w := &world{
		t: t, disk: memory.New(memory.Config{Shards: worldShards}), store: store, now: time.UnixMilli(1_800_000_000_000),
		all: make([][]journal.Entry, worldShards), hash: make([][32]byte, worldShards),
	}
	w.j = w.disk.Open()
	w.cfg = Config{
		Store: store, Recipients: testRecipients(t), Cluster: ClusterID{1, 2, 3}, Node: 7, Shards: worldShards, Version: "test",
		Log: func(s journal.ShardID) journal.Log { return w.j.Log(s) }, Clock: w, SegmentBytes: 4 << 10,
		Files: func() (map[string][]byte, error) { return map[string][]byte{"keys/a.json": []byte("secret")}, nil },
	}
	t.Cleanup(func() { _ = w.j.Close() })
	return w
}

// Now implements clock.Clock.
func (w *world) Now() time.Time { return w.now }

// say appends n records to a shard.
func (w *world) say(shard journal.ShardID, n int) {
	w.t.Helper()
	log := w.j.Log(shard)
	lease, err := log.Lease(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for range n {
		w.now = w.now.Add(time.Second)
		data, err := proto.Marshal(&journalv1.Record{
			Rules: 1, TimeMs: w.now.UnixMilli(), PreviousHash: w.hash[shard][:],
			Note: fmt.Sprintf("%d of %d %s", len(w.all[shard]), shard, strings.Repeat("봉수 ", len(w.all[shard])%20)),
		})
		if err != nil {
			w.t.Fatal(err)
		}
		at, err := log.Append(w.t.Context(), lease, data)
		if err != nil {
			w.t.Fatal(err)
		}
		w.all[shard] = append(w.all[shard], journal.Entry{Position: at, Data: data})
		w.hash[shard] = journal.NextHash(w.hash[shard], data)
	}
}

// restart gives every shard another term.
func (w *world) restart() {
	if err := w.j.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.j = w.disk.Open()
}

func (w *world) writer() *Writer {
	w.t.Helper()
	writer, err := NewWriter(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return writer
}

func everyShard() []journal.ShardID { return []journal.ShardID{0, 1, 2} }

func (w *world) pass(writer *Writer) Stats {
	w.t.Helper()
	stats, err := writer.Pass(w.t.Context(), everyShard())
	if err != nil {
		w.t.Fatal(err)
	}
	return stats
}

func open(t *testing.T, s Store) *Archive {
	t.Helper()
	a, err := OpenArchive(t.Context(), s, testIdentities(t), "")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// entries reads a shard back until the archive has no more or an error.
func entries(ctx context.Context, a *Archive, shard journal.ShardID, until Until) (all []journal.Entry, err error) {
	for e, err := range a.Entries(ctx, shard, until) {
		if err != nil {
			return all, err
		}
		all = append(all, e)
	}
	return all, nil
}

func same(a, b []journal.Entry) bool {
	return slices.EqualFunc(a, b, func(x, y journal.Entry) bool { return x.Position == y.Position && bytes.Equal(x.Data, y.Data) })
}

// whole makes sure that the archive has everything and proves it.
func (w *world) whole(s Store) *Report {
	w.t.Helper()
	a := open(w.t, s)
	for shard, want := range w.all {
		got, err := entries(w.t.Context(), a, journal.ShardID(shard), Until{})
		if err != nil || !same(got, want) {
			w.t.Fatalf("shard %d: %d entries read back of %d: %v", shard, len(got), len(want), err)
		}
	}
	r, err := a.Verify(w.t.Context(), nil)
	if err != nil || !r.Whole() {
		w.t.Fatalf("%v\n%s", err, r.Text())
	}
	return r
}

func TestRoundTrip(t *testing.T) {
	stores(t, func(t *testing.T, s Store) {
		w := newWorld(t, s)
		writer := w.writer()
		w.pass(writer) // of nothing
		w.say(0, 100)
		w.say(2, 1)
		if stats := w.pass(writer); stats.Entries != 101 || stats.Segments < 3 || stats.Stored == 0 {
			t.Fatalf("%+v", stats)
		}
		w.whole(s)
		if stats := w.pass(writer); stats != (Stats{}) {
			t.Errorf("nothing new, yet %+v", stats)
		}
		// Another process, other terms: it goes on where the last one stopped.
		w.restart()
		w.say(0, 3)
		w.say(1, 5)
		if stats := w.pass(w.writer()); stats.Entries != 8 {
			t.Errorf("incremental: %+v", stats)
		}
		r := w.whole(s)
		if len(r.Notices) > 0 || r.Manifest.Number < 3 || string(r.Manifest.Files["keys/a.json"]) != "secret" {
			t.Errorf("%v, %+v", r.Notices, r.Manifest)
		}
		if n := len(list(t, s, w.cfg.Cluster.String()+"/manifest-")); n != 2 {
			t.Errorf("%d manifests are kept", n)
		}
	})
}

func TestNothingIsReadableWithoutTheKey(t *testing.T) {
	w := newWorld(t, NewFolder(durable.NewCrashable(), "a"))
	w.say(0, 10)
	w.pass(w.writer())
	for _, name := range list(t, w.store, "") {
		data, err := w.store.Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"봉수", "secret", "keys/a.json"} {
			if bytes.Contains(data, []byte(word)) {
				t.Errorf("%s contains %q", name, word)
			}
		}
	}
	other, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	ids, err := ParseIdentities(strings.NewReader(other.Private))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenArchive(t.Context(), w.store, ids, ""); !errors.Is(err, ErrKey) {
		t.Errorf("with another key: %v", err)
	}
}

func TestUntil(t *testing.T) {
	w := newWorld(t, NewFolder(durable.NewCrashable(), "a"))
	w.say(0, 30)
	w.restart()
	w.say(0, 30)
	w.pass(w.writer())
	a := open(t, w.store)
	for n := range w.all[0] {
		got, err := entries(t.Context(), a, 0, Until{Index: w.all[0][n].Index})
		if err != nil || !same(got, w.all[0][:n+1]) {
			t.Fatalf("until index %d: %d entries, %v; want %d", w.all[0][n].Index, len(got), err, n+1)
		}
		at := time.UnixMilli(1_800_000_000_000).Add(time.Duration(n+1) * time.Second)
		for ahead, want := range map[time.Duration]int{0: n + 1, -time.Millisecond: n, 999 * time.Millisecond: n + 1} {
			got, err := entries(t.Context(), a, 0, Until{Time: at.Add(ahead)})
			if err != nil || !same(got, w.all[0][:want]) {
				t.Fatalf("until %v: %d entries, %v; want %d", at.Add(ahead), len(got), err, want)
			}
		}
	}
	end := w.all[0][len(w.all[0])-1].Index
	if got, err := entries(t.Context(), a, 0, Until{Index: end + 1}); err == nil || len(got) != 60 {
		t.Errorf("beyond the end: %d entries, %v", len(got), err)
	}
	// An index that was internal ends with the entry before it.
	inner := w.all[0][30].Index - 1
	if got, err := entries(t.Context(), a, 0, Until{Index: inner}); err == nil && !same(got, w.all[0][:30]) {
		t.Errorf("at an internal index: %d entries", len(got))
	}
}

// Whatever happens to a single object is noticed, and named.
func TestEveryDamageIsNoticed(t *testing.T) {
	r := seed(t)
	w := newWorld(t, NewFolder(durable.NewCrashable(), "a"))
	writer := w.writer()
	for range 4 {
		w.say(0, 20)
		w.say(1, 1)
		w.pass(writer)
	}
	notice := func(name, what string) {
		t.Helper()
		a, err := OpenArchive(t.Context(), w.store, testIdentities(t), "")
		if err != nil {
			t.Fatalf("%s %s: %v", name, what, err)
		}
		report, err := a.Verify(t.Context(), nil)
		if err != nil {
			t.Fatalf("%s %s: %v", name, what, err)
		}
		if report.Whole() {
			t.Fatalf("%s %s was not noticed", name, what)
		}
		if n, ok := parseSegmentName(name); ok {
			got, err := entries(t.Context(), a, n.shard, Until{})
			if err == nil {
				t.Fatalf("%s %s: a restore did not notice", name, what)
			}
			if len(got) >= len(w.all[n.shard]) || !same(got, w.all[n.shard][:len(got)]) {
				t.Fatalf("%s %s: %d entries were given that were not archived so", name, what, len(got))
			}
		}
	}
	names := list(t, w.store, "")
	for _, name := range names {
		good, err := w.store.Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		for range 40 {
			bad := bytes.Clone(good)
			at, bit := r.IntN(len(bad)), byte(1)<<r.IntN(8)
			bad[at] ^= bit
			mustPut(t, w.store, name, bad)
			notice(name, fmt.Sprintf("with bit %08b of byte %d flipped", bit, at))
		}
		for range 10 {
			n := r.IntN(len(good))
			mustPut(t, w.store, name, good[:n])
			notice(name, fmt.Sprintf("cut to %d of %d bytes", n, len(good)))
		}
		mustPut(t, w.store, name, append(bytes.Clone(good), 0))
		notice(name, "with a byte too many")
		// Another object of the archive in its place.
		for _, other := range names {
			if other == name {
				continue
			}
			content, err := w.store.Get(t.Context(), other)
			if err != nil {
				t.Fatal(err)
			}
			mustPut(t, w.store, name, content)
			notice(name, "with the content of "+other)
		}
		if err := w.store.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		notice(name, "removed")
		mustPut(t, w.store, name, good)
	}
	w.whole(w.store)
}

// hooked calls before and after every change of a store.
type hooked struct {
	Store
	hook func()
}

func (h hooked) Put(ctx context.Context, name string, data []byte) error {
	h.hook()
	defer h.hook()
	return h.Store.Put(ctx, name, data)
}

func (h hooked) Delete(ctx context.Context, name string) error {
	h.hook()
	defer h.hook()
	return h.Store.Delete(ctx, name)
}

// A power cut before or after any write leaves an archive that gives back all
// that a finished pass had archived.
func TestCutsLeaveAUsableArchive(t *testing.T) {
	disk := durable.NewCrashable()
	done := make([]int, worldShards) // entries of finished passes
	cuts := uint64(0)
	w := newWorld(t, nil)
	w.cfg.Store = hooked{NewFolder(disk, "a"), func() {
		cuts++
		s := NewFolder(disk.Crash(float64(cuts%3)/2, cuts), "a")
		a, err := OpenArchive(t.Context(), s, testIdentities(t), "")
		if err != nil && done[0] > 0 {
			t.Fatalf("cut %d: %v", cuts, err)
		}
		if err != nil {
			return // not even a manifest
		}
		for shard := range done {
			got, err := entries(t.Context(), a, journal.ShardID(shard), Until{})
			if err != nil || len(got) < done[shard] || !same(got, w.all[shard][:len(got)]) {
				t.Fatalf("cut %d: shard %d gives %d entries, %d were archived: %v", cuts, shard, len(got), done[shard], err)
			}
		}
	}}
	w.cfg.SegmentBytes = 1 << 10
	writer := w.writer()
	for n := range 90 { // enough to fold
		w.say(journal.ShardID(n%2), 3)
		w.pass(writer)
		for shard := range done {
			done[shard] = len(w.all[shard])
		}
		if n%30 == 29 {
			w.restart()
			writer = w.writer()
		}
	}
	if cuts < 300 {
		t.Errorf("%d cuts", cuts)
	}
	w.whole(NewFolder(disk, "a"))
}

// failing fails changes at random, after they happened or without.
type failing struct {
	Store
	r *rand.Rand
}

var errStore = errors.New("the store is out of reach")

func (f failing) Put(ctx context.Context, name string, data []byte) error {
	switch f.r.IntN(4) {
	case 0:
		return errStore
	case 1:
		return errors.Join(f.Store.Put(ctx, name, data), errStore)
	}
	return f.Store.Put(ctx, name, data)
}

func (f failing) Delete(ctx context.Context, name string) error {
	if f.r.IntN(4) == 0 {
		return errStore
	}
	return f.Store.Delete(ctx, name)
}

func (f failing) List(ctx context.Context, prefix string, fn func(Object) error) error {
	if f.r.IntN(8) == 0 {
		return errStore
	}
	return f.Store.List(ctx, prefix, fn)
}

func TestFailuresAreRepeated(t *testing.T) {
	inner := NewFolder(durable.NewCrashable(), "a")
	w := newWorld(t, nil)
	w.cfg.Store = failing{inner, seed(t)}
	writer := w.writer()
	failures := 0
	for n := range 200 {
		w.say(journal.ShardID(n%3), 2)
		if _, err := writer.Pass(t.Context(), everyShard()); err != nil {
			if !errors.Is(err, errStore) {
				t.Fatal(err)
			}
			failures++
		}
	}
	if failures == 0 {
		t.Fatal("nothing failed")
	}
	w.cfg.Store = inner
	w.pass(w.writer())
	w.whole(inner)
}

// Small segments become large ones, and what they replace goes.
func TestSmallSegmentsAreFolded(t *testing.T) {
	w := newWorld(t, NewFolder(durable.NewCrashable(), "a"))
	w.cfg.SegmentBytes = 64 << 10
	writer := w.writer()
	most := 0
	for range 3 * foldCount {
		w.say(0, 1)
		w.pass(writer)
		most = max(most, len(list(t, w.store, shardPrefix(w.cfg.Cluster, 0))))
	}
	if most > foldCount+1 {
		t.Errorf("%d segments at a time", most)
	}
	if n := len(list(t, w.store, shardPrefix(w.cfg.Cluster, 0))); n > foldCount {
		t.Errorf("%d segments are left", n)
	}
	w.whole(w.store)
}

// A journal that lost its end and goes on without it has another history; the
// archive keeps both, and gives back the later.
func TestLostTailForks(t *testing.T) {
	w := newWorld(t, NewFolder(durable.NewCrashable(), "a"))
	writer := w.writer()
	for range 5 {
		w.say(0, 10)
		w.pass(writer)
	}
	if err := w.j.Close(); err != nil {
		t.Fatal(err)
	}
	w.disk.LoseTail(0, 15)
	kept := w.all[0][:35]
	w.j = w.disk.Open()
	w.all[0], w.hash[0] = slices.Clone(kept), [32]byte{}
	for _, e := range kept {
		w.hash[0] = journal.NextHash(w.hash[0], e.Data)
	}
	w.say(0, 4)
	writer = w.writer()
	w.pass(writer)
	w.whole(w.store)
	for range foldCount + 2 {
		w.say(0, 1)
		w.pass(writer)
	}
	w.whole(w.store)
}

// Two nodes archive one shard by turns, each not knowing of the other, as when
// ownership moves to and fro.
func TestTwoNodesOneArchive(t *testing.T) {
	r := seed(t)
	w := newWorld(t, NewFolder(durable.NewCrashable(), "a"))
	one := w.writer()
	w.cfg.Node = 8
	two := w.writer()
	for range 3 * foldCount {
		w.say(0, 1+r.IntN(3))
		writer := []*Writer{one, two}[r.IntN(2)]
		if r.IntN(3) == 0 {
			writer.Forget(0)
		}
		w.pass(writer)
	}
	w.pass(one)
	w.pass(two)
	w.whole(w.store)
}

func TestGapIsNamed(t *testing.T) {
	w := newWorld(t, NewFolder(durable.NewCrashable(), "a"))
	writer := w.writer()
	for range 5 {
		w.say(0, 10)
		w.pass(writer)
	}
	segments := list(t, w.store, shardPrefix(w.cfg.Cluster, 0))
	if err := w.store.Delete(t.Context(), segments[2]); err != nil {
		t.Fatal(err)
	}
	var gap *GapError
	a := open(t, w.store)
	if _, err := entries(t.Context(), a, 0, Until{}); !errors.As(err, &gap) || gap.Whole != w.all[0][19].Index {
		t.Fatalf("%v", err)
	}
	if got, err := entries(t.Context(), a, 0, Until{Index: gap.Whole}); err != nil || !same(got, w.all[0][:20]) {
		t.Errorf("up to the gap: %d entries, %v", len(got), err)
	}
	// The same writer does not notice; one that looks again fills nothing in by
	// itself, but goes on behind the newest.
	w.say(0, 1)
	w.pass(w.writer())
	if r, err := open(t, w.store).Verify(t.Context(), nil); err != nil || r.Whole() {
		t.Errorf("the gap healed without anyone: %v", err)
	}
}

func TestTrimmedJournals(t *testing.T) {
	w := newWorld(t, NewFolder(durable.NewCrashable(), "a"))
	w.say(0, 10)
	w.pass(w.writer())
	// Trimmed up to exactly what is archived: the next entry proves the seam.
	if err := w.j.Log(0).Trim(t.Context(), w.all[0][9].Index); err != nil {
		t.Fatal(err)
	}
	w.say(0, 10)
	w.pass(w.writer())
	w.whole(w.store)
	// Beyond it something is missing for good.
	w.say(0, 10)
	if err := w.j.Log(0).Trim(t.Context(), w.all[0][25].Index); err != nil {
		t.Fatal(err)
	}
	w.say(1, 1)
	_, err := w.writer().Pass(t.Context(), everyShard())
	if !errors.Is(err, journal.ErrTrimmed) {
		t.Fatalf("%v", err)
	}
	if got, err := entries(t.Context(), open(t, w.store), 1, Until{}); err != nil || len(got) != 1 {
		t.Errorf("the other shard: %d entries, %v", len(got), err)
	}
}

// A journal that is not the one of the archive, under the same cluster's ID.
func TestPartedJournalIsRefused(t *testing.T) {
	w := newWorld(t, NewFolder(durable.NewCrashable(), "a"))
	w.say(0, 10)
	w.pass(w.writer())
	other := newWorld(t, w.store)
	other.now = other.now.Add(time.Hour)
	other.say(0, 12)
	var parted *PartedError
	if _, err := other.writer().Pass(t.Context(), everyShard()); !errors.As(err, &parted) {
		t.Fatalf("%v", err)
	}
	w.whole(w.store)
}

func TestSeveralClusters(t *testing.T) {
	s := NewFolder(durable.NewCrashable(), "a")
	w := newWorld(t, s)
	w.say(0, 1)
	w.pass(w.writer())
	other := newWorld(t, s)
	other.cfg.Cluster = ClusterID{9}
	other.say(0, 2)
	other.pass(other.writer())
	mustPut(t, s, "readme.txt", []byte("not ours"))
	_, err := OpenArchive(t.Context(), s, testIdentities(t), "")
	if err == nil || !strings.Contains(err.Error(), w.cfg.Cluster.String()) || !strings.Contains(err.Error(), other.cfg.Cluster.String()) {
		t.Fatalf("%v", err)
	}
	a, err := OpenArchive(t.Context(), s, testIdentities(t), other.cfg.Cluster.String())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := entries(t.Context(), a, 0, Until{}); err != nil || !same(got, other.all[0]) {
		t.Errorf("%d entries, %v", len(got), err)
	}
	if len(a.Notices) != 1 || !strings.Contains(a.Notices[0], "readme.txt") {
		t.Errorf("%v", a.Notices)
	}
	for _, cluster := range []string{"x", ClusterID{5}.String()} {
		if _, err := OpenArchive(t.Context(), s, testIdentities(t), cluster); err == nil {
			t.Errorf("cluster %q was found", cluster)
		}
	}
	if _, err := OpenArchive(t.Context(), NewFolder(durable.NewCrashable(), "none"), testIdentities(t), ""); err == nil {
		t.Error("an archive was found in an empty place")
	}
}

func TestWriterRefusesConfiguration(t *testing.T) {
	w := newWorld(t, NewFolder(durable.NewCrashable(), "a"))
	for what, spoil := range map[string]func(*Config){
		"no store":      func(c *Config) { c.Store = nil },
		"no recipients": func(c *Config) { c.Recipients = nil },
		"no cluster":    func(c *Config) { c.Cluster = ClusterID{} },
		"no shards":     func(c *Config) { c.Shards = 0 },
		"no logs":       func(c *Config) { c.Log = nil },
		"large":         func(c *Config) { c.SegmentBytes = MaxObjectBytes },
	} {
		cfg := w.cfg
		spoil(&cfg)
		if _, err := NewWriter(cfg); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	for _, keys := range [][]string{nil, {"age1nonsense"}, {testKey().Private}} {
		if _, err := ParseRecipients(keys); err == nil {
			t.Errorf("recipients %v were accepted", keys)
		}
	}
	// Files of a manifest stay small and in their folder.
	for name, size := range map[string]int{"../x": 1, "keys/../../x": 1, "/x": 1, "keys/x": maxFileBytes + 1} {
		cfg := w.cfg
		cfg.Files = func() (map[string][]byte, error) { return map[string][]byte{name: make([]byte, size)}, nil }
		writer, err := NewWriter(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := writer.Pass(t.Context(), nil); err == nil {
			t.Errorf("a file %q of %d bytes was archived", name, size)
		}
	}
	if _, err := w.store.Get(t.Context(), "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
