package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"sync/atomic"
	"time"

	"github.com/bongsu-im/bongsu/backup"
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/raft"
	"github.com/bongsu-im/bongsu/view"
)

// RestoreConfig says what Restore makes a data folder from.
type RestoreConfig struct {
	From       string // the archive, as in BackupConfig.To
	Identities backup.Identities
	Cluster    string // whose, if the archive holds several
	// UntilIndex ends single shards at an index, UntilTime all others before the
	// first record that was decided later, if not zero.
	UntilIndex map[int]uint64
	UntilTime  time.Time
	// Progress may be nil.
	Progress func(entries, bytes uint64)
}

// Restored is what a restore has made.
type Restored struct {
	Cluster  string          `json:"cluster"`  // the one that was lost
	Archived time.Time       `json:"archived"` // time of the newest manifest
	Entries  uint64          `json:"entries"`
	Bytes    uint64          `json:"bytes"` // of entries
	Seconds  float64         `json:"seconds"`
	Shards   []RestoredShard `json:"shards"`
	Problems []string        `json:"problems"` // of the archive, that have not kept entries away
}

// RestoredShard is where a shard ends; index 0 for an empty one.
type RestoredShard struct {
	Shard int    `json:"shard"`
	Term  uint64 `json:"term"`
	Index uint64 `json:"index"`
	Base  uint64 `json:"base,omitempty"` // its view was restored as it was there
}

// unfinished marks a folder that a restore is filling.
const unfinished = "RESTORING"

// Restore makes a data folder out of an archive: the journal, and the keys that
// sign tokens. The view is made by the next start. The node is a new one, alone
// in a new cluster with the old history, so that nothing of what the lost one
// wrote after the archive's end is ever taken for its own.
func Restore(ctx context.Context, cfg Config, from RestoreConfig) (*Restored, error) {
	began := time.Now()
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	store, err := backup.Open(from.From, cfg.FS)
	if err != nil {
		return nil, err
	}
	archive, err := backup.OpenArchive(ctx, store, from.Identities, from.Cluster)
	if err != nil {
		return nil, err
	}
	shards, err := archive.Shards()
	if err != nil {
		return nil, err
	}
	for s := range from.UntilIndex {
		if s < 0 || s >= shards {
			return nil, fmt.Errorf("there is no shard %d: the archive has %d", s, shards)
		}
	}
	r := &Restored{Cluster: archive.Cluster.String(), Archived: archive.Manifest.Time, Problems: []string{}}
	for _, p := range archive.Problems {
		r.Problems = append(r.Problems, p.Error())
	}
	if err := prepare(cfg); err != nil {
		return nil, err
	}
	id := identity{Layout: layoutVersion, Cell: archive.Manifest.Cell, Shards: shards}
	if id.Node, err = drawNodeID(cfg.Random); err != nil {
		return nil, err
	}
	id.Check = id.sum()
	if err := r.journal(ctx, cfg, from, archive, id); err != nil {
		return nil, err
	}
	if err := r.views(ctx, cfg, from, archive, id); err != nil {
		return nil, fmt.Errorf("restore views: %w", err)
	}
	if err := finishRestore(cfg, archive.Manifest.Files, id); err != nil {
		return nil, err
	}
	r.Seconds = time.Since(began).Seconds()
	return r, nil
}

// prepare makes the folder, or empties one that a restore has not finished.
// From here on no start takes the folder for a new one: it has a journal and no
// identity.
func prepare(cfg Config) error {
	fs, layout := cfg.FS, Layout{cfg.Data}
	names, err := fs.List(cfg.Data)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("look into the data folder: %w", err)
	}
	again := false
	for _, name := range names {
		again = again || fs.PathBase(name) == unfinished
	}
	if Exists(fs, cfg.Data) || len(names) > 0 && !again {
		return fmt.Errorf("%s is not empty: restore into an empty folder", cfg.Data)
	}
	if err := durable.MkdirAll(fs, layout.Journal(), 0o700); err != nil {
		return fmt.Errorf("make data folder: %w", err)
	}
	if err := durable.WriteFile(fs, fs.PathJoin(cfg.Data, unfinished), []byte("bongsu restore has not finished here; run it again\n"), 0o600); err != nil {
		return fmt.Errorf("mark data folder: %w", err)
	}
	for _, dir := range []string{layout.Journal(), layout.View(), layout.Keys()} {
		if err := fs.RemoveAll(dir); err != nil {
			return fmt.Errorf("empty data folder: %w", err)
		}
	}
	return durable.MkdirAll(fs, layout.Journal(), 0o700)
}

