package highwater

import (
	"errors"
	"os"
	"testing"

	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
)

func at(term journal.Term, index journal.Index) journal.Position {
	return journal.Position{Term: term, Index: index}
}

func TestNext(t *testing.T) {
	saved := []Mark{
		{End: at(2, 10), Applied: journal.Mark{Position: at(2, 9)}},
		{End: at(2, 10), Applied: journal.Mark{Position: at(2, 9)}},
		{End: at(2, 10), Applied: journal.Mark{Position: at(2, 9)}},
		{End: at(2, 10), Applied: journal.Mark{Position: at(2, 9)}},
	}
	ends := []journal.Position{at(3, 20), at(3, 12), at(3, 20), at(2, 8)}
	var a Applied
	a.Load(saved)
	if _, changed := a.Next(saved, func(s journal.ShardID) (journal.Position, bool) { return saved[s].End, true }); changed {
		t.Error("nothing has happened, and the marks are to be written")
	}
	for shard, index := range []journal.Index{15, 15, 15, 15} {
		a.Set(journal.ShardID(shard), journal.Mark{Position: at(3, index)})
	}
	a.Set(0, journal.Mark{Position: at(3, 14)}) // late
	next, changed := a.Next(saved, func(s journal.ShardID) (journal.Position, bool) { return ends[s], s != 2 })
	want := []Mark{
		{End: at(3, 20), Applied: journal.Mark{Position: at(3, 15)}},
		{End: at(3, 12), Applied: journal.Mark{Position: at(2, 9)}}, // the log does not hold what was applied
		saved[2], // to be left alone
		saved[3], // does not go back
	}
	if !changed {
		t.Error("not to be written")
	}
	for i := range want {
		if next[i] != want[i] {
			t.Errorf("shard %d: %+v, want %+v", i, next[i], want[i])
		}
	}
	if saved[0].End != at(2, 10) {
		t.Error("what was saved has changed")
	}
}

// TestCopies: writes take turns, and neither touches the other copy.
func TestCopies(t *testing.T) {
	disk := durable.NewCrashable()
	if err := durable.MkdirAll(disk, "/d", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(disk, "/d", Copies[0]); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a copy that was never written: %v", err)
	}
	for seq, content := range []string{"zero", "one", "two"} {
		if err := Write(disk, "/d", uint64(seq), []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	disk = disk.Crash(0, 1)
	for name, want := range map[string]string{Copies[0]: "two", Copies[1]: "one"} {
		if b, err := Read(disk, "/d", name); err != nil || string(b) != want {
			t.Errorf("%s holds %q, %v; want %q", name, b, err, want)
		}
	}
}
