package raft

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/bongsu-im/bongsu/journal"
)

// ClusterID tells clusters apart; zero is none.
type ClusterID [16]byte

func (c ClusterID) String() string { return hex.EncodeToString(c[:]) }

// Identity is who a node is to its peers. The incarnation is drawn when the
// store is made: another under the same NodeID means that the node has lost its
// disk, and with it what it has promised.
type Identity struct {
	Cluster     ClusterID
	Node        NodeID
	Incarnation [16]byte
	Shards      uint16
}

const identityBytes = 16 + 8 + 16 + 2

func (id Identity) append(b []byte) []byte {
	b = append(b, id.Cluster[:]...)
	b = binary.BigEndian.AppendUint64(b, id.Node)
	b = append(b, id.Incarnation[:]...)
	return binary.BigEndian.AppendUint16(b, id.Shards)
}

func parseIdentity(b []byte) (Identity, error) {
	if len(b) != identityBytes {
		return Identity{}, fmt.Errorf("identity of %d bytes", len(b))
	}
	id := Identity{Cluster: ClusterID(b[:16]), Node: binary.BigEndian.Uint64(b[16:]), Incarnation: [16]byte(b[24:40]), Shards: binary.BigEndian.Uint16(b[40:])}
	if id.Node == 0 {
		return Identity{}, errors.New("identity of node 0")
	}
	return id, nil
}

// ImpostorError: a node calls itself by an ID that belongs to another store. It
// has lost its disk, or was configured twice; as a voter it could break its own
// promises, so nobody talks to it.
type ImpostorError struct {
	Node NodeID
}

func (e *ImpostorError) Error() string {
	return fmt.Sprintf("node %d is known with another store: a node that lost its disk must join under a new node ID", e.Node)
}

// maxPeers bounds how many nodes a node remembers to have met.
const maxPeers = 1024

// identity is this node's, and the incarnations of all peers it has met.
type identity struct {
	mu     sync.Mutex
	self   Identity
	met    map[NodeID][16]byte
	denied map[NodeID]error // refused since the start, for Damage
}

var identityKey = []byte{0xff, 0xff, 'i'}

func peerKey(node NodeID) []byte {
	return binary.BigEndian.AppendUint64([]byte{0xff, 0xff, 'p'}, node)
}

func encodeIdentity(id Identity) []byte {
	b := append([]byte{formatVersion}, id.Cluster[:]...)
	return seal(append(b, id.Incarnation[:]...))
}

func decodeIdentity(b []byte, into *Identity) error {
	body, err := unseal(b, 32)
	if err != nil {
		return err
	}
	if len(body) != 32 {
		return errors.New("store identity of another size")
	}
	into.Cluster, into.Incarnation = ClusterID(body[:16]), [16]byte(body[16:])
	return nil
}

func encodePeer(node NodeID, incarnation [16]byte) []byte {
	b := binary.BigEndian.AppendUint64([]byte{formatVersion}, node)
	return seal(append(b, incarnation[:]...))
}

func decodePeer(b []byte) (NodeID, [16]byte, error) {
	body, err := unseal(b, 24)
	if err != nil {
		return 0, [16]byte{}, err
	}
	if len(body) != 24 {
		return 0, [16]byte{}, errors.New("peer of another size")
	}
	return binary.BigEndian.Uint64(body), [16]byte(body[8:]), nil
}

