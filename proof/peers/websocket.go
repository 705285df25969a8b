package peers

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/gobwas/ws"
)

// maxFrame bounds a frame of a server: a page of 50 messages fits many times.
const maxFrame = 1 << 20

// socket is a WebSocket that costs the generator as little as may be.
type socket struct {
	conn net.Conn
	in   *bufio.Reader
	buf  []byte

	writing sync.Mutex // one frame at a time
}

// dialSocket opens a WebSocket; subprotocol may be empty.
func dialSocket(ctx context.Context, url, subprotocol string) (*socket, error) {
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	d := ws.Dialer{ReadBufferSize: 1024, WriteBufferSize: 1024} // of the handshake only
	if subprotocol != "" {
		d.Protocols = []string{subprotocol}
	}
	conn, early, _, err := d.Dial(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("open a socket: %w", err)
	}
	s := &socket{conn: conn, in: bufio.NewReaderSize(conn, 8<<10)}
	if early != nil {
		// What the server said together with its answer to the handshake.
		if n := early.Buffered(); n > 0 {
			s.in = bufio.NewReaderSize(io.MultiReader(io.LimitReader(early, int64(n)), conn), 8<<10)
		}
	}
	return s, nil
}

// write sends one binary frame.
func (s *socket) write(payload []byte) error { return s.writeFrame(ws.OpBinary, payload) }

func (s *socket) writeFrame(op ws.OpCode, payload []byte) error {
	frame := ws.MustCompileFrame(ws.MaskFrameInPlace(ws.NewFrame(op, true, payload)))
	s.writing.Lock()
	defer s.writing.Unlock()
	_, err := s.conn.Write(frame)
	return err
}

// next returns the payload of the next data frame; it is good until the next
// call. One goroutine reads.
func (s *socket) next() ([]byte, error) {
	for {
		op, payload, err := readFrame(s.in, &s.buf)
		if err != nil {
			return nil, err
		}
		switch op {
		case ws.OpBinary, ws.OpText:
			return payload, nil
		case ws.OpClose:
			code, reason := ws.ParseCloseFrameData(payload)
			return nil, fmt.Errorf("the server closed the socket: %d %s", code, reason)
		case ws.OpPing:
			if err := s.writeFrame(ws.OpPong, payload); err != nil {
				return nil, err
			}
		}
	}
}

var errFrame = errors.New("a frame that no server of ours sends")

// readFrame reads one unmasked, unfragmented frame of a server into *buf.
func readFrame(in *bufio.Reader, buf *[]byte) (ws.OpCode, []byte, error) {
	var head [10]byte
	if _, err := io.ReadFull(in, head[:2]); err != nil {
		return 0, nil, err
	}
	op, size := ws.OpCode(head[0]&0x0f), uint64(head[1]&0x7f)
	if head[0]&0xf0 != 0x80 || head[1]&0x80 != 0 || op == ws.OpContinuation {
		return 0, nil, errFrame
	}
	switch size {
	case 126:
		if _, err := io.ReadFull(in, head[2:4]); err != nil {
			return 0, nil, err
		}
		size = uint64(binary.BigEndian.Uint16(head[2:4]))
	case 127:
		if _, err := io.ReadFull(in, head[2:10]); err != nil {
			return 0, nil, err
		}
		size = binary.BigEndian.Uint64(head[2:10])
	}
	if size > maxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes: %w", size, errFrame)
	}
	if uint64(cap(*buf)) < size {
		*buf = make([]byte, size)
	}
	payload := (*buf)[:size]
	if _, err := io.ReadFull(in, payload); err != nil {
		return 0, nil, err
	}
	return op, payload, nil
}

func (s *socket) close() { _ = s.conn.Close() } // the server sees the end either way
