package peers

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// postgresUser is who runs the database if we are root, which it refuses to be.
const postgresUser = "postgres"

// postgresBin is where Debian puts the programs of version 15.
const postgresBin = "/usr/lib/postgresql/15/bin"

// postgres is a database server of our own over a fresh cluster.
type postgres struct {
	server   *process
	port     int
	password string
}

// postgresSettings are the defaults but for these. Where a value costs or saves
// the peer work it is the one that saves.
var postgresSettings = []string{
	"listen_addresses=127.0.0.1",
	"fsync=on", "synchronous_commit=on", "full_page_writes=on", // the defaults, said aloud: a commit is on disk
	"shared_buffers=512MB", // everything that is read stays in memory
	"max_connections=200",
	"max_wal_size=8GB", "checkpoint_timeout=30min", // no checkpoint within a run
	"wal_level=minimal", "max_wal_senders=0", // no replica is fed
	"jit=off", // the queries are far too short for it
}

// startPostgres makes a cluster in dir and serves it.
func startPostgres(ctx context.Context, dir string) (_ *postgres, err error) {
	pg := &postgres{password: rand.Text()}
	home, err := makeFolder(dir, "postgres", postgresUser)
	if err != nil {
		return nil, err
	}
	// initdb reads the password as its own user.
	secret := filepath.Join(home, "password")
	if err := os.WriteFile(secret, []byte(pg.password+"\n"), 0o644); err != nil {
		return nil, fmt.Errorf("write the database's password: %w", err)
	}
	data := filepath.Join(home, "data")
	initdb := exec.CommandContext(ctx, filepath.Join(postgresBin, "initdb"), "--pgdata", data, "--username", "peers", "--pwfile", secret,
		"--auth", "md5", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync")
	initdb.Dir = home
	initdb.SysProcAttr = &syscall.SysProcAttr{}
	if initdb.SysProcAttr.Credential, err = credential(postgresUser); err != nil {
		return nil, err
	}
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	if pg.port, err = freePort(); err != nil {
		return nil, err
	}
	args := []string{"-D", data, "-p", fmt.Sprint(pg.port), "-k", home}
	for _, s := range postgresSettings {
		args = append(args, "-c", s)
	}
	if pg.server, err = startProcess("postgres", dir, postgresUser, exec.Command(filepath.Join(postgresBin, "postgres"), args...)); err != nil {
		return nil, err
	}
	return pg, pg.server.await(ctx, func(ctx context.Context) error {
		_, err := pg.query(ctx, "postgres", "select 1")
		return err
	})
}

// query runs statements and returns what they print, a row a line.
func (pg *postgres) query(ctx context.Context, database, statements string) (string, error) {
	return pg.psql(ctx, database, "--command", statements)
}

// load runs a file of statements.
func (pg *postgres) load(ctx context.Context, database, file string) error {
	_, err := pg.psql(ctx, database, "--file", file)
	return err
}

func (pg *postgres) psql(ctx context.Context, database string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(postgresBin, "psql"), append([]string{
		"--host", "127.0.0.1", "--port", fmt.Sprint(pg.port), "--username", "peers", "--dbname", database,
		"--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1",
	}, args...)...)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+pg.password)
	var said, complained bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &complained
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("ask the database: %w\n%s", err, complained.Bytes())
	}
	return strings.TrimSpace(said.String()), nil
}

// stop is PostgreSQL's fast shutdown: it ends sessions and writes a checkpoint.
func (pg *postgres) stop() error {
	if pg == nil {
		return nil
	}
	return pg.server.stop(syscall.SIGINT)
}
