package demo

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/bongsu-im/bongsu/client"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

const (
	// maxVisitors bounds the people whom the guide talks to.
	maxVisitors = 32
	// commentAfter a fault the guide says what it did.
	commentAfter = 4 * time.Second
	guideName    = "봉수지기 Keeper"
	guideLogin   = "demo-keeper"
)

// visitor is a person who has signed up or in at the demo's page.
type visitor struct {
	userID, language string
}

// guide is the bot that greets people, shows them in, and tells them what is
// going on. All it knows belongs to the goroutine of run.
type guide struct {
	*bot
	demo   *Demo
	square *talk
	group  *group

	visitors chan visitor          // who came
	heard    chan *edgev1.Message  // what people said to it or in the square
	guests   map[string]*guestbook // by user ID
}

// guestbook is what the guide knows of a person.
type guestbook struct {
	roomID, name, language string
	told                   bool // the figures, once
}

func newGuide(d *Demo, b *bot, square *talk, g *group) *guide {
	return &guide{
		bot: b, demo: d, square: square, group: g,
		visitors: make(chan visitor, maxVisitors), heard: make(chan *edgev1.Message, 256), guests: map[string]*guestbook{},
	}
}

// arrive tells the guide of a person; one too many is not greeted.
func (g *guide) arrive(v visitor) {
	select {
	case g.visitors <- v:
	default:
	}
}

// hear takes what was said in a room; it is passed over when the guide has too
// much to answer.
func (g *guide) hear(m *edgev1.Message) {
	select {
	case g.heard <- m:
	default:
	}
}

// run greets and answers until ctx ends.
func (g *guide) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	told := int64(0) // when the fault was that was last told of
	for {
		select {
		case v := <-g.visitors:
			g.greet(ctx, v)
		case m := <-g.heard:
			g.answer(m)
		case now := <-tick.C:
			told = g.comment(now, told)
		case <-ctx.Done():
			return
		}
	}
}

