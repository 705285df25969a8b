package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/bongsu-im/bongsu/node"
)

type restoreCmd struct {
	archiveFlags
	Data          string     `help:"Data folder to make; it must be missing or empty." required:"" type:"path" placeholder:"DIR"`
	UntilPosition []position `help:"Last index of a shard to restore, SHARD:INDEX; may be repeated." placeholder:"SHARD:INDEX"`
	UntilTime     time.Time  `help:"Restore nothing that was decided after this, such as 2026-11-27T09:00:00+09:00." placeholder:"TIME"`
	JSON          bool       `name:"json" help:"Print one JSON object as the last line of standard output."`
}

// position is a shard and an index, as SHARD:INDEX.
type position struct {
	shard int
	index uint64
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *position) UnmarshalText(text []byte) error {
	shard, index, _ := strings.Cut(string(text), ":")
	s, err1 := strconv.ParseUint(shard, 10, 16)
	i, err2 := strconv.ParseUint(index, 10, 64)
	if err1 != nil || err2 != nil || i == 0 {
		return fmt.Errorf("%q is not like 3:4711, a shard and an index", text)
	}
	p.shard, p.index = int(s), i
	return nil
}

func (c *restoreCmd) Run(ctx context.Context) error {
	ids, err := c.identities()
	if err != nil {
		return err
	}
	until := map[int]uint64{}
	for _, p := range c.UntilPosition {
		until[p.shard] = p.index
	}
	began := time.Now()
	restored, err := node.Restore(ctx, node.Config{Data: c.Data, Version: version, Logger: quiet()}, node.RestoreConfig{
		From: c.From, Identities: ids, Cluster: c.Cluster, UntilIndex: until, UntilTime: c.UntilTime,
		Progress: func(entries, bytes uint64) {
			fmt.Fprintf(os.Stderr, "\rrestored %11d entries, %9.1f MB, %v   ", entries, float64(bytes)/1e6, time.Since(began).Round(time.Second))
		},
	})
	fmt.Fprint(os.Stderr, "\r\033[K")
	if err != nil {
		return err
	}
	for _, p := range restored.Problems {
		fmt.Fprintln(os.Stderr, "bongsu: the archive has a problem that kept nothing back:", p)
	}
	if c.JSON {
		return json.NewEncoder(os.Stdout).Encode(restored)
	}
	fmt.Printf("restored %s from %s in %.1f s: %d entries, %.1f MB, archived until %s\n", c.Data, c.From, restored.Seconds,
		restored.Entries, float64(restored.Bytes)/1e6, restored.Archived.Format(time.RFC3339))
	for _, s := range restored.Shards {
		fmt.Printf("  shard %3d  up to index %d of term %d\n", s.Shard, s.Index, s.Term)
	}
	fmt.Printf("It is a new node, alone, with the old history. Start it: bongsu serve --data %s\n", c.Data)
	return nil
}
