package drill

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/node"
	"github.com/bongsu-im/bongsu/proof/oracle"
)

// PowerConfig says how the power drill runs.
type PowerConfig struct {
	Cuts int           // how often the plug is pulled
	Seed uint64        // of cut points, torn tails and words
	For  time.Duration // ends early after this; 0 means no bound
	Out  io.Writer     // progress for people; nil for none
}

const (
	powerUsers        = 8
	powerDirects      = 8
	powerGroups       = 4
	powerWriters      = 12
	cutsAWorld        = 20 // then a fresh disk, so that reading everything back stays short
	viewDeletedEvery  = 10
	mostAcksBeforeCut = 48
)

// Power pulls the plug on one process's disks again and again, while people
// send: everything that was not fsynced is gone, in whole or in 4 KiB blocks,
// from both stores and the marks. After each cut the core is opened on what is
// left, both sides' histories are read, and unanswered messages are sent again
// with their old client IDs. The file system is Pebble's crashable one, in
// memory; everything above it is what `bongsu serve` runs, without the door.
func Power(ctx context.Context, cfg PowerConfig) (Result, error) {
	started := time.Now()
	if cfg.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, cfg.For)
		defer cancel()
	}
	total := Result{Name: "power", Seed: cfg.Seed}
	show := newTicker(cfg.Out)
	for world := uint64(0); total.Faults < cfg.Cuts && ctx.Err() == nil; world++ {
		w := newPowerWorld(cfg.Seed, world)
		err := w.run(ctx, min(cutsAWorld, cfg.Cuts-total.Faults), func(cuts, acknowledged int) {
			show("cuts %d of %d, acknowledged %d, wrong %d", total.Faults+cuts, cfg.Cuts, total.Acknowledged+acknowledged, total.wrong())
		})
		total.add(w.result)
		var broken *brokenError
		switch {
		case errors.As(err, &broken):
			total.explain(broken.Error())
		case ctx.Err() != nil: // out of time: what was found until then counts
		case err != nil:
			return total, fmt.Errorf("world %d of seed %d: %w", world, cfg.Seed, err)
		}
		if total.wrong() > 0 || broken != nil {
			total.Seconds = time.Since(started).Seconds()
			return total, nil // the first broken promise is the finding; what follows is noise
		}
	}
	total.Seconds = time.Since(started).Seconds()
	total.Passed = total.Faults > 0
	return total, nil
}

// brokenError is a promise broken in a way that no history shows: what a cut
// left does not open, or does not serve.
type brokenError struct{ cause error }

func (e *brokenError) Error() string { return e.cause.Error() }
func (e *brokenError) Unwrap() error { return e.cause }

func broken(format string, args ...any) error { return &brokenError{fmt.Errorf(format, args...)} }

// powerRoom is a room of the drill and two of its members who read it back.
type powerRoom struct {
	id      id.ID
	members []int
}

// powerSend is one message, from the moment someone means to send it.
type powerSend struct {
	room     int
	sender   int
	clientID [16]byte
	text     string
	seq      uint64 // 0 until acknowledged
}

// powerWorld is a disk and the people on it, over several cuts.
type powerWorld struct {
	rng    *rand.Rand
	disk   *durable.Crashable
	core   *node.Core
	users  []id.ID
	rooms  []powerRoom
	result Result

	mu    sync.Mutex   // guards what follows, which writers change
	sent  []*powerSend // everything ever meant to be sent
	acked int
	cut   bool // the plug is out: what is answered from here on never happened
}

func newPowerWorld(seed, n uint64) *powerWorld {
	w := &powerWorld{rng: rand.New(rand.NewPCG(seed, n)), disk: durable.NewCrashable()}
	for u := range powerUsers {
		login := powerLogin(u)
		w.users = append(w.users, id.New(0, id.User, id.LoginPartition(login), w.bytes(12)))
	}
	for d := range powerDirects {
		a, b := d%powerUsers, (d+1+d/powerUsers)%powerUsers
		w.rooms = append(w.rooms, powerRoom{id.Direct(w.users[a], w.users[b]), []int{a, b}})
	}
	for g := range powerGroups {
		members := w.rng.Perm(powerUsers)[:3+g%3]
		w.rooms = append(w.rooms, powerRoom{id.Group(w.users[members[0]], w.bytes(16)), members})
	}
	return w
}

func powerLogin(u int) string { return fmt.Sprintf("power%d", u) }

func (w *powerWorld) bytes(n int) []byte {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.BigEndian.AppendUint64(b, w.rng.Uint64())
	}
	return b[:n]
}

const powerData = "data"

