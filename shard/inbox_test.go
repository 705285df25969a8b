package shard

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/clock"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/memory"
	"github.com/bongsu-im/bongsu/view"
	"google.golang.org/protobuf/proto"
)

// gate is a journal whose appends wait until they are let through, so that a
// test says what gathers meanwhile.
type gate struct {
	journal.Journal
	entered chan struct{} // gets one for each append that waits
	pass    chan struct{} // lets one through; closed: all
}

func newGate() *gate { return &gate{entered: make(chan struct{}, 100), pass: make(chan struct{})} }

func (g *gate) wrap(j journal.Journal) journal.Journal { g.Journal = j; return g }

func (g *gate) Log(s journal.ShardID) journal.Log { return &gateLog{g.Journal.Log(s), g} }

type gateLog struct {
	journal.Log
	g *gate
}

func (l *gateLog) Append(ctx context.Context, lease journal.Lease, data []byte) (journal.Position, error) {
	l.g.entered <- struct{}{}
	select {
	case <-l.g.pass:
	case <-ctx.Done():
		return journal.Position{}, journal.ErrUnknown
	}
	return l.Log.Append(ctx, lease, data)
}

// gated is a world of one shard, in which ann has a room with herself and the
// next append waits at the gate with one message in it.
func gated(t *testing.T, tune func(*Config)) (w *world, g *gate, room id.ID, first <-chan answer) {
	w, g = newWorld(t, 1, memory.Config{}), newGate()
	w.wrap, w.tune = g.wrap, tune
	w.start()
	w.ready()
	ann := user("ann")
	room = id.Direct(ann, ann)
	for _, cmd := range []*nodev1.Command{signUp("ann"), openDirect(ann, ann)} {
		go func() { <-g.entered; g.pass <- struct{}{} }()
		w.must(cmd)
	}
	go func() { // the listing of the room, and its end
		for range 2 {
			<-g.entered
			g.pass <- struct{}{}
		}
	}()
	synctest.Wait()
	first = w.later(context.Background(), send(ann, room, 1, "first"))
	<-g.entered
	return w, g, room, first
}

// answer is what a sender hears.
type answer struct {
	reply *nodev1.Reply
	err   error
}

func (w *world) later(ctx context.Context, cmd *nodev1.Command) <-chan answer {
	c := make(chan answer, 1)
	go func() {
		reply, err := w.set.Do(ctx, cmd)
		c <- answer{reply, err}
	}()
	synctest.Wait()
	return c
}

