// Command bongsu is the whole messenger: the server, its drills, its
// measurements and the operator's tools, one subcommand and one file each.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/BurntSushi/toml"
	"github.com/alecthomas/kong"
)

// version is set by the linker (make build).
var version = "dev"

type cli struct {
	Config kong.ConfigFlag `help:"TOML file with settings: one key a flag, the same name with '_' for '-'." env:"BONGSU_CONFIG" placeholder:"FILE"`

	Serve   serveCmd   `cmd:"" help:"Run the messenger."`
	Probe   probeCmd   `cmd:"" help:"Ask a running server how it is; for health checks."`
	Certs   certsCmd   `cmd:"" help:"Make the certificates by which nodes know each other."`
	Cluster clusterCmd `cmd:"" help:"Look at a running cluster, and change it."`
	Bench   benchCmd   `cmd:"" help:"Measure a server from outside."`
	Demo    demoCmd    `cmd:"" help:"Three nodes, bots that talk, and a page with buttons to break them."`
	Drill   drillCmd   `cmd:"" help:"Prove a promise by breaking things."`
	Admin   adminCmd   `cmd:"" help:"Operator's tools for a data folder at rest."`
	Backup  backupCmd  `cmd:"" help:"Keep a copy of the journal away from the machine, and verify it."`
	Restore restoreCmd `cmd:"" help:"Make a data folder from a backup."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

type versionCmd struct{}

func (versionCmd) Run() error {
	fmt.Println("bongsu", version)
	return nil
}

// Exit statuses of drills and benches (API.md): what they check does not hold,
// or they could not run.
const (
	exitRed    = 1
	exitNotRun = 2
)

// errRed is returned by a drill whose promise did not hold.
var errRed = errors.New("what was checked does not hold")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stderr))
}

// run parses and runs; it is main without the process, so that tests can call it.
func run(ctx context.Context, args []string, stderr io.Writer) int {
	parser, err := kong.New(&cli{},
		kong.Name("bongsu"),
		kong.Description("A messenger that stays up and loses nothing. https://github.com/bongsu-im/bongsu"),
		kong.DefaultEnvars("BONGSU"),
		kong.Configuration(readTOML),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Writers(os.Stdout, stderr),
	)
	if err != nil {
		fmt.Fprintln(stderr, "bongsu:", err)
		return exitNotRun
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(stderr, "bongsu: %v\nRun \"bongsu --help\" to see what there is.\n", err)
		return exitNotRun
	}
	switch err := parsed.Run(); {
	case err == nil:
		return 0
	case errors.Is(err, errRed):
		return exitRed
	default:
		fmt.Fprintln(stderr, "bongsu:", err)
		return exitNotRun
	}
}

// readTOML lets a flag be set in a file: listen = "…", or in the table of its
// command: [serve] listen = "…". A key that no flag has is an error, so that a
// misspelt setting is not silently ignored.
func readTOML(r io.Reader) (kong.Resolver, error) {
	values := map[string]any{}
	if _, err := toml.NewDecoder(r).Decode(&values); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return &tomlResolver{values: values}, nil
}