func (w *powerWorld) open(ctx context.Context) error {
	core, err := node.OpenCore(context.Background(), node.Config{
		Data: powerData, FS: w.disk, Shards: 16, Logger: slog.New(slog.DiscardHandler),
	}, nil)
	if err != nil {
		return broken("what the cut left does not open: %w", err)
	}
	w.core = core
	if damage := core.Journal.Damage(); len(damage) > 0 {
		return broken("an honest power cut was taken for damage: %w", damage[0])
	}
	wait, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := core.AwaitReady(wait); err != nil && ctx.Err() == nil {
		return broken("what the cut left does not serve: %w", err)
	}
	return ctx.Err()
}

// run lives through cuts, reading everything back after each.
func (w *powerWorld) run(ctx context.Context, cuts int, progress func(cuts, acknowledged int)) error {
	if err := w.open(ctx); err != nil {
		return err
	}
	defer func() { _ = w.core.Close() }()
	if err := w.settle(ctx); err != nil {
		return fmt.Errorf("make accounts and rooms: %w", err)
	}
	for range cuts {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.pullThePlug(ctx); err != nil {
			return err
		}
		if err := w.readBack(ctx); err != nil {
			return err
		}
		progress(w.result.Faults, w.result.Acknowledged)
		if w.result.wrong() > 0 {
			return nil
		}
	}
	return nil
}

// settle makes the accounts and rooms; their commands may be repeated.
func (w *powerWorld) settle(ctx context.Context) error {
	for u, user := range w.users {
		if err := w.must(ctx, &nodev1.Command{Kind: &nodev1.Command_SignUp{SignUp: &nodev1.SignUp{
			UserId: user.Bytes(), Login: powerLogin(u), DisplayName: powerLogin(u),
			PasswordHash: "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
			DeviceId:     id.New(0, id.Device, user.Partition(), w.bytes(12)).Bytes(), DeviceName: "drill",
		}}}); err != nil {
			return err
		}
	}
	for r, room := range w.rooms {
		creator := w.users[room.members[0]].Bytes()
		cmd := &nodev1.Command{Actor: creator, Kind: &nodev1.Command_OpenDirect{OpenDirect: &nodev1.OpenDirect{
			RoomId: room.id.Bytes(), OtherId: w.users[room.members[1]].Bytes(),
		}}}
		if r >= powerDirects {
			var others [][]byte
			for _, m := range room.members[1:] {
				others = append(others, w.users[m].Bytes())
			}
			cmd = &nodev1.Command{Actor: creator, Kind: &nodev1.Command_CreateGroup{CreateGroup: &nodev1.CreateGroup{
				RoomId: room.id.Bytes(), Title: fmt.Sprintf("group %d", r), MemberIds: others,
			}}}
		}
		if err := w.must(ctx, cmd); err != nil {
			return err
		}
	}
	return nil
}

func (w *powerWorld) must(ctx context.Context, cmd *nodev1.Command) error {
	reply, err := w.core.Do(ctx, cmd)
	if err == nil && reply.GetError() != nil {
		err = fmt.Errorf("%s: %s", reply.GetError().GetCode(), reply.GetError().GetMessage())
	}
	return err
}

// pullThePlug lets people write until a random number of acknowledgements,
// then takes the disk as a power cut leaves it and opens the core on that.
func (w *powerWorld) pullThePlug(ctx context.Context) error {
	var (
		seed    = w.rng.Uint64()
		keep    = []float64{0, 0, 0.1, 0.5, 0.9}[w.rng.IntN(5)]
		target  = 1 + w.rng.IntN(mostAcksBeforeCut)
		reached = make(chan struct{})
		writing sync.WaitGroup
	)
	life, stop := context.WithCancel(ctx)
	defer stop()
	w.mu.Lock()
	w.cut = false
	unanswered := w.unansweredLocked()
	goal := w.acked + len(unanswered) + target
	w.mu.Unlock()
	var once sync.Once
	note := func(s *powerSend, seq uint64) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.cut {
			return false
		}
		if s.seq != 0 && s.seq != seq { // a repeated send must find its first place
			w.result.Moved++
			w.result.Details = append(w.result.Details, fmt.Sprintf("message %x was at %d, sent again it is at %d", s.clientID, s.seq, seq))
		}
		if s.seq == 0 {
			s.seq = seq
			w.acked++
		}
		if w.acked >= goal {
			once.Do(func() { close(reached) })
		}
		return true
	}
	for n := range powerWriters {
		r := rand.New(rand.NewPCG(seed, uint64(n)))
		var mine []*powerSend
		for i, s := range unanswered {
			if i%powerWriters == n {
				mine = append(mine, s)
			}
		}
		writing.Go(func() { w.write(life, r, mine, note) })
	}
	// Flushes at odd moments put the view's position wherever it can be.
	writing.Go(func() {
		r := rand.New(rand.NewPCG(seed, 1<<32))
		for life.Err() == nil {
			if r.IntN(3) == 0 {
				_ = w.core.Journal.SyncMarks()
			}
			_ = w.core.View.Flush()
		}
	})
	select {
	case <-reached:
	case <-time.After(20 * time.Second):
		stop()
		writing.Wait()
		return broken("nobody could send for 20 s; ready: %v", w.core.Ready())
	case <-ctx.Done():
		stop()
		writing.Wait()
		return ctx.Err()
	}
	// The order is the point: what has been acknowledged by now must be on the
	// disk that is copied after.
	w.mu.Lock()
	w.cut = true
	w.mu.Unlock()
	left := w.disk.Crash(keep, seed)
	stop()
	writing.Wait()
	_ = w.core.Close() // the old world's end is nobody's business
	w.disk = left
	w.result.Faults++
	if w.result.Faults%viewDeletedEvery == 0 {
		if err := w.disk.RemoveAll(filepath.Join(powerData, "view")); err != nil {
			return fmt.Errorf("delete the view: %w", err)
		}
	}
	return w.open(ctx)
}

