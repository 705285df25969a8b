package postgres

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/highwater"
)

// filled is an open journal with ten entries in each of two shards.
func filled(t *testing.T, cfg Config) (*Journal, []journal.Position) {
	t.Helper()
	j := mustOpen(t, cfg)
	var at []journal.Position
	for s := range 2 {
		l := j.Log(journal.ShardID(s))
		lease := mustLease(t, l)
		for n := range 10 {
			p := mustAppend(t, l, lease, fmt.Sprint("entry ", n))
			if s == 0 {
				at = append(at, p)
			}
		}
	}
	return j, at
}

// Damage of every kind to a stored entry is met by Read and by Scrub, and never
// served.
func TestDamagedRow(t *testing.T) {
	s := sharedServer(t)
	for name, sql := range map[string]string{
		"data":  "UPDATE @.entries SET data = set_byte(data, 3, 0) WHERE shard = 0 AND pos = 5",
		"crc":   "UPDATE @.entries SET crc = crc + 1 WHERE shard = 0 AND pos = 5",
		"term":  "UPDATE @.entries SET term = term + 1 WHERE shard = 0 AND pos = 5",
		"gone":  "DELETE FROM @.entries WHERE shard = 0 AND pos = 5",
		"swaps": "UPDATE @.entries e SET data = o.data, crc = o.crc FROM @.entries o WHERE e.shard = 0 AND e.pos = 5 AND o.shard = 1 AND o.pos = 5",
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t, s, 2)
			j, _ := filled(t, cfg)
			s.exec("postgres", inSchema(cfg, sql))
			es, err := j.Log(0).Read(bg, 0, 1<<20)
			var corrupt *journal.CorruptError
			if !errors.As(err, &corrupt) || corrupt.Shard != 0 || corrupt.Index != 5 {
				t.Fatalf("read gave %d entries and %v", len(es), err)
			}
			if j.Fenced() == nil {
				t.Error("the store is not fenced")
			}
			j.abandon()
			j = mustOpen(t, cfg)
			if err := j.Scrub(bg, nil); !errors.As(err, &corrupt) {
				t.Errorf("scrub: %v", err)
			}
		})
	}
}

// Tables that contradict each other are met at the start.
func TestDamagedTables(t *testing.T) {
	s := sharedServer(t)
	for name, sql := range map[string]string{
		"no row of the shard":  "DELETE FROM @.shards WHERE shard = 0",
		"no term":              "DELETE FROM @.terms WHERE shard = 0",
		"terms cross":          "INSERT INTO @.terms VALUES (0, 1000, 1)",
		"end of another term":  "UPDATE @.shards SET end_term = 77 WHERE shard = 0",
		"last of another term": "UPDATE @.entries SET term = 77 WHERE shard = 0 AND pos = 10",
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t, s, 2)
			j, _ := filled(t, cfg)
			j.abandon()
			s.exec("postgres", inSchema(cfg, sql))
			if _, err := Open(patient(t), cfg); !errors.As(err, new(*journal.CorruptError)) {
				t.Fatalf("open: %v", err)
			}
		})
	}
}

// A tail that is gone is told as lost: at the start, by what reads, and by the
// shard's own row; until the loss is accepted, and never the positions again.
func TestLostTail(t *testing.T) {
	s := sharedServer(t)
	rows := "DELETE FROM @.entries WHERE shard = 0 AND pos > 6"
	all := []string{rows, "UPDATE @.shards SET end_index = 6 WHERE shard = 0"}
	for name, sql := range map[string][]string{"rows": {rows}, "rows and the shard's row": all} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t, s, 2)
			j, at := filled(t, cfg)
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			for _, q := range sql {
				s.exec("postgres", inSchema(cfg, q))
			}
			j = mustOpen(t, cfg)
			var lost *journal.LostTailError
			if d := j.Damage(); len(d) != 1 || !errors.As(d[0], &lost) || lost.Have != at[5] || lost.Proven != at[9] {
				t.Fatalf("damage: %v", d)
			}
			l := j.Log(0)
			if _, err := l.Lease(patient(t)); !errors.As(err, &lost) {
				t.Fatalf("lease: %v", err)
			}
			if _, err := l.Append(patient(t), journal.Lease{Term: 1}, nil); !errors.As(err, &lost) {
				t.Fatalf("append: %v", err)
			}
			if es, err := l.Read(patient(t), 0, 1<<20); err != nil || len(es) != 6 {
				t.Fatalf("what is left: %d entries, %v", len(es), err)
			}
			if _, err := l.Read(patient(t), 6, 1<<20); !errors.As(err, &lost) {
				t.Fatalf("beyond: %v", err)
			}
			if err := j.Scrub(bg, nil); !errors.As(err, &lost) {
				t.Fatalf("scrub: %v", err)
			}
			mustAppend(t, j.Log(1), mustLease(t, j.Log(1)), "the other shard goes on")
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			accepts(t, cfg, at)
		})
	}
}

