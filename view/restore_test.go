package view

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// streamOf is the stream of shard n, as it is now.
func streamOf(t testing.TB, s *Store, n int) ([]byte, *journalv1.Mark) {
	t.Helper()
	snap, err := s.Shard(n).Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	data, err := io.ReadAll(snap)
	if err != nil {
		t.Fatalf("read snapshot: %v", err)
	}
	return data, snap.Mark()
}

func list(t testing.TB, fs durable.FS) []string {
	t.Helper()
	names, err := fs.List("view")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func note(t testing.TB, s *Store, n int, name, value string) {
	t.Helper()
	st, err := s.Shard(n).Stage()
	if err != nil {
		t.Fatal(err)
	}
	st.SetNote(name, []byte(value))
	if err := st.Commit(markOf(int(s.Shard(n).Mark().Index) + 1)); err != nil {
		t.Fatal(err)
	}
}

// filled is a store whose shard 1 has applied records 1 to last, with a note
// after them, beside some of shards 0 and 2.
func filled(t testing.TB, fs durable.FS, last int) *Store {
	t.Helper()
	s := mustOpen(t, config(fs, 4))
	s.tableBytes = 4 << 10
	for i := 1; i <= last; i++ {
		mustApply(t, s, 1, i)
	}
	note(t, s, 1, "name", fmt.Sprint("note of ", last))
	for _, n := range []int{0, 2} {
		mustApply(t, s, n, 1)
		note(t, s, n, "name", "beside")
	}
	return s
}

// A restored view is the source's, byte for byte; its neighbours are as they
// were; it goes on as if it had applied the records itself; and it is durable.
func TestRestore(t *testing.T) {
	source := filled(t, durable.NewCrashable(), 60)
	stream, mark := streamOf(t, source, 1)
	want := dump(t, source, 1)
	for name, before := range map[string]int{"an empty view": -1, "an older view": 25, "one that stands there": 60} {
		t.Run(name, func(t *testing.T) {
			fs := durable.NewCrashable()
			var s *Store
			if before < 0 {
				s = mustOpen(t, config(fs, 4))
				s.tableBytes = 4 << 10
			} else {
				s = filled(t, fs, before)
			}
			beside := dump(t, s, 0) + dump(t, s, 2) + dump(t, s, 3)
			if err := s.Shard(1).Restore(context.Background(), mark, bytes.NewReader(stream)); err != nil {
				t.Fatal(err)
			}
			if got := dump(t, s, 1); got != want {
				t.Fatalf("restored:\n%s\nwant:\n%s", got, want)
			}
			if got := dump(t, s, 0) + dump(t, s, 2) + dump(t, s, 3); got != beside {
				t.Error("another shard changed")
			}
			if m := s.Shard(1).Mark(); m.Index != mark.Index || !bytes.Equal(m.Hash, mark.Hash) {
				t.Errorf("it stands at %v", m)
			}
			for _, left := range list(t, fs) {
				if strings.HasPrefix(left, incomingPrefix) {
					t.Errorf("%s is left", left)
				}
			}
			cut := mustOpen(t, config(fs.Crash(0, 1), 4))
			if got := dump(t, cut, 1); got != want {
				t.Error("a power cut after Restore has returned took it back")
			}
			// Both go on alike.
			twin := mustOpen(t, config(durable.NewCrashable(), 4))
			if err := twin.Shard(1).Restore(context.Background(), mark, bytes.NewReader(stream)); err != nil {
				t.Fatal(err)
			}
			for i := 62; i <= 90; i++ {
				mustApply(t, s, 1, i)
				mustApply(t, twin, 1, i)
			}
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
			if dump(t, s, 1) != dump(t, twin, 1) {
				t.Error("views that were restored from one stream go on differently")
			}
			if err := s.Scrub(context.Background(), nil); err != nil {
				t.Errorf("scrub: %v", err)
			}
		})
	}
}

// What the shard remembered of its old view does not show in the new one:
// values it had read, that it knew to be missing, bounds, and what it held.
func TestRestoreForgets(t *testing.T) {
	source := mustOpen(t, config(durable.NewCrashable(), 4))
	s := mustOpen(t, config(durable.NewCrashable(), 4))
	set := func(s *Store, index int, pairs ...string) {
		st, err := s.Shard(1).Stage()
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(pairs); i += 2 {
			if err := st.Set(append(key(1, 0), pairs[i]...), []byte(pairs[i+1])); err != nil {
				t.Fatal(err)
			}
		}
		if err := st.Commit(markOf(index)); err != nil {
			t.Fatal(err)
		}
	}
	set(source, 9, "a", "new", "z", "new too")
	stream, mark := streamOf(t, source, 1)

	set(s, 1, "a", "old", "b", "old")
	st, err := s.Shard(1).Stage()
	if err != nil {
		t.Fatal(err)
	}
	prefix := len(key(1, 0))
	for _, k := range []string{"a", "b", "c"} { // into cells
		if _, err := st.Get(append(key(1, 0), k...)); err != nil {
			t.Fatal(err)
		}
	}
	if above, err := st.Above(append(key(1, 0), 'c'), prefix); err != nil || !above {
		t.Fatalf("c is above b: %v %v", above, err)
	}
	st.Discard()
	set(s, 2, "b", "held") // and not written yet
	if err := s.Shard(1).Restore(context.Background(), mark, bytes.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	if st, err = s.Shard(1).Stage(); err != nil {
		t.Fatal(err)
	}
	defer st.Discard()
	for k, want := range map[string]string{"a": "new", "b": "", "c": "", "z": "new too"} {
		if got, err := st.Get(append(key(1, 0), k...)); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v; want %q", k, got, err, want)
		}
	}
	if above, err := st.Above(append(key(1, 0), 'c'), prefix); err != nil || above {
		t.Errorf("c counts as above everything: z is there (%v)", err)
	}
}

// Nothing that is not the whole stream of this very view touches the old one.
func TestRestoreRefuses(t *testing.T) {
	source := filled(t, durable.NewCrashable(), 40)
	stream, mark := streamOf(t, source, 1)
	with := func(change func(m *journalv1.Mark)) *journalv1.Mark {
		m := &journalv1.Mark{Term: mark.Term, Index: mark.Index, Hash: bytes.Clone(mark.Hash)}
		change(m)
		return m
	}
	otherShard, otherMark := streamOf(t, source, 2)
	empty, emptyMark := streamOf(t, source, 3)
	layout := config(durable.NewCrashable(), 4)
	layout.Layout = 2
	otherLayout, _ := streamOf(t, restoredInto(t, layout, stream, mark), 1)
	aheadStream, aheadMark := streamOf(t, filled(t, durable.NewCrashable(), 5), 1)
	h := streamHeader{layout: 1, shards: 4, shard: 1, mark: mark}
	foreign := func(keys ...[]byte) []byte {
		var kv [][2]string
		for _, k := range keys {
			kv = append(kv, [2]string{string(k), "v"})
		}
		return encodeAll(t, h, kv...)
	}
	lost := errors.New("connection lost")
	for name, c := range map[string]struct {
		want *journalv1.Mark
		r    io.Reader
		is   error
	}{
		"nothing":                {mark, bytes.NewReader(nil), ErrStream},
		"half":                   {mark, bytes.NewReader(stream[:len(stream)/2]), ErrStream},
		"all but the last byte":  {mark, bytes.NewReader(stream[:len(stream)-1]), ErrStream},
		"something behind":       {mark, bytes.NewReader(append(bytes.Clone(stream), stream...)), ErrStream},
		"an error at the end":    {mark, io.MultiReader(bytes.NewReader(stream), &failingReader{lost}), lost},
		"another position":       {with(func(m *journalv1.Mark) { m.Index++ }), bytes.NewReader(stream), ErrStream},
		"another term":           {with(func(m *journalv1.Mark) { m.Term++ }), bytes.NewReader(stream), ErrStream},
		"another history":        {with(func(m *journalv1.Mark) { m.Hash[3] ^= 1 }), bytes.NewReader(stream), ErrStream},
		"another shard":          {otherMark, bytes.NewReader(otherShard), ErrStream},
		"an empty view":          {emptyMark, bytes.NewReader(empty), ErrStream},
		"a view that is ahead":   {aheadMark, bytes.NewReader(aheadStream), nil},
		"another layout":         {mark, bytes.NewReader(otherLayout), ErrStream},
		"a key of a neighbour":   {mark, bytes.NewReader(foreign(key(1, 1), key(2, 1))), ErrStream},
		"a key before the shard": {mark, bytes.NewReader(foreign(key(0, 1), key(1, 1))), ErrStream},
		"a mark among the keys":  {mark, bytes.NewReader(foreign(key(1, 1), ownKey('m', 1, ""))), ErrStream},
		"another shard's note":   {mark, bytes.NewReader(foreign(key(1, 1), ownKey('n', 2, "name"))), ErrStream},
		"a key behind the notes": {mark, bytes.NewReader(foreign(ownKey('n', 1, "name"), ownKey('o', 1, ""))), ErrStream},
	} {
		fs := durable.NewCrashable()
		s := filled(t, fs, 10)
		before := dump(t, s, 1)
		if err := s.Shard(1).Restore(context.Background(), c.want, c.r); err == nil || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v", name, err)
		}
		if dump(t, s, 1) != before {
			t.Errorf("%s: the old view changed", name)
		}
		for _, left := range list(t, fs) {
			if strings.HasPrefix(left, incomingPrefix) {
				t.Errorf("%s: %s is left", name, left)
			}
		}
		mustApply(t, s, 1, 12) // and it goes on
	}
}

