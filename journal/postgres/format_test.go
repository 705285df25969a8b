package postgres

import (
	"math/rand/v2"
	"testing"

	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/highwater"
	"github.com/bongsu-im/bongsu/journal/journaltest"
)

// The stored formats are for ever.
func TestGolden(t *testing.T) {
	if got := checksum(7, journal.Position{Term: 3, Index: 12}, []byte("봉수")); got != 0xfc5bb9ff {
		t.Errorf("checksum %#08x", got)
	}
	b, err := encodeMarks(marksFile{Version: 1, Store: "s", Lineage: "9/00000002", Sequence: 2, Shards: []highwater.Mark{{
		End:     journal.Position{Term: 1, Index: 2},
		Applied: journal.Mark{Position: journal.Position{Term: 1, Index: 1}, Hash: [32]byte{9}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"Version":1,"Store":"s","Lineage":"9/00000002","Sequence":2,"Shards":[{"End":{"Term":1,"Index":2},"Applied":{"Term":1,"Index":1,"Hash":[9,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}}]}` + "\n"
	if string(b[:len(b)-9]) != want {
		t.Errorf("marks: %s", b)
	}
	if _, err := decodeMarks(b); err != nil {
		t.Error(err)
	}
	for i := range b { // every flip is noticed
		b[i] ^= 4
		if _, err := decodeMarks(b); err == nil {
			t.Fatalf("a flip at %d passed", i)
		}
		b[i] ^= 4
	}
}

func FuzzDecodeMarks(f *testing.F) {
	b, err := encodeMarks(marksFile{Version: 1, Shards: make([]highwater.Mark, 2)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := decodeMarks(b); err == nil {
			if _, err := encodeMarks(m); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestLineage(t *testing.T) {
	for _, c := range []struct {
		a, b  lineage
		older bool
	}{
		{"1/00000001", "1/00000002", true}, {"1/00000009", "1/0000000A", true}, {"1/00000002", "1/00000002", false},
		{"1/00000003", "1/00000002", false}, {"1/00000001", "2/00000002", false}, {"1/00000001", "", false}, {"", "", false},
	} {
		if c.a.olderThan(c.b) != c.older {
			t.Errorf("%s older than %s: %v", c.a, c.b, !c.older)
		}
	}
}

// A history against a model that knows each entry's term.
func TestHistoryModel(t *testing.T) {
	seed := journaltest.Seed(t)
	rng := rand.New(rand.NewPCG(seed, 3))
	for range 300 {
		var h history
		terms := []journal.Term{0} // of each index
		term := journal.Term(0)
		for range rng.IntN(6) {
			term += 1 + journal.Term(rng.IntN(3))
			start := journal.Index(len(terms))
			if n := len(h.spans); n > 0 && h.spans[n-1].start == start {
				h.spans = h.spans[:n-1]
			}
			h.spans = append(h.spans, span{term, start})
			for range rng.IntN(4) {
				terms = append(terms, term)
				h.end = journal.Position{Term: term, Index: journal.Index(len(terms) - 1)}
			}
		}
		if err := h.sound(); err != nil {
			t.Fatal(err)
		}
		for i := journal.Index(1); i < journal.Index(len(terms)+3); i++ {
			for tm := journal.Term(0); tm < term+3; tm++ {
				p := journal.Position{Term: tm, Index: i}
				want := int(i) < len(terms) && terms[i] == tm
				if h.contains(p) != want {
					t.Fatalf("%+v in %+v: %v", p, h, !want)
				}
				c := h.common(p)
				if c != (journal.Position{}) && (!h.contains(c) || c.Index > i || c.Term > tm) {
					t.Fatalf("common of %+v in %+v: %+v", p, h, c)
				}
				if want && c != p {
					t.Fatalf("common of the contained %+v: %+v", p, c)
				}
			}
		}
	}
}
