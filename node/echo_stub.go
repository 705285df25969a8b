package node

import (
	"context"

	"github.com/bongsu-im/bongsu/internal/id"
)

type echoFriend struct{ user id.ID }

func (n *Node) provisionEcho(ctx context.Context, core *Core) (*echoFriend, error) { return nil, nil }
func (n *Node) runEcho(ctx context.Context, friend *echoFriend) {}
