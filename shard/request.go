package shard

import (
	"context"
	"sync/atomic"
	"time"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
)

// request is one command on its way. The owner takes it, or its sender
// withdraws it before that (then nothing was done, for sure); whoever comes
// first decides what done hears, once.
type request struct {
	// ctx is the sender's where it waits (Do); nil where it does not (Begin),
	// which gives a deadline instead. Kept because the owner judges both.
	ctx      context.Context
	deadline time.Time // zero: none of its own

	cmd *nodev1.Command
	// proof: nothing is wanted but an answer that stands on a commit.
	proof   bool
	bytes   int
	arrived time.Time
	fate    atomic.Int32
	done    func(reply *nodev1.Reply, err error) // never blocks
}

const (
	fateWaiting = iota
	fateTaken   // by the owner
	fateSettled // done has been or is being called
)

// take is the owner's claim; false for a request that was withdrawn.
func (r *request) take() bool { return r.fate.CompareAndSwap(fateWaiting, fateTaken) }

// withdraw ends a request that the owner has not taken.
func (r *request) withdraw() bool { return r.fate.CompareAndSwap(fateWaiting, fateSettled) }

// abandon ends a request that the owner has taken and not settled: its outcome
// is unknown to its sender, who will not hear of it any more.
func (r *request) abandon() bool { return r.fate.CompareAndSwap(fateTaken, fateSettled) }

// settle tells the sender, unless it has given up waiting. The owner calls it.
func (r *request) settle(reply *nodev1.Reply, err error) {
	if r.fate.CompareAndSwap(fateTaken, fateSettled) {
		r.done(reply, err)
	}
}

// over tells whether nobody waits for the request any more.
func (r *request) over(now time.Time) bool {
	if r.ctx != nil && r.ctx.Err() != nil {
		return true
	}
	return !r.deadline.IsZero() && now.After(r.deadline)
}
