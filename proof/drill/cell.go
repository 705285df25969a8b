package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/bongsu-im/bongsu/internal/faults"
	"github.com/bongsu-im/bongsu/proof/child"
	"github.com/bongsu-im/bongsu/proof/nets"
)

// cell is a cluster of real processes, each at a place of a network, with the
// drill as their supervisor: what ends by itself is started again.
type cell struct {
	bin     string
	folder  string
	size    int // members; the one node beyond them is spare
	nodes   []*cellNode
	network *nets.Network
	probe   *http.Client // asks nodes whether they are ready
	note    func(node int, format string, args ...any)
}

// cellNode is one node. Its state is guarded by mu, which is held while the
// process is started, killed or stopped.
type cellNode struct {
	cell   *cell
	place  int
	name   string
	server *child.Server
	log    *os.File

	mu     sync.Mutex
	bin    string // what it runs when it is started next
	wanted bool   // the supervisor starts it again when it ends
	joins  bool   // an empty folder joins; else it begins a cluster
	deaths int    // how often it has ended by itself

	supervised sync.WaitGroup
}

// restartPause is how long the supervisor waits, as an operator's does.
const restartPause = 300 * time.Millisecond

// newCell makes the places and certificates of size nodes and a spare one. They
// are operated with bin and run serves.
func newCell(ctx context.Context, bin, serves, folder string, size int, network *nets.Network, note func(int, string, ...any)) (*cell, error) {
	c := &cell{bin: bin, folder: folder, size: size, network: network, note: note}
	c.probe = &http.Client{Transport: &http.Transport{DialContext: network.DialContext, DisableKeepAlives: true}, Timeout: time.Second}
	names := []string{}
	for i := range size + 1 {
		n := &cellNode{cell: c, place: i, name: fmt.Sprintf("n%d", i+1), joins: i > 0, bin: serves}
		names = append(names, n.name)
		var err error
		if n.log, err = os.OpenFile(filepath.Join(folder, n.name+".log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600); err != nil {
			return nil, fmt.Errorf("make the log of %s: %w", n.name, err)
		}
		n.server = &child.Server{Bin: bin, Data: n.data(), Addr: network.Public(i), Output: n.log}
		c.nodes = append(c.nodes, n)
	}
	out, err := exec.CommandContext(ctx, bin, append([]string{"certs", "--dir", c.certs()}, names...)...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("make certificates: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return c, nil
}

func (c *cell) certs() string         { return filepath.Join(c.folder, "certs") }
func (n *cellNode) data() string      { return filepath.Join(n.cell.folder, n.name) }
func (n *cellNode) identity() string  { return filepath.Join(n.cell.certs(), n.name) }
func (n *cellNode) faultFile() string { return filepath.Join(n.cell.folder, n.name+".faults") }
func (c *cell) members() []*cellNode  { return c.nodes[:c.size] }
func (c *cell) spare() *cellNode      { return c.nodes[c.size] }
func (c *cell) node(i int) *cellNode  { return c.nodes[i] }
func (n *cellNode) public() string    { return n.cell.network.Public(n.place) }
func (n *cellNode) url() string       { return "http://" + n.public() }
func (c *cell) named(s string) int {
	return slices.IndexFunc(c.nodes, func(n *cellNode) bool { return n.name == s })
}
func (n *cellNode) logSize() int64   { size, _ := n.log.Seek(0, io.SeekEnd); return size } // 0 shows more than is new
func (n *cellNode) readyURL() string { return n.url() + "/readyz" }
func (n *cellNode) peerAddr() string { return n.cell.network.Peer(n.place) }
func (n *cellNode) zone() string     { return string(rune('a' + n.place)) }

// verb is what the binary is told.
func (n *cellNode) verb() []string {
	verb := []string{
		"serve", "--data", n.data(), "--no-echo", "--node", n.name, "--zone", n.zone(), "--certs", n.identity(),
		"--peer-listen", n.peerAddr(), "--fault-file", n.faultFile(), "--public-url", n.url(),
	}
	for i, other := range n.cell.nodes {
		if i == n.place {
			continue
		}
		at := n.cell.network.Reach(n.place, i)
		if at != other.peerAddr() {
			verb = append(verb, "--reach", other.name+"="+at)
		}
		if n.joins && i < n.cell.size {
			verb = append(verb, "--join", at)
		}
	}
	return verb
}

// start starts the process and its supervision.
func (n *cellNode) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.startLocked()
}

func (n *cellNode) startLocked() error {
	n.wanted = true
	n.server.Bin, n.server.Verb = n.bin, n.verb()
	if err := n.cell.network.In(n.place, n.server.Start); err != nil {
		return fmt.Errorf("start %s: %w", n.name, err)
	}
	ended := n.server.Ended()
	n.supervised.Go(func() {
		<-ended
		n.ended(ended)
	})
	return nil
}

// ended starts a node again that nobody has stopped.
func (n *cellNode) ended(run <-chan struct{}) {
	n.mu.Lock()
	mine := n.wanted && n.server.Ended() == run
	if mine {
		n.deaths++
	}
	n.mu.Unlock()
	if !mine {
		return
	}
	n.cell.note(n.place, "ended by itself: %s", n.lastWords())
	time.Sleep(restartPause)
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.wanted || n.server.Ended() != run {
		return
	}
	if err := n.startLocked(); err != nil {
		n.cell.note(n.place, "could not be started again: %v", err)
	}
}

// lastWords is the last line that a process printed.
func (n *cellNode) lastWords() string {
	lines := strings.Split(strings.TrimSpace(n.server.Log()), "\n")
	last := lines[len(lines)-1]
	return last[:min(len(last), 400)]
}

// kill ends the process with SIGKILL; one that had ended by itself is fine.
func (n *cellNode) kill() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wanted = false
	if n.server.PID() == 0 {
		return nil
	}
	select {
	case <-n.server.Ended():
		return nil
	default:
		return n.server.Kill()
	}
}

// stop ends the process with SIGTERM.
func (n *cellNode) stop(within time.Duration) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wanted = false
	if err := n.server.Stop(within); err != nil {
		return fmt.Errorf("stop %s: %w", n.name, err)
	}
	return nil
}

