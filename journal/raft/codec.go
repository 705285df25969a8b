package raft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/bongsu-im/bongsu/journal"
)

// The stored formats, in full in DESIGN.md. All integers are big-endian; every
// value begins with its version and ends with a CRC-32C of all bytes before it,
// and names its shard and place, so that a value under a wrong key is noticed.
const (
	formatVersion = 1
	crcBytes      = 4
	entryHeader   = 1 + 1 + 2 + 8 + 8 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	errChecksum = errors.New("checksum mismatch")
	errShort    = errors.New("value too short")
)

// seal appends the checksum.
func seal(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// unseal checks checksum and version and returns what lies between them.
func unseal(b []byte, atLeast int) ([]byte, error) {
	if len(b) < 1+atLeast+crcBytes {
		return nil, fmt.Errorf("%w: %d bytes", errShort, len(b))
	}
	body, sum := b[:len(b)-crcBytes], binary.BigEndian.Uint32(b[len(b)-crcBytes:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, errChecksum
	}
	if body[0] != formatVersion {
		return nil, fmt.Errorf("format version %d, this release knows %d", body[0], formatVersion)
	}
	return body[1:], nil
}

// entryKind says what an entry is for: Read returns only data.
type entryKind byte

const (
	kindData         entryKind = 1 // a record of the shard
	kindInternal     entryKind = 2 // raft's own empty entry at the start of a term
	kindConfChange   entryKind = 3
	kindConfChangeV2 entryKind = 4
)

// A proposal's payload carries one leading byte, because raft's own entries are
// recognised by being empty while an empty record is a record.
const payloadMark = 0

func payload(data []byte) []byte {
	p := make([]byte, 1+len(data))
	p[0] = payloadMark
	copy(p[1:], data)
	return p
}

func kindOf(e *raftpb.Entry) entryKind {
	switch e.GetType() {
	case raftpb.EntryConfChange:
		return kindConfChange
	case raftpb.EntryConfChangeV2:
		return kindConfChangeV2
	}
	if len(e.GetData()) == 0 {
		return kindInternal
	}
	return kindData
}

// record returns the shard's own bytes of a data entry.
func record(e *raftpb.Entry) []byte { return e.GetData()[1:] }

func encodeEntry(shard journal.ShardID, e *raftpb.Entry) []byte {
	data := e.GetData()
	b := make([]byte, 0, entryHeader+len(data)+crcBytes)
	b = append(b, formatVersion, byte(kindOf(e)))
	b = binary.BigEndian.AppendUint16(b, uint16(shard))
	b = binary.BigEndian.AppendUint64(b, e.GetTerm())
	b = binary.BigEndian.AppendUint64(b, e.GetIndex())
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	b = append(b, data...)
	return seal(b)
}

// decodeEntry checks that b is the entry of this shard at this index. The entry
// has a copy of the data.
func decodeEntry(shard journal.ShardID, index uint64, b []byte) (*raftpb.Entry, error) {
	body, err := unseal(b, entryHeader-1)
	if err != nil {
		return nil, err
	}
	kind := entryKind(body[0])
	if got := binary.BigEndian.Uint16(body[1:]); got != uint16(shard) {
		return nil, fmt.Errorf("entry belongs to shard %d", got)
	}
	term, at := binary.BigEndian.Uint64(body[3:]), binary.BigEndian.Uint64(body[11:])
	if at != index || term == 0 {
		return nil, fmt.Errorf("entry belongs at index %d of term %d", at, term)
	}
	data := body[entryHeader-1:]
	if n := binary.BigEndian.Uint32(body[19:]); uint64(n) != uint64(len(data)) {
		return nil, fmt.Errorf("entry has %d bytes, says %d", len(data), n)
	}
	e := &raftpb.Entry{Term: &term, Index: &at}
	switch kind {
	case kindData:
		if len(data) == 0 || data[0] != payloadMark || len(data) > 1+journal.MaxEntryBytes {
			return nil, errors.New("data entry without a payload")
		}
	case kindInternal:
		if len(data) != 0 {
			return nil, errors.New("internal entry with a payload")
		}
	case kindConfChange:
		e.Type = raftpb.EntryConfChange.Enum()
	case kindConfChangeV2:
		e.Type = raftpb.EntryConfChangeV2.Enum()
	default:
		return nil, fmt.Errorf("unknown kind %d of entry", kind)
	}
	if len(data) > 0 {
		e.Data = append([]byte(nil), data...)
	}
	return e, nil
}

func encodeHardState(shard journal.ShardID, hs *raftpb.HardState) []byte {
	b := []byte{formatVersion}
	b = binary.BigEndian.AppendUint16(b, uint16(shard))
	b = binary.BigEndian.AppendUint64(b, hs.GetTerm())
	b = binary.BigEndian.AppendUint64(b, hs.GetVote())
	b = binary.BigEndian.AppendUint64(b, hs.GetCommit())
	return seal(b)
}

func decodeHardState(shard journal.ShardID, b []byte) (*raftpb.HardState, error) {
	body, err := unseal(b, 26)
	if err != nil {
		return nil, err
	}
	if len(body) != 26 || binary.BigEndian.Uint16(body) != uint16(shard) {
		return nil, errors.New("hard state of another shard or size")
	}
	term, vote, commit := binary.BigEndian.Uint64(body[2:]), binary.BigEndian.Uint64(body[10:]), binary.BigEndian.Uint64(body[18:])
	return &raftpb.HardState{Term: &term, Vote: &vote, Commit: &commit}, nil
}

// groupMeta is what a group knows besides its entries.
type groupMeta struct {
	trimmed journal.Position // entries up to here are forgotten
	lastCut journal.Position // the last data entry among them; zero if none
	conf    *raftpb.ConfState
}

func encodeMeta(shard journal.ShardID, m groupMeta) ([]byte, error) {
	conf, err := proto.MarshalOptions{Deterministic: true}.Marshal(m.conf)
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	b := []byte{formatVersion}
	b = binary.BigEndian.AppendUint16(b, uint16(shard))
	for _, n := range []uint64{uint64(m.trimmed.Term), uint64(m.trimmed.Index), uint64(m.lastCut.Term), uint64(m.lastCut.Index)} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return seal(append(b, conf...)), nil
}

func decodeMeta(shard journal.ShardID, b []byte) (groupMeta, error) {
	body, err := unseal(b, 34)
	if err != nil {
		return groupMeta{}, err
	}
	if binary.BigEndian.Uint16(body) != uint16(shard) {
		return groupMeta{}, errors.New("meta of another shard")
	}
	n := func(i int) uint64 { return binary.BigEndian.Uint64(body[2+8*i:]) }
	m := groupMeta{
		trimmed: journal.Position{Term: journal.Term(n(0)), Index: journal.Index(n(1))},
		lastCut: journal.Position{Term: journal.Term(n(2)), Index: journal.Index(n(3))},
		conf:    &raftpb.ConfState{},
	}
	if err := proto.Unmarshal(body[34:], m.conf); err != nil {
		return groupMeta{}, fmt.Errorf("decode configuration: %w", err)
	}
	return m, nil
}

// span: entries from start on have this term, until the next span's start.
type span struct{ term, start uint64 }

func encodeSpan(shard journal.ShardID, s span) []byte {
	b := []byte{formatVersion}
	b = binary.BigEndian.AppendUint16(b, uint16(shard))
	b = binary.BigEndian.AppendUint64(b, s.term)
	b = binary.BigEndian.AppendUint64(b, s.start)
	return seal(b)
}

func decodeSpan(shard journal.ShardID, term uint64, b []byte) (span, error) {
	body, err := unseal(b, 18)
	if err != nil {
		return span{}, err
	}
	s := span{}
	if len(body) == 18 {
		s = span{term: binary.BigEndian.Uint64(body[2:]), start: binary.BigEndian.Uint64(body[10:])}
	}
	if s.term != term || s.term == 0 || s.start == 0 || binary.BigEndian.Uint16(body) != uint16(shard) {
		return span{}, errors.New("term start of another shard or term")
	}
	return s, nil
}

// storeInfo is written once, when the store is made.
type storeInfo struct {
	node   uint64
	shards uint16
}

func encodeInfo(s storeInfo) []byte {
	b := []byte{formatVersion}
	b = binary.BigEndian.AppendUint64(b, s.node)
	b = binary.BigEndian.AppendUint16(b, s.shards)
	return seal(b)
}

func decodeInfo(b []byte) (storeInfo, error) {
	body, err := unseal(b, 10)
	if err != nil {
		return storeInfo{}, err
	}
	if len(body) != 10 {
		return storeInfo{}, errors.New("store description of another size")
	}
	return storeInfo{node: binary.BigEndian.Uint64(body), shards: binary.BigEndian.Uint16(body[8:])}, nil
}

// Keys: shard (2 bytes), kind (1 byte), number (8 bytes), so that a shard's keys
// lie together. maxShards keeps the store's own key apart.
const (
	keyEntry     = 'e'
	keyHardState = 'h'
	keyMeta      = 'm'
	keySpan      = 't'
	keyConf      = 'c'
	keyGone      = 'g'
	keyAcked     = 'a'
	keyIncoming  = 's'

	maxShards = 4096
)

var infoKey = []byte{0xff, 0xff, 'v'}

func key(shard journal.ShardID, kind byte, n uint64) []byte {
	k := binary.BigEndian.AppendUint16(make([]byte, 0, 11), uint16(shard))
	return binary.BigEndian.AppendUint64(append(k, kind), n)
}

// kindBounds gives the key range of one kind in one shard.
func kindBounds(shard journal.ShardID, kind byte) (low, high []byte) {
	return key(shard, kind, 0), append(binary.BigEndian.AppendUint16(nil, uint16(shard)), kind+1)
}
