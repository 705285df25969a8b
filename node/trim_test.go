package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	"github.com/bongsu-im/bongsu/internal/clock"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/memory"
	"github.com/bongsu-im/bongsu/journal/raft"
)

// What goes, by what is known (DESIGN §5). The log of the table has entries 101
// to 200, one a minute and of 1,000 bytes each, looked at every tenth.
func TestTrimTarget(t *testing.T) {
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	var points []trimPoint
	for i := journal.Index(101); i <= 200; i += 10 {
		after := uint64(200 - i)
		points = append(points, trimPoint{index: i, time: now.Add(-time.Duration(after+1) * time.Minute), entriesAfter: after, bytesAfter: int64(after) * 1000})
	}
	rules := trimRules{keepEntries: 20, keepBytes: 1 << 20, maxBytes: 1 << 20, keepFor: 24 * time.Hour}
	usual := trimState{trimNeeds: trimNeeds{first: 101, floor: 200}, durable: 195, points: points}
	for _, c := range []struct {
		name   string
		change func(r *trimRules, s *trimState)
		want   journal.Index
	}{
		{"all but the newest, as everybody has it", func(*trimRules, *trimState) {}, 171},
		{"never past the view's last flush", func(_ *trimRules, s *trimState) { s.durable = 140 }, 140},
		{"never past it, however old", func(r *trimRules, s *trimState) { s.durable, r.keepFor = 140, time.Minute }, 140},
		{"never past it, however large", func(r *trimRules, s *trimState) { s.durable, r.maxBytes = 140, 5000 }, 140},
		{"a view that was never flushed", func(_ *trimRules, s *trimState) { s.durable = 0 }, 0},
		{"a member that is behind", func(_ *trimRules, s *trimState) { s.floor = 123 }, 123},
		{"a member that has nothing", func(_ *trimRules, s *trimState) { s.floor = 0 }, 0},
		{"a member behind the bound takes a snapshot", func(r *trimRules, s *trimState) { s.floor, r.maxBytes = 123, 60_000 }, 141},
		{"a member within the bound does not", func(r *trimRules, s *trimState) { s.floor, r.maxBytes = 143, 60_000 }, 143},
		{"few newest bytes stay", func(r *trimRules, s *trimState) { r.keepBytes = 5000 }, 191},
		{"many newest entries stay", func(r *trimRules, s *trimState) { r.keepEntries = 1000 }, 0},
		{"what is old goes, needed or not", func(r *trimRules, s *trimState) { s.floor, r.keepFor = 105, 30*time.Minute }, 161},
		{"everything is old", func(r *trimRules, s *trimState) { s.durable, r.keepFor = 200, time.Second }, 191},
		{"a single machine keeps its whole journal", func(_ *trimRules, s *trimState) { s.alone = true }, 0},
		{"however old and large it is", func(r *trimRules, s *trimState) { s.alone, r.keepFor, r.maxBytes = true, time.Minute, 1 }, 0},
		{"but for what a backup has", func(_ *trimRules, s *trimState) { s.alone, s.backup = true, 150 }, 150},
		{"and its view", func(_ *trimRules, s *trimState) { s.alone, s.backup, s.durable = true, 150, 120 }, 120},
		{"a backup bounds nobody else", func(_ *trimRules, s *trimState) { s.backup = 110 }, 171},
		{"trimmed already", func(_ *trimRules, s *trimState) { s.first = 180 }, 0},
		{"an empty log", func(_ *trimRules, s *trimState) { s.points = nil }, 0},
	} {
		r, s := rules, usual
		c.change(&r, &s)
		if got := trimTarget(r, s, now); got != c.want {
			t.Errorf("%s: up to %d, want %d", c.name, got, c.want)
		}
	}
}

// Who counts as another machine that has what is trimmed here.
func TestTrimNeeds(t *testing.T) {
	one, two, learner := raft.Member{Node: 1, Voter: true}, raft.Member{Node: 2, Voter: true}, raft.Member{Node: 3}
	for _, c := range []struct {
		members []raft.Member
		alone   bool
	}{
		{nil, true},
		{[]raft.Member{one}, true},
		{[]raft.Member{one, learner}, true},
		{[]raft.Member{one, two}, false},
		{[]raft.Member{one, two, learner}, false},
	} {
		if got := needsOf(raft.Status{First: 7, Members: c.members}, 9); got != (trimNeeds{first: 7, floor: 9, alone: c.alone}) {
			t.Errorf("with %v: %+v", c.members, got)
		}
	}
}