func TestInboxIsBounded(t *testing.T) {
	t.Run("by count", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, g, room, first := gated(t, func(c *Config) { c.InboxCommands = 5 })
			var waiting []<-chan answer
			for i := range uint64(5) {
				waiting = append(waiting, w.later(context.Background(), send(user("ann"), room, 10+i, "x")))
			}
			r := w.do(send(user("ann"), room, 20, "one too many"))
			if reasonIn(r) != "queue_full" || r.GetError().GetCode() != "resource_exhausted" || r.GetError().GetInfo().GetRetryAfterSeconds() <= 0 {
				t.Errorf("with a full inbox: %v", r)
			}
			close(g.pass)
			at := (<-first).reply.GetPosition().GetIndex()
			for i, c := range waiting {
				a := <-c
				if a.err != nil || a.reply.GetMessage().GetSeq() != uint64(i)+2 {
					t.Errorf("waiting command %d: %v, %v", i, a.reply, a.err)
				}
				// What gathered behind the append in flight is one record.
				if p := a.reply.GetPosition(); p.GetIndex() != at+1 {
					t.Errorf("waiting command %d is at %v, want entry %d", i, p, at+1)
				}
			}
			w.checkReplay()
			w.end()
		})
	})
	t.Run("by bytes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			text := strings.Repeat("x", 1000)
			one := proto.Size(send(user("ann"), id.Direct(user("ann"), user("ann")), 1, text))
			w, g, room, first := gated(t, func(c *Config) { c.InboxBytes = 3*one + one/2; c.BatchBytes = 2 * one })
			var waiting []<-chan answer
			for i := range uint64(3) {
				waiting = append(waiting, w.later(context.Background(), send(user("ann"), room, 10+i, text)))
			}
			if r := w.do(send(user("ann"), room, 20, text)); reasonIn(r) != "queue_full" {
				t.Errorf("with a full inbox: %v", r)
			}
			small := w.later(context.Background(), send(user("ann"), room, 21, "y")) // still fits
			close(g.pass)
			<-first
			var at []uint64
			for _, c := range append(waiting, small) {
				at = append(at, (<-c).reply.GetPosition().GetIndex())
			}
			if at[0] != at[1] || at[1] == at[2] || at[2] != at[3] {
				t.Errorf("batches of two messages each were wanted, entries are %v", at)
			}
			w.end()
		})
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, g, room, first := gated(t, nil)
		ann := user("ann")
		// Decided already: its outcome is unknown to one who does not wait.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		inFlight, cancelFlight := context.WithCancel(context.Background())
		go func() { <-ctx.Done(); cancelFlight() }()
		// Waiting: withdrawn, nothing done, and it says so.
		waiting := w.later(ctx, send(ann, room, 2, "second"))
		patient := w.later(context.Background(), send(ann, room, 3, "third"))
		a := <-waiting
		if a.err != nil || reasonIn(a.reply) != "deadline" || a.reply.GetError().GetCode() != "deadline_exceeded" {
			t.Errorf("a withdrawn command: %v, %v", a.reply, a.err)
		}
		g.pass <- struct{}{}
		if a := <-first; a.reply.GetMessage().GetSeq() != 1 {
			t.Errorf("first: %v, %v", a.reply, a.err)
		}
		<-g.entered
		fourth := w.later(context.Background(), send(ann, room, 4, "fourth"))
		g.pass <- struct{}{}
		if a := <-patient; a.reply.GetMessage().GetSeq() != 2 {
			t.Errorf("the withdrawn one took a place: %v, %v", a.reply, a.err)
		}
		<-g.entered
		g.pass <- struct{}{}
		<-fourth
		<-inFlight.Done()

		// Taken into a batch whose append is under way: unknown, and the batch goes on.
		short, cancelShort := context.WithCancel(context.Background())
		taken := w.later(short, send(ann, room, 5, "fifth"))
		<-g.entered
		cancelShort()
		if a := <-taken; a.err == nil || !errors.Is(a.err, context.Canceled) {
			t.Errorf("cancelled in flight: %v, %v", a.reply, a.err)
		}
		g.pass <- struct{}{}
		again := w.must(send(ann, room, 5, "fifth again"))
		if m := again.GetMessage(); m.GetSeq() != 4 || m.GetText() != "fifth" {
			t.Errorf("the batch was disturbed: %v", m)
		}
		close(g.pass)
		w.checkFeed(true)
		w.end()
	})
}

// begin is later for a sender that does not wait.
func (w *world) begin(within time.Duration, cmd *nodev1.Command) <-chan answer {
	c := make(chan answer, 2) // a second one is a fault, which the reader finds
	w.set.Begin(cmd, time.Now().Add(within), func(reply *nodev1.Reply, err error) { c <- answer{reply, err} })
	return c
}

// once takes the answer and makes sure that there is no second.
func once(t *testing.T, c <-chan answer) answer {
	t.Helper()
	a := <-c
	synctest.Wait()
	select {
	case b := <-c:
		t.Errorf("answered twice: %v, %v and then %v, %v", a.reply, a.err, b.reply, b.err)
	default:
	}
	return a
}

func TestBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, g, room, first := gated(t, func(c *Config) { c.InboxCommands = 4 })
		ann := user("ann")
		// Begun in this order, decided in this order.
		second, third := w.begin(time.Hour, send(ann, room, 2, "second")), w.begin(time.Hour, send(ann, room, 3, "third"))
		waiting := w.begin(time.Second, send(ann, room, 4, "given up"))
		fourth := w.begin(time.Hour, send(ann, room, 5, "fourth"))
		if a := once(t, w.begin(time.Hour, send(ann, room, 6, "one too many"))); reasonIn(a.reply) != "queue_full" {
			t.Errorf("with a full inbox: %v, %v", a.reply, a.err)
		}
		if a := once(t, w.begin(0, send(ann, room, 7, "too late"))); reasonIn(a.reply) != "deadline" {
			t.Errorf("begun after its deadline: %v, %v", a.reply, a.err)
		}
		began := time.Now()
		if a := once(t, waiting); a.err != nil || reasonIn(a.reply) != "deadline" {
			t.Errorf("a withdrawn command: %v, %v", a.reply, a.err)
		}
		if took := time.Since(began); took > time.Second+sweepEvery {
			t.Errorf("told after %v that its second is over", took)
		}
		g.pass <- struct{}{}
		if a := <-first; a.reply.GetMessage().GetSeq() != 1 {
			t.Errorf("first: %v, %v", a.reply, a.err)
		}
		<-g.entered
		g.pass <- struct{}{}
		for i, c := range []<-chan answer{second, third, fourth} {
			if a := once(t, c); a.err != nil || a.reply.GetMessage().GetSeq() != uint64(i)+2 {
				t.Errorf("command %d: %v, %v", i+2, a.reply, a.err)
			}
		}
		// Taken into a batch whose append is under way: unknown, and it is done all the same.
		taken := w.begin(time.Second, send(ann, room, 8, "fifth"))
		<-g.entered
		if a := once(t, taken); a.err == nil || !errors.Is(a.err, context.DeadlineExceeded) {
			t.Errorf("out of time in flight: %v, %v", a.reply, a.err)
		}
		g.pass <- struct{}{}
		again := w.begin(time.Hour, send(ann, room, 8, "fifth again"))
		if a := once(t, again); a.reply.GetMessage().GetText() != "fifth" || a.reply.GetMessage().GetSeq() != 5 {
			t.Errorf("begun again: %v, %v", a.reply, a.err)
		}
		// The owner lets go of all of it.
		time.Sleep(2 * sweepEvery)
		for _, o := range w.set.owners {
			o.inbox.mu.Lock()
			if len(o.inbox.timed) > 0 || o.inbox.sweeping {
				t.Errorf("%d requests are still looked after", len(o.inbox.timed))
			}
			o.inbox.mu.Unlock()
		}
		// A command of nowhere is refused at once.
		if a := once(t, w.begin(time.Hour, &nodev1.Command{})); a.reply.GetError() == nil {
			t.Errorf("an empty command: %v, %v", a.reply, a.err)
		}
		close(g.pass)
		w.checkFeed(true)
		ended := w.set
		w.end()
		w.set = ended
		if a := once(t, w.begin(time.Hour, send(ann, room, 9, "x"))); reasonIn(a.reply) != "draining" {
			t.Errorf("after the end: %v, %v", a.reply, a.err)
		}
	})
}

// A repeated send that is answered from staged state waits for the commit, and
// if that fails it is not acknowledged either (invariant 4).
func TestRepeatsWaitForTheCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, g, room, first := gated(t, nil)
		ann := user("ann")
		a := w.later(context.Background(), send(ann, room, 7, "seven"))
		b := w.later(context.Background(), send(ann, room, 7, "seven"))
		refusedToo := w.later(context.Background(), send(ann, room, 8, " "))
		g.pass <- struct{}{}
		<-first
		<-g.entered
		synctest.Wait()
		for name, c := range map[string]<-chan answer{"send": a, "repeat": b, "refusal": refusedToo} {
			select {
			case got := <-c:
				t.Errorf("%s was answered before the commit: %v", name, got.reply)
			default:
			}
		}
		w.disk.Inject(0, memory.Drop)
		close(g.pass)
		for name, c := range map[string]<-chan answer{"send": a, "repeat": b} {
			if got := <-c; got.err == nil {
				t.Errorf("%s was answered though its record is unknown: %v", name, got.reply)
			}
		}
		<-refusedToo
		if m := w.must(send(ann, room, 7, "seven")).GetMessage(); m.GetSeq() != 2 {
			t.Errorf("after a dropped record: %v", m)
		}
		// The same, committed: one message, one position.
		c := w.must(send(ann, room, 7, "seven"))
		if c.GetMessage().GetSeq() != 2 || c.GetPosition().GetIndex() == 0 {
			t.Errorf("repeated after the commit: %v", c)
		}
		w.checkReplay()
		w.checkFeed(true)
		w.end()
	})
}

