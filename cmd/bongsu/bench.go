package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/bongsu-im/bongsu/proof/load"
)

type benchCmd struct {
	Send     benchSendCmd     `cmd:"" help:"W1: pairs of people, each sender with one message outstanding."`
	Deliver  benchDeliverCmd  `cmd:"" help:"W2: a fixed rate of messages, latency from the intended send time to the other's socket."`
	Fanout   benchFanoutCmd   `cmd:"" help:"W3: one room whose members are all online; counts deliveries."`
	Idle     benchIdleCmd     `cmd:"" help:"W4: signed-in sockets that are silent; memory of the server by their number."`
	History  benchHistoryCmd  `cmd:"" help:"W5: the last 50 messages of a room."`
	Receipts benchReceiptsCmd `cmd:"" help:"W7: fan-out whose members mark each message as read; counts what that costs."`
	Ceiling  benchCeilingCmd  `cmd:"" help:"What this machine allows: the same generator against a bare relay that stores nothing."`
	Compare  benchCompareCmd  `cmd:"" help:"Measure two servers in turns and say how they differ."`
	Suite    benchSuiteCmd    `cmd:"" help:"Every workload, in turns, with goals and a report."`
	Relay    benchRelayCmd    `cmd:"" hidden:"" help:"The bare relay of the ceiling."`
}

// reportFlags say what is written beside the table.
type reportFlags struct {
	JSON bool   `name:"json" help:"Print one JSON object as the last line of standard output."`
	HTML string `name:"html" help:"Write a report with plots: one file that needs nothing else." placeholder:"FILE" type:"path"`
}

// benchReport is what a measurement ends with.
type benchReport interface {
	Print(w io.Writer, asJSON bool) error
	HTML(w io.Writer) error
}

