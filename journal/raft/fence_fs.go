package raft

import (
	"os"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/bongsu-im/bongsu/internal/durable"
)

// fenceFS is the file system that Pebble sees. Below it durable.Watch trips the
// fence at the first error; fenceFS then keeps two things from happening.
//
// Pebble ends the process, by unlocking a mutex twice, when a WAL cannot be
// rotated. So errors of the WAL and of syncing folders are not passed on: the
// fence stands already, and no commit is believed behind it.
//
// And since Pebble now goes on behind a fence, nothing that it thinks obsolete
// is removed or reused any more: what was acknowledged stays in the files that
// were synced.
type fenceFS struct {
	durable.FS
	f *fence
}

func (s *fenceFS) down() bool { return s.f.err() != nil }

func isLogFile(name string) bool { return strings.HasSuffix(name, ".log") }

// quietFile wraps a file whose errors Pebble must not see.
func (s *fenceFS) quietFile(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		if s.down() {
			return nowhere{}, nil
		}
		return nil, err
	}
	return &quietFile{File: f, fs: s}, nil
}

func (s *fenceFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if !isLogFile(name) {
		return s.FS.Create(name, c)
	}
	if s.down() {
		return nowhere{}, nil
	}
	return s.quietFile(s.FS.Create(name, c))
}

func (s *fenceFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if s.down() {
		return nowhere{}, nil
	}
	return s.quietFile(s.FS.ReuseForWrite(from, to, c))
}

func (s *fenceFS) OpenDir(name string) (vfs.File, error) {
	f, err := s.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &quietFile{File: f, fs: s}, nil
}

func (s *fenceFS) Remove(name string) error {
	if s.down() {
		return nil
	}
	return s.FS.Remove(name)
}

func (s *fenceFS) RemoveAll(name string) error {
	if s.down() {
		return nil
	}
	return s.FS.RemoveAll(name)
}

// Unwrap implements vfs.FS.
func (s *fenceFS) Unwrap() vfs.FS { return s.FS }

type quietFile struct {
	vfs.File
	fs *fenceFS
}

// hide drops an error that the fence has been tripped by.
func (f *quietFile) hide(err error) error {
	if f.fs.down() {
		return nil
	}
	return err
}

func (f *quietFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	if err != nil && f.fs.down() {
		return len(p), nil
	}
	return n, err
}

func (f *quietFile) Sync() error     { return f.hide(f.File.Sync()) }
func (f *quietFile) SyncData() error { return f.hide(f.File.SyncData()) }
func (f *quietFile) Close() error    { return f.hide(f.File.Close()) }

func (f *quietFile) SyncTo(n int64) (bool, error) {
	full, err := f.File.SyncTo(n)
	return full, f.hide(err)
}

func (f *quietFile) Preallocate(offset, length int64) error {
	return f.hide(f.File.Preallocate(offset, length))
}

func (f *quietFile) Stat() (vfs.FileInfo, error) {
	info, err := f.File.Stat()
	if err != nil && f.fs.down() {
		return nowhere{}.Stat()
	}
	return info, err
}

// nowhere is a WAL behind the fence: what is written to it is gone.
type nowhere struct{}

var _ vfs.File = nowhere{}

func (nowhere) Read([]byte) (int, error)               { return 0, os.ErrInvalid }
func (nowhere) ReadAt([]byte, int64) (int, error)      { return 0, os.ErrInvalid }
func (nowhere) Write(p []byte) (int, error)            { return len(p), nil }
func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (nowhere) Close() error                           { return nil }
func (nowhere) Preallocate(int64, int64) error         { return nil }
func (nowhere) Sync() error                            { return nil }
func (nowhere) SyncTo(int64) (bool, error)             { return true, nil }
func (nowhere) SyncData() error                        { return nil }
func (nowhere) Prefetch(int64, int64) error            { return nil }
func (nowhere) Fd() uintptr                            { return vfs.InvalidFd }

func (nowhere) Stat() (vfs.FileInfo, error) {
	return vfs.NewMem().Stat("/")
}
