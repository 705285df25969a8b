package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/bongsu-im/bongsu/chat"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/gen/bongsu/node/v1/nodev1connect"
	"github.com/bongsu-im/bongsu/internal/mtls"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/raft"
	"github.com/bongsu-im/bongsu/node/peer"
	"github.com/bongsu-im/bongsu/node/roster"
	"github.com/bongsu-im/bongsu/shard"
)

// ClusterConfig makes a node one of several.
type ClusterConfig struct {
	// Certs is the folder of this node's identity (see internal/mtls), which
	// has its name.
	Certs string
	// Zone is where the machine stands; replicas of a shard are spread over zones.
	Zone string
	// Listen is the peer address, HOST:PORT, for other nodes and operators;
	// Address is where they reach it, Listen if empty.
	Listen, Address string
	// Join are peer addresses of nodes of the cluster, asked by a node with an
	// empty folder to let it in. Without it a new folder begins a cluster.
	Join []string
	// Reach are addresses, by name, that hold whatever the nodes announce.
	Reach map[string]string
	// URL is where people reach this node; the node's own, if empty.
	URL string
}

// cluster is this node's dealings with the others.
type cluster struct {
	cfg      ClusterConfig
	name     string
	version  string
	log      *slog.Logger
	roster   *roster.Roster
	port     *peerPort
	self     uint64 // this node's ID, once it has one
	leaving  atomic.Bool
	full     atomic.Bool   // the disk is nearly full; see room.go
	wasFull  atomic.Bool   // it was, lately
	exchange chan struct{} // holds one token: talk to the others soon

	// Set once the stores are open, before run.
	journal   *raft.Journal
	transport *raft.TCP
	core      *Core

	mu    sync.Mutex // guards what follows
	links map[uint64]*nodeLink
	heard map[uint64]time.Time                    // when an exchange with a node last succeeded
	held  map[uint64]map[uint32]*nodev1.HeldShard // what each node says it holds

	streams streams
	absent  atomic.Pointer[[]bool] // shards that this node holds no replica of

	running sync.WaitGroup
	end     context.CancelFunc
	http    *http.Client
}

// nodeLink is the connection for requests to one node.
type nodeLink struct {
	*peer.Client
	address string
	end     context.CancelFunc
}

const (
	exchangeEvery = time.Second
	exchangeWait  = 2 * time.Second
	// nearEnough is how lately a node must have been heard of to count as up.
	nearEnough = 4 * time.Second
)

// openCluster takes the peer address and reads who else there is.
func openCluster(cfg Config, layout Layout) (*cluster, error) {
	identity, err := mtls.Open(cfg.Cluster.Certs)
	if err != nil {
		return nil, err
	}
	log := cfg.Logger.With("node", identity.Name())
	c := &cluster{
		cfg: *cfg.Cluster, name: identity.Name(), version: cfg.Version, log: log,
		exchange: make(chan struct{}, 1), links: map[uint64]*nodeLink{}, heard: map[uint64]time.Time{},
		held: map[uint64]map[uint32]*nodev1.HeldShard{}, end: func() {},
	}
	if c.roster, err = roster.Open(cfg.FS, layout.Roster()); err != nil {
		var damaged *roster.DamagedError
		if !errors.As(err, &damaged) {
			return nil, err
		}
		// Nothing depends on it: any node tells it again.
		log.Error("the roster is damaged and begun anew", "error", err)
		if err := cfg.FS.Remove(layout.Roster()); err != nil {
			return nil, fmt.Errorf("remove the damaged roster: %w", err)
		}
		if c.roster, err = roster.Open(cfg.FS, layout.Roster()); err != nil {
			return nil, err
		}
	}
	if c.port, err = listenForPeers(c.cfg.Listen, identity, log); err != nil {
		return nil, err
	}
	if c.cfg.Address == "" {
		c.cfg.Address = c.port.listener.Addr().String()
	}
	c.http = &http.Client{Transport: &http.Transport{
		DialTLSContext:  c.dialHTTP,
		MaxConnsPerHost: 8, IdleConnTimeout: 30 * time.Second,
	}}
	return c, nil
}

