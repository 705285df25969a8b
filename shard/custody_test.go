package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/memory"
	"google.golang.org/protobuf/proto"
)

// late is one replica's journal that can be kept from hearing of anything new,
// as a member behind a broken link is, and that knows of a view which is there
// before the log has gone on behind it.
type late struct {
	mu       sync.Mutex
	held     bool
	freed    chan struct{}
	end      journal.Position // what it knew when it was held
	incoming journal.Position

	onRead func(entries []journal.Entry) // before Read returns them; may be nil
}

func (l *late) hold(end journal.Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held, l.end, l.freed = true, end, make(chan struct{})
}

func (l *late) free() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = false
	close(l.freed)
}

func (l *late) expect(at journal.Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.incoming = at
}

func (l *late) wrap(n *node, cfg *Config) { cfg.Journal = &lateJournal{cfg.Journal, l} }

type lateJournal struct {
	journal.Journal
	late *late
}

func (j *lateJournal) Log(n journal.ShardID) journal.Log { return &lateLog{j.Journal.Log(n), j.late} }

type lateLog struct {
	journal.Log
	late *late
}

func (l *lateLog) Read(ctx context.Context, after journal.Index, maxBytes int) ([]journal.Entry, error) {
	for {
		l.late.mu.Lock()
		held, freed, end := l.late.held, l.late.freed, l.late.end.Index
		l.late.mu.Unlock()
		if held && after >= end {
			select {
			case <-freed:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		entries, err := l.Log.Read(ctx, after, maxBytes)
		l.late.mu.Lock()
		held, end = l.late.held, l.late.end.Index
		hook := l.late.onRead
		l.late.mu.Unlock()
		if held && err == nil && entries[0].Index > end {
			continue
		}
		if hook != nil && err == nil {
			hook(entries)
		}
		return entries, err
	}
}

func (l *lateLog) Last() journal.Position {
	l.late.mu.Lock()
	defer l.late.mu.Unlock()
	if l.late.held {
		return l.late.end
	}
	return l.Log.Last()
}

func (l *lateLog) Contains(p journal.Position) bool {
	l.late.mu.Lock()
	defer l.late.mu.Unlock()
	if l.late.held && p.Index > l.late.end.Index {
		return p == l.late.incoming
	}
	return l.Log.Contains(p)
}

// pair is an owner n1 and what is needed for a replica n2.
func pair(t *testing.T) (*world, *seat, func(i uint64, text string)) {
	w := newWorld(t, 1, memory.Config{})
	s := &seat{disk: w.disk, who: "n1", moved: make(chan struct{})}
	w.wrap = s.as("n1")
	w.start()
	w.ready()
	ann := user("ann")
	w.must(signUp("ann"))
	w.must(openDirect(ann, ann))
	return w, s, func(i uint64, text string) { t.Helper(); w.must(send(ann, id.Direct(ann, ann), i, text)) }
}

// copyView takes n's view of shard 0 from w, as a transport between them would.
func (w *world) copyView(ctx context.Context, n *node) error {
	mark, r, err := w.set.MakeSnapshot(ctx, 0)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	return n.set.RestoreSnapshot(ctx, 0, mark, r)
}

func (w *world) trim() {
	w.t.Helper()
	log := w.journal.Log(0)
	if err := log.Trim(context.Background(), log.Last().Index); err != nil {
		w.t.Fatal(err)
	}
}

func (n *node) texts() (texts []string) {
	for _, i := range n.heard() {
		if m := i.GetEvent().GetMessage(); m != nil {
			texts = append(texts, m.GetMessage().GetText())
		}
	}
	return texts
}

func (n *node) sameAs(w *world) {
	w.t.Helper()
	if a, b := dump(w.t, w.view, 0), dump(w.t, n.view, 0); a != b {
		w.t.Errorf("the replica's view differs\nowner:\n%s\nreplica:\n%s\n%s", a, b, n.log.String())
	}
}

// A replica whose view is lost while the journal is trimmed takes a peer's view,
// trying until it gets one, and goes on: it follows, answers, publishes what is
// new, and takes over. Without a way to take one it is damaged, as ever.
func TestLostViewIsFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, say := pair(t)
		for i := range uint64(5) {
			say(i, "before")
		}
		w.trim()

		alone := w.join(s, "n3")
		time.Sleep(time.Second) // virtual
		var damaged *DamagedError
		if err := alone.set.Ready(); !errors.As(err, &damaged) {
			t.Errorf("nothing to fetch a view with: %v", err)
		}
		if _, _, err := alone.set.MakeSnapshot(context.Background(), 0); !errors.As(err, &damaged) {
			t.Errorf("a damaged shard made a snapshot: %v", err)
		}
		alone.stop()

		var attempts, replaced atomic.Int64
		n := w.join(s, "n2", func(n *node, cfg *Config) {
			cfg.FetchView = func(ctx context.Context, shard int) error {
				if attempts.Add(1) < 4 {
					return errors.New("nobody answers")
				}
				return w.copyView(ctx, n)
			}
			cfg.Replaced = func(int) { replaced.Add(1) }
		})
		synctest.Wait()
		if _, _, err := n.set.MakeSnapshot(context.Background(), 0); err == nil {
			t.Error("a view that lacks entries made a snapshot")
		}
		if lag := n.set.Lag(0); lag != math.MaxInt64 {
			t.Errorf("without a view it is %v behind", lag)
		}
		time.Sleep(5 * time.Second) // virtual
		if got := attempts.Load(); got != 4 {
			t.Errorf("%d attempts", got)
		}
		if replaced.Load() != 1 {
			t.Errorf("Replaced was called %d times", replaced.Load())
		}
		n.sameAs(w)
		say(100, "after")
		synctest.Wait()
		n.sameAs(w)
		if lag := n.set.Lag(0); lag != 0 {
			t.Errorf("it is %v behind", lag)
		}
		if got := n.texts(); fmt.Sprint(got) != "[after]" {
			t.Errorf("it published %q", got)
		}
		ann := user("ann")
		if got := n.ask(history(ann, id.Direct(ann, ann), 5)).GetHistory().GetMessages(); len(got) != 1 {
			t.Errorf("read from it: %v", got)
		}
		s.give("n2")
		synctest.Wait()
		n.ready()
		if r := n.must(send(ann, id.Direct(ann, ann), 101, "as owner")); r.GetMessage().GetSeq() != 7 {
			t.Errorf("as the owner: %v", r)
		}
		n.stop()
		w.end()
	})
}

