package demo

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bongsu-im/bongsu/client"
	"github.com/bongsu-im/bongsu/client/clienttest"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// company is a demo's people on a server in memory, without nodes or page.
type company struct {
	*Demo
	server *clienttest.Server
	http   *http.Client
	people []*bot
	talks  []*talk
	group  *group
}

// inCompany runs f with n bots, who are about to talk; the clock is the test's.
func inCompany(t *testing.T, n int, f func(t *testing.T, c *company)) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		c := &company{server: clienttest.New()}
		c.http = c.server.HTTPClient()
		defer func() {
			c.http.CloseIdleConnections()
			c.server.Close()
		}()
		c.Demo = &Demo{ledger: NewLedger(), meter: NewMeter(), bots: map[string]bool{}, hosts: map[string][]*bot{}, noticing: make(chan struct{}, 64)}
		c.cfg = Config{Out: discard{}}
		var err error
		if c.director, err = NewDirector(c.ledger, c.meter, 40, rand.New(rand.NewPCG(seed, 0))); err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		characters := append(cast(n), character{name: guideName})
		if c.people, err = crew(ctx, clienttest.BaseURL, c.http, "correct horse", characters, func(int) {}); err != nil {
			t.Fatal(err)
		}
		defer closeBots(c.people)
		for _, b := range c.people {
			c.bots[b.id()] = true
			c.server.SetBot(b.id())
			plug(ctx, b, c.director.options())
		}
		if c.talks, err = settle(ctx, c.people[:n], c.people[n]); err != nil {
			t.Fatal(err)
		}
		c.group = newGroup(ctx)
		defer c.group.end()
		c.open(c.group, c.people, c.talks)
		f(t, c)
	})
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// talkFor has them talk, and waits until everything is seen.
func (c *company) talkFor(d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	c.director.Run(ctx)
	time.Sleep(10 * time.Second)
	synctest.Wait()
}

func (c *company) audit(t *testing.T) Audit {
	t.Helper()
	return audit(t.Context(), c.ledger, "n1", clienttest.BaseURL, c.http, c.members)
}

func TestBotsTalk(t *testing.T) {
	inCompany(t, 12, func(t *testing.T, c *company) {
		go func() {
			for range 5 { // sockets go now and then
				time.Sleep(7 * time.Second)
				c.server.Cut()
			}
		}()
		c.talkFor(time.Minute)
		got := c.ledger.Tally()
		if got.Wrong() != 0 || got.Sent < 2390 || got.Sent > 2402 || got.Acknowledged != got.Sent || got.Checked != got.Sent || got.Waiting != 0 {
			t.Errorf("after a minute of 40 a second: %+v", got)
		}
		if a := c.audit(t); a.Wrong != 0 || a.Error != "" || a.Messages != got.Sent || a.Rooms != len(c.talks) {
			t.Errorf("audit: %+v", a)
		}
		if final := c.ledger.Settle(); final.Wrong() != 0 {
			t.Errorf("in the end: %+v", final)
		}
		c.speakInTurn(t)
	})
}

// speakInTurn checks that each room had a conversation: several people in it,
// nobody twice in a row the same words, and some answers to what was said.
func (c *company) speakInTurn(t *testing.T) {
	t.Helper()
	replies := 0
	for _, room := range c.talks {
		speakers := map[string]bool{}
		before := ""
		for _, m := range c.server.Messages(room.id) {
			speakers[m.GetSenderId()] = true
			if m.GetText() == before || strings.ContainsAny(m.GetText(), "{}") {
				t.Errorf("room %q: %q after %q", room.plan.title, m.GetText(), before)
			}
			before = m.GetText()
			if m.GetReplyTo() > 0 {
				replies++
			}
		}
		if len(speakers) < 2 {
			t.Errorf("room %q: %d people spoke", room.plan.title, len(speakers))
		}
	}
	if replies == 0 {
		t.Error("nobody answered anybody")
	}
}

