package shard

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/bongsu-im/bongsu/chat"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/internal/mutant"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/view"
)

const (
	maxPositions   = 256  // in one query
	maxListedRooms = 2000 // in one ListRooms
	listedMembers  = 10   // of each of them
	maxPeople      = 5000 // in one PeopleQuery, as many as a friend list holds
)

// QueryHere is Query for another node that has asked this one: what is absent
// here is refused, so that two nodes never ask each other. A list of rooms alone
// may ask for its rooms, which asks for nothing more.
func (s *Set) QueryHere(ctx context.Context, q *nodev1.Query) (*nodev1.QueryReply, error) {
	if q.GetListRooms() != nil {
		return s.Query(ctx, q)
	}
	return s.query(ctx, q, nil)
}

// Query answers from the views, which hold what is committed and nothing else.
// A refusal is in QueryReply.Error; an error means that ctx ended before an
// answer was there. Nothing is changed in any case.
func (s *Set) Query(ctx context.Context, q *nodev1.Query) (*nodev1.QueryReply, error) {
	return s.query(ctx, q, s.cfg.Remote)
}

func (s *Set) query(ctx context.Context, q *nodev1.Query, remote func(context.Context, *nodev1.Query) (*nodev1.QueryReply, error)) (*nodev1.QueryReply, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if why := s.await(ctx, q.GetAtLeast()); why != nil {
		return queryRefusal(*why), nil
	}
	v := &views{set: s, ctx: ctx, remote: remote, atLeast: q.GetAtLeast(), readers: make(map[int]*view.Reader)}
	defer v.close()
	owned := s.ownsAll(q)
	reply, err := v.answer(q)
	if e, ok := chat.AsRefusal(err); ok {
		reply, err = &nodev1.QueryReply{Error: e}, nil
	}
	if err == nil {
		if denies(reply) && !mutant.On(mutant.StaleNo) {
			switch {
			case !owned || !s.ownsAll(q):
				return queryRefusal(notOwner), nil
			case !s.sure(ctx, q):
				return queryRefusal(behind), nil
			}
		}
		return reply, nil
	}
	var not *notReadyError
	if errors.As(err, &not) {
		return queryRefusal(not.why), nil
	}
	if errors.Is(err, view.ErrClosed) {
		return queryRefusal(draining), nil
	}
	if s.cfg.View.Err() != nil { // it has said so itself, once
		return queryRefusal(storeFenced), nil
	}
	s.cfg.Logger.Error("a query failed", "error", err)
	return queryRefusal(damaged), nil
}

// denies tells whether an answer denies something that a replica may only not know
// of yet. What is wrong with a query in itself any replica knows.
func denies(reply *nodev1.QueryReply) bool {
	if e := reply.GetError(); e != nil {
		return e.GetCode() != badShard.code
	}
	switch k := reply.GetKind().(type) {
	case *nodev1.QueryReply_Credential:
		return len(k.Credential.GetUserId()) == 0
	case *nodev1.QueryReply_Session:
		return !k.Session.GetKnown()
	}
	return false
}

// ownsAll tells whether this node decides about what a query is about, so that
// it may say no: a replica knows what was, and not what is. It may where there
// are no other nodes, and about many shards, of which nobody owns all.
func (s *Set) ownsAll(q *nodev1.Query) bool {
	if s.cfg.Elsewhere == nil {
		return true
	}
	p, err := chat.QueryPartition(q)
	return err != nil || s.owner(p).owned.Load()
}

// await waits until the views hold the positions, for QueryWait at most.
func (s *Set) await(ctx context.Context, positions []*edgev1.Position) *reason {
	if len(positions) > maxPositions {
		return &tooMany
	}
	if mutant.On(mutant.IgnorePositions) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.QueryWait)
	defer cancel()
	for _, p := range positions {
		if p.GetShard() >= uint32(len(s.owners)) {
			return &badShard
		}
		if s.cfg.Absent != nil && s.cfg.Absent(int(p.GetShard())) {
			continue // whoever is asked about it waits
		}
		o := s.owners[p.GetShard()]
		for {
			changed := o.applied.wait()
			// The index alone proves nothing: after a lost tail another history
			// has an entry of that number. An owner knows the end and need not
			// wait for what will never come; hello tells the client.
			applied := o.view.Mark().GetIndex() >= p.GetIndex()
			if (applied || o.owned.Load()) && o.lost(p) {
				return &behind
			}
			if applied {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return &behind
			}
		}
	}
	return nil
}

