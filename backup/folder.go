package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/bongsu-im/bongsu/internal/durable"
)

// Folder is a store in a folder of the file system: another disk, or one that is
// mounted from another machine.
type Folder struct {
	fs  durable.FS
	dir string
}

// NewFolder returns the store in a folder, which is made when it is first written.
func NewFolder(fs durable.FS, dir string) *Folder { return &Folder{fs: fs, dir: dir} }

// String implements Store.
func (f *Folder) String() string { return f.dir }

func (f *Folder) path(name string) string {
	return f.fs.PathJoin(append([]string{f.dir}, strings.Split(name, "/")...)...)
}

// Put implements Store: written under another name, fsynced, renamed, and the
// folder fsynced, so that a cut leaves at most a file that List does not show.
func (f *Folder) Put(ctx context.Context, name string, data []byte) error {
	if err := errors.Join(checkName(name), ctx.Err()); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	to := f.path(name)
	if err := durable.MkdirAll(f.fs, f.fs.PathDir(to), 0o700); err != nil {
		return fmt.Errorf("put %s: make its folder: %w", name, err)
	}
	if err := durable.WriteFile(f.fs, to, data, 0o600); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	return nil
}

// Get implements Store.
func (f *Folder) Get(ctx context.Context, name string) (data []byte, err error) {
	if err := errors.Join(checkName(name), ctx.Err()); err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	file, err := f.fs.Open(f.path(name))
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	data, err = io.ReadAll(io.LimitReader(file, MaxObjectBytes+1))
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	if len(data) > MaxObjectBytes {
		return nil, fmt.Errorf("get %s: larger than %d bytes", name, MaxObjectBytes)
	}
	return data, nil
}

// List implements Store.
func (f *Folder) List(ctx context.Context, prefix string, fn func(Object) error) error {
	err := f.list(ctx, "", prefix, fn)
	if err != nil {
		return fmt.Errorf("list %s: %w", f.dir, err)
	}
	return nil
}

// list goes through one folder of the store. Names are sorted as if folders had
// their slash, which is the order of whole names.
func (f *Folder) list(ctx context.Context, folder, prefix string, fn func(Object) error) error {
	names, err := f.fs.List(f.path(folder))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	type item struct {
		name string // with a slash at the end for a folder
		size int64
	}
	var items []item
	for _, n := range names {
		n = f.fs.PathBase(n) // some file systems list whole paths
		full := path.Join(folder, n)
		if checkName(full) != nil || strings.HasSuffix(n, ".new") {
			continue // not ours, or half written
		}
		info, err := f.fs.Stat(f.path(full))
		switch {
		case errors.Is(err, os.ErrNotExist): // removed meanwhile
		case err != nil:
			return err
		case info.IsDir():
			items = append(items, item{full + "/", 0})
		default:
			items = append(items, item{full, info.Size()})
		}
	}
	slices.SortFunc(items, func(a, b item) int { return strings.Compare(a.name, b.name) })
	for _, i := range items {
		if err := ctx.Err(); err != nil {
			return err
		}
		within := strings.HasPrefix(i.name, prefix)
		if sub, isFolder := strings.CutSuffix(i.name, "/"); isFolder {
			if within || strings.HasPrefix(prefix, i.name) {
				if err := f.list(ctx, sub, prefix, fn); err != nil {
					return err
				}
			}
			continue
		}
		if within {
			if err := fn(Object{Name: i.name, Bytes: i.size}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Delete implements Store. It is not made durable: an object that a power cut
// brings back is one too many, not one too few.
func (f *Folder) Delete(ctx context.Context, name string) error {
	if err := errors.Join(checkName(name), ctx.Err()); err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	if err := f.fs.Remove(f.path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}
