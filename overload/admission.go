package overload

import (
	"fmt"
	"sync"
	"time"
)

// Limits bound the requests that are being served at once.
type Limits struct {
	// Total is the most requests in flight of all classes together.
	Total int
	// SendReserve of Total may only be taken by sends.
	SendReserve int
	// ByClass bounds single classes; 0 means that only Total does.
	ByClass [Classes]int
}

// DefaultLimits suit one machine: tens of thousands of people, each with at
// most a request or two under way.
func DefaultLimits() Limits {
	l := Limits{Total: 8192, SendReserve: 2048}
	l.ByClass[Receipt] = 3072
	l.ByClass[History] = 3072
	l.ByClass[Media] = 1024
	l.ByClass[Search] = 1024
	l.ByClass[Typing] = 512
	l.ByClass[Tab] = 1024
	return l
}

func (l Limits) check() error {
	if l.Total <= 0 || l.SendReserve < 0 || l.SendReserve >= l.Total {
		return fmt.Errorf("overload limits: total %d, reserve for sends %d: want 0 ≤ reserve < total", l.Total, l.SendReserve)
	}
	for c, n := range l.ByClass {
		if n < 0 {
			return fmt.Errorf("overload limits: class %s: %d is negative", Class(c), n)
		}
	}
	return nil
}

// Admission says which requests are let in.
type Admission struct {
	limits Limits

	mu       sync.Mutex // guards what follows
	inFlight [Classes]int
	total    int
	refused  [Classes]uint64
}

// NewAdmission makes an Admission with the given limits; zero limits mean the
// default ones.
func NewAdmission(l Limits) (*Admission, error) {
	if l == (Limits{}) {
		l = DefaultLimits()
	}
	if err := l.check(); err != nil {
		return nil, err
	}
	return &Admission{limits: l}, nil
}

// Admit asks for a place for one request of class c by the user with the given
// hash. If ok, the caller must call Done(c) once when the request is answered.
// If not, nothing was taken and retryAfter is the hint to send. now is what the
// adaptive threshold will be judged by; the fixed bounds do not need it.
func (a *Admission) Admit(c Class, userHash uint64, now time.Time) (ok bool, retryAfter time.Duration) {
	_ = now // see the comment above
	if !c.Valid() {
		c = Tab
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	room := a.limits.Total
	if c != Send {
		// What sends use beyond the rest's share comes out of their reserve.
		room -= a.limits.SendReserve
		if used := a.inFlight[Send]; used > a.limits.SendReserve {
			room -= used - a.limits.SendReserve
		}
	}
	others := a.total - a.inFlight[Send]
	if c == Send {
		others = a.total
	}
	if others >= room {
		a.refused[c]++
		return false, RetryAfter(c, max(others-room, 0), max(room, 1), userHash)
	}
	if most := a.limits.ByClass[c]; most > 0 && a.inFlight[c] >= most {
		a.refused[c]++
		return false, RetryAfter(c, 0, most, userHash)
	}
	a.inFlight[c]++
	a.total++
	return true, 0
}

// Done gives back the place of one admitted request of class c.
func (a *Admission) Done(c Class) {
	if !c.Valid() {
		c = Tab
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.inFlight[c] == 0 {
		panic("overload: Done without Admit for class " + c.String())
	}
	a.inFlight[c]--
	a.total--
}

// InFlight returns how many admitted requests of class c are not done yet.
func (a *Admission) InFlight(c Class) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c >= Classes {
		return 0
	}
	return a.inFlight[c]
}

// Refused returns how many requests of class c have been turned away.
func (a *Admission) Refused(c Class) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c >= Classes {
		return 0
	}
	return a.refused[c]
}
