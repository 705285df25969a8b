package clock

import (
	"sync/atomic"
	"time"
)

// Offset is a clock that is wrong by as much as it is told, for drills. The
// zero Offset is the machine's clock. It is safe for concurrent use.
type Offset struct {
	// Clock that is right; nil means the machine's.
	Clock Clock

	by   atomic.Int64
	told atomic.Int64
}

// Set makes the clock wrong by d from now on.
func (o *Offset) Set(d time.Duration) { o.by.Store(int64(d)) }

// Told counts how often a wrong time was told.
func (o *Offset) Told() int64 { return o.told.Load() }

// Now implements Clock. The monotonic reading moves with the wall clock's, so
// that differences of two readings show a jump between them, as they do of
// times that were stored.
func (o *Offset) Now() time.Time {
	right := Clock(System{})
	if o.Clock != nil {
		right = o.Clock
	}
	by := time.Duration(o.by.Load())
	if by != 0 {
		o.told.Add(1)
	}
	return right.Now().Add(by)
}
