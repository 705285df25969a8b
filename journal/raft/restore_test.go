package raft

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"

	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
)

// told gives a history as an archive does.
func told(histories [][]journal.Entry) func(journal.ShardID) (History, error) {
	return func(s journal.ShardID) (History, error) { return History{Entries: each(histories[s])}, nil }
}

func each(entries []journal.Entry) iter.Seq2[journal.Entry, error] {
	return func(yield func(journal.Entry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// lived is a journal that was opened a few times: its histories, and every
// position that was acknowledged.
func lived(t *testing.T, shards int) (histories [][]journal.Entry) {
	t.Helper()
	histories = make([][]journal.Entry, shards)
	cfg := Config{Dir: "j", FS: durable.NewCrashable(), Shards: shards, NodeID: 41}
	for life := range 4 {
		j, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for s := range shards - 1 { // the last one stays empty
			lease, err := j.Log(journal.ShardID(s)).Lease(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for n := range 30 * (s + 1) * (life % 3) { // lives that write nothing leave gaps
				data := fmt.Appendf(nil, "shard %d life %d entry %d", s, life, n)
				at, err := j.Log(journal.ShardID(s)).Append(t.Context(), lease, data)
				if err != nil {
					t.Fatal(err)
				}
				histories[s] = append(histories[s], journal.Entry{Position: at, Data: data})
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return histories
}

func sameEntries(a, b []journal.Entry) bool {
	return slices.EqualFunc(a, b, func(x, y journal.Entry) bool { return x.Position == y.Position && string(x.Data) == string(y.Data) })
}

func readEverything(t *testing.T, l journal.Log) (all []journal.Entry) {
	t.Helper()
	for at := journal.Index(0); at < l.Last().Index; {
		es, err := l.Read(t.Context(), at, 1000)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, es...)
		at = es[len(es)-1].Index
	}
	return all
}

func TestRestore(t *testing.T) {
	const shards = 4
	histories := lived(t, shards)
	type reign struct {
		shard int
		term  journal.Term
	}
	terms := map[reign]bool{}
	for _, cut := range []int{0, 1, 17} { // an archive that ends earlier
		short := make([][]journal.Entry, shards)
		for s, h := range histories {
			short[s] = h[:max(len(h)-cut, 0)]
		}
		cfg := Config{Dir: "new", FS: durable.NewCrashable(), Shards: shards, NodeID: 97}
		ends, err := Restore(t.Context(), cfg, told(short))
		if err != nil {
			t.Fatal(err)
		}
		j, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if d := j.Damage(); len(d) > 0 {
			t.Fatalf("damage: %v", d)
		}
		for s, h := range histories {
			l := j.Log(journal.ShardID(s))
			kept := short[s]
			if got := readEverything(t, l); !sameEntries(got, kept) {
				t.Fatalf("shard %d: %d entries of %d", s, len(got), len(kept))
			}
			want := journal.Position{}
			if len(kept) > 0 {
				want = kept[len(kept)-1].Position
			}
			if l.Last() != want || ends[s] != want {
				t.Fatalf("shard %d ends at %v, %v, want %v", s, l.Last(), ends[s], want)
			}
			lease, err := l.Lease(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if terms[reign{s, lease.Term}] {
				t.Fatalf("term %d is used by two journals that were restored from one archive", lease.Term)
			}
			terms[reign{s, lease.Term}] = true
			// As much is written again as was lost: the indexes are used, the
			// positions are not.
			for range cut + 50 {
				if _, err := l.Append(t.Context(), lease, []byte("new")); err != nil {
					t.Fatal(err)
				}
			}
			for n, e := range h {
				if got := l.Contains(e.Position); got != (n < len(kept)) {
					t.Fatalf("shard %d, cut by %d: entry %d of %d at %v: contained %v", s, cut, n, len(h), e.Position, got)
				}
				if l.Contains(journal.Position{Term: e.Term + 1, Index: h[len(h)-1].Index + 5}) {
					t.Fatalf("shard %d contains what the lost node may have written later", s)
				}
			}
		}
		if err := j.Scrub(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A history that begins behind a base: positions before it are known by their
// terms, and it goes on behind.
func TestRestoreBehindABase(t *testing.T) {
	cfg := Config{Dir: "j", FS: durable.NewCrashable(), Shards: 1, NodeID: 41}
	var all []journal.Entry
	var bases []History
	for life := range 4 {
		j, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		lease, err := j.Log(0).Lease(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for n := range 20 {
			data := fmt.Appendf(nil, "life %d entry %d", life, n)
			at, err := j.Log(0).Append(t.Context(), lease, data)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, journal.Entry{Position: at, Data: data})
		}
		at := journal.Mark{Position: all[len(all)-1].Position, Hash: [32]byte{byte(life + 1)}}
		b, err := j.BaseOf(0, at)
		if err != nil {
			t.Fatal(err)
		}
		bases = append(bases, History{Base: b, At: at})
		if _, err := j.BaseOf(0, journal.Mark{Position: journal.Position{Term: at.Term, Index: at.Index + 9}}); err == nil {
			t.Error("a base beyond the end")
		}
		if _, err := j.BaseOf(1, at); err == nil {
			t.Error("a base of a shard that is not there")
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for life, h := range bases {
		first := 20 * (life + 1)
		h.Entries = each(all[first:])
		cfg := Config{Dir: "new", FS: durable.NewCrashable(), Shards: 1, NodeID: 97}
		ends, err := Restore(t.Context(), cfg, func(journal.ShardID) (History, error) { return h, nil })
		if err != nil {
			t.Fatal(err)
		}
		j, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		l := j.Log(0)
		if want := all[len(all)-1].Position; l.Last() != want || ends[0] != want {
			t.Fatalf("base %d: ends at %v, %v, want %v", life, l.Last(), ends[0], want)
		}
		if _, err := l.Read(t.Context(), h.At.Index-1, 1); !errors.Is(err, journal.ErrTrimmed) {
			t.Errorf("base %d: read before it: %v", life, err)
		}
		for at, want := h.At.Index, all[first:]; len(want) > 0; {
			es, err := l.Read(t.Context(), at, 100)
			if err != nil || !sameEntries(es, want[:len(es)]) {
				t.Fatalf("base %d: %v, %v", life, es, err)
			}
			at, want = es[len(es)-1].Index, want[len(es):]
		}
		for _, e := range all {
			if !l.Contains(e.Position) || l.Contains(journal.Position{Term: e.Term + 1, Index: e.Index}) {
				t.Errorf("base %d: position %v", life, e.Position)
			}
		}
		lease, err := l.Lease(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(t.Context(), lease, []byte("new")); err != nil {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// A base is never taken for one that stands elsewhere, nor half of one for one.
	for what, spoil := range map[string]func(*History){
		"another view": func(h *History) { h.At.Hash[0]++ },
		"half of it":   func(h *History) { h.Base = h.Base[:len(h.Base)/2] },
		"nothing":      func(h *History) { h.Base = []byte{} },
	} {
		h := bases[1]
		h.Entries = each(nil)
		spoil(&h)
		cfg := Config{Dir: "new", FS: durable.NewCrashable(), Shards: 1, NodeID: 97}
		if _, err := Restore(t.Context(), cfg, func(journal.ShardID) (History, error) { return h, nil }); err == nil {
			t.Errorf("%s was restored", what)
		}
	}
}

// From the first moment on the marks guard what was restored.
func TestRestoredTailIsGuarded(t *testing.T) {
	histories := lived(t, 2)
	cfg := Config{Dir: "new", FS: durable.NewCrashable(), Shards: 2, NodeID: 97}
	if _, err := Restore(t.Context(), cfg, told(histories)); err != nil {
		t.Fatal(err)
	}
	if err := cfg.FS.RemoveAll("new/log"); err != nil {
		t.Fatal(err)
	}
	j, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = j.Close() }()
	var lost *journal.LostTailError
	if !slices.ContainsFunc(j.Damage(), func(err error) bool { return errors.As(err, &lost) }) || lost.Proven.Index < histories[0][len(histories[0])-1].Index {
		t.Errorf("a lost store was not noticed: %v", j.Damage())
	}
}

func TestRestoreRefuses(t *testing.T) {
	at := func(term journal.Term, index journal.Index) journal.Entry {
		return journal.Entry{Position: journal.Position{Term: term, Index: index}, Data: []byte("x")}
	}
	for what, h := range map[string][]journal.Entry{
		"an index twice":        {at(2, 5), at(2, 5)},
		"a term that goes back": {at(3, 5), at(2, 6)},
		"the place of the base": {at(1, 1)},
		"no term":               {at(0, 5)},
		"an entry too large":    {{Position: journal.Position{Term: 2, Index: 2}, Data: make([]byte, journal.MaxEntryBytes+1)}},
	} {
		cfg := Config{Dir: "new", FS: durable.NewCrashable(), Shards: 1}
		if _, err := Restore(t.Context(), cfg, told([][]journal.Entry{h})); err == nil {
			t.Errorf("%s was restored", what)
		}
	}
	torn := errors.New("torn")
	cfg := Config{Dir: "new", FS: durable.NewCrashable(), Shards: 1}
	_, err := Restore(t.Context(), cfg, func(journal.ShardID) (History, error) {
		return History{Entries: func(yield func(journal.Entry, error) bool) { _ = yield(at(2, 2), nil) && yield(journal.Entry{}, torn) }}, nil
	})
	if !errors.Is(err, torn) {
		t.Errorf("an archive that breaks off: %v", err)
	}
	// What is there is never written over.
	if _, err := Restore(t.Context(), cfg, told([][]journal.Entry{nil})); err == nil {
		t.Error("restored into a folder that is not empty")
	}
	for _, spoil := range []func(*Config){
		func(c *Config) { c.Voters, c.Transport = []NodeID{1, 2}, nil },
		func(c *Config) { c.Join, c.Cluster = true, ClusterID{1} },
	} {
		cfg := Config{Dir: "another", FS: durable.NewCrashable(), Shards: 1}
		spoil(&cfg)
		if _, err := Restore(t.Context(), cfg, told([][]journal.Entry{nil})); err == nil {
			t.Errorf("restored as %+v", cfg)
		}
	}
}
