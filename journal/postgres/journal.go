package postgres

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/bongsu-im/bongsu/internal/clock"
	"github.com/bongsu-im/bongsu/journal"
)

// Journal is the logs of all shards as one node uses them. It implements
// journal.Journal.
type Journal struct {
	cfg      Config
	dialer   *dialer
	instance string // this run's ID
	store    string // the store's ID
	sql      statements
	marks    marks
	logs     []*shardLog

	pool    *pool
	rounds  chan *request
	follow  *follower
	notices chan struct{} // one for every acknowledgement others may wait for, merged
	freed   signal        // something was said that may concern ownership
	others  atomic.Bool   // other instances are alive
	server  atomic.Pointer[server]

	ctx     context.Context // ends when Close gives up waiting; bounds all work on links
	end     context.CancelFunc
	closing chan struct{}
	close   sync.Once
	closed  error
	running sync.WaitGroup
	// using lets Close wait for what callers have under way.
	using sync.WaitGroup

	mu       sync.Mutex
	gone     bool // guarded by mu, so that using is not added to after Close waits
	fenced   *journal.FencedError
	down     chan struct{} // closed when fenced
	damage   []error
	reported map[journal.ShardID]*journal.LostTailError
}

var _ journal.Journal = (*Journal)(nil)

// Open connects to the database, makes the store if there is none, reads what
// its logs are, and begins to say that this instance is alive. It refuses a
// database that could lose a commit, with a *WeakError that says what to do.
// A shard whose log ends before its mark, or has another history there, is
// damaged: it is left alone, its Lease and Append return the
// *journal.LostTailError, and Damage tells of it.
func Open(ctx context.Context, cfg Config) (*Journal, error) {
	j, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	if err := j.reach(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open journal: %w", err), j.Close())
	}
	j.start()
	return j, nil
}

// prepare makes the Journal without touching the database.
func prepare(cfg Config) (*Journal, error) {
	a, err := parseAddress(cfg.URL)
	if err != nil {
		return nil, err
	}
	if a.lease != 0 {
		cfg.LeaseTTL = a.lease
	}
	if cfg, err = cfg.withDefaults(); err != nil {
		return nil, err
	}
	if a.schema == "" {
		a.schema = fmt.Sprintf("bongsu_%d", cfg.Cell)
	}
	a.name += " schema " + a.schema
	j := &Journal{
		cfg: cfg, instance: newID(), sql: newStatements(a.schema),
		rounds: make(chan *request, 2*cfg.Shards), notices: make(chan struct{}, 1),
		closing: make(chan struct{}), down: make(chan struct{}),
		reported: map[journal.ShardID]*journal.LostTailError{},
	}
	j.dialer = &dialer{address: a, newest: &newest{}, application: fmt.Sprintf("bongsu node %d", cfg.Node), found: j.met}
	j.pool = newPool(j.dialer, cfg.Readers)
	j.follow = newFollower(j)
	j.ctx, j.end = context.WithCancel(context.Background())
	for i := range cfg.Shards {
		j.logs = append(j.logs, newShardLog(j, journal.ShardID(i)))
	}
	j.marks = marks{fs: cfg.FS, dir: cfg.Dir, shards: cfg.Shards, end: j.provenEnd, lineage: j.dialer.newest.get, fail: func(err error) error { return j.fence(err) }}
	if err := j.marks.load(); err != nil {
		return nil, err
	}
	j.dialer.newest.seen = j.marks.seen
	j.damage = append(j.damage, j.marks.damage...)
	for i, l := range j.logs {
		l.proven = j.marks.saved[i].End
		if a := j.marks.saved[i].Applied.Position; a.Index > l.proven.Index {
			l.proven = a
		}
	}
	return j, nil
}

func newID() string {
	b := make([]byte, 16)
	if _, err := io.ReadFull(clock.Random, b); err != nil {
		panic(err) // the source never fails
	}
	return hex.EncodeToString(b)
}

