package chat

import (
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// addNotice stores a notice behind the newest message and counts it in s,
// which the caller writes.
func addNotice(tx Tx, room id.ID, s *journalv1.RoomState, n *journalv1.StoredNotice) (*edgev1.Notice, error) {
	s.NoticeCount++
	n.AfterSeq = s.GetLastSeq()
	edge, err := edgeNotice(n)
	if err != nil {
		return nil, badEvent("names people by bad IDs: %v", err)
	}
	return edge, write(tx, noticeKey(room, n.AfterSeq, s.NoticeCount), n)
}

// edgeNotice leaves the display names to package shard.
func edgeNotice(n *journalv1.StoredNotice) (*edgev1.Notice, error) {
	actor, err := id.FromBytes(id.User, n.GetActorId())
	if err != nil {
		return nil, err
	}
	e := &edgev1.Notice{
		AfterSeq: n.GetAfterSeq(), At: n.GetAtMs(), Kind: edgev1.Notice_Kind(n.GetKind()),
		ActorId: actor.String(), Title: n.GetTitle(),
	}
	for _, raw := range n.GetSubjectIds() {
		u, err := id.FromBytes(id.User, raw)
		if err != nil {
			return nil, err
		}
		e.SubjectIds = append(e.SubjectIds, u.String())
	}
	return e, nil
}
