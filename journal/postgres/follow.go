package postgres

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/bongsu-im/bongsu/journal"
)

// follower brings news of shards that another node owns to those who wait for
// them: when the owner says so (LISTEN), and by looking now and then.
type follower struct {
	j    *Journal
	kick chan struct{}
}

func newFollower(j *Journal) *follower { return &follower{j: j, kick: make(chan struct{}, 1)} }

// wake makes the follower look soon.
func (f *follower) wake() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

func (f *follower) run() {
	for n := 0; ; {
		wait := time.Hour // nobody waits for anything: kick tells
		if len(f.wanted()) > 0 {
			wait = f.pause()
		}
		if n > 0 {
			wait = backoff(n)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-f.kick:
		case <-f.j.closing:
			timer.Stop()
			return
		case <-f.j.down:
			timer.Stop()
			return
		}
		timer.Stop()
		if n++; f.look() {
			n = 0
		}
	}
}

// pause is how long to wait for a word. CockroachDB has none to give.
func (f *follower) pause() time.Duration {
	if s := f.j.server.Load(); s != nil && s.engine == engineCockroach {
		return min(f.j.cfg.PollInterval, 50*time.Millisecond)
	}
	return f.j.cfg.PollInterval
}

// wanted are the shards that someone waits for and another node owns, with
// what we know of them.
func (f *follower) wanted() map[journal.ShardID]ownership {
	wanted := map[journal.ShardID]ownership{}
	for _, l := range f.j.logs {
		l.mu.Lock()
		if l.waiting > 0 && !l.owned && l.lost == nil {
			wanted[l.shard] = ownership{log: l, end: l.history.end}
		}
		l.mu.Unlock()
	}
	return wanted
}

// look asks once; false if the database did not answer.
func (f *follower) look() bool {
	wanted := f.wanted()
	if len(wanted) == 0 {
		return true
	}
	ctx, cancel := f.j.during(context.Background(), f.j.cfg.CommitTimeout)
	defer cancel()
	err := f.j.pool.use(ctx, func(l *link) error { return f.round(ctx, l, wanted) })
	if err == nil {
		return true
	}
	if f.j.ctx.Err() == nil && !errors.As(f.j.judge(err), new(*journal.FencedError)) {
		f.j.cfg.Logger.Warn("following other nodes waits for the journal's database", "error", err)
	}
	return false
}

func (f *follower) round(ctx context.Context, l *link, wanted map[journal.ShardID]ownership) error {
	ends, err := queryEnds(ctx, l.conn, f.j.sql.ends, shardsOf(wanted))
	if err != nil {
		return err
	}
	news := map[journal.ShardID]state{}
	for _, e := range ends {
		w := wanted[e.shard]
		if e.end == w.end && e.cut == w.log.cutNow() {
			continue
		}
		if news[e.shard], err = f.j.load(ctx, l.conn, e.shard, false); err != nil {
			return err
		}
	}
	if len(news) == 0 {
		return nil
	}
	// A commit whose wait for the standby was broken off is visible and not
	// durable. A commit of our own that is acknowledged proves all before it.
	if l.server.settings.replicated() {
		if err := f.j.beat(ctx, l, true); err != nil {
			return err
		}
	}
	for shard, s := range news {
		_ = wanted[shard].log.adopt(s, wanted[shard].end) // Damage and Read tell
	}
	return nil
}

// end is the short form of a shard's state.
type end struct {
	shard journal.ShardID
	term  journal.Term
	owner string
	end   journal.Position
	cut   journal.Index
}

func shardsOf(m map[journal.ShardID]ownership) []int32 {
	ids := make([]int32, 0, len(m))
	for _, s := range slices.Sorted(maps.Keys(m)) {
		ids = append(ids, int32(s))
	}
	return ids
}

func queryEnds(ctx context.Context, q querier, sql string, shards []int32) ([]end, error) {
	if len(shards) == 0 {
		return nil, nil
	}
	rows, err := q.Query(ctx, sql, shards)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (e end, err error) {
		err = r.Scan(&e.shard, &e.term, &e.owner, &e.end.Term, &e.end.Index, &e.cut)
		return e, err
	})
}

// listen hears what other instances say, on a link of its own.
func (j *Journal) listen() {
	l := &link{dialer: j.dialer}
	defer l.drop()
	ctx, cancel := context.WithCancel(j.ctx)
	defer cancel()
	j.running.Go(func() { // closing must end the wait for a word at once
		select {
		case <-j.closing:
		case <-j.down:
		case <-ctx.Done():
		}
		cancel()
	})
	for n := 0; ; n++ {
		if j.hear(ctx, l) { // heard something before it failed
			n = 0
		}
		l.drop()
		if s := j.server.Load(); s != nil && s.engine == engineCockroach {
			return
		}
		if !j.rest(backoff(n)) {
			return
		}
	}
}

// hear listens until something fails. It wakes everyone when it begins, too:
// what was said before is not repeated.
func (j *Journal) hear(ctx context.Context, l *link) (heard bool) {
	dial, cancel := context.WithTimeout(ctx, j.cfg.CommitTimeout)
	defer cancel()
	if l.ensure(dial) != nil || l.server.engine == engineCockroach {
		return false // the heart tells of a database that is away
	}
	if _, err := l.conn.Exec(dial, j.sql.listen); err != nil {
		return false
	}
	for {
		j.follow.wake()
		j.freed.wake()
		// Looked at now and then: a server that is gone without a word says nothing.
		wait, cancel := context.WithTimeout(ctx, 10*time.Second)
		_, err := l.conn.WaitForNotification(wait)
		cancel()
		switch {
		case err == nil:
			heard = true
		case ctx.Err() != nil || !pgconn.Timeout(err) || l.ping(ctx) != nil:
			return heard
		}
	}
}

// notify tells other instances that there is more to read. It is said after the
// commit and in a transaction of its own: NOTIFY takes a lock that all of a
// cluster's notifying commits queue for, and an append must not wait in it.
func (j *Journal) notify() {
	for {
		select {
		case <-j.notices:
		case <-j.closing:
			return
		case <-j.down:
			return
		}
		ctx, cancel := j.during(context.Background(), j.cfg.CommitTimeout)
		err := j.pool.use(ctx, func(l *link) error {
			_, err := l.conn.Exec(ctx, j.sql.notify)
			return err
		})
		cancel()
		if err != nil && !j.rest(backoff(0)) { // they look by themselves
			return
		}
	}
}

// tell has notify speak, if anyone may listen.
func (j *Journal) tell() {
	if s := j.server.Load(); !j.others.Load() || s.engine == engineCockroach {
		return
	}
	select {
	case j.notices <- struct{}{}:
	default:
	}
}
