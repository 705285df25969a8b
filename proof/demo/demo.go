package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"golang.org/x/sync/errgroup"
)

// Config of Run. Bin is required; zero values of the rest are safe.
type Config struct {
	// Bin is the bongsu binary.
	Bin string
	// Listen is the address of the page and of the client in it.
	Listen string
	// Dir holds everything; empty means a folder that is removed at the end.
	Dir string
	// Nodes is how many there are; 0 means 3.
	Nodes int
	// Bots is how many talk; 0 means 40. Rate is how many messages they send in
	// a second; 0 means 40.
	Bots int
	Rate float64
	// Plain starts the nodes and nothing else.
	Plain bool
	// For is how long it runs before it heals all, reads everything back and
	// ends; 0 means until ctx ends.
	For time.Duration
	// Seed of what is said; 0 draws one.
	Seed uint64
	// Out tells what is going on; nil discards.
	Out io.Writer
	// Live writes the figures over and over in one line of Out.
	Live bool
}

func (c *Config) setDefaults() error {
	if c.Bin == "" {
		return errors.New("demo: no binary is named")
	}
	if c.Listen == "" {
		c.Listen = "localhost:8090"
	}
	if c.Nodes == 0 {
		c.Nodes = 3
	}
	if c.Bots == 0 {
		c.Bots = 40
	}
	if c.Bots < 2 || c.Bots > 200 {
		return fmt.Errorf("demo: %d bots: want 2 to 200", c.Bots)
	}
	if c.Rate == 0 {
		c.Rate = 40
	}
	if c.Seed == 0 {
		c.Seed = rand.Uint64()>>1 | 1
	}
	if c.Out == nil {
		c.Out = io.Discard
	}
	return nil
}

// shardCount of the demo's cluster: enough that each node leads some and the
// page shows them move, few enough to see each.
const shardCount = 12

// auditPatience bounds how long everything is read from one node.
const auditPatience = 2 * time.Minute

// settlePatience bounds how long the end of a run waits for every message to
// be seen by everybody.
const settlePatience = 45 * time.Second

// Result is what a run has shown.
type Result struct {
	Name    string  `json:"name"`
	Seed    uint64  `json:"seed"`
	Seconds float64 `json:"seconds"`
	Nodes   int     `json:"nodes"`
	Bots    int     `json:"bots"`
	Tally
	P50Ms  float64 `json:"p50_ms"`
	P99Ms  float64 `json:"p99_ms"`
	Faults []Fault `json:"faults"`
	Audits []Audit `json:"audits"`
	// Settled tells that the run came to its end: everything was healed, waited
	// for and read back. One that was stopped is judged by what was seen so far.
	Settled bool `json:"settled"`
	Passed  bool `json:"passed"`
}

// JSON writes the result as one line.
func (r Result) JSON(w io.Writer) error { return json.NewEncoder(w).Encode(r) }

// Print writes the result for people.
func (r Result) Print(w io.Writer) error {
	verdict := "every promise held"
	switch {
	case !r.Passed:
		verdict = "A PROMISE WAS BROKEN"
	case !r.Settled:
		verdict = "every promise held so far"
	}
	_, err := fmt.Fprintf(w, "%d messages acknowledged in %.0f s: %d lost, %d duplicated, %d holes, %d moved, %d refused. %s.\n",
		r.Acknowledged, r.Seconds, r.Lost, r.Duplicated, r.Holes, r.Moved, r.Refused, verdict)
	for _, f := range r.Faults {
		if f.Kind != Heal && err == nil {
			_, err = fmt.Fprintf(w, "  %s %-6s longest wait %.2f s\n", f.Node, f.Kind, float64(f.LongestMs)/1000)
		}
	}
	for _, detail := range r.Details {
		if err == nil {
			_, err = fmt.Fprintln(w, " ", detail)
		}
	}
	return err
}

// Demo is one run.
type Demo struct {
	cfg      Config
	out      sync.Mutex // makes lines of Out whole
	fleet    *Fleet
	front    *Front
	page     *page
	ledger   *Ledger
	meter    *Meter
	director *Director
	began    time.Time

	// noticing has a token for each bot that is about to read a person's words.
	noticing chan struct{}
	// auditing is held by the one audit that runs.
	auditing sync.Mutex

	mu     sync.Mutex
	phase  phase
	bots   map[string]bool   // user IDs
	hosts  map[string][]*bot // members by room
	guide  *guide            // nil until the bots have come
	audits []Audit           // of the last audit
	ended  []string          // nodes that ended by themselves, at most maxDetails
}

