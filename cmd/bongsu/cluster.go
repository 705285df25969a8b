package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/bongsu-im/bongsu/internal/mtls"
	"github.com/bongsu-im/bongsu/node"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
)

type clusterCmd struct {
	Certs string        `help:"Folder of an identity of the cluster: a node's, or an operator's own (bongsu certs)." required:"" type:"path" placeholder:"DIR"`
	At    string        `help:"Peer address of any node, HOST:PORT." required:"" placeholder:"HOST:PORT"`
	Wait  time.Duration `help:"Give up after this." default:"10m"`

	Status   clusterStatusCmd   `cmd:"" help:"Who is in the cluster, and who holds and leads what."`
	Add      clusterAddCmd      `cmd:"" help:"Give a node that has joined its share of the shards."`
	Remove   clusterRemoveCmd   `cmd:"" help:"Take a node out of every shard, for good."`
	Replace  clusterReplaceCmd  `cmd:"" help:"Put a node in the place of one that has lost its disk."`
	Transfer clusterTransferCmd `cmd:"" help:"Have a node lead a shard."`
	Finish   clusterFinishCmd   `cmd:"" name:"finish-upgrade" help:"Decide by the newest rules that all nodes know; from then on no older release can take part."`
}

func (c *clusterCmd) open() (*node.ClusterClient, error) {
	identity, err := mtls.Open(c.Certs)
	if err != nil {
		return nil, err
	}
	return node.DialCluster(identity, c.At), nil
}

// run opens the cluster's service and bounds what is done with it.
func (c *clusterCmd) run(ctx context.Context, do func(context.Context, *node.ClusterClient) error) error {
	client, err := c.open()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, c.Wait)
	defer cancel()
	return do(ctx, client)
}

type clusterStatusCmd struct {
	JSON bool `name:"json" help:"Print one JSON object."`
}

func (c *clusterStatusCmd) Run(ctx context.Context, up *clusterCmd) error {
	return up.run(ctx, func(ctx context.Context, client *node.ClusterClient) error {
		state, err := client.Status(ctx)
		if err != nil {
			return err
		}
		s := statusOf(state)
		if c.JSON {
			return json.NewEncoder(os.Stdout).Encode(s)
		}
		return s.print(os.Stdout)
	})
}

// showProgress prints the steps of a change as they come.
func showProgress(p *nodev1.Progress) {
	if p.GetTotal() == 0 {
		fmt.Println(p.GetText())
		return
	}
	fmt.Printf("%3d/%d  %s\n", p.GetDone(), p.GetTotal(), p.GetText())
}

type clusterAddCmd struct {
	Name string `arg:"" help:"Node that was started with --join."`
}

func (c *clusterAddCmd) Run(ctx context.Context, up *clusterCmd) error {
	return up.run(ctx, func(ctx context.Context, client *node.ClusterClient) error {
		return client.Add(ctx, c.Name, showProgress)
	})
}

type clusterRemoveCmd struct {
	Name string `arg:"" help:"Node to take out."`
}

func (c *clusterRemoveCmd) Run(ctx context.Context, up *clusterCmd) error {
	return up.run(ctx, func(ctx context.Context, client *node.ClusterClient) error {
		return client.Remove(ctx, c.Name, showProgress)
	})
}

type clusterReplaceCmd struct {
	Name string `arg:"" help:"Node that is lost."`
	With string `help:"Node that takes its place; without it the one that has joined anew under the same name." placeholder:"NAME"`
	ID   uint64 `name:"id" help:"ID of the lost one, where several have the name."`
}

func (c *clusterReplaceCmd) Run(ctx context.Context, up *clusterCmd) error {
	return up.run(ctx, func(ctx context.Context, client *node.ClusterClient) error {
		return client.Replace(ctx, &nodev1.ReplaceNodeRequest{Name: c.Name, With: c.With, Id: c.ID}, showProgress)
	})
}

type clusterTransferCmd struct {
	Shard uint32 `help:"Number of the shard." required:""`
	To    string `help:"Node that shall lead it." required:"" placeholder:"NAME"`
}

