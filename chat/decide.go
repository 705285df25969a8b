package chat

import (
	"errors"
	"fmt"
	"runtime/debug"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// Env is what the owner knows and the state does not. NowMs must be the
// time_ms of the record that the events will be in.
type Env struct {
	NowMs int64  // milliseconds since the Unix epoch
	Rules uint32 // version of the rules that holds
}

// Decision is the answer to a command and what it changes. Without events
// nothing changes: it is refused (Reply.Error), or it was done before. One
// refusal does come with an event: refresh_reused, which signs the device out.
// So look at Events first; whoever has events records them, whatever the reply.
type Decision struct {
	Events []*journalv1.Event
	Reply  *nodev1.Reply // never nil; its position is for package shard to fill in
	// Panic is what deciding panicked with, for the log; the reply then is the
	// refusal command_panicked.
	Panic string
}

// Decide judges a command on a state that holds every earlier event. A refusal
// is in Decision.Reply.Error; an error is a failure of the store or damage
// (*CorruptError), and decides nothing. Decide never panics: what panics is
// refused with command_panicked.
func Decide(r Reader, env Env, cmd *nodev1.Command) (d Decision, err error) {
	defer func() {
		if p := recover(); p != nil {
			d = Decision{Reply: refusalReply(refuse(CommandPanicked, "")), Panic: fmt.Sprintf("%v\n%s", p, debug.Stack())}
			err = nil
		}
	}()
	d, err = decide(r, env, cmd)
	if no := (*Refusal)(nil); errors.As(err, &no) {
		return Decision{Reply: refusalReply(no)}, nil
	}
	if err != nil {
		return Decision{}, fmt.Errorf("decide %s: %w", CommandKind(cmd), err)
	}
	if d.Reply == nil {
		d.Reply = &nodev1.Reply{}
	}
	return d, nil
}

func refusalReply(no *Refusal) *nodev1.Reply { return &nodev1.Reply{Error: no.Edge()} }

// Outcome is what one command came to.
type Outcome struct {
	Events []*journalv1.Event // to record, in order; they are applied to the transaction already
	Reply  *nodev1.Reply      // never nil
	Feed   []*nodev1.FeedItem // for when the record is durable
	// Panic and Aside are for the log: deciding panicked, or applying did.
	Panic string
	Aside *SetAside
}

// Step decides a command and applies its events to tx at once, all or none.
// It is what an owner should call. It differs from Decide and ApplyEvent in
// one thing: if applying an event panics, the command is refused and the
// events are dropped in favour of a RoomStopped, so that the journal never
// holds an event that some releases can apply and others cannot (invariant 12).
// m.TimeMs and m.Rules must be those of the record that the events go into.
func Step(tx Tx, m Meta, cmd *nodev1.Command) (Outcome, error) {
	o := newOverlay(tx)
	d, err := Decide(o, Env{NowMs: m.TimeMs, Rules: m.Rules}, cmd)
	if err != nil {
		return Outcome{}, err
	}
	out := Outcome{Events: d.Events, Reply: d.Reply, Panic: d.Panic}
	if len(d.Events) == 0 {
		return out, nil
	}
	for _, ev := range d.Events {
		if err := checkRules(m.Rules, ev); err != nil {
			return Outcome{}, err
		}
		feed, aside, err := attempt(o, m, ev)
		if err != nil {
			return Outcome{}, fmt.Errorf("apply %s: %w", EventKind(ev), err)
		}
		if aside != nil {
			return stepAside(tx, m, ev, aside)
		}
		if out.Feed == nil {
			out.Feed = feed
		} else {
			out.Feed = append(out.Feed, feed...)
		}
	}
	if err := o.flush(); err != nil {
		return Outcome{}, err
	}
	return out, nil
}

// stepAside ends a command one of whose events could not be applied.
func stepAside(tx Tx, m Meta, ev *journalv1.Event, aside *SetAside) (Outcome, error) {
	out := Outcome{Aside: aside, Reply: refusalReply(refuse(CommandPanicked, ""))}
	room, ok := eventSubject(ev)
	if !ok || room.Kind() != id.Room {
		return out, nil
	}
	aside.Room = room
	out.Reply = refusalReply(refuse(RoomIsStopped, "roomId"))
	out.Events = []*journalv1.Event{{Kind: &journalv1.Event_RoomStopped{RoomStopped: &journalv1.RoomStopped{
		RoomId: room.Bytes(), Cause: "applying " + aside.Kind + " failed",
	}}}}
	if _, err := ApplyEvent(tx, m, out.Events[0]); err != nil {
		return Outcome{}, fmt.Errorf("stop room %s: %w", room, err)
	}
	return out, nil
}

func decide(r Reader, env Env, cmd *nodev1.Command) (Decision, error) {
	switch k := cmd.GetKind().(type) {
	case *nodev1.Command_Send:
		return decideSend(r, env, cmd.Actor, k.Send)
	case *nodev1.Command_MarkRead:
		return decideMarkRead(r, cmd.Actor, k.MarkRead)
	case *nodev1.Command_SignUp:
		return decideSignUp(r, cmd.Actor, k.SignUp)
	case *nodev1.Command_AddDevice:
		return decideAddDevice(r, cmd.Actor, k.AddDevice)
	case *nodev1.Command_RotateRefresh:
		return decideRotateRefresh(r, env, cmd.Actor, k.RotateRefresh)
	case *nodev1.Command_ConfirmRefresh:
		return decideConfirmRefresh(r, cmd.Actor, k.ConfirmRefresh)
	case *nodev1.Command_RevokeDevice:
		return decideRevokeDevice(r, cmd.Actor, k.RevokeDevice)
	case *nodev1.Command_AddFriend:
		return decideAddFriend(r, cmd.Actor, k.AddFriend)
	case *nodev1.Command_RemoveFriend:
		return decideRemoveFriend(r, cmd.Actor, k.RemoveFriend)
	case *nodev1.Command_SetBlock:
		return decideSetBlock(r, cmd.Actor, k.SetBlock)
	case *nodev1.Command_OpenDirect:
		return decideOpenDirect(r, cmd.Actor, k.OpenDirect)
	case *nodev1.Command_CreateGroup:
		return decideCreateGroup(r, cmd.Actor, k.CreateGroup)
	case *nodev1.Command_Invite:
		return decideInvite(r, cmd.Actor, k.Invite)
	case *nodev1.Command_Leave:
		return decideLeave(r, cmd.Actor, k.Leave)
	case *nodev1.Command_SetTitle:
		return decideSetTitle(r, cmd.Actor, k.SetTitle)
	case *nodev1.Command_ApplyEffect:
		return decideApplyEffect(r, cmd.Actor, k.ApplyEffect)
	case *nodev1.Command_FinishEffects:
		return decideFinishEffects(r, cmd.Actor, k.FinishEffects)
	case *nodev1.Command_NoteTailLost:
		return decideNoteTailLost(cmd.Actor, k.NoteTailLost)
	case *nodev1.Command_ActivateRules:
		return decideActivateRules(env, cmd.Actor, k.ActivateRules)
	}
	return Decision{}, refuse(BadCommand, "")
}
