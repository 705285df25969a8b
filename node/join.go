package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/bongsu-im/bongsu/gateway/auth"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/gen/bongsu/node/v1/nodev1connect"
	"github.com/bongsu-im/bongsu/internal/clock"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal/raft"
)

const (
	joinWait  = 5 * time.Second
	joinPause = time.Second
)

// drawNodeID draws the ID of a new data folder: never one that was used, by any
// chance that matters (62 bits).
func drawNodeID(random clock.Source) (uint64, error) {
	var b [8]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return 0, fmt.Errorf("draw a node ID: %w", err)
	}
	return binary.BigEndian.Uint64(b[:])>>2 | 1<<61, nil
}

// join asks the cluster to let this node in, until somebody does, and returns
// what its folder is to be. Keys and roster are on the disk when it returns.
func (c *cluster) join(ctx context.Context, cfg Config, layout Layout) (identity, error) {
	node, err := drawNodeID(cfg.Random)
	if err != nil {
		return identity{}, err
	}
	c.self = node
	again := wasMember(cfg, layout)
	told := ""
	for {
		for _, address := range c.doors() {
			id, err := c.joinAt(ctx, cfg, layout, address, again)
			if err == nil {
				return id, nil
			}
			var ce *connect.Error
			if errors.As(err, &ce) && (ce.Code() == connect.CodeInvalidArgument || ce.Code() == connect.CodeAlreadyExists) {
				return identity{}, fmt.Errorf("join at %s: %w", address, err)
			}
			if said := address + err.Error(); said != told {
				told = said
				c.log.Warn("not let into the cluster yet; asking again", "at", address, "error", err)
			}
		}
		if err := wait(ctx, joinPause); err != nil {
			return identity{}, fmt.Errorf("join the cluster at %v: %w", c.doors(), err)
		}
	}
}

// wasMember tells whether this folder has held stores that were set aside: then
// the new member takes the place of the old one by itself. A folder that is new
// altogether is an operator's doing, who says so (cluster replace).
func wasMember(cfg Config, layout Layout) bool {
	names, err := cfg.FS.List(layout.Dir)
	return err == nil && slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, asidePrefix) })
}

// doors are the peer addresses to ask: those given, and those known from before.
func (c *cluster) doors() []string {
	out := slices.Clone(c.cfg.Join)
	for _, m := range c.roster.Members() {
		if at := c.addressOf(m); m.GetName() != c.name && !slices.Contains(out, at) {
			out = append(out, at)
		}
	}
	return out
}

func (c *cluster) joinAt(ctx context.Context, cfg Config, layout Layout, address string, again bool) (identity, error) {
	ctx, cancel := context.WithTimeout(ctx, joinWait)
	defer cancel()
	transport := &http.Transport{DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return c.port.dial(ctx, "", address, protocolCluster)
	}}
	defer transport.CloseIdleConnections()
	row := c.row()
	row.Revision = 1
	reply, err := nodev1connect.NewClusterServiceClient(&http.Client{Transport: transport}, "https://cluster", connect.WithReadMaxBytes(4<<20)).
		Join(ctx, connect.NewRequest(&nodev1.JoinRequest{Member: row}))
	if err != nil {
		return identity{}, err
	}
	if len(reply.Msg.GetCluster()) != len(raft.ClusterID{}) {
		return identity{}, errors.New("the answer names no cluster")
	}
	if _, err := c.roster.Merge(reply.Msg.GetMembers()); err != nil {
		return identity{}, err
	}
	if err := saveKeys(cfg, layout, reply.Msg.GetKeys()); err != nil {
		return identity{}, err
	}
	id := identity{
		Layout: layoutVersion, Cell: uint16(reply.Msg.GetCell()), Node: c.self, Shards: int(reply.Msg.GetShards()),
		Cluster: raft.ClusterID(reply.Msg.GetCluster()).String(),
	}
	if again {
		id.Replaces = c.replaced()
	}
	c.log.Info("let into the cluster; waiting to be added", "cluster", id.Cluster, "id", id.Node, "shards", id.Shards)
	return id, nil
}

// sharedKeyFiles are the files of the keys' folder that all nodes have alike.
var sharedKeyFiles = []string{auth.FileName, echoKeyFile}

const maxKeyFileBytes = 1 << 20

// sharedKeys reads them, for a node that joins.
func (c *Core) sharedKeys() (map[string][]byte, error) {
	dir := Layout{c.config.Data}.Keys()
	out := map[string][]byte{}
	for _, name := range sharedKeyFiles {
		b, err := durable.ReadFile(c.config.FS, c.config.FS.PathJoin(dir, name))
		switch {
		case errors.Is(err, os.ErrNotExist) && name != auth.FileName:
		case err != nil:
			return nil, fmt.Errorf("this node has no keys yet: %w", err)
		default:
			out[name] = b
		}
	}
	return out, nil
}

func saveKeys(cfg Config, layout Layout, keys map[string][]byte) error {
	if err := durable.MkdirAll(cfg.FS, layout.Keys(), 0o700); err != nil {
		return fmt.Errorf("make the folder of keys: %w", err)
	}
	if len(keys[auth.FileName]) == 0 {
		return errors.New("the answer holds no keys")
	}
	for name, b := range keys {
		if !slices.Contains(sharedKeyFiles, name) || len(b) > maxKeyFileBytes {
			continue // of a release that knows more
		}
		if err := durable.WriteFile(cfg.FS, cfg.FS.PathJoin(layout.Keys(), name), b, 0o600); err != nil {
			return fmt.Errorf("write key %s: %w", name, err)
		}
	}
	return nil
}