// Each definite answer of the journal is a definite refusal that leaves no
// trace; each unknown one is an error (invariant 4).
func TestWhatAppendErrorsMean(t *testing.T) {
	for _, c := range []struct {
		fault   memory.Fault
		reason  string // empty: unknown
		serving bool   // afterwards, without a restart
		applied bool
	}{
		{memory.Refuse, "not_owner", true, false},
		{memory.Conflict, "not_owner", true, false},
		{memory.DiskFull, "disk_full", true, false},
		{memory.LoseAck, "", true, true},
		{memory.Drop, "", true, false},
		{memory.CommitLate, "", true, true},
		{memory.Fence, "", false, false},
		{memory.FenceAfter, "", false, true},
	} {
		t.Run(c.fault.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, memory.Config{})
				w.start()
				w.ready()
				w.must(signUp("ann"))
				w.disk.Inject(0, c.fault)
				reply, err := w.set.Do(context.Background(), signUp("bob"))
				if c.reason != "" && (err != nil || reasonIn(reply) != c.reason || reply.GetError().GetInfo().GetRetryAfterSeconds() <= 0) || c.reason == "" && err == nil {
					t.Errorf("got %v, %v; want %q", reply, err, c.reason)
				}
				synctest.Wait()
				if c.serving != (w.set.Ready() == nil) {
					t.Errorf("Ready: %v", w.set.Ready())
				}
				if !c.serving {
					var fenced *journal.FencedError
					if !errors.As(w.set.Ready(), &fenced) {
						t.Errorf("Ready: %v", w.set.Ready())
					}
					if r := w.do(signUp("cho")); reasonIn(r) != "store_fenced" {
						t.Errorf("a fenced shard answered %v", r)
					}
					w.end()
					w.start()
					w.ready()
				}
				bob := &nodev1.Query{Kind: &nodev1.Query_Credential{Credential: &nodev1.CredentialQuery{Login: "BOB"}}}
				if got := len(w.ask(bob).GetCredential().GetUserId()) > 0; got != c.applied {
					t.Errorf("bob exists: %v, want %v", got, c.applied)
				}
				if w.disk.Fired(c.fault) != 1 {
					t.Error("the fault never came")
				}
				w.checkReplay()
				w.end()
			})
		})
	}
}

// A view that fences stops its shards: what is in flight is unknown, the rest
// is refused, and readiness says so even before anyone asks for anything.
func TestFencedView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, g, room, first := gated(t, nil)
		waiting := w.later(context.Background(), send(user("ann"), room, 2, "x"))
		w.view.Fence(errInjected)
		var fenced *view.FencedError
		if !errors.As(w.set.Ready(), &fenced) {
			t.Errorf("Ready: %v", w.set.Ready())
		}
		close(g.pass)
		if a := <-first; a.err == nil {
			t.Errorf("durable but not applied, and yet: %v", a.reply)
		}
		if a := <-waiting; reasonIn(a.reply) != "store_fenced" {
			t.Errorf("waiting: %v, %v", a.reply, a.err)
		}
		if q := w.ask(history(user("ann"), room, 0)); q.GetError().GetInfo().GetReason() != "store_fenced" {
			t.Errorf("a query: %v", q)
		}
		w.end()
		if _, err := view.SetAside(w.fs, "/view", clock.System{}); err != nil {
			t.Fatal(err)
		}
		w.start() // rebuilt from the journal alone
		w.ready()
		if m := w.must(send(user("ann"), room, 1, "first")).GetMessage(); m.GetSeq() != 1 {
			t.Errorf("after the restart: %v", m)
		}
		w.checkReplay()
		w.end()
	})
}

// A graceful stop finishes what is in flight and refuses the rest.
func TestDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, g, room, first := gated(t, nil)
		waiting := w.later(context.Background(), send(user("ann"), room, 2, "x"))
		stopped := make(chan struct{})
		go func() { w.stop(); close(stopped) }()
		synctest.Wait()
		if a := <-waiting; reasonIn(a.reply) != "draining" {
			t.Errorf("waiting: %v, %v", a.reply, a.err)
		}
		if r := w.do(send(user("ann"), room, 3, "x")); reasonIn(r) != "draining" {
			t.Errorf("while draining: %v", r)
		}
		close(g.pass)
		if a := <-first; a.reply.GetMessage().GetSeq() != 1 {
			t.Errorf("in flight: %v, %v", a.reply, a.err)
		}
		<-stopped
		w.checkReplay()
		w.end()
	})
}

// A stop does not wait for an append for ever.
func TestDrainingGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, _, first := gated(t, nil)
		began := time.Now()
		w.stop()
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("stopping took %v", took)
		}
		if a := <-first; a.err == nil {
			t.Errorf("in flight: %v", a.reply)
		}
		w.end()
	})
}

