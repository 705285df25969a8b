package gateway

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gobwas/ws"

	"github.com/bongsu-im/bongsu/gateway/auth"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/overload"
)

const (
	// askBudget is how long a hello waits for the backend before the session
	// is honoured without it.
	askBudget = 3 * time.Second
	// maxConfirming bounds the confirmations of refresh tokens under way.
	maxConfirming  = 256
	confirmWithin  = 10 * time.Second
	maxRoomsHeard  = 10_000
	firstReproof   = time.Second
	mostReproof    = 15 * time.Second
	maxProtocols   = 8
	closeHelloAt   = closeCode(1012) // "service restart": say hello again
	closeTryLater  = closeCode(1013) // "try again later"
	retryHeaderMin = 1
)

// socket upgrades GET /v1/socket.
func (g *Gateway) socket(w http.ResponseWriter, r *http.Request) {
	if !headerHas(r.Header, "Connection", "upgrade") || !headerHas(r.Header, "Upgrade", "websocket") {
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		http.Error(w, "this address speaks WebSocket over HTTP/1.1", http.StatusUpgradeRequired)
		return
	}
	if !g.sameOrigin(r) {
		g.metrics.handshakes.WithLabelValues("origin").Inc()
		http.Error(w, "this page may not open a socket here", http.StatusForbidden)
		return
	}
	c, ok := chooseCodec(r.Header)
	if !ok {
		g.metrics.handshakes.WithLabelValues("protocol").Inc()
		http.Error(w, "ask for the subprotocol "+binaryProtocol+" or "+jsonProtocol, http.StatusBadRequest)
		return
	}
	g.mu.Lock()
	full := g.draining || g.closed || len(g.sessions) >= g.cfg.MaxSessions
	g.mu.Unlock()
	if full {
		g.refuseSocket(w)
		return
	}
	upgrader := ws.HTTPUpgrader{
		Timeout:  writeTimeout,
		Protocol: func(name string) bool { return name == c.String() },
	}
	conn, buffered, _, err := upgrader.Upgrade(r, w)
	if err != nil {
		g.metrics.handshakes.WithLabelValues("failed").Inc()
		g.log.Debug("handshake failed", "error", err)
		if conn != nil {
			_ = conn.Close() // the handshake's error is the one to tell
		}
		return
	}
	var early []byte
	if n := buffered.Reader.Buffered(); n > 0 { // frames sent without waiting for us
		early = make([]byte, n)
		if _, err := io.ReadFull(buffered.Reader, early); err != nil {
			_ = conn.Close() // cannot happen: these bytes are in memory
			return
		}
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		_ = conn.Close() // already broken
		return
	}
	s := g.newSession(c, strings.Clone(r.RemoteAddr))
	s.unread = early
	s.wire = g.newWire(s, conn)
	g.start(s)
}

// newWire parks what the system can watch for us; the rest, TLS above all,
// gets goroutines (decision 0005).
func (g *Gateway) newWire(s *session, conn net.Conn) wire {
	if p := g.park(s, conn); p != nil {
		return p
	}
	return &pump{s: s, conn: conn, moved: make(chan struct{}, 1)}
}

// start runs a session unless there is no room for it any more.
func (g *Gateway) start(s *session) {
	g.mu.Lock()
	if g.draining || g.closed || len(g.sessions) >= g.cfg.MaxSessions {
		g.mu.Unlock()
		s.wire.refuse(closeFrame(closeTryLater, "try again later"))
		return
	}
	g.sessions[s] = struct{}{}
	g.running.Add(1)
	g.mu.Unlock()
	g.metrics.handshakes.WithLabelValues("ok").Inc()
	s.wire.start()
}

func (g *Gateway) refuseSocket(w http.ResponseWriter) {
	g.metrics.handshakes.WithLabelValues("refused").Inc()
	after := overload.RetryAfter(overload.Resume, 0, 1, uint64(time.Now().UnixNano()))
	w.Header().Set("Retry-After", strconv.Itoa(max(int(after.Seconds()+0.5), retryHeaderMin)))
	http.Error(w, "unavailable: no new sockets now; try again", http.StatusServiceUnavailable)
}

func headerHas(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for part := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// chooseCodec takes the first subprotocol of the client's list that is ours.
func chooseCodec(h http.Header) (codec, bool) {
	seen := 0
	for _, line := range h.Values("Sec-WebSocket-Protocol") {
		for part := range strings.SplitSeq(line, ",") {
			if seen++; seen > maxProtocols {
				return 0, false
			}
			switch strings.TrimSpace(part) {
			case binaryProtocol:
				return binaryCodec, true
			case jsonProtocol:
				return jsonCodec, true
			}
		}
	}
	return 0, false
}

// sameOrigin lets in pages of the host that was asked or of a configured
// origin, and programs (which send no Origin).
func (g *Gateway) sameOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	if g.origins[strings.ToLower(origin)] {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host)
}

