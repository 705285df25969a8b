package gateway

import "github.com/gobwas/ws"

// wire is what carries one session's bytes: a place in a loop, or a pair of
// goroutines. It calls the session (receive, resume, tick, startReady, gather
// and advance, over); the session only asks to be called.
//
// Reading, tick and over belong to one goroutine at a time, the session's
// owner; writing to one, which may be another.
type wire interface {
	// kick asks for a turn: something waits to be written or begun, reading may
	// go on, or the session is broken. The session's lock is held; kick does
	// not block.
	kick()
	// start begins carrying; the session is known to the gateway.
	start()
	// refuse writes a last frame if that needs no waiting and ends the
	// connection, instead of start.
	refuse(frame []byte)
	// driver names the kind, for metrics.
	driver() driver
}

// driver is a kind of wire.
type driver uint8

const (
	epollDriver     driver = iota // parked: no goroutine and no buffer of its own
	goroutineDriver               // TLS, and connections that are not the system's
	drivers
)

func (d driver) String() string {
	if d == epollDriver {
		return "epoll"
	}
	return "goroutine"
}

// controlFrame encodes a control frame of the server.
func controlFrame(opCode ws.OpCode, data []byte) []byte {
	return ws.MustCompileFrame(ws.NewFrame(opCode, true, data))
}

// closeFrame encodes a close frame; a reason beyond what fits is cut.
func closeFrame(code closeCode, reason string) []byte {
	const most = ws.MaxControlFramePayloadSize - 2
	if len(reason) > most {
		reason = reason[:most]
	}
	return controlFrame(ws.OpClose, ws.NewCloseFrameBody(code, reason))
}
