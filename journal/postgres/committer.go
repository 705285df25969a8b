package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/bongsu-im/bongsu/journal"
)

const (
	roundBytes = 4 << 20 // of data in one round, about
	roundTries = 4       // of a round that the database rolled back by itself
)

// request is one append on its way.
type request struct {
	log  *shardLog
	at   journal.Position // where the entry will be
	prev journal.Index
	data []byte

	phase atomic.Int32
	done  chan error // capacity 1
}

const (
	queued int32 = iota
	begun        // a committer has it: the outcome is the database's
	withdrawn
)

func newRequest(l *shardLog, term journal.Term, prev journal.Index, data []byte) *request {
	if data == nil {
		data = []byte{} // an empty entry is no NULL
	}
	return &request{log: l, at: journal.Position{Term: term, Index: prev + 1}, prev: prev, data: data, done: make(chan error, 1)}
}

// wait returns the outcome, or gives up waiting for it.
func (r *request) wait(ctx context.Context) (journal.Position, error) {
	select {
	case err := <-r.done:
		return r.outcome(err)
	case <-ctx.Done():
	case <-r.log.j.closing:
	}
	if r.phase.CompareAndSwap(queued, withdrawn) {
		if ctx.Err() != nil {
			return journal.Position{}, fmt.Errorf("%w: %w", journal.ErrCancelled, ctx.Err())
		}
		return journal.Position{}, journal.ErrClosed
	}
	if ctx.Err() == nil { // closing: what has begun may end well, within its time
		select {
		case err := <-r.done:
			return r.outcome(err)
		case <-ctx.Done():
		case <-r.log.j.ctx.Done():
		}
	}
	r.log.void(r.at.Term)
	return journal.Position{}, journal.ErrUnknown
}

func (r *request) outcome(err error) (journal.Position, error) {
	if err != nil {
		return journal.Position{}, err
	}
	return r.at, nil
}

// settle answers a request. Any failure but a full disk ends the lease: where
// the log ends is known again when the next one is given.
func (r *request) settle(err error) {
	switch {
	case err == nil:
		r.log.reached(r.at)
	case !errors.Is(err, journal.ErrNoSpace):
		r.log.void(r.at.Term)
	}
	r.done <- err
}

// committer runs rounds on a link of its own. While it waits for the disk of
// one, requests gather for the next.
type committer struct {
	j    *Journal
	link *link
	left *request // was not for this round
}

func (c *committer) run() {
	defer c.link.drop()
	for {
		r := c.left
		c.left = nil
		if r == nil {
			select {
			case r = <-c.j.rounds:
			case <-c.j.closing:
				return // what is queued is withdrawn by those who wait for it
			}
		}
		if batch := c.gather(r); len(batch) > 0 {
			c.round(batch)
		}
	}
}

// gather takes what waits now, one of each shard.
func (c *committer) gather(first *request) (batch []*request) {
	shards := map[journal.ShardID]bool{}
	size := 0
	for r := first; ; {
		if r.phase.CompareAndSwap(queued, begun) {
			batch = append(batch, r)
			shards[r.log.shard] = true
			size += len(r.data)
		}
		select {
		case r = <-c.j.rounds:
		default:
			return batch
		}
		if size+len(r.data) > roundBytes || shards[r.log.shard] {
			c.left = r
			return batch
		}
	}
}

// round commits a batch and answers everyone in it.
func (c *committer) round(batch []*request) {
	if err := c.j.Fenced(); err != nil {
		answer(batch, func(*request) error { return err })
		return
	}
	ctx, cancel := c.j.during(context.Background(), c.j.cfg.CommitTimeout)
	defer cancel()
	var added map[journal.ShardID]bool
	var err error
	for try := range roundTries {
		added, err = c.try(ctx, batch)
		if !again(err) || try == roundTries-1 || !c.j.rest(backoff(0)) {
			break
		}
	}
	c.link.tidy(err)
	if err != nil {
		err = c.j.verdict(err)
	}
	acked := false
	answer(batch, func(r *request) error {
		switch {
		case added != nil && !added[r.log.shard]:
			return journal.ErrNotOwner // not moved, not added: whatever became of the others
		case err == nil:
			acked = true
		}
		return err
	})
	if acked {
		c.j.tell()
	}
}

func answer(batch []*request, of func(*request) error) {
	for _, r := range batch {
		r.settle(of(r))
	}
}

// refusedError: the database refused before the commit was asked for, so nothing
// of the round is in the log or will be.
type refusedError struct{ cause error }

