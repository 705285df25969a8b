// Package journaltest is the suite that every implementation of the journal
// contract must pass: it says in code what journal.Log says in prose.
//
// An implementation gives a Factory; the suite runs each clause as a subtest.
// What only some implementations can be made to do (a rival owner, a failing
// disk, a lost tail) is asked for through optional interfaces of Instance, and a
// clause whose interface is missing is skipped by name.
//
// It reads no private state: only the contract is tested.
package journaltest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/journal"
)

// patience bounds every wait of the suite; reaching it is a failure.
const patience = 30 * time.Second

// Factory makes an empty, open journal of so many shards. It registers its own
// clean-up.
type Factory func(t *testing.T, shards int) Instance

// Instance is one journal under test, through its restarts.
type Instance interface {
	// Journal is the one open now.
	Journal() journal.Journal
	// Reopen ends the process that has it and starts another: by Close, or by
	// kill, where only what was made durable survives.
	Reopen(t *testing.T, kill bool)
}

// Fencer makes the store of the open journal fail for good.
type Fencer interface {
	Fence(t *testing.T)
}

// Usurper lets another owner take a shard and append an entry.
type Usurper interface {
	Usurp(t *testing.T, shard journal.ShardID, data []byte)
}

// TailLoser ends the process, takes away what the shard has from the entry at p
// on, and starts another that goes on from what is left.
type TailLoser interface {
	LoseTail(t *testing.T, shard journal.ShardID, p journal.Position)
}

// Seed returns the seed of a random test, from BONGSU_SEED or the clock, and
// logs it for the replay.
func Seed(t testing.TB) uint64 {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("BONGSU_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("BONGSU_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("replay with BONGSU_SEED=%d", seed)
	return seed
}

// Run runs the whole suite.
func Run(t *testing.T, f Factory) {
	RunIn(t, f, func(t *testing.T, clause func(*testing.T)) { clause(t) })
}

// RunIn runs the whole suite, each clause as in runs it: in a bubble of
// testing/synctest, for one.
func RunIn(t *testing.T, f Factory, in func(t *testing.T, clause func(*testing.T))) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, Factory)
	}{
		{"LeaseBeforeAppend", leaseBeforeAppend},
		{"CommittedOrder", committedOrder},
		{"ReadWaits", readWaits},
		{"ReadIsBounded", readIsBounded},
		{"AppendErrors", appendErrors},
		{"EmptyAndLargest", emptyAndLargest},
		{"ReopenKeepsAcknowledged", reopenKeepsAcknowledged},
		{"TermsGrowByRestart", termsGrow},
		{"ContainsByTermRanges", containsByTermRanges},
		{"ContainsNotWhatWasLost", containsNotWhatWasLost},
		{"Trim", trim},
		{"TrimSurvivesReopen", trimSurvivesReopen},
		{"Marks", marks},
		{"ConflictingOwners", conflictingOwners},
		{"ManyShards", manyShards},
		{"Close", closing},
		{"Fencing", fencing},
		{"Scrub", scrub},
		{"UnknownShard", unknownShard},
		{"RandomWalk", randomWalk},
	} {
		t.Run(c.name, func(t *testing.T) { in(t, func(t *testing.T) { c.run(t, f) }) })
	}
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// done is a context that is over already: for calls that must not wait.
func done() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func mustLease(t *testing.T, l journal.Log) journal.Lease {
	t.Helper()
	lease, err := l.Lease(bounded(t))
	if err != nil {
		t.Fatalf("lease: %v", err)
	}
	if lease.Term == 0 {
		t.Fatal("lease of term 0")
	}
	return lease
}

func mustAppend(t *testing.T, l journal.Log, lease journal.Lease, data string) journal.Position {
	t.Helper()
	p, err := l.Append(bounded(t), lease, []byte(data))
	if err != nil {
		t.Fatalf("append %q: %v", data, err)
	}
	if p.Term != lease.Term || p.Index <= lease.Applied {
		t.Fatalf("append under %+v gave %+v", lease, p)
	}
	return p
}

