package durable

import "github.com/cockroachdb/pebble/v2/vfs"

// Hooks are asked before what a file system does, for simulations: Sync before
// each fsync of a file or folder, Write before each write and each file that is
// made. An error is returned instead of doing it. Free says how much space there
// is. Each may be nil, and is called from any goroutine.
type Hooks struct {
	Sync  func(name string) error
	Write func(name string) error
	Free  func() uint64
}

// Hook returns fs with hooks before it.
func Hook(fs FS, h Hooks) FS { return &hookFS{FS: fs, h: h} }

type hookFS struct {
	FS
	h Hooks
}

func ask(hook func(string) error, name string) error {
	if hook == nil {
		return nil
	}
	return hook(name)
}

func (h *hookFS) wrap(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &hookFile{File: f, h: h.h, name: name}, nil
}

// Create implements vfs.FS.
func (h *hookFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := ask(h.h.Write, name); err != nil {
		return nil, err
	}
	f, err := h.FS.Create(name, c)
	return h.wrap(name, f, err)
}

// ReuseForWrite implements vfs.FS.
func (h *hookFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := h.FS.ReuseForWrite(from, to, c)
	return h.wrap(to, f, err)
}

// OpenReadWrite implements vfs.FS.
func (h *hookFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := h.FS.OpenReadWrite(name, c, opts...)
	return h.wrap(name, f, err)
}

// OpenDir implements vfs.FS.
func (h *hookFS) OpenDir(name string) (vfs.File, error) {
	f, err := h.FS.OpenDir(name)
	return h.wrap(name, f, err)
}

// GetDiskUsage implements vfs.FS.
func (h *hookFS) GetDiskUsage(name string) (vfs.DiskUsage, error) {
	if h.h.Free == nil {
		return h.FS.GetDiskUsage(name)
	}
	const total = 1 << 40
	free := min(h.h.Free(), total)
	return vfs.DiskUsage{AvailBytes: free, TotalBytes: total, UsedBytes: total - free}, nil
}

// Unwrap implements vfs.FS.
func (h *hookFS) Unwrap() FS { return h.FS }

type hookFile struct {
	vfs.File
	h    Hooks
	name string
}

func (f *hookFile) Write(p []byte) (int, error) {
	if err := ask(f.h.Write, f.name); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *hookFile) WriteAt(p []byte, off int64) (int, error) {
	if err := ask(f.h.Write, f.name); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *hookFile) Sync() error {
	if err := ask(f.h.Sync, f.name); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *hookFile) SyncData() error {
	if err := ask(f.h.Sync, f.name); err != nil {
		return err
	}
	return f.File.SyncData()
}

func (f *hookFile) SyncTo(n int64) (bool, error) {
	if err := ask(f.h.Sync, f.name); err != nil {
		return false, err
	}
	return f.File.SyncTo(n)
}
