package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/proof/child"
)

// command runs this binary as an operator would.
func command(ctx context.Context, bin string, args ...string) error {
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Env = child.PlainEnvironment(os.Environ())
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = errors.Join(err, ctx.Err())
		}
		return fmt.Errorf("%s: %w: %s", strings.Join(args[:min(2, len(args))], " "), err, strings.TrimSpace(complaint.String()))
	}
	return nil
}

// status is what the nodes that answer say of their shards, put together.
type status struct {
	// leaders are those of the shards, in order; empty where nobody leads.
	leaders []string
	// voters says, by name, in how many shards a node votes.
	voters map[string]int
}

// statusOf puts answers together. Who leads is whom the highest term names, and
// only by its own word: what others remember may be of one that is dead. names
// are those of the nodes' IDs, also of nodes that do not answer now.
func statusOf(answers []*nodev1.GetNodeResponse, names map[uint64]string) status {
	s := status{voters: map[string]int{}}
	var terms []uint64
	for _, a := range answers {
		for _, sh := range a.GetShards() {
			i := int(sh.GetShard())
			if i >= maxShards {
				continue
			}
			for len(terms) <= i {
				terms, s.leaders = append(terms, 0), append(s.leaders, "")
			}
			leads := sh.GetRole() == "leader"
			if sh.GetTerm() > terms[i] {
				terms[i], s.leaders[i] = sh.GetTerm(), ""
			}
			if !leads || sh.GetTerm() < terms[i] {
				continue
			}
			s.leaders[i] = names[a.GetMember().GetId()]
			for _, m := range sh.GetMembers() {
				if m.GetVoter() {
					s.voters[names[m.GetNode()]]++
				}
			}
		}
	}
	return s
}

// maxShards bounds the shards that a page shows.
const maxShards = 64
