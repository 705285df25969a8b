package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bongsu-im/bongsu/client"
	"github.com/bongsu-im/bongsu/proof/child"
	"github.com/bongsu-im/bongsu/proof/oracle"
)

// CrashConfig says how the crash drill runs. Bin and Kills are required.
type CrashConfig struct {
	Bin   string        // the bongsu binary
	Kills int           // how often the server is killed
	Seed  uint64        // of the moments of the kills
	For   time.Duration // no kill after this; 0 means no bound
	Out   io.Writer     // progress for people; nil for none
	// Pairs of people with a direct room, and groups of ten of those people;
	// 0 means 20 and 2.
	Pairs, Groups int
}

const (
	crashGroupSize    = 10
	crashGroupSenders = 2
	// earliestKill and latestKill after the server is ready.
	earliestKill = 50 * time.Millisecond
	latestKill   = 600 * time.Millisecond
	// pause between two messages of a sender: 0 to this.
	crashPause     = 20 * time.Millisecond
	readyTimeout   = 60 * time.Second
	settleTimeout  = 60 * time.Second
	crashViewEvery = 10
)

// Crash kills a server with SIGKILL again and again while people send, and
// deletes its view before every tenth start. Everything is seen from outside:
// senders keep their messages in outboxes and retry; every member follows every
// room live over all reconnects; at the end both the live streams and the full
// histories of all members are judged against what the senders were told.
func Crash(ctx context.Context, cfg CrashConfig) (Result, error) {
	result := Result{Name: "crash", Seed: cfg.Seed}
	if cfg.Pairs == 0 {
		cfg.Pairs = 20
	}
	if cfg.Groups == 0 {
		cfg.Groups = 2
	}
	started := time.Now()
	folder, err := os.MkdirTemp("", "bongsu-crash-")
	if err != nil {
		return result, fmt.Errorf("make a folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(folder) }() // a leftover in the temporary folder harms nobody
	addr, err := child.FreeAddr()
	if err != nil {
		return result, err
	}
	w := &crashWorld{
		cfg: cfg, server: &child.Server{Bin: cfg.Bin, Data: filepath.Join(folder, "data"), Addr: addr}, gate: newGate(),
		random: rand.New(rand.NewPCG(cfg.Seed, 0)), show: newTicker(cfg.Out), result: &result,
	}
	err = w.run(ctx)
	result.Seconds = time.Since(started).Seconds()
	return result, err
}

// crashWorld is one run of the crash drill.
type crashWorld struct {
	cfg    CrashConfig
	server *child.Server
	gate   *gate
	random *rand.Rand
	show   func(format string, args ...any)
	result *Result

	people  []*person
	streams []*stream
	senders []sender

	acks     atomic.Int64
	flying   atomic.Int64 // messages sent and not yet acknowledged
	firstAck atomic.Pointer[chan time.Time]

	mu       sync.Mutex
	told     []oracle.Acknowledgement
	problems []string

	ready, toAck []time.Duration // of each restart
	inFlight     []int64         // at each kill
}

// sender is one person writing into one room.
type sender struct {
	person *person
	roomID string
}

func (w *crashWorld) run(ctx context.Context) (err error) {
	h := &http.Client{Transport: w.gate.transport()}
	defer h.CloseIdleConnections()
	if err := w.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.server.Stop(20*time.Second)) }()
	w.gate.set(true)
	if w.people, err = signUpAll(ctx, w.server.BaseURL(), h, 2*w.cfg.Pairs, func(n int) {
		w.show("signing up %d of %d", n, 2*w.cfg.Pairs)
	}); err != nil {
		return err
	}
	if err := w.openRooms(ctx); err != nil {
		return err
	}
	live, stopLive := context.WithCancel(ctx)
	following := w.goLive(live)
	defer func() {
		stopLive()
		following.Wait()
		for _, p := range w.people {
			p.outbox.Close()
			p.conn.Close()
			p.client.Close()
		}
	}()
	writing, stopWriting := context.WithCancel(ctx)
	defer stopWriting()
	writers := w.write(writing)
	err = w.killAgainAndAgain(ctx)
	if err == nil {
		rest(ctx, time.Second) // the last start shall serve, too
	}
	stopWriting()
	writers.Wait()
	if err != nil {
		return err
	}
	if err := w.settle(ctx); err != nil {
		return err
	}
	return w.judge(ctx)
}

// start starts the server and waits until it is ready.
func (w *crashWorld) start(ctx context.Context) error {
	if err := w.server.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := w.server.Ready(ctx); err != nil {
		return errors.Join(err, w.server.Stop(0))
	}
	return nil
}