// reach tries until the database answers, for OpenTimeout, but no longer where
// waiting does not help.
func (j *Journal) reach(ctx context.Context) error {
	ctx, cancel := j.during(ctx, j.cfg.OpenTimeout)
	defer cancel()
	for n := 0; ; n++ {
		err := j.pool.use(ctx, func(l *link) error { return j.read(ctx, l) })
		if err == nil || !passing(err) || ctx.Err() != nil {
			return err
		}
		j.cfg.Logger.Warn("the journal's database is not to be had yet", "error", err)
		if !clock.Sleep(ctx, backoff(n)) {
			return err
		}
	}
}

// read takes in what the store is, and makes it if it is missing.
func (j *Journal) read(ctx context.Context, l *link) error {
	id, err := migrate(ctx, l, j.dialer.schema, j.cfg, newID())
	if err != nil {
		return err
	}
	if known := j.marks.store; known != "" && known != id {
		return &StoreError{Dir: j.cfg.Dir, Known: known, Found: id, Where: j.dialer.name}
	}
	j.store, j.marks.store = id, id
	states := make([]state, len(j.logs))
	for i, log := range j.logs {
		if states[i], err = j.load(ctx, l.conn, log.shard, false); err != nil {
			return fmt.Errorf("read shard %d: %w", i, err)
		}
	}
	// Synced, standby included: what was visible before is durable after.
	if err := j.beat(ctx, l, true); err != nil {
		return fmt.Errorf("say that this instance is alive: %w", err)
	}
	for i, log := range j.logs {
		_ = log.adopt(states[i], log.proven) // Damage tells
	}
	return nil
}

// StoreError: the marks on this machine are of another store than the database
// has. Either the address is wrong, or the whole store was lost.
type StoreError struct{ Dir, Known, Found, Where string }

func (e *StoreError) Error() string {
	return fmt.Sprintf("the journal in %s is store %s, but the marks in %s are of store %s: a wrong address, or everything was lost; remove the marks only if you know which",
		e.Where, e.Found, e.Dir, e.Known)
}

// met hears of every server that a link connects to.
func (j *Journal) met(s server) {
	before := j.server.Swap(&s)
	switch {
	case before == nil:
		if s.engine != enginePostgres {
			j.cfg.Logger.Warn("this is not PostgreSQL itself: its durability settings cannot be checked", "database", j.dialer.name)
		} else if !s.sums {
			j.cfg.Logger.Warn("the database keeps no data checksums; damage is found by ours, when an entry is read", "database", j.dialer.name)
		}
		if s.engine == enginePostgres && !s.settings.replicated() {
			j.cfg.Logger.Warn("the database has no synchronous standby; allow_single accepts that one disk", "database", j.dialer.name)
		}
	case before.lineage != s.lineage:
		j.follow.wake()
		j.cfg.Logger.Warn("the database was promoted or restored", "database", j.dialer.name, "was", before.lineage, "is", s.lineage)
	}
}

func (j *Journal) start() {
	for range j.cfg.Committers {
		c := &committer{j: j, link: &link{dialer: j.dialer}}
		j.running.Go(c.run)
	}
	j.running.Go(j.heart)
	j.running.Go(j.follow.run)
	j.running.Go(j.listen)
	j.running.Go(j.notify)
	j.running.Go(j.keepMarks)
}

// Log implements journal.Journal.
func (j *Journal) Log(shard journal.ShardID) journal.Log {
	if int(shard) >= len(j.logs) {
		panic(fmt.Sprintf("journal: shard %d of %d", shard, len(j.logs)))
	}
	return j.logs[shard]
}

// SyncMarks implements journal.Journal.
func (j *Journal) SyncMarks() error {
	if err := j.dead(); err != nil {
		return err
	}
	return j.marks.sync()
}

// Mark returns the shard's newest mark: the one that was durable at the last
// start, or what SetMark has raised it to.
func (j *Journal) Mark(shard journal.ShardID) journal.Mark { return j.marks.Get(shard) }

func (j *Journal) keepMarks() {
	tick := time.NewTicker(j.cfg.MarkInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if j.marks.sync() != nil {
				return // fenced, and said so
			}
		case <-j.closing:
			return
		case <-j.down:
			return
		}
	}
}

