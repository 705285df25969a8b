package drill

import (
	"reflect"
	"testing"
	"time"
)

func TestSchedule(t *testing.T) {
	n := 3 * len(FaultKinds)
	plan := Schedule(7, n, 3, FaultKinds, false)
	if !reflect.DeepEqual(plan, Schedule(7, n, 3, FaultKinds, false)) {
		t.Error("the same seed plans something else")
	}
	if reflect.DeepEqual(plan, Schedule(8, n, 3, FaultKinds, false)) {
		t.Error("another seed plans the same")
	}
	count := map[FaultKind]int{}
	nodes := map[int]bool{}
	for i, f := range plan {
		count[f.Kind]++
		nodes[f.Node] = true
		span := holds[f.Kind]
		if f.Number != i+1 || f.Hold < span[0] || f.Hold > span[1] || f.After < leastCalm || f.After > mostCalm {
			t.Errorf("fault %d: %+v", i, f)
		}
		if i == len(FaultKinds)-1 && len(count) != len(FaultKinds) {
			t.Errorf("%d kinds in the first turn, want all %d", len(count), len(FaultKinds))
		}
	}
	for _, k := range FaultKinds {
		if count[k] != 3 {
			t.Errorf("%s comes %d times, want 3", k, count[k])
		}
	}
	if len(nodes) != 3 {
		t.Errorf("%d of 3 nodes are hurt", len(nodes))
	}
	for _, f := range Schedule(7, 5, 3, []FaultKind{FreezeOwner}, true) {
		if f.Hold != 30*time.Second {
			t.Errorf("the long way holds %v", f.Hold)
		}
	}
}

func TestParseFaultKinds(t *testing.T) {
	if all, err := ParseFaultKinds(nil); err != nil || len(all) != len(FaultKinds) {
		t.Errorf("none: %v, %v", all, err)
	}
	if some, err := ParseFaultKinds([]string{"kill", "cut"}); err != nil || !reflect.DeepEqual(some, []FaultKind{KillOwner, CutOff}) {
		t.Errorf("two: %v, %v", some, err)
	}
	if _, err := ParseFaultKinds([]string{"earthquake"}); err == nil {
		t.Error("an earthquake was taken")
	}
}
