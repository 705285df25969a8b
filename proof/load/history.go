package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/bongsu-im/bongsu/client"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/bongsu-im/bongsu/proof/child"
)

const (
	warmFetches = 5
	fetches     = 200
	fetchLimit  = 50
)

// History measures W5: a room with exactly Messages messages, of which the last
// 50 are fetched 5 times to warm up, then 200 times one after the other. It
// passes if each page is whole.
func History(ctx context.Context, cfg Config) (_ Result, err error) {
	if err := cfg.setDefaults(); err != nil {
		return Result{}, err
	}
	r, err := open(ctx, cfg, func(ctx context.Context, dir string) error { return seed(ctx, cfg, dir) })
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, r.shut()) }()
	ctx, cancel := r.guard(ctx)
	defer cancel()
	reader, room, err := r.longRoom(ctx)
	if err != nil {
		return Result{}, err
	}
	res := r.result("history", fmt.Sprintf("the last %d of %d messages of %d bytes, %d fetches", fetchLimit, cfg.Messages, cfg.Bytes, fetches), "fetched")
	for range warmFetches {
		if _, err := reader.fetch(ctx, room); err != nil {
			return Result{}, fmt.Errorf("fetch: %w", err)
		}
	}
	t, l := &tally{}, newLatencies()
	var seen observation
	seen.first = r.counters(ctx)
	if seen.before, err = readUsage(r.server.pids()...); err != nil {
		return Result{}, err
	}
	began := time.Now()
	l.over(window{begin: began})
	for range fetches {
		fetchBegan := time.Now()
		page, err := reader.fetch(ctx, room)
		ended := time.Now()
		l.record(0, ended, ended.Sub(fetchBegan))
		if err == nil {
			err = whole(page, cfg.Messages)
		}
		if err != nil {
			t.fail(err)
			continue
		}
		t.ops.Add(1)
	}
	w := window{began, began, time.Now()}
	if seen.after, err = readUsage(r.server.pids()...); err != nil {
		return Result{}, err
	}
	seen.last = r.counters(ctx)
	if ctx.Err() != nil {
		return Result{}, fmt.Errorf("measure: %w", context.Cause(ctx))
	}
	res.fill(w, t, l, seen)
	res.Passed = res.Errors == 0
	res.judge(historyGoals[cfg.Messages])
	return res, nil
}

func (p person) fetch(ctx context.Context, room string) (*edgev1.ListResponse, error) {
	return p.List(ctx, &edgev1.ListRequest{RoomId: room, Limit: fetchLimit})
}

// whole tells what is wrong with a page of the newest messages of a room of n.
func whole(page *edgev1.ListResponse, n int) error {
	messages := page.GetMessages()
	if len(messages) != min(n, fetchLimit) || page.GetLastSeq() != uint64(n) || page.GetHasMore() != (n > fetchLimit) {
		return fmt.Errorf("a page of %d messages, last seq %d, has more: %v", len(messages), page.GetLastSeq(), page.GetHasMore())
	}
	for i, m := range messages {
		if want := uint64(n - len(messages) + 1 + i); m.GetSeq() != want {
			return fmt.Errorf("message %d of the page has seq %d, want %d", i, m.GetSeq(), want)
		}
	}
	return nil
}

// seed fills the store of a server that is not running yet.
func seed(ctx context.Context, cfg Config, dir string) error {
	cfg.Progress("seeding", 0, cfg.Messages)
	cmd := exec.CommandContext(ctx, cfg.Bin, "admin", "seed", "--data", filepath.Join(dir, "data"), "--accounts", "2", "--rooms", "1", "--members", "2",
		"--messages", strconv.Itoa(cfg.Messages), "--bytes", strconv.Itoa(cfg.Bytes), "--password", password, "--seed", strconv.FormatUint(cfg.Seed, 10))
	cmd.Env = child.PlainEnvironment(cmd.Environ())
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("seed the store: %w\n%s", err, said.Bytes()[max(0, said.Len()-4096):])
	}
	cfg.Progress("seeding", cfg.Messages, cfg.Messages)
	return nil
}

// seedReader is the first account of a seeded store. In one that is given it
// must have the password bench-password.
const seedReader = "seed-000001"

// longRoom returns who reads, and a room with exactly the messages asked for.
func (r *rig) longRoom(ctx context.Context) (reader person, room string, err error) {
	quiet := func(int) client.ConnectOptions { return client.ConnectOptions{Queue: -1} }
	if r.cfg.Target != "" {
		people, err := r.people(ctx, 2, func(i int) string { return fmt.Sprintf("bench-history-%d", i) }, quiet)
		if err != nil {
			return person{}, "", err
		}
		room, err := r.fillRoom(ctx, people)
		return people[0], room, err
	}
	people, err := r.people(ctx, 1, func(int) string { return seedReader }, quiet)
	if err != nil {
		return person{}, "", err
	}
	rooms, err := people[0].Rooms(ctx)
	if err != nil {
		return person{}, "", fmt.Errorf("list rooms: %w", err)
	}
	for _, room := range rooms {
		if room.GetLastSeq() == uint64(r.cfg.Messages) {
			return people[0], room.GetRoomId(), nil
		}
	}
	return person{}, "", fmt.Errorf("%s should have a room of exactly %d messages, but has %d rooms without one", seedReader, r.cfg.Messages, len(rooms))
}

// fillRoom sends the messages to a new room, many at once: which comes first
// does not matter, that there are exactly so many does.
func (r *rig) fillRoom(ctx context.Context, people []person) (string, error) {
	room, err := people[0].CreateGroup(ctx, "bench history", []string{people[1].userID}, "")
	if err != nil {
		return "", fmt.Errorf("make a room: %w", err)
	}
	progress := func(done, total int) { r.cfg.Progress("messages", done, total) }
	err = each(ctx, r.cfg.Messages, 64, progress, func(ctx context.Context, k int) error {
		clientID, err := client.NewMessageID(time.Now(), r.cfg.random(k))
		if err != nil {
			return err
		}
		request := &edgev1.SendRequest{RoomId: room.GetRoomId(), ClientId: clientID, Text: body(fmt.Sprintf("message %d ", k+1), r.cfg.Bytes)}
		return patiently(ctx, func() error {
			_, err := people[k%2].Send(ctx, request)
			return err
		})
	})
	if err != nil {
		return "", fmt.Errorf("fill the room: %w", err)
	}
	return room.GetRoomId(), nil
}
