package chat

import (
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// CommandKind names a command's kind as command.proto does, such as "send";
// "unknown" for an empty one.
func CommandKind(cmd *nodev1.Command) string {
	m := cmd.ProtoReflect()
	if !m.IsValid() {
		return "unknown"
	}
	f := m.WhichOneof(m.Descriptor().Oneofs().Get(0))
	if f == nil {
		return "unknown"
	}
	return string(f.Name())
}

// Partition returns the partition whose owner must decide the command.
//
// ErrByShard: the command carries its shard's number (FinishEffects,
// NoteTailLost, ActivateRules). A *Refusal: the ID that would say where is malformed; answer
// with AsRefusal.
func Partition(cmd *nodev1.Command) (id.Partition, error) {
	switch k := cmd.GetKind().(type) {
	case *nodev1.Command_Send:
		return partitionOf(id.Room, k.Send.GetRoomId(), "roomId")
	case *nodev1.Command_MarkRead:
		return partitionOf(id.Room, k.MarkRead.GetRoomId(), "roomId")
	case *nodev1.Command_OpenDirect:
		return partitionOf(id.Room, k.OpenDirect.GetRoomId(), "roomId")
	case *nodev1.Command_CreateGroup:
		return partitionOf(id.Room, k.CreateGroup.GetRoomId(), "roomId")
	case *nodev1.Command_Invite:
		return partitionOf(id.Room, k.Invite.GetRoomId(), "roomId")
	case *nodev1.Command_Leave:
		return partitionOf(id.Room, k.Leave.GetRoomId(), "roomId")
	case *nodev1.Command_SetTitle:
		return partitionOf(id.Room, k.SetTitle.GetRoomId(), "roomId")
	case *nodev1.Command_SignUp:
		return partitionOf(id.User, k.SignUp.GetUserId(), "userId")
	case *nodev1.Command_AddDevice:
		return partitionOf(id.User, k.AddDevice.GetUserId(), "userId")
	case *nodev1.Command_RotateRefresh:
		return partitionOf(id.User, k.RotateRefresh.GetUserId(), "userId")
	case *nodev1.Command_ConfirmRefresh:
		return partitionOf(id.User, k.ConfirmRefresh.GetUserId(), "userId")
	case *nodev1.Command_RevokeDevice:
		return partitionOf(id.User, k.RevokeDevice.GetUserId(), "userId")
	case *nodev1.Command_AddFriend:
		return partitionOf(id.User, k.AddFriend.GetUserId(), "userId")
	case *nodev1.Command_RemoveFriend:
		return partitionOf(id.User, k.RemoveFriend.GetUserId(), "userId")
	case *nodev1.Command_SetBlock:
		return partitionOf(id.User, k.SetBlock.GetUserId(), "userId")
	case *nodev1.Command_ApplyEffect:
		return EffectPartition(k.ApplyEffect.GetEffect())
	case *nodev1.Command_FinishEffects, *nodev1.Command_NoteTailLost, *nodev1.Command_ActivateRules:
		return 0, ErrByShard
	}
	return 0, refuse(BadCommand, "")
}

// QueryPartition returns the partition whose view answers the query.
//
// ErrManyShards: package shard composes the answer from several views
// (list_rooms, people) or from journals (positions). A *Refusal as in Partition.
func QueryPartition(q *nodev1.Query) (id.Partition, error) {
	switch k := q.GetKind().(type) {
	case *nodev1.Query_Credential:
		return id.LoginPartition(FoldLogin(k.Credential.GetLogin())), nil
	case *nodev1.Query_Find:
		return id.LoginPartition(FoldLogin(k.Find.GetLogin())), nil
	case *nodev1.Query_Session:
		return partitionOf(id.User, k.Session.GetUserId(), "userId")
	case *nodev1.Query_Room:
		return partitionOf(id.Room, k.Room.GetRoomId(), "roomId")
	case *nodev1.Query_History:
		return partitionOf(id.Room, k.History.GetRoomId(), "roomId")
	case *nodev1.Query_GetMe, *nodev1.Query_ListFriends, *nodev1.Query_Devices, *nodev1.Query_RoomIds:
		return partitionOf(id.User, q.GetActor(), "actor")
	case *nodev1.Query_ListRooms, *nodev1.Query_People, *nodev1.Query_Positions:
		return 0, ErrManyShards
	}
	return 0, refuse(BadCommand, "")
}

func partitionOf(kind id.Kind, raw []byte, field string) (id.Partition, error) {
	i, err := parse(kind, raw, field)
	return i.Partition(), err
}

// parse reads an ID of a command; one that is none is refused.
func parse(kind id.Kind, raw []byte, field string) (id.ID, error) {
	i, err := id.FromBytes(kind, raw)
	if err != nil {
		return id.ID{}, refuse(BadID, field)
	}
	return i, nil
}

// parseEvent reads an ID of an event.
func parseEvent(kind id.Kind, raw []byte) (id.ID, error) {
	i, err := id.FromBytes(kind, raw)
	if err != nil {
		return id.ID{}, badEvent("with a bad ID: %v", err)
	}
	return i, nil
}

// parseUsers reads a list of users without repetitions, in the order given.
func parseUsers(raw [][]byte, field string) ([]id.ID, error) {
	users := make([]id.ID, 0, len(raw))
	seen := make(map[id.ID]bool, len(raw))
	for _, b := range raw {
		u, err := parse(id.User, b, field)
		if err != nil {
			return nil, err
		}
		if !seen[u] {
			seen[u] = true
			users = append(users, u)
		}
	}
	return users, nil
}
