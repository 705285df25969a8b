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
)

// mark is what one shard had for certain when the marks were written: the log
// held the entry at End, and the shard had applied up to Applied.
type mark struct {
	End     journal.Position
	Applied journal.Mark
}

// marksFile is the content of a copy; a line with its CRC-32C follows it.
type marksFile struct {
	Version  int
	Store    string  // the store it is of
	Lineage  lineage // the newest that was seen of its database
	Sequence uint64
	Shards   []mark
}

const marksVersion = 1

var marksFiles = [2]string{"marks.0", "marks.1"}

// MarksError tells of a damaged copy of the marks. It fences nothing: the other
// copy is used, or, if there is none, a database that was rolled back while
// this node was down goes unnoticed until the view or a client proves it.
type MarksError struct {
	File  string
	Cause error
	// Unguarded: no copy could be read.
	Unguarded bool
}

func (e *MarksError) Error() string {
	if e.Unguarded {
		return fmt.Sprintf("high-water marks %s: %v; no copy is left, a missing tail cannot be noticed", e.File, e.Cause)
	}
	return fmt.Sprintf("high-water marks %s: %v; the older copy is used", e.File, e.Cause)
}

func (e *MarksError) Unwrap() error { return e.Cause }

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

// marks keeps the high-water marks in two files on this machine, written in
// turn, each replaced whole.
//
// Lock order: writing, then a log's mu, then mu.
type marks struct {
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
	saved   []mark
	closed  bool

	mu      sync.Mutex
	applied []journal.Mark
}

// load reads both copies. What it finds damaged is in damage.
func (m *marks) load() error {
	if err := durable.MkdirAll(m.fs, m.dir, 0o700); err != nil {
		return fmt.Errorf("make folder of the marks: %w", err)
	}
	m.saved, m.applied = make([]mark, m.shards), make([]journal.Mark, m.shards)
	good, absent := 0, 0
	var bad []*MarksError
	for _, name := range marksFiles {
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
			bad = append(bad, &MarksError{File: name, Cause: err})
		}
	}
	for _, b := range bad {
		b.Unguarded = good == 0
		m.damage = append(m.damage, b)
	}
	for i, s := range m.saved {
		m.applied[i] = s.Applied
	}
	return nil
}

func (m *marks) read(name string) (marksFile, error) {
	b, err := durable.ReadFile(m.fs, m.fs.PathJoin(m.dir, name))
	if err != nil {
		return marksFile{}, err
	}
	return decodeMarks(b)
}

func (m *marks) set(shard journal.ShardID, to journal.Mark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if to.Index >= m.applied[shard].Index {
		m.applied[shard] = to
	}
}

func (m *marks) get(shard journal.ShardID) journal.Mark {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.applied[shard]
}

// sync makes all marks durable, if any has changed.
func (m *marks) sync() error {
	m.writing.Lock()
	defer m.writing.Unlock()
	if m.closed {
		return journal.ErrClosed
	}
	next := append([]mark(nil), m.saved...)
	changed := m.seq == 0 || m.seen != m.lineage() // the first write says which store this node is of
	for i := range next {
		end, ok := m.end(journal.ShardID(i))
		if !ok || end.Index < m.saved[i].End.Index {
			continue
		}
		next[i].End = end
		// A mark that the log does not hold would prove a loss that is none.
		if a := m.get(journal.ShardID(i)); a.Index <= end.Index {
			next[i].Applied = a
		}
		changed = changed || next[i] != m.saved[i]
	}
	if !changed {
		return nil
	}
	return m.write(next)
}

// write makes next the newest copy; the caller holds writing, or is alone.
func (m *marks) write(next []mark) error {
	seen := m.lineage()
	b, err := encodeMarks(marksFile{Version: marksVersion, Store: m.store, Lineage: seen, Sequence: m.seq + 1, Shards: next})
	if err == nil {
		err = durable.WriteFile(m.fs, m.fs.PathJoin(m.dir, marksFiles[(m.seq+1)%2]), b, 0o600)
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
