// Command fuzzall runs every fuzz test of the module for a while, one after
// another, because go test takes one at a time:
//
//	go run ./internal/house/fuzzall -time 30s [-run REGEXP] [PACKAGES]
//
// It prints a table, and what a failing test said. The exit status is 0 if
// nothing was found, 1 if something was, 2 if it could not run. It keeps
// nothing: go test writes failing inputs into the package's testdata itself.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"
)

// target is one fuzz test.
type target struct{ pkg, name string }

// result of one; failure is empty if nothing was found.
type result struct {
	target
	took    time.Duration
	execs   string // as go test counted them
	failure string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, out, errs io.Writer) int {
	flags := flag.NewFlagSet("fuzzall", flag.ContinueOnError)
	flags.SetOutput(errs)
	each := flags.Duration("time", 30*time.Second, "how long each test runs")
	only := flags.String("run", "", "run those whose name matches")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	pattern, err := regexp.Compile(*only)
	if err != nil || *each <= 0 {
		fmt.Fprintln(errs, "fuzzall: want a time above 0 and a regular expression:", err)
		return 2
	}
	packages := flags.Args()
	if len(packages) == 0 {
		packages = []string{"./..."}
	}
	targets, err := list(ctx, packages, pattern)
	if err != nil {
		fmt.Fprintln(errs, "fuzzall:", err)
		return 2
	}
	if len(targets) == 0 {
		fmt.Fprintln(errs, "fuzzall: there is nothing to run")
		return 2
	}
	fmt.Fprintf(errs, "%d fuzz tests, %v each\n", len(targets), *each)
	var results []result
	for _, t := range targets {
		if ctx.Err() != nil {
			break
		}
		results = append(results, fuzz(ctx, t, *each, errs))
	}
	return report(out, results, len(targets))
}

// list finds the fuzz tests of packages.
func list(ctx context.Context, packages []string, only *regexp.Regexp) ([]target, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-list", "^Fuzz"}, packages...)...)
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list fuzz tests: %w\n%s%s", err, out, problems.String())
	}
	return parseList(string(out), only), nil
}

// parseList reads what go test -list prints: the names of a package's tests,
// a line each, then "ok" and the package.
func parseList(out string, only *regexp.Regexp) (all []target) {
	var names []string
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 1 && strings.HasPrefix(fields[0], "Fuzz"):
			names = append(names, fields[0])
		case len(fields) >= 2 && fields[0] == "ok":
			for _, name := range names {
				if only.MatchString(name) {
					all = append(all, target{fields[1], name})
				}
			}
			names = nil
		}
	}
	return all
}

func fuzz(ctx context.Context, t target, each time.Duration, progress io.Writer) result {
	began := time.Now()
	fmt.Fprintf(progress, "%s %s …\n", t.pkg, t.name)
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-fuzz", "^"+t.name+"$", "-fuzztime", each.String(), t.pkg)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // its workers go with it
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	r := result{target: t, took: time.Since(began), execs: lastExecs(string(out))}
	if err != nil {
		r.failure = errors.Join(err, ctx.Err()).Error() + "\n" + string(out)
	}
	return r
}

var execsLine = regexp.MustCompile(`execs: (\d+)`)

// lastExecs is how many inputs go test says it tried.
func lastExecs(out string) string {
	all := execsLine.FindAllStringSubmatch(out, -1)
	if len(all) == 0 {
		return "?"
	}
	return all[len(all)-1][1]
}

// report prints the table and what was found, and returns the exit status.
func report(out io.Writer, results []result, wanted int) int {
	failed := 0
	for _, r := range results {
		if r.failure != "" {
			failed++
			fmt.Fprintf(out, "\n%s %s: %s\n", r.pkg, r.name, r.failure)
		}
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\npackage\ttest\tinputs\ttook\tresult")
	for _, r := range results {
		verdict := "nothing found"
		if r.failure != "" {
			verdict = "FOUND"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%v\t%s\n", r.pkg, r.name, r.execs, r.took.Round(100*time.Millisecond), verdict)
	}
	if err := w.Flush(); err != nil {
		return 2
	}
	fmt.Fprintf(out, "%d of %d run, %d with findings\n", len(results), wanted, failed)
	switch {
	case failed > 0:
		return 1
	case len(results) < wanted:
		return 2
	}
	return 0
}
