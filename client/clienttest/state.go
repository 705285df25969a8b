package clienttest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"google.golang.org/protobuf/proto"
)

// The methods below are called with mu held.

func (s *Server) signUp(r *edgev1.SignUpRequest) (*edgev1.Session, *edgev1.Error) {
	login := strings.ToLower(r.Login)
	if s.accounts[login] != nil {
		return nil, refusal("already_exists", "login_taken")
	}
	s.serial++
	name := r.DisplayName
	if name == "" {
		name = login
	}
	user := id.New(1, id.User, id.LoginPartition(login), fmt.Appendf(nil, "%012d", s.serial))
	s.accounts[login] = &account{
		user:     &edgev1.User{UserId: user.String(), Login: login, DisplayName: name},
		password: r.Password,
	}
	return s.newDevice(user.String(), r.DeviceName), nil
}

func (s *Server) signIn(r *edgev1.SignInRequest) (*edgev1.Session, *edgev1.Error) {
	a := s.accounts[strings.ToLower(r.Login)]
	if a == nil || a.password != r.Password {
		return nil, refusal("unauthenticated", "wrong_credentials")
	}
	return s.newDevice(a.user.UserId, r.DeviceName), nil
}

func (s *Server) newDevice(userID, name string) *edgev1.Session {
	s.serial++
	d := &device{id: id.New(1, id.Device, 0, fmt.Appendf(nil, "%012d", s.serial)).String(), userID: userID, name: name}
	s.devices[d.id] = d
	return s.rotate(d)
}

func (s *Server) rotate(d *device) *edgev1.Session {
	d.generation++
	d.access = fmt.Sprintf("access %s %d", d.id, d.generation)
	d.expires = time.Now().Add(s.TokenLife)
	return &edgev1.Session{
		UserId: d.userID, DeviceId: d.id, AccessToken: d.access,
		RefreshToken: fmt.Sprintf("refresh %s %d", d.id, d.generation), ExpiresAt: d.expires.UnixMilli(),
	}
}

func (s *Server) refresh(r *edgev1.RefreshRequest) (*edgev1.Session, *edgev1.Error) {
	var deviceID string
	var generation int
	if _, err := fmt.Sscanf(r.RefreshToken, "refresh %s %d", &deviceID, &generation); err != nil {
		return nil, refusal("unauthenticated", "bad_token")
	}
	d := s.devices[deviceID]
	if d == nil || d.revoked || generation < d.generation-1 {
		return nil, refusal("unauthenticated", "refresh_reused")
	}
	if generation < d.generation {
		d.generation-- // the grace: the last answer again
	}
	return s.rotate(d), nil
}

func (s *Server) authenticate(access string) (*device, *edgev1.Error) {
	for _, d := range s.devices {
		if d.access == access && !d.revoked && time.Now().Before(d.expires) {
			return d, nil
		}
	}
	return nil, refusal("unauthenticated", "token_expired")
}

func (s *Server) user(userID string) *edgev1.User {
	for _, a := range s.accounts {
		if a.user.UserId == userID {
			return a.user
		}
	}
	return nil
}

func (s *Server) next(shard uint32) *edgev1.Position {
	s.index[shard]++
	return &edgev1.Position{Shard: shard, Term: s.term, Index: s.index[shard]}
}

// lost answers which of the presented positions the history lacks.
func (s *Server) lost(presented []*edgev1.Position) (lost []*edgev1.Position) {
	for _, p := range presented {
		above := s.lostAbove[p.Shard]
		if above != nil && p.Term <= above.Term && p.Index > above.Index {
			lost = append(lost, p)
		}
	}
	return lost
}

func member(r *room, userID string) *edgev1.Member {
	i := slices.IndexFunc(r.room.Members, func(m *edgev1.Member) bool { return m.UserId == userID })
	if i < 0 {
		return nil
	}
	return r.room.Members[i]
}

