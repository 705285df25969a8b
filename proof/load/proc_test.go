package load

import (
	"math"
	"os"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/proof/child"
)

func TestReadUsageOfThisMachine(t *testing.T) {
	before, err := readUsage(os.Getpid())
	if err != nil {
		t.Skip("no /proc here:", err)
	}
	if before.machine.Idle == 0 || !before.serverKnown || before.server.CPU.Total() > before.self+time.Second {
		t.Errorf("%+v", before)
	}
	alone, err := readUsage()
	if err != nil || alone.serverKnown || alone.server != (child.Family{}) {
		t.Errorf("without a server: %+v, %v", alone, err)
	}
	if _, err := readUsage(1 << 30); err == nil {
		t.Error("a process that is not has used CPU")
	}
}

func TestShares(t *testing.T) {
	machine := func(busy, idle, steal time.Duration) child.Machine {
		return child.Machine{Busy: busy * time.Second, Idle: idle * time.Second, Steal: steal * time.Second}
	}
	cpu := func(user, system time.Duration) child.Family {
		return child.Family{CPU: child.Times{User: user * time.Second, System: system * time.Second}}
	}
	before := usage{machine: machine(490, 500, 10), self: 100 * time.Second, server: cpu(150, 50), serverKnown: true}
	after := usage{machine: machine(1240, 700, 60), self: 250 * time.Second, server: cpu(450, 150), serverKnown: true}
	s := after.since(before)
	want := shares{other: 0.2, steal: 0.05, generator: 0.15, server: 0.4, serverCPU: child.Times{User: 300 * time.Second, System: 100 * time.Second}, serverKnown: true}
	for name, pair := range map[string][2]float64{
		"other": {s.other, want.other}, "steal": {s.steal, want.steal}, "generator": {s.generator, want.generator},
		"server": {s.server, want.server}, "user": {s.serverCPU.User.Seconds(), 300}, "system": {s.serverCPU.System.Seconds(), 100},
	} {
		if math.Abs(pair[0]-pair[1]) > 1e-9 {
			t.Errorf("%s = %g, want %g", name, pair[0], pair[1])
		}
	}
	// Ticks are rounded: the parts can be more than the busy whole.
	tight := usage{machine: machine(500, 500, 10), self: 106 * time.Second, server: cpu(156, 50), serverKnown: true}
	if got := tight.since(before).other; got != 0 {
		t.Errorf("others = %g, want 0", got)
	}
	if got := before.since(before); got != (shares{}) {
		t.Errorf("of no time: %+v", got)
	}
}
