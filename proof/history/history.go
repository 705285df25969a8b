// Package history judges what people did in a room, and when, by a linear
// order: is there one in which every answer was right at some moment between
// its question and itself?
//
// The model of a room is a list with idempotency keys: a send of a new key
// appends it and answers its place, from 1; a send of a known one answers the
// place that it has. A read answers the list from its beginning, whole or as far
// as it went. Porcupine looks for the order.
//
// A read may be served by a replica that is behind by a bounded time, which is
// part of the promise: such a read is right if it was at any moment of that time
// before its question. Sends, and reads that demanded what was known, have no
// such grace.
//
// Everything here is pure but for the time that Judge may take. Histories should
// be of one room and some hundred operations; the time to judge grows with what
// happens at once.
package history

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/anishathalye/porcupine"
)

// Send is one message, from when someone first meant to send it until its
// acknowledgement.
type Send struct {
	// Who sends: no two of its sends of one room overlap.
	Who int
	// Key is the sender with the client ID.
	Key string
	// Seq is the place that was acknowledged; 0 if it never was.
	Seq            uint64
	Called, Answer time.Time
}

// Read is one reading of a room from its beginning.
type Read struct {
	Who int
	// Keys in the order read, by place from 1.
	Keys []string
	// Whole tells that there was no more at that moment.
	Whole          bool
	Called, Answer time.Time
	// Grace is how far behind the replica may have been.
	Grace time.Duration
}

// Room is what happened in a room.
type Room struct {
	ID    string
	Sends []Send
	Reads []Read
}

// Outcome of judging a room.
type Outcome string

// The outcomes there are.
const (
	Linear    Outcome = "linear"
	Violated  Outcome = "violated"
	Undecided Outcome = "undecided" // not within the time
)

// Judge looks for a linear order of what happened in a room.
func Judge(r Room, within time.Duration) Outcome {
	operations := r.operations()
	if len(operations) == 0 {
		return Linear
	}
	switch porcupine.CheckOperationsTimeout(model, operations, within) {
	case porcupine.Ok:
		return Linear
	case porcupine.Illegal:
		return Violated
	default:
		return Undecided
	}
}

// keyID is a key as the model knows it: from 1 in each room. The list of a room
// is a string of these, two bytes each, so that states compare quickly.
type keyID uint16

type sendInput struct{ key keyID }
type readInput struct{}

type sendOutput struct {
	seq   uint64
	known bool // false: never acknowledged
}

type readOutput struct {
	list  string
	whole bool
}

// operations numbers the keys and puts times on one line.
func (r Room) operations() (out []porcupine.Operation) {
	ids := map[string]keyID{}
	id := func(key string) keyID {
		if ids[key] == 0 {
			ids[key] = keyID(len(ids) + 1)
		}
		return ids[key]
	}
	for _, s := range r.Sends {
		o := porcupine.Operation{
			ClientId: s.Who, Input: sendInput{id(s.Key)}, Output: sendOutput{s.Seq, s.Seq > 0},
			Call: s.Called.UnixNano(), Return: s.Answer.UnixNano(),
		}
		if s.Seq == 0 {
			o.Return = math.MaxInt64 // it may take effect at any later time, or never
		}
		out = append(out, o)
	}
	for _, read := range r.Reads {
		list := make([]byte, 0, 2*len(read.Keys))
		for _, key := range read.Keys {
			list = binary.BigEndian.AppendUint16(list, uint16(id(key)))
		}
		out = append(out, porcupine.Operation{
			ClientId: read.Who, Input: readInput{}, Output: readOutput{string(list), read.Whole},
			Call: read.Called.Add(-read.Grace).UnixNano(), Return: read.Answer.UnixNano(),
		})
	}
	return out
}

var model = porcupine.Model{
	Init:  func() any { return "" },
	Step:  func(state, input, output any) (bool, any) { return step(state.(string), input, output) },
	Equal: func(a, b any) bool { return a.(string) == b.(string) },
	DescribeOperation: func(input, output any) string {
		switch in := input.(type) {
		case sendInput:
			return fmt.Sprintf("send %d: %d", in.key, output.(sendOutput).seq)
		default:
			return fmt.Sprintf("read: %d", len(output.(readOutput).list)/2)
		}
	},
}

// step is the room: what one operation does to the list, and whether its answer
// is right.
func step(list string, input, output any) (bool, string) {
	switch in := input.(type) {
	case sendInput:
		out := output.(sendOutput)
		at := place(list, in.key)
		if at == 0 {
			list += string(binary.BigEndian.AppendUint16(nil, uint16(in.key)))
			at = uint64(len(list) / 2)
		}
		return !out.known || out.seq == at, list
	default:
		out := output.(readOutput)
		if out.whole {
			return out.list == list, list
		}
		return len(out.list) <= len(list) && list[:len(out.list)] == out.list, list
	}
}

// place finds a key in a list; 0 if it is not there.
func place(list string, key keyID) uint64 {
	for i := 0; i+1 < len(list); i += 2 {
		if keyID(list[i])<<8|keyID(list[i+1]) == key {
			return uint64(i/2 + 1)
		}
	}
	return 0
}
