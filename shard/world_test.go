package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/memory"
	"github.com/bongsu-im/bongsu/view"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// seedOf returns the seed of a random test, from BONGSU_SEED or the clock.
func seedOf(t testing.TB) uint64 {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("BONGSU_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("BONGSU_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("replay with BONGSU_SEED=%d", seed)
	return seed
}

// world is one machine: a journal's disk, a view's disk, and a Set that runs on
// them, through restarts.
type world struct {
	t      testing.TB
	shards int
	disk   *memory.Store
	fs     *durable.Crashable
	wrap   func(journal.Journal) journal.Journal // between set and journal; may be nil
	tune   func(*Config)                         // may be nil
	log    lockedBuffer

	journal *memory.Journal
	view    *view.Store
	set     *Set
	stop    func()

	feedMu sync.Mutex
	feed   []*nodev1.FeedItem // everything since the world began
}

func newWorld(t testing.TB, shards int, cfg memory.Config) *world {
	cfg.Shards = shards
	w := &world{t: t, shards: shards, disk: memory.New(cfg), fs: durable.NewCrashable()}
	t.Cleanup(w.abandon)
	return w
}

// abandon lets go of what a failed test has left running.
func (w *world) abandon() {
	if w.stop != nil {
		w.stop()
	}
	if w.view != nil {
		_ = w.view.Close()
	}
	if w.journal != nil {
		_ = w.journal.Close()
	}
}

func (w *world) openView(fs durable.FS) *view.Store {
	w.t.Helper()
	v, err := view.Open(view.Config{Dir: "view", FS: fs, Shards: w.shards, Layout: 1, CacheBytes: 1 << 20, MemTableBytes: 1 << 20})
	if err != nil {
		w.t.Fatalf("open view: %v", err)
	}
	return v
}

// build opens everything without running it; close undoes it.
func (w *world) build() {
	w.t.Helper()
	w.journal = w.disk.Open()
	w.view = w.openView(w.fs)
	var j journal.Journal = w.journal
	if w.wrap != nil {
		j = w.wrap(j)
	}
	cfg := Config{
		Journal: j, View: w.view, Shards: w.shards, Feed: w.hear,
		Logger: slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if w.tune != nil {
		w.tune(&cfg)
	}
	var err error
	if w.set, err = New(cfg); err != nil {
		w.t.Fatalf("New: %v", err)
	}
}

func (w *world) hear(items []*nodev1.FeedItem) {
	w.feedMu.Lock()
	defer w.feedMu.Unlock()
	w.feed = append(w.feed, items...)
}

func (w *world) heard() []*nodev1.FeedItem {
	w.feedMu.Lock()
	defer w.feedMu.Unlock()
	return append([]*nodev1.FeedItem(nil), w.feed...)
}

// start runs the set; end stops it gracefully.
func (w *world) start() {
	w.t.Helper()
	if w.set == nil {
		w.build()
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	set := w.set
	go func() {
		defer close(ended)
		if err := set.Run(ctx); err != nil {
			w.t.Errorf("Run: %v", err)
		}
	}()
	w.stop = func() { cancel(); <-ended }
}

// ready waits until every shard serves.
func (w *world) ready() {
	w.t.Helper()
	for range 10000 {
		if w.set.Ready() == nil {
			return
		}
		time.Sleep(time.Millisecond) // virtual under synctest; elsewhere only a poll
	}
	w.t.Fatalf("never ready: %v\n%s", w.set.Ready(), w.log.String())
}

// end stops the set and closes the stores.
func (w *world) end() {
	w.t.Helper()
	if w.stop != nil {
		w.stop()
	}
	if err := w.view.Close(); err != nil {
		w.t.Errorf("close view: %v", err)
	}
	if err := w.journal.Close(); err != nil {
		w.t.Errorf("close journal: %v", err)
	}
	w.set, w.stop, w.view, w.journal = nil, nil, nil, nil
}

// kill ends everything as kill -9 and a power cut do: the view keeps what was
// flushed, the journal what was committed.
func (w *world) kill(seed uint64) {
	w.t.Helper()
	w.journal.Kill()
	after := w.fs.Crash(float64(seed%3)/2, seed)
	w.stop()
	_ = w.view.Close() // onto the disk of before, which nobody sees again
	w.fs = after
	w.set, w.stop, w.view, w.journal = nil, nil, nil, nil
}

func (w *world) do(cmd *nodev1.Command) *nodev1.Reply {
	w.t.Helper()
	reply, err := w.set.Do(context.Background(), cmd)
	if err != nil {
		w.t.Fatalf("Do: %v", err)
	}
	return reply
}

// must does and fails on a refusal.
func (w *world) must(cmd *nodev1.Command) *nodev1.Reply {
	w.t.Helper()
	reply := w.do(cmd)
	if reply.GetError() != nil {
		w.t.Fatalf("refused: %v\n%s", reply.GetError(), w.log.String())
	}
	return reply
}

func (w *world) ask(q *nodev1.Query) *nodev1.QueryReply {
	w.t.Helper()
	reply, err := w.set.Query(context.Background(), q)
	if err != nil {
		w.t.Fatalf("Query: %v", err)
	}
	return reply
}

// dump is everything a view holds of one shard.
func dump(t testing.TB, v *view.Store, shard int) string {
	t.Helper()
	r, err := v.Shard(shard).Reader()
	if err != nil {
		t.Fatalf("reader: %v", err)
	}
	var b bytes.Buffer
	if err := r.Dump(func(k, v []byte) bool { fmt.Fprintf(&b, "%x=%x\n", k, v); return true }); err != nil {
		t.Fatalf("dump: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatalf("close reader: %v", err)
	}
	return b.String()
}

// checkReplay compares the live view with one made from the journal alone.
func (w *world) checkReplay() {
	w.t.Helper()
	fresh := w.openView(durable.NewCrashable())
	defer func() { _ = fresh.Close() }()
	set, err := New(Config{Journal: w.journal, View: fresh, Shards: w.shards})
	if err != nil {
		w.t.Fatal(err)
	}
	for n, o := range set.owners {
		last := o.log.Last().Index
		if err := o.catchUp(context.Background(), journal.Lease{Applied: last}); err != nil {
			w.t.Fatalf("replay shard %d: %v", n, err)
		}
		live, replayed := dump(w.t, w.view, n), dump(w.t, fresh, n)
		if live != replayed {
			w.t.Fatalf("shard %d: the view differs from the journal's replay\nlive:\n%s\nreplayed:\n%s", n, live, replayed)
		}
	}
}

// People and rooms of the tests.

func user(login string) id.ID {
	return id.New(1, id.User, id.LoginPartition(login), append([]byte(login), make([]byte, 12)...)[:12])
}

func device(n int) id.ID { return id.New(1, id.Device, 0, []byte(fmt.Sprintf("dev%09d", n))) }

func signUp(login string) *nodev1.Command {
	u := user(login)
	return &nodev1.Command{Kind: &nodev1.Command_SignUp{SignUp: &nodev1.SignUp{
		UserId: u.Bytes(), Login: login, DisplayName: "Name of " + login, PasswordHash: "$argon2id$test",
		DeviceId: device(1).Bytes(), DeviceName: "test",
	}}}
}

func openDirect(actor, other id.ID) *nodev1.Command {
	return &nodev1.Command{Actor: actor.Bytes(), Kind: &nodev1.Command_OpenDirect{OpenDirect: &nodev1.OpenDirect{
		RoomId: id.Direct(actor, other).Bytes(), OtherId: other.Bytes(),
	}}}
}

func createGroup(actor, room id.ID, members ...id.ID) *nodev1.Command {
	g := &nodev1.CreateGroup{RoomId: room.Bytes(), Title: "group"}
	for _, m := range members {
		g.MemberIds = append(g.MemberIds, m.Bytes())
	}
	return &nodev1.Command{Actor: actor.Bytes(), Kind: &nodev1.Command_CreateGroup{CreateGroup: g}}
}

// clientID is a well-formed UUID (version 4) made of n.
func clientID(n uint64) []byte {
	b := make([]byte, 16)
	r := rand.New(rand.NewPCG(n, 77))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return b
}

func send(actor, room id.ID, client uint64, text string) *nodev1.Command {
	return &nodev1.Command{Actor: actor.Bytes(), Kind: &nodev1.Command_Send{Send: &nodev1.Send{
		RoomId: room.Bytes(), ClientId: clientID(client), Text: text,
	}}}
}

func history(actor, room id.ID, after uint64) *nodev1.Query {
	return &nodev1.Query{Actor: actor.Bytes(), Kind: &nodev1.Query_History{History: &nodev1.HistoryQuery{
		RoomId: room.Bytes(), AfterSeq: &after, Limit: 200,
	}}}
}

// lockedBuffer is a log that tests may read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lockedBuffer) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

func reasonIn(r *nodev1.Reply) string { return r.GetError().GetInfo().GetReason() }

var errInjected = errors.New("injected")

type recorded struct {
	journal.Entry
	rec *journalv1.Record
}

// entries reads back everything that one shard's journal has.
func (w *world) entries(shard int) []recorded {
	w.t.Helper()
	log := w.journal.Log(journal.ShardID(shard))
	var all []recorded
	for at := journal.Index(0); at < log.Last().Index; {
		entries, err := log.Read(context.Background(), at, 1<<20)
		if err != nil {
			w.t.Fatalf("read journal: %v", err)
		}
		for _, e := range entries {
			rec := &journalv1.Record{}
			if err := proto.Unmarshal(e.Data, rec); err != nil {
				w.t.Fatalf("entry %d: %v", e.Index, err)
			}
			all = append(all, recorded{e, rec})
			at = e.Index
		}
	}
	return all
}