// phase is how far a demo has come.
type phase struct {
	Name  string `json:"name"` // forming, people, talking, auditing, ended
	Done  int    `json:"done"`
	Total int    `json:"total"`
}

// Run runs a demo until ctx ends or its time is over.
func Run(ctx context.Context, cfg Config) (result Result, err error) {
	if err := cfg.setDefaults(); err != nil {
		return result, err
	}
	if cfg.Dir == "" {
		if cfg.Dir, err = os.MkdirTemp("", "bongsu-demo-"); err != nil {
			return result, fmt.Errorf("make a folder for the demo: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(cfg.Dir)) }()
	}
	d := &Demo{cfg: cfg, ledger: NewLedger(), meter: NewMeter(), began: time.Now(), bots: map[string]bool{}, hosts: map[string][]*bot{}, noticing: make(chan struct{}, 64), phase: phase{Name: "forming", Total: cfg.Nodes}}
	if d.director, err = NewDirector(d.ledger, d.meter, cfg.Rate, rand.New(rand.NewPCG(cfg.Seed, 0))); err != nil {
		return result, err
	}
	d.fleet, err = NewFleet(FleetConfig{Bin: cfg.Bin, Dir: cfg.Dir, Nodes: cfg.Nodes, Shards: shardCount, Say: d.say})
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, d.fleet.Close()) }()
	if cfg.Plain {
		return result, d.plain(ctx)
	}
	var backends []Backend
	for _, n := range d.fleet.nodes {
		backends = append(backends, Backend{n.name, n.server.Addr})
	}
	if d.front, err = NewFront("127.0.0.1:0", backends, FrontConfig{}); err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, d.front.Close()) }()
	if d.page, err = newPage(d, cfg.Listen); err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, d.page.close()) }()
	d.say("the page is %s", d.page.url())
	return d.run(ctx)
}

// plain keeps nodes running and does nothing else.
func (d *Demo) plain(ctx context.Context) error {
	if err := d.fleet.Start(ctx); err != nil {
		return stopped(ctx, err)
	}
	d.say("all %d nodes are up; Ctrl-C stops them", len(d.fleet.nodes))
	d.fleet.Watch(ctx, func(err error) { d.say("%v", err) })
	return nil
}

// stopped takes the error of something that ctx's end has cut short for the
// ordinary stop that it is.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// run is a demo with everything laid out.
func (d *Demo) run(ctx context.Context) (Result, error) {
	// What looks on lives as long as the run, and a little longer than ctx: the
	// end is looked at too.
	background := newGroup(context.WithoutCancel(ctx))
	defer background.end()
	background.run(d.fleet.Follow)
	if err := d.fleet.Start(ctx); err != nil {
		return Result{}, stopped(ctx, err)
	}
	background.run(func(ctx context.Context) { d.fleet.Watch(ctx, d.nodeEnded) })

	bots, talks, err := d.gather(ctx)
	defer closeBots(bots)
	if err != nil {
		return Result{}, stopped(ctx, err)
	}
	streams := newGroup(context.WithoutCancel(ctx))
	defer streams.end()
	d.open(streams, bots, talks)
	if d.cfg.Live {
		background.run(d.status)
	}
	talking := ctx
	if d.cfg.For > 0 {
		var cancel context.CancelFunc
		talking, cancel = context.WithTimeout(ctx, d.cfg.For)
		defer cancel()
	}
	d.setPhase(phase{Name: "talking"})
	d.director.Run(talking)
	return d.finish(ctx), nil
}

