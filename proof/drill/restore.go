package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/bongsu-im/bongsu/client"
	"github.com/bongsu-im/bongsu/node"
	"github.com/bongsu-im/bongsu/proof/child"
	"github.com/bongsu-im/bongsu/proof/oracle"
)

// RestoreConfig says how the restore drill runs. Bin and Messages are required.
type RestoreConfig struct {
	Bin      string        // the bongsu binary
	Messages int           // that the store has before the load
	Seed     uint64        // of what is in it
	Load     time.Duration // how long people send before the disk is lost; 0 means 6 s
	Every    time.Duration // between two passes of the backup; 0 means 1 s
	Out      io.Writer     // progress for people; nil for none
}

const (
	restoreAccounts = 20
	restoreRooms    = 10
	restorePairs    = 4
	// restoreSlack is what a pass may take beside the time between two, on a
	// machine that does everything else at the time.
	restoreSlack = 10 * time.Second
)

// Restore loses a disk: a server with history archives itself while people send,
// is killed, and its folder is deleted. The archive is restored into an empty
// folder, timed; whatever was acknowledged up to the archived positions must be
// there, whoever was signed in still is, and what came after the last archive
// comes back from the outboxes of those who sent it.
func Restore(ctx context.Context, cfg RestoreConfig) (Result, error) {
	if cfg.Load == 0 {
		cfg.Load = 6 * time.Second
	}
	if cfg.Every == 0 {
		cfg.Every = time.Second
	}
	result := Result{Name: "restore", Seed: cfg.Seed}
	started := time.Now()
	folder, err := os.MkdirTemp("", "bongsu-restore-")
	if err != nil {
		return result, fmt.Errorf("make a folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(folder) }() // as in Crash
	addr, err := child.FreeAddr()
	if err != nil {
		return result, err
	}
	w := &restoreWorld{cfg: cfg, folder: folder, result: &result}
	// What people do is the crash drill's: outboxes, live streams, a gate.
	w.crashWorld = &crashWorld{
		cfg:    CrashConfig{Bin: cfg.Bin, Seed: cfg.Seed, Pairs: restorePairs, Groups: 1, Out: cfg.Out},
		server: &child.Server{Bin: cfg.Bin, Data: filepath.Join(folder, "data"), Addr: addr},
		gate:   newGate(), show: newTicker(cfg.Out), result: &result,
	}
	err = w.run(ctx)
	result.Seconds = time.Since(started).Seconds()
	return result, err
}

// restoreWorld is one run of the restore drill.
type restoreWorld struct {
	*crashWorld
	cfg    RestoreConfig
	folder string
	result *Result

	stores  map[*person]*client.MemoryStore
	lost    time.Time // when the disk was
	retains []retained
	out     restored
}

// retained is an acknowledgement as the sender's outbox held it when the disk was
// lost.
type retained struct {
	person *person
	entry  client.Entry
}

// restored is what "bongsu restore --json" says.
type restored struct {
	Entries  uint64   `json:"entries"`
	Bytes    uint64   `json:"bytes"`
	Problems []string `json:"problems"`
	Shards   []struct {
		Shard uint32 `json:"shard"`
		Term  uint64 `json:"term"`
		Index uint64 `json:"index"`
	} `json:"shards"`
}

func (w *restoreWorld) path(name string) string { return filepath.Join(w.folder, name) }

func (w *restoreWorld) run(ctx context.Context) (err error) {
	recipient, err := w.command(ctx, "backup", "keygen", w.path("key"))
	if err != nil {
		return err
	}
	if err := w.seedStore(ctx); err != nil {
		return err
	}
	w.server.Args = []string{"--backup", w.path("archive"), "--backup-recipient", strings.TrimSpace(recipient), "--backup-every", w.cfg.Every.String()}
	if err := w.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.server.Stop(20*time.Second)) }()
	w.gate.set(true)
	h := &http.Client{Transport: w.gate.transport()}
	defer h.CloseIdleConnections()
	if w.people, err = signUpAll(ctx, w.server.BaseURL(), h, 2*restorePairs, func(int) {}); err != nil {
		return err
	}
	if err := w.openRooms(ctx); err != nil {
		return err
	}
	if err := w.awaitArchive(ctx); err != nil {
		return err
	}
	w.connect(ctx)
	defer func() {
		for _, p := range w.people {
			p.outbox.Close()
			p.conn.Close()
			p.client.Close()
		}
	}()
	if err := w.loseTheDisk(ctx); err != nil {
		return err
	}
	if err := w.restore(ctx); err != nil {
		return err
	}
	if err := w.judgeArchived(ctx); err != nil {
		return err
	}
	if err := w.judgeReturned(ctx); err != nil {
		return err
	}
	if err := w.judgeSeeded(ctx); err != nil {
		return err
	}
	w.finish()
	return nil
}

