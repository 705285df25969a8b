package shard

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/journal/memory"
)

// BenchmarkSend measures Do of sends over a memory journal and a view in
// memory: what the owner itself costs. Senders write to rooms of their own,
// spread over the shards.
func BenchmarkSend(b *testing.B) {
	for _, c := range []struct{ shards, senders int }{{1, 1}, {1, 64}, {16, 64}, {16, 512}} {
		b.Run(fmt.Sprintf("shards=%d/senders=%d", c.shards, c.senders), func(b *testing.B) {
			w := newWorld(b, c.shards, memory.Config{})
			w.start()
			w.ready()
			rooms := make([]id.ID, c.senders)
			users := make([]id.ID, c.senders)
			for i := range rooms {
				login := fmt.Sprintf("user%d", i)
				users[i] = user(login)
				w.must(signUp(login))
			}
			for i := range rooms {
				other := users[(i+1)%len(users)]
				rooms[i] = id.Direct(users[i], other)
				w.must(openDirect(users[i], other))
			}
			var next atomic.Uint64
			b.ReportAllocs()
			b.ResetTimer()
			began := time.Now()
			var wg sync.WaitGroup
			for i := range c.senders {
				wg.Go(func() {
					for n := next.Add(1); n <= uint64(b.N); n = next.Add(1) {
						reply, err := w.set.Do(context.Background(), send(users[i], rooms[i], n, "a message of about forty bytes, as usual"))
						if err != nil || reply.GetError() != nil {
							b.Errorf("send: %v, %v", reply, err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "sends/s")
			w.end()
		})
	}
}
