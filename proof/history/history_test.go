package history

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

var epoch = time.Unix(1_800_000_000, 0)

func at(ms int) time.Time { return epoch.Add(time.Duration(ms) * time.Millisecond) }

func sent(key string, seq uint64, called, answer int) Send {
	return Send{Who: int(key[0]), Key: key, Seq: seq, Called: at(called), Answer: at(answer)}
}

func read(whole bool, called, answer int, keys ...string) Read {
	return Read{Who: 1000 + called, Keys: keys, Whole: whole, Called: at(called), Answer: at(answer)}
}

func late(r Read, ms int) Read {
	r.Grace = time.Duration(ms) * time.Millisecond
	return r
}

// The test of the test: histories made by hand, good and bad.
func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		sends []Send
		reads []Read
		want  Outcome
	}{
		"nothing":                       {want: Linear},
		"one after another":             {[]Send{sent("a", 1, 0, 1), sent("b", 2, 2, 3)}, []Read{read(true, 4, 5, "a", "b")}, Linear},
		"at once, either order":         {[]Send{sent("a", 2, 0, 10), sent("b", 1, 0, 10)}, []Read{read(true, 11, 12, "b", "a")}, Linear},
		"retried, the same place":       {[]Send{sent("a", 1, 0, 1), sent("b", 2, 2, 3), sent("a", 1, 4, 5)}, nil, Linear},
		"never acknowledged, and there": {[]Send{sent("a", 0, 0, 0), sent("b", 2, 5, 6)}, []Read{read(true, 7, 8, "a", "b")}, Linear},
		"never acknowledged, not there": {[]Send{sent("a", 0, 0, 0), sent("b", 1, 5, 6)}, []Read{read(true, 7, 8, "b")}, Linear},
		"a page of the beginning":       {[]Send{sent("a", 1, 0, 1), sent("b", 2, 2, 3)}, []Read{read(false, 4, 5, "a")}, Linear},
		"read during a send":            {[]Send{sent("a", 1, 0, 10)}, []Read{read(true, 1, 2), read(true, 3, 4, "a")}, Linear},
		"behind within the grace":       {[]Send{sent("a", 1, 0, 1), sent("b", 2, 2, 3)}, []Read{late(read(true, 1000, 1001, "a"), 2000)}, Linear},

		"retried, another place":       {[]Send{sent("a", 1, 0, 1), sent("b", 2, 2, 3), sent("a", 3, 4, 5)}, nil, Violated},
		"the same place twice":         {[]Send{sent("a", 1, 0, 1), sent("b", 1, 2, 3)}, nil, Violated},
		"a place left out":             {[]Send{sent("a", 1, 0, 1), sent("b", 3, 2, 3)}, nil, Violated},
		"against the order of time":    {[]Send{sent("a", 2, 0, 1), sent("b", 1, 2, 3)}, nil, Violated},
		"acknowledged and not read":    {[]Send{sent("a", 1, 0, 1)}, []Read{read(true, 2, 3)}, Violated},
		"turned over":                  {[]Send{sent("a", 1, 0, 1), sent("b", 2, 2, 3)}, []Read{read(true, 4, 5, "b", "a")}, Violated},
		"shown twice":                  {[]Send{sent("a", 1, 0, 1)}, []Read{read(true, 2, 3, "a", "a")}, Violated},
		"read before it was said":      {[]Send{sent("a", 1, 10, 11)}, []Read{read(true, 1, 2, "a")}, Violated},
		"there, then not":              {[]Send{sent("a", 0, 0, 0)}, []Read{read(true, 1, 2, "a"), read(true, 3, 4)}, Violated},
		"behind by more than is right": {[]Send{sent("a", 1, 0, 1), sent("b", 2, 2, 3)}, []Read{late(read(true, 1000, 1001, "a"), 500)}, Violated},
		"out of nowhere":               {[]Send{sent("a", 1, 0, 1)}, []Read{read(true, 2, 3, "a", "x")}, Violated},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Judge(Room{ID: name, Sends: c.sends, Reads: c.reads}, 10*time.Second); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// A room as busy as a drill makes it is judged quickly; two of its places
// exchanged are noticed.
func TestJudgeABusyRoom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var room Room
	var list []string
	for n := range 400 {
		key := fmt.Sprintf("%c%d", 'a'+n%4, n)
		list = append(list, key)
		// The n-th takes effect at n; four overlap.
		room.Sends = append(room.Sends, Send{Who: n % 4, Key: key, Seq: uint64(n + 1), Called: at(n*10 - rng.IntN(18)), Answer: at(n*10 + rng.IntN(18))})
		if n%20 == 0 {
			room.Reads = append(room.Reads, Read{Who: 10 + n, Keys: append([]string(nil), list...), Whole: true, Called: at(n*10 + 1), Answer: at(n*10 + 2), Grace: 2 * time.Second})
		}
	}
	began := time.Now()
	if got := Judge(room, time.Minute); got != Linear {
		t.Fatalf("a room as it should be: %s", got)
	}
	t.Logf("%d sends and %d reads in %v", len(room.Sends), len(room.Reads), time.Since(began))
	i := 100 + rng.IntN(200)
	room.Sends[i].Seq, room.Sends[i+5].Seq = room.Sends[i+5].Seq, room.Sends[i].Seq
	if got := Judge(room, time.Minute); got != Violated {
		t.Errorf("with places exchanged: %s", got)
	}
}
