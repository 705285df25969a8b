package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/bongsu-im/bongsu/internal/clock"
	"github.com/bongsu-im/bongsu/journal"
)

// shardLog is one shard's log as this node sees it; it implements journal.Log.
type shardLog struct {
	j     *Journal
	shard journal.ShardID
	turn  chan struct{} // held by the one Append, Lease or Trim that is under way

	mu      sync.Mutex
	owned   bool // lease is good as far as we know; the database knows better
	lease   journal.Lease
	history history // end: proven durable
	cut     journal.Index
	proven  journal.Position // by the marks, when opened
	lost    *journal.LostTailError
	waiting int // readers that wait for more
	changed signal
}

func newShardLog(j *Journal, shard journal.ShardID) *shardLog {
	return &shardLog{j: j, shard: shard, turn: make(chan struct{}, 1)}
}

// Last implements journal.Log.
func (l *shardLog) Last() journal.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.history.end
}

// Contains implements journal.Log.
func (l *shardLog) Contains(p journal.Position) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.history.contains(p)
}

// SetMark implements journal.Log.
func (l *shardLog) SetMark(m journal.Mark) { l.j.marks.Set(l.shard, m) }

// Append implements journal.Log.
func (l *shardLog) Append(ctx context.Context, lease journal.Lease, data []byte) (journal.Position, error) {
	if len(data) > journal.MaxEntryBytes {
		return journal.Position{}, journal.ErrTooLarge
	}
	if ctx.Err() != nil {
		return journal.Position{}, fmt.Errorf("%w: %w", journal.ErrCancelled, ctx.Err())
	}
	if err := l.j.enter(); err != nil {
		return journal.Position{}, err
	}
	defer l.j.using.Done()
	if err := l.mayAppend(lease); err != nil {
		return journal.Position{}, err
	}
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return journal.Position{}, fmt.Errorf("%w: %w", journal.ErrCancelled, ctx.Err())
	case <-l.j.closing:
		return journal.Position{}, journal.ErrClosed
	}
	if err := l.mayAppend(lease); err != nil { // it may have changed hands while we waited
		return journal.Position{}, err
	}
	r := newRequest(l, lease.Term, l.Last().Index, data)
	select {
	case l.j.rounds <- r:
	case <-ctx.Done():
		return journal.Position{}, fmt.Errorf("%w: %w", journal.ErrCancelled, ctx.Err())
	case <-l.j.closing:
		return journal.Position{}, journal.ErrClosed
	}
	return r.wait(ctx)
}

// mayAppend returns why an append under this lease cannot begin, or nil.
func (l *shardLog) mayAppend(lease journal.Lease) error {
	if err := l.j.dead(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.lost != nil:
		return l.lost
	case !l.owned || lease.Term != l.lease.Term:
		return journal.ErrNotOwner
	}
	return nil
}

// void ends the lease of a term: it was taken away, or an outcome is unknown.
func (l *shardLog) void(term journal.Term) {
	l.mu.Lock()
	if l.owned && l.lease.Term == term {
		l.owned = false
	}
	l.mu.Unlock()
	l.j.follow.wake() // readers now depend on it
}

// reached takes note of a position that is durable.
func (l *shardLog) reached(p journal.Position) {
	l.mu.Lock()
	if l.lost == nil && p.Index > l.history.end.Index {
		l.history.end = p
	}
	l.mu.Unlock()
	l.changed.wake()
}

// maxReadBytes bounds one answer of Read, whatever was asked for.
const maxReadBytes = 8 << 20

// Read implements journal.Log.
func (l *shardLog) Read(ctx context.Context, after journal.Index, maxBytes int) ([]journal.Entry, error) {
	if err := l.j.enter(); err != nil {
		return nil, err
	}
	defer l.j.using.Done()
	for n := 0; ; {
		changed := l.changed.wait()
		l.mu.Lock()
		cut, end, lost := l.cut, l.history.end.Index, l.lost
		l.mu.Unlock()
		switch {
		case after < cut:
			return nil, journal.ErrTrimmed
		case after < end:
			es, err := l.fetch(ctx, after, end, min(max(maxBytes, 0), maxReadBytes))
			if err == nil && len(es) > 0 {
				return es, nil
			}
			if err != nil {
				if err = l.readFailed(ctx, after, err); err != nil {
					return nil, err
				}
				clock.Sleep(ctx, backoff(n)) // what ends it is seen above
				n++
			}
			continue
		case lost != nil:
			return nil, lost
		}
		if err := l.await(ctx, after, changed); err != nil {
			return nil, err
		}
	}
}

// await waits for a change.
func (l *shardLog) await(ctx context.Context, after journal.Index, changed <-chan struct{}) error {
	if err := l.j.dead(); err != nil {
		return err
	}
	l.waits(1)
	defer l.waits(-1)
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("read shard %d after %d: %w", l.shard, after, ctx.Err())
	case <-l.j.closing:
		return journal.ErrClosed
	case <-l.j.down:
		return l.j.Fenced()
	}
}

func (l *shardLog) waits(n int) {
	l.mu.Lock()
	l.waiting += n
	first := l.waiting == 1 && n > 0 && !l.owned
	l.mu.Unlock()
	if first {
		l.j.follow.wake()
	}
}

