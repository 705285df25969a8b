package load

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/gobwas/ws"
	"google.golang.org/protobuf/proto"
)

// leanSocket is a signed-in socket that costs the generator as little as may
// be, for workloads of so many sockets or deliveries that package client would
// be what is measured. It decodes nothing, and does not connect again.
type leanSocket struct {
	conn      net.Conn
	in        *bufio.Reader
	buf       []byte
	heartbeat time.Duration

	writing sync.Mutex // one frame at a time
}

// dialer opens connections to the server.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// maxLeanFrame bounds a frame of the server to a leanSocket, whose requests
// have short answers.
const maxLeanFrame = 1 << 20

// leanTimeout bounds dialling and hello, and each write.
const leanTimeout = 30 * time.Second

// dialer returns the one that the rig's HTTP client uses, so that lean sockets
// reach whatever it does.
func (r *rig) dialer() dialer {
	if t, ok := r.http.Transport.(*http.Transport); ok && t.DialContext != nil {
		return t.DialContext
	}
	return (&net.Dialer{}).DialContext
}

// dialLean connects to the rig's server and says hello.
func (r *rig) dialLean(ctx context.Context, dial dialer, token string, readBuffer int) (*leanSocket, error) {
	var trust *tls.Config
	if r.cert != nil {
		trust = r.cert.trust
	}
	return dialLean(ctx, dial, trust, r.server.url, token, readBuffer)
}

// dialLean connects to the server at a base URL and says hello. trust is of
// https alone.
func dialLean(ctx context.Context, dial dialer, trust *tls.Config, base, token string, readBuffer int) (_ *leanSocket, err error) {
	ctx, cancel := context.WithTimeout(ctx, leanTimeout)
	defer cancel()
	d := ws.Dialer{
		NetDial: dial, Protocols: []string{"bongsu.v1"}, TLSConfig: trust,
		// Only of the handshake, not of the socket.
		ReadBufferSize: 512, WriteBufferSize: 512,
	}
	conn, early, _, err := d.Dial(ctx, "ws"+strings.TrimPrefix(base, "http")+"/v1/socket")
	if err != nil {
		return nil, fmt.Errorf("open a socket: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, conn.Close())
		}
	}()
	if early != nil {
		return nil, errors.New("open a socket: the server spoke before hello")
	}
	s := &leanSocket{conn: conn, in: bufio.NewReaderSize(conn, readBuffer)}
	hello, err := s.hello(ctx, token)
	if err != nil {
		return nil, fmt.Errorf("say hello: %w", err)
	}
	if s.heartbeat = time.Duration(hello.GetHeartbeatSeconds()) * time.Second; s.heartbeat <= 0 {
		s.heartbeat = 30 * time.Second
	}
	return s, nil
}

func (s *leanSocket) hello(ctx context.Context, token string) (*edgev1.HelloResponse, error) {
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetDeadline(time.Unix(1, 0)) }) // reads and writes under way end
	defer stop()
	request, err := proto.Marshal(&edgev1.ClientFrame{Id: 1, Request: &edgev1.ClientFrame_Hello{
		Hello: &edgev1.HelloRequest{AccessToken: token},
	}})
	if err != nil {
		return nil, err
	}
	if err := s.write(maskedFrame(ws.OpBinary, request)); err != nil {
		return nil, err
	}
	payload, err := s.next()
	if err != nil {
		return nil, err
	}
	var answer edgev1.ServerFrame
	if err := proto.Unmarshal(payload, &answer); err != nil {
		return nil, err
	}
	if e := answer.GetError(); e != nil {
		return nil, fmt.Errorf("%s: %s", e.GetCode(), e.GetMessage())
	}
	if answer.GetHello() == nil {
		return nil, errors.New("it was answered with something else")
	}
	if !stop() {
		return nil, ctx.Err()
	}
	return answer.GetHello(), nil
}

// maskedFrame encodes a client's frame.
func maskedFrame(op ws.OpCode, payload []byte) []byte {
	return ws.MustCompileFrame(ws.MaskFrame(ws.NewFrame(op, true, payload)))
}

// next returns the payload of the next data frame; it is good until the next
// call. One goroutine reads.
func (s *leanSocket) next() ([]byte, error) {
	for {
		op, payload, err := readFrame(s.in, &s.buf, maxLeanFrame)
		switch {
		case err != nil:
			return nil, err
		case op == ws.OpBinary:
			return payload, nil
		case op == ws.OpClose:
			code, reason := ws.ParseCloseFrameData(payload)
			return nil, fmt.Errorf("the server closed the socket: %d %s", code, reason)
		case op == ws.OpPing:
			if err := s.write(maskedFrame(ws.OpPong, payload)); err != nil {
				return nil, err
			}
		}
	}
}

// write sends an encoded frame.
func (s *leanSocket) write(frame []byte) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	_, err := s.conn.Write(frame)
	return err
}

func (s *leanSocket) close() { _ = s.conn.Close() } // the server sees the end either way

// IDs of requests that may meet: pings to keep alive, pings to be answered now,
// and marks.
const (
	aliveID = 2
	askID   = 3
	markID  = 4
)

// pingFrame asks for a sign of life.
func pingFrame(id uint32) []byte {
	b, err := proto.Marshal(&edgev1.ClientFrame{Id: id, Request: &edgev1.ClientFrame_Ping{Ping: &edgev1.PingRequest{}}})
	if err != nil {
		panic(err) // two small fields always can be encoded
	}
	return maskedFrame(ws.OpBinary, b)
}

// markFrame tells that a room was read up to seq.
func markFrame(room string, seq uint64) []byte {
	b, err := proto.Marshal(&edgev1.ClientFrame{Id: markID, Request: &edgev1.ClientFrame_MarkRead{
		MarkRead: &edgev1.MarkReadRequest{RoomId: room, Seq: seq},
	}})
	if err != nil {
		panic(err) // a room ID of the server's is valid text
	}
	return maskedFrame(ws.OpBinary, b)
}

// keepAlive pings each socket twice a heartbeat, spread over time, until ctx
// ends. A socket that is broken is its reader's business.
func keepAlive(ctx context.Context, sockets []*leanSocket) {
	if len(sockets) == 0 {
		return
	}
	every, frame := sockets[0].heartbeat/2, pingFrame(aliveID)
	for round := time.Now(); ; round = round.Add(every) {
		for i, s := range sockets {
			if !sleepUntil(ctx, round.Add(every*time.Duration(i+1)/time.Duration(len(sockets)))) {
				return
			}
			_ = s.write(frame) // told by the reader
		}
	}
}
