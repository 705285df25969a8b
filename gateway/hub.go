package gateway

import (
	"bytes"
	"slices"
	"sync"
	"time"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// leftMemory bounds what the hub remembers about who just left which room.
const (
	leftMemory = 1 << 16
	leftFor    = 30 * time.Second
)

// hub knows who listens here: which sessions each user has, and which sessions
// hear of each room. It holds no lock while it hands out frames. Sets are
// slices: most have one or two members, and the largest are searched only when
// someone leaves.
type hub struct {
	mu    sync.RWMutex // guards what follows, and hubSeat of every session
	users map[id.ID][]*session
	rooms map[id.ID][]*session
	// left remembers who a room's own shard has just said left it. The
	// account's list of rooms follows by the outbox, so for a moment it still
	// names the room: neither a late item nor a list read at sign-in may
	// subscribe them to it again.
	left map[leftKey]time.Time
}

type leftKey struct{ user, room id.ID }

// hubSeat is what the hub keeps of a session.
type hubSeat struct {
	joined       bool
	user, device id.ID
	rooms        []id.ID // sorted
	// decided holds, while the session's rooms are being read, what the feed
	// said of them meanwhile: it is newer than the list.
	decided map[id.ID]struct{}
}

func newHub() *hub {
	return &hub{
		users: make(map[id.ID][]*session),
		rooms: make(map[id.ID][]*session),
		left:  make(map[leftKey]time.Time),
	}
}

// join registers a session under its user, before its rooms are read, so that
// what happens meanwhile is not missed. It returns false, and does nothing, if
// the user has as many sessions as they may.
func (h *hub) join(s *session, who caller, most int) bool {
	user := who.user
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.users[user]) >= most {
		return false
	}
	s.seat = hubSeat{joined: true, user: user, device: who.device, decided: make(map[id.ID]struct{})}
	add(h.users, user, s)
	return true
}

// settle subscribes a session to the rooms that were read for it, but for
// those that the feed has decided about since join.
func (h *hub) settle(s *session, rooms []id.ID, now time.Time) {
	slices.SortFunc(rooms, compareIDs) // a long list is then appended, not inserted
	h.mu.Lock()
	defer h.mu.Unlock()
	if !s.seat.joined {
		return // gone meanwhile
	}
	if s.seat.rooms == nil {
		s.seat.rooms = make([]id.ID, 0, len(rooms))
	}
	for _, room := range rooms {
		if _, known := s.seat.decided[room]; known || h.leftLocked(s.seat.user, room, now) {
			continue
		}
		h.subscribeLocked(s, room)
	}
	s.seat.decided = nil
}

// remove forgets a session.
func (h *hub) remove(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !s.seat.joined {
		return
	}
	for _, room := range s.seat.rooms {
		cut(h.rooms, room, s)
	}
	cut(h.users, s.seat.user, s)
	s.seat = hubSeat{}
}

func (h *hub) subscribeLocked(s *session, room id.ID) {
	at, known := slices.BinarySearchFunc(s.seat.rooms, room, compareIDs)
	if known {
		return
	}
	s.seat.rooms = slices.Insert(s.seat.rooms, at, room)
	add(h.rooms, room, s)
}

func (h *hub) dropLocked(s *session, room id.ID) {
	if at, known := slices.BinarySearchFunc(s.seat.rooms, room, compareIDs); known {
		s.seat.rooms = slices.Delete(s.seat.rooms, at, at+1)
		cut(h.rooms, room, s)
	}
}

func compareIDs(a, b id.ID) int { return bytes.Compare(a[:], b[:]) }

// add puts a session that is not there yet into a set.
func add(sets map[id.ID][]*session, key id.ID, s *session) {
	sets[key] = append(sets[key], s)
}

// cut takes a session out of a set.
func cut(sets map[id.ID][]*session, key id.ID, s *session) {
	set := sets[key]
	at := slices.Index(set, s)
	if at < 0 {
		return
	}
	last := len(set) - 1
	set[at], set[last] = set[last], nil
	if last == 0 {
		delete(sets, key)
		return
	}
	sets[key] = set[:last]
}

func (h *hub) leftLocked(user, room id.ID, now time.Time) bool {
	at, ok := h.left[leftKey{user, room}]
	return ok && now.Sub(at) < leftFor
}

func (h *hub) noteLeftLocked(user, room id.ID, now time.Time) {
	if len(h.left) >= leftMemory {
		for k, at := range h.left {
			if now.Sub(at) >= leftFor {
				delete(h.left, k)
			}
		}
	}
	if len(h.left) < leftMemory {
		h.left[leftKey{user, room}] = now
	}
}

