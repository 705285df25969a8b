package gateway

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"sync"

	"github.com/gobwas/ws"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// codec is one subprotocol: how frames are written on the wire.
type codec uint8

const (
	binaryCodec codec = iota // bongsu.v1
	jsonCodec                // bongsu.v1.json
	codecs
)

// The subprotocols by name.
const (
	binaryProtocol = "bongsu.v1"
	jsonProtocol   = "bongsu.v1.json"
)

func (c codec) String() string {
	if c == jsonCodec {
		return jsonProtocol
	}
	return binaryProtocol
}

// opCode is the kind of WebSocket message the codec uses.
func (c codec) opCode() ws.OpCode {
	if c == jsonCodec {
		return ws.OpText
	}
	return ws.OpBinary
}

// Unknown fields are ignored in both; nesting is bounded far above what our
// messages need.
var (
	jsonIn   = protojson.UnmarshalOptions{DiscardUnknown: true, RecursionLimit: 32}
	binaryIn = proto.UnmarshalOptions{DiscardUnknown: true, RecursionLimit: 32}
)

func (c codec) decode(data []byte, frame *edgev1.ClientFrame) error {
	if c == jsonCodec {
		return jsonIn.Unmarshal(data, frame)
	}
	return binaryIn.Unmarshal(data, frame)
}

// encode returns a whole WebSocket frame, header and payload in one slice.
func (c codec) encode(frame *edgev1.ServerFrame) ([]byte, error) {
	if c == jsonCodec {
		payload, err := appendJSON(make([]byte, headerRoom, headerRoom+512), frame)
		if err != nil {
			return nil, err
		}
		size := len(payload) - headerRoom
		start := headerRoom - headerLen(size)
		appendHeader(payload[start:start], ws.OpText, size)
		return payload[start:], nil
	}
	size := proto.Size(frame)
	out := appendHeader(make([]byte, 0, headerLen(size)+size), ws.OpBinary, size)
	return proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(out, frame)
}

// headerRoom is the longest header of a frame of ours: they are not masked.
const headerRoom = 10

func headerLen(size int) int {
	switch {
	case size < 126:
		return 2
	case size < 1<<16:
		return 4
	}
	return headerRoom
}

func appendHeader(dst []byte, opCode ws.OpCode, size int) []byte {
	dst = append(dst, 0x80|byte(opCode))
	switch headerLen(size) {
	case 2:
		return append(dst, byte(size))
	case 4:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(size))
	}
	return binary.BigEndian.AppendUint64(append(dst, 127), uint64(size))
}

// salvageID finds the id of a frame that cannot be decoded or was cut short;
// 0 if it cannot be read.
func (c codec) salvageID(data []byte) uint32 {
	if c == jsonCodec {
		return salvageJSON(data)
	}
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return 0
		}
		data = data[n:]
		if number == 1 && kind == protowire.VarintType {
			v, n := protowire.ConsumeVarint(data)
			if n < 0 || v > 1<<32-1 {
				return 0
			}
			return uint32(v)
		}
		if n = protowire.ConsumeFieldValue(number, kind, data); n < 0 {
			return 0
		}
		data = data[n:]
	}
	return 0
}

func salvageJSON(data []byte) uint32 {
	d := json.NewDecoder(bytes.NewReader(data))
	depth, key, atKey := 0, "", false
	for {
		token, err := d.Token()
		if err != nil {
			return 0
		}
		if delim, ok := token.(json.Delim); ok {
			if delim == '{' || delim == '[' {
				depth++
				if depth > 64 || depth == 1 && delim == '[' {
					return 0
				}
			} else {
				depth--
				if depth == 0 {
					return 0
				}
			}
			atKey = depth == 1
			continue
		}
		if depth != 1 {
			continue
		}
		if atKey {
			key, _ = token.(string)
			atKey = false
			continue
		}
		if number, ok := token.(float64); ok && key == "id" && number >= 1 && number <= 1<<32-1 && number == float64(uint32(number)) {
			return uint32(number)
		}
		atKey = true
	}
}

// prepared is one event as it goes to many sockets: encoded at most once per
// subprotocol, and every socket is given the same bytes.
type prepared struct {
	event *edgev1.Event
	once  [codecs]sync.Once
	bytes [codecs][]byte
	err   [codecs]error
}

func newPrepared(event *edgev1.Event) *prepared { return &prepared{event: event} }

func (p *prepared) frame(c codec) ([]byte, error) {
	p.once[c].Do(func() {
		p.bytes[c], p.err[c] = c.encode(&edgev1.ServerFrame{Body: &edgev1.ServerFrame_Event{Event: p.event}})
	})
	return p.bytes[c], p.err[c]
}
