package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/bongsu-im/bongsu/proof/drill"
	"github.com/bongsu-im/bongsu/proof/load/report"
)

type clusterDrillCmd struct {
	drillFlags
	Faults   int      `help:"How often the cluster is hurt." default:"24"`
	Nodes    int      `help:"Nodes of the cluster." default:"3"`
	Kind     []string `help:"Only this kind of fault, such as kill or cut-one-way; may be repeated." placeholder:"KIND"`
	Long     bool     `help:"Freeze nodes for 30 s instead of a few."`
	Loopback bool     `help:"Proxies on loopback instead of network namespaces, which need root, ip and nft."`
	People   int      `help:"People who talk; 0 means 12." default:"0"`
	Lanes    int      `help:"Rooms that are alive at a time; 0 means 12." default:"0"`
	HTML     string   `name:"html" help:"Write a report with a picture of the run: one file that needs nothing else." placeholder:"FILE" type:"path"`
	Ledger   string   `help:"Add the run to the counts in this file, so that many short runs make one long one." placeholder:"FILE" type:"path"`
	Folder   string   `help:"Keep data and logs in this folder." placeholder:"DIR" type:"path"`
	Bin      string   `help:"Server to hurt; without it this very binary." type:"existingfile"`
}

func (c *clusterDrillCmd) Run(ctx context.Context) error {
	bin, err := self(c.Bin)
	if err != nil {
		return err
	}
	kinds, err := drill.ParseFaultKinds(c.Kind)
	if err != nil {
		return err
	}
	if c.Faults < 1 {
		return fmt.Errorf("%d faults: want at least 1", c.Faults)
	}
	r, err := drill.Cluster(ctx, drill.ClusterConfig{
		Bin: bin, Faults: c.Faults, Seed: c.seed(), For: c.bound(), Nodes: c.Nodes, Kinds: kinds, Long: c.Long, Loopback: c.Loopback,
		People: c.People, Lanes: c.Lanes, Folder: c.Folder, Out: c.out(),
	})
	if err == nil && c.HTML != "" {
		err = c.writePage(r)
	}
	if err == nil && c.Ledger != "" {
		var all *drill.Collection
		if all, err = drill.Collect(c.Ledger, version, time.Now(), r); err == nil {
			fmt.Fprintf(os.Stderr, "\n%d faults in %d runs are in %s\n", all.Faults, len(all.Runs), c.Ledger)
		}
	}
	return c.show(r, r.Name, r.Passed, err)
}

type upgradeCmd struct {
	drillFlags
	Old    string `help:"Binary of the release to begin with, and to go back to." required:"" type:"existingfile"`
	Next   string `help:"Binary with newer rules (go build -tags nextrules), to which the cluster goes for good at the end." type:"existingfile"`
	Rounds int    `help:"How often the cluster is upgraded and rolled back." default:"1"`
	Nodes  int    `help:"Nodes of the cluster." default:"3"`
	Rate   int    `help:"Messages a second that people want to send, about." default:"500"`
	Ledger string `help:"Add the run to the counts in this file." placeholder:"FILE" type:"path"`
	Folder string `help:"Keep data and logs in this folder." placeholder:"DIR" type:"path"`
	Bin    string `help:"The release to go to; without it this very binary." type:"existingfile"`
}

func (c *upgradeCmd) Run(ctx context.Context) error {
	bin, err := self(c.Bin)
	if err != nil {
		return err
	}
	if c.Rounds < 1 || c.Rate < 1 {
		return fmt.Errorf("%d rounds at %d messages a second: want at least 1 of each", c.Rounds, c.Rate)
	}
	r, err := drill.Cluster(ctx, drill.ClusterConfig{
		Name: "upgrade", Bin: bin, Serve: c.Old, Plan: drill.Rollout(c.Old, bin, c.Next, c.Rounds),
		Seed: c.seed(), For: c.bound(), Nodes: c.Nodes, Rate: c.Rate, Folder: c.Folder, Out: c.out(),
	})
	if err == nil && c.Ledger != "" {
		_, err = drill.Collect(c.Ledger, version, time.Now(), r)
	}
	return c.show(r, r.Name, r.Passed, err)
}

func (c *clusterDrillCmd) writePage(r *drill.ClusterResult) error {
	var page bytes.Buffer
	if err := r.HTML(&page,
		report.Fact{Name: "Command", Value: commandLine(), Code: true}, report.Fact{Name: "When", Value: nowInWords()},
		report.Fact{Name: "Server", Value: version}, report.Fact{Name: "Machine", Value: fmt.Sprintf("%d cores, %s; everything runs on it", runtime.NumCPU(), runtime.GOOS)},
	); err != nil {
		return err
	}
	if err := os.WriteFile(c.HTML, page.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}
