package chat

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sort"
	"testing"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"google.golang.org/protobuf/proto"
)

// memTx is a state in memory. It is as strict as the contract: a value that Get
// returned is spoiled by the next call, one that Scan shows by the next step.
type memTx struct {
	values map[string][]byte
	keys   []string // ascending, if sorted
	sorted bool
	last   []byte // what Get returned before
	gets   int
	sets   int
	fail   error // returned by every call, if set
}

func newMemTx() *memTx { return &memTx{values: map[string][]byte{}} }

func (t *memTx) spoil() {
	for i := range t.last {
		t.last[i] = 0xee
	}
	t.last = nil
}

func (t *memTx) Get(key []byte) ([]byte, error) {
	t.spoil()
	t.gets++
	v, ok := t.values[string(key)]
	if t.fail != nil || !ok {
		return nil, t.fail
	}
	t.last = append(make([]byte, 0, len(v)), v...)
	return t.last, nil
}

func (t *memTx) Scan(low, high []byte, reverse bool, fn func(key, value []byte) bool) error {
	t.spoil()
	if t.fail != nil {
		return t.fail
	}
	if !t.sorted {
		t.keys = t.keys[:0]
		for k := range t.values {
			t.keys = append(t.keys, k)
		}
		slices.Sort(t.keys)
		t.sorted = true
	}
	from := sort.SearchStrings(t.keys, string(low))
	to := sort.SearchStrings(t.keys, string(high))
	for i := from; i < to; i++ {
		k := t.keys[i]
		if reverse {
			k = t.keys[to-1-(i-from)]
		}
		key, value := []byte(k), bytes.Clone(t.values[k])
		more := fn(key, value)
		for j := range key {
			key[j] = 0xee
		}
		for j := range value {
			value[j] = 0xee
		}
		if !more {
			return nil
		}
	}
	return nil
}

func (t *memTx) Set(key, value []byte) error {
	t.spoil()
	t.sets++
	if t.fail != nil {
		return t.fail
	}
	if _, ok := t.values[string(key)]; !ok {
		t.sorted = false
	}
	t.values[string(key)] = append(make([]byte, 0, len(value)), value...)
	return nil
}

func (t *memTx) Delete(key []byte) error {
	t.spoil()
	t.sets++
	if t.fail != nil {
		return t.fail
	}
	if _, ok := t.values[string(key)]; ok {
		t.sorted = false
		delete(t.values, string(key))
	}
	return nil
}

// difference tells the first entry in which two states differ; "" for none.
func (t *memTx) difference(o *memTx) string {
	for k, v := range t.values {
		if w, ok := o.values[k]; !ok || !bytes.Equal(v, w) {
			return fmt.Sprintf("key %x (%c): %x here, %x there", k, k[2], v, w)
		}
	}
	for k := range o.values {
		if _, ok := t.values[k]; !ok {
			return fmt.Sprintf("key %x (%c) is only there", k, k[2])
		}
	}
	return ""
}

// world is several shards, each with its state and its journal, and nothing
// else: what package shard is, without time, goroutines and disks.
type world struct {
	now    int64
	shards []*testShard
}

type testShard struct {
	state   *memTx
	records [][]byte
}

func newWorld(shards int) *world {
	w := &world{now: 1795380420000}
	for range shards {
		w.shards = append(w.shards, &testShard{state: newMemTx()})
	}
	return w
}

func (w *world) shardOf(p id.Partition) *testShard { return w.shards[p.Shard(len(w.shards))] }

func (w *world) shardFor(cmd *nodev1.Command) (*testShard, error) {
	switch k := cmd.GetKind().(type) {
	case *nodev1.Command_FinishEffects:
		return w.shards[int(k.FinishEffects.GetShard())%len(w.shards)], nil
	case *nodev1.Command_NoteTailLost:
		return w.shards[int(k.NoteTailLost.GetShard())%len(w.shards)], nil
	case *nodev1.Command_ActivateRules:
		return w.shards[int(k.ActivateRules.GetShard())%len(w.shards)], nil
	}
	p, err := Partition(cmd)
	if err != nil {
		return nil, err
	}
	return w.shardOf(p), nil
}

