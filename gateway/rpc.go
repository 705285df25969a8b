package gateway

import (
	"context"
	"errors"
	"net/http"
	"path"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/bongsu-im/bongsu/gateway/auth"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/bongsu-im/bongsu/gen/bongsu/edge/v1/edgev1connect"
	"github.com/bongsu-im/bongsu/overload"
)

// open are the methods that need no access token: they are how one gets it.
var open = map[string]bool{"SignUp": true, "SignIn": true, "Refresh": true}

// rpcCall is one RPC on its way through: made before Connect sees the request,
// filled by the gate, read when it is over.
type rpcCall struct {
	method   string
	who      caller
	class    overload.Class
	admitted bool
	// counted is set once the method itself has been counted; what ends before
	// (a refused or undecodable request) is counted at the end.
	counted bool
	code    string
	// control of the connection: a body must come quickly, an answer may take
	// as long as its deadline.
	control *http.ResponseController
}

// bodyTimeout bounds how long a request's body may take to come: while it does
// it holds a place of admission.
const bodyTimeout = 15 * time.Second

type rpcKey struct{}

func callOf(ctx context.Context) *rpcCall { c, _ := ctx.Value(rpcKey{}).(*rpcCall); return c }

// mountRPC adds the services to a mux.
func (g *Gateway) mountRPC(mux *http.ServeMux) {
	options := []connect.HandlerOption{
		connect.WithReadMaxBytes(maxFrameBytes),
		connect.WithCodec(rpcJSONs[0]),
		connect.WithCodec(rpcJSONs[1]),
		connect.WithRequestGate(g.gate),
		// Answers are small; compressing a page of history is worth it.
		connect.WithCompressMinBytes(1 << 10),
	}
	errs := connect.NewErrorWriter(options...)
	add := func(prefix string, h http.Handler) {
		mux.Handle(prefix, g.aroundRPC(prefix, errs, h))
	}
	add(edgev1connect.NewAccountServiceHandler(accountService{g}, options...))
	add(edgev1connect.NewPeopleServiceHandler(peopleService{g}, options...))
	add(edgev1connect.NewRoomServiceHandler(roomService{g}, options...))
	add(edgev1connect.NewMessageServiceHandler(messageService{g}, options...))
}

// aroundRPC gives each request its call, refuses bodies that say they are too
// big, and gives back what the gate took.
func (g *Gateway) aroundRPC(prefix string, errs *connect.ErrorWriter, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		call := &rpcCall{method: strings.TrimPrefix(r.URL.Path, prefix), control: http.NewResponseController(w)}
		_ = call.control.SetReadDeadline(time.Now().Add(bodyTimeout)) // not supported means not a network
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		if r.ContentLength > maxFrameBytes && errs.IsSupported(r) {
			g.metrics.requests.WithLabelValues(knownMethod(call.method), codeInvalid).Inc()
			err := connectError(complete(invalid("", "message_too_large", "a request has at most %d bytes", maxFrameBytes).e))
			if err := errs.Write(w, r, err); err != nil {
				g.log.Debug("answer not written", "error", err)
			}
			return
		}
		defer func() {
			if call.admitted {
				g.admission.Done(call.class)
			}
			if !call.counted {
				code := call.code
				if code == "" {
					code = codeInvalid // Connect refused what it could not read
				}
				g.metrics.requests.WithLabelValues(knownMethod(call.method), code).Inc()
			}
		}()
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), rpcKey{}, call)))
	})
}

// knownMethod keeps paths that clients invent out of the metrics' labels.
func knownMethod(name string) string {
	if overload.Known(name) {
		return name
	}
	return "unknown"
}