func (j *Journal) provenEnd(shard journal.ShardID) (journal.Position, bool) {
	l := j.logs[shard]
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.history.end, l.lost == nil
}

// Fenced returns the *journal.FencedError once the store is fenced, else nil.
func (j *Journal) Fenced() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fenced == nil {
		return nil
	}
	return j.fenced
}

// fence turns the one-way switch.
func (j *Journal) fence(cause error) *journal.FencedError {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fenced == nil {
		j.fenced = &journal.FencedError{Store: "journal (" + j.dialer.name + ")", Cause: cause}
		j.cfg.Logger.Error("the journal is fenced: nothing is acknowledged until the cause is mended and the process restarted", "error", cause)
		close(j.down)
	}
	return j.fenced
}

// dead returns why nothing may begin any more, or nil.
func (j *Journal) dead() error {
	select {
	case <-j.closing:
		return journal.ErrClosed
	default:
		return j.Fenced()
	}
}

// enter tells Close that a caller is at work; leave must follow unless it
// returns an error.
func (j *Journal) enter() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.gone {
		return journal.ErrClosed
	}
	j.using.Add(1)
	return nil
}

// during bounds work on a link by the caller, by time, and by Close.
func (j *Journal) during(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, d)
	stop := context.AfterFunc(j.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// judge fences the store if err says that it must be.
func (j *Journal) judge(err error) error {
	var weak *WeakError
	var corrupt *journal.CorruptError
	if errors.As(err, &weak) || errors.As(err, &corrupt) || broken(err) {
		return j.fence(err)
	}
	return err
}

// broken tells whether the database says of itself that it is damaged, or that
// our tables are not what they were.
func broken(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	switch pg.Code {
	case "XX001", "XX002", "58030", // data, index, input and output
		"42P01", "42703", "42501", "3F000": // no such table, column, right, schema
		return true
	}
	return false
}

// passing tells whether waiting may help.
func passing(err error) bool {
	var weak *WeakError
	var store *StoreError
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &weak), errors.As(err, &store):
		return false
	case errors.As(err, &pg):
		return len(pg.Code) == 5 && (pg.Code[:2] == "08" || pg.Code[:2] == "53" || pg.Code[:2] == "57" || pg.Code[:2] == "40" || pg.Code == "25006" || pg.Code == "55P03")
	}
	var connect *pgconn.ConnectError
	return errors.As(err, &connect) || errors.As(err, new(standbyError))
}

// closeGrace is how long Close waits for rounds that are under way.
const closeGrace = 2 * time.Second

// Close implements journal.Journal. Shards are given up, so that others need not
// wait for the lease to run out, and the marks are written a last time.
func (j *Journal) Close() error {
	j.close.Do(func() { j.closed = j.shut() })
	return j.closed
}

func (j *Journal) shut() error {
	j.mu.Lock()
	j.gone = true
	j.mu.Unlock()
	close(j.closing)
	late := time.AfterFunc(closeGrace, j.end)
	j.running.Wait()
	j.using.Wait()
	late.Stop()
	var err error
	if j.store != "" {
		err = j.marks.close()
		j.release()
	}
	j.end()
	j.pool.close()
	if j.Fenced() != nil {
		return nil // the fence has been told of; closing after it is still closing
	}
	return err
}

// release gives up ownership. If it fails, the lease runs out.
func (j *Journal) release() {
	ctx, cancel := j.during(context.Background(), closeGrace)
	defer cancel()
	err := j.pool.use(ctx, func(l *link) error {
		return l.transact(ctx, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, j.sql.release, j.instance); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, j.sql.leave, j.instance); err != nil {
				return err
			}
			if l.server.engine == engineCockroach {
				return nil
			}
			_, err := tx.Exec(ctx, j.sql.notify)
			return err
		})
	})
	if err != nil {
		j.cfg.Logger.Warn("ownership could not be given up; others wait until the lease runs out", "error", err)
	}
}
