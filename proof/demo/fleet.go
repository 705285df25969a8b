package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/proof/child"
	"golang.org/x/sync/errgroup"
)

// FleetConfig of a fleet.
type FleetConfig struct {
	// Bin is the bongsu binary.
	Bin string
	// Dir holds keys and data of all nodes; made if missing.
	Dir string
	// Nodes is how many there are: 1 to MaxNodes.
	Nodes int
	// Shards of a new cluster.
	Shards int
	// Say tells what is going on, in words for a terminal.
	Say func(format string, args ...any)
}

// MaxNodes bounds a fleet.
const MaxNodes = 5

// Fleet is the nodes.
type Fleet struct {
	cfg   FleetConfig
	nodes []*node

	wiring sync.Mutex    // makes rewire see and do one thing at a time
	woken  chan struct{} // has a token when the status should be asked for

	mu     sync.Mutex
	status status            // what the nodes said last
	asked  time.Time         // when that was
	names  map[uint64]string // of the nodes' IDs
	done   time.Time         // when something was done to a node last
}

// addresses are kept beside the data: nodes remember each other's.
type addresses struct {
	Public []string `json:"public"`
	Peer   []string `json:"peer"`
}

// NewFleet lays out folders, addresses and cables; it starts no node.
func NewFleet(cfg FleetConfig) (*Fleet, error) {
	if cfg.Nodes < 1 || cfg.Nodes > MaxNodes {
		return nil, fmt.Errorf("a fleet of %d nodes: want 1 to %d", cfg.Nodes, MaxNodes)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the fleet's folder: %w", err)
	}
	at, err := readAddresses(filepath.Join(cfg.Dir, "addresses.json"), cfg.Nodes)
	if err != nil {
		return nil, err
	}
	f := &Fleet{cfg: cfg, woken: make(chan struct{}, 1), names: map[uint64]string{}}
	for i := range cfg.Nodes {
		name := fmt.Sprint("n", i+1)
		n := &node{
			name: name, zone: string(rune('a' + i)), dir: filepath.Join(cfg.Dir, name), certs: filepath.Join(cfg.Dir, "certs"), peerAddr: at.Peer[i],
			reach: map[string]*Cable{},
		}
		n.server = &child.Server{Bin: cfg.Bin, Data: n.dir, Addr: at.Public[i]}
		f.nodes = append(f.nodes, n)
	}
	for _, from := range f.nodes {
		for _, to := range f.nodes {
			if from == to {
				continue
			}
			c, err := NewCable(to.peerAddr)
			if err != nil {
				return nil, errors.Join(err, f.closeCables())
			}
			from.reach[to.name] = c
		}
	}
	for i, n := range f.nodes {
		var join []string
		if i > 0 {
			join = []string{n.reach[f.nodes[0].name].Addr()}
		}
		n.server.Args = n.arguments(join, "--shards", fmt.Sprint(cfg.Shards), "--view-cache-mib", "64")
	}
	return f, nil
}

// readAddresses reads a fleet's addresses, or picks free ones.
func readAddresses(name string, nodes int) (a addresses, err error) {
	b, err := os.ReadFile(name)
	switch {
	case err == nil:
		if err := json.Unmarshal(b, &a); err != nil {
			return a, fmt.Errorf("read %s: %w", name, err)
		}
		if len(a.Public) != nodes || len(a.Peer) != nodes {
			return a, fmt.Errorf("%s is of %d nodes, not %d: give another folder", name, len(a.Peer), nodes)
		}
		return a, nil
	case !errors.Is(err, os.ErrNotExist):
		return a, fmt.Errorf("read the fleet's addresses: %w", err)
	}
	for range nodes {
		public, err1 := freeAddr()
		peer, err2 := freeAddr()
		if err := errors.Join(err1, err2); err != nil {
			return a, err
		}
		a.Public, a.Peer = append(a.Public, public), append(a.Peer, peer)
	}
	if b, err = json.Marshal(a); err == nil {
		err = os.WriteFile(name, append(b, '\n'), 0o600)
	}
	if err != nil {
		return a, fmt.Errorf("keep the fleet's addresses: %w", err)
	}
	return a, nil
}

// freeAddr returns a loopback address on which nobody listens now. It is none of
// those that systems give to outgoing connections, as one of those could have it
// by the time its node starts, or starts again.
func freeAddr() (string, error) {
	var err error
	for range 100 {
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(10_000))); err == nil {
			return l.Addr().String(), l.Close()
		}
	}
	return "", fmt.Errorf("find a free port: %w", err)
}

