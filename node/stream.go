package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/raft"
	"github.com/bongsu-im/bongsu/node/placement"
	"google.golang.org/protobuf/proto"
)

// A node that holds no replica of a shard hears of it from one that does: a
// stream of what that one applies, with a cursor. The last of it is kept, so
// that a follower goes on elsewhere from where it was; who comes too late for
// that is told of a gap and has its sessions read the view.

const (
	// What is kept of each shard for followers that come from elsewhere.
	keptBatches = 4096
	keptBytes   = 4 << 20
	// aliveEvery is how often a quiet shard says how far it is, and staleAfter
	// when a stream that says nothing is given up.
	aliveEvery = 500 * time.Millisecond
	staleAfter = 2 * time.Second
	streamLook = 200 * time.Millisecond
)

// feeds is what this node applies, for others. It does nothing while every node
// holds every shard.
type feeds struct {
	wanted atomic.Bool
	at     func(shard int) uint64 // where the view stands
	shards []feedRing
}

type feedRing struct {
	mu        sync.Mutex // guards what follows
	kept      []*nodev1.FeedBatch
	bytes     int
	after     uint64 // kept is everything after this, once begun
	begun     bool
	followers map[*feedFollower]struct{}
}

type feedFollower struct {
	send func(*nodev1.FeedBatch) bool
	gap  bool // something could not be sent
}

func newFeeds(shards int, at func(int) uint64) *feeds {
	f := &feeds{at: at, shards: make([]feedRing, shards)}
	for i := range f.shards {
		f.shards[i].followers = map[*feedFollower]struct{}{}
	}
	return f
}

// publish keeps what was applied and sends it to who follows.
func (f *feeds) publish(items []*nodev1.FeedItem) {
	if !f.wanted.Load() || len(items) == 0 {
		return
	}
	shard := items[0].GetShard()
	r := &f.shards[shard]
	b := &nodev1.FeedBatch{Shard: shard, Index: items[0].GetIndex(), Items: items}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.begun {
		r.begun, r.after = true, b.GetIndex()-1
	}
	r.kept = append(r.kept, b)
	r.bytes += proto.Size(b)
	for len(r.kept) > keptBatches || r.bytes > keptBytes {
		r.after = max(r.after, r.kept[0].GetIndex())
		r.bytes -= proto.Size(r.kept[0])
		r.kept[0] = nil
		r.kept = r.kept[1:]
	}
	for w := range r.followers {
		w.offer(b)
	}
}

func (w *feedFollower) offer(b *nodev1.FeedBatch) {
	if w.gap {
		b = &nodev1.FeedBatch{Shard: b.GetShard(), Index: b.GetIndex(), Items: b.GetItems(), Gap: true}
	}
	w.gap = !w.send(b)
}

// Follow implements peer.Feeder.
func (f *feeds) Follow(shard int, after uint64, send func(*nodev1.FeedBatch) bool) (stop func(), err error) {
	if shard < 0 || shard >= len(f.shards) {
		return nil, fmt.Errorf("there are %d shards", len(f.shards))
	}
	f.wanted.Store(true)
	r := &f.shards[shard]
	w := &feedFollower{send: send}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := f.at(shard)
	if !r.begun {
		r.begun, r.after = true, now
	}
	first := &nodev1.FeedBatch{Shard: uint32(shard), Index: max(now, after)}
	switch {
	case after == 0: // it has told nobody anything yet
	case after < r.after:
		first.Gap = true
	default:
		for _, b := range r.kept {
			if b.GetIndex() > after {
				w.offer(b)
			}
		}
	}
	w.offer(first)
	r.followers[w] = struct{}{}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.followers, w)
	}, nil
}

// keepAlive tells followers how far each shard is.
func (f *feeds) keepAlive(ctx context.Context) {
	tick := time.NewTicker(aliveEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for shard := range f.shards {
			r := &f.shards[shard]
			r.mu.Lock()
			if len(r.followers) > 0 {
				// Published is what was applied: the cursor may not run ahead of it, so
				// it is read while nothing can be published.
				b := &nodev1.FeedBatch{Shard: uint32(shard), Index: r.last()}
				for w := range r.followers {
					w.offer(b)
				}
			}
			r.mu.Unlock()
		}
	}
}

// last is the index up to which everything has been published; the caller holds mu.
func (r *feedRing) last() uint64 {
	if n := len(r.kept); n > 0 {
		return r.kept[n-1].GetIndex()
	}
	return r.after
}

// streams is what this node follows elsewhere, by shard.
type streams struct {
	mu     sync.Mutex // guards what follows
	shards []stream
}

type stream struct {
	from   uint64 // 0: none is open
	serial uint64 // tells an old stream's words from the current one's
	cursor uint64
	heard  time.Time
	stop   func()
}