// row is what this node says of itself.
func (c *cluster) row() *nodev1.Member {
	return &nodev1.Member{
		Id: c.self, Name: c.name, Zone: c.cfg.Zone, Address: c.cfg.Address, Url: c.cfg.URL, Version: c.version, Leaving: c.leaving.Load() || c.wasFull.Load(), Full: c.full.Load(),
		Rules: chat.RulesVersion,
	}
}

// announce raises this node's row, if anything in it has changed.
func (c *cluster) announce() error {
	row := c.row()
	if have := c.roster.Get(c.self); have != nil {
		row.Revision = have.GetRevision()
		if proto.Equal(have, row) {
			return nil
		}
		if have.GetRemoved() {
			return nil // it will find out from the shards
		}
	}
	row.Revision++
	_, err := c.roster.Merge([]*nodev1.Member{row})
	return err
}

// transportFor makes the transport of the journal.
func (c *cluster) transportFor() (*raft.TCP, error) {
	return raft.NewTCP(raft.TCPConfig{
		Listener: c.port.lines[protocolRaft],
		Dial: func(ctx context.Context, node raft.NodeID, address string) (net.Conn, error) {
			return c.port.dial(ctx, c.nameOf(node), address, protocolRaft)
		},
		Verify: c.verify,
		Peers:  c.addresses(),
		Logger: c.log,
	})
}

// verify believes a peer's ID only with the certificate of the name that the
// roster has for it: no node can vote in the place of another.
func (c *cluster) verify(node raft.NodeID, conn net.Conn) error {
	t, ok := conn.(*tls.Conn)
	if !ok {
		return errors.New("the connection is not encrypted")
	}
	name, err := mtls.PeerName(t.ConnectionState())
	if err != nil {
		return err
	}
	m := c.roster.Get(node)
	switch {
	case m == nil:
		c.soon() // it may have joined elsewhere a moment ago
		return fmt.Errorf("node %d is not in the roster yet", node)
	case m.GetName() != name:
		return fmt.Errorf("node %d is %s, the certificate is of %s", node, m.GetName(), name)
	}
	return nil
}

func (c *cluster) nameOf(node uint64) string { return c.roster.Get(node).GetName() }

// addressOf is where a member is reached.
func (c *cluster) addressOf(m *nodev1.Member) string {
	if at, ok := c.cfg.Reach[m.GetName()]; ok {
		return at
	}
	return m.GetAddress()
}

// addresses are those of the others.
func (c *cluster) addresses() map[raft.NodeID]string {
	out := map[raft.NodeID]string{}
	for _, m := range c.roster.Members() {
		if m.GetId() != c.self {
			out[m.GetId()] = c.addressOf(m)
		}
	}
	return out
}

// soon has the rosters exchanged without waiting for the clock.
func (c *cluster) soon() {
	select {
	case c.exchange <- struct{}{}:
	default:
	}
}

// start begins to talk to the others; the stores are open.
func (c *cluster) start(core *Core, j *raft.Journal) {
	c.core, c.journal = core, j
	c.streams.shards = make([]stream, core.identity.Shards)
	ctx, cancel := context.WithCancel(context.Background())
	c.end = cancel
	c.running.Go(func() { c.keepLinks(ctx) })
	c.running.Go(func() { c.keepRosters(ctx) })
	c.running.Go(func() { c.keepBalance(ctx) })
	c.running.Go(func() { c.keepRoom(ctx) })
	c.running.Go(func() { core.WatchOwners(ctx) })
	c.running.Go(func() { c.keepStreams(ctx) })
	c.running.Go(func() { core.feeds.keepAlive(ctx) })
	c.running.Go(func() { c.serveLinks(ctx) })
	c.running.Go(func() { c.serveHTTP(ctx) })
	if old := core.identity.Replaces; old != 0 {
		c.running.Go(func() { c.keepReplacing(ctx, old) })
	}
}