func (w *crashWorld) openRooms(ctx context.Context) error {
	for i := 0; i < len(w.people); i += 2 {
		a, b := w.people[i], w.people[i+1]
		room, err := a.client.OpenDirect(ctx, b.client.UserID())
		if err != nil {
			return fmt.Errorf("open the room of %s and %s: %w", a.login, b.login, err)
		}
		w.addRoom(room.GetRoomId(), []*person{a, b}, 2)
	}
	for g := range w.cfg.Groups {
		var members []*person
		for i := range min(crashGroupSize, len(w.people)) {
			members = append(members, w.people[(g*crashGroupSize+i)%len(w.people)])
		}
		var others []string
		for _, p := range members[1:] {
			others = append(others, p.client.UserID())
		}
		room, err := members[0].client.CreateGroup(ctx, fmt.Sprintf("group %d", g), others, "")
		if err != nil {
			return fmt.Errorf("make group %d: %w", g, err)
		}
		w.addRoom(room.GetRoomId(), members, crashGroupSenders)
	}
	return nil
}

func (w *crashWorld) addRoom(roomID string, members []*person, senders int) {
	for i, p := range members {
		w.streams = append(w.streams, &stream{roomID: roomID, reader: p})
		if i < senders {
			w.senders = append(w.senders, sender{person: p, roomID: roomID})
		}
	}
}

// goLive gives everyone a socket, an outbox and eyes on every room.
func (w *crashWorld) goLive(ctx context.Context) *sync.WaitGroup {
	quick := client.Backoff{Base: 5 * time.Millisecond, Max: 50 * time.Millisecond}
	for _, p := range w.people {
		p.conn = p.client.Connect(ctx, client.ConnectOptions{Queue: -1, Backoff: quick, HandshakeTimeout: 5 * time.Second})
		p.outbox = client.NewOutbox(p.conn, client.NewMemoryStore(), client.OutboxOptions{
			Backoff: quick, AttemptTimeout: 5 * time.Second,
			// A drill wants every retry there could be.
			Budget: client.BudgetOptions{Tokens: 1000, PerSuccess: 1, PerSecond: 1000},
		})
	}
	var wg sync.WaitGroup
	for _, s := range w.streams {
		wg.Go(func() { s.reader.follow(ctx, s, w.complain) })
	}
	return &wg
}

// write lets every sender send, one message after the other, until ctx ends;
// each waits for its last acknowledgement.
func (w *crashWorld) write(ctx context.Context) *sync.WaitGroup {
	var wg sync.WaitGroup
	for i, s := range w.senders {
		random := rand.New(rand.NewPCG(w.cfg.Seed, uint64(i)+1))
		wg.Go(func() {
			for n := 0; rest(ctx, time.Duration(random.Int64N(int64(crashPause)))); n++ {
				w.say(s, fmt.Sprintf("%s says %d", s.person.login, n))
			}
		})
	}
	return &wg
}

func (w *crashWorld) say(s sender, text string) {
	sending, err := s.person.outbox.Send(client.Draft{RoomID: s.roomID, Text: text})
	if err != nil {
		w.complain("%s could not put a message into its outbox: %v", s.person.login, err)
		return
	}
	w.flying.Add(1)
	defer w.flying.Add(-1)
	// However long the server is away: unanswered is for settle to judge.
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout+settleTimeout)
	defer cancel()
	m, err := sending.Wait(ctx)
	if err != nil {
		w.complain("message %s of %s was not taken: %v", sending.ClientID, s.person.login, err)
		return
	}
	w.acks.Add(1)
	if first := w.firstAck.Swap(nil); first != nil {
		*first <- time.Now() // has room for one
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, oracle.Acknowledgement{
		RoomID: s.roomID, SenderID: s.person.client.UserID(), ClientID: sending.ClientID, Text: text, Seq: m.GetSeq(),
	})
}

func (w *crashWorld) complain(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.problems) < oracle.MaxDetails {
		w.problems = append(w.problems, fmt.Sprintf(format, args...))
	}
}

// awaitFlying waits, a second at most, until some message is under way: a kill
// between messages proves nothing.
func (w *crashWorld) awaitFlying(ctx context.Context) {
	for end := time.Now().Add(time.Second); w.flying.Load() == 0 && time.Now().Before(end); {
		if !rest(ctx, 100*time.Microsecond) {
			return
		}
	}
}

