package load

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
)

// playBench is a bench: A reaches 100/s, B 200/s and fails.
func playBench(args []string) {
	i := slices.Index(args, "--bin")
	if i < 0 || !slices.Contains(args, "--json") || args[0] != "bench" || args[1] != "send" || slices.Contains(args, "--shards") != (args[i+1] == "A") {
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
	cfg := CompareConfig{Self: os.Args[0], A: Side{Bin: "A", Flags: []string{"--shards", "1"}}, B: Side{Bin: "B"}, Rounds: 2, Bench: []string{"send", "--senders", "3"}, Seed: 9}
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
	if f := c.Details.Figures[0]; f.Figure != "ops_per_s" || f.MedianA != 100 || f.MedianB != 200 || f.Ratio != 2 || f.Low != 2 || f.High != 2 || !strings.Contains(c.Details.A, "--shards 1") {
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
	var page bytes.Buffer
	if err := c.HTML(&page); err != nil || !strings.Contains(page.String(), "2 runs failed") || !strings.Contains(page.String(), "too few rounds") {
		t.Errorf("%v in %s", err, &page)
	}
	same := cfg
	same.B = same.A
	if _, err := Compare(t.Context(), same); err == nil {
		t.Error("compared one with itself")
	}
	cfg.B = Side{Bin: "C"}
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

func TestMedianOfFigures(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{5}, 5}, {[]float64{9, 1}, 5}, {[]float64{3, 1, 2}, 2}, {[]float64{4, 1, 100, 2}, 3}} {
		if got := median(c.in); got != c.want {
			t.Errorf("median(%v) = %v", c.in, got)
		}
	}
}

// The interval holds the true ratio about as often as it says, however few the
// rounds, and stays with what disturbs both runs of a round alike.
func TestRatioOf(t *testing.T) {
	const seed = 11
	random := rand.New(rand.NewPCG(seed, 1))
	for _, rounds := range []int{3, 8, 40} {
		const worlds = 2000
		held := 0
		for range worlds {
			var a, b []float64
			for range rounds {
				noise := math.Exp(random.NormFloat64()) // of the round
				a = append(a, 100*noise*math.Exp(0.1*random.NormFloat64()))
				b = append(b, 130*noise*math.Exp(0.1*random.NormFloat64()))
			}
			ratio, low, high := ratioOf(a, b)
			if low > ratio || ratio > high {
				t.Fatalf("%g from %g to %g", ratio, low, high)
			}
			if low <= 1.3 && 1.3 <= high {
				held++
			}
		}
		// 95 % of 2,000 with five standard deviations on either side.
		if share := float64(held) / worlds; share < 0.925 || share > 0.975 {
			t.Errorf("seed %d, %d rounds: %.3f of the intervals hold the ratio", seed, rounds, share)
		}
	}
	if ratio, low, high := ratioOf([]float64{10, 20, 40}, []float64{20, 40, 80}); math.Abs(ratio-2) > 1e-9 || math.Abs(low-2) > 1e-9 || math.Abs(high-2) > 1e-9 {
		t.Errorf("%g from %g to %g: B is twice A in every round", ratio, low, high)
	}
	if ratio, low, high := ratioOf([]float64{4}, []float64{2}); math.Abs(ratio-0.5) > 1e-9 || low != 0 || high != 0 {
		t.Errorf("one pair: %g from %g to %g", ratio, low, high)
	}
	for degrees, want := range map[int]float64{1: 12.706, 2: 4.303, 20: 2.086, 21: 2.0796, 30: 2.0423, 120: 1.9799} {
		if got := student(degrees); math.Abs(got-want) > 0.0005 {
			t.Errorf("student(%d) = %g, want %g", degrees, got, want)
		}
	}
}
