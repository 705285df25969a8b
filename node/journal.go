package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"sync/atomic"

	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/postgres"
	"github.com/bongsu-im/bongsu/journal/raft"
	"github.com/bongsu-im/bongsu/shard"
)

// Kinds of journals, as node.json names them.
const (
	builtIn    = "" // etcd's raft on Pebble, in the data folder
	onPostgres = "postgres"
)

// journalStore is what every implementation of the contract offers a node.
type journalStore interface {
	journal.Journal
	// Damage tells what is wrong: *journal.LostTailError for a shard whose end is missing.
	Damage() []error
	// ScrubEntries is Scrub that shows each entry as well.
	ScrubEntries(ctx context.Context, progress func(done uint64), visit func(journal.ShardID, journal.Entry) error) error
}

// journalKind tells which journal an address means.
func journalKind(address string) (string, error) {
	if address == "" {
		return builtIn, nil
	}
	// The address may hold a password: it is never repeated.
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return "", errors.New("the journal's address is not like postgres://user@host/database")
	}
	return onPostgres, nil
}

func raftConfig(cfg Config, layout Layout, id identity, log *slog.Logger) (raft.Config, error) {
	c := raft.Config{Dir: layout.Journal(), FS: cfg.FS, Shards: id.Shards, NodeID: id.Node, Clock: cfg.Clock, Random: cfg.Random, Logger: log}
	if id.Cluster != "" {
		b, err := hex.DecodeString(id.Cluster)
		if err != nil || len(b) != len(c.Cluster) {
			return c, fmt.Errorf("%s is damaged: cluster %q", layout.identity(), id.Cluster)
		}
		c.Cluster, c.Join = raft.ClusterID(b), true
	}
	return c, nil
}

func postgresConfig(cfg Config, layout Layout, id identity, log *slog.Logger) postgres.Config {
	return postgres.Config{
		URL: cfg.Journal, Cell: id.Cell, Node: id.Node, Shards: id.Shards,
		Dir: layout.PostgresMarks(), FS: cfg.FS, Logger: log,
	}
}

// openJournal opens the journal that the data folder belongs to. c, if the node
// is one of several, gives it a transport.
func openJournal(ctx context.Context, cfg Config, layout Layout, id identity, c *cluster, snapshots *lateSnapshots, log *slog.Logger) (journalStore, error) {
	if id.Journal == onPostgres {
		j, err := postgres.Open(ctx, postgresConfig(cfg, layout, id, log))
		if err != nil {
			return nil, err
		}
		return j, nil
	}
	rc, err := raftConfig(cfg, layout, id, log)
	if err != nil {
		return nil, err
	}
	if c != nil {
		if c.transport, err = c.transportFor(); err != nil {
			return nil, err
		}
		rc.Transport, rc.Snapshots = c.transport, snapshots
	}
	j, err := raft.Open(rc)
	if err != nil {
		return nil, err
	}
	return j, nil
}

// loss is what accepting one gives up for good.
type loss struct {
	shard  journal.ShardID
	proven journal.Position
	proof  string
}

// acceptLoss lets a shard go on from what its journal still has.
func acceptLoss(ctx context.Context, cfg Config, layout Layout, id identity, n journal.ShardID) (loss, error) {
	if id.Journal == onPostgres {
		l, err := postgres.AcceptLoss(ctx, postgresConfig(cfg, layout, id, cfg.Logger), n)
		return loss{l.Shard, l.Proven, l.Proof}, err
	}
	rc, err := raftConfig(cfg, layout, id, cfg.Logger)
	if err != nil {
		return loss{}, err
	}
	l, err := raft.AcceptLoss(rc, n)
	return loss{l.Shard, l.Proven, l.Proof}, err
}

// checkKind makes sure that the folder is opened with the journal it belongs to:
// another one would be an empty history.
func (i identity) checkKind(dir, kind string) error {
	switch {
	case i.Journal == kind:
		return nil
	case i.Journal == onPostgres:
		return fmt.Errorf("data folder %s belongs to a journal on PostgreSQL: give its address with --journal", dir)
	}
	return fmt.Errorf("data folder %s has a journal of its own: leave --journal away, or begin with an empty folder", dir)
}

// mustBeAlone refuses to serve a member of a cluster as if there were nobody
// else: it would wait for the others for ever.
func mustBeAlone(ctx context.Context, j journalStore, dir string) error {
	r, ok := j.(*raft.Journal)
	if !ok {
		return nil
	}
	st, err := r.Status(ctx, 0)
	if err != nil {
		return fmt.Errorf("look who else is in the cluster: %w", err)
	}
	if len(st.Members) != 1 {
		return fmt.Errorf("data folder %s belongs to a node of a cluster: start it with --certs and --peer-listen", dir)
	}
	return nil
}

// lateSnapshots makes and takes in views once there are shards: the journal is
// opened before them, and peers may ask at once.
type lateSnapshots struct{ shards atomic.Pointer[shard.Set] }

var errNoShardsYet = errors.New("the shards are being opened")

func (l *lateSnapshots) set(s *shard.Set) { l.shards.Store(s) }

// Make implements raft.Snapshots.
func (l *lateSnapshots) Make(ctx context.Context, n journal.ShardID) (journal.Mark, io.ReadCloser, error) {
	s := l.shards.Load()
	if s == nil {
		return journal.Mark{}, nil, errNoShardsYet
	}
	return s.MakeSnapshot(ctx, n)
}

// Restore implements raft.Snapshots.
func (l *lateSnapshots) Restore(ctx context.Context, n journal.ShardID, at journal.Mark, r io.Reader) error {
	s := l.shards.Load()
	if s == nil {
		return errNoShardsYet
	}
	return s.RestoreSnapshot(ctx, n, at, r)
}
