package chat

import (
	"errors"
	"fmt"
	"runtime/debug"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// Meta is what an event takes from the record that it is in.
type Meta struct {
	TimeMs int64  // when the owner decided, milliseconds since the Unix epoch
	Rules  uint32 // version of the rules that the record was decided under
}

// SetAside tells of an event that could not be applied: applying it panicked
// or it contradicts the state. It changed nothing but, for an event of a room,
// that the room is stopped (invariant 12). For people and logs: nothing in the
// state comes from Panic or Stack.
type SetAside struct {
	Room  id.ID  // the room now stopped; zero for an event of an account or shard
	Kind  string // name of the event's kind
	Panic string // what the panic, or the contradiction, was
	Stack string // empty for a contradiction
}

// badEventError: the event contradicts the state or is malformed. No event
// that this release decided can be so; one in a journal is set aside.
type badEventError struct{ what string }

func (e *badEventError) Error() string { return "event " + e.what }

func badEvent(format string, args ...any) error {
	return &badEventError{fmt.Sprintf(format, args...)}
}

// testHookApply, set only by tests of this package, runs inside the savepoint
// before each event, so that a test can make one panic.
var testHookApply func(*journalv1.Event)

// ApplyEvent writes one event into the state and returns whom to tell. The
// event is applied whole or not at all; one whose application panics is set
// aside: see ApplyWatched, which also says so.
//
// An error means that the event is not applied and the shard must stop: the
// store failed, the state is damaged (*CorruptError), or a newer release is
// needed (ErrUnknownRules). The shard, index and positions in feed items are
// for the caller to fill in.
func ApplyEvent(tx Tx, m Meta, ev *journalv1.Event) (feed []*nodev1.FeedItem, err error) {
	feed, _, err = ApplyWatched(tx, m, ev)
	return feed, err
}

// ApplyWatched is ApplyEvent for a caller that logs: aside is not nil if the
// event was set aside. The room then is marked stopped, with a cause made of
// the event's kind alone, so that every replica writes the same bytes whatever
// its panic says. An event of an account is kept, with a note, under a key of
// its own for an operator to see (SetAsideEvents), and the account goes on.
func ApplyWatched(tx Tx, m Meta, ev *journalv1.Event) (feed []*nodev1.FeedItem, aside *SetAside, err error) {
	if err := checkRules(m.Rules, ev); err != nil {
		return nil, nil, err
	}
	o := newOverlay(tx)
	feed, aside, err = attempt(o, m, ev)
	if err != nil {
		return nil, nil, err
	}
	if aside != nil {
		o.drop()
		feed = nil
		if err := markAside(o, m, ev, aside); err != nil {
			return nil, nil, err
		}
	}
	if err := o.flush(); err != nil {
		return nil, nil, err
	}
	return feed, aside, nil
}

// ApplyRecord applies all events of a record in order. Its errors are those of
// ApplyEvent; the transaction is then to be dropped.
func ApplyRecord(tx Tx, rec *journalv1.Record) (feed []*nodev1.FeedItem, err error) {
	feed, _, err = ApplyRecordWatched(tx, rec)
	return feed, err
}

// ApplyRecordWatched is ApplyRecord for a caller that logs what was set aside.
func ApplyRecordWatched(tx Tx, rec *journalv1.Record) (feed []*nodev1.FeedItem, asides []*SetAside, err error) {
	m := Meta{TimeMs: rec.GetTimeMs(), Rules: rec.GetRules()}
	if m.Rules == 0 || m.Rules > RulesVersion {
		return nil, nil, fmt.Errorf("record of rules %d: %w (it knows up to %d)", m.Rules, ErrUnknownRules, RulesVersion)
	}
	for i, ev := range rec.GetEvents() {
		items, aside, err := ApplyWatched(tx, m, ev)
		if err != nil {
			return nil, nil, fmt.Errorf("apply event %d of %d (%s): %w", i+1, len(rec.GetEvents()), EventKind(ev), err)
		}
		feed = append(feed, items...)
		if aside != nil {
			asides = append(asides, aside)
		}
	}
	return feed, asides, nil
}

// attempt applies the event into the overlay and tells a panic or a bad event
// (aside) from a failure of the store (err).
func attempt(o *overlay, m Meta, ev *journalv1.Event) (feed []*nodev1.FeedItem, aside *SetAside, err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if o.inStore {
			feed, aside, err = nil, nil, fmt.Errorf("store panicked: %v\n%s", p, debug.Stack())
			return
		}
		feed, err = nil, nil
		aside = &SetAside{Kind: EventKind(ev), Panic: fmt.Sprint(p), Stack: string(debug.Stack())}
	}()
	if testHookApply != nil {
		testHookApply(ev)
	}
	feed, err = apply(o, m, ev)
	if bad := (*badEventError)(nil); errors.As(err, &bad) {
		return nil, &SetAside{Kind: EventKind(ev), Panic: bad.what}, nil
	}
	if no := (*Refusal)(nil); errors.As(err, &no) {
		return nil, &SetAside{Kind: EventKind(ev), Panic: no.Error()}, nil
	}
	return feed, nil, err
}

