package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/bongsu-im/bongsu/gateway/auth"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// shards is the stand-in for the real shards: the same rules as far as the
// gateway can tell, in one map, with faults on demand.
type shards struct {
	mu       sync.Mutex
	feed     func([]*nodev1.FeedItem)
	index    uint64
	accounts map[id.ID]*account
	logins   map[string]id.ID
	rooms    map[id.ID]*room
	lost     []*edgev1.Position
	// onDo and onQuery run before anything else; an error of theirs is the answer.
	onDo    func(*nodev1.Command) (*edgev1.Error, error)
	onQuery func(*nodev1.Query) (*edgev1.Error, error)
	// onBegin runs in who begins a command.
	onBegin func()
	// afterDo may replace the answer of a command that has been done.
	afterDo func(*nodev1.Command) error
	ready   error
	did     []*nodev1.Command
	begun   sync.WaitGroup
}

type account struct {
	login, name, hash string
	devices           map[id.ID]*deviceRow
	friends, blocks   map[id.ID]bool
	rooms             map[id.ID]bool
}

type deviceRow struct {
	name       string
	generation uint32
	confirmed  bool
}

type room struct {
	kind    edgev1.RoomKind
	title   string
	members map[id.ID]*memberRow
	msgs    []*edgev1.Message
	version uint64
}

type memberRow struct{ joined, read uint64 }

func newShards() *shards {
	return &shards{accounts: map[id.ID]*account{}, logins: map[string]id.ID{}, rooms: map[id.ID]*room{}, feed: func([]*nodev1.FeedItem) {}}
}

func (b *shards) Ready() error { b.mu.Lock(); defer b.mu.Unlock(); return b.ready }

func user(raw []byte) id.ID { u, _ := id.FromBytes(id.User, raw); return u }
func rid(raw []byte) id.ID  { r, _ := id.FromBytes(id.Room, raw); return r }

func denied(code, reason string) *nodev1.Reply {
	return &nodev1.Reply{Error: &edgev1.Error{Code: code, Message: reason, Info: &edgev1.ErrorInfo{Reason: reason}}}
}