// gate admits and authenticates before the request's body is decoded.
func (g *Gateway) gate(ctx context.Context, spec connect.Spec, _ connect.Peer, header http.Header) (context.Context, error) {
	call := callOf(ctx)
	if call == nil {
		return nil, errors.New("request without a call")
	}
	method := path.Base(spec.Procedure)
	var refused *refusal
	if !open[method] {
		call.who, refused = g.authenticate(header.Get("Authorization"))
	}
	if refused == nil {
		call.class = overload.Of(method)
		now := g.now()
		ok, after := g.admission.Admit(call.class, userHash(call.who.user, now), now)
		if call.admitted = ok; !ok {
			g.metrics.refused.WithLabelValues(call.class.String()).Inc()
			refused = overloaded(after)
		}
	}
	if refused != nil {
		call.code = refused.e.GetCode()
		return nil, connectError(complete(refused.e))
	}
	return ctx, nil
}

// authenticate reads a bearer token: signature, time and revocation.
func (g *Gateway) authenticate(header string) (caller, *refusal) {
	scheme, token, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || len(token) > maxTokenChars {
		return caller{}, refuse(codeUnauthenticated, "access_token", "this needs an access token: Authorization: Bearer …")
	}
	access, err := g.keys.VerifyAccess(strings.TrimSpace(token), g.now())
	switch {
	case errors.Is(err, auth.ErrExpired):
		return caller{}, tokenExpired()
	case err != nil:
		return caller{}, refuse(codeUnauthenticated, "access_token", "not an access token of ours")
	case g.revoked.Has(access.Device, g.now()):
		return caller{}, deviceRevoked()
	}
	return caller{access.User, access.Device}, nil
}

func tokenExpired() *refusal {
	return refuse(codeUnauthenticated, "token_expired", "the access token has ended; refresh it")
}

func deviceRevoked() *refusal {
	return refuse(codeUnauthenticated, "device_revoked", "this device was signed out")
}

// serve runs one method for Connect.
func serve[Req, Res any](ctx context.Context, g *Gateway, r *connect.Request[Req],
	method func(context.Context, caller, *Req) (*Res, error),
) (*connect.Response[Res], error) {
	call := callOf(ctx)
	// The body is here. On HTTP/1 the server goes on reading, to notice a client
	// that leaves: that must not end by the body's deadline.
	_ = call.control.SetReadDeadline(time.Now().Add(exchangeTimeout))
	name := path.Base(r.Spec().Procedure)
	wish := time.Duration(0)
	if end, ok := ctx.Deadline(); ok {
		wish = max(time.Until(end), 1)
	}
	ctx, cancel := context.WithTimeout(ctx, overload.Deadline(call.class, wish))
	defer cancel()
	call.counted = true
	res, refused := observe(ctx, g, name, call.who, r.Msg, method)
	if refused != nil {
		return nil, connectError(refused)
	}
	return connect.NewResponse(res), nil
}

type (
	accountService struct{ g *Gateway }
	peopleService  struct{ g *Gateway }
	roomService    struct{ g *Gateway }
	messageService struct{ g *Gateway }
)

func (s accountService) SignUp(ctx context.Context, r *connect.Request[edgev1.SignUpRequest]) (*connect.Response[edgev1.Session], error) {
	return serve(ctx, s.g, r, s.g.signUp)
}

func (s accountService) SignIn(ctx context.Context, r *connect.Request[edgev1.SignInRequest]) (*connect.Response[edgev1.Session], error) {
	return serve(ctx, s.g, r, s.g.signIn)
}

func (s accountService) Refresh(ctx context.Context, r *connect.Request[edgev1.RefreshRequest]) (*connect.Response[edgev1.Session], error) {
	return serve(ctx, s.g, r, s.g.refresh)
}

func (s accountService) ListDevices(ctx context.Context, r *connect.Request[edgev1.ListDevicesRequest]) (*connect.Response[edgev1.ListDevicesResponse], error) {
	return serve(ctx, s.g, r, s.g.listDevices)
}

func (s accountService) RevokeDevice(ctx context.Context, r *connect.Request[edgev1.RevokeDeviceRequest]) (*connect.Response[edgev1.RevokeDeviceResponse], error) {
	return serve(ctx, s.g, r, s.g.revokeDevice)
}

func (s accountService) GetMe(ctx context.Context, r *connect.Request[edgev1.GetMeRequest]) (*connect.Response[edgev1.GetMeResponse], error) {
	return serve(ctx, s.g, r, s.g.getMe)
}

