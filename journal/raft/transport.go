package raft

import (
	"go.etcd.io/raft/v3/raftpb"

	"github.com/bongsu-im/bongsu/journal"
)

// Transport carries messages between the members of groups. Send must not
// block; it may lose, delay, reorder and duplicate. Receivers hand what arrives
// to Journal.Step.
type Transport interface {
	Send(shard journal.ShardID, messages []*raftpb.Message)
}

// alone is the transport of a node without peers: there is nobody to send to.
type alone struct{}

func (alone) Send(journal.ShardID, []*raftpb.Message) {}