// seen is the room as one member sees it.
func (s *Server) seen(r *room, userID string) *edgev1.Room {
	out := proto.CloneOf(r.room)
	for _, m := range out.Members {
		m.Bot = s.user(m.UserId).GetBot()
	}
	if m := member(r, userID); m != nil {
		out.MyReadSeq, out.MyJoinedSeq = m.ReadSeq, m.JoinedSeq
		out.Unread = out.LastSeq - max(m.ReadSeq, m.JoinedSeq)
	}
	out.MemberCount = uint32(len(out.Members))
	if n := len(r.messages); n > 0 {
		out.LastMessage = proto.CloneOf(r.messages[n-1])
	}
	return out
}

func (s *Server) join(r *room, actor string, userIDs []string) {
	var joined []*edgev1.Member
	for _, u := range userIDs {
		if member(r, u) != nil || s.user(u) == nil {
			continue
		}
		user := s.user(u)
		m := &edgev1.Member{UserId: u, DisplayName: user.DisplayName, Login: user.Login, JoinedSeq: r.room.LastSeq, ReadSeq: r.room.LastSeq}
		r.room.Members = append(r.room.Members, m)
		joined = append(joined, proto.CloneOf(m))
	}
	if len(joined) > 0 {
		r.room.Version++
		s.tell(r, &edgev1.Event{Event: &edgev1.Event_Room{Room: &edgev1.RoomEvent{
			RoomId: r.room.RoomId, Kind: r.room.Kind, Title: r.room.Title, Version: r.room.Version,
			LastSeq: r.room.LastSeq, Joined: joined, MemberCount: uint32(len(r.room.Members)),
			Notice: &edgev1.Notice{AfterSeq: r.room.LastSeq, Kind: edgev1.Notice_KIND_INVITED, ActorId: actor},
		}}})
	}
}

func (s *Server) tell(r *room, e *edgev1.Event) {
	for _, m := range r.room.Members {
		s.push(m.UserId, e)
	}
}

func (s *Server) push(userID string, e *edgev1.Event) {
	for c := range s.sockets {
		if c.userID == userID {
			c.put(&edgev1.ServerFrame{Body: &edgev1.ServerFrame_Event{Event: e}})
		}
	}
}

func (s *Server) makeRoom(roomID string, kind edgev1.RoomKind, title, actor string, userIDs []string) *room {
	r := s.rooms[roomID]
	if r == nil {
		r = &room{room: &edgev1.Room{RoomId: roomID, Kind: kind, Title: title, ActiveAt: time.Now().UnixMilli()}}
		s.rooms[roomID] = r
	}
	s.join(r, actor, userIDs)
	return r
}

func (s *Server) send(actor string, q *edgev1.SendRequest) (*edgev1.SendResponse, *edgev1.Error) {
	r := s.rooms[q.RoomId]
	if r == nil {
		return nil, refusal("not_found", "room_unknown")
	}
	if member(r, actor) == nil {
		return nil, refusal("permission_denied", "not_a_member")
	}
	if strings.TrimSpace(q.Text) == "" {
		return nil, refusal("invalid_argument", "text_empty")
	}
	shard := shardOf(q.RoomId)
	for _, m := range r.messages {
		if m.SenderId == actor && m.ClientId == q.ClientId {
			return &edgev1.SendResponse{Message: proto.CloneOf(m), Position: &edgev1.Position{Shard: shard, Term: s.term, Index: s.index[shard]}}, nil
		}
	}
	r.room.LastSeq++
	m := &edgev1.Message{
		RoomId: q.RoomId, Seq: r.room.LastSeq, SenderId: actor, ClientId: q.ClientId, Text: q.Text,
		SentAt: time.Now().UnixMilli(), ReplyTo: q.ReplyTo, Unread: uint32(len(r.room.Members) - 1),
	}
	r.messages = append(r.messages, m)
	if me := member(r, actor); me.ReadSeq == m.Seq-1 {
		me.ReadSeq = m.Seq
	}
	p := s.next(shard)
	s.tell(r, &edgev1.Event{Event: &edgev1.Event_Message{Message: &edgev1.MessageEvent{Message: proto.CloneOf(m), Position: p}}})
	return &edgev1.SendResponse{Message: proto.CloneOf(m), Position: p}, nil
}

