package postgres

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/journaltest"
)

// rivalOf is the same store for another node.
func rivalOf(t *testing.T, cfg Config, node uint64) Config {
	cfg.Node, cfg.Dir = node, t.TempDir()
	return cfg
}

const expireAll = "UPDATE @.instances SET alive_until = clock_timestamp()"

// A deposed owner that knows nothing of it is refused by the database, and its
// entry is nowhere.
func TestDeposedOwnerIsRefusedByTheDatabase(t *testing.T) {
	s := sharedServer(t)
	cfg := config(t, s, 1)
	cfg.LeaseTTL = time.Minute // its heart will not tell it in time
	old := mustOpen(t, cfg)
	l := old.logs[0]
	lease := mustLease(t, l)
	first := mustAppend(t, l, lease, "first")
	s.exec("postgres", inSchema(cfg, expireAll))
	rival := mustOpen(t, rivalOf(t, cfg, 2))
	other := mustLease(t, rival.Log(0))
	if other.Applied != first.Index || other.Term <= lease.Term {
		t.Fatalf("the rival's lease %+v after %+v", other, lease)
	}
	if _, held := l.held(); !held {
		t.Fatal("the old owner knows already; the test does not test what it means to")
	}
	if _, err := l.Append(patient(t), lease, []byte("never")); !errors.Is(err, journal.ErrNotOwner) {
		t.Fatalf("append of a deposed owner: %v", err)
	}
	mustAppend(t, rival.Log(0), other, "second")
	es, err := rival.Log(0).Read(patient(t), 0, 1<<20)
	if err != nil || len(es) != 2 || string(es[1].Data) != "second" {
		t.Fatalf("the log: %+v, %v", es, err)
	}
}

// An owner whose log was set back under it, term and all, does not append where
// an acknowledged entry was.
func TestAppendRefusesALogThatWasSetBack(t *testing.T) {
	s := sharedServer(t)
	cfg := config(t, s, 2)
	cfg.LeaseTTL = time.Minute
	j, at := filled(t, cfg)
	l := j.logs[0]
	lease, _ := l.held()
	s.exec("postgres", inSchema(cfg, "DELETE FROM @.entries WHERE shard = 0 AND pos > 6"), inSchema(cfg, "UPDATE @.shards SET end_index = 6 WHERE shard = 0"))
	if _, err := l.Append(patient(t), lease, []byte("never")); !errors.Is(err, journal.ErrNotOwner) {
		t.Fatalf("append: %v", err)
	}
	var lost *journal.LostTailError
	if _, err := l.Lease(patient(t)); !errors.As(err, &lost) || lost.Have != at[5] || lost.Proven != at[9] {
		t.Fatalf("lease: %v", err)
	}
}

// Three nodes take the shards from each other as fast as a heartbeat can be
// forged: the log stays one, dense, and every acknowledged entry is in it once.
func TestRivals(t *testing.T) {
	const shards, nodes = 2, 3
	seed := journaltest.Seed(t)
	rng := rand.New(rand.NewPCG(seed, 5))
	s := sharedServer(t)
	cfg := config(t, s, shards)
	ledgers := newLedgers(shards)
	ctx, cancel := context.WithCancel(bg)
	defer cancel()
	var mu sync.Mutex
	reigns := map[journal.Term]bool{}
	var all sync.WaitGroup
	var rivals []*Journal
	for n := range nodes {
		j := mustOpen(t, rivalOf(t, cfg, uint64(n+1)))
		rivals = append(rivals, j)
		for i := range shards {
			id := journal.ShardID(i)
			w := &writer{log: j.Log(id), shard: id, acked: func(n uint64, p journal.Position) {
				if err := ledgers[i].add(n, p); err != nil {
					t.Errorf("shard %d: %v", i, err)
				}
				mu.Lock()
				reigns[p.Term] = true
				mu.Unlock()
			}}
			all.Go(func() {
				if err := w.run(ctx); err != nil {
					t.Errorf("node %d shard %d: %v", n+1, i, err)
				}
			})
		}
	}
	fought := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(reigns)
	}
	for deadline := time.Now().Add(time.Minute); fought() < 12; { // unless a heart beats in between
		if time.Now().After(deadline) {
			t.Fatalf("only %d terms had entries; the rivals do not fight", fought())
		}
		moreAcks(t, ledgers, 1+rng.IntN(40))
		s.exec("postgres", inSchema(cfg, expireAll), newStatements(schemaOf(cfg)).notify)
	}
	cancel()
	all.Wait()
	// They leave in order: a lease that is only forged to have run out comes back
	// with its owner's next heartbeat, which a slow look at the shard before gives
	// it the time for.
	for _, r := range rivals {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	j := mustOpen(t, rivalOf(t, cfg, 9))
	for i, g := range ledgers {
		g.verify(t, j.Log(journal.ShardID(i)), journal.ShardID(i))
	}
	t.Logf("%d acknowledged in %d terms, 0 lost, 0 doubled", counts(ledgers), fought())
}

