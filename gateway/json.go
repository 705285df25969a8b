package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// jsonOut writes zeros, empty texts and empty lists too: who reads our JSON
// without a schema then finds "unread": 0 rather than nothing. Absent messages
// and answers not given stay absent.
var jsonOut = protojson.MarshalOptions{EmitDefaultValues: true}

// appendJSON encodes a server frame. One with an event has no id at all, as
// the API has it.
func appendJSON(dst []byte, frame *edgev1.ServerFrame) ([]byte, error) {
	event := frame.GetEvent()
	if event == nil || frame.GetId() != 0 {
		return jsonOut.MarshalAppend(dst, frame)
	}
	dst, err := jsonOut.MarshalAppend(append(dst, `{"event":`...), event)
	return append(dst, '}'), err
}

// rpcJSON is Connect's JSON codec with jsonOut and jsonIn. Name is the content
// type's, with or without a charset.
type rpcJSON struct{ name string }

// rpcJSONs are the names under which Connect looks for a JSON codec.
var rpcJSONs = []rpcJSON{{"json"}, {"json; charset=utf-8"}}

// Name implements connect.Codec.
func (c rpcJSON) Name() string { return c.name }

// Marshal implements connect.Codec.
func (c rpcJSON) Marshal(message any) ([]byte, error) { return c.MarshalAppend(nil, message) }

// MarshalAppend lets Connect reuse its buffers.
func (c rpcJSON) MarshalAppend(dst []byte, message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is not a protobuf message", message)
	}
	return jsonOut.MarshalAppend(dst, m)
}

// MarshalStable is for GET requests, which no method of ours has.
func (c rpcJSON) MarshalStable(message any) ([]byte, error) {
	b, err := c.Marshal(message)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// IsBinary tells Connect how to put the message into a URL.
func (c rpcJSON) IsBinary() bool { return false }

// Unmarshal implements connect.Codec.
func (c rpcJSON) Unmarshal(data []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is not a protobuf message", message)
	}
	if len(data) == 0 {
		return errors.New("want a JSON object, {} at least")
	}
	return jsonIn.Unmarshal(data, m)
}
