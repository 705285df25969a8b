package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bongsu-im/bongsu/backup"
	"github.com/bongsu-im/bongsu/internal/clock"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/raft"
)

// BackupConfig says where a node archives its journal. Without To it does not.
type BackupConfig struct {
	// To is a folder, or s3://bucket/prefix (see backup.Open).
	To string
	// Recipients are the public keys (age1…) that can open the archive.
	Recipients []string
	// Every is how often it archives what is new (default 1 minute).
	Every time.Duration
	// Rate bounds what it reads of the journal to catch up, in bytes a second
	// (default 32 MiB).
	Rate int64
}

// backupRetryLast is the longest wait after failures.
const backupRetryLast = time.Minute

// lastPass bounds how long a stop may wait for what is not archived yet.
const lastPass = 5 * time.Second

func (c *BackupConfig) fill() error {
	if c.To == "" {
		if len(c.Recipients) > 0 {
			return errors.New("recipients of a backup were given and no place for it")
		}
		return nil
	}
	if c.Every == 0 {
		c.Every = time.Minute
	}
	if c.Every < 0 || c.Rate < 0 {
		return errors.New("a backup's interval or rate is negative")
	}
	if c.Rate == 0 {
		c.Rate = 32 << 20
	}
	if _, err := backup.ParseRecipients(c.Recipients); err != nil {
		return err
	}
	_, err := backup.Open(c.To, durable.Disk)
	return err
}

// alone tells whether nobody else keeps a copy of what this node does.
func (c *Core) alone() bool {
	if c.identity.Journal != builtIn {
		return false
	}
	return c.cluster == nil || len(c.cluster.roster.Members()) <= 1
}

// clusterOf tells whose history a journal holds.
func clusterOf(j journalStore) (backup.ClusterID, error) {
	built, ok := j.(*raft.Journal)
	if !ok {
		return backup.ClusterID{}, errors.New("a journal on PostgreSQL is backed up with the database's own tools")
	}
	return backup.ClusterID(built.Identity().Cluster), nil
}

// newWriter makes the writer of an archive of a journal.
func newWriter(cfg Config, to BackupConfig, id identity, j journalStore, base func(context.Context, journal.ShardID) (*backup.Base, func() error, error)) (*backup.Writer, error) {
	cluster, err := clusterOf(j)
	if err != nil {
		return nil, err
	}
	recipients, err := backup.ParseRecipients(to.Recipients)
	if err != nil {
		return nil, err
	}
	store, err := backup.Open(to.To, cfg.FS)
	if err != nil {
		return nil, err
	}
	return backup.NewWriter(backup.Config{
		Store: store, Recipients: recipients, Cluster: cluster, Node: id.Node, Cell: id.Cell, Shards: id.Shards,
		Version: cfg.Version, Log: j.Log, Clock: cfg.Clock, Logger: cfg.Logger, Rate: to.Rate, Base: base,
		Files: func() (map[string][]byte, error) { return readKeys(cfg.FS, Layout{cfg.Data}) },
	})
}

// readKeys reads what signs tokens, and the echo friend's password: with them
// people stay signed in after a restore.
func readKeys(fs durable.FS, layout Layout) (map[string][]byte, error) {
	names, err := fs.List(layout.Keys())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	files := map[string][]byte{}
	for _, name := range names {
		name = fs.PathBase(name)
		if strings.Contains(name, ".new") {
			continue // half written
		}
		content, err := durable.ReadFile(fs, fs.PathJoin(layout.Keys(), name))
		if err != nil {
			return nil, fmt.Errorf("read key: %w", err)
		}
		files[keysFolder+"/"+name] = content
	}
	return files, nil
}

