package node_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/backup"
	"github.com/bongsu-im/bongsu/client"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/node"
)

// backupKeys makes a pair of keys.
func backupKeys(t *testing.T) (public string, private backup.Identities) {
	t.Helper()
	key, err := backup.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	private, err = backup.ParseIdentities(strings.NewReader(key.Private))
	if err != nil {
		t.Fatal(err)
	}
	return key.Public, private
}

// seeded makes a data folder with messages in it.
func seeded(t *testing.T, messages int) node.Config {
	t.Helper()
	cfg := node.Config{Data: filepath.Join(t.TempDir(), "data"), Shards: 4, Logger: slog.New(slog.DiscardHandler)}
	more(t, cfg, messages)
	return cfg
}

// more writes until the folder has so many messages.
func more(t *testing.T, cfg node.Config, messages int) {
	t.Helper()
	withCore(t, cfg, func(core *node.Core) {
		if err := node.Seed(t.Context(), core, node.SeedConfig{Accounts: 20, Rooms: 10, Members: 2, Messages: messages, Password: "seed-password", Seed: 1}); err != nil {
			t.Fatal(err)
		}
	})
}

func withCore(t *testing.T, cfg node.Config, do func(*node.Core)) {
	t.Helper()
	core, err := node.OpenCore(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := core.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	do(core)
	if err := core.Close(); err != nil {
		t.Fatal(err)
	}
}

// dump is everything that a folder's view holds, shard by shard.
func dump(t *testing.T, cfg node.Config) (all []string) {
	t.Helper()
	withCore(t, cfg, func(core *node.Core) {
		for s := range core.Shards.Shards() {
			var b bytes.Buffer
			r, err := core.View.Shard(s).Reader()
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Dump(func(k, v []byte) bool { fmt.Fprintf(&b, "%x=%x\n", k, v); return true }); err != nil {
				t.Fatal(err)
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			all = append(all, b.String())
		}
	})
	return all
}

func archiveOnce(t *testing.T, cfg node.Config, to, public string) backup.Stats {
	t.Helper()
	stats, err := node.Backup(t.Context(), cfg, node.BackupConfig{To: to, Recipients: []string{public}})
	if err != nil {
		t.Fatal(err)
	}
	return stats
}

// What is restored is what was archived, to the last byte of the view.
func TestRestoreGivesTheSameView(t *testing.T) {
	public, private := backupKeys(t)
	cfg := seeded(t, 3000)
	to := filepath.Join(t.TempDir(), "archive")
	first := archiveOnce(t, cfg, to, public)
	more(t, cfg, 3500)
	second := archiveOnce(t, cfg, to, public)
	if first.Entries == 0 || second.Entries == 0 || second.Bytes*2 > first.Bytes {
		t.Errorf("first %+v, then %+v: the second should hold only what is new", first, second)
	}
	want := dump(t, cfg)

	again := cfg
	again.Data = filepath.Join(t.TempDir(), "restored")
	r, err := node.Restore(t.Context(), again, node.RestoreConfig{From: to, Identities: private})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Problems) > 0 || r.Entries == 0 || len(r.Shards) != 4 {
		t.Errorf("%+v", r)
	}
	got := dump(t, again)
	for s := range want {
		if got[s] != want[s] || len(got[s]) == 0 {
			t.Errorf("shard %d: %d bytes of view instead of %d, or others", s, len(got[s]), len(want[s]))
		}
	}
	report, err := node.Check(t.Context(), again, func(string, int, int) {})
	if err != nil || !report.Whole() {
		t.Errorf("%v\n%s", err, report.Text())
	}
	// It is another cluster: its archive begins anew, beside the old one.
	if stats := archiveOnce(t, again, to, public); stats.Entries < int(r.Entries) {
		t.Errorf("the restored node archived %+v", stats)
	}
	last := cfg
	last.Data = filepath.Join(t.TempDir(), "ambiguous")
	if _, err := node.Restore(t.Context(), last, node.RestoreConfig{From: to, Identities: private}); err == nil || !strings.Contains(err.Error(), "--cluster") {
		t.Errorf("two clusters in one place: %v", err)
	}
	if _, err := node.Restore(t.Context(), last, node.RestoreConfig{From: to, Identities: private, Cluster: r.Cluster}); err != nil {
		t.Errorf("with the cluster named: %v", err)
	}
}

// A journal that was trimmed before it was archived: the archive begins with the
// views, and what is restored from it is the same all the same.
func TestRestoreBehindTrimmedJournals(t *testing.T) {
	public, private := backupKeys(t)
	cfg := seeded(t, 3000)
	withCore(t, cfg, func(core *node.Core) {
		if err := core.View.Flush(); err != nil {
			t.Fatal(err)
		}
		for s, mark := range core.View.Marks() {
			if err := core.Journal.Log(journal.ShardID(s)).Trim(t.Context(), journal.Index(mark.GetIndex())); err != nil {
				t.Fatal(err)
			}
		}
	})
	to := filepath.Join(t.TempDir(), "archive")
	more(t, cfg, 3300) // not archived, not trimmed
	archiving := cfg
	archiving.Backup = node.BackupConfig{To: to, Recipients: []string{public}, Every: 10 * time.Millisecond}
	more(t, archiving, 3600)
	more(t, archiving, 3900)
	want := dump(t, cfg)
	again := cfg
	again.Data = filepath.Join(t.TempDir(), "restored")
	r, err := node.Restore(t.Context(), again, node.RestoreConfig{From: to, Identities: private})
	if err != nil {
		t.Fatal(err)
	}
	behind := 0
	for _, s := range r.Shards {
		if s.Base == 0 || s.Index < s.Base {
			t.Errorf("shard %d: base %d, up to %d", s.Shard, s.Base, s.Index)
		}
		if s.Index > s.Base { // on a slow machine some views are taken at the very end
			behind++
		}
	}
	if behind == 0 {
		t.Error("nothing was archived behind the views")
	}
	got := dump(t, again)
	for s := range want {
		if got[s] != want[s] || len(got[s]) == 0 {
			t.Errorf("shard %d: %d bytes of view instead of %d, or others", s, len(got[s]), len(want[s]))
		}
	}
	more(t, again, 4200) // it goes on
	report, err := node.Check(t.Context(), again, func(string, int, int) {})
	if err != nil || !report.Whole() {
		t.Errorf("%v\n%s", err, report.Text())
	}
}

func TestRestoreUntil(t *testing.T) {
	public, private := backupKeys(t)
	cfg := seeded(t, 1000)
	to := filepath.Join(t.TempDir(), "archive")
	archiveOnce(t, cfg, to, public)
	whole := cfg
	whole.Data = filepath.Join(t.TempDir(), "whole")
	all, err := node.Restore(t.Context(), whole, node.RestoreConfig{From: to, Identities: private})
	if err != nil {
		t.Fatal(err)
	}
	cut := cfg
	cut.Data = filepath.Join(t.TempDir(), "cut")
	until := map[int]uint64{1: all.Shards[1].Index - 3}
	r, err := node.Restore(t.Context(), cut, node.RestoreConfig{From: to, Identities: private, UntilIndex: until})
	if err != nil {
		t.Fatal(err)
	}
	for s, end := range r.Shards {
		want := all.Shards[s].Index
		if s == 1 {
			want -= 3
		}
		if end.Index != want {
			t.Errorf("shard %d ends at %d, want %d", s, end.Index, want)
		}
	}
	withCore(t, cut, func(*node.Core) {}) // it serves
	early := cfg
	early.Data = filepath.Join(t.TempDir(), "early")
	r, err = node.Restore(t.Context(), early, node.RestoreConfig{From: to, Identities: private, UntilTime: time.Now().Add(-time.Hour)})
	if err != nil || r.Entries != 0 {
		t.Errorf("before the beginning: %d entries, %v", r.Entries, err)
	}
	other := cfg
	other.Data = filepath.Join(t.TempDir(), "other")
	if _, err := node.Restore(t.Context(), other, node.RestoreConfig{From: to, Identities: private, UntilIndex: map[int]uint64{9: 1}}); err == nil {
		t.Error("restored until a position of a shard that is not there")
	}
}

// Only an empty folder is restored into, and one that was not finished is begun
// again but never served.
func TestRestoreIntoAFolderInUse(t *testing.T) {
	public, private := backupKeys(t)
	cfg := seeded(t, 100)
	to := filepath.Join(t.TempDir(), "archive")
	archiveOnce(t, cfg, to, public)
	from := node.RestoreConfig{From: to, Identities: private}
	if _, err := node.Restore(t.Context(), cfg, from); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("over a data folder: %v", err)
	}
	// A damaged archive ends a restore half way.
	var segment string
	if err := filepath.Walk(to, func(p string, info os.FileInfo, err error) error {
		if strings.HasSuffix(p, ".segment.age") {
			segment = p
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(segment, good[:len(good)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	half := cfg
	half.Data = filepath.Join(t.TempDir(), "half")
	if _, err := node.Restore(t.Context(), half, from); err == nil || !strings.Contains(err.Error(), filepath.Base(segment)) {
		t.Errorf("from a damaged archive: %v", err)
	}
	if _, err := node.OpenCore(t.Context(), half, nil); err == nil || !strings.Contains(err.Error(), "restore it") {
		t.Errorf("a half restored folder was opened: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(half.Data, "journal")); err != nil {
		t.Fatal(err)
	}
	if _, err := node.OpenCore(t.Context(), half, nil); err == nil || !strings.Contains(err.Error(), "restore it") {
		t.Errorf("a folder that a restore had begun was opened: %v", err)
	}
	if err := os.WriteFile(segment, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := node.Restore(t.Context(), half, from); err != nil {
		t.Errorf("again, the archive being whole: %v", err)
	}
	withCore(t, half, func(*node.Core) {})
}

// A server archives by itself while it serves; people stay signed in on what is
// restored.
func TestServerArchivesByItself(t *testing.T) {
	public, private := backupKeys(t)
	to := filepath.Join(t.TempDir(), "archive")
	data := filepath.Join(t.TempDir(), "data")
	old := start(t, node.Config{Data: data, Shards: 4, Backup: node.BackupConfig{To: to, Recipients: []string{public}, Every: 10 * time.Millisecond}})
	mina, jun := join(t, old.URL(), "mina"), join(t, old.URL(), "jun")
	room, err := mina.OpenDirect(t.Context(), jun.UserID())
	if err != nil {
		t.Fatal(err)
	}
	say(t, mina, room.GetRoomId(), "before the fire")
	for metric(t, old.URL(), "bongsu_backup_lag_seconds") != "0" || metric(t, old.URL(), "bongsu_backup_bytes_total") == "0" {
		wait(t)
	}
	if n := metric(t, old.URL(), "bongsu_backup_failures_total"); n != "0" {
		t.Errorf("%s failures", n)
	}
	if err := old.stop(); err != nil {
		t.Fatal(err)
	}
	restored := filepath.Join(t.TempDir(), "restored")
	if _, err := node.Restore(t.Context(), node.Config{Data: restored}, node.RestoreConfig{From: to, Identities: private}); err != nil {
		t.Fatal(err)
	}
	now := start(t, node.Config{Data: restored})
	transport := &http.Transport{}
	again, err := client.New(client.Config{BaseURL: now.URL(), HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Close(); transport.CloseIdleConnections() })
	again.Resume(jun.Session())
	page, err := again.ListAfter(t.Context(), room.GetRoomId(), 0)
	if err != nil || len(page.GetMessages()) != 1 || page.GetMessages()[0].GetText() != "before the fire" {
		t.Errorf("with the session of before: %v, %v", page, err)
	}
}

// awaitArchived waits until a node's archive lacks nothing.
func awaitArchived(t *testing.T, n *running) {
	t.Helper()
	eventually(t, "archive everything", func() error {
		if lag := metric(t, n.URL(), "bongsu_backup_lag_seconds"); lag != "0" {
			return fmt.Errorf("the backup lags by %s s", lag)
		}
		return nil
	})
}

// grow adds a node to the cluster that n1 has begun.
func (c *nodes) grow(name string) {
	c.t.Helper()
	n := c.begin(name, "n1", 4)
	c.add("n1", name)
	select {
	case <-n.Serving():
	case <-time.After(60 * time.Second):
		c.t.Fatalf("%s does not serve within a minute", name)
	}
}

// Three nodes write one archive while ownership moves between them; all are lost;
// what is restored has everything, and grows again.
func TestAClusterIsRestoredFromItsArchive(t *testing.T) {
	public, private := backupKeys(t)
	to := filepath.Join(t.TempDir(), "archive")
	c := newNodes(t, "n1", "n2", "n3")
	c.backup = node.BackupConfig{To: to, Recipients: []string{public}, Every: 10 * time.Millisecond}
	c.start("n1", "", 4)
	ann, ben := join(t, c.run["n1"].URL(), "ann"), join(t, c.run["n1"].URL(), "ben")
	room, err := ann.OpenDirect(t.Context(), ben.UserID())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"one machine"}
	say(t, ann, room.GetRoomId(), want[0])
	for _, name := range []string{"n2", "n3"} {
		c.grow(name)
		want = append(want, "with "+name)
		say(t, ann, room.GetRoomId(), want[len(want)-1])
	}
	awaitArchived(t, c.run["n1"])
	if err := c.run["n1"].stop(); err != nil { // others own its shards now
		t.Fatal(err)
	}
	annElsewhere := signIn(t, c.run["n2"].URL(), "ann")
	want = append(want, "without n1")
	eventually(t, "send by another node", func() error {
		_, err := annElsewhere.Room(t.Context(), room.GetRoomId())
		return err
	})
	say(t, annElsewhere, room.GetRoomId(), want[len(want)-1])
	for _, name := range []string{"n2", "n3"} {
		awaitArchived(t, c.run[name])
	}
	for _, name := range []string{"n3", "n2"} {
		if err := c.run[name].stop(); err != nil {
			t.Log(err) // the last ones have nobody to give their shards to
		}
	}
	for _, name := range []string{"n1", "n2", "n3"} {
		if err := os.RemoveAll(filepath.Join(c.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := node.Restore(t.Context(), node.Config{Data: filepath.Join(c.dir, "n1"), Logger: slog.New(slog.DiscardHandler)}, node.RestoreConfig{From: to, Identities: private})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Problems) > 0 {
		t.Errorf("%v", r.Problems)
	}
	c.backup = node.BackupConfig{}
	c.start("n1", "", 4)
	c.grow("n2")
	for _, name := range []string{"n1", "n2"} {
		var texts []string
		for _, m := range list(t, signIn(t, c.run[name].URL(), "ben"), room.GetRoomId()) {
			texts = append(texts, m.GetText())
		}
		if got := strings.Join(texts, ", "); got != strings.Join(want, ", ") {
			t.Errorf("%s shows %q, want %q", name, got, strings.Join(want, ", "))
		}
	}
}

// Failures of the archive are shown and repeated, and stop nobody.
func TestArchiveOutOfReach(t *testing.T) {
	public, _ := backupKeys(t)
	dir := t.TempDir()
	to := filepath.Join(dir, "archive")
	if err := os.WriteFile(to, []byte("a file where the folder should be"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := start(t, node.Config{Data: filepath.Join(dir, "data"), Shards: 4, Backup: node.BackupConfig{To: to, Recipients: []string{public}, Every: 10 * time.Millisecond}})
	mina, jun := join(t, n.URL(), "mina"), join(t, n.URL(), "jun")
	room, err := mina.OpenDirect(t.Context(), jun.UserID())
	if err != nil {
		t.Fatal(err)
	}
	say(t, mina, room.GetRoomId(), "nobody archives this yet")
	for metric(t, n.URL(), "bongsu_backup_failures_total") == "0" {
		wait(t)
	}
	if lag := metric(t, n.URL(), "bongsu_backup_lag_seconds"); lag == "0" {
		t.Error("no lag is shown")
	}
	if err := os.Remove(to); err != nil {
		t.Fatal(err)
	}
	for metric(t, n.URL(), "bongsu_backup_lag_seconds") != "0" {
		wait(t)
	}
}

func TestBackupSettingsAreChecked(t *testing.T) {
	public, _ := backupKeys(t)
	for _, c := range []node.BackupConfig{
		{To: "somewhere"},
		{To: "somewhere", Recipients: []string{"age1nonsense"}},
		{To: "ftp://somewhere", Recipients: []string{public}},
		{Recipients: []string{public}},
		{To: "somewhere", Recipients: []string{public}, Every: -1},
	} {
		if _, err := node.New(node.Config{Data: t.TempDir(), Listen: "127.0.0.1:0", Backup: c}); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

// A single machine is told at its start what it does not have.
func TestSingleMachinesAreTold(t *testing.T) {
	public, _ := backupKeys(t)
	for told, b := range map[bool]node.BackupConfig{true: {}, false: {To: filepath.Join(t.TempDir(), "a"), Recipients: []string{public}}} {
		var log bytes.Buffer
		n := start(t, node.Config{Data: filepath.Join(t.TempDir(), "data"), Shards: 4, Backup: b, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(log.String(), "has no backup"); got != 1 && told || got != 0 && !told {
			t.Errorf("told %d times with %+v:\n%s", got, b, log.String())
		}
	}
}

func wait(t *testing.T) {
	t.Helper()
	select {
	case <-time.After(5 * time.Millisecond):
	case <-t.Context().Done():
		t.Fatal("the test is over")
	}
}

// metric reads one number of /metrics.
func metric(t *testing.T, url, name string) string {
	t.Helper()
	_, body := get(t, url+"/metrics")
	for _, line := range strings.Split(body, "\n") {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return value
		}
	}
	t.Fatalf("no metric %s", name)
	return ""
}
