package echo

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

func TestAnswerFollowsTheScript(t *testing.T) {
	for text, want := range map[string]string{
		"안녕":                 "메아리: 안녕",
		"ㅋㅋㅋ":                "메아리: ㅋㅋㅋ",
		"hello":              "Echo: hello",
		"Què tal?":           "Echo: Què tal?",
		"안녕 Bob":             "메아리: 안녕 Bob",
		"What does 봉수 mean?": "Echo: What does 봉수 mean?",
		"123":                "메아리: 123",
		"🙂":                  "메아리: 🙂",
		"two\nlines":         "Echo: two\nlines",
		"OK 좋아요":             "메아리: OK 좋아요",
		"thanks 🙏🙏🙏🙏🙏🙏🙏🙏🙏🙏": "Echo: thanks 🙏🙏🙏🙏🙏🙏🙏🙏🙏🙏",
	} {
		if got := answerTo(text); got != want {
			t.Errorf("answerTo(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestAnswerFitsTheLimit(t *testing.T) {
	for _, unit := range []string{"a", "가", "😀"} {
		for _, runes := range []int{maxTextRunes - 6, maxTextRunes - 5, maxTextRunes} {
			got := answerTo(strings.Repeat(unit, runes))
			n := utf8.RuneCountInString(got)
			cut := strings.HasSuffix(got, "…")
			prefix, _, _ := strings.Cut(got, unit)
			whole := utf8.RuneCountInString(prefix) + runes
			if !utf8.ValidString(got) || n != min(whole, maxTextRunes) || cut != (whole > maxTextRunes) || len(got) > 40_000 {
				t.Errorf("%d × %q: %d code points, cut %v, %d bytes", runes, unit, n, cut, len(got))
			}
		}
	}
}

func TestNamed(t *testing.T) {
	for text, want := range map[string]bool{
		"메아리야 안녕": true, "우리메아리": true, "hey Echo!": true, "ECHO": true, "echo한테 물어봐": true, "(echo)": true,
		"echoes": false, "re-echo": true, "techno": false, "echo_1": false, "an échoecho echo": true, "안녕": false, "": false, "gecho echo2 ech": false,
	} {
		if named(text) != want {
			t.Errorf("named(%q) = %v", text, !want)
		}
	}
}

func TestReechoed(t *testing.T) {
	for text, want := range map[string]bool{
		"Echo: hi": false, "Echo: Echo: hi": true, "메아리: Echo: hi": true, "메아리: 안녕": false, "hi Echo: Echo: ": false, "": false,
	} {
		if reechoed(text) != want {
			t.Errorf("reechoed(%q) = %v", text, !want)
		}
	}
}

// The IDs are stored with the messages for ever: a release that computed others
// would answer twice what its predecessor has answered.
func TestIDsAreGolden(t *testing.T) {
	for got, want := range map[string]string{
		answerID("room", 1):        "adbb28f0-5d85-8d7e-90e7-978df1fd723e",
		answerID("room", 2):        "8cfa1c4d-a31a-868e-9127-305c2b7c1a6d",
		greetingID("room"):         "62e68424-67de-8b7b-a522-d80a8c90f5ee",
		answerID("another", 1<<40): "d8e701f7-de37-8411-a42d-d59ce9ea458e",
	} {
		id, err := uuid.Parse(got)
		if err != nil || id.Version() != 8 || id.Variant() != uuid.RFC4122 {
			t.Errorf("%s: version %d, %v, %v", got, id.Version(), id.Variant(), err)
		}
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestAllowance(t *testing.T) {
	a := allowance{burst: 2, perSecond: 4}
	now := time.Unix(1_800_000_000, 0)
	for i, want := range []time.Duration{0, 0, 250 * time.Millisecond, 500 * time.Millisecond} {
		if got := a.take(now); got != want {
			t.Errorf("answer %d waits %s, want %s", i, got, want)
		}
	}
	if got := a.take(now.Add(time.Second)); got != 0 {
		// Four were used, four came back in a second.
		t.Errorf("a second later: %s", got)
	}
	if got := a.take(now.Add(-time.Hour)); got != 0 {
		t.Errorf("after the clock went back: %s", got)
	}
	if got := a.take(now.Add(-time.Hour)); got != 250*time.Millisecond {
		t.Errorf("third at once: %s", got)
	}
}
