package postgres

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
)

// lineage says which database this is, as "system identifier/timeline": the
// timeline grows with every promotion and every restore to a point in time.
type lineage string

// olderThan tells whether l is an earlier timeline of the same cluster. A
// primary that was deposed while it was out of reach comes back as one, still
// ready to write.
func (l lineage) olderThan(other lineage) bool {
	system, timeline, _ := strings.Cut(string(l), "/")
	otherSystem, otherTimeline, known := strings.Cut(string(other), "/")
	return known && system == otherSystem && timeline < otherTimeline // eight hexadecimal digits each
}

// deposedError: the server is of an earlier timeline than one that we have used.
type deposedError struct{ has, seen lineage }

func (e *deposedError) Error() string {
	return fmt.Sprintf("the server's timeline %s is older than %s, which this node has used: a deposed primary; end it, and make it a standby again", e.has, e.seen)
}

// newest is the newest lineage that was seen. It is kept with the marks.
type newest struct {
	mu   sync.Mutex
	seen lineage
}

func (n *newest) get() lineage {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seen
}

// admit takes note of a server's lineage, or refuses one that is deposed.
func (n *newest) admit(l lineage) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.olderThan(n.seen) {
		return &deposedError{has: l, seen: n.seen}
	}
	if l != "" {
		n.seen = l
	}
	return nil
}

// identify asks a server what it is, while the connection is being made: a
// refusal has the next host of the URL tried.
func identify(ctx context.Context, conn *pgconn.PgConn) (s server, err error) {
	row, err := askRow(ctx, conn, "SELECT version()")
	if err != nil {
		return s, fmt.Errorf("ask for the version: %w", err)
	}
	if s.engine = engineOf(row[0]); s.engine != enginePostgres {
		return s, nil
	}
	row, err = askRow(ctx, conn, `SELECT pg_is_in_recovery(), current_setting('data_checksums'),
		(SELECT system_identifier::text FROM pg_control_system()),
		CASE WHEN pg_is_in_recovery() THEN '' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END`)
	if err != nil {
		return s, fmt.Errorf("ask for the role of the server: %w", err)
	}
	if row[0] != "f" {
		return s, standbyError{}
	}
	s.sums, s.lineage = row[1] == "on", lineage(row[2]+"/"+row[3])
	return s, nil
}

// askRow asks for one row of text.
func askRow(ctx context.Context, conn *pgconn.PgConn, sql string) ([]string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 {
		return nil, fmt.Errorf("%q gave no row", sql)
	}
	var row []string
	for _, v := range results[0].Rows[0] {
		row = append(row, string(v))
	}
	return row, nil
}