// do decides commands one after the other as one batch: one record a shard.
func (w *world) do(cmds ...*nodev1.Command) ([]Outcome, error) {
	var outs []Outcome
	events := map[*testShard][]*journalv1.Event{}
	for _, cmd := range cmds {
		s, err := w.shardFor(cmd)
		if no := (*Refusal)(nil); errors.As(err, &no) {
			outs = append(outs, Outcome{Reply: refusalReply(no)})
			continue
		}
		if err != nil {
			return nil, err
		}
		out, err := Step(s.state, Meta{TimeMs: w.now, Rules: RulesVersion}, cmd)
		if err != nil {
			return nil, err
		}
		events[s] = append(events[s], out.Events...)
		outs = append(outs, out)
	}
	for _, s := range w.shards {
		if len(events[s]) > 0 {
			s.record(w.now, events[s])
		}
	}
	return outs, nil
}

func (s *testShard) record(now int64, events []*journalv1.Event) {
	rec, err := marshal.Marshal(&journalv1.Record{Rules: RulesVersion, TimeMs: now, Events: events})
	if err != nil {
		panic(err)
	}
	s.records = append(s.records, rec)
}

// replay applies a shard's journal to a fresh state, as a replica does.
func (s *testShard) replay() (*memTx, []*nodev1.FeedItem, error) {
	state := newMemTx()
	var feed []*nodev1.FeedItem
	for i, raw := range s.records {
		rec := &journalv1.Record{}
		if err := proto.Unmarshal(raw, rec); err != nil {
			return nil, nil, err
		}
		items, asides, err := ApplyRecordWatched(state, rec)
		if err != nil || len(asides) > 0 {
			return nil, nil, fmt.Errorf("record %d: %v, set aside: %v", i, err, asides)
		}
		feed = append(feed, items...)
	}
	return state, feed, nil
}

// checkReplicas is invariant 5: what the owner staged is what the journal
// gives, byte for byte, however often it is read.
func (w *world) checkReplicas(t interface{ Fatalf(string, ...any) }) {
	for i, s := range w.shards {
		for range 2 {
			state, _, err := s.replay()
			if err != nil {
				t.Fatalf("invariant 5: replay of shard %d: %v", i, err)
			}
			if d := s.state.difference(state); d != "" {
				t.Fatalf("invariant 5: owner and replica of shard %d differ: %s", i, d)
			}
		}
	}
}

// outbox lists what waits in all shards.
func (w *world) outbox() (items []OutboxItem, shards []int, err error) {
	per := id.Partitions / len(w.shards)
	for i, s := range w.shards {
		low := id.Partition(i * per)
		high := low + id.Partition(per) - 1
		if i == len(w.shards)-1 {
			high = id.Partitions - 1
		}
		found, err := Outbox(s.state, low, high, 1<<20)
		if err != nil {
			return nil, nil, err
		}
		for _, it := range found {
			items, shards = append(items, it), append(shards, i)
		}
	}
	return items, shards, nil
}

func applyEffect(e *journalv1.Effect) *nodev1.Command {
	return &nodev1.Command{Kind: &nodev1.Command_ApplyEffect{ApplyEffect: &nodev1.ApplyEffect{Effect: e}}}
}

func finishEffects(shard int, keys ...[]byte) *nodev1.Command {
	return &nodev1.Command{Kind: &nodev1.Command_FinishEffects{FinishEffects: &nodev1.FinishEffects{Shard: uint32(shard), Keys: keys}}}
}

// unique makes the 12 bytes of a test's ID from its name.
func unique(name string) []byte {
	sum := sha256.Sum256([]byte("test " + name))
	return sum[:12]
}

func userID(login string) id.ID {
	return id.New(1, id.User, id.LoginPartition(login), unique("user "+login))
}

func deviceID(login, device string) id.ID {
	return id.New(1, id.Device, id.LoginPartition(login), unique("device "+login+"/"+device))
}

func clientID(name string) []byte {
	sum := sha256.Sum256([]byte("client " + name))
	b := sum[:16]
	b[6], b[8] = b[6]&0x0f|0x70, b[8]&0x3f|0x80 // version 7
	return b
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
