package gateway

import (
	"context"
	"time"

	"github.com/bongsu-im/bongsu/internal/id"
)

// Missed ends the sessions that may have missed something, because a replica
// here went on without telling what happened in some partitions: those of people
// who are at home in one, or hear of a room in one. A message could be read
// again, but who was invited, left or signed out meanwhile is known at hello
// only; so they are asked to say hello again, which settles everything. It ends
// them one by one over about the time of within, and returns when that is done.
func (g *Gateway) Missed(ctx context.Context, within time.Duration, of func(id.Partition) bool) error {
	sessions := g.hub.concerned(of)
	began := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i, s := range sessions {
		timer.Reset(time.Until(began.Add(within * time.Duration(i+1) / time.Duration(len(sessions)))))
		select {
		case <-timer.C:
			s.finish(closeHelloAt, "say hello again", false)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// concerned returns the sessions of users or with rooms in some partitions.
func (h *hub) concerned(of func(id.Partition) bool) (all []*session) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for user, sessions := range h.users {
		for _, s := range sessions {
			if of(user.Partition()) || s.hearsLocked(of) {
				all = append(all, s)
			}
		}
	}
	return all
}

// hearsLocked tells whether a session hears of a room in some partitions, or may
// yet, as its rooms are being read. The caller holds the hub's mu.
func (s *session) hearsLocked(of func(id.Partition) bool) bool {
	if s.seat.decided != nil {
		return true
	}
	for _, room := range s.seat.rooms {
		if of(room.Partition()) {
			return true
		}
	}
	return false
}
