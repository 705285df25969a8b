package clienttest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/bongsu-im/bongsu/gen/bongsu/edge/v1/edgev1connect"
	"github.com/coder/websocket"
	"google.golang.org/protobuf/proto"
)

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/v1/socket", http.HandlerFunc(s.socket))
	mux.Handle(edgev1connect.NewAccountServiceHandler(rpcAccount{s: s}))
	mux.Handle(edgev1connect.NewPeopleServiceHandler(rpcPeople{s: s}))
	mux.Handle(edgev1connect.NewRoomServiceHandler(rpcRoom{s: s}))
	mux.Handle(edgev1connect.NewMessageServiceHandler(rpcMessage{s: s}))
	return mux
}

// judge counts a request and asks the interceptor. mu must be held.
func (s *Server) judge(userID string, f *edgev1.ClientFrame) Fault {
	s.requests[kindOf(f)]++
	if s.intercept == nil {
		return Fault{}
	}
	return s.intercept(userID, f)
}

// kindOf names a request as Requests does: "Send", "MarkRead", …
func kindOf(f *edgev1.ClientFrame) string {
	kind := fmt.Sprintf("%T", f.Request)
	return kind[strings.LastIndexByte(kind, '_')+1:]
}

// socket is one open socket on the server's side.
type socket struct {
	ws     *websocket.Conn
	userID string // set before the socket is listed
	device string
	cancel context.CancelFunc

	mu    sync.Mutex
	out   []*edgev1.ServerFrame
	ready chan struct{}
}

func (c *socket) put(f *edgev1.ServerFrame) {
	c.mu.Lock()
	c.out = append(c.out, f)
	c.mu.Unlock()
	select {
	case c.ready <- struct{}{}:
	default:
	}
}

func (c *socket) cut() { c.cancel() }

func (s *Server) socket(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	refused := s.refused > 0
	s.refused = max(s.refused-1, 0)
	s.mu.Unlock()
	if refused {
		w.Header().Set("Retry-After", "2")
		http.Error(w, "no", http.StatusServiceUnavailable)
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"bongsu.v1"}, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &socket{ws: ws, cancel: cancel, ready: make(chan struct{}, 1)}
	var wg sync.WaitGroup
	wg.Go(func() {
		c.write(ctx)
		_ = ws.CloseNow() // cut or broken: no word of farewell
	})
	s.read(ctx, c)
	s.mu.Lock()
	delete(s.sockets, c)
	s.mu.Unlock()
	cancel()
	wg.Wait()
}

func (c *socket) write(ctx context.Context) {
	for {
		c.mu.Lock()
		out := c.out
		c.out = nil
		c.mu.Unlock()
		for _, f := range out {
			b, err := proto.Marshal(f)
			if err != nil || c.ws.Write(ctx, websocket.MessageBinary, b) != nil {
				return
			}
		}
		select {
		case <-c.ready:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) read(ctx context.Context, c *socket) {
	for {
		_, b, err := c.ws.Read(ctx)
		if err != nil {
			return
		}
		f := &edgev1.ClientFrame{}
		if proto.Unmarshal(b, f) != nil || !s.handle(c, f) {
			return
		}
	}
}

// handle decides one frame; false ends the socket.
func (s *Server) handle(c *socket, f *edgev1.ClientFrame) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	fault := s.judge(c.userID, f)
	var answer *edgev1.ServerFrame
	switch {
	case fault.Hang:
		return true
	case fault.Error != nil:
		answer = &edgev1.ServerFrame{Body: &edgev1.ServerFrame_Error{Error: fault.Error}}
	case f.GetHello() != nil:
		answer = s.hello(c, f.GetHello())
	case c.userID == "":
		answer = &edgev1.ServerFrame{Body: &edgev1.ServerFrame_Error{Error: refusal("unauthenticated", "hello_first")}}
	default:
		answer = s.decide(c.userID, c.device, f)
	}
	if fault.LoseAnswer {
		return false
	}
	answer.Id = f.Id
	c.put(answer)
	return true
}

func (s *Server) hello(c *socket, q *edgev1.HelloRequest) *edgev1.ServerFrame {
	d, e := s.authenticate(q.AccessToken)
	if e != nil {
		return &edgev1.ServerFrame{Body: &edgev1.ServerFrame_Error{Error: e}}
	}
	c.userID, c.device = d.userID, d.id
	s.sockets[c] = struct{}{}
	return &edgev1.ServerFrame{Body: &edgev1.ServerFrame_Hello{Hello: &edgev1.HelloResponse{
		UserId: d.userID, DeviceId: d.id, ServerTime: time.Now().UnixMilli(), HeartbeatSeconds: s.Heartbeat,
		Lost: s.lost(q.Positions), ServerVersion: "fake", ShardCount: Shards,
	}}}
}

// rpc carries a request of one method through decide.
func rpc[R any](s *Server, header http.Header, f *edgev1.ClientFrame, get func(*edgev1.ServerFrame) *R) (*connect.Response[R], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, e := s.authenticate(strings.TrimPrefix(header.Get("Authorization"), "Bearer "))
	if e != nil {
		return nil, connectError(e)
	}
	fault := s.judge(d.userID, f)
	if fault.Error != nil {
		return nil, connectError(fault.Error)
	}
	answer := s.decide(d.userID, d.id, f)
	if e := answer.GetError(); e != nil {
		return nil, connectError(e)
	}
	if fault.LoseAnswer || fault.Hang {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("the answer was lost"))
	}
	return connect.NewResponse(get(answer)), nil
}