func (s *Server) list(actor string, q *edgev1.ListRequest) (*edgev1.ListResponse, *edgev1.Error) {
	r := s.rooms[q.RoomId]
	if r == nil {
		return nil, refusal("not_found", "room_unknown")
	}
	me := member(r, actor)
	if me == nil {
		return nil, refusal("permission_denied", "not_a_member")
	}
	limit := int(q.Limit)
	if limit == 0 {
		limit = 50
	}
	out := &edgev1.ListResponse{LastSeq: r.room.LastSeq}
	for _, m := range r.messages {
		after := q.AfterSeq == nil || m.Seq > *q.AfterSeq
		if m.Seq > me.JoinedSeq && after && (q.BeforeSeq == 0 || m.Seq < q.BeforeSeq) {
			out.Messages = append(out.Messages, proto.CloneOf(m))
		}
	}
	if out.HasMore = len(out.Messages) > limit; out.HasMore {
		if q.AfterSeq != nil {
			out.Messages = out.Messages[:limit]
		} else {
			out.Messages = out.Messages[len(out.Messages)-limit:]
		}
	}
	return out, nil
}

func (s *Server) markRead(actor string, q *edgev1.MarkReadRequest) (*edgev1.MarkReadResponse, *edgev1.Error) {
	r := s.rooms[q.RoomId]
	if r == nil {
		return nil, refusal("not_found", "room_unknown")
	}
	me := member(r, actor)
	if me == nil {
		return nil, refusal("permission_denied", "not_a_member")
	}
	if q.Seq > r.room.LastSeq {
		return nil, refusal("invalid_argument", "seq_unknown")
	}
	if q.Seq > me.ReadSeq {
		s.tell(r, &edgev1.Event{Event: &edgev1.Event_Read{Read: &edgev1.ReadEvent{
			RoomId:  q.RoomId,
			Changes: []*edgev1.ReadEvent_Change{{UserId: actor, FromSeq: me.ReadSeq, ToSeq: q.Seq}},
		}}})
		me.ReadSeq = q.Seq
	}
	return &edgev1.MarkReadResponse{Position: s.next(shardOf(q.RoomId))}, nil
}

