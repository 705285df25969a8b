// Package clock is the only door to the time of day and to randomness outside
// tests: what needs them takes a Clock or a Source, so that a simulation can
// give it another. Code that only waits uses package time directly and is
// tested under testing/synctest.
package clock

import (
	"context"
	"crypto/rand"
	"io"
	"time"
)

// Clock tells the time of day.
type Clock interface {
	// Now returns the current time; it may step backwards as real clocks do.
	Now() time.Time
}

// System is the machine's clock.
type System struct{}

// Now implements Clock.
func (System) Now() time.Time { return time.Now() }

// Source gives random bytes; reading never fails and never returns short.
type Source = io.Reader

// Random is the operating system's cryptographic source.
var Random Source = rand.Reader

// Sleep waits for d and returns false if ctx ended first. Tests run it under
// testing/synctest.
func Sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
