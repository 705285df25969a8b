package chat

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// Bounds of accounts. Characters are Unicode code points.
const (
	MinLoginBytes         = 3
	MaxLoginBytes         = 32
	MaxDisplayNameChars   = 40
	MaxPasswordHashBytes  = 512
	MaxFriendsAtSignUp    = 100
	loginExtraCharacters  = "_.-"
	passwordHashBeginning = "$"
)

// FoldLogin returns the one spelling of a login: A–Z in lower case.
func FoldLogin(login string) string {
	return strings.Map(func(c rune) rune {
		if 'A' <= c && c <= 'Z' {
			return c + 'a' - 'A'
		}
		return c
	}, login)
}

// ValidLogin tells whether a folded login is one: 3 to 32 of a–z, 0–9, '_',
// '.', '-', beginning with a letter or digit.
func ValidLogin(login string) bool {
	if len(login) < MinLoginBytes || len(login) > MaxLoginBytes {
		return false
	}
	for i := range len(login) {
		c := login[i]
		alphanumeric := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !alphanumeric && (i == 0 || strings.IndexByte(loginExtraCharacters, c) < 0) {
			return false
		}
	}
	return true
}

// plainLine tells whether s is valid UTF-8 of at most maxChars code points
// without control characters: what may stand on one line of a screen.
func plainLine(s string, maxChars int) bool {
	return len(s) <= 4*maxChars && utf8.ValidString(s) && utf8.RuneCountInString(s) <= maxChars &&
		strings.IndexFunc(s, unicode.IsControl) < 0
}

func validDisplayName(name string) bool {
	return plainLine(name, MaxDisplayNameChars) && strings.TrimSpace(name) != ""
}

func validPasswordHash(hash string, bot bool) bool {
	if hash == "" {
		return bot // nobody signs in as a bot without one
	}
	return len(hash) <= MaxPasswordHashBytes && strings.HasPrefix(hash, passwordHashBeginning) && utf8.ValidString(hash)
}

// ownAccount is the account that an account command is about. Only its owner
// or the system (no actor: sign-up, sign-in) may ask.
func ownAccount(actor, user []byte) (id.ID, error) {
	u, err := parse(id.User, user, "userId")
	if err != nil {
		return id.ID{}, err
	}
	if len(actor) > 0 && !bytes.Equal(actor, user) {
		return id.ID{}, refuse(NotYours, "userId")
	}
	return u, nil
}

func decideSignUp(r Reader, actor []byte, c *nodev1.SignUp) (Decision, error) {
	user, err := ownAccount(actor, c.GetUserId())
	if err != nil {
		return Decision{}, err
	}
	name := c.GetDisplayName()
	if name == "" {
		name = c.GetLogin()
	}
	friends, err := checkSignUp(user, c, name)
	if err != nil {
		return Decision{}, err
	}
	taken, err := loginOwner(r, c.GetLogin())
	if err != nil {
		return Decision{}, err
	}
	if taken == user {
		return repeatedSignUp(r, user)
	}
	if !taken.IsZero() {
		return Decision{}, refuse(LoginTaken, "login")
	}
	if a, err := readAccount(r, user); err != nil || a != nil {
		return Decision{}, orRefuse(err, BadID, "userId") // an account's ID given to another login
	}
	created := &journalv1.AccountCreated{
		UserId: user.Bytes(), Login: c.GetLogin(), DisplayName: name, PasswordHash: c.GetPasswordHash(), Bot: c.GetBot(),
	}
	for _, f := range friends {
		created.FriendIds = append(created.FriendIds, f.Bytes())
	}
	d := Decision{
		Events: []*journalv1.Event{{Kind: &journalv1.Event_AccountCreated{AccountCreated: created}}},
		Reply: userReply(&edgev1.User{
			UserId: user.String(), Login: c.GetLogin(), DisplayName: name, Bot: c.GetBot(),
		}),
	}
	if len(c.GetDeviceId()) > 0 {
		d.Events = append(d.Events, deviceAdded(user, c.GetDeviceId(), c.GetDeviceName()))
	}
	return d, nil
}

func orRefuse(err error, reason Reason, field string) error {
	if err != nil {
		return err
	}
	return refuse(reason, field)
}

