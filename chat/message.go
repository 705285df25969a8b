package chat

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// Bounds of messages.
const (
	MaxTextChars  = 10000 // Unicode code points
	MaxTextBytes  = 40000
	ClientIDBytes = 16
)

func checkText(text string) error {
	switch {
	case len(text) > MaxTextBytes:
		return refuse(TextTooLong, "text")
	case !utf8.ValidString(text):
		return refuse(TextInvalid, "text")
	case len(text) > MaxTextChars && utf8.RuneCountInString(text) > MaxTextChars:
		return refuse(TextTooLong, "text")
	case strings.TrimSpace(text) == "":
		return refuse(TextEmpty, "text")
	}
	return nil
}

// decideSend gives a message the next place in its room. One that was sent
// before is answered as it was then, whatever has happened since: its sender
// may have left, or the room be stopped (invariant 3).
func decideSend(r Reader, env Env, actor []byte, c *nodev1.Send) (Decision, error) {
	sender, err := parse(id.User, actor, "actor")
	if err != nil {
		return Decision{}, err
	}
	room, err := parse(id.Room, c.GetRoomId(), "roomId")
	if err != nil {
		return Decision{}, err
	}
	if len(c.GetClientId()) != ClientIDBytes {
		return Decision{}, refuse(BadClientID, "clientId")
	}
	s, err := readRoom(r, room)
	if err != nil {
		return Decision{}, err
	}
	if s == nil {
		return Decision{}, refuse(RoomUnknown, "roomId")
	}
	keepRoom(r, s)
	before, err := sentAs(r, room, sender, c.GetClientId())
	if err != nil {
		return Decision{}, err
	}
	if before > 0 {
		return repeatedSend(r, room, before)
	}
	if s.GetStopped() != "" {
		return Decision{}, refuse(RoomIsStopped, "roomId")
	}
	m, err := readMember(r, room, sender)
	if err != nil {
		return Decision{}, err
	}
	keepMember(r, room, sender, m)
	// Who has left a direct room comes back to it by sending.
	if m == nil || m.GetLeft() && s.GetKind() != direct {
		return Decision{}, refuse(NotAMember, "roomId")
	}
	if err := checkText(c.GetText()); err != nil {
		return Decision{}, err
	}
	if !visible(s, m, c.GetReplyTo()) {
		return Decision{}, refuse(ReplyUnknown, "replyTo")
	}
	members := s.GetMemberCount()
	var events []*journalv1.Event
	if s.GetKind() == direct {
		back, err := directSend(r, room, s, sender)
		if err != nil {
			return Decision{}, err
		}
		if len(back) > 0 {
			members += uint32(len(back))
			events = append(events, membersJoined(room, sender, back))
		}
	}
	sent := &journalv1.MessageSent{
		RoomId: c.GetRoomId(), Seq: s.GetLastSeq() + 1, SenderId: actor,
		ClientId: c.GetClientId(), Text: c.GetText(), ReplyTo: c.GetReplyTo(),
	}
	return Decision{
		Events: append(events, &journalv1.Event{Kind: &journalv1.Event_MessageSent{MessageSent: sent}}),
		Reply:  messageReply(edgeSent(room, sender, sent, env.NowMs, members-1)),
	}, nil
}

// sentAs returns the number of the message that sender has sent to room under
// a client ID; 0 if there is none. Client IDs mostly grow, as UUIDv7 do: one
// greater than all that this sender has used here is new, whatever its clock
// says, and needs no look-up. Any other is looked up.
func sentAs(r Reader, room, sender id.ID, client []byte) (uint64, error) {
	key := clientIDKey(room, sender, client)
	if c, ok := r.(Ceiling); ok {
		above, err := c.Above(key, ownerKeyBytes+id.Size)
		if err != nil {
			return 0, fmt.Errorf("read state: %w", err)
		}
		if above {
			return 0, nil
		}
	}
	return readSeq(r, key)
}

// visible tells whether a member may reply to the message. Numbers are dense,
// so one between joining and the newest is there.
func visible(s *journalv1.RoomState, m *journalv1.MemberState, replyTo uint64) bool {
	if replyTo == 0 {
		return true
	}
	return !m.GetLeft() && replyTo > m.GetJoinedSeq() && replyTo <= s.GetLastSeq()
}

// directSend judges blocks in a room of two, and returns who has left it and
// comes back with this message.
func directSend(r Reader, room id.ID, s *journalv1.RoomState, sender id.ID) (back []id.ID, err error) {
	if s.GetBlockNoted() { // rare, and a scan on the way of every message otherwise
		if err := checkBlocks(r, room, sender); err != nil {
			return nil, err
		}
	}
	if s.GetMemberCount() >= 2 {
		return nil, nil
	}
	err = eachMember(r, room, func(user id.ID, m *journalv1.MemberState) {
		if m.GetLeft() {
			back = append(back, user)
		}
	})
	return back, err
}

