package auth

import (
	"sync"
	"time"

	"github.com/bongsu-im/bongsu/internal/id"
)

// maxRevoked bounds the memory of Revoked: about 100 bytes each.
const maxRevoked = 1 << 20

// Revoked remembers revoked devices for as long as an access token made before
// the revocation could still verify.
type Revoked struct {
	mu       sync.Mutex // guards what follows
	until    map[id.ID]time.Time
	pruned   time.Time
	overflow uint64
	most     int
}

// NewRevoked makes an empty set.
func NewRevoked() *Revoked {
	return &Revoked{until: make(map[id.ID]time.Time), most: maxRevoked}
}

// Add notes that a device was revoked at now. It returns false if the set is
// full of devices revoked within a token's life: this one's tokens then live
// to their end, as they do under partition (DESIGN §8).
func (r *Revoked) Add(device id.ID, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.pruned) > time.Minute || len(r.until) >= r.most {
		for d, until := range r.until {
			if now.After(until) {
				delete(r.until, d)
			}
		}
		r.pruned = now
	}
	if _, known := r.until[device]; !known && len(r.until) >= r.most {
		r.overflow++
		return false
	}
	r.until[device] = now.Add(Life + 2*Skew)
	return true
}

// Has tells whether a device was revoked within a token's life.
func (r *Revoked) Has(device id.ID, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	until, ok := r.until[device]
	return ok && !now.After(until)
}

// Len returns how many devices are remembered, and how many were not because
// the set was full.
func (r *Revoked) Len() (remembered int, overflow uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.until), r.overflow
}