// A node that is made owner without the view it would decide on tries to take
// one; when the ownership goes elsewhere it follows that owner, and is no damage.
func TestOwnerWithoutAView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, say := pair(t)
		say(1, "one")
		w.trim()
		over := make(chan struct{})
		var reach atomic.Bool
		n := w.join(s, "n2", func(n *node, cfg *Config) {
			cfg.LeaseEnded = func(int, journal.Lease) <-chan struct{} { return over }
			cfg.FetchView = func(ctx context.Context, _ int) error {
				if !reach.Load() {
					return errors.New("nobody answers")
				}
				return w.copyView(ctx, n)
			}
		})
		s.give("n2")
		time.Sleep(time.Minute) // virtual
		if n.set.Owns(0) || n.set.Ready() == nil {
			t.Error("it decides on a view that it does not have")
		}
		ann := user("ann")
		if r := n.do(send(ann, id.Direct(ann, ann), 2, "x")); r.GetError() == nil {
			t.Errorf("it answered %v", r)
		}
		s.give("n1")
		close(over)
		synctest.Wait()
		w.must2(send(ann, id.Direct(ann, ann), 3, "by the other")) // it finds out that its first lease is over
		reach.Store(true)
		time.Sleep(time.Minute) // virtual
		n.sameAs(w)
		say(4, "after")
		synctest.Wait()
		n.sameAs(w)
		if errors.As(n.set.Ready(), new(*DamagedError)) {
			t.Errorf("the replica: %v", n.set.Ready())
		}
		n.stop()
		w.end()
	})
}

