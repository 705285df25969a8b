package drill

import (
	"path/filepath"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bongsu-im/bongsu/client"
)

func TestAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccount()
		k := &keeper{client.NewMemoryStore(), a, "u-ann", 3}
		add := func(id string) {
			if err := k.Add(client.Entry{RoomID: "r", ClientID: id, Text: "words of " + id}); err != nil {
				t.Fatal(err)
			}
		}
		ack := func(id string, seq uint64, shard uint32, term uint64) {
			if err := k.SetAck(id, client.Ack{Seq: seq, Shard: shard, Term: term}); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		add("a")
		a.retry(client.Entry{ClientID: "a"}, nil)
		time.Sleep(30 * time.Millisecond)
		ack("a", 1, 2, 5)
		add("b")
		add("c")
		if a.acknowledged() != 1 || a.flying() != 2 || a.retried() != 1 {
			t.Errorf("%d acknowledged, %d flying, %d retried", a.acknowledged(), a.flying(), a.retried())
		}

		// An acknowledgement of the old owner that was on its way is not the first of
		// the new one.
		w := a.watch([]uint32{2})
		time.Sleep(10 * time.Millisecond)
		ack("b", 2, 2, 5)
		time.Sleep(10 * time.Millisecond)
		select {
		case <-w.all:
			t.Error("an old term was taken for the new owner's")
		default:
		}
		ack("c", 3, 2, 6)
		<-w.all
		if first := a.done(w); !reflect.DeepEqual(first, map[uint32]time.Duration{2: 20 * time.Millisecond}) {
			t.Errorf("first acknowledgement after %v", first)
		}

		if d := a.longestWait(began, time.Now()); d != 30*time.Millisecond {
			t.Errorf("the longest wait is %v", d)
		}
		if d := a.longestWait(began.Add(31*time.Millisecond), time.Now()); d != 20*time.Millisecond {
			t.Errorf("the longest wait after the first is %v", d)
		}
		if newest := a.newest(); newest["r"] != 3 || a.newestIn("r") != 3 {
			t.Errorf("newest %v", newest)
		}

		// Told twice, and another place: the oracle gets both.
		ack("a", 1, 2, 6)
		ack("b", 7, 2, 6)
		if acks := a.acknowledgements(); len(acks) != 4 || acks[2].Seq != 7 || acks[1].Seq != 2 {
			t.Errorf("%+v", acks)
		}
		sends := a.sends()["r"]
		if len(sends) != 3 || sends[0].Who != 3 || sends[0].Seq != 1 || sends[0].Answer.Sub(sends[0].Called) != 30*time.Millisecond {
			t.Errorf("%+v", sends)
		}
		if waits := a.perSecond(began); len(waits) != 1 || len(waits[0]) != 3 {
			t.Errorf("%v", waits)
		}
	})
}

func TestCollect(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cluster.json")
	run := &ClusterResult{
		Result: Result{Seed: 7, Faults: 3, Acknowledged: 100, Lost: 1}, Kinds: map[FaultKind]int{KillOwner: 2, CutOff: 1}, LinearizabilityViolations: 1, Network: "loopback",
	}
	if _, err := Collect(file, "v1", time.Unix(0, 0), run); err != nil {
		t.Fatal(err)
	}
	run.Seed, run.Kinds = 8, map[FaultKind]int{KillOwner: 3}
	c, err := Collect(file, "v1", time.Unix(0, 0), run)
	if err != nil {
		t.Fatal(err)
	}
	if c.Faults != 6 || c.Acknowledged != 200 || c.Lost != 2 || c.Violations != 2 || c.Kinds[KillOwner] != 5 || c.Kinds[CutOff] != 1 ||
		len(c.Runs) != 2 || c.Runs[1].Seed != 8 || c.Runs[0].When != "1970-01-01 00:00" {
		t.Errorf("%+v", c)
	}
}
