package backup

import (
	"bytes"
	"encoding/hex"
	"testing"

	"google.golang.org/protobuf/proto"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	"github.com/bongsu-im/bongsu/journal"
)

// golden is a segment of two entries, as every release from the first on must
// read it.
func golden(t testing.TB) (segmentName, []byte) {
	w := beginSegment(ClusterID{0xc1}, 3, journal.Position{Term: 2, Index: 5}, [32]byte{0xaa})
	hash := [32]byte{0xaa}
	for i := range journal.Index(2) {
		data, err := proto.Marshal(&journalv1.Record{Rules: 1, TimeMs: 1000 + int64(i), PreviousHash: hash[:]})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.add(journal.Entry{Position: journal.Position{Term: 2 + journal.Term(i), Index: 7 + 2*i}, Data: data}); err != nil {
			t.Fatal(err)
		}
		hash = journal.NextHash(hash, data)
	}
	return w.end()
}

const goldenSegment = "" +
	"626f6e6773752d7365676d656e742d310000004374c8970d68c100000000000000000000000000000000030000000000" +
	"0000020000000000000005aa0000000000000000000000000000000000000000000000000000000000000000000038a3" +
	"66b4bd6500000000000000020000000000000007080110e8071a20aa0000000000000000000000000000000000000000" +
	"000000000000000000000000000038798ff7276500000000000000030000000000000009080110e9071a2079191dcdc5" +
	"4503a580a5db8e74f9a05fa2b34a4133790867387be61f7d14d45500000029e13df2c87a0000000000000002f6461856" +
	"1c3acae860340017f540ea8e2e8fd6f1d20f9de328a8c327c4ade80c"

func TestGoldenSegment(t *testing.T) {
	name, plain := golden(t)
	if got := hex.EncodeToString(plain); got != goldenSegment {
		t.Errorf("the format has changed: %s", got)
	}
	want := "c1000000000000000000000000000000/shard-0003/00000000000000000005.2-00000000000000000009.3-" + hex.EncodeToString(name.hash[:]) + ".segment.age"
	if name.String() != want {
		t.Errorf("the name has changed: %s", name)
	}
	s, err := parseSegment(name, plain)
	if err != nil || len(s.entries) != 2 || s.entries[1].Position != (journal.Position{Term: 3, Index: 9}) || s.before != [32]byte{0xaa} {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestEveryFlippedBitOfASegmentIsNoticed(t *testing.T) {
	name, plain := golden(t)
	for i := range plain {
		for bit := range 8 {
			bad := bytes.Clone(plain)
			bad[i] ^= 1 << bit
			if _, err := parseSegment(name, bad); err == nil {
				t.Fatalf("bit %d of byte %d", bit, i)
			}
		}
		if _, err := parseSegment(name, plain[:i]); err == nil {
			t.Fatalf("cut to %d bytes", i)
		}
	}
}

func TestNames(t *testing.T) {
	name, _ := golden(t)
	if got, ok := parseSegmentName(name.String()); !ok || got != name {
		t.Errorf("%+v, %v", got, ok)
	}
	m := manifestName{cluster: ClusterID{0xc1}, node: 0xfedcba9876543210, number: 12}
	if got, ok := parseManifestName(m.String()); !ok || got != m {
		t.Errorf("%+v, %v", got, ok)
	}
	good := name.String()
	for _, bad := range []string{
		"", "x", good + ".new", good[1:], good[:len(good)-1], bytesReplace(good, "shard-0003", "shard-3"), bytesReplace(good, "shard-0003", "shard-00003"),
		bytesReplace(good, ".2-", ".02-"), bytesReplace(good, ".2-", ".4-"), bytesReplace(good, "00000000000000000005", "00000000000000000009"),
		bytesReplace(good, "00000000000000000005.2", "00000000000000000000.2"), bytesReplace(good, "c1", "C1"), bytesReplace(good, ".age", ".old"),
	} {
		if n, ok := parseSegmentName(bad); ok {
			t.Errorf("%q is %+v", bad, n)
		}
	}
	for _, bad := range []string{"", "c1/manifest-1-1.age", bytesReplace(m.String(), "0000000012", "12"), bytesReplace(m.String(), "0000000012", "0000000000"), bytesReplace(m.String(), "fedc", "FEDC")} {
		if n, ok := parseManifestName(bad); ok {
			t.Errorf("%q is %+v", bad, n)
		}
	}
}

func bytesReplace(s, old, with string) string {
	return string(bytes.Replace([]byte(s), []byte(old), []byte(with), 1))
}

func FuzzSegment(f *testing.F) {
	name, plain := golden(f)
	f.Add(plain)
	f.Add([]byte(segmentMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSegment(name, b)
		if err == nil && !bytes.Equal(b, plain) {
			t.Errorf("another segment passes for the golden one: %+v", s)
		}
	})
}

func FuzzManifest(f *testing.F) {
	m := &Manifest{Format: manifestFormat, Cluster: ClusterID{1}.String(), Node: 2, Number: 3, Shards: 1, Ends: []End{{Term: 1, Index: 1}}, Files: map[string][]byte{"keys/a": {1}}}
	plain, err := m.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	name, err := m.name()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseManifest(name, b)
		if err != nil {
			return
		}
		if is, err := m.name(); err != nil || is != name || checkFiles(m.Files) != nil {
			t.Errorf("%+v passes for %s", m, name)
		}
	})
}

func FuzzName(f *testing.F) {
	name, _ := golden(f)
	f.Add(name.String())
	f.Add(manifestName{cluster: ClusterID{1}, node: 2, number: 3}.String())
	f.Fuzz(func(t *testing.T, s string) {
		if n, ok := parseSegmentName(s); ok && n.String() != s {
			t.Errorf("%q reads as %s", s, n)
		}
		if n, ok := parsePartName(s); ok && n.String() != s {
			t.Errorf("%q reads as %s", s, n)
		}
		if n, ok := parseManifestName(s); ok && n.String() != s {
			t.Errorf("%q reads as %s", s, n)
		}
	})
}
