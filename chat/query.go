package chat

import (
	"errors"
	"fmt"
	"runtime/debug"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// MaxRoomIDs bounds the rooms of one account that are looked at.
const MaxRoomIDs = 10000

// The queries below read one state. Their errors are a *Refusal, a failure of
// the store, or a *CorruptError. Display names of people of other shards are
// left empty: package shard fills them in.

// Answer answers a query that one shard can answer alone (see QueryPartition);
// ErrManyShards for the others. Refusals are in the reply. It never panics: a
// panic is the refusal command_panicked, and comes back as an error too, for
// the log.
func Answer(r Reader, q *nodev1.Query) (reply *nodev1.QueryReply, err error) {
	defer func() {
		if p := recover(); p != nil {
			reply = &nodev1.QueryReply{Error: refuse(CommandPanicked, "").Edge()}
			err = fmt.Errorf("query panicked: %v\n%s", p, debug.Stack())
		}
	}()
	reply, err = answer(r, q)
	if no := (*Refusal)(nil); errors.As(err, &no) {
		return &nodev1.QueryReply{Error: no.Edge()}, nil
	}
	if err != nil {
		return nil, err
	}
	return reply, nil
}

func answer(r Reader, q *nodev1.Query) (*nodev1.QueryReply, error) {
	switch k := q.GetKind().(type) {
	case *nodev1.Query_Credential:
		c, err := Credential(r, k.Credential.GetLogin())
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_Credential{Credential: c}}, err
	case *nodev1.Query_Find:
		u, err := Find(r, k.Find.GetLogin())
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_Find{Find: &edgev1.FindResponse{User: u}}}, err
	case *nodev1.Query_Session:
		s, err := sessionQuery(r, k.Session)
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_Session{Session: s}}, err
	case *nodev1.Query_ListRooms, *nodev1.Query_People, *nodev1.Query_Positions:
		return nil, ErrManyShards
	case nil:
		return nil, refuse(BadCommand, "")
	}
	actor, err := parse(id.User, q.GetActor(), "actor")
	if err != nil {
		return nil, err
	}
	switch k := q.GetKind().(type) {
	case *nodev1.Query_GetMe:
		u, err := Me(r, actor)
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_GetMe{GetMe: &edgev1.GetMeResponse{User: u}}}, err
	case *nodev1.Query_ListFriends:
		f, err := Friends(r, actor)
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_ListFriends{ListFriends: f}}, err
	case *nodev1.Query_Devices:
		d, err := Devices(r, actor)
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_Devices{Devices: &edgev1.ListDevicesResponse{Devices: d}}}, err
	case *nodev1.Query_RoomIds:
		rooms, err := RoomIDs(r, actor)
		ids := &nodev1.RoomIDs{}
		for _, room := range rooms {
			ids.RoomIds = append(ids.RoomIds, room.Bytes())
		}
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_RoomIds{RoomIds: ids}}, err
	case *nodev1.Query_Room:
		room, err := parse(id.Room, k.Room.GetRoomId(), "roomId")
		if err != nil {
			return nil, err
		}
		e, err := RoomOf(r, actor, room, MaxMembers)
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_Room{Room: e}}, err
	case *nodev1.Query_History:
		h, err := History(r, actor, k.History)
		return &nodev1.QueryReply{Kind: &nodev1.QueryReply_History{History: h}}, err
	}
	return nil, refuse(BadCommand, "")
}

// Credential returns what a password is checked against; empty, not nil, if
// there is no such login, so that the asker treats both alike. The login may
// be in any case.
func Credential(r Reader, login string) (*nodev1.Credential, error) {
	user, a, err := accountOfLogin(r, login)
	if err != nil || a == nil {
		return &nodev1.Credential{}, err
	}
	return &nodev1.Credential{UserId: user.Bytes(), PasswordHash: a.GetPasswordHash()}, nil
}

// Find returns the person of a login in any case; user_unknown if there is none.
func Find(r Reader, login string) (*edgev1.User, error) {
	user, a, err := accountOfLogin(r, login)
	if err != nil {
		return nil, err
	}
	if a == nil {
		return nil, refuse(UserUnknown, "login")
	}
	return edgeUser(user, a), nil
}

