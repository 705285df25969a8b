package sim

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// person is someone with a phone: one thing at a time.
type person struct {
	w     *world
	n     int
	id    id.ID
	login string
	rng   *rand.Rand
	home  int  // the machine that is asked first
	moves bool // asks another each time
	reads bool // and sends nothing

	rooms     []*room
	outbox    []*send // unanswered
	positions map[uint32]*edgev1.Position
	cursor    map[*room]uint64
}

// room is one conversation.
type room struct {
	id      id.ID
	members []*person
	make    *nodev1.Command
	by      *person

	mu     sync.Mutex
	opened time.Time // when its making was acknowledged; zero: not yet
	acked  []*send
}

// send is one message, from the moment someone means to send it.
type send struct {
	room     *room
	sender   *person
	clientID [16]byte
	text     string
	seq      uint64 // 0 until acknowledged
	at       time.Time
	through  *life // that acknowledged it
	unsure   bool  // an attempt had no answer
	given    bool  // given up: every attempt was refused for certain
}

func (s *send) client() string { return uuid.UUID(s.clientID).String() }

func randomBytes(rng *rand.Rand, n int) []byte {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.BigEndian.AppendUint64(b, rng.Uint64())
	}
	return b[:n]
}

func (w *world) newPeople(n int) {
	still := w.rng.IntN(2) == 0 // nobody moves, so that a machine may have readers only
	for i := range n {
		login := fmt.Sprintf("sim%d", i)
		rng := rand.New(rand.NewPCG(w.seed, uint64(100+i)))
		w.people = append(w.people, &person{
			w: w, n: i, login: login, rng: rng, id: id.New(0, id.User, id.LoginPartition(login), randomBytes(rng, 12)),
			home: i % len(w.machines), moves: i%3 == 2 && !still, reads: i%3 == 1, positions: map[uint32]*edgev1.Position{}, cursor: map[*room]uint64{},
		})
	}
	for i, p := range w.people {
		for d := 1; d <= 2; d++ {
			o := w.people[(i+d)%n]
			r := &room{id: id.Direct(p.id, o.id), members: []*person{p, o}, by: p}
			r.make = &nodev1.Command{Actor: p.id.Bytes(), Kind: &nodev1.Command_OpenDirect{OpenDirect: &nodev1.OpenDirect{RoomId: r.id.Bytes(), OtherId: o.id.Bytes()}}}
			w.rooms = append(w.rooms, r)
		}
	}
	for g := range 2 {
		perm := w.rng.Perm(n)[:3+g]
		by := w.people[perm[0]]
		r := &room{id: id.Group(by.id, randomBytes(w.rng, 16)), by: by}
		var others [][]byte
		for _, i := range perm {
			r.members = append(r.members, w.people[i])
			if i != perm[0] {
				others = append(others, w.people[i].id.Bytes())
			}
		}
		r.make = &nodev1.Command{Actor: by.id.Bytes(), Kind: &nodev1.Command_CreateGroup{CreateGroup: &nodev1.CreateGroup{RoomId: r.id.Bytes(), Title: fmt.Sprint("group ", g), MemberIds: others}}}
		w.rooms = append(w.rooms, r)
	}
	for _, r := range w.rooms {
		for _, p := range r.members {
			p.rooms = append(p.rooms, r)
		}
	}
}

// ask finds a machine that is up, the one at home first.
func (p *person) ask() *life {
	if p.moves {
		p.home = p.rng.IntN(len(p.w.machines))
	}
	for i := range p.w.machines {
		if l := p.w.machines[(p.home+i)%len(p.w.machines)].up(); l != nil {
			if i > 0 && p.rng.IntN(2) == 0 {
				p.home = l.m.at
			}
			return l
		}
	}
	return nil
}

// outcome of a command, as a person knows it.
type outcome struct {
	reply   *nodev1.Reply
	refused *edgev1.Error // for certain, and for good
	through *life
	unsure  bool // some attempt may have happened
}

// do repeats a command as the gateway does, until an answer, a refusal that
// waiting does not cure, or the deadline.
func (p *person) do(ctx context.Context, cmd *nodev1.Command, within time.Duration) (o outcome) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for attempt := 0; ; attempt++ {
		if l := p.ask(); l != nil {
			reply, err := l.plane.Do(ctx, cmd)
			switch {
			case !p.w.hears(l) || err != nil:
				o.unsure = true
			case reply.GetError() == nil:
				o.reply, o.through = reply, l
				p.note(reply.GetPosition())
				return o
			case !curable(reply.GetError()):
				o.refused = reply.GetError()
				return o
			}
		}
		if !p.pause(ctx, attempt) {
			return o
		}
	}
}

