package postgres

import (
	"math/rand/v2"
	"sync"
	"time"
)

// signal wakes everyone who waits; wait before looking. The zero value is ready.
type signal struct {
	mu sync.Mutex
	c  chan struct{}
}

func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		s.c = make(chan struct{})
	}
	return s.c
}

func (s *signal) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c != nil {
		close(s.c)
		s.c = nil
	}
}

// backoff is how long to wait after failure n, from 0: doubling from 25 ms to
// 800 ms, half of it by chance, so that many do not come back at once.
func backoff(n int) time.Duration {
	d := 25 * time.Millisecond << min(n, 5)
	return d/2 + rand.N(d/2)
}