// open lets others in as soon as there is something to say to them.
func (c *cluster) listen(ctx context.Context) {
	c.running.Go(func() { c.port.run(ctx) })
}

// close ends all of it but the transport, which is the journal's.
func (c *cluster) close() {
	c.end()
	c.port.close()
	c.running.Wait()
	c.http.CloseIdleConnections()
}

// keepLinks keeps a link for requests to every other member, and tells the
// transport where they are.
func (c *cluster) keepLinks(ctx context.Context) {
	for {
		changed := c.roster.Changed()
		c.relink(ctx)
		select {
		case <-changed:
			c.soon()
		case <-ctx.Done():
			return
		}
	}
}

func (c *cluster) relink(ctx context.Context) {
	want := c.addresses()
	c.mu.Lock()
	defer c.mu.Unlock()
	for node, l := range c.links {
		if want[node] != l.address {
			l.end()
			delete(c.links, node)
			c.transport.SetPeer(node, want[node])
		}
	}
	for node, address := range want {
		if c.links[node] != nil {
			continue
		}
		name := c.nameOf(node)
		client := peer.NewClient(name, func(ctx context.Context) (net.Conn, error) {
			return c.port.dial(ctx, name, address, peer.Protocol)
		}, c.log, peer.Times{})
		linkCtx, end := context.WithCancel(ctx)
		c.links[node] = &nodeLink{Client: client, address: address, end: end}
		c.transport.SetPeer(node, address)
		c.running.Go(func() { client.Run(linkCtx) })
	}
}

// link returns the link to a node, nil if there is none.
func (c *cluster) link(node uint64) *nodeLink {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.links[node]
}

// linked tells whether requests can be sent to the node now.
func (c *cluster) linked(node uint64) bool {
	l := c.link(node)
	return l != nil && l.Linked()
}

// serveLinks answers the requests of other nodes.
func (c *cluster) serveLinks(ctx context.Context) {
	server := peer.NewServer(shardsHere{c.core.Shards}, c.core.feeds, c.log, peer.Times{})
	var serving sync.WaitGroup
	defer serving.Wait()
	l := c.port.lines[peer.Protocol]
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		from, err := mtls.PeerName(conn.(*tls.Conn).ConnectionState())
		if err != nil {
			_ = conn.Close() // its certificate was verified; it names nobody
			continue
		}
		serving.Go(func() { server.Serve(ctx, conn, from) })
	}
}

// shardsHere answers other nodes: with what is here, asking nobody in turn.
type shardsHere struct{ *shard.Set }

// Query implements peer.Backend.
func (s shardsHere) Query(ctx context.Context, q *nodev1.Query) (*nodev1.QueryReply, error) {
	return s.QueryHere(ctx, q)
}

