// Command previous builds the release of an earlier commit, for drills in which
// two releases run together:
//
//	go run ./internal/house/previous -rev HEAD~1 -out bin/bongsu-previous
//
// The web client is not built anew: the one of this checkout goes in. A checkout
// without earlier commits has no earlier release; this one is then built under
// another name, and it is said so.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	rev := flag.String("rev", "HEAD~1", "commit to build")
	out := flag.String("out", "bin/bongsu-previous", "binary to write")
	flag.Parse()
	if err := build(*rev, *out); err != nil {
		fmt.Fprintln(os.Stderr, "previous:", err)
		os.Exit(1)
	}
}

func build(rev, out string) (err error) {
	out, err = filepath.Abs(out)
	if err != nil {
		return err
	}
	name, err := exec.Command("git", "rev-parse", "--short", "--verify", "--quiet", rev+"^{commit}").Output()
	if err != nil {
		fmt.Fprintf(os.Stderr, "previous: this checkout has no %s: the same release is built again under another name\n", rev)
		return compile(".", out, "again")
	}
	dir, err := os.MkdirTemp("", "bongsu-previous-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	archive := filepath.Join(dir, "source.tar")
	source := filepath.Join(dir, "source")
	if err := errors.Join(os.Mkdir(source, 0o700), run(".", "git", "archive", "--format", "tar", "-o", archive, rev)); err != nil {
		return err
	}
	if err := run(".", "tar", "-xf", archive, "-C", source); err != nil {
		return err
	}
	client := filepath.Join(source, "web", "dist")
	if err := errors.Join(os.RemoveAll(client), os.CopyFS(client, os.DirFS(filepath.Join("web", "dist")))); err != nil {
		return fmt.Errorf("take over the web client: %w", err)
	}
	return compile(source, out, strings.TrimSpace(string(name)))
}

func compile(dir, out, version string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+version, "-o", out, "./cmd/bongsu")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	return runCmd(dir, cmd)
}

func run(dir, name string, args ...string) error { return runCmd(dir, exec.Command(name, args...)) }

func runCmd(dir string, cmd *exec.Cmd) error {
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return nil
}