// Backup archives what is new in a data folder that nobody uses.
func Backup(ctx context.Context, cfg Config, to BackupConfig) (_ backup.Stats, err error) {
	var none backup.Stats
	if err := cfg.fill(); err != nil {
		return none, err
	}
	if !Exists(cfg.FS, cfg.Data) {
		return none, fmt.Errorf("%s is not a data folder", cfg.Data)
	}
	layout := Layout{cfg.Data}
	identity, release, err := layout.claim(cfg.FS, builtIn, alone(cfg.Shards, builtIn))
	if err != nil {
		return none, err
	}
	defer release()
	j, err := openJournal(ctx, cfg, layout, identity, nil, nil, cfg.Logger)
	if err != nil {
		return none, fmt.Errorf("open journal: %w", err)
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	w, err := newWriter(cfg, to, identity, j, nil) // views at rest may be behind; a server makes bases
	if err != nil {
		return none, err
	}
	stats, err := w.Pass(ctx, allShards(identity.Shards))
	// What is there is archived; what is missing is said.
	return stats, errors.Join(append([]error{err}, j.Damage()...)...)
}

func allShards(n int) []journal.ShardID {
	all := make([]journal.ShardID, n)
	for i := range all {
		all[i] = journal.ShardID(i)
	}
	return all
}

// archiver archives the shards that this node owns, again and again. It stands in
// nobody's way: it only reads, at a bounded rate, and fails alone.
type archiver struct {
	core   *Core
	writer *backup.Writer
	every  time.Duration

	archived []atomic.Uint64 // index, by shard
	complete atomic.Int64    // until when everything is archived, in ms

	stored   prometheus.Counter
	failures prometheus.Counter
}

func newArchiver(c *Core, registry prometheus.Registerer) (*archiver, error) {
	w, err := newWriter(c.config, c.config.Backup, c.identity, c.Journal, c.makeBase)
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	a := &archiver{core: c, writer: w, every: c.config.Backup.Every, archived: make([]atomic.Uint64, c.identity.Shards)}
	a.complete.Store(c.config.Clock.Now().UnixMilli())
	a.stored = prometheus.NewCounter(prometheus.CounterOpts{Name: "bongsu_backup_bytes_total", Help: "Bytes put into the backup, compressed and encrypted."})
	a.failures = prometheus.NewCounter(prometheus.CounterOpts{Name: "bongsu_backup_failures_total", Help: "Backup passes that did not archive everything; they are repeated."})
	lag := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "bongsu_backup_lag_seconds", Help: "How old the oldest entry may be, of the shards owned here, that the backup lacks; 0: it has all."}, a.lag)
	if registry != nil {
		for _, m := range []prometheus.Collector{a.stored, a.failures, lag} {
			if err := registry.Register(m); err != nil {
				return nil, fmt.Errorf("register backup metrics: %w", err)
			}
		}
	}
	return a, nil
}

// makeBase makes what a shard's chain may begin anew with.
func (c *Core) makeBase(ctx context.Context, shard journal.ShardID) (*backup.Base, func() error, error) {
	at, view, err := c.Shards.MakeSnapshot(ctx, shard)
	if err != nil {
		return nil, nil, err
	}
	log, err := c.Journal.(*raft.Journal).BaseOf(shard, at) // no other journal is archived
	if err != nil {
		return nil, nil, errors.Join(err, view.Close())
	}
	return &backup.Base{At: at, Log: log, View: view}, view.Close, nil
}

// owned are the shards that this node decides for; nobody else archives them.
func (a *archiver) owned() (shards []journal.ShardID) {
	for _, s := range allShards(a.core.identity.Shards) {
		if a.core.Shards.Owns(int(s)) {
			shards = append(shards, s)
		} else {
			a.writer.Forget(s)
		}
	}
	return shards
}

// upTo is the index that a shard is archived up to, as far as this node knows: a
// journal of a machine that is alone may forget what comes before. Without an
// archive it is nothing.
func (a *archiver) upTo(shard journal.ShardID) journal.Index {
	if a == nil {
		return 0
	}
	return journal.Index(a.archived[shard].Load())
}

func (a *archiver) lag() float64 {
	for s := range a.archived {
		if a.core.Shards.Owns(s) && a.core.Journal.Log(journal.ShardID(s)).Last().Index > a.upTo(journal.ShardID(s)) {
			return max(float64(a.core.config.Clock.Now().UnixMilli()-a.complete.Load())/1000, 0)
		}
	}
	return 0
}

// run archives until ctx ends, and then what is left, if that is quick.
func (a *archiver) run(ctx context.Context) error {
	wait, owned, failed := time.Duration(0), []journal.ShardID(nil), false
	for clock.Sleep(ctx, wait) {
		owned = a.owned()
		err := a.pass(ctx, owned)
		if ctx.Err() != nil {
			break
		}
		if failed = err != nil; failed {
			a.failures.Inc()
			wait = min(max(2*wait, time.Second), backupRetryLast)
			a.core.config.Logger.Error("backup failed; messages go on, and it is tried again", "error", err, "lag_seconds", a.lag(), "again_in", wait)
			continue
		}
		wait = a.every
	}
	if failed || len(owned) == 0 {
		return nil
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastPass)
	defer cancel()
	if err := a.pass(last, owned); err != nil {
		a.core.config.Logger.Warn("the backup lacks what was written last; the next start archives it", "error", err)
	}
	return nil
}

func (a *archiver) pass(ctx context.Context, shards []journal.ShardID) error {
	began := a.core.config.Clock.Now()
	stats, err := a.writer.Pass(ctx, shards)
	a.stored.Add(float64(stats.Stored))
	for _, s := range shards {
		if at := a.writer.Archived(s); at.Index > 0 {
			a.archived[s].Store(uint64(at.Index))
		}
	}
	if err == nil {
		a.complete.Store(began.UnixMilli())
		a.core.config.Logger.Debug("archived", "entries", stats.Entries, "segments", stats.Segments, "bytes", stats.Bytes, "stored", stats.Stored)
	}
	return err
}
