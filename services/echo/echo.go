// Package echo is the echo friend 메아리: an ordinary account that says back
// what it is told, so that a person who knows nobody here yet can see messages
// arrive, be read and be answered.
//
// Vocabulary. A room is worked by one goroutine at a time, in passes: a pass
// reads history after the last message that was handled and handles it in
// order. What wakes a room is only a hint; the truth is the room's history and
// our read cursor on the server, so that hints may be lost, doubled or late.
//
// Each message is answered exactly once, whatever happens in between. To answer
// message N: mark N read, show typing, send with a client ID that is computed
// from (room, N). Nothing after N is marked before the answer is acknowledged,
// so after a crash at most the one message at the cursor is in doubt, and it is
// answered again: the server returns the answer it has, or takes it as the
// first. Nothing is stored here.
//
// Concurrency: Run owns every goroutine it starts and waits for them. A room's
// notes belong to the goroutine that works it, apart from those under friend.mu.
//
// What it does not do: it answers no bots and not itself, in groups it speaks
// only when its name is mentioned, it never leaves or opens rooms, and it knows
// nobody's password but its own. ListRooms names at most 2,000 rooms, so what
// was written in older ones while it was away is answered when they wake.
package echo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/bongsu-im/bongsu/client"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// Config of Run. BaseURL, Login and Password are required; the zero values of
// the others are safe.
type Config struct {
	// BaseURL of the server, such as "http://127.0.0.1:8080".
	BaseURL string
	// Login and Password of the account, which must exist.
	Login, Password string
	// Logger tells of refusals; nil discards.
	Logger *slog.Logger
	// HTTPClient reaches the server; nil means one of its own.
	HTTPClient *http.Client
	// TypingPause lies between the sign of typing and the answer, so that a
	// person sees it; 0 means 300 ms, negative none. Who is being caught up
	// with is not kept waiting.
	TypingPause time.Duration
	// Burst and PerSecond bound the answers in a room: so many at once, then
	// so many a second; 0 means 20 and 5.
	Burst, PerSecond float64
	// MaxBacklog bounds how many messages of a room wait to be answered; 0
	// means 1,000. Older ones are marked read and get no answer.
	MaxBacklog uint64
	// MaxRooms bounds the rooms that are remembered at once; 0 means 4,096.
	MaxRooms int
	// MaxInFlight bounds the requests under way at once; 0 means 16.
	MaxInFlight int
}

func (c *Config) setDefaults() error {
	if c.Login == "" || c.Password == "" {
		return errors.New("echo: login and password are required")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.TypingPause == 0 {
		c.TypingPause = 300 * time.Millisecond
	}
	if c.Burst < 1 {
		c.Burst = 20
	}
	if c.PerSecond <= 0 {
		c.PerSecond = 5
	}
	if c.MaxBacklog == 0 {
		c.MaxBacklog = 1000
	}
	if c.MaxRooms <= 0 {
		c.MaxRooms = 4096
	}
	if c.MaxInFlight <= 0 {
		c.MaxInFlight = 16
	}
	return nil
}

// deviceName is what the account's list of devices shows.
const deviceName = "server"

// Run signs in and answers until ctx ends, whose cause it then returns, or until it cannot go on: wrong password, a session that the server ended, a
// fault of its own. Running again is safe at any moment.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.setDefaults(); err != nil {
		return err
	}
	c, err := client.New(client.Config{BaseURL: cfg.BaseURL, HTTPClient: cfg.HTTPClient, Logger: cfg.Logger})
	if err != nil {
		return fmt.Errorf("echo: %w", err)
	}
	defer c.Close()
	session, err := c.SignIn(ctx, cfg.Login, cfg.Password, deviceName)
	if err != nil {
		return fmt.Errorf("echo: sign in as %s: %w", cfg.Login, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conn := c.Connect(ctx, client.ConnectOptions{})
	defer conn.Close()
	f := &friend{
		cfg: cfg, conn: conn, me: session.UserID, fail: cancel,
		slots: make(chan struct{}, cfg.MaxInFlight), scan: make(chan struct{}, 1), rooms: map[string]*room{},
	}
	defer f.wg.Wait() // before the socket is closed under those who use it
	defer cancel(nil)
	f.start(func() { f.scanner(ctx) })
	for e := range conn.Events(ctx) {
		f.event(ctx, e)
	}
	if ctx.Err() == nil {
		return fmt.Errorf("echo: %w", conn.Err())
	}
	return context.Cause(ctx)
}

// friend is one run.
type friend struct {
	cfg   Config
	conn  *client.Conn
	me    string
	fail  context.CancelCauseFunc
	slots chan struct{} // one token a request under way
	scan  chan struct{} // has a token when all rooms are to be looked at
	wg    sync.WaitGroup

	mu    sync.Mutex
	rooms map[string]*room
	// crowded is set when a room could not be woken because MaxRooms were at
	// work: all are looked at again when one has finished.
	crowded bool
}

// start runs work on a goroutine whose panic ends the run and nothing else: the
// echo friend is a guest in the server's process.
func (f *friend) start(work func()) {
	f.wg.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				f.fail(fmt.Errorf("echo: panic: %v\n%s", p, debug.Stack()))
			}
		}()
		work()
	})
}