func (w *crashWorld) killAgainAndAgain(ctx context.Context) error {
	began := time.Now()
	var acked chan time.Time
	var up time.Time
	for w.result.Faults < w.cfg.Kills && (w.cfg.For == 0 || time.Since(began) < w.cfg.For) {
		wait := earliestKill + time.Duration(w.random.Int64N(int64(latestKill-earliestKill)))
		if !w.watch(ctx, wait) {
			return ctx.Err()
		}
		w.awaitFlying(ctx)
		w.gate.set(false)
		w.inFlight = append(w.inFlight, w.flying.Load())
		if err := w.server.Kill(); err != nil {
			return err
		}
		w.result.Faults++
		w.noteFirstAck(acked, up)
		if w.result.Faults%crashViewEvery == 0 {
			if err := w.server.Remove("view"); err != nil {
				return fmt.Errorf("delete the view: %w", err)
			}
		}
		up = time.Now()
		if err := w.start(ctx); err != nil {
			return err
		}
		w.ready = append(w.ready, time.Since(up))
		acked = make(chan time.Time, 1)
		w.firstAck.Store(&acked)
		w.gate.set(true)
	}
	if !w.watch(ctx, latestKill) {
		return ctx.Err()
	}
	w.noteFirstAck(acked, up)
	return nil
}

func (w *crashWorld) noteFirstAck(acked chan time.Time, up time.Time) {
	w.firstAck.Store(nil)
	select {
	case at := <-acked:
		w.toAck = append(w.toAck, at.Sub(up))
	default: // killed before anyone was answered
	}
}

// watch waits while showing how things stand.
func (w *crashWorld) watch(ctx context.Context, d time.Duration) bool {
	for end := time.Now().Add(d); ; {
		w.show("kill %d of %d · %d acknowledged · restart p50 %.0f ms", w.result.Faults, w.cfg.Kills, w.acks.Load(), quantileMs(w.ready, 0.5))
		left := time.Until(end)
		if left <= 0 {
			return ctx.Err() == nil
		}
		if !rest(ctx, min(left, 200*time.Millisecond)) {
			return false
		}
	}
}

// settle waits until nothing is on its way and every live stream has caught up.
func (w *crashWorld) settle(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	newest := map[string]uint64{}
	for _, a := range w.told {
		newest[a.RoomID] = max(newest[a.RoomID], a.Seq)
	}
	behind := func() int {
		n := 0
		for _, s := range w.streams {
			if s.last() < newest[s.roomID] {
				n++
			}
		}
		return n
	}
	for behind() > 0 {
		w.show("%d live streams are catching up", behind())
		if !rest(limit, 20*time.Millisecond) {
			w.complain("%d live streams had not caught up after %s", behind(), settleTimeout)
			break
		}
	}
	return ctx.Err()
}

// judge reads everything back and counts.
func (w *crashWorld) judge(ctx context.Context) error {
	var sides, live []oracle.Side
	for i, s := range w.streams {
		w.show("reading history %d of %d", i+1, len(w.streams))
		messages, err := readHistory(ctx, s.reader.client.API, s.roomID)
		if err != nil {
			return err
		}
		sides = append(sides, oracle.Side{RoomID: s.roomID, Reader: s.reader.login, Messages: messages})
		live = append(live, oracle.Side{RoomID: s.roomID, Reader: s.reader.login + " (live)", Messages: s.all()})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.result
	r.Acknowledged = len(w.told)
	// One judgement over both, so that live streams and histories must agree.
	r.judged(oracle.Judge(w.told, append(sides, live...)))
	r.explain(w.problems...)
	busy := 0
	for _, n := range w.inFlight {
		if n > 0 {
			busy++
		}
	}
	r.Figures = map[string]float64{
		"ready_p50_ms": quantileMs(w.ready, 0.5), "ready_p99_ms": quantileMs(w.ready, 0.99),
		"first_ack_p50_ms": quantileMs(w.toAck, 0.5), "first_ack_p99_ms": quantileMs(w.toAck, 0.99),
		"kills_with_messages_under_way": float64(busy),
		"histories_read":                float64(len(sides)),
		"live_streams":                  float64(len(live)),
	}
	if r.Faults < w.cfg.Kills {
		r.explain(fmt.Sprintf("ended after %s with %d of %d kills", w.cfg.For, r.Faults, w.cfg.Kills))
	}
	if busy == 0 {
		r.explain("no kill hit a message under way: the drill has proved nothing")
	}
	r.Passed = r.wrong() == 0 && len(w.problems) == 0 && r.Acknowledged > 0 && r.Faults > 0 && busy > 0
	return nil
}

// quantileMs returns the q-quantile in milliseconds; 0 of none.
func quantileMs(values []time.Duration, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return float64(sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]) / float64(time.Millisecond)
}