// readTo reads everything above after up to the entry at last.
func readTo(t *testing.T, l journal.Log, after, last journal.Index) []journal.Entry {
	t.Helper()
	var all []journal.Entry
	for after < last {
		batch, err := l.Read(bounded(t), after, 1<<10)
		if err != nil {
			t.Fatalf("read after %d: %v", after, err)
		}
		if len(batch) == 0 {
			t.Fatalf("read after %d gave nothing and no error", after)
		}
		for _, e := range batch {
			if e.Index <= after {
				t.Fatalf("read after %d gave %d", after, e.Index)
			}
			after = e.Index
		}
		all = append(all, batch...)
	}
	return all
}

type acked struct {
	journal.Position
	data string
}

func expect(t *testing.T, l journal.Log, want []acked) {
	t.Helper()
	if len(want) == 0 {
		return
	}
	got := readTo(t, l, 0, want[len(want)-1].Index)
	if len(got) != len(want) {
		t.Fatalf("read %d entries, want %d", len(got), len(want))
	}
	for i, e := range got {
		if e.Position != want[i].Position || string(e.Data) != want[i].data {
			t.Fatalf("entry %d: got %+v %q, want %+v %q", i, e.Position, e.Data, want[i].Position, want[i].data)
		}
	}
}

func leaseBeforeAppend(t *testing.T, f Factory) {
	l := f(t, 1).Journal().Log(0)
	for _, forged := range []journal.Lease{{}, {Term: 1 << 40}} {
		if _, err := l.Append(bounded(t), forged, []byte("x")); !errors.Is(err, journal.ErrNotOwner) {
			t.Fatalf("append under the forged lease %+v: %v, want ErrNotOwner", forged, err)
		}
	}
	lease := mustLease(t, l)
	if lease.Applied != 0 {
		t.Fatalf("an empty log's lease wants %d applied", lease.Applied)
	}
	if l.Last() != (journal.Position{}) {
		t.Fatalf("an empty log ends at %+v", l.Last())
	}
	p := mustAppend(t, l, lease, "x")
	expect(t, l, []acked{{p, "x"}})
}

func committedOrder(t *testing.T, f Factory) {
	l := f(t, 1).Journal().Log(0)
	lease := mustLease(t, l)
	var want []acked
	for i := range 200 {
		data := fmt.Sprintf("entry %d", i)
		p := mustAppend(t, l, lease, data)
		if n := len(want); n > 0 && p.Index <= want[n-1].Index {
			t.Fatalf("index %d after %d", p.Index, want[n-1].Index)
		}
		if l.Last() != p {
			t.Fatalf("last is %+v after %+v was acknowledged", l.Last(), p)
		}
		if !l.Contains(p) {
			t.Fatalf("%+v was acknowledged and is not contained", p)
		}
		want = append(want, acked{p, data})
	}
	expect(t, l, want)
}

func readWaits(t *testing.T, f Factory) {
	l := f(t, 1).Journal().Log(0)
	lease := mustLease(t, l)
	first := mustAppend(t, l, lease, "first")

	if _, err := l.Read(done(), first.Index, 1); !errors.Is(err, context.Canceled) {
		t.Fatalf("read beyond the end under a cancelled context: %v", err)
	}
	type answer struct {
		entries []journal.Entry
		err     error
	}
	answers := make(chan answer, 8)
	for range cap(answers) {
		go func() {
			es, err := l.Read(bounded(t), first.Index, 1<<20)
			answers <- answer{es, err}
		}()
	}
	second := mustAppend(t, l, lease, "second")
	for range cap(answers) {
		a := <-answers
		if a.err != nil || len(a.entries) != 1 || a.entries[0].Position != second || string(a.entries[0].Data) != "second" {
			t.Fatalf("waiting read gave %+v, %v", a.entries, a.err)
		}
	}
}

func readIsBounded(t *testing.T, f Factory) {
	l := f(t, 1).Journal().Log(0)
	lease := mustLease(t, l)
	const size, count = 4000, 50
	for range count {
		mustAppend(t, l, lease, string(make([]byte, size)))
	}
	for _, maxBytes := range []int{0, 1, size, 3 * size, 10 * size} {
		es, err := l.Read(bounded(t), 0, maxBytes)
		if err != nil {
			t.Fatal(err)
		}
		if len(es) < 1 || len(es) > maxBytes/size+2 {
			t.Fatalf("maxBytes %d gave %d entries of %d bytes", maxBytes, len(es), size)
		}
	}
}

