package gateway

import (
	"context"
	"errors"
	"net"
	"os"
	"time"
)

// readBuffer is what a goroutine-driven session reads into.
const readBuffer = 2 << 10

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// pump carries a session over a connection that blocks: one goroutine reads,
// and one writes while something waits to be written.
type pump struct {
	s     *session
	conn  net.Conn
	moved chan struct{} // the session may have been unblocked; never closed

	writing bool // guarded by s.mu: the writer runs
}

func (p *pump) driver() driver { return goroutineDriver }

func (p *pump) start() { go p.read() }

func (p *pump) refuse(frame []byte) {
	if err := p.conn.SetWriteDeadline(time.Now().Add(time.Second)); err == nil {
		_, _ = p.conn.Write(frame) // best effort before closing
	}
	_ = p.conn.Close()
}

func (p *pump) kick() {
	switch {
	case p.s.broken:
		_ = p.conn.SetDeadline(longAgo) // wakes both; fails only when both are over
	case !p.writing:
		p.writing = true
		p.s.workers++
		go p.write()
	}
	select {
	case p.moved <- struct{}{}:
	default:
	}
}

// moment makes a deadline of a moment; never is none.
func (p *pump) moment(d time.Duration) time.Time {
	if d == never {
		return time.Time{}
	}
	return p.s.g.birth.Add(d)
}

// read owns the session until it ends.
func (p *pump) read() {
	s := p.s
	defer func() {
		s.mu.Lock()
		s.broken = true
		s.mu.Unlock()
		_ = p.conn.Close() // the peer sees the end either way
		s.over()
	}()
	buf := make([]byte, readBuffer)
	for {
		s.resume(s.g.uptime())
		s.mu.Lock()
		if s.doneLocked(s.g.uptime()) {
			s.mu.Unlock()
			return
		}
		due, deaf := s.dueLocked(), s.stalled || s.peerDone
		if !deaf {
			// Under the lock, so that it cannot undo the deadline of a kick.
			_ = p.conn.SetReadDeadline(p.moment(due)) // a failure shows at the read
		}
		s.mu.Unlock()
		if deaf {
			p.await(due)
			s.tick(s.g.uptime())
			continue
		}
		n, err := p.conn.Read(buf)
		s.receive(buf[:n], s.g.uptime())
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.tick(s.g.uptime())
		default:
			s.ended(err, s.g.uptime())
		}
	}
}

// await waits until something has moved or is due.
func (p *pump) await(due time.Duration) {
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if due != never {
		ctx, cancel = context.WithDeadline(ctx, p.moment(due))
	}
	defer cancel()
	select {
	case <-p.moved:
	case <-ctx.Done():
	}
}

// write writes until nothing waits. No lock is held while it does.
func (p *pump) write() {
	s := p.s
	defer s.workerOver()
	for {
		s.startReady()
		s.mu.Lock()
		n, size := s.gatherLocked()
		if s.broken || n == 0 && !s.dirty {
			p.writing = false
			s.mu.Unlock()
			return
		}
		if n == 0 {
			s.mu.Unlock()
			continue
		}
		frames := make(net.Buffers, 0, n)
		for _, f := range s.queue[:n] {
			frames = append(frames, f.data)
		}
		_ = p.conn.SetWriteDeadline(p.moment(s.g.uptime() + s.g.patience.write)) // a failure shows at the write
		s.mu.Unlock()
		_, err := frames.WriteTo(p.conn)
		s.g.metrics.writes.Inc()
		s.mu.Lock()
		s.advanceLocked(size, s.g.uptime())
		switch {
		case err != nil:
			s.abortLocked()
		case s.closed:
			_ = p.conn.SetReadDeadline(p.moment(s.closeEnds)) // a failure shows at the read
		}
		select { // the reader may wait for what has been written
		case p.moved <- struct{}{}:
		default:
		}
		s.mu.Unlock()
	}
}
