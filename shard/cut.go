package shard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/view"
)

// maxCuts bounds the looks that may wait at once: a scrub needs one.
const maxCuts = 8

// cuts are looks at a view that someone has asked for at a position to come.
// The owner takes each just before it goes past that position, so that replicas
// which never rest, and are never at the same place at the same time, can be
// compared all the same.
type cuts struct {
	some atomic.Bool // waiting is not empty: what the owner looks at every time

	mu      sync.Mutex // guards what follows
	waiting []*cut
}

type cut struct {
	at   journal.Index
	done chan cutOutcome // has room for one
}

type cutOutcome struct {
	look *view.Reader
	err  error
}

var errPast = errors.New("the view is past that position")

func (c *cuts) add(at journal.Index) (*cut, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) >= maxCuts {
		return nil, fmt.Errorf("%d looks are waited for already", maxCuts)
	}
	k := &cut{at: at, done: make(chan cutOutcome, 1)}
	c.waiting = append(c.waiting, k)
	c.some.Store(true)
	return k, nil
}

// take takes out those that are for a position before next.
func (c *cuts) take(next journal.Index) (due []*cut) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var rest []*cut
	for _, k := range c.waiting {
		if k.at < next {
			due = append(due, k)
		} else {
			rest = append(rest, k)
		}
	}
	c.waiting = rest
	c.some.Store(len(rest) > 0)
	return due
}

// remove takes one out that is not waited for any more.
func (c *cuts) remove(k *cut) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, have := range c.waiting {
		if have == k {
			c.waiting = append(c.waiting[:i:i], c.waiting[i+1:]...)
			break
		}
	}
	c.some.Store(len(c.waiting) > 0)
}

// between tells whether a look is asked for at a position from at to next.
func (c *cuts) between(at, next journal.Index) bool {
	if !c.some.Load() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.waiting {
		if k.at >= at && k.at < next {
			return true
		}
	}
	return false
}

// passing is called before the view goes to a record at next.
func (o *owner) passing(next journal.Index) {
	if !o.cuts.some.Load() {
		return
	}
	for _, k := range o.cuts.take(next) {
		if journal.Index(o.view.Mark().GetIndex()) > k.at {
			k.done <- cutOutcome{err: errPast} // it was replaced
			continue
		}
		look, err := o.view.Reader()
		k.done <- cutOutcome{look, err}
	}
}

// lookAt waits for the view as it stands after the last record at or before at.
func (o *owner) lookAt(ctx context.Context, at journal.Index) (*view.Reader, error) {
	k, err := o.cuts.add(at)
	if err != nil {
		return nil, err
	}
	// From here on it is not missed; but if the view stands there, or is past it,
	// nothing may come.
	if journal.Index(o.view.Mark().GetIndex()) >= at {
		o.cuts.remove(k)
		select {
		case out := <-k.done:
			return out.look, out.err
		default:
		}
		return o.lookNow(at)
	}
	select {
	case out := <-k.done:
		return out.look, out.err
	case <-ctx.Done():
		o.cuts.remove(k)
		select {
		case out := <-k.done: // it crossed
			return out.look, out.err
		default:
			return nil, ctx.Err()
		}
	}
}

func (o *owner) lookNow(at journal.Index) (*view.Reader, error) {
	look, err := o.view.Reader()
	if err != nil {
		return nil, err
	}
	mark, err := look.Mark()
	if err == nil && journal.Index(mark.GetIndex()) != at {
		err = errPast
	}
	if err != nil {
		return nil, errors.Join(err, look.Close())
	}
	return look, nil
}