func appendErrors(t *testing.T, f Factory) {
	l := f(t, 1).Journal().Log(0)
	lease := mustLease(t, l)
	a := mustAppend(t, l, lease, "a")
	if _, err := l.Append(bounded(t), lease, make([]byte, journal.MaxEntryBytes+1)); !errors.Is(err, journal.ErrTooLarge) || !journal.Definite(err) {
		t.Fatalf("too large: %v", err)
	}
	if _, err := l.Append(done(), lease, []byte("never")); !journal.Definite(err) {
		t.Fatalf("append with a context that was over before: %v, want a definite error", err)
	}
	stale := lease
	stale.Term--
	if _, err := l.Append(bounded(t), stale, []byte("never")); !errors.Is(err, journal.ErrNotOwner) {
		t.Fatalf("stale lease: %v, want ErrNotOwner", err)
	}
	b := mustAppend(t, l, lease, "b")
	expect(t, l, []acked{{a, "a"}, {b, "b"}})
}

func emptyAndLargest(t *testing.T, f Factory) {
	in := f(t, 1)
	l := in.Journal().Log(0)
	lease := mustLease(t, l)
	large := bytes.Repeat([]byte("봉수"), journal.MaxEntryBytes)[:journal.MaxEntryBytes]
	var want []acked
	for _, data := range []string{"", string(large), "", "x", string(large)} {
		want = append(want, acked{mustAppend(t, l, lease, data), data})
	}
	expect(t, l, want)
	in.Reopen(t, true)
	expect(t, in.Journal().Log(0), want)
}

func reopenKeepsAcknowledged(t *testing.T, f Factory) {
	in := f(t, 2)
	var want []acked
	for round := range 6 {
		l := in.Journal().Log(1)
		lease := mustLease(t, l)
		if n := len(want); n > 0 && lease.Applied != want[n-1].Index {
			t.Fatalf("lease wants %d applied, the last acknowledged is %d", lease.Applied, want[n-1].Index)
		}
		expect(t, l, want)
		for i := range 20 {
			data := fmt.Sprintf("%d.%d", round, i)
			want = append(want, acked{mustAppend(t, l, lease, data), data})
		}
		in.Reopen(t, round%2 == 0)
	}
	l := in.Journal().Log(1)
	expect(t, l, want)
	for _, a := range want {
		if !l.Contains(a.Position) {
			t.Fatalf("%+v was acknowledged and is not contained after reopening", a.Position)
		}
	}
	if in.Journal().Log(0).Last() != (journal.Position{}) {
		t.Fatal("the other shard has entries")
	}
}

func termsGrow(t *testing.T, f Factory) {
	in := f(t, 1)
	var last journal.Term
	for i := range 6 {
		lease := mustLease(t, in.Journal().Log(0))
		if lease.Term <= last {
			t.Fatalf("term %d after %d", lease.Term, last)
		}
		if again := mustLease(t, in.Journal().Log(0)); again.Term < lease.Term {
			t.Fatalf("asking again gave term %d after %d", again.Term, lease.Term)
		}
		last = lease.Term
		in.Reopen(t, i%2 == 0)
	}
}

