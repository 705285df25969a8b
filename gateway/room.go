package gateway

import (
	"context"
	"errors"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// room reads one room as the caller sees it, at or after a position.
func (g *Gateway) room(ctx context.Context, who caller, room id.ID, after *edgev1.Position) (*edgev1.Room, error) {
	q := &nodev1.Query{Actor: who.user.Bytes(), Kind: &nodev1.Query_Room{Room: &nodev1.RoomQuery{RoomId: room.Bytes()}}}
	if after != nil {
		q.AtLeast = []*edgev1.Position{after}
	}
	reply, err := g.query(ctx, q)
	if err != nil {
		return nil, err
	}
	if reply.GetRoom() == nil {
		return nil, errors.New("the backend answered a room query without a room")
	}
	return reply.GetRoom(), nil
}

// change submits a command about a room and returns the room after it.
func (g *Gateway) change(ctx context.Context, who caller, room id.ID, cmd *nodev1.Command) (*edgev1.Room, *edgev1.Position, error) {
	cmd.Actor = who.user.Bytes()
	reply, _, err := g.do(ctx, cmd)
	if err != nil {
		return nil, nil, err
	}
	seen, err := g.room(ctx, who, room, reply.GetPosition())
	return seen, reply.GetPosition(), err
}

func (g *Gateway) openDirect(ctx context.Context, who caller, r *edgev1.OpenDirectRequest) (*edgev1.OpenDirectResponse, error) {
	with, err := userID("userId", r.GetUserId())
	if err != nil {
		return nil, err
	}
	if _, err := g.people(ctx, who, "userId", []id.ID{with}); err != nil {
		return nil, err
	}
	room := id.Direct(who.user, with)
	seen, position, err := g.change(ctx, who, room, &nodev1.Command{Kind: &nodev1.Command_OpenDirect{OpenDirect: &nodev1.OpenDirect{
		RoomId: room.Bytes(), OtherId: with.Bytes(),
	}}})
	if err != nil {
		return nil, err
	}
	return &edgev1.OpenDirectResponse{Room: seen, Position: position}, nil
}

func (g *Gateway) createGroup(ctx context.Context, who caller, r *edgev1.CreateGroupRequest) (*edgev1.CreateGroupResponse, error) {
	title, err := shortText("title", "title", r.GetTitle(), maxTitle)
	if err != nil {
		return nil, err
	}
	users, err := userIDs("userIds", r.GetUserIds(), who.user)
	if err != nil {
		return nil, err
	}
	var key []byte
	if r.GetClientId() != "" {
		if key, err = clientUUID("clientId", r.GetClientId()); err != nil {
			return nil, err
		}
	} else {
		key = make([]byte, 16)
		if _, err := g.random.Read(key); err != nil {
			return nil, err
		}
	}
	if err := g.invitable(ctx, who, users); err != nil {
		return nil, err
	}
	room := id.Group(who.user, key)
	cmd := &nodev1.CreateGroup{RoomId: room.Bytes(), Title: title}
	for _, u := range users {
		cmd.MemberIds = append(cmd.MemberIds, u.Bytes())
	}
	seen, position, err := g.change(ctx, who, room, &nodev1.Command{Kind: &nodev1.Command_CreateGroup{CreateGroup: cmd}})
	if err != nil {
		return nil, err
	}
	return &edgev1.CreateGroupResponse{Room: seen, Position: position}, nil
}

func (g *Gateway) getRoom(ctx context.Context, who caller, r *edgev1.GetRoomRequest) (*edgev1.GetRoomResponse, error) {
	room, err := roomID("roomId", r.GetRoomId())
	if err != nil {
		return nil, err
	}
	seen, err := g.room(ctx, who, room, nil)
	if err != nil {
		return nil, err
	}
	return &edgev1.GetRoomResponse{Room: seen}, nil
}

func (g *Gateway) listRooms(ctx context.Context, who caller, r *edgev1.ListRoomsRequest) (*edgev1.ListRoomsResponse, error) {
	if err := positions("atLeast", r.GetAtLeast()); err != nil {
		return nil, err
	}
	reply, err := g.query(ctx, &nodev1.Query{
		Actor: who.user.Bytes(), AtLeast: r.GetAtLeast(),
		Kind: &nodev1.Query_ListRooms{ListRooms: &edgev1.ListRoomsRequest{}},
	})
	if err != nil {
		return nil, err
	}
	if reply.GetListRooms() == nil {
		return &edgev1.ListRoomsResponse{}, nil
	}
	return reply.GetListRooms(), nil
}

func (g *Gateway) invite(ctx context.Context, who caller, r *edgev1.InviteRequest) (*edgev1.InviteResponse, error) {
	room, err := roomID("roomId", r.GetRoomId())
	if err != nil {
		return nil, err
	}
	users, err := userIDs("userIds", r.GetUserIds(), who.user)
	if err != nil {
		return nil, err
	}
	if len(r.GetUserIds()) == 0 {
		return nil, invalid("userIds", "no_ids", "name at least one person to invite")
	}
	if err := g.invitable(ctx, who, users); err != nil {
		return nil, err
	}
	cmd := &nodev1.Invite{RoomId: room.Bytes()}
	for _, u := range users {
		cmd.MemberIds = append(cmd.MemberIds, u.Bytes())
	}
	if len(users) == 0 { // the caller alone: a member already, or not one to invite
		seen, err := g.room(ctx, who, room, nil)
		if err != nil {
			return nil, err
		}
		return &edgev1.InviteResponse{Room: seen}, nil
	}
	seen, position, err := g.change(ctx, who, room, &nodev1.Command{Kind: &nodev1.Command_Invite{Invite: cmd}})
	if err != nil {
		return nil, err
	}
	return &edgev1.InviteResponse{Room: seen, Position: position}, nil
}

func (g *Gateway) leave(ctx context.Context, who caller, r *edgev1.LeaveRequest) (*edgev1.LeaveResponse, error) {
	room, err := roomID("roomId", r.GetRoomId())
	if err != nil {
		return nil, err
	}
	_, unsure, err := g.do(ctx, &nodev1.Command{Actor: who.user.Bytes(), Kind: &nodev1.Command_Leave{Leave: &nodev1.Leave{RoomId: room.Bytes()}}})
	// After an attempt that nobody answered, not being a member is success.
	if err != nil && !(unsure && isRefusal(err, codePermission)) {
		return nil, err
	}
	return &edgev1.LeaveResponse{}, nil
}

func (g *Gateway) setTitle(ctx context.Context, who caller, r *edgev1.SetTitleRequest) (*edgev1.SetTitleResponse, error) {
	room, err := roomID("roomId", r.GetRoomId())
	if err != nil {
		return nil, err
	}
	title, err := shortText("title", "title", r.GetTitle(), maxTitle)
	if err != nil {
		return nil, err
	}
	seen, position, err := g.change(ctx, who, room, &nodev1.Command{Kind: &nodev1.Command_SetTitle{SetTitle: &nodev1.SetTitle{
		RoomId: room.Bytes(), Title: title,
	}}})
	if err != nil {
		return nil, err
	}
	return &edgev1.SetTitleResponse{Room: seen, Position: position}, nil
}