func connectError(e *edgev1.Error) error {
	var code connect.Code
	if err := code.UnmarshalText([]byte(e.Code)); err != nil {
		code = connect.CodeUnknown
	}
	out := connect.NewError(code, errors.New(e.Message))
	if d, err := connect.NewErrorDetail(e.Info); err == nil && e.Info != nil {
		out.AddDetail(d)
	}
	return out
}

// session carries SignUp, SignIn and Refresh, which need no token.
func session[Q any](s *Server, name string, q *Q, decide func(*Q) (*edgev1.Session, *edgev1.Error)) (*connect.Response[edgev1.Session], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[name]++
	if s.intercept != nil {
		f := &edgev1.ClientFrame{}
		if r, ok := any(q).(*edgev1.RefreshRequest); ok {
			f.Request = &edgev1.ClientFrame_Refresh{Refresh: r}
		}
		if fault := s.intercept("", f); fault.Error != nil {
			return nil, connectError(fault.Error)
		}
	}
	out, e := decide(q)
	if e != nil {
		return nil, connectError(e)
	}
	return connect.NewResponse(out), nil
}

type rpcAccount struct {
	edgev1connect.UnimplementedAccountServiceHandler
	s *Server
}

// SignUp and the methods below implement the handlers of the API.
func (a rpcAccount) SignUp(_ context.Context, r *connect.Request[edgev1.SignUpRequest]) (*connect.Response[edgev1.Session], error) {
	return session(a.s, "SignUp", r.Msg, a.s.signUp)
}

func (a rpcAccount) SignIn(_ context.Context, r *connect.Request[edgev1.SignInRequest]) (*connect.Response[edgev1.Session], error) {
	return session(a.s, "SignIn", r.Msg, a.s.signIn)
}

func (a rpcAccount) Refresh(_ context.Context, r *connect.Request[edgev1.RefreshRequest]) (*connect.Response[edgev1.Session], error) {
	return session(a.s, "Refresh", r.Msg, a.s.refresh)
}

func (a rpcAccount) GetMe(_ context.Context, r *connect.Request[edgev1.GetMeRequest]) (*connect.Response[edgev1.GetMeResponse], error) {
	return rpc(a.s, r.Header(), &edgev1.ClientFrame{Request: &edgev1.ClientFrame_GetMe{GetMe: r.Msg}}, (*edgev1.ServerFrame).GetGetMe)
}

func (a rpcAccount) ListDevices(_ context.Context, r *connect.Request[edgev1.ListDevicesRequest]) (*connect.Response[edgev1.ListDevicesResponse], error) {
	return rpc(a.s, r.Header(), &edgev1.ClientFrame{Request: &edgev1.ClientFrame_ListDevices{ListDevices: r.Msg}}, (*edgev1.ServerFrame).GetListDevices)
}

