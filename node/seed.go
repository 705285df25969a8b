package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/bongsu-im/bongsu/gateway/auth"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// SeedConfig says what Seed fills a store with. The same Seed gives the same
// IDs and words, so that seeding again over a half-seeded store completes it.
type SeedConfig struct {
	Accounts    int    // logins seed-000001 …, all with Password
	Rooms       int    // the first is between accounts 1 and 2, and so on around
	Members     int    // of each room: 2 makes direct rooms, more makes groups
	Messages    int    // over all rooms, round robin
	Bytes       int    // of each message's text (default 128)
	Password    string // at least 8 characters
	Seed        uint64
	Outstanding int // commands in flight (default 1,024)
	// Progress is called now and then, from one goroutine at a time.
	Progress func(what string, done, total int)
}

func (c *SeedConfig) check() error {
	if c.Bytes == 0 {
		c.Bytes = 128
	}
	if c.Outstanding == 0 {
		c.Outstanding = 1024
	}
	if c.Progress == nil {
		c.Progress = func(string, int, int) {}
	}
	switch {
	case c.Accounts < 2 || c.Accounts > 10_000_000:
		return fmt.Errorf("%d accounts: want 2 to 10,000,000", c.Accounts)
	case c.Members < 2 || c.Members > 100 || c.Members > c.Accounts:
		return fmt.Errorf("%d members a room: want 2 to 100, and no more than accounts", c.Members)
	case c.Rooms < 0 || c.Members == 2 && c.Rooms > c.Accounts:
		return fmt.Errorf("%d rooms: want at most one for each account", c.Rooms)
	case c.Messages < 0 || c.Messages > 0 && c.Rooms == 0:
		return errors.New("messages need rooms")
	case c.Bytes < 1 || c.Bytes > 10_000:
		return fmt.Errorf("%d bytes a message: want 1 to 10,000", c.Bytes)
	case len(c.Password) < 8:
		return errors.New("the password needs at least 8 characters")
	}
	return nil
}

// seeder carries what the steps share.
type seeder struct {
	SeedConfig
	core *Core
	hash string
	cell uint16
}

func (s *seeder) login(n int) string { return fmt.Sprintf("seed-%06d", n+1) }

// random gives the stream that belongs to one thing, whatever order things are made in.
func (s *seeder) random(kind, n int) *rand.Rand {
	return rand.New(rand.NewPCG(s.Seed, uint64(kind)<<56|uint64(n)))
}

func bytesOf(r *rand.Rand, n int) []byte {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.BigEndian.AppendUint64(b, r.Uint64())
	}
	return b[:n]
}

func (s *seeder) user(n int) id.ID {
	login := s.login(n)
	return id.New(s.cell, id.User, id.LoginPartition(login), bytesOf(s.random(1, n), 12))
}

func (s *seeder) room(n int) id.ID {
	if s.Members == 2 {
		return id.Direct(s.user(n%s.Accounts), s.user((n+1)%s.Accounts))
	}
	return id.Group(s.user(n%s.Accounts), bytesOf(s.random(2, n), 16))
}

// Seed fills the store of a core that serves nobody else.
func Seed(ctx context.Context, core *Core, cfg SeedConfig) error {
	if err := cfg.check(); err != nil {
		return err
	}
	hash, err := auth.HashPassword(cfg.Password, auth.Standard, core.config.Random)
	if err != nil {
		return fmt.Errorf("hash password: %w", err)
	}
	s := &seeder{SeedConfig: cfg, core: core, hash: hash, cell: core.identity.Cell}
	for _, step := range []struct {
		what    string
		total   int
		command func(n int) *nodev1.Command
	}{
		{"accounts", s.Accounts, s.signUp},
		{"rooms", s.Rooms, s.openRoom},
		{"messages", s.Messages, s.send},
	} {
		if err := s.all(ctx, step.what, step.total, step.command); err != nil {
			return fmt.Errorf("seed %s: %w", step.what, err)
		}
	}
	return nil
}

