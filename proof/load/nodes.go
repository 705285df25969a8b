package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/bongsu-im/bongsu/proof/child"
)

// startCluster starts the nodes of a cluster, each with a folder of its own, and
// waits until each leads its share. They share this machine and its disk.
func (r *rig) startCluster(ctx context.Context) (err error) {
	certs := filepath.Join(r.dir, "certs")
	names := make([]string, r.cfg.Nodes)
	for i := range names {
		names[i] = fmt.Sprintf("n%d", i+1)
	}
	if _, err := r.tool(ctx, append([]string{"certs", "--dir", certs}, names...)...); err != nil {
		return err
	}
	r.server = &server{}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.server.stop())
			r.server = nil
		}
	}()
	var first string // its peer address
	for i, name := range names {
		at, err := child.FreeAddr()
		if err != nil {
			return err
		}
		data := filepath.Join(r.dir, name)
		c := &child.Server{Bin: r.cfg.Bin, Data: data, Args: r.cfg.Server, Verb: []string{
			"serve", "--data", data, "--no-echo", "--node", name, "--zone", name, "--certs", filepath.Join(certs, name), "--peer-listen", at,
		}}
		if i > 0 {
			c.Verb = append(c.Verb, "--join", first)
		}
		if c.Addr, err = child.FreeAddr(); err != nil {
			return err
		}
		if err := c.Start(); err != nil {
			return err
		}
		ready, cancel := context.WithTimeout(ctx, readyTimeout)
		defer cancel()
		if i == 0 {
			first = at
			r.server.url, r.server.child = c.BaseURL(), c
		} else {
			r.server.others = append(r.server.others, c)
			if _, err := r.tool(ready, "cluster", "--certs", filepath.Join(certs, names[0]), "--at", first, "add", name); err != nil {
				return err
			}
		}
		if err := c.Ready(ready); err != nil {
			return err
		}
	}
	return r.awaitEven(ctx, "cluster", "--certs", filepath.Join(certs, names[0]), "--at", first, "status", "--json")
}

// evenWithin is how long nodes have to even out who leads what.
const evenWithin = 30 * time.Second

// awaitEven asks for the status until no node leads more than one shard more than
// another. What is measured before is not a cluster at rest.
func (r *rig) awaitEven(ctx context.Context, status ...string) error {
	ctx, cancel := context.WithTimeout(ctx, evenWithin)
	defer cancel()
	for {
		out, err := r.tool(ctx, status...)
		var s struct {
			Nodes []struct {
				Leads int `json:"leads"`
			} `json:"nodes"`
		}
		if err == nil {
			err = json.Unmarshal(out, &s)
		}
		most, least := 0, math.MaxInt
		for _, n := range s.Nodes {
			most, least = max(most, n.Leads), min(least, n.Leads)
		}
		switch {
		case err == nil && len(s.Nodes) == r.cfg.Nodes && most > 0 && most-least <= 1:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("the nodes do not even out who leads: %w", errors.Join(ctx.Err(), err))
		}
		sleepUntil(ctx, time.Now().Add(200*time.Millisecond))
	}
}

// tool runs the server's binary for a moment and returns what it prints.
func (r *rig) tool(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, r.cfg.Bin, args...)
	cmd.Env = child.PlainEnvironment(os.Environ())
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", filepath.Base(r.cfg.Bin), args[0], err, strings.TrimSpace(said.String()))
	}
	return out, nil
}
