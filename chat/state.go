package chat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"google.golang.org/protobuf/proto"
)

var marshal = proto.MarshalOptions{Deterministic: true}

// read decodes the value of key into m; false if there is none.
func read(r Reader, key []byte, m proto.Message) (bool, error) {
	v, err := r.Get(key)
	if err != nil {
		return false, fmt.Errorf("read state: %w", err)
	}
	if v == nil {
		return false, nil
	}
	return true, decode(key, v, m)
}

func decode(key, value []byte, m proto.Message) error {
	if err := proto.Unmarshal(value, m); err != nil {
		return damaged(key, err)
	}
	return nil
}

func damaged(key []byte, cause error) error {
	return &CorruptError{Key: bytes.Clone(key), Cause: cause}
}

// write stores m. A message that does not marshal (text that is not UTF-8) is
// the fault of the event that brought it.
func write(tx Tx, key []byte, m proto.Message) error {
	v, err := marshal.Marshal(m)
	if err != nil {
		return badEvent("cannot be stored: %v", err)
	}
	return set(tx, key, v)
}

func set(tx Tx, key, value []byte) error {
	if err := tx.Set(key, value); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

func remove(tx Tx, key []byte) error {
	if err := tx.Delete(key); err != nil {
		return fmt.Errorf("delete state: %w", err)
	}
	return nil
}

// scanPrefix calls fn for the keys that begin with prefix; fn's error ends it.
func scanPrefix(r Reader, prefix []byte, fn func(key, value []byte) error) error {
	return scan(r, prefix, after(prefix), false, func(k, v []byte) (bool, error) { return true, fn(k, v) })
}

func scan(r Reader, low, high []byte, reverse bool, fn func(key, value []byte) (bool, error)) error {
	var inner error
	err := r.Scan(low, high, reverse, func(k, v []byte) bool {
		var more bool
		more, inner = fn(k, v)
		return more && inner == nil
	})
	if inner != nil {
		return inner
	}
	if err != nil {
		return fmt.Errorf("scan state: %w", err)
	}
	return nil
}

func readSeq(r Reader, key []byte) (uint64, error) {
	v, err := r.Get(key)
	if err != nil {
		return 0, fmt.Errorf("read state: %w", err)
	}
	if v == nil {
		return 0, nil
	}
	if len(v) != 8 {
		return 0, damaged(key, fmt.Errorf("%d bytes where 8 belong", len(v)))
	}
	return binary.BigEndian.Uint64(v), nil
}

// keyID reads the ID that a key ends with.
func keyID(kind id.Kind, key []byte) (id.ID, error) {
	if len(key) != ownerKeyBytes+id.Size {
		return id.ID{}, damaged(key, errors.New("length of key"))
	}
	i, err := id.FromBytes(kind, key[ownerKeyBytes:])
	if err != nil {
		return id.ID{}, damaged(key, err)
	}
	return i, nil
}

// readAccount returns nil if there is no such account.
func readAccount(r Reader, user id.ID) (*journalv1.Account, error) {
	a, key := &journalv1.Account{}, accountKey(user)
	found, err := read(r, key, a)
	if err != nil || !found {
		return nil, err
	}
	if !bytes.Equal(a.UserId, user[:]) {
		// The same slice and unique bytes, but another cell: not this account.
		if _, err := id.FromBytes(id.User, a.UserId); err != nil {
			return nil, damaged(key, err)
		}
		return nil, nil
	}
	return a, nil
}

// readRoom returns nil if there is no such room.
func readRoom(r Reader, room id.ID) (*journalv1.RoomState, error) {
	s, key := &journalv1.RoomState{}, roomKey(room)
	found, err := read(r, key, s)
	if err != nil || !found {
		return nil, err
	}
	if !bytes.Equal(s.RoomId, room[:]) {
		if _, err := id.FromBytes(id.Room, s.RoomId); err != nil {
			return nil, damaged(key, err)
		}
		// Another cell's ID with the same unique bytes: it must not be taken for
		// this room, nor made over it.
		return nil, refuse(RoomUnknown, "roomId")
	}
	return s, nil
}

// readMember returns nil if user never was a member.
func readMember(r Reader, room, user id.ID) (*journalv1.MemberState, error) {
	m := &journalv1.MemberState{}
	found, err := read(r, memberKey(room, user), m)
	if err != nil || !found {
		return nil, err
	}
	return m, nil
}

func readDevice(r Reader, user, device id.ID) (*journalv1.DeviceState, error) {
	d := &journalv1.DeviceState{}
	found, err := read(r, deviceKey(user, device), d)
	if err != nil || !found {
		return nil, err
	}
	return d, nil
}

func readBlock(r Reader, key []byte) (*journalv1.BlockState, error) {
	b := &journalv1.BlockState{}
	if _, err := read(r, key, b); err != nil {
		return nil, err
	}
	return b, nil
}

func readListing(r Reader, user, room id.ID) (*journalv1.Listing, error) {
	l := &journalv1.Listing{}
	if _, err := read(r, listingKey(user, room), l); err != nil {
		return nil, err
	}
	return l, nil
}
