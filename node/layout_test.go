package node

import (
	"testing"

	"github.com/bongsu-im/bongsu/internal/durable"
)

// Every single flipped bit of the identity is noticed: one in the cell would
// otherwise give new IDs that belong to another cell.
func TestEveryFlippedBitOfTheIdentityIsNoticed(t *testing.T) {
	fs := durable.NewCrashable()
	l := Layout{"data"}
	want, release, err := l.claim(fs, 16)
	if err != nil {
		t.Fatal(err)
	}
	release()
	whole, err := durable.ReadFile(fs, l.identity())
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(whole) * 8 {
		flipped := append([]byte(nil), whole...)
		flipped[bit/8] ^= 1 << (bit % 8)
		if err := durable.WriteFile(fs, l.identity(), flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, release, err := l.claim(fs, 16); err == nil {
			release()
			if got != want {
				t.Errorf("bit %d: %q was taken for %+v", bit, flipped, got)
			}
		}
	}
}
