package chat

import (
	"unicode/utf8"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// Bounds of rooms.
const (
	MaxTitleChars  = 100
	MaxMembers     = 3000 // of a group
	MaxInvitations = 99   // in one command
)

const (
	direct = uint32(edgev1.RoomKind_ROOM_KIND_DIRECT)
	group  = uint32(edgev1.RoomKind_ROOM_KIND_GROUP)
)

func checkTitle(title string) error {
	switch {
	case utf8.ValidString(title) && utf8.RuneCountInString(title) > MaxTitleChars:
		return refuse(TitleTooLong, "title")
	case !plainLine(title, MaxTitleChars):
		return refuse(BadTitle, "title")
	}
	return nil
}

// workingRoom reads a room that takes commands.
func workingRoom(r Reader, actor, rawRoom []byte) (user, room id.ID, s *journalv1.RoomState, err error) {
	if user, err = parse(id.User, actor, "actor"); err != nil {
		return
	}
	if room, err = parse(id.Room, rawRoom, "roomId"); err != nil {
		return
	}
	if s, err = readRoom(r, room); err != nil {
		return
	}
	if s == nil {
		err = refuse(RoomUnknown, "roomId")
	} else if s.GetStopped() != "" {
		err = refuse(RoomIsStopped, "roomId")
	}
	keepRoom(r, s)
	return
}

// memberRoom reads a working room that the actor is in.
func memberRoom(r Reader, actor, rawRoom []byte) (user, room id.ID, s *journalv1.RoomState, m *journalv1.MemberState, err error) {
	if user, room, s, err = workingRoom(r, actor, rawRoom); err != nil {
		return
	}
	if m, err = readMember(r, room, user); err != nil {
		return
	}
	if m == nil || m.GetLeft() {
		err = refuse(NotAMember, "roomId")
	}
	keepMember(r, room, user, m)
	return
}

// newRoom reads the place where a room is to be made: s is nil while it is free.
func newRoom(r Reader, actor, rawRoom []byte) (user, room id.ID, s *journalv1.RoomState, err error) {
	if user, err = parse(id.User, actor, "actor"); err != nil {
		return
	}
	if room, err = parse(id.Room, rawRoom, "roomId"); err != nil {
		return
	}
	if s, err = readRoom(r, room); err == nil && s.GetStopped() != "" {
		err = refuse(RoomIsStopped, "roomId")
	}
	return
}

func roomCreated(room id.ID, kind uint32, title string, creator id.ID, members []id.ID) *journalv1.Event {
	ev := &journalv1.RoomCreated{RoomId: room.Bytes(), Kind: kind, Title: title, CreatorId: creator.Bytes()}
	for _, m := range members {
		ev.MemberIds = append(ev.MemberIds, m.Bytes())
	}
	return &journalv1.Event{Kind: &journalv1.Event_RoomCreated{RoomCreated: ev}}
}

// decideOpenDirect makes the room of two, or takes the actor back into it.
// Between people one of whom blocks the other no new room is made.
func decideOpenDirect(r Reader, actor []byte, c *nodev1.OpenDirect) (Decision, error) {
	user, room, s, err := newRoom(r, actor, c.GetRoomId())
	if err != nil {
		return Decision{}, err
	}
	other, err := parse(id.User, c.GetOtherId(), "userId")
	if err != nil {
		return Decision{}, err
	}
	if room != id.Direct(user, other) {
		return Decision{}, refuse(BadID, "roomId")
	}
	if s == nil {
		if err := checkBlocks(r, room, user); err != nil {
			return Decision{}, err
		}
		members := []id.ID{user, other}
		if user == other {
			members = members[:1]
		}
		return Decision{Events: []*journalv1.Event{roomCreated(room, direct, "", user, members)}}, nil
	}
	m, err := readMember(r, room, user)
	if err != nil {
		return Decision{}, err
	}
	if m == nil || m.GetLeft() {
		return Decision{Events: []*journalv1.Event{membersJoined(room, user, []id.ID{user})}}, nil
	}
	return Decision{}, nil
}

// decideCreateGroup makes a group. The ID comes from the creator's key
// (id.Group): asking again finds the room there and changes nothing.
func decideCreateGroup(r Reader, actor []byte, c *nodev1.CreateGroup) (Decision, error) {
	user, room, s, err := newRoom(r, actor, c.GetRoomId())
	if err != nil {
		return Decision{}, err
	}
	if s != nil {
		if s.GetKind() != group || string(s.GetCreatorId()) != string(actor) {
			return Decision{}, refuse(RoomExists, "clientId")
		}
		return Decision{}, nil
	}
	if err := checkTitle(c.GetTitle()); err != nil {
		return Decision{}, err
	}
	// One more than may be invited, in case the creator is among them.
	if len(c.GetMemberIds()) > MaxInvitations+1 {
		return Decision{}, refuse(TooManyIDs, "userIds")
	}
	named, err := parseUsers(c.GetMemberIds(), "userIds")
	if err != nil {
		return Decision{}, err
	}
	members := []id.ID{user}
	for _, m := range named {
		if m != user {
			members = append(members, m)
		}
	}
	if len(members) > MaxInvitations+1 {
		return Decision{}, refuse(TooManyIDs, "userIds")
	}
	return Decision{Events: []*journalv1.Event{roomCreated(room, group, c.GetTitle(), user, members)}}, nil
}

func decideSetTitle(r Reader, actor []byte, c *nodev1.SetTitle) (Decision, error) {
	user, room, s, _, err := memberRoom(r, actor, c.GetRoomId())
	if err != nil {
		return Decision{}, err
	}
	if s.GetKind() != group {
		return Decision{}, refuse(DirectRoom, "roomId")
	}
	if err := checkTitle(c.GetTitle()); err != nil {
		return Decision{}, err
	}
	if s.GetTitle() == c.GetTitle() {
		return Decision{}, nil
	}
	return Decision{Events: []*journalv1.Event{{Kind: &journalv1.Event_TitleChanged{TitleChanged: &journalv1.TitleChanged{
		RoomId: room.Bytes(), ActorId: user.Bytes(), Title: c.GetTitle(),
	}}}}}, nil
}

// eventRoom reads the working room that an event is about; it must be there.
func eventRoom(r Reader, raw []byte) (id.ID, *journalv1.RoomState, error) {
	room, err := parseEvent(id.Room, raw)
	if err != nil {
		return id.ID{}, nil, err
	}
	s := takeRoom(r, room)
	if s == nil {
		if s, err = readRoom(r, room); err != nil {
			return id.ID{}, nil, err
		}
	}
	if s == nil {
		return id.ID{}, nil, badEvent("in room %s, which does not exist", room)
	}
	if s.GetStopped() != "" {
		return id.ID{}, nil, badEvent("in room %s, which is stopped", room)
	}
	return room, s, nil
}

func applyRoomCreated(tx Tx, m Meta, ev *journalv1.RoomCreated) ([]*nodev1.FeedItem, error) {
	room, err := parseEvent(id.Room, ev.GetRoomId())
	if err != nil {
		return nil, err
	}
	creator, err := parseEvent(id.User, ev.GetCreatorId())
	if err != nil {
		return nil, err
	}
	if old, err := readRoom(tx, room); err != nil || old != nil {
		return nil, orBad(err, "creates room %s again", room)
	}
	if k := ev.GetKind(); k != direct && k != group {
		return nil, badEvent("creates a room of kind %d", k)
	}
	s := &journalv1.RoomState{
		RoomId: room.Bytes(), Kind: ev.GetKind(), Title: ev.GetTitle(), CreatorId: creator.Bytes(),
		CreatedMs: m.TimeMs, ActiveMs: m.TimeMs,
	}
	if s.BlockNoted, err = anyBlockNoted(tx, room); err != nil {
		return nil, err
	}
	joined, err := join(tx, m, room, s, ev.GetMemberIds())
	if err != nil {
		return nil, err
	}
	notice := &journalv1.StoredNotice{
		AtMs: m.TimeMs, Kind: uint32(edgev1.Notice_KIND_CREATED), ActorId: creator.Bytes(), Title: ev.GetTitle(),
	}
	for _, u := range ev.GetMemberIds() {
		if string(u) != string(creator[:]) {
			notice.SubjectIds = append(notice.SubjectIds, u)
		}
	}
	edge, err := addNotice(tx, room, s, notice)
	if err != nil {
		return nil, err
	}
	item := roomChanged(room, s)
	item.Subscribe = ev.GetMemberIds()
	event := item.Event.GetRoom()
	event.Notice, event.Joined = edge, joined
	return []*nodev1.FeedItem{item}, saveRoom(tx, room, s)
}

func applyTitleChanged(tx Tx, m Meta, ev *journalv1.TitleChanged) ([]*nodev1.FeedItem, error) {
	room, s, err := eventRoom(tx, ev.GetRoomId())
	if err != nil {
		return nil, err
	}
	actor, err := parseEvent(id.User, ev.GetActorId())
	if err != nil {
		return nil, err
	}
	s.Title = ev.GetTitle()
	s.Version++
	notice, err := addNotice(tx, room, s, &journalv1.StoredNotice{
		AtMs: m.TimeMs, Kind: uint32(edgev1.Notice_KIND_TITLE), ActorId: actor.Bytes(), Title: ev.GetTitle(),
	})
	if err != nil {
		return nil, err
	}
	item := roomChanged(room, s)
	item.Event.GetRoom().Notice = notice
	return []*nodev1.FeedItem{item}, saveRoom(tx, room, s)
}

func applyRoomStopped(tx Tx, ev *journalv1.RoomStopped) error {
	room, err := parseEvent(id.Room, ev.GetRoomId())
	if err != nil {
		return err
	}
	return stopRoom(tx, room, ev.GetCause())
}

// stopRoom marks a room as taking no commands. The first cause stays. A room
// that could not even be created is kept as one that is only stopped.
func stopRoom(tx Tx, room id.ID, cause string) error {
	s, err := readRoom(tx, room)
	if err != nil {
		return err
	}
	if s == nil {
		s = &journalv1.RoomState{RoomId: room.Bytes()}
	}
	if s.GetStopped() != "" {
		return nil
	}
	if s.Stopped = cause; cause == "" {
		s.Stopped = "unknown"
	}
	return saveRoom(tx, room, s)
}

func saveRoom(tx Tx, room id.ID, s *journalv1.RoomState) error { return write(tx, roomKey(room), s) }

// roomChanged is the news of the room for its audience; the caller adds what changed.
func roomChanged(room id.ID, s *journalv1.RoomState) *nodev1.FeedItem {
	return &nodev1.FeedItem{
		RoomId: room.Bytes(),
		Event: &edgev1.Event{Event: &edgev1.Event_Room{Room: &edgev1.RoomEvent{
			RoomId: room.String(), Kind: edgev1.RoomKind(s.GetKind()), Title: s.GetTitle(),
			Version: s.GetVersion(), LastSeq: s.GetLastSeq(), MemberCount: s.GetMemberCount(),
		}}},
	}
}