func containsByTermRanges(t *testing.T, f Factory) {
	in := f(t, 1)
	var want []acked
	for round := range 4 {
		l := in.Journal().Log(0)
		lease := mustLease(t, l)
		for i := range 3 {
			data := fmt.Sprintf("%d.%d", round, i)
			want = append(want, acked{mustAppend(t, l, lease, data), data})
		}
		if round < 3 {
			in.Reopen(t, true)
		}
	}
	l := in.Journal().Log(0)
	check := func() {
		t.Helper()
		for _, a := range want {
			if !l.Contains(a.Position) {
				t.Fatalf("does not contain %+v", a.Position)
			}
			for _, other := range []journal.Term{0, a.Term - 1, a.Term + 1, 1 << 50} {
				if l.Contains(journal.Position{Term: other, Index: a.Index}) {
					t.Fatalf("contains index %d of term %d, its term is %d", a.Index, other, a.Term)
				}
			}
		}
		end := want[len(want)-1]
		for _, beyond := range []journal.Index{end.Index + 1, end.Index + 100, 1 << 50} {
			if l.Contains(journal.Position{Term: end.Term, Index: beyond}) {
				t.Fatalf("contains %d, the end is %d", beyond, end.Index)
			}
		}
		if !l.Contains(journal.Position{}) {
			t.Fatal("does not contain the beginning")
		}
	}
	check()
	if err := l.Trim(bounded(t), want[7].Index); err != nil {
		t.Fatal(err)
	}
	check() // positions of the trimmed part are still told apart by term
	in.Reopen(t, true)
	l = in.Journal().Log(0)
	lease := mustLease(t, l)
	want = append(want, acked{mustAppend(t, l, lease, "after"), "after"})
	check()
}

func containsNotWhatWasLost(t *testing.T, f Factory) {
	in := f(t, 1)
	loser, ok := in.(TailLoser)
	if !ok {
		t.Skip("this implementation cannot be made to lose a tail")
	}
	l := in.Journal().Log(0)
	lease := mustLease(t, l)
	var want []acked
	for i := range 10 {
		data := fmt.Sprint(i)
		want = append(want, acked{mustAppend(t, l, lease, data), data})
	}
	kept, lost := want[:6], want[6:]
	loser.LoseTail(t, 0, lost[0].Position)
	l = in.Journal().Log(0)
	expect(t, l, kept)
	lease = mustLease(t, l)
	if lease.Applied != kept[5].Index {
		t.Fatalf("lease wants %d applied, what is left ends at %d", lease.Applied, kept[5].Index)
	}
	for range 10 { // another history grows over the lost one's indexes
		mustAppend(t, l, lease, "other")
	}
	for _, a := range kept {
		if !l.Contains(a.Position) {
			t.Fatalf("%+v is there and not contained", a.Position)
		}
	}
	for _, a := range lost {
		if l.Contains(a.Position) {
			t.Fatalf("%+v was lost and is contained", a.Position)
		}
	}
}

func trim(t *testing.T, f Factory) {
	l := f(t, 1).Journal().Log(0)
	lease := mustLease(t, l)
	var want []acked
	for i := range 10 {
		data := fmt.Sprint(i)
		want = append(want, acked{mustAppend(t, l, lease, data), data})
	}
	if err := l.Trim(bounded(t), want[4].Index); err != nil {
		t.Fatal(err)
	}
	for _, a := range want[:4] {
		if _, err := l.Read(bounded(t), a.Index, 1<<20); !errors.Is(err, journal.ErrTrimmed) {
			t.Fatalf("read after %d: %v, want ErrTrimmed", a.Index, err)
		}
	}
	if _, err := l.Read(bounded(t), 0, 1<<20); !errors.Is(err, journal.ErrTrimmed) {
		t.Fatalf("read from the beginning: %v, want ErrTrimmed", err)
	}
	rest := readTo(t, l, want[4].Index, want[9].Index)
	if len(rest) != 5 || rest[0].Position != want[5].Position {
		t.Fatalf("after trimming 5 of 10: %d entries, first %+v", len(rest), rest[0].Position)
	}
	if err := l.Trim(bounded(t), want[2].Index); err != nil {
		t.Fatalf("trimming what is trimmed: %v", err)
	}
	if rest := readTo(t, l, want[4].Index, want[9].Index); len(rest) != 5 {
		t.Fatalf("trimming less moved the trim: %d entries", len(rest))
	}
	// Everything may be trimmed; beyond the end there is nothing to forget.
	if err := l.Trim(bounded(t), want[9].Index+1000); err != nil {
		t.Fatal(err)
	}
	if l.Last() != want[9].Position {
		t.Fatalf("last is %+v after trimming all, was %+v", l.Last(), want[9].Position)
	}
	next := mustAppend(t, l, lease, "next")
	es, err := l.Read(bounded(t), want[9].Index, 1<<20)
	if err != nil || len(es) != 1 || es[0].Position != next {
		t.Fatalf("after trimming all: %+v, %v", es, err)
	}
}

