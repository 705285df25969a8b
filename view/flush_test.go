package view

import (
	"context"
	"errors"
	"slices"
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

// Run flushes by time, tells of the marks that are durable, and leaves nothing
// to replay that is older.
func TestRunFlushesByTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := durable.NewCrashable()
		cfg := config(fs, 4)
		cfg.FlushEvery = 30 * time.Second
		var calls []string
		var durableMarks []*journalv1.Mark
		cfg.BeforeFlush = func() error { calls = append(calls, "before"); return errors.New("only logged") }
		cfg.AfterFlush = func(m []*journalv1.Mark) { calls = append(calls, "after"); durableMarks = m }
		s, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		time.Sleep(time.Minute) // virtual
		synctest.Wait()
		if len(calls) > 0 {
			t.Error("it flushed nothing at all")
		}
		mustApply(t, s, 1, 1)
		time.Sleep(31 * time.Second) // virtual
		synctest.Wait()
		if !slices.Equal(calls, []string{"before", "after"}) || durableMarks[1].Index != 1 || durableMarks[0].Index != 0 {
			t.Errorf("calls %v, marks %v", calls, durableMarks)
		}
		if m := crashedMark(t, fs); m != 1 {
			t.Errorf("a power cut after the flush leaves entry %d", m)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func crashedMark(t *testing.T, fs *durable.Crashable) uint64 {
	s, err := Open(config(fs.Crash(0, 1), 4))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	return s.Shard(1).Mark().Index
}

// Bytes bring the flush forward, and Commit itself flushes when nobody else does.
func TestFlushByBytes(t *testing.T) {
	fs := durable.NewCrashable()
	cfg := config(fs, 4)
	cfg.FlushBytes, cfg.MaxUnflushedBytes = 10<<10, 40<<10
	var flushes atomic.Int64
	flushed := make(chan struct{}, 1000)
	cfg.AfterFlush = func([]*journalv1.Mark) { flushes.Add(1); flushed <- struct{}{} }
	s := mustOpen(t, cfg)
	i := 0
	for ; flushes.Load() == 0; i++ {
		if i > 1000 {
			t.Fatal("Commit never flushed")
		}
		mustApply(t, s, 1, i+1)
	}
	if s.unflushed.Load() > cfg.MaxUnflushedBytes {
		t.Errorf("%d bytes unflushed", s.unflushed.Load())
	}
	<-flushed
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	for n := flushes.Load(); flushes.Load() == n; i++ {
		mustApply(t, s, 1, i+1)
		if s.unflushed.Load() > cfg.FlushBytes {
			<-flushed // Run was told
		}
	}
	cancel()
	wg.Wait()
}

// failing is a disk whose writes, or reads, fail from some moment on.
func failing(fs vfs.FS, err error, kinds ...errorfs.OpKind) (vfs.FS, *atomic.Bool) {
	var on atomic.Bool
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if on.Load() && slices.Contains(kinds, op.Kind) {
			return err
		}
		return nil
	})), &on
}

// The first failed fsync or a full disk fences: no commit is taken after it,
// nothing hangs, the process lives, and the next start goes on from the last
// completed flush without a rebuild (invariant 7).
func TestFailedWritesFence(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		kinds []errorfs.OpKind
	}{
		"fsync": {syscall.EIO, []errorfs.OpKind{errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo}},
		"space": {syscall.ENOSPC, []errorfs.OpKind{errorfs.OpFileWrite, errorfs.OpCreate}},
	} {
		t.Run(name, func(t *testing.T) {
			fs := durable.NewCrashable()
			bad, on := failing(fs, c.err, c.kinds...)
			s, err := Open(config(bad, 4))
			if err != nil {
				t.Fatal(err)
			}
			for i := 1; i <= 10; i++ {
				mustApply(t, s, 1, i)
			}
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
			mustApply(t, s, 1, 11)
			on.Store(true)
			var fenced *FencedError
			if err := s.Flush(); !errors.As(err, &fenced) || !errors.Is(err, c.err) {
				t.Fatalf("flush on a failing disk: %v", err)
			}
			<-s.Fenced()
			on.Store(false) // a disk that has recovered proves nothing
			if err := apply(t, s, 1, 12); !errors.As(err, &fenced) {
				t.Errorf("commit after the fence: %v", err)
			}
			if _, _, err := have(s, 1); !errors.As(err, &fenced) {
				t.Errorf("read after the fence: %v", err)
			}
			if err := s.Run(context.Background()); !errors.As(err, &fenced) {
				t.Errorf("Run: %v", err)
			}
			if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			again := mustOpen(t, config(fs.Crash(0, 1), 4))
			if at := checkState(t, again, 1); at < 10 {
				t.Errorf("the next start stands at entry %d, 10 were flushed", at)
			}
		})
	}
}