func (b *shards) Do(ctx context.Context, cmd *nodev1.Command) (*nodev1.Reply, error) {
	b.mu.Lock()
	hook := b.onDo
	b.mu.Unlock()
	if hook != nil {
		if e, err := hook(cmd); err != nil || e != nil {
			return &nodev1.Reply{Error: e}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.did = append(b.did, proto.Clone(cmd).(*nodev1.Command))
	reply := b.decide(cmd)
	if b.afterDo != nil {
		if err := b.afterDo(cmd); err != nil {
			return nil, err
		}
	}
	return reply, nil
}

// Begin waits in a goroutine, as a backend behind a network would.
func (b *shards) Begin(cmd *nodev1.Command, deadline time.Time, done func(*nodev1.Reply, error)) {
	b.mu.Lock()
	hook := b.onBegin
	b.mu.Unlock()
	if hook != nil {
		hook()
	}
	b.begun.Go(func() {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		defer cancel()
		done(b.Do(ctx, cmd))
	})
}

func (b *shards) publish(items ...*nodev1.FeedItem) {
	b.index++
	for _, i := range items {
		i.Index = b.index
	}
	b.feed(items)
}

func (b *shards) position() *edgev1.Position {
	return &edgev1.Position{Shard: 1, Term: 1, Index: b.index}
}

func (b *shards) decide(cmd *nodev1.Command) *nodev1.Reply {
	actor := user(cmd.GetActor())
	ok := func() *nodev1.Reply { return &nodev1.Reply{Position: b.position()} }
	switch c := cmd.GetKind().(type) {
	case *nodev1.Command_SignUp:
		r := c.SignUp
		if _, taken := b.logins[r.GetLogin()]; taken {
			return denied("already_exists", "login_taken")
		}
		u := user(r.GetUserId())
		a := &account{login: r.GetLogin(), name: r.GetDisplayName(), hash: r.GetPasswordHash(), devices: map[id.ID]*deviceRow{}, friends: map[id.ID]bool{}, blocks: map[id.ID]bool{}, rooms: map[id.ID]bool{}}
		for _, f := range r.GetFriendIds() {
			a.friends[user(f)] = true
		}
		b.accounts[u], b.logins[r.GetLogin()] = a, u
		a.devices[dev(r.GetDeviceId())] = &deviceRow{name: r.GetDeviceName(), generation: 1}
		b.publish()
		return ok()
	case *nodev1.Command_AddDevice:
		a := b.accounts[user(c.AddDevice.GetUserId())]
		if a == nil || a.hash != c.AddDevice.GetPasswordHash() {
			return denied("unauthenticated", "bad_credentials")
		}
		a.devices[dev(c.AddDevice.GetDeviceId())] = &deviceRow{name: c.AddDevice.GetDeviceName(), generation: 1}
		b.publish()
		return ok()
	case *nodev1.Command_RotateRefresh:
		a := b.accounts[user(c.RotateRefresh.GetUserId())]
		if a == nil || a.devices[dev(c.RotateRefresh.GetDeviceId())] == nil {
			return denied("unauthenticated", "device_revoked")
		}
		d := a.devices[dev(c.RotateRefresh.GetDeviceId())]
		switch g := c.RotateRefresh.GetGeneration(); {
		case g >= d.generation:
			d.generation, d.confirmed = g+1, false
		case g == d.generation-1 && !d.confirmed:
		default:
			b.revoke(user(c.RotateRefresh.GetUserId()), dev(c.RotateRefresh.GetDeviceId()))
			return denied("unauthenticated", "refresh_reused")
		}
		r := ok()
		r.Kind = &nodev1.Reply_Refresh{Refresh: &nodev1.Refresh{Generation: d.generation}}
		return r
	case *nodev1.Command_ConfirmRefresh:
		if a := b.accounts[user(c.ConfirmRefresh.GetUserId())]; a != nil {
			if d := a.devices[dev(c.ConfirmRefresh.GetDeviceId())]; d != nil && d.generation == c.ConfirmRefresh.GetGeneration() {
				d.confirmed = true
			}
		}
		return ok()
	case *nodev1.Command_RevokeDevice:
		a := b.accounts[actor]
		var gone [][]byte
		for d := range a.devices {
			if c.RevokeDevice.GetAll() || d == dev(c.RevokeDevice.GetDeviceId()) {
				gone = append(gone, d.Bytes())
			}
		}
		if len(gone) == 0 {
			return denied("not_found", "device_unknown")
		}
		for _, d := range gone {
			b.revoke(actor, dev(d))
		}
		r := ok()
		r.Kind = &nodev1.Reply_Revoked{Revoked: &nodev1.RevokedDevices{DeviceIds: gone}}
		return r
	case *nodev1.Command_AddFriend:
		b.accounts[actor].friends[user(c.AddFriend.GetFriendId())] = true
		b.publish(&nodev1.FeedItem{UserId: actor.Bytes(), Event: &edgev1.Event{Event: &edgev1.Event_People{People: &edgev1.PeopleEvent{}}}})
		return ok()
	case *nodev1.Command_RemoveFriend:
		delete(b.accounts[actor].friends, user(c.RemoveFriend.GetFriendId()))
		return ok()
	case *nodev1.Command_SetBlock:
		b.accounts[actor].blocks[user(c.SetBlock.GetOtherId())] = c.SetBlock.GetBlocked()
		return ok()
	case *nodev1.Command_OpenDirect:
		r := rid(c.OpenDirect.GetRoomId())
		b.make(r, edgev1.RoomKind_ROOM_KIND_DIRECT, "", actor, user(c.OpenDirect.GetOtherId()))
		return ok()
	case *nodev1.Command_CreateGroup:
		members := []id.ID{actor}
		for _, m := range c.CreateGroup.GetMemberIds() {
			members = append(members, user(m))
		}
		b.make(rid(c.CreateGroup.GetRoomId()), edgev1.RoomKind_ROOM_KIND_GROUP, c.CreateGroup.GetTitle(), members...)
		return ok()
	}
	return b.decideInRoom(cmd, actor, ok)
}

func (b *shards) decideInRoom(cmd *nodev1.Command, actor id.ID, ok func() *nodev1.Reply) *nodev1.Reply {
	var raw []byte
	switch c := cmd.GetKind().(type) {
	case *nodev1.Command_Invite:
		raw = c.Invite.GetRoomId()
	case *nodev1.Command_Leave:
		raw = c.Leave.GetRoomId()
	case *nodev1.Command_SetTitle:
		raw = c.SetTitle.GetRoomId()
	case *nodev1.Command_Send:
		raw = c.Send.GetRoomId()
	case *nodev1.Command_MarkRead:
		raw = c.MarkRead.GetRoomId()
	default:
		return denied("internal", "unexpected_command")
	}
	r := b.rooms[rid(raw)]
	if r == nil {
		return denied("not_found", "room_unknown")
	}
	me := r.members[actor]
	if me == nil {
		return denied("permission_denied", "not_a_member")
	}
	last := uint64(len(r.msgs))
	switch c := cmd.GetKind().(type) {
	case *nodev1.Command_Invite:
		var joined []id.ID
		for _, m := range c.Invite.GetMemberIds() {
			if r.members[user(m)] == nil {
				joined = append(joined, user(m))
			}
		}
		b.join(rid(raw), r, joined...)
	case *nodev1.Command_Leave:
		delete(r.members, actor)
		delete(b.accounts[actor].rooms, rid(raw))
		b.publish(&nodev1.FeedItem{RoomId: raw, Unsubscribe: [][]byte{actor.Bytes()}, Event: &edgev1.Event{Event: &edgev1.Event_Room{Room: &edgev1.RoomEvent{RoomId: rid(raw).String(), LeftUserIds: []string{actor.String()}}}}})
	case *nodev1.Command_SetTitle:
		r.title = c.SetTitle.GetTitle()
	case *nodev1.Command_MarkRead:
		if c.MarkRead.GetSeq() > last {
			return denied("invalid_argument", "seq_beyond_end")
		}
		me.read = max(me.read, c.MarkRead.GetSeq())
	case *nodev1.Command_Send:
		cid, _ := uuid.FromBytes(c.Send.GetClientId())
		for _, m := range r.msgs {
			if m.GetSenderId() == actor.String() && m.GetClientId() == cid.String() {
				reply := ok()
				reply.Kind = &nodev1.Reply_Message{Message: m}
				return reply
			}
		}
		m := &edgev1.Message{
			RoomId: rid(raw).String(), Seq: last + 1, SenderId: actor.String(), ClientId: cid.String(), Text: c.Send.GetText(),
			SentAt: 1, Unread: uint32(len(r.members) - 1), ReplyTo: c.Send.GetReplyTo(),
		}
		r.msgs = append(r.msgs, m)
		b.publish(&nodev1.FeedItem{RoomId: raw, Event: &edgev1.Event{Event: &edgev1.Event_Message{Message: &edgev1.MessageEvent{Message: m}}}})
		reply := ok()
		reply.Kind = &nodev1.Reply_Message{Message: m}
		return reply
	}
	return ok()
}

func (b *shards) make(r id.ID, kind edgev1.RoomKind, title string, members ...id.ID) {
	if b.rooms[r] != nil {
		return
	}
	b.rooms[r] = &room{kind: kind, title: title, members: map[id.ID]*memberRow{}}
	b.join(r, b.rooms[r], members...)
}

func (b *shards) join(rm id.ID, r *room, users ...id.ID) {
	item := &nodev1.FeedItem{RoomId: rm.Bytes(), Event: &edgev1.Event{Event: &edgev1.Event_Room{Room: &edgev1.RoomEvent{RoomId: rm.String(), Kind: r.kind, Title: r.title}}}}
	for _, u := range users {
		r.members[u] = &memberRow{joined: uint64(len(r.msgs))}
		if b.accounts[u] != nil {
			b.accounts[u].rooms[rm] = true
		}
		item.Subscribe = append(item.Subscribe, u.Bytes())
	}
	b.publish(item)
}

func (b *shards) revoke(u, d id.ID) {
	delete(b.accounts[u].devices, d)
	b.publish(&nodev1.FeedItem{UserId: u.Bytes(), RevokedDeviceIds: [][]byte{d.Bytes()}, Event: &edgev1.Event{Event: &edgev1.Event_People{People: &edgev1.PeopleEvent{}}}})
}

func dev(raw []byte) id.ID { d, _ := id.FromBytes(id.Device, raw); return d }

func (b *shards) edgeUser(u id.ID) *edgev1.User {
	a := b.accounts[u]
	if a == nil {
		return nil
	}
	return &edgev1.User{UserId: u.String(), Login: a.login, DisplayName: a.name}
}

func (b *shards) edgeRoom(actor, rm id.ID) *edgev1.Room {
	r := b.rooms[rm]
	me := r.members[actor]
	out := &edgev1.Room{
		RoomId: rm.String(), Kind: r.kind, Title: r.title, LastSeq: uint64(len(r.msgs)), MyReadSeq: me.read,
		Unread: uint64(len(r.msgs)) - max(me.read, me.joined), MemberCount: uint32(len(r.members)), MyJoinedSeq: me.joined,
	}
	for u, m := range r.members {
		out.Members = append(out.Members, &edgev1.Member{UserId: u.String(), Login: b.accounts[u].login, DisplayName: b.accounts[u].name, ReadSeq: m.read, JoinedSeq: m.joined})
	}
	slices.SortFunc(out.Members, func(a, b *edgev1.Member) int { return strings.Compare(a.UserId, b.UserId) })
	return out
}

func (b *shards) Query(ctx context.Context, q *nodev1.Query) (*nodev1.QueryReply, error) {
	b.mu.Lock()
	hook := b.onQuery
	b.mu.Unlock()
	if hook != nil {
		if e, err := hook(q); err != nil || e != nil {
			return &nodev1.QueryReply{Error: e}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	actor := user(q.GetActor())
	refused := func(code, reason string) (*nodev1.QueryReply, error) {
		return &nodev1.QueryReply{Error: denied(code, reason).Error}, nil
	}
	member := func(raw []byte) (*room, *edgev1.Error) {
		r := b.rooms[rid(raw)]
		if r == nil {
			return nil, denied("not_found", "room_unknown").Error
		}
		if r.members[actor] == nil {
			return nil, denied("permission_denied", "not_a_member").Error
		}
		return r, nil
	}
	switch c := q.GetKind().(type) {
	case *nodev1.Query_Credential:
		out := &nodev1.Credential{}
		if u, ok := b.logins[c.Credential.GetLogin()]; ok {
			out.UserId, out.PasswordHash = u.Bytes(), b.accounts[u].hash
		}
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_Credential{Credential: out}}, nil
	case *nodev1.Query_Session:
		out := &nodev1.SessionState{Revoked: true}
		if a := b.accounts[user(c.Session.GetUserId())]; a != nil {
			if d := a.devices[dev(c.Session.GetDeviceId())]; d != nil {
				out = &nodev1.SessionState{Known: true, Generation: d.generation, Confirmed: d.confirmed}
			}
		}
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_Session{Session: out}}, nil
	case *nodev1.Query_GetMe:
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_GetMe{GetMe: &edgev1.GetMeResponse{User: b.edgeUser(actor)}}}, nil
	case *nodev1.Query_Find:
		u, ok := b.logins[c.Find.GetLogin()]
		if !ok {
			return refused("not_found", "user_unknown")
		}
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_Find{Find: &edgev1.FindResponse{User: b.edgeUser(u)}}}, nil
	case *nodev1.Query_ListFriends:
		out := &edgev1.ListFriendsResponse{}
		for u := range b.accounts[actor].friends {
			out.Friends = append(out.Friends, &edgev1.User{UserId: u.String()})
		}
		for u, blocked := range b.accounts[actor].blocks {
			if blocked {
				out.Blocked = append(out.Blocked, &edgev1.User{UserId: u.String()})
			}
		}
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_ListFriends{ListFriends: out}}, nil
	case *nodev1.Query_Devices:
		out := &edgev1.ListDevicesResponse{}
		for d, row := range b.accounts[actor].devices {
			out.Devices = append(out.Devices, &edgev1.Device{DeviceId: d.String(), Name: row.name})
		}
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_Devices{Devices: out}}, nil
	case *nodev1.Query_Room:
		if _, e := member(c.Room.GetRoomId()); e != nil {
			return &nodev1.QueryReply{Error: e}, nil
		}
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_Room{Room: b.edgeRoom(actor, rid(c.Room.GetRoomId()))}}, nil
	case *nodev1.Query_ListRooms:
		out := &edgev1.ListRoomsResponse{}
		for rm := range b.accounts[actor].rooms {
			out.Rooms = append(out.Rooms, b.edgeRoom(actor, rm))
		}
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_ListRooms{ListRooms: out}}, nil
	case *nodev1.Query_History:
		r, e := member(c.History.GetRoomId())
		if e != nil {
			return &nodev1.QueryReply{Error: e}, nil
		}
		out := &edgev1.ListResponse{LastSeq: uint64(len(r.msgs))}
		for _, m := range r.msgs {
			if m.GetSeq() > r.members[actor].joined && (c.History.AfterSeq == nil || m.GetSeq() > c.History.GetAfterSeq()) {
				out.Messages = append(out.Messages, m)
			}
		}
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_History{History: out}}, nil
	case *nodev1.Query_People:
		out := &nodev1.People{}
		for _, raw := range c.People.GetUserIds() {
			p := &nodev1.People_Person{User: b.edgeUser(user(raw))}
			if a := b.accounts[user(raw)]; a != nil {
				p.BlocksActor = a.blocks[actor]
			}
			out.People = append(out.People, p)
		}
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_People{People: out}}, nil
	case *nodev1.Query_Positions:
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_Lost{Lost: &nodev1.LostPositions{Lost: b.lost, ShardCount: 16}}}, nil
	case *nodev1.Query_RoomIds:
		out := &nodev1.RoomIDs{}
		for rm := range b.accounts[actor].rooms {
			out.RoomIds = append(out.RoomIds, rm.Bytes())
		}
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_RoomIds{RoomIds: out}}, nil
	}
	return refused("internal", "unexpected_query")
}