// A view is replaced while its owner waits for entries, and the journal begins
// anew behind it: nothing of that is damage, and what follows is applied.
func TestViewReplacedWhileFollowing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, say := pair(t)
		say(1, "one")
		l := &late{}
		var replaced atomic.Int64
		n := w.join(s, "n2", l.wrap, func(_ *node, cfg *Config) { cfg.Replaced = func(int) { replaced.Add(1) } })
		time.Sleep(2 * time.Second) // virtual: it follows
		l.hold(w.journal.Log(0).Last())
		for i := range uint64(5) {
			say(10+i, fmt.Sprint("missed ", i))
		}
		last := w.journal.Log(0).Last()
		l.expect(last)
		waits := make(chan *nodev1.QueryReply, 1)
		ann := user("ann")
		go func() {
			q := history(ann, id.Direct(ann, ann), 1)
			q.AtLeast = append(q.AtLeast, w.set.owners[0].edgePosition(last))
			waits <- n.ask(q)
		}()
		synctest.Wait()
		if err := w.copyView(context.Background(), n); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		n.sameAs(w)
		if got := <-waits; len(got.GetHistory().GetMessages()) != 5 {
			t.Errorf("who waited for a position hears %v", got)
		}
		w.trim()
		l.free()
		say(20, "after")
		synctest.Wait()
		if err := n.set.Ready(); err == nil || errors.As(err, new(*DamagedError)) {
			t.Errorf("the replica: %v", err)
		}
		n.sameAs(w)
		if got := n.texts(); fmt.Sprint(got) != "[after]" || replaced.Load() != 1 {
			t.Errorf("it published %q, and told %d times that it was replaced", got, replaced.Load())
		}
		// A later snapshot of a moment that is over does nothing.
		if err := w.copyView(context.Background(), n); err != nil {
			t.Errorf("a snapshot of where it stands: %v", err)
		}
		mark, r, err := w.set.MakeSnapshot(context.Background(), 0)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		say(21, "later")
		synctest.Wait()
		if err := n.set.RestoreSnapshot(context.Background(), 0, mark, bytes.NewReader(data)); err == nil {
			t.Error("a view was taken back")
		}
		mark.Hash[0] ^= 1
		say(22, "later still")
		if err := n.set.RestoreSnapshot(context.Background(), 0, mark, bytes.NewReader(data)); err == nil {
			t.Error("a snapshot of another history was taken")
		}
		synctest.Wait()
		n.sameAs(w)
		n.stop()
		w.end()
	})
}

// Entries that were read for the old view and come after the new one is in
// place are not what follows it: they are read again.
func TestViewReplacedBetweenReadAndApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, say := pair(t)
		say(1, "one")
		l := &late{}
		n := w.join(s, "n2", l.wrap)
		time.Sleep(2 * time.Second) // virtual
		l.hold(w.journal.Log(0).Last())
		for i := range uint64(5) {
			say(10+i, "missed")
		}
		var once sync.Once
		l.mu.Lock()
		l.onRead = func([]journal.Entry) {
			once.Do(func() {
				if err := w.copyView(context.Background(), n); err != nil {
					t.Errorf("replace: %v", err)
				}
			})
		}
		l.mu.Unlock()
		l.free()
		synctest.Wait()
		n.sameAs(w)
		say(20, "after")
		synctest.Wait()
		n.sameAs(w)
		if got := n.texts(); fmt.Sprint(got) != "[after]" {
			t.Errorf("it published %q", got)
		}
		n.stop()
		w.end()
	})
}

// A process that died after a view was in place, and before its journal went on
// behind it, finds a view that is ahead of the journal: that is no damage, and
// neither is what the journal does then.
func TestViewAheadOfItsJournalAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, say := pair(t)
		say(1, "one")
		l := &late{}
		l.hold(w.journal.Log(0).Last())
		say(2, "two")
		l.expect(w.journal.Log(0).Last())
		n := w.join(s, "n2", l.wrap, func(n *node, cfg *Config) {
			if err := w.copyInto(n); err != nil {
				t.Fatal(err)
			}
		})
		time.Sleep(2 * time.Second) // virtual
		if errors.As(n.set.Ready(), new(*DamagedError)) {
			t.Fatalf("the replica: %v", n.set.Ready())
		}
		say(3, "three")
		l.free()
		synctest.Wait()
		n.sameAs(w)
		n.stop()
		w.end()
	})
}

