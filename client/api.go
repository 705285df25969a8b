package client

import (
	"context"

	"connectrpc.com/connect"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// API is the server's methods. Client carries them by RPC, Conn by its socket.
//
// Every method honours the deadline of its context; without one Config.Timeout
// holds. Every error of the server is an *Error.
type API struct {
	carrier carrier
}

// carrier brings one request to the server and its answer back. The frame is
// the carrier's to fill in (id, deadline).
type carrier interface {
	carry(ctx context.Context, f *edgev1.ClientFrame) (*edgev1.ServerFrame, error)
}

type classKey struct{}

// WithClass lowers the priority of the requests made with the context: what
// waits for nobody should not stand before what somebody waits for. A class
// higher than the method's own has no effect. Only sockets carry it.
func WithClass(ctx context.Context, class edgev1.Class) context.Context {
	return context.WithValue(ctx, classKey{}, class)
}

func classOf(ctx context.Context) edgev1.Class {
	c, _ := ctx.Value(classKey{}).(edgev1.Class)
	return c
}

// ask carries f and takes the answer of the expected kind.
func ask[T any](ctx context.Context, a API, f *edgev1.ClientFrame, get func(*edgev1.ServerFrame) *T) (*T, error) {
	f.Class = classOf(ctx)
	answer, err := a.carrier.carry(ctx, f)
	if err != nil {
		return nil, err
	}
	out := get(answer)
	if out == nil {
		return nil, &Error{Code: connect.CodeInternal, Reason: ReasonBadAnswer, Message: "the answer is of another kind than the request"}
	}
	return out, nil
}

// Me returns the caller's own account.
func (a API) Me(ctx context.Context) (*edgev1.User, error) {
	r, err := ask(ctx, a, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_GetMe{GetMe: &edgev1.GetMeRequest{}}}, (*edgev1.ServerFrame).GetGetMe)
	return r.GetUser(), err
}

// Devices lists the devices that are signed in to the account.
func (a API) Devices(ctx context.Context) ([]*edgev1.Device, error) {
	r, err := ask(ctx, a, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_ListDevices{ListDevices: &edgev1.ListDevicesRequest{}}}, (*edgev1.ServerFrame).GetListDevices)
	return r.GetDevices(), err
}

// RevokeDevice signs a device out; the caller's own is allowed.
func (a API) RevokeDevice(ctx context.Context, deviceID string) error {
	return a.revoke(ctx, &edgev1.RevokeDeviceRequest{DeviceId: deviceID})
}

// RevokeAllDevices signs out every device of the account, the caller's too.
func (a API) RevokeAllDevices(ctx context.Context) error {
	return a.revoke(ctx, &edgev1.RevokeDeviceRequest{All: true})
}

func (a API) revoke(ctx context.Context, r *edgev1.RevokeDeviceRequest) error {
	_, err := ask(ctx, a, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_RevokeDevice{RevokeDevice: r}}, (*edgev1.ServerFrame).GetRevokeDevice)
	return err
}

// Find returns the account of a login.
func (a API) Find(ctx context.Context, login string) (*edgev1.User, error) {
	r, err := ask(ctx, a, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_Find{Find: &edgev1.FindRequest{Login: login}}}, (*edgev1.ServerFrame).GetFind)
	return r.GetUser(), err
}

// AddFriend adds a person to the caller's friends.
func (a API) AddFriend(ctx context.Context, userID string) (*edgev1.User, error) {
	r, err := ask(ctx, a, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_AddFriend{AddFriend: &edgev1.AddFriendRequest{UserId: userID}}}, (*edgev1.ServerFrame).GetAddFriend)
	return r.GetUser(), err
}

// RemoveFriend takes a person off the caller's friends.
func (a API) RemoveFriend(ctx context.Context, userID string) error {
	_, err := ask(ctx, a, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_RemoveFriend{RemoveFriend: &edgev1.RemoveFriendRequest{UserId: userID}}}, (*edgev1.ServerFrame).GetRemoveFriend)
	return err
}

// Friends lists the caller's friends, and whom the caller has blocked.
func (a API) Friends(ctx context.Context) (friends, blocked []*edgev1.User, err error) {
	r, err := ask(ctx, a, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_ListFriends{ListFriends: &edgev1.ListFriendsRequest{}}}, (*edgev1.ServerFrame).GetListFriends)
	return r.GetFriends(), r.GetBlocked(), err
}

// Block refuses messages of a person in the direct room.
func (a API) Block(ctx context.Context, userID string) error {
	_, err := ask(ctx, a, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_Block{Block: &edgev1.BlockRequest{UserId: userID}}}, (*edgev1.ServerFrame).GetBlock)
	return err
}

