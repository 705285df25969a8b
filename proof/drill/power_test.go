package drill

import (
	"context"
	"os"
	"strconv"
	"testing"
	"time"
)

// A few cuts as an ordinary test; `bongsu drill power` makes thousands.
func TestPowerCuts(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r, err := Power(context.Background(), PowerConfig{Cuts: cuts(), Seed: seed, Out: os.Stderr})
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	if !r.Passed || r.Faults != cuts() || r.Acknowledged == 0 {
		t.Fatalf("seed %d: %+v", seed, r)
	}
}

func cuts() int {
	if n, err := strconv.Atoi(os.Getenv("CUTS")); err == nil {
		return n
	}
	return 12
}
