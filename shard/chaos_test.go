package shard

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bongsu-im/bongsu/chat"
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/memory"
	"google.golang.org/protobuf/proto"
)

// sent is one message as its sender knows it.
type sent struct {
	room   id.ID
	client uint64
	text   string

	acked   bool
	seq     uint64
	at      journal.Position
	refused bool // definitely, and never tried again
	unknown bool // at some time
}

// sender keeps sending until its context ends. A patient one repeats each
// message until it is acknowledged; the other gives up after a refusal, so that
// the test can look for traces of it.
type sender struct {
	user    id.ID
	rooms   []id.ID
	patient bool
	rng     *rand.Rand
	n       uint64
	all     []*sent
}

func (s *sender) run(ctx context.Context, set *Set) {
	for ctx.Err() == nil {
		m := s.pending()
		c, cancel := context.WithTimeout(context.Background(), time.Duration(1+s.rng.IntN(200))*time.Millisecond)
		reply, err := set.Do(c, send(s.user, m.room, m.client, m.text))
		cancel()
		switch {
		case err != nil:
			m.unknown = true
			if !s.patient {
				s.all = append(s.all, s.fresh())
			}
		case reply.GetError() != nil:
			if !s.patient {
				m.refused = !m.unknown && !m.acked
				s.all = append(s.all, s.fresh())
			}
		default:
			m.acked, m.seq = true, reply.GetMessage().GetSeq()
			m.at = journal.Position{Term: journal.Term(reply.GetPosition().GetTerm()), Index: journal.Index(reply.GetPosition().GetIndex())}
		}
		time.Sleep(time.Duration(s.rng.IntN(20)) * time.Millisecond) // virtual
	}
}

// pending is what to send next: what is not acknowledged yet, or something new;
// now and then something acknowledged once more, which must change nothing.
func (s *sender) pending() *sent {
	if n := len(s.all); n > 0 && (!s.all[n-1].acked || s.rng.IntN(10) == 0) {
		return s.all[n-1]
	}
	s.all = append(s.all, s.fresh())
	return s.all[len(s.all)-1]
}

func (s *sender) fresh() *sent {
	s.n++
	return &sent{room: s.rooms[s.rng.IntN(len(s.rooms))], client: s.n, text: fmt.Sprintf("%s %d", s.user, s.n)}
}

// TestNothingAcknowledgedIsLost lets people talk while appends lose their
// acknowledgements, come late, are refused and collide, while disks fence and
// machines are killed (invariants 1, 2, 3, 4).
func TestNothingAcknowledgedIsLost(t *testing.T) {
	seed := seedOf(t)
	rounds := 4
	if testing.Short() {
		rounds = 2
	}
	fired := map[memory.Fault]int{}
	for i := range uint64(rounds) {
		synctest.Test(t, func(t *testing.T) { chaos(t, seed+i, fired) })
		if t.Failed() {
			t.Fatalf("failed with BONGSU_SEED=%d", seed+i)
		}
	}
	for _, f := range []memory.Fault{memory.LoseAck, memory.Drop, memory.CommitLate, memory.Refuse, memory.Delay, memory.DiskFull, memory.FenceAfter} {
		if fired[f] == 0 {
			t.Errorf("fault %s never came: the test has proven nothing about it", f)
		}
	}
}

func chaos(t *testing.T, seed uint64, fired map[memory.Fault]int) {
	rng := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t, 3, memory.Config{Seed: seed, MaxDelay: 100 * time.Millisecond})
	logins := []string{"ann", "bob", "cho", "dan"}
	w.start()
	w.ready()
	for _, l := range logins {
		w.must(signUp(l))
	}
	rooms := []id.ID{id.Direct(user("ann"), user("bob")), id.Group(user("ann"), []byte("g"))}
	w.must(openDirect(user("ann"), user("bob")))
	w.must(createGroup(user("ann"), rooms[1], user("bob"), user("cho"), user("dan")))
	w.settle()

	var senders []*sender
	for i, l := range logins {
		s := &sender{user: user(l), rooms: rooms[1:], patient: i%2 == 0, rng: rand.New(rand.NewPCG(seed, uint64(10+i)))}
		if i < 2 {
			s.rooms = rooms
		}
		senders = append(senders, s)
	}
	lossless := true // until the first kill, every applied event must be heard of
	for life := range 4 {
		w.disk.SetFaults(memory.Faults{
			memory.LoseAck: 0.04, memory.Drop: 0.04, memory.CommitLate: 0.04, memory.Refuse: 0.04,
			memory.DiskFull: 0.02, memory.Delay: 0.3,
		})
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for _, s := range senders {
			wg.Go(func() { s.run(ctx, w.set) })
		}
		time.Sleep(time.Duration(500+rng.IntN(3000)) * time.Millisecond) // virtual
		if life == 2 {
			w.disk.Inject(0, memory.FenceAfter)
			w.disk.Inject(1, memory.FenceAfter)
			w.disk.Inject(2, memory.FenceAfter)
			time.Sleep(time.Second) // virtual
		}
		switch {
		case life == 3:
			cancel()
			wg.Wait()
		case rng.IntN(2) == 0 && life != 2:
			w.end() // gracefully, under load
			cancel()
			wg.Wait()
			w.start()
			w.ready()
		default:
			lossless = false
			w.kill(rng.Uint64())
			cancel()
			wg.Wait()
			w.disk.SetFaults(nil)
			w.start()
			w.ready()
		}
	}
	w.disk.SetFaults(nil)
	w.ready()
	w.finish(senders)
	w.settle()
	w.checkSent(senders)
	w.checkFeed(lossless)
	w.checkReplay()
	for f := memory.LoseAck; f <= memory.FenceAfter; f++ {
		fired[f] += w.disk.Fired(f)
	}
	w.end()
}

