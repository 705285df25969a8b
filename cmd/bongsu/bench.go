package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/bongsu-im/bongsu/proof/load"
)

type benchCmd struct {
	Send    benchSendCmd    `cmd:"" help:"W1: pairs of people, each sender with one message outstanding."`
	Deliver benchDeliverCmd `cmd:"" help:"W2: a fixed rate of messages, latency from the intended send time to the other's socket."`
	Fanout  benchFanoutCmd  `cmd:"" help:"W3: one room whose members are all online; counts deliveries."`
	Idle    benchIdleCmd    `cmd:"" help:"W4: signed-in sockets that are silent; memory of the server by their number."`
	History benchHistoryCmd `cmd:"" help:"W5: the last 50 messages of a room."`
	Ceiling benchCeilingCmd `cmd:"" help:"What this machine allows: the same generator against a bare relay that stores nothing."`
	Compare benchCompareCmd `cmd:"" help:"Measure two server binaries in turns and say how they differ."`
	Relay   benchRelayCmd   `cmd:"" hidden:"" help:"The bare relay of the ceiling."`
}

// benchFlags are those that every bench has.
type benchFlags struct {
	Target  string `help:"Server to measure; without it one is started on loopback with a temporary folder." placeholder:"URL"`
	Seconds int    `help:"Time for warm-up and window together; 0 means 8 s and 30 s." default:"0"`
	Seed    uint64 `help:"Seed of message IDs; 0 draws one."`
	Bytes   int    `help:"Bytes of each message." default:"128"`
	Bin     string `help:"Server binary to measure; empty means this one." hidden:""`
	JSON    bool   `name:"json" help:"Print one JSON object as the last line of standard output."`
}

func (f *benchFlags) config(p *progress) load.Config {
	return load.Config{
		Target: f.Target, Bin: f.Bin, Seed: f.Seed, Bytes: f.Bytes,
		Bound: time.Duration(f.Seconds) * time.Second, Progress: p.show,
	}
}

func (f *benchFlags) finish(p *progress, r load.Result, err error) error {
	p.end()
	if err != nil {
		return err
	}
	if err := r.Print(os.Stdout, f.JSON); err != nil {
		return err
	}
	if !r.Passed {
		return errRed
	}
	return nil
}

// ceilingFlag is of those benches that have a ceiling.
type ceilingFlag struct {
	Ceiling bool `help:"Measure a bare relay afterwards and print the ratio."`
}

type benchSendCmd struct {
	benchFlags
	ceilingFlag
	Senders int `help:"Pairs of people." default:"100"`
}

func (c *benchSendCmd) Run(ctx context.Context) error {
	p := &progress{start: time.Now()}
	cfg := c.config(p)
	if cfg.Senders = c.Senders; c.Senders < 1 {
		return fmt.Errorf("%d senders: want at least 1", c.Senders)
	}
	cfg.Ceiling = c.Ceiling
	r, err := load.Send(ctx, cfg)
	return c.finish(p, r, err)
}

type benchDeliverCmd struct {
	benchFlags
	ceilingFlag
	Rate  float64 `help:"Messages a second." default:"500"`
	Pairs int     `help:"Pairs of people that share the rate." default:"200"`
}

func (c *benchDeliverCmd) Run(ctx context.Context) error {
	p := &progress{start: time.Now()}
	cfg := c.config(p)
	if cfg.Rate, cfg.Pairs = c.Rate, c.Pairs; c.Rate <= 0 || c.Pairs < 1 {
		return fmt.Errorf("%g messages a second over %d pairs: want more than none", c.Rate, c.Pairs)
	}
	cfg.Ceiling = c.Ceiling
	r, err := load.Deliver(ctx, cfg)
	return c.finish(p, r, err)
}

type benchFanoutCmd struct {
	benchFlags
	ceilingFlag
	Members int `help:"Members of the room, 10 of whom send." default:"100"`
}