// Commands wait for a lost ownership for a moment, then they are refused.
func TestWaitingForOwnership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, memory.Config{})
		l := &leaseGate{}
		w.wrap = func(j journal.Journal) journal.Journal { l.Journal = j; return l }
		w.start()
		w.ready()
		w.must(signUp("ann"))
		l.mu.Lock()
		w.disk.Inject(0, memory.Refuse)
		if r := w.do(signUp("bob")); reasonIn(r) != "not_owner" {
			t.Fatalf("got %v", r)
		}
		began := time.Now()
		if r := w.do(signUp("bob")); reasonIn(r) != "not_owner" || time.Since(began) > time.Second {
			t.Errorf("after %v: %v", time.Since(began), r)
		}
		began = time.Now()
		if r := w.do(signUp("bob")); reasonIn(r) != "not_owner" || time.Since(began) > 0 {
			t.Errorf("after %v: %v", time.Since(began), r)
		}
		if w.set.Ready() == nil {
			t.Error("ready without an owner")
		}
		// What the view has is still true.
		if q := w.ask(&nodev1.Query{Kind: &nodev1.Query_Credential{Credential: &nodev1.CredentialQuery{Login: "ann"}}}); len(q.GetCredential().GetUserId()) == 0 {
			t.Errorf("a query without an owner: %v", q)
		}
		l.mu.Unlock()
		w.ready()
		w.must(signUp("bob"))
		w.end()
	})
}

// leaseGate is a journal that gives no lease while mu is held.
type leaseGate struct {
	journal.Journal
	mu sync.Mutex
}

func (l *leaseGate) Log(s journal.ShardID) journal.Log { return &leaseGateLog{l.Journal.Log(s), l} }

type leaseGateLog struct {
	journal.Log
	g *leaseGate
}

func (l *leaseGateLog) Lease(ctx context.Context) (journal.Lease, error) {
	for !l.g.mu.TryLock() { // a mutex would not let virtual time pass
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return journal.Lease{}, ctx.Err()
		}
	}
	l.g.mu.Unlock()
	return l.Log.Lease(ctx)
}

// Where other nodes can take over, those who ask a node with a failed store are
// told to ask again soon, not after the time that a lone server's repair takes;
// the node itself says that it is not ready.
func TestAFencedNodeOfSeveralIsLeftSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, memory.Config{})
		w.tune = func(c *Config) { c.Elsewhere = func(int) error { return nil } }
		w.start()
		w.ready()
		w.disk.Inject(0, memory.Fence)
		_, _ = w.set.Do(context.Background(), signUp("ann")) // its outcome is unknown
		synctest.Wait()
		r := w.do(signUp("bob"))
		if reasonIn(r) != "not_owner" || r.GetError().GetInfo().GetRetryAfterSeconds() > 1 {
			t.Errorf("a fenced node answered %v", r)
		}
		var fenced *journal.FencedError
		if err := w.set.Ready(); !errors.As(err, &fenced) {
			t.Errorf("Ready: %v", err)
		}
		w.end()
	})
}

// A no of a node that has lost its shard without knowing it must not be heard:
// a command's and a query's no wait for a commit. What it says yes to does so
// anyway.
func TestANoWaitsForACommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, memory.Config{})
		w.tune = func(c *Config) { c.Elsewhere = func(int) error { return nil } }
		w.start()
		w.ready()
		ann, bob := user("ann"), user("bob")
		w.must(signUp("ann"))
		unknown := id.Direct(ann, bob)
		if r := w.do(send(ann, unknown, 1, "x")); r.GetError().GetCode() != "not_found" {
			t.Errorf("the owner says of a room that does not exist: %v", r)
		}
		if r := w.ask(history(ann, unknown, 0)); r.GetError().GetCode() != "not_found" {
			t.Errorf("the owner says of its history: %v", r)
		}
		w.disk.Inject(0, memory.Refuse) // another node owns the shard; this one finds out by its next append
		if r := w.do(send(ann, unknown, 2, "x")); reasonIn(r) != "not_owner" {
			t.Errorf("a node that owns nothing says %v", r)
		}
		for !w.set.Owns(0) {
			time.Sleep(time.Millisecond)
		}
		w.disk.Inject(0, memory.Refuse)
		if r := w.ask(history(ann, unknown, 0)); r.GetError().GetInfo().GetReason() != "behind" {
			t.Errorf("a node that owns nothing says of a history %v", r)
		}
		w.end()
	})
}