// appendRecords appends n records of about 1,000 bytes, a minute apart.
func appendRecords(t *testing.T, log journal.Log, n int) {
	t.Helper()
	lease, err := log.Lease(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		data, err := proto.Marshal(&journalv1.Record{TimeMs: time.Now().UnixMilli(), PreviousHash: make([]byte, 980)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := log.Append(t.Context(), lease, data); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // virtual
	}
}

func firstOf(t *testing.T, log journal.Log) journal.Index {
	t.Helper()
	for at := journal.Index(0); at < log.Last().Index; at++ {
		entries, err := log.Read(t.Context(), at, 1)
		if err == nil {
			return entries[0].Index
		}
		if !errors.Is(err, journal.ErrTrimmed) {
			t.Fatal(err)
		}
	}
	return log.Last().Index + 1
}

// The trimmer trims what may go after flushes, and by time without them; asks
// again when it could not find out; and leaves a single machine alone.
func TestTrimmer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memory.New(memory.Config{Shards: 2})
		j := disk.Open()
		defer j.Close()
		logs := []journal.Log{j.Log(0), j.Log(1)}
		for _, log := range logs {
			appendRecords(t, log, 200)
		}
		var fails atomic.Bool
		var said strings.Builder
		tr := newTrimmer(trimConfig{
			journal: j, shards: 2, clock: clock.System{}, logger: slog.New(slog.NewTextHandler(&said, nil)),
			rules: trimRules{keepEntries: 50, maxBytes: 1 << 20, keepFor: 24 * time.Hour},
			needs: func(_ context.Context, shard journal.ShardID) (trimNeeds, error) {
				if fails.Load() {
					return trimNeeds{}, errors.New("the loop is at the disk")
				}
				return trimNeeds{first: firstOf(t, logs[shard]), floor: logs[shard].Last().Index, alone: shard == 1}, nil
			},
		})
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- tr.run(ctx) }()
		mark := func(index journal.Index) []*journalv1.Mark {
			return []*journalv1.Mark{{Index: uint64(index)}, {Index: uint64(index)}}
		}
		first := firstOf(t, logs[0])
		fails.Store(true)
		tr.begin(mark(90)) // as at a start: known, and no round for it
		synctest.Wait()
		if said.Len() > 0 {
			t.Errorf("a round began at once: %q", said.String())
		}
		fails.Store(false)
		tr.begin(nil)
		time.Sleep(150 * time.Minute) // virtual: between two rounds at rest
		if got := firstOf(t, logs[0]); got != first {
			t.Errorf("before any flush it was trimmed up to %d", got)
		}
		fails.Store(true)
		tr.afterFlush(mark(logs[0].Last().Index))
		synctest.Wait()
		if got := firstOf(t, logs[0]); got != first || !strings.Contains(said.String(), "the loop is at the disk") {
			t.Errorf("with nothing known it was trimmed to %d; said %q", got, said.String())
		}
		fails.Store(false)
		tr.afterFlush(mark(100))
		time.Sleep(time.Minute) // virtual
		synctest.Wait()
		if got := firstOf(t, logs[0]); got != 101 {
			t.Errorf("after a flush at 100 the log begins with %d", got)
		}
		tr.afterFlush(mark(190))
		time.Sleep(time.Minute) // virtual
		synctest.Wait()
		if got := firstOf(t, logs[0]); got < 140 || got > 151 {
			t.Errorf("with 50 to be kept of 200 the log begins with %d", got)
		}
		time.Sleep(48 * time.Hour) // virtual: no flush comes, but time goes by
		if got := firstOf(t, logs[0]); got != 191 {
			t.Errorf("two days later the log begins with %d; the view is durable up to 190", got)
		}
		if got := firstOf(t, logs[1]); got != first {
			t.Errorf("the journal of a single machine was trimmed: it begins with %d", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A survey of a log finds where it is large, though it looks at few entries, and
// goes over indices that a journal has used for itself.
func TestSurvey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memory.New(memory.Config{Shards: 1})
		j := disk.Open()
		defer j.Close()
		log := j.Log(0)
		if points, err := survey(t.Context(), log, 1); err != nil || points != nil {
			t.Errorf("of an empty log: %v, %v", points, err)
		}
		for range 5 {
			disk.Usurp(0) // uses an index
			appendRecords(t, log, 40)
		}
		points, err := survey(t.Context(), log, 1)
		if err != nil {
			t.Fatal(err)
		}
		last := log.Last().Index
		if len(points) < 20 || len(points) > 2*trimPoints {
			t.Errorf("%d points", len(points))
		}
		for i, p := range points {
			want := int64(last-p.index) * 1000
			if i > 0 && (p.index <= points[i-1].index || p.time.Before(points[i-1].time)) {
				t.Errorf("point %d is %+v, the one before %+v", i, p, points[i-1])
			}
			if p.entriesAfter != uint64(last-p.index) || p.bytesAfter < want*9/10 || p.bytesAfter > want*11/10 {
				t.Errorf("behind entry %d are %d entries of %d bytes, it says %d of %d", p.index, last-p.index, want, p.entriesAfter, p.bytesAfter)
			}
		}
		if len(points) > 0 && last-points[len(points)-1].index > last/trimPoints+1 {
			t.Error(fmt.Sprint("the end was not looked at: ", points[len(points)-1]))
		}
	})
}