func accountOfLogin(r Reader, login string) (id.ID, *journalv1.Account, error) {
	login = FoldLogin(login)
	if !ValidLogin(login) {
		return id.ID{}, nil, nil
	}
	user, err := loginOwner(r, login)
	if err != nil || user.IsZero() {
		return id.ID{}, nil, err
	}
	a, err := readAccount(r, user)
	if err == nil && a == nil {
		err = damaged(loginKey(login), errors.New("names an account that is missing"))
	}
	return user, a, err
}

func sessionQuery(r Reader, q *nodev1.SessionQuery) (*nodev1.SessionState, error) {
	user, err := parse(id.User, q.GetUserId(), "userId")
	if err != nil {
		return nil, err
	}
	device, err := parse(id.Device, q.GetDeviceId(), "deviceId")
	if err != nil {
		return nil, err
	}
	return Session(r, user, device)
}

// Session tells what is known of a device. One that is not there is not known
// and counts as revoked: it was signed out, or never signed in.
func Session(r Reader, user, device id.ID) (*nodev1.SessionState, error) {
	d, err := readDevice(r, user, device)
	if err != nil {
		return nil, err
	}
	if d == nil {
		return &nodev1.SessionState{Revoked: true}, nil
	}
	return &nodev1.SessionState{
		Known: true, Revoked: d.GetRevoked(), Generation: d.GetGeneration(), Confirmed: d.GetConfirmed(),
	}, nil
}

// Me returns an account's own profile; user_unknown if there is none.
func Me(r Reader, user id.ID) (*edgev1.User, error) {
	a, err := readAccount(r, user)
	if err != nil {
		return nil, err
	}
	if a == nil {
		return nil, refuse(UserUnknown, "")
	}
	return edgeUser(user, a), nil
}

// Person returns an account of this state and whether it blocks actor (who may
// be the zero ID); without a user if there is no such account.
func Person(r Reader, user, actor id.ID) (*nodev1.People_Person, error) {
	a, err := readAccount(r, user)
	if err != nil || a == nil {
		return &nodev1.People_Person{}, err
	}
	p := &nodev1.People_Person{User: edgeUser(user, a)}
	if !actor.IsZero() {
		b, err := readBlock(r, blockKey(user, actor))
		if err != nil {
			return nil, err
		}
		p.BlocksActor = b.GetBlocked()
	}
	return p, nil
}

// Friends returns the IDs of an account's friends and of those it blocks, in
// the order of IDs, at most MaxFriends and MaxBlocks; the other fields of each
// user are for package shard to fill in, and the order by name too.
func Friends(r Reader, user id.ID) (*edgev1.ListFriendsResponse, error) {
	if _, err := Me(r, user); err != nil {
		return nil, err
	}
	out := &edgev1.ListFriendsResponse{}
	err := scanPrefix(r, ownerKey(kindFriend, user), func(k, _ []byte) error {
		friend, err := keyID(id.User, k)
		out.Friends = append(out.Friends, &edgev1.User{UserId: friend.String()})
		return err
	})
	if err != nil {
		return nil, err
	}
	err = scanPrefix(r, ownerKey(kindBlock, user), func(k, v []byte) error {
		b := &journalv1.BlockState{}
		if err := decode(k, v, b); err != nil || !b.GetBlocked() {
			return err
		}
		other, err := keyID(id.User, k)
		out.Blocked = append(out.Blocked, &edgev1.User{UserId: other.String()})
		return err
	})
	return out, err
}

// Devices returns an account's devices, at most MaxDevices, in the order of
// IDs; which one is the asker's is for the gateway to say.
func Devices(r Reader, user id.ID) ([]*edgev1.Device, error) {
	var out []*edgev1.Device
	err := devicesOf(r, user, func(device id.ID, d *journalv1.DeviceState) {
		out = append(out, &edgev1.Device{
			DeviceId: device.String(), Name: d.GetName(), CreatedAt: d.GetCreatedMs(), LastSeenAt: d.GetLastSeenMs(),
		})
	})
	return out, err
}