func repeatedSend(r Reader, room id.ID, seq uint64) (Decision, error) {
	m, err := readMessage(r, room, seq)
	if err != nil {
		return Decision{}, err
	}
	c, err := readCursors(r, room)
	if err != nil {
		return Decision{}, err
	}
	e, err := edgeMessage(room, seq, m, c)
	if err != nil {
		return Decision{}, err
	}
	return Decision{Reply: messageReply(e)}, nil
}

func messageReply(m *edgev1.Message) *nodev1.Reply {
	return &nodev1.Reply{Kind: &nodev1.Reply_Message{Message: m}}
}

// readMessage reads a message that must be there.
func readMessage(r Reader, room id.ID, seq uint64) (*journalv1.StoredMessage, error) {
	m, key := &journalv1.StoredMessage{}, messageKey(room, seq)
	found, err := read(r, key, m)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, damaged(key, fmt.Errorf("message %d is missing", seq))
	}
	return m, nil
}

func applyMessageSent(tx Tx, meta Meta, ev *journalv1.MessageSent) ([]*nodev1.FeedItem, error) {
	room, s, err := eventRoom(tx, ev.GetRoomId())
	if err != nil {
		return nil, err
	}
	sender, m, err := eventMember(tx, room, ev.GetSenderId())
	if err != nil {
		return nil, err
	}
	seq := ev.GetSeq()
	switch {
	case seq != s.GetLastSeq()+1:
		return nil, badEvent("has number %d after %d", seq, s.GetLastSeq())
	case len(ev.GetClientId()) != ClientIDBytes:
		return nil, badEvent("has a client ID of %d bytes", len(ev.GetClientId()))
	case s.MemberCount == 0:
		return nil, damaged(roomKey(room), errors.New("counts no members, but has one"))
	}
	s.LastSeq, s.ActiveMs = seq, meta.TimeMs
	if err := saveRoom(tx, room, s); err != nil {
		return nil, err
	}
	stored := &journalv1.StoredMessage{
		SenderId: ev.GetSenderId(), ClientId: ev.GetClientId(), Text: ev.GetText(),
		SentMs: meta.TimeMs, ReplyTo: ev.GetReplyTo(),
	}
	if err := write(tx, messageKey(room, seq), stored); err != nil {
		return nil, err
	}
	var place [8]byte
	binary.BigEndian.PutUint64(place[:], seq)
	if !mutantNoClientID {
		if err := set(tx, clientIDKey(room, sender, ev.GetClientId()), place[:]); err != nil {
			return nil, err
		}
	}
	// Who had read everything has now read everything, their own words included.
	if m.GetReadSeq() == seq-1 {
		m.ReadSeq = seq
		if err := write(tx, memberKey(room, sender), m); err != nil {
			return nil, err
		}
	}
	message := edgeSent(room, sender, ev, meta.TimeMs, s.GetMemberCount()-1)
	return []*nodev1.FeedItem{{RoomId: ev.GetRoomId(), Event: &edgev1.Event{Event: &edgev1.Event_Message{
		Message: &edgev1.MessageEvent{Message: message},
	}}}}, nil
}

func edgeSent(room, sender id.ID, ev *journalv1.MessageSent, sentMs int64, unread uint32) *edgev1.Message {
	return &edgev1.Message{
		RoomId: room.String(), Seq: ev.GetSeq(), SenderId: sender.String(), ClientId: uuid(ev.GetClientId()),
		Text: ev.GetText(), SentAt: sentMs, Unread: unread, ReplyTo: ev.GetReplyTo(),
	}
}

func edgeMessage(room id.ID, seq uint64, m *journalv1.StoredMessage, c *cursors) (*edgev1.Message, error) {
	sender, err := id.FromBytes(id.User, m.GetSenderId())
	if err != nil {
		return nil, damaged(messageKey(room, seq), err)
	}
	if len(m.GetClientId()) != ClientIDBytes {
		return nil, damaged(messageKey(room, seq), fmt.Errorf("client ID of %d bytes", len(m.GetClientId())))
	}
	return &edgev1.Message{
		RoomId: room.String(), Seq: seq, SenderId: sender.String(), ClientId: uuid(m.GetClientId()),
		Text: m.GetText(), SentAt: m.GetSentMs(), Unread: c.unread(seq, sender), ReplyTo: m.GetReplyTo(),
	}, nil
}

// uuid is the text of 16 bytes.
func uuid(b []byte) string {
	var out [36]byte
	hex.Encode(out[0:8], b[0:4])
	hex.Encode(out[9:13], b[4:6])
	hex.Encode(out[14:18], b[6:8])
	hex.Encode(out[19:23], b[8:10])
	hex.Encode(out[24:36], b[10:16])
	out[8], out[13], out[18], out[23] = '-', '-', '-', '-'
	return string(out[:])
}

func be64(b []byte) uint64 { return binary.BigEndian.Uint64(b) }
