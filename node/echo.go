package node

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/bongsu-im/bongsu/gateway/auth"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/services/echo"
)

const (
	echoLogin = "echo"
	echoName  = "메아리"
	// echoKeyFile in the keys' folder holds the password.
	echoKeyFile = "echo"
)

// echoFriend is the account of the echo friend.
type echoFriend struct {
	user     id.ID
	password string
}

// provisionEcho makes sure that the echo friend has an account and a password
// that only this folder knows. It returns nil if there is to be no echo, or if
// someone else already has its login.
func (n *Node) provisionEcho(ctx context.Context, core *Core) (*echoFriend, error) {
	if !n.cfg.Echo || len(core.Lost()) > 0 {
		return nil, nil
	}
	password, err := n.echoPassword()
	if err != nil {
		return nil, fmt.Errorf("echo friend's password: %w", err)
	}
	reply, err := core.Query(ctx, &nodev1.Query{Kind: &nodev1.Query_Credential{Credential: &nodev1.CredentialQuery{Login: echoLogin}}})
	if err != nil {
		return nil, fmt.Errorf("look for the echo friend: %w", err)
	}
	if c := reply.GetCredential(); c != nil && len(c.GetUserId()) > 0 {
		user, err := id.FromBytes(id.User, c.GetUserId())
		if err != nil {
			return nil, fmt.Errorf("echo friend's account: %w", err)
		}
		if ours, err := auth.VerifyPassword(c.GetPasswordHash(), password); err != nil || !ours {
			n.cfg.Logger.Warn("the login of the echo friend belongs to someone else, or its password file is lost; running without", "login", echoLogin)
			return nil, nil
		}
		return &echoFriend{user, password}, nil
	}
	return n.signUpEcho(ctx, core, password)
}

func (n *Node) signUpEcho(ctx context.Context, core *Core, password string) (*echoFriend, error) {
	hash, err := auth.HashPassword(password, auth.Standard, n.cfg.Random)
	if err != nil {
		return nil, err
	}
	var unique [24]byte
	if _, err := io.ReadFull(n.cfg.Random, unique[:]); err != nil {
		return nil, err
	}
	partition := id.LoginPartition(echoLogin)
	user := id.New(core.identity.Cell, id.User, partition, unique[:12])
	reply, err := core.Do(ctx, &nodev1.Command{Kind: &nodev1.Command_SignUp{SignUp: &nodev1.SignUp{
		UserId: user.Bytes(), Login: echoLogin, DisplayName: echoName, PasswordHash: hash, Bot: true,
		DeviceId: id.New(core.identity.Cell, id.Device, partition, unique[12:]).Bytes(), DeviceName: "server",
	}}})
	if err == nil && reply.GetError() != nil {
		err = refused{reply.GetError()}
	}
	if err != nil {
		return nil, fmt.Errorf("sign up the echo friend: %w", err)
	}
	return &echoFriend{user, password}, nil
}

// echoPassword reads the password from the keys' folder, or makes it.
func (n *Node) echoPassword() (string, error) {
	name := filepath.Join(Layout{n.cfg.Data}.Keys(), echoKeyFile)
	b, err := durable.ReadFile(n.cfg.FS, name)
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return string(b), err
	}
	var random [24]byte
	if _, err := io.ReadFull(n.cfg.Random, random[:]); err != nil {
		return "", err
	}
	password := base64.RawURLEncoding.EncodeToString(random[:])
	return password, durable.WriteFile(n.cfg.FS, name, []byte(password), 0o600)
}

// echoLook is how often a node of several looks whether the echo friend is its own.
const echoLook = 500 * time.Millisecond

// keepEcho runs the echo friend on one node of a cluster: the one that owns his
// account's shard. For a moment two may answer; that is two echoes of one call.
func (n *Node) keepEcho(ctx context.Context, core *Core, friend *echoFriend) {
	if core.cluster == nil {
		n.runEcho(ctx, friend)
		return
	}
	shard := friend.user.Partition().Shard(core.identity.Shards)
	tick := time.NewTicker(echoLook)
	defer tick.Stop()
	for {
		if core.Shards.Owns(shard) {
			n.echoWhile(ctx, friend, tick.C, func() bool { return core.Shards.Owns(shard) })
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// echoWhile runs the echo friend until ctx ends or ours, asked at each tick, is
// false.
func (n *Node) echoWhile(ctx context.Context, friend *echoFriend, tick <-chan time.Time, ours func() bool) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); n.runEcho(ctx, friend) }()
	for ctx.Err() == nil && ours() {
		select {
		case <-tick:
		case <-ctx.Done():
		}
	}
	cancel()
	<-ended
}

// runEcho keeps the echo friend alive: it is a guest of the process, so what
// it does wrong is logged, and it starts anew after a pause.
func (n *Node) runEcho(ctx context.Context, friend *echoFriend) {
	for pause := time.Second; ctx.Err() == nil; pause = min(2*pause, time.Minute) {
		err := n.echoOnce(ctx, friend)
		if ctx.Err() != nil {
			return
		}
		n.cfg.Logger.Warn("the echo friend stopped", "error", err, "again_in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

func (n *Node) echoOnce(ctx context.Context, friend *echoFriend) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return echo.Run(ctx, echo.Config{
		BaseURL: n.insideURL, Login: echoLogin, Password: friend.password,
		Logger: n.cfg.Logger.With("service", "echo"),
	})
}
