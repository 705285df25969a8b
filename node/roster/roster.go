// Package roster is what a node knows of its cluster: who is in it, under which
// ID, in which zone, at which address.
//
// Vocabulary: a member is one data folder, by an ID that is drawn at random when
// the folder is made and never used again; a name is what a certificate says, so
// that a node that lost its disk has the same name and another ID. Each member
// writes its own row and raises its revision; removal is written by whoever
// removes. Rows travel between all nodes and the higher revision holds, so that
// rosters agree soon after any two nodes have met.
//
// The roster is a file of its own, checksummed and replaced in one step. It is
// not needed to be right for anything to be safe: who votes is in the journal of
// each shard. Without it nodes would only not find each other.
//
// Concurrency: a Roster may be used from any goroutine.
//
// What it does not do: connect to anybody, or decide who has which shard.
package roster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/internal/mtls"
)

// MaxMembers bounds a roster, with those that were removed.
const MaxMembers = 256

const (
	maxText  = 256
	magic    = "bongsu roster 1\n"
	maxBytes = 1 << 20
)

// Roster is the members known to a node.
type Roster struct {
	fs   durable.FS
	file string

	mu      sync.Mutex // guards what follows
	members map[uint64]*nodev1.Member
	changed chan struct{} // closed at the next change
}

// Open reads the roster, or begins an empty one. A damaged file is an error that
// is a *DamagedError: it can be deleted and is learned again from any node.
func Open(fs durable.FS, file string) (*Roster, error) {
	r := &Roster{fs: fs, file: file, members: map[uint64]*nodev1.Member{}, changed: make(chan struct{})}
	b, err := durable.ReadFile(fs, file)
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read roster: %w", err)
	}
	members, err := decode(b)
	if err != nil {
		return nil, &DamagedError{File: file, Cause: err}
	}
	for _, m := range members {
		r.members[m.GetId()] = m
	}
	return r, nil
}

// DamagedError: the file is not what was written.
type DamagedError struct {
	File  string
	Cause error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("the roster %s is damaged (delete it, it is learned again from any node): %v", e.File, e.Cause)
}

func (e *DamagedError) Unwrap() error { return e.Cause }

func encode(members []*nodev1.Member) ([]byte, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(&nodev1.ExchangeRequest{Members: members})
	if err != nil {
		return nil, fmt.Errorf("encode roster: %w", err)
	}
	b := append([]byte(magic), body...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func decode(b []byte) ([]*nodev1.Member, error) {
	if len(b) < len(magic)+4 || len(b) > maxBytes || string(b[:len(magic)]) != magic {
		return nil, errors.New("it is no roster")
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, errors.New("its checksum does not agree")
	}
	var list nodev1.ExchangeRequest
	if err := proto.Unmarshal(body[len(magic):], &list); err != nil {
		return nil, err
	}
	for _, m := range list.GetMembers() {
		if err := Check(m); err != nil {
			return nil, err
		}
	}
	return list.GetMembers(), nil
}

// Check tells whether a member's row can be one.
func Check(m *nodev1.Member) error {
	switch {
	case m.GetId() == 0 || m.GetId() >= 1<<63:
		return fmt.Errorf("node ID %d", m.GetId())
	case mtls.CheckName(m.GetName()) != nil:
		return mtls.CheckName(m.GetName())
	case len(m.GetZone()) > maxText || len(m.GetAddress()) > maxText || len(m.GetUrl()) > maxText || len(m.GetVersion()) > maxText:
		return fmt.Errorf("node %s: a text of more than %d bytes", m.GetName(), maxText)
	}
	return nil
}

// Merge takes rows of another roster and tells whether anything was new. What is
// new is on the disk when it returns.
func (r *Roster) Merge(rows []*nodev1.Member) (news bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := make(map[uint64]*nodev1.Member, len(r.members)+1)
	for id, m := range r.members {
		next[id] = m
	}
	for _, m := range rows {
		if err := Check(m); err != nil {
			return false, err
		}
		have := next[m.GetId()]
		switch {
		case have != nil && have.GetName() != m.GetName():
			return false, fmt.Errorf("node %d is called %s here and %s there: an ID is never used twice", m.GetId(), have.GetName(), m.GetName())
		case have != nil && (have.GetRemoved() || have.GetRevision() >= m.GetRevision()):
			continue
		case have == nil && len(next) >= MaxMembers:
			return false, fmt.Errorf("the roster has %d members already", MaxMembers)
		}
		next[m.GetId()] = proto.CloneOf(m)
		news = true
	}
	if !news {
		return false, nil
	}
	b, err := encode(sorted(next))
	if err != nil {
		return false, err
	}
	if err := durable.WriteFile(r.fs, r.file, b, 0o600); err != nil {
		return false, fmt.Errorf("write roster: %w", err)
	}
	r.members = next
	close(r.changed)
	r.changed = make(chan struct{})
	return true, nil
}

// Remove marks a member as removed, for good.
func (r *Roster) Remove(id uint64) error {
	m := r.Get(id)
	if m == nil || m.GetRemoved() {
		return nil
	}
	m = proto.CloneOf(m)
	m.Removed = true
	m.Revision++
	_, err := r.Merge([]*nodev1.Member{m})
	return err
}

func sorted(members map[uint64]*nodev1.Member) []*nodev1.Member {
	out := make([]*nodev1.Member, 0, len(members))
	for _, m := range members {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *nodev1.Member) int {
		if a.GetName() != b.GetName() {
			return compare(a.GetName(), b.GetName())
		}
		return compare(a.GetId(), b.GetId())
	})
	return out
}

func compare[T string | uint64](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// All returns every row by name, with those that were removed. They must not be
// modified.
func (r *Roster) All() []*nodev1.Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	return sorted(r.members)
}

// Members is All without those that were removed.
func (r *Roster) Members() []*nodev1.Member {
	return slices.DeleteFunc(r.All(), func(m *nodev1.Member) bool { return m.GetRemoved() })
}

// Get returns a member, nil if it is not known.
func (r *Roster) Get(id uint64) *nodev1.Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.members[id]
}

// Named returns the members of a name that were not removed: two while one takes
// the place of another.
func (r *Roster) Named(name string) []*nodev1.Member {
	return slices.DeleteFunc(r.Members(), func(m *nodev1.Member) bool { return m.GetName() != name })
}

// Changed returns a channel that is closed at the next change; ask before looking.
func (r *Roster) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}
