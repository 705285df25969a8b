package durable

import (
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Faulty is a file system that fails when it is told to, for drills: an fsync
// that fails once, a disk without space, a slow disk. What it does not fail it
// passes on.
//
// It is safe for concurrent use. A fault counts when somebody has met it, so
// that a drill can prove that it fired.
type Faulty struct {
	FS

	mu       sync.Mutex
	failSync int           // how many of the next fsyncs fail
	full     bool          // no space
	low      bool          // next to none
	slow     time.Duration // what each fsync takes longer
	met      Met
}

// Met counts how often each fault was met.
type Met struct {
	SyncErrors int // fsyncs that failed
	NoSpace    int // writes that were refused for want of space
	LowSpace   int // times that the disk said it had next to none
	SlowSyncs  int // fsyncs that took longer
}

// NewFaulty returns fs without faults.
func NewFaulty(fs FS) *Faulty { return &Faulty{FS: fs} }

// FailSync lets one more fsync of a file fail with EIO.
func (f *Faulty) FailSync() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failSync++
}

// SetFull takes all free space away, or gives it back.
func (f *Faulty) SetFull(full bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.full = full
}

// SetLow has the disk say that it has next to no space left, while writes go on.
func (f *Faulty) SetLow(low bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.low = low
}

// SetSlow makes each fsync take longer by d; 0 ends it.
func (f *Faulty) SetSlow(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.slow = d
}

// Met returns what has been met so far.
func (f *Faulty) Met() Met {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.met
}

// sync delays or fails an fsync of a file.
func (f *Faulty) sync(name string) error {
	f.mu.Lock()
	var err error
	if f.failSync > 0 {
		f.failSync--
		f.met.SyncErrors++
		err = &os.PathError{Op: "sync", Path: name, Err: syscall.EIO}
	}
	slow := f.slow
	if slow > 0 {
		f.met.SlowSyncs++
	}
	f.mu.Unlock()
	time.Sleep(slow) // outside the lock: a slow disk serves several at once
	return err
}

// room refuses what needs space while there is none.
func (f *Faulty) room(op, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.full {
		return nil
	}
	f.met.NoSpace++
	return &os.PathError{Op: op, Path: name, Err: syscall.ENOSPC}
}

func (f *Faulty) wrap(name string, file vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &faultyFile{File: file, fs: f, name: name}, nil
}

// Create implements vfs.FS.
func (f *Faulty) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.room("open", name); err != nil {
		return nil, err
	}
	file, err := f.FS.Create(name, c)
	return f.wrap(name, file, err)
}

// ReuseForWrite implements vfs.FS.
func (f *Faulty) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.ReuseForWrite(from, to, c)
	return f.wrap(to, file, err)
}

// OpenReadWrite implements vfs.FS.
func (f *Faulty) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	file, err := f.FS.OpenReadWrite(name, c, opts...)
	return f.wrap(name, file, err)
}

// GetDiskUsage implements vfs.FS.
func (f *Faulty) GetDiskUsage(name string) (vfs.DiskUsage, error) {
	u, err := f.FS.GetDiskUsage(name)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err != nil:
	case f.full:
		u.AvailBytes, u.UsedBytes = 0, u.TotalBytes
	case f.low:
		f.met.LowSpace++
		u.AvailBytes, u.UsedBytes = lowBytes, u.TotalBytes-lowBytes
	}
	return u, err
}

// Unwrap implements vfs.FS.
func (f *Faulty) Unwrap() FS { return f.FS }

// lowBytes are left on a disk that has next to nothing.
const lowBytes = 1 << 20

type faultyFile struct {
	vfs.File
	fs   *Faulty
	name string
}

func (f *faultyFile) Write(p []byte) (int, error) {
	if err := f.fs.room("write", f.name); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.room("write", f.name); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *faultyFile) Preallocate(offset, length int64) error {
	if err := f.fs.room("fallocate", f.name); err != nil {
		return err
	}
	return f.File.Preallocate(offset, length)
}

func (f *faultyFile) Sync() error {
	if err := f.fs.sync(f.name); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *faultyFile) SyncData() error {
	if err := f.fs.sync(f.name); err != nil {
		return err
	}
	return f.File.SyncData()
}