// commands returns what the backend has been asked to do, by kind's filter.
func (b *shards) commands(keep func(*nodev1.Command) bool) (out []*nodev1.Command) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.did {
		if keep(c) {
			out = append(out, c)
		}
	}
	return out
}

func (b *shards) set(change func()) { b.mu.Lock(); defer b.mu.Unlock(); change() }

// pipes is a listener whose connections are net.Pipe: no network, so that a
// test may run in a synctest bubble.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// network is how the world's clients reach its server.
type network interface {
	net.Listener
	dial(ctx context.Context, network, address string) (net.Conn, error)
}

// overEpoll begins the names of tests whose sockets are the system's, and so
// parked where there is epoll. All others use pipes.
const overEpoll = "TestOverEpoll"

// overTLS begins the names of tests whose sockets are encrypted.
const overTLS = "TestOverTLS"

// encrypted is the loopback with TLS on both ends.
type encrypted struct {
	net.Listener
	client *tls.Config
}

func newEncrypted(t testing.TB) encrypted {
	t.Helper()
	lent := httptest.NewTLSServer(nil) // for its certificate
	defer lent.Close()
	return encrypted{
		Listener: tls.NewListener(newLoopback(t), &tls.Config{Certificates: lent.TLS.Certificates, NextProtos: []string{"http/1.1"}}),
		client:   &tls.Config{RootCAs: lent.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com"},
	}
}

func (e encrypted) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return (&tls.Dialer{Config: e.client}).DialContext(ctx, "tcp", e.Addr().String())
}