func trimSurvivesReopen(t *testing.T, f Factory) {
	in := f(t, 1)
	l := in.Journal().Log(0)
	lease := mustLease(t, l)
	var last journal.Position
	for i := range 10 {
		last = mustAppend(t, l, lease, fmt.Sprint(i))
	}
	if err := l.Trim(bounded(t), last.Index); err != nil {
		t.Fatal(err)
	}
	in.Reopen(t, false)
	l = in.Journal().Log(0)
	lease = mustLease(t, l)
	if lease.Applied != last.Index || l.Last() != last {
		t.Fatalf("lease wants %d applied, last is %+v; before it was %+v", lease.Applied, l.Last(), last)
	}
	if _, err := l.Read(bounded(t), 0, 1); !errors.Is(err, journal.ErrTrimmed) {
		t.Fatalf("read from the beginning: %v, want ErrTrimmed", err)
	}
	next := mustAppend(t, l, lease, "next")
	es, err := l.Read(bounded(t), last.Index, 1<<20)
	if err != nil || len(es) != 1 || es[0].Position != next {
		t.Fatalf("after reopening: %+v, %v", es, err)
	}
}

func marks(t *testing.T, f Factory) {
	in := f(t, 3)
	for s := range 3 {
		l := in.Journal().Log(journal.ShardID(s))
		lease := mustLease(t, l)
		p := mustAppend(t, l, lease, "x")
		l.SetMark(journal.Mark{Position: p, Hash: [32]byte{byte(s)}})
	}
	if err := in.Journal().SyncMarks(); err != nil {
		t.Fatal(err)
	}
	if err := in.Journal().SyncMarks(); err != nil {
		t.Fatalf("syncing again: %v", err)
	}
	in.Reopen(t, true)
	for s := range 3 {
		l := in.Journal().Log(journal.ShardID(s))
		lease := mustLease(t, l) // a whole journal is not taken for a damaged one
		mustAppend(t, l, lease, "y")
	}
}

func conflictingOwners(t *testing.T, f Factory) {
	in := f(t, 1)
	rival, ok := in.(Usurper)
	if !ok {
		t.Skip("this implementation has no rival owners yet")
	}
	l := in.Journal().Log(0)
	lease := mustLease(t, l)
	a := mustAppend(t, l, lease, "a")
	rival.Usurp(t, 0, []byte("rival"))
	if _, err := l.Append(bounded(t), lease, []byte("b")); !errors.Is(err, journal.ErrNotOwner) {
		t.Fatalf("append under a lost lease: %v, want ErrNotOwner", err)
	}
	again := mustLease(t, l)
	if again.Term <= lease.Term {
		t.Fatalf("term %d after a rival's, was %d", again.Term, lease.Term)
	}
	es := readTo(t, l, a.Index, again.Applied)
	if len(es) != 1 || string(es[0].Data) != "rival" {
		t.Fatalf("the rival's entry is not what the lease wants applied: %+v", es)
	}
	if es[0].Term <= lease.Term || es[0].Term >= again.Term {
		t.Fatalf("the rival's term %d does not lie between %d and %d", es[0].Term, lease.Term, again.Term)
	}
	c := mustAppend(t, l, again, "c")
	expect(t, l, []acked{{a, "a"}, {es[0].Position, "rival"}, {c, "c"}})
}