// lost tells whether the history, as far as the journal knows it, has no such
// position: it was acknowledged and is gone, or never was.
func (o *owner) lost(p *edgev1.Position) bool {
	return !o.log.Contains(journal.Position{Term: journal.Term(p.GetTerm()), Index: journal.Index(p.GetIndex())})
}

// views is the readers of one query, each made when first needed: what a query
// tells of one shard is of one moment.
type views struct {
	set     *Set
	ctx     context.Context                                                  // of the query
	remote  func(context.Context, *nodev1.Query) (*nodev1.QueryReply, error) // for what is absent here; may be nil
	atLeast []*edgev1.Position                                               // of the query
	readers map[int]*view.Reader
}

// absent tells whether another node has to be asked about a partition.
func (v *views) absent(p id.Partition) bool {
	return v.remote != nil && v.set.cfg.Absent != nil && v.set.cfg.Absent(p.Shard(len(v.set.owners)))
}

// ask has another node answer. A refusal that says it cannot now is that of the
// whole query.
func (v *views) ask(q *nodev1.Query) (*nodev1.QueryReply, error) {
	q.AtLeast = v.atLeast
	reply, err := v.remote(v.ctx, q)
	if err == nil && reply.GetError().GetCode() == behind.code {
		err = &notReadyError{behind}
	}
	return reply, err
}

func (v *views) close() {
	for _, r := range v.readers {
		_ = r.Close() // frees memory only
	}
}

// notReadyError: a shard does not serve reads now.
type notReadyError struct{ why reason }

func (e *notReadyError) Error() string { return e.why.reason }

func (v *views) at(p id.Partition) (chat.Reader, error) { return v.shard(p.Shard(len(v.set.owners))) }

func (v *views) shard(n int) (*view.Reader, error) {
	if r := v.readers[n]; r != nil {
		return r, nil
	}
	o := v.set.owners[n]
	if v.set.cfg.Absent != nil && v.set.cfg.Absent(n) {
		return nil, &notReadyError{behind} // empty, or of the time when there was a replica
	}
	// A view without an owner is still true, only perhaps old; one that is being
	// built, damaged or on its way out is not to be read.
	if why := o.status.reason(); why != nil && *why != notOwner {
		return nil, &notReadyError{*why}
	}
	if !o.owned.Load() && !v.set.cfg.Fresh(n) && !mutant.On(mutant.FreshAlways) {
		return nil, &notReadyError{behind}
	}
	r, err := o.view.Reader()
	if err != nil {
		return nil, err
	}
	v.readers[n] = r
	return r, nil
}

func (v *views) answer(q *nodev1.Query) (*nodev1.QueryReply, error) {
	switch k := q.GetKind().(type) {
	case *nodev1.Query_ListRooms:
		return v.listRooms(q)
	case *nodev1.Query_People:
		return v.people(q, k.People)
	case *nodev1.Query_Positions:
		return v.positions(k.Positions)
	}
	p, err := chat.QueryPartition(q)
	if err != nil {
		return nil, err
	}
	r, err := v.at(p)
	if err != nil {
		return nil, err
	}
	reply, err := chat.Answer(r, q)
	if reply.GetError() != nil && err != nil {
		v.set.cfg.Logger.Error("a query panicked; it is refused", "error", err)
		return reply, nil
	}
	if err != nil || reply.GetError() != nil {
		return reply, err
	}
	return reply, v.fill(reply)
}

// fill adds what only other shards know: who people are.
func (v *views) fill(reply *nodev1.QueryReply) error {
	names := newNames(v)
	switch k := reply.GetKind().(type) {
	case *nodev1.QueryReply_Room:
		names.members(k.Room.GetMembers())
	case *nodev1.QueryReply_ListFriends:
		f := k.ListFriends
		f.Friends, f.Blocked = names.users(f.GetFriends()), names.users(f.GetBlocked())
	case *nodev1.QueryReply_History:
		for _, n := range k.History.GetNotices() {
			names.notice(n)
		}
	}
	return names.err
}

func (v *views) listRooms(q *nodev1.Query) (*nodev1.QueryReply, error) {
	actor, err := id.FromBytes(id.User, q.GetActor())
	if err != nil {
		return queryRefusal(badActor), nil
	}
	r, err := v.at(actor.Partition())
	if err != nil {
		return nil, err
	}
	listed, err := chat.RoomIDs(r, actor)
	if err != nil {
		return nil, err
	}
	var rooms []*edgev1.Room
	for _, room := range listed {
		e, err := v.listed(q.GetActor(), actor, room)
		if err != nil {
			return nil, err
		}
		if e != nil { // else the list lags behind a leave; the room knows better
			rooms = append(rooms, e)
		}
	}
	slices.SortStableFunc(rooms, func(a, b *edgev1.Room) int {
		return cmp.Or(cmp.Compare(b.GetActiveAt(), a.GetActiveAt()), cmp.Compare(a.GetRoomId(), b.GetRoomId()))
	})
	if len(rooms) > maxListedRooms {
		rooms = rooms[:maxListedRooms]
	}
	names := newNames(v)
	for _, room := range rooms {
		names.members(room.GetMembers())
	}
	return &nodev1.QueryReply{Kind: &nodev1.QueryReply_ListRooms{ListRooms: &edgev1.ListRoomsResponse{Rooms: rooms}}}, names.err
}

