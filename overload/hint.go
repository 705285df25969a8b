package overload

import "time"

// The bounds of every hint.
const (
	MinRetryAfter = time.Second
	MaxRetryAfter = 60 * time.Second
)

// baseRetry is how long a class waits when the system is just full: the lower
// the class, the longer, so that what matters comes back first.
var baseRetry = [Classes]time.Duration{
	Send:    1 * time.Second,
	Resume:  2 * time.Second,
	Receipt: 4 * time.Second,
	History: 4 * time.Second,
	Media:   8 * time.Second,
	Search:  8 * time.Second,
	Typing:  10 * time.Second,
	Tab:     15 * time.Second,
}

// RetryAfter computes the hint of a refusal: the class's base, stretched by how
// far demand exceeds capacity (waiting per slot; 0 means just full), then
// spread by the user's hash over ±25 % so that those who were refused together
// do not come back together. The result lies in [MinRetryAfter, MaxRetryAfter].
func RetryAfter(c Class, waiting, capacity int, userHash uint64) time.Duration {
	if !c.Valid() {
		c = Tab
	}
	d := baseRetry[c]
	if capacity > 0 && waiting > 0 {
		stretch := 1 + float64(waiting)/float64(capacity)
		if stretch > float64(MaxRetryAfter)/float64(d) {
			stretch = float64(MaxRetryAfter) / float64(d)
		}
		d = time.Duration(float64(d) * stretch)
	}
	// The hash may be of anything, so mix before taking its low bits.
	h := userHash * 0x9e3779b97f4a7c15
	spread := float64(h>>40)/float64(1<<24) - 0.5 // [-0.5, 0.5)
	d += time.Duration(float64(d) * spread / 2)
	return min(max(d, MinRetryAfter), MaxRetryAfter)
}