func manyShards(t *testing.T, f Factory) {
	const shards, each = 16, 40
	in := f(t, shards)
	want := make([][]acked, shards)
	var wg sync.WaitGroup
	for s := range shards {
		wg.Go(func() {
			l := in.Journal().Log(journal.ShardID(s))
			lease, err := l.Lease(bounded(t))
			if err != nil {
				t.Errorf("shard %d: %v", s, err)
				return
			}
			for i := range each {
				data := fmt.Sprintf("shard %d entry %d", s, i)
				p, err := l.Append(bounded(t), lease, []byte(data))
				if err != nil {
					t.Errorf("shard %d: %v", s, err)
					return
				}
				want[s] = append(want[s], acked{p, data})
				l.SetMark(journal.Mark{Position: p})
			}
		})
		wg.Go(func() { // a follower of the same log
			l := in.Journal().Log(journal.ShardID(s))
			var after journal.Index
			for n := 0; n < each; {
				es, err := l.Read(bounded(t), after, 200)
				if err != nil {
					t.Errorf("shard %d: read: %v", s, err)
					return
				}
				for _, e := range es {
					if got := fmt.Sprintf("shard %d entry %d", s, n); string(e.Data) != got {
						t.Errorf("shard %d: read %q, want %q", s, e.Data, got)
						return
					}
					n, after = n+1, e.Index
				}
			}
		})
	}
	wg.Wait()
	in.Reopen(t, true)
	for s := range shards {
		expect(t, in.Journal().Log(journal.ShardID(s)), want[s])
	}
}

func closing(t *testing.T, f Factory) {
	in := f(t, 1)
	j := in.Journal()
	l := j.Log(0)
	lease := mustLease(t, l)
	p := mustAppend(t, l, lease, "x")

	reading := make(chan error, 1)
	go func() {
		_, err := l.Read(bounded(t), p.Index, 1)
		reading <- err
	}()
	var acks []acked
	appending := make(chan error, 1)
	begun := make(chan struct{})
	go func() {
		for i := 0; ; i++ {
			data := fmt.Sprint(i)
			p, err := l.Append(context.Background(), lease, []byte(data))
			if err != nil {
				appending <- err
				return
			}
			if acks = append(acks, acked{p, data}); i == 3 {
				close(begun)
			}
		}
	}()
	<-begun
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-reading; err != nil && !errors.Is(err, journal.ErrClosed) {
		t.Fatalf("read through close: %v, want ErrClosed", err)
	}
	// A journal with several nodes gives the ownership away before it stops.
	if err := <-appending; !errors.Is(err, journal.ErrUnknown) && !errors.Is(err, journal.ErrClosed) && !errors.Is(err, journal.ErrNotOwner) {
		t.Fatalf("append through close: %v, want ErrUnknown (or ErrClosed or ErrNotOwner when not begun)", err)
	}
	if _, err := l.Append(bounded(t), lease, []byte("x")); !errors.Is(err, journal.ErrClosed) {
		t.Fatalf("append after close: %v, want ErrClosed", err)
	}
	if _, err := l.Lease(bounded(t)); !errors.Is(err, journal.ErrClosed) {
		t.Fatalf("lease after close: %v, want ErrClosed", err)
	}
	if _, err := l.Read(bounded(t), 0, 1); !errors.Is(err, journal.ErrClosed) {
		t.Fatalf("read after close: %v, want ErrClosed", err)
	}
	if err := j.Close(); err != nil {
		t.Fatalf("closing again: %v", err)
	}
	in.Reopen(t, false)
	got := readTo(t, in.Journal().Log(0), p.Index, acks[len(acks)-1].Index)
	for i, a := range acks {
		if got[i].Position != a.Position || string(got[i].Data) != a.data {
			t.Fatalf("after close: %+v, acknowledged was %+v", got[i], a)
		}
	}
}

func fencing(t *testing.T, f Factory) {
	in := f(t, 2)
	fencer, ok := in.(Fencer)
	if !ok {
		t.Skip("this implementation cannot be made to fail")
	}
	l := in.Journal().Log(0)
	lease := mustLease(t, l)
	other := in.Journal().Log(1)
	otherLease := mustLease(t, other)
	p := mustAppend(t, l, lease, "x")
	fencer.Fence(t)

	var fenced *journal.FencedError
	// The failure is met by the next write at the latest; none is acknowledged.
	if _, err := l.Append(bounded(t), lease, []byte("y")); !errors.As(err, &fenced) {
		t.Fatalf("append to a failing store: %v, want *FencedError", err)
	}
	if journal.Definite(fenced) {
		t.Fatal("a fenced store's append counts as definite")
	}
	if _, err := other.Append(bounded(t), otherLease, []byte("z")); !errors.As(err, &fenced) {
		t.Fatalf("append to another shard of the store: %v, want *FencedError", err)
	}
	if _, err := l.Lease(bounded(t)); !errors.As(err, &fenced) {
		t.Fatalf("lease from a fenced store: %v, want *FencedError", err)
	}
	if _, err := l.Read(bounded(t), 1<<40, 1); !errors.As(err, &fenced) {
		t.Fatalf("waiting on a fenced store: %v, want *FencedError", err)
	}
	if err := in.Journal().SyncMarks(); !errors.As(err, &fenced) {
		t.Fatalf("marks of a fenced store: %v, want *FencedError", err)
	}
	in.Reopen(t, true)
	l = in.Journal().Log(0)
	es := readTo(t, l, 0, p.Index)
	if len(es) != 1 || string(es[0].Data) != "x" {
		t.Fatalf("after the failure: %+v", es)
	}
}