// A follower hears of entries by the owner's word, and without it by looking.
func TestFollowing(t *testing.T) {
	s := sharedServer(t)
	for _, told := range []bool{true, false} {
		name := map[bool]string{true: "told", false: "looking"}[told]
		t.Run(name, func(t *testing.T) {
			cfg := config(t, s, 1)
			cfg.LeaseTTL = time.Minute // the owner learns only at its start whether anyone may listen
			cfg2 := rivalOf(t, cfg, 2)
			if told {
				cfg2.PollInterval = time.Hour
			}
			var follower, owner *Journal
			if told {
				follower = mustOpen(t, cfg2)
				owner = mustOpen(t, cfg)
			} else {
				owner = mustOpen(t, cfg)
				follower = mustOpen(t, cfg2)
			}
			if owner.others.Load() != told {
				t.Fatalf("others: %v", owner.others.Load())
			}
			l := owner.Log(0)
			lease := mustLease(t, l)
			got := make(chan error, 1)
			go func() {
				after := journal.Index(0)
				for after < 20 {
					es, err := follower.Log(0).Read(patient(t), after, 1<<20)
					if err != nil {
						got <- err
						return
					}
					after = es[len(es)-1].Index
				}
				got <- nil
			}()
			for n := range 20 {
				p := mustAppend(t, l, lease, "words")
				if n%5 == 4 { // let it catch up and wait
					for deadline := time.Now().Add(20 * time.Second); follower.Log(0).Last() != p; {
						if time.Now().After(deadline) {
							t.Fatalf("the follower stays at %+v", follower.Log(0).Last())
						}
						<-time.After(time.Millisecond)
					}
				}
			}
			if err := <-got; err != nil {
				t.Fatal(err)
			}
			if !follower.Log(0).Contains(l.Last()) {
				t.Error("the follower's history lacks the term")
			}
		})
	}
}

// A node that starts again takes its shards over at once, without waiting for
// its own last run's lease to end.
func TestRestartTakesOverAtOnce(t *testing.T) {
	s := sharedServer(t)
	cfg := config(t, s, 1)
	cfg.LeaseTTL = time.Minute
	j := mustOpen(t, cfg)
	mustLease(t, j.Log(0))
	j.abandon()
	j = mustOpen(t, cfg)
	mustLease(t, j.Log(0)) // within the test's patience, half a TTL
}

// One that closes in order gives its shards up at once.
func TestCloseGivesUpAtOnce(t *testing.T) {
	s := sharedServer(t)
	cfg := config(t, s, 1)
	cfg.LeaseTTL = time.Minute
	j := mustOpen(t, cfg)
	rival := mustOpen(t, rivalOf(t, cfg, 2))
	mustLease(t, j.Log(0))
	leased := make(chan error, 1)
	go func() {
		_, err := rival.Log(0).Lease(patient(t))
		leased <- err
	}()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-leased; err != nil {
		t.Fatal(err)
	}
}

// Appends of many shards that wait at the same time share transactions.
func TestShardsShareRounds(t *testing.T) {
	const shards, each = 16, 25
	s := sharedServer(t)
	cfg := config(t, s, shards)
	cfg.LeaseTTL, cfg.Committers = time.Minute, 1
	j := mustOpen(t, cfg)
	leases := make([]journal.Lease, shards)
	for i := range leases {
		leases[i] = mustLease(t, j.Log(journal.ShardID(i)))
	}
	commits := func() string {
		return s.ask("postgres", inSchema(cfg, "SELECT count(DISTINCT xmin::text)::text FROM @.entries"))
	}
	var wg sync.WaitGroup
	for i := range shards {
		wg.Go(func() {
			for range each {
				if _, err := j.Log(journal.ShardID(i)).Append(bg, leases[i], make([]byte, 400)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	n := commits()
	t.Logf("%d appends, %s transactions", shards*each, n)
	if len(n) > 2 { // sixteen wait at a time; a quarter of all would be 100
		t.Fatalf("%d appends took %s transactions", shards*each, n)
	}
}
