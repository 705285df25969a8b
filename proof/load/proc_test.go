package load

import (
	"math"
	"os"
	"testing"
)

func TestParseMachine(t *testing.T) {
	total, idle, steal, err := parseMachine("cpu  100 20 30 4000 50 6 7 80 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n")
	if err != nil || total != 100+20+30+4000+50+6+7+80 || idle != 4050 || steal != 80 {
		t.Errorf("total %d, idle %d, steal %d, %v", total, idle, steal, err)
	}
	for _, bad := range []string{"", "cpu 1 2 3\n", "cpu0 1 2 3 4 5 6 7 8\n", "cpu 1 2 3 4 x 6 7 8\n", "intr 1 2 3 4 5 6 7 8 9"} {
		if _, _, _, err := parseMachine(bad); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

func TestParseProcess(t *testing.T) {
	const tail = " S 1 2 3 4 5 6 7 8 9 10 1000 200 30 4 20 0 12 0 99 1 2\n"
	for _, name := range []string{"bongsu", "a b", "x) R 1 1 (", ""} {
		got, err := parseProcess("4711 (" + name + ")" + tail)
		if err != nil || got != 1234 {
			t.Errorf("(%s): %d, %v", name, got, err)
		}
	}
	for _, bad := range []string{"", "1 (x) S 1 2 3", "1 x S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16", "1 (x) S 1 2 3 4 5 6 7 8 9 10 -1 12 13 14 15"} {
		if _, err := parseProcess(bad); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

func TestReadUsageOfThisMachine(t *testing.T) {
	before, err := readUsage(os.Getpid())
	if err != nil {
		t.Skip("no /proc here:", err)
	}
	if before.total == 0 || !before.serverKnown || before.server > before.self+1 {
		t.Errorf("%+v", before)
	}
	alone, err := readUsage(0)
	if err != nil || alone.serverKnown || alone.server != 0 {
		t.Errorf("without a server: %+v, %v", alone, err)
	}
	if _, err := readUsage(1 << 30); err == nil {
		t.Error("a process that is not has used CPU")
	}
}

func TestShares(t *testing.T) {
	before := usage{total: 1000, idle: 500, steal: 10, self: 100, server: 200, serverKnown: true}
	after := usage{total: 2000, idle: 700, steal: 60, self: 250, server: 600, serverKnown: true}
	s := after.since(before)
	want := shares{other: 0.2, steal: 0.05, generator: 0.15, server: 0.4, serverSeconds: 4, serverKnown: true}
	for name, pair := range map[string][2]float64{
		"other": {s.other, want.other}, "steal": {s.steal, want.steal}, "generator": {s.generator, want.generator},
		"server": {s.server, want.server}, "seconds": {s.serverSeconds, want.serverSeconds},
	} {
		if math.Abs(pair[0]-pair[1]) > 1e-9 {
			t.Errorf("%s = %g, want %g", name, pair[0], pair[1])
		}
	}
	// Ticks are rounded: the parts can be more than the busy whole.
	tight := usage{total: 1010, idle: 500, steal: 10, self: 106, server: 206, serverKnown: true}
	if got := tight.since(before).other; got != 0 {
		t.Errorf("others = %g, want 0", got)
	}
	if got := before.since(before); got != (shares{}) {
		t.Errorf("of no time: %+v", got)
	}
}
