package demo

import (
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
)

// What bots say must be whole sentences of a bounded length, whatever is drawn.
func TestCorpus(t *testing.T) {
	corpora, err := readCorpora()
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for language, c := range corpora {
		scenes := 0
		for theme, all := range c.scenes {
			scenes += len(all)
			for _, s := range all {
				if len(s.lines) < 4 || len(s.lines) > 12 {
					t.Errorf("%s %s: %d lines", language, theme, len(s.lines))
				}
				if n := s.roles(); n < 2 || n > 6 || (theme == "pair" && n != 2) {
					t.Errorf("%s %s: %d roles", language, theme, n)
				}
				for range 10 {
					made := map[string]string{}
					for _, l := range s.lines {
						text := fill(l.text, made, random)
						if text == "" || utf8.RuneCountInString(text) > 120 || strings.ContainsAny(text, "{}|") || strings.Contains(text, "  ") {
							t.Errorf("%s %s says %q", language, theme, text)
						}
					}
				}
			}
		}
		if scenes < 15 || len(c.scenes["pair"]) < 5 || len(c.scenes["plaza"]) < 3 {
			t.Errorf("%s: %d scenes, %d for two", language, scenes, len(c.scenes["pair"]))
		}
	}
	for _, r := range rooms {
		for _, language := range r.languages {
			if len(corpora[language].scenes[r.theme[language]]) == 0 {
				t.Errorf("room %q has nothing to say in %s", r.title, language)
			}
		}
	}
}

func TestChoicesAreKept(t *testing.T) {
	made := map[string]string{}
	random := rand.New(rand.NewPCG(1, 2))
	first := fill("{a:soup|stew} at {b:six|seven}", made, random)
	again := fill("{a} at {b}", made, random)
	if first != again || !strings.Contains(first, " at ") {
		t.Errorf("%q, then %q", first, again)
	}
	if got := fill("an open { brace", made, random); got != "an open " {
		t.Errorf("got %q", got)
	}
}

func TestBadScenes(t *testing.T) {
	for _, bad := range []string{"A outside of a scene", "# x\nG a seventh", "# x\nA>1 answers itself", "# x\nA>z no number", "# x\nAlone", "# x\nAB two letters"} {
		if s, err := parseScenes(bad); err == nil {
			t.Errorf("%q is %+v", bad, s)
		}
	}
	for _, bad := range []string{" an answer to nothing", "fr bonjour\n salut", "ko"} {
		if err := parseReplies(bad, map[string]*corpus{"ko": {}}); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestAnswers(t *testing.T) {
	corpora, err := readCorpora()
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(3, 4))
	for said, word := range map[string]string{
		"안녕하세요": "안녕", "hello there": "hello", "is this on": "*", "I killed n1": "kill", "방금 꺼 봤어요": "꺼", "그렇구나": "*",
	} {
		language, text := answer(corpora, said, "Ann", random)
		if languageOf(said) != language || text == "" || strings.ContainsAny(text, "{}") {
			t.Errorf("to %q: %q in %s", said, text, language)
		}
		found := false
		for _, r := range corpora[language].replies {
			if (word == "*" && r.words == nil) || (len(r.words) > 0 && containsAny(word, r.words)) {
				for _, a := range r.answers {
					found = found || fill(a, map[string]string{"name": "Ann"}, random) == text
				}
			}
		}
		if !found {
			t.Errorf("to %q: %q is not an answer to %q", said, text, word)
		}
	}
}
