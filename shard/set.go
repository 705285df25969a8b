// Package shard runs all shards of a machine: one owner a shard decides
// commands and appends them to the journal, an outbox pump carries effects to
// other shards, and queries are answered from the views.
//
// Vocabulary: a Set holds all shards of the machine. An owner is the one
// goroutine that decides for a shard: it drains the inbox into a batch, decides
// each command on a stage of the view, appends ONE record to the journal, and
// only when that is committed commits the stage, answers the senders and
// publishes the feed (DESIGN §4). A refusal is a definite no with nothing
// changed; an error of Do means that the outcome is unknown (invariant 4).
//
// Concurrency: Do, Begin, Query, Ready and the rest of Set may be called from any
// goroutine. What an owner holds is touched by its goroutine alone, except the
// inbox, the status, the receipts and the mark's broadcast, which have locks of
// their own; no lock is held while another is taken. Feed is called from the
// owners' goroutines, in journal order within a shard, but for read cursors,
// which come from timers too; it must not block.
//
// What it does not do: it knows no rules (package chat does), keeps no state
// but what is on its way, authenticates nobody, never trims the journal and
// never rebuilds a damaged view: it says so, and the node does. Snapshots of
// views it makes and takes in; how they travel is the journal's and the node's.
package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/bongsu-im/bongsu/chat"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/clock"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/view"
	"github.com/prometheus/client_golang/prometheus"
)

// Config says what a Set stands on and what bounds it. Zero values of optional
// fields mean the default given with each.
type Config struct {
	Journal journal.Journal
	View    *view.Store // opened with the same number of shards
	Shards  int
	Clock   clock.Clock // nil: clock.System

	// Feed gets what was applied, record by record; nil: nobody listens. The
	// items must not be modified.
	Feed func([]*nodev1.FeedItem)

	// Do reaches any shard, also those that other nodes own; nil: all are owned
	// here, and the Set asks itself.
	Do func(context.Context, *nodev1.Command) (*nodev1.Reply, error)
	// Fresh tells whether this node has heard lately from the owner of a shard
	// that it does not own itself: only then may its view be read. nil: always.
	Fresh func(shard int) bool
	// Elsewhere tells why no other node serves a shard that this one does not own;
	// nil if one does. A nil Elsewhere: there are no other nodes.
	Elsewhere func(shard int) error
	// Absent tells whether this node holds no replica of a shard: another serves
	// it. nil: it holds all.
	Absent func(shard int) bool
	// Remote asks whoever holds a shard that is absent here; nil if none is.
	Remote func(context.Context, *nodev1.Query) (*nodev1.QueryReply, error)
	// LeaseEnded gives a channel that is closed when a lease is over, so that an
	// idle owner finds out; nil: it finds out at its next append.
	LeaseEnded func(shard int, lease journal.Lease) <-chan struct{}

	// FetchView has a shard's view taken from a peer: it makes RestoreSnapshot
	// be called, and returns when that is done. It is called, by the owner and
	// with pauses between attempts, when the journal has trimmed what a view
	// lacks; never while this node decides for the shard. nil: such a shard is
	// damaged and stops.
	FetchView func(ctx context.Context, shard int) error
	// Replaced hears that a shard's view was replaced by a later one. Feed is not
	// told of what happened between the two, so whoever listens must read again
	// what the shard has. It may be called from any goroutine, must not block,
	// and may be nil.
	Replaced func(shard int)

	Logger     *slog.Logger          // nil: discards
	Registerer prometheus.Registerer // nil: metrics are kept but not shown

	InboxCommands int // waiting commands a shard; 4,096
	InboxBytes    int // their encoded bytes; 8 MiB
	BatchCommands int // commands in one record; 2,048
	BatchBytes    int // encoded bytes of one batch; 512 KiB

	DigestRate int64 // bytes a second that a digest of a view reads; 32 MiB

	OutboxInFlight int           // effects under way at once, a shard; 64
	LeaseGrace     time.Duration // how long commands may wait for an owner before they are refused; 1 s
	AppendTimeout  time.Duration // after which the outcome of an append is given up as unknown; 30 s
	DrainTimeout   time.Duration // how long Run, once cancelled, waits for an append in flight; 5 s
	QueryWait      time.Duration // longest wait for at_least positions, within the caller's deadline; 2 s
}