// gather signs the bots up and makes their rooms.
func (d *Demo) gather(ctx context.Context) ([]*bot, []*talk, error) {
	secret, err := password(d.cfg.Dir)
	if err != nil {
		return nil, nil, err
	}
	characters := append(cast(d.cfg.Bots), character{name: guideName})
	d.setPhase(phase{Name: "people", Total: len(characters)})
	bots, err := crew(ctx, "http://"+d.front.Addr(), nil, secret, characters, func(done int) {
		d.setPhase(phase{Name: "people", Done: done, Total: len(characters)})
		if done%10 == 0 || done == len(characters) {
			d.say("%d of %d bots have signed up", done, len(characters))
		}
	})
	if err != nil {
		return bots, nil, err
	}
	d.mu.Lock()
	for _, b := range bots {
		d.bots[b.id()] = true
	}
	d.mu.Unlock()
	for _, b := range bots {
		plug(context.WithoutCancel(ctx), b, d.director.options())
	}
	talks, err := settle(ctx, bots[:len(bots)-1], bots[len(bots)-1])
	return bots, talks, err
}

// open begins to watch and to talk.
func (d *Demo) open(streams *group, bots []*bot, talks []*talk) {
	keeper := bots[len(bots)-1]
	var square *talk
	if len(talks) > 0 && talks[0].plan.title == rooms[0].title {
		square = talks[0]
	}
	g := newGuide(d, keeper, square, streams)
	streams.run(g.run)
	for _, t := range talks {
		logins := make([]string, len(t.members))
		for i, b := range t.members {
			logins[i] = b.login
		}
		d.ledger.Open(t.id, t.base, logins...)
		d.host(t.id, t.members...)
		for _, b := range t.members {
			var seen func(*edgev1.Message)
			switch {
			case b == keeper:
				seen = g.hear
			case t == square:
				seen = func(m *edgev1.Message) { d.notice(streams, b, m) }
			}
			streams.run(func(ctx context.Context) { b.stream(ctx, d.ledger, t.id, t.base, seen) })
		}
	}
	streams.run(func(ctx context.Context) { reader(ctx, d.ledger, d.members) })
	d.director.enter(talks)
	d.mu.Lock()
	d.guide = g
	d.mu.Unlock()
	d.say("%d bots talk in %d rooms", len(bots)-1, len(talks))
}

// notice has a bot read what a person says, after a moment.
func (d *Demo) notice(g *group, b *bot, m *edgev1.Message) {
	if d.isBot(m.GetSenderId()) {
		return
	}
	select {
	case d.noticing <- struct{}{}:
	default:
		return // it reads what comes next
	}
	g.run(func(ctx context.Context) {
		defer func() { <-d.noticing }()
		if rest(ctx, time.Duration(500+rand.IntN(3000))*time.Millisecond) {
			markRead(ctx, b, m)
		}
	})
}

// host remembers who is in a room.
func (d *Demo) host(roomID string, members ...*bot) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hosts[roomID] = members
}

func (d *Demo) members(roomID string) []*bot {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hosts[roomID]
}

func (d *Demo) isBot(userID string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bots[userID]
}

// arrive tells the guide of a person.
func (d *Demo) arrive(v visitor) {
	d.mu.Lock()
	g, known := d.guide, d.bots[v.userID]
	d.mu.Unlock()
	if g != nil && !known {
		g.arrive(v)
	}
}

func (d *Demo) setPhase(p phase) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.phase = p
}

func (d *Demo) nodeEnded(err error) {
	d.mu.Lock()
	if len(d.ended) < maxDetails {
		d.ended = append(d.ended, err.Error())
	}
	d.mu.Unlock()
	d.say("%v", err)
}

// say writes a line for people.
func (d *Demo) say(format string, args ...any) {
	d.out.Lock()
	defer d.out.Unlock()
	clear := ""
	if d.cfg.Live {
		clear = "\r\x1b[K"
	}
	// A terminal that is gone is no reason to stop.
	_, _ = fmt.Fprintf(d.cfg.Out, clear+"  "+format+"\n", args...)
}

// status writes the figures over and over in one line.
func (d *Demo) status(ctx context.Context) {
	for rest(ctx, 500*time.Millisecond) {
		t, f := d.ledger.Tally(), d.meter.Figures(time.Now())
		d.out.Lock()
		_, _ = fmt.Fprintf(d.cfg.Out, "\r\x1b[K  %d acknowledged (%.0f/s) · %d lost · %d duplicated · %d holes · %d moved · p50 %.0f ms · p99 %.0f ms",
			t.Acknowledged, f.PerSecond, t.Lost, t.Duplicated, t.Holes, t.Moved, f.P50Ms, f.P99Ms)
		d.out.Unlock()
	}
}

