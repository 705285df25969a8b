package demo

import (
	"fmt"
	"testing"
	"time"
)

func TestMeter(t *testing.T) {
	m := NewMeter()
	start := time.UnixMilli(1_700_000_000_000)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	for i := range 100 {
		id := fmt.Sprint(i)
		m.Sent(id, at(i*10))
		m.Acknowledged(id, at(i*10+i)) // waits 0 to 99 ms
	}
	m.Acknowledged("0", at(5000)) // told of twice
	m.Acknowledged("nobody's", at(5000))
	f := m.Figures(at(5000))
	if f.P50Ms != 49 || f.P99Ms != 98 || f.PerSecond != 10 {
		t.Errorf("p50 %v, p99 %v, %v/s", f.P50Ms, f.P99Ms, f.PerSecond)
	}
	n := 0
	for i, b := range f.Buckets {
		n += b.Acknowledged
		if i > 0 && b.At-f.Buckets[i-1].At != 500 {
			t.Errorf("bucket %d is %d ms after the one before", i, b.At-f.Buckets[i-1].At)
		}
	}
	if n != 100 || len(f.Buckets) != 11 {
		t.Errorf("%d in %d buckets", n, len(f.Buckets))
	}
	if f := m.Figures(at(20_000)); f.PerSecond != 0 || f.P50Ms != 0 {
		t.Errorf("long after: %+v", f)
	}
	if f := m.Figures(at(900_000)); len(f.Buckets) > bucketCount {
		t.Errorf("%d buckets", len(f.Buckets))
	}
}

func TestMeterBlamesTheFault(t *testing.T) {
	m := NewMeter()
	start := time.UnixMilli(1_700_000_000_000)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	m.Sent("slow but before", at(0))
	m.Acknowledged("slow but before", at(3000))
	m.Sent("waits", at(3900))
	m.Fault(Kill, "n1", at(4000))
	longest := func(now time.Time) int64 { f := m.Figures(now); return f.Faults[0].LongestMs }
	if got := longest(at(4200)); got != 300 {
		t.Errorf("one that still waits has waited %d ms", got)
	}
	m.Acknowledged("waits", at(4500))
	if got := longest(at(4600)); got != 600 {
		t.Errorf("longest = %d", got)
	}
	m.Fault(Heal, "n1", at(5000))
	m.Sent("after the heal", at(5100))
	m.Acknowledged("after the heal", at(6100))
	if got := longest(at(6200)); got != 1000 {
		t.Errorf("with one sent soon after: %d", got)
	}
	m.Sent("much later", at(30_000))
	m.Acknowledged("much later", at(39_000))
	if got := longest(at(40_000)); got != 1000 {
		t.Errorf("what has nothing to do with it was blamed on it: %d", got)
	}
	if f := m.Figures(at(40_000)); f.Faults[1].Kind != Heal || f.Faults[1].LongestMs != -1 {
		t.Errorf("the heal: %+v", f.Faults[1])
	}
	for i := range 2 * maxFaults {
		m.Fault(Freeze, "n2", at(50_000+i))
	}
	m.Sent("last", at(51_000))
	m.Acknowledged("last", at(51_250))
	f := m.Figures(at(52_000))
	if len(f.Faults) != maxFaults || f.Faults[maxFaults-1].LongestMs != 250 {
		t.Errorf("%d faults, the last %+v", len(f.Faults), f.Faults[len(f.Faults)-1])
	}
}