func (c *benchFanoutCmd) Run(ctx context.Context) error {
	p := &progress{start: time.Now()}
	cfg := c.config(p)
	if cfg.Members = c.Members; c.Members < 2 {
		return fmt.Errorf("%d members: want at least 2", c.Members)
	}
	cfg.Ceiling = c.Ceiling
	r, err := load.Fanout(ctx, cfg)
	return c.finish(p, r, err)
}

type benchIdleCmd struct {
	benchFlags
	Sessions int `help:"Signed-in sockets." default:"10000"`
}

func (c *benchIdleCmd) Run(ctx context.Context) error {
	p := &progress{start: time.Now()}
	cfg := c.config(p)
	if cfg.Sessions = c.Sessions; c.Sessions < 1 {
		return fmt.Errorf("%d sessions: want at least 1", c.Sessions)
	}
	r, err := load.Idle(ctx, cfg)
	return c.finish(p, r, err)
}

type benchCeilingCmd struct {
	benchFlags
	// No defaults: a flag that has one counts as given beside the other.
	Senders int `help:"Pairs of people, as in send; 100 without either." xor:"kind"`
	Members int `help:"Members of a room, as in fanout." xor:"kind"`
}

func (c *benchCeilingCmd) Run(ctx context.Context) error {
	p := &progress{start: time.Now()}
	cfg := c.config(p)
	switch {
	case c.Target != "":
		return errors.New("a ceiling is of this machine, not of a target")
	case c.Senders < 0 || c.Members < 0 || c.Members == 1:
		return fmt.Errorf("%d senders, %d members: want at least 1 sender or 2 members", c.Senders, c.Members)
	}
	cfg.Senders, cfg.Members = c.Senders, c.Members
	r, err := load.Ceiling(ctx, cfg, c.Members > 0)
	return c.finish(p, r, err)
}

type benchRelayCmd struct {
	Listen string `help:"Loopback address of the relay." required:""`
}

func (c *benchRelayCmd) Run(ctx context.Context) error {
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return load.Relay(ctx, l)
}

type benchCompareCmd struct {
	A      string   `arg:"" help:"Server binary." type:"existingfile"`
	B      string   `arg:"" help:"The other." type:"existingfile"`
	Rounds int      `help:"Runs of each, in turns." default:"6"`
	Seed   uint64   `help:"Seed of the runs and of the interval; 0 draws one."`
	JSON   bool     `name:"json" help:"Print one JSON object as the last line of standard output."`
	Bench  []string `arg:"" passthrough:"" help:"After --, a bench and its flags: -- send --senders 100."`
}

func (c *benchCompareCmd) Run(ctx context.Context) error {
	if c.Rounds < 1 {
		return fmt.Errorf("%d rounds: want at least 1", c.Rounds)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find our own binary: %w", err)
	}
	bench := c.Bench
	if len(bench) > 0 && bench[0] == "--" {
		bench = bench[1:]
	}
	p := &progress{start: time.Now()}
	r, err := load.Compare(ctx, load.CompareConfig{
		Self: self, A: c.A, B: c.B, Rounds: c.Rounds, Seed: c.Seed, Bench: bench, Progress: p.show,
	})
	p.end()
	if err != nil {
		return err
	}
	if err := r.Print(os.Stdout, c.JSON); err != nil {
		return err
	}
	if !r.Passed {
		return errRed
	}
	return nil
}

type benchHistoryCmd struct {
	benchFlags
	Messages int `help:"Messages in the room." default:"100000"`
}

func (c *benchHistoryCmd) Run(ctx context.Context) error {
	p := &progress{start: time.Now()}
	cfg := c.config(p)
	if cfg.Messages = c.Messages; c.Messages < 50 {
		return fmt.Errorf("%d messages: want at least 50", c.Messages)
	}
	r, err := load.History(ctx, cfg)
	return c.finish(p, r, err)
}