// finish lets every patient sender have its last message acknowledged.
func (w *world) finish(senders []*sender) {
	for _, s := range senders {
		if !s.patient || len(s.all) == 0 || s.all[len(s.all)-1].acked {
			continue
		}
		m := s.all[len(s.all)-1]
		reply := w.must(send(s.user, m.room, m.client, m.text))
		m.acked, m.seq = true, reply.GetMessage().GetSeq()
		m.at = journal.Position{Term: journal.Term(reply.GetPosition().GetTerm()), Index: journal.Index(reply.GetPosition().GetIndex())}
	}
}

// checkSent compares what senders were told with what rooms hold.
func (w *world) checkSent(senders []*sender) {
	w.t.Helper()
	type key struct {
		room, sender, client string
	}
	stored := map[key]uint64{}
	texts := map[key]string{}
	perRoom := map[string]uint64{}
	for n := range w.shards {
		for _, e := range w.entries(n) {
			for _, ev := range e.rec.GetEvents() {
				s := ev.GetMessageSent()
				if s == nil {
					continue
				}
				k := key{string(s.GetRoomId()), string(s.GetSenderId()), string(s.GetClientId())}
				if _, twice := stored[k]; twice {
					w.t.Errorf("%q is in the journal twice", s.GetText())
				}
				perRoom[k.room]++
				if s.GetSeq() != perRoom[k.room] {
					w.t.Errorf("%q has seq %d, the room has %d", s.GetText(), s.GetSeq(), perRoom[k.room])
				}
				stored[k], texts[k] = s.GetSeq(), s.GetText()
			}
		}
	}
	acked, refused := 0, 0
	for _, s := range senders {
		for _, m := range s.all {
			k := key{string(m.room.Bytes()), string(s.user.Bytes()), string(clientID(m.client))}
			seq, there := stored[k]
			switch {
			case m.acked && (!there || seq != m.seq || texts[k] != m.text):
				w.t.Errorf("acknowledged as %d, but the journal has %v %d %q: %q", m.seq, there, seq, texts[k], m.text)
			case m.refused && there:
				w.t.Errorf("refused, but the journal has it: %q", m.text)
			}
			if m.acked {
				acked++
				o := w.set.owner(m.room.Partition())
				if !o.log.Contains(m.at) {
					w.t.Errorf("%q was acknowledged at %v, which is not in the history", m.text, m.at)
				}
			}
			if m.refused {
				refused++
			}
			delete(stored, k)
		}
	}
	for k := range stored {
		w.t.Errorf("nobody sent %q", texts[k])
	}
	if acked < 50 || refused == 0 {
		w.t.Errorf("only %d acknowledged and %d refused: too little happened", acked, refused)
	}
	w.checkRooms(perRoom)
}

func (w *world) checkRooms(perRoom map[string]uint64) {
	for raw, count := range perRoom {
		room, err := id.FromBytes(id.Room, []byte(raw))
		if err != nil {
			w.t.Fatal(err)
		}
		next := uint64(0)
		for {
			h := w.ask(history(user("ann"), room, next))
			if h.GetError() != nil {
				w.t.Fatalf("history: %v", h.GetError())
			}
			for _, m := range h.GetHistory().GetMessages() {
				if m.GetSeq() != next+1 {
					w.t.Errorf("message %d follows %d", m.GetSeq(), next)
				}
				next = m.GetSeq()
			}
			if !h.GetHistory().GetHasMore() {
				break
			}
		}
		if next != count {
			w.t.Errorf("history ends at %d, the journal has %d", next, count)
		}
	}
}

