package peers

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The real server on the centrifuge library, by every workload.
func TestCentrifugeByEveryWorkload(t *testing.T) {
	plan := Plan{WarmUp: 100 * time.Millisecond, Window: time.Second, Bytes: 128, Dir: t.TempDir()}
	for _, name := range []string{"w1-5", "w2-50", "w3-5", "w5-100"} {
		w, err := ParseWorkload(name)
		if err != nil {
			t.Fatal(err)
		}
		run, err := Measure(t.Context(), testCentrifuge(t), w, plan)
		if err != nil {
			t.Fatal(err)
		}
		if run.Ops == 0 || run.Errors > 0 || run.About.Durable || !strings.Contains(run.About.Version, "centrifuge") {
			t.Errorf("%s: %+v", name, run)
		}
		t.Logf("%s: %s", name, run.line(w))
	}
}

// ejabberdFolder is one that the database's user can enter, unlike t.TempDir.
func ejabberdFolder(t *testing.T) string {
	dir, err := os.MkdirTemp("", "peers-test-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What we take for ejabberd's acknowledgement is worth what docs/peers.md says:
// after kill -9 both sides' archives have every message. Were it not, we would
// compare ourselves with something that does less.
func TestEjabberdAcknowledgementSurvivesKill(t *testing.T) {
	e := &Ejabberd{}
	if lacks := e.Lacks(); lacks != "" {
		t.Skip("ejabberd: " + lacks)
	}
	if testing.Short() {
		t.Skip("starts ejabberd and PostgreSQL; left out by -short")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	t.Cleanup(func() {
		// The server was killed; the database must stop as it should.
		if err := e.Stop(); err != nil && !strings.HasPrefix(err.Error(), "ejabberd had ended by itself: signal: killed") {
			t.Error(err)
		}
	})
	if err := e.Start(ctx, ejabberdFolder(t)); err != nil {
		t.Fatal(err)
	}
	const pairs, enough = 20, 2000
	senders, err := e.Pairs(ctx, pairs, func(int, []byte) {})
	if err != nil {
		t.Fatal(err)
	}
	acked := make([][]string, pairs)
	var count atomic.Int64
	var wg sync.WaitGroup
	for i, s := range senders {
		wg.Go(func() {
			for n := 0; ; n++ {
				text := fmt.Sprintf("pair %d message %d", i, n)
				if s.Send(ctx, text) != nil {
					return // killed
				}
				acked[i] = append(acked[i], text)
				count.Add(1)
			}
		})
	}
	for count.Load() < enough {
		if !sleepUntil(ctx, time.Now().Add(time.Millisecond)) {
			t.Fatal(context.Cause(ctx))
		}
	}
	if err := e.server.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	rows, err := e.database.query(ctx, "ejabberd", "select username || ' ' || txt from archive")
	if err != nil {
		t.Fatal(err)
	}
	stored := map[string]bool{}
	for row := range strings.Lines(rows) {
		stored[strings.TrimSpace(row)] = true
	}
	total, missing := 0, 0
	for i, texts := range acked {
		for _, text := range texts {
			total++
			for side := range 2 {
				if !stored[xmppUser(2*i+side)+" "+text] {
					if missing++; missing < 5 {
						t.Errorf("%q was acknowledged, but %s does not have it", text, xmppUser(2*i+side))
					}
				}
			}
		}
	}
	t.Logf("%d acknowledged, %d missing of %d", total, missing, 2*total)
	if total < enough {
		t.Errorf("only %d messages were acknowledged: the test shows nothing", total)
	}
}

// Every workload against the real ejabberd, both kinds.
func TestEjabberdByEveryWorkload(t *testing.T) {
	if lacks := (&Ejabberd{}).Lacks(); lacks != "" {
		t.Skip("ejabberd: " + lacks)
	}
	if testing.Short() {
		t.Skip("starts ejabberd and PostgreSQL; left out by -short")
	}
	plan := Plan{WarmUp: 100 * time.Millisecond, Window: time.Second, Bytes: 128, Dir: ejabberdFolder(t)}
	for name, stock := range map[string]bool{"w1-5": true, "w2-50": false, "w3-5": true, "w5-100": false} {
		w, err := ParseWorkload(name)
		if err != nil {
			t.Fatal(err)
		}
		run, err := Measure(t.Context(), &Ejabberd{Stock: stock}, w, plan)
		if err != nil {
			t.Fatal(err)
		}
		if run.Ops == 0 || run.Errors > 0 || !run.About.Durable {
			t.Errorf("%s: %+v", name, run)
		}
		t.Logf("%s: %s", name, run.line(w))
	}
}
