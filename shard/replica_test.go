package shard

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/memory"
)

// seat decides which of several nodes on one journal owns the shards.
type seat struct {
	disk  *memory.Store
	mu    sync.Mutex
	who   string
	moved chan struct{}
	slow  string // whose reads of the log take a moment
}

// give moves the ownership; the lease of the one before ends.
func (s *seat) give(who string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disk.Usurp(0) // the term grows
	s.who = who
	close(s.moved)
	s.moved = make(chan struct{})
}

// as is the journal as one node sees it.
func (s *seat) as(who string) func(journal.Journal) journal.Journal {
	return func(j journal.Journal) journal.Journal { return &seatJournal{j, s, who} }
}

type seatJournal struct {
	journal.Journal
	seat *seat
	who  string
}

func (j *seatJournal) Log(n journal.ShardID) journal.Log {
	return &seatLog{j.Journal.Log(n), j.seat, j.who}
}

type seatLog struct {
	journal.Log
	seat *seat
	who  string
}

func (l *seatLog) Lease(ctx context.Context) (journal.Lease, error) {
	for {
		l.seat.mu.Lock()
		mine, moved := l.seat.who == l.who, l.seat.moved
		l.seat.mu.Unlock()
		if mine {
			return l.Log.Lease(ctx)
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return journal.Lease{}, ctx.Err()
		}
	}
}

// Read takes the second node a moment, so that it is never at the very end while
// the first one writes.
func (l *seatLog) Read(ctx context.Context, after journal.Index, maxBytes int) ([]journal.Entry, error) {
	if l.who == l.seat.slow {
		time.Sleep(10 * time.Millisecond)
	}
	return l.Log.Read(ctx, after, maxBytes)
}

func (l *seatLog) SetMark(journal.Mark) {} // the two would overwrite each other's

// node is one more machine on a world's journal.
type node struct {
	*world
	stop func()
}

// join starts a second node that does not own anything.
func (w *world) join(s *seat, who string, tune ...func(*node, *Config)) *node {
	w.t.Helper()
	n := &node{world: &world{t: w.t, shards: w.shards, disk: w.disk, fs: durable.NewCrashable()}}
	n.view = n.openView(n.fs)
	cfg := Config{
		Journal: s.as(who)(w.journal), View: n.view, Shards: w.shards, Feed: n.hear,
		Logger: slog.New(slog.NewTextHandler(&n.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range tune {
		f(n, &cfg)
	}
	var err error
	if n.set, err = New(cfg); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = n.set.Run(ctx) }()
	n.stop = func() {
		cancel()
		<-ended
		if err := n.view.Close(); err != nil {
			w.t.Errorf("close the second view: %v", err)
		}
	}
	return n
}

// A replica that comes while people write without a pause begins to answer: it
// need not meet a moment in which there is nothing to apply.
func TestReplicaComesUnderSteadyTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, memory.Config{})
		s := &seat{disk: w.disk, who: "n1", moved: make(chan struct{}), slow: "n2"}
		w.wrap = s.as("n1")
		w.start()
		w.ready()
		ann := user("ann")
		room := id.Direct(ann, ann)
		w.must(signUp("ann"))
		w.must(openDirect(ann, ann))
		var n *node
		for i := range uint64(600) {
			w.must(send(ann, room, 10+i, fmt.Sprint("words ", i)))
			if i == 200 {
				n = w.join(s, "n2")
			}
			time.Sleep(5 * time.Millisecond)
		}
		if r := n.ask(history(ann, room, 590)); len(r.GetHistory().GetMessages()) < 5 { // of 10; it is a moment behind
			t.Errorf("after 2 s of traffic the replica answers %v", r)
		}
		n.stop()
		w.end()
	})
}