func (c Config) withDefaults() (Config, error) {
	if c.Journal == nil || c.View == nil {
		return c, errors.New("shard: journal and view must be given")
	}
	if c.Shards < 1 || c.Shards > id.Partitions || c.View.Shards() != c.Shards {
		return c, fmt.Errorf("shard: %d shards configured, the view has %d", c.Shards, c.View.Shards())
	}
	if c.Clock == nil {
		c.Clock = clock.System{}
	}
	if c.Feed == nil {
		c.Feed = func([]*nodev1.FeedItem) {}
	}
	if c.Fresh == nil {
		c.Fresh = func(int) bool { return true }
	}
	if c.Replaced == nil {
		c.Replaced = func(int) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.DigestRate < 0 {
		return c, errors.New("shard: negative rate in configuration")
	}
	if c.DigestRate == 0 {
		c.DigestRate = 32 << 20
	}
	for _, f := range []struct {
		value *int
		want  int
	}{
		{&c.InboxCommands, 4096},
		{&c.InboxBytes, 8 << 20},
		{&c.BatchCommands, 2048},
		{&c.BatchBytes, 512 << 10},
		{&c.OutboxInFlight, 64},
	} {
		if *f.value < 0 {
			return c, errors.New("shard: negative bound in configuration")
		}
		if *f.value == 0 {
			*f.value = f.want
		}
	}
	if c.BatchBytes > journal.MaxEntryBytes/2 {
		return c, fmt.Errorf("shard: batches of %d bytes may not fit into an entry", c.BatchBytes)
	}
	for _, f := range []struct {
		value *time.Duration
		want  time.Duration
	}{
		{&c.LeaseGrace, time.Second},
		{&c.AppendTimeout, 30 * time.Second},
		{&c.DrainTimeout, 5 * time.Second},
		{&c.QueryWait, 2 * time.Second},
	} {
		if *f.value < 0 {
			return c, errors.New("shard: negative time in configuration")
		}
		if *f.value == 0 {
			*f.value = f.want
		}
	}
	return c, nil
}

// Set is all shards of a machine.
type Set struct {
	cfg     Config
	owners  []*owner
	metrics *metrics

	background background
}

// New checks the configuration and makes a Set. Nothing runs until Run.
func New(cfg Config) (*Set, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Set{cfg: cfg, metrics: newMetrics()}
	if s.cfg.Do == nil {
		s.cfg.Do = s.Do
	}
	if err := s.metrics.register(cfg.Registerer); err != nil {
		return nil, fmt.Errorf("shard: register metrics: %w", err)
	}
	for n := range cfg.Shards {
		s.owners = append(s.owners, newOwner(s, n))
	}
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(newCensus(s)); err != nil {
			return nil, fmt.Errorf("shard: register census: %w", err)
		}
	}
	return s, nil
}

// Run runs every shard until ctx ends, then stops admitting, finishes what is
// in flight and returns nil. A shard that cannot serve (damage, a fenced store)
// does not end Run: the others go on, and Ready says which and why. Run is
// called once.
func (s *Set) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, o := range s.owners {
		wg.Go(func() { o.run(ctx) })
		wg.Go(func() { o.pump.run(ctx) })
	}
	wg.Wait()
	s.background.stop()
	return nil
}

// Ready returns nil when every shard serves, here or, where this node follows,
// elsewhere. Otherwise the error names each
// shard that does not, and why; errors.As finds *DamagedError,
// *view.FencedError and *journal.FencedError in it.
func (s *Set) Ready() error {
	var errs []error
	if err := s.cfg.View.Err(); err != nil {
		errs = append(errs, err) // an idle owner has not noticed yet
	}
	for n, o := range s.owners {
		if err := o.ready(); err != nil {
			errs = append(errs, fmt.Errorf("shard %d: %w", n, err))
		}
	}
	return errors.Join(errs...)
}

