package node

import (
	"context"
	"io"
	"log/slog"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/internal/durable"
)

// Bit rot under a running core is found by the scrub, and the store fenced,
// although nobody reads what is damaged.
func TestScrubFindsRotNobodyReads(t *testing.T) {
	fs := durable.NewCrashable()
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	core, err := OpenCore(context.Background(), Config{Data: "data", FS: fs, Logger: logger, ScrubEvery: 10 * time.Millisecond}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = core.Close() }() // a fenced store says so again
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := core.AwaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if err := Seed(ctx, core, SeedConfig{Accounts: 4, Rooms: 2, Members: 2, Messages: 200, Password: "seed-password", Seed: 1}); err != nil {
		t.Fatal(err)
	}
	if err := core.View.Flush(); err != nil {
		t.Fatal(err)
	}
	dir := Layout{"data"}.View()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	rotten := 0
	for _, name := range names {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		f, err := fs.OpenReadWrite(path.Join(dir, name), "")
		if err != nil {
			t.Fatal(err)
		}
		one := make([]byte, 1)
		if _, err := f.ReadAt(one, 100); err != nil {
			t.Fatal(err)
		}
		one[0] ^= 0x10
		if _, err := f.WriteAt(one, 100); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		rotten++
	}
	if rotten == 0 {
		t.Fatal("no table to damage")
	}
	select {
	case <-core.View.Fenced():
	case <-ctx.Done():
		t.Fatal("the scrub did not notice")
	}
}