// RoomIDs returns the rooms in an account's list, in the order of IDs, at most
// MaxRoomIDs. The list follows membership by the outbox: it may lag, and the
// room itself says who is a member.
func RoomIDs(r Reader, user id.ID) ([]id.ID, error) {
	var out []id.ID
	prefix := ownerKey(kindListing, user)
	err := scan(r, prefix, after(prefix), false, func(k, v []byte) (bool, error) {
		l := &journalv1.Listing{}
		if err := decode(k, v, l); err != nil || !l.GetListed() {
			return true, err
		}
		room, err := keyID(id.Room, k)
		out = append(out, room)
		return len(out) < MaxRoomIDs, err
	})
	return out, err
}

// RoomOf returns a room as actor sees it, who must be a member, with at most
// maxMembers of its members in the order of IDs, the actor always among them and,
// where two fit, whoever sent the last message: lists show the name.
// Members' names and logins are for package shard to fill in.
func RoomOf(r Reader, actor, room id.ID, maxMembers int) (*edgev1.Room, error) {
	s, me, err := readableRoom(r, actor, room)
	if err != nil {
		return nil, err
	}
	read := max(me.GetReadSeq(), me.GetJoinedSeq())
	out := &edgev1.Room{
		RoomId: room.String(), Kind: edgev1.RoomKind(s.GetKind()), Title: s.GetTitle(), LastSeq: s.GetLastSeq(),
		MyReadSeq: read, Unread: s.GetLastSeq() - min(read, s.GetLastSeq()), MemberCount: s.GetMemberCount(),
		Version: s.GetVersion(), ActiveAt: s.GetActiveMs(), MyJoinedSeq: me.GetJoinedSeq(),
	}
	var last *journalv1.StoredMessage
	if s.GetLastSeq() > me.GetJoinedSeq() {
		if last, err = readMessage(r, room, s.GetLastSeq()); err != nil {
			return nil, err
		}
		if out.LastMessage, err = edgeMessage(room, s.GetLastSeq(), last, &cursors{}); err != nil {
			return nil, err
		}
	}
	return out, roomMembers(r, actor, room, maxMembers, last.GetSenderId(), out)
}

// roomMembers fills in the members, and who of all of them but the sender has
// not read the last message. It goes through the members, 3,000 at most, once.
func roomMembers(r Reader, actor, room id.ID, maxMembers int, sender []byte, out *edgev1.Room) error {
	unread := uint32(0)
	kept := map[string]bool{string(actor[:]): true} // whose places are kept free
	if int(out.MemberCount) > maxMembers && maxMembers > 1 && len(sender) == len(id.ID{}) {
		m, err := readMember(r, room, id.ID(sender))
		if err != nil {
			return err
		}
		if m != nil && !m.GetLeft() {
			kept[string(sender)] = true
		}
	}
	err := eachMember(r, room, func(user id.ID, m *journalv1.MemberState) {
		if m.GetLeft() {
			return
		}
		read := max(m.GetReadSeq(), m.GetJoinedSeq())
		if read < out.LastSeq && string(user[:]) != string(sender) {
			unread++
		}
		mine := kept[string(user[:])]
		delete(kept, string(user[:]))
		if mine || maxMembers-len(out.Members) > len(kept) {
			out.Members = append(out.Members, &edgev1.Member{UserId: user.String(), ReadSeq: read, JoinedSeq: m.GetJoinedSeq()})
		}
	})
	if out.LastMessage != nil {
		out.LastMessage.Unread = unread
	}
	return err
}

// SetAsideEvents returns up to limit account events of the partitions from low
// to high inclusive that could not be applied, each in a record whose note says
// so, for operators. Rooms tell by being stopped.
func SetAsideEvents(r Reader, low, high id.Partition, limit int) ([]*journalv1.Record, error) {
	var out []*journalv1.Record
	for p := low; p <= high && len(out) < limit; p++ {
		prefix := []byte{byte(p >> 8), byte(p), kindSetAside}
		err := scan(r, prefix, after(prefix), false, func(k, v []byte) (bool, error) {
			rec := &journalv1.Record{}
			if err := decode(k, v, rec); err != nil {
				return false, err
			}
			out = append(out, rec)
			return len(out) < limit, nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}
