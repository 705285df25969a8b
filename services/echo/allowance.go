package echo

import "time"

// allowance is a bucket of answers: burst at once, then perSecond. It is pure:
// time comes in with each call.
type allowance struct {
	burst, perSecond float64

	used float64   // of the burst, at the time at
	at   time.Time // of the last call
}

// take counts one answer and returns how long it must wait for its turn.
func (a *allowance) take(now time.Time) time.Duration {
	if d := now.Sub(a.at); d > 0 {
		a.used = max(0, a.used-d.Seconds()*a.perSecond)
	}
	a.at = now
	a.used++
	if a.used <= a.burst {
		return 0
	}
	return time.Duration((a.used - a.burst) / a.perSecond * float64(time.Second))
}
