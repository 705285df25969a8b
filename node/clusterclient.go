package node

import (
	"context"
	"errors"
	"net"
	"net/http"

	"connectrpc.com/connect"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/gen/bongsu/node/v1/nodev1connect"
	"github.com/bongsu-im/bongsu/internal/mtls"
)

// ClusterClient speaks to any node about the cluster, as operators do.
type ClusterClient struct {
	transport *http.Transport
	service   nodev1connect.ClusterServiceClient
}

// DialCluster returns a client of the node at a peer address; it does not
// connect yet.
func DialCluster(identity *mtls.Identity, address string) *ClusterClient {
	p := &peerPort{identity: identity}
	c := &ClusterClient{transport: &http.Transport{DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return p.dial(ctx, "", address, protocolCluster)
	}}}
	c.service = nodev1connect.NewClusterServiceClient(&http.Client{Transport: c.transport}, "https://cluster", connect.WithReadMaxBytes(16<<20))
	return c
}

// Close drops the connections.
func (c *ClusterClient) Close() { c.transport.CloseIdleConnections() }

// Status asks every node how it is.
func (c *ClusterClient) Status(ctx context.Context) (*nodev1.GetClusterResponse, error) {
	reply, err := c.service.GetCluster(ctx, connect.NewRequest(&nodev1.GetClusterRequest{}))
	if err != nil {
		return nil, said(err)
	}
	return reply.Msg, nil
}

// Node asks the node at the address how it is, and nobody else.
func (c *ClusterClient) Node(ctx context.Context) (*nodev1.GetNodeResponse, error) {
	reply, err := c.service.GetNode(ctx, connect.NewRequest(&nodev1.GetNodeRequest{}))
	if err != nil {
		return nil, said(err)
	}
	return reply.Msg, nil
}

// Add gives a node its share of the shards. It may be asked again after an
// interruption.
func (c *ClusterClient) Add(ctx context.Context, name string, tell func(*nodev1.Progress)) error {
	out, err := c.service.AddNode(ctx, connect.NewRequest(&nodev1.AddNodeRequest{Name: name}))
	return follow(out, err, tell)
}

// Remove takes a node out of every shard.
func (c *ClusterClient) Remove(ctx context.Context, name string, tell func(*nodev1.Progress)) error {
	out, err := c.service.RemoveNode(ctx, connect.NewRequest(&nodev1.RemoveNodeRequest{Name: name}))
	return follow(out, err, tell)
}

// Replace puts a node in the place of one that is lost.
func (c *ClusterClient) Replace(ctx context.Context, r *nodev1.ReplaceNodeRequest, tell func(*nodev1.Progress)) error {
	out, err := c.service.ReplaceNode(ctx, connect.NewRequest(r))
	return follow(out, err, tell)
}

// Transfer has a node lead a shard.
func (c *ClusterClient) Transfer(ctx context.Context, shard uint32, to string) error {
	_, err := c.service.TransferShard(ctx, connect.NewRequest(&nodev1.TransferShardRequest{Shard: shard, To: to}))
	return said(err)
}

// ActivateRules ends an upgrade: every shard decides by the newest rules that all
// nodes know.
func (c *ClusterClient) ActivateRules(ctx context.Context) (*nodev1.ActivateRulesResponse, error) {
	reply, err := c.service.ActivateRules(ctx, connect.NewRequest(&nodev1.ActivateRulesRequest{}))
	if err != nil {
		return nil, said(err)
	}
	return reply.Msg, nil
}

func follow(out *connect.ServerStreamForClient[nodev1.Progress], err error, tell func(*nodev1.Progress)) error {
	if err != nil {
		return said(err)
	}
	defer func() { _ = out.Close() }() // its error is that of the last Receive
	for out.Receive() {
		tell(out.Msg())
	}
	return said(out.Err())
}

// said is an error in the words of whoever refused.
func said(err error) error {
	var e *connect.Error
	if errors.As(err, &e) {
		return errors.New(e.Message())
	}
	return err
}