type loopback struct{ net.Listener }

func newLoopback(t testing.TB) loopback {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return loopback{l}
}

func (l loopback) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
}

type wallClock struct{}

func (wallClock) Now() time.Time { return time.Now() } // the bubble's, inside one

// world is a gateway on a fake backend, with a client.
type world struct {
	t        testing.TB
	g        *Gateway
	b        *shards
	client   *http.Client
	net      network
	registry *prometheus.Registry
	stop     func()
}

var cheap = auth.Params{MemoryKiB: 16, Passes: 1, Lanes: 1}

func newWorld(t testing.TB, change func(*Config)) *world {
	t.Helper()
	b := newShards()
	keys, err := auth.NewRing(&sequence{})
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	cfg := Config{Backend: b, Keys: keys, Clock: wallClock{}, Random: &sequence{}, Registerer: registry, Gatherer: registry, Password: cheap, Version: "test"}
	if change != nil {
		change(&cfg)
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.feed = g.Feed
	var l network = newPipes()
	switch {
	case strings.HasPrefix(t.Name(), overEpoll):
		l = newLoopback(t)
	case strings.HasPrefix(t.Name(), overTLS):
		l = newEncrypted(t)
	}
	server := NewServer(g.Handler(), slog.New(slog.DiscardHandler))
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(l) }()
	transport := &http.Transport{DialContext: l.dial}
	w := &world{t: t, g: g, b: b, client: &http.Client{Transport: transport}, net: l, registry: registry}
	w.stop = sync.OnceFunc(func() {
		g.Close()
		_ = server.Close()
		_ = l.Close()
		transport.CloseIdleConnections()
		<-served
		b.begun.Wait()
	})
	t.Cleanup(w.stop)
	return w
}

