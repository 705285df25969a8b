package chat

import (
	"errors"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// Bounds of the people that an account knows.
const (
	MaxFriends = 5000
	MaxBlocks  = 5000
)

// theirAccount reads the account of a command about another person.
func theirAccount(r Reader, actor, rawUser, rawOther []byte, field string) (user, other id.ID, a *journalv1.Account, err error) {
	if user, err = ownAccount(actor, rawUser); err != nil {
		return
	}
	if other, err = parse(id.User, rawOther, field); err != nil {
		return
	}
	if user == other {
		err = refuse(Yourself, field)
		return
	}
	if a, err = readAccount(r, user); err == nil && a == nil {
		err = refuse(UserUnknown, "")
	}
	return
}

func has(r Reader, key []byte) (bool, error) {
	v, err := r.Get(key)
	return v != nil, err
}

// decideAddFriend does not know whether the friend exists, who may live in
// another shard: the asker has made sure. The reply holds only the friend's ID.
func decideAddFriend(r Reader, actor []byte, c *nodev1.AddFriend) (Decision, error) {
	user, friend, a, err := theirAccount(r, actor, c.GetUserId(), c.GetFriendId(), "userId")
	if err != nil {
		return Decision{}, err
	}
	d := Decision{Reply: userReply(&edgev1.User{UserId: friend.String()})}
	if there, err := has(r, friendKey(user, friend)); err != nil || there {
		return d, err
	}
	if a.GetFriendCount() >= MaxFriends {
		return Decision{}, refuse(TooManyFriends, "")
	}
	d.Events = []*journalv1.Event{{Kind: &journalv1.Event_FriendAdded{FriendAdded: &journalv1.FriendAdded{
		UserId: user.Bytes(), FriendId: friend.Bytes(),
	}}}}
	return d, nil
}

func decideRemoveFriend(r Reader, actor []byte, c *nodev1.RemoveFriend) (Decision, error) {
	user, friend, _, err := theirAccount(r, actor, c.GetUserId(), c.GetFriendId(), "userId")
	if err != nil {
		return Decision{}, err
	}
	if there, err := has(r, friendKey(user, friend)); err != nil || !there {
		return Decision{}, err
	}
	return Decision{Events: []*journalv1.Event{{Kind: &journalv1.Event_FriendRemoved{FriendRemoved: &journalv1.FriendRemoved{
		UserId: user.Bytes(), FriendId: friend.Bytes(),
	}}}}}, nil
}

func decideSetBlock(r Reader, actor []byte, c *nodev1.SetBlock) (Decision, error) {
	user, other, a, err := theirAccount(r, actor, c.GetUserId(), c.GetOtherId(), "userId")
	if err != nil {
		return Decision{}, err
	}
	b, err := readBlock(r, blockKey(user, other))
	if err != nil || b.GetBlocked() == c.GetBlocked() {
		return Decision{}, err
	}
	version := a.GetBlockVersion() + 1
	if !c.GetBlocked() {
		return Decision{Events: []*journalv1.Event{{Kind: &journalv1.Event_Unblocked{Unblocked: &journalv1.Unblocked{
			UserId: user.Bytes(), BlockedId: other.Bytes(), Version: version,
		}}}}}, nil
	}
	if a.GetBlockCount() >= MaxBlocks {
		return Decision{}, refuse(TooManyBlocks, "")
	}
	return Decision{Events: []*journalv1.Event{{Kind: &journalv1.Event_Blocked{Blocked: &journalv1.Blocked{
		UserId: user.Bytes(), BlockedId: other.Bytes(), Version: version,
	}}}}}, nil
}

// addFriend writes the entry and counts it in a, which the caller writes.
func addFriend(tx Tx, a *journalv1.Account, user, friend id.ID) error {
	key := friendKey(user, friend)
	if there, err := has(tx, key); err != nil || there {
		return err
	}
	a.FriendCount++
	return write(tx, key, &journalv1.Listing{Listed: true})
}

func applyFriendAdded(tx Tx, ev *journalv1.FriendAdded) ([]*nodev1.FeedItem, error) {
	user, a, err := eventAccount(tx, ev.GetUserId())
	if err != nil {
		return nil, err
	}
	friend, err := parseEvent(id.User, ev.GetFriendId())
	if err != nil {
		return nil, err
	}
	if err := addFriend(tx, a, user, friend); err != nil {
		return nil, err
	}
	return []*nodev1.FeedItem{peopleChanged(user)}, write(tx, accountKey(user), a)
}

func applyFriendRemoved(tx Tx, ev *journalv1.FriendRemoved) ([]*nodev1.FeedItem, error) {
	user, a, err := eventAccount(tx, ev.GetUserId())
	if err != nil {
		return nil, err
	}
	friend, err := parseEvent(id.User, ev.GetFriendId())
	if err != nil {
		return nil, err
	}
	key := friendKey(user, friend)
	if there, err := has(tx, key); err != nil || !there {
		return nil, err
	}
	if a.FriendCount == 0 {
		return nil, damaged(accountKey(user), errors.New("counts no friends, but has one"))
	}
	a.FriendCount--
	if err := remove(tx, key); err != nil {
		return nil, err
	}
	return []*nodev1.FeedItem{peopleChanged(user)}, write(tx, accountKey(user), a)
}

// applyBlock writes a block or its end on the account's side and puts the news
// for the direct room into the outbox. The end is kept as an entry until the
// room has heard of it (applyOutboxDone): it holds the version of the effect
// that the next one replaces.
func applyBlock(tx Tx, rawUser, rawOther []byte, version uint64, blocked bool) ([]*nodev1.FeedItem, error) {
	user, a, err := eventAccount(tx, rawUser)
	if err != nil {
		return nil, err
	}
	other, err := parseEvent(id.User, rawOther)
	if err != nil {
		return nil, err
	}
	if user == other || version != a.GetBlockVersion()+1 {
		return nil, badEvent("blocks or unblocks %s with version %d after %d", other, version, a.GetBlockVersion())
	}
	key := blockKey(user, other)
	old, err := readBlock(tx, key)
	if err != nil {
		return nil, err
	}
	if old.GetBlocked() == blocked {
		return nil, badEvent("blocks or unblocks %s again", other)
	}
	if blocked {
		a.BlockCount++
	} else if a.BlockCount == 0 {
		return nil, damaged(accountKey(user), errors.New("counts no blocks, but has one"))
	} else {
		a.BlockCount--
	}
	a.BlockVersion = version
	if err := write(tx, key, &journalv1.BlockState{Version: version, Blocked: blocked}); err != nil {
		return nil, err
	}
	if err := putBlockEffect(tx, user, other, old.GetVersion(), version, blocked); err != nil {
		return nil, err
	}
	return []*nodev1.FeedItem{peopleChanged(user)}, write(tx, accountKey(user), a)
}

// applyBlockNoted keeps the newest version; the room need not exist yet.
func applyBlockNoted(tx Tx, ev *journalv1.BlockNoted) error {
	room, err := parseEvent(id.Room, ev.GetRoomId())
	if err != nil {
		return err
	}
	blocker, err := parseEvent(id.User, ev.GetBlockerId())
	if err != nil {
		return err
	}
	key := notedKey(room, blocker)
	b, err := readBlock(tx, key)
	if err != nil || b.GetVersion() >= ev.GetVersion() {
		return err
	}
	if err := write(tx, key, &journalv1.BlockState{Version: ev.GetVersion(), Blocked: ev.GetBlocked()}); err != nil {
		return err
	}
	s, err := readRoom(tx, room)
	if err != nil || s == nil || s.GetBlockNoted() {
		return err // a room made later looks for notes itself
	}
	s.BlockNoted = true
	return saveRoom(tx, room, s)
}

// anyBlockNoted tells whether a block was noted for a room before it was made.
func anyBlockNoted(r Reader, room id.ID) (found bool, err error) {
	err = scanPrefix(r, ownerKey(kindNotedBlock, room), func(_, _ []byte) error {
		found = true
		return nil
	})
	return found, err
}

// checkBlocks refuses sender in a direct room if either blocks the other.
func checkBlocks(r Reader, room, sender id.ID) error {
	return scanPrefix(r, ownerKey(kindNotedBlock, room), func(k, v []byte) error {
		blocker, err := keyID(id.User, k)
		if err != nil {
			return err
		}
		b := &journalv1.BlockState{}
		if err := decode(k, v, b); err != nil {
			return err
		}
		switch {
		case !b.GetBlocked():
			return nil
		case blocker == sender:
			return refuse(YouBlocked, "")
		default:
			return refuse(IsBlocked, "")
		}
	})
}
