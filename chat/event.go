package chat

import (
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"google.golang.org/protobuf/reflect/protoreflect"
)

func eventField(ev *journalv1.Event) protoreflect.FieldDescriptor {
	m := ev.ProtoReflect()
	return m.WhichOneof(m.Descriptor().Oneofs().Get(0))
}

// EventKind names an event's kind as record.proto does, such as
// "message_sent"; "unknown" for one that this release does not know.
func EventKind(ev *journalv1.Event) string {
	f := eventField(ev)
	if f == nil {
		return "unknown"
	}
	return string(f.Name())
}

func eventNumber(ev *journalv1.Event) uint16 {
	if f := eventField(ev); f != nil {
		return uint16(f.Number())
	}
	return 0
}

// EventPartition returns the partition that an event changes; false for one
// that concerns the shard as a whole (rules, outbox, lost tail) or is malformed.
func EventPartition(ev *journalv1.Event) (id.Partition, bool) {
	i, ok := eventSubject(ev)
	return i.Partition(), ok
}

// EffectsIn returns the partition in whose outbox an event may have put
// something, so that a pump need not look through all partitions; false if it
// puts nothing anywhere.
func EffectsIn(ev *journalv1.Event) (id.Partition, bool) {
	switch ev.GetKind().(type) {
	case *journalv1.Event_RoomCreated, *journalv1.Event_MembersJoined, *journalv1.Event_MemberLeft,
		*journalv1.Event_Blocked, *journalv1.Event_Unblocked:
		return EventPartition(ev)
	}
	return 0, false
}

// eventSubject is the room or the account whose state an event changes.
func eventSubject(ev *journalv1.Event) (id.ID, bool) {
	var raw []byte
	kind := id.Room
	switch k := ev.GetKind().(type) {
	case *journalv1.Event_RoomCreated:
		raw = k.RoomCreated.GetRoomId()
	case *journalv1.Event_MembersJoined:
		raw = k.MembersJoined.GetRoomId()
	case *journalv1.Event_MemberLeft:
		raw = k.MemberLeft.GetRoomId()
	case *journalv1.Event_TitleChanged:
		raw = k.TitleChanged.GetRoomId()
	case *journalv1.Event_MessageSent:
		raw = k.MessageSent.GetRoomId()
	case *journalv1.Event_ReadAdvanced:
		raw = k.ReadAdvanced.GetRoomId()
	case *journalv1.Event_BlockNoted:
		raw = k.BlockNoted.GetRoomId()
	case *journalv1.Event_RoomStopped:
		raw = k.RoomStopped.GetRoomId()
	default:
		kind, raw = id.User, accountOf(ev)
	}
	i, err := id.FromBytes(kind, raw)
	return i, err == nil
}

func accountOf(ev *journalv1.Event) []byte {
	switch k := ev.GetKind().(type) {
	case *journalv1.Event_AccountCreated:
		return k.AccountCreated.GetUserId()
	case *journalv1.Event_DeviceAdded:
		return k.DeviceAdded.GetUserId()
	case *journalv1.Event_DeviceRevoked:
		return k.DeviceRevoked.GetUserId()
	case *journalv1.Event_RefreshRotated:
		return k.RefreshRotated.GetUserId()
	case *journalv1.Event_RefreshConfirmed:
		return k.RefreshConfirmed.GetUserId()
	case *journalv1.Event_FriendAdded:
		return k.FriendAdded.GetUserId()
	case *journalv1.Event_FriendRemoved:
		return k.FriendRemoved.GetUserId()
	case *journalv1.Event_Blocked:
		return k.Blocked.GetUserId()
	case *journalv1.Event_Unblocked:
		return k.Unblocked.GetUserId()
	case *journalv1.Event_RoomListed:
		return k.RoomListed.GetUserId()
	}
	return nil
}
