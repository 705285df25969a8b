package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/journal"
)

// pair is a primary with one synchronous standby.
type pair struct{ primary, standby *pgServer }

func newPair(t *testing.T) pair {
	t.Helper()
	if testing.Short() {
		t.Skip("a pair of servers takes seconds to make")
	}
	p := newServer(t)
	s := p.standby("s1", "synchronous_standby_names = ''", "hot_standby = on")
	p.setting("synchronous_standby_names", "s1")
	for deadline := time.Now().Add(20 * time.Second); p.ask("postgres", "SELECT coalesce(string_agg(sync_state, ','), '') FROM pg_stat_replication") != "sync"; {
		if time.Now().After(deadline) {
			t.Fatal("the standby does not become synchronous")
		}
		<-time.After(20 * time.Millisecond)
	}
	return pair{p, s}
}

// config knows both servers.
func (p pair) config(t *testing.T, shards int) Config {
	cfg := config(t, p.primary, shards)
	cfg.URL = strings.Replace(cfg.URL, fmt.Sprintf("127.0.0.1:%d", p.primary.port),
		fmt.Sprintf("127.0.0.1:%d,127.0.0.1:%d", p.primary.port, p.standby.port), 1)
	cfg.CommitTimeout = 3 * time.Second
	return cfg
}

// writers runs an owner of every shard; wait returns what they met.
func writers(ctx context.Context, t *testing.T, j *Journal, ledgers []*ledger) (wait func() []error) {
	errs := make([]error, len(ledgers))
	var all sync.WaitGroup
	for i := range ledgers {
		id := journal.ShardID(i)
		w := &writer{log: j.Log(id), shard: id, acked: func(n uint64, p journal.Position) {
			if err := ledgers[i].add(n, p); err != nil {
				t.Errorf("shard %d: %v", i, err)
			}
		}}
		all.Go(func() { errs[i] = w.run(ctx) })
	}
	return func() []error { all.Wait(); return errs }
}

func newLedgers(n int) []*ledger {
	all := make([]*ledger, n)
	for i := range all {
		all[i] = newLedger()
	}
	return all
}

// The primary is killed under load and the synchronous standby promoted: nothing
// that was acknowledged is missing, and the owners go on by themselves.
func TestFailoverDrill(t *testing.T) {
	const shards = 4
	p := newPair(t)
	j := mustOpen(t, p.config(t, shards))
	ledgers := newLedgers(shards)
	ctx, cancel := context.WithCancel(bg)
	defer cancel()
	wait := writers(ctx, t, j, ledgers)
	moreAcks(t, ledgers, 500)
	p.primary.kill()
	killed := counts(ledgers)
	began := time.Now()
	p.standby.promote()
	promoted := time.Since(began)
	moreAcks(t, ledgers, 500)
	cancel()
	for i, err := range wait() {
		if err != nil {
			t.Errorf("writer of shard %d: %v", i, err)
		}
	}
	if j.Fenced() != nil || len(j.Damage()) > 0 {
		t.Fatalf("fenced: %v, damage: %v", j.Fenced(), j.Damage())
	}
	var pause time.Duration
	var entries uint64
	for i, g := range ledgers {
		entries += g.verify(t, j.Log(journal.ShardID(i)), journal.ShardID(i))
		pause = max(pause, g.pause)
	}
	if limit := promoted + 10*time.Second; pause > limit {
		t.Errorf("a shard waited %v, the promotion took %v", pause, promoted)
	}
	t.Logf("%d acknowledged before the kill, %d in all, %d in the log, 0 lost; promotion %v, longest pause of a shard %v",
		killed, counts(ledgers), entries, promoted.Round(time.Millisecond), pause.Round(time.Millisecond))
	for i := range shards { // another lineage: no position of the old one can come again
		if term := j.logs[i].lease.Term; term < lineageJump {
			t.Errorf("shard %d: term %d after the promotion", i, term)
		}
	}
}