// greet answers hello. Until it is answered nothing else is read.
func (s *session) greet(now time.Duration, f *edgev1.ClientFrame, hello *edgev1.HelloRequest) error {
	if s.who != (caller{}) {
		return s.badFrame(now, f.GetId(), "hello_twice", invalid("hello", "hello_twice", "this socket has said hello already"))
	}
	wall := s.g.now()
	if ok, after := s.g.admission.Admit(overload.Resume, uint64(wall.UnixNano()), wall); !ok {
		s.g.metrics.refused.WithLabelValues(overload.Resume.String()).Inc()
		s.g.metrics.method("Hello").count(codeExhausted)
		s.refuseLoose(f.GetId(), overloaded(after))
		return nil
	}
	s.stalled = true
	s.mu.Lock()
	s.helloing = true
	s.mu.Unlock()
	started := s.spawn(func(ctx context.Context) {
		defer s.g.admission.Done(overload.Resume)
		defer s.greetOver()
		s.answerHello(ctx, f, hello)
	})
	if !started { // the connection broke: nobody waits
		s.g.admission.Done(overload.Resume)
		s.greetOver()
	}
	return nil
}

// greetOver lets reading go on.
func (s *session) greetOver() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.helloing = false
	s.kickLocked()
}

func (s *session) answerHello(ctx context.Context, f *edgev1.ClientFrame, hello *edgev1.HelloRequest) {
	ctx, cancel := context.WithTimeout(ctx, overload.Deadline(overload.Resume, time.Duration(f.GetDeadlineMs())*time.Millisecond))
	defer cancel()
	answer, refused := observe(ctx, s.g, "Hello", caller{}, hello, s.hello)
	if refused != nil {
		out := errorFrame(refused)
		out.Id = f.GetId()
		s.answer(out, looseFrame)
		return
	}
	s.greeting(&edgev1.ServerFrame{Id: f.GetId(), Body: &edgev1.ServerFrame_Hello{Hello: answer}})
}

func (s *session) hello(ctx context.Context, _ caller, r *edgev1.HelloRequest) (_ *edgev1.HelloResponse, err error) {
	g := s.g
	if err := positions("positions", r.GetPositions()); err != nil {
		return nil, err
	}
	if len(r.GetAccessToken()) > maxTokenChars {
		return nil, refuse(codeUnauthenticated, "access_token", "not an access token of ours")
	}
	access, err := g.keys.VerifyAccess(r.GetAccessToken(), g.now())
	expired := errors.Is(err, auth.ErrExpired)
	switch {
	case expired && g.now().After(access.Expires.Add(g.cfg.Grace)):
		return nil, tokenExpired()
	case err != nil && !expired:
		return nil, refuse(codeUnauthenticated, "access_token", "not an access token of ours")
	}
	// First listen, then read what was before: nothing falls in between.
	who := caller{access.User, access.Device}
	if !g.hub.join(s, who, g.cfg.MaxUserSessions) {
		return nil, exhausted("too_many_sockets", overload.MaxRetryAfter, "at most %d sockets a person", g.cfg.MaxUserSessions)
	}
	s.who = who
	welcome := false
	defer func() {
		if !welcome {
			g.hub.remove(s)
			s.who = caller{}
		}
	}()
	if g.revoked.Has(access.Device, g.now()) {
		return nil, deviceRevoked()
	}
	proof, err := s.prove(ctx, s.who, access, expired, r.GetPositions())
	if err != nil {
		return nil, err
	}
	g.hub.settle(s, proof.rooms, time.Now())
	if !proof.whole() {
		g.metrics.graces.Inc()
		g.log.Warn("session honoured while the backend cannot be asked", "user", access.User, "device", access.Device,
			"session_known", proof.sessionKnown, "rooms_known", proof.roomsKnown, "positions_known", proof.positionsKnown)
		s.spawn(func(ctx context.Context) { s.reprove(ctx, who, access, r.GetPositions()) })
	}
	welcome = true
	return &edgev1.HelloResponse{
		UserId: access.User.String(), DeviceId: access.Device.String(), ServerTime: g.now().UnixMilli(),
		HeartbeatSeconds: uint32(g.cfg.Heartbeat / time.Second), Lost: proof.lost, ServerVersion: g.cfg.Version,
		AccessExpiresAt: access.Expires.UnixMilli(), ShardCount: g.shardCount.Load(),
	}, nil
}

