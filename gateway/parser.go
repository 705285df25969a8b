package gateway

import (
	"encoding/binary"
	"errors"
	"fmt"

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

// parser turns a client's bytes into messages, however they are cut up. It
// does no I/O and belongs to one goroutine; the zero parser is at a beginning.
// Between calls it holds what has come of an unfinished message and at most a
// quarter more: what a client announces costs nothing until it is sent.
type parser struct {
	// The header of the frame under way, while it is not complete.
	head    [ws.MaxHeaderSize]byte
	headLen uint8

	// The frame under way; framed: its header is complete.
	framed bool
	frame  ws.Header
	done   int64 // bytes of its payload that have come
	keep   int64 // how many of a data frame's are kept

	control []byte // of a control frame under way

	// The message under way. Control frames may stand among its frames.
	parts   int // 0: none
	opCode  ws.OpCode
	data    []byte
	tooBig  bool
	dropped int64 // bytes announced but not kept
}

// held is how many bytes the parser keeps for an unfinished message.
func (p *parser) held() int { return cap(p.data) + cap(p.control) }

// next takes bytes from the front of data until a message is complete (ok) or
// none are left, and says how many it took. It unmasks in place: the message
// may point into data and is valid until either is used again. After an error
// the parser must not be used.
func (p *parser) next(data []byte) (m wireMessage, ok bool, used int, err error) {
	for {
		if !p.framed {
			n, err := p.header(data[used:])
			used += n
			if err != nil || !p.framed {
				return wireMessage{}, false, used, err
			}
		}
		piece := data[used:]
		if left := p.frame.Length - p.done; int64(len(piece)) > left {
			piece = piece[:left]
		}
		used += len(piece)
		whole := p.done == 0 && int64(len(piece)) == p.frame.Length
		if p.frame.OpCode.IsControl() {
			m, ok = p.takeControl(piece, whole)
		} else {
			m, ok = p.takeData(piece, whole)
		}
		if ok || p.framed {
			return m, ok, used, nil
		}
	}
}

// header gathers the header of a frame and checks it.
func (p *parser) header(data []byte) (used int, err error) {
	for {
		need := headerSize(p.head[:p.headLen])
		if int(p.headLen) == need {
			break
		}
		n := copy(p.head[p.headLen:need], data[used:])
		if n == 0 {
			return used, nil
		}
		used += n
		p.headLen += uint8(n)
	}
	h := ws.Header{
		Fin: p.head[0]&0x80 != 0, Rsv: p.head[0] & 0x70 >> 4, OpCode: ws.OpCode(p.head[0] & 0x0f),
		Masked: p.head[1]&0x80 != 0, Length: int64(p.head[1] & 0x7f),
	}
	switch h.Length {
	case 126:
		h.Length = int64(binary.BigEndian.Uint16(p.head[2:]))
	case 127:
		if p.head[2]&0x80 != 0 {
			return used, &protocolError{ws.StatusProtocolError, ws.ErrHeaderLengthMSB}
		}
		h.Length = int64(binary.BigEndian.Uint64(p.head[2:]))
	}
	if h.Masked {
		copy(h.Mask[:], p.head[p.headLen-4:])
	}
	state := ws.StateServerSide
	if p.parts > 0 {
		state = state.Set(ws.StateFragmented)
	}
	if err := ws.CheckHeader(h, state); err != nil {
		return used, &protocolError{ws.StatusProtocolError, err}
	}
	p.frame, p.framed, p.done, p.headLen = h, true, 0, 0
	if h.OpCode.IsControl() {
		return used, nil
	}
	return used, p.begin()
}

// headerSize is how long a header is, as far as its beginning tells.
func headerSize(head []byte) int {
	if len(head) < 2 {
		return 2
	}
	size := 2
	switch head[1] & 0x7f {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if head[1]&0x80 != 0 {
		size += 4
	}
	return size
}

// begin counts a data frame against the bounds of its message.
func (p *parser) begin() error {
	if p.parts == 0 {
		p.opCode, p.data, p.tooBig, p.dropped = p.frame.OpCode, nil, false, 0
	}
	if p.parts++; p.parts > maxFragments {
		return &protocolError{ws.StatusMessageTooBig, errors.New("too many fragments")}
	}
	p.keep = min(p.frame.Length, int64(maxFrameBytes-len(p.data)))
	rest := p.frame.Length - p.keep
	if rest > maxDiscardBytes-p.dropped { // as a sum it could overflow
		return &protocolError{ws.StatusMessageTooBig, fmt.Errorf("a message of more than %d bytes", maxDiscardBytes)}
	}
	p.dropped += rest
	p.tooBig = p.tooBig || rest > 0
	return nil
}

func (p *parser) takeControl(piece []byte, whole bool) (wireMessage, bool) {
	ws.Cipher(piece, p.frame.Mask, int(p.done))
	p.done += int64(len(piece))
	if !whole {
		p.control = append(p.control, piece...) // at most 125
		piece = p.control
	}
	if p.done < p.frame.Length {
		return wireMessage{}, false
	}
	p.framed, p.control = false, nil
	return wireMessage{opCode: p.frame.OpCode, data: piece}, true
}

func (p *parser) takeData(piece []byte, whole bool) (wireMessage, bool) {
	kept := piece[:max(min(int64(len(piece)), p.keep-p.done), 0)]
	ws.Cipher(kept, p.frame.Mask, int(p.done%4))
	p.done += int64(len(piece))
	complete := p.done == p.frame.Length
	if whole && complete && p.frame.Fin && p.parts == 1 { // the usual case copies nothing
		p.framed, p.parts = false, 0
		return wireMessage{p.opCode, kept, p.tooBig}, true
	}
	p.append(kept)
	if !complete {
		return wireMessage{}, false
	}
	p.framed = false
	if !p.frame.Fin {
		return wireMessage{}, false
	}
	m := wireMessage{p.opCode, p.data, p.tooBig}
	p.parts, p.data = 0, nil
	return m, true
}

// append keeps b, with room for at most a quarter more.
func (p *parser) append(b []byte) {
	if need := len(p.data) + len(b); need > cap(p.data) {
		grown := make([]byte, len(p.data), min(need+need/4, maxFrameBytes))
		copy(grown, p.data)
		p.data = grown
	}
	p.data = append(p.data, b...)
}
