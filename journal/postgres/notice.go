package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

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