// A read that fails fences, and the next start rebuilds.
func TestFailedReadsFence(t *testing.T) {
	fs := makeStore(t)
	bad, on := failing(fs, syscall.EIO, errorfs.OpFileRead, errorfs.OpFileReadAt)
	s := mustOpen(t, config(bad, 4))
	r, err := s.Shard(1).Reader()
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.Shard(1).Stage()
	if err != nil {
		t.Fatal(err)
	}
	on.Store(true)
	var fenced *FencedError
	if err := r.Scan(nil, nil, false, func([]byte, []byte) bool { return true }); !errors.As(err, &fenced) {
		t.Fatalf("scan on a failing disk: %v", err)
	}
	on.Store(false)
	if _, err := r.Get(key(1, 1)); !errors.As(err, &fenced) {
		t.Errorf("read after the fence: %v", err)
	}
	if err := st.Commit(markOf(100)); !errors.As(err, &fenced) {
		t.Errorf("commit after the fence: %v", err)
	}
	_ = r.Close()
	if got := afterFence(s, fs); got != "damage" {
		t.Error(got)
	}
}

// Troubles of the machine at open are not damage: nothing is to be set aside.
func TestOpenOnATroubledMachine(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EACCES, syscall.EROFS} {
		bad, on := failing(makeStore(t), errno, errorfs.OpFileWrite, errorfs.OpCreate, errorfs.OpFileSync)
		on.Store(true)
		_, err := Open(config(bad, 4))
		var damaged *DamagedError
		if err == nil || errors.As(err, &damaged) || !errors.Is(err, errno) {
			t.Errorf("%v: %v", errno, err)
		}
	}
}

// While the disk takes no table, so that no flush and no compaction gets on,
// commits and reads do: what they wait for is memory, up to MaxUnflushedBytes.
func TestCommitsDoNotWaitForTheDisk(t *testing.T) {
	fs := durable.NewCrashable()
	free := make(chan struct{})
	var stuck atomic.Bool
	slow := errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpCreate, errorfs.OpFileWrite, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
			// Not the MANIFEST: to close a reader Pebble may wait for a write of it.
			if stuck.Load() && strings.HasSuffix(op.Path, ".sst") {
				<-free
			}
		}
		return nil
	}))
	cfg := config(slow, 4)
	cfg.FlushBytes, cfg.MaxUnflushedBytes = 32<<10, 4<<20
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	const before, after = 100, 1000 // records of about 1.5 KiB, some of them overwritten
	for i := 1; i <= before; i++ {
		mustApply(t, s, 1, i)
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	stuck.Store(true)
	for i := before + 1; i <= after; i++ {
		mustApply(t, s, 1, i) // a wait here would be for ever
	}
	if at := checkState(t, s, 1); at != after {
		t.Errorf("a reader sees entry %d of %d", at, after)
	}
	if s.unflushed.Load() < 10*cfg.FlushBytes {
		t.Errorf("only %d bytes were committed beside the disk: this shows nothing", s.unflushed.Load())
	}
	stuck.Store(false)
	close(free)
	cancel()
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if again := mustOpen(t, config(fs, 4)); checkState(t, again, 1) != after {
		t.Error("not everything is on the disk in the end")
	}
}