// accepts accepts the loss of shard 0 after its sixth entry.
func accepts(t *testing.T, cfg Config, at []journal.Position) {
	t.Helper()
	loss, err := AcceptLoss(patient(t), cfg, 0)
	if err != nil || loss.From != 7 || loss.To != 10 {
		t.Fatalf("accept: %+v, %v", loss, err)
	}
	if _, err := AcceptLoss(patient(t), cfg, 0); !errors.Is(err, journal.ErrNoLoss) {
		t.Fatalf("accepting again: %v", err)
	}
	j := mustOpen(t, cfg)
	if d := j.Damage(); len(d) > 0 {
		t.Fatalf("damage after accepting: %v", d)
	}
	l := j.Log(0)
	lease := mustLease(t, l)
	for range 6 {
		mustAppend(t, l, lease, "another history")
	}
	for i, p := range at {
		if l.Contains(p) != (i < 6) {
			t.Errorf("%+v: contained %v", p, l.Contains(p))
		}
	}
	if err := j.Scrub(bg, nil); err != nil {
		t.Error(err)
	}
}

// A running owner whose database loses rows behind its back says so when it is
// asked for them.
func TestTailLostWhileRunning(t *testing.T) {
	s := sharedServer(t)
	cfg := config(t, s, 2)
	j, at := filled(t, cfg)
	s.exec("postgres", inSchema(cfg, "DELETE FROM @.entries WHERE shard = 0 AND pos > 6"))
	l := j.Log(0)
	if es, err := l.Read(patient(t), 0, 1<<20); err != nil || len(es) != 6 {
		t.Fatalf("what is left: %d entries, %v", len(es), err)
	}
	var lost *journal.LostTailError
	if _, err := l.Read(patient(t), 6, 1); !errors.As(err, &lost) || lost.Proven != at[9] {
		t.Fatalf("read of what is gone: %v", err)
	}
	if _, err := l.Append(patient(t), journal.Lease{Term: at[9].Term}, nil); !errors.As(err, &lost) {
		t.Fatalf("append: %v", err)
	}
}

// An idle owner notices by its heart that the database was rolled back.
func TestRollbackIsNoticedByTheHeart(t *testing.T) {
	s := sharedServer(t)
	cfg := config(t, s, 2)
	j, _ := filled(t, cfg)
	s.exec("postgres", inSchema(cfg, "DELETE FROM @.entries WHERE shard = 0 AND pos > 6"), inSchema(cfg, "UPDATE @.shards SET end_index = 6 WHERE shard = 0"))
	var lost *journal.LostTailError
	if _, err := j.Log(0).Read(patient(t), 10, 1); !errors.As(err, &lost) { // it waits
		t.Fatalf("got %v", err)
	}
}

// A copy of the whole database of some time ago is put back: everything in it
// agrees, and the marks prove that it is old.
func TestOlderCopyPutBack(t *testing.T) {
	s := newServer(t)
	cfg := config(t, s, 2)
	j, _ := filled(t, cfg)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	s.stop()
	copied := s.dir + ".copy"
	if out, err := exec.Command("cp", "-a", s.dir, copied).CombinedOutput(); err != nil {
		t.Fatalf("copy: %v %s", err, out)
	}
	s.start()
	j = mustOpen(t, cfg)
	last := mustAppend(t, j.Log(0), mustLease(t, j.Log(0)), "newer than the copy")
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	s.stop()
	if err := errors.Join(os.RemoveAll(s.dir), os.Rename(copied, s.dir)); err != nil {
		t.Fatal(err)
	}
	s.start()
	j = mustOpen(t, cfg)
	var lost *journal.LostTailError
	if _, err := j.Log(0).Lease(patient(t)); !errors.As(err, &lost) || lost.Proven != last {
		t.Fatalf("lease: %v", err)
	}
	mustLease(t, j.Log(1)) // nothing is missing there
}