// The primary does not die but is cut off: it says nothing, the standby is
// promoted, and then the old one comes back, first in our URL and ready to write.
// It is not listened to.
func TestDeposedPrimaryComesBack(t *testing.T) {
	const shards = 2
	p := newPair(t)
	cfg := p.config(t, shards)
	cfg.URL += "&connect_timeout=1"
	j := mustOpen(t, cfg)
	ledgers := newLedgers(shards)
	ctx, cancel := context.WithCancel(bg)
	defer cancel()
	wait := writers(ctx, t, j, ledgers)
	moreAcks(t, ledgers, 100)
	p.primary.signalAll(syscall.SIGSTOP)
	defer p.primary.signalAll(syscall.SIGCONT) // or it cannot be ended in order
	p.standby.promote()
	moreAcks(t, ledgers, 100)
	p.primary.signalAll(syscall.SIGCONT)
	for range 3 {
		p.standby.exec("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'bongsu%'")
		moreAcks(t, ledgers, 50)
	}
	cancel()
	for i, err := range wait() {
		if err != nil {
			t.Errorf("writer of shard %d: %v", i, err)
		}
	}
	if j.Fenced() != nil || len(j.Damage()) > 0 {
		t.Fatalf("fenced: %v, damage: %v", j.Fenced(), j.Damage())
	}
	for i, g := range ledgers {
		g.verify(t, j.Log(journal.ShardID(i)), journal.ShardID(i))
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	// After a restart the marks remember which timeline counts.
	cfg.URL = strings.Replace(cfg.URL, fmt.Sprintf(",127.0.0.1:%d", p.standby.port), "", 1)
	cfg.OpenTimeout = 2 * time.Second
	if _, err := Open(bg, cfg); !errors.As(err, new(*deposedError)) {
		t.Fatalf("the deposed primary alone: %v", err)
	}
}

// Without allow_single, a promoted server that has no standby of its own is not
// good enough: fenced, with a reason, and nothing lost.
func TestPromotedServerWithoutStandbyFences(t *testing.T) {
	p := newPair(t)
	cfg := p.config(t, 1)
	cfg.URL = strings.Replace(cfg.URL, "allow_single=1&", "", 1)
	j := mustOpen(t, cfg)
	l := j.Log(0)
	lease := mustLease(t, l)
	mustAppend(t, l, lease, "words")
	p.primary.kill()
	p.standby.promote()
	for {
		_, err := l.Append(patient(t), lease, []byte("more"))
		if err == nil {
			t.Fatal("acknowledged by one disk")
		}
		var fenced *journal.FencedError
		if errors.As(err, &fenced) {
			var weak *WeakError
			if !errors.As(err, &weak) || weak.Setting != "synchronous_standby_names" {
				t.Fatalf("fenced by %v", err)
			}
			return
		}
		if lease, err = l.Lease(patient(t)); err != nil && !errors.As(err, &fenced) {
			t.Fatal(err)
		}
	}
}

// A standby that was not synchronous is promoted and lacks the end: the owner
// remembers what was acknowledged and does not go on, nor does it after a restart.
func TestPromotedServerThatLacksTheEndIsNoticed(t *testing.T) {
	p := newPair(t)
	cfg := p.config(t, 2)
	j := mustOpen(t, cfg)
	l := j.Log(0)
	lease := mustLease(t, l)
	kept := mustAppend(t, l, lease, "on both")
	other := mustLease(t, j.Log(1))
	mustAppend(t, j.Log(1), other, "on both")
	p.standby.stop()
	p.primary.setting("synchronous_standby_names", "") // the mistake
	last := mustAppend(t, l, lease, "on one disk")
	p.primary.kill()
	p.standby.start()
	p.standby.promote()

	_, err := l.Append(patient(t), lease, []byte("more"))
	for err != nil && !errors.As(err, new(*journal.LostTailError)) {
		if _, err = l.Lease(patient(t)); err == nil {
			t.Fatal("a lease of a log that lacks its end")
		}
	}
	var lost *journal.LostTailError
	if !errors.As(err, &lost) || lost.Have != kept || lost.Proven != last {
		t.Fatalf("got %v, want a lost tail from %+v to %+v", err, kept, last)
	}
	if d := j.Damage(); len(d) != 1 || !errors.As(d[0], &lost) {
		t.Fatalf("damage: %v", d)
	}
	if es, err := l.Read(patient(t), 0, 1<<20); err != nil || len(es) != 1 || es[0].Position != kept {
		t.Fatalf("what exists is not shown: %+v, %v", es, err)
	}
	if _, err := l.Read(patient(t), kept.Index, 1); !errors.As(err, &lost) {
		t.Fatalf("after what exists: %v", err)
	}
	other = mustLease(t, j.Log(1)) // the other shard is whole
	mustAppend(t, j.Log(1), other, "goes on")
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = mustOpen(t, cfg)
	if _, err := j.Log(0).Lease(patient(t)); !errors.As(err, &lost) {
		t.Fatalf("lease after a restart: %v", err)
	}
}

// A commit whose wait for the standby is broken off is committed on the primary
// and visible there, and may yet be lost. It is not acknowledged, and it is not
// shown to anyone before the standby has it.
func TestVisibleIsNotDurable(t *testing.T) {
	p := newPair(t)
	cfg := p.config(t, 1)
	j := mustOpen(t, cfg)
	l := j.Log(0)
	lease := mustLease(t, l)
	first := mustAppend(t, l, lease, "on both")
	cfg2 := cfg
	cfg2.Node, cfg2.Dir = 2, t.TempDir()
	follower := mustOpen(t, cfg2)

	p.standby.signalAll(syscall.SIGSTOP)
	appended := make(chan error, 1)
	go func() {
		_, err := l.Append(bg, lease, []byte("visible"))
		appended <- err
	}()
	cancelWaiting(t, p.primary)
	if err := <-appended; !errors.Is(err, journal.ErrUnknown) {
		t.Fatalf("a commit that only the primary has: %v, want ErrUnknown", err)
	}
	if n := p.primary.ask("postgres", inSchema(cfg, "SELECT count(*)::text FROM @.entries")); n != "2" {
		t.Fatalf("%s entries are visible; the test does not test what it means to", n)
	}
	short, cancel := context.WithTimeout(bg, time.Second)
	defer cancel()
	if es, err := follower.Log(0).Read(short, first.Index, 1); err == nil {
		t.Fatalf("a follower was shown %+v, which the standby does not have", es)
	}
	if last := follower.Log(0).Last(); last != first {
		t.Fatalf("a follower's last is %+v", last)
	}
	p.standby.signalAll(syscall.SIGCONT)
	es, err := follower.Log(0).Read(patient(t), first.Index, 1)
	if err != nil || len(es) != 1 || string(es[0].Data) != "visible" {
		t.Fatalf("after the standby came back: %+v, %v", es, err)
	}
	if again := mustLease(t, l); again.Applied != es[0].Index {
		t.Fatalf("the next lease wants %d applied, not %d", again.Applied, es[0].Index)
	}
}

// cancelWaiting breaks off the wait of the one backend that waits for a standby
// with an append.
func cancelWaiting(t *testing.T, s *pgServer) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		n := s.ask("postgres", `SELECT count(pg_cancel_backend(pid))::text FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query = 'COMMIT'`)
		if n != "0" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody waits for the standby: " + s.ask("postgres", "SELECT string_agg(coalesce(wait_event, '-') || ' ' || query, '; ') FROM pg_stat_activity"))
		}
		<-time.After(10 * time.Millisecond)
	}
}

// The database goes away and comes back: an append meanwhile is refused or
// unknown, never acknowledged, and Lease waits it out.
func TestOutageIsRiddenOut(t *testing.T) {
	s := newServer(t)
	j := mustOpen(t, config(t, s, 1))
	l := j.Log(0)
	lease := mustLease(t, l)
	a := mustAppend(t, l, lease, "a")
	s.stop()
	if _, err := l.Append(patient(t), lease, []byte("b")); !errors.Is(err, journal.ErrNotOwner) && !errors.Is(err, journal.ErrUnknown) {
		t.Fatalf("append to a database that is away: %v", err)
	}
	if _, err := l.Append(patient(t), lease, []byte("b")); !errors.Is(err, journal.ErrNotOwner) {
		t.Fatalf("append without a new lease: %v, want ErrNotOwner", err)
	}
	leased := make(chan journal.Lease, 1)
	go func() {
		lease, err := l.Lease(patient(t))
		if err != nil {
			t.Errorf("lease: %v", err)
		}
		leased <- lease
	}()
	s.start()
	again := <-leased
	if again.Term <= lease.Term || again.Applied != a.Index {
		t.Fatalf("lease %+v after %+v", again, lease)
	}
	mustAppend(t, l, again, "c")
}
