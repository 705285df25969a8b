package view

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/chat"
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// benchShards is what a machine has by default.
const benchShards = 16

// rooms of two, and what sends to them in records of some commands each.
type bench struct {
	b     testing.TB
	s     *Store
	rooms [benchShards][]benchRoom
	index [benchShards]uint64
	now   int64
	rng   *rand.Rand
}

type benchRoom struct {
	room id.ID
	pair [2]id.ID
}

func newBench(b testing.TB, s *Store, rooms int) *bench {
	w := &bench{b: b, s: s, now: 1795380420000, rng: rand.New(rand.NewPCG(1, 2))}
	person := func(n int) id.ID {
		u := binary.BigEndian.AppendUint64(make([]byte, 4, 12), uint64(n))
		return id.New(1, id.User, id.Partition(n%id.Partitions), u)
	}
	var open [benchShards][]*nodev1.Command
	for n := range rooms {
		r := benchRoom{pair: [2]id.ID{person(2 * n), person(2*n + 1)}}
		r.room = id.Direct(r.pair[0], r.pair[1])
		at := r.room.Partition().Shard(benchShards)
		w.rooms[at] = append(w.rooms[at], r)
		open[at] = append(open[at], &nodev1.Command{Actor: r.pair[0].Bytes(), Kind: &nodev1.Command_OpenDirect{
			OpenDirect: &nodev1.OpenDirect{RoomId: r.room.Bytes(), OtherId: r.pair[1].Bytes()},
		}})
	}
	for at, cmds := range open {
		for len(cmds) > 0 {
			n := min(len(cmds), 100)
			w.record(at, cmds[:n])
			cmds = cmds[n:]
		}
	}
	return w
}

// record decides commands as an owner does, and commits them as one record.
func (w *bench) record(shard int, cmds []*nodev1.Command) {
	st, err := w.s.Shard(shard).Stage()
	if err != nil {
		w.b.Fatal(err)
	}
	defer st.Discard()
	for _, cmd := range cmds {
		out, err := chat.Step(st, chat.Meta{TimeMs: w.now, Rules: 1}, cmd)
		if err != nil || out.Reply.GetError() != nil || len(out.Events) == 0 {
			w.b.Fatalf("step: %v, %v", out.Reply, err)
		}
	}
	w.index[shard]++
	if err := st.Commit(&journalv1.Mark{Term: 1, Index: w.index[shard], Hash: make([]byte, 32), Rules: 1}); err != nil {
		w.b.Fatal(err)
	}
}

// send is a message of 128 bytes to one of the shard's rooms, with a UUIDv7 of
// a clock that moves on by some milliseconds now and then.
func (w *bench) send(shard int) *nodev1.Command {
	if w.rng.IntN(10) == 0 {
		w.now++
	}
	r := &w.rooms[shard][w.rng.IntN(len(w.rooms[shard]))]
	client := make([]byte, 16)
	binary.BigEndian.PutUint64(client, uint64(w.now)<<16|0x7000|w.rng.Uint64()&0xfff)
	binary.BigEndian.PutUint64(client[8:], w.rng.Uint64())
	return &nodev1.Command{Actor: r.pair[w.rng.IntN(2)].Bytes(), Kind: &nodev1.Command_Send{Send: &nodev1.Send{
		RoomId: r.room.Bytes(), ClientId: client, Text: benchText,
	}}}
}

var benchText = strings.Repeat("a message ", 13)[:128]

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSend is what a message costs in the rules and the view, flushes and
// compactions included: in few rooms and in many, and with a reader of the same
// shard after every so many records.
func BenchmarkSend(b *testing.B) {
	for _, c := range []struct{ rooms, commands, reads int }{{100, 3, 0}, {100, 30, 0}, {100_000, 3, 0}, {100, 3, 20}} {
		b.Run(fmt.Sprintf("rooms=%d/commands=%d/reads=%d", c.rooms, c.commands, c.reads), func(b *testing.B) {
			s := mustOpen(b, Config{Dir: b.TempDir() + "/view", Shards: benchShards, Layout: 1})
			w := newBench(b, s, c.rooms)
			ctx, cancel := context.WithCancel(context.Background())
			ran := make(chan error, 1)
			go func() { ran <- s.Run(ctx) }()
			if err := s.Flush(); err != nil {
				b.Fatal(err)
			}
			runtime.GC()
			b.ReportAllocs()
			b.ResetTimer()
			began := cpu()
			cmds := make([]*nodev1.Command, c.commands)
			for n, records := 0, 0; n < b.N; records++ {
				shard := w.rng.IntN(benchShards)
				for i := range cmds {
					cmds[i] = w.send(shard)
				}
				w.record(shard, cmds)
				n += len(cmds)
				if c.reads > 0 && records%c.reads == 0 {
					r, err := s.Shard(shard).Reader()
					if err != nil {
						b.Fatal(err)
					}
					_ = r.Close()
				}
			}
			if err := s.Flush(); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			b.ReportMetric(float64((cpu()-began).Nanoseconds())/float64(b.N), "cpu-ns/send")
			cancel()
			<-ran
		})
	}
}

// BenchmarkHistory is what the last 50 messages of a room with 100,000 cost.
func BenchmarkHistory(b *testing.B) {
	s := mustOpen(b, Config{Dir: b.TempDir() + "/view", Shards: benchShards, Layout: 1})
	w := newBench(b, s, 1)
	shard := 0
	for len(w.rooms[shard]) == 0 {
		shard++
	}
	r := w.rooms[shard][0]
	cmds := make([]*nodev1.Command, 100)
	for range 1000 {
		for i := range cmds {
			cmds[i] = w.send(shard)
		}
		w.record(shard, cmds)
	}
	if err := s.Flush(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	began := cpu()
	for range b.N {
		v, err := s.Shard(shard).Reader()
		if err != nil {
			b.Fatal(err)
		}
		page, err := chat.History(v, r.pair[0], &nodev1.HistoryQuery{RoomId: r.room.Bytes()})
		if err != nil || len(page.GetMessages()) != 50 {
			b.Fatal(page, err)
		}
		_ = v.Close()
	}
	b.StopTimer()
	b.ReportMetric(float64((cpu()-began).Nanoseconds())/float64(b.N), "cpu-ns/page")
}