// restoredInto makes a store of another layout with the same content, by
// changing what the header says.
func restoredInto(t testing.TB, cfg Config, stream []byte, mark *journalv1.Mark) *Store {
	t.Helper()
	s := mustOpen(t, cfg)
	_, entries, err := decodeAll(bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	data := encodeAll(t, streamHeader{layout: cfg.Layout, shards: cfg.Shards, shard: 1, mark: mark}, entries...)
	if err := s.Shard(1).Restore(context.Background(), mark, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	return s
}

// A power cut at any moment of a restore leaves the old view or the new one,
// whole, and its neighbours as they were (DESIGN §5). Every operation on the
// disk is such a moment, with nothing, half or all of what was not fsynced kept.
func TestRestoreCut(t *testing.T) {
	seed := seedOf(t)
	source := filled(t, durable.NewCrashable(), 60)
	stream, mark := streamOf(t, source, 1)
	want := dump(t, source, 1)

	fs := durable.NewCrashable()
	var watching atomic.Bool
	var mu sync.Mutex
	var cuts []*durable.Crashable
	rng := rand.New(rand.NewPCG(seed, 3))
	watched := errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if !watching.Load() {
			return nil
		}
		switch op.Kind {
		case errorfs.OpCreate, errorfs.OpLink, errorfs.OpRemove, errorfs.OpRename, errorfs.OpFileWrite, errorfs.OpFileWriteAt,
			errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpFileClose:
			mu.Lock()
			defer mu.Unlock()
			for _, keep := range []float64{0, 0.5, 1} {
				cuts = append(cuts, fs.Crash(keep, rng.Uint64()))
			}
		}
		return nil
	}))
	s := filled(t, watched, 25)
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	old, beside := dump(t, s, 1), dump(t, s, 0)+dump(t, s, 2)
	watching.Store(true)
	if err := s.Shard(1).Restore(context.Background(), mark, bytes.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	watching.Store(false)
	mu.Lock()
	cuts = append(cuts, fs.Crash(0, rng.Uint64()))
	all := cuts
	mu.Unlock()

	seen := map[string]int{}
	for i, cut := range all {
		again, err := Open(config(cut, 4))
		if err != nil {
			t.Fatalf("cut %d of %d: %v", i, len(all), err)
		}
		switch dump(t, again, 1) {
		case old:
			seen["old"]++
		case want:
			seen["new"]++
		default:
			t.Fatalf("cut %d of %d left a mixture:\n%s", i, len(all), dump(t, again, 1))
		}
		if dump(t, again, 0)+dump(t, again, 2) != beside {
			t.Fatalf("cut %d of %d changed a neighbour", i, len(all))
		}
		for _, left := range list(t, cut) {
			if strings.HasPrefix(left, incomingPrefix) {
				t.Errorf("after cut %d %s is left", i, left)
			}
		}
		if i == len(all)-1 && dump(t, again, 1) != want {
			t.Error("Restore has returned, and a cut took it back")
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d cuts: %v", len(all), seen)
	if seen["old"] < 20 || seen["new"] < 5 {
		t.Errorf("the cuts were not before and after: %v", seen)
	}
}

// Whichever operation fails, what is on the disk is the old view or the new,
// and the store is fenced if it was a write (invariant 7).
func TestRestoreOnAFailingDisk(t *testing.T) {
	source := filled(t, durable.NewCrashable(), 60)
	stream, mark := streamOf(t, source, 1)
	want := dump(t, source, 1)
	failures := 0
	for step := 1; ; step++ {
		fs := durable.NewCrashable()
		var count, at atomic.Int64
		bad := errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
			switch op.Kind {
			case errorfs.OpCreate, errorfs.OpLink, errorfs.OpFileWrite, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
				if n := at.Load(); n > 0 && count.Add(1) == n {
					return syscall.EIO
				}
			}
			return nil
		}))
		s := filled(t, bad, 25)
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		old := dump(t, s, 1)
		at.Store(int64(step))
		err := s.Shard(1).Restore(context.Background(), mark, bytes.NewReader(stream))
		reached := count.Load() >= int64(step)
		at.Store(0)
		var fenced *FencedError
		if reached && err != nil && !errors.As(err, &fenced) {
			t.Fatalf("step %d: %v", step, err)
		}
		if !reached && err != nil {
			t.Fatalf("no step failed: %v", err)
		}
		if err := s.Close(); err != nil && s.Err() == nil {
			t.Fatal(err)
		}
		again, err := Open(config(fs.Crash(0, uint64(step)), 4))
		if err != nil {
			t.Fatalf("after step %d failed: %v", step, err)
		}
		if got := dump(t, again, 1); got != old && got != want {
			t.Fatalf("step %d left a mixture:\n%s", step, got)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
		if !reached {
			break
		}
		failures++
	}
	if failures < 20 {
		t.Errorf("only %d steps failed", failures)
	}
}