// journal restores all shards' histories.
func (r *Restored) journal(ctx context.Context, cfg Config, from RestoreConfig, archive *backup.Archive, id identity) error {
	var entries, bytes atomic.Uint64
	history := func(shard journal.ShardID) (h raft.History, err error) {
		until := from.until(shard)
		b, err := archive.Base(ctx, shard, until)
		if err != nil {
			return h, err
		}
		if b != nil {
			h.Base, h.At = b.Log, b.At
		}
		h.Entries = func(yield func(journal.Entry, error) bool) {
			for e, err := range archive.Entries(ctx, shard, until) {
				if err == nil {
					n, b := entries.Add(1), bytes.Add(uint64(len(e.Data)))
					if from.Progress != nil && n%1024 == 0 {
						from.Progress(n, b)
					}
				}
				if !yield(e, err) {
					return
				}
			}
		}
		return h, nil
	}
	rc, err := raftConfig(cfg, Layout{cfg.Data}, id, cfg.Logger)
	if err != nil {
		return err
	}
	ends, err := raft.Restore(ctx, rc, history)
	if err != nil {
		return err
	}
	r.Entries, r.Bytes = entries.Load(), bytes.Load()
	for s, end := range ends {
		r.Shards = append(r.Shards, RestoredShard{Shard: s, Term: uint64(end.Term), Index: uint64(end.Index)})
	}
	return nil
}

// until is where a shard's history shall end.
func (f *RestoreConfig) until(shard journal.ShardID) backup.Until {
	if index := f.UntilIndex[int(shard)]; index != 0 {
		return backup.Until{Index: journal.Index(index)}
	}
	return backup.Until{Time: f.UntilTime}
}

// views puts those views in place that shards' histories begin with; the others
// are made by the next start.
func (r *Restored) views(ctx context.Context, cfg Config, from RestoreConfig, archive *backup.Archive, id identity) (err error) {
	var store *view.Store
	defer func() {
		if store != nil {
			err = errors.Join(err, store.Close())
		}
	}()
	for s := range id.Shards {
		b, err := archive.Base(ctx, journal.ShardID(s), from.until(journal.ShardID(s)))
		if err != nil {
			return err
		}
		if b == nil {
			continue
		}
		if store == nil {
			if store, err = view.Open(view.Config{Dir: Layout{cfg.Data}.View(), FS: cfg.FS, Shards: id.Shards, Layout: viewLayout, Logger: cfg.Logger}); err != nil {
				return err
			}
		}
		at := &journalv1.Mark{Term: uint64(b.At.Term), Index: uint64(b.At.Index), Hash: b.At.Hash[:]}
		if err := store.Shard(s).Restore(ctx, at, b.View); err != nil {
			return err
		}
		r.Shards[s].Base = at.Index
	}
	return nil
}

// finishRestore writes the keys and, last, the identity that makes the folder one.
func finishRestore(cfg Config, files map[string][]byte, id identity) error {
	fs, layout := cfg.FS, Layout{cfg.Data}
	if err := durable.MkdirAll(fs, layout.Keys(), 0o700); err != nil {
		return fmt.Errorf("make the folder of keys: %w", err)
	}
	for name, content := range files {
		if path.Dir(name) != keysFolder {
			return fmt.Errorf("the archive has a file %q, which this release does not know", name)
		}
		if err := durable.WriteFile(fs, fs.PathJoin(layout.Keys(), path.Base(name)), content, 0o600); err != nil {
			return fmt.Errorf("write key: %w", err)
		}
	}
	if err := layout.write(fs, id); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	if err := fs.Remove(fs.PathJoin(cfg.Data, unfinished)); err != nil {
		return fmt.Errorf("unmark data folder: %w", err)
	}
	return durable.SyncDir(fs, cfg.Data)
}
