package lint

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// bongsu is the program, built from the module that this one stands in; certs
// holds identities for every node that the examples name.
var bongsu, certs string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "bongsu-lint")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
		defer os.RemoveAll(dir)
		bongsu = filepath.Join(dir, "bongsu")
		build := exec.Command("go", "build", "-C", "../..", "-o", bongsu, "./cmd/bongsu")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build bongsu: %v\n%s", err, out)
			return 2
		}
		certs = filepath.Join(dir, "certs")
		make := exec.Command(bongsu, "certs", "--dir", certs, "n1", "n2", "bongsu-0", "bongsu-1", "bongsu-2", "bongsu-3", "bongsu-4", "chat-0", "chat-1", "chat-2")
		if out, err := make.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "bongsu certs: %v\n%s", err, out)
			return 2
		}
		return m.Run()
	}())
}

var longFlag = regexp.MustCompile(`--(?:\[no-\])?([a-z][a-z0-9-]*)`)

// flags are the long flags that a command of the program knows.
func flags(t *testing.T, command ...string) map[string]bool {
	t.Helper()
	out, err := exec.Command(bongsu, append(command, "--help")...).Output()
	if err != nil {
		t.Fatalf("bongsu %v --help: %v", command, err)
	}
	known := map[string]bool{}
	for _, m := range longFlag.FindAllStringSubmatch(string(out), -1) {
		known[m[1]] = true
	}
	if !known["config"] || len(known) < 3 {
		t.Fatalf("bongsu %v --help names only %v", command, known)
	}
	return known
}

// checkArguments fails for a command or flag that the program does not know.
func checkArguments(t *testing.T, where string, args []string) {
	t.Helper()
	var command []string
	for _, a := range args {
		if a[0] == '-' {
			break
		}
		command = append(command, a)
	}
	// What follows a command are its arguments: names of nodes.
	for len(command) > 0 && exec.Command(bongsu, append(command[:len(command):len(command)], "--help")...).Run() != nil {
		command = command[:len(command)-1]
	}
	if len(command) == 0 {
		t.Errorf("%s: bongsu %v is no command", where, args)
		return
	}
	known := flags(t, command...)
	for _, a := range args {
		if m := longFlag.FindStringSubmatch(a); m != nil && !known[m[1]] {
			t.Errorf("%s: bongsu %v has no flag --%s", where, command, m[1])
		}
	}
}
