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
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/raft"
)

// Core is the message plane without its door: journal, view and shards over
// one data folder. Serve puts a gateway before it; seeding and the power drill
// use it as it is.
type Core struct {
	config   Config
	identity identity
	release  func()

	*Plane // never nil; what of it is not open yet is

	feed   atomic.Pointer[func([]*nodev1.FeedItem)]
	missed atomic.Pointer[func(of func(id.Partition) bool)]

	cluster   *cluster // nil: this node is alone
	feeds     *feeds   // likewise
	snapshots lateSnapshots
	trimmer   *trimmer  // nil: the journal is never trimmed
	archive   *archiver // nil: there is no backup

	ended   context.Context // by Close
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
	c := &Core{config: cfg, Plane: &Plane{}, failed: make(chan error, 1), end: func() {}, release: func() {}}
	running, cancel := context.WithCancel(context.Background())
	c.ended, c.end = running, cancel
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
		} else if wasMember(cfg, layout) {
			return nil, fmt.Errorf("%s holds stores that were set aside and no other node is known: name one with --join, or put them back", layout.Dir)
		}
	}
	made, release, err := layout.claim(cfg.FS, kind, first)
	if err != nil {
		return nil, err
	}
	c.identity, c.release = made, release
	if c.cluster != nil {
		c.cluster.self = c.identity.Node
		if err := c.cluster.announce(); err != nil {
			return nil, err
		}
		c.cluster.listen(running)
	}
	c.Journal, err = openJournal(ctx, cfg, layout, c.identity, c.cluster, &c.snapshots, cfg.Logger.With("store", "journal"))
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
	if cfg.Backup.To != "" {
		if c.archive, err = newArchiver(c, registry); err != nil {
			return nil, err
		}
	}
	if j, ok := c.Journal.(*raft.Journal); ok && c.cluster != nil {
		c.trimmer = newTrimmer(trimConfig{
			journal: j, shards: c.identity.Shards, needs: raftNeeds(j), backup: c.archive.upTo, rules: trimRules{keepFor: cfg.KeepJournal}, clock: cfg.Clock, logger: cfg.Logger,
		})
		c.start(running, "trim", c.trimmer.run)
	}
	pc := PlaneConfig{
		Journal: c.Journal, ViewDir: layout.View(), FS: cfg.FS, Shards: c.identity.Shards,
		ViewCacheBytes: int64(cfg.ViewCacheMiB) << 20, Clock: cfg.Clock, Logger: cfg.Logger, Registerer: registry, Feed: c.publish, AfterFlush: c.flushed,
	}
	if c.cluster != nil {
		c.feeds = newFeeds(c.identity.Shards, func(shard int) uint64 { return c.View.Shard(shard).Mark().GetIndex() })
		c.cluster.core = c
		pc.Neighbours = c.cluster.neighbours(c.Journal.(*raft.Journal))
	}
	plane, err := OpenPlane(pc)
	if err != nil {
		return nil, err
	}
	c.Plane = plane
	if c.trimmer != nil {
		c.trimmer.begin(c.View.Marks()) // what was read back just now is durable
	}
	c.snapshots.set(c.Shards)
	c.start(running, "view", c.View.Run)
	c.start(running, "shards", c.Shards.Run)
	c.start(running, "scrub", c.scrub)
	c.start(running, "stores", c.watchStores)
	if c.archive != nil {
		c.start(running, "backup", c.archive.run)
	}
	if c.cluster != nil {
		c.cluster.start(c, c.Journal.(*raft.Journal))
	}
	return c, nil
}

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
			c.fail(fmt.Errorf("%s: %w", what, err))
		}
	})
}

// fail ends the core; the first failure is the one that explains the others.
func (c *Core) fail(err error) {
	select {
	case c.failed <- err:
	default:
	}
}

// flushed hears which marks are durable in the view.
func (c *Core) flushed(marks []*journalv1.Mark) {
	if c.trimmer != nil {
		c.trimmer.afterFlush(marks)
	}
}

func (c *Core) publish(items []*nodev1.FeedItem) {
	c.hand(items)
	if c.feeds != nil {
		c.feeds.publish(items)
	}
}

// hand gives what was applied, here or elsewhere, to who listens on this node.
func (c *Core) hand(items []*nodev1.FeedItem) {
	if f := c.feed.Load(); f != nil {
		(*f)(items)
	}
}

// OnFeed sets who hears of applied events from now on; f must not block.
func (c *Core) OnFeed(f func([]*nodev1.FeedItem)) { c.feed.Store(&f) }

// OnMissed sets who is told, by partition, that some of the feed did not come; it
// must not block.
func (c *Core) OnMissed(f func(of func(id.Partition) bool)) { c.missed.Store(&f) }

func (c *Core) missedShard(shard int) {
	if f := c.missed.Load(); f != nil {
		(*f)(func(p id.Partition) bool { return p.Shard(c.identity.Shards) == shard })
	}
}

// Failed gives the error that ended a part of the core which should run for ever.
func (c *Core) Failed() <-chan error { return c.failed }

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
