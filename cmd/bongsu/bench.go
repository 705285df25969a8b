package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/bongsu-im/bongsu/proof/load"
)

type benchCmd struct {
	Send    benchSendCmd    `cmd:"" help:"W1: pairs of people, each sender with one message outstanding."`
	Deliver benchDeliverCmd `cmd:"" help:"W2: a fixed rate of messages, latency from the intended send time to the other's socket."`
	History benchHistoryCmd `cmd:"" help:"W5: the last 50 messages of a room."`
}

// benchFlags are those that every bench has.
type benchFlags struct {
	Target  string `help:"Server to measure; without it one is started on loopback with a temporary folder." placeholder:"URL"`
	Seconds int    `help:"Time for warm-up and window together; 0 means 8 s and 30 s." default:"0"`
	Seed    uint64 `help:"Seed of message IDs; 0 draws one."`
	Bytes   int    `help:"Bytes of each message." default:"128"`
	JSON    bool   `name:"json" help:"Print one JSON object as the last line of standard output."`
}

func (f *benchFlags) config(p *progress) load.Config {
	return load.Config{
		Target: f.Target, Seed: f.Seed, Bytes: f.Bytes,
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

type benchSendCmd struct {
	benchFlags
	Senders int `help:"Pairs of people." default:"100"`
}

func (c *benchSendCmd) Run(ctx context.Context) error {
	p := &progress{start: time.Now()}
	cfg := c.config(p)
	if cfg.Senders = c.Senders; c.Senders < 1 {
		return fmt.Errorf("%d senders: want at least 1", c.Senders)
	}
	r, err := load.Send(ctx, cfg)
	return c.finish(p, r, err)
}

type benchDeliverCmd struct {
	benchFlags
	Rate  float64 `help:"Messages a second." default:"500"`
	Pairs int     `help:"Pairs of people that share the rate." default:"200"`
}

func (c *benchDeliverCmd) Run(ctx context.Context) error {
	p := &progress{start: time.Now()}
	cfg := c.config(p)
	if cfg.Rate, cfg.Pairs = c.Rate, c.Pairs; c.Rate <= 0 || c.Pairs < 1 {
		return fmt.Errorf("%g messages a second over %d pairs: want more than none", c.Rate, c.Pairs)
	}
	r, err := load.Deliver(ctx, cfg)
	return c.finish(p, r, err)
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
