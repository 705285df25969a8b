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
	"google.golang.org/protobuf/proto"

	"github.com/bongsu-im/bongsu/journal"
)

// restoreBytes of entries are made durable at a time.
const restoreBytes = 4 << 20

// History is what a shard is restored from.
type History struct {
	// Base, if not nil, is what BaseOf has said of the log that the history is of:
	// it begins behind that. At is where the view stands that goes with it.
	Base []byte
	At   journal.Mark
	// Entries in order; an error ends them.
	Entries iter.Seq2[journal.Entry, error]
}

// BaseOf says what another journal needs to begin where a view stands.
func (j *Journal) BaseOf(shard journal.ShardID, at journal.Mark) ([]byte, error) {
	if int(shard) >= len(j.groups) {
		return nil, fmt.Errorf("there are %d shards", len(j.groups))
	}
	s, err := j.groups[shard].log.baseOf(at)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(s.message(shard))
}

// Restore makes the journal of a new node, alone in a new cluster, out of the
// histories of another: entries at their old positions, so that whoever knows one
// finds it. What is written from then on has terms that
// the lost cluster cannot have used, nor another journal that is restored from
// the same history: positions of what is not in the history stay lost.
//
// The folder must be missing or empty. Restore returns where each shard ends; until
// then the folder holds nothing of use, and it is not the journal's to remove it.
func Restore(ctx context.Context, cfg Config, history func(journal.ShardID) (History, error)) ([]journal.Position, error) {
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

func refillAll(ctx context.Context, cfg Config, history func(journal.ShardID) (History, error)) (ends []journal.Position, err error) {
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
		work.Go(func() error {
			h, err := history(g.shard)
			if err == nil {
				ends[i], err = g.log.refill(ctx, h, jump)
			}
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
func (l *shardLog) refill(ctx context.Context, h History, jump uint64) (journal.Position, error) {
	if h.Base != nil {
		if err := l.rebase(h); err != nil {
			return journal.Position{}, err
		}
	}
	at, final := l.meta.trimmed, l.final // what the log begins behind
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
	for e, err := range h.Entries {
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

// rebase makes a log that was just made begin behind a base, with this node as the
// only member.
func (l *shardLog) rebase(h History) error {
	snap := &raftpb.Snapshot{}
	if err := proto.Unmarshal(h.Base, snap); err != nil {
		return fmt.Errorf("read base: %w", err)
	}
	s, err := decodeBase(l.shard, snap)
	if err != nil {
		return fmt.Errorf("read base: %w", err)
	}
	if s.final != h.At {
		return fmt.Errorf("the base stands at %+v, the view that goes with it at %+v", s.final.Position, h.At.Position)
	}
	s.conf = &raftpb.ConfState{Voters: []NodeID{l.node}}
	term, commit := uint64(s.at.Term), uint64(s.at.Index)
	return l.install(s, &raftpb.HardState{Term: &term, Vote: new(uint64), Commit: &commit})
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
