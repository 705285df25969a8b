package node

import (
	"context"
	"errors"
	"fmt"
	"strings"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/view"
)

// Report is what Check found in a data folder.
type Report struct {
	Data    string
	Shards  int
	Entries uint64 // journal entries read and verified
	Tables  uint64 // bytes of view tables read and verified
	// Missing are shards whose journal lacks its end; Damaged whatever else
	// could not be proven whole.
	Missing, Damaged []error
}

// Whole tells whether nothing was found.
func (r *Report) Whole() bool { return len(r.Missing)+len(r.Damaged) == 0 }

// Text is the report for people.
func (r *Report) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d shards, %d journal entries and %d bytes of view tables read\n", r.Data, r.Shards, r.Entries, r.Tables)
	for _, e := range r.Missing {
		fmt.Fprintf(&b, "MISSING  %v\n         put the newer disk back, or: bongsu admin accept-loss --data %s\n", e, r.Data)
	}
	for _, e := range r.Damaged {
		fmt.Fprintf(&b, "DAMAGED  %v\n", e)
	}
	if r.Whole() {
		b.WriteString("whole: every checksum, every entry and the running hashes agree\n")
	}
	return b.String()
}

// Check reads every byte of both stores of a data folder that nobody uses, and
// follows the running hash of every shard from its first record to its last. A
// damaged view is reported, not rebuilt.
func Check(ctx context.Context, cfg Config, progress func(what string, done, total int)) (*Report, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	if !Exists(cfg.FS, cfg.Data) {
		return nil, fmt.Errorf("%s is not a data folder", cfg.Data)
	}
	kind, err := journalKind(cfg.Journal)
	if err != nil {
		return nil, err
	}
	layout := Layout{cfg.Data}
	identity, release, err := layout.claim(cfg.FS, kind, alone(cfg.Shards, kind))
	if err != nil {
		return nil, err
	}
	defer release()
	r := &Report{Data: cfg.Data, Shards: identity.Shards}
	if err := r.journal(ctx, cfg, layout, identity, progress); err != nil {
		return nil, err
	}
	if _, err := cfg.FS.Stat(layout.View()); err == nil {
		r.view(ctx, cfg, layout, identity, progress)
	}
	return r, ctx.Err()
}

func (r *Report) journal(ctx context.Context, cfg Config, layout Layout, identity identity, progress func(string, int, int)) error {
	j, err := openJournal(ctx, cfg, layout, identity, nil, nil, cfg.Logger)
	if err != nil {
		r.Damaged = append(r.Damaged, fmt.Errorf("open journal: %w", err))
		return nil
	}
	r.sort(j.Damage())
	chains := make([]journal.Chain, identity.Shards)
	for i := range chains {
		if whole(ctx, j.Log(journal.ShardID(i))) {
			chains[i].From([32]byte{}) // every chain begins at its beginning, unless that was trimmed
		}
	}
	err = j.ScrubEntries(ctx, func(done uint64) {
		r.Entries = done
		progress("journal", int(done), int(done)+1)
	}, func(shard journal.ShardID, e journal.Entry) error { return chains[shard].Check(e) })
	if err != nil && ctx.Err() == nil {
		r.Damaged = append(r.Damaged, err)
	}
	return errors.Join(ctx.Err(), j.Close())
}

// whole tells whether a log has all entries from the first on.
func whole(ctx context.Context, l journal.Log) bool {
	if l.Last().Index == 0 {
		return true
	}
	_, err := l.Read(ctx, 0, 1)
	return !errors.Is(err, journal.ErrTrimmed)
}

// sort tells missing tails from other damage.
func (r *Report) sort(damage []error) {
	for _, d := range damage {
		var lost *journal.LostTailError
		if errors.As(d, &lost) {
			r.Missing = append(r.Missing, d)
		} else {
			r.Damaged = append(r.Damaged, d)
		}
	}
}

