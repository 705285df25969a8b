package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/bongsu-im/bongsu/proof/demo"
)

type demoCmd struct {
	Listen  string  `help:"Address of the page; whoever reaches it can press its buttons." default:"localhost:8090" placeholder:"HOST:PORT"`
	Data    string  `help:"Folder for keys and data of all nodes; made if missing and kept. Without it a temporary one." type:"path"`
	Nodes   int     `help:"How many nodes." default:"3"`
	Bots    int     `help:"How many bots talk." default:"40"`
	Rate    float64 `help:"How many messages they send in a second, all together." default:"40"`
	Plain   bool    `help:"Only the nodes: no bots, no page, no front."`
	Seconds int     `help:"After this many seconds of talk heal everything, read it all back from every node, and end; 0 means when stopped." default:"0"`
	Seed    uint64  `help:"What is said; 0 draws one."`
	JSON    bool    `name:"json" help:"Print one JSON object as the last line of standard output."`
	Bin     string  `help:"Binary of the nodes; without it this very one." type:"existingfile"`
}

func (c *demoCmd) Run(ctx context.Context) error {
	if c.Bin == "" {
		var err error
		if c.Bin, err = os.Executable(); err != nil {
			return fmt.Errorf("find this binary: %w", err)
		}
	}
	if c.Rate < demo.MinRate || c.Rate > demo.MaxRate {
		return fmt.Errorf("--rate %v: want %d to %d", c.Rate, demo.MinRate, demo.MaxRate)
	}
	fmt.Fprintln(os.Stderr)
	r, err := demo.Run(ctx, demo.Config{
		Bin: c.Bin, Listen: c.Listen, Dir: c.Data, Nodes: c.Nodes, Bots: c.Bots, Rate: c.Rate, Plain: c.Plain,
		For: time.Duration(c.Seconds) * time.Second, Seed: c.Seed, Out: os.Stderr, Live: terminal(os.Stderr),
	})
	fmt.Fprintln(os.Stderr)
	if err != nil {
		return err
	}
	if c.Plain || (ctx.Err() != nil && r.Acknowledged == 0) {
		return nil
	}
	show := r.Print
	if c.JSON {
		show = r.JSON
	}
	if err := show(os.Stdout); err != nil {
		return err
	}
	if !r.Passed {
		return errRed
	}
	return nil
}

// terminal tells whether a person watches.
func terminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
