package view

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// What is kept follows what is committed, and stays within its bound.
func TestRecentFollowsCommits(t *testing.T) {
	r, truth := newRecent(), map[string][]byte{}
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 200_000 {
		key := []byte(fmt.Sprintf("key %d", rng.IntN(20_000)))
		switch rng.IntN(4) {
		case 0, 1: // a stage reads
			v, kept := r.get(key)
			if kept && !bytes.Equal(v, truth[string(key)]) {
				t.Fatalf("step %d: %s is kept as %q, committed is %q", n, key, v, truth[string(key)])
			}
			if v, ok := truth[string(key)]; ok && !kept {
				r.keep(key, v)
			}
		case 2:
			v := bytes.Repeat([]byte{byte(n)}, rng.IntN(maxRecentEntryBytes+100))
			truth[string(key)] = v
			r.committed(key, v, false)
		case 3:
			delete(truth, string(key))
			r.committed(key, nil, true)
		}
		if r.bytes > maxRecentBytes {
			t.Fatalf("step %d: %d bytes kept, the bound is %d", n, r.bytes, maxRecentBytes)
		}
	}
	sum := 0
	for k, v := range r.values {
		sum += len(k) + len(v)
	}
	if sum != r.bytes || sum == 0 {
		t.Fatalf("counted %d bytes, kept are %d", r.bytes, sum)
	}
}
