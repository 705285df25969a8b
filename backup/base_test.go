package backup

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"testing"

	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
)

// based gives the writer bases that stand at the end of what was said, with a view
// of some size.
func (w *world) based(view []byte) {
	w.cfg.Base = func(_ context.Context, shard journal.ShardID) (*Base, func() error, error) {
		at := journal.Mark{Position: w.all[shard][len(w.all[shard])-1].Position, Hash: w.hash[shard]}
		return &Base{At: at, Log: []byte("the journal's"), View: bytes.NewReader(view)}, func() error { return nil }, nil
	}
}

// trimmed makes a world whose archive cannot be continued entry by entry: 10 are
// archived, 30 were said, the first 25 are forgotten.
func trimmed(t *testing.T) *world {
	w := newWorld(t, NewFolder(durable.NewCrashable(), "a"))
	w.say(0, 10)
	w.pass(w.writer())
	w.say(0, 20)
	if err := w.j.Log(0).Trim(t.Context(), w.all[0][24].Index); err != nil {
		t.Fatal(err)
	}
	return w
}

// baseOf reads the base of shard 0.
func baseOf(t *testing.T, s Store, until Until) (*Base, []byte, error) {
	t.Helper()
	b, err := open(t, s).Base(t.Context(), 0, until)
	if err != nil || b == nil {
		return nil, nil, err
	}
	view, err := io.ReadAll(b.View)
	return b, view, err
}

func TestChainBeginsAnewWithABase(t *testing.T) {
	for name, size := range map[string]int{"empty": 0, "small": 100, "just a part": 4<<10 - 4 - 13, "many parts": 50_000} {
		t.Run(name, func(t *testing.T) {
			w := trimmed(t)
			view := bytes.Repeat([]byte("view"), size/4+1)[:size]
			w.based(view)
			writer := w.writer()
			w.pass(writer)
			b, got, err := baseOf(t, w.store, Until{})
			if err != nil || b == nil || !bytes.Equal(got, view) || string(b.Log) != "the journal's" || b.At.Position != w.all[0][29].Position || b.At.Hash != w.hash[0] {
				t.Fatalf("%+v, a view of %d bytes, %v", b, len(got), err)
			}
			// It goes on behind the base: by this process and by the next.
			w.say(0, 5)
			w.pass(writer)
			w.restart()
			w.say(0, 5)
			w.pass(w.writer())
			rest, err := entries(t.Context(), open(t, w.store), 0, Until{})
			if err != nil || !same(rest, w.all[0][30:]) {
				t.Fatalf("%d entries behind the base: %v", len(rest), err)
			}
			r, err := open(t, w.store).Verify(t.Context(), nil)
			if err != nil || !r.Whole() || r.Shards[0].Base != w.all[0][29].Index {
				t.Fatalf("%v\n%s", err, r.Text())
			}
			// What was archived before it is still there.
			if b, _, err := baseOf(t, w.store, Until{Index: w.all[0][7].Index}); b != nil || err != nil {
				t.Errorf("before the base: %+v, %v", b, err)
			}
			if got, err := entries(t.Context(), open(t, w.store), 0, Until{Index: w.all[0][7].Index}); err != nil || !same(got, w.all[0][:8]) {
				t.Errorf("before the base: %d entries, %v", len(got), err)
			}
		})
	}
}

func TestEveryDamageToABaseIsNoticed(t *testing.T) {
	r := seed(t)
	w := trimmed(t)
	w.based(bytes.Repeat([]byte("view"), 4000))
	w.pass(w.writer())
	parts := 0
	for _, name := range list(t, w.store, shardPrefix(w.cfg.Cluster, 0)+"base-") {
		parts++
		good, err := w.store.Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		noticed := func(what string) {
			t.Helper()
			if r, err := open(t, w.store).Verify(t.Context(), nil); err == nil && r.Whole() {
				t.Fatalf("%s %s was not noticed", name, what)
			}
			if b, _, err := baseOf(t, w.store, Until{}); err == nil && b != nil {
				t.Fatalf("%s %s: a restore did not notice", name, what)
			}
		}
		for range 20 {
			bad := bytes.Clone(good)
			bad[r.IntN(len(bad))] ^= byte(1) << r.IntN(8)
			mustPut(t, w.store, name, bad)
			noticed("with a bit flipped")
		}
		mustPut(t, w.store, name, good[:r.IntN(len(good))])
		noticed("cut")
		if err := w.store.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		noticed("removed")
		mustPut(t, w.store, name, good)
	}
	if parts < 3 {
		t.Fatalf("%d parts", parts)
	}
	if b, _, err := baseOf(t, w.store, Until{}); err != nil || b == nil {
		t.Fatalf("%v", err)
	}
}

