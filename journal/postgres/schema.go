package postgres

import (
	"context"
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// steps are the versions of the schema, in order; step n makes version n+1 of
// what n made. They are applied under an advisory lock, each in a transaction
// with the row that says so. A library for this would bring a dependency for
// twenty lines; the steps are for ever, like any stored format.
//
// shards is moved by every append, so its rows are kept short and its pages half
// empty: the new version of a row then stays on its page.
var steps = []string{`
CREATE TABLE @.store (
	one boolean PRIMARY KEY CHECK (one),
	id text NOT NULL,
	cell integer NOT NULL,
	shards integer NOT NULL
);
CREATE TABLE @.instances (
	id text PRIMARY KEY,
	node text NOT NULL,
	alive_until timestamptz NOT NULL
);
CREATE TABLE @.shards (
	shard integer PRIMARY KEY,
	term bigint NOT NULL DEFAULT 0,
	owner text NOT NULL DEFAULT '',
	owner_node text NOT NULL DEFAULT '',
	lineage text NOT NULL DEFAULT '',
	end_term bigint NOT NULL DEFAULT 0,
	end_index bigint NOT NULL DEFAULT 0,
	cut_index bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE TABLE @.terms (
	shard integer NOT NULL,
	term bigint NOT NULL,
	start bigint NOT NULL,
	PRIMARY KEY (shard, term)
);
CREATE TABLE @.entries (
	shard integer NOT NULL,
	pos bigint NOT NULL,
	term bigint NOT NULL,
	crc bigint NOT NULL,
	data bytea NOT NULL,
	PRIMARY KEY (shard, pos)
);
`}

// in puts the schema's name into a statement, for every @ that stands before a
// dot.
func in(schema, sql string) string { return strings.ReplaceAll(sql, "@.", schema+".") }

// migrate brings the schema to the newest version and makes or checks the
// description of the store. It returns the store's ID.
func migrate(ctx context.Context, l *link, schema string, cfg Config, newID string) (string, error) {
	if l.server.engine != engineCockroach { // its advisory locks do nothing
		h := fnv.New64a()
		_, _ = h.Write([]byte("bongsu journal " + schema)) // never fails
		key := int64(h.Sum64())
		if _, err := l.conn.Exec(ctx, "SELECT pg_advisory_lock($1)", key); err != nil {
			return "", fmt.Errorf("lock schema %s: %w", schema, err)
		}
		defer func() {
			// Should this fail, the link is broken and the lock ends with it.
			_, _ = l.conn.Exec(ctx, "SELECT pg_advisory_unlock($1)", key)
		}()
	}
	version, err := schemaVersion(ctx, l.conn, schema)
	if err != nil {
		return "", err
	}
	if version > len(steps) {
		return "", fmt.Errorf("schema %s has version %d, this release knows %d: a newer release made it", schema, version, len(steps))
	}
	for ; version < len(steps); version++ {
		err := l.transact(ctx, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, in(schema, steps[version])); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, in(schema, "INSERT INTO @.version (version) VALUES ($1)"), version+1)
			return err
		})
		if err != nil {
			return "", fmt.Errorf("bring schema %s to version %d: %w", schema, version+1, err)
		}
	}
	return describe(ctx, l, schema, cfg, newID)
}

// schemaVersion makes the schema and its version table if they are missing. It
// looks first: an operator may have made them, and given us no right to.
func schemaVersion(ctx context.Context, conn *pgx.Conn, schema string) (version int, err error) {
	var there bool
	err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM information_schema.tables WHERE table_schema = $1 AND table_name = 'version')`, schema).Scan(&there)
	if err != nil {
		return 0, fmt.Errorf("look for schema %s: %w", schema, err)
	}
	if !there {
		for _, sql := range []string{"CREATE SCHEMA IF NOT EXISTS " + schema, in(schema, "CREATE TABLE IF NOT EXISTS @.version (version integer PRIMARY KEY)")} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return 0, fmt.Errorf("make schema %s: %w", schema, err)
			}
		}
	}
	if err := conn.QueryRow(ctx, in(schema, "SELECT coalesce(max(version), 0) FROM @.version")).Scan(&version); err != nil {
		return 0, fmt.Errorf("read version of schema %s: %w", schema, err)
	}
	return version, nil
}

func describe(ctx context.Context, l *link, schema string, cfg Config, newID string) (string, error) {
	var id string
	var cell, shards int
	err := l.transact(ctx, func(tx pgx.Tx) error {
		made, err := tx.Exec(ctx, in(schema, `INSERT INTO @.store (one, id, cell, shards) VALUES (true, $1, $2, $3) ON CONFLICT (one) DO NOTHING`),
			newID, int(cfg.Cell), cfg.Shards)
		if err != nil {
			return err
		}
		if made.RowsAffected() == 1 { // only then: a shard's row that vanished later is damage, not a beginning
			if _, err := tx.Exec(ctx, in(schema, `INSERT INTO @.shards (shard) SELECT generate_series(0, $1::int - 1)`), cfg.Shards); err != nil {
				return err
			}
		}
		if err := tx.QueryRow(ctx, in(schema, "SELECT id, cell, shards FROM @.store")).Scan(&id, &cell, &shards); err != nil {
			return err
		}
		if cell != int(cfg.Cell) || shards != cfg.Shards {
			return fmt.Errorf("it is of cell %d with %d shards, not of cell %d with %d", cell, shards, cfg.Cell, cfg.Shards)
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("describe the store in schema %s: %w", schema, err)
	}
	if l.server.engine == enginePostgres {
		var bad string
		err := l.conn.QueryRow(ctx, `SELECT coalesce(string_agg(c.relname, ', '), '') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname = $1 AND c.relkind = 'r' AND c.relpersistence <> 'p'`, schema).Scan(&bad)
		if err != nil {
			return "", fmt.Errorf("look at the tables of schema %s: %w", schema, err)
		}
		if bad != "" {
			return "", &WeakError{Setting: "UNLOGGED", Value: bad, Do: "ALTER TABLE … SET LOGGED"}
		}
	}
	return id, nil
}