// listed is a room as it stands in a list; nil if the actor is not in it.
func (v *views) listed(raw []byte, actor, room id.ID) (*edgev1.Room, error) {
	if v.absent(room.Partition()) {
		reply, err := v.ask(&nodev1.Query{Actor: raw, Kind: &nodev1.Query_Room{Room: &nodev1.RoomQuery{RoomId: room.Bytes()}}})
		if err != nil || reply.GetError() != nil {
			return nil, err
		}
		e := reply.GetRoom()
		e.Members = e.GetMembers()[:min(len(e.GetMembers()), listedMembers)]
		return e, nil
	}
	r, err := v.at(room.Partition())
	if err != nil {
		return nil, err
	}
	e, err := chat.RoomOf(r, actor, room, listedMembers)
	if _, refused := chat.AsRefusal(err); refused {
		return nil, nil
	}
	return e, err
}

func (v *views) people(q *nodev1.Query, k *nodev1.PeopleQuery) (*nodev1.QueryReply, error) {
	if len(k.GetUserIds()) > maxPeople {
		return queryRefusal(tooManyPeople), nil
	}
	var actor id.ID
	if len(q.GetActor()) > 0 {
		var err error
		if actor, err = id.FromBytes(id.User, q.GetActor()); err != nil {
			return queryRefusal(badActor), nil
		}
	}
	out := &nodev1.People{People: make([]*nodev1.People_Person, len(k.GetUserIds()))}
	unknown := map[int][]int{} // by shard: whom this node cannot tell of for certain
	for i, raw := range k.GetUserIds() {
		user, err := id.FromBytes(id.User, raw)
		if err != nil {
			out.People[i] = &nodev1.People_Person{} // nobody has such an ID
			continue
		}
		n := user.Partition().Shard(len(v.set.owners))
		if v.absent(user.Partition()) {
			unknown[n] = append(unknown[n], i)
			continue
		}
		r, err := v.at(user.Partition())
		if err != nil {
			return nil, err
		}
		if out.People[i], err = chat.Person(r, user, actor); err != nil {
			return nil, err
		}
		if out.People[i].GetUser() == nil && v.set.cfg.Elsewhere != nil && !mutant.On(mutant.StaleNo) {
			unknown[n] = append(unknown[n], i)
		}
	}
	for n, which := range unknown {
		if err := v.settle(q, k, n, which, out.People); err != nil {
			return nil, err
		}
	}
	return &nodev1.QueryReply{Kind: &nodev1.QueryReply_People{People: out}}, nil
}

// settle makes sure of people of one shard: that somebody does not exist is the
// owner's to say, once for all that a query asks about.
func (v *views) settle(q *nodev1.Query, k *nodev1.PeopleQuery, n int, which []int, people []*nodev1.People_Person) error {
	here := v.set.cfg.Absent == nil || !v.set.cfg.Absent(n)
	switch o := v.set.owners[n]; {
	case here && o.owned.Load() && o.prove(v.ctx):
		return nil
	case v.remote == nil:
		return &notReadyError{notOwner}
	}
	ask := &nodev1.PeopleQuery{}
	for _, i := range which {
		ask.UserIds = append(ask.UserIds, k.GetUserIds()[i])
	}
	reply, err := v.ask(&nodev1.Query{Actor: q.GetActor(), Kind: &nodev1.Query_People{People: ask}})
	if err != nil {
		return err
	}
	found := reply.GetPeople().GetPeople()
	if len(found) != len(which) {
		return &notReadyError{behind}
	}
	for at, i := range which {
		people[i] = found[at]
	}
	return nil
}

