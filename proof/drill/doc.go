// Package drill proves promises by breaking things: it kills, pulls plugs, and
// then counts what people were told against what they can read.
//
// A drill returns a Result; package oracle judges. Every drill takes a seed and
// says it; what a seed fixes is when faults come and what people do, not how
// the machine schedules them. Drills start their own servers on loopback or in
// process, in temporary folders, bounded in count and time, and stop them.
package drill

import (
	"maps"
	"slices"
)

func sortedKeys(m map[string]float64) []string { return slices.Sorted(maps.Keys(m)) }
