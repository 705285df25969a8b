package durable

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Watch wraps a file system so that failed is told of the first and every later
// error of an operation that durability stands on: writing, syncing, creating,
// renaming, linking. It is told before the caller sees the error, so a store
// that fences in failed can never acknowledge what the error took away, however
// the code between treats it. failed may be called from any goroutine,
// concurrently, and must not use the file system or block.
func Watch(fs FS, failed func(error)) FS {
	return &watchFS{FS: fs, failed: failed}
}

type watchFS struct {
	FS
	failed func(error)
}

func (w *watchFS) note(op, name string, err error) error {
	if err != nil {
		w.failed(fmt.Errorf("%s %s: %w", op, name, err))
	}
	return err
}

func (w *watchFS) wrap(op, name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return f, w.note(op, name, err)
	}
	return &watchFile{File: f, fs: w, name: name}, nil
}

func (w *watchFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := w.FS.Create(name, c)
	return w.wrap("create", name, f, err)
}

func (w *watchFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := w.FS.ReuseForWrite(from, to, c)
	return w.wrap("reuse", to, f, err)
}

func (w *watchFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := w.FS.OpenReadWrite(name, c, opts...)
	return w.wrap("open for writing", name, f, err)
}

func (w *watchFS) OpenDir(name string) (vfs.File, error) {
	f, err := w.FS.OpenDir(name)
	return w.wrap("open folder", name, f, err)
}

func (w *watchFS) Link(from, to string) error {
	return w.note("link", to, w.FS.Link(from, to))
}

func (w *watchFS) Rename(from, to string) error {
	return w.note("rename", to, w.FS.Rename(from, to))
}

// Unwrap implements vfs.FS.
func (w *watchFS) Unwrap() FS { return w.FS }

type watchFile struct {
	vfs.File
	fs   *watchFS
	name string
}

func (f *watchFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	return n, f.fs.note("write", f.name, err)
}

func (f *watchFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	return n, f.fs.note("write", f.name, err)
}

func (f *watchFile) Sync() error { return f.fs.note("sync", f.name, f.File.Sync()) }

func (f *watchFile) SyncData() error { return f.fs.note("sync", f.name, f.File.SyncData()) }

func (f *watchFile) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	return full, f.fs.note("sync", f.name, err)
}
