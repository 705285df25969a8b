package chat

import (
	"encoding/binary"

	"github.com/bongsu-im/bongsu/internal/id"
)

// Every key begins with the partition (2 bytes, big endian, below 0x1000) and
// one byte of kind, so that the partitions of a shard are one contiguous range
// that can be copied, compared or handed over as such. What follows is the 12
// unique bytes of the account or room that owns the entry, and then what is
// particular to the kind. Golden tests hold the layout.
//
//	a account                       → Account
//	l login text                    → the 16 bytes of the user ID
//	d account, device (16)          → DeviceState
//	f account, friend (16)          → Listing (listed is always true)
//	b account, blocked user (16)    → BlockState
//	q account, room (16)            → Listing
//	r room                          → RoomState
//	m room, user (16)               → MemberState
//	k room, blocker (16)            → BlockState, as noted in a direct room
//	s room, seq (8)                 → StoredMessage
//	i room, sender (16), client (16)→ seq (8)
//	n room, after seq (8), no. (8)  → StoredNotice
//	o outbox, see outboxKey         → Effect
//	! subject (16), kind (2)        → Record: an account event set aside
const (
	kindAccount     = 'a'
	kindLogin       = 'l'
	kindDevice      = 'd'
	kindFriend      = 'f'
	kindBlock       = 'b'
	kindListing     = 'q'
	kindRoom        = 'r'
	kindMember      = 'm'
	kindNotedBlock  = 'k'
	kindMessage     = 's'
	kindClientID    = 'i'
	kindNotice      = 'n'
	kindOutbox      = 'o'
	kindSetAside    = '!'
	uniqueBytes     = 12
	ownerKeyBytes   = 2 + 1 + uniqueBytes
	outboxKeyBytes  = ownerKeyBytes + 1 + id.Size + 8
	longestKeyBytes = ownerKeyBytes + 2*id.Size
)

// PartitionRange returns the keys [low, high) of the partitions from first to
// last inclusive.
func PartitionRange(first, last id.Partition) (low, high []byte) {
	low = binary.BigEndian.AppendUint16(nil, uint16(first))
	high = binary.BigEndian.AppendUint16(nil, uint16(last)+1)
	return low, high
}

// KeyPartition returns the partition that a key of the state lies in; false if
// the bytes are no key of ours.
func KeyPartition(key []byte) (id.Partition, bool) {
	if len(key) < 3 {
		return 0, false
	}
	p := id.Partition(binary.BigEndian.Uint16(key))
	return p, p < id.Partitions
}

// ownerKey is the beginning of everything of one kind that owner has.
func ownerKey(kind byte, owner id.ID) []byte {
	k := make([]byte, 0, longestKeyBytes)
	k = binary.BigEndian.AppendUint16(k, uint16(owner.Partition()))
	k = append(k, kind)
	return append(k, owner[id.Size-uniqueBytes:]...)
}

func ownerIDKey(kind byte, owner, other id.ID) []byte {
	return append(ownerKey(kind, owner), other[:]...)
}

func accountKey(user id.ID) []byte        { return ownerKey(kindAccount, user) }
func deviceKey(user, device id.ID) []byte { return ownerIDKey(kindDevice, user, device) }
func friendKey(user, friend id.ID) []byte { return ownerIDKey(kindFriend, user, friend) }
func blockKey(user, other id.ID) []byte   { return ownerIDKey(kindBlock, user, other) }
func listingKey(user, room id.ID) []byte  { return ownerIDKey(kindListing, user, room) }
func roomKey(room id.ID) []byte           { return ownerKey(kindRoom, room) }
func memberKey(room, user id.ID) []byte   { return ownerIDKey(kindMember, room, user) }
func notedKey(room, blocker id.ID) []byte { return ownerIDKey(kindNotedBlock, room, blocker) }
func messageKey(room id.ID, s uint64) []byte {
	return binary.BigEndian.AppendUint64(ownerKey(kindMessage, room), s)
}

func loginKey(login string) []byte {
	k := make([]byte, 0, 3+len(login))
	k = binary.BigEndian.AppendUint16(k, uint16(id.LoginPartition(login)))
	k = append(k, kindLogin)
	return append(k, login...)
}

func clientIDKey(room, sender id.ID, client []byte) []byte {
	return append(ownerIDKey(kindClientID, room, sender), client...)
}

func noticeKey(room id.ID, afterSeq, number uint64) []byte {
	k := binary.BigEndian.AppendUint64(ownerKey(kindNotice, room), afterSeq)
	return binary.BigEndian.AppendUint64(k, number)
}

// outboxKey names one effect: owner is the room or account that caused it,
// other whom it concerns. The version is in the key, so that finishing an old
// effect can never remove a newer one.
func outboxKey(what byte, owner, other id.ID, version uint64) []byte {
	k := make([]byte, 0, outboxKeyBytes)
	k = binary.BigEndian.AppendUint16(k, uint16(owner.Partition()))
	k = append(k, kindOutbox, what)
	k = append(k, owner[id.Size-uniqueBytes:]...)
	k = append(k, other[:]...)
	return binary.BigEndian.AppendUint64(k, version)
}

func setAsideKey(subject id.ID, kind uint16) []byte {
	k := make([]byte, 0, 2+1+id.Size+2)
	k = binary.BigEndian.AppendUint16(k, uint16(subject.Partition()))
	k = append(k, kindSetAside)
	k = append(k, subject[:]...)
	return binary.BigEndian.AppendUint16(k, kind)
}

// after returns the first key that does not begin with prefix.
func after(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		end[i]++
		if end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil // unreachable: our partitions never begin with 0xff
}