// Damaged returns the *DamagedError of each shard that has stopped because what
// is stored here cannot be trusted.
func (s *Set) Damaged() error {
	var errs []error
	for _, o := range s.owners {
		var d *DamagedError
		if errors.As(o.status.ready(), &d) {
			errs = append(errs, d)
		}
	}
	return errors.Join(errs...)
}

// TooOld tells of shards that have stopped because a newer release wrote what is
// to be applied; nothing of that is damaged.
func (s *Set) TooOld() error {
	for _, o := range s.owners {
		if why := o.status.reason(); why != nil && *why == tooOld {
			return fmt.Errorf("shard %d: %w: run the newer release again", o.n, o.status.ready())
		}
	}
	return nil
}

// Shards returns how many shards the set has.
func (s *Set) Shards() int { return len(s.owners) }

// Owns tells whether this node decides for the shard now.
func (s *Set) Owns(shard int) bool { return s.owners[shard].owned.Load() }

// ShardOf returns the shard whose owner decides the command, or a refusal of a
// command that belongs nowhere.
func (s *Set) ShardOf(cmd *nodev1.Command) (int, *nodev1.Reply) {
	o, refusal := s.route(cmd)
	if refusal != nil {
		return 0, refusal
	}
	return o.n, nil
}

// Do asks the owner of the command's shard to decide it and returns the answer
// once what it stands on is durable. A refusal is in Reply.Error: nothing was
// changed. An error means that the outcome is unknown: the command may be, or
// become, part of history. Repeating commands with a client ID is safe.
func (s *Set) Do(ctx context.Context, cmd *nodev1.Command) (*nodev1.Reply, error) {
	o, refusal := s.route(cmd)
	if refusal != nil {
		return refusal, nil
	}
	return o.inbox.do(ctx, cmd)
}

// Begin is Do for callers that must not wait: done is called exactly once, from
// any goroutine, perhaps before Begin returns, and must not block. Once the
// deadline has passed, and at most 50 ms later, it hears a refusal if nothing
// was begun, else that the outcome is unknown. Commands of one shard that are
// begun by one goroutine are decided in that order.
func (s *Set) Begin(cmd *nodev1.Command, deadline time.Time, done func(*nodev1.Reply, error)) {
	o, refusal := s.route(cmd)
	if refusal != nil {
		done(refusal, nil)
		return
	}
	o.inbox.begin(cmd, deadline, done)
}

func (s *Set) route(cmd *nodev1.Command) (*owner, *nodev1.Reply) {
	p, err := chat.Partition(cmd)
	switch {
	case err == nil:
		return s.owner(p), nil
	case errors.Is(err, chat.ErrByShard):
		n := cmd.GetFinishEffects().GetShard() + cmd.GetNoteTailLost().GetShard() + cmd.GetActivateRules().GetShard() // all but one are absent
		if int64(n) < int64(len(s.owners)) {
			return s.owners[n], nil
		}
		return nil, refusal(badShard)
	}
	if e, ok := chat.AsRefusal(err); ok {
		return nil, &nodev1.Reply{Error: e}
	}
	return nil, refusal(badShard)
}

func (s *Set) owner(p id.Partition) *owner { return s.owners[p.Shard(len(s.owners))] }

// background is what queries have started and do not wait for; Run does.
type background struct {
	mu      sync.Mutex
	stopped bool
	wg      sync.WaitGroup
}

// start runs fn, unless the set has stopped.
func (b *background) start(fn func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.stopped {
		b.wg.Go(fn)
	}
}

func (b *background) stop() {
	b.mu.Lock()
	b.stopped = true
	b.mu.Unlock()
	b.wg.Wait()
}
