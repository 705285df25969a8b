package load

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
)

// playBench is a bench: A reaches 100/s, B 200/s and fails.
func playBench(args []string) {
	i := slices.Index(args, "--bin")
	if i < 0 || !slices.Contains(args, "--json") || args[0] != "bench" || args[1] != "send" {
		fmt.Fprintln(os.Stderr, "bad arguments:", args)
		os.Exit(2)
	}
	f, err := os.OpenFile(os.Getenv("LOAD_TEST_LOG"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		fmt.Fprintln(f, args[i+1:])
		err = f.Close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	switch args[i+1] {
	case "A":
		fmt.Println("a table\n" + `{"name":"send","passed":true,"ops_per_s":100,"p50_ms":4,"server_cpu_s_per_1000":null}`)
	case "B":
		fmt.Println("a table\n" + `{"name":"send","passed":false,"ops_per_s":200,"p50_ms":1,"server_cpu_s_per_1000":2}`)
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, "no such server")
		os.Exit(2)
	}
}

func TestCompareRunsInTurns(t *testing.T) {
	t.Setenv("LOAD_TEST_CHILD", "bench")
	log := t.TempDir() + "/log"
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LOAD_TEST_LOG", log)
	cfg := CompareConfig{Self: os.Args[0], A: "A", B: "B", Rounds: 2, Bench: []string{"send", "--senders", "3"}, Seed: 9}
	c, err := Compare(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ran, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if want := "[A --seed 9 --json]\n[B --seed 9 --json]\n[A --seed 10 --json]\n[B --seed 10 --json]\n"; string(ran) != want {
		t.Errorf("ran\n%s", ran)
	}
	if c.Passed || c.Details.Failed != 2 || len(c.Details.Figures) != 2 { // p99 is 0, the CPU of A unknown
		t.Errorf("%+v", c)
	}
	if f := c.Details.Figures[0]; f.Figure != "ops_per_s" || f.MedianA != 100 || f.MedianB != 200 || f.Ratio != 2 || f.Low != 2 || f.High != 2 {
		t.Errorf("%+v", f)
	}
	var out bytes.Buffer
	if err := c.Print(&out, true); err != nil || !strings.Contains(out.String(), "2 RUNS FAILED") || !strings.Contains(out.String(), "too few") || c.Details.Trusted {
		t.Errorf("%s, %v", &out, err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var keys map[string]any
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &keys); err != nil || keys["name"] != "compare" || keys["passed"] != false {
		t.Errorf("%v in %s", err, lines[len(lines)-1])
	}
	cfg.B = "C"
	if _, err := Compare(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "no such server") {
		t.Errorf("%v", err)
	}
	for _, bad := range [][]string{nil, {"compare"}, {"send", "--target", "x"}, {"send", "--bin=x"}} {
		cfg.Bench = bad
		if _, err := Compare(t.Context(), cfg); err == nil {
			t.Errorf("compared by %q", bad)
		}
	}
}

func TestMedianOf(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{5}, 5}, {[]float64{9, 1}, 5}, {[]float64{3, 1, 2}, 2}, {[]float64{4, 1, 100, 2}, 3}} {
		if got := medianOf(c.in); got != c.want {
			t.Errorf("medianOf(%v) = %v", c.in, got)
		}
	}
}

// The interval holds the true ratio about as often as it says, is the same for
// the same seed, and stays with what disturbs both runs of a round alike.
func TestBootstrapRatio(t *testing.T) {
	const seed = 11
	world := rand.New(rand.NewPCG(seed, 1))
	held := 0
	const worlds = 60
	for range worlds {
		var a, b []float64
		for range 15 {
			a, b = append(a, 100+10*world.NormFloat64()), append(b, 130+13*world.NormFloat64())
		}
		low, high := bootstrapRatio(a, b, world)
		if low > high {
			t.Fatalf("from %g to %g", low, high)
		}
		if low <= 1.3 && 1.3 <= high {
			held++
		}
	}
	if held < worlds*85/100 {
		t.Errorf("seed %d: %d of %d intervals hold the ratio", seed, held, worlds)
	}
	a, b := []float64{10, 20, 40, 80}, []float64{20, 40, 80, 160}
	low1, high1 := bootstrapRatio(a, b, rand.New(rand.NewPCG(7, 0)))
	low2, high2 := bootstrapRatio(a, b, rand.New(rand.NewPCG(7, 0)))
	if low1 != 2 || high1 != 2 || low1 != low2 || high1 != high2 {
		t.Errorf("%g to %g, again %g to %g: B is twice A in every round", low1, high1, low2, high2)
	}
}