// act carries out what a button says.
func (d *Demo) act(kind, name string) error {
	now := time.Now()
	err := d.fleet.Do(kind, name)
	if errors.Is(err, errNothingToDo) {
		return nil
	}
	if err == nil {
		d.meter.Fault(kind, name, now)
		d.say("%s %s", kind, name)
	}
	return err
}

// audit reads everything back from every node that can be asked.
func (d *Demo) audit(ctx context.Context) []Audit {
	if !d.auditing.TryLock() {
		return d.lastAudits() // one is under way
	}
	defer d.auditing.Unlock()
	var nodes []*node
	for _, n := range d.fleet.nodes {
		if c := n.condition(); !c.Dead && !c.Frozen && !c.Cut {
			nodes = append(nodes, n)
		}
	}
	audits := make([]Audit, len(nodes))
	for i, n := range nodes {
		// One after the other: there may be much to read, and people talk.
		one, cancel := context.WithTimeout(ctx, auditPatience)
		audits[i] = audit(one, d.ledger, n.name, n.server.BaseURL(), nil, d.members)
		cancel()
		d.setAudits(audits[:i+1])
	}
	for _, a := range audits {
		if a.Error != "" {
			a.Error = "(" + a.Error + ")"
		}
		d.say("read back from %s: %d messages in %d rooms, %d wrong %s", a.Node, a.Messages, a.Rooms, a.Wrong, a.Error)
	}
	return audits
}

func (d *Demo) setAudits(a []Audit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.audits = append([]Audit(nil), a...)
}

func (d *Demo) lastAudits() []Audit {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.audits
}

// finish ends a run: if its time is over, by healing everything, waiting until
// every message was seen, and reading all back; if it was stopped, at once.
func (d *Demo) finish(ctx context.Context) Result {
	r := Result{Name: "demo", Seed: d.cfg.Seed, Nodes: d.cfg.Nodes, Bots: d.cfg.Bots}
	figures := d.meter.Figures(time.Now())
	r.P50Ms, r.P99Ms = figures.P50Ms, figures.P99Ms
	if ctx.Err() == nil {
		d.setPhase(phase{Name: "auditing"})
		for name, c := range d.fleet.Conditions() {
			if c.Dead || c.Frozen || c.Cut {
				if err := d.act(Heal, name); err != nil {
					d.say("%v", err)
				}
			}
		}
		d.await(ctx)
		r.Audits = d.audit(ctx)
		r.Settled = ctx.Err() == nil
	}
	if r.Settled {
		r.Tally = d.ledger.Settle()
	} else {
		r.Tally = d.ledger.Tally()
	}
	r.Faults, r.Seconds = d.meter.Figures(time.Now()).Faults, time.Since(d.began).Seconds()
	r.Passed = r.Wrong() == 0 && r.Acknowledged > 0
	for _, a := range r.Audits {
		r.Passed = r.Passed && a.Error == ""
	}
	if r.Settled {
		r.Passed = r.Passed && r.Acknowledged == r.Sent && len(r.Audits) == d.cfg.Nodes
	}
	d.setPhase(phase{Name: "ended"})
	return r
}

// await waits until nothing is on its way any more, within patience.
func (d *Demo) await(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settlePatience)
	defer cancel()
	for d.meter.Waiting() > 0 || d.ledger.Tally().Waiting > 0 {
		if !rest(ctx, 100*time.Millisecond) {
			return
		}
	}
	var g errgroup.Group
	for _, n := range d.fleet.nodes {
		g.Go(func() error { return waitReady(ctx, n.server.BaseURL()) })
	}
	if err := g.Wait(); err != nil {
		d.say("not every node came back in time: %v", err)
	}
}

// waitReady waits until a node says that it is ready.
func waitReady(ctx context.Context, url string) error {
	c := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
		if err != nil {
			return err
		}
		response, err := c.Do(r)
		if err == nil {
			_ = response.Body.Close() // only the status matters
			if response.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(response.Status)
		}
		if !rest(ctx, 100*time.Millisecond) {
			return fmt.Errorf("%s: %w", url, err)
		}
	}
}

func closeBots(bots []*bot) {
	var wg sync.WaitGroup
	for _, b := range bots {
		wg.Go(b.close)
	}
	wg.Wait()
}