// A base that was cut off counts for nothing, and the next pass makes another.
func TestUnfinishedBase(t *testing.T) {
	w := trimmed(t)
	torn := errors.New("torn")
	w.based(nil)
	make := w.cfg.Base
	w.cfg.Base = func(ctx context.Context, shard journal.ShardID) (*Base, func() error, error) {
		b, done, err := make(ctx, shard)
		b.View = io.MultiReader(bytes.NewReader(bytes.Repeat([]byte("x"), 10_000)), failingReader{torn})
		return b, done, err
	}
	if _, err := w.writer().Pass(t.Context(), everyShard()); !errors.Is(err, torn) {
		t.Fatal(err)
	}
	if got, err := entries(t.Context(), open(t, w.store), 0, Until{}); err != nil || !same(got, w.all[0][:10]) {
		t.Errorf("%d entries, %v", len(got), err)
	}
	w.cfg.Base = make
	w.say(0, 1)
	w.pass(w.writer())
	if b, _, err := baseOf(t, w.store, Until{}); err != nil || b == nil || b.At.Position != w.all[0][30].Position {
		t.Errorf("%+v, %v", b, err)
	}
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

// A view that is behind the archive would take it back.
func TestBaseBehindTheArchive(t *testing.T) {
	w := trimmed(t)
	w.cfg.Base = func(context.Context, journal.ShardID) (*Base, func() error, error) {
		return &Base{At: journal.Mark{Position: w.all[0][3].Position}, View: bytes.NewReader(nil)}, func() error { return nil }, nil
	}
	if _, err := w.writer().Pass(t.Context(), everyShard()); err == nil {
		t.Error("it was archived")
	}
}

const goldenPart = "" +
	"626f6e6773752d626173652d762d3031000000474a98629e68c100000000000000000000000000000000030000000000" +
	"0000020000000000000005aa000000000000000000000000000000000000000000000000000000000000000000000100" +
	"0000056f71216a646461746100000029b8d8b2807a070707070707070707070707070707070707070707070707070707" +
	"07070707070707070707070707"

func TestGoldenPart(t *testing.T) {
	name := partName{cluster: ClusterID{0xc1}, shard: 3, at: journal.Position{Term: 2, Index: 5}, hash: hashHint{0xaa}, part: 1, last: true}
	plain := encodePart(name, [32]byte{0xaa}, []byte("data"), bytes.Repeat([]byte{7}, partEndBytes))
	if got := hex.EncodeToString(plain); got != goldenPart {
		t.Errorf("the format has changed: %s", got)
	}
	if want := "c1000000000000000000000000000000/shard-0003/base-00000000000000000005.2-aa00000000000000-000001.last.age"; name.String() != want {
		t.Errorf("the name has changed: %s", name)
	}
	if got, ok := parsePartName(name.String()); !ok || got != name {
		t.Errorf("%+v, %v", got, ok)
	}
	for i := range plain {
		for bit := range 8 {
			bad := bytes.Clone(plain)
			bad[i] ^= 1 << bit
			if _, _, _, err := parsePart(name, bad); err == nil {
				t.Fatalf("bit %d of byte %d", bit, i)
			}
		}
		if _, _, _, err := parsePart(name, plain[:i]); err == nil {
			t.Fatalf("cut to %d bytes", i)
		}
	}
}

func FuzzPart(f *testing.F) {
	name := partName{cluster: ClusterID{0xc1}, shard: 3, at: journal.Position{Term: 2, Index: 5}, hash: hashHint{0xaa}, part: 1, last: true}
	f.Add(encodePart(name, [32]byte{0xaa}, []byte("data"), bytes.Repeat([]byte{7}, partEndBytes)))
	f.Fuzz(func(t *testing.T, b []byte) {
		hash, data, end, err := parsePart(name, b)
		if err == nil && !bytes.Equal(encodePart(name, hash, data, end), b) {
			t.Errorf("%x is read as another part", b)
		}
	})
}
