package chat

import (
	"bytes"
	"slices"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

func decideMarkRead(r Reader, actor []byte, c *nodev1.MarkRead) (Decision, error) {
	user, room, s, m, err := memberRoom(r, actor, c.GetRoomId())
	if err != nil {
		return Decision{}, err
	}
	if c.GetSeq() > s.GetLastSeq() {
		return Decision{}, refuse(SeqBeyondEnd, "seq")
	}
	if c.GetSeq() <= m.GetReadSeq() {
		return Decision{}, nil
	}
	return Decision{Events: []*journalv1.Event{{Kind: &journalv1.Event_ReadAdvanced{ReadAdvanced: &journalv1.ReadAdvanced{
		RoomId: room.Bytes(), MemberId: user.Bytes(), Seq: c.GetSeq(),
	}}}}}, nil
}

func applyReadAdvanced(tx Tx, ev *journalv1.ReadAdvanced) ([]*nodev1.FeedItem, error) {
	room, s, err := eventRoom(tx, ev.GetRoomId())
	if err != nil {
		return nil, err
	}
	user, m, err := eventMember(tx, room, ev.GetMemberId())
	if err != nil {
		return nil, err
	}
	from, to := m.GetReadSeq(), ev.GetSeq()
	if to <= from || to > s.GetLastSeq() {
		return nil, badEvent("moves a read cursor from %d to %d of %d", from, to, s.GetLastSeq())
	}
	m.ReadSeq = to
	if err := write(tx, memberKey(room, user), m); err != nil {
		return nil, err
	}
	return []*nodev1.FeedItem{{RoomId: room.Bytes(), Event: &edgev1.Event{Event: &edgev1.Event_Read{Read: &edgev1.ReadEvent{
		RoomId:  room.String(),
		Changes: []*edgev1.ReadEvent_Change{{UserId: user.String(), FromSeq: from, ToSeq: to}},
	}}}}}, nil
}

// cursors are how far the members of a room have read, for counting.
type cursors struct {
	users []id.ID  // in the order of IDs
	reads []uint64 // of users
	sorts []uint64 // reads, ascending
}

func readCursors(r Reader, room id.ID) (*cursors, error) {
	c := &cursors{}
	err := eachMember(r, room, func(user id.ID, m *journalv1.MemberState) {
		if !m.GetLeft() {
			c.users = append(c.users, user)
			c.reads = append(c.reads, max(m.GetReadSeq(), m.GetJoinedSeq()))
		}
	})
	if err != nil {
		return nil, err
	}
	c.sort()
	return c, nil
}

func (c *cursors) sort() {
	c.sorts = slices.Clone(c.reads)
	slices.Sort(c.sorts)
}

// unread is how many members other than sender have not read message seq.
func (c *cursors) unread(seq uint64, sender id.ID) uint32 {
	n, _ := slices.BinarySearch(c.sorts, seq)
	i, isMember := slices.BinarySearchFunc(c.users, sender, func(a, b id.ID) int { return bytes.Compare(a[:], b[:]) })
	if isMember && c.reads[i] < seq {
		n--
	}
	return uint32(n)
}

// MergeReads gathers the read cursors' moves in the feed of one record: those
// of one room that no other news of the room separates become one item with
// several changes, and moves of one member one change. What anyone hears, and
// in which order relative to messages, does not change. The items given are
// not modified; the result may share them.
func MergeReads(items []*nodev1.FeedItem) []*nodev1.FeedItem {
	if len(items) < 2 {
		return items
	}
	out := make([]*nodev1.FeedItem, 0, len(items))
	open := map[string]int{} // room → place in out of its latest item, if that is of reads
	for _, item := range items {
		read := item.GetEvent().GetRead()
		room := string(item.GetRoomId())
		if read == nil {
			delete(open, room)
			out = append(out, item)
			continue
		}
		at, ok := open[room]
		if !ok {
			open[room] = len(out)
			out = append(out, item)
			continue
		}
		out[at] = mergedReads(out[at], item)
	}
	return out
}

func mergedReads(a, b *nodev1.FeedItem) *nodev1.FeedItem {
	ra, rb := a.GetEvent().GetRead(), b.GetEvent().GetRead()
	changes := slices.Clone(ra.GetChanges())
	for _, c := range rb.GetChanges() {
		i := slices.IndexFunc(changes, func(o *edgev1.ReadEvent_Change) bool {
			return o.GetUserId() == c.GetUserId() && o.GetToSeq() == c.GetFromSeq()
		})
		if i >= 0 {
			changes[i] = &edgev1.ReadEvent_Change{UserId: c.GetUserId(), FromSeq: changes[i].GetFromSeq(), ToSeq: c.GetToSeq()}
		} else {
			changes = append(changes, c)
		}
	}
	return &nodev1.FeedItem{
		Shard: b.GetShard(), Index: b.GetIndex(), RoomId: a.GetRoomId(),
		Event: &edgev1.Event{Event: &edgev1.Event_Read{Read: &edgev1.ReadEvent{RoomId: ra.GetRoomId(), Changes: changes}}},
	}
}
