package raft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	etcd "go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"

	"github.com/bongsu-im/bongsu/journal"
)

// Snapshots makes and takes in views: what a member needs that is behind the
// trimmed part of a log. The journal does not know what is in them.
type Snapshots interface {
	// Make opens a snapshot of a shard's view as it is now, and says where it
	// stands: the last record applied, with its running hash. The reader ends
	// with io.EOF.
	Make(ctx context.Context, shard journal.ShardID) (journal.Mark, io.ReadCloser, error)
	// Restore replaces the shard's view by what r gives. It must read to io.EOF
	// before anything of it counts (any other error means that it is not whole),
	// and be atomic and durable: after a crash the view is the old one or the new.
	// The log goes on behind the snapshot only after it has returned nil.
	Restore(ctx context.Context, shard journal.ShardID, at journal.Mark, r io.Reader) error
}

// SnapshotProgress tells of a snapshot that this node is taking, or took last.
type SnapshotProgress struct {
	From    NodeID // 0: none was taken since the start
	Bytes   uint64
	Running bool
}

type progress struct {
	from  atomic.Uint64
	bytes atomic.Uint64
}

// takes decides about a snapshot message: whether raft may have it now. If the
// view is needed first, it is fetched.
func (g *group) takes(from NodeID, m *raftpb.Message) bool {
	s, err := decodeBase(g.shard, m.GetSnapshot())
	if err != nil {
		g.j.cfg.Logger.Warn("a snapshot message was refused", "shard", g.shard, "from", from, "err", err)
		return false
	}
	g.log.mu.Lock()
	has := uint64(s.at.Index) <= g.log.commit || g.log.contains(s.at, g.log.last)
	g.log.mu.Unlock()
	if has {
		return true // it will answer with what it has
	}
	if s.final.Index == 0 {
		g.install(m, s) // nothing of the view is missing
		return false
	}
	if g.restored != nil && g.restored.at.Index >= s.at.Index {
		g.install(m, *g.restored)
		return false
	}
	if g.fetching || g.j.cfg.Snapshots == nil {
		return false
	}
	g.background(context.Background(), from, g.ahead, func(b base, err error) {
		if err != nil {
			g.j.cfg.Logger.Warn("a snapshot was not taken; the leader will offer it again", "shard", g.shard, "err", err)
			return
		}
		g.restored = &b
		g.install(m, b)
	})
	return false
}

// ahead checks that a snapshot brings this log forward.
func (g *group) ahead(b base) error {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	if uint64(b.at.Index) <= g.log.commit {
		return fmt.Errorf("the snapshot stands at %d, which is not ahead of this log", b.at.Index)
	}
	return nil
}

// background fetches a snapshot, while the group runs and ctx lasts, and has the
// loop call end with what came of it. It is the loop's.
func (g *group) background(ctx context.Context, from NodeID, fits func(base) error, end func(base, error)) {
	g.fetching = true
	g.progress.from.Store(from)
	g.progress.bytes.Store(0)
	g.j.running.Go(func() {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() {
			select {
			case <-g.stopped:
				cancel()
			case <-ctx.Done():
			}
		}()
		b, err := g.fetch(ctx, from, fits)
		select {
		case g.calls <- func() { g.fetching = false; end(b, err) }:
		case <-g.stopped:
		}
	})
}

// fetch has the view restored from a peer's snapshot, if it fits.
func (g *group) fetch(ctx context.Context, from NodeID, fits func(base) error) (base, error) {
	r, err := g.j.cfg.Transport.Fetch(ctx, from, g.shard)
	if err != nil {
		return base{}, err
	}
	defer func() { _ = r.Close() }() // what was read has proven itself whole
	s, err := readBase(g.shard, r)
	if err != nil {
		return base{}, err
	}
	if err := fits(s); err != nil {
		return base{}, fmt.Errorf("what node %d gives: %w", from, err)
	}
	g.log.mu.Lock()
	known := g.log.contains(s.final.Position, g.log.commit)
	g.log.mu.Unlock()
	if !known {
		if err := g.log.expect(s.final.Position); err != nil {
			return base{}, err
		}
	}
	if err := g.j.cfg.Snapshots.Restore(ctx, g.shard, s.final, &counted{r: r, n: &g.progress.bytes}); err != nil {
		return base{}, fmt.Errorf("restore: %w", err)
	}
	return s, nil
}

type counted struct {
	r io.Reader
	n *atomic.Uint64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(uint64(n))
	return n, err
}