func (s *seeder) signUp(n int) *nodev1.Command {
	return &nodev1.Command{Kind: &nodev1.Command_SignUp{SignUp: &nodev1.SignUp{
		UserId: s.user(n).Bytes(), Login: s.login(n), DisplayName: fmt.Sprintf("Seed %d", n+1), PasswordHash: s.hash,
		DeviceId: id.New(s.cell, id.Device, s.user(n).Partition(), bytesOf(s.random(3, n), 12)).Bytes(), DeviceName: "seed",
	}}}
}

func (s *seeder) openRoom(n int) *nodev1.Command {
	creator, room := s.user(n%s.Accounts).Bytes(), s.room(n).Bytes()
	if s.Members == 2 {
		return &nodev1.Command{Actor: creator, Kind: &nodev1.Command_OpenDirect{OpenDirect: &nodev1.OpenDirect{
			RoomId: room, OtherId: s.user((n + 1) % s.Accounts).Bytes(),
		}}}
	}
	var members [][]byte
	for i := 1; i < s.Members; i++ {
		members = append(members, s.user((n+i)%s.Accounts).Bytes())
	}
	return &nodev1.Command{Actor: creator, Kind: &nodev1.Command_CreateGroup{CreateGroup: &nodev1.CreateGroup{
		RoomId: room, Title: fmt.Sprintf("Seed room %d", n+1), MemberIds: members,
	}}}
}

func (s *seeder) send(n int) *nodev1.Command {
	room := n % s.Rooms
	sender := (room + (n/s.Rooms)%s.Members) % s.Accounts
	clientID := bytesOf(s.random(4, n), 16)
	clientID[6], clientID[8] = clientID[6]&0x0f|0x80, clientID[8]&0x3f|0x80 // a version 8 UUID (RFC 9562 §5.8)
	text := fmt.Sprintf("%d ", n+1)
	text += strings.Repeat("봉수 bongsu ", s.Bytes/14+1)
	return &nodev1.Command{Actor: s.user(sender).Bytes(), Kind: &nodev1.Command_Send{Send: &nodev1.Send{
		RoomId: s.room(room).Bytes(), ClientId: clientID, Text: cut(text, s.Bytes),
	}}}
}

// cut shortens text to at most n bytes without splitting a character.
func cut(text string, n int) string {
	if n >= len(text) {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}

// all runs total commands with a bounded number in flight. One that the store
// refuses because it has it already is done; a busy inbox is tried again.
func (s *seeder) all(ctx context.Context, what string, total int, command func(n int) *nodev1.Command) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		next, done atomic.Int64
		wait       sync.WaitGroup
	)
	for range min(s.Outstanding, max(total, 1)) {
		wait.Go(func() {
			for ctx.Err() == nil {
				n := int(next.Add(1)) - 1
				if n >= total {
					return
				}
				if err := s.one(ctx, command(n)); err != nil {
					cancel(fmt.Errorf("%s %d: %w", what, n+1, err))
					return
				}
				if d := int(done.Add(1)); d%10_000 == 0 || d == total {
					s.Progress(what, d, total)
				}
			}
		})
	}
	wait.Wait()
	return context.Cause(ctx)
}

func (s *seeder) one(ctx context.Context, command *nodev1.Command) error {
	for {
		reply, err := s.core.Do(ctx, command)
		if err != nil {
			return err
		}
		switch e := reply.GetError(); {
		case e == nil || e.GetCode() == "already_exists":
			return nil
		case e.GetCode() != "resource_exhausted" && e.GetCode() != "unavailable":
			return refused{e}
		}
		if err := pause(ctx, reply.GetError()); err != nil {
			return err
		}
	}
}

// refused is a definite refusal as a Go error.
type refused struct{ e *edgev1.Error }

func (r refused) Error() string {
	return fmt.Sprintf("%s (%s): %s", r.e.GetCode(), r.e.GetInfo().GetReason(), r.e.GetMessage())
}
