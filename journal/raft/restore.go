package raft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"runtime"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sync/errgroup"

	"github.com/bongsu-im/bongsu/journal"
)

// restoreBytes of entries are made durable at a time.
const restoreBytes = 4 << 20

// Restore makes the journal of a new node, alone in a new cluster, out of the
// histories of another: entries from the first on, at their old positions, so
// that whoever knows one finds it. What is written from then on has terms that
// the lost cluster cannot have used, nor another journal that is restored from
// the same history: positions of what is not in the history stay lost.
//
// The folder must be missing or empty. Restore returns where each shard ends; until
// then the folder holds nothing of use, and it is not the journal's to remove it.
func Restore(ctx context.Context, cfg Config, history func(journal.ShardID) iter.Seq2[journal.Entry, error]) ([]journal.Position, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if cfg.Join || !slices.Equal(cfg.Voters, []NodeID{cfg.NodeID}) {
		return nil, errors.New("restore journal: a restored node begins alone")
	}
	if names, err := cfg.FS.List(cfg.Dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("restore journal: %w", err)
	} else if len(names) > 0 {
		return nil, fmt.Errorf("restore journal: %s is not empty", cfg.Dir)
	}
	ends, err := refillAll(ctx, cfg, history)
	if err != nil {
		return nil, fmt.Errorf("restore journal: %w", err)
	}
	if err := proveRestored(cfg, ends); err != nil {
		return nil, fmt.Errorf("read the restored journal back: %w", err)
	}
	return ends, nil
}

func refillAll(ctx context.Context, cfg Config, history func(journal.ShardID) iter.Seq2[journal.Entry, error]) (ends []journal.Position, err error) {
	j, err := load(cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	var random [4]byte
	if _, err := io.ReadFull(cfg.Random, random[:]); err != nil {
		return nil, fmt.Errorf("draw a term: %w", err)
	}
	jump := lossTermJump + uint64(binary.BigEndian.Uint32(random[:]))
	ends = make([]journal.Position, len(j.groups))
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(min(runtime.GOMAXPROCS(0), 4))
	for i, g := range j.groups {
		work.Go(func() (err error) {
			ends[i], err = g.log.refill(ctx, history(g.shard), jump)
			if err != nil {
				return fmt.Errorf("shard %d: %w", g.shard, err)
			}
			return nil
		})
	}
	return ends, work.Wait()
}

// refill writes a history into a log that was just made. Indexes that the history
// leaves out were internal entries (a term's beginning, a membership): empty
// entries take their places.
func (l *shardLog) refill(ctx context.Context, history iter.Seq2[journal.Entry, error], jump uint64) (journal.Position, error) {
	at := l.meta.trimmed // what the log begins behind
	final := journal.Position{}
	var waiting []*raftpb.Entry
	size := 0
	flush := func(term journal.Term) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		t, commit := uint64(term), uint64(at.Index)
		err := l.save(waiting, &raftpb.HardState{Term: &t, Vote: new(uint64), Commit: &commit})
		waiting, size = nil, 0
		return err
	}
	put := func(p journal.Position, data []byte) error {
		term, index := uint64(p.Term), uint64(p.Index)
		e := &raftpb.Entry{Term: &term, Index: &index, Data: data}
		waiting, size, at = append(waiting, e), size+cost(e), p
		if size < restoreBytes {
			return nil
		}
		return flush(p.Term)
	}
	for e, err := range history {
		if err != nil {
			return final, err
		}
		if e.Index <= at.Index || e.Term < at.Term || len(e.Data) > journal.MaxEntryBytes {
			return final, fmt.Errorf("term %d index %d with %d bytes does not come behind term %d index %d", e.Term, e.Index, len(e.Data), at.Term, at.Index)
		}
		for at.Index+1 < e.Index {
			if err := put(journal.Position{Term: e.Term, Index: at.Index + 1}, nil); err != nil {
				return final, err
			}
		}
		if err := put(e.Position, payload(e.Data)); err != nil {
			return final, err
		}
		final = e.Position
	}
	return final, flush(at.Term + journal.Term(jump))
}

// proveRestored opens the journal as a start would, compares where it ends, and
// lets the marks guard it from the first moment on.
func proveRestored(cfg Config, ends []journal.Position) (err error) {
	j, err := load(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	for i, g := range j.groups {
		if got := g.Last(); got != ends[i] {
			return fmt.Errorf("shard %d ends at %+v, it was restored up to %+v", g.shard, got, ends[i])
		}
	}
	if err := j.armMarks(); err != nil {
		return err
	}
	return j.SyncMarks()
}