// Unblock takes a block back.
func (a API) Unblock(ctx context.Context, userID string) error {
	_, err := ask(ctx, a, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_Unblock{Unblock: &edgev1.UnblockRequest{UserId: userID}}}, (*edgev1.ServerFrame).GetUnblock)
	return err
}

// OpenDirect returns the one room of the caller and the other person, making it
// if need be; asking again is safe. The caller's own ID gives the room of notes
// to oneself.
func (a API) OpenDirect(ctx context.Context, userID string) (*edgev1.Room, error) {
	r, err := ask(ctx, a, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_OpenDirect{OpenDirect: &edgev1.OpenDirectRequest{UserId: userID}}}, (*edgev1.ServerFrame).GetOpenDirect)
	return r.GetRoom(), err
}

// CreateGroup makes a room of the caller and at most 99 others. clientID (a
// UUID, may be empty) makes asking again safe.
func (a API) CreateGroup(ctx context.Context, title string, userIDs []string, clientID string) (*edgev1.Room, error) {
	r, err := ask(ctx, a, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_CreateGroup{
		CreateGroup: &edgev1.CreateGroupRequest{Title: title, UserIds: userIDs, ClientId: clientID},
	}}, (*edgev1.ServerFrame).GetCreateGroup)
	return r.GetRoom(), err
}

// Room returns a room with all its members.
func (a API) Room(ctx context.Context, roomID string) (*edgev1.Room, error) {
	r, err := ask(ctx, a, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_GetRoom{GetRoom: &edgev1.GetRoomRequest{RoomId: roomID}}}, (*edgev1.ServerFrame).GetGetRoom)
	return r.GetRoom(), err
}

// Rooms lists the caller's rooms, newest activity first, with at most the first
// ten members of each.
func (a API) Rooms(ctx context.Context) ([]*edgev1.Room, error) {
	r, err := ask(ctx, a, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_ListRooms{ListRooms: &edgev1.ListRoomsRequest{}}}, (*edgev1.ServerFrame).GetListRooms)
	return r.GetRooms(), err
}

// Invite brings at most 99 people into a group; those who are in it stay.
func (a API) Invite(ctx context.Context, roomID string, userIDs ...string) (*edgev1.Room, error) {
	r, err := ask(ctx, a, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_Invite{Invite: &edgev1.InviteRequest{RoomId: roomID, UserIds: userIDs}}}, (*edgev1.ServerFrame).GetInvite)
	return r.GetRoom(), err
}

// Leave takes the caller out of a room.
func (a API) Leave(ctx context.Context, roomID string) error {
	_, err := ask(ctx, a, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_Leave{Leave: &edgev1.LeaveRequest{RoomId: roomID}}}, (*edgev1.ServerFrame).GetLeave)
	return err
}

// SetTitle names a group.
func (a API) SetTitle(ctx context.Context, roomID, title string) (*edgev1.Room, error) {
	r, err := ask(ctx, a, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_SetTitle{SetTitle: &edgev1.SetTitleRequest{RoomId: roomID, Title: title}}}, (*edgev1.ServerFrame).GetSetTitle)
	return r.GetRoom(), err
}

// Send sends one message, once. When it fails with an outcome that is unknown,
// send again with the same ClientId: the server returns the message it has.
// An Outbox does that by itself.
func (a API) Send(ctx context.Context, r *edgev1.SendRequest) (*edgev1.SendResponse, error) {
	return ask(ctx, a, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_Send{Send: r}}, (*edgev1.ServerFrame).GetSend)
}

// List reads one page of history; see edgev1.ListRequest for its bounds.
func (a API) List(ctx context.Context, r *edgev1.ListRequest) (*edgev1.ListResponse, error) {
	return ask(ctx, a, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_List{List: r}}, (*edgev1.ServerFrame).GetList)
}

// PageLimit is how many messages a page of history has at most.
const PageLimit = 200

// ListAfter reads up to PageLimit messages with seq > after, ascending.
func (a API) ListAfter(ctx context.Context, roomID string, after uint64) (*edgev1.ListResponse, error) {
	return a.List(ctx, &edgev1.ListRequest{RoomId: roomID, AfterSeq: &after, Limit: PageLimit})
}

// MarkRead moves the caller's read cursor; a lower seq than it has is no change.
func (a API) MarkRead(ctx context.Context, roomID string, seq uint64) error {
	_, err := ask(ctx, a, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_MarkRead{MarkRead: &edgev1.MarkReadRequest{RoomId: roomID, Seq: seq}}}, (*edgev1.ServerFrame).GetMarkRead)
	return err
}

// Typing tells the others in the room that the caller is writing.
func (a API) Typing(ctx context.Context, roomID string) error {
	_, err := ask(ctx, a, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_Typing{Typing: &edgev1.TypingRequest{RoomId: roomID}}}, (*edgev1.ServerFrame).GetTyping)
	return err
}
