package drill

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/bongsu-im/bongsu/client"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/proof/history"
	"github.com/bongsu-im/bongsu/proof/oracle"
)

// talk is the people of a cluster drill. They write into rooms that live for an
// episode, so that the history of each stays small enough to be judged whole;
// at any moment each lane has one room, and the lanes cover all shards.
type talk struct {
	cfg     talkConfig
	account *account
	people  []*person
	numbers map[*person]int
	auditor *person // a member of every room; says nothing, reads at the end

	writing sync.WaitGroup // lanes
	closing sync.WaitGroup // rooms whose streams are still to catch up

	mu       sync.Mutex
	rooms    []*talkRoom
	problems []string
}

type talkConfig struct {
	URLs   []string // of the nodes
	HTTP   *http.Client
	Seed   uint64
	People int
	Lanes  int
	Shards int
	Pause  time.Duration                    // between two messages of a writer: 0 to this
	Log    func(format string, args ...any) // told of every problem at once; nil for none
}

// talkRoom is a room of one episode.
type talkRoom struct {
	id      string
	streams []*stream

	mu    sync.Mutex
	reads []history.Read
}

const (
	roomMembers  = 3 // beside the auditor
	roomWriters  = 2
	episode      = 12 * time.Second
	roomMessages = 180 // a page of 200 shows the whole room
	readEvery    = 700 * time.Millisecond
	// staleness is how far behind a replica may be that answers a read, and
	// some more for what a loaded machine adds.
	staleness    = 2*time.Second + 500*time.Millisecond
	talkAttempt  = 2 * time.Second // of a read or a handshake; sends have the library's default
	talkSettle   = 90 * time.Second
	talkPatience = 4 * time.Minute // for one message, through any fault
)

var quickBackoff = client.Backoff{Base: 5 * time.Millisecond, Max: 100 * time.Millisecond}

// newTalk signs everyone up.
func newTalk(ctx context.Context, cfg talkConfig, a *account, progress func(int)) (*talk, error) {
	t := &talk{cfg: cfg, account: a, numbers: map[*person]int{}}
	for i := range cfg.People + 1 {
		p := &person{login: fmt.Sprintf("drill-%04d", i)}
		var err error
		// Everybody begins at another node.
		first := i % len(cfg.URLs)
		urls := append(append([]string{}, cfg.URLs[first:]...), cfg.URLs[:first]...)
		if p.client, err = client.New(client.Config{BaseURLs: urls, HTTPClient: cfg.HTTP}); err != nil {
			return nil, err
		}
		if err := signUp(ctx, p.client, p.login); err != nil {
			return nil, fmt.Errorf("sign up %s: %w", p.login, err)
		}
		progress(i + 1)
		if i == cfg.People {
			t.auditor = p
			break
		}
		t.numbers[p] = i
		t.people = append(t.people, p)
	}
	return t, nil
}

// begin gives everyone a socket and an outbox and lets the lanes write until ctx
// ends. Sockets live until close.
func (t *talk) begin(ctx context.Context) {
	for _, p := range t.people {
		p.conn = p.client.Connect(context.WithoutCancel(ctx), client.ConnectOptions{Queue: -1, Backoff: quickBackoff, HandshakeTimeout: talkAttempt})
		p.outbox = client.NewOutbox(p.conn, &keeper{client.NewMemoryStore(), t.account, p.client.UserID(), t.numbers[p]}, client.OutboxOptions{
			Backoff: quickBackoff, OnRetry: t.account.retry,
			// A drill wants every retry there could be.
			Budget: client.BudgetOptions{Tokens: 1000, PerSuccess: 1, PerSecond: 1000},
		})
	}
	for lane := range t.cfg.Lanes {
		t.writing.Go(func() { t.runLane(ctx, lane) })
	}
}

// close ends sockets and outboxes.
func (t *talk) close() {
	for _, p := range append(t.people, t.auditor) {
		if p.outbox != nil {
			p.outbox.Close()
		}
		if p.conn != nil {
			p.conn.Close()
		}
		p.client.Close()
	}
}

