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

	end     context.CancelFunc
	running sync.WaitGroup
	failed  chan error // the first error of what runs
}

// OpenCore opens the stores and starts the shards; Ready tells when they
// serve. A damaged view is set aside and made again from the journal.
func OpenCore(cfg Config, registry prometheus.Registerer) (_ *Core, err error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	kind, err := journalKind(cfg.Journal)
	if err != nil {
		return nil, err
	}
	layout := Layout{cfg.Data}
	c := &Core{config: cfg, failed: make(chan error, 1), end: func() {}}
	if c.identity, c.release, err = layout.claim(cfg.FS, cfg.Shards, kind); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	c.Journal, err = openJournal(context.Background(), cfg, layout, c.identity, cfg.Logger.With("store", "journal"))
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	for _, lost := range c.Lost() {
		cfg.Logger.Error("journal damaged; this shard is not served", "error", lost,
			"do", "put the newer disk back, or run: bongsu admin accept-loss --data "+cfg.Data)
	}
	if c.View, err = c.openView(layout.View()); err != nil {
		return nil, err
	}
	c.Shards, err = shard.New(shard.Config{
		Journal: c.Journal, View: c.View, Shards: c.identity.Shards, Clock: cfg.Clock,
		Feed: c.publish, Logger: cfg.Logger, Registerer: registry,
	})
	if err != nil {
		return nil, fmt.Errorf("make shards: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.end = cancel
	c.start(ctx, "view", c.View.Run)
	c.start(ctx, "shards", c.Shards.Run)
	c.start(ctx, "scrub", c.scrub)
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
	return c.Shards.Do(ctx, cmd)
}

// Begin implements gateway.Backend.
func (c *Core) Begin(cmd *nodev1.Command, deadline time.Time, done func(*nodev1.Reply, error)) {
	c.Shards.Begin(cmd, deadline, done)
}

// Query implements gateway.Backend.
func (c *Core) Query(ctx context.Context, q *nodev1.Query) (*nodev1.QueryReply, error) {
	return c.Shards.Query(ctx, q)
}

// Ready implements gateway.Backend.
func (c *Core) Ready() error { return c.Shards.Ready() }

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
