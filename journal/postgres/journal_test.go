package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/journaltest"
)

var bg = context.Background()

// testLog writes to the test's log.
type testLog struct{ t testing.TB }

func (w testLog) Write(b []byte) (int, error) {
	w.t.Logf("%s", strings.TrimRight(string(b), "\n"))
	return len(b), nil
}

// config is a configuration for a schema of its own on a server. Tests speed up
// what waits for time.
func config(t testing.TB, s *pgServer, shards int) Config {
	return Config{
		URL: s.url("postgres") + "?allow_single=1&schema=" + newSchema(), Shards: shards, Dir: t.TempDir(),
		LeaseTTL: 600 * time.Millisecond, PollInterval: 50 * time.Millisecond, MarkInterval: 50 * time.Millisecond,
	}
}

func schemaOf(cfg Config) string {
	a, err := parseAddress(cfg.URL)
	if err != nil {
		panic(err)
	}
	return a.schema
}

func logging(t testing.TB, cfg Config) Config {
	cfg.Logger = slog.New(slog.NewTextHandler(testLog{t}, nil))
	return cfg
}

func mustOpen(t testing.TB, cfg Config) *Journal {
	t.Helper()
	ctx, cancel := context.WithTimeout(bg, 30*time.Second)
	defer cancel()
	j, err := Open(ctx, cfg)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return j
}

func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(bg, 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func mustLease(t testing.TB, l journal.Log) journal.Lease {
	t.Helper()
	lease, err := l.Lease(patient(t))
	if err != nil {
		t.Fatalf("lease: %v", err)
	}
	return lease
}

func mustAppend(t testing.TB, l journal.Log, lease journal.Lease, data string) journal.Position {
	t.Helper()
	p, err := l.Append(patient(t), lease, []byte(data))
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	return p
}

// abandon ends a journal as kill -9 ends its process: nothing is said to the
// database, no mark is written.
func (j *Journal) abandon() {
	j.close.Do(func() {
		j.mu.Lock()
		j.gone = true
		j.mu.Unlock()
		close(j.closing)
		j.end()
		j.running.Wait()
		j.using.Wait()
		j.pool.close()
	})
}

// instance runs the contract's suite.
type instance struct {
	server *pgServer
	cfg    Config
	j      *Journal
	repair string // undoes what Fence did
}

func newInstance(t *testing.T, shards int) *instance {
	s := sharedServer(t)
	in := &instance{server: s, cfg: config(t, s, shards)}
	in.j = mustOpen(t, in.cfg)
	return in
}

func (in *instance) Journal() journal.Journal { return in.j }

func (in *instance) Reopen(t *testing.T, kill bool) {
	t.Helper()
	if kill {
		in.j.abandon()
	} else if err := in.j.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	if in.repair != "" {
		in.server.exec("postgres", in.repair)
		in.repair = ""
	}
	in.j = mustOpen(t, in.cfg)
	if d := in.j.Damage(); len(d) > 0 {
		t.Fatalf("opened with damage: %v", d)
	}
}

// Fence flips a byte of a checksum and has the scrubber find it.
func (in *instance) Fence(t *testing.T) {
	in.server.exec("postgres", in.sql("UPDATE @.entries SET crc = crc # 1 WHERE shard = 0 AND pos = 1"))
	in.repair = in.sql("UPDATE @.entries SET crc = crc # 1 WHERE shard = 0 AND pos = 1")
	if err := in.j.Scrub(bg, nil); !errors.As(err, new(*journal.CorruptError)) {
		t.Fatalf("scrub of a damaged entry: %v", err)
	}
}

func (in *instance) sql(sql string) string { return inSchema(in.cfg, sql) }

func inSchema(cfg Config, sql string) string { return in(schemaOf(cfg), sql) }

// Usurp opens a second journal, of another node, on the same store: while ours
// says that it is alive the other waits, so ours is made to fall silent.
func (in *instance) Usurp(t *testing.T, shard journal.ShardID, data []byte) {
	t.Helper()
	cfg := in.cfg
	cfg.Node, cfg.Dir = 2, t.TempDir()
	rival := mustOpen(t, cfg)
	short, cancel := context.WithTimeout(bg, 2*in.cfg.LeaseTTL)
	defer cancel()
	if lease, err := rival.Log(shard).Lease(short); err == nil {
		t.Fatalf("the rival got lease %+v while the owner was alive", lease)
	}
	in.server.exec("postgres", in.sql("UPDATE @.instances SET alive_until = clock_timestamp() WHERE id = '"+in.j.instance+"'"))
	lease := mustLease(t, rival.Log(shard))
	if _, err := rival.Log(shard).Append(patient(t), lease, data); err != nil {
		t.Fatalf("the rival's append: %v", err)
	}
	if err := rival.Close(); err != nil {
		t.Fatal(err)
	}
}

// LoseTail takes entries out of the database and out of what the marks prove:
// the loss that nothing notices at the start.
func (in *instance) LoseTail(t *testing.T, shard journal.ShardID, p journal.Position) {
	t.Helper()
	if err := in.j.Close(); err != nil {
		t.Fatal(err)
	}
	in.server.exec("postgres",
		in.sql(fmt.Sprintf("DELETE FROM @.entries WHERE shard = %d AND pos >= %d", shard, p.Index)),
		in.sql(fmt.Sprintf("DELETE FROM @.terms WHERE shard = %d AND start >= %d", shard, p.Index)),
		in.sql(fmt.Sprintf("UPDATE @.shards SET end_index = %d WHERE shard = %d", p.Index-1, shard)))
	in.cfg.Dir = t.TempDir()
	in.j = mustOpen(t, in.cfg)
}

func TestContract(t *testing.T) {
	sharedServer(t) // its process is waited for by a goroutine that stays
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	journaltest.Run(t, func(t *testing.T, shards int) journaltest.Instance { return newInstance(t, shards) })
}
