package drill

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// upgrade rolls to another release, newer or older.
func upgrade(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	version, err := versionOf(ctx, f.Bin)
	if err != nil {
		return err
	}
	if !slices.Contains(w.result.Versions, version) {
		w.result.Versions = append(w.result.Versions, version)
	}
	retried := w.account.retried()
	if err := rollTo(ctx, w, r, f.Bin); err != nil {
		return err
	}
	r.Proof = fmt.Sprintf("to %s: %s, %d messages were sent again", version, r.Proof, w.account.retried()-retried)
	return nil
}

// versionOf asks a binary what it is.
func versionOf(ctx context.Context, bin string) (string, error) {
	out, err := exec.CommandContext(ctx, bin, "version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", bin, err)
	}
	return strings.TrimPrefix(strings.TrimSpace(string(out)), "bongsu "), nil
}

// rollTo stops and starts one node after the other, with another binary if one is
// named.
func rollTo(ctx context.Context, w *clusterWorld, r *FaultRecord, bin string) error {
	from := time.Now()
	for _, n := range w.cell.members() {
		r.Nodes = append(r.Nodes, n.name)
		if err := n.stop(20 * time.Second); err != nil {
			r.wrong("%v", err)
		}
		if bin != "" {
			n.run(bin)
		}
		if err := n.start(); err != nil {
			return err
		}
		if err := w.cell.awaitAll(ctx, wholeTimeout); err != nil {
			r.wrong("%v", err)
			return nil
		}
	}
	longest := w.account.longestWait(from, time.Now())
	r.LongestWaitMs = float64(longest) / float64(time.Millisecond)
	r.fired(true, "each stopped by SIGTERM and started; the longest send took %v", longest.Round(time.Millisecond))
	return nil
}

// finish activates the newest rules. A node that is started with the release
// before then must not serve anybody, and is whole again with the newer one.
func finish(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	n := w.cell.node(0)
	before, err := w.rules(ctx)
	if err != nil {
		return err
	}
	if before[0] >= before[1] {
		return fmt.Errorf("rules %d hold and %d are known: there is nothing to activate", before[0], before[1])
	}
	w.awaitFlying(ctx)
	from := time.Now()
	if _, err := w.cell.operate(ctx, n, 30*time.Second, "finish-upgrade"); err != nil {
		r.wrong("%v", err)
		return nil
	}
	r.LongestWaitMs = float64(w.account.longestWait(from, time.Now())) / float64(time.Millisecond)
	after, err := w.rules(ctx)
	if err != nil {
		return err
	}
	r.fired(after[0] == before[1], "rules %d, then %d", before[0], after[0])
	acked := w.account.acknowledged()
	rest(ctx, time.Second)
	if w.account.acknowledged() == acked {
		r.wrong("nothing was acknowledged for a second after the rules were activated")
	}
	last := w.cell.node(w.cell.size - 1)
	r.Nodes = []string{last.name}
	newest := last.binary()
	if err := last.stop(20 * time.Second); err != nil {
		r.wrong("%v", err)
	}
	last.run(f.Bin)
	mark := last.logSize()
	if err := last.start(); err != nil {
		return err
	}
	served := w.cell.awaitReady(ctx, last, 8*time.Second) == nil
	if served {
		r.wrong("%s serves with a release that does not know the rules", last.name)
	}
	if said := last.said(mark); !strings.Contains(said, "rules") {
		r.wrong("%s does not say why it does not serve", last.name)
	}
	r.Proof += fmt.Sprintf("; with the release before, %s served: %v", last.name, served)
	if err := last.kill(); err != nil {
		return err
	}
	last.run(newest)
	return last.start()
}

// rules are the version that holds and the newest that all nodes know.
func (w *clusterWorld) rules(ctx context.Context) (v [2]uint32, err error) {
	out, err := w.cell.operate(ctx, w.cell.node(0), 5*time.Second, "status", "--json")
	if err != nil {
		return v, err
	}
	var s struct {
		Rules  uint32 `json:"rules"`
		Newest uint32 `json:"newest_rules"`
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return v, fmt.Errorf("read the status: %w", err)
	}
	return [2]uint32{s.Rules, s.Newest}, nil
}