func (c *clusterTransferCmd) Run(ctx context.Context, up *clusterCmd) error {
	return up.run(ctx, func(ctx context.Context, client *node.ClusterClient) error {
		return client.Transfer(ctx, c.Shard, c.To)
	})
}

type clusterFinishCmd struct{}

func (c *clusterFinishCmd) Run(ctx context.Context, up *clusterCmd) error {
	return up.run(ctx, func(ctx context.Context, client *node.ClusterClient) error {
		done, err := client.ActivateRules(ctx)
		if err != nil {
			return err
		}
		if done.GetShards() == 0 {
			fmt.Printf("rules %d, the newest that all nodes know, hold already\n", done.GetVersion())
			return nil
		}
		fmt.Printf("rules %d hold in %d more shards; older releases cannot take part any more\n", done.GetVersion(), done.GetShards())
		return nil
	})
}

// clusterStatus is what `cluster status --json` prints.
type clusterStatus struct {
	Cluster string `json:"cluster"`
	Whole   bool   `json:"whole"`
	// Rules is the lowest version of the rules that holds in a shard, Newest the
	// highest that all nodes know.
	Rules  uint32        `json:"rules"`
	Newest uint32        `json:"newest_rules"`
	Nodes  []nodeStatus  `json:"nodes"`
	Shards []shardStatus `json:"shards"`
}

type nodeStatus struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	Zone     string   `json:"zone"`
	Address  string   `json:"address"`
	URL      string   `json:"url"`
	Up       bool     `json:"up"`
	Ready    bool     `json:"ready"`
	Leads    int      `json:"leads"`
	Replicas int      `json:"replicas"`
	Version  string   `json:"version"`
	Leaving  bool     `json:"leaving"`   // it wants to lead nothing
	Full     bool     `json:"disk_full"` // nearly
	Error    string   `json:"error,omitempty"`
	Damage   []string `json:"damage"`
}

type shardStatus struct {
	Shard   int            `json:"shard"`
	Leader  string         `json:"leader"`
	Term    string         `json:"term"`
	Commit  string         `json:"commit"`
	Members []memberStatus `json:"members"`
}

type memberStatus struct {
	Node     string `json:"node"`
	ID       string `json:"id"`
	Voter    bool   `json:"voter"`
	Active   bool   `json:"active"`
	Match    string `json:"match"`
	Snapshot bool   `json:"snapshot"`
}

// statusOf puts together what the nodes have said. The cluster is whole when
// every shard has a leader who hears all its members, they are near, and no node
// tells of damage.
func statusOf(state *nodev1.GetClusterResponse) clusterStatus {
	s := clusterStatus{Cluster: hex.EncodeToString(state.GetCluster()), Whole: true, Nodes: []nodeStatus{}, Shards: []shardStatus{}}
	names := map[uint64]string{}
	for _, n := range state.GetNodes() {
		names[n.GetMember().GetId()] = n.GetMember().GetName()
	}
	nameOf := func(id uint64) string {
		if name, ok := names[id]; ok {
			return name
		}
		return "#" + strconv.FormatUint(id, 10)
	}
	leaders := map[uint32]*nodev1.ShardState{}
	for _, n := range state.GetNodes() {
		m := n.GetMember()
		row := nodeStatus{
			ID: strconv.FormatUint(m.GetId(), 10), Name: m.GetName(), Zone: m.GetZone(), Address: m.GetAddress(), URL: m.GetUrl(),
			Up: n.GetUp(), Ready: n.GetUp() && n.GetNode().GetReady() == "", Version: m.GetVersion(), Leaving: m.GetLeaving(), Full: m.GetFull(), Error: n.GetError(), Damage: []string{},
		}
		row.Damage = append(row.Damage, n.GetNode().GetDamage()...)
		for _, sh := range n.GetNode().GetShards() {
			switch sh.GetRole() {
			case "leader":
				row.Leads++
				row.Replicas++
				if l := leaders[sh.GetShard()]; l == nil || l.GetTerm() < sh.GetTerm() {
					leaders[sh.GetShard()] = sh
				}
			case "follower", "candidate", "learner":
				row.Replicas++
			}
		}
		if len(row.Damage) > 0 || !row.Up {
			s.Whole = false
		}
		s.Nodes = append(s.Nodes, row)
	}
	for _, n := range state.GetNodes() {
		if known := max(n.GetMember().GetRules(), 1); s.Newest == 0 || known < s.Newest {
			s.Newest = known
		}
	}
	for shard := range state.GetShards() {
		row := shardStatus{Shard: int(shard), Members: []memberStatus{}}
		l := leaders[shard]
		if l == nil {
			s.Whole = false
			s.Shards = append(s.Shards, row)
			continue
		}
		if rules := max(l.GetRules(), 1); s.Rules == 0 || rules < s.Rules {
			s.Rules = rules
		}
		row.Leader, row.Term, row.Commit = nameOf(l.GetLeader()), strconv.FormatUint(l.GetTerm(), 10), strconv.FormatUint(l.GetCommit(), 10)
		for _, m := range l.GetMembers() {
			row.Members = append(row.Members, memberStatus{
				Node: nameOf(m.GetNode()), ID: strconv.FormatUint(m.GetNode(), 10), Voter: m.GetVoter(), Active: m.GetActive(),
				Match: strconv.FormatUint(m.GetMatch(), 10), Snapshot: m.GetSnapshot(),
			})
			if !m.GetActive() || m.GetSnapshot() {
				s.Whole = false
			}
		}
		slices.SortFunc(row.Members, func(a, b memberStatus) int { return strings.Compare(a.Node, b.Node) })
		s.Shards = append(s.Shards, row)
	}
	return s
}