func (s peopleService) Find(ctx context.Context, r *connect.Request[edgev1.FindRequest]) (*connect.Response[edgev1.FindResponse], error) {
	return serve(ctx, s.g, r, s.g.find)
}

func (s peopleService) AddFriend(ctx context.Context, r *connect.Request[edgev1.AddFriendRequest]) (*connect.Response[edgev1.AddFriendResponse], error) {
	return serve(ctx, s.g, r, s.g.addFriend)
}

func (s peopleService) RemoveFriend(ctx context.Context, r *connect.Request[edgev1.RemoveFriendRequest]) (*connect.Response[edgev1.RemoveFriendResponse], error) {
	return serve(ctx, s.g, r, s.g.removeFriend)
}

func (s peopleService) ListFriends(ctx context.Context, r *connect.Request[edgev1.ListFriendsRequest]) (*connect.Response[edgev1.ListFriendsResponse], error) {
	return serve(ctx, s.g, r, s.g.listFriends)
}

func (s peopleService) Block(ctx context.Context, r *connect.Request[edgev1.BlockRequest]) (*connect.Response[edgev1.BlockResponse], error) {
	return serve(ctx, s.g, r, s.g.block)
}

func (s peopleService) Unblock(ctx context.Context, r *connect.Request[edgev1.UnblockRequest]) (*connect.Response[edgev1.UnblockResponse], error) {
	return serve(ctx, s.g, r, s.g.unblock)
}

func (s roomService) OpenDirect(ctx context.Context, r *connect.Request[edgev1.OpenDirectRequest]) (*connect.Response[edgev1.OpenDirectResponse], error) {
	return serve(ctx, s.g, r, s.g.openDirect)
}

func (s roomService) CreateGroup(ctx context.Context, r *connect.Request[edgev1.CreateGroupRequest]) (*connect.Response[edgev1.CreateGroupResponse], error) {
	return serve(ctx, s.g, r, s.g.createGroup)
}

func (s roomService) GetRoom(ctx context.Context, r *connect.Request[edgev1.GetRoomRequest]) (*connect.Response[edgev1.GetRoomResponse], error) {
	return serve(ctx, s.g, r, s.g.getRoom)
}

func (s roomService) ListRooms(ctx context.Context, r *connect.Request[edgev1.ListRoomsRequest]) (*connect.Response[edgev1.ListRoomsResponse], error) {
	return serve(ctx, s.g, r, s.g.listRooms)
}

func (s roomService) Invite(ctx context.Context, r *connect.Request[edgev1.InviteRequest]) (*connect.Response[edgev1.InviteResponse], error) {
	return serve(ctx, s.g, r, s.g.invite)
}

func (s roomService) Leave(ctx context.Context, r *connect.Request[edgev1.LeaveRequest]) (*connect.Response[edgev1.LeaveResponse], error) {
	return serve(ctx, s.g, r, s.g.leave)
}

func (s roomService) SetTitle(ctx context.Context, r *connect.Request[edgev1.SetTitleRequest]) (*connect.Response[edgev1.SetTitleResponse], error) {
	return serve(ctx, s.g, r, s.g.setTitle)
}

func (s messageService) Send(ctx context.Context, r *connect.Request[edgev1.SendRequest]) (*connect.Response[edgev1.SendResponse], error) {
	return serve(ctx, s.g, r, s.g.send)
}

func (s messageService) List(ctx context.Context, r *connect.Request[edgev1.ListRequest]) (*connect.Response[edgev1.ListResponse], error) {
	return serve(ctx, s.g, r, s.g.list)
}

func (s messageService) MarkRead(ctx context.Context, r *connect.Request[edgev1.MarkReadRequest]) (*connect.Response[edgev1.MarkReadResponse], error) {
	return serve(ctx, s.g, r, s.g.markRead)
}

func (s messageService) Typing(ctx context.Context, r *connect.Request[edgev1.TypingRequest]) (*connect.Response[edgev1.TypingResponse], error) {
	return serve(ctx, s.g, r, s.g.typingNote)
}
