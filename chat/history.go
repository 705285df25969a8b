package chat

import (
	"encoding/binary"
	"fmt"
	"slices"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// Bounds of one page of history.
const (
	DefaultPage    = 50
	MaxPage        = 200
	MaxPageBytes   = 1 << 20 // of text; a page ends with the message that reaches it
	MaxPageNotices = 500     // the newest ones of the page's range
)

// History reads one page of a room's messages, those that actor may see, with
// the notices that stand among them:
//
//   - neither before_seq nor after_seq: the newest page;
//   - before_seq: the page that ends just before it;
//   - after_seq: the page that begins just behind it. Its notices begin behind
//     message after_seq, so that someone coming back misses none; the ones
//     there may be known to them already.
//
// Messages are in ascending seq, without a gap: one that is missing is damage
// (*CorruptError). The names in notices are for package shard to fill in.
func History(r Reader, actor id.ID, q *nodev1.HistoryQuery) (*edgev1.ListResponse, error) {
	room, err := parse(id.Room, q.GetRoomId(), "roomId")
	if err != nil {
		return nil, err
	}
	limit := int(q.GetLimit())
	switch {
	case q.GetBeforeSeq() > 0 && q.AfterSeq != nil:
		return nil, refuse(BeforeAndAfter, "beforeSeq")
	case q.GetLimit() > MaxPage:
		return nil, refuse(LimitTooHigh, "limit")
	case limit == 0:
		limit = DefaultPage
	}
	s, m, err := readableRoom(r, actor, room)
	if err != nil {
		return nil, err
	}
	p := page{
		r: r, room: room, limit: limit, noticeCount: s.GetNoticeCount(),
		first: m.GetJoinedSeq() + 1, last: s.GetLastSeq(),
	}
	if q.AfterSeq != nil {
		err = p.forward(max(q.GetAfterSeq(), m.GetJoinedSeq()))
	} else {
		end := p.last
		if q.GetBeforeSeq() > 0 {
			end = min(end, q.GetBeforeSeq()-1)
			if end < p.first && p.last >= p.first {
				// The page after this one is the room's first and has these notices.
				return &edgev1.ListResponse{LastSeq: p.last}, nil
			}
		}
		err = p.backward(end)
	}
	if err != nil {
		return nil, err
	}
	return p.response()
}

// readableRoom reads a room that actor may look into; a stopped one as well.
func readableRoom(r Reader, actor, room id.ID) (*journalv1.RoomState, *journalv1.MemberState, error) {
	s, err := readRoom(r, room)
	if err != nil {
		return nil, nil, err
	}
	if s == nil {
		return nil, nil, refuse(RoomUnknown, "roomId")
	}
	m, err := readMember(r, room, actor)
	if err != nil {
		return nil, nil, err
	}
	if m == nil || m.GetLeft() {
		return nil, nil, refuse(NotAMember, "roomId")
	}
	return s, m, nil
}

// page gathers messages between first and last.
type page struct {
	r           Reader
	room        id.ID
	limit       int
	noticeCount uint64 // of the room
	first, last uint64 // what the reader may see

	seqs     []uint64
	messages []*journalv1.StoredMessage
	more     bool
	// notices of messages from noticesLow to noticesHigh inclusive.
	noticesLow, noticesHigh uint64
}

// forward reads behind seq.
func (p *page) forward(seq uint64) error {
	p.noticesLow, p.noticesHigh = seq, p.last
	if seq >= p.last {
		return nil
	}
	if err := p.scan(seq+1, p.last, false); err != nil {
		return err
	}
	newest := p.seqs[len(p.seqs)-1]
	p.more = newest < p.last
	p.noticesHigh = newest
	return nil
}

// backward reads up to and including seq.
func (p *page) backward(seq uint64) error {
	p.noticesLow, p.noticesHigh = p.first-1, max(seq, p.first-1)
	if seq < p.first {
		return nil
	}
	if err := p.scan(p.first, seq, true); err != nil {
		return err
	}
	slices.Reverse(p.seqs)
	slices.Reverse(p.messages)
	oldest := p.seqs[0]
	if p.more = oldest > p.first; p.more {
		p.noticesLow = oldest
	}
	return nil
}

// scan reads messages from low to high inclusive, which is not empty, until
// the page is full.
func (p *page) scan(low, high uint64, reverse bool) error {
	want, size := low, 0
	if reverse {
		want = high
	}
	err := scan(p.r, messageKey(p.room, low), after(messageKey(p.room, high)), reverse, func(k, v []byte) (bool, error) {
		seq := be64(k[len(k)-8:])
		if len(k) != ownerKeyBytes+8 || seq != want {
			return false, damaged(k, fmt.Errorf("message %d is missing", want))
		}
		if want++; reverse {
			want = seq - 1
		}
		m := &journalv1.StoredMessage{}
		if err := decode(k, v, m); err != nil {
			return false, err
		}
		p.seqs, p.messages = append(p.seqs, seq), append(p.messages, m)
		size += len(v)
		return len(p.seqs) < p.limit && size < MaxPageBytes, nil
	})
	if err != nil {
		return err
	}
	full := len(p.seqs) == p.limit || size >= MaxPageBytes
	if n := uint64(len(p.seqs)); n == 0 || !full && n != high-low+1 {
		return damaged(messageKey(p.room, want), fmt.Errorf("message %d is missing", want))
	}
	return nil
}

func (p *page) response() (*edgev1.ListResponse, error) {
	out := &edgev1.ListResponse{HasMore: p.more, LastSeq: p.last}
	if len(p.seqs) > 0 {
		c, err := readCursors(p.r, p.room)
		if err != nil {
			return nil, err
		}
		for i, m := range p.messages {
			e, err := edgeMessage(p.room, p.seqs[i], m, c)
			if err != nil {
				return nil, err
			}
			out.Messages = append(out.Messages, e)
		}
	}
	if p.noticeCount <= 1 && p.noticesLow > 0 {
		// A room's first notice tells that it was made and stands before message
		// 1. Direct rooms never have another one.
		return out, nil
	}
	var err error
	out.Notices, err = readNotices(p.r, p.room, p.noticesLow, p.noticesHigh)
	return out, err
}

// readNotices returns the newest MaxPageNotices that stand behind messages low
// to high inclusive, in order.
func readNotices(r Reader, room id.ID, low, high uint64) ([]*edgev1.Notice, error) {
	var out []*edgev1.Notice
	prefix := ownerKey(kindNotice, room)
	from := binary.BigEndian.AppendUint64(slices.Clone(prefix), low)
	to := after(binary.BigEndian.AppendUint64(slices.Clone(prefix), high))
	err := scan(r, from, to, true, func(k, v []byte) (bool, error) {
		n := &journalv1.StoredNotice{}
		if err := decode(k, v, n); err != nil {
			return false, err
		}
		e, err := edgeNotice(n)
		if err != nil {
			return false, damaged(k, err)
		}
		out = append(out, e)
		return len(out) < MaxPageNotices, nil
	})
	if err != nil {
		return nil, err
	}
	slices.Reverse(out)
	return out, nil
}