// event turns what the socket brings into hints.
func (f *friend) event(ctx context.Context, e client.Event) {
	switch {
	case e.Up != nil:
		// What happened without a socket, and whether the server lost what we
		// remember, only the server can say.
		f.doubtAll()
		f.lookAround()
	case e.Push.GetLag() != nil:
		f.lookAround()
	case e.Push.GetMessage() != nil:
		if m := e.Push.GetMessage().GetMessage(); m.GetSenderId() != f.me {
			f.wake(ctx, m.GetRoomId(), false)
		}
	case e.Push.GetRoom() != nil:
		// In a group nobody's coming and going concerns us.
		if r := e.Push.GetRoom(); r.GetKind() == edgev1.RoomKind_ROOM_KIND_DIRECT {
			f.wake(ctx, r.GetRoomId(), true)
		}
	}
}

// doubtAll has every room read anew what the server holds about it.
func (f *friend) doubtAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.rooms {
		r.doubted = true
	}
}

// wake has a room worked; doubted says that what is known of it may be old.
func (f *friend) wake(ctx context.Context, roomID string, doubted bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.rooms[roomID]
	if r == nil {
		if len(f.rooms) >= f.cfg.MaxRooms && !f.evict() {
			f.crowded = true
			return
		}
		r = &room{friend: f, id: roomID, allowance: allowance{burst: f.cfg.Burst, perSecond: f.cfg.PerSecond}}
		f.rooms[roomID] = r
	}
	r.awake = true
	r.doubted = r.doubted || doubted
	if !r.working {
		r.working = true
		f.start(func() { r.work(ctx) })
	}
}

// evict forgets a room that nobody works; mu must be held. Which one does not
// matter: what is forgotten is read again from the server.
func (f *friend) evict() bool {
	for roomID, r := range f.rooms {
		if !r.working {
			delete(f.rooms, roomID)
			return true
		}
	}
	return false
}

// lookAround asks for a look at all rooms.
func (f *friend) lookAround() {
	select {
	case f.scan <- struct{}{}:
	default: // asked for already
	}
}

// scanner wakes the rooms that have something for us, whenever asked.
func (f *friend) scanner(ctx context.Context) {
	for {
		select {
		case <-f.scan:
		case <-ctx.Done():
			return
		}
		rooms, err := try(ctx, f, "", f.conn.Rooms)
		if err != nil {
			if ctx.Err() == nil {
				f.fail(fmt.Errorf("echo: list rooms: %w", err))
			}
			return
		}
		for _, r := range rooms {
			if f.concerns(r) {
				f.wake(ctx, r.GetRoomId(), false)
			}
		}
	}
}

// concerns tells whether a room may hold something unanswered.
func (f *friend) concerns(r *edgev1.Room) bool {
	switch last := r.GetLastMessage(); {
	case r.GetUnread() > 0:
		return true
	case r.GetLastSeq() == 0:
		return r.GetKind() == edgev1.RoomKind_ROOM_KIND_DIRECT
	default:
		// The message at the cursor is in doubt, unless it is our own.
		return last.GetSeq() == r.GetMyReadSeq() && last.GetSenderId() != f.me
	}
}
