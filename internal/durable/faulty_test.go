package durable

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func write(fs FS, name string) error { return WriteFile(fs, name, []byte("words"), 0o600) }

func TestFaultySyncFailsOnce(t *testing.T) {
	f := NewFaulty(vfs.NewMem())
	if err := write(f, "a"); err != nil {
		t.Fatal(err)
	}
	f.FailSync()
	if err := write(f, "b"); !errors.Is(err, syscall.EIO) {
		t.Errorf("the next fsync: %v, want EIO", err)
	}
	if err := write(f, "b"); err != nil {
		t.Errorf("the one after: %v", err)
	}
	if m := f.Met(); m != (Met{SyncErrors: 1}) {
		t.Errorf("met %+v", m)
	}
}

func TestFaultyWithoutSpace(t *testing.T) {
	dir := t.TempDir()
	f := NewFaulty(Disk)
	open, err := f.Create(filepath.Join(dir, "open"), vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	f.SetFull(true)
	if _, err := open.Write([]byte("x")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write: %v, want ENOSPC", err)
	}
	if err := write(f, filepath.Join(dir, "new")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("create: %v, want ENOSPC", err)
	}
	if u, err := f.GetDiskUsage(dir); err != nil || u.AvailBytes != 0 || u.TotalBytes == 0 {
		t.Errorf("usage %+v, %v, want nothing free", u, err)
	}
	if n := f.Met().NoSpace; n != 2 {
		t.Errorf("met %d times, want 2", n)
	}
	f.SetFull(false)
	if _, err := open.Write([]byte("x")); err != nil {
		t.Errorf("write with space back: %v", err)
	}
	if err := errors.Join(open.Close(), write(f, filepath.Join(dir, "new"))); err != nil {
		t.Errorf("create with space back: %v", err)
	}
	if u, err := f.GetDiskUsage(dir); err != nil || u.AvailBytes == 0 {
		t.Errorf("usage %+v, %v, want some free", u, err)
	}
}

func TestFaultySlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFaulty(vfs.NewMem())
		f.SetSlow(20 * time.Millisecond)
		began := time.Now()
		if err := write(f, "a"); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d != 20*time.Millisecond || f.Met().SlowSyncs != 1 {
			t.Errorf("took %v, met %+v", d, f.Met())
		}
		f.SetSlow(0)
		began = time.Now()
		if err := write(f, "a"); err != nil || time.Since(began) != 0 || f.Met().SlowSyncs != 1 {
			t.Errorf("took %v after it ended, %v, met %+v", time.Since(began), err, f.Met())
		}
	})
}

// Watch must see what Faulty does: the fence of a store stands on it.
func TestWatchSeesFaults(t *testing.T) {
	f := NewFaulty(vfs.NewMem())
	var seen error
	w := Watch(f, func(err error) { seen = err })
	f.FailSync()
	if err := write(w, "a"); err == nil || !errors.Is(seen, syscall.EIO) {
		t.Errorf("wrote %v, watched %v", err, seen)
	}
}

// A wrapped disk is still a disk: files on it get their permissions.
func TestOnDisk(t *testing.T) {
	f := NewFaulty(Disk)
	if !OnDisk(Disk) || !OnDisk(Watch(f, nil)) || OnDisk(vfs.NewMem()) || OnDisk(NewCrashable()) {
		t.Error("OnDisk is wrong")
	}
	name := filepath.Join(t.TempDir(), "secret")
	if err := write(f, name); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}
