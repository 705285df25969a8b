package demo

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/bongsu-im/bongsu/client"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/bongsu-im/bongsu/internal/clock"
)

const (
	// MinRate and MaxRate bound what bots say in a second, all together.
	MinRate, MaxRate = 1, 120
	// maxUnanswered bounds the messages of a room that wait for their
	// acknowledgement; the room pauses then.
	maxUnanswered = 32
)

// Director has the bots say the scenes of the corpus, so many lines a second,
// and tells ledger and meter of each. Its goroutine is the one of Run.
type Director struct {
	corpora map[string]*corpus
	ledger  *Ledger
	meter   *Meter

	mu      sync.Mutex
	random  *rand.Rand
	talks   []*talk
	byRoom  map[string]*talk
	rate    float64
	waiting map[string]int // messages by room that are not acknowledged
}

// NewDirector returns one without rooms.
func NewDirector(l *Ledger, m *Meter, rate float64, random *rand.Rand) (*Director, error) {
	corpora, err := readCorpora()
	if err != nil {
		return nil, err
	}
	d := &Director{corpora: corpora, ledger: l, meter: m, random: random, byRoom: map[string]*talk{}, waiting: map[string]int{}}
	d.SetRate(rate)
	return d, nil
}

// SetRate changes how many lines are said in a second.
func (d *Director) SetRate(perSecond float64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rate = min(max(perSecond, MinRate), MaxRate)
}

// Rate returns it.
func (d *Director) Rate() float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rate
}

// enter adds rooms to talk in.
func (d *Director) enter(talks []*talk) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range talks {
		// Not all begin to speak at the same time.
		t.credit = d.random.Float64()
		d.talks = append(d.talks, t)
		d.byRoom[t.id] = t
	}
}

// options of the outbox of a bot: what it is told goes to ledger and meter.
func (d *Director) options() client.OutboxOptions {
	return client.OutboxOptions{
		Backoff: quick, Budget: client.BudgetOptions{Tokens: 50, PerSecond: 5},
		OnAck: func(m *edgev1.Message) {
			d.meter.Acknowledged(m.GetClientId(), time.Now())
			d.ledger.Acknowledged(m)
			d.acknowledged(m)
		},
		OnRefused: func(e client.Entry, err error) {
			d.meter.Gone(e.ClientID)
			d.ledger.Refused(e.RoomID, err)
			d.gone(e.RoomID)
		},
	}
}

func (d *Director) acknowledged(m *edgev1.Message) {
	d.gone(m.GetRoomId())
	d.mu.Lock()
	defer d.mu.Unlock()
	if t := d.byRoom[m.GetRoomId()]; t != nil && t.seqs != nil {
		t.seqs[m.GetClientId()] = m.GetSeq()
	}
}

func (d *Director) gone(roomID string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.waiting[roomID] > 0 {
		d.waiting[roomID]--
	}
}

// Run has lines said until ctx ends.
func (d *Director) Run(ctx context.Context) {
	next := time.Now()
	for rest(ctx, time.Until(next)) {
		// By the clock and not by rests, which are longer than asked for; but
		// what could not be said in time is not made up for.
		next = next.Add(time.Duration(float64(time.Second) / d.Rate()))
		if now := time.Now(); next.Before(now.Add(-100 * time.Millisecond)) {
			next = now
		}
		if d.ledger.Full() {
			continue
		}
		if b, draft, ok := d.line(); ok {
			d.say(b, draft)
		}
	}
}

// say puts a message into a bot's outbox, noted first: the answer may come
// before Send returns.
func (d *Director) say(b *bot, draft client.Draft) {
	now := time.Now()
	if draft.ClientID == "" {
		var err error
		if draft.ClientID, err = client.NewMessageID(now, clock.Random); err != nil {
			return // without randomness there is nothing to say
		}
	}
	d.meter.Sent(draft.ClientID, now)
	d.ledger.Sent()
	d.mu.Lock()
	d.waiting[draft.RoomID]++
	d.mu.Unlock()
	if _, err := b.outbox.Send(draft); err != nil {
		d.meter.Gone(draft.ClientID)
		d.gone(draft.RoomID)
		if !errors.Is(err, client.ErrOutboxClosed) {
			d.ledger.Refused(draft.RoomID, err)
		}
	}
}

// line picks the next thing to say.
func (d *Director) line() (*bot, client.Draft, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := d.pick()
	if t == nil {
		return nil, client.Draft{}, false
	}
	if t.scene == nil || t.next >= len(t.scene.lines) {
		d.begin(t)
	}
	l := t.scene.lines[t.next]
	t.next++
	draft := client.Draft{RoomID: t.id, Text: fill(l.text, t.made, d.random)}
	var err error
	if draft.ClientID, err = client.NewMessageID(time.Now(), clock.Random); err != nil {
		return nil, draft, false
	}
	if l.replyTo > 0 {
		draft.ReplyTo = t.seqs[t.said[l.replyTo-1]] // 0 if it is not acknowledged yet
	}
	t.said = append(t.said, draft.ClientID)
	return t.cast[l.role], draft, true
}

// pick chooses the room whose turn it is, by weight. mu must be held.
func (d *Director) pick() (best *talk) {
	total := 0.0
	for _, t := range d.talks {
		if d.waiting[t.id] >= maxUnanswered {
			continue
		}
		t.credit += t.plan.weight
		total += t.plan.weight
		if best == nil || t.credit > best.credit {
			best = t
		}
	}
	if best != nil {
		best.credit -= total
	}
	return best
}

// begin casts another scene. mu must be held.
func (d *Director) begin(t *talk) {
	language := t.languages[d.random.IntN(len(t.languages))]
	all := d.corpora[language].scenes[t.plan.theme[language]]
	before := t.scene
	for t.scene == before {
		t.scene = &all[d.random.IntN(len(all))]
		if len(all) == 1 {
			break
		}
	}
	speakers := t.speakers(language)
	d.random.Shuffle(len(speakers), func(i, j int) { speakers[i], speakers[j] = speakers[j], speakers[i] })
	t.cast = make([]*bot, t.scene.roles())
	for i := range t.cast {
		t.cast[i] = speakers[i%len(speakers)]
	}
	t.next, t.said, t.made, t.seqs = 0, nil, map[string]string{}, map[string]uint64{}
}

// reply has some bot of a room answer a person.
func (d *Director) reply(roomID, said, name string, to uint64) {
	d.mu.Lock()
	t := d.byRoom[roomID]
	if t == nil {
		d.mu.Unlock()
		return
	}
	language, text := answer(d.corpora, said, name, d.random)
	var b *bot
	if speakers := t.speakers(language); len(speakers) > 0 {
		b = speakers[d.random.IntN(len(speakers))]
	}
	d.mu.Unlock()
	if b != nil && text != "" {
		d.say(b, client.Draft{RoomID: roomID, Text: text, ReplyTo: to})
	}
}

// answer has one bot answer a person.
func (d *Director) answer(b *bot, m *edgev1.Message, name string) {
	d.mu.Lock()
	_, text := answer(d.corpora, m.GetText(), name, d.random)
	d.mu.Unlock()
	if text != "" {
		d.say(b, client.Draft{RoomID: m.GetRoomId(), Text: text})
	}
}
