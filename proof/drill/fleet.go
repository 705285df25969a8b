package drill

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/bongsu-im/bongsu/client"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"golang.org/x/sync/errgroup"
)

// gate is the network between a drill's clients and its server: while it is
// shut, new connections wait instead of failing. Without it clients would spend
// the short time between two faults in back-off, and the faults would hit an
// idle server.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // closed while the gate is open
}

func newGate() *gate { return &gate{open: make(chan struct{})} }

func (g *gate) set(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
		if !open {
			g.open = make(chan struct{})
		}
	default:
		if open {
			close(g.open)
		}
	}
}

func (g *gate) transport() *http.Transport {
	dialer := net.Dialer{Timeout: 5 * time.Second}
	return &http.Transport{
		MaxIdleConnsPerHost: 64,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			g.mu.Lock()
			open := g.open
			g.mu.Unlock()
			select {
			case <-open:
				return dialer.DialContext(ctx, network, addr)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
	}
}

// person is one account with a live socket and an outbox.
type person struct {
	login  string
	client *client.Client
	conn   *client.Conn
	outbox *client.Outbox
}

const drillPassword = "burning beacon"

// signUp makes the account, however often the answer gets lost.
func signUp(ctx context.Context, c *client.Client, login string) error {
	for {
		_, err := c.SignUp(ctx, &edgev1.SignUpRequest{Login: login, Password: drillPassword})
		var e *client.Error
		if errors.As(err, &e) && e.Code.String() == "already_exists" {
			_, err = c.SignIn(ctx, login, drillPassword, "")
		}
		if !client.IsRetryable(err) || ctx.Err() != nil {
			return err
		}
		if !rest(ctx, max(client.RetryAfter(err), 50*time.Millisecond)) {
			return err
		}
	}
}

// rest waits; false means that ctx ended first.
func rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// signUpAll makes n people; progress is told how many there are.
func signUpAll(ctx context.Context, baseURL string, h *http.Client, n int, progress func(int)) ([]*person, error) {
	people := make([]*person, n)
	var mu sync.Mutex
	done := 0
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i := range people {
		g.Go(func() error {
			p := &person{login: fmt.Sprintf("drill-%04d", i)}
			var err error
			if p.client, err = client.New(client.Config{BaseURL: baseURL, HTTPClient: h}); err != nil {
				return err
			}
			people[i] = p
			if err := signUp(ctx, p.client, p.login); err != nil {
				return fmt.Errorf("sign up %s: %w", p.login, err)
			}
			mu.Lock()
			defer mu.Unlock()
			done++
			progress(done)
			return nil
		})
	}
	return people, g.Wait()
}

// follow collects the messages of a room as its reader's live stream gives
// them, until ctx ends. Whatever the stream complains of goes to complain.
func (p *person) follow(ctx context.Context, s *stream, complain func(string, ...any)) {
	for after := uint64(0); ctx.Err() == nil; {
		for m, err := range p.conn.Follow(ctx, s.roomID, after) {
			if err == nil {
				s.add(m)
				after = m.GetSeq()
				continue
			}
			if ctx.Err() != nil {
				return
			}
			complain("room %s, followed by %s: %v", s.roomID, p.login, err)
			var rewound *client.RewoundError
			if !errors.As(err, &rewound) {
				return
			}
			after = rewound.LastSeq
		}
	}
}

// stream is what one reader has seen of a room, live.
type stream struct {
	roomID string
	reader *person

	mu       sync.Mutex
	messages []*edgev1.Message
}

func (s *stream) add(m *edgev1.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages = append(s.messages, m)
}

func (s *stream) last() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.messages) == 0 {
		return 0
	}
	return s.messages[len(s.messages)-1].GetSeq()
}

func (s *stream) all() []*edgev1.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

// readHistory reads a room from its beginning, as one reader.
func readHistory(ctx context.Context, api client.API, roomID string) ([]*edgev1.Message, error) {
	var all []*edgev1.Message
	for after := uint64(0); ; {
		page, err := api.ListAfter(ctx, roomID, after)
		if client.IsRetryable(err) && rest(ctx, max(client.RetryAfter(err), 50*time.Millisecond)) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the history of %s: %w", roomID, err)
		}
		all = append(all, page.GetMessages()...)
		if !page.GetHasMore() {
			return all, nil
		}
		if len(page.GetMessages()) == 0 {
			return nil, fmt.Errorf("read the history of %s: an empty page after %d says that there is more", roomID, after)
		}
		after = page.GetMessages()[len(page.GetMessages())-1].GetSeq()
	}
}
