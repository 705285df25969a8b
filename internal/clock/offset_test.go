package clock

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestOffset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o Offset
		if !o.Now().Equal(time.Now()) || o.Told() != 0 {
			t.Errorf("the zero Offset says %v at %v", o.Now(), time.Now())
		}
		for _, d := range []time.Duration{time.Hour, -time.Hour} {
			before := o.Now()
			o.Set(d)
			if got := o.Now().Sub(time.Now()); got != d {
				t.Errorf("wrong by %v, want %v", got, d)
			}
			if got := o.Now().Sub(before); got != d {
				t.Errorf("a jump of %v is seen as %v", d, got)
			}
			o.Set(0)
		}
		if o.Told() != 4 {
			t.Errorf("told a wrong time %d times, want 4", o.Told())
		}
	})
}