// decide answers a request of a signed-in user; the id is filled in by the
// caller.
func (s *Server) decide(actor, deviceID string, f *edgev1.ClientFrame) *edgev1.ServerFrame {
	out := &edgev1.ServerFrame{}
	var e *edgev1.Error
	switch q := f.Request.(type) {
	case *edgev1.ClientFrame_Ping:
		out.Body = &edgev1.ServerFrame_Ping{Ping: &edgev1.PingResponse{ServerTime: time.Now().UnixMilli()}}
	case *edgev1.ClientFrame_GetMe:
		out.Body = &edgev1.ServerFrame_GetMe{GetMe: &edgev1.GetMeResponse{User: proto.CloneOf(s.user(actor))}}
	case *edgev1.ClientFrame_Find:
		a := s.accounts[strings.ToLower(q.Find.Login)]
		if a == nil {
			e = refusal("not_found", "user_unknown")
			break
		}
		out.Body = &edgev1.ServerFrame_Find{Find: &edgev1.FindResponse{User: proto.CloneOf(a.user)}}
	case *edgev1.ClientFrame_OpenDirect:
		a, err1 := id.Parse(id.User, actor)
		b, err2 := id.Parse(id.User, q.OpenDirect.UserId)
		if err1 != nil || err2 != nil {
			e = refusal("invalid_argument", "user_id")
			break
		}
		r := s.makeRoom(id.Direct(a, b).String(), edgev1.RoomKind_ROOM_KIND_DIRECT, "", actor, []string{actor, q.OpenDirect.UserId})
		out.Body = &edgev1.ServerFrame_OpenDirect{OpenDirect: &edgev1.OpenDirectResponse{Room: s.seen(r, actor), Position: s.next(shardOf(r.room.RoomId))}}
	case *edgev1.ClientFrame_CreateGroup:
		a, _ := id.Parse(id.User, actor)
		key := q.CreateGroup.ClientId
		if key == "" {
			s.serial++
			key = fmt.Sprint(s.serial)
		}
		r := s.makeRoom(id.Group(a, []byte(key)).String(), edgev1.RoomKind_ROOM_KIND_GROUP, q.CreateGroup.Title, actor, append([]string{actor}, q.CreateGroup.UserIds...))
		out.Body = &edgev1.ServerFrame_CreateGroup{CreateGroup: &edgev1.CreateGroupResponse{Room: s.seen(r, actor), Position: s.next(shardOf(r.room.RoomId))}}
	case *edgev1.ClientFrame_Invite:
		r := s.rooms[q.Invite.RoomId]
		s.join(r, actor, q.Invite.UserIds)
		out.Body = &edgev1.ServerFrame_Invite{Invite: &edgev1.InviteResponse{Room: s.seen(r, actor), Position: s.next(shardOf(r.room.RoomId))}}
	case *edgev1.ClientFrame_Leave:
		r := s.rooms[q.Leave.RoomId]
		s.tell(r, &edgev1.Event{Event: &edgev1.Event_Room{Room: &edgev1.RoomEvent{RoomId: r.room.RoomId, Kind: r.room.Kind, LeftUserIds: []string{actor}}}})
		r.room.Members = slices.DeleteFunc(r.room.Members, func(m *edgev1.Member) bool { return m.UserId == actor })
		out.Body = &edgev1.ServerFrame_Leave{Leave: &edgev1.LeaveResponse{}}
	case *edgev1.ClientFrame_GetRoom:
		r := s.rooms[q.GetRoom.RoomId]
		if r == nil || member(r, actor) == nil {
			e = refusal("permission_denied", "not_a_member")
			break
		}
		out.Body = &edgev1.ServerFrame_GetRoom{GetRoom: &edgev1.GetRoomResponse{Room: s.seen(r, actor)}}
	case *edgev1.ClientFrame_ListRooms:
		list := &edgev1.ListRoomsResponse{}
		for _, r := range s.rooms {
			if member(r, actor) != nil {
				list.Rooms = append(list.Rooms, s.seen(r, actor))
			}
		}
		out.Body = &edgev1.ServerFrame_ListRooms{ListRooms: list}
	case *edgev1.ClientFrame_Send:
		var v *edgev1.SendResponse
		v, e = s.send(actor, q.Send)
		out.Body = &edgev1.ServerFrame_Send{Send: v}
	case *edgev1.ClientFrame_List:
		var v *edgev1.ListResponse
		v, e = s.list(actor, q.List)
		out.Body = &edgev1.ServerFrame_List{List: v}
	case *edgev1.ClientFrame_MarkRead:
		var v *edgev1.MarkReadResponse
		v, e = s.markRead(actor, q.MarkRead)
		out.Body = &edgev1.ServerFrame_MarkRead{MarkRead: v}
	case *edgev1.ClientFrame_Typing:
		if r := s.rooms[q.Typing.RoomId]; r != nil {
			for _, m := range r.room.Members {
				if m.UserId != actor {
					s.push(m.UserId, &edgev1.Event{Event: &edgev1.Event_Typing{Typing: &edgev1.TypingEvent{RoomId: q.Typing.RoomId, UserId: actor}}})
				}
			}
		}
		out.Body = &edgev1.ServerFrame_Typing{Typing: &edgev1.TypingResponse{}}
	case *edgev1.ClientFrame_ListDevices:
		list := &edgev1.ListDevicesResponse{}
		for _, d := range s.devices {
			if d.userID == actor && !d.revoked {
				list.Devices = append(list.Devices, &edgev1.Device{DeviceId: d.id, Name: d.name, Current: d.id == deviceID})
			}
		}
		out.Body = &edgev1.ServerFrame_ListDevices{ListDevices: list}
	default:
		e = refusal("unimplemented", "not_in_the_fake")
	}
	if e != nil {
		out.Body = &edgev1.ServerFrame_Error{Error: e}
	}
	return out
}