func (p *person) note(at *edgev1.Position) {
	if have := p.positions[at.GetShard()]; at != nil && (have == nil || have.GetIndex() < at.GetIndex()) {
		p.positions[at.GetShard()] = at
	}
}

func (p *person) known() (all []*edgev1.Position) {
	for shard := range uint32(p.w.shards) {
		if at := p.positions[shard]; at != nil {
			all = append(all, at)
		}
	}
	return all
}

// pause waits before the next attempt; false if there is no time left.
func (p *person) pause(ctx context.Context, attempt int) bool {
	d := min(20*time.Millisecond<<min(attempt, 10), 500*time.Millisecond)
	d = d/2 + time.Duration(p.rng.Int64N(int64(d/2)))
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// curable is gateway's: whether waiting a moment may help.
func curable(e *edgev1.Error) bool {
	switch e.GetCode() {
	case "unavailable":
		return e.GetInfo().GetReason() != "room_stopped"
	case "deadline_exceeded":
		return true
	}
	return false
}

// must repeats a command until it is acknowledged or ctx ends.
func (p *person) must(ctx context.Context, cmd *nodev1.Command) bool {
	for ctx.Err() == nil {
		o := p.do(ctx, cmd, 5*time.Second)
		if o.reply != nil {
			return true
		}
		if o.refused != nil {
			p.w.wrong("%s: %s is refused: %v", p.login, name(cmd), o.refused)
			return false
		}
	}
	return false
}

func name(cmd *nodev1.Command) string { return fmt.Sprintf("%T", cmd.GetKind()) }

// live signs up, makes rooms, and sends and reads until ctx ends.
func (p *person) live(ctx context.Context) {
	if !p.signUp(ctx) {
		return
	}
	for p.nap(ctx, 80*time.Millisecond) {
		var open []*room
		for _, r := range p.rooms {
			if r.since().IsZero() {
				// Now and then, so that rooms are made while faults come.
				if r.by == p && p.rng.IntN(16) == 0 && p.open(ctx, r) {
					open = append(open, r)
				}
				continue
			}
			open = append(open, r)
		}
		if len(open) > 0 {
			p.act(ctx, open[p.rng.IntN(len(open))])
		}
	}
}

func (p *person) signUp(ctx context.Context) bool {
	ok := p.must(ctx, &nodev1.Command{Kind: &nodev1.Command_SignUp{SignUp: &nodev1.SignUp{
		UserId: p.id.Bytes(), Login: p.login, DisplayName: p.login, PasswordHash: passwordHash,
		DeviceId: id.New(0, id.Device, p.id.Partition(), randomBytes(p.rng, 12)).Bytes(), DeviceName: "sim",
	}}})
	if ok {
		p.w.signUpDone()
	}
	select {
	case <-p.w.everyone: // rooms need everybody
		return ok
	case <-ctx.Done():
		return false
	}
}

const passwordHash = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

func (p *person) open(ctx context.Context, r *room) bool {
	o := p.do(ctx, r.make, 5*time.Second)
	if o.refused != nil {
		p.w.wrong("%s: %s is refused: %v", p.login, name(r.make), o.refused)
	}
	if o.reply == nil {
		return false
	}
	r.mu.Lock()
	r.opened = time.Now()
	r.mu.Unlock()
	return true
}

func (r *room) since() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.opened
}