// feedItem is a FeedItem whose IDs have been read.
type feedItem struct {
	room, user             id.ID
	subscribe, unsubscribe []id.ID
	revoked                []id.ID
	hasEvent               bool
}

func readItem(item *nodev1.FeedItem) (f feedItem, err error) {
	f.hasEvent = item.GetEvent() != nil
	if len(item.GetRoomId()) > 0 {
		if f.room, err = id.FromBytes(id.Room, item.GetRoomId()); err != nil {
			return f, err
		}
	}
	if len(item.GetUserId()) > 0 {
		if f.user, err = id.FromBytes(id.User, item.GetUserId()); err != nil {
			return f, err
		}
	}
	if f.subscribe, err = readIDs(id.User, item.GetSubscribe()); err != nil {
		return f, err
	}
	if f.unsubscribe, err = readIDs(id.User, item.GetUnsubscribe()); err != nil {
		return f, err
	}
	f.revoked, err = readIDs(id.Device, item.GetRevokedDeviceIds())
	return f, err
}

func readIDs(kind id.Kind, list [][]byte) ([]id.ID, error) {
	var out []id.ID
	for _, raw := range list {
		i, err := id.FromBytes(kind, raw)
		if err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	return out, nil
}

// apply makes the item's changes of subscriptions and returns who hears of it
// and whose device was revoked: newcomers are in the audience, and so are
// those who leave.
func (h *hub) apply(f feedItem, now time.Time) (audience, ended []*session) {
	if len(f.subscribe)+len(f.unsubscribe)+len(f.revoked) == 0 {
		return h.audience(f), nil // as of every message: shards need not wait for each other
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	// An item with an event comes from the room's own shard, which knows best;
	// one without from an account's list, which follows.
	for _, user := range f.subscribe {
		if f.hasEvent {
			delete(h.left, leftKey{user, f.room})
		} else if h.leftLocked(user, f.room, now) {
			continue
		}
		for _, s := range h.users[user] {
			h.subscribeLocked(s, f.room)
			if s.seat.decided != nil {
				s.seat.decided[f.room] = struct{}{}
			}
		}
	}
	if f.hasEvent {
		audience = h.audienceLocked(f)
	}
	for _, user := range f.unsubscribe {
		if f.hasEvent {
			h.noteLeftLocked(user, f.room, now)
		}
		for _, s := range h.users[user] {
			h.dropLocked(s, f.room)
			if s.seat.decided != nil {
				s.seat.decided[f.room] = struct{}{}
			}
		}
	}
	if len(f.revoked) > 0 {
		for _, s := range h.users[f.user] {
			if slices.Contains(f.revoked, s.seat.device) {
				ended = append(ended, s)
			}
		}
	}
	return audience, ended
}

// audience is who hears of an item that changes nothing here.
func (h *hub) audience(f feedItem) []*session {
	if !f.hasEvent {
		return nil
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.audienceLocked(f)
}

func (h *hub) audienceLocked(f feedItem) []*session {
	if f.room.IsZero() {
		return slices.Clone(h.users[f.user])
	}
	return slices.Clone(h.rooms[f.room])
}

// othersInRoom returns the sessions in a room but for user's, and whether user
// has one in it.
func (h *hub) othersInRoom(room, user id.ID) (others []*session, member bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, s := range h.rooms[room] {
		if s.seat.user == user {
			member = true
			continue
		}
		others = append(others, s)
	}
	return others, member
}

// Feed hands out what a shard has just applied. It is called from the shards'
// goroutines, for one shard in the order of its journal, and does not block.
func (g *Gateway) Feed(items []*nodev1.FeedItem) {
	for _, item := range items {
		g.handOut(item)
	}
}

func (g *Gateway) handOut(item *nodev1.FeedItem) {
	defer g.guard("hand out a feed item") // it is the shard's goroutine: our fault must not stop it
	f, err := readItem(item)
	if err != nil {
		g.metrics.badFeed.Inc()
		g.log.Error("feed item set aside", "shard", item.GetShard(), "index", item.GetIndex(), "error", err)
		return
	}
	// The set first: a session that starts now looks there after it joined.
	for _, device := range f.revoked {
		g.revokedDevice(device)
	}
	if at := item.GetEvent().GetMessage().GetMessage().GetSentAt(); at > 0 {
		g.metrics.feedDelay.Observe(max(0, g.now().Sub(time.UnixMilli(at)).Seconds()))
	}
	audience, ended := g.hub.apply(f, time.Now())
	if len(audience) > 0 {
		event := newPrepared(item.GetEvent())
		for _, s := range audience {
			s.offer(event, false)
		}
	}
	for _, s := range ended {
		s.finish(closeRevoked, "this device was signed out", true)
	}
}
