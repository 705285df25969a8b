package echo

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
)

const (
	koreanPrefix  = "메아리: "
	englishPrefix = "Echo: "

	greeting = "안녕하세요! 무엇이든 말해 보세요. 그대로 돌려드릴게요.\nHello! Say anything, and I will say it back to you."
)

// maxTextRunes is the longest text of a message, in Unicode code points.
const maxTextRunes = 10_000

// answerTo says text back, in at most maxTextRunes code points.
func answerTo(text string) string {
	prefix := englishPrefix
	if korean(text) {
		prefix = koreanPrefix
	}
	return shorten(prefix+text, maxTextRunes)
}

// korean tells which script a text is mostly in. A Hangul syllable holds about
// as much as two Latin letters. A text without either is answered in Korean,
// the language of the friend's own name.
func korean(text string) bool {
	hangul, latin := 0, 0
	for _, r := range text {
		switch {
		case unicode.Is(unicode.Hangul, r):
			hangul++
		case unicode.Is(unicode.Latin, r):
			latin++
		}
	}
	return 2*hangul >= latin
}

// shorten cuts text to limit code points, the last of which then is "…".
func shorten(text string, limit int) string {
	runes := 0
	keep := 0 // bytes that leave a place for the ellipsis
	for i := range text {
		if runes == limit-1 {
			keep = i
		}
		if runes == limit {
			return text[:keep] + "…"
		}
		runes++
	}
	return text
}

// named tells whether a text mentions the friend: 메아리 anywhere, as particles
// follow it, or "echo" as a word of its own among Latin letters and digits.
func named(text string) bool {
	if strings.Contains(text, "메아리") {
		return true
	}
	lower := strings.ToLower(text)
	for from := 0; ; {
		i := strings.Index(lower[from:], "echo")
		if i < 0 {
			return false
		}
		from += i + len("echo")
		before, _ := utf8.DecodeLastRuneInString(lower[:from-len("echo")])
		after, _ := utf8.DecodeRuneInString(lower[from:])
		if !wordRune(before) && !wordRune(after) {
			return true
		}
	}
}

// wordRune tells whether a rune would make a longer word; there being none
// (utf8.RuneError) would not.
func wordRune(r rune) bool {
	return r == '_' || unicode.IsDigit(r) || unicode.Is(unicode.Latin, r)
}

// reechoed tells whether a text is our own answer said back to us by something
// that says back answers: it would never end. A single prefix may be a person
// who plays.
func reechoed(text string) bool {
	prefixes := 0
	for {
		rest, ok := strings.CutPrefix(text, koreanPrefix)
		if !ok {
			rest, ok = strings.CutPrefix(text, englishPrefix)
		}
		if !ok {
			return false
		}
		if prefixes++; prefixes == 2 {
			return true
		}
		text = rest
	}
}

// answerID is the client ID of the answer to message seq of a room, and
// greetingID that of the greeting: UUIDs of version 8 made of a hash, so that
// whoever answers after a crash uses the same.
func answerID(roomID string, seq uint64) string {
	return hashedID(binary.BigEndian.AppendUint64([]byte(roomID+"\x00answer\x00"), seq))
}

func greetingID(roomID string) string {
	return hashedID([]byte(roomID + "\x00hello"))
}

func hashedID(name []byte) string {
	sum := sha256.Sum256(name)
	id := uuid.UUID(sum[:16])
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id.String()
}