func (p *person) nap(ctx context.Context, most time.Duration) bool {
	select {
	case <-time.After(time.Duration(p.rng.Int64N(int64(most)))):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

func (p *person) act(ctx context.Context, r *room) {
	k := p.rng.IntN(20)
	if p.reads {
		k = 12 + p.rng.IntN(8)
	}
	switch {
	case k < 9:
		p.send(ctx, p.newSend(r))
	case k < 11 && len(p.outbox) > 0:
		s := p.outbox[0]
		p.outbox = p.outbox[1:]
		p.send(ctx, s)
	case k < 12:
		if s := p.old(r); s != nil {
			p.send(ctx, s)
		}
	case k < 13:
		if !p.reads {
			p.markRead(ctx, r)
		}
	case k < 17:
		p.read(ctx, r, p.ask(), false)
	default:
		p.read(ctx, r, p.w.machines[p.rng.IntN(len(p.w.machines))].up(), true)
	}
}

func (p *person) newSend(r *room) *send {
	s := &send{room: r, sender: p, clientID: [16]byte(randomBytes(p.rng, 16))}
	s.clientID[6], s.clientID[8] = s.clientID[6]&0x0f|0x80, s.clientID[8]&0x3f|0x80
	s.text = s.client()
	p.w.meant(s)
	return s
}

// old is a message of this person that was acknowledged some time ago.
func (p *person) old(r *room) *send {
	r.mu.Lock()
	defer r.mu.Unlock()
	var mine []*send
	for _, s := range r.acked {
		if s.sender == p {
			mine = append(mine, s)
		}
	}
	if len(mine) == 0 {
		return nil
	}
	return mine[p.rng.IntN(len(mine))]
}

func (p *person) send(ctx context.Context, s *send) {
	o := p.do(ctx, &nodev1.Command{Actor: p.id.Bytes(), Kind: &nodev1.Command_Send{Send: &nodev1.Send{
		RoomId: s.room.id.Bytes(), ClientId: s.clientID[:], Text: s.text,
	}}}, 2*time.Second+time.Duration(p.rng.IntN(3000))*time.Millisecond)
	s.unsure = s.unsure || o.unsure
	switch {
	case o.reply != nil:
		p.w.acked(s, o)
	case s.seq != 0: // acknowledged before
	case o.refused != nil:
		// The room's making was acknowledged, and its members are for ever.
		p.w.wrong("%s: a message into room %s is refused: %v", p.login, s.room.id, o.refused)
	case !s.unsure && p.rng.IntN(2) == 0:
		s.given = true // every attempt was refused for certain: it must never appear
	default:
		s.unsure = true
		p.outbox = append(p.outbox, s)
	}
}

func (p *person) markRead(ctx context.Context, r *room) {
	r.mu.Lock()
	var top uint64
	for _, s := range r.acked {
		top = max(top, s.seq)
	}
	r.mu.Unlock()
	if top == 0 || p.cursor[r] >= top {
		return
	}
	o := p.do(ctx, &nodev1.Command{Actor: p.id.Bytes(), Kind: &nodev1.Command_MarkRead{MarkRead: &nodev1.MarkRead{RoomId: r.id.Bytes(), Seq: top}}}, 2*time.Second)
	if o.refused != nil {
		p.w.wrong("%s: reading up to %d, which was acknowledged, is refused: %v", p.login, top, o.refused)
	}
	p.cursor[r] = top
}

// read asks one machine for the newest page and holds the answer to the claims.
func (p *person) read(ctx context.Context, r *room, l *life, carry bool) {
	if l == nil {
		return
	}
	c := p.w.claims(p, r, l, carry)
	q := &nodev1.Query{Actor: p.id.Bytes(), Kind: &nodev1.Query_History{History: &nodev1.HistoryQuery{RoomId: r.id.Bytes(), Limit: pageSize}}}
	if carry {
		q.AtLeast = p.known()
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	reply, err := l.plane.Query(ctx, q)
	if err != nil || !p.w.hears(l) || (reply.GetError() != nil && curable(reply.GetError())) {
		return
	}
	c.judge(reply)
}

const pageSize = 30

// side reads a room's whole history from one machine's own view.
func (p *person) side(ctx context.Context, r *room, l *life) ([]*edgev1.Message, error) {
	var all []*edgev1.Message
	for {
		after := uint64(0)
		if len(all) > 0 {
			after = all[len(all)-1].GetSeq()
		}
		reply, err := l.plane.Shards.Query(ctx, &nodev1.Query{Actor: p.id.Bytes(), Kind: &nodev1.Query_History{History: &nodev1.HistoryQuery{
			RoomId: r.id.Bytes(), AfterSeq: &after, Limit: 100,
		}}})
		if err == nil && reply.GetError() != nil {
			err = fmt.Errorf("%s", reply.GetError().GetInfo().GetReason())
		}
		if err != nil {
			return nil, err
		}
		all = append(all, reply.GetHistory().GetMessages()...)
		if !reply.GetHistory().GetHasMore() {
			return slices.Clip(all), nil
		}
	}
}
