package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/raft"
	"github.com/bongsu-im/bongsu/shard"
	"github.com/bongsu-im/bongsu/view"
)

// Core is the message plane without its door: journal, view and shards over
// one data folder. Serve puts a gateway before it; seeding and the power drill
// use it as it is.
type Core struct {
	config   Config
	identity identity
	release  func()

	Journal journalStore
	View    *view.Store
	Shards  *shard.Set

	feed atomic.Pointer[func([]*nodev1.FeedItem)]

	cluster *cluster // nil: this node is alone
	router  *router  // likewise

	end     context.CancelFunc
	running sync.WaitGroup
	failed  chan error // the first error of what runs
}

// OpenCore opens the stores and starts the shards; Ready tells when they
// serve. A damaged view is set aside and made again from the journal. A new
// folder that is to join a cluster waits until it is let in, or ctx ends.
func OpenCore(ctx context.Context, cfg Config, registry prometheus.Registerer) (_ *Core, err error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	kind, err := journalKind(cfg.Journal)
	if err != nil {
		return nil, err
	}
	layout := Layout{cfg.Data}
	c := &Core{config: cfg, failed: make(chan error, 1), end: func() {}, release: func() {}}
	running, cancel := context.WithCancel(context.Background())
	c.end = cancel
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	first := alone(cfg.Shards, kind)
	if cfg.Cluster != nil {
		if err := durable.MkdirAll(cfg.FS, layout.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("make data folder: %w", err)
		}
		if c.cluster, err = openCluster(cfg, layout); err != nil {
			return nil, err
		}
		if len(c.cluster.doors()) > 0 {
			first = func() (identity, error) { return c.cluster.join(ctx, cfg, layout) }
		}
	}
	id, release, err := layout.claim(cfg.FS, kind, first)
	if err != nil {
		return nil, err
	}
	c.identity, c.release = id, release
	if c.cluster != nil {
		c.cluster.self = c.identity.Node
		if err := c.cluster.announce(); err != nil {
			return nil, err
		}
		c.cluster.listen(running)
	}
	c.Journal, err = openJournal(ctx, cfg, layout, c.identity, c.cluster, cfg.Logger.With("store", "journal"))
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if c.cluster == nil {
		if err := mustBeAlone(ctx, c.Journal, layout.Dir); err != nil {
			return nil, err
		}
	}
	for _, lost := range c.Lost() {
		cfg.Logger.Error("journal damaged; this shard is not served", "error", lost,
			"do", "put the newer disk back, or run: bongsu admin accept-loss --data "+cfg.Data)
	}
	if c.View, err = c.openView(layout.View()); err != nil {
		return nil, err
	}
	sc := shard.Config{
		Journal: c.Journal, View: c.View, Shards: c.identity.Shards, Clock: cfg.Clock,
		Feed: c.publish, Logger: cfg.Logger, Registerer: registry,
	}
	if c.cluster != nil {
		c.joinShards(&sc)
	}
	if c.Shards, err = shard.New(sc); err != nil {
		return nil, fmt.Errorf("make shards: %w", err)
	}
	var archive *archiver
	if cfg.Backup.To != "" {
		if archive, err = newArchiver(c, registry); err != nil {
			return nil, err
		}
	}
	c.start(running, "view", c.View.Run)
	c.start(running, "shards", c.Shards.Run)
	c.start(running, "scrub", c.scrub)
	c.start(running, "stores", c.watchStores)
	if archive != nil {
		c.start(running, "backup", archive.run)
	}
	if c.cluster != nil {
		c.router.local = c.Shards
		c.cluster.start(c, c.Journal.(*raft.Journal))
	}
	return c, nil
}

// joinShards has the shards ask other nodes for what is not theirs.
func (c *Core) joinShards(sc *shard.Config) {
	j, cl := c.Journal.(*raft.Journal), c.cluster
	cl.journal = j
	c.router = newRouter(c.identity.Shards, cl.self, cl.leader, func(node uint64) remoteNode {
		if l := cl.link(node); l != nil {
			return l
		}
		return nil
	}, func() (nodes []uint64) {
		for _, m := range cl.roster.Members() {
			nodes = append(nodes, m.GetId())
		}
		return nodes
	})
	sc.Do = c.router.doAgain
	sc.Elsewhere = cl.elsewhere
	sc.LeaseEnded = func(n int, lease journal.Lease) <-chan struct{} { return j.LeaseEnded(journal.ShardID(n), lease) }
	sc.Fresh = func(n int) bool { return cl.leader(n) != 0 }
	// Another node is found sooner than the lease comes back.
	sc.LeaseGrace, sc.QueryWait = clusterGrace, clusterQueryWait
}

const (
	clusterGrace     = 50 * time.Millisecond
	clusterQueryWait = 300 * time.Millisecond
)

