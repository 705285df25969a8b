package view

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sort"
	"strings"
	"syscall"

	"github.com/bongsu-im/bongsu/internal/clock"
	"github.com/bongsu-im/bongsu/internal/durable"
)

// markerName is the file that a fence over damage leaves in the directory.
// That it exists is all it says; its content is for people.
const markerName = "DAMAGED"

// keptAside is how many damaged views are kept for those who want to know why.
const keptAside = 2

// DamagedError: the view on disk cannot be trusted. Nothing of it was served.
// It is to be set aside and made again from the journal.
type DamagedError struct {
	Dir   string
	Cause error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("view in %s is damaged: %v", e.Dir, e.Cause)
}

func (e *DamagedError) Unwrap() error { return e.Cause }

// classify tells damage from troubles of the machine. What is not known to be
// such a trouble counts as damage: a view made again from the journal is
// right, one that was wrongly trusted is not.
func classify(dir string, err error) error {
	var damaged *DamagedError
	if errors.As(err, &damaged) {
		return damaged
	}
	for _, machine := range []error{
		fs.ErrPermission, syscall.EAGAIN, syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS,
		syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM,
	} {
		if errors.Is(err, machine) {
			return err
		}
	}
	// The memory file system and other platforms have only words for this.
	if text := err.Error(); strings.Contains(text, "lock held") || strings.Contains(text, "already locked") {
		return err
	}
	return &DamagedError{Dir: dir, Cause: err}
}

func checkMarker(fsys durable.FS, dir string) error {
	path := fsys.PathJoin(dir, markerName)
	_, err := fsys.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return classify(dir, fmt.Errorf("look for %s: %w", path, err))
	}
	return &DamagedError{Dir: dir, Cause: errors.New("damage was met when it last ran")}
}

// writeMarker makes the next Open refuse this directory. It does what it can:
// the disk may be the very thing that fails, and then the damage is met again.
func (s *Store) writeMarker(cause error) {
	path := s.cfg.FS.PathJoin(s.cfg.Dir, markerName)
	if err := durable.WriteFile(s.cfg.FS, path, []byte(cause.Error()+"\n"), 0o600); err != nil {
		s.log.Error("the view is damaged and could not be marked so", "error", err)
	}
}

// SetAside renames the directory of a damaged view to dir.damaged-<UTC time>
// and returns the new name, so that Open makes an empty view in its place. The
// two newest set aside are kept, older ones are removed. The store must not be
// open.
func SetAside(fsys durable.FS, dir string, now clock.Clock) (string, error) {
	stem := dir + ".damaged-"
	aside := stem + now.Now().UTC().Format("20060102T150405.000Z")
	for n := 2; ; n++ {
		if _, err := fsys.Stat(aside); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil || n > 1000 {
			return "", fmt.Errorf("set damaged view aside: %w", errors.Join(err, fs.ErrExist))
		}
		aside = fmt.Sprintf("%s%s-%d", stem, now.Now().UTC().Format("20060102T150405.000Z"), n)
	}
	if err := fsys.Rename(dir, aside); err != nil {
		return "", fmt.Errorf("set damaged view aside: %w", err)
	}
	parent := fsys.PathDir(dir)
	if err := durable.SyncDir(fsys, parent); err != nil {
		return "", fmt.Errorf("set damaged view aside: %w", err)
	}
	return aside, removeOldAside(fsys, parent, fsys.PathBase(stem), fsys.PathBase(aside))
}

func removeOldAside(fsys durable.FS, parent, stem, newest string) error {
	names, err := fsys.List(parent)
	if err != nil {
		return fmt.Errorf("list damaged views: %w", err)
	}
	var old []string
	for _, name := range names {
		if strings.HasPrefix(name, stem) && name != newest {
			old = append(old, name)
		}
	}
	if len(old) < keptAside {
		return nil
	}
	sort.Strings(old) // their names are times
	for len(old) >= keptAside {
		if err := fsys.RemoveAll(fsys.PathJoin(parent, old[0])); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("remove damaged view %s: %w", old[0], err)
		}
		old = old[1:]
	}
	if err := durable.SyncDir(fsys, parent); err != nil {
		return fmt.Errorf("remove damaged views: %w", err)
	}
	return nil
}