func (t *talk) complain(format string, args ...any) {
	if t.cfg.Log != nil {
		t.cfg.Log(format, args...)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.problems) < oracle.MaxDetails {
		t.problems = append(t.problems, fmt.Sprintf(format, args...))
	}
}

// runLane has one room after another.
func (t *talk) runLane(ctx context.Context, lane int) {
	rng := rand.New(rand.NewPCG(t.cfg.Seed, uint64(lane)+1))
	for n := 0; ctx.Err() == nil; n++ {
		members := make([]*person, 0, roomMembers)
		for _, i := range rng.Perm(len(t.people))[:roomMembers] {
			members = append(members, t.people[i])
		}
		room, err := t.open(ctx, rng, lane, members)
		if err != nil {
			if ctx.Err() == nil {
				t.complain("lane %d could not open room %d: %v", lane, n, err)
			}
			return
		}
		t.fill(ctx, rng, room, members)
	}
}

// open makes a room on the lane's shard, however long that takes.
func (t *talk) open(ctx context.Context, rng *rand.Rand, lane int, members []*person) (*talkRoom, error) {
	creator, err := id.Parse(id.User, members[0].client.UserID())
	if err != nil {
		return nil, err
	}
	var key uuid.UUID
	for {
		binary.BigEndian.PutUint64(key[:8], rng.Uint64())
		binary.BigEndian.PutUint64(key[8:], rng.Uint64())
		key[6], key[8] = key[6]&0x0f|0x40, key[8]&0x3f|0x80
		if id.Group(creator, key[:]).Partition().Shard(t.cfg.Shards) == lane%t.cfg.Shards {
			break
		}
	}
	others := []string{t.auditor.client.UserID()}
	for _, p := range members[1:] {
		others = append(others, p.client.UserID())
	}
	for attempt := 0; ; attempt++ {
		made, err := members[0].client.CreateGroup(ctx, fmt.Sprintf("lane %d", lane), others, key.String())
		if err == nil {
			room := &talkRoom{id: made.GetRoomId()}
			for _, p := range members {
				room.streams = append(room.streams, &stream{roomID: room.id, reader: p})
			}
			t.mu.Lock()
			t.rooms = append(t.rooms, room)
			t.mu.Unlock()
			return room, nil
		}
		if !client.IsRetryable(err) || !rest(ctx, max(client.RetryAfter(err), quickBackoff.Limit(attempt))) {
			return nil, err
		}
	}
}

// fill lets a room live for its episode. What is left of it afterwards, streams
// that catch up, is waited for beside the next one.
func (t *talk) fill(ctx context.Context, rng *rand.Rand, room *talkRoom, members []*person) {
	live, leave := context.WithCancel(context.WithoutCancel(ctx))
	var following sync.WaitGroup
	for _, s := range room.streams {
		following.Go(func() { s.reader.follow(live, s, t.complain) })
	}
	alive, end := context.WithTimeout(ctx, episode)
	defer end()
	var writing, busy sync.WaitGroup
	for i, p := range members[:roomWriters] {
		r := rand.New(rand.NewPCG(rng.Uint64(), uint64(i)))
		writing.Go(func() { t.write(alive, r, room, p) })
	}
	busy.Go(func() { t.read(alive, room, members[roomMembers-1]) })
	writing.Wait()
	end() // the next room, so that there are messages under way at any time
	busy.Wait()
	t.closing.Go(func() {
		t.catchUp(room)
		leave()
		following.Wait()
	})
}

// write sends one message after the other; each waits for its acknowledgement.
func (t *talk) write(ctx context.Context, rng *rand.Rand, room *talkRoom, p *person) {
	for n := 0; n < roomMessages/roomWriters && rest(ctx, time.Duration(rng.Int64N(int64(t.cfg.Pause)))); n++ {
		sending, err := p.outbox.Send(client.Draft{RoomID: room.id, Text: fmt.Sprintf("%s says %d", p.login, n)})
		if err != nil {
			t.complain("%s could not put a message into its outbox: %v", p.login, err)
			return
		}
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), talkPatience)
		_, err = sending.Wait(patience)
		cancel()
		if err != nil {
			if !errors.Is(err, client.ErrOutboxClosed) {
				t.complain("message %s of %s was not taken: %v", sending.ClientID, p.login, err)
			}
			return
		}
	}
}

