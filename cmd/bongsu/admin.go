package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/node"
)

type adminCmd struct {
	Seed       seedCmd       `cmd:"" help:"Fill a store with accounts, rooms and messages, offline, for measurements."`
	Check      checkCmd      `cmd:"" help:"Read every byte of both stores and say what is found."`
	AcceptLoss acceptLossCmd `cmd:"" help:"Let shards go on whose journal lacks its end, after naming what is missing."`
}

// quiet logs warnings and errors only.
func quiet() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

type seedCmd struct {
	Data     string `help:"Data folder; made if missing, never one that a server uses." default:"data" type:"path"`
	Journal  string `help:"Address of a journal on PostgreSQL." placeholder:"URL"`
	Accounts int    `help:"Accounts to make: seed-000001 and on." default:"1000"`
	Rooms    int    `help:"Rooms to make." default:"500"`
	Members  int    `help:"Members of each room; 2 makes direct rooms." default:"2"`
	Messages int    `help:"Messages over all rooms." default:"1000000"`
	Bytes    int    `help:"Bytes of each message." default:"128"`
	Password string `help:"Password of every account." default:"seed-password"`
	Seed     uint64 `help:"Same seed, same store." default:"1"`
}

func (c *seedCmd) Run(ctx context.Context) (err error) {
	core, err := node.OpenCore(context.Background(), node.Config{Data: c.Data, Journal: c.Journal, Logger: quiet()}, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, core.Close()) }()
	if err := core.AwaitReady(ctx); err != nil {
		return err
	}
	p := progress{start: time.Now()}
	err = node.Seed(ctx, core, node.SeedConfig{
		Accounts: c.Accounts, Rooms: c.Rooms, Members: c.Members, Messages: c.Messages,
		Bytes: c.Bytes, Password: c.Password, Seed: c.Seed, Progress: p.show,
	})
	p.end()
	if err == nil {
		fmt.Printf("seeded %s: %d accounts (password %q), %d rooms, %d messages in %v\n",
			c.Data, c.Accounts, c.Password, c.Rooms, c.Messages, time.Since(p.start).Round(time.Millisecond))
	}
	return err
}

// progress writes one line that renews itself on a terminal, and a line a
// change of subject elsewhere.
type progress struct {
	start, shown time.Time
	what         string
}

func (p *progress) show(what string, done, total int) {
	if what == p.what && done != total && time.Since(p.shown) < 200*time.Millisecond {
		return
	}
	p.what, p.shown = what, time.Now()
	percent := 100
	if total > 0 {
		percent = done * 100 / total
	}
	fmt.Fprintf(os.Stderr, "\r%-10s %11d of %d (%d %%), %v   ", what, done, total, percent, time.Since(p.start).Round(time.Second))
	if done == total {
		fmt.Fprintln(os.Stderr)
	}
}

func (p *progress) end() {
	if p.what != "" {
		fmt.Fprintln(os.Stderr)
	}
}

type checkCmd struct {
	Data    string `help:"Data folder of a stopped server." default:"data" type:"existingdir"`
	Journal string `help:"Address of its journal, if that is on PostgreSQL." placeholder:"URL"`
}

func (c *checkCmd) Run(ctx context.Context) error {
	p := progress{start: time.Now()}
	report, err := node.Check(ctx, node.Config{Data: c.Data, Journal: c.Journal, Logger: quiet()}, p.show)
	p.end()
	if err != nil {
		return err
	}
	fmt.Print(report.Text())
	if !report.Whole() {
		return errRed
	}
	return nil
}

type acceptLossCmd struct {
	Data    string `help:"Data folder of a stopped server." default:"data" type:"existingdir"`
	Journal string `help:"Address of its journal, if that is on PostgreSQL." placeholder:"URL"`
	Yes     bool   `help:"Do not ask."`
}

func (c *acceptLossCmd) Run(ctx context.Context) error {
	if !node.Exists(durable.Disk, c.Data) {
		return fmt.Errorf("%s is not a data folder", c.Data)
	}
	ask := func(losses []string) bool {
		fmt.Println("These acknowledged entries are missing and cannot be read from this disk:")
		for _, l := range losses {
			fmt.Println("  -", l)
		}
		if c.Yes {
			return true
		}
		fmt.Print("Go on without them? Clients will send again what they still hold. Type yes: ")
		answer, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		return strings.TrimSpace(answer) == "yes"
	}
	accepted, err := node.AcceptLoss(ctx, node.Config{Data: c.Data, Journal: c.Journal, Logger: quiet()}, ask)
	switch {
	case err != nil:
		return err
	case accepted == 0:
		fmt.Println("Nothing was changed.")
	default:
		fmt.Printf("%d shards go on from what they have; start the server.\n", accepted)
	}
	return nil
}