// readFailed tells what a failed read means: nil to try again.
func (l *shardLog) readFailed(ctx context.Context, after journal.Index, err error) error {
	select {
	case <-l.j.closing:
		return journal.ErrClosed
	default:
	}
	if ctx.Err() != nil {
		return fmt.Errorf("read shard %d after %d: %w", l.shard, after, ctx.Err())
	}
	var corrupt *journal.CorruptError
	switch {
	case errors.As(err, &corrupt):
		l.j.fence(err)
		return fmt.Errorf("read shard %d after %d: %w", l.shard, after, err)
	case l.j.dead() != nil: // what is known is still shown, but nobody waits for a fenced store
		return l.j.dead()
	}
	if err := l.j.judge(err); errors.As(err, new(*journal.FencedError)) {
		return err
	}
	l.j.cfg.Logger.Warn("reading the journal waits for its database", "shard", l.shard, "error", err)
	return nil
}

// fetch reads entries after one, up to end, all of which are known to be
// durable: what is missing is damage. No entries and no error mean that the
// shard's state is another now.
func (l *shardLog) fetch(ctx context.Context, after, end journal.Index, maxBytes int) (es []journal.Entry, err error) {
	ctx, cancel := l.j.during(ctx, l.j.cfg.CommitTimeout)
	defer cancel()
	err = l.j.pool.use(ctx, func(k *link) error {
		es, err = l.query(ctx, k, after, end, maxBytes)
		var gap *gapError
		if errors.As(err, &gap) {
			es = nil
			return l.explain(ctx, k, after, gap)
		}
		return err
	})
	return es, err
}

// gapError: an entry is not where it must be.
type gapError struct {
	index journal.Index
	why   string
}

func (e *gapError) Error() string { return fmt.Sprintf("entry %d: %s", e.index, e.why) }

func (l *shardLog) query(ctx context.Context, k *link, after, end journal.Index, maxBytes int) ([]journal.Entry, error) {
	rows, err := k.conn.Query(ctx, l.j.sql.read, l.shard, after, end, maxBytes)
	if err != nil {
		return nil, err
	}
	raw, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (w row, err error) {
		err = r.Scan(&w.index, &w.term, &w.crc, &w.data)
		return w, err
	})
	if err != nil {
		return nil, err
	}
	if len(raw) == 0 {
		return nil, &gapError{after + 1, "it does not exist"}
	}
	es := make([]journal.Entry, 0, len(raw))
	for i, w := range raw {
		want := after + 1 + journal.Index(i)
		if journal.Index(w.index) != want {
			return nil, &gapError{want, "it does not exist"}
		}
		e, err := w.entry(l.shard)
		if err != nil {
			return nil, err
		}
		if !l.Contains(e.Position) {
			return nil, &gapError{want, fmt.Sprintf("it is of term %d", e.Term)}
		}
		es = append(es, e)
	}
	return es, nil
}

// explain finds out what a gap means: entries were trimmed meanwhile or the
// tail is lost, which adopt notes and nil tells, or there is a hole.
func (l *shardLog) explain(ctx context.Context, k *link, after journal.Index, gap *gapError) error {
	s, err := l.j.load(ctx, k.conn, l.shard, false)
	if err != nil {
		return err
	}
	if l.adopt(s, l.Last()) != nil {
		return nil
	}
	l.mu.Lock()
	trimmed := l.cut > after
	l.mu.Unlock()
	if trimmed {
		return nil
	}
	return &journal.CorruptError{Shard: l.shard, Index: gap.index, Cause: gap}
}

// Trim implements journal.Log. The log is shared by all nodes: only the owner's
// call has an effect, and it forgets for everyone.
func (l *shardLog) Trim(ctx context.Context, upTo journal.Index) error {
	if err := l.j.enter(); err != nil {
		return err
	}
	defer l.j.using.Done()
	if err := l.j.dead(); err != nil {
		return err
	}
	l.mu.Lock()
	owned, term := l.owned, l.lease.Term
	upTo = min(upTo, l.history.end.Index)
	ahead := upTo > l.cut
	l.mu.Unlock()
	if !owned || upTo == 0 {
		return nil
	}
	ctx, cancel := l.j.during(ctx, l.j.cfg.CommitTimeout)
	defer cancel()
	err := l.j.pool.use(ctx, func(k *link) error {
		if ahead {
			if err := l.setCut(ctx, k, term, upTo); err != nil {
				return err
			}
		}
		return l.forget(ctx, k, min(upTo, l.cutNow()))
	})
	if err != nil {
		return fmt.Errorf("trim shard %d up to %d: %w", l.shard, upTo, l.j.judge(err))
	}
	return nil
}

func (l *shardLog) cutNow() journal.Index {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cut
}

// setCut says that entries up to upTo are forgotten, before any is.
func (l *shardLog) setCut(ctx context.Context, k *link, term journal.Term, upTo journal.Index) error {
	moved := false
	err := k.transact(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, l.j.sql.trim, l.shard, term, upTo, l.j.instance)
		moved = tag.RowsAffected() == 1
		return err
	})
	if err != nil || !moved {
		return err
	}
	l.mu.Lock()
	l.cut = max(l.cut, upTo)
	l.mu.Unlock()
	return nil
}

// forget deletes, some thousand in a transaction; cut off, the next Trim goes on.
func (l *shardLog) forget(ctx context.Context, k *link, upTo journal.Index) error {
	for {
		tag, err := k.conn.Exec(ctx, l.j.sql.forget, l.shard, upTo)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
	}
}