// positions tells which of a client's positions our history does not contain.
// Each such position is proof of a lost tail; it is recorded, once.
func (v *views) positions(k *edgev1.HelloRequest) (*nodev1.QueryReply, error) {
	if len(k.GetPositions()) > maxPositions {
		return queryRefusal(tooMany), nil
	}
	out := &nodev1.LostPositions{ShardCount: uint32(len(v.set.owners))}
	for _, p := range k.GetPositions() {
		if p.GetShard() >= uint32(len(v.set.owners)) {
			out.Lost = append(out.Lost, p) // of another cell or another shard map
			continue
		}
		o := v.set.owners[p.GetShard()]
		if !o.owned.Load() {
			// Only the owner knows the journal's end.
			return nil, &notReadyError{*cmp.Or(o.status.reason(), &notOwner)}
		}
		if o.lost(p) {
			out.Lost = append(out.Lost, p)
			o.witness(p)
		}
	}
	return &nodev1.QueryReply{Kind: &nodev1.QueryReply_Lost{Lost: out}}, nil
}

// nameRoomEvent fills in the names of an event for the feed, as far as the
// views know them; clients ask for those that are missing.
func (s *Set) nameRoomEvent(e *edgev1.RoomEvent) {
	v := &views{set: s, readers: make(map[int]*view.Reader)}
	defer v.close()
	names := newNames(v)
	names.members(e.GetJoined())
	if e.GetNotice() != nil {
		names.notice(e.GetNotice())
	}
}

// names looks people up, each once a query.
type names struct {
	views *views
	known map[string]*edgev1.User
	err   error // the first failure of a store
}

func newNames(v *views) *names { return &names{views: v, known: make(map[string]*edgev1.User)} }

// user returns nil for one that does not exist or cannot be read now.
func (n *names) user(text string) *edgev1.User {
	if u, ok := n.known[text]; ok {
		return u
	}
	u := n.look(text)
	n.known[text] = u
	return u
}

func (n *names) look(text string) *edgev1.User {
	user, err := id.Parse(id.User, text)
	if err != nil {
		return nil
	}
	r, err := n.views.at(user.Partition())
	if not := (*notReadyError)(nil); errors.As(err, &not) {
		return nil // a name is no reason to withhold a room
	}
	if err != nil {
		n.err = cmp.Or(n.err, err)
		return nil
	}
	p, err := chat.Person(r, user, id.ID{})
	if err != nil {
		n.err = cmp.Or(n.err, err)
	}
	return p.GetUser()
}

func (n *names) members(members []*edgev1.Member) {
	for _, m := range members {
		if u := n.user(m.GetUserId()); u != nil {
			m.DisplayName, m.Login, m.Bot = u.GetDisplayName(), u.GetLogin(), u.GetBot()
		}
	}
}

// users fills a list in and orders it by name.
func (n *names) users(list []*edgev1.User) []*edgev1.User {
	for i, u := range list {
		if full := n.user(u.GetUserId()); full != nil {
			list[i] = full
		}
	}
	slices.SortStableFunc(list, func(a, b *edgev1.User) int {
		return cmp.Or(cmp.Compare(a.GetDisplayName(), b.GetDisplayName()), cmp.Compare(a.GetUserId(), b.GetUserId()))
	})
	return list
}

func (n *names) notice(notice *edgev1.Notice) {
	people := append([]string{notice.GetActorId()}, notice.GetSubjectIds()...)
	for _, text := range people {
		u := n.user(text)
		if u == nil {
			continue
		}
		if notice.DisplayNames == nil {
			notice.DisplayNames = make(map[string]string, len(people))
		}
		notice.DisplayNames[text] = u.GetDisplayName()
	}
}

// witness records that a client has proven a position that our history lacks:
// once in the log for each, and as a TailLost record, which the owner leaves
// out if it has one that says as much. Nobody waits for it.
func (o *owner) witness(p *edgev1.Position) {
	o.metrics.lost.Inc()
	if !o.witnessed.first(p.GetTerm(), p.GetIndex()) {
		return
	}
	last := o.log.Last()
	o.logger.Error("a client holds an acknowledgement that our history does not contain: acknowledged entries are lost",
		"proven_term", p.GetTerm(), "proven_index", p.GetIndex(), "last_term", last.Term, "last_index", last.Index)
	cmd := &nodev1.Command{Kind: &nodev1.Command_NoteTailLost{NoteTailLost: &nodev1.NoteTailLost{
		Shard: uint32(o.n), ProvenTerm: p.GetTerm(), ProvenIndex: p.GetIndex(), Proof: "a client's acknowledgement",
	}}}
	o.set.background.start(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if reply, err := o.set.cfg.Do(ctx, cmd); err != nil || reply.GetError() != nil {
			o.logger.Warn("a lost tail could not be recorded", "error", err, "refusal", reply.GetError().GetInfo().GetReason())
			o.witnessed.forget(p.GetTerm())
		}
	})
}