func checkSignUp(user id.ID, c *nodev1.SignUp, name string) (friends []id.ID, err error) {
	switch {
	case !ValidLogin(c.GetLogin()):
		return nil, refuse(BadLogin, "login")
	case user.Partition() != id.LoginPartition(c.GetLogin()):
		return nil, refuse(BadID, "userId")
	case !validDisplayName(name):
		return nil, refuse(BadDisplayName, "displayName")
	case !validPasswordHash(c.GetPasswordHash(), c.GetBot()):
		return nil, refuse(BadPasswordHash, "password")
	case len(c.GetFriendIds()) > MaxFriendsAtSignUp:
		return nil, refuse(TooManyIDs, "friendIds")
	}
	if len(c.GetDeviceId()) > 0 {
		if err := checkDevice(c.GetDeviceId(), c.GetDeviceName()); err != nil {
			return nil, err
		}
	}
	friends, err = parseUsers(c.GetFriendIds(), "friendIds")
	if err != nil {
		return nil, err
	}
	for _, f := range friends {
		if f == user {
			return nil, refuse(Yourself, "friendIds")
		}
	}
	return friends, nil
}

// repeatedSignUp answers a sign-up that was decided before (its answer was lost).
func repeatedSignUp(r Reader, user id.ID) (Decision, error) {
	a, err := readAccount(r, user)
	if err != nil {
		return Decision{}, err
	}
	if a == nil {
		return Decision{}, refuse(LoginTaken, "login")
	}
	return Decision{Reply: userReply(edgeUser(user, a))}, nil
}

// loginOwner returns the zero ID if the login is free.
func loginOwner(r Reader, login string) (id.ID, error) {
	key := loginKey(login)
	v, err := r.Get(key)
	if err != nil || v == nil {
		return id.ID{}, err
	}
	u, err := id.FromBytes(id.User, v)
	if err != nil {
		return id.ID{}, damaged(key, err)
	}
	return u, nil
}

func applyAccountCreated(tx Tx, m Meta, ev *journalv1.AccountCreated) error {
	user, err := parseEvent(id.User, ev.GetUserId())
	if err != nil {
		return err
	}
	if old, err := readAccount(tx, user); err != nil || old != nil {
		return orBad(err, "creates account %s again", user)
	}
	if owner, err := loginOwner(tx, ev.GetLogin()); err != nil || !owner.IsZero() {
		return orBad(err, "takes the login of %s", owner)
	}
	if user.Partition() != id.LoginPartition(ev.GetLogin()) {
		return badEvent("has the account in another place than its login")
	}
	a := &journalv1.Account{
		UserId: user.Bytes(), Login: ev.GetLogin(), DisplayName: ev.GetDisplayName(),
		PasswordHash: ev.GetPasswordHash(), Bot: ev.GetBot(), CreatedMs: m.TimeMs,
	}
	for _, raw := range ev.GetFriendIds() {
		friend, err := parseEvent(id.User, raw)
		if err != nil {
			return err
		}
		if err := addFriend(tx, a, user, friend); err != nil {
			return err
		}
	}
	if err := set(tx, loginKey(ev.GetLogin()), user[:]); err != nil {
		return err
	}
	return write(tx, accountKey(user), a)
}

// orBad returns err, or else that the event is bad.
func orBad(err error, format string, args ...any) error {
	if err != nil {
		return err
	}
	return badEvent(format, args...)
}

// eventAccount reads the account that an event is about; it must be there.
func eventAccount(r Reader, raw []byte) (id.ID, *journalv1.Account, error) {
	user, err := parseEvent(id.User, raw)
	if err != nil {
		return id.ID{}, nil, err
	}
	a, err := readAccount(r, user)
	if err != nil {
		return id.ID{}, nil, err
	}
	if a == nil {
		return id.ID{}, nil, badEvent("for account %s, which does not exist", user)
	}
	return user, a, nil
}

func edgeUser(user id.ID, a *journalv1.Account) *edgev1.User {
	return &edgev1.User{UserId: user.String(), Login: a.GetLogin(), DisplayName: a.GetDisplayName(), Bot: a.GetBot()}
}

func userReply(u *edgev1.User) *nodev1.Reply {
	return &nodev1.Reply{Kind: &nodev1.Reply_User{User: u}}
}

// peopleChanged tells every device of user that its own people, devices or
// profile changed.
func peopleChanged(user id.ID) *nodev1.FeedItem {
	return &nodev1.FeedItem{
		UserId: user.Bytes(),
		Event:  &edgev1.Event{Event: &edgev1.Event_People{People: &edgev1.PeopleEvent{}}},
	}
}