// run has the node run another binary from its next start on.
func (n *cellNode) run(bin string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.bin = bin
}

func (n *cellNode) binary() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.bin
}

func (n *cellNode) died() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.deaths
}

func (n *cellNode) signal(s syscall.Signal) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := syscall.Kill(n.server.PID(), s); err != nil {
		return fmt.Errorf("send %s %v: %w", n.name, s, err)
	}
	return nil
}

// stopped tells whether the kernel has the process stopped.
func (n *cellNode) stopped() bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.server.PID()))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(rest, "T")
}

// play writes the fault file of a node; nothing ends its faults.
func (n *cellNode) play(set faults.Set) error {
	name := n.faultFile()
	if err := os.WriteFile(name+".new", []byte(set.String()), 0o600); err != nil {
		return fmt.Errorf("write the fault file of %s: %w", n.name, err)
	}
	return os.Rename(name+".new", name)
}

// met is how often a fault of the fault file was met by this process.
func (n *cellNode) met(kind string) int {
	met, err := faults.ReadMet(n.faultFile())
	if err != nil {
		return 0
	}
	return met[kind]
}

// said returns what the node has printed since its log had that size.
func (n *cellNode) said(since int64) string {
	b := make([]byte, min(max(n.logSize()-since, 0), 1<<20))
	k, _ := n.log.ReadAt(b, since) // short is what there is
	return string(b[:k])
}

// wipe deletes the data folder: the disk is lost. The next start joins.
func (n *cellNode) wipe() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.joins = true
	if err := os.RemoveAll(n.data()); err != nil {
		return fmt.Errorf("delete the folder of %s: %w", n.name, err)
	}
	return nil
}

// ready asks a node once.
func (c *cell) ready(ctx context.Context, n *cellNode) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, n.readyURL(), nil)
	if err != nil {
		return err
	}
	response, err := c.probe.Do(r)
	if err != nil {
		return err
	}
	b, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10)) // words for people
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%d %s", response.StatusCode, strings.TrimSpace(string(b)))
	}
	return nil
}

// awaitReady waits until a node says that it serves.
func (c *cell) awaitReady(ctx context.Context, n *cellNode, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var last error
	for {
		err := c.ready(ctx, n)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		if !rest(ctx, 50*time.Millisecond) {
			return fmt.Errorf("%s is not ready after %v: %w", n.name, within, last)
		}
	}
}

