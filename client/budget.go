package client

import (
	"sync"
	"time"
)

// BudgetOptions of the retries of an outbox: a bucket of tokens, each good for
// one retry. Messages that succeed at once fill it by a share, so that retries
// stay a fraction of the load on a server that is ill; time fills it slowly, so
// that they never cease.
type BudgetOptions struct {
	// Tokens is how many the bucket holds, and has at first; 0 means 10.
	Tokens float64
	// PerSuccess is what a message that needed no retry adds; 0 means 0.1.
	PerSuccess float64
	// PerSecond is what time adds; 0 means 0.5.
	PerSecond float64
}

func (b *BudgetOptions) setDefaults() {
	setDefault(&b.Tokens, 10)
	setDefault(&b.PerSuccess, 0.1)
	setDefault(&b.PerSecond, 0.5)
}

// budget is the bucket. Below zero its tokens are promised to those who wait.
type budget struct {
	opts BudgetOptions

	mu     sync.Mutex
	tokens float64
	at     time.Time // when tokens was right
}

func newBudget(opts BudgetOptions, now time.Time) *budget {
	opts.setDefaults()
	return &budget{opts: opts, tokens: opts.Tokens, at: now}
}

// refill must be called with mu held.
func (b *budget) refill(now time.Time) {
	if d := now.Sub(b.at); d > 0 {
		b.tokens = min(b.opts.Tokens, b.tokens+d.Seconds()*b.opts.PerSecond)
	}
	b.at = now
}

func (b *budget) earn(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill(now)
	b.tokens = min(b.opts.Tokens, b.tokens+b.opts.PerSuccess)
}

// spend takes one token and returns how long the retry must wait for it. Those
// who wait do so one after the other, not all until the same moment.
func (b *budget) spend(now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill(now)
	b.tokens--
	if b.tokens >= 0 {
		return 0
	}
	return time.Duration(-b.tokens / b.opts.PerSecond * float64(time.Second))
}