// A view that is replaced between the look at the journal's end and the
// comparison with it is ahead of the journal too, and no damage.
func TestViewReplacedWhileCompared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, say := pair(t)
		say(1, "one")
		time.Sleep(2 * time.Second) // virtual: no effect is on its way, whose end the replica would not read
		l := &late{}
		n := w.join(s, "n2", l.wrap, func(n *node, cfg *Config) {
			if err := w.copyInto(n); err != nil {
				t.Fatal(err)
			}
			l.hold(w.journal.Log(0).Last())
			say(2, "two")
			l.expect(w.journal.Log(0).Last())
			var once sync.Once
			l.onRead = func([]journal.Entry) { // the first is the look at the end
				once.Do(func() {
					if err := w.copyView(context.Background(), n); err != nil {
						t.Errorf("replace: %v", err)
					}
				})
			}
		})
		time.Sleep(2 * time.Second) // virtual
		if errors.As(n.set.Ready(), new(*DamagedError)) {
			t.Fatalf("the replica: %v", n.set.Ready())
		}
		n.sameAs(w)
		say(3, "three")
		l.free()
		synctest.Wait()
		n.sameAs(w)
		n.stop()
		w.end()
	})
}

// copyInto restores a view whose set does not run yet.
func (w *world) copyInto(n *node) error {
	mark, r, err := w.set.MakeSnapshot(context.Background(), 0)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	m := &journalv1.Mark{Term: uint64(mark.Term), Index: uint64(mark.Index), Hash: mark.Hash[:]}
	return n.view.Shard(0).Restore(context.Background(), m, r)
}

// Effects that wait in a view which came from a peer are delivered by the
// replica that owns the shard next, though it has heard of none of them.
func TestReplacedOutboxIsCarried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, memory.Config{})
		s := &seat{disk: w.disk, who: "n2", moved: make(chan struct{})}
		w.wrap = s.as("n1")
		w.tune = func(cfg *Config) { // its effects reach nobody
			cfg.Do = func(context.Context, *nodev1.Command) (*nodev1.Reply, error) { return nil, errInjected }
		}
		w.start()
		l := &late{}
		n := w.join(s, "n2", l.wrap)
		n.ready() // it has looked through its outbox once
		n.must(signUp("ann"))
		n.must(signUp("bob"))
		time.Sleep(2 * time.Second) // virtual
		l.hold(w.journal.Log(0).Last())
		s.give("n1")
		synctest.Wait()
		w.ready()
		room := id.Group(user("ann"), []byte("g"))
		w.must(createGroup(user("ann"), room, user("bob")))
		time.Sleep(time.Second) // virtual
		if got := w.roomsOf(user("bob")); len(got) != 0 {
			t.Fatalf("the effects were delivered already: %v", got)
		}
		if err := w.copyView(context.Background(), n); err != nil {
			t.Fatal(err)
		}
		w.trim()
		l.free()
		s.give("n2")
		time.Sleep(5 * time.Second) // virtual
		n.ready()
		if got := n.roomsOf(user("bob")); len(got) != 1 {
			t.Errorf("bob has %v", got)
		}
		n.stop()
		w.end()
	})
}