// rival is a journal whose leases take the shard away from whoever has it, so
// that two sets fight for ownership of every shard.
type rival struct {
	journal.Journal
	disk *memory.Store
	ring *ring
	me   int
}

// ring remembers who took each shard last.
type ring struct {
	mu    sync.Mutex
	owner map[journal.ShardID]int
}

type rivalLog struct {
	journal.Log
	r     *rival
	shard journal.ShardID
}

func (r *rival) Log(s journal.ShardID) journal.Log { return &rivalLog{r.Journal.Log(s), r, s} }

func (l *rivalLog) Lease(ctx context.Context) (journal.Lease, error) {
	l.r.ring.mu.Lock()
	defer l.r.ring.mu.Unlock()
	if l.r.ring.owner[l.shard] != l.r.me {
		l.r.disk.Usurp(l.shard)
		l.r.ring.owner[l.shard] = l.r.me
	}
	return l.Log.Lease(ctx)
}

// TestTwoOwnersFight: two sets with views of their own take every shard from
// each other all the time; history stays one (invariant 4).
func TestTwoOwnersFight(t *testing.T) {
	seed := seedOf(t)
	synctest.Test(t, func(t *testing.T) {
		a := newWorld(t, 2, memory.Config{Seed: seed})
		a.disk.SetFaults(memory.Faults{memory.Delay: 0.5})
		r := &ring{owner: map[journal.ShardID]int{}}
		a.wrap = func(j journal.Journal) journal.Journal { return &rival{j, a.disk, r, 1} }
		a.start()
		a.ready()
		b := newWorld(t, 2, memory.Config{})
		b.disk, b.journal = a.disk, a.journal
		b.view = b.openView(b.fs)
		var err error
		if b.set, err = New(Config{Journal: &rival{a.journal, a.disk, r, 2}, View: b.view, Shards: 2, Feed: b.hear}); err != nil {
			t.Fatal(err)
		}
		b.start()
		room := id.Group(user("ann"), []byte("g"))
		either := func(cmd *nodev1.Command) {
			for i := 0; ; i++ {
				reply, err := []*world{a, b}[i/2%2].set.Do(context.Background(), cmd)
				if err == nil && reply.GetError() == nil {
					return
				}
				if i > 200 {
					t.Fatalf("nobody takes it: %v %v", reply, err)
				}
				time.Sleep(10 * time.Millisecond) // virtual
			}
		}
		either(signUp("ann"))
		either(signUp("bob"))
		either(createGroup(user("ann"), room, user("bob")))
		senders := []*sender{
			{user: user("ann"), rooms: []id.ID{room}, patient: true, rng: rand.New(rand.NewPCG(seed, 1))},
			{user: user("bob"), rooms: []id.ID{room}, rng: rand.New(rand.NewPCG(seed, 2))},
		}
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { senders[0].run(ctx, a.set) })
		wg.Go(func() { senders[1].run(ctx, b.set) })
		time.Sleep(20 * time.Second) // virtual
		cancel()
		wg.Wait()
		a.disk.SetFaults(nil)
		b.stop()
		if err := b.view.Close(); err != nil {
			t.Error(err)
		}
		a.must2(send(user("ann"), room, 1<<40, "last"))
		senders[0].all = append(senders[0].all, &sent{room: room, client: 1 << 40, text: "last"})
		a.finish(senders)
		a.checkSent(senders)
		a.checkReplay()
		a.end()
	})
}

// must2 repeats until it is acknowledged.
func (w *world) must2(cmd *nodev1.Command) *nodev1.Reply {
	w.t.Helper()
	for range 100 {
		reply, err := w.set.Do(context.Background(), cmd)
		if err == nil && reply.GetError() == nil {
			return reply
		}
		time.Sleep(50 * time.Millisecond) // virtual
	}
	w.t.Fatalf("never acknowledged\n%s", w.log.String())
	return nil
}

