package view

import (
	"context"
	"sync"
)

// turn says whose it is to change a shard: a stage's, or that of the restore
// which puts another view in its place.
type turn struct {
	mu    sync.Mutex
	whose changer
	ended chan struct{} // closed when it is nobody's again; nil while nobody waits
}

type changer int

const (
	nobody changer = iota
	stager
	restorer
)

// stage takes the turn for a stage. It waits for a restore; another stage has
// no business there, so false.
func (t *turn) stage() bool {
	for {
		have, ended := t.take(stager)
		if have == nobody || have == stager {
			return have == nobody
		}
		<-ended
	}
}

// restore takes the turn for a restore, once whoever has it is done.
func (t *turn) restore(ctx context.Context) error {
	for {
		have, ended := t.take(restorer)
		if have == nobody {
			return nil
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// take returns whose turn it was: nobody's if it is the caller's now.
func (t *turn) take(by changer) (had changer, ended <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.whose == nobody {
		t.whose = by
		return nobody, nil
	}
	if t.ended == nil {
		t.ended = make(chan struct{})
	}
	return t.whose, t.ended
}

func (t *turn) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.whose = nobody
	if t.ended != nil {
		close(t.ended)
		t.ended = nil
	}
}