// install gives raft a snapshot whose view is in place. If the leader has changed
// meanwhile raft may refuse it; the next leader's offer is met by what is here.
//
// The membership at a snapshot's position may be from before this node was added.
// Raft would ignore it, so the node counts itself as a learner until it comes to
// the entry that makes it one; nobody else sees that.
func (g *group) install(hint *raftpb.Message, b base) {
	if self := g.j.cfg.NodeID; !slices.Contains(membersOf(b.conf), self) {
		b.conf = proto.Clone(b.conf).(*raftpb.ConfState)
		b.conf.Learners = append(b.conf.Learners, self)
	}
	m := proto.Clone(hint).(*raftpb.Message)
	m.Snapshot = b.message(g.shard)
	_ = g.node.Step(m) // as in receive
}

// retrySnapshots lets raft offer a snapshot again to members that asked for one
// and are not taking it: they may have failed or been restarted.
func (g *group) retrySnapshots() {
	g.node.WithProgress(func(id uint64, _ etcd.ProgressType, p tracker.Progress) {
		g.log.mu.Lock()
		busy := g.serving[id] > 0
		g.log.mu.Unlock()
		if p.State == tracker.StateSnapshot && !busy {
			g.stuck = append(g.stuck, id)
		}
	})
	for _, id := range g.stuck {
		g.node.ReportSnapshot(id, etcd.SnapshotFailure)
	}
	g.stuck = g.stuck[:0]
}

const maxBaseBytes = 2 << 20

func readBase(shard journal.ShardID, r io.Reader) (base, error) {
	var n [4]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return base{}, fmt.Errorf("read snapshot: %w", err)
	}
	size := binary.BigEndian.Uint32(n[:])
	if size > maxBaseBytes {
		return base{}, fmt.Errorf("snapshot header of %d bytes", size)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return base{}, fmt.Errorf("read snapshot: %w", err)
	}
	snap := &raftpb.Snapshot{}
	if err := proto.Unmarshal(b, snap); err != nil {
		return base{}, fmt.Errorf("read snapshot: %w", err)
	}
	return decodeBase(shard, snap)
}

// Serve implements Receiver: it writes where the log goes on, then the view.
func (j *Journal) Serve(ctx context.Context, to NodeID, shard journal.ShardID, w io.Writer) error {
	if int(shard) >= len(j.groups) {
		return fmt.Errorf("there are %d shards", len(j.groups))
	}
	g := j.groups[shard]
	if err := g.dead(); err != nil {
		return err
	}
	if j.cfg.Snapshots == nil {
		return errors.New("this node makes no snapshots")
	}
	g.serve(to, 1)
	defer g.serve(to, -1)
	mark, r, err := j.cfg.Snapshots.Make(ctx, shard)
	if err != nil {
		return fmt.Errorf("make a snapshot of shard %d: %w", shard, err)
	}
	defer func() { _ = r.Close() }() // it was read to its end or is of no use
	s, err := g.log.baseOf(mark)
	if err != nil {
		return err
	}
	head, err := proto.Marshal(s.message(shard))
	if err != nil {
		return fmt.Errorf("encode snapshot: %w", err)
	}
	if _, err := w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(head)))); err != nil {
		return err
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	return j.copySlowly(ctx, w, r)
}

func (g *group) serve(to NodeID, n int) {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	if g.serving[to] += n; g.serving[to] == 0 {
		delete(g.serving, to)
	}
}

// copySlowly copies at no more than the configured rate: a snapshot must not
// stand in the way of messages.
func (j *Journal) copySlowly(ctx context.Context, w io.Writer, r io.Reader) error {
	buf := make([]byte, 256<<10)
	began, sent := time.Now(), int64(0)
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
		sent += int64(n)
		due := time.Duration(float64(sent) / float64(j.cfg.SnapshotRate) * float64(time.Second))
		if wait := due - time.Since(began); wait > 0 {
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return ctx.Err()
			case <-j.closing:
				t.Stop()
				return journal.ErrClosed
			}
		}
	}
}

// baseOf describes the log from where a view stands.
func (l *shardLog) baseOf(mark journal.Mark) (base, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if mark.Index < l.meta.lastCut.Index || !l.contains(mark.Position, l.commit) {
		return base{}, fmt.Errorf("the view of shard %d stands at %+v, the log has data after %+v up to %d", l.shard, mark.Position, l.meta.lastCut, l.commit)
	}
	return l.baseAt(max(uint64(mark.Index), uint64(l.meta.trimmed.Index)), mark)
}

// expect makes durable that a view is about to stand where the log is not yet.
func (l *shardLog) expect(at journal.Position) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	b := l.store.db.NewBatch()
	defer func() { _ = b.Close() }() // as in save
	if err := b.Set(key(l.shard, keyIncoming, 0), l.encodeAck(0, at), nil); err != nil {
		return l.store.trip(err)
	}
	if err := l.store.commit(b, true); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.incoming = at
	return nil
}

func (l *shardLog) loadIncoming() error {
	return l.each(keyIncoming, func(_ uint64, v []byte) (err error) {
		l.incoming, err = l.decodeAck(0, v)
		return err
	})
}
