package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bongsu-im/bongsu/journal"
)

// heart keeps this instance alive in the database, three times in each TTL, and
// looks whether its shards are still its own and whole, and whether the
// settings still hold.
//
// It has a link of its own: readers that fill the pool must not cost ownership.
func (j *Journal) heart() {
	own := &link{dialer: j.dialer}
	defer own.drop()
	for n := 0; ; {
		pause := j.cfg.LeaseTTL / 3
		if n > 0 {
			pause = min(pause, backoff(n))
		}
		if !j.rest(pause) {
			return
		}
		ctx, cancel := j.during(context.Background(), max(j.cfg.LeaseTTL, time.Second))
		err := own.use(ctx, func(l *link) error { return j.beat(ctx, l, false) })
		cancel()
		if n++; err == nil {
			n = 0
		} else if j.ctx.Err() == nil && !errors.As(j.judge(err), new(*journal.FencedError)) {
			j.cfg.Logger.Warn("the journal's database does not answer; ownership runs out", "error", err)
		}
	}
}

// rest waits, and returns false when the journal is closing or fenced. A fenced
// instance says no more that it is alive: others may take over.
func (j *Journal) rest(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-j.closing:
	case <-j.down:
	}
	return false
}

// beat renews the ownership of all shards in one statement. Durable, it is also
// the proof that what was visible before it is durable; else it need not wait
// for a disk.
func (j *Journal) beat(ctx context.Context, l *link, durable bool) error {
	owned := j.ownedShards()
	var rows []end
	err := l.transact(ctx, func(tx pgx.Tx) error {
		if !durable && l.server.engine == enginePostgres {
			if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = off"); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, j.sql.beat, j.instance, j.node(), j.cfg.LeaseTTL.Milliseconds()); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, j.sql.sweep); err != nil {
			return err
		}
		var others bool
		if err := tx.QueryRow(ctx, j.sql.others, j.instance).Scan(&others); err != nil {
			return err
		}
		j.others.Store(others)
		var err error
		rows, err = queryEnds(ctx, tx, j.sql.ends, shardsOf(owned))
		return err
	})
	if err != nil {
		return err
	}
	for _, r := range rows {
		j.compareOwned(ctx, l, owned[r.shard], r)
	}
	if l.server.engine != enginePostgres {
		return nil
	}
	s, err := scanSettings(l.conn.QueryRow(ctx, settingsSQL))
	if err != nil {
		return err
	}
	l.server.settings.synchronousStandbys = s.synchronousStandbys
	return s.weak(j.dialer.allowSingle)
}

// ownership is what we believed of a shard before we asked.
type ownership struct {
	log  *shardLog
	term journal.Term
	end  journal.Position
}

func (j *Journal) ownedShards() map[journal.ShardID]ownership {
	owned := map[journal.ShardID]ownership{}
	for _, l := range j.logs {
		l.mu.Lock()
		if l.owned {
			owned[l.shard] = ownership{log: l, term: l.lease.Term, end: l.history.end}
		}
		l.mu.Unlock()
	}
	return owned
}

// compareOwned ends a lease that somebody else has taken, and finds out at once
// when the database no longer has what it acknowledged.
func (j *Journal) compareOwned(ctx context.Context, l *link, o ownership, r end) {
	switch {
	case r.term > o.term:
		j.cfg.Logger.Warn("a shard is owned by another node now", "shard", r.shard, "term", r.term, "was", o.term)
		o.log.void(o.term)
	case r.term < o.term, r.end.Index < o.end.Index:
		s, err := j.load(ctx, l.conn, r.shard, false)
		if err == nil {
			// Appends go on meanwhile; what was known before we asked must be there.
			err = o.log.adopt(s, o.end)
		}
		if err != nil {
			j.cfg.Logger.Error("the database is not what it was", "shard", r.shard, "error", err)
		}
	}
}
