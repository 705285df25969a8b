package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"syscall"

	"github.com/bongsu-im/bongsu/internal/durable"
)

// layoutVersion is the version of the data folder's shape.
const layoutVersion = 1

// identity is what a data folder says of itself; it never changes once written.
type identity struct {
	Layout int    `json:"layout"`
	Cell   uint16 `json:"cell"`
	Node   uint64 `json:"node"`
	Shards int    `json:"shards"`
	// Journal is where the journal is: in the folder if empty.
	Journal string `json:"journal,omitempty"`
	// Cluster is whose member this folder was made to be; empty if it began one.
	Cluster string `json:"cluster,omitempty"`
	// Replaces is the member whose place this one takes; 0 if none.
	Replaces uint64 `json:"replaces,omitempty"`
	// Check is the CRC-32C of the others: a flipped bit in the cell would give
	// new IDs that belong to someone else.
	Check uint32 `json:"check"`
}

// sum is the checksum of everything but itself.
func (i identity) sum() uint32 {
	text := fmt.Appendf(nil, "%d %d %d %d", i.Layout, i.Cell, i.Node, i.Shards)
	if i.Journal != builtIn { // folders of before there was a choice keep their sum
		text = append(append(text, ' '), i.Journal...)
	}
	if i.Cluster != "" {
		text = fmt.Appendf(text, " cluster %s %d", i.Cluster, i.Replaces)
	}
	return crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli))
}

// identityError: node.json is not what was written.
type identityError struct {
	file  string
	cause error
}

func (e *identityError) Error() string { return fmt.Sprintf("%s is damaged: %v", e.file, e.cause) }
func (e *identityError) Unwrap() error { return e.cause }

// Layout names the places in a data folder.
type Layout struct{ Dir string }

// Journal is the folder of the journal store; losing it loses messages.
func (l Layout) Journal() string { return filepath.Join(l.Dir, "journal") }

// PostgresMarks is the folder of what this node knows of a journal on
// PostgreSQL; losing it loses the proof that a database was set back.
func (l Layout) PostgresMarks() string { return filepath.Join(l.Dir, "journal-postgres") }

// View is the folder of the view store; it can be deleted and is rebuilt.
func (l Layout) View() string { return filepath.Join(l.Dir, "view") }

// Keys is the folder of the keys that sign tokens.
func (l Layout) Keys() string { return filepath.Join(l.Dir, keysFolder) }

const keysFolder = "keys"

// Roster is the file of who else is in the cluster; it is learned again from
// any node.
func (l Layout) Roster() string { return filepath.Join(l.Dir, "roster") }

func (l Layout) identity() string { return filepath.Join(l.Dir, "node.json") }
func (l Layout) lock() string     { return filepath.Join(l.Dir, "LOCK") }

// alone is the identity of a new folder that is the beginning of a cluster.
func alone(shards int, kind string) func() (identity, error) {
	return func() (identity, error) {
		return identity{Layout: layoutVersion, Cell: 0, Node: 1, Shards: shards, Journal: kind}, nil
	}
}

// claim makes the folder if it is missing, locks it against a second process,
// and reads its identity, or writes the one that first draws for a new folder.
// release undoes the lock.
func (l Layout) claim(fs durable.FS, kind string, first func() (identity, error)) (id identity, release func(), err error) {
	if err := durable.MkdirAll(fs, l.Dir, 0o700); err != nil {
		return id, nil, fmt.Errorf("make data folder: %w", err)
	}
	release = func() {}
	if durable.OnDisk(fs) {
		f, err := os.OpenFile(l.lock(), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return id, nil, fmt.Errorf("open lock: %w", err)
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			return id, nil, errors.Join(fmt.Errorf("data folder %s is in use by another process", l.Dir), f.Close())
		}
		release = func() { _ = f.Close() } // closing gives the lock back; the kernel does it for a killed process
	}
	id, err = l.read(fs)
	if errors.Is(err, os.ErrNotExist) {
		for _, sign := range []string{l.Journal(), fs.PathJoin(l.Dir, unfinished)} {
			if _, statErr := fs.Stat(sign); statErr == nil {
				release()
				return id, nil, &identityError{l.identity(), errors.New("it is missing and there is a journal: restore it rather than begin anew")}
			}
		}
		if id, err = first(); err == nil {
			id.Check = id.sum()
			err = l.write(fs, id)
		}
	}
	if err == nil && id.Check != id.sum() {
		err = &identityError{l.identity(), errors.New("its checksum does not agree")}
	}
	if err == nil && id.Layout != layoutVersion {
		err = fmt.Errorf("data folder %s has layout %d, this release knows %d", l.Dir, id.Layout, layoutVersion)
	}
	if err == nil && (id.Shards < 1 || id.Shards > 256 || id.Node == 0) {
		err = &identityError{l.identity(), fmt.Errorf("%d shards, node %d", id.Shards, id.Node)}
	}
	if err == nil {
		err = id.checkKind(l.Dir, kind)
	}
	if err != nil {
		release()
		return id, nil, err
	}
	return id, release, nil
}

func (l Layout) read(fs durable.FS) (id identity, err error) {
	b, err := durable.ReadFile(fs, l.identity())
	if err != nil {
		return id, fmt.Errorf("read identity: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.DisallowUnknownFields() // a flipped bit in a name is damage, not a new field
	if err := decoder.Decode(&id); err != nil {
		return id, &identityError{l.identity(), err}
	}
	return id, nil
}

func (l Layout) write(fs durable.FS, id identity) error {
	b, err := json.Marshal(id)
	if err != nil {
		return err
	}
	return durable.WriteFile(fs, l.identity(), append(b, '\n'), 0o600)
}
