package raft

import (
	"sync/atomic"
	"time"

	"github.com/bongsu-im/bongsu/journal"
)

// word is when a leader was last heard of, for readers outside the loop.
//
// What counts is not that it speaks: a member that is far behind hears of it with
// every entry it is sent, and knows of nothing later than what it was sent. So it
// is the last moment of which this node has everything that the leader had told
// by then to be committed. While entries keep coming there is always a little
// more, so what was told at one moment is a goal, and reaching it is what counts.
type word struct {
	began   time.Time    // carries the monotonic clock
	at      atomic.Int64 // since began; 0: never
	leading atomic.Bool  // this node leads, and owns

	// The loop's alone.
	told   uint64 // the highest commit that a leader has told of
	goal   uint64 // what told was
	goalAt int64  // then, since began
}

func (w *word) now() int64 { return max(1, int64(time.Since(w.began))) }

func (w *word) heard() { w.at.Store(w.now()) }

// tell takes note of what a leader says to be committed.
func (w *word) tell(commit uint64) { w.told = max(w.told, commit) }

// spoke: the leader has said something, while this log is known to be committed
// up to commit.
func (w *word) spoke(commit uint64) {
	now := w.now()
	switch {
	case commit >= w.told:
		w.at.Store(now)
	case commit < w.goal:
		return
	case w.goalAt > w.at.Load():
		w.at.Store(w.goalAt)
	}
	w.goal, w.goalAt = w.told, now
}

// stop: nobody will be heard of any more.
func (w *word) stop() {
	if w.leading.Load() {
		w.heard()
	}
	w.leading.Store(false)
}

// Heard returns when this node last heard from the leader that it follows in a
// shard, a heartbeat, entries or a snapshot of its term, and had all that the
// leader had told by then to be committed. While this node leads it is the
// present; the zero time means never. A node that is cut off goes on to
// believe that it leads for two elections' times at most. The result is of the
// monotonic clock: hold it against time.Since, not against a clock that may be
// set. It is cheap and never waits.
func (j *Journal) Heard(shard journal.ShardID) time.Time {
	w := &j.groups[shard].word
	if w.leading.Load() {
		return time.Now()
	}
	if at := w.at.Load(); at != 0 {
		return w.began.Add(time.Duration(at))
	}
	return time.Time{}
}