// print writes the status for people.
func (s clusterStatus) print(w io.Writer) error {
	word := "whole"
	if !s.Whole {
		word = "NOT WHOLE"
	}
	fmt.Fprintf(w, "cluster %s is %s\n\n", s.Cluster[:min(8, len(s.Cluster))], word)
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tZONE\tSTATE\tLEADS\tREPLICAS\tPEER ADDRESS\tPEOPLE REACH IT AT\tVERSION")
	for _, n := range s.Nodes {
		state := "ready"
		switch {
		case !n.Up:
			state = "DOWN"
		case len(n.Damage) > 0:
			state = "DAMAGED"
		case n.Full:
			state = "DISK NEARLY FULL"
		case n.Leaving:
			state = "leaving"
		case n.Replicas == 0:
			state = "waits to be added"
		case !n.Ready:
			state = "not ready"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n", n.Name, n.Zone, state, n.Leads, n.Replicas, n.Address, n.URL, n.Version)
	}
	fmt.Fprintln(t, "\t\t\t\t\t\t\t")
	if err := t.Flush(); err != nil {
		return err
	}
	t = tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "SHARD\tLEADER\tTERM\tCOMMITTED\tMEMBERS")
	for _, sh := range s.Shards {
		leader := sh.Leader
		if leader == "" {
			leader = "NOBODY"
		}
		var members []string
		for _, m := range sh.Members {
			switch text := m.Node; {
			case m.Snapshot:
				members = append(members, text+" (takes a snapshot)")
			case !m.Active:
				members = append(members, text+" (NOT HEARD)")
			case !m.Voter:
				members = append(members, text+" (learner)")
			default:
				members = append(members, text)
			}
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\n", sh.Shard, leader, sh.Term, sh.Commit, strings.Join(members, ", "))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if s.Rules > 0 && s.Newest > s.Rules {
		fmt.Fprintf(w, "\nall nodes know rules %d and %d hold: when there is no way back to be kept, bongsu cluster finish-upgrade\n", s.Newest, s.Rules)
	}
	for _, n := range s.Nodes {
		for _, d := range n.Damage {
			fmt.Fprintf(w, "\n%s: %s\n", n.Name, d)
		}
		if n.Error != "" {
			fmt.Fprintf(w, "\n%s: %s\n", n.Name, n.Error)
		}
	}
	return nil
}

// parseReach reads NAME=HOST:PORT.
func parseReach(list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, text := range list {
		name, address, ok := strings.Cut(text, "=")
		if !ok || mtls.CheckName(name) != nil {
			return nil, errors.New("--reach wants NAME=HOST:PORT, not " + strconv.Quote(text))
		}
		out[name] = address
	}
	return out, nil
}
