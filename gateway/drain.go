package gateway

import (
	"context"
	"time"

	"github.com/gobwas/ws"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// Drain ends all sessions without losing anything: new sockets are refused,
// everyone is told to reconnect within the given time, requests in flight are
// answered, and the sockets are closed (1001) spread over that time. It
// returns nil when all are gone, or ctx's error when that ends first; the rest
// are then cut. RPC goes on: its server is shut down by who started it.
func (g *Gateway) Drain(ctx context.Context, within time.Duration) error {
	within = max(within, 0)
	g.mu.Lock()
	g.draining = true
	sessions := g.snapshotLocked()
	g.mu.Unlock()

	event := newPrepared(&edgev1.Event{Event: &edgev1.Event_Drain{Drain: &edgev1.DrainEvent{WithinMs: uint32(min(within.Milliseconds(), 1<<32-1))}}})
	for _, s := range sessions {
		s.offer(event, false)
	}
	began := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i, s := range sessions { // in no order: the map's
		timer.Reset(time.Until(began.Add(within * time.Duration(i+1) / time.Duration(len(sessions)))))
		select {
		case <-timer.C:
			s.finish(ws.StatusGoingAway, "the server is stopping", false)
			continue
		case <-ctx.Done():
		}
		break
	}
	err := g.awaitEmpty(ctx)
	if err != nil {
		g.mu.Lock()
		rest := g.snapshotLocked()
		g.mu.Unlock()
		g.log.Warn("sockets cut at the end of draining", "sockets", len(rest))
		for _, s := range rest {
			s.abort()
		}
	}
	return err
}

// awaitEmpty waits until no session is left.
func (g *Gateway) awaitEmpty(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		g.mu.Lock()
		left := len(g.sessions)
		g.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Sessions returns how many sockets are open.
func (g *Gateway) Sessions() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.sessions)
}