// show prints a report, and turns a failed one into the exit status.
func (f *reportFlags) show(r benchReport, passed bool) error {
	if err := r.Print(os.Stdout, f.JSON); err != nil {
		return err
	}
	if f.HTML != "" {
		var page bytes.Buffer
		if err := r.HTML(&page); err != nil {
			return err
		}
		if err := os.WriteFile(f.HTML, page.Bytes(), 0o644); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	if !passed {
		return errRed
	}
	return nil
}

// commandLine is what was typed, without the folders of the binary.
func commandLine() string {
	words := append([]string{filepath.Base(os.Args[0])}, os.Args[1:]...)
	for i, w := range words {
		if strings.ContainsAny(w, " \t\"'") {
			words[i] = strconv.Quote(w)
		}
	}
	return strings.Join(words, " ")
}

func nowInWords() string { return time.Now().UTC().Format("2006-01-02 15:04 UTC") }

// benchFlags are those that every bench has.
type benchFlags struct {
	Target  string `help:"Server to measure; without it one is started on loopback with a temporary folder." placeholder:"URL"`
	Seconds int    `help:"Time for warm-up and window together; 0 means 8 s and 30 s." default:"0"`
	Seed    uint64 `help:"Seed of message IDs; 0 draws one."`
	Bytes   int    `help:"Bytes of each message." default:"128"`
	Shards  int    `help:"Shards of the server that is started; 0 means its default." default:"0"`
	Serve   string `help:"More flags for the server that is started, in one word: --serve='--log-level debug'." placeholder:"FLAGS"`
	From    string `help:"Data folder of a stopped server, a copy of which is served instead of an empty one." placeholder:"DIR" type:"existingdir"`
	Nodes   int    `help:"Nodes of a cluster that is started on this machine instead of a server alone; clients are spread over them." default:"1"`
	TLS     bool   `name:"tls" help:"The server speaks TLS, with a certificate made for the run."`
	Bin     string `help:"Server binary to measure; empty means this one." hidden:""`
	reportFlags
}

func (f *benchFlags) config(p *progress) load.Config {
	server := strings.Fields(f.Serve)
	if f.Shards > 0 {
		server = append([]string{"--shards", strconv.Itoa(f.Shards)}, server...)
	}
	return load.Config{
		Target: f.Target, Bin: f.Bin, Seed: f.Seed, Bytes: f.Bytes, Server: server, From: f.From, Nodes: f.Nodes, TLS: f.TLS,
		Bound: time.Duration(f.Seconds) * time.Second, Progress: p.show,
	}
}

func (f *benchFlags) finish(p *progress, r load.Result, err error) error {
	p.end()
	if err != nil {
		return err
	}
	r.Details.Command, r.Details.When = commandLine(), nowInWords()
	return f.show(r, r.Passed)
}

// ceilingFlag is of those benches that have a ceiling.
type ceilingFlag struct {
	Ceiling bool `help:"Measure a bare relay afterwards and print the ratio."`
}

// rateFlag is of closed loops that may be open.
type rateFlag struct {
	Rate float64 `help:"Messages a second, sent at their times whatever the server does; 0 means that each waits for one before it." default:"0"`
}

func (f *rateFlag) check() error {
	if f.Rate < 0 {
		return fmt.Errorf("%g messages a second: want more than none, or 0 for a closed loop", f.Rate)
	}
	return nil
}

type benchSendCmd struct {
	benchFlags
	ceilingFlag
	rateFlag
	Senders int `help:"Pairs of people." default:"100"`
}

func (c *benchSendCmd) Run(ctx context.Context) error {
	p := &progress{start: time.Now()}
	cfg := c.config(p)
	if cfg.Senders = c.Senders; c.Senders < 1 {
		return fmt.Errorf("%d senders: want at least 1", c.Senders)
	}
	if cfg.Rate = c.Rate; c.check() != nil {
		return c.check()
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

// roomFlags are of those benches that fill one room.
type roomFlags struct {
	Members int           `help:"Members of the room, 10 of whom send." default:"100"`
	Settle  time.Duration `help:"Wait after the last join; 0 means 30 s, or a fifth of --seconds." default:"0s"`
}

func (f *roomFlags) set(cfg *load.Config) error {
	if cfg.Members, cfg.Settle = f.Members, f.Settle; f.Members < 2 {
		return fmt.Errorf("%d members: want at least 2", f.Members)
	}
	return nil
}

type benchFanoutCmd struct {
	benchFlags
	ceilingFlag
	rateFlag
	roomFlags
}

func (c *benchFanoutCmd) Run(ctx context.Context) error {
	p := &progress{start: time.Now()}
	cfg := c.config(p)
	cfg.Rate, cfg.Ceiling = c.Rate, c.Ceiling
	if err := errors.Join(c.set(&cfg), c.check()); err != nil {
		return err
	}
	r, err := load.Fanout(ctx, cfg)
	return c.finish(p, r, err)
}

type benchReceiptsCmd struct {
	benchFlags
	rateFlag
	roomFlags
}

func (c *benchReceiptsCmd) Run(ctx context.Context) error {
	p := &progress{start: time.Now()}
	cfg := c.config(p)
	cfg.Rate = c.Rate
	if err := errors.Join(c.set(&cfg), c.check()); err != nil {
		return err
	}
	r, err := load.Receipts(ctx, cfg)
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
	Senders int     `help:"Pairs of people, as in send; 100 without any of these." xor:"kind"`
	Members int     `help:"Members of a room, as in fanout." xor:"kind"`
	Rate    float64 `help:"Messages a second, as in deliver." xor:"kind"`
}

func (c *benchCeilingCmd) Run(ctx context.Context) error {
	p := &progress{start: time.Now()}
	cfg := c.config(p)
	switch {
	case c.Target != "":
		return errors.New("a ceiling is of this machine, not of a target")
	case c.Senders < 0 || c.Members < 0 || c.Members == 1 || c.Rate < 0:
		return fmt.Errorf("%d senders, %d members, %g messages a second: want at least 1 sender or 2 members, or a rate", c.Senders, c.Members, c.Rate)
	}
	cfg.Senders, cfg.Members, cfg.Rate = c.Senders, c.Members, c.Rate
	like := "send"
	switch {
	case c.Members > 0:
		like = "fanout"
	case c.Rate > 0:
		like = "deliver"
	}
	r, err := load.Ceiling(ctx, cfg, like)
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
	A      string   `arg:"" help:"Server binary, or self for this one."`
	B      string   `arg:"" help:"The other."`
	FlagsA string   `name:"a" help:"Flags of the bench for A alone, in one word: --a='--shards 1'." placeholder:"FLAGS"`
	FlagsB string   `name:"b" help:"The same for B." placeholder:"FLAGS"`
	Rounds int      `help:"Runs of each, in turns." default:"3"`
	Seed   uint64   `help:"Seed of the runs; 0 draws one."`
	Bench  []string `arg:"" passthrough:"" help:"After --, a bench and its flags: -- send --senders 100."`
	reportFlags
}

// side names one of the two.
func side(bin, flags string) (load.Side, error) {
	s := load.Side{Flags: strings.Fields(flags)}
	if bin == "self" {
		return s, nil
	}
	if _, err := os.Stat(bin); err != nil {
		return s, fmt.Errorf("a server's binary, or self: %w", err)
	}
	s.Bin = bin
	return s, nil
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
	a, errA := side(c.A, c.FlagsA)
	b, errB := side(c.B, c.FlagsB)
	if err := errors.Join(errA, errB); err != nil {
		return err
	}
	p := &progress{start: time.Now()}
	r, err := load.Compare(ctx, load.CompareConfig{
		Self: self, A: a, B: b, Rounds: c.Rounds, Seed: c.Seed, Bench: bench, Progress: p.show,
	})
	p.end()
	if err != nil {
		return err
	}
	r.Details.Command, r.Details.When = commandLine(), nowInWords()
	return c.show(r, r.Passed)
}

type benchSuiteCmd struct {
	Runs    int           `help:"Runs of each workload, in turns; 0 means 3, or 1 with --quick." default:"0"`
	Quick   bool          `help:"A slice of two minutes: smaller and shorter."`
	Within  time.Duration `help:"No run begins after this; 0 means 4 h, or 10 min with --quick." default:"0s"`
	Seconds int           `help:"The same as --within, in seconds." default:"0"`
	Seed    uint64        `help:"Seed of the runs; 0 draws one."`
	Bin     string        `help:"Server binary to measure; empty means this one." hidden:""`
	Out     string        `help:"Write all results as JSON." placeholder:"FILE" type:"path"`
	reportFlags
}

func (c *benchSuiteCmd) Run(ctx context.Context) error {
	if c.Runs < 0 {
		return fmt.Errorf("%d runs: want at least 1", c.Runs)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find our own binary: %w", err)
	}
	if c.Within == 0 {
		c.Within = time.Duration(c.Seconds) * time.Second
	}
	p := &progress{start: time.Now()}
	s, err := load.RunSuite(ctx, load.SuiteConfig{
		Self: self, Bin: c.Bin, Runs: c.Runs, Quick: c.Quick, Within: c.Within, Seed: c.Seed, Progress: p.show,
	})
	p.end()
	if err != nil {
		return err
	}
	s.Details.Command, s.Details.When = commandLine(), nowInWords()
	if c.Out != "" {
		b, err := json.MarshalIndent(s, "", "\t")
		if err != nil {
			return fmt.Errorf("write the results: %w", err)
		}
		if err := os.WriteFile(c.Out, append(b, '\n'), 0o644); err != nil {
			return fmt.Errorf("write the results: %w", err)
		}
	}
	return c.show(s, s.Passed)
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
