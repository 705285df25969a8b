package chat

import (
	"errors"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// A member's read cursor never lies before joined_seq: what came before is not
// theirs, so it never counts as unread. This makes one number enough for every
// count: a member has not read seq if the cursor is below it.

func membersJoined(room, inviter id.ID, members []id.ID) *journalv1.Event {
	ev := &journalv1.MembersJoined{RoomId: room.Bytes(), InviterId: inviter.Bytes()}
	for _, m := range members {
		ev.MemberIds = append(ev.MemberIds, m.Bytes())
	}
	return &journalv1.Event{Kind: &journalv1.Event_MembersJoined{MembersJoined: ev}}
}

func decideInvite(r Reader, actor []byte, c *nodev1.Invite) (Decision, error) {
	user, room, s, _, err := memberRoom(r, actor, c.GetRoomId())
	if err != nil {
		return Decision{}, err
	}
	switch n := len(c.GetMemberIds()); {
	case s.GetKind() != group:
		return Decision{}, refuse(DirectRoom, "roomId")
	case n == 0:
		return Decision{}, refuse(NoIDs, "userIds")
	case n > MaxInvitations:
		return Decision{}, refuse(TooManyIDs, "userIds")
	}
	invited, err := parseUsers(c.GetMemberIds(), "userIds")
	if err != nil {
		return Decision{}, err
	}
	fresh := invited[:0]
	for _, u := range invited {
		m, err := readMember(r, room, u)
		if err != nil {
			return Decision{}, err
		}
		if m == nil || m.GetLeft() {
			fresh = append(fresh, u)
		}
	}
	if len(fresh) == 0 {
		return Decision{}, nil
	}
	if int(s.GetMemberCount())+len(fresh) > MaxMembers {
		return Decision{}, refuse(RoomFull, "userIds")
	}
	return Decision{Events: []*journalv1.Event{membersJoined(room, user, fresh)}}, nil
}

// decideLeave succeeds for one who has left already.
func decideLeave(r Reader, actor []byte, c *nodev1.Leave) (Decision, error) {
	user, room, _, err := workingRoom(r, actor, c.GetRoomId())
	if err != nil {
		return Decision{}, err
	}
	m, err := readMember(r, room, user)
	if err != nil {
		return Decision{}, err
	}
	switch {
	case m == nil:
		return Decision{}, refuse(NotAMember, "roomId")
	case m.GetLeft():
		return Decision{}, nil
	}
	return Decision{Events: []*journalv1.Event{{Kind: &journalv1.Event_MemberLeft{MemberLeft: &journalv1.MemberLeft{
		RoomId: room.Bytes(), MemberId: user.Bytes(),
	}}}}}, nil
}

// join makes people members from the newest message on, and tells their
// accounts; s is counted up and for the caller to write.
func join(tx Tx, meta Meta, room id.ID, s *journalv1.RoomState, raw [][]byte) ([]*edgev1.Member, error) {
	if len(raw) == 0 {
		return nil, badEvent("joins nobody")
	}
	joined := make([]*edgev1.Member, 0, len(raw))
	for _, b := range raw {
		user, err := parseEvent(id.User, b)
		if err != nil {
			return nil, err
		}
		m, err := readMember(tx, room, user)
		if err != nil {
			return nil, err
		}
		if m == nil {
			m = &journalv1.MemberState{}
		} else if !m.GetLeft() {
			return nil, badEvent("joins %s, who is a member", user)
		}
		m.Left, m.JoinedSeq, m.JoinedMs = false, s.GetLastSeq(), meta.TimeMs
		m.ReadSeq = max(m.ReadSeq, m.JoinedSeq)
		m.Version++
		if err := write(tx, memberKey(room, user), m); err != nil {
			return nil, err
		}
		if err := putListingEffect(tx, room, user, m.Version, true); err != nil {
			return nil, err
		}
		s.MemberCount++
		joined = append(joined, &edgev1.Member{UserId: user.String(), ReadSeq: m.ReadSeq, JoinedSeq: m.JoinedSeq})
	}
	s.Version++
	return joined, nil
}

// applyMembersJoined leaves a notice in groups. In a direct room people come
// and go only in their own lists, which is nobody else's business.
func applyMembersJoined(tx Tx, m Meta, ev *journalv1.MembersJoined) ([]*nodev1.FeedItem, error) {
	room, s, err := eventRoom(tx, ev.GetRoomId())
	if err != nil {
		return nil, err
	}
	inviter, err := parseEvent(id.User, ev.GetInviterId())
	if err != nil {
		return nil, err
	}
	joined, err := join(tx, m, room, s, ev.GetMemberIds())
	if err != nil {
		return nil, err
	}
	var notice *edgev1.Notice
	if s.GetKind() == group {
		notice, err = addNotice(tx, room, s, &journalv1.StoredNotice{
			AtMs: m.TimeMs, Kind: uint32(edgev1.Notice_KIND_INVITED), ActorId: inviter.Bytes(), SubjectIds: ev.GetMemberIds(),
		})
		if err != nil {
			return nil, err
		}
	}
	item := roomChanged(room, s)
	item.Subscribe = ev.GetMemberIds()
	event := item.Event.GetRoom()
	event.Notice, event.Joined = notice, joined
	return []*nodev1.FeedItem{item}, saveRoom(tx, room, s)
}

func applyMemberLeft(tx Tx, meta Meta, ev *journalv1.MemberLeft) ([]*nodev1.FeedItem, error) {
	room, s, err := eventRoom(tx, ev.GetRoomId())
	if err != nil {
		return nil, err
	}
	user, m, err := eventMember(tx, room, ev.GetMemberId())
	if err != nil {
		return nil, err
	}
	if s.MemberCount == 0 {
		return nil, damaged(roomKey(room), errors.New("counts no members, but has one"))
	}
	s.MemberCount--
	s.Version++
	m.Left = true
	m.Version++
	if err := write(tx, memberKey(room, user), m); err != nil {
		return nil, err
	}
	if err := putListingEffect(tx, room, user, m.Version, false); err != nil {
		return nil, err
	}
	var notice *edgev1.Notice
	if s.GetKind() == group {
		notice, err = addNotice(tx, room, s, &journalv1.StoredNotice{
			AtMs: meta.TimeMs, Kind: uint32(edgev1.Notice_KIND_LEFT), ActorId: user.Bytes(), SubjectIds: [][]byte{user.Bytes()},
		})
		if err != nil {
			return nil, err
		}
	}
	item := roomChanged(room, s)
	item.Unsubscribe = [][]byte{user.Bytes()}
	event := item.Event.GetRoom()
	event.Notice, event.LeftUserIds = notice, []string{user.String()}
	return []*nodev1.FeedItem{item}, saveRoom(tx, room, s)
}

// eventMember reads the member that an event is about, who must be in the room.
func eventMember(r Reader, room id.ID, raw []byte) (id.ID, *journalv1.MemberState, error) {
	user, err := parseEvent(id.User, raw)
	if err != nil {
		return id.ID{}, nil, err
	}
	m := takeMember(r, room, user)
	if m == nil {
		if m, err = readMember(r, room, user); err != nil {
			return id.ID{}, nil, err
		}
	}
	if m == nil || m.GetLeft() {
		return id.ID{}, nil, badEvent("of %s, who is no member of room %s", user, room)
	}
	return user, m, nil
}

// eachMember goes through everyone who is or was in the room, in the order of
// IDs. m is valid only during the call.
func eachMember(r Reader, room id.ID, fn func(user id.ID, m *journalv1.MemberState)) error {
	m := &journalv1.MemberState{}
	return scanPrefix(r, ownerKey(kindMember, room), func(k, v []byte) error {
		user, err := keyID(id.User, k)
		if err != nil {
			return err
		}
		if err := decode(k, v, m); err != nil {
			return err
		}
		fn(user, m)
		return nil
	})
}
