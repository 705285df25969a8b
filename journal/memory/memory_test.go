package memory

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/journaltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type instance struct {
	store *Store
	j     *Journal
}

func (i *instance) Journal() journal.Journal { return i.j }

func (i *instance) Reopen(t *testing.T, kill bool) {
	if kill {
		i.j.Kill()
	} else if err := i.j.Close(); err != nil {
		t.Fatal(err)
	}
	i.j = i.store.Open()
}

func (i *instance) Fence(*testing.T) { i.j.Fence(errors.New("broken")) }

func (i *instance) Usurp(_ *testing.T, shard journal.ShardID, data []byte) {
	i.store.Usurp(shard, data)
}

func (i *instance) LoseTail(t *testing.T, shard journal.ShardID, p journal.Position) {
	l := i.store.logs[shard]
	n := 0
	for _, e := range l.entries {
		if e.Index >= p.Index {
			n++
		}
	}
	i.j.Kill()
	i.store.LoseTail(shard, n)
	i.j = i.store.Open()
}

func TestContract(t *testing.T) {
	journaltest.Run(t, func(t *testing.T, shards int) journaltest.Instance {
		s := New(Config{Shards: shards})
		return &instance{store: s, j: s.Open()}
	})
}

// TestFaults drives an owner as the contract wants it through every fault at
// once and checks what it may believe afterwards.
func TestFaults(t *testing.T) {
	seed := journaltest.Seed(t)
	synctest.Test(t, func(t *testing.T) {
		foreign := 0
		s := New(Config{Shards: 1, Seed: seed, MaxDelay: time.Second,
			Faults: Faults{LoseAck: .1, Drop: .1, CommitLate: .1, Refuse: .1, Conflict: .1, DiskFull: .05, Delay: .2, Fence: .02, FenceAfter: .02},
			Rival: func(journal.ShardID, journal.Entry) []byte {
				foreign++
				return fmt.Appendf(nil, "rival %d", foreign)
			}})
		j := s.Open()
		outcome := map[string]string{} // data → acknowledged, refused, unknown
		var order []string
		var lease journal.Lease
		for i := range 2000 {
			ctx := t.Context()
			if lease.Term == 0 {
				var err error
				if lease, err = j.Log(0).Lease(ctx); err != nil {
					j.Kill()
					j = s.Open()
					continue
				}
			}
			var cancel context.CancelFunc = func() {}
			if i%7 == 0 {
				ctx, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
			}
			data := fmt.Sprint(i)
			_, err := j.Log(0).Append(ctx, lease, []byte(data))
			cancel()
			switch {
			case err == nil:
				outcome[data], order = "acknowledged", append(order, data)
			case journal.Definite(err):
				outcome[data] = "refused"
				if errors.Is(err, journal.ErrNotOwner) {
					lease = journal.Lease{}
				}
			default:
				outcome[data] = "unknown"
				lease = journal.Lease{}
			}
		}
		s.SetFaults(nil)
		j.Kill()
		j = s.Open()
		lease, err := j.Log(0).Lease(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]int{}
		rivals := 0
		for after := journal.Index(0); after < lease.Applied; {
			es, err := j.Log(0).Read(t.Context(), after, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range es {
				after = e.Index
				data := string(e.Data)
				seen[data]++
				if outcome[data] == "" {
					rivals++
				}
				if len(order) > 0 && data == order[0] {
					order = order[1:]
				}
			}
		}
		if len(order) != 0 {
			t.Fatalf("%d acknowledged entries are missing or out of order, first %s", len(order), order[0])
		}
		late := 0
		for data, o := range outcome {
			switch n := seen[data]; {
			case n > 1, o == "refused" && n != 0:
				t.Fatalf("entry %s, %s, is there %d times", data, o, n)
			case o == "unknown" && n == 1:
				late++
			}
		}
		if rivals != foreign || late == 0 {
			t.Fatalf("%d of %d foreign entries found, %d unknown ones committed", rivals, foreign, late)
		}
		for f := Fault(0); f < faultKinds; f++ {
			if s.Fired(f) == 0 {
				t.Errorf("fault %s never fired", f)
			}
		}
	})
}