func scrub(t *testing.T, f Factory) {
	in := f(t, 2)
	for s := range 2 {
		l := in.Journal().Log(journal.ShardID(s))
		lease := mustLease(t, l)
		for i := range 25 {
			mustAppend(t, l, lease, fmt.Sprint(i))
		}
	}
	var most uint64
	if err := in.Journal().Scrub(bounded(t), func(n uint64) {
		if n < most {
			t.Errorf("progress went back from %d to %d", most, n)
		}
		most = n
	}); err != nil {
		t.Fatalf("scrub of a whole journal: %v", err)
	}
	if most < 50 {
		t.Fatalf("scrub read %d entries of 50", most)
	}
	if err := in.Journal().Scrub(done(), nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled scrub: %v", err)
	}
}

func unknownShard(t *testing.T, f Factory) {
	j := f(t, 2).Journal()
	defer func() {
		if recover() == nil {
			t.Fatal("the log of a shard that does not exist was given")
		}
	}()
	j.Log(2)
}

// randomWalk does everything at random, restarts included, against a model.
func randomWalk(t *testing.T, f Factory) {
	seed := Seed(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	in := f(t, 1)
	l := in.Journal().Log(0)
	lease := mustLease(t, l)
	var want []acked
	trimmed := 0
	for step := range 400 {
		switch op := rng.IntN(20); {
		case op < 12:
			var n [8]byte
			binary.BigEndian.PutUint64(n[:], rng.Uint64())
			data := string(bytes.Repeat(n[:], rng.IntN(300)))
			want = append(want, acked{mustAppend(t, l, lease, data), data})
		case op < 15 && len(want) > trimmed:
			from := trimmed + rng.IntN(len(want)-trimmed)
			after := journal.Index(0)
			if from > 0 {
				after = want[from-1].Index
			}
			es, err := l.Read(bounded(t), after, 1<<16)
			if err != nil {
				t.Fatalf("step %d: read after %d: %v", step, after, err)
			}
			for i, e := range es {
				if w := want[from+i]; e.Position != w.Position || string(e.Data) != w.data {
					t.Fatalf("step %d: entry %+v, want %+v", step, e.Position, w.Position)
				}
			}
		case op == 15 && len(want) > trimmed:
			n := trimmed + rng.IntN(len(want)-trimmed)
			if err := l.Trim(bounded(t), want[n].Index); err != nil {
				t.Fatalf("step %d: trim: %v", step, err)
			}
			trimmed = n + 1
		case op == 16 && len(want) > 0:
			l.SetMark(journal.Mark{Position: want[rng.IntN(len(want))].Position})
			if err := in.Journal().SyncMarks(); err != nil {
				t.Fatalf("step %d: marks: %v", step, err)
			}
		case op == 17:
			in.Reopen(t, rng.IntN(2) == 0)
			l = in.Journal().Log(0)
			lease = mustLease(t, l)
			if n := len(want); n > 0 && lease.Applied != want[n-1].Index {
				t.Fatalf("step %d: lease wants %d applied, want %d", step, lease.Applied, want[n-1].Index)
			}
		case len(want) > 0:
			p := want[rng.IntN(len(want))].Position
			if !l.Contains(p) || l.Contains(journal.Position{Term: p.Term + 1, Index: p.Index}) {
				t.Fatalf("step %d: contains is wrong about %+v", step, p)
			}
		}
	}
}