// proof is what the backend could say about a session.
type proof struct {
	sessionKnown, roomsKnown, positionsKnown bool

	rooms []id.ID
	lost  []*edgev1.Position
}

func (p proof) whole() bool { return p.sessionKnown && p.roomsKnown && p.positionsKnown }

// prove asks the backend whether the device may be used, for its rooms, and
// whether our history contains the positions that the client presents. An
// error is a refusal; what could not be asked is left unknown.
func (s *session) prove(ctx context.Context, who caller, access auth.Access, expired bool, seen []*edgev1.Position) (p proof, err error) {
	g := s.g
	ask, cancel := context.WithTimeout(ctx, askBudget)
	defer cancel()
	state, err := g.query(ask, &nodev1.Query{Kind: &nodev1.Query_Session{Session: &nodev1.SessionQuery{
		UserId: who.user.Bytes(), DeviceId: who.device.Bytes(),
	}}})
	switch {
	case err == nil:
		session := state.GetSession()
		if !session.GetKnown() || session.GetRevoked() {
			return p, deviceRevoked()
		}
		if expired { // the account's shard can be asked, so the token can be refreshed
			return p, tokenExpired()
		}
		p.sessionKnown = true
		if newer := access.Generation > session.GetGeneration(); newer || access.Generation == session.GetGeneration() && !session.GetConfirmed() {
			g.confirm(access)
		}
	case !outage(err):
		return p, err
	}
	rooms, err := g.query(ask, &nodev1.Query{Actor: who.user.Bytes(), Kind: &nodev1.Query_RoomIds{RoomIds: &nodev1.RoomIDsQuery{}}})
	switch {
	case err == nil:
		p.roomsKnown = true
		for _, raw := range rooms.GetRoomIds().GetRoomIds() {
			room, err := id.FromBytes(id.Room, raw)
			if err != nil {
				g.log.Error("a room in someone's list cannot be read", "user", who.user, "error", err)
				continue
			}
			if p.rooms = append(p.rooms, room); len(p.rooms) == maxRoomsHeard {
				break
			}
		}
	case !outage(err):
		return p, err
	}
	lost, err := g.query(ask, &nodev1.Query{Actor: who.user.Bytes(), Kind: &nodev1.Query_Positions{Positions: &edgev1.HelloRequest{Positions: seen}}})
	switch {
	case err == nil:
		p.positionsKnown = true
		p.lost = lost.GetLost().GetLost()
		g.shardCount.Store(lost.GetLost().GetShardCount())
	case !outage(err):
		return p, err
	}
	return p, nil
}

// reprove asks again, less and less often, what could not be asked at hello.
// When all is known the client is told to say hello again, which settles
// everything; if that takes longer than the grace the session ends.
func (s *session) reprove(ctx context.Context, who caller, access auth.Access, seen []*edgev1.Position) {
	defer s.g.guard("ask again about a session")
	ends := time.Now().Add(s.g.cfg.Grace)
	for wait := firstReproof; ; wait = min(2*wait, mostReproof) {
		timer := time.NewTimer(wait/2 + rand.N(wait/2)) // spread, as all of them wait for the same shard
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		p, err := s.prove(ctx, who, access, false, seen)
		switch {
		case isRefusal(err, codeUnauthenticated):
			s.finish(closeRevoked, "this device was signed out", true)
			return
		case err == nil && p.whole():
			s.finish(closeHelloAt, "say hello again", false)
			return
		case time.Now().After(ends):
			if p.sessionKnown && p.roomsKnown {
				return // some other shard cannot be asked: no reason to end this session
			}
			s.finish(closeTryLater, "the grace without the account's shard is over", false)
			return
		}
	}
}

// confirm tells the account's shard, in the background and at best effort,
// that the client holds the newest refresh token.
func (g *Gateway) confirm(access auth.Access) {
	select {
	case g.confirming <- struct{}{}:
	default:
		return // another hello will
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		<-g.confirming
		return
	}
	g.running.Go(func() {
		defer func() { <-g.confirming }()
		defer g.guard("confirm refresh token")
		ctx, cancel := context.WithTimeout(g.life, confirmWithin)
		defer cancel()
		_, _, err := g.do(ctx, &nodev1.Command{Kind: &nodev1.Command_ConfirmRefresh{ConfirmRefresh: &nodev1.ConfirmRefresh{
			UserId: access.User.Bytes(), DeviceId: access.Device.Bytes(), Generation: access.Generation,
		}}})
		if err != nil {
			g.log.Debug("refresh token not confirmed", "device", access.Device, "error", err)
		}
	})
}