// serveHTTP answers what concerns the cluster itself.
func (c *cluster) serveHTTP(ctx context.Context) {
	mux := http.NewServeMux()
	mux.Handle(nodev1connect.NewClusterServiceHandler(&clusterService{c: c}, connect.WithReadMaxBytes(4<<20)))
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10, BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog: slog.NewLogLogger(c.log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	_ = server.Serve(c.port.lines[protocolCluster]) // ends with the port
}

// dialHTTP connects to the node whose ID is the host's name; see serviceOf.
func (c *cluster) dialHTTP(ctx context.Context, _, host string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(host)
	if err != nil {
		return nil, err
	}
	node, err := strconv.ParseUint(host, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("no node is called %q", host)
	}
	m := c.roster.Get(node)
	if m == nil {
		return nil, fmt.Errorf("node %d is not in the roster", node)
	}
	return c.port.dial(ctx, m.GetName(), c.addressOf(m), protocolCluster)
}

// serviceOf speaks to a node about the cluster.
func (c *cluster) serviceOf(node uint64) nodev1connect.ClusterServiceClient {
	return nodev1connect.NewClusterServiceClient(c.http, "https://"+strconv.FormatUint(node, 10), connect.WithReadMaxBytes(4<<20))
}

// keepRosters exchanges rosters with every other member, now and then and when
// something has changed.
func (c *cluster) keepRosters(ctx context.Context) {
	tick := time.NewTicker(exchangeEvery)
	defer tick.Stop()
	for {
		if err := c.announce(); err != nil {
			c.log.Error("this node's row of the roster cannot be written", "error", err)
		}
		var asking sync.WaitGroup
		for _, m := range c.roster.Members() {
			if m.GetId() != c.self {
				asking.Go(func() { c.exchangeWith(ctx, m) })
			}
		}
		asking.Wait()
		select {
		case <-tick.C:
		case <-c.exchange:
		case <-ctx.Done():
			return
		}
	}
}

func (c *cluster) exchangeWith(ctx context.Context, m *nodev1.Member) {
	ctx, cancel := context.WithTimeout(ctx, exchangeWait)
	defer cancel()
	reply, err := c.serviceOf(m.GetId()).Exchange(ctx, connect.NewRequest(&nodev1.ExchangeRequest{Members: c.roster.All()}))
	if err != nil {
		return // links and the transport say so, once
	}
	c.merge(reply.Msg.GetMembers(), m.GetName())
	c.noteHeld(m.GetId(), reply.Msg.GetHeld())
	c.mu.Lock()
	c.heard[m.GetId()] = time.Now()
	c.mu.Unlock()
}

func (c *cluster) merge(rows []*nodev1.Member, from string) {
	if _, err := c.roster.Merge(rows); err != nil {
		c.log.Error("the roster of another node is refused", "from", from, "error", err)
	}
}

// up tells whether a node was heard of lately.
func (c *cluster) up(node uint64) bool {
	if node == c.self {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.heard[node]) < nearEnough
}

// leader is the node that leads a shard as far as is known here; 0 for nobody.
func (c *cluster) leader(n int) uint64 {
	if absent := c.absent.Load(); absent != nil && (*absent)[n] {
		return c.leaderElsewhere(n)
	}
	node, _ := c.journal.Leader(journal.ShardID(n))
	return node
}

// elsewhere tells why another node does not serve a shard; nil if one does, and
// this one can reach it.
func (c *cluster) elsewhere(shard int) error {
	at := c.leader(shard)
	switch {
	case at == 0:
		return errors.New("no leader is known")
	case at == c.self:
		return errors.New("this node is taking it over")
	case !c.linked(at):
		return fmt.Errorf("node %s leads it and is not reached", c.nameOf(at))
	case c.isAbsent(shard):
		return c.streaming(shard)
	}
	return nil
}

// isAbsent tells whether this node holds no replica of a shard.
func (c *cluster) isAbsent(shard int) bool {
	absent := c.absent.Load()
	return absent != nil && (*absent)[shard]
}

// neighbours are the other nodes as the plane needs them.
func (c *cluster) neighbours(j *raft.Journal) *Neighbours {
	c.journal = j
	return &Neighbours{
		Self: c.self, Leader: c.leader, Elsewhere: c.elsewhere, LeaseEnded: j.LeaseEnded, Heard: j.Heard, FetchView: FetchView(j),
		Absent: c.isAbsent, Source: c.source, Replaced: func(shard int) { c.core.missedShard(shard) },
		Node: func(node uint64) RemoteNode {
			if l := c.link(node); l != nil {
				return l
			}
			return nil
		},
		Nodes: func() (nodes []uint64) {
			for _, m := range c.roster.Members() {
				nodes = append(nodes, m.GetId())
			}
			return nodes
		},
	}
}
