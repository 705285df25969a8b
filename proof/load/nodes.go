package load

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/bongsu-im/bongsu/proof/child"
)

// startCluster starts the nodes of a cluster, each with a folder of its own, and
// waits until it is whole. They share this machine and its disk.
func (r *rig) startCluster(ctx context.Context) (err error) {
	certs := filepath.Join(r.dir, "certs")
	names := make([]string, r.cfg.Nodes)
	for i := range names {
		names[i] = fmt.Sprintf("n%d", i+1)
	}
	if err := r.tool(ctx, append([]string{"certs", "--dir", certs}, names...)...); err != nil {
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
			if err := r.tool(ready, "cluster", "--certs", filepath.Join(certs, names[0]), "--at", first, "add", name); err != nil {
				return err
			}
		}
		if err := c.Ready(ready); err != nil {
			return err
		}
	}
	// Leaderships are evened within some seconds; the warm-up sees the rest.
	return nil
}

// tool runs the server's binary for a moment.
func (r *rig) tool(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, r.cfg.Bin, args...)
	cmd.Env = child.PlainEnvironment(os.Environ())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(r.cfg.Bin), args[0], err, strings.TrimSpace(string(out)))
	}
	return nil
}
