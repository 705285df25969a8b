package node

import (
	"strings"
	"testing"

	"github.com/bongsu-im/bongsu/internal/durable"
)

// Every single flipped bit of the identity is noticed: one in the cell would
// otherwise give new IDs that belong to another cell.
func TestEveryFlippedBitOfTheIdentityIsNoticed(t *testing.T) {
	fs := durable.NewCrashable()
	l := Layout{"data"}
	want, release, err := l.claim(fs, builtIn, alone(16, builtIn))
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
		if got, release, err := l.claim(fs, builtIn, alone(16, builtIn)); err == nil {
			release()
			if got != want {
				t.Errorf("bit %d: %q was taken for %+v", bit, flipped, got)
			}
		}
	}
}

// A folder is opened with the journal that it was made with, or not at all: the
// other one would be an empty history.
func TestAFolderKeepsItsJournal(t *testing.T) {
	for made, other := range map[string]string{builtIn: onPostgres, onPostgres: builtIn} {
		fs := durable.NewCrashable()
		l := Layout{"data"}
		id, release, err := l.claim(fs, made, alone(16, made))
		if err != nil || id.Journal != made {
			t.Fatalf("made with %q: %+v, %v", made, id, err)
		}
		release()
		if _, _, err := l.claim(fs, other, alone(16, other)); err == nil || !strings.Contains(err.Error(), "--journal") {
			t.Errorf("made with %q, opened with %q: %v", made, other, err)
		}
		again, release, err := l.claim(fs, made, alone(16, made))
		if err != nil || again != id {
			t.Errorf("opened again: %+v, %v", again, err)
			continue
		}
		release()
	}
}

func TestDefaultShards(t *testing.T) {
	for processors, want := range map[int]int{1: 4, 2: 4, 3: 6, 4: 8, 8: 16, 64: 16} {
		if got := DefaultShards(processors); got != want {
			t.Errorf("%d processors: %d shards, want %d", processors, got, want)
		}
	}
}
