package node

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/backup"
	"github.com/bongsu-im/bongsu/internal/clock"
	"github.com/bongsu-im/bongsu/internal/mtls"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/raft"
)

// A machine that is alone forgets of its journal what is archived, and nothing
// else; the archive is continued all the same, and what is restored from it too.
func TestJournalIsTrimmedBehindTheArchive(t *testing.T) {
	key, err := backup.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	identities, err := backup.ParseIdentities(strings.NewReader(key.Private))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	authority, err := mtls.NewAuthority(time.Now())
	if err == nil {
		err = authority.Issue(filepath.Join(dir, "certs"), "n1", nil, time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	to := BackupConfig{To: filepath.Join(dir, "archive"), Recipients: []string{key.Public}, Every: 10 * time.Millisecond}
	cfg := Config{
		Data: filepath.Join(dir, "data"), Shards: 4, Logger: slog.New(slog.DiscardHandler), Backup: to,
		Cluster: &ClusterConfig{Certs: filepath.Join(dir, "certs"), Zone: "a", Listen: l.Addr().String()},
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	core := filled(t, cfg, 1000)
	for s := range core.identity.Shards { // archived, but not trimmed: the rules keep what is new
		end := core.Journal.Log(journal.ShardID(s)).Last().Index
		for core.archive.upTo(journal.ShardID(s)) < end {
			if wait(t.Context(), 5*time.Millisecond) != nil {
				t.Fatal("not archived")
			}
		}
		if got := core.trimmer.cfg.backup(journal.ShardID(s)); got < end {
			t.Errorf("the trimmer is told of index %d, %d is archived", got, end)
		}
	}
	if err := core.View.Flush(); err != nil {
		t.Fatal(err)
	}
	j := core.Journal.(*raft.Journal)
	greedy := newTrimmer(trimConfig{journal: j, shards: 4, needs: raftNeeds(j), backup: (*archiver)(nil).upTo, rules: trimRules{keepFor: 1}, clock: clock.System{}, logger: cfg.Logger})
	greedy.afterFlush(core.View.Marks())
	for s := range core.identity.Shards {
		greedy.trim(t.Context(), journal.ShardID(s))
		if _, err := core.Journal.Log(journal.ShardID(s)).Read(t.Context(), 0, 1); err != nil {
			t.Errorf("shard %d was trimmed without an archive: %v", s, err)
		}
	}
	greedy.cfg.backup = core.archive.upTo
	for s := range core.identity.Shards {
		greedy.trim(t.Context(), journal.ShardID(s))
		if _, err := core.Journal.Log(journal.ShardID(s)).Read(t.Context(), 0, 1); !errors.Is(err, journal.ErrTrimmed) {
			t.Errorf("shard %d was not trimmed: %v", s, err)
		}
	}
	if err := core.Close(); err != nil {
		t.Fatal(err)
	}
	core = filled(t, cfg, 1200)
	want := dumped(t, core)
	if err := core.Close(); err != nil { // archives what is left
		t.Fatal(err)
	}
	again := Config{Data: filepath.Join(dir, "restored"), Logger: cfg.Logger}
	r, err := Restore(t.Context(), again, RestoreConfig{From: to.To, Identities: identities})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range r.Shards {
		if s.Base != 0 {
			t.Errorf("shard %d was archived anew from index %d", s.Shard, s.Base)
		}
	}
	core = filled(t, again, 0)
	if got := dumped(t, core); !bytes.Equal(got, want) || len(got) == 0 {
		t.Errorf("%d bytes of view instead of %d, or others", len(got), len(want))
	}
	if err := core.Close(); err != nil {
		t.Fatal(err)
	}
}

// filled opens a core and writes until it has so many messages.
func filled(t *testing.T, cfg Config, messages int) *Core {
	t.Helper()
	core, err := OpenCore(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := core.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if messages > 0 {
		if err := Seed(t.Context(), core, SeedConfig{Accounts: 20, Rooms: 10, Members: 2, Messages: messages, Password: "seed-password", Seed: 1}); err != nil {
			t.Fatal(err)
		}
	}
	return core
}

// dumped is everything that the views hold.
func dumped(t *testing.T, core *Core) []byte {
	t.Helper()
	var b bytes.Buffer
	for s := range core.identity.Shards {
		r, err := core.View.Shard(s).Reader()
		if err != nil {
			t.Fatal(err)
		}
		err = r.Dump(func(k, v []byte) bool { b.Write(k); b.Write(v); return true })
		if err := errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}
