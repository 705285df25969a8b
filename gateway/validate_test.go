package gateway

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// check wants out, or a refusal with a reason that blames the field.
func check(t *testing.T, name, got, out, reason string, err error) {
	t.Helper()
	if reason == "" {
		if err != nil || got != out {
			t.Errorf("%s: %q, %v, want %q", name, got, err, out)
		}
		return
	}
	var r *refusal
	if !errors.As(err, &r) || r.e.GetCode() != "invalid_argument" || r.e.GetInfo().GetReason() != reason || r.e.GetInfo().GetField() != "field" || r.e.GetMessage() == "" {
		t.Errorf("%s: %q, %v, want a refusal for %s", name, got, err, reason)
	}
	if got != "" {
		t.Errorf("%s: refused, and yet %q", name, got)
	}
}

func TestLogins(t *testing.T) {
	for in, want := range map[string]string{
		"ada": "ada", "Ada": "ada", "a_b.c-9": "a_b.c-9", "0xy": "0xy", strings.Repeat("z", 32): strings.Repeat("z", 32),
	} {
		got, err := login("field", in)
		check(t, in, got, want, "", err)
	}
	for _, in := range []string{"", "ab", strings.Repeat("z", 33), "_ab", "-ab", ".ab", "a b", "a\x00b", "안녕하세요", "adа", "ab\n", "a/b", "K\u212Abc"} {
		got, err := login("field", in)
		check(t, in, got, "", "bad_login", err)
	}
}

func TestPasswords(t *testing.T) {
	nfc, nfd := "\ud55c\uae00 password", "\u1112\u1161\u11ab\u1100\u1173\u11af password" // composed, and as some keyboards send it
	for in, want := range map[string]string{
		"12345678": "12345678", strings.Repeat("비", 256): strings.Repeat("비", 256), nfd: nfc, nfc: nfc, "        ": "        ",
	} {
		got, err := newPassword("field", in)
		check(t, in, got, want, "", err)
	}
	for _, in := range []string{"", "1234567", strings.Repeat("x", 257), strings.Repeat("x", 1<<20), "abcdefgh\xff"} {
		got, err := newPassword("field", in)
		check(t, "new", got, "", "bad_password", err)
	}
	for in, want := range map[string]string{"": "", "x": "x", nfd: nfc} {
		got, err := triedPassword("field", in)
		check(t, in, got, want, "", err)
	}
	got, err := triedPassword("field", strings.Repeat("x", 2000))
	check(t, "tried", got, "", "bad_password", err)
}

func TestShortTexts(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "  ": "", " 지민 ": "지민", "\u1100\u1161\u11a8": "\uac01", "👩‍👩‍👧 가족": "👩‍👩‍👧 가족", strings.Repeat("한", 100): strings.Repeat("한", 100), "שלום": "שלום",
	} {
		got, err := shortText("field", "title", in, maxTitle)
		check(t, in, got, want, "", err)
	}
	for in, reason := range map[string]string{
		strings.Repeat("한", 101): "title_too_long", strings.Repeat("x", 1<<20): "title_too_long", "a\nb": "bad_title", "a\x00b": "bad_title",
		"a\u0085b": "bad_title", "a\u2028b": "bad_title", "a\u202Eb": "bad_title", "a\u2066b": "bad_title", "\xff": "bad_title",
	} {
		got, err := shortText("field", "title", in, maxTitle)
		check(t, in, got, "", reason, err)
	}
	got, err := shortText("field", "display name", strings.Repeat("x", 41), maxDisplayName)
	check(t, "display name", got, "", "bad_display_name", err)
	got, err = shortText("field", "device name", "a\tb", maxDeviceName)
	check(t, "device name", got, "", "bad_device_name", err)
}

func TestMessageTexts(t *testing.T) {
	for name, in := range map[string]string{
		"one": "x", "10,000": strings.Repeat("x", 10_000), "10,000 of four bytes": strings.Repeat("😀", 10_000), "lines": "a\n\tb\n", "not normalised": "\u1100\u1161\u11a8",
	} {
		check(t, name, "", "", "", messageText("field", in))
	}
	for in, reason := range map[string]string{
		"": "text_empty", " \n\t\u3000": "text_empty", strings.Repeat("x", 10_001): "text_too_long", "a\xffb": "text_invalid", "\xed\xa0\x80": "text_invalid",
	} {
		check(t, reason, "", "", reason, messageText("field", in))
	}
}

func TestUUIDs(t *testing.T) {
	const v7, v4 = "01890a5d-ac96-774b-bcce-b302099a8057", "F47AC10B-58CC-4372-A567-0E02B2C3D479"
	for _, in := range []string{v7, v4} {
		b, err := clientUUID("field", in)
		want := uuid.MustParse(in)
		check(t, in, string(b), string(want[:]), "", err)
	}
	for _, in := range []string{
		"", "x", "{" + v7 + "}", "urn:uuid:" + v7, strings.ReplaceAll(v7, "-", ""), v7[:35] + "g", v7 + "0", uuid.Nil.String(), uuid.Max.String(),
		"01890a5d-ac96-774b-0cce-b302099a8057", // variant of Apollo machines
	} {
		b, err := clientUUID("field", in)
		check(t, in, string(b), "", "bad_client_id", err)
	}
}

func TestIDs(t *testing.T) {
	u := id.New(1, id.User, 5, []byte("u"))
	r := id.New(1, id.Room, 5, []byte("r"))
	got, err := userID("field", u.String())
	check(t, "user", got.String(), u.String(), "", err)
	for _, in := range []string{"", r.String(), strings.ToUpper(u.String()), u.String() + "0", u.String()[:26], "u" + strings.Repeat("i", 26)} {
		_, err := userID("field", in)
		check(t, in, "", "", "bad_id", err)
	}
	if _, err := deviceID("field", u.String()); err == nil {
		t.Error("a user passed for a device")
	}
	me := id.New(1, id.User, 5, []byte("me"))
	list, err := userIDs("field", []string{u.String(), me.String(), u.String()}, me)
	if err != nil || len(list) != 1 || list[0] != u {
		t.Errorf("list: %v, %v", list, err)
	}
	many := make([]string, maxInvitees+1)
	for i := range many {
		many[i] = u.String()
	}
	_, err = userIDs("field", many, me)
	check(t, "too many", "", "", "too_many_ids", err)
	if _, err = userIDs("field", many[:maxInvitees], me); err != nil {
		t.Errorf("just enough: %v", err)
	}
}

func TestNumbers(t *testing.T) {
	for in, want := range map[uint32]uint32{0: 50, 1: 1, 200: 200} {
		if got, err := historyLimit("field", in); err != nil || got != want {
			t.Errorf("limit %d: %d, %v", in, got, err)
		}
	}
	_, err := historyLimit("field", 201)
	check(t, "limit", "", "", "limit_too_high", err)
	check(t, "positions", "", "", "", positions("field", []*edgev1.Position{{Shard: 4095}}))
	check(t, "shard", "", "", "bad_shard", positions("field", []*edgev1.Position{{Shard: 4096}}))
	check(t, "none", "", "", "bad_shard", positions("field", []*edgev1.Position{nil}))
	check(t, "many", "", "", "too_many_positions", positions("field", make([]*edgev1.Position, maxPositions+1)))
}
