package peers

import (
	"context"
	"errors"
	"sync"
)

// waiting is who waits for the answer to which number. The zero value is ready.
type waiting struct {
	mu     sync.Mutex
	last   uint64
	answer map[uint64]chan error
	err    error // once set, nobody can wait
}

// begin draws a number that is not 0; its answer comes on the channel.
func (w *waiting) begin() (uint64, chan error, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, nil, w.err
	}
	if w.answer == nil {
		w.answer = map[uint64]chan error{}
	}
	w.last++
	c := make(chan error, 1)
	w.answer[w.last] = c
	return w.last, c, nil
}

// end gives the answer to a number; one that nobody waits for is dropped.
func (w *waiting) end(number uint64, answer error) {
	w.mu.Lock()
	c := w.answer[number]
	delete(w.answer, number)
	w.mu.Unlock()
	if c != nil {
		c <- answer
	}
}

// fail ends all who wait, and who come later.
func (w *waiting) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	for number, c := range w.answer {
		c <- w.err
		delete(w.answer, number)
	}
}

// ask draws a number, lets write send the request, and waits for the answer.
func (w *waiting) ask(ctx context.Context, write func(number uint64) error) error {
	number, answer, err := w.begin()
	if err != nil {
		return err
	}
	if err := write(number); err != nil {
		w.end(number, nil)
		return err
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		w.end(number, nil)
		return errors.Join(errors.New("no answer came"), context.Cause(ctx))
	}
}