// Readers that are open keep what they look at, through a restore and the
// compactions after it; snapshots too.
func TestRestoreBesideReaders(t *testing.T) {
	source := filled(t, durable.NewCrashable(), 60)
	stream, mark := streamOf(t, source, 1)
	s := filled(t, durable.NewCrashable(), 25)
	old := dump(t, s, 1)
	oldStream, _ := streamOf(t, s, 1)
	r, err := s.Shard(1).Reader()
	if err != nil {
		t.Fatal(err)
	}
	snap, err := s.Shard(1).Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 100)
	if _, err := io.ReadFull(snap, first); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	new := dump(t, source, 1)
	for range 3 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if got := dump(t, s, 1); got != old && got != new {
					t.Errorf("a reader saw a mixture:\n%s", got)
					return
				}
			}
		})
	}
	if err := s.Shard(1).Restore(context.Background(), mark, bytes.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	if err := s.db.Compact(context.Background(), []byte{0}, []byte{0xff, 0xff, 0xff}, false); err != nil {
		t.Fatal(err)
	}
	cancel()
	wg.Wait()
	var b strings.Builder
	if err := r.Dump(func(k, v []byte) bool { fmt.Fprintf(&b, "%x=%x\n", k, v); return true }); err != nil {
		t.Fatal(err)
	}
	if b.String() != old {
		t.Error("a reader from before the restore sees something else after it")
	}
	rest, err := io.ReadAll(snap)
	if err != nil || !bytes.Equal(append(first, rest...), oldStream) {
		t.Errorf("a snapshot from before the restore gives something else after it (%v)", err)
	}
	if err := errors.Join(r.Close(), snap.Close()); err != nil {
		t.Error(err)
	}
	if dump(t, s, 1) != new {
		t.Error("after compactions the new view is another")
	}
}