// The whole chain must be able to see that a server is wrong.
func TestWrongServersAreCounted(t *testing.T) {
	for name, c := range map[string]struct {
		plant func(*company, string)
		found func(Tally, Audit) bool
	}{
		"a message gone": {func(c *company, room string) { c.server.DropMessage(room, 3) },
			func(t Tally, a Audit) bool { return t.Lost == 1 && a.Wrong == 1 }},
		"a tail gone": {func(c *company, room string) { c.server.LoseTail(room, 4) },
			func(t Tally, a Audit) bool { return t.Lost > 1 && a.Wrong == t.Lost }},
	} {
		t.Run(name, func(t *testing.T) {
			inCompany(t, 6, func(t *testing.T, w *company) {
				w.talkFor(30 * time.Second)
				if before := w.ledger.Tally(); before.Wrong() != 0 || before.Checked < 1000 {
					t.Fatalf("before: %+v", before)
				}
				room := w.talks[len(w.talks)-1].id
				c.plant(w, room)
				a := w.audit(t)
				if got := w.ledger.Tally(); !c.found(got, a) {
					t.Errorf("counted %+v, audit %+v", got, a)
				}
			})
		})
	}
}

func TestGuideGreetsAndAnswers(t *testing.T) {
	inCompany(t, 9, func(t *testing.T, c *company) {
		ann, err := client.New(client.Config{BaseURL: clienttest.BaseURL, HTTPClient: c.http})
		if err != nil {
			t.Fatal(err)
		}
		defer ann.Close()
		if _, err := ann.SignUp(t.Context(), &edgev1.SignUpRequest{Login: "ann", Password: "password", DisplayName: "Ann"}); err != nil {
			t.Fatal(err)
		}
		for range 2 { // signing in again is no new arrival
			c.arrive(visitor{ann.UserID(), "en"})
			time.Sleep(time.Second)
		}
		rooms, err := ann.Rooms(t.Context())
		if err != nil || len(rooms) != 2 {
			t.Fatalf("rooms: %v, %v", rooms, err)
		}
		var square, own string
		for _, r := range rooms {
			if r.GetKind() == edgev1.RoomKind_ROOM_KIND_DIRECT {
				own = r.GetRoomId()
			} else {
				square = r.GetRoomId()
			}
		}
		last := func(room string) *edgev1.Message {
			all := c.server.Messages(room)
			if len(all) == 0 {
				return nil
			}
			return all[len(all)-1]
		}
		hello := c.server.Messages(own)
		if len(hello) != 3 || !strings.Contains(hello[0].GetText(), "Welcome, Ann") {
			t.Fatalf("greeted with %v", hello)
		}
		say := func(room, text, id string) {
			t.Helper()
			if _, err := ann.Send(t.Context(), &edgev1.SendRequest{RoomId: room, ClientId: id, Text: text}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
			synctest.Wait()
		}
		say(own, "How is it going?", "00000000-0000-7000-8000-000000000001")
		if m := last(own); m.GetSenderId() == ann.UserID() || !strings.Contains(m.GetText(), "acknowledged") {
			t.Errorf("answered with %v", m)
		}
		say(square, "hello all", "00000000-0000-7000-8000-000000000002")
		m := last(square)
		if m == nil || m.GetSenderId() == ann.UserID() || m.GetReplyTo() == 0 {
			t.Errorf("the square answered with %v", m)
		}
		room, err := ann.Room(t.Context(), square)
		if err != nil {
			t.Fatal(err)
		}
		for _, who := range room.GetMembers() {
			if who.GetUserId() != ann.UserID() && who.GetReadSeq() < m.GetReplyTo() {
				t.Errorf("%s has read up to %d, she said %d", who.GetDisplayName(), who.GetReadSeq(), m.GetReplyTo())
			}
		}
		c.meter.Fault(Kill, "n2", time.Now())
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if m := last(own); !strings.Contains(m.GetText(), "n2 was just killed") {
			t.Errorf("after a fault the last word is %v", m)
		}
		said := len(c.server.Messages(own))
		time.Sleep(time.Minute)
		if more := len(c.server.Messages(own)) - said; more != 0 {
			t.Errorf("said %d more about the same fault", more)
		}
		if got := c.ledger.Tally(); got.Wrong() != 0 || got.Waiting != 0 {
			t.Errorf("tally: %+v", got)
		}
	})
}
