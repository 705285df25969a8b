package demo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/mtls"
	cluster "github.com/bongsu-im/bongsu/node"
	"github.com/bongsu-im/bongsu/proof/child"
)

// What may be done to a node.
const (
	Kill   = "kill"
	Freeze = "freeze"
	Cut    = "cut"
	Heal   = "heal"
)

// errNothingToDo is returned for a fault that a node has already, or for a heal
// of one that has none.
var errNothingToDo = errors.New("nothing to do")

// node is one machine of the fleet: a process, its folder, and the cables by
// which it reaches the others.
type node struct {
	name, zone string
	dir        string // holds its data
	certs      string
	peerAddr   string // where it listens for the others; they come by cables
	server     *child.Server
	// reach are its cables to the others, by their names.
	reach map[string]*Cable
	// operator asks it how it is; nil until it is asked first.
	operator *cluster.ClusterClient

	// mu guards what follows and serialises what is done to the process.
	mu     sync.Mutex
	dead   bool // killed by us, or ended by itself
	failed string
	frozen bool
	cut    bool
}

// condition of a node as the demo itself has made it.
type condition struct {
	Dead   bool   `json:"dead"`
	Frozen bool   `json:"frozen"`
	Cut    bool   `json:"cut"`
	Failed string `json:"failed,omitempty"`
}

func (n *node) condition() condition {
	n.mu.Lock()
	defer n.mu.Unlock()
	return condition{Dead: n.dead, Frozen: n.frozen, Cut: n.cut, Failed: n.failed}
}

// start starts the process.
func (n *node) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.startLocked()
}

func (n *node) startLocked() error {
	if err := n.server.Start(); err != nil {
		return fmt.Errorf("start node %s: %w", n.name, err)
	}
	n.dead, n.failed = false, ""
	return nil
}

// watch reports a process that ends by itself, until ctx ends.
func (n *node) watch(ctx context.Context, report func(error)) {
	for ctx.Err() == nil {
		n.mu.Lock()
		ended := n.server.Ended()
		n.mu.Unlock()
		select {
		case <-ended:
			n.mu.Lock()
			var died error
			if !n.dead && n.server.Ended() == ended {
				died = n.server.Died()
				n.dead, n.failed = true, died.Error()
			}
			n.mu.Unlock()
			if died != nil && ctx.Err() == nil {
				report(fmt.Errorf("node %s: %w", n.name, died))
			}
		case <-ctx.Done():
			return
		}
		// Started again, it has another end to wait for.
		for ctx.Err() == nil && n.condition().Dead {
			rest(ctx, 50*time.Millisecond)
		}
	}
}

// do carries out a fault, or heals all that the node has.
func (n *node) do(kind string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch kind {
	case Kill:
		return n.kill()
	case Freeze:
		return n.freeze()
	case Cut:
		if n.cut {
			return errNothingToDo
		}
		n.cut = true // the fleet sees to the cables
		return nil
	case Heal:
		return n.heal()
	}
	return fmt.Errorf("node %s: nobody knows how to %q", n.name, kind)
}

func (n *node) kill() error {
	if n.dead {
		return errNothingToDo
	}
	n.dead, n.frozen = true, false
	if err := n.server.Kill(); err != nil {
		return fmt.Errorf("kill node %s: %w", n.name, err)
	}
	return nil
}

func (n *node) freeze() error {
	if n.dead || n.frozen {
		return errNothingToDo
	}
	if err := syscall.Kill(n.server.PID(), syscall.SIGSTOP); err != nil {
		return fmt.Errorf("freeze node %s: %w", n.name, err)
	}
	n.frozen = true
	return nil
}

func (n *node) heal() error {
	if !n.dead && !n.frozen && !n.cut {
		return errNothingToDo
	}
	n.cut = false // the fleet sees to the cables
	if n.frozen {
		n.frozen = false
		if err := syscall.Kill(n.server.PID(), syscall.SIGCONT); err != nil {
			return fmt.Errorf("thaw node %s: %w", n.name, err)
		}
	}
	if n.dead {
		return n.startLocked()
	}
	return nil
}

// ask asks the node about itself; nil means that it did not answer. Only one
// goroutine asks.
func (n *node) ask(ctx context.Context) *nodev1.GetNodeResponse {
	if n.operator == nil {
		identity, err := mtls.Open(filepath.Join(n.certs, n.name))
		if err != nil {
			return nil // not made yet
		}
		n.operator = cluster.DialCluster(identity, n.peerAddr)
	}
	a, err := n.operator.Node(ctx)
	if err != nil {
		return nil
	}
	return a
}

// hangUp drops the connection of ask.
func (n *node) hangUp() {
	if n.operator != nil {
		n.operator.Close()
	}
}

// stop ends the process, asking first if it can hear.
func (n *node) stop(within time.Duration) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.frozen {
		_ = syscall.Kill(n.server.PID(), syscall.SIGCONT) // gone already is as good
		n.frozen = false
	}
	if n.dead {
		return nil
	}
	n.dead = true
	return n.server.Stop(within)
}

// arguments of the process, after the data folder and the public address.
func (n *node) arguments(join []string, extra ...string) []string {
	args := []string{"--node", n.name, "--zone", n.zone, "--certs", filepath.Join(n.certs, n.name), "--peer-listen", n.peerAddr}
	if len(join) > 0 {
		args = append(args, "--join", join[0])
	}
	for _, other := range slices.Sorted(maps.Keys(n.reach)) {
		args = append(args, "--reach", other+"="+n.reach[other].Addr())
	}
	return append(args, extra...)
}