// A restore waits for the open stage, and a stage for the restore; whoever does
// not want to wait gives up with the old view in place.
func TestRestoreAndStages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := mustOpen(t, config(durable.NewCrashable(), 4))
		mustApply(t, source, 1, 9)
		stream, mark := streamOf(t, source, 1)
		s := mustOpen(t, config(durable.NewCrashable(), 4))
		mustApply(t, s, 1, 1)
		st, err := s.Shard(1).Stage()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Shard(1).Stage(); err == nil {
			t.Error("a second stage")
		}
		brief, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := s.Shard(1).Restore(brief, mark, bytes.NewReader(stream)); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("restored under an open stage: %v", err)
		}
		ended := make(chan error, 1)
		go func() { ended <- s.Shard(1).Restore(context.Background(), mark, bytes.NewReader(stream)) }()
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("it did not wait for the stage: %v", err)
		default:
		}
		if err := s.Shard(1).Restore(context.Background(), mark, bytes.NewReader(stream)); err == nil {
			t.Error("two restores at once")
		}
		if err := st.Commit(markOf(2)); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if at := s.Shard(1).Mark().Index; at != 9 {
			t.Errorf("it stands at %d", at)
		}
		mustApply(t, s, 1, 10)
		for _, s := range []*Store{s, source} {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// A view that has gone past a snapshot while that was read is not taken back.
func TestRestoreIsOvertaken(t *testing.T) {
	source := filled(t, durable.NewCrashable(), 20)
	stream, mark := streamOf(t, source, 1)
	s := filled(t, durable.NewCrashable(), 15)
	slow, feed := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- s.Shard(1).Restore(context.Background(), mark, slow) }()
	if _, err := feed.Write(stream[:len(stream)/2]); err != nil {
		t.Fatal(err)
	}
	for i := 17; i <= 30; i++ {
		mustApply(t, s, 1, i)
	}
	want := dump(t, s, 1)
	if _, err := feed.Write(stream[len(stream)/2:]); err != nil {
		t.Fatal(err)
	}
	_ = feed.Close()
	if err := <-ended; err == nil || dump(t, s, 1) != want {
		t.Errorf("a view at 30 was taken back to %d: %v", s.Shard(1).Mark().Index, err)
	}
}

