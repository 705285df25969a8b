package raft

import (
	"encoding/binary"
	"errors"
	"fmt"

	etcd "go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/bongsu-im/bongsu/journal"
)

// Peers remember for each other what they have acknowledged. A node whose disk
// has silently lost the end of a log comes back with a log that looks whole; its
// peers tell it otherwise before anything else, and it leaves the shard alone.

// ack is what a peer has acknowledged to this node while it led: newest is the
// last it said, proven the last of these that is known to be committed, and so
// cannot have been replaced since. stored is what of it is on the disk.
type ack struct {
	newest, proven, stored journal.Position
}

// settle moves proven up to newest if that is committed by now.
func (a *ack) settle(l *shardLog) {
	if a.newest.Index > a.proven.Index && l.contains(a.newest, l.commit) {
		a.proven = a.newest
	}
}

// noteAck remembers that a follower has acknowledged our log up to an index.
func (g *group) noteAck(from NodeID, m *raftpb.Message) {
	// From the first moment of leading, not only of owning: until its own entry is
	// committed a new leader hears acknowledgements of its predecessors' entries.
	if s := g.node.BasicStatus(); s.RaftState != etcd.StateLeader || m.GetTerm() != s.GetTerm() {
		return
	}
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	if m.GetIndex() == 0 || m.GetIndex() > g.log.last {
		return
	}
	if m.GetReject() {
		// It says that it has not what it has acknowledged, as far as that is known;
		// unless the answer was long on its way, it is damaged, and raft would ask
		// it for ever.
		a := g.acked[from]
		if a.settle(g.log); m.GetIndex() <= uint64(a.proven.Index) {
			g.j.cfg.Transport.Send(from, Parcel{Shard: g.shard, Reminder: a.proven})
		}
		return
	}
	term, ok := g.log.termAt(m.GetIndex())
	if !ok {
		return
	}
	a := g.acked[from]
	a.settle(g.log)
	a.newest = journal.Position{Term: journal.Term(term), Index: journal.Index(m.GetIndex())}
	a.settle(g.log)
	g.acked[from] = a
}

// remembered is what a peer is proven to have acknowledged; zero if nothing is known.
func (g *group) remembered(peer NodeID) journal.Position {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	a, ok := g.acked[peer]
	if !ok {
		return journal.Position{}
	}
	a.settle(g.log)
	g.acked[peer] = a
	return a.proven
}

const memoryBytes = 2 + 8 + 8

// greeting is what a peer shall be told first: what it has acknowledged.
func (j *Journal) greeting(peer NodeID) []byte {
	b := []byte{formatVersion}
	for _, g := range j.groups {
		p := g.remembered(peer)
		if p.Index == 0 {
			continue
		}
		b = binary.BigEndian.AppendUint16(b, uint16(g.shard))
		b = binary.BigEndian.AppendUint64(b, uint64(p.Term))
		b = binary.BigEndian.AppendUint64(b, uint64(p.Index))
	}
	return b
}

type remembered struct {
	shard journal.ShardID
	at    journal.Position
}

func parseGreeting(b []byte) ([]remembered, error) {
	if len(b) < 1 || b[0] != formatVersion || (len(b)-1)%memoryBytes != 0 || len(b) > 1+maxShards*memoryBytes {
		return nil, fmt.Errorf("greeting of %d bytes", len(b))
	}
	var out []remembered
	for b = b[1:]; len(b) > 0; b = b[memoryBytes:] {
		r := remembered{shard: journal.ShardID(binary.BigEndian.Uint16(b)), at: journal.Position{
			Term: journal.Term(binary.BigEndian.Uint64(b[2:])), Index: journal.Index(binary.BigEndian.Uint64(b[10:]))}}
		if r.at.Term == 0 || r.at.Index == 0 {
			return nil, errors.New("greeting with an empty position")
		}
		out = append(out, r)
	}
	return out, nil
}

// Greeted implements Receiver: a shard that lacks what the peer says we have
// acknowledged is damaged. It is halted, so that it neither votes nor answers.
func (j *Journal) Greeted(peer NodeID, greeting []byte) error {
	rs, err := parseGreeting(greeting)
	if err != nil {
		return fmt.Errorf("node %d: %w", peer, err)
	}
	for _, r := range rs {
		if int(r.shard) >= len(j.groups) {
			return fmt.Errorf("node %d greets shard %d of %d", peer, r.shard, len(j.groups))
		}
		j.groups[r.shard].reminded(peer, r.at)
	}
	return nil
}

// reminded holds the log against what a peer says we have acknowledged.
func (g *group) reminded(peer NodeID, at journal.Position) {
	g.log.mu.Lock()
	has := g.log.contains(at, g.log.last)
	have := g.log.common(at, g.log.last)
	g.log.mu.Unlock()
	if has || g.removed.Load() != nil {
		return
	}
	e := &journal.LostTailError{Shard: g.shard, Have: have, Proven: at, Proof: fmt.Sprintf("node %d, to which it was acknowledged,", peer)}
	if !g.lost.CompareAndSwap(nil, e) {
		return
	}
	g.stop()
	g.j.damageMu.Lock()
	g.j.damage = append(g.j.damage, e)
	g.j.damageMu.Unlock()
	g.j.cfg.Logger.Error("acknowledged entries are missing from the journal; the shard is left alone, replace this node by one with a new node ID", "shard", g.shard, "err", e)
	g.log.mu.Lock()
	g.log.wake()
	g.log.mu.Unlock()
}

func (l *shardLog) encodeAck(peer NodeID, p journal.Position) []byte {
	b := binary.BigEndian.AppendUint16([]byte{formatVersion}, uint16(l.shard))
	for _, n := range []uint64{peer, uint64(p.Term), uint64(p.Index)} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return seal(b)
}

func (l *shardLog) decodeAck(peer NodeID, b []byte) (journal.Position, error) {
	body, err := unseal(b, 26)
	if err != nil {
		return journal.Position{}, err
	}
	if len(body) != 26 || binary.BigEndian.Uint16(body) != uint16(l.shard) || binary.BigEndian.Uint64(body[2:]) != peer {
		return journal.Position{}, errors.New("acknowledgement of another shard or node")
	}
	return journal.Position{Term: journal.Term(binary.BigEndian.Uint64(body[10:])), Index: journal.Index(binary.BigEndian.Uint64(body[18:]))}, nil
}

// loadAcks reads what peers have acknowledged. Only what our own log still has
// is believed: if it was cut, we are the damaged one.
func (g *group) loadAcks() error {
	return g.log.each(keyAcked, func(n uint64, v []byte) error {
		p, err := g.log.decodeAck(n, v)
		if err == nil && g.log.contains(p, g.log.last) {
			g.acked[n] = ack{proven: p, stored: p}
		}
		return err
	})
}

// storeAcks makes durable what has changed, together with the marks.
func (j *Journal) storeAcks() error {
	b := j.store.db.NewBatch()
	defer func() { _ = b.Close() }() // a batch that was not committed holds nothing
	for _, g := range j.groups {
		g.log.mu.Lock()
		for peer, a := range g.acked {
			a.settle(g.log)
			if a.proven != a.stored {
				if err := b.Set(key(g.shard, keyAcked, peer), g.log.encodeAck(peer, a.proven), nil); err != nil {
					g.log.mu.Unlock()
					return j.store.trip(err)
				}
				a.stored = a.proven
			}
			g.acked[peer] = a
		}
		g.log.mu.Unlock()
	}
	if b.Empty() {
		return nil
	}
	return j.store.commit(b, true)
}
