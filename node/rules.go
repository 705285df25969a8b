package node

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	"github.com/bongsu-im/bongsu/chat"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
)

// Invariant 5: a new version of the rules acts only from the record that activates
// it, written when every replica knows it. In a cluster an operator says when, as
// there is no way back from there to an older release; a machine that is alone
// does so when it starts.

// rulesOf is the version of the rules that holds where the view of a shard stands.
func (c *Core) rulesOf(shard int) uint32 { return max(c.View.Shard(shard).Mark().GetRules(), 1) }

// rules is the highest version that holds in any shard.
func (c *Core) rules() (v uint32) {
	for shard := range c.identity.Shards {
		v = max(v, c.rulesOf(shard))
	}
	return v
}

// knownRules is the highest version that the release of a member knows.
func knownRules(m *nodev1.Member) uint32 { return max(m.GetRules(), 1) }

// activateRules has shards decide by a version of the rules from now on.
func (c *Core) activateRules(ctx context.Context, version uint32, shards []int) error {
	do := c.Do
	if c.router != nil {
		do = c.router.doAgain
	}
	for _, shard := range shards {
		cmd := &nodev1.Command{Kind: &nodev1.Command_ActivateRules{ActivateRules: &nodev1.ActivateRules{Shard: uint32(shard), Version: version}}}
		reply, err := do(ctx, cmd)
		if err == nil && reply.GetError() != nil {
			err = refused{reply.GetError()}
		}
		if err != nil {
			return fmt.Errorf("activate rules %d in shard %d: %w", version, shard, err)
		}
	}
	return nil
}

// renewRules has a machine that is alone decide by the newest rules that it knows.
func (c *Core) renewRules(ctx context.Context) error {
	var older []int
	for shard := range c.identity.Shards {
		if c.rulesOf(shard) < chat.RulesVersion {
			older = append(older, shard)
		}
	}
	if len(older) == 0 {
		return nil
	}
	c.config.Logger.Info("activating rules; older releases cannot read what is written from now on", "rules", chat.RulesVersion, "shards", len(older))
	return c.activateRules(ctx, chat.RulesVersion, older)
}

// ActivateRules implements nodev1connect.ClusterServiceHandler.
func (s *clusterService) ActivateRules(ctx context.Context, _ *connect.Request[nodev1.ActivateRulesRequest]) (*connect.Response[nodev1.ActivateRulesResponse], error) {
	version := chat.RulesVersion
	holds := make([]uint32, s.c.core.identity.Shards) // as the leaders say
	for _, n := range s.c.states(ctx) {
		m := n.GetMember()
		if !n.GetUp() {
			return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("%s is not reached (%s): bring it back, replace or remove it; nothing was changed", m.GetName(), n.GetError()))
		}
		version = min(version, knownRules(n.GetNode().GetMember())) // as it says itself, now
		for _, sh := range n.GetNode().GetShards() {
			if n := int(sh.GetShard()); n < len(holds) && sh.GetRole() == "leader" {
				holds[n] = max(holds[n], sh.GetRules(), 1)
			}
		}
	}
	var older []int
	for shard, v := range holds {
		if v < version {
			older = append(older, shard) // one without a leader waits for it
		}
	}
	if err := s.c.core.activateRules(ctx, version, older); err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, err)
	}
	if len(older) > 0 {
		s.c.log.Info("rules were activated; older releases cannot take part any more", "rules", version, "shards", len(older))
	}
	return connect.NewResponse(&nodev1.ActivateRulesResponse{Version: version, Shards: uint32(len(older))}), nil
}