// A replica to which another history than its own is shown stops, and names both
// hashes (invariant 6); what it has goes to nobody.
func TestOtherHistoryStopsAReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, say := pair(t)
		l := &late{}
		n := w.join(s, "n2", l.wrap)
		time.Sleep(2 * time.Second) // virtual
		have := fmt.Sprintf("%x", n.view.Shard(0).Mark().GetHash())
		l.mu.Lock()
		l.onRead = func(entries []journal.Entry) {
			rec := &journalv1.Record{}
			if err := proto.Unmarshal(entries[0].Data, rec); err != nil {
				t.Error(err)
			}
			rec.PreviousHash = bytes.Repeat([]byte{0xee}, 32)
			data, err := encodeRecord(rec)
			if err != nil {
				t.Error(err)
			}
			entries[0].Data = data
		}
		l.mu.Unlock()
		before := dump(t, n.view, 0)
		say(1, "news")
		synctest.Wait()
		var damaged *DamagedError
		err := n.set.Ready()
		if !errors.As(err, &damaged) || !bytes.Contains([]byte(err.Error()), []byte(have)) ||
			!bytes.Contains([]byte(err.Error()), bytes.Repeat([]byte("ee"), 32)) {
			t.Errorf("the replica: %v; want both hashes, its own is %s", err, have)
		}
		if dump(t, n.view, 0) != before {
			t.Error("it applied the entry")
		}
		ann := user("ann")
		if r := n.ask(history(ann, id.Direct(ann, ann), 0)); r.GetError().GetInfo().GetReason() != damaged0() {
			t.Errorf("it answered %v", r)
		}
		if _, _, err := n.set.MakeSnapshot(context.Background(), 0); !errors.As(err, &damaged) {
			t.Errorf("it made a snapshot: %v", err)
		}
		if _, _, err := n.set.Digest(context.Background(), 0); !errors.As(err, &damaged) {
			t.Errorf("it gave a digest: %v", err)
		}
		n.stop()
		w.end()
	})
}

func damaged0() string { return damaged.reason }

// Replicas at the same position give the same digest, and one whose view is not
// what its records make gives another; reading is paced.
func TestDigestComparesReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, say := pair(t)
		n := w.join(s, "n2", func(_ *node, cfg *Config) { cfg.DigestRate = 1 << 10 })
		for i := range uint64(3) {
			say(100+i, strings.Repeat("x", 7000))
		}
		time.Sleep(2 * time.Second) // virtual
		synctest.Wait()
		at1, sum1, err := w.set.Digest(context.Background(), 0)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		at2, sum2, err := n.set.Digest(context.Background(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if at1 != at2 || sum1 != sum2 || at1 != w.journal.Log(0).Last() {
			t.Errorf("at %v %x, at %v %x", at1, sum1, at2, sum2)
		}
		if took := time.Since(began); took < 20*time.Second || took > 40*time.Second {
			t.Errorf("some 20 KiB at 1 KiB a second took %v", took)
		}
		brief, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, _, err := n.set.Digest(brief, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a digest that is cut off: %v", err)
		}
		// Something changes the view behind everyone's back, and the shard goes on.
		st, err := n.view.Shard(0).Stage()
		if err != nil {
			t.Fatal(err)
		}
		m := proto.Clone(n.view.Shard(0).Mark()).(*journalv1.Mark)
		if err := st.Set(chatKey(), []byte("wrong")); err != nil {
			t.Fatal(err)
		}
		m.Index++
		if err := st.Commit(m); err != nil {
			t.Fatal(err)
		}
		say(2, "takes the same index")
		at1, sum1, err = w.set.Digest(context.Background(), 0)
		if err != nil {
			t.Fatal(err)
		}
		at2, sum2, err = n.set.Digest(context.Background(), 0)
		if err != nil || at1 != at2 || sum1 == sum2 {
			t.Errorf("a wrong view: at %v %x, at %v %x, %v", at1, sum1, at2, sum2, err)
		}
		if _, _, err := w.set.Digest(context.Background(), 7); err == nil {
			t.Error("a digest of a shard that is not there")
		}
		n.stop()
		w.end()
	})
}

