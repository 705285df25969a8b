package client

import (
	"encoding/binary"
	"io"
	"sync"
	"time"

	"github.com/bongsu-im/bongsu/internal/clock"
	"github.com/google/uuid"
)

// lockedSource lets several goroutines share a source that is not theirs to share.
type lockedSource struct {
	mu     sync.Mutex
	source clock.Source
}

func (s *lockedSource) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return io.ReadFull(s.source, p)
}

// jitter returns an even random duration in [0, limit).
func jitter(random io.Reader, limit time.Duration) time.Duration {
	if limit <= 0 {
		return 0
	}
	var b [8]byte
	if _, err := random.Read(b[:]); err != nil {
		// A source that fails must not make everyone retry at the same moment 0.
		return limit / 2
	}
	return time.Duration(binary.BigEndian.Uint64(b[:]) % uint64(limit))
}

// NewMessageID makes a UUID of version 7: the milliseconds of now, then random.
// It is an idempotency key; nothing relies on its order.
func NewMessageID(now time.Time, random io.Reader) (string, error) {
	var u uuid.UUID
	if _, err := io.ReadFull(random, u[6:]); err != nil {
		return "", err
	}
	ms := uint64(now.UnixMilli())
	binary.BigEndian.PutUint32(u[0:], uint32(ms>>16))
	binary.BigEndian.PutUint16(u[4:], uint16(ms))
	u[6] = u[6]&0x0f | 0x70
	u[8] = u[8]&0x3f | 0x80
	return u.String(), nil
}

// Backoff spaces attempts: before attempt n (from 0) it waits an even random
// time below min(Max, Base·2ⁿ), known as full jitter, and never less than the
// server's hint.
type Backoff struct {
	// Base is the limit of the first wait; 0 means 250 ms.
	Base time.Duration
	// Max is the limit of every wait; 0 means 30 s.
	Max time.Duration
}

func (b *Backoff) setDefaults() {
	if b.Base <= 0 {
		b.Base = 250 * time.Millisecond
	}
	if b.Max <= 0 {
		b.Max = 30 * time.Second
	}
	b.Max = max(b.Max, b.Base)
}

// Limit is the longest wait before attempt n.
func (b Backoff) Limit(n int) time.Duration {
	limit := b.Base
	for ; n > 0 && limit < b.Max; n-- {
		limit *= 2
	}
	return min(limit, b.Max)
}

// wait is how long to wait before attempt n. The hint is a floor, and jitter
// comes on top, or all who were refused together would return together.
func (b Backoff) wait(n int, hint time.Duration, random io.Reader) time.Duration {
	return hint + jitter(random, b.Limit(n))
}