// A store that closes ends its snapshots and refuses restores; neither is waited
// for, as both hang on peers.
func TestCloseEndsSnapshots(t *testing.T) {
	s := filled(t, durable.NewCrashable(), 60)
	stream, mark := streamOf(t, s, 1)
	snap, err := s.Shard(1).Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := snap.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	slow, feed := io.Pipe()
	restored := make(chan error, 1)
	go func() { restored <- s.Shard(1).Restore(context.Background(), mark, slow) }()
	if _, err := feed.Write(stream[:len(stream)/2]); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(snap); !errors.Is(err, ErrClosed) {
		t.Errorf("the snapshot of a closed store: %v", err)
	}
	go func() { _, _ = feed.Write(stream[len(stream)/2:]); _ = feed.Close() }() // it stops reading anywhere
	if err := <-restored; !errors.Is(err, ErrClosed) {
		t.Errorf("restored into a closed store: %v", err)
	}
	_ = slow.Close()
	if _, err := s.Shard(1).Snapshot(); !errors.Is(err, ErrClosed) {
		t.Errorf("a snapshot of a closed store: %v", err)
	}
	if err := snap.Close(); err != nil {
		t.Error(err)
	}
}

// A disk that is nearly full refuses a snapshot before it is full, unfenced.
func TestRestoreNeedsRoom(t *testing.T) {
	source := filled(t, durable.NewCrashable(), 20)
	stream, mark := streamOf(t, source, 1)
	s := filled(t, &smallDisk{durable.NewCrashable()}, 10)
	before := dump(t, s, 1)
	if err := s.Shard(1).Restore(context.Background(), mark, bytes.NewReader(stream)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("with no room: %v", err)
	}
	if s.Err() != nil || dump(t, s, 1) != before {
		t.Errorf("the store suffered: %v", s.Err())
	}
}

type smallDisk struct{ durable.FS }

func (smallDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: incomingSpare - 1, TotalBytes: 1 << 40}, nil
}

// Equal views have equal digests, however they came to be; any difference shows.
func TestDigest(t *testing.T) {
	digest := func(s *Store) [32]byte {
		t.Helper()
		r, err := s.Shard(1).Reader()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		read := 0
		sum, err := r.Digest(context.Background(), func(_ context.Context, n int) error { read += n; return nil })
		if err != nil {
			t.Fatal(err)
		}
		if read == 0 {
			t.Error("it read nothing")
		}
		return sum
	}
	a, b := filled(t, durable.NewCrashable(), 40), filled(t, durable.NewCrashable(), 40)
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	stream, mark := streamOf(t, a, 1)
	c := filled(t, durable.NewCrashable(), 10)
	if err := c.Shard(1).Restore(context.Background(), mark, bytes.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	want := digest(a)
	if digest(b) != want || digest(c) != want {
		t.Error("equal views have different digests")
	}
	for name, change := range map[string]func(st *Stage){
		"a value": func(st *Stage) { _ = st.Set(key(1, 1), []byte("other")) },
		"a key":   func(st *Stage) { _ = st.Set(append(key(1, 1), 'x'), nil) },
		"a note":  func(st *Stage) { st.SetNote("name", []byte("other")) },
		"nothing but the mark": func(*Stage) {
		},
	} {
		d := filled(t, durable.NewCrashable(), 40)
		st, err := d.Shard(1).Stage()
		if err != nil {
			t.Fatal(err)
		}
		change(st)
		if err := st.Commit(markOf(100)); err != nil {
			t.Fatal(err)
		}
		if digest(d) == want {
			t.Errorf("%s changed, and the digest did not", name)
		}
	}
	r, err := a.Shard(1).Reader()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	stop := errors.New("stop")
	if _, err := r.Digest(context.Background(), func(context.Context, int) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("stopped: %v", err)
	}
}
