package gateway

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"golang.org/x/text/unicode/norm"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// The bounds of what clients may ask. Characters are Unicode code points.
const (
	minLogin, maxLogin       = 3, 32 // bytes, all ASCII
	minPassword, maxPassword = 8, 256
	maxDisplayName           = 40
	maxDeviceName            = 60
	maxTitle                 = 100
	maxTextChars             = 10_000
	maxTextBytes             = 40_000
	maxInvitees              = 99
	maxHistory               = 200
	standardHistory          = 50
	maxPositions             = id.Partitions // one a shard
	maxWelcomeFriends        = 20
	maxTokenChars            = 512
)

// login folds a login to lower case and checks its syntax.
func login(field, text string) (string, error) {
	if len(text) < minLogin || len(text) > maxLogin {
		return "", invalid(field, "bad_login", "a login has %d to %d characters", minLogin, maxLogin)
	}
	folded := []byte(text)
	for i, c := range folded {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
			folded[i] = c
		}
		letterOrDigit := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !letterOrDigit && (i == 0 || c != '_' && c != '.' && c != '-') {
			return "", invalid(field, "bad_login", "a login consists of a-z, 0-9, '_', '.' and '-', and begins with a letter or digit")
		}
	}
	return string(folded), nil
}

// newPassword checks a password that is being set. It is normalised (NFC), so
// that it is the same from keyboards that compose Hangul differently.
func newPassword(field, text string) (string, error) {
	if !utf8.ValidString(text) {
		return "", invalid(field, "bad_password", "the password is not valid UTF-8")
	}
	if len(text) > 4*maxPassword {
		return "", invalid(field, "bad_password", "a password has %d to %d characters", minPassword, maxPassword)
	}
	text = norm.NFC.String(text)
	if n := utf8.RuneCountInString(text); n < minPassword || n > maxPassword {
		return "", invalid(field, "bad_password", "a password has %d to %d characters", minPassword, maxPassword)
	}
	return text, nil
}

// triedPassword is a password someone signs in with: one too short to be right
// is as wrong as any other, so only what would be costly is refused.
func triedPassword(field, text string) (string, error) {
	if len(text) > 4*maxPassword {
		return "", invalid(field, "bad_password", "a password has at most %d characters", maxPassword)
	}
	return norm.NFC.String(text), nil
}

// shortText checks a name or title: normalised (NFC), trimmed, on one line,
// without control characters and without those that turn the direction of the
// text around it. It may be empty.
func shortText(field, kind, text string, most int) (string, error) {
	word := strings.ReplaceAll(kind, " ", "_")
	tooLong := "bad_" + word
	if kind == "title" {
		tooLong = "title_too_long"
	}
	if !utf8.ValidString(text) {
		return "", invalid(field, "bad_"+word, "the %s is not valid UTF-8", kind)
	}
	if len(text) > 8*most {
		return "", invalid(field, tooLong, "a %s has at most %d characters", kind, most)
	}
	text = strings.TrimSpace(norm.NFC.String(text))
	if utf8.RuneCountInString(text) > most {
		return "", invalid(field, tooLong, "a %s has at most %d characters", kind, most)
	}
	for _, r := range text {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Bidi_Control, r) {
			return "", invalid(field, "bad_"+word, "a %s has no control characters", kind)
		}
	}
	return text, nil
}

// messageText checks the text of a message. It is stored as it is: what
// someone wrote is not ours to normalise.
func messageText(field, text string) error {
	if !utf8.ValidString(text) {
		return invalid(field, "text_invalid", "the text is not valid UTF-8")
	}
	if len(text) > maxTextBytes || utf8.RuneCountInString(text) > maxTextChars {
		return invalid(field, "text_too_long", "a message has at most %d characters and %d bytes", maxTextChars, maxTextBytes)
	}
	if strings.TrimSpace(text) == "" {
		return invalid(field, "text_empty", "a message needs more than white space")
	}
	return nil
}

// clientUUID reads the 36-character form of a UUID of any version of RFC 9562,
// the nil and max ones apart (every careless client would share those).
func clientUUID(field, text string) ([]byte, error) {
	if len(text) != 36 {
		return nil, invalid(field, "bad_client_id", "want a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057")
	}
	u, err := uuid.Parse(text)
	if err != nil {
		return nil, invalid(field, "bad_client_id", "want a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057")
	}
	if u.Variant() != uuid.RFC4122 || u == uuid.Nil || u == uuid.Max {
		return nil, invalid(field, "bad_client_id", "the UUID is not one of RFC 9562, or is nil or max")
	}
	return u[:], nil
}

func parseID(kind id.Kind, field, text string) (id.ID, error) {
	i, err := id.Parse(kind, text)
	if err != nil {
		what := [...]string{id.User: "user", id.Room: "room", id.Device: "device"}[kind]
		return id.ID{}, invalid(field, "bad_id", "not the ID of a %s", what)
	}
	return i, nil
}

func userID(field, text string) (id.ID, error)   { return parseID(id.User, field, text) }
func roomID(field, text string) (id.ID, error)   { return parseID(id.Room, field, text) }
func deviceID(field, text string) (id.ID, error) { return parseID(id.Device, field, text) }

// userIDs reads a list of users: duplicates and the caller are left out, order
// is kept.
func userIDs(field string, texts []string, caller id.ID) ([]id.ID, error) {
	if len(texts) > maxInvitees {
		return nil, invalid(field, "too_many_ids", "at most %d people at once", maxInvitees)
	}
	users := make([]id.ID, 0, len(texts))
	for _, text := range texts {
		u, err := userID(field, text)
		if err != nil {
			return nil, err
		}
		if u != caller && !slices.Contains(users, u) {
			users = append(users, u)
		}
	}
	return users, nil
}

// positions checks what a client presents as acknowledged.
func positions(field string, list []*edgev1.Position) error {
	if len(list) > maxPositions {
		return invalid(field, "too_many_positions", "at most %d positions", maxPositions)
	}
	for _, p := range list {
		if p == nil || p.Shard >= id.Partitions {
			return invalid(field, "bad_shard", "a position names a shard below %d", id.Partitions)
		}
	}
	return nil
}

// historyLimit fills in the default page size.
func historyLimit(field string, limit uint32) (uint32, error) {
	if limit > maxHistory {
		return 0, invalid(field, "limit_too_high", "limit is 1 to %d", maxHistory)
	}
	if limit == 0 {
		return standardHistory, nil
	}
	return limit, nil
}