// Start makes the keys, starts the nodes and joins them into one cluster.
func (f *Fleet) Start(ctx context.Context) error {
	first := f.nodes[0]
	if _, err := os.Stat(filepath.Join(first.certs, "authority.pem")); errors.Is(err, os.ErrNotExist) {
		args := []string{"certs", "--dir", first.certs}
		for _, n := range f.nodes {
			args = append(args, n.name)
		}
		if err := command(ctx, f.cfg.Bin, args...); err != nil {
			return err
		}
		f.cfg.Say("made the keys by which nodes know each other")
	}
	_, statErr := os.Stat(filepath.Join(first.dir, "node.json"))
	if err := first.start(); err != nil {
		return err
	}
	if statErr == nil {
		// A cluster that was: the first node alone is no majority of it.
		return f.startAll(ctx)
	}
	if err := first.server.Ready(ctx); err != nil {
		return err
	}
	f.cfg.Say("%s (zone %s) serves %s, data in %s", first.name, first.zone, first.server.BaseURL(), first.dir)
	for _, n := range f.nodes[1:] {
		if err := f.bring(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// startAll starts the others of a cluster that was.
func (f *Fleet) startAll(ctx context.Context) error {
	for _, n := range f.nodes[1:] {
		if err := n.start(); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range f.nodes {
		g.Go(func() error {
			if err := n.server.Ready(ctx); err != nil {
				return err
			}
			f.cfg.Say("%s (zone %s) serves %s, data in %s", n.name, n.zone, n.server.BaseURL(), n.dir)
			return nil
		})
	}
	return g.Wait()
}

// bring lets a new node in.
func (f *Fleet) bring(ctx context.Context, n *node) error {
	if err := n.start(); err != nil {
		return err
	}
	f.cfg.Say("%s (zone %s) asks to be let in …", n.name, n.zone)
	for {
		err := command(ctx, f.cfg.Bin, "cluster", "add", n.name, "--certs", filepath.Join(n.certs, n.name), "--at", f.nodes[0].peerAddr)
		if err == nil {
			break
		}
		// It may not have asked yet.
		select {
		case <-n.server.Ended():
			return fmt.Errorf("let %s in: %w", n.name, n.server.Died())
		default:
		}
		if !rest(ctx, 200*time.Millisecond) {
			return fmt.Errorf("let %s in: %w", n.name, err)
		}
	}
	if err := n.server.Ready(ctx); err != nil {
		return fmt.Errorf("let %s in: %w", n.name, err)
	}
	f.cfg.Say("%s (zone %s) serves %s, data in %s", n.name, n.zone, n.server.BaseURL(), n.dir)
	return nil
}

// Do carries out a fault or a heal.
func (f *Fleet) Do(kind, name string) error {
	for _, n := range f.nodes {
		if n.name != name {
			continue
		}
		err := n.do(kind)
		f.rewire()
		f.mu.Lock()
		f.done = time.Now()
		f.mu.Unlock()
		select {
		case f.woken <- struct{}{}:
		default: // awake already
		}
		return err
	}
	return fmt.Errorf("no node is called %q", name)
}

// rewire makes every cable what the nodes at its ends want it to be.
func (f *Fleet) rewire() {
	f.wiring.Lock()
	defer f.wiring.Unlock()
	cut := map[string]bool{}
	for _, n := range f.nodes {
		cut[n.name] = n.condition().Cut
	}
	for _, from := range f.nodes {
		for to, c := range from.reach {
			if cut[from.name] || cut[to] {
				c.Cut()
			} else {
				c.Join()
			}
		}
	}
}

// Conditions returns what has been done to each node.
func (f *Fleet) Conditions() map[string]condition {
	out := map[string]condition{}
	for _, n := range f.nodes {
		out[n.name] = n.condition()
	}
	return out
}

// Watch reports nodes that end by themselves, until ctx ends.
func (f *Fleet) Watch(ctx context.Context, report func(error)) {
	var wg sync.WaitGroup
	for _, n := range f.nodes {
		wg.Go(func() { n.watch(ctx, report) })
	}
	wg.Wait()
}

// Between two questions for the nodes' status: while nothing happens, and for a
// while after something has.
const (
	calmPause = time.Second
	busyPause = 150 * time.Millisecond
	busyFor   = 8 * time.Second
	// statusTimeout bounds how long one node is asked.
	statusTimeout = time.Second
)

// Follow asks the nodes what they lead, again and again until ctx ends.
func (f *Fleet) Follow(ctx context.Context) {
	for ctx.Err() == nil {
		f.ask(ctx)
		f.mu.Lock()
		busy := time.Since(f.done) < busyFor
		f.mu.Unlock()
		pause := time.NewTimer(calmPause)
		if busy {
			pause.Reset(busyPause)
		}
		select {
		case <-pause.C:
		case <-f.woken:
		case <-ctx.Done():
		}
		pause.Stop()
	}
	for _, n := range f.nodes {
		n.hangUp()
	}
}

// ask asks each node about itself, apart from those that are dead, frozen or
// cut off: it is what the others can know that is shown.
func (f *Fleet) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	answers := make([]*nodev1.GetNodeResponse, len(f.nodes))
	var asking sync.WaitGroup
	for i, n := range f.nodes {
		if c := n.condition(); !c.Dead && !c.Frozen && !c.Cut {
			asking.Go(func() { answers[i] = n.ask(ctx) })
		}
	}
	asking.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	answers = slices.DeleteFunc(answers, func(a *nodev1.GetNodeResponse) bool { return a == nil })
	if len(answers) == 0 {
		return
	}
	for _, a := range answers {
		f.names[a.GetMember().GetId()] = a.GetMember().GetName()
	}
	f.status, f.asked = statusOf(answers, f.names), time.Now()
}

// Status returns what the nodes said last, and when.
func (f *Fleet) Status() (status, time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status, f.asked
}

// Close stops the nodes and takes the cables away.
func (f *Fleet) Close() error {
	var g errgroup.Group
	for _, n := range f.nodes {
		g.Go(func() error { return n.stop(15 * time.Second) })
	}
	return errors.Join(g.Wait(), f.closeCables())
}

func (f *Fleet) closeCables() (err error) {
	for _, n := range f.nodes {
		for _, c := range n.reach {
			err = errors.Join(err, c.Close())
		}
	}
	return err
}