// sequence is a deterministic source of randomness.
type sequence struct {
	mu   sync.Mutex
	next uint64
}

func (s *sequence) Read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range b {
		s.next = s.next*6364136223846793005 + 1442695040888963407
		b[i] = byte(s.next >> 56)
	}
	return len(b), nil
}

// reply is an RPC's answer in JSON.
type reply struct {
	status int
	header http.Header
	body   map[string]any
	raw    string
}

func (r reply) str(key string) string { s, _ := r.body[key].(string); return s }
func (r reply) code() string {
	if r.status == 200 {
		return ""
	}
	return r.str("code")
}

// reason digs the ErrorInfo out of the error's details.
func (r reply) info() map[string]any {
	details, _ := r.body["details"].([]any)
	for _, d := range details {
		if debug, ok := d.(map[string]any)["debug"].(map[string]any); ok {
			return debug
		}
	}
	return nil
}

func (w *world) rpc(token, method string, body any) reply {
	w.t.Helper()
	data, ok := body.(string)
	if !ok {
		b, err := json.Marshal(body)
		if err != nil {
			w.t.Fatal(err)
		}
		data = string(b)
	}
	req, err := http.NewRequest("POST", "http://bongsu.test/bongsu.edge.v1."+method, strings.NewReader(data))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := w.client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	r := reply{status: res.StatusCode, header: res.Header, raw: string(raw)}
	_ = json.Unmarshal(raw, &r.body) // not JSON: body stays empty
	return r
}

