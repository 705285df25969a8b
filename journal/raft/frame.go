package raft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/bongsu-im/bongsu/journal"
)

// What travels between nodes is cut into frames: length(4) crc32c(4) kind(1)
// body, the length and the sum over kind and body. TLS would notice damage on the
// way; the sum also covers the memory on both sides of it.
type frameKind byte

const (
	frameHello   frameKind = 1 // who dials
	frameReply   frameKind = 2 // who was dialled, and its greeting
	frameRefuse  frameKind = 3 // why not, as text
	frameWelcome frameKind = 4 // the greeting of who dials
	frameParcels frameKind = 5
	frameChunk   frameKind = 6 // of a snapshot
	frameEnd     frameKind = 7 // of a snapshot: length(8) sha256(32) of all chunks
	frameAsk     frameKind = 8 // which shard's snapshot
	framePing    frameKind = 9
)

const frameHeader = 4 + 4 + 1

var errFrame = errors.New("frame damaged")

// beginFrame leaves room for the header; endFrame fills it in.
func beginFrame(b []byte, kind frameKind) []byte {
	return append(b, 0, 0, 0, 0, 0, 0, 0, 0, byte(kind))
}

func endFrame(b []byte) []byte {
	body := b[8:]
	binary.BigEndian.PutUint32(b, uint32(len(body)))
	binary.BigEndian.PutUint32(b[4:], crc32.Checksum(body, castagnoli))
	return b
}

func writeFrame(w io.Writer, kind frameKind, body []byte) error {
	_, err := w.Write(endFrame(append(beginFrame(make([]byte, 0, frameHeader+len(body)), kind), body...)))
	return err
}

// readFrame reads one frame into buf, which it returns grown for the next. At
// most limit bytes of it are taken in before anything is believed.
func readFrame(r io.Reader, buf []byte, limit int) (kind frameKind, body, grown []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, buf, err
	}
	n := int(binary.BigEndian.Uint32(head[:]))
	if n < 1 || n > limit {
		return 0, nil, buf, fmt.Errorf("%w: %d bytes long, %d are allowed", errFrame, n, limit)
	}
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(r, buf); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, buf, err
	}
	if crc32.Checksum(buf, castagnoli) != binary.BigEndian.Uint32(head[4:]) {
		return 0, nil, buf, fmt.Errorf("%w: %w", errFrame, errChecksum)
	}
	return frameKind(buf[0]), buf[1:], buf, nil
}

const parcelHeader = 2 + 1 + 4

const (
	parcelMessage byte = 1
	parcelRemoved byte = 2
	parcelRemind  byte = 3
)

// appendParcel encodes a parcel: shard(2) what(1) length(4) message.
func appendParcel(b []byte, p Parcel) ([]byte, error) {
	b = binary.BigEndian.AppendUint16(b, uint16(p.Shard))
	if p.Message == nil && p.Reminder.Index != 0 {
		b = append(b, parcelRemind, 0, 0, 0, 16)
		b = binary.BigEndian.AppendUint64(b, uint64(p.Reminder.Term))
		return binary.BigEndian.AppendUint64(b, uint64(p.Reminder.Index)), nil
	}
	if p.Message == nil {
		return append(b, parcelRemoved, 0, 0, 0, 0), nil
	}
	at := len(b)
	b = append(b, parcelMessage, 0, 0, 0, 0)
	b, err := proto.MarshalOptions{}.MarshalAppend(b, p.Message)
	if err != nil {
		return nil, fmt.Errorf("encode message: %w", err)
	}
	n := len(b) - at - 5
	if n > maxMessageBytes {
		return nil, fmt.Errorf("message of %d bytes, %d are allowed", n, maxMessageBytes)
	}
	binary.BigEndian.PutUint32(b[at+1:], uint32(n))
	return b, nil
}

// parseParcels shows every parcel of a frame to visit; nothing of b is kept.
func parseParcels(b []byte, visit func(Parcel)) error {
	for len(b) > 0 {
		if len(b) < parcelHeader {
			return fmt.Errorf("%w: a parcel's header is cut", errFrame)
		}
		p := Parcel{Shard: journal.ShardID(binary.BigEndian.Uint16(b))}
		what, n := b[2], int(binary.BigEndian.Uint32(b[3:]))
		b = b[parcelHeader:]
		switch {
		case n > len(b) || n > maxMessageBytes:
			return fmt.Errorf("%w: a parcel of %d bytes in %d", errFrame, n, len(b))
		case what == parcelRemoved && n == 0:
		case what == parcelRemind && n == 16:
			p.Reminder = journal.Position{Term: journal.Term(binary.BigEndian.Uint64(b)), Index: journal.Index(binary.BigEndian.Uint64(b[8:]))}
			if p.Reminder.Term == 0 || p.Reminder.Index == 0 {
				return fmt.Errorf("%w: an empty reminder", errFrame)
			}
		case what == parcelMessage:
			p.Message = &raftpb.Message{}
			if err := proto.Unmarshal(b[:n], p.Message); err != nil {
				return fmt.Errorf("%w: %w", errFrame, err)
			}
			if err := checkMessage(p.Message); err != nil {
				return fmt.Errorf("%w: %w", errFrame, err)
			}
		default:
			return fmt.Errorf("%w: parcel of kind %d with %d bytes", errFrame, what, n)
		}
		b = b[n:]
		visit(p)
	}
	return nil
}

// checkMessage refuses what raft takes for granted and would panic about.
func checkMessage(m *raftpb.Message) error {
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgSnap, raftpb.MsgHeartbeat,
		raftpb.MsgHeartbeatResp, raftpb.MsgTimeoutNow, raftpb.MsgPreVote, raftpb.MsgPreVoteResp:
	default:
		return fmt.Errorf("message type %d does not travel", m.GetType())
	}
	if m.GetFrom() == 0 || m.GetTo() == 0 || m.GetTerm() == 0 || len(m.GetResponses()) > 0 {
		return errors.New("message without sender, receiver or term")
	}
	if len(m.GetEntries()) > 0 && m.GetType() != raftpb.MsgApp {
		return errors.New("entries in a message that carries none")
	}
	term := m.GetLogTerm()
	for i, e := range m.GetEntries() {
		if e.GetIndex() != m.GetIndex()+1+uint64(i) || e.GetTerm() < term || e.GetTerm() > m.GetTerm() || e.GetTerm() == 0 {
			return fmt.Errorf("entry %d of term %d does not follow", e.GetIndex(), e.GetTerm())
		}
		term = e.GetTerm()
		if kindOf(e) == kindData && (e.GetData()[0] != payloadMark || len(e.GetData()) > 1+journal.MaxEntryBytes) {
			return fmt.Errorf("entry %d without a payload", e.GetIndex())
		}
	}
	return nil
}