// read reads the room from its beginning now and then, wherever the reader is
// connected. A read without an answer proves nothing.
func (t *talk) read(ctx context.Context, room *talkRoom, p *person) {
	for n := 0; rest(ctx, readEvery); n++ {
		called := time.Now()
		attempt, cancel := context.WithTimeout(ctx, talkAttempt)
		page, err := p.client.ListAfter(attempt, room.id, 0)
		cancel()
		if err != nil {
			continue
		}
		room.note(page, p, staleness, called, len(t.people)+t.numbers[p])
	}
}

// note keeps a reading from the beginning for judgement.
func (r *talkRoom) note(page *edgev1.ListResponse, p *person, grace time.Duration, called time.Time, who int) {
	read := history.Read{Who: who, Whole: !page.GetHasMore(), Called: called, Answer: time.Now(), Grace: grace}
	for i, m := range page.GetMessages() {
		if m.GetSeq() != uint64(i+1) {
			return // the oracle judges holes
		}
		read.Keys = append(read.Keys, historyKey(m.GetSenderId(), m.GetClientId()))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads = append(r.reads, read)
}

// catchUp waits until all live streams of a room have what was acknowledged.
func (t *talk) catchUp(room *talkRoom) {
	newest := t.account.newestIn(room.id)
	for end := time.Now().Add(talkSettle); ; time.Sleep(20 * time.Millisecond) {
		behind := 0
		for _, s := range room.streams {
			if s.last() < newest {
				behind++
			}
		}
		if behind == 0 {
			return
		}
		if time.Now().After(end) {
			t.complain("room %s: %d live streams had not caught up with %d after %v", room.id, behind, newest, talkSettle)
			return
		}
	}
}

// sides are the live streams of all rooms.
func (t *talk) sides() (sides []oracle.Side) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.rooms {
		for _, s := range r.streams {
			sides = append(sides, oracle.Side{RoomID: r.id, Reader: s.reader.login + " (live)", Messages: s.all()})
		}
	}
	return sides
}

// audit reads every room from one node, as the auditor. A room that does not
// have yet what was acknowledged is read again for a while.
func (t *talk) audit(ctx context.Context, name, url string, progress func(done, of int)) (sides []oracle.Side, err error) {
	c, err := client.New(client.Config{BaseURL: url, HTTPClient: t.cfg.HTTP})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := signIn(ctx, c, t.auditor.login); err != nil {
		return nil, fmt.Errorf("sign in at %s: %w", name, err)
	}
	newest := t.account.newest()
	t.mu.Lock()
	rooms := append([]*talkRoom{}, t.rooms...)
	t.mu.Unlock()
	for i, room := range rooms {
		progress(i, len(rooms))
		side, err := t.auditRoom(ctx, c, room, newest[room.id])
		if err != nil {
			return sides, fmt.Errorf("at %s: %w", name, err)
		}
		sides = append(sides, oracle.Side{RoomID: room.id, Reader: "the auditor at " + name, Messages: side})
	}
	return sides, nil
}

func (t *talk) auditRoom(ctx context.Context, c *client.Client, room *talkRoom, newest uint64) (all []*edgev1.Message, err error) {
	for end := time.Now().Add(20 * time.Second); ; {
		called := time.Now()
		limit, cancel := context.WithTimeout(ctx, 30*time.Second)
		all, err = readHistory(limit, c.API, room.id)
		cancel()
		if err != nil {
			return nil, err
		}
		if len(all) > 0 && all[len(all)-1].GetSeq() >= newest || newest == 0 || time.Now().After(end) {
			room.note(&edgev1.ListResponse{Messages: all}, t.auditor, 0, called, 2*len(t.people))
			return all, nil
		}
		if !rest(ctx, 100*time.Millisecond) {
			return nil, ctx.Err()
		}
	}
}

// signIn signs in, however often the answer gets lost.
func signIn(ctx context.Context, c *client.Client, login string) error {
	for {
		_, err := c.SignIn(ctx, login, drillPassword, "")
		if !client.IsRetryable(err) || !rest(ctx, max(client.RetryAfter(err), 50*time.Millisecond)) {
			return err
		}
	}
}
