package raft

import (
	"encoding/binary"
	"errors"
	"fmt"

	etcd "go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/bongsu-im/bongsu/journal"
)

// A snapshot lets a member go on from a position without the entries before it.
// Raft's message carries where the log goes on (base); the view, if entries were
// trimmed, comes as a stream of its own, before.

// base is what a log needs to begin behind a position that it has no entries of.
type base struct {
	at    journal.Position // the position, an entry of any kind
	final journal.Mark     // the last data entry at or before it, with its running hash; zero if none
	conf  *raftpb.ConfState
	spans []span // the terms up to it
}

func encodeBase(shard journal.ShardID, s base) []byte {
	b := binary.BigEndian.AppendUint16([]byte{formatVersion}, uint16(shard))
	for _, n := range []uint64{uint64(s.final.Term), uint64(s.final.Index)} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = append(b, s.final.Hash[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.spans)))
	for _, p := range s.spans {
		b = binary.BigEndian.AppendUint64(b, p.term)
		b = binary.BigEndian.AppendUint64(b, p.start)
	}
	return seal(b)
}

// decodeBase reads a snapshot message and checks that its parts agree.
func decodeBase(shard journal.ShardID, snap *raftpb.Snapshot) (base, error) {
	m := snap.GetMetadata()
	s := base{at: journal.Position{Term: journal.Term(m.GetTerm()), Index: journal.Index(m.GetIndex())}, conf: m.GetConfState()}
	const fixed = 2 + 16 + 32 + 4
	body, err := unseal(snap.GetData(), fixed)
	if err != nil {
		return base{}, err
	}
	if binary.BigEndian.Uint16(body) != uint16(shard) {
		return base{}, errors.New("snapshot of another shard")
	}
	u := func(at int) uint64 { return binary.BigEndian.Uint64(body[at:]) }
	s.final.Position = journal.Position{Term: journal.Term(u(2)), Index: journal.Index(u(10))}
	copy(s.final.Hash[:], body[18:])
	n := int(binary.BigEndian.Uint32(body[50:]))
	if n < 1 || n > maxSpans || len(body) != fixed+16*n {
		return base{}, fmt.Errorf("snapshot with %d terms in %d bytes", n, len(body))
	}
	for i := range n {
		p := span{term: u(fixed + 16*i), start: u(fixed + 16*i + 8)}
		if p.term == 0 || p.start == 0 || p.start > uint64(s.at.Index) || (i > 0 && (p.term <= s.spans[i-1].term || p.start <= s.spans[i-1].start)) {
			return base{}, fmt.Errorf("snapshot's term %d starts at %d", p.term, p.start)
		}
		s.spans = append(s.spans, p)
	}
	if s.spans[n-1].term != uint64(s.at.Term) || s.final.Index > s.at.Index || s.final.Term > s.at.Term || len(s.conf.GetVoters()) == 0 {
		return base{}, fmt.Errorf("snapshot at %+v does not agree with itself", s.at)
	}
	return s, nil
}

func (s base) message(shard journal.ShardID) *raftpb.Snapshot {
	index, term := uint64(s.at.Index), uint64(s.at.Term)
	return &raftpb.Snapshot{
		Metadata: &raftpb.SnapshotMetadata{ConfState: s.conf, Index: &index, Term: &term},
		Data:     encodeBase(shard, s),
	}
}

// baseAt describes the log at a committed index that is not before the trimmed
// part; final is the last data entry at or before it. The caller holds mu.
func (l *shardLog) baseAt(index uint64, final journal.Mark) (base, error) {
	term, ok := l.termAt(index)
	if !ok || index < uint64(l.meta.trimmed.Index) || index > l.commit {
		return base{}, fmt.Errorf("shard %d cannot make a snapshot at %d: its log has %d to %d", l.shard, index, l.meta.trimmed.Index, l.commit)
	}
	s := base{at: journal.Position{Term: journal.Term(term), Index: journal.Index(index)}, final: final, conf: l.confAtIndex(index)}
	for _, p := range l.spans {
		if p.start <= index {
			s.spans = append(s.spans, p)
		}
	}
	return s, nil
}

// Snapshot implements etcd's raft.Storage. Raft asks for it when a member needs
// what was trimmed.
func (l *shardLog) Snapshot() (*raftpb.Snapshot, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.joining() {
		return nil, etcd.ErrSnapshotTemporarilyUnavailable
	}
	// At the trimmed position. If data was trimmed, the receiver takes this
	// message for a hint only, and asks for the view.
	s, err := l.baseAt(uint64(l.meta.trimmed.Index), journal.Mark{Position: l.meta.lastCut})
	if err != nil {
		return nil, err
	}
	return s.message(l.shard), nil
}

// install makes the log begin behind a snapshot, in one synced batch: what it had
// is forgotten. hard is the state that goes with it.
func (l *shardLog) install(s base, hard *raftpb.HardState) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	if uint64(s.at.Index) <= l.commit {
		l.mu.Unlock()
		return l.store.trip(fmt.Errorf("raft wants to go back to a snapshot at %d of shard %d: committed is %d", s.at.Index, l.shard, l.commit))
	}
	gone := map[NodeID]bool{}
	for n := range l.gone {
		gone[n] = true
	}
	for _, n := range membersOf(l.meta.conf) { // who was a member and is not
		gone[n] = true
	}
	l.mu.Unlock()
	for _, n := range membersOf(s.conf) {
		delete(gone, n)
	}

	meta := groupMeta{trimmed: s.at, lastCut: s.final.Position, conf: s.conf}
	enc, err := encodeMeta(l.shard, meta)
	conf := confAt{index: uint64(s.at.Index), conf: s.conf}
	confEnc, err2 := l.encodeConf(conf)
	b := l.store.db.NewBatch()
	defer func() { _ = b.Close() }() // as in save
	errs := []error{err, err2}
	for _, kind := range []byte{keyEntry, keySpan, keyConf, keyIncoming} {
		low, high := kindBounds(l.shard, kind)
		errs = append(errs, b.DeleteRange(low, high, nil))
	}
	errs = append(errs,
		b.Set(key(l.shard, keyMeta, 0), enc, nil),
		b.Set(key(l.shard, keyHardState, 0), encodeHardState(l.shard, hard), nil),
		b.Set(key(l.shard, keyConf, conf.index), confEnc, nil))
	for _, p := range s.spans {
		errs = append(errs, b.Set(key(l.shard, keySpan, p.term), encodeSpan(l.shard, p), nil))
	}
	for n := range gone {
		errs = append(errs, b.Set(key(l.shard, keyGone, n), l.encodeGone(n), nil))
	}
	if err := errors.Join(errs...); err != nil {
		return l.store.trip(err)
	}
	if err := l.store.commit(b, true); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.meta, l.confs, l.gone, l.hard, l.spans = meta, []confAt{conf}, gone, hard, s.spans
	l.tail, l.size = nil, 0
	l.last, l.commit = uint64(s.at.Index), uint64(s.at.Index)
	l.final = s.final.Position
	l.incoming = journal.Position{}
	l.wake()
	return nil
}
