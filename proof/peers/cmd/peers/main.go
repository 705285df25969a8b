// Command peers compares Bongsu with other servers on this machine:
//
//	go run -C proof/peers ./cmd/peers
//
// docs/peers.md explains the figures. It starts everything itself, on loopback
// and in temporary folders, and stops it again; nothing is installed and no
// system service is touched. Relative paths count from proof/peers.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/bongsu-im/bongsu/proof/peers"
)

// serveWord makes this program the server on the centrifuge library.
const serveWord = "serve-centrifuge"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	if len(args) == 3 && args[0] == serveWord {
		history, err := strconv.Atoi(args[2])
		if err != nil {
			return fmt.Errorf("messages to keep: %w", err)
		}
		return peers.ServeCentrifuge(ctx, args[1], history)
	}
	o, err := parse(args, progress)
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	c := peers.Comparison{
		Workloads: o.workloads, Rounds: o.rounds, Plan: o.plan,
		Progress: func(line string) { fmt.Fprintln(progress, time.Now().Format("15:04:05"), line) },
	}
	if c.Peers, err = choose(o, progress); err != nil {
		return err
	}
	report, failed := c.Run(ctx)
	if err := report.Print(out); err != nil {
		return errors.Join(failed, err)
	}
	if o.json != "" {
		b, err := json.MarshalIndent(report, "", "  ")
		if err == nil {
			err = os.WriteFile(o.json, append(b, '\n'), 0o644)
		}
		if err != nil {
			return errors.Join(failed, fmt.Errorf("write the report: %w", err))
		}
	}
	if failed == nil && o.selfTest {
		failed = allGood(report)
	}
	return failed
}

// options of a session.
type options struct {
	bin, json string
	names     []string
	workloads []peers.Workload
	rounds    int
	pool      int
	plan      peers.Plan
	selfTest  bool
}

func parse(args []string, said io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("peers", flag.ContinueOnError)
	flags.SetOutput(said)
	names := flags.String("peers", "bongsu,ejabberd,centrifuge", "who is measured, in turns; ratios are the first's to each other")
	workloads := flags.String("workloads", "w1-100", "what is asked of them: w1-PAIRS, w2-RATE, w3-MEMBERS, w5-MESSAGES, …")
	flags.StringVar(&o.bin, "bin", "../../bin/bongsu", "Bongsu's binary")
	flags.IntVar(&o.rounds, "rounds", 3, "runs of each")
	flags.DurationVar(&o.plan.WarmUp, "warm-up", 8*time.Second, "time before the window")
	flags.DurationVar(&o.plan.Window, "window", 30*time.Second, "time that is measured")
	flags.DurationVar(&o.plan.Settle, "settle", 30*time.Second, "w3: pause after the last has joined")
	flags.IntVar(&o.plan.Bytes, "bytes", 128, "bytes of each message")
	flags.StringVar(&o.plan.Dir, "dir", "", "where temporary folders are made; empty means the system's place")
	flags.IntVar(&o.pool, "sql-pool", 0, "ejabberd's connections to PostgreSQL; 0 means its default of 10")
	flags.StringVar(&o.json, "json", "", "file for the report; empty writes none")
	flags.BoolVar(&o.selfTest, "self-test", false, "run every peer and kind of workload for 2 s, and fail on any error; the figures are worthless")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%q is no flag", flags.Arg(0))
	}
	if o.selfTest {
		*workloads, o.rounds = "w1-10,w2-50,w3-10,w5-1000", 1
		o.plan.WarmUp, o.plan.Window, o.plan.Settle = 500*time.Millisecond, 2*time.Second, time.Second
	}
	if o.rounds < 1 || o.plan.WarmUp < 0 || o.plan.Window < time.Second || o.plan.Bytes < 24 || o.plan.Bytes > 10_000 {
		return o, errors.New("want at least 1 round, a window of 1 s, and 24 to 10,000 bytes")
	}
	for name := range strings.SplitSeq(*workloads, ",") {
		w, err := peers.ParseWorkload(name)
		if err != nil {
			return o, err
		}
		o.workloads = append(o.workloads, w)
	}
	o.names = strings.Split(*names, ",")
	return o, nil
}

// choose makes the peers, and says of each that lacks something what it lacks.
// The self-test goes on without those.
func choose(o options, progress io.Writer) (out []peers.Peer, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	all := []peers.Peer{
		&peers.Bongsu{Bin: o.bin},
		&peers.Ejabberd{SQLPool: o.pool},
		&peers.Ejabberd{SQLPool: o.pool, Stock: true},
		&peers.Centrifuge{Server: func(address string, history int) *exec.Cmd {
			return exec.Command(self, serveWord, address, strconv.Itoa(history))
		}},
	}
	var lacking []error
	for _, name := range o.names {
		i := slices.IndexFunc(all, func(p peers.Peer) bool { return p.Name() == name })
		if i < 0 {
			return nil, fmt.Errorf("no peer %q: there are bongsu, ejabberd, ejabberd-debian and centrifuge", name)
		}
		if lacks := all[i].Lacks(); lacks != "" {
			lacking = append(lacking, fmt.Errorf("%s: %s", name, lacks))
			continue
		}
		out = append(out, all[i])
	}
	if len(lacking) > 0 && !o.selfTest {
		return nil, errors.Join(append(lacking, errors.New("or leave it out with -peers"))...)
	}
	for _, e := range lacking {
		fmt.Fprintln(progress, "left out:", e)
	}
	if len(out) == 0 {
		return nil, errors.New("nobody is left to be measured")
	}
	return out, nil
}

// allGood fails on any error of a run; a busy machine is none.
func allGood(report peers.Report) error {
	var bad []error
	for _, r := range report.Runs {
		if r.Errors > 0 || r.Ops == 0 {
			bad = append(bad, fmt.Errorf("%s against %s: %d operations, %d errors: %s", r.Workload, r.Peer, r.Ops, r.Errors, r.FirstError))
		}
	}
	return errors.Join(bad...)
}
