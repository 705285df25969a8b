package raft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"

	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/highwater"
)

const (
	marksMagic = "bongsu-marks-1\r\n" // the line end shows a text-mode copy
	markBytes  = 2 + 16 + 16 + 32
)

func encodeMarks(seq uint64, ms []highwater.Mark) []byte {
	b := append([]byte(nil), marksMagic...)
	b = binary.BigEndian.AppendUint64(b, seq)
	b = binary.BigEndian.AppendUint16(b, uint16(len(ms)))
	for shard, m := range ms {
		b = binary.BigEndian.AppendUint16(b, uint16(shard))
		b = binary.BigEndian.AppendUint64(b, uint64(m.End.Term))
		b = binary.BigEndian.AppendUint64(b, uint64(m.End.Index))
		b = binary.BigEndian.AppendUint64(b, uint64(m.Applied.Term))
		b = binary.BigEndian.AppendUint64(b, uint64(m.Applied.Index))
		b = append(b, m.Applied.Hash[:]...)
	}
	return seal(b)
}

func decodeMarks(b []byte) (seq uint64, ms []highwater.Mark, err error) {
	head := len(marksMagic) + 8 + 2
	if len(b) < head+crcBytes {
		return 0, nil, fmt.Errorf("%w: %d bytes", errShort, len(b))
	}
	body, sum := b[:len(b)-crcBytes], binary.BigEndian.Uint32(b[len(b)-crcBytes:])
	if crc32.Checksum(body, castagnoli) != sum {
		return 0, nil, errChecksum
	}
	if string(body[:len(marksMagic)]) != marksMagic {
		return 0, nil, errors.New("not a marks file of this release")
	}
	seq = binary.BigEndian.Uint64(body[len(marksMagic):])
	n := int(binary.BigEndian.Uint16(body[len(marksMagic)+8:]))
	body = body[head:]
	if len(body) != n*markBytes || n > maxShards {
		return 0, nil, fmt.Errorf("%d shards in %d bytes", n, len(body))
	}
	ms = make([]highwater.Mark, n)
	for i := range ms {
		r := body[i*markBytes:]
		if got := int(binary.BigEndian.Uint16(r)); got != i {
			return 0, nil, fmt.Errorf("shard %d in the place of %d", got, i)
		}
		u := func(at int) uint64 { return binary.BigEndian.Uint64(r[at:]) }
		ms[i].End = journal.Position{Term: journal.Term(u(2)), Index: journal.Index(u(10))}
		ms[i].Applied.Position = journal.Position{Term: journal.Term(u(18)), Index: journal.Index(u(26))}
		copy(ms[i].Applied.Hash[:], r[34:])
	}
	return seq, ms, nil
}

// marks keeps the high-water marks in two copies.
//
// Lock order: writing, then a group's log.mu.
type marks struct {
	highwater.Applied
	fs   durable.FS
	dir  string
	trip func(error) *journal.FencedError
	dead func() error
	// end gives a shard's durable end, false to leave its mark alone.
	end func(shard journal.ShardID) (journal.Position, bool)

	writing sync.Mutex // held through a write
	seq     uint64
	durable []highwater.Mark // as last written
	// armed is set once everything is loaded: a log that could not be read must
	// not overwrite the proof of what it held.
	armed, closed bool
}

// load reads both copies. It returns what was found damaged.
func (m *marks) load(shards int) (damage []error) {
	m.durable = make([]highwater.Mark, shards)
	good := false
	for _, name := range highwater.Copies {
		seq, ms, err := m.read(name)
		if err == nil && len(ms) != shards {
			err = fmt.Errorf("marks of %d shards, there are %d", len(ms), shards)
		}
		if err != nil {
			damage = append(damage, &highwater.Error{File: name, Cause: err})
			continue
		}
		good = true
		if seq > m.seq {
			m.seq, m.durable = seq, ms
		}
	}
	if !good {
		for _, err := range damage {
			err.(*highwater.Error).Unguarded = true
		}
	}
	m.Load(m.durable)
	return damage
}

// exist tells whether there is any copy, readable or not.
func (m *marks) exist() (bool, error) {
	names, err := m.fs.List(m.dir)
	if err != nil {
		return false, fmt.Errorf("list %s: %w", m.dir, err)
	}
	for _, name := range names {
		if slices.Contains(highwater.Copies[:], name) {
			return true, nil
		}
	}
	return false, nil
}

func (m *marks) read(name string) (uint64, []highwater.Mark, error) {
	b, err := highwater.Read(m.fs, m.dir, name)
	if err != nil {
		return 0, nil, err
	}
	return decodeMarks(b)
}

// sync makes all marks durable, if any has changed. Callers that wait for
// another's write mostly find theirs written with it.
func (m *marks) sync() error {
	m.writing.Lock()
	defer m.writing.Unlock()
	return m.syncLocked()
}

// cover makes sure that a mark of this term or a later one is durable.
func (m *marks) cover(shard journal.ShardID, term uint64) error {
	m.writing.Lock()
	defer m.writing.Unlock()
	if uint64(m.durable[shard].End.Term) >= term {
		return nil
	}
	return m.syncLocked()
}

func (m *marks) syncLocked() error {
	if m.closed {
		return journal.ErrClosed
	}
	if err := m.dead(); err != nil {
		return err
	}
	if !m.armed {
		return nil
	}
	next, changed := m.Next(m.durable, m.end)
	if !changed {
		return nil
	}
	return m.write(next)
}

// write makes next the newest copy; the caller holds writing, or is alone.
func (m *marks) write(next []highwater.Mark) error {
	if err := highwater.Write(m.fs, m.dir, m.seq+1, encodeMarks(m.seq+1, next)); err != nil {
		return m.trip(fmt.Errorf("write high-water marks: %w", err))
	}
	if err := m.dead(); err != nil {
		return err
	}
	m.seq++
	m.durable = next
	return nil
}

// renew writes both copies again; the caller holds writing, or is alone.
func (m *marks) renew() error {
	for range highwater.Copies {
		if err := m.write(m.durable); err != nil {
			return err
		}
	}
	return nil
}

// close writes a last time, if it can, and refuses from then on.
func (m *marks) close() error {
	m.writing.Lock()
	defer m.writing.Unlock()
	if m.closed {
		return nil
	}
	err := m.syncLocked()
	m.closed = true
	return err
}
