package raft

import (
	"context"
	"errors"
	"io"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/bongsu-im/bongsu/journal"
)

// NodeID names a node of a cluster, for ever: a node that lost its disk comes
// back under another. 0 is none.
type NodeID = uint64

// Bounds of what travels between nodes, in encoded bytes.
const (
	maxMessageBytes = 2 << 20  // one Raft message: an entry or a few, and little else
	maxFrameBytes   = 4 << 20  // what is sent at once
	maxPeerBytes    = 16 << 20 // waiting for one peer, in one direction; more is dropped
	maxInboxBytes   = 8 << 20  // waiting for one group; more is dropped
	maxInboxItems   = 1024
)

// Parcel is what one group sends to a member of it.
type Parcel struct {
	Shard journal.ShardID
	// Message is Raft's. nil reminds the receiver of what it has acknowledged, or,
	// if that is zero too, tells it that it was removed from the group, for good.
	Message  *raftpb.Message
	Reminder journal.Position
}

// cost is about what a parcel takes encoded, without encoding it.
func (p Parcel) cost() int {
	n := 64
	for _, e := range p.Message.GetEntries() {
		n += len(e.GetData()) + 32
	}
	if s := p.Message.GetSnapshot(); s != nil {
		n += len(s.GetData()) + 64
	}
	return n
}

// Transport carries parcels between nodes. It may lose, delay and reorder them,
// and must bound what waits; Raft recovers. It never alters them: both
// implementations check sums. Network (in memory, with faults) and TCP (TLS)
// implement it.
type Transport interface {
	// Start begins to reach the peers as self, and to hand what arrives to r.
	Start(self Identity, r Receiver) error
	// Send never blocks.
	Send(to NodeID, p Parcel)
	// Fetch asks a peer for a snapshot of a shard; what is read is what the
	// peer's Receiver.Serve wrote, and io.EOF only after all of it arrived whole.
	Fetch(ctx context.Context, from NodeID, shard journal.ShardID) (io.ReadCloser, error)
	// Close ends all connections and waits for its goroutines. Peers see them end.
	Close() error
}

// Receiver takes what a Transport brings. Meet and Greeted come before anything
// else of a connection, in both directions: a node whose disk has forgotten
// something is told so before it can vote.
type Receiver interface {
	// Meet decides about a peer that says who it is, and returns what it shall
	// be told first. An error refuses it.
	Meet(peer Identity) (greeting []byte, err error)
	// Greeted takes the peer's greeting. An error refuses the connection.
	Greeted(peer NodeID, greeting []byte) error
	// Receive takes a parcel; it does not block.
	Receive(from NodeID, p Parcel)
	// Up and Down tell that a connection to the peer was made or has broken.
	Up(peer NodeID)
	Down(peer NodeID)
	// Serve writes a snapshot of the shard for a peer.
	Serve(ctx context.Context, to NodeID, shard journal.ShardID, w io.Writer) error
}

// alone is the transport of a node without peers: there is nobody to send to.
type alone struct{}

var _ Transport = alone{}

func (alone) Start(Identity, Receiver) error { return nil }
func (alone) Send(NodeID, Parcel)            {}
func (alone) Close() error                   { return nil }

func (alone) Fetch(context.Context, NodeID, journal.ShardID) (io.ReadCloser, error) {
	return nil, errors.New("journal: this node has no transport to its peers")
}

// isAnswer tells which messages promise that something is on this disk.
func isAnswer(m *raftpb.Message) bool {
	switch m.GetType() {
	case raftpb.MsgAppResp, raftpb.MsgVoteResp, raftpb.MsgPreVoteResp:
		return true
	}
	return false
}
