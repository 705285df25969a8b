package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/bongsu-im/bongsu/proof/child"
)

const (
	readyTimeout = 60 * time.Second
	stopTimeout  = 20 * time.Second
)

// server is what is measured: a child process, or somebody else's.
type server struct {
	url   string
	child *child.Server // nil if it is not ours
	// others are the further nodes of a cluster.
	others []*child.Server
	// patience with a child that is asked to stop; 0 means stopTimeout.
	patience time.Duration
}

// startServer starts a child over the folder dir and waits until it is ready.
func (r *rig) startServer(ctx context.Context) error {
	c := &child.Server{Bin: r.cfg.Bin, Data: filepath.Join(r.dir, "data"), Args: r.cfg.Server}
	if r.cert != nil {
		c.TLS = r.cert.trust
		c.Args = append([]string{"--tls-cert", r.cert.chain, "--tls-key", r.cert.key}, c.Args...)
	}
	return r.startChild(ctx, c)
}

// startRelay starts the ceiling's relay: always our own, for the limit of a
// machine must not depend on whose server is measured.
func (r *rig) startRelay(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find our own binary: %w", err)
	}
	return r.startChild(ctx, &child.Server{Bin: self, Verb: []string{"bench", "relay"}})
}

func (r *rig) startChild(ctx context.Context, c *child.Server) (err error) {
	if c.Addr, err = child.FreeAddr(); err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	r.server = &server{url: c.BaseURL(), child: c}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := c.Ready(ctx); err != nil {
		err = errors.Join(err, r.server.stop())
		r.server = nil
		return err
	}
	return nil
}

// pids are those of all nodes; none if the server is not ours.
func (s *server) pids() (pids []int) {
	if s.child == nil {
		return nil
	}
	for _, c := range append([]*child.Server{s.child}, s.others...) {
		pids = append(pids, c.PID())
	}
	return pids
}

// door is where the i-th client goes.
func (s *server) door(i int) string {
	if k := i % (1 + len(s.others)); k > 0 {
		return s.others[k-1].BaseURL()
	}
	return s.url
}

// stop asks the child to end and, if it does not, kills it. Only this process
// is touched, by its ID.
func (s *server) stop() error {
	if s.child == nil {
		return nil
	}
	patience := stopTimeout
	if s.patience > 0 {
		patience = s.patience
	}
	err := s.child.Stop(patience)
	for _, c := range s.others {
		err = errors.Join(err, c.Stop(patience))
	}
	return err
}

// versionOf asks a binary for its version; "unknown" if it does not say.
func versionOf(ctx context.Context, bin string) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, bin, "version").Output()
	if err != nil || len(out) > 200 {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// certificate is one made for a run, and what trusts it.
type certificate struct {
	chain, key string // files
	trust      *tls.Config
}
