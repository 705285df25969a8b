package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/clock"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/shard"
	"github.com/bongsu-im/bongsu/view"
)

// Plane is the message plane of one node: a journal that is open, the view, the
// shards on both, and the router to the other nodes. Core builds it over a data
// folder and real connections, the simulation (proof/sim) over disks and
// connections in memory: what is simulated is what serves.
type Plane struct {
	Journal journalStore
	View    *view.Store
	Shards  *shard.Set

	router *router // nil: this node is alone
}

// PlaneConfig says what a plane stands on. Journal, ViewDir and Shards are
// required.
type PlaneConfig struct {
	Journal        journalStore // open; whoever opened it closes it
	ViewDir        string
	FS             durable.FS
	Shards         int
	ViewCacheBytes int64
	Clock          clock.Clock
	Logger         *slog.Logger
	Registerer     prometheus.Registerer
	Feed           func([]*nodev1.FeedItem)
	AfterFlush     func([]*journalv1.Mark) // hears what is durable in the view; nil: nobody listens
	Neighbours     *Neighbours             // nil: this node is alone
}

// RemoteNode is another node as requests reach it; peer.Client is one.
type RemoteNode interface {
	Linked() bool
	Begin(cmd *nodev1.Command, deadline time.Time, done func(*nodev1.Reply, error))
	Query(ctx context.Context, q *nodev1.Query) (*nodev1.QueryReply, error)
}

// Neighbours are the other nodes of the cluster as a plane needs them.
type Neighbours struct {
	Self uint64
	// Leader is the node that leads a shard as far as is known here; 0 for nobody.
	Leader func(shard int) uint64
	// Node is nil for one that there is no connection to, and for this one.
	Node func(node uint64) RemoteNode
	// Nodes are all of them, this one too.
	Nodes func() []uint64
	// Elsewhere tells why another node does not serve a shard; nil if one does.
	Elsewhere func(shard int) error
	// LeaseEnded is raft.Journal's.
	LeaseEnded func(shard journal.ShardID, lease journal.Lease) <-chan struct{}
	// Heard is when the leader of a shard was heard of last, raft.Journal's.
	Heard func(shard journal.ShardID) time.Time
	// FetchView is raft.Journal's; nil: a view that lacks what is trimmed is damage.
	FetchView func(ctx context.Context, shard journal.ShardID) error

	// Absent tells which shards have no replica here; nil: every shard has one.
	Absent func(shard int) bool
	// Source is the node whose stream of an absent shard comes here, 0 for none;
	// nil: there are no streams.
	Source func(shard int) uint64
	// Replaced hears that the feed has skipped some of a shard; it may be nil.
	Replaced func(shard int)
}

// OpenPlane opens the view and makes the shards; a damaged view is set aside and
// made again from the journal. Nothing runs until View.Run and Shards.Run.
func OpenPlane(cfg PlaneConfig) (*Plane, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Plane{Journal: cfg.Journal}
	var err error
	if p.View, err = openView(cfg); err != nil {
		return nil, err
	}
	sc := shard.Config{
		Journal: p.Journal, View: p.View, Shards: cfg.Shards, Clock: cfg.Clock,
		Feed: cfg.Feed, Logger: cfg.Logger, Registerer: cfg.Registerer,
	}
	if cfg.Neighbours != nil {
		p.join(&sc, *cfg.Neighbours)
	}
	if p.Shards, err = shard.New(sc); err != nil {
		return nil, errors.Join(fmt.Errorf("make shards: %w", err), p.View.Close())
	}
	if p.router != nil {
		p.router.local = p.Shards
	}
	return p, nil
}

// join has the shards ask other nodes for what is not theirs.
func (p *Plane) join(sc *shard.Config, n Neighbours) {
	p.router = newRouter(sc.Shards, n.Self, n.Leader, n.Node, n.Nodes)
	if n.Source != nil {
		p.router.source = n.Source
	}
	absent := n.Absent
	if absent == nil {
		absent = func(int) bool { return false }
	}
	sc.Do, sc.Remote = p.router.doAgain, p.router.others
	sc.Elsewhere, sc.Absent, sc.Replaced = n.Elsewhere, absent, n.Replaced
	sc.LeaseEnded = func(shard int, lease journal.Lease) <-chan struct{} {
		return n.LeaseEnded(journal.ShardID(shard), lease)
	}
	sc.Fresh = func(shard int) bool {
		return !absent(shard) && time.Since(n.Heard(journal.ShardID(shard))) < mostBehind && p.Shards.Lag(shard) < mostBehind
	}
	if n.FetchView != nil {
		sc.FetchView = func(ctx context.Context, shard int) error { return n.FetchView(ctx, journal.ShardID(shard)) }
	}
	// Another node is found sooner than the lease comes back.
	sc.LeaseGrace, sc.QueryWait = clusterGrace, clusterQueryWait
}

const (
	// mostBehind is how old what a replica answers may be (DESIGN §4).
	mostBehind       = 2 * time.Second
	clusterGrace     = 50 * time.Millisecond
	clusterQueryWait = 300 * time.Millisecond
)

// openView opens the view, setting a damaged one aside: the journal is the
// truth, so nothing is lost by it but the time to read it again.
func openView(cfg PlaneConfig) (*view.Store, error) {
	vc := view.Config{
		Dir: cfg.ViewDir, FS: cfg.FS, Shards: cfg.Shards, Layout: viewLayout, CacheBytes: cfg.ViewCacheBytes,
		// Marks are at least as new as what the view is about to make durable,
		// so that a journal that ends before its view is noticed.
		BeforeFlush: cfg.Journal.SyncMarks,
		AfterFlush:  cfg.AfterFlush,
		Logger:      cfg.Logger.With("store", "view"),
	}
	store, err := view.Open(vc)
	var damaged *view.DamagedError
	if !errors.As(err, &damaged) {
		return store, err
	}
	aside, err := view.SetAside(cfg.FS, cfg.ViewDir, cfg.Clock)
	if err != nil {
		return nil, errors.Join(damaged, fmt.Errorf("set the damaged view aside: %w", err))
	}
	cfg.Logger.Warn("view is damaged; set aside, rebuilding from the journal", "error", damaged, "aside", aside)
	return view.Open(vc)
}

// viewLayout is the version of what the view's values mean; a view of another
// is rebuilt.
const viewLayout = 1

// Do implements gateway.Backend.
func (p *Plane) Do(ctx context.Context, cmd *nodev1.Command) (*nodev1.Reply, error) {
	if p.router != nil {
		return p.router.Do(ctx, cmd)
	}
	return p.Shards.Do(ctx, cmd)
}

// Begin implements gateway.Backend.
func (p *Plane) Begin(cmd *nodev1.Command, deadline time.Time, done func(*nodev1.Reply, error)) {
	if p.router != nil {
		p.router.Begin(cmd, deadline, done)
		return
	}
	p.Shards.Begin(cmd, deadline, done)
}

// Query implements gateway.Backend.
func (p *Plane) Query(ctx context.Context, q *nodev1.Query) (*nodev1.QueryReply, error) {
	if p.router != nil {
		return p.router.Query(ctx, q)
	}
	return p.Shards.Query(ctx, q)
}

// Ready implements gateway.Backend.
func (p *Plane) Ready() error { return p.Shards.Ready() }
