package client

import (
	"context"
	"fmt"

	"connectrpc.com/connect"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/bongsu-im/bongsu/gen/bongsu/edge/v1/edgev1connect"
)

// stubs are the generated clients of the four services.
type stubs struct {
	account edgev1connect.AccountServiceClient
	people  edgev1connect.PeopleServiceClient
	room    edgev1connect.RoomServiceClient
	message edgev1connect.MessageServiceClient
}

func newStubs(cfg *Config, base string) stubs {
	options := []connect.ClientOption{connect.WithReadMaxBytes(maxFrameBytes)}
	if cfg.JSON {
		options = append(options, connect.WithProtoJSON())
	}
	return stubs{
		account: edgev1connect.NewAccountServiceClient(cfg.HTTPClient, base, options...),
		people:  edgev1connect.NewPeopleServiceClient(cfg.HTTPClient, base, options...),
		room:    edgev1connect.NewRoomServiceClient(cfg.HTTPClient, base, options...),
		message: edgev1connect.NewMessageServiceClient(cfg.HTTPClient, base, options...),
	}
}

// unary calls one method with a bearer token.
func unary[Q, R any](ctx context.Context, token string, q *Q, call func(context.Context, *connect.Request[Q]) (*connect.Response[R], error)) (*R, error) {
	request := connect.NewRequest(q)
	if token != "" {
		request.Header().Set("Authorization", "Bearer "+token)
	}
	response, err := call(ctx, request)
	if err != nil {
		return nil, fromRPC(err)
	}
	return response.Msg, nil
}

// carry implements carrier by RPC: with a session that is fresh, and once more
// if the server found the token too old all the same.
func (c *Client) carry(ctx context.Context, f *edgev1.ClientFrame) (*edgev1.ServerFrame, error) {
	ctx, cancel := c.withTimeout(ctx)
	defer cancel()
	token, err := c.accessToken(ctx)
	if err != nil {
		return nil, err
	}
	dispatch := func(s stubs) (*edgev1.ServerFrame, error) { return s.dispatch(ctx, token, f) }
	answer, err := call(c, dispatch)
	if isUnauthenticated(err) {
		if token, err = c.renew(ctx, token); err != nil {
			return nil, err
		}
		answer, err = call(c, dispatch)
	}
	if err != nil {
		return nil, err
	}
	c.note(answer)
	return answer, nil
}

