package raft

import (
	"bytes"
	"encoding/hex"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/highwater"
)

func entry(term, index uint64, data []byte) *raftpb.Entry {
	return &raftpb.Entry{Term: &term, Index: &index, Data: data}
}

func hard(term, vote, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: &term, Vote: &vote, Commit: &commit}
}

// TestGolden holds the stored formats: they are for ever.
func TestGolden(t *testing.T) {
	meta, err := encodeMeta(3, groupMeta{
		trimmed: journal.Position{Term: 5, Index: 6}, lastCut: journal.Position{Term: 4, Index: 5},
		conf: &raftpb.ConfState{Voters: []uint64{1, 300}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"data entry", encodeEntry(3, entry(7, 9, payload([]byte("봉수")))),
			"01010003000000000000000700000000000000090000000700ebb489ec8898843deba0"},
		{"internal entry", encodeEntry(3, entry(7, 9, nil)), "010200030000000000000007000000000000000900000000ad458521"},
		{"hard state", encodeHardState(3, hard(7, 1, 9)), "010003000000000000000700000000000000010000000000000009dc197e98"},
		{"meta", meta, "0100030000000000000005000000000000000600000000000000040000000000000005080108ac0250633df1"},
		{"term start", encodeSpan(3, span{term: 7, start: 9}), "010003000000000000000700000000000000095357528d"},
		{"store", encodeInfo(storeInfo{node: 1, shards: 16}), "010000000000000001001088bf1428"},
		{"marks", encodeMarks(2, []highwater.Mark{{End: journal.Position{Term: 7, Index: 9},
			Applied: journal.Mark{Position: journal.Position{Term: 7, Index: 8}, Hash: [32]byte{1, 2, 3}}}, {}}), "626f6e6773752d6d61726b732d310d0a000000000000000200020000000000000000000700000000000000090000000000000007000000000000000801020300000000000000000000000000000000000000000000000000000000000001000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000003285862b"},
		{"entry key", key(3, keyEntry, 9), "0003650000000000000009"},
		{"term key", key(3, keySpan, 7), "0003740000000000000007"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s is now\n%s, was\n%s", c.name, got, c.want)
		}
	}
}

func TestEntryUnderWrongKeyIsRefused(t *testing.T) {
	v := encodeEntry(3, entry(7, 9, payload([]byte("x"))))
	if _, err := decodeEntry(3, 9, v); err != nil {
		t.Fatal(err)
	}
	if _, err := decodeEntry(2, 9, v); err == nil {
		t.Error("taken for another shard's")
	}
	if _, err := decodeEntry(3, 10, v); err == nil {
		t.Error("taken for another index's")
	}
	for bit := range 8 * len(v) {
		v[bit/8] ^= 1 << (bit % 8)
		if _, err := decodeEntry(3, 9, v); err == nil {
			t.Fatalf("bit %d flipped and not noticed", bit)
		}
		v[bit/8] ^= 1 << (bit % 8)
	}
	for n := range v {
		if _, err := decodeEntry(3, 9, v[:n]); err == nil {
			t.Fatalf("truncated to %d bytes and not noticed", n)
		}
	}
}

// resealed gives the fuzzers inputs that pass the checksum as well.
func resealed(b []byte) []byte { return seal(append([]byte(nil), b...)) }

func FuzzDecodeEntry(f *testing.F) {
	for _, e := range []*raftpb.Entry{entry(7, 9, payload([]byte("x"))), entry(1, 9, nil), entry(1, 9, payload(nil))} {
		v := encodeEntry(3, e)
		f.Add(v, false)
		f.Add(v[:len(v)-crcBytes], true)
	}
	f.Fuzz(func(t *testing.T, b []byte, reseal bool) {
		if reseal {
			b = resealed(b)
		}
		e, err := decodeEntry(3, 9, b)
		if err != nil {
			return
		}
		if e.GetType() == raftpb.EntryNormal && !bytes.Equal(encodeEntry(3, e), b) {
			t.Fatalf("%x decodes and encodes to %x", b, encodeEntry(3, e))
		}
	})
}

func FuzzDecodeHardState(f *testing.F) {
	v := encodeHardState(3, hard(7, 1, 9))
	f.Add(v, false)
	f.Add(v[:len(v)-crcBytes], true)
	f.Fuzz(func(t *testing.T, b []byte, reseal bool) {
		if reseal {
			b = resealed(b)
		}
		if hs, err := decodeHardState(3, b); err == nil && !bytes.Equal(encodeHardState(3, hs), b) {
			t.Fatalf("%x decodes and encodes to something else", b)
		}
	})
}

func FuzzDecodeMarks(f *testing.F) {
	v := encodeMarks(2, []highwater.Mark{{End: journal.Position{Term: 7, Index: 9}}, {}})
	f.Add(v, false)
	f.Add(v[:len(v)-crcBytes], true)
	f.Fuzz(func(t *testing.T, b []byte, reseal bool) {
		if reseal {
			b = resealed(b)
		}
		if seq, ms, err := decodeMarks(b); err == nil && !bytes.Equal(encodeMarks(seq, ms), b) {
			t.Fatalf("%x decodes and encodes to something else", b)
		}
	})
}

func FuzzDecodeSmallValues(f *testing.F) {
	meta, err := encodeMeta(3, groupMeta{conf: &raftpb.ConfState{Voters: []uint64{1}}})
	if err != nil {
		f.Fatal(err)
	}
	for _, v := range [][]byte{meta, encodeSpan(3, span{7, 9}), encodeInfo(storeInfo{1, 16})} {
		f.Add(v, false)
		f.Add(v[:len(v)-crcBytes], true)
	}
	f.Fuzz(func(t *testing.T, b []byte, reseal bool) {
		if reseal {
			b = resealed(b)
		}
		if s, err := decodeSpan(3, 7, b); err == nil && !bytes.Equal(encodeSpan(3, s), b) {
			t.Fatal("term start")
		}
		if s, err := decodeInfo(b); err == nil && !bytes.Equal(encodeInfo(s), b) {
			t.Fatal("store description")
		}
		_, _ = decodeMeta(3, b) // a configuration has several encodings: it must only not panic
	})
}
