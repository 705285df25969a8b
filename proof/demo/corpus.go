package demo

import (
	"bufio"
	_ "embed"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"unicode"
)

var (
	//go:embed corpus/ko.txt
	koreanScenes string
	//go:embed corpus/en.txt
	englishScenes string
	//go:embed corpus/replies.txt
	replyLines string
)

// line is one thing that a role of a scene says. Its text holds choices:
// {a:this|that} draws one and calls it a, {a} says the same again.
type line struct {
	role    int // from 0
	replyTo int // which line it answers, from 1; 0 for none
	text    string
}

// scene is a conversation of a theme.
type scene struct {
	theme string
	lines []line
}

// roles is how many people a scene needs.
func (s scene) roles() (n int) {
	for _, l := range s.lines {
		n = max(n, l.role+1)
	}
	return n
}

// corpus is what there is to say in one language.
type corpus struct {
	scenes  map[string][]scene // by theme
	replies []reply
}

// reply is what is answered to a person whose words contain one of some.
type reply struct {
	words   []string // empty for all else
	answers []string
}

// readCorpora reads what is embedded.
func readCorpora() (map[string]*corpus, error) {
	out := map[string]*corpus{}
	for language, text := range map[string]string{"ko": koreanScenes, "en": englishScenes} {
		scenes, err := parseScenes(text)
		if err != nil {
			return nil, fmt.Errorf("scenes (%s): %w", language, err)
		}
		out[language] = &corpus{scenes: scenes}
	}
	if err := parseReplies(replyLines, out); err != nil {
		return nil, fmt.Errorf("replies: %w", err)
	}
	return out, nil
}

// parseScenes reads "# theme" followed by lines "ROLE[>LINE] text".
func parseScenes(text string) (map[string][]scene, error) {
	out := map[string][]scene{}
	var now *scene
	end := func() {
		if now != nil {
			out[now.theme] = append(out[now.theme], *now)
		}
	}
	for number, raw := range eachLine(text) {
		if theme, ok := strings.CutPrefix(raw, "# "); ok {
			end()
			now = &scene{theme: theme}
			continue
		}
		who, words, ok := strings.Cut(raw, " ")
		role, to, replies := strings.Cut(who, ">")
		if !ok || now == nil || len(role) != 1 || role[0] < 'A' || role[0] > 'F' {
			return nil, fmt.Errorf("line %d: want ROLE text in a scene, got %q", number, raw)
		}
		l := line{role: int(role[0] - 'A'), text: words}
		if replies {
			n, err := strconv.Atoi(to)
			if err != nil || n < 1 || n > len(now.lines) {
				return nil, fmt.Errorf("line %d: there is no line %q before it to reply to", number, to)
			}
			l.replyTo = n
		}
		now.lines = append(now.lines, l)
	}
	end()
	return out, nil
}

// parseReplies reads "LANGUAGE word …" followed by answers, each after a space.
func parseReplies(text string, into map[string]*corpus) error {
	var now *reply
	for number, raw := range eachLine(text) {
		if strings.HasPrefix(raw, "#") {
			continue
		}
		if answer, ok := strings.CutPrefix(raw, " "); ok {
			if now == nil {
				return fmt.Errorf("line %d: an answer to nothing", number)
			}
			now.answers = append(now.answers, answer)
			continue
		}
		words := strings.Fields(raw)
		c := into[words[0]]
		if c == nil || len(words) < 2 {
			return fmt.Errorf("line %d: want LANGUAGE word …, got %q", number, raw)
		}
		r := reply{words: words[1:]}
		if r.words[0] == "*" {
			r.words = nil
		}
		c.replies = append(c.replies, r)
		now = &c.replies[len(c.replies)-1]
	}
	return nil
}

// eachLine ranges over the lines that say something, with their numbers.
func eachLine(text string) func(func(int, string) bool) {
	return func(yield func(int, string) bool) {
		in := bufio.NewScanner(strings.NewReader(text))
		for number := 1; in.Scan(); number++ {
			if strings.TrimSpace(in.Text()) != "" && !yield(number, strings.TrimRight(in.Text(), " ")) {
				return
			}
		}
	}
}

// fill makes the choices of a text; made holds those of its scene so far.
func fill(text string, made map[string]string, random *rand.Rand) string {
	var out strings.Builder
	for {
		before, rest, open := strings.Cut(text, "{")
		out.WriteString(before)
		choice, after, closed := strings.Cut(rest, "}")
		if !open || !closed {
			return out.String()
		}
		name, options, first := strings.Cut(choice, ":")
		if first {
			all := strings.Split(options, "|")
			made[name] = all[random.IntN(len(all))]
		}
		out.WriteString(made[name])
		text = after
	}
}

// answer finds what to say to a person, and in which language.
func answer(corpora map[string]*corpus, said, name string, random *rand.Rand) (language, text string) {
	language = languageOf(said)
	low := strings.ToLower(said)
	for _, r := range corpora[language].replies {
		if len(r.words) == 0 || containsAny(low, r.words) {
			return language, fill(r.answers[random.IntN(len(r.answers))], map[string]string{"name": name}, random)
		}
	}
	return language, ""
}

// containsAny tells whether one of words is in text: Latin ones as the
// beginning of a word, so that "this" is no "hi"; others anywhere.
func containsAny(text string, words []string) bool {
	fields := strings.FieldsFunc(text, func(r rune) bool { return !unicode.IsLetter(r) })
	for _, w := range words {
		if w[0] < 'a' || w[0] > 'z' {
			if strings.Contains(text, w) {
				return true
			}
			continue
		}
		for _, f := range fields {
			if f == w || (len(w) > 3 && strings.HasPrefix(f, w)) {
				return true
			}
		}
	}
	return false
}

// languageOf is Korean if there is a Korean letter.
func languageOf(text string) string {
	for _, r := range text {
		if unicode.Is(unicode.Hangul, r) {
			return "ko"
		}
	}
	return "en"
}
