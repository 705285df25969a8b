package view

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/bongsu-im/bongsu/internal/durable"
)

// What the cells remember follows what is committed and discarded, and is
// bounded by more than it was asked to keep.
func TestCellsAreBounded(t *testing.T) {
	s := mustOpen(t, config(durable.NewCrashable(), 4))
	sh, truth := s.Shard(2), map[string][]byte{}
	sh.cells.limit = 512 << 10
	rng := rand.New(rand.NewPCG(seedOf(t), 1))
	largest := 0
	for index := 1; index <= 100; index++ {
		st, err := sh.Stage()
		if err != nil {
			t.Fatal(err)
		}
		commit, staged := rng.IntN(4) > 0, map[string][]byte{}
		for range 500 {
			k := key(2, rng.IntN(15_000))
			have, own := staged[string(k)]
			if !own {
				have = truth[string(k)]
			}
			if got, err := st.Get(k); err != nil || !bytes.Equal(got, have) || (got == nil) != (have == nil) {
				t.Fatalf("stage %d: %s is %q, %v; want %q", index, k, got, err, have)
			}
			switch rng.IntN(3) {
			case 0:
				v := bytes.Repeat([]byte{byte(index)}, rng.IntN(2*maxKeptValue))
				staged[string(k)] = bytes.Clone(v)
				err = st.Set(k, v)
			case 1:
				staged[string(k)] = nil
				err = st.Delete(k)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if !commit {
			st.Discard()
		} else if err := st.Commit(markOf(index)); err != nil {
			t.Fatal(err)
		} else {
			for k, v := range staged {
				if truth[k] = v; v == nil {
					delete(truth, k)
				}
			}
		}
		sum := 0
		for _, c := range sh.cells.byKey {
			sum += len(c.key) + len(c.value) + cellOverhead
		}
		if sum != sh.cells.bytes {
			t.Fatalf("stage %d: counted %d bytes, there are %d", index, sh.cells.bytes, sum)
		}
		largest = max(largest, sum)
		// What one stage brings comes on top.
		if sum > sh.cells.limit+500*(2*maxKeptValue+cellOverhead) {
			t.Fatalf("stage %d: %d bytes are kept, the bound is %d", index, sum, sh.cells.limit)
		}
	}
	if largest < sh.cells.limit {
		t.Errorf("the bound of %d bytes was never reached, only %d", sh.cells.limit, largest)
	}
}

// Above is right when more prefixes were asked about than are remembered, and
// remembers no more.
func TestBoundsAreBounded(t *testing.T) {
	s := mustOpen(t, config(durable.NewCrashable(), 4))
	sh := s.Shard(1)
	k := func(room, n int) []byte {
		b := binary.BigEndian.AppendUint32([]byte{0x04, 0x00}, uint32(room))
		return append(b, byte(n))
	}
	highest := map[int]int{}
	rng := rand.New(rand.NewPCG(seedOf(t), 2))
	sure, sets := 0, 0
	for index := 1; index <= 60; index++ {
		st, err := sh.Stage()
		if err != nil {
			t.Fatal(err)
		}
		for range 500 {
			room, n := rng.IntN(2*maxBounds), 1+rng.IntN(200)
			if rng.IntN(10) > 0 { // else: as a replay does, which asks nothing
				above, err := st.Above(k(room, n), 6)
				if err != nil || above && n <= highest[room] {
					t.Fatalf("%d of room %d is above: %v, %v; there is %d", n, room, above, err, highest[room])
				}
				if above {
					sure++
				}
			}
			sets++
			if err := st.Set(k(room, n), nil); err != nil {
				t.Fatal(err)
			}
			highest[room] = max(highest[room], n)
		}
		if err := st.Commit(markOf(index)); err != nil {
			t.Fatal(err)
		}
		if n := len(sh.bounds.byPrefix); n > maxBounds+500 {
			t.Fatalf("%d prefixes are remembered, the bound is %d", n, maxBounds)
		}
	}
	if sure < sets/3 {
		t.Errorf("of %d keys only %d were known to be above", sets, sure)
	}
}

// Readers of a shard whose owner goes on see the state after some record,
// never one from before what was committed when they asked; so does the disk.
func TestReadersWhileCommitting(t *testing.T) {
	fs := durable.NewCrashable()
	cfg := config(fs, 4)
	cfg.FlushBytes = 64 << 10
	s := mustOpen(t, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	const records = 400
	for n := range 2 {
		wg.Go(func() {
			for i := 1; i <= records; i++ {
				if err := apply(t, s, n, i); err != nil {
					t.Errorf("apply: %v", err)
					return
				}
			}
		})
		wg.Go(func() {
			for at := uint64(0); at < records && ctx.Err() == nil; {
				before := s.Shard(n).Mark().Index
				got, mark, err := have(s, n)
				if err != nil || mark.Index < before || mark.Index < at {
					t.Errorf("read of entry %d after %d was committed and %d read: %v", mark.GetIndex(), before, at, err)
					return
				}
				if at = mark.Index; !same(got, wanted(n, int(at))) {
					t.Errorf("shard %d says entry %d, but its state is not that of records 1 to %d", n, at, at)
					return
				}
			}
		})
	}
	for s.Shard(0).Mark().Index < records || s.Shard(1).Mark().Index < records {
		if t.Failed() {
			break
		}
		again := mustOpenOrRebuild(t, fs.Crash(0.5, 1))
		for n := range 4 {
			checkState(t, again, n)
		}
		_ = again.Close()
	}
	cancel()
	wg.Wait()
}

// What is held is written, with its mark, when the store closes, and no stage
// or reader begins after that.
func TestCloseWritesWhatIsHeld(t *testing.T) {
	fs := durable.NewCrashable()
	cfg := config(fs, 4)
	cfg.HoldBytes = 1 << 20
	s := mustOpen(t, cfg)
	for i := range 3 {
		mustApply(t, s, 3, i+1)
	}
	if s.unflushed.Load() > 0 || !s.holding() {
		t.Fatal("three small records were not held")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"stage": second(s.Shard(3).Stage()), "reader": second(s.Shard(3).Reader())} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("a %s after Close: %v", what, err)
		}
	}
	if again := mustOpen(t, cfg); checkState(t, again, 3) != 3 {
		t.Error("what was held is not there")
	}
}

func second[T any](_ T, err error) error { return err }