// greet opens a room with a person, invites them into the square and says hello,
// once.
func (g *guide) greet(ctx context.Context, v visitor) {
	if g.guests[v.userID] != nil || len(g.guests) >= maxVisitors {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var room *edgev1.Room
	err := acquaint(ctx, func(ctx context.Context) (err error) {
		room, err = g.conn.OpenDirect(ctx, v.userID)
		return err
	})
	if err == nil && g.square != nil {
		err = acquaint(ctx, func(ctx context.Context) error {
			_, err := g.conn.Invite(ctx, g.square.id, v.userID)
			return err
		})
	}
	if err != nil {
		g.demo.say("could not greet a visitor: %v", err)
		return
	}
	book := &guestbook{roomID: room.GetRoomId(), language: v.language}
	for _, m := range room.GetMembers() {
		if m.GetUserId() == v.userID {
			book.name = m.GetDisplayName()
		}
	}
	g.guests[v.userID] = book
	g.demo.ledger.Open(book.roomID, room.GetLastSeq(), g.login)
	g.demo.host(book.roomID, g.bot)
	g.group.run(func(ctx context.Context) { g.stream(ctx, g.demo.ledger, book.roomID, room.GetLastSeq(), g.hear) })
	g.tell(book,
		fmt.Sprintf("%s님, 어서 오세요! 저는 봉수지기예요 🔥", book.name),
		"이 방의 글은 지금 세 대에 함께 적히고 있어요. 왼쪽에서 아무 노드나 끄거나, 얼리거나, 선을 끊어 보세요. 그러면서 여기 계속 쓰셔도 돼요.",
		"‘봉수대 광장’에도 초대했어요. 다들 반가워할 거예요.",
		fmt.Sprintf("Welcome, %s! I keep the beacons 🔥", book.name),
		"What you write here is being written down on three machines. Kill, freeze or cut off any one of them, and keep writing.",
		"I also invited you to Beacon Square. They are friendly.",
	)
}

// tell says the Korean half of texts or the English one.
func (g *guide) tell(book *guestbook, texts ...string) {
	half := len(texts) / 2
	if book.language == "ko" {
		texts = texts[:half]
	} else {
		texts = texts[half:]
	}
	for _, text := range texts {
		g.demo.director.say(g.bot, client.Draft{RoomID: book.roomID, Text: text})
	}
}

// answer answers a person in their own room, or has a bot do it in the square.
func (g *guide) answer(m *edgev1.Message) {
	if g.demo.isBot(m.GetSenderId()) {
		return
	}
	book := g.guests[m.GetSenderId()]
	if g.square != nil && m.GetRoomId() == g.square.id {
		g.read(m)
		name := "친구"
		if book != nil {
			name = book.name
		} else if languageOf(m.GetText()) == "en" {
			name = "friend"
		}
		g.demo.director.reply(g.square.id, m.GetText(), name, m.GetSeq())
		return
	}
	if book == nil || book.roomID != m.GetRoomId() {
		return
	}
	g.read(m)
	book.language = languageOf(m.GetText())
	if !wantsFigures(m.GetText()) && book.told {
		g.demo.director.answer(g.bot, m, book.name)
		return
	}
	book.told = true
	t := g.demo.ledger.Tally()
	f := g.demo.meter.Figures(time.Now())
	g.tell(book,
		fmt.Sprintf("지금까지 %d개를 받았다고 답했고, 그중 잃은 것 %d, 두 번 나온 것 %d이에요. 방금 10초 동안 절반은 %.0f밀리초 안에, 거의 모두는 %.0f밀리초 안에 답을 받았어요.",
			t.Acknowledged, t.Lost, t.Duplicated, f.P50Ms, f.P99Ms),
		fmt.Sprintf("So far %d messages were acknowledged; %d of them lost, %d shown twice. In the last ten seconds half had their answer within %.0f ms and nearly all within %.0f ms.",
			t.Acknowledged, t.Lost, t.Duplicated, f.P50Ms, f.P99Ms),
	)
}

// wantsFigures tells whether somebody asks how it goes.
func wantsFigures(text string) bool {
	return containsAny(strings.ToLower(text), []string{"?", "몇", "얼마", "잃", "숫자", "괜찮", "how", "many", "lost", "numbers", "okay"})
}

// read marks a person's message as read, as its receipt is part of what they
// see; one that cannot be marked now is marked with the next.
func (g *guide) read(m *edgev1.Message) {
	g.group.run(func(ctx context.Context) { markRead(ctx, g.bot, m) })
}

func markRead(ctx context.Context, b *bot, m *edgev1.Message) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_ = insist(ctx, func(ctx context.Context) error { return b.conn.MarkRead(ctx, m.GetRoomId(), m.GetSeq()) })
}

// comment tells everybody what the last fault did, once it is over; told is the
// time of the last one that was told of.
func (g *guide) comment(now time.Time, told int64) int64 {
	if len(g.guests) == 0 {
		return told
	}
	faults := g.demo.meter.Figures(now).Faults
	for i := len(faults) - 1; i >= 0; i-- {
		f := faults[i]
		if f.Kind == Heal {
			continue
		}
		if f.At <= told || now.Sub(time.UnixMilli(f.At)) < commentAfter {
			return told
		}
		lost := g.demo.ledger.Tally().Lost
		done := map[string][2]string{Kill: {"전원을 껐어요", "killed"}, Freeze: {"시간을 얼렸어요", "frozen"}, Cut: {"선을 끊었어요", "cut off"}}[f.Kind]
		seconds := strings.TrimSuffix(fmt.Sprintf("%.2f", float64(f.LongestMs)/1000), "0")
		for _, book := range g.guests {
			g.tell(book,
				fmt.Sprintf("방금 %s의 %s. 가장 오래 기다린 메시지는 %s초, 잃은 것은 %d이에요.", f.Node, done[0], seconds, lost),
				fmt.Sprintf("%s was just %s. The longest that any message waited: %s s. Lost: %d.", f.Node, done[1], seconds, lost),
			)
		}
		return f.At
	}
	return told
}
