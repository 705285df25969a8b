package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// sendCommand checks what someone wants to send and makes the command of it.
// Everything it consists of is one allocation: sends are what we do most.
func sendCommand(who caller, r *edgev1.SendRequest) (*nodev1.Command, id.ID, error) {
	room, err := roomID("roomId", r.GetRoomId())
	if err != nil {
		return nil, id.ID{}, err
	}
	client, err := clientUUID("clientId", r.GetClientId())
	if err != nil {
		return nil, id.ID{}, err
	}
	if err := messageText("text", r.GetText()); err != nil {
		return nil, id.ID{}, err
	}
	c := &struct {
		cmd                 nodev1.Command
		kind                nodev1.Command_Send
		send                nodev1.Send
		room, client, actor id.ID
	}{room: room, client: id.ID(client), actor: who.user}
	c.send.RoomId, c.send.ClientId = c.room[:], c.client[:]
	c.send.Text, c.send.ReplyTo = r.GetText(), r.GetReplyTo()
	c.kind.Send = &c.send
	c.cmd.Actor, c.cmd.Kind = c.actor[:], &c.kind
	return &c.cmd, room, nil
}

func (g *Gateway) send(ctx context.Context, who caller, r *edgev1.SendRequest) (*edgev1.SendResponse, error) {
	cmd, _, err := sendCommand(who, r)
	if err != nil {
		return nil, err
	}
	reply, _, err := g.do(ctx, cmd)
	if err != nil {
		return nil, err
	}
	if reply.GetMessage() == nil {
		return nil, errors.New("the backend acknowledged a send without the message")
	}
	return &edgev1.SendResponse{Message: reply.GetMessage(), Position: reply.GetPosition()}, nil
}

func (g *Gateway) list(ctx context.Context, who caller, r *edgev1.ListRequest) (*edgev1.ListResponse, error) {
	room, err := roomID("roomId", r.GetRoomId())
	if err != nil {
		return nil, err
	}
	if r.GetBeforeSeq() != 0 && r.AfterSeq != nil {
		return nil, invalid("afterSeq", "before_and_after", "either beforeSeq or afterSeq, not both")
	}
	limit, err := historyLimit("limit", r.GetLimit())
	if err != nil {
		return nil, err
	}
	q := &nodev1.Query{Actor: who.user.Bytes(), Kind: &nodev1.Query_History{History: &nodev1.HistoryQuery{
		RoomId: room.Bytes(), BeforeSeq: r.GetBeforeSeq(), AfterSeq: r.AfterSeq, Limit: limit,
	}}}
	if r.GetAtLeast() != nil {
		q.AtLeast = []*edgev1.Position{r.GetAtLeast()}
		if err := positions("atLeast", q.AtLeast); err != nil {
			return nil, err
		}
	}
	reply, err := g.query(ctx, q)
	if err != nil {
		return nil, err
	}
	if reply.GetHistory() == nil {
		return nil, errors.New("the backend answered a history query without a page")
	}
	return reply.GetHistory(), nil
}

func markReadCommand(who caller, r *edgev1.MarkReadRequest) (*nodev1.Command, error) {
	room, err := roomID("roomId", r.GetRoomId())
	if err != nil {
		return nil, err
	}
	return &nodev1.Command{Actor: who.user.Bytes(), Kind: &nodev1.Command_MarkRead{MarkRead: &nodev1.MarkRead{
		RoomId: room.Bytes(), Seq: r.GetSeq(),
	}}}, nil
}

func (g *Gateway) markRead(ctx context.Context, who caller, r *edgev1.MarkReadRequest) (*edgev1.MarkReadResponse, error) {
	cmd, err := markReadCommand(who, r)
	if err != nil {
		return nil, err
	}
	reply, _, err := g.do(ctx, cmd)
	if err != nil {
		return nil, err
	}
	return &edgev1.MarkReadResponse{Position: reply.GetPosition()}, nil
}

// typingNote tells the other people in the room who have a socket here. The
// backend is not asked: who is in the room is what the caller's own sockets
// hear of. More often than every typingPause it is answered, not relayed.
func (g *Gateway) typingNote(_ context.Context, who caller, r *edgev1.TypingRequest) (*edgev1.TypingResponse, error) {
	room, err := roomID("roomId", r.GetRoomId())
	if err != nil {
		return nil, err
	}
	others, member := g.hub.othersInRoom(room, who.user)
	if !member {
		return nil, refuse(codePermission, "not_a_member", "typing needs an open socket of someone in the room")
	}
	if len(others) > 0 && g.typing.allow(who.device, room, time.Now()) {
		event := newPrepared(&edgev1.Event{Event: &edgev1.Event_Typing{Typing: &edgev1.TypingEvent{RoomId: room.String(), UserId: who.user.String()}}})
		for _, s := range others {
			s.offer(event, true)
		}
	}
	return &edgev1.TypingResponse{}, nil
}

const (
	typingPause  = 3 * time.Second
	typingMemory = 1 << 14 // who typed where within the last pause
)

// typingLimiter lets each device tell each room once a pause.
type typingLimiter struct {
	mu     sync.Mutex // guards what follows
	last   map[typingKey]time.Time
	pruned time.Time
}

type typingKey struct{ device, room id.ID }

func newTypingLimiter() *typingLimiter { return &typingLimiter{last: make(map[typingKey]time.Time)} }

func (l *typingLimiter) allow(device, room id.ID, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := typingKey{device, room}
	if last, ok := l.last[key]; ok && now.Sub(last) < typingPause {
		return false
	}
	if len(l.last) >= typingMemory && now.Sub(l.pruned) >= time.Second {
		l.pruned = now
		for k, last := range l.last {
			if now.Sub(last) >= typingPause {
				delete(l.last, k)
			}
		}
	}
	if len(l.last) >= typingMemory {
		return false // so many are typing that nobody needs to know
	}
	l.last[key] = now
	return true
}
