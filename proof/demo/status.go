package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/bongsu-im/bongsu/proof/child"
)

// Status is what `bongsu cluster status --json` prints, as far as it is shown
// here.
type Status struct {
	Whole  bool          `json:"whole"`
	Nodes  []NodeStatus  `json:"nodes"`
	Shards []ShardStatus `json:"shards"`
}

// NodeStatus is one node of a cluster.
type NodeStatus struct {
	Name   string   `json:"name"`
	Up     bool     `json:"up"`
	Damage []string `json:"damage"`
}

// ShardStatus is one shard of a cluster.
type ShardStatus struct {
	Shard   int            `json:"shard"`
	Leader  string         `json:"leader"`
	Members []MemberStatus `json:"members"`
}

// MemberStatus is one replica of a shard.
type MemberStatus struct {
	Node  string `json:"node"`
	Voter bool   `json:"voter"`
}

// command runs this binary as an operator would and returns what it printed.
func command(ctx context.Context, bin string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Env = child.PlainEnvironment(os.Environ())
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		why := strings.TrimSpace(complaint.String())
		if ctx.Err() != nil {
			err = errors.Join(err, ctx.Err())
		}
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(args[:min(2, len(args))], " "), err, why)
	}
	return out.Bytes(), nil
}

// parseStatus reads the last line of what the command printed.
func parseStatus(out []byte) (Status, error) {
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	var s Status
	if err := json.Unmarshal(lines[len(lines)-1], &s); err != nil {
		return s, fmt.Errorf("read the cluster's status: %w", err)
	}
	return s, nil
}

// voters counts the shards in which a node votes.
func (s Status) voters(name string) (n int) {
	for _, shard := range s.Shards {
		for _, m := range shard.Members {
			if m.Node == name && m.Voter {
				n++
			}
		}
	}
	return n
}

// knows tells whether a node belongs to the cluster.
func (s Status) knows(name string) bool {
	for _, n := range s.Nodes {
		if n.Name == name {
			return true
		}
	}
	return false
}

// leaders returns the leader of each shard, in order.
func (s Status) leaders() []string {
	out := make([]string, len(s.Shards))
	for _, shard := range s.Shards {
		if shard.Shard >= 0 && shard.Shard < len(out) {
			out[shard.Shard] = shard.Leader
		}
	}
	return out
}