// Replicas that never rest are compared at an index that all of them pass, each
// in its own time and in its own steps.
func TestDigestAtWhileBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, say := pair(t)
		l := &late{}
		n := w.join(s, "n2", l.wrap)
		say(1, "one")
		time.Sleep(2 * time.Second) // virtual
		l.hold(w.journal.Log(0).Last())
		at := w.journal.Log(0).Last().Index + 10
		type answer struct {
			at  journal.Position
			sum [32]byte
			err error
		}
		ask := func(set *Set, at journal.Index) chan answer {
			c := make(chan answer, 1)
			go func() {
				p, sum, err := set.DigestAt(context.Background(), 0, at)
				c <- answer{p, sum, err}
			}()
			synctest.Wait()
			return c
		}
		ours, theirs := ask(w.set, at), ask(n.set, at)
		for i := range uint64(20) { // the replica gets all of them at once, behind the index
			say(10+i, "more")
		}
		l.free()
		a, b := <-ours, <-theirs
		if a.err != nil || b.err != nil || a != b || a.at.Index != at {
			t.Errorf("at %d: ours %v %x %v, theirs %v %x %v", at, a.at, a.sum, a.err, b.at, b.sum, b.err)
		}
		synctest.Wait()
		n.sameAs(w)
		// Where it stands it is answered at once; what is past is not.
		last := w.journal.Log(0).Last().Index
		if a, b := <-ask(w.set, last), <-ask(n.set, last); a.err != nil || a != b || a.at.Index != last {
			t.Errorf("at rest: %+v, %+v", a, b)
		}
		if a := <-ask(w.set, last-1); !errors.Is(a.err, errPast) {
			t.Errorf("of the past: %+v", a)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, _, err := w.set.DigestAt(ctx, 0, last+1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("of what never comes: %v", err)
		}
		say(40, "and")
		if w.set.owners[0].cuts.some.Load() {
			t.Error("a look is still waited for")
		}
		n.stop()
		w.end()
	})
}

func chatKey() []byte {
	u := user("ann")
	return append([]byte{byte(u.Partition() >> 8), byte(u.Partition())}, "zzz"...)
}

// Lag is zero while a replica keeps up, under steady traffic and at rest alike,
// and grows from the moment on at which news waits.
func TestLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lag{}
		if got := l.of(0, 5); got != math.MaxInt64 {
			t.Errorf("before anything: %v", got)
		}
		l.reading(5, 5)
		time.Sleep(time.Hour) // virtual, at rest
		if got := l.of(5, 5); got != 0 {
			t.Errorf("at rest: %v", got)
		}
		if got := l.of(5, 6); got != 0 {
			t.Errorf("when news is seen first: %v", got)
		}
		time.Sleep(3 * time.Second) // virtual: a Read that does not return
		if got := l.of(5, 6); got != 3*time.Second {
			t.Errorf("news waits in a slow journal: %v", got)
		}
		l.woken()
		time.Sleep(time.Second) // virtual, applying
		if got := l.of(5, 6); got != 4*time.Second {
			t.Errorf("news is being applied: %v", got)
		}
		// From here on there is always more: each round takes 10 ms and finds one new entry.
		at := journal.Index(6)
		for range 1000 {
			l.reading(at, at+1)
			l.woken()
			time.Sleep(10 * time.Millisecond) // virtual
			at++
			if got := l.of(at, at+1); at > 10 && got > 30*time.Millisecond {
				t.Fatalf("under steady traffic: %v", got)
			}
		}
		// And now it falls behind for good.
		l.reading(at, at+1000)
		l.woken()
		time.Sleep(5 * time.Second) // virtual
		if got := l.of(at+500, at+1000); got < 5*time.Second || got > 5100*time.Millisecond {
			t.Errorf("half of what was known 5 s ago is applied: %v", got)
		}
		l.owned()
		if got := l.of(at, at+1); got != 0 {
			t.Errorf("just after it was the owner: %v", got)
		}
	})
}

// A replica that is cut off from news of which its journal knows tells since when.
func TestLagOfAReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, say := pair(t)
		block, blocked := make(chan struct{}), atomic.Bool{}
		l := &late{}
		n := w.join(s, "n2", l.wrap)
		time.Sleep(2 * time.Second) // virtual
		if got := n.set.Lag(0); got != 0 {
			t.Errorf("at rest: %v", got)
		}
		if got := w.set.Lag(0); got != 0 {
			t.Errorf("the owner: %v", got)
		}
		l.mu.Lock()
		l.onRead = func([]journal.Entry) {
			if blocked.CompareAndSwap(false, true) {
				<-block
			}
		}
		l.mu.Unlock()
		say(1, "news")
		synctest.Wait()
		_ = n.set.Lag(0)
		time.Sleep(3 * time.Second) // virtual
		if got := n.set.Lag(0); got != 3*time.Second {
			t.Errorf("with news for 3 s: %v", got)
		}
		close(block)
		synctest.Wait()
		if got := n.set.Lag(0); got != 0 {
			t.Errorf("afterwards: %v", got)
		}
		n.stop()
		w.end()
	})
}