func (r *Report) view(ctx context.Context, cfg Config, layout Layout, identity identity, progress func(string, int, int)) {
	v, err := view.Open(view.Config{Dir: layout.View(), FS: cfg.FS, Shards: identity.Shards, Layout: viewLayout, Logger: cfg.Logger})
	if err == nil {
		err = v.Scrub(ctx, func(p view.Progress) {
			r.Tables = p.Done
			progress("view", int(p.Done), int(p.Total))
		})
		err = errors.Join(err, v.Close())
	}
	if err != nil && ctx.Err() == nil {
		r.Damaged = append(r.Damaged, fmt.Errorf("view (the next start sets it aside and rebuilds it): %w", err))
	}
}

// AcceptLoss lets the shards of a data folder that nobody uses go on whose
// journals lack their end. ask is shown what is missing, a line a shard, and
// decides; the number of shards that go on is returned. What is given up is
// recorded in their journals, and the view is made again, because it may hold
// what the journal no longer does.
func AcceptLoss(ctx context.Context, cfg Config, ask func(missing []string) bool) (int, error) {
	if err := cfg.fill(); err != nil {
		return 0, err
	}
	kind, err := journalKind(cfg.Journal)
	if err != nil {
		return 0, err
	}
	layout := Layout{cfg.Data}
	identity, release, err := layout.claim(cfg.FS, kind, alone(cfg.Shards, kind))
	if err != nil {
		return 0, err
	}
	losses, err := acceptLosses(ctx, cfg, layout, identity, ask)
	release()
	if err != nil || len(losses) == 0 {
		return 0, err
	}
	core, err := OpenCore(context.Background(), cfg, nil)
	if err != nil {
		return 0, fmt.Errorf("open after accepting the loss: %w", err)
	}
	err = core.AwaitReady(ctx)
	for i := 0; i < len(losses) && err == nil; i++ {
		err = core.recordLoss(ctx, losses[i])
	}
	return len(losses), errors.Join(err, core.Close())
}

func acceptLosses(ctx context.Context, cfg Config, layout Layout, identity identity, ask func([]string) bool) ([]loss, error) {
	j, err := openJournal(ctx, cfg, layout, identity, nil, nil, cfg.Logger)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	var lost []*journal.LostTailError
	var lines []string
	for _, d := range j.Damage() {
		var e *journal.LostTailError
		if errors.As(d, &e) {
			lost = append(lost, e)
			lines = append(lines, fmt.Sprintf("shard %d: entries %d to %d at least (term %d); %s", e.Shard, e.Have.Index+1, e.Proven.Index, e.Proven.Term, e.Proof))
		}
	}
	if err := j.Close(); err != nil {
		return nil, err
	}
	if len(lost) == 0 || !ask(lines) {
		return nil, nil
	}
	var losses []loss
	for _, e := range lost {
		given, err := acceptLoss(ctx, cfg, layout, identity, e.Shard)
		if err != nil {
			return nil, err
		}
		losses = append(losses, given)
	}
	if _, err := cfg.FS.Stat(layout.View()); err == nil {
		if _, err := view.SetAside(cfg.FS, layout.View(), cfg.Clock); err != nil {
			return nil, fmt.Errorf("set the view aside: %w", err)
		}
	}
	return losses, nil
}

// recordLoss writes into the journal what was given up.
func (c *Core) recordLoss(ctx context.Context, l loss) error {
	reply, err := c.Do(ctx, &nodev1.Command{Kind: &nodev1.Command_NoteTailLost{NoteTailLost: &nodev1.NoteTailLost{
		Shard: uint32(l.shard), ProvenTerm: uint64(l.proven.Term), ProvenIndex: uint64(l.proven.Index), Proof: l.proof,
	}}})
	if err == nil && reply.GetError() != nil {
		err = refused{reply.GetError()}
	}
	if err != nil {
		return fmt.Errorf("record the loss of shard %d: %w", l.shard, err)
	}
	return nil
}