type rpcPeople struct {
	edgev1connect.UnimplementedPeopleServiceHandler
	s *Server
}

func (a rpcPeople) Find(_ context.Context, r *connect.Request[edgev1.FindRequest]) (*connect.Response[edgev1.FindResponse], error) {
	return rpc(a.s, r.Header(), &edgev1.ClientFrame{Request: &edgev1.ClientFrame_Find{Find: r.Msg}}, (*edgev1.ServerFrame).GetFind)
}

type rpcRoom struct {
	edgev1connect.UnimplementedRoomServiceHandler
	s *Server
}

func (a rpcRoom) OpenDirect(_ context.Context, r *connect.Request[edgev1.OpenDirectRequest]) (*connect.Response[edgev1.OpenDirectResponse], error) {
	return rpc(a.s, r.Header(), &edgev1.ClientFrame{Request: &edgev1.ClientFrame_OpenDirect{OpenDirect: r.Msg}}, (*edgev1.ServerFrame).GetOpenDirect)
}

func (a rpcRoom) CreateGroup(_ context.Context, r *connect.Request[edgev1.CreateGroupRequest]) (*connect.Response[edgev1.CreateGroupResponse], error) {
	return rpc(a.s, r.Header(), &edgev1.ClientFrame{Request: &edgev1.ClientFrame_CreateGroup{CreateGroup: r.Msg}}, (*edgev1.ServerFrame).GetCreateGroup)
}

func (a rpcRoom) GetRoom(_ context.Context, r *connect.Request[edgev1.GetRoomRequest]) (*connect.Response[edgev1.GetRoomResponse], error) {
	return rpc(a.s, r.Header(), &edgev1.ClientFrame{Request: &edgev1.ClientFrame_GetRoom{GetRoom: r.Msg}}, (*edgev1.ServerFrame).GetGetRoom)
}

func (a rpcRoom) ListRooms(_ context.Context, r *connect.Request[edgev1.ListRoomsRequest]) (*connect.Response[edgev1.ListRoomsResponse], error) {
	return rpc(a.s, r.Header(), &edgev1.ClientFrame{Request: &edgev1.ClientFrame_ListRooms{ListRooms: r.Msg}}, (*edgev1.ServerFrame).GetListRooms)
}

func (a rpcRoom) Invite(_ context.Context, r *connect.Request[edgev1.InviteRequest]) (*connect.Response[edgev1.InviteResponse], error) {
	return rpc(a.s, r.Header(), &edgev1.ClientFrame{Request: &edgev1.ClientFrame_Invite{Invite: r.Msg}}, (*edgev1.ServerFrame).GetInvite)
}

func (a rpcRoom) Leave(_ context.Context, r *connect.Request[edgev1.LeaveRequest]) (*connect.Response[edgev1.LeaveResponse], error) {
	return rpc(a.s, r.Header(), &edgev1.ClientFrame{Request: &edgev1.ClientFrame_Leave{Leave: r.Msg}}, (*edgev1.ServerFrame).GetLeave)
}

type rpcMessage struct {
	edgev1connect.UnimplementedMessageServiceHandler
	s *Server
}

func (a rpcMessage) Send(_ context.Context, r *connect.Request[edgev1.SendRequest]) (*connect.Response[edgev1.SendResponse], error) {
	return rpc(a.s, r.Header(), &edgev1.ClientFrame{Request: &edgev1.ClientFrame_Send{Send: r.Msg}}, (*edgev1.ServerFrame).GetSend)
}

func (a rpcMessage) List(_ context.Context, r *connect.Request[edgev1.ListRequest]) (*connect.Response[edgev1.ListResponse], error) {
	return rpc(a.s, r.Header(), &edgev1.ClientFrame{Request: &edgev1.ClientFrame_List{List: r.Msg}}, (*edgev1.ServerFrame).GetList)
}

func (a rpcMessage) MarkRead(_ context.Context, r *connect.Request[edgev1.MarkReadRequest]) (*connect.Response[edgev1.MarkReadResponse], error) {
	return rpc(a.s, r.Header(), &edgev1.ClientFrame{Request: &edgev1.ClientFrame_MarkRead{MarkRead: r.Msg}}, (*edgev1.ServerFrame).GetMarkRead)
}
