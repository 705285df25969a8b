package postgres

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

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