// loadIdentity reads who we are, or settles it: for a new store, and for one of
// a release that knew no peers.
func (j *Journal) loadIdentity() error {
	id := Identity{Cluster: j.cfg.Cluster, Node: j.cfg.NodeID, Shards: uint16(j.cfg.Shards)}
	v, err := j.store.get(identityKey)
	if err != nil {
		return &journal.CorruptError{Cause: fmt.Errorf("read store identity: %w", err)}
	}
	if v == nil {
		if id.Cluster == (ClusterID{}) {
			_, err = io.ReadFull(j.cfg.Random, id.Cluster[:])
		}
		if _, err2 := io.ReadFull(j.cfg.Random, id.Incarnation[:]); err != nil || err2 != nil {
			return fmt.Errorf("draw store identity: %w", errors.Join(err, err2))
		}
		if err := j.put(identityKey, encodeIdentity(id)); err != nil {
			return err
		}
	} else if err := decodeIdentity(v, &id); err != nil {
		return &journal.CorruptError{Cause: fmt.Errorf("store identity: %w", err)}
	}
	if j.cfg.Cluster != (ClusterID{}) && id.Cluster != j.cfg.Cluster {
		return fmt.Errorf("the journal in %s is of cluster %s, not of %s", j.cfg.Dir, id.Cluster, j.cfg.Cluster)
	}
	j.identity.self = id
	j.identity.met = map[NodeID][16]byte{}
	j.identity.denied = map[NodeID]error{}
	return j.loadPeers()
}

func (j *Journal) loadPeers() (err error) {
	it, err := j.store.db.NewIter(&pebble.IterOptions{LowerBound: peerKey(0), UpperBound: []byte{0xff, 0xff, 'p' + 1}})
	if err != nil {
		return &journal.CorruptError{Cause: err}
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		node, incarnation, err := decodePeer(it.Value())
		if err != nil || numberOf(it.Key()) != node {
			return &journal.CorruptError{Cause: fmt.Errorf("peer %d: %w", numberOf(it.Key()), errors.Join(err, errors.New("under a wrong key or damaged")))}
		}
		j.identity.met[node] = incarnation
	}
	if err := it.Error(); err != nil {
		return &journal.CorruptError{Cause: err}
	}
	return nil
}

// put makes one value durable.
func (j *Journal) put(k, v []byte) error {
	b := j.store.db.NewBatch()
	defer func() { _ = b.Close() }() // a batch that was not committed holds nothing
	if err := b.Set(k, v, nil); err != nil {
		return j.store.trip(err)
	}
	return j.store.commit(b, true)
}

// Identity returns who this node is to its peers.
func (j *Journal) Identity() Identity { return j.identity.self }

// Meet implements Receiver: it admits peers of this cluster, each ID with the
// store it was first met with, and never another. What is told to the peer is
// what it has acknowledged here.
func (j *Journal) Meet(peer Identity) ([]byte, error) {
	if !j.use.TryRLock() {
		return nil, journal.ErrClosed
	}
	defer j.use.RUnlock()
	if j.gone {
		return nil, journal.ErrClosed
	}
	self := j.identity.self
	switch {
	case peer.Cluster != self.Cluster:
		return nil, fmt.Errorf("node %d is of cluster %s, node %d of %s", peer.Node, peer.Cluster, self.Node, self.Cluster)
	case peer.Node == self.Node:
		return nil, fmt.Errorf("node ID %d is used twice in cluster %s", peer.Node, self.Cluster)
	case peer.Shards != self.Shards:
		return nil, fmt.Errorf("node %d has %d shards, node %d has %d", peer.Node, peer.Shards, self.Node, self.Shards)
	}
	j.identity.mu.Lock()
	defer j.identity.mu.Unlock()
	known, met := j.identity.met[peer.Node]
	switch {
	case met && known != peer.Incarnation:
		e := &ImpostorError{Node: peer.Node}
		if j.identity.denied[peer.Node] == nil {
			j.cfg.Logger.Error("a node was refused", "node", peer.Node, "err", e)
			j.identity.denied[peer.Node] = e
		}
		return nil, e
	case !met && len(j.identity.met) >= maxPeers:
		return nil, fmt.Errorf("node %d knows %d nodes already", self.Node, maxPeers)
	case !met:
		// Before anything is promised to it or believed of it.
		if err := j.put(peerKey(peer.Node), encodePeer(peer.Node, peer.Incarnation)); err != nil {
			return nil, err
		}
		j.identity.met[peer.Node] = peer.Incarnation
	}
	return j.greeting(peer.Node), nil
}
