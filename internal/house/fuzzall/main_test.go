package main

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestParseList(t *testing.T) {
	out := "FuzzA\nFuzzB\nok  \texample.org/x\t0.01s\nok  \texample.org/none\t0.01s [no tests]\n?   \texample.org/y\t[no test files]\nFuzzC\nok  \texample.org/z\t(cached)\n"
	want := []target{{"example.org/x", "FuzzA"}, {"example.org/x", "FuzzB"}, {"example.org/z", "FuzzC"}}
	if got := parseList(out, regexp.MustCompile("")); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := parseList(out, regexp.MustCompile("C$")); !slices.Equal(got, want[2:]) {
		t.Errorf("only C: %v", got)
	}
}

func TestReportTellsFindings(t *testing.T) {
	whole := result{target: target{"p", "FuzzA"}, execs: lastExecs("execs: 12 (3/sec)\nfuzz: elapsed: 1s, execs: 345 (1/sec)")}
	broken := result{target: target{"p", "FuzzB"}, execs: lastExecs("no such line"), failure: "panic: index out of range"}
	for _, c := range []struct {
		results []result
		wanted  int
		code    int
		says    string
	}{
		{[]result{whole}, 1, 0, "345"},
		{[]result{whole, broken}, 2, 1, "panic: index"},
		{[]result{whole}, 2, 2, "1 of 2 run"},
	} {
		var b strings.Builder
		if code := report(&b, c.results, c.wanted); code != c.code || !strings.Contains(b.String(), c.says) {
			t.Errorf("%v: status %d, want %d\n%s", c.results, code, c.code, b.String())
		}
	}
}