func TestWrongStore(t *testing.T) {
	s := sharedServer(t)
	cfg := config(t, s, 2)
	j, _ := filled(t, cfg)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	other := config(t, s, 2)
	other.Dir = cfg.Dir
	if _, err := Open(patient(t), other); !errors.As(err, new(*StoreError)) {
		t.Fatalf("another store under our marks: %v", err)
	}
	cell := cfg
	cell.Cell, cell.Dir = 9, t.TempDir()
	if _, err := Open(patient(t), cell); err == nil {
		t.Fatal("the store of another cell was taken")
	}
	shards := cfg
	shards.Shards, shards.Dir = 3, t.TempDir()
	if _, err := Open(patient(t), shards); err == nil {
		t.Fatal("another number of shards was taken")
	}
	newer := config(t, s, 1)
	if err := mustOpen(t, newer).Close(); err != nil {
		t.Fatal(err)
	}
	s.exec("postgres", inSchema(newer, "INSERT INTO @.version VALUES (99)"))
	if _, err := Open(patient(t), newer); err == nil {
		t.Fatal("a newer release's schema was taken")
	}
}

// A damaged copy of the marks is told and the other one used; none at all is
// told as such.
func TestDamagedMarks(t *testing.T) {
	s := sharedServer(t)
	cfg := config(t, s, 2)
	j, _ := filled(t, cfg)
	if err := j.SyncMarks(); err != nil {
		t.Fatal(err)
	}
	j.marks.writing.Lock()
	for range highwater.Copies { // how often they were written so far is a matter of time
		if err := j.marks.write(j.marks.saved); err != nil {
			t.Fatal(err)
		}
	}
	j.marks.writing.Unlock()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for i, name := range highwater.Copies {
		path := filepath.Join(cfg.Dir, name)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		m := marks{fs: j.cfg.FS, dir: cfg.Dir, shards: 2, lineage: func() lineage { return "" }}
		if err := m.load(); err != nil {
			t.Fatal(err)
		}
		if len(m.damage) != i+1 {
			t.Fatalf("%d copies damaged, told of %v", i+1, m.damage)
		}
		var e *highwater.Error
		if !errors.As(m.damage[0], &e) || e.Unguarded != (i == 1) {
			t.Fatalf("%d copies damaged: %v", i+1, m.damage)
		}
	}
}

// What the database says before, at and after the commit, in the contract's words.
func TestVerdicts(t *testing.T) {
	s := sharedServer(t)
	code := func(c string) error { return &pgconn.PgError{Severity: "ERROR", Code: c} }
	for _, c := range []struct {
		err  error
		want error
		def  bool
	}{
		{&refusedError{code("53100")}, journal.ErrNoSpace, true},
		{&refusedError{code("57P01")}, journal.ErrNotOwner, true},
		{&refusedError{code("22000")}, journal.ErrNotOwner, true},
		{fmt.Errorf("commit: %w", code("40001")), journal.ErrUnknown, false},
		{fmt.Errorf("commit: %w", code("53100")), journal.ErrUnknown, false},
		{&doubtError{"x"}, journal.ErrUnknown, false},
		{errors.New("connection reset"), journal.ErrUnknown, false},
	} {
		j := mustOpen(t, config(t, s, 1))
		if got := j.verdict(c.err); !errors.Is(got, c.want) || journal.Definite(got) != c.def {
			t.Errorf("%v: %v", c.err, got)
		}
	}
	for _, c := range []string{"XX001", "XX002", "58030", "42P01", "42501"} {
		j := mustOpen(t, config(t, s, 1))
		if got := j.verdict(&refusedError{code(c)}); !errors.As(got, new(*journal.FencedError)) || journal.Definite(got) {
			t.Errorf("%s: %v", c, got)
		}
	}
}