// A replica that owns nothing applies what the owner appends, answers reads,
// publishes the same feed, and goes on where the owner left.
func TestReplicaFollowsAndTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, memory.Config{})
		s := &seat{disk: w.disk, who: "n1", moved: make(chan struct{})}
		w.wrap = s.as("n1")
		w.start()
		w.ready()
		ann := user("ann")
		room := id.Direct(ann, ann)
		w.must(signUp("ann"))
		w.must(openDirect(ann, ann))
		w.must(send(ann, room, 1, "before the replica came"))

		n := w.join(s, "n2")
		time.Sleep(2 * time.Second) // the grace in which it might have become the owner
		for i := range uint64(5) {
			w.must(send(ann, room, 10+i, fmt.Sprint("news ", i)))
		}
		synctest.Wait()
		if a, b := dump(t, w.view, 0), dump(t, n.view, 0); a != b {
			t.Errorf("the replica's view differs\nowner:\n%s\nreplica:\n%s", a, b)
		}
		messages := func(items []*nodev1.FeedItem) (texts []string) {
			for _, i := range items {
				if m := i.GetEvent().GetMessage(); m != nil {
					texts = append(texts, fmt.Sprint(m.GetMessage().GetSeq(), m.GetMessage().GetText(), m.GetPosition()))
				}
			}
			return texts
		}
		ours, theirs := messages(w.heard()), messages(n.heard())
		if len(ours) != 6 || fmt.Sprint(ours[1:]) != fmt.Sprint(theirs) {
			t.Errorf("feeds: the owner's %q, the replica's %q", ours, theirs)
		}
		// It answers reads, of which it knows how new they are, and decides nothing.
		last := w.must(send(ann, room, 20, "last")).GetPosition()
		q := history(ann, room, 6)
		q.AtLeast = append(q.AtLeast, last)
		if got := n.ask(q).GetHistory().GetMessages(); len(got) != 1 || got[0].GetText() != "last" {
			t.Errorf("history read from the replica: %v", got)
		}
		if r := n.do(send(ann, room, 21, "x")); reasonIn(r) != "not_owner" {
			t.Errorf("the replica was sent a command: %v", r)
		}
		ahead := &nodev1.Query{Actor: q.Actor, Kind: q.Kind}
		ahead.AtLeast = append(ahead.AtLeast, last)
		ahead.AtLeast[0].Index += 100
		if r := n.ask(ahead); r.GetError().GetInfo().GetReason() != "behind" {
			t.Errorf("the replica was asked for what it does not have: %v", r)
		}

		// The ownership moves; who asks the new owner goes on, who asks the old one hears it.
		s.give("n2")
		synctest.Wait()
		for range 100 {
			if n.set.Ready() == nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if r := n.must(send(ann, room, 22, "from the new owner")); r.GetMessage().GetSeq() != 8 {
			t.Errorf("after the move: %v", r)
		}
		if r := n.must(send(ann, room, 20, "last again")); r.GetMessage().GetSeq() != 7 {
			t.Errorf("the new owner does not know an old message: %v", r)
		}
		if r := w.do(send(ann, room, 23, "to the old owner")); reasonIn(r) != "not_owner" {
			t.Errorf("the old owner answered: %v", r)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if a, b := dump(t, w.view, 0), dump(t, n.view, 0); a != b {
			t.Errorf("after the move the views differ\nold owner:\n%s\nnew:\n%s", a, b)
		}
		if ours, theirs := messages(w.heard()), messages(n.heard()); fmt.Sprint(ours[1:]) != fmt.Sprint(theirs) {
			t.Errorf("feeds after the move: %q and %q", ours, theirs)
		}
		n.stop()
		w.end()
	})
}

// A replica that needs longer to catch up than it waits for ownership answers
// reads as soon as it has.
func TestSlowReplicaAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, say := pair(t)
		say(1, "one")
		l := &late{onRead: func([]journal.Entry) { time.Sleep(3 * time.Second) }} // virtual
		n := w.join(s, "n2", l.wrap)
		time.Sleep(time.Minute) // virtual
		ann := user("ann")
		if got := n.ask(history(ann, id.Direct(ann, ann), 0)); len(got.GetHistory().GetMessages()) != 1 {
			t.Errorf("a minute later it answers %v; %v", got, n.set.Ready())
		}
		n.stop()
		w.end()
	})
}
