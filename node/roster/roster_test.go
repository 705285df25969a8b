package roster

import (
	"errors"
	"fmt"
	"testing"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/durable"
)

func open(t *testing.T, fs durable.FS) *Roster {
	t.Helper()
	r, err := Open(fs, "roster")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func merge(t *testing.T, r *Roster, rows ...*nodev1.Member) bool {
	t.Helper()
	news, err := r.Merge(rows)
	if err != nil {
		t.Fatal(err)
	}
	return news
}

func TestTheHigherRevisionHolds(t *testing.T) {
	fs := durable.NewCrashable()
	r := open(t, fs)
	changed := r.Changed()
	if !merge(t, r, &nodev1.Member{Id: 1, Name: "n1", Zone: "a", Revision: 2}) {
		t.Error("a new row is no news")
	}
	select {
	case <-changed:
	default:
		t.Error("nobody was told")
	}
	if merge(t, r, &nodev1.Member{Id: 1, Name: "n1", Zone: "old", Revision: 1}, &nodev1.Member{Id: 1, Name: "n1", Zone: "same", Revision: 2}) {
		t.Error("old rows are news")
	}
	if got := r.Get(1).GetZone(); got != "a" {
		t.Errorf("zone %q", got)
	}
	merge(t, r, &nodev1.Member{Id: 2, Name: "n1", Revision: 1})
	if len(r.Named("n1")) != 2 {
		t.Errorf("a name on two disks: %v", r.Named("n1"))
	}
	if err := r.Remove(1); err != nil {
		t.Fatal(err)
	}
	merge(t, r, &nodev1.Member{Id: 1, Name: "n1", Zone: "back", Revision: 99})
	if len(r.Named("n1")) != 1 || !r.Get(1).GetRemoved() {
		t.Errorf("a removed member came back: %v", r.All())
	}
	if _, err := r.Merge([]*nodev1.Member{{Id: 2, Name: "n2", Revision: 5}}); err == nil {
		t.Error("an ID changed its name")
	}
	// It survives a power cut from here on.
	again := open(t, fs.Crash(0, 1))
	if fmt.Sprint(again.All()) != fmt.Sprint(r.All()) {
		t.Errorf("after a power cut: %v, was %v", again.All(), r.All())
	}
}

func TestRowsThatCannotBe(t *testing.T) {
	r := open(t, durable.NewCrashable())
	for name, m := range map[string]*nodev1.Member{
		"no ID":       {Name: "n1"},
		"a local ID":  {Id: 1 << 63, Name: "n1"},
		"no name":     {Id: 1},
		"a bad name":  {Id: 1, Name: "../x"},
		"a long zone": {Id: 1, Name: "n1", Zone: string(make([]byte, 300))},
	} {
		if _, err := r.Merge([]*nodev1.Member{m}); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	for n := range MaxMembers {
		merge(t, r, &nodev1.Member{Id: uint64(n + 1), Name: "n1", Revision: 1})
	}
	if _, err := r.Merge([]*nodev1.Member{{Id: MaxMembers + 1, Name: "n1", Revision: 1}}); err == nil {
		t.Error("there is no bound")
	}
}

// TestEveryFlipIsNoticed: a damaged roster is told of, never believed.
func TestEveryFlipIsNoticed(t *testing.T) {
	good, err := encode([]*nodev1.Member{{Id: 7, Name: "n1", Zone: "a", Address: "127.0.0.1:7001", Revision: 3}})
	if err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * len(good) {
		bad := append([]byte(nil), good...)
		bad[bit/8] ^= 1 << (bit % 8)
		fs := durable.NewCrashable()
		if err := durable.WriteFile(fs, "roster", bad, 0o600); err != nil {
			t.Fatal(err)
		}
		var damaged *DamagedError
		if _, err := Open(fs, "roster"); !errors.As(err, &damaged) {
			t.Fatalf("bit %d: %v", bit, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	good, err := encode([]*nodev1.Member{{Id: 7, Name: "n1", Revision: 3}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		members, err := decode(b)
		if err != nil {
			return
		}
		for _, m := range members {
			if err := Check(m); err != nil {
				t.Fatal(err)
			}
		}
	})
}