func (e *refusedError) Error() string { return "refused before the commit: " + e.cause.Error() }
func (e *refusedError) Unwrap() error { return e.cause }

// again tells whether nothing of the round came to be for a reason that may have
// passed: a deadlock, serialisation, a lock that took too long; or the connection
// was to a server that has gone away meanwhile, or to one that became a standby.
func again(err error) bool {
	var refused *refusedError
	var pg *pgconn.PgError
	if !errors.As(err, &refused) || !errors.As(refused.cause, &pg) {
		return refused != nil && pgconn.SafeToRetry(refused.cause)
	}
	return pg.Code == "40001" || pg.Code == "40P01" || pg.Code == "55P03" || goesAway(pg)
}

// verdict says in the contract's words what became of a round. A definite
// refusal that the contract has no word for is ErrNotOwner, and is made true by
// ending the lease.
func (j *Journal) verdict(err error) error {
	var refused *refusedError
	var pg *pgconn.PgError
	if j.ctx.Err() == nil {
		if judged := j.judge(err); errors.As(judged, new(*journal.FencedError)) {
			return judged
		}
	}
	if !errors.As(err, &refused) {
		j.cfg.Logger.Warn("the outcome of a round of appends is unknown", "error", err)
		return fmt.Errorf("%w: %w", journal.ErrUnknown, err)
	}
	if errors.As(err, &pg) && pg.Code == "53100" {
		return fmt.Errorf("%w: %w", journal.ErrNoSpace, err)
	}
	j.cfg.Logger.Warn("the database refused a round of appends", "error", err)
	return fmt.Errorf("%w: %w", journal.ErrNotOwner, err)
}

// try sends one round: begin, append, commit, and the settings, in one go. It
// returns the shards whose entry is in the transaction, once that is known, and
// nil only if the transaction is durable.
func (c *committer) try(ctx context.Context, batch []*request) (map[journal.ShardID]bool, error) {
	if err := c.link.ensure(ctx); err != nil {
		return nil, &refusedError{err}
	}
	c.link.warned = nil
	checked := c.link.server.engine == enginePostgres
	b := &pgx.Batch{}
	b.Queue("BEGIN ISOLATION LEVEL READ COMMITTED")
	c.queue(b, batch)
	b.Queue("COMMIT")
	if checked {
		b.Queue(settingsSQL)
	}
	results := c.link.conn.SendBatch(ctx, b)
	added, err := c.results(results, checked)
	if closeErr := results.Close(); err == nil && closeErr != nil {
		err = closeErr
	}
	if again(err) {
		c.link.tidy(err)
	}
	return added, err
}

func (c *committer) queue(b *pgx.Batch, batch []*request) {
	n := len(batch)
	shards, terms, prevs, sums, data := make([]int32, n), make([]int64, n), make([]int64, n), make([]int64, n), make([][]byte, n)
	for i, r := range batch {
		shards[i], terms[i], prevs[i] = int32(r.log.shard), int64(r.at.Term), int64(r.prev)
		sums[i], data[i] = int64(checksum(r.log.shard, r.at, r.data)), r.data
	}
	b.Queue(c.j.sql.append, shards, terms, prevs, sums, data, c.j.instance)
}

// results reads the answers in their order, which says how far it came: an error
// that the server gives before the append is done means that it has not looked
// at the commit.
func (c *committer) results(results pgx.BatchResults, checked bool) (map[journal.ShardID]bool, error) {
	if _, err := results.Exec(); err != nil {
		return nil, definite(err)
	}
	rows, err := results.Query()
	if err != nil {
		return nil, definite(err)
	}
	shards, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil {
		return nil, definite(err)
	}
	added := make(map[journal.ShardID]bool, len(shards))
	for _, s := range shards {
		added[journal.ShardID(s)] = true
	}
	tag, err := results.Exec()
	switch {
	case err != nil:
		return added, fmt.Errorf("commit: %w", err)
	case tag.String() != "COMMIT":
		return added, &refusedError{fmt.Errorf("the commit became a %s", tag)}
	case c.link.warned != nil:
		return added, &doubtError{c.link.warned.Message}
	case !checked:
		return added, nil
	}
	// Settings are read after the commit: had they been weakened before it was
	// acknowledged, they are weak now.
	s, err := scanSettings(results.QueryRow())
	if err != nil {
		return added, fmt.Errorf("settings after the commit: %w", err)
	}
	return added, s.weak(c.j.dialer.allowSingle)
}

// definite marks an error that the server itself gave before the commit, or that
// came before anything was sent.
func definite(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) || pgconn.SafeToRetry(err) {
		return &refusedError{err}
	}
	return err
}