// TestPanicsAreContained: a command that panics past everything is refused and
// takes nobody with it (invariant 12).
func TestPanicsAreContained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, memory.Config{})
		w.build()
		o := w.set.owners[0]
		o.step = func(tx chat.Tx, m chat.Meta, cmd *nodev1.Command) (chat.Outcome, error) {
			out, err := chat.Step(tx, m, cmd)
			if cmd.GetSend().GetText() == "boom" {
				panic("boom") // after the stage was written to
			}
			return out, err
		}
		w.start()
		w.ready()
		ann := user("ann")
		room := id.Direct(ann, ann)
		w.must(signUp("ann"))
		w.must(openDirect(ann, ann))
		w.disk.Inject(0, memory.Delay) // the first append holds the others back: they become one batch
		var wg sync.WaitGroup
		replies := make([]*nodev1.Reply, 20)
		for i := range replies {
			text := "fine"
			if i%3 == 1 {
				text = "boom"
			}
			wg.Go(func() {
				var err error
				if replies[i], err = w.set.Do(context.Background(), send(ann, room, uint64(i), text)); err != nil {
					t.Errorf("send %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		seqs := map[uint64]bool{}
		for i, r := range replies {
			if i%3 == 1 {
				if reasonIn(r) != "command_panicked" {
					t.Errorf("send %d: %v", i, r)
				}
				continue
			}
			seqs[r.GetMessage().GetSeq()] = true
		}
		for seq := range uint64(len(seqs)) {
			if !seqs[seq+1] {
				t.Errorf("no message got seq %d: %v", seq+1, seqs)
			}
		}
		w.checkReplay()
		w.checkFeed(true)
		w.end()
	})
}

// TestDamageAtTheStart: a view that does not fit its journal is not served.
func TestDamageAtTheStart(t *testing.T) {
	talk := func(w *world, n int) {
		ann := user("ann")
		w.must(signUp("ann"))
		w.must(openDirect(ann, ann))
		for i := range n {
			w.must(send(ann, id.Direct(ann, ann), uint64(i), "x"))
		}
	}
	broken := func(t *testing.T, w *world, want string) {
		t.Helper()
		w.start()
		synctest.Wait()
		var d *DamagedError
		if err := w.set.Ready(); !errors.As(err, &d) {
			t.Fatalf("Ready: %v, want damage", err)
		} else if d.View.Index == 0 || want != "" && d.Reason != want {
			t.Errorf("damage: %v, want %s", d, want)
		}
		if r := w.do(signUp("bob")); reasonIn(r) != "shard_damaged" {
			t.Errorf("a damaged shard answered %v", r)
		}
		if q := w.ask(&nodev1.Query{Kind: &nodev1.Query_Credential{Credential: &nodev1.CredentialQuery{Login: "ann"}}}); q.GetError().GetInfo().GetReason() != "shard_damaged" {
			t.Errorf("a damaged shard answered %v", q)
		}
		w.end()
	}
	t.Run("view ahead of the journal", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1, memory.Config{})
			w.start()
			w.ready()
			talk(w, 5)
			w.end()
			w.disk.LoseTail(0, 2)
			broken(t, w, "the view has applied entries that the journal does not have")
		})
	})
	t.Run("another journal's view", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1, memory.Config{})
			w.start()
			w.ready()
			talk(w, 5)
			w.end()
			time.Sleep(time.Second) // virtual: the same entries at other times
			other := newWorld(t, 1, memory.Config{})
			other.start()
			other.ready()
			talk(other, 5)
			other.end()
			other.fs = w.fs
			broken(t, other, "")
		})
	})
	t.Run("a record that does not follow", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1, memory.Config{})
			w.start()
			w.ready()
			talk(w, 2)
			w.end()
			j := w.disk.Open()
			lease, err := j.Log(0).Lease(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			forged, err := encodeRecord(&journalv1.Record{Rules: 1, PreviousHash: make([]byte, 32)})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := j.Log(0).Append(context.Background(), lease, forged); err != nil {
				t.Fatal(err)
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			broken(t, w, "")
		})
	})
}

// What a newer release wrote is not damage: the shard stops, says so, and goes on
// with the newer release.
func TestRecordsOfANewerRelease(t *testing.T) {
	newer := chat.RulesVersion + 1
	for name, rec := range map[string]*journalv1.Record{
		"decided by its rules": {Rules: newer},
		"that activates them":  {Rules: 1, Events: []*journalv1.Event{{Kind: &journalv1.Event_RulesActivated{RulesActivated: &journalv1.RulesActivated{Version: newer}}}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, memory.Config{})
				w.start()
				w.ready()
				w.must(signUp("ann"))
				w.end()
				j := w.disk.Open()
				lease, err := j.Log(0).Lease(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				all, err := j.Log(0).Read(context.Background(), 0, 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				last, before := all[len(all)-1], &journalv1.Record{}
				if err := proto.Unmarshal(last.Data, before); err != nil {
					t.Fatal(err)
				}
				rec.PreviousHash = runningHash(before.PreviousHash, last.Data)
				data, err := encodeRecord(rec)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := j.Log(0).Append(context.Background(), lease, data); err != nil {
					t.Fatal(err)
				}
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
				w.start()
				synctest.Wait()
				if err := w.set.TooOld(); !errors.Is(err, chat.ErrUnknownRules) {
					t.Errorf("too old: %v", err)
				}
				if err := w.set.Damaged(); err != nil {
					t.Errorf("taken for damage: %v", err)
				}
				if r := w.do(signUp("bob")); reasonIn(r) != "release_too_old" {
					t.Errorf("answered %v", r)
				}
				w.end()
			})
		})
	}
}
