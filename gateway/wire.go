package gateway

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/gobwas/ws"
)

const (
	// maxFrameBytes bounds one message from a client, as it does an RPC body.
	maxFrameBytes = 64 << 10
	// maxDiscardBytes is how much of one oversized message is read and thrown
	// away before the connection is closed instead.
	maxDiscardBytes = 8 << 20
	// maxFragments bounds the frames of one message.
	maxFragments = 1024
	readBuffer   = 2 << 10
	writeTimeout = 10 * time.Second
)

// closeCode is a WebSocket status.
type closeCode = ws.StatusCode

// wireMessage is what a client sent.
type wireMessage struct {
	opCode ws.OpCode // text, binary, ping, pong or close
	data   []byte    // of an oversized message: its beginning
	// tooBig: the message was longer than maxFrameBytes; the rest is gone.
	tooBig bool
}

// protocolError is a breach of RFC 6455 by the client: the connection ends.
type protocolError struct {
	code closeCode
	err  error
}

func (e *protocolError) Error() string { return fmt.Sprintf("protocol error %d: %v", e.code, e.err) }
func (e *protocolError) Unwrap() error { return e.err }

// wire is one WebSocket connection. Reading belongs to one goroutine and
// writing to another; closing may come from any. A session sees no more of a
// connection than this, because idle ones will be parked without a goroutine.
type wire interface {
	// read returns the next message. It fails when nothing (or not all of a
	// message) came before the deadline that until returns for each frame.
	read(until func() time.Time) (wireMessage, error)
	// write sends whole frames, or fails for good within writeTimeout.
	write(frames net.Buffers) error
	// readBy shortens the wait of a read that may be under way.
	readBy(t time.Time)
	// close ends the connection without ceremony.
	close()
}

// stream is a wire over a byte stream whose handshake is done.
type stream struct {
	conn net.Conn
	in   *bufio.Reader
	// state of a message that came in several frames, kept between reads
	// because control frames may stand among them
	parts   int
	opCode  ws.OpCode
	data    []byte
	tooBig  bool
	dropped int64
}

func newStream(conn net.Conn, early []byte) *stream {
	var source io.Reader = conn
	if len(early) > 0 {
		source = io.MultiReader(newOnce(early), conn)
	}
	return &stream{conn: conn, in: bufio.NewReaderSize(source, readBuffer)}
}

// newOnce gives bytes that arrived with the handshake.
func newOnce(b []byte) io.Reader { return &once{append([]byte(nil), b...)} }

type once struct{ rest []byte }

func (o *once) Read(p []byte) (int, error) {
	if len(o.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, o.rest)
	o.rest = o.rest[n:]
	return n, nil
}

func (s *stream) close() { _ = s.conn.Close() } // nothing can be done about a failure, the peer sees the end either way

func (s *stream) readBy(t time.Time) { _ = s.conn.SetReadDeadline(t) } // fails only on a closed connection, whose reads end anyway

func (s *stream) write(frames net.Buffers) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := frames.WriteTo(s.conn)
	return err
}

func (s *stream) read(until func() time.Time) (wireMessage, error) {
	for {
		if err := s.conn.SetReadDeadline(until()); err != nil {
			return wireMessage{}, err
		}
		h, err := ws.ReadHeader(s.in)
		if errors.Is(err, ws.ErrHeaderLengthMSB) || errors.Is(err, ws.ErrHeaderLengthUnexpected) {
			return wireMessage{}, &protocolError{ws.StatusProtocolError, err}
		}
		if err != nil {
			return wireMessage{}, err
		}
		state := ws.StateServerSide
		if s.parts > 0 {
			state = state.Set(ws.StateFragmented)
		}
		if err := ws.CheckHeader(h, state); err != nil {
			return wireMessage{}, &protocolError{ws.StatusProtocolError, err}
		}
		if h.OpCode.IsControl() {
			data := make([]byte, h.Length) // at most 125
			if _, err := io.ReadFull(s.in, data); err != nil {
				return wireMessage{}, err
			}
			ws.Cipher(data, h.Mask, 0)
			return wireMessage{opCode: h.OpCode, data: data}, nil
		}
		if s.parts == 0 {
			s.opCode, s.data, s.tooBig, s.dropped = h.OpCode, nil, false, 0
		}
		if s.parts++; s.parts > maxFragments {
			return wireMessage{}, &protocolError{ws.StatusMessageTooBig, errors.New("too many fragments")}
		}
		if err := s.payload(h); err != nil {
			return wireMessage{}, err
		}
		if h.Fin {
			m := wireMessage{s.opCode, s.data, s.tooBig}
			s.parts, s.data = 0, nil
			return m, nil
		}
	}
}

// payload appends one frame's payload up to the bound and discards the rest.
// Memory grows only with bytes that have come, not with the announced length.
func (s *stream) payload(h ws.Header) error {
	keep := min(h.Length, int64(maxFrameBytes-len(s.data)))
	rest := h.Length - keep
	if s.dropped += rest; s.dropped > maxDiscardBytes {
		return &protocolError{ws.StatusMessageTooBig, fmt.Errorf("a message of more than %d bytes", maxDiscardBytes)}
	}
	for done := int64(0); done < keep; {
		n := min(keep-done, int64(max(readBuffer, len(s.data))))
		at := len(s.data)
		s.data = append(s.data, make([]byte, n)...)
		if _, err := io.ReadFull(s.in, s.data[at:]); err != nil {
			return err
		}
		ws.Cipher(s.data[at:], h.Mask, int(done))
		done += n
	}
	if rest == 0 {
		return nil
	}
	s.tooBig = true
	_, err := io.CopyN(io.Discard, s.in, rest)
	return err
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