// markAside stops the event's room, or keeps the event of an account.
func markAside(o *overlay, m Meta, ev *journalv1.Event, aside *SetAside) error {
	cause := "applying " + aside.Kind + " failed"
	subject, ok := eventSubject(ev)
	switch {
	case !ok:
		// It names nothing that we could mark. Going on would hide it.
		return fmt.Errorf("event %s names neither room nor account: %s", aside.Kind, aside.Panic)
	case subject.Kind() == id.Room:
		aside.Room = subject
		return stopRoom(o, subject, cause)
	default:
		kept := &journalv1.Record{TimeMs: m.TimeMs, Rules: m.Rules, Events: []*journalv1.Event{ev}, Note: cause}
		err := write(o, setAsideKey(subject, eventNumber(ev)), kept)
		if bad := (*badEventError)(nil); errors.As(err, &bad) {
			// Not storable as it is; that there was one is.
			return write(o, setAsideKey(subject, eventNumber(ev)), &journalv1.Record{TimeMs: m.TimeMs, Rules: m.Rules, Note: cause})
		}
		return err
	}
}

func apply(tx Tx, m Meta, ev *journalv1.Event) ([]*nodev1.FeedItem, error) {
	switch k := ev.Kind.(type) {
	case *journalv1.Event_MessageSent:
		return applyMessageSent(tx, m, k.MessageSent)
	case *journalv1.Event_ReadAdvanced:
		return applyReadAdvanced(tx, k.ReadAdvanced)
	case *journalv1.Event_RulesActivated, *journalv1.Event_TailLost:
		// Their meaning is in the journal itself; the state has no part in it.
		return nil, nil
	case *journalv1.Event_AccountCreated:
		return nil, applyAccountCreated(tx, m, k.AccountCreated)
	case *journalv1.Event_DeviceAdded:
		return applyDeviceAdded(tx, m, k.DeviceAdded)
	case *journalv1.Event_DeviceRevoked:
		return applyDeviceRevoked(tx, k.DeviceRevoked)
	case *journalv1.Event_RefreshRotated:
		return nil, applyRefreshRotated(tx, m, k.RefreshRotated)
	case *journalv1.Event_RefreshConfirmed:
		return nil, applyRefreshConfirmed(tx, m, k.RefreshConfirmed)
	case *journalv1.Event_FriendAdded:
		return applyFriendAdded(tx, k.FriendAdded)
	case *journalv1.Event_FriendRemoved:
		return applyFriendRemoved(tx, k.FriendRemoved)
	case *journalv1.Event_Blocked:
		return applyBlock(tx, k.Blocked.GetUserId(), k.Blocked.GetBlockedId(), k.Blocked.GetVersion(), true)
	case *journalv1.Event_Unblocked:
		return applyBlock(tx, k.Unblocked.GetUserId(), k.Unblocked.GetBlockedId(), k.Unblocked.GetVersion(), false)
	case *journalv1.Event_RoomListed:
		return applyRoomListed(tx, k.RoomListed)
	case *journalv1.Event_RoomCreated:
		return applyRoomCreated(tx, m, k.RoomCreated)
	case *journalv1.Event_MembersJoined:
		return applyMembersJoined(tx, m, k.MembersJoined)
	case *journalv1.Event_MemberLeft:
		return applyMemberLeft(tx, m, k.MemberLeft)
	case *journalv1.Event_TitleChanged:
		return applyTitleChanged(tx, m, k.TitleChanged)
	case *journalv1.Event_BlockNoted:
		return nil, applyBlockNoted(tx, k.BlockNoted)
	case *journalv1.Event_OutboxDone:
		return nil, applyOutboxDone(tx, k.OutboxDone)
	case *journalv1.Event_RoomStopped:
		return nil, applyRoomStopped(tx, k.RoomStopped)
	}
	return nil, fmt.Errorf("event %T: %w", ev.Kind, ErrUnknownRules)
}