// absent tells which shards this node holds no replica of.
func (c *cluster) absentShards(ctx context.Context) []bool {
	out := make([]bool, c.core.identity.Shards)
	for n := range out {
		st, err := c.journal.Status(ctx, journal.ShardID(n))
		out[n] = err == nil && (st.Role == raft.RoleJoining || st.Role == raft.RoleRemoved)
	}
	return out
}

// keepStreams follows what this node does not hold.
func (c *cluster) keepStreams(ctx context.Context) {
	tick := time.NewTicker(streamLook)
	defer tick.Stop()
	for {
		absent := c.absentShards(ctx)
		c.absent.Store(&absent)
		c.core.feeds.wanted.Store(len(c.roster.Members()) > placement.Replicas || c.core.feeds.wanted.Load())
		for shard := range absent {
			c.keepStream(shard, absent[shard])
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (c *cluster) keepStream(shard int, wanted bool) {
	c.streams.mu.Lock()
	s := &c.streams.shards[shard]
	alive := s.from != 0 && time.Since(s.heard) < staleAfter
	if alive == wanted {
		c.streams.mu.Unlock()
		return
	}
	stop := s.stop
	s.from, s.stop = 0, nil
	s.serial++
	serial, after := s.serial, s.cursor
	c.streams.mu.Unlock()
	if stop != nil {
		stop()
	}
	if !wanted {
		return
	}
	from := c.holder(shard)
	l := c.link(from)
	if from == 0 || l == nil {
		return
	}
	stop = l.Follow(shard, after, func(b *nodev1.FeedBatch) { c.follows(shard, serial, b) }, func(error) { c.unfollowed(shard, serial) })
	c.streams.mu.Lock()
	defer c.streams.mu.Unlock()
	if s.serial == serial {
		s.from, s.stop, s.heard = from, stop, time.Now()
	}
}

// follows takes a batch of a stream.
func (c *cluster) follows(shard int, serial uint64, b *nodev1.FeedBatch) {
	c.streams.mu.Lock()
	s := &c.streams.shards[shard]
	if s.serial != serial {
		c.streams.mu.Unlock()
		return
	}
	s.heard = time.Now()
	s.cursor = max(s.cursor, b.GetIndex())
	c.streams.mu.Unlock()
	if b.GetGap() {
		c.core.missedShard(shard)
	}
	if len(b.GetItems()) > 0 {
		c.core.hand(b.GetItems())
	}
}

func (c *cluster) unfollowed(shard int, serial uint64) {
	c.streams.mu.Lock()
	defer c.streams.mu.Unlock()
	if s := &c.streams.shards[shard]; s.serial == serial {
		s.from, s.stop = 0, nil
	}
}

// source is the node whose stream of a shard comes here; 0 if none does.
func (c *cluster) source(shard int) uint64 {
	c.streams.mu.Lock()
	defer c.streams.mu.Unlock()
	return c.streams.shards[shard].from
}

// streaming tells why what is applied of a shard that is not held here does not
// come through; nil if it does.
func (c *cluster) streaming(shard int) error {
	c.streams.mu.Lock()
	defer c.streams.mu.Unlock()
	s := &c.streams.shards[shard]
	if s.from == 0 || s.cursor == 0 && s.heard.IsZero() || time.Since(s.heard) > staleAfter {
		return errors.New("no replica here, and no stream from one")
	}
	return nil
}

// holder is a node that holds a shard and can be asked, its leader if possible.
func (c *cluster) holder(shard int) uint64 {
	if at := c.leader(shard); at != 0 && at != c.self && c.linked(at) {
		return at
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for node, held := range c.held {
		l := c.links[node]
		if _, ok := held[uint32(shard)]; ok && l != nil && l.Linked() {
			return node
		}
	}
	return 0
}

// noteHeld remembers which shards a node says it holds.
func (c *cluster) noteHeld(node uint64, shards []*nodev1.HeldShard) {
	held := make(map[uint32]*nodev1.HeldShard, len(shards))
	for _, s := range shards {
		held[s.GetShard()] = s
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held[node] = held
}

// leaderElsewhere is who said last that it leads a shard that is not held here.
func (c *cluster) leaderElsewhere(shard int) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	var leader, term uint64
	for node, held := range c.held {
		if s := held[uint32(shard)]; s.GetLeads() && s.GetTerm() > term {
			leader, term = node, s.GetTerm()
		}
	}
	return leader
}

// holds is what this node tells others of its shards.
func (c *cluster) holds() (out []*nodev1.HeldShard) {
	absent := c.absent.Load()
	for n := range c.core.identity.Shards {
		if absent == nil || (*absent)[n] {
			continue
		}
		leader, term := c.journal.Leader(journal.ShardID(n))
		out = append(out, &nodev1.HeldShard{Shard: uint32(n), Term: uint64(term), Leads: leader == c.self})
	}
	return out
}