// dispatch is the one place that knows which frame is which method.
func (s stubs) dispatch(ctx context.Context, token string, f *edgev1.ClientFrame) (*edgev1.ServerFrame, error) {
	out := &edgev1.ServerFrame{}
	var err error
	switch r := f.Request.(type) {
	case *edgev1.ClientFrame_GetMe:
		var v *edgev1.GetMeResponse
		v, err = unary(ctx, token, r.GetMe, s.account.GetMe)
		out.Body = &edgev1.ServerFrame_GetMe{GetMe: v}
	case *edgev1.ClientFrame_ListDevices:
		var v *edgev1.ListDevicesResponse
		v, err = unary(ctx, token, r.ListDevices, s.account.ListDevices)
		out.Body = &edgev1.ServerFrame_ListDevices{ListDevices: v}
	case *edgev1.ClientFrame_RevokeDevice:
		var v *edgev1.RevokeDeviceResponse
		v, err = unary(ctx, token, r.RevokeDevice, s.account.RevokeDevice)
		out.Body = &edgev1.ServerFrame_RevokeDevice{RevokeDevice: v}
	case *edgev1.ClientFrame_Find:
		var v *edgev1.FindResponse
		v, err = unary(ctx, token, r.Find, s.people.Find)
		out.Body = &edgev1.ServerFrame_Find{Find: v}
	case *edgev1.ClientFrame_AddFriend:
		var v *edgev1.AddFriendResponse
		v, err = unary(ctx, token, r.AddFriend, s.people.AddFriend)
		out.Body = &edgev1.ServerFrame_AddFriend{AddFriend: v}
	case *edgev1.ClientFrame_RemoveFriend:
		var v *edgev1.RemoveFriendResponse
		v, err = unary(ctx, token, r.RemoveFriend, s.people.RemoveFriend)
		out.Body = &edgev1.ServerFrame_RemoveFriend{RemoveFriend: v}
	case *edgev1.ClientFrame_ListFriends:
		var v *edgev1.ListFriendsResponse
		v, err = unary(ctx, token, r.ListFriends, s.people.ListFriends)
		out.Body = &edgev1.ServerFrame_ListFriends{ListFriends: v}
	case *edgev1.ClientFrame_Block:
		var v *edgev1.BlockResponse
		v, err = unary(ctx, token, r.Block, s.people.Block)
		out.Body = &edgev1.ServerFrame_Block{Block: v}
	case *edgev1.ClientFrame_Unblock:
		var v *edgev1.UnblockResponse
		v, err = unary(ctx, token, r.Unblock, s.people.Unblock)
		out.Body = &edgev1.ServerFrame_Unblock{Unblock: v}
	case *edgev1.ClientFrame_OpenDirect:
		var v *edgev1.OpenDirectResponse
		v, err = unary(ctx, token, r.OpenDirect, s.room.OpenDirect)
		out.Body = &edgev1.ServerFrame_OpenDirect{OpenDirect: v}
	case *edgev1.ClientFrame_CreateGroup:
		var v *edgev1.CreateGroupResponse
		v, err = unary(ctx, token, r.CreateGroup, s.room.CreateGroup)
		out.Body = &edgev1.ServerFrame_CreateGroup{CreateGroup: v}
	case *edgev1.ClientFrame_GetRoom:
		var v *edgev1.GetRoomResponse
		v, err = unary(ctx, token, r.GetRoom, s.room.GetRoom)
		out.Body = &edgev1.ServerFrame_GetRoom{GetRoom: v}
	case *edgev1.ClientFrame_ListRooms:
		var v *edgev1.ListRoomsResponse
		v, err = unary(ctx, token, r.ListRooms, s.room.ListRooms)
		out.Body = &edgev1.ServerFrame_ListRooms{ListRooms: v}
	case *edgev1.ClientFrame_Invite:
		var v *edgev1.InviteResponse
		v, err = unary(ctx, token, r.Invite, s.room.Invite)
		out.Body = &edgev1.ServerFrame_Invite{Invite: v}
	case *edgev1.ClientFrame_Leave:
		var v *edgev1.LeaveResponse
		v, err = unary(ctx, token, r.Leave, s.room.Leave)
		out.Body = &edgev1.ServerFrame_Leave{Leave: v}
	case *edgev1.ClientFrame_SetTitle:
		var v *edgev1.SetTitleResponse
		v, err = unary(ctx, token, r.SetTitle, s.room.SetTitle)
		out.Body = &edgev1.ServerFrame_SetTitle{SetTitle: v}
	case *edgev1.ClientFrame_Send:
		var v *edgev1.SendResponse
		v, err = unary(ctx, token, r.Send, s.message.Send)
		out.Body = &edgev1.ServerFrame_Send{Send: v}
	case *edgev1.ClientFrame_List:
		var v *edgev1.ListResponse
		v, err = unary(ctx, token, r.List, s.message.List)
		out.Body = &edgev1.ServerFrame_List{List: v}
	case *edgev1.ClientFrame_MarkRead:
		var v *edgev1.MarkReadResponse
		v, err = unary(ctx, token, r.MarkRead, s.message.MarkRead)
		out.Body = &edgev1.ServerFrame_MarkRead{MarkRead: v}
	case *edgev1.ClientFrame_Typing:
		var v *edgev1.TypingResponse
		v, err = unary(ctx, token, r.Typing, s.message.Typing)
		out.Body = &edgev1.ServerFrame_Typing{Typing: v}
	default:
		err = fmt.Errorf("no RPC for request %T", f.Request)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}