func (w *powerWorld) unansweredLocked() (out []*powerSend) {
	for _, s := range w.sent {
		if s.seq == 0 {
			out = append(out, s)
		}
	}
	return out
}

// write sends what earlier lives left unanswered, then new messages, and now
// and then one again that was acknowledged long ago.
func (w *powerWorld) write(ctx context.Context, r *rand.Rand, left []*powerSend, note func(*powerSend, uint64) bool) {
	for ctx.Err() == nil {
		var s *powerSend
		switch {
		case len(left) > 0:
			s, left = left[0], left[1:]
		case r.IntN(6) == 0:
			s = w.anyAcknowledged(r)
		}
		if s == nil {
			s = w.newSend(r)
		}
		for ctx.Err() == nil {
			reply, err := w.core.Do(ctx, &nodev1.Command{
				Actor: w.users[s.sender].Bytes(),
				Kind: &nodev1.Command_Send{Send: &nodev1.Send{
					RoomId: w.rooms[s.room].id.Bytes(), ClientId: s.clientID[:], Text: s.text,
				}},
			})
			if err == nil && reply.GetError() == nil {
				if !note(s, reply.GetMessage().GetSeq()) {
					return
				}
				break
			}
		}
	}
}

func (w *powerWorld) newSend(r *rand.Rand) *powerSend {
	s := &powerSend{room: r.IntN(len(w.rooms))}
	members := w.rooms[s.room].members
	s.sender = members[r.IntN(len(members))]
	binary.BigEndian.PutUint64(s.clientID[:8], r.Uint64())
	binary.BigEndian.PutUint64(s.clientID[8:], r.Uint64())
	s.clientID[6], s.clientID[8] = s.clientID[6]&0x0f|0x80, s.clientID[8]&0x3f|0x80
	s.text = fmt.Sprintf("%x", s.clientID)
	if r.IntN(20) == 0 { // a long one now and then, so that a torn tail has blocks to tear
		s.text += string(make20k(r))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent = append(w.sent, s)
	return s
}

func make20k(r *rand.Rand) []byte {
	b := make([]byte, 9_000)
	for i := range b {
		b[i] = 'a' + byte(r.IntN(26))
	}
	return b
}

func (w *powerWorld) anyAcknowledged(r *rand.Rand) *powerSend {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.sent) == 0 {
		return nil
	}
	if s := w.sent[r.IntN(len(w.sent))]; s.seq != 0 {
		return s
	}
	return nil
}

// readBack reads every room from two sides and has it judged.
func (w *powerWorld) readBack(ctx context.Context) error {
	var sides []oracle.Side
	for _, room := range w.rooms {
		for _, member := range room.members[:2] {
			messages, err := w.readRoom(ctx, room, member)
			if err != nil {
				return broken("room %s cannot be read by %s: %w", room.id, powerLogin(member), err)
			}
			sides = append(sides, oracle.Side{RoomID: room.id.String(), Reader: powerLogin(member), Messages: messages})
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var acks []oracle.Acknowledgement
	for _, s := range w.sent {
		if s.seq > 0 {
			acks = append(acks, oracle.Acknowledgement{
				RoomID: w.rooms[s.room].id.String(), SenderID: w.users[s.sender].String(),
				ClientID: uuid.UUID(s.clientID).String(), Text: s.text, Seq: s.seq,
			})
		}
	}
	w.result.Acknowledged = len(acks)
	w.result.judged(oracle.Judge(acks, sides))
	return nil
}