type person struct {
	id, device      id.ID
	access, refresh string
}

func (w *world) signUp(login string) person {
	w.t.Helper()
	r := w.rpc("", "AccountService/SignUp", map[string]any{"login": login, "password": "password of " + login, "displayName": strings.ToUpper(login)})
	if r.status != 200 {
		w.t.Fatalf("sign up %s: %d %s", login, r.status, r.raw)
	}
	return personOf(w.t, r)
}

func personOf(t testing.TB, r reply) person {
	t.Helper()
	u, err1 := id.Parse(id.User, r.str("userId"))
	d, err2 := id.Parse(id.Device, r.str("deviceId"))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatalf("%v in %s", err, r.raw)
	}
	return person{u, d, r.str("accessToken"), r.str("refreshToken")}
}

// socket is a client's end of a session.
type socket struct {
	t     testing.TB
	conn  *websocket.Conn
	codec codec
	next  uint32
	// events that were read while waiting for an answer
	events []*edgev1.Event
}

func (w *world) dial(c codec, change func(*websocket.DialOptions)) (*socket, *http.Response, error) {
	options := &websocket.DialOptions{HTTPClient: w.client, Subprotocols: []string{c.String()}}
	if change != nil {
		change(options)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, res, err := websocket.Dial(ctx, "ws://bongsu.test/v1/socket", options)
	if err != nil {
		return nil, res, err
	}
	conn.SetReadLimit(1 << 20)
	return &socket{t: w.t, conn: conn, codec: c}, res, nil
}

func (w *world) connect(c codec) *socket {
	w.t.Helper()
	s, _, err := w.dial(c, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = s.conn.CloseNow() })
	return s
}

