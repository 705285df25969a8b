package shard

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/journal/raft"
	"github.com/bongsu-im/bongsu/view"
)

// TestPowerCut pulls the plug on journal and view at once, on one disk, while
// people talk: whatever was acknowledged before the cut is there after it, in
// its place (invariants 1 and 2), time and again on the same history.
func TestPowerCut(t *testing.T) {
	seed := seedOf(t)
	cuts := 6
	if testing.Short() {
		cuts = 3
	}
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(seed, 9))
		fs := durable.NewCrashable()
		acked := map[uint64]uint64{} // client → seq
		var next uint64
		room := id.Group(user("ann"), []byte("g"))
		for cut := range cuts + 1 {
			j, err := raft.Open(raft.Config{Dir: "/journal", FS: fs, Shards: 2, ReserveBytes: -1, MemTableBytes: 1 << 20})
			if err != nil {
				t.Fatalf("journal after cut %d: %v", cut, err)
			}
			v, err := view.Open(view.Config{Dir: "/view", FS: fs, Shards: 2, Layout: 1, CacheBytes: 1 << 20, MemTableBytes: 64 << 10,
				FlushEvery: 200 * time.Millisecond, BeforeFlush: j.SyncMarks})
			if err != nil {
				t.Fatalf("view after cut %d: %v", cut, err)
			}
			w := &world{t: t, shards: 2}
			if w.set, err = New(Config{Journal: j, View: v, Shards: 2}); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			wg.Go(func() { _ = v.Run(ctx) })
			wg.Go(func() { _ = w.set.Run(ctx) })
			w.ready()
			if cut == 0 {
				w.must(signUp("ann"))
				w.must(signUp("bob"))
				w.must(createGroup(user("ann"), room, user("bob")))
			}
			var mu sync.Mutex
			check(t, w, room, acked)
			for _, l := range []string{"ann", "bob", "ann", "bob"} {
				wg.Go(func() {
					for ctx.Err() == nil {
						mu.Lock()
						next++
						n := next
						mu.Unlock()
						reply, err := w.set.Do(ctx, send(user(l), room, n, fmt.Sprint(n)))
						mu.Lock()
						if err == nil && reply.GetError() == nil && acked != nil {
							acked[n] = reply.GetMessage().GetSeq()
						}
						mu.Unlock()
						time.Sleep(time.Millisecond) // virtual
					}
				})
			}
			time.Sleep(time.Duration(rng.IntN(1500)) * time.Millisecond) // virtual
			mu.Lock()
			known := acked
			acked = nil // what is acknowledged from here on may be behind the cut
			mu.Unlock()
			after := fs.Crash(float64(cut%3)/2, rng.Uint64())
			cancel()
			wg.Wait()
			_ = v.Close() // onto a disk that nobody sees again
			_ = j.Close()
			fs, acked = after, known
		}
		if len(acked) < 100 {
			t.Errorf("only %d messages were acknowledged", len(acked))
		}
	})
}

func check(t *testing.T, w *world, room id.ID, acked map[uint64]uint64) {
	t.Helper()
	at := map[string]uint64{}
	for last := uint64(0); ; {
		h := w.ask(history(user("ann"), room, last)).GetHistory()
		for _, m := range h.GetMessages() {
			if m.GetSeq() != last+1 {
				t.Fatalf("message %d follows %d", m.GetSeq(), last)
			}
			last = m.GetSeq()
			at[m.GetText()] = last
		}
		if !h.GetHasMore() {
			break
		}
	}
	for n, seq := range acked {
		if at[fmt.Sprint(n)] != seq {
			t.Errorf("message %d was acknowledged as %d; after the cut it is %d", n, seq, at[fmt.Sprint(n)])
		}
	}
}
