package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// Every figure of docs/capacity.md is what its formula says.
func TestDocumentIsRight(t *testing.T) {
	text, err := os.ReadFile("../" + document)
	if err != nil {
		t.Fatal(err)
	}
	s, err := parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.inputs) < 20 || len(s.steps) < 15 || len(s.columns) != 3 {
		t.Fatalf("%d inputs, %d steps, %d columns: a table was not read", len(s.inputs), len(s.steps), len(s.columns))
	}
	want, err := s.render()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(string(text), "\n")
	for n, line := range strings.Split(want, "\n") {
		if got[n] != line {
			t.Errorf("docs/capacity.md:%d\n  is     %s\n  should %s", n+1, got[n], line)
		}
	}
	if t.Failed() {
		t.Log("go run -C deploy/lint ./capacity -write")
	}
}

// The city's column by hand, so that the calculator itself is checked.
func TestByHand(t *testing.T) {
	text, err := os.ReadFile("../" + document)
	if err != nil {
		t.Fatal(err)
	}
	s, err := parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.compute(1, map[string]float64{"messages_per_person": 43.2, "new_year_factor": 10, "online_share": 0.4, "sessions_per_node": 20000, "zone_factor": 1.5})
	if err != nil {
		t.Fatal(err)
	}
	// 5,000,000 × 43.2 ÷ 86,400 = 2,500; × 10 = 25,000. 2,000,000 sessions ÷ 20,000 × 1.5 = 150.
	for name, want := range map[string]float64{"messages_day": 216e6, "sends_average": 2500, "sends_new_year": 25000, "sessions": 2e6, "nodes": 150} {
		if v[name] != want {
			t.Errorf("%s is %v, want %v", name, v[name], want)
		}
	}
}

const small = "| name | value | unit | source |\n|---|---|---|---|\n| `a` | 2 | u | s |\n\n" +
	"| name | formula | unit | x | y |\n|---|---|---|---|---|\n| `people` | | | 3 | 4 |\n| `b` | `ceil((people + a) / 2) * max(a, 1)` | u | | |\n\n" +
	"Machines (`b`) if one thing is different:\n\n| change | x | y |\n|---|---|---|\n| `a=10` | | |\n"

func TestRender(t *testing.T) {
	s, err := parse(small)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.render()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"| `b` | `ceil((people + a) / 2) * max(a, 1)` | u | 6 | 6 |", "| `a=10` | 70 | 70 |", "| `people` | | | 3 | 4 |"} {
		if !strings.Contains(got, line) {
			t.Errorf("no %s in\n%s", line, got)
		}
	}
	if again, err := parse(got); err != nil {
		t.Error(err)
	} else if twice, err := again.render(); err != nil || twice != got {
		t.Errorf("rendered twice it differs: %v", err)
	}
}

func TestMistakesAreTold(t *testing.T) {
	for change, want := range map[[2]string]string{
		{"people + a", "people + c"}:        "c is not known here",
		{"(people + a) / 2", "people / 0"}:  "division by zero",
		{"max(a, 1)", "min(a, 1)"}:          "only ceil(x) and max",
		{"| `a` | 2 |", "| `a` | two |"}:    "value of a",
		{"`a=10`", "`b=10`"}:                "b is not an input",
		{"`a=10`", "`a:10`"}:                "not name=value",
		{"| `b` | `ceil", "| `a` | `ceil"}:  "a is there twice",
		{"(`b`) if one", "(`z`) if one"}:    "z is not a step",
		{"| `people` | | |", "| `b` | | x"}: "cells",
	} {
		s, err := parse(strings.Replace(small, change[0], change[1], 1))
		if err == nil {
			_, err = s.render()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", change, err, want)
		}
	}
}

func TestRunWithOtherNumbers(t *testing.T) {
	var out bytes.Buffer
	if err := run([]string{"-file", "../" + document, "-set", "people=1000", "-set", "messages_per_person=86.4"}, &out); err != nil {
		t.Fatal(err)
	}
	if s := out.String(); !strings.Contains(s, "as asked") || !strings.Contains(s, "86,400") {
		t.Errorf("%s", s)
	}
	if err := run([]string{"-file", "../" + document, "-set", "horses=3"}, &out); err == nil {
		t.Error("an input that does not exist was set")
	}
}

func TestFigure(t *testing.T) {
	for x, want := range map[float64]string{0: "0", 1234567: "1,234,567", 0.000193: "0.000193", 99.95: "100", 123.4: "123", 46296.3: "46,296", -1234: "-1,234", 2.5: "2.5"} {
		if got := figure(x); got != want {
			t.Errorf("%v is written %s, want %s", x, got, want)
		}
	}
}
