package node

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
)

// A journal whose beginning was trimmed is as whole as any: its first record is
// taken at its word, and the running hash followed from there.
func TestCheckOfATrimmedJournal(t *testing.T) {
	fs := durable.NewCrashable()
	cfg := Config{Data: "data", FS: fs, Logger: slog.New(slog.DiscardHandler), Shards: 2}
	core, err := OpenCore(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := core.AwaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if err := Seed(ctx, core, SeedConfig{Accounts: 4, Rooms: 2, Members: 2, Messages: 50, Outstanding: 2, Password: "seed-password", Seed: 1}); err != nil {
		t.Fatal(err)
	}
	for n, share := range []journal.Index{2, 1} { // half of one, all of the other
		log := core.Journal.Log(journal.ShardID(n))
		if err := log.Trim(ctx, log.Last().Index/share); err != nil {
			t.Fatal(err)
		}
		if whole(ctx, log) {
			t.Fatalf("shard %d was not trimmed", n)
		}
	}
	if err := core.Close(); err != nil {
		t.Fatal(err)
	}
	report, err := Check(ctx, cfg, func(string, int, int) {})
	if err != nil || !report.Whole() || report.Entries == 0 {
		t.Errorf("%+v, %v", report, err)
	}
}
