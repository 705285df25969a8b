package durable

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// maxFileBytes bounds what ReadFile takes in: small files of our own only.
const maxFileBytes = 4 << 20

// ReadFile returns the content of a small file. A missing one gives an error
// that is os.ErrNotExist.
func ReadFile(fs FS, name string) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	err = errors.Join(err, f.Close())
	if err == nil && len(b) > maxFileBytes {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxFileBytes)
	}
	return b, err
}

// WriteFile replaces a small file whole: after a crash at any moment it has
// either its old content or all of the new. perm is set where fs is on the disk.
//
// The order is the point: content fsynced under another name, renamed over,
// then the folder fsynced, or the name could be lost with the power.
func WriteFile(fs FS, name string, content []byte, perm os.FileMode) (err error) {
	temporary := name + ".new"
	f, err := fs.Create(temporary, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if OnDisk(fs) {
		err = os.Chmod(temporary, perm)
	}
	if err == nil {
		_, err = f.Write(content)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fs.Rename(temporary, name); err != nil {
		return err
	}
	return SyncDir(fs, fs.PathDir(name))
}

// SyncDir makes the names in a folder durable.
func SyncDir(fs FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// MkdirAll makes a folder with those above it and makes their names durable: a
// folder whose name was never synced goes with the power, and everything
// fsynced inside it. Folders that were there already are synced too: whoever
// made them may have been killed before it came to that.
func MkdirAll(fs FS, dir string, perm os.FileMode) error {
	if err := fs.MkdirAll(dir, perm); err != nil {
		return err
	}
	for {
		parent := fs.PathDir(dir)
		if parent == dir {
			return nil
		}
		if err := SyncDir(fs, parent); err != nil {
			if errors.Is(err, os.ErrPermission) {
				return nil // not ours, so it was there before
			}
			return err
		}
		dir = parent
	}
}
