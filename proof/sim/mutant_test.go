package sim

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bongsu-im/bongsu/internal/mutant"
)

// planted are the defects that the simulation must notice, and within how many
// seeds. Those with a tag of their own are older than the tag mutants.
var planted = []struct {
	name  mutant.Name
	tag   string // "" means mutants
	seeds int
}{
	{mutant.AckEarly, "", 20},
	{mutant.StaleOwner, "", 150},
	{mutant.FreshAlways, "", 40},
	{mutant.ApplyTwice, "", 20},
	{mutant.UnknownRefused, "", 150},
	{mutant.StaleNo, "", 60},
	{mutant.NoFloors, "", 150},
	{mutant.IgnorePositions, "", 40},
	{mutant.SkipCatchUp, "", 300},
	{"dedupe-dropped", "mutant_clientid", 40},
	{"position-apart", "mutant_position", 120},
	{"no-fsync", "mutant_sync", 40},
}

// TestTrimTooFarIsNoticed: this defect is not one for the simulation. What it does to
// Pebble's compactions makes a bubble's clock stand still (see ofView), and in a
// cluster the peers still have what one node forgot. The trimmer's own test has to
// notice it.
func TestTrimTooFarIsNoticed(t *testing.T) {
	if testing.Short() || *seeds == 0 {
		t.Skip("builds the product once more: make sim runs it")
	}
	bin := filepath.Join(t.TempDir(), "node.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags", "mutants", "-o", bin, ".")
	build.Dir = "../../node"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	run := func(name mutant.Name) ([]byte, error) {
		cmd := exec.CommandContext(t.Context(), bin, "-test.run", "^TestTrimmer$", "-test.timeout", "2m")
		cmd.Dir, cmd.Env = "../../node", append(os.Environ(), "BONGSU_MUTANT="+string(name))
		return cmd.CombinedOutput()
	}
	if out, err := run(""); err != nil {
		t.Fatalf("without a defect: %v\n%s", err, out)
	}
	if out, err := run(mutant.TrimTooFar); err == nil || !strings.Contains(string(out), "--- FAIL: TestTrimmer") {
		t.Fatalf("TestTrimmer did not notice %s: %v\n%s", mutant.TrimTooFar, err, out)
	}
}

// TestMutantsAreNoticed is the test of the test: with a defect planted the
// simulation must turn red, and for its own reason. Each build is made once.
func TestMutantsAreNoticed(t *testing.T) {
	if testing.Short() || *seeds == 0 {
		t.Skip("builds the product four times and takes minutes: make sim runs it")
	}
	if os.Getenv("BONGSU_MUTANT") != "" {
		t.Skip("this is a mutant")
	}
	built := map[string]string{}
	dir := t.TempDir()
	for _, p := range planted {
		t.Run(string(p.name), func(t *testing.T) {
			tag := p.tag
			if tag == "" {
				tag = "mutants"
			}
			if built[tag] == "" {
				bin := filepath.Join(dir, tag)
				if out, err := exec.CommandContext(context.Background(), "go", "test", "-c", "-tags", tag, "-o", bin, ".").CombinedOutput(); err != nil {
					t.Fatalf("build %s: %v\n%s", tag, err, out)
				}
				built[tag] = bin
			}
			cmd := exec.CommandContext(context.Background(), built[tag], "-test.run", "^TestSeeds$", "-test.timeout", "20m", "-test.v",
				fmt.Sprint("-sim.seeds=", p.seeds), "-sim.seed=1000")
			cmd.Env = append(os.Environ(), "BONGSU_MUTANT="+string(p.name))
			out, err := cmd.CombinedOutput()
			if err == nil {
				t.Fatalf("%d seeds did not notice %s", p.seeds, p.name)
			}
			if !strings.Contains(string(out), "--- FAIL: TestSeeds/") {
				t.Fatalf("%s failed for another reason than a red seed:\n%s", p.name, out)
			}
			ran := strings.Count(string(out), "=== RUN   TestSeeds/")
			t.Logf("noticed after %d seeds: %s", ran, firstWrong(string(out)))
		})
	}
}

// firstWrong is the first finding of a red seed.
func firstWrong(out string) string {
	for line := range strings.Lines(out) {
		if _, what, ok := strings.Cut(line, "sim_test.go:"); ok && !strings.Contains(what, "seeds from") {
			return strings.TrimSpace(what)
		}
	}
	return "?"
}
