package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/bongsu-im/bongsu/client"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

const (
	// readEvery is how often history is read beside the live streams.
	readEvery = 1500 * time.Millisecond
	// tailPatience is how long a replica may need to show what was acknowledged
	// before the audit began; beyond it the messages are counted as lost.
	tailPatience = 15 * time.Second
)

// stream follows a room as a bot sees it, until ctx ends. Each message goes to
// the ledger, then to seen, if that is set.
func (b *bot) stream(ctx context.Context, l *Ledger, roomID string, after uint64, seen func(*edgev1.Message)) {
	for ctx.Err() == nil {
		for m, err := range b.conn.Follow(ctx, roomID, after) {
			if err == nil {
				l.Streamed(b.login, m)
				after = m.GetSeq()
				if seen != nil {
					seen(m)
				}
				continue
			}
			var hole *client.HoleError
			if errors.As(err, &hole) {
				// The ledger counts it when it sees what comes after.
				after = hole.To
			}
			// A history that ends too early is followed again: what it lacks, the
			// next reading of history counts.
			rest(ctx, 200*time.Millisecond)
		}
	}
}

// reader reads what no history was read of yet, again and again, as members
// see it from whichever node they are at, until ctx ends.
func reader(ctx context.Context, l *Ledger, members func(roomID string) []*bot) {
	for turn := 0; rest(ctx, readEvery); turn++ {
		for room, after := range l.Unread() {
			all := members(room)
			if len(all) == 0 {
				continue
			}
			b := all[turn%len(all)]
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			page, err := b.conn.ListAfter(client.WithClass(ctx, edgev1.Class_CLASS_HISTORY), room, after)
			cancel()
			if err != nil {
				continue // nobody there just now: the next round
			}
			notePage(l, room, b.login, after, page)
		}
	}
}

// notePage tells the ledger of one page, and returns the number after it.
func notePage(l *Ledger, room, who string, after uint64, page *edgev1.ListResponse) uint64 {
	last := after
	for _, m := range page.GetMessages() {
		last = max(last, m.GetSeq())
	}
	end := last
	if !page.GetHasMore() {
		end = max(last, page.GetLastSeq())
	}
	l.Read(room, who, after, page.GetMessages(), end)
	return last
}

// Audit is what reading everything back from a node has shown.
type Audit struct {
	Node     string `json:"node"`
	Messages int    `json:"messages"`
	Rooms    int    `json:"rooms"`
	// Wrong is how many broken promises it has brought to light.
	Wrong int    `json:"wrong"`
	Error string `json:"error,omitempty"`
}

// audit reads every room in full from one node, as one of its members, straight
// from that node and not by the front, and compares it with the ledger.
func audit(ctx context.Context, l *Ledger, node, url string, h *http.Client, members func(roomID string) []*bot) Audit {
	a := Audit{Node: node}
	c, err := client.New(client.Config{BaseURL: url, HTTPClient: h, Timeout: 5 * time.Second})
	if err != nil {
		a.Error = err.Error()
		return a
	}
	defer c.Close()
	before := l.Tally().Wrong()
	last, base := l.Last(), l.Base()
	for room := range last {
		all := members(room)
		if len(all) == 0 {
			continue
		}
		n, err := auditRoom(ctx, l, c, all[0], room, node, base[room], last[room])
		a.Messages += n
		if err != nil {
			a.Error = fmt.Sprintf("room %s: %v", room, err)
			return a
		}
		a.Rooms++
	}
	a.Wrong = l.Tally().Wrong() - before
	return a
}

// auditRoom reads one room. The node has a while to show what was acknowledged
// up to the number last.
func auditRoom(ctx context.Context, l *Ledger, c *client.Client, b *bot, room, node string, after, last uint64) (n int, err error) {
	deadline := time.Now().Add(tailPatience)
	for {
		if err := borrow(ctx, b, c); err != nil {
			return n, err
		}
		var page *edgev1.ListResponse
		err := insist(ctx, func(ctx context.Context) (err error) {
			page, err = c.ListAfter(ctx, room, after)
			return err
		})
		if err != nil {
			return n, err
		}
		got := notePage(l, room, "node "+node, after, page)
		n += len(page.GetMessages())
		if !page.GetHasMore() && got >= last {
			return n, nil
		}
		if got > after {
			after = got
			continue
		}
		if time.Now().After(deadline) {
			l.Read(room, "node "+node, after, nil, last)
			return n, nil
		}
		if !rest(ctx, 200*time.Millisecond) {
			return n, ctx.Err()
		}
	}
}

// borrow lets a client ask as a bot does, with a token that holds for now.
func borrow(ctx context.Context, b *bot, c *client.Client) error {
	s := b.client.Session()
	if time.Until(s.ExpiresAt) < time.Minute {
		if err := b.client.Refresh(ctx); err != nil {
			return err
		}
		s = b.client.Session()
	}
	c.Resume(s)
	return nil
}

// group runs functions and waits for them.
type group struct {
	ctx    context.Context // of all that it runs
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func newGroup(ctx context.Context) *group {
	g := &group{}
	g.ctx, g.cancel = context.WithCancel(ctx)
	return g
}

func (g *group) run(f func(context.Context)) { g.wg.Go(func() { f(g.ctx) }) }

// end cancels what runs and waits for it.
func (g *group) end() {
	g.cancel()
	g.wg.Wait()
}
