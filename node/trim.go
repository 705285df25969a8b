package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	"github.com/bongsu-im/bongsu/internal/clock"
	"github.com/bongsu-im/bongsu/internal/mutant"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/raft"
)

// Trimming a journal forgets entries for good, so what may go is decided by one
// pure function (trimTarget) from what is known of a shard (trimState); the
// trimmer only gathers that and does what was decided (DESIGN §5).

// trimRules say how much of a shard's journal is kept that its own view does not
// need. The zero value means the defaults.
type trimRules struct {
	// Of the newest entries this much stays, whichever is less, so that a member
	// that was away for a moment goes on from the journal.
	keepEntries uint64 // 100,000
	keepBytes   int64  // 64 MiB
	// More than this never stays for a member that is behind: it takes a snapshot.
	maxBytes int64 // 512 MiB
	// No entry stays longer, whoever needs it: deletion is real.
	keepFor time.Duration // 3 days
}

func (r trimRules) withDefaults() trimRules {
	if r.keepEntries == 0 {
		r.keepEntries = 100_000
	}
	if r.keepBytes == 0 {
		r.keepBytes = 64 << 20
	}
	if r.maxBytes == 0 {
		r.maxBytes = 512 << 20
	}
	if r.keepFor == 0 {
		r.keepFor = 72 * time.Hour
	}
	return r
}

// trimNeeds is what a journal knows about the members of a shard.
type trimNeeds struct {
	first journal.Index // the first entry that is not trimmed
	floor journal.Index // every member that was heard of lately has all up to here
	alone bool          // no other machine is sure to have anything
}

// trimState is what a decision about one shard stands on.
type trimState struct {
	trimNeeds
	durable journal.Index // the view's last completed flush holds all up to here
	backup  journal.Index // a backup holds all up to here; 0: there is none
	points  []trimPoint   // some entries of the journal, in order
}

// trimPoint is an entry, and what would stay if the journal ended its trimmed
// part with it.
type trimPoint struct {
	index        journal.Index
	time         time.Time
	entriesAfter uint64
	bytesAfter   int64
}

// trimTarget decides up to which entry, included, a shard's journal may be
// trimmed now; 0: nothing goes.
//
// Above all, nothing goes that is not durable elsewhere: in this machine's own
// view and, where no other machine has it, in a backup (docs/decisions/0007).
// Within that, the members' needs, the newest entries and the bounds decide.
func trimTarget(r trimRules, s trimState, now time.Time) journal.Index {
	safe := s.durable
	if s.alone {
		safe = min(safe, s.backup)
	}
	want := min(s.floor, r.spare(s.points))
	want = max(want, r.tooMuch(s.points), r.tooOld(s.points, now))
	want = min(want, safe)
	if want < s.first {
		return 0
	}
	return want
}

// spare is the last entry that is not among the newest which stay.
func (r trimRules) spare(points []trimPoint) (upTo journal.Index) {
	for _, p := range points {
		if p.entriesAfter >= r.keepEntries || p.bytesAfter >= r.keepBytes {
			upTo = p.index
		}
	}
	return upTo
}

// tooMuch is the entry up to which the journal must go, whoever needs it, to be
// within maxBytes; 0 if it is.
func (r trimRules) tooMuch(points []trimPoint) journal.Index {
	for i, p := range points {
		if p.bytesAfter <= r.maxBytes {
			if i == 0 { // all of it is
				return 0
			}
			return p.index
		}
	}
	return 0
}

// tooOld is the last entry that is older than keepFor.
func (r trimRules) tooOld(points []trimPoint, now time.Time) (upTo journal.Index) {
	for _, p := range points {
		if now.Sub(p.time) > r.keepFor {
			upTo = p.index
		}
	}
	return upTo
}

// trimConfig says what a trimmer works with.
type trimConfig struct {
	journal journal.Journal
	shards  int
	// needs tells of a shard's members; its error means that nothing is known,
	// and nothing is trimmed.
	needs func(ctx context.Context, shard journal.ShardID) (trimNeeds, error)
	// backup tells up to which entry a backup holds everything; nil: there is none.
	backup func(shard journal.ShardID) journal.Index
	rules  trimRules
	clock  clock.Clock
	logger *slog.Logger
	every  time.Duration // the shortest time between two rounds; 0: a minute
}

const (
	trimEvery  = time.Minute
	trimAtRest = time.Hour // a round comes without flushes too: entries grow old
	trimPoints = 32        // entries looked at in a shard, at least if it has them; less than twice as many
)

// trimmer trims the journals of all shards after flushes of the view.
type trimmer struct {
	cfg     trimConfig
	flushed chan struct{} // holds one token after a flush

	mu    sync.Mutex
	marks []*journalv1.Mark // durable in the view, by shard; nil before it is known
}

func newTrimmer(cfg trimConfig) *trimmer {
	if cfg.backup == nil {
		cfg.backup = func(journal.ShardID) journal.Index { return 0 }
	}
	if cfg.every == 0 {
		cfg.every = trimEvery
	}
	cfg.rules = cfg.rules.withDefaults()
	return &trimmer{cfg: cfg, flushed: make(chan struct{}, 1)}
}

// begin says what the view had durable when it was opened. It begins no round: a
// start has better things to do, and the first flush is not to wait behind one.
func (t *trimmer) begin(marks []*journalv1.Mark) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.marks = marks
}

// Trimming trims the journal of a plane as Core does, for simulations, in which
// little is kept and an hour is long.
type Trimming struct{ t *trimmer }

