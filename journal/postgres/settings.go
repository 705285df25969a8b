package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// WeakError: the database is set up in a way that could lose a commit, or hide
// damage. Do says what helps.
type WeakError struct {
	Setting, Value, Do string
}

func (e *WeakError) Error() string {
	return fmt.Sprintf("the database has %s = %q, which can lose acknowledged messages: %s", e.Setting, e.Value, e.Do)
}

// standbyError: the server is a standby. It passes: connections look for another.
type standbyError struct{}

func (standbyError) Error() string { return "connected to a standby, which takes no writes" }

// engine is the kind of database.
type engine int

const (
	enginePostgres engine = iota
	engineYugabyte
	engineCockroach
)

func engineOf(version string) engine {
	switch {
	case strings.Contains(version, "CockroachDB"):
		return engineCockroach
	case strings.Contains(version, "-YB-"):
		return engineYugabyte
	}
	return enginePostgres
}

// settings is what a server says of itself.
type settings struct {
	fsync, fullPageWrites, synchronousCommit, synchronousStandbys string
	zeroDamaged, ignoreChecksums                                  string
}

// settingsSQL asks for them; the answer is at hand in the server's memory, so
// it is asked with every round, after the commit.
const settingsSQL = `SELECT current_setting('fsync'), current_setting('full_page_writes'),
 current_setting('synchronous_commit'), current_setting('synchronous_standby_names'),
 current_setting('zero_damaged_pages'), current_setting('ignore_checksum_failure')`

func scanSettings(r pgx.Row) (s settings, err error) {
	err = r.Scan(&s.fsync, &s.fullPageWrites, &s.synchronousCommit, &s.synchronousStandbys, &s.zeroDamaged, &s.ignoreChecksums)
	return s, err
}

// replicated tells whether commits wait for a standby.
func (s settings) replicated() bool { return strings.TrimSpace(s.synchronousStandbys) != "" }

// weak returns a *WeakError if these settings could lose a commit.
//
// remote_write is refused: the standby then answers when its kernel has the
// commit, not its disk, so that two machines losing power together, or one
// while the other is being replaced, lose what was acknowledged (invariant 1
// asks for an fsync by a quorum).
func (s settings) weak(allowSingle bool) error {
	weak := func(setting, value, do string) error { return &WeakError{Setting: setting, Value: value, Do: do} }
	switch {
	case s.fsync != "on":
		return weak("fsync", s.fsync, "set fsync = on")
	case s.fullPageWrites != "on":
		return weak("full_page_writes", s.fullPageWrites, "set full_page_writes = on")
	case s.synchronousCommit != "on" && s.synchronousCommit != "remote_apply":
		return weak("synchronous_commit", s.synchronousCommit,
			"set it to on or remote_apply, for the whole server or for our role: ALTER ROLE … SET synchronous_commit = on")
	case s.zeroDamaged != "off":
		return weak("zero_damaged_pages", s.zeroDamaged, "set it to off, so that damage is told and not wiped")
	case s.ignoreChecksums != "off":
		return weak("ignore_checksum_failure", s.ignoreChecksums, "set it to off, so that damage is told and not read")
	case !s.replicated() && !allowSingle:
		return weak("synchronous_standby_names", s.synchronousStandbys,
			"name at least one synchronous standby, such as 'ANY 1 (a, b)', or add allow_single=1 to the journal URL if this one disk is enough for you")
	}
	return nil
}

// server is what a new connection has learnt of the other side.
type server struct {
	engine   engine
	settings settings
	lineage  lineage
	sums     bool // data pages carry checksums
}

// interview asks for the settings of a server that has been identified, refuses
// weak ones, and pins what our session depends on.
func interview(ctx context.Context, conn *pgx.Conn, s *server, allowSingle bool) (err error) {
	if s.engine != enginePostgres {
		return nil
	}
	if s.settings, err = scanSettings(conn.QueryRow(ctx, settingsSQL)); err != nil {
		return fmt.Errorf("ask for settings: %w", err)
	}
	if err := s.settings.weak(allowSingle); err != nil {
		return err
	}
	return pin(ctx, conn, s.settings.synchronousCommit)
}

// pin sets for our session what a change of the configuration must not lower,
// and what our reading of its answers depends on: warnings must reach us,
// because "committed here but perhaps not on the standby" is only a warning.
func pin(ctx context.Context, conn *pgx.Conn, synchronousCommit string) error {
	for _, s := range []string{
		"SET synchronous_commit = " + synchronousCommit, // on or remote_apply: checked
		"SET client_min_messages = warning",
		"SET search_path = pg_catalog",
		"SET statement_timeout = '10s'",
		"SET lock_timeout = '5s'",
		"SET idle_in_transaction_session_timeout = '20s'",
	} {
		if _, err := conn.Exec(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}