// command runs the binary and returns what it prints.
func (w *restoreWorld) command(ctx context.Context, args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, w.cfg.Bin, args...)
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &errs, child.PlainEnvironment(os.Environ())
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("bongsu %s: %w\n%s%s", strings.Join(args[:2], " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

// seedStore gives the store a past.
func (w *restoreWorld) seedStore(ctx context.Context) (err error) {
	core, err := node.OpenCore(ctx, node.Config{Data: w.server.Data, Logger: slog.New(slog.DiscardHandler)}, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, core.Close()) }()
	if err := core.AwaitReady(ctx); err != nil {
		return err
	}
	return node.Seed(ctx, core, node.SeedConfig{
		Accounts: restoreAccounts, Rooms: restoreRooms, Members: 2, Messages: w.cfg.Messages, Password: drillPassword, Seed: w.cfg.Seed,
		Progress: func(what string, done, total int) { w.show("seeding %s: %d of %d", what, done, total) },
	})
}

// awaitArchive waits until the past is archived, which may take a while: people
// whose rooms are not could not be judged.
func (w *restoreWorld) awaitArchive(ctx context.Context) error {
	for {
		lag, err := w.metric(ctx, "bongsu_backup_lag_seconds")
		if err != nil || lag == "0" {
			return err
		}
		w.show("the past is being archived, %s s behind", lag)
		if !rest(ctx, 100*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// metric reads a number that the server shows.
func (w *restoreWorld) metric(ctx context.Context, name string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, w.server.BaseURL()+"/metrics", nil)
	if err != nil {
		return "", err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", fmt.Errorf("read metrics: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, 4<<20))
	if err := errors.Join(err, answer.Body.Close()); err != nil {
		return "", fmt.Errorf("read metrics: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("the server shows no %s", name)
}

// connect gives everyone a socket and an outbox that remembers all it has sent.
func (w *restoreWorld) connect(ctx context.Context) {
	quick := client.Backoff{Base: 5 * time.Millisecond, Max: 50 * time.Millisecond}
	w.stores = map[*person]*client.MemoryStore{}
	for _, p := range w.people {
		w.stores[p] = client.NewMemoryStore()
		p.conn = p.client.Connect(ctx, client.ConnectOptions{Queue: -1, Backoff: quick, HandshakeTimeout: 5 * time.Second})
		p.outbox = client.NewOutbox(p.conn, w.stores[p], client.OutboxOptions{
			Backoff: quick, AttemptTimeout: 5 * time.Second, RetainCount: 1 << 20,
			Budget: client.BudgetOptions{Tokens: 1000, PerSuccess: 1, PerSecond: 1000}, // as in the crash drill
		})
	}
}

// loseTheDisk lets people send, then kills the server while they do and deletes
// its folder.
func (w *restoreWorld) loseTheDisk(ctx context.Context) error {
	sending, stop := context.WithCancel(ctx)
	defer stop()
	var senders sync.WaitGroup
	for _, s := range w.senders {
		senders.Go(func() {
			for n := 0; sending.Err() == nil; n++ {
				at, err := s.person.outbox.Send(client.Draft{RoomID: s.roomID, Text: fmt.Sprintf("%s says %d", s.person.login, n)})
				if err != nil {
					w.complain("%s could not put a message into its outbox: %v", s.person.login, err)
					return
				}
				// Unanswered ones are sent again by the outbox, when there is a server.
				_, _ = at.Wait(sending)
			}
		})
	}
	for end := time.Now().Add(w.cfg.Load); time.Now().Before(end); {
		w.show("people send and the backup runs, %.0f s more", time.Until(end).Seconds())
		if !rest(ctx, 100*time.Millisecond) {
			return ctx.Err()
		}
	}
	w.gate.set(false)
	if err := w.server.Kill(); err != nil {
		return err
	}
	w.lost = time.Now()
	w.result.Faults++
	stop()
	senders.Wait()
	for p, store := range w.stores {
		for _, e := range store.Entries() {
			if e.Ack != nil {
				w.retains = append(w.retains, retained{p, e})
			}
		}
	}
	if err := os.RemoveAll(w.server.Data); err != nil {
		return fmt.Errorf("lose the disk: %w", err)
	}
	return nil
}

// restore makes the folder again, and starts a server on it.
func (w *restoreWorld) restore(ctx context.Context) error {
	w.show("restoring")
	began := time.Now()
	out, err := w.command(ctx, "restore", "--from", w.path("archive"), "--identity", w.path("key"), "--data", w.server.Data, "--json")
	if err != nil {
		return err
	}
	took := time.Since(began)
	if err := json.Unmarshal([]byte(out), &w.out); err != nil {
		return fmt.Errorf("read what restore says: %w", err)
	}
	for _, p := range w.out.Problems {
		w.complain("the archive has a problem: %s", p)
	}
	w.show("starting on what was restored")
	began = time.Now()
	if err := w.start(ctx); err != nil {
		return err
	}
	stored, err := sizeOf(w.path("archive"))
	if err != nil {
		return err
	}
	w.result.Figures = map[string]float64{
		"restore_seconds": took.Seconds(), "ready_seconds": time.Since(began).Seconds(),
		"restored_entries": float64(w.out.Entries), "restored_mb": float64(w.out.Bytes) / 1e6,
		"restored_mb_per_s": float64(w.out.Bytes) / 1e6 / took.Seconds(), "archive_mb": float64(stored) / 1e6,
		"seeded_messages": float64(w.cfg.Messages),
	}
	return nil
}

func sizeOf(dir string) (total int64, err error) {
	err = filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			total += info.Size()
		}
		return err
	})
	return total, err
}

// archived tells whether an acknowledged position is in what was restored.
func (w *restoreWorld) archived(a *client.Ack) bool {
	for _, s := range w.out.Shards {
		if s.Shard == a.Shard {
			return a.Index <= s.Index && a.Term <= s.Term
		}
	}
	return false
}

// judgeArchived holds what people were told against what the restored server
// shows before any of them is back: by their tokens of before the fire.
func (w *restoreWorld) judgeArchived(ctx context.Context) error {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	var sides []oracle.Side
	for i, s := range w.streams {
		w.show("reading history %d of %d", i+1, len(w.streams))
		c, err := client.New(client.Config{BaseURL: w.server.BaseURL(), HTTPClient: &http.Client{Transport: transport}})
		if err != nil {
			return err
		}
		c.Resume(s.reader.client.Session())
		messages, err := readHistory(ctx, c.API, s.roomID)
		c.Close()
		if err != nil {
			return fmt.Errorf("%s, signed in before the disk was lost: %w", s.reader.login, err)
		}
		sides = append(sides, oracle.Side{RoomID: s.roomID, Reader: s.reader.login, Messages: messages})
	}
	var acks []oracle.Acknowledgement
	var oldest time.Duration
	after := 0
	for _, r := range w.retains {
		if w.archived(r.entry.Ack) {
			acks = append(acks, acknowledged(r.person, r.entry))
			continue
		}
		after++
		oldest = max(oldest, w.lost.Sub(time.UnixMilli(r.entry.Ack.AckedMs)))
	}
	w.result.Acknowledged = len(w.retains)
	w.result.judged(oracle.Judge(acks, sides))
	w.result.Figures["acknowledged_and_archived"] = float64(len(acks))
	w.result.Figures["acknowledged_after_the_archive"] = float64(after)
	w.result.Figures["lost_window_seconds"] = oldest.Seconds()
	if len(acks) == 0 {
		w.complain("nothing that was acknowledged had been archived: the drill has proved nothing")
	}
	if limit := w.cfg.Every + restoreSlack; oldest > limit {
		w.complain("a message acknowledged %s before the disk was lost was not archived; %s is allowed", oldest.Round(time.Millisecond), limit)
	}
	return nil
}

func acknowledged(p *person, e client.Entry) oracle.Acknowledgement {
	return oracle.Acknowledgement{RoomID: e.RoomID, SenderID: p.client.UserID(), ClientID: e.ClientID, Text: e.Text, Seq: e.Ack.Seq}
}

// judgeReturned lets everyone back and waits until nothing is missing any more:
// outboxes send again what the server says that it has lost.
func (w *restoreWorld) judgeReturned(ctx context.Context) error {
	w.gate.set(true)
	limit, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for {
		missing, verdict, err := w.missing(ctx)
		if err != nil {
			return err
		}
		if missing == 0 && verdict.Wrong() == 0 {
			w.result.Figures["returned_by_clients"] = w.result.Figures["acknowledged_after_the_archive"]
			return nil
		}
		w.show("%d messages are not back yet", missing)
		if !rest(limit, 100*time.Millisecond) {
			w.result.judged(verdict)
			w.complain("%d messages that were acknowledged after the archive had not come back after %s", missing, settleTimeout)
			return ctx.Err()
		}
	}
}

// missing counts what was acknowledged before the fire and cannot be read now,
// and judges the places that it has now.
func (w *restoreWorld) missing(ctx context.Context) (n int, v oracle.Verdict, err error) {
	var sides []oracle.Side
	for _, s := range w.streams {
		messages, err := readHistory(ctx, s.reader.client.API, s.roomID)
		if err != nil {
			return 0, v, err
		}
		sides = append(sides, oracle.Side{RoomID: s.roomID, Reader: s.reader.login, Messages: messages})
	}
	there := map[string]bool{}
	for _, s := range sides {
		for _, m := range s.Messages {
			there[s.RoomID+m.GetSenderId()+m.GetClientId()] = true
		}
	}
	var acks []oracle.Acknowledgement
	for _, r := range w.retains {
		if !there[r.entry.RoomID+r.person.client.UserID()+r.entry.ClientID] {
			n++
		}
	}
	for p, store := range w.stores {
		for _, e := range store.Entries() {
			if e.Ack != nil && there[e.RoomID+p.client.UserID()+e.ClientID] {
				acks = append(acks, acknowledged(p, e))
			}
		}
	}
	return n, oracle.Judge(acks, sides), nil
}

// judgeSeeded reads the rooms of the past in full.
func (w *restoreWorld) judgeSeeded(ctx context.Context) error {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	rooms := map[string]int{}
	for n := range restoreAccounts {
		if len(rooms) == restoreRooms {
			break
		}
		if err := w.readSeeded(ctx, transport, fmt.Sprintf("seed-%06d", n+1), rooms); err != nil {
			return err
		}
	}
	total := 0
	for _, n := range rooms {
		total += n
	}
	if missing := w.cfg.Messages - total; missing != 0 || len(rooms) != restoreRooms {
		w.result.Lost += max(missing, 0)
		w.complain("%d of %d messages of the past are in %d rooms", total, w.cfg.Messages, len(rooms))
	}
	return nil
}

func (w *restoreWorld) readSeeded(ctx context.Context, transport *http.Transport, login string, rooms map[string]int) error {
	c, err := client.New(client.Config{BaseURL: w.server.BaseURL(), HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.SignIn(ctx, login, drillPassword, ""); err != nil {
		return fmt.Errorf("sign in %s: %w", login, err)
	}
	listed, err := c.Rooms(ctx)
	if err != nil {
		return fmt.Errorf("list the rooms of %s: %w", login, err)
	}
	for _, r := range listed {
		room := r.GetRoomId()
		if _, read := rooms[room]; read {
			continue
		}
		w.show("reading room %d of %d of the past", len(rooms)+1, restoreRooms)
		messages, err := readHistory(ctx, c.API, room)
		if err != nil {
			return err
		}
		rooms[room] = len(messages)
		w.result.judged(oracle.Judge(nil, []oracle.Side{{RoomID: room, Reader: login, Messages: messages}}))
	}
	return nil
}

func (w *restoreWorld) finish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.result.explain(w.problems...)
	w.result.Passed = w.result.wrong() == 0 && len(w.problems) == 0
}
