package chat

import (
	"errors"
	"fmt"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// Reason is the stable, machine-readable word of a refusal.
type Reason string

// The reasons that the rules give. Table Reasons says what each means.
const (
	BadCommand      Reason = "bad_command"
	BadID           Reason = "bad_id"
	BadClientID     Reason = "bad_client_id"
	BadLogin        Reason = "bad_login"
	BadDisplayName  Reason = "bad_display_name"
	BadDeviceName   Reason = "bad_device_name"
	BadPasswordHash Reason = "bad_password_hash"
	BadTitle        Reason = "bad_title"
	TitleTooLong    Reason = "title_too_long"
	TextEmpty       Reason = "text_empty"
	TextTooLong     Reason = "text_too_long"
	TextInvalid     Reason = "text_invalid"
	ReplyUnknown    Reason = "reply_unknown"
	SeqBeyondEnd    Reason = "seq_beyond_end"
	LimitTooHigh    Reason = "limit_too_high"
	BeforeAndAfter  Reason = "before_and_after"
	TooManyIDs      Reason = "too_many_ids"
	NoIDs           Reason = "no_ids"
	Yourself        Reason = "yourself"

	BadCredentials  Reason = "bad_credentials"
	DeviceIsRevoked Reason = "device_revoked"
	RefreshReused   Reason = "refresh_reused"

	NotAMember Reason = "not_a_member"
	IsBlocked  Reason = "blocked"
	YouBlocked Reason = "you_blocked"
	DirectRoom Reason = "direct_room"
	NotYours   Reason = "not_yours"

	UserUnknown Reason = "user_unknown"
	RoomUnknown Reason = "room_unknown"

	LoginTaken Reason = "login_taken"
	RoomExists Reason = "room_exists"

	TooManyFriends Reason = "too_many_friends"
	TooManyBlocks  Reason = "too_many_blocks"
	RoomFull       Reason = "room_full"

	RoomIsStopped Reason = "room_stopped"

	CommandPanicked Reason = "command_panicked"
)

// ReasonInfo explains one reason to people; docs/errors.md is written from it.
type ReasonInfo struct {
	Code    string // Connect code
	Reason  Reason
	Message string // what the answer says, in plain words
	Retry   string // whether trying again helps
}

// Reasons lists every refusal of the rules. Reasons are only added: clients
// know them by their words.
var Reasons = []ReasonInfo{
	{"invalid_argument", BadCommand, "the command is empty or not complete", "no: a fault of the program that sent it"},
	{"invalid_argument", BadID, "an ID is malformed, of the wrong kind or of the wrong place", "no"},
	{"invalid_argument", BadClientID, "the client ID must be a UUID", "no"},
	{"invalid_argument", BadLogin, "a login has 3 to 32 of a-z, 0-9, '_', '.', '-' and begins with a letter or digit", "with another login"},
	{"invalid_argument", BadDisplayName, "a display name has 1 to 40 characters, none of them control characters", "with another name"},
	{"invalid_argument", BadDeviceName, "a device name has at most 60 characters, none of them control characters", "with another name"},
	{"invalid_argument", BadPasswordHash, "the password hash is missing or too long", "no: a fault of the gateway"},
	{"invalid_argument", BadTitle, "a title must be valid UTF-8 without control characters", "with another title"},
	{"invalid_argument", TitleTooLong, "a title has at most 100 characters", "with a shorter title"},
	{"invalid_argument", TextEmpty, "a message needs text that is more than white space", "with text"},
	{"invalid_argument", TextTooLong, "a message has at most 10,000 characters and 40,000 bytes", "in parts"},
	{"invalid_argument", TextInvalid, "the text is not valid UTF-8", "no"},
	{"invalid_argument", ReplyUnknown, "the message replied to is not in the room, or was before you joined", "without the reply"},
	{"invalid_argument", SeqBeyondEnd, "the room has no message of that number yet", "no"},
	{"invalid_argument", LimitTooHigh, "at most 200 messages can be read at once", "with a lower limit"},
	{"invalid_argument", BeforeAndAfter, "ask for messages before or after a number, not both", "with one of them"},
	{"invalid_argument", TooManyIDs, "too many people or things in one request", "in parts"},
	{"invalid_argument", NoIDs, "nobody was named", "with at least one"},
	{"invalid_argument", Yourself, "this cannot be done with oneself", "no"},

	{"unauthenticated", BadCredentials, "unknown login or wrong password", "with the right ones"},
	{"unauthenticated", DeviceIsRevoked, "this device was signed out, or never signed in", "after signing in"},
	{"unauthenticated", RefreshReused, "a refresh token was used twice: the device was signed out for safety", "after signing in"},

	{"permission_denied", NotAMember, "only members of the room may do this", "after being invited"},
	{"permission_denied", IsBlocked, "this person does not take messages from you", "no"},
	{"permission_denied", YouBlocked, "you have blocked this person", "after unblocking"},
	{"permission_denied", DirectRoom, "this cannot be done in a room of two", "no"},
	{"permission_denied", NotYours, "this belongs to someone else", "no"},

	{"not_found", UserUnknown, "there is no such account", "no"},
	{"not_found", RoomUnknown, "there is no such room", "no"},

	{"already_exists", LoginTaken, "someone has this login already", "with another login"},
	{"already_exists", RoomExists, "someone else made this room", "with another client ID"},

	{"resource_exhausted", TooManyFriends, "a friend list holds at most 5,000 people", "after removing some"},
	{"resource_exhausted", TooManyBlocks, "a block list holds at most 5,000 people", "after unblocking some"},
	{"resource_exhausted", RoomFull, "a group has at most 3,000 members", "after some have left"},

	{"unavailable", RoomIsStopped, "this room is stopped because of a fault of ours; nothing in it is lost", "much later: operators must repair it"},

	{"internal", CommandPanicked, "a fault of ours; nothing was changed", "no: operators have been told"},
}

var reasonInfo = func() map[Reason]ReasonInfo {
	m := make(map[Reason]ReasonInfo, len(Reasons))
	for _, i := range Reasons {
		m[i.Reason] = i
	}
	return m
}()

// retryStopped is the hint, in seconds, that comes with room_stopped: people
// repair it, so asking often helps nobody.
const retryStopped = 300

// Refusal is a definite no: nothing was changed, and asking the same again on
// the same state gives the same. It is the caller's matter, not a failure.
type Refusal struct {
	Reason Reason
	Field  string // JSON name of the request field at fault, if one is
}

func refuse(reason Reason, field string) *Refusal { return &Refusal{Reason: reason, Field: field} }

func (f *Refusal) Error() string {
	return fmt.Sprintf("refused (%s): %s", f.Reason, reasonInfo[f.Reason].Message)
}

// Code returns the Connect code.
func (f *Refusal) Code() string { return reasonInfo[f.Reason].Code }

// Edge returns the refusal as clients see it.
func (f *Refusal) Edge() *edgev1.Error {
	e := &edgev1.Error{
		Code:    f.Code(),
		Message: reasonInfo[f.Reason].Message,
		Info:    &edgev1.ErrorInfo{Reason: string(f.Reason), Field: f.Field},
	}
	if f.Reason == RoomIsStopped {
		e.Info.RetryAfterSeconds = retryStopped
	}
	return e
}

// AsRefusal returns the refusal in err as clients see it; false if err is
// something else (a failure of the store, damage).
func AsRefusal(err error) (*edgev1.Error, bool) {
	var f *Refusal
	if !errors.As(err, &f) {
		return nil, false
	}
	return f.Edge(), true
}

// CorruptError: a value of the state cannot be what Apply wrote. It is never
// served and never worked around: the shard stops (invariant 6).
type CorruptError struct {
	Key   []byte
	Cause error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("state at key %x is damaged: %v", e.Key, e.Cause)
}

func (e *CorruptError) Unwrap() error { return e.Cause }

// Errors of Apply and of routing; test with errors.Is.
var (
	// ErrUnknownRules: the record needs a release that knows more than this one.
	// The shard stops; nothing is skipped (invariant 5).
	ErrUnknownRules = errors.New("chat: rules or event unknown to this release")
	// ErrByShard: the command or query concerns a shard as a whole, not a partition.
	ErrByShard = errors.New("chat: routed by shard number")
	// ErrManyShards: the query needs several shards; package shard composes it.
	ErrManyShards = errors.New("chat: spans shards")
)