// open connects and says hello.
func (w *world) open(c codec, p person) *socket {
	w.t.Helper()
	s := w.connect(c)
	s.hello(p.access)
	return s
}

func (s *socket) hello(token string) *edgev1.HelloResponse {
	s.t.Helper()
	f := s.ask(&edgev1.ClientFrame{Request: &edgev1.ClientFrame_Hello{Hello: &edgev1.HelloRequest{AccessToken: token}}})
	if f.GetHello() == nil {
		s.t.Fatalf("hello: %v", f)
	}
	return f.GetHello()
}

func (s *socket) encode(f *edgev1.ClientFrame) (websocket.MessageType, []byte) {
	s.t.Helper()
	kind, marshal := websocket.MessageBinary, proto.Marshal
	if s.codec == jsonCodec {
		kind, marshal = websocket.MessageText, protojson.Marshal
	}
	data, err := marshal(f)
	if err != nil {
		s.t.Fatal(err)
	}
	return kind, data
}

func (s *socket) write(f *edgev1.ClientFrame) uint32 {
	s.t.Helper()
	if f.Id == 0 {
		s.next++
		f.Id = s.next
	}
	kind, data := s.encode(f)
	s.writeRaw(kind, data)
	return f.Id
}

func (s *socket) writeRaw(kind websocket.MessageType, data []byte) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.conn.Write(ctx, kind, data); err != nil {
		s.t.Fatalf("write: %v", err)
	}
}

func (s *socket) readWithin(d time.Duration) (*edgev1.ServerFrame, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	kind, data, err := s.conn.Read(ctx)
	if err != nil {
		return nil, err
	}
	var f edgev1.ServerFrame
	if s.codec == jsonCodec {
		if kind != websocket.MessageText {
			s.t.Fatal("JSON in a binary frame")
		}
		err = protojson.Unmarshal(data, &f)
	} else {
		if kind != websocket.MessageBinary {
			s.t.Fatal("protobuf in a text frame")
		}
		err = proto.Unmarshal(data, &f)
	}
	if err != nil {
		s.t.Fatalf("undecodable frame: %v", err)
	}
	return &f, nil
}

func (s *socket) read() *edgev1.ServerFrame {
	s.t.Helper()
	f, err := s.readWithin(90 * time.Second)
	if err != nil {
		s.t.Fatalf("read: %v", err)
	}
	return f
}

// answer reads until the answer to a request, keeping events.
func (s *socket) answer(frameID uint32) *edgev1.ServerFrame {
	s.t.Helper()
	for {
		f := s.read()
		if f.GetEvent() != nil {
			s.events = append(s.events, f.GetEvent())
			continue
		}
		if f.GetId() != frameID {
			s.t.Fatalf("answer to %d, want %d: %v", f.GetId(), frameID, f)
		}
		return f
	}
}

func (s *socket) ask(f *edgev1.ClientFrame) *edgev1.ServerFrame {
	s.t.Helper()
	return s.answer(s.write(f))
}

// event returns the next event.
func (s *socket) event() *edgev1.Event {
	s.t.Helper()
	if len(s.events) > 0 {
		e := s.events[0]
		s.events = s.events[1:]
		return e
	}
	f := s.read()
	if f.GetEvent() == nil {
		s.t.Fatalf("want an event, got %v", f)
	}
	return f.GetEvent()
}

func (s *socket) ping() {
	s.t.Helper()
	if f := s.ask(&edgev1.ClientFrame{Request: &edgev1.ClientFrame_Ping{Ping: &edgev1.PingRequest{}}}); f.GetPing() == nil {
		s.t.Fatalf("ping: %v", f)
	}
}

func (s *socket) send(room, client, text string) *edgev1.ServerFrame {
	s.t.Helper()
	return s.ask(&edgev1.ClientFrame{Request: &edgev1.ClientFrame_Send{Send: &edgev1.SendRequest{RoomId: room, ClientId: client, Text: text}}})
}

// clientID is a UUID made of a number.
func clientID(n int) string {
	var u uuid.UUID
	u[6], u[8] = 0x70, 0x80
	u[14], u[15] = byte(n>>8), byte(n)
	return u.String()
}

// logs captures everything that is logged, at every level.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logs) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.buf.String() }

func (l *logs) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
