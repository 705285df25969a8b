package lint

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

const dockerfile = "../docker/Dockerfile"

// The Dockerfile is read and linted by BuildKit's own code, and is what it says
// it is: a static binary in an image without a shell, for nobody's user.
func TestDockerfile(t *testing.T) {
	f, err := os.Open(dockerfile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	result, err := parser.Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range result.Warnings {
		t.Errorf("line %d: %s", w.Location.Start.Line, w.Short)
	}
	lint := linter.New(&linter.Config{Warn: func(rule, _, _, short string, at []parser.Range) { t.Errorf("%s: %s at %v", rule, short, at) }})
	stages, args, err := instructions.Parse(result.AST, lint)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range args {
		for _, v := range a.Args {
			if v.Value == nil || *v.Value == "" || *v.Value == "latest" {
				t.Errorf("ARG %s pins nothing", v.Key)
			}
		}
	}
	if len(stages) != 3 {
		t.Fatalf("%d stages", len(stages))
	}
	for _, s := range stages {
		if strings.HasSuffix(s.BaseName, ":latest") || !strings.Contains(s.BaseName, ":") {
			t.Errorf("stage %q from %s: which version is that?", s.Name, s.BaseName)
		}
	}
	last := stages[2]
	if !strings.Contains(last.BaseName, "distroless/static") {
		t.Errorf("the image is made from %s", last.BaseName)
	}
	checkImage(t, last, stages)
}

// checkImage looks at the stage that becomes the image.
func checkImage(t *testing.T, image instructions.Stage, stages []instructions.Stage) {
	t.Helper()
	seen := map[string]int{}
	var user, health, start, command []string
	for _, c := range image.Commands {
		seen[strings.ToLower(c.Name())]++
		switch c := c.(type) {
		case *instructions.RunCommand:
			t.Errorf("RUN in an image without a shell: %v", c.CmdLine)
		case *instructions.CopyCommand:
			if !slices.ContainsFunc(stages, func(s instructions.Stage) bool { return s.Name == c.From }) {
				t.Errorf("COPY from %q, which is no stage", c.From)
			}
		case *instructions.UserCommand:
			user = append(user, c.User)
		case *instructions.HealthCheckCommand:
			health = c.Health.Test
		case *instructions.EntrypointCommand:
			start = c.CmdLine
		case *instructions.CmdCommand:
			command = c.CmdLine
		}
	}
	if !slices.Equal(user, []string{"65532:65532"}) {
		t.Errorf("USER %v", user)
	}
	if !slices.Equal(start, []string{"/usr/local/bin/bongsu"}) || seen["stopsignal"] != 1 || seen["volume"] != 1 || seen["expose"] != 1 {
		t.Errorf("ENTRYPOINT %v, and %v", start, seen)
	}
	if len(health) < 3 || health[0] != "CMD" || health[1] != start[0] {
		t.Fatalf("HEALTHCHECK %v", health)
	}
	checkArguments(t, "HEALTHCHECK", health[2:])
	checkArguments(t, "CMD", command)
}

// The build needs every folder that has Go code, and sees no data or keys.
func TestDockerignore(t *testing.T) {
	text, err := os.ReadFile(dockerfile + ".dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	if !slices.Contains(lines, "*") {
		t.Error("what is not listed must be left out: no line is *")
	}
	entries, err := os.ReadDir("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		sources, err := hasGo("../../" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if listed := slices.Contains(lines, "!"+e.Name()); e.IsDir() && listed != sources && e.Name() != "deploy" && e.Name() != "tools" {
			t.Errorf("%s: has code of the program: %v, is listed: %v", e.Name(), sources, listed)
		}
	}
	for _, out := range []string{"!data", "!bin", "!.git"} {
		if slices.Contains(lines, out) {
			t.Errorf("%s reaches the builder", out[1:])
		}
	}
}