// Lost are the shards whose journal lacks its end; they are not served.
func (c *Core) Lost() (lost []*journal.LostTailError) {
	for _, damage := range c.Journal.Damage() {
		var e *journal.LostTailError
		if errors.As(damage, &e) {
			lost = append(lost, e)
		}
	}
	return lost
}

func (c *Core) start(ctx context.Context, what string, run func(context.Context) error) {
	c.running.Go(func() {
		if err := run(ctx); err != nil && ctx.Err() == nil {
			select {
			case c.failed <- fmt.Errorf("%s: %w", what, err):
			default: // the first failure is the one that explains the others
			}
		}
	})
}

// openView opens the view, setting a damaged one aside: the journal is the
// truth, so nothing is lost by it but the time to read it again.
func (c *Core) openView(dir string) (*view.Store, error) {
	cfg := view.Config{
		Dir: dir, FS: c.config.FS, Shards: c.identity.Shards, Layout: viewLayout, CacheBytes: int64(c.config.ViewCacheMiB) << 20,
		// Marks are at least as new as what the view is about to make durable,
		// so that a journal that ends before its view is noticed.
		BeforeFlush: c.Journal.SyncMarks,
		Logger:      c.config.Logger.With("store", "view"),
	}
	store, err := view.Open(cfg)
	var damaged *view.DamagedError
	if !errors.As(err, &damaged) {
		return store, err
	}
	aside, err := view.SetAside(c.config.FS, dir, c.config.Clock)
	if err != nil {
		return nil, errors.Join(damaged, fmt.Errorf("set the damaged view aside: %w", err))
	}
	c.config.Logger.Warn("view is damaged; set aside, rebuilding from the journal", "error", damaged, "aside", aside)
	return view.Open(cfg)
}

// viewLayout is the version of what the view's values mean; a view of another
// is rebuilt.
const viewLayout = 1

func (c *Core) publish(items []*nodev1.FeedItem) {
	if f := c.feed.Load(); f != nil {
		(*f)(items)
	}
}

// OnFeed sets who hears of applied events from now on; f must not block.
func (c *Core) OnFeed(f func([]*nodev1.FeedItem)) { c.feed.Store(&f) }

// Failed gives the error that ended a part of the core which should run for ever.
func (c *Core) Failed() <-chan error { return c.failed }

// Do implements gateway.Backend.
func (c *Core) Do(ctx context.Context, cmd *nodev1.Command) (*nodev1.Reply, error) {
	if c.router != nil {
		return c.router.Do(ctx, cmd)
	}
	return c.Shards.Do(ctx, cmd)
}

// Begin implements gateway.Backend.
func (c *Core) Begin(cmd *nodev1.Command, deadline time.Time, done func(*nodev1.Reply, error)) {
	if c.router != nil {
		c.router.Begin(cmd, deadline, done)
		return
	}
	c.Shards.Begin(cmd, deadline, done)
}

// Query implements gateway.Backend.
func (c *Core) Query(ctx context.Context, q *nodev1.Query) (*nodev1.QueryReply, error) {
	if c.router != nil {
		return c.router.Query(ctx, q)
	}
	return c.Shards.Query(ctx, q)
}

// Ready implements gateway.Backend.
func (c *Core) Ready() error { return c.Shards.Ready() }

// Leave gives the shards that this node leads to others, before a planned stop;
// it does nothing where there are none.
func (c *Core) Leave(ctx context.Context) {
	if c.cluster != nil {
		c.cluster.leave(ctx)
	}
}

// AwaitReady waits until every shard serves.
func (c *Core) AwaitReady(ctx context.Context) error {
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		err := c.Ready()
		if err == nil {
			tick.Stop()
			return nil
		}
		select {
		case <-tick.C:
		case failed := <-c.failed:
			c.failed <- failed
			tick.Stop()
			return failed
		case <-ctx.Done():
			tick.Stop()
			return fmt.Errorf("not ready: %w", err)
		}
	}
}

// Close stops the shards, flushes and closes the stores, and gives the folder
// back. Unfinished commands end with an unknown outcome.
func (c *Core) Close() error {
	c.end()
	c.running.Wait()
	if c.cluster != nil {
		defer c.cluster.close()
	}
	var errs []error
	if c.View != nil {
		errs = append(errs, c.View.Close())
	}
	if c.Journal != nil {
		errs = append(errs, c.Journal.Close())
	}
	c.release()
	return errors.Join(errs...)
}

// pause waits as long as a refusal asks for, at most a second.
func pause(ctx context.Context, e *edgev1.Error) error {
	wait := time.Duration(e.GetInfo().GetRetryAfterSeconds() * float64(time.Second))
	select {
	case <-time.After(min(max(wait, 5*time.Millisecond), time.Second)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Exists tells whether a data folder has been made.
func Exists(fs durable.FS, data string) bool {
	_, err := fs.Stat(Layout{data}.identity())
	return err == nil
}