// awaitAll waits until every member is ready and the cluster says that it is
// whole.
func (c *cell) awaitAll(ctx context.Context, within time.Duration) error {
	end := time.Now().Add(within)
	for _, n := range c.members() {
		if err := c.awaitReady(ctx, n, max(time.Until(end), time.Second)); err != nil {
			return err
		}
	}
	for {
		s, err := c.status(ctx)
		if err == nil && s.Whole {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("all nodes are ready, and the cluster is not whole after %v: %w", within, errors.Join(err, s.unwhole()))
		}
		if !rest(ctx, 100*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// operate runs `bongsu cluster` at a node.
func (c *cell) operate(ctx context.Context, at *cellNode, wait time.Duration, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+5*time.Second)
	defer cancel()
	args = append([]string{"cluster", "--certs", at.identity(), "--at", at.peerAddr(), "--wait", wait.String()}, args...)
	cmd := exec.CommandContext(ctx, c.bin, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &out, child.PlainEnvironment(os.Environ())
	if err := c.network.Outside(cmd.Start); err != nil {
		return "", fmt.Errorf("run bongsu cluster: %w", err)
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("bongsu cluster %s: %w: %s", strings.Join(args[7:], " "), err, strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}

// insist operates until it works, or for so long.
func (c *cell) insist(ctx context.Context, at *cellNode, within time.Duration, args ...string) error {
	end := time.Now().Add(within)
	for {
		_, err := c.operate(ctx, at, max(time.Until(end), 5*time.Second), args...)
		if err == nil || time.Now().After(end) {
			return err
		}
		if !rest(ctx, 300*time.Millisecond) {
			return err
		}
	}
}

// clusterStatus is what `bongsu cluster status --json` prints, as far as the
// drill reads it.
type clusterStatus struct {
	Whole bool `json:"whole"`
	Nodes []struct {
		ID     string   `json:"id"`
		Name   string   `json:"name"`
		Up     bool     `json:"up"`
		Error  string   `json:"error"`
		Damage []string `json:"damage"`
	} `json:"nodes"`
	Shards []struct {
		Shard   uint32 `json:"shard"`
		Leader  string `json:"leader"`
		Members []struct {
			Node     string `json:"node"`
			Voter    bool   `json:"voter"`
			Active   bool   `json:"active"`
			Snapshot bool   `json:"snapshot"`
		} `json:"members"`
	} `json:"shards"`
}

// unwhole says what is not whole.
func (s *clusterStatus) unwhole() error {
	var said []string
	for _, n := range s.Nodes {
		if !n.Up || len(n.Damage) > 0 {
			said = append(said, fmt.Sprintf("%s (%s) up %v damage %q %s", n.Name, n.ID, n.Up, n.Damage, n.Error))
		}
	}
	for _, sh := range s.Shards {
		if sh.Leader == "" {
			said = append(said, fmt.Sprintf("shard %d has no leader", sh.Shard))
		}
		for _, m := range sh.Members {
			if !m.Active || m.Snapshot {
				said = append(said, fmt.Sprintf("shard %d: %s active %v snapshot %v", sh.Shard, m.Node, m.Active, m.Snapshot))
			}
		}
	}
	if len(said) == 0 {
		return nil
	}
	return errors.New(strings.Join(said, "; "))
}

// leads returns the shards that a node leads.
func (s *clusterStatus) leads(name string) (shards []uint32) {
	for _, sh := range s.Shards {
		if sh.Leader == name {
			shards = append(shards, sh.Shard)
		}
	}
	return shards
}

// id returns the number of the node of a name, the newest if it has had several.
func (s *clusterStatus) id(name string) (id string) {
	for _, n := range s.Nodes {
		if n.Name == name && (id == "" || n.Up) {
			id = n.ID
		}
	}
	return id
}

// status asks the members in turn until one answers.
func (c *cell) status(ctx context.Context) (s clusterStatus, err error) {
	for _, n := range c.members() {
		n.mu.Lock()
		wanted := n.wanted
		n.mu.Unlock()
		if !wanted {
			continue
		}
		var out string
		if out, err = c.operate(ctx, n, 3*time.Second, "status", "--json"); err != nil {
			continue
		}
		if err = json.Unmarshal([]byte(out), &s); err == nil {
			return s, nil
		}
	}
	if err == nil {
		err = errors.New("no node runs")
	}
	return s, fmt.Errorf("ask the cluster how it is: %w", err)
}

const (
	formTimeout  = 90 * time.Second
	wholeTimeout = 90 * time.Second
)

// form starts the first node and lets the others join it.
func (c *cell) form(ctx context.Context) error {
	first := c.node(0)
	for i, n := range c.members() {
		if err := n.start(); err != nil {
			return err
		}
		if i == 0 {
			if err := c.awaitReady(ctx, n, formTimeout); err != nil {
				return fmt.Errorf("%w\n%s", err, n.server.Log())
			}
			continue
		}
		if err := c.insist(ctx, first, formTimeout, "add", n.name); err != nil {
			return fmt.Errorf("%w\n%s", err, n.server.Log())
		}
	}
	first.mu.Lock()
	first.joins = true // from now on an empty folder of its must not begin another cluster
	first.mu.Unlock()
	return c.awaitAll(ctx, formTimeout)
}

// close stops every node; those that do not stop are killed.
func (c *cell) close() error {
	var errs []error
	for _, n := range c.nodes {
		if n.server.PID() != 0 {
			_ = syscall.Kill(n.server.PID(), syscall.SIGCONT) // gone is as good
		}
	}
	var stopping sync.WaitGroup
	results := make([]error, len(c.nodes))
	for i, n := range c.nodes {
		stopping.Go(func() { results[i] = n.stop(20 * time.Second) })
	}
	stopping.Wait()
	for _, n := range c.nodes {
		n.supervised.Wait()
		errs = append(errs, n.log.Close())
	}
	c.probe.CloseIdleConnections()
	return errors.Join(append(errs, results...)...)
}