// NewTrimming returns what trims j; Run has to run, and AfterFlush to hear of
// the view's flushes. keepEntries of the newest entries stay.
func NewTrimming(j *raft.Journal, shards int, keepEntries uint64, every time.Duration, log *slog.Logger) *Trimming {
	return &Trimming{newTrimmer(trimConfig{
		journal: j, shards: shards, needs: raftNeeds(j), rules: trimRules{keepEntries: keepEntries, maxBytes: 16 << 10},
		clock: clock.System{}, logger: log, every: every,
	})}
}

// AfterFlush is for PlaneConfig.
func (t *Trimming) AfterFlush(marks []*journalv1.Mark) { t.t.afterFlush(marks) }

// Run trims until ctx ends.
func (t *Trimming) Run(ctx context.Context) error { return t.t.run(ctx) }

// afterFlush is for view.Config.AfterFlush.
func (t *trimmer) afterFlush(marks []*journalv1.Mark) {
	t.begin(marks)
	select {
	case t.flushed <- struct{}{}:
	default:
	}
}

func (t *trimmer) durable(shard journal.ShardID) journal.Index {
	t.mu.Lock()
	defer t.mu.Unlock()
	if int(shard) >= len(t.marks) {
		return 0
	}
	return journal.Index(t.marks[shard].GetIndex())
}

// run trims until ctx ends.
func (t *trimmer) run(ctx context.Context) error {
	atRest := trimAtRest
	if mutant.On(mutant.TrimTooFar) {
		atRest = time.Second
	}
	rest := time.NewTicker(atRest)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-rest.C:
		case <-t.flushed:
		}
		for shard := range t.cfg.shards {
			t.trim(ctx, journal.ShardID(shard))
		}
		select { // a machine that flushes all the time has better things to do
		case <-ctx.Done():
			return nil
		case <-time.After(t.cfg.every):
		}
	}
}

// trim trims one shard. A failure is told and costs nothing but disk: the next
// round tries again.
func (t *trimmer) trim(ctx context.Context, shard journal.ShardID) {
	upTo, err := t.decide(ctx, shard)
	if err == nil && upTo > 0 {
		err = t.cfg.journal.Log(shard).Trim(ctx, upTo)
	}
	switch {
	case err == nil && upTo > 0:
		t.cfg.logger.Debug("journal trimmed", "shard", shard, "up_to", upTo)
	case err != nil && ctx.Err() == nil && !errors.Is(err, journal.ErrClosed):
		t.cfg.logger.Warn("the journal was not trimmed", "shard", shard, "error", err)
	}
}

func (t *trimmer) decide(ctx context.Context, shard journal.ShardID) (journal.Index, error) {
	s := trimState{durable: t.durable(shard), backup: t.cfg.backup(shard)}
	if mutant.On(mutant.TrimTooFar) {
		return t.cfg.journal.Log(shard).Last().Index, nil
	}
	if s.durable == 0 {
		return 0, nil
	}
	var err error
	if s.trimNeeds, err = t.cfg.needs(ctx, shard); err != nil {
		return 0, err
	}
	if s.alone && s.backup == 0 {
		return 0, nil
	}
	if s.points, err = survey(ctx, t.cfg.journal.Log(shard), s.first); err != nil {
		return 0, err
	}
	return trimTarget(t.cfg.rules, s, t.cfg.clock.Now()), nil
}

// survey looks at some entries of a journal, evenly spread, and estimates from
// their sizes what follows each.
func survey(ctx context.Context, log journal.Log, first journal.Index) ([]trimPoint, error) {
	last := log.Last().Index
	if last < first {
		return nil, nil
	}
	step := max((last-first)/(trimPoints-1), 1)
	var points []trimPoint
	var sizes []int64
	for at := first; at <= last; at += step {
		if len(points) > 0 && points[len(points)-1].index >= at {
			continue // the index before was an internal one
		}
		entries, err := log.Read(ctx, at-1, 1)
		if errors.Is(err, journal.ErrTrimmed) {
			return nil, nil // by someone else, meanwhile: the next round sees what is left
		}
		if err != nil {
			return nil, fmt.Errorf("look at entry %d: %w", at, err)
		}
		p, size, err := trimPointOf(entries[0], last)
		if err != nil {
			return nil, err
		}
		points, sizes = append(points, p), append(sizes, size)
	}
	var sum int64
	for i := len(points) - 1; i >= 0; i-- { // what follows is estimated by those that follow
		if n := int64(len(points) - 1 - i); n > 0 {
			points[i].bytesAfter = sum / n * int64(points[i].entriesAfter)
		}
		sum += sizes[i]
	}
	return points, nil
}

func trimPointOf(e journal.Entry, last journal.Index) (trimPoint, int64, error) {
	rec := &journalv1.Record{}
	if err := proto.Unmarshal(e.Data, rec); err != nil {
		return trimPoint{}, 0, fmt.Errorf("entry %d is no record: %w", e.Index, err)
	}
	return trimPoint{index: e.Index, time: time.UnixMilli(rec.GetTimeMs()), entriesAfter: uint64(last - e.Index)}, int64(len(e.Data)), nil
}

// raftNeeds asks the built-in journal.
func raftNeeds(j *raft.Journal) func(context.Context, journal.ShardID) (trimNeeds, error) {
	return func(ctx context.Context, shard journal.ShardID) (trimNeeds, error) {
		s, err := j.Status(ctx, shard)
		if err != nil {
			return trimNeeds{}, err
		}
		floor, err := j.TrimFloor(ctx, shard)
		if err != nil {
			return trimNeeds{}, err
		}
		return needsOf(s, floor), nil
	}
}

// needsOf reads a shard's status. A learner that was added and never came is
// nobody to rely on: as long as there is one voter, what it has is all there is.
func needsOf(s raft.Status, floor journal.Index) trimNeeds {
	voters := 0
	for _, m := range s.Members {
		if m.Voter {
			voters++
		}
	}
	return trimNeeds{first: s.First, floor: floor, alone: voters < 2}
}
