package raft

import (
	"context"
	"log/slog"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/highwater"
	"github.com/bongsu-im/bongsu/journal/journaltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rigged is a file system whose syncs, writes and free space a test decides on.
type rigged struct {
	durable.FS
	syncs atomic.Int64
	bytes atomic.Int64

	mu sync.Mutex
	// onSync is asked before a file is synced: an error is returned instead,
	// errSwallow pretends success.
	onSync func(name string) error
	// onWrite is asked before a write.
	onWrite func(name string) error
	// onCreate is asked before a file is made.
	onCreate func(name string) error
	usage    *vfs.DiskUsage
}

type swallow struct{}

func (swallow) Error() string { return "swallowed" }

func (r *rigged) set(f func(*rigged)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r)
}

func (r *rigged) wrap(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &riggedFile{File: f, r: r, name: name}, nil
}

func (r *rigged) creating(name string) error {
	r.mu.Lock()
	hook := r.onCreate
	r.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(name)
}

func (r *rigged) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := r.creating(name); err != nil {
		return nil, err
	}
	f, err := r.FS.Create(name, c)
	return r.wrap(name, f, err)
}

func (r *rigged) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := r.creating(to); err != nil {
		return nil, err
	}
	f, err := r.FS.ReuseForWrite(from, to, c)
	return r.wrap(to, f, err)
}

func (r *rigged) OpenDir(name string) (vfs.File, error) {
	f, err := r.FS.OpenDir(name)
	return r.wrap(name, f, err)
}

func (r *rigged) GetDiskUsage(p string) (vfs.DiskUsage, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.usage != nil {
		return *r.usage, nil
	}
	return r.FS.GetDiskUsage(p)
}

type riggedFile struct {
	vfs.File
	r    *rigged
	name string
}

func (f *riggedFile) Write(p []byte) (int, error) {
	f.r.mu.Lock()
	hook := f.r.onWrite
	f.r.mu.Unlock()
	if hook != nil {
		if err := hook(f.name); err != nil {
			return 0, err
		}
	}
	f.r.bytes.Add(int64(len(p)))
	return f.File.Write(p)
}

func (f *riggedFile) sync(really func() error) error {
	f.r.syncs.Add(1)
	f.r.mu.Lock()
	hook := f.r.onSync
	f.r.mu.Unlock()
	if hook != nil {
		switch err := hook(f.name).(type) {
		case nil:
		case swallow:
			return nil
		default:
			return err
		}
	}
	return really()
}

func (f *riggedFile) Sync() error     { return f.sync(f.File.Sync) }
func (f *riggedFile) SyncData() error { return f.sync(f.File.SyncData) }
func (f *riggedFile) SyncTo(n int64) (full bool, err error) {
	err = f.sync(func() (err error) { full, err = f.File.SyncTo(n); return })
	return full, err
}

func isWAL(name string) bool { return strings.HasSuffix(name, ".log") }

func isMarks(name string) bool { return strings.HasPrefix(path.Base(name), "marks.") }

// config is what the tests open with: small, so that files turn over.
func config(fs durable.FS, shards int) Config {
	return Config{Dir: "/data", FS: fs, Shards: shards, MemTableBytes: 1 << 20, CacheBytes: 64 << 10, Logger: slog.New(slog.DiscardHandler)}
}

func mustOpen(t testing.TB, cfg Config) *Journal {
	t.Helper()
	j, err := Open(cfg)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return j
}

func mustLease(t testing.TB, l journal.Log) journal.Lease {
	t.Helper()
	lease, err := l.Lease(t.Context())
	if err != nil {
		t.Fatalf("lease: %v", err)
	}
	return lease
}

func mustAppend(t testing.TB, l journal.Log, lease journal.Lease, data string) journal.Position {
	t.Helper()
	p, err := l.Append(t.Context(), lease, []byte(data))
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	return p
}

// instance runs the contract's suite on a crashable disk; a kill is a power cut
// that keeps only what was synced.
type instance struct {
	cfg  Config
	disk *durable.Crashable
	rig  *rigged
	j    *Journal
}

func newInstance(t *testing.T, shards int) *instance {
	in := &instance{}
	in.open(t, durable.NewCrashable(), shards)
	return in
}

func (in *instance) open(t *testing.T, disk *durable.Crashable, shards int) {
	t.Helper()
	in.disk, in.rig = disk, &rigged{FS: disk}
	in.cfg = config(in.rig, shards)
	in.j = mustOpen(t, in.cfg)
	if d := in.j.Damage(); len(d) > 0 {
		t.Fatalf("opened with damage: %v", d)
	}
}

func (in *instance) Journal() journal.Journal { return in.j }

func (in *instance) Reopen(t *testing.T, kill bool) {
	t.Helper()
	disk := in.disk
	if kill {
		disk = in.disk.Crash(0, 0)
	}
	if err := in.j.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	in.open(t, disk, in.cfg.Shards)
}

func (in *instance) Fence(*testing.T) {
	in.rig.set(func(r *rigged) {
		r.onSync = func(name string) error { return errBroken }
	})
}

// LoseTail takes entries out of the store and out of what the marks prove: the
// loss that nothing notices at the start.
func (in *instance) LoseTail(t *testing.T, shard journal.ShardID, p journal.Position) {
	t.Helper()
	if err := in.j.Close(); err != nil {
		t.Fatal(err)
	}
	cutTail(t, in.cfg, shard, uint64(p.Index), true)
	in.open(t, in.disk, in.cfg.Shards)
}

// cutTail removes entries from index on, as if they had never been written.
func cutTail(t testing.TB, cfg Config, shard journal.ShardID, index uint64, marksToo bool) {
	t.Helper()
	j, err := load(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	l := j.groups[shard].log
	l.commit = index - 1 // lets stage drop what was committed
	b := j.store.db.NewBatch()
	for _, s := range l.spans {
		if s.start >= index {
			if err := b.Delete(key(shard, keySpan, s.term), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	commit := min(l.hard.GetCommit(), index-1)
	l.hard.Commit = &commit
	if err := b.Set(key(shard, keyHardState, 0), encodeHardState(shard, l.hard), nil); err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteRange(key(shard, keyEntry, index), key(shard, keyEntry, 1<<60), nil); err != nil {
		t.Fatal(err)
	}
	if err := j.store.commit(b, true); err != nil {
		t.Fatal(err)
	}
	if marksToo {
		next := append([]highwater.Mark(nil), j.marks.durable...)
		next[shard] = highwater.Mark{}
		for range highwater.Copies {
			if err := j.marks.write(next); err != nil {
				t.Fatal(err)
			}
		}
	}
}

type broken struct{}

func (broken) Error() string { return "the disk is broken" }

var (
	errBroken = broken{}
	bg        = context.Background()
)

func TestContract(t *testing.T) {
	journaltest.Run(t, func(t *testing.T, shards int) journaltest.Instance { return newInstance(t, shards) })
}
