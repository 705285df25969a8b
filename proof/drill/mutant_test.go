package drill

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The test of the test: with a defect planted in the product the drill must
// turn red, and say why. Each mutant is the product built with one tag.
func TestPowerDrillNoticesMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the product three times")
	}
	if os.Getenv("BONGSU_MUTANT") != "" {
		t.Skip("this is a mutant")
	}
	for _, tag := range []string{
		"mutant_sync",     // an entry is acknowledged without an fsync
		"mutant_position", // the view's position is written outside the batch
		"mutant_clientid", // the idempotency key is dropped
	} {
		t.Run(tag, func(t *testing.T) {
			cmd := exec.CommandContext(context.Background(), "go", "test", "-count=1", "-tags", tag, "-run", "^TestPowerCuts$", ".")
			cmd.Env = append(os.Environ(), "BONGSU_MUTANT="+tag, "CUTS=200")
			out, err := cmd.CombinedOutput()
			if err == nil {
				t.Fatalf("200 cuts did not notice %s:\n%s", tag, out)
			}
			if !strings.Contains(string(out), "--- FAIL: TestPowerCuts") || !strings.Contains(string(out), "Passed:false") {
				t.Fatalf("%s failed for another reason than a red drill:\n%s", tag, out)
			}
		})
	}
}
