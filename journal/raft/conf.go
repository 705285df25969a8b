package raft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// confAt is the membership of a group from an index on. A snapshot carries the
// membership of its own index, not the newest: what follows is in the log and
// must not be applied twice.
type confAt struct {
	index uint64
	conf  *raftpb.ConfState
}

func (l *shardLog) encodeConf(c confAt) ([]byte, error) {
	conf, err := proto.MarshalOptions{Deterministic: true}.Marshal(c.conf)
	if err != nil {
		return nil, fmt.Errorf("encode membership: %w", err)
	}
	b := binary.BigEndian.AppendUint16([]byte{formatVersion}, uint16(l.shard))
	b = binary.BigEndian.AppendUint64(b, c.index)
	return seal(append(b, conf...)), nil
}

func (l *shardLog) decodeConf(index uint64, b []byte) (confAt, error) {
	body, err := unseal(b, 10)
	if err != nil {
		return confAt{}, err
	}
	c := confAt{index: binary.BigEndian.Uint64(body[2:]), conf: &raftpb.ConfState{}}
	if binary.BigEndian.Uint16(body) != uint16(l.shard) || c.index != index {
		return confAt{}, errors.New("membership of another shard or index")
	}
	if err := proto.Unmarshal(body[10:], c.conf); err != nil {
		return confAt{}, fmt.Errorf("decode membership: %w", err)
	}
	return c, nil
}

func (l *shardLog) encodeGone(node NodeID) []byte {
	b := binary.BigEndian.AppendUint16([]byte{formatVersion}, uint16(l.shard))
	return seal(binary.BigEndian.AppendUint64(b, node))
}

func (l *shardLog) decodeGone(node NodeID, b []byte) error {
	body, err := unseal(b, 10)
	if err != nil {
		return err
	}
	if len(body) != 10 || binary.BigEndian.Uint16(body) != uint16(l.shard) || binary.BigEndian.Uint64(body[2:]) != node {
		return errors.New("removed member of another shard or node")
	}
	return nil
}

// each visits the values of one kind in number order.
func (l *shardLog) each(kind byte, visit func(n uint64, v []byte) error) (err error) {
	low, high := kindBounds(l.shard, kind)
	it, err := l.store.db.NewIter(&pebble.IterOptions{LowerBound: low, UpperBound: high})
	if err != nil {
		return l.corrupt(0, "%w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err == nil {
			err = visit(numberOf(it.Key()), v)
		}
		if err != nil {
			return l.corrupt(0, "value %q of number %d: %w", kind, numberOf(it.Key()), err)
		}
	}
	if err := it.Error(); err != nil {
		return l.corrupt(0, "%w", err)
	}
	return nil
}

// loadConfs reads the memberships. A group whose membership never changed has
// none of its own: the description's holds from the beginning.
func (l *shardLog) loadConfs() error {
	err := l.each(keyConf, func(n uint64, v []byte) error {
		c, err := l.decodeConf(n, v)
		l.confs = append(l.confs, c)
		return err
	})
	if err != nil {
		return err
	}
	if n := len(l.confs); n > 0 && !proto.Equal(l.confs[n-1].conf, l.meta.conf) {
		return l.corrupt(l.confs[n-1].index, "the newest membership is not that of the group's description")
	}
	l.gone = map[NodeID]bool{}
	return l.each(keyGone, func(n uint64, v []byte) error {
		l.gone[n] = true
		return l.decodeGone(n, v)
	})
}

// confAtIndex is the membership at an index that is not trimmed; the caller
// holds mu.
func (l *shardLog) confAtIndex(index uint64) *raftpb.ConfState {
	for _, c := range slices.Backward(l.confs) {
		if c.index <= index {
			return c.conf
		}
	}
	return l.meta.conf // it never changed
}

// setConf makes a changed membership durable before it acts, with who was
// removed by it: an ID is not used twice.
func (l *shardLog) setConf(index uint64, conf *raftpb.ConfState) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	meta, confs := l.meta, slices.Clone(l.confs)
	l.mu.Unlock()
	var gone []NodeID
	for _, node := range membersOf(meta.conf) {
		if !slices.Contains(membersOf(conf), node) {
			gone = append(gone, node)
		}
	}
	b := l.store.db.NewBatch()
	defer func() { _ = b.Close() }() // as in save
	if len(confs) == 0 {
		confs = append(confs, confAt{index: uint64(meta.trimmed.Index), conf: meta.conf})
	}
	confs = append(confs, confAt{index: index, conf: conf})
	var errs []error
	for _, c := range confs[max(0, len(confs)-2):] {
		v, err := l.encodeConf(c)
		errs = append(errs, err, b.Set(key(l.shard, keyConf, c.index), v, nil))
	}
	meta.conf = conf
	enc, err := encodeMeta(l.shard, meta)
	errs = append(errs, err, b.Set(key(l.shard, keyMeta, 0), enc, nil))
	for _, node := range gone {
		errs = append(errs, b.Set(key(l.shard, keyGone, node), l.encodeGone(node), nil))
	}
	if err := errors.Join(errs...); err != nil {
		return l.store.trip(err)
	}
	if err := l.store.commit(b, true); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.meta, l.confs = meta, confs
	for _, node := range gone {
		l.gone[node] = true
	}
	l.wake()
	return nil
}

// trimConfs forgets memberships that ended at or before upTo; the caller holds
// writing.
func (l *shardLog) trimConfs(b *pebble.Batch, upTo uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.confs) > 1 && l.confs[1].index <= upTo {
		if err := b.Delete(key(l.shard, keyConf, l.confs[0].index), nil); err != nil {
			return err
		}
		l.confs = l.confs[1:]
	}
	return nil
}

// membersOf lists everybody in a membership, voters first, without repeats.
func membersOf(c *raftpb.ConfState) []NodeID {
	var out []NodeID
	for _, set := range [][]uint64{c.GetVoters(), c.GetVotersOutgoing(), c.GetLearners(), c.GetLearnersNext()} {
		for _, n := range set {
			if !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	return out
}

func votersOf(c *raftpb.ConfState) []NodeID {
	out := slices.Clone(c.GetVoters())
	for _, n := range c.GetVotersOutgoing() {
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// isOnly tells whether node is the whole membership: then nobody else is to be
// waited for.
func isOnly(c *raftpb.ConfState, node NodeID) bool {
	m := membersOf(c)
	return len(m) == 1 && m[0] == node && len(c.GetVoters()) == 1
}
