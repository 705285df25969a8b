package shard

import (
	"math"
	"sync"
	"time"

	"github.com/bongsu-im/bongsu/journal"
)

// lag knows since when a replica's view may lack something that its journal
// knows to be committed. The owner's goroutine tells it what it does; who asks
// may be anyone.
//
// While records keep coming a view is always some behind, so being level with
// the journal at one moment is not what counts, but having reached what the
// journal knew at that moment: goal, at the time of sampled.
type lag struct {
	mu      sync.Mutex
	level   time.Time // the view holds all that was known to be committed then; zero: never yet
	sampled time.Time
	goal    journal.Index
	waiting bool      // for news, with everything applied
	news    time.Time // when someone saw that there is news, while waiting; zero: nobody has
}

// reading is called before the journal is asked for what follows at.
func (l *lag) reading(at, last journal.Index) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.waiting = at >= last; l.waiting {
		l.level = now
		l.news = time.Time{}
	}
	if at >= l.goal { // reached: a new goal
		if l.level.Before(l.sampled) {
			l.level = l.sampled
		}
		l.goal, l.sampled = last, now
	}
}

// woken is called when the journal has answered.
func (l *lag) woken() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting {
		l.level = time.Now()
		if !l.news.IsZero() {
			l.level = l.news
		}
	}
	l.waiting = false
}

// owned is called when this node decides no longer: until then it had everything.
func (l *lag) owned() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.level, l.waiting = time.Now(), false
}

// of returns how far a view is behind that stands at at, when the journal knows
// of entries up to last.
func (l *lag) of(at, last journal.Index) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	switch {
	case at >= last:
		return 0
	case l.waiting:
		if l.news.IsZero() {
			l.news = now
		}
		return now.Sub(l.news)
	case l.level.IsZero():
		return math.MaxInt64
	}
	return now.Sub(l.level)
}

// Lag returns how long ago this replica's view of a shard last held everything
// that its journal knew to be committed: 0 while it does, or while this node
// owns the shard, and the longest Duration before it has for the first time.
// What the journal itself has not heard of yet is not in it.
func (s *Set) Lag(shard int) time.Duration {
	o := s.owners[shard]
	if o.owned.Load() {
		return 0
	}
	if !o.current.Load() {
		return math.MaxInt64
	}
	return o.lag.of(journal.Index(o.view.Mark().GetIndex()), o.log.Last().Index)
}
