package postgres

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"sync"

	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/highwater"
)

// marksFile is the content of a copy; a line with its CRC-32C follows it.
type marksFile struct {
	Version  int
	Store    string  // the store it is of
	Lineage  lineage // the newest that was seen of its database
	Sequence uint64
	Shards   []highwater.Mark
}

const marksVersion = 1

func encodeMarks(f marksFile) ([]byte, error) {
	b, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("encode marks: %w", err)
	}
	return fmt.Appendf(b, "\n%08x\n", crc32.Checksum(b, castagnoli)), nil
}

func decodeMarks(b []byte) (f marksFile, err error) {
	body, sum, found := bytes.Cut(b, []byte("\n"))
	if want := fmt.Sprintf("%08x\n", crc32.Checksum(body, castagnoli)); !found || string(sum) != want {
		return f, errors.New("checksum mismatch")
	}
	if err := json.Unmarshal(body, &f); err != nil {
		return f, err
	}
	if f.Version != marksVersion {
		return f, fmt.Errorf("version %d, this release knows %d", f.Version, marksVersion)
	}
	return f, nil
}

// marks keeps the high-water marks in two copies on this machine.
//
// Lock order: writing, then a log's mu.
type marks struct {
	highwater.Applied
	fs     durable.FS
	dir    string
	shards int
	end    func(journal.ShardID) (journal.Position, bool) // the proven end; false: leave its mark alone
	fail   func(error) error
	// lineage gives the newest one seen; load finds the one that was saved.
	lineage func() lineage
	seen    lineage

	store  string // set before the first write
	damage []error

	writing sync.Mutex // held through a write
	seq     uint64
	saved   []highwater.Mark
	closed  bool
}

// load reads both copies. What it finds damaged is in damage.
func (m *marks) load() error {
	if err := durable.MkdirAll(m.fs, m.dir, 0o700); err != nil {
		return fmt.Errorf("make folder of the marks: %w", err)
	}
	m.saved = make([]highwater.Mark, m.shards)
	good, absent := 0, 0
	var bad []*highwater.Error
	for _, name := range highwater.Copies {
		f, err := m.read(name)
		if err == nil && len(f.Shards) != m.shards {
			return fmt.Errorf("the marks in %s are of %d shards, not of %d", m.dir, len(f.Shards), m.shards)
		}
		switch {
		case err == nil:
			if good++; f.Sequence > m.seq {
				m.seq, m.saved, m.store, m.seen = f.Sequence, f.Shards, f.Store, f.Lineage
			}
		case errors.Is(err, os.ErrNotExist):
			absent++ // a new folder, or only one write so far
		default:
			bad = append(bad, &highwater.Error{File: name, Cause: err})
		}
	}
	for _, b := range bad {
		b.Unguarded = good == 0
		m.damage = append(m.damage, b)
	}
	m.Load(m.saved)
	return nil
}

func (m *marks) read(name string) (marksFile, error) {
	b, err := highwater.Read(m.fs, m.dir, name)
	if err != nil {
		return marksFile{}, err
	}
	return decodeMarks(b)
}

// sync makes all marks durable, if any has changed.
func (m *marks) sync() error {
	m.writing.Lock()
	defer m.writing.Unlock()
	if m.closed {
		return journal.ErrClosed
	}
	next, changed := m.Next(m.saved, m.end)
	if m.seq == 0 || m.seen != m.lineage() { // the first write says which store this node is of
		changed = true
	}
	if !changed {
		return nil
	}
	return m.write(next)
}

// write makes next the newest copy; the caller holds writing, or is alone.
func (m *marks) write(next []highwater.Mark) error {
	seen := m.lineage()
	b, err := encodeMarks(marksFile{Version: marksVersion, Store: m.store, Lineage: seen, Sequence: m.seq + 1, Shards: next})
	if err == nil {
		err = highwater.Write(m.fs, m.dir, m.seq+1, b)
	}
	if err != nil {
		return m.fail(fmt.Errorf("write high-water marks: %w", err))
	}
	m.seq++
	m.saved, m.seen = next, seen
	return nil
}

// close writes a last time, and refuses from then on.
func (m *marks) close() error {
	err := m.sync()
	m.writing.Lock()
	defer m.writing.Unlock()
	m.closed = true
	return err
}
