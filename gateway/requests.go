package gateway

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// observe runs one method: it counts, times, and turns whatever comes out into
// an answer or a typed error. A panic is our fault, counted, and no one else's
// problem. RPC and sockets both come through here.
func observe[Req, Res any](ctx context.Context, g *Gateway, name string, who caller, req Req,
	method func(context.Context, caller, Req) (Res, error),
) (res Res, refused *edgev1.Error) {
	began := time.Now()
	defer func() {
		if p := recover(); p != nil {
			g.panicked(name, p)
			refused = internalFault().e
		}
		code := codeOK
		if refused != nil {
			code = refused.GetCode()
		}
		m := g.metrics.method(name)
		m.count(code)
		m.latency.Observe(time.Since(began).Seconds())
	}()
	res, err := method(ctx, who, req)
	if err != nil {
		refused = g.asError(ctx, name, err)
	}
	return res, refused
}

// panicked records a fault of ours. What was being handled is not logged: it
// may hold a password.
func (g *Gateway) panicked(where string, p any) {
	g.metrics.panics.Inc()
	g.log.Error("panicked", "where", where, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
}

// guard keeps a panic in the background from ending the process; it is
// deferred.
func (g *Gateway) guard(where string) {
	if p := recover(); p != nil {
		g.panicked(where, p)
	}
}

// runner answers one socket request.
type runner func(context.Context, caller) *edgev1.ServerFrame

func runs[Req, Res any](g *Gateway, name string, req Req, method func(context.Context, caller, Req) (Res, error),
	wrap func(Res) *edgev1.ServerFrame,
) (string, runner) {
	return name, func(ctx context.Context, who caller) *edgev1.ServerFrame {
		res, refused := observe(ctx, g, name, who, req, method)
		if refused != nil {
			return errorFrame(refused)
		}
		return wrap(res)
	}
}

// requestOf finds the method of a socket request; no name for hello, which is
// the session's own, and for requests that this release does not know; no
// runner for those that become calls (begin).
func (g *Gateway) requestOf(f *edgev1.ClientFrame) (string, runner) {
	type frame = edgev1.ServerFrame
	switch r := f.GetRequest().(type) {
	case *edgev1.ClientFrame_Ping:
		return runs(g, "Ping", r.Ping, g.ping, func(p *edgev1.PingResponse) *frame { return &frame{Body: &edgev1.ServerFrame_Ping{Ping: p}} })
	case *edgev1.ClientFrame_Send:
		return "Send", nil
	case *edgev1.ClientFrame_List:
		return runs(g, "List", r.List, g.list, func(p *edgev1.ListResponse) *frame { return &frame{Body: &edgev1.ServerFrame_List{List: p}} })
	case *edgev1.ClientFrame_MarkRead:
		return "MarkRead", nil
	case *edgev1.ClientFrame_Typing:
		return runs(g, "Typing", r.Typing, g.typingNote, func(p *edgev1.TypingResponse) *frame {
			return &frame{Body: &edgev1.ServerFrame_Typing{Typing: p}}
		})
	case *edgev1.ClientFrame_OpenDirect:
		return runs(g, "OpenDirect", r.OpenDirect, g.openDirect, func(p *edgev1.OpenDirectResponse) *frame {
			return &frame{Body: &edgev1.ServerFrame_OpenDirect{OpenDirect: p}}
		})
	case *edgev1.ClientFrame_CreateGroup:
		return runs(g, "CreateGroup", r.CreateGroup, g.createGroup, func(p *edgev1.CreateGroupResponse) *frame {
			return &frame{Body: &edgev1.ServerFrame_CreateGroup{CreateGroup: p}}
		})
	case *edgev1.ClientFrame_GetRoom:
		return runs(g, "GetRoom", r.GetRoom, g.getRoom, func(p *edgev1.GetRoomResponse) *frame {
			return &frame{Body: &edgev1.ServerFrame_GetRoom{GetRoom: p}}
		})
	case *edgev1.ClientFrame_ListRooms:
		return runs(g, "ListRooms", r.ListRooms, g.listRooms, func(p *edgev1.ListRoomsResponse) *frame {
			return &frame{Body: &edgev1.ServerFrame_ListRooms{ListRooms: p}}
		})
	case *edgev1.ClientFrame_Invite:
		return runs(g, "Invite", r.Invite, g.invite, func(p *edgev1.InviteResponse) *frame {
			return &frame{Body: &edgev1.ServerFrame_Invite{Invite: p}}
		})
	case *edgev1.ClientFrame_Leave:
		return runs(g, "Leave", r.Leave, g.leave, func(p *edgev1.LeaveResponse) *frame { return &frame{Body: &edgev1.ServerFrame_Leave{Leave: p}} })
	case *edgev1.ClientFrame_SetTitle:
		return runs(g, "SetTitle", r.SetTitle, g.setTitle, func(p *edgev1.SetTitleResponse) *frame {
			return &frame{Body: &edgev1.ServerFrame_SetTitle{SetTitle: p}}
		})
	case *edgev1.ClientFrame_Find:
		return runs(g, "Find", r.Find, g.find, func(p *edgev1.FindResponse) *frame { return &frame{Body: &edgev1.ServerFrame_Find{Find: p}} })
	case *edgev1.ClientFrame_AddFriend:
		return runs(g, "AddFriend", r.AddFriend, g.addFriend, func(p *edgev1.AddFriendResponse) *frame {
			return &frame{Body: &edgev1.ServerFrame_AddFriend{AddFriend: p}}
		})
	case *edgev1.ClientFrame_RemoveFriend:
		return runs(g, "RemoveFriend", r.RemoveFriend, g.removeFriend, func(p *edgev1.RemoveFriendResponse) *frame {
			return &frame{Body: &edgev1.ServerFrame_RemoveFriend{RemoveFriend: p}}
		})
	case *edgev1.ClientFrame_ListFriends:
		return runs(g, "ListFriends", r.ListFriends, g.listFriends, func(p *edgev1.ListFriendsResponse) *frame {
			return &frame{Body: &edgev1.ServerFrame_ListFriends{ListFriends: p}}
		})
	case *edgev1.ClientFrame_Block:
		return runs(g, "Block", r.Block, g.block, func(p *edgev1.BlockResponse) *frame { return &frame{Body: &edgev1.ServerFrame_Block{Block: p}} })
	case *edgev1.ClientFrame_Unblock:
		return runs(g, "Unblock", r.Unblock, g.unblock, func(p *edgev1.UnblockResponse) *frame {
			return &frame{Body: &edgev1.ServerFrame_Unblock{Unblock: p}}
		})
	case *edgev1.ClientFrame_ListDevices:
		return runs(g, "ListDevices", r.ListDevices, g.listDevices, func(p *edgev1.ListDevicesResponse) *frame {
			return &frame{Body: &edgev1.ServerFrame_ListDevices{ListDevices: p}}
		})
	case *edgev1.ClientFrame_RevokeDevice:
		return runs(g, "RevokeDevice", r.RevokeDevice, g.revokeDevice, func(p *edgev1.RevokeDeviceResponse) *frame {
			return &frame{Body: &edgev1.ServerFrame_RevokeDevice{RevokeDevice: p}}
		})
	case *edgev1.ClientFrame_GetMe:
		return runs(g, "GetMe", r.GetMe, g.getMe, func(p *edgev1.GetMeResponse) *frame { return &frame{Body: &edgev1.ServerFrame_GetMe{GetMe: p}} })
	case *edgev1.ClientFrame_Refresh:
		return runs(g, "Refresh", r.Refresh, g.refresh, func(p *edgev1.Session) *frame { return &frame{Body: &edgev1.ServerFrame_Refresh{Refresh: p}} })
	}
	return "", nil
}

func (g *Gateway) ping(context.Context, caller, *edgev1.PingRequest) (*edgev1.PingResponse, error) {
	return &edgev1.PingResponse{ServerTime: g.now().UnixMilli()}, nil
}
