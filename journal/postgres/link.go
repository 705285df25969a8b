package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// dialer makes connections that have been found fit.
type dialer struct {
	address
	application string
	newest      *newest
	found       func(server) // hears of every server that was connected to
}

// link is one connection, made when it is needed and dropped at the first
// doubt. It is used by one goroutine at a time.
type link struct {
	dialer *dialer
	conn   *pgx.Conn
	server server
	warned *pgconn.Notice // the first warning since it was reset
	used   time.Time
}

// idleLimit: a link that was not used for longer is looked at first, so that a
// server that went away meanwhile does not cost an unknown outcome.
const idleLimit = time.Second

// ensure connects if there is no connection. A *WeakError or standbyError says
// why a server was refused.
func (l *link) ensure(ctx context.Context) error {
	if l.conn != nil && time.Since(l.used) > idleLimit && l.ping(ctx) != nil {
		l.drop()
	}
	l.used = time.Now()
	if l.conn != nil && !l.conn.IsClosed() {
		return nil
	}
	l.drop()
	cfg := l.dialer.conn.Copy()
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" && l.warned == nil {
			l.warned = n
		}
	}
	cfg.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) (err error) {
		if validate := l.dialer.conn.ValidateConnect; validate != nil {
			if err := validate(ctx, conn); err != nil {
				return err
			}
		}
		if l.server, err = identify(ctx, conn); err != nil {
			return err
		}
		return l.dialer.newest.admit(l.server.lineage)
	}
	cfg.RuntimeParams["application_name"] = l.dialer.application
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", l.dialer.name, err)
	}
	l.conn = conn
	if err := interview(ctx, conn, &l.server, l.dialer.allowSingle); err != nil {
		l.drop()
		return fmt.Errorf("connect to %s: %w", l.dialer.name, err)
	}
	l.dialer.found(l.server)
	return nil
}

// pingTimeout bounds the look at a link: a server that is gone without a word
// must not hold up the next one.
const pingTimeout = 2 * time.Second

func (l *link) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	return l.conn.Ping(ctx)
}

// use runs f on the link, connected.
func (l *link) use(ctx context.Context, f func(*link) error) error {
	err := l.ensure(ctx)
	if err == nil {
		err = f(l)
	}
	l.tidy(err)
	return err
}

// drop closes the connection without waiting long.
func (l *link) drop() {
	if l.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = l.conn.Close(ctx) // nothing on it is waited for
	l.conn = nil
}

// tidy makes the link fit for the next use, after one that ended with err: in
// doubt it is dropped, as a new one costs milliseconds.
func (l *link) tidy(err error) {
	l.used = time.Now()
	if l.conn == nil {
		return
	}
	var pg *pgconn.PgError
	fine := err == nil || errors.As(err, &pg) || errors.Is(err, pgx.ErrNoRows)
	if !fine || l.conn.IsClosed() || l.conn.PgConn().TxStatus() != 'I' || goesAway(pg) {
		l.drop()
	}
}

// goesAway tells of errors that another server, or the same one later, would
// not give: it is shutting down, or has become a standby.
func goesAway(pg *pgconn.PgError) bool {
	return pg != nil && (pg.Code == "25006" || len(pg.Code) == 5 && pg.Code[:3] == "57P")
}

// pool is a small fixed set of links.
type pool struct{ free chan *link }

func newPool(d *dialer, size int) *pool {
	p := &pool{free: make(chan *link, size)}
	for range size {
		p.free <- &link{dialer: d}
	}
	return p
}

// use runs f on a connected link.
func (p *pool) use(ctx context.Context, f func(*link) error) error {
	select {
	case l := <-p.free:
		defer func() { p.free <- l }()
		return l.use(ctx, f)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close drops all links, once their users are done.
func (p *pool) close() {
	for range cap(p.free) {
		(<-p.free).drop()
	}
}

// transact runs f in a transaction, and tells what the commit came to: nil only
// if it is durable, standby included.
func (l *link) transact(ctx context.Context, f func(pgx.Tx) error) error {
	l.warned = nil
	tx, err := l.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return errors.Join(err, ignoreClosed(tx.Rollback(ctx)))
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	if l.warned != nil {
		return &doubtError{warning: l.warned.Message}
	}
	return nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, pgx.ErrTxClosed) {
		return nil
	}
	return err
}

// doubtError: the server committed and warned, which it does when the wait for
// the standby was broken off.
type doubtError struct{ warning string }

func (e *doubtError) Error() string { return "committed with a warning: " + e.warning }
