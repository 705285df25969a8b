package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bongsu-im/bongsu/internal/faults"
	"github.com/bongsu-im/bongsu/proof/history"
	"github.com/bongsu-im/bongsu/proof/nets"
	"github.com/bongsu-im/bongsu/proof/oracle"
)

// ClusterConfig says how the cluster drill runs. Bin and either Faults or Plan are
// required.
type ClusterConfig struct {
	Name   string        // of the drill; empty: cluster
	Bin    string        // the bongsu binary
	Serve  string        // what the nodes begin with; empty: Bin
	Plan   []Fault       // empty: drawn from Seed, Faults and Kinds
	Faults int           // how often the cluster is hurt
	Seed   uint64        // of the schedule, the words and the network
	For    time.Duration // no fault begins shortly before this; 0 means no bound
	Nodes  int           // 0 means 3
	Kinds  []FaultKind   // none means all
	Long   bool          // freeze for 30 s
	// Loopback runs without namespaces where they could be had.
	Loopback bool
	People   int           // 0 means 12, or as many as Lanes
	Lanes    int           // rooms at a time; 0 means 12, or enough for Rate
	Pause    time.Duration // of a writer, at most; 0 means 120 ms
	Rate     int           // messages a second that they want to send together; 0 means as fast as Pause lets them
	Folder   string        // where data and logs stay; empty: a temporary one that goes
	Out      io.Writer     // progress for people; nil for none
}

func (c *ClusterConfig) fill() {
	if c.Name == "" {
		c.Name = "cluster"
	}
	if c.Rate > 0 {
		// Twenty messages a second and lane; a writer that waited is not made up for.
		c.Lanes = max(c.Lanes, (c.Rate+19)/20)
		c.People = max(c.People, c.Lanes)
		c.Pause = time.Duration(float64(2*roomWriters*c.Lanes) / float64(c.Rate) * float64(time.Second))
	}
	if c.Serve == "" {
		c.Serve = c.Bin
	}
	if c.Nodes == 0 {
		c.Nodes = 3
	}
	if len(c.Kinds) == 0 {
		c.Kinds = FaultKinds
	}
	if len(c.Plan) == 0 {
		c.Plan = Schedule(c.Seed, c.Faults, c.Nodes, c.Kinds, c.Long)
	}
	c.Faults = len(c.Plan)
	if c.People == 0 {
		c.People = 12
	}
	if c.Lanes == 0 {
		c.Lanes = 12
	}
	if c.Pause == 0 {
		c.Pause = 120 * time.Millisecond
	}
}

// slowSend is how long a message must have waited to be told of in the log.
const slowSend = 3 * time.Second

// judging is how much before the end no fault begins any more: the rest is for
// reading everything back.
const judging = 20 * time.Second

// Cluster hurts a cluster of real processes in every way it knows, one after the
// other and never more than a minority at once (but for killing all), while
// people write. It is seen from outside: clients keep an account of what they
// were told, members follow their rooms live, and after healing every room is
// read from every replica. The oracle judges all of it together, and porcupine
// each room's history.
//
// The drill is the processes' supervisor, and where a disk is lost its operator.
func Cluster(ctx context.Context, cfg ClusterConfig) (*ClusterResult, error) {
	cfg.fill()
	r := &ClusterResult{Result: Result{Name: cfg.Name, Seed: cfg.Seed}, Kinds: map[FaultKind]int{}}
	if cfg.Nodes < 3 {
		return r, fmt.Errorf("%d nodes: want at least 3, for one to be missing", cfg.Nodes)
	}
	folder := cfg.Folder
	if folder == "" {
		var err error
		if folder, err = os.MkdirTemp("", "bongsu-cluster-"); err != nil {
			return r, fmt.Errorf("make a folder: %w", err)
		}
		// What went wrong is to be looked at.
		defer func() {
			if r.Passed {
				_ = os.RemoveAll(folder) // a leftover in the temporary folder harms nobody
			} else {
				r.explain("data and logs are in " + folder)
			}
		}()
	} else if err := os.MkdirAll(folder, 0o700); err != nil {
		return r, fmt.Errorf("make the folder: %w", err)
	}
	file, err := os.Create(filepath.Join(folder, "drill.log"))
	if err != nil {
		return r, fmt.Errorf("make the drill's log: %w", err)
	}
	defer func() { _ = file.Close() }() // it is for people who look for what went wrong
	w := &clusterWorld{cfg: cfg, account: newAccount(), line: &timeline{began: time.Now(), file: file}, show: newTicker(cfg.Out), result: r}
	err = w.run(ctx, folder)
	r.Seconds = time.Since(w.line.began).Seconds()
	return r, err
}

// clusterWorld is one run of the cluster drill.
type clusterWorld struct {
	cfg     ClusterConfig
	network *nets.Network
	muffler *nets.Muffler
	cell    *cell
	account *account
	talk    *talk
	line    *timeline
	show    func(format string, args ...any)
	result  *ClusterResult
	shards  int
	doors   []door // where everything is read back
	ended   error  // why the faults ended early
}

// door is the public address of a node.
type door struct{ name, url string }

// join makes the network: namespaces where they can be had, with proxies between
// one pair of places, else loopback.
func (w *clusterWorld) join() (err error) {
	places := w.cfg.Nodes + 1
	why := nets.Supported()
	if why == nil && !w.cfg.Loopback {
		rng := rand.New(rand.NewPCG(w.cfg.Seed, 0x11e7))
		a := rng.IntN(w.cfg.Nodes)
		b := (a + 1 + rng.IntN(w.cfg.Nodes-1)) % w.cfg.Nodes
		w.result.Network = "namespaces"
		w.network, err = nets.Spaces(places, [2]int{a, b})
		return err
	}
	w.result.Network = "loopback"
	w.network, err = nets.Loopback(places)
	return err
}

func (w *clusterWorld) run(ctx context.Context, folder string) (err error) {
	if err := w.join(); err != nil {
		return fmt.Errorf("make the network: %w", err)
	}
	defer func() { err = errors.Join(err, w.network.Close()) }()
	w.muffler = nets.NewMuffler(w.network.DialContext)
	if w.cell, err = newCell(ctx, w.cfg.Bin, w.cfg.Serve, folder, w.cfg.Nodes, w.network, w.line.note); err != nil {
		return err
	}
	defer func() {
		if closeErr := w.cell.close(); closeErr != nil && err == nil {
			w.result.problem("the nodes did not stop well: %v", closeErr)
			w.result.verdict()
		}
	}()
	w.show("forming a cluster of %d nodes", w.cfg.Nodes)
	if err := w.cell.form(ctx); err != nil {
		return fmt.Errorf("form the cluster: %w", err)
	}
	state, err := w.cell.status(ctx)
	if err != nil {
		return err
	}
	w.shards = len(state.Shards)
	var urls []string
	for _, n := range w.cell.members() {
		urls = append(urls, n.url())
		w.doors = append(w.doors, door{n.name, n.url()})
	}
	h := &http.Client{Transport: &http.Transport{DialContext: w.muffler.DialContext, MaxIdleConnsPerHost: 64}}
	defer h.CloseIdleConnections()
	if w.talk, err = newTalk(ctx, talkConfig{
		URLs: urls, HTTP: h, Seed: w.cfg.Seed, People: w.cfg.People, Lanes: w.cfg.Lanes, Shards: w.shards, Pause: w.cfg.Pause, Log: w.line.log,
	}, w.account, func(n int) { w.show("signing up %d of %d", n, w.cfg.People+1) }); err != nil {
		return err
	}
	defer w.talk.close()
	w.line.talking = time.Now()
	writing, stopWriting := context.WithCancel(ctx)
	defer stopWriting()
	w.talk.begin(writing)
	looking, stopLooking := context.WithCancel(ctx)
	var looks sync.WaitGroup
	looks.Go(func() { w.look(looking) })
	w.hurt(ctx)
	rest(ctx, time.Second) // the last recovery shall serve, too
	stopLooking()
	looks.Wait()
	stopWriting()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.settle(ctx)
	return w.judge(ctx)
}

// look notes now and then who leads.
func (w *clusterWorld) look(ctx context.Context) {
	for rest(ctx, 1500*time.Millisecond) {
		if s, err := w.cell.status(ctx); err == nil {
			w.line.led(s)
		}
	}
}

// awaitFlying waits, a second at most, until some message is under way.
func (w *clusterWorld) awaitFlying(ctx context.Context) {
	for end := time.Now().Add(time.Second); w.account.flying() == 0 && time.Now().Before(end); {
		if !rest(ctx, 100*time.Microsecond) {
			return
		}
	}
}

// hurt inflicts one fault after the other. It ends early when the cluster does
// not become whole again: what came after would be noise.
func (w *clusterWorld) hurt(ctx context.Context) {
	for _, f := range w.cfg.Plan {
		if w.cfg.For > 0 && time.Since(w.line.began) > w.cfg.For-judging {
			w.result.explain(fmt.Sprintf("out of time after %d of %d faults", f.Number-1, w.cfg.Faults))
			return
		}
		if !w.progress(ctx, f, f.After) {
			return
		}
		record, err := w.suffer(ctx, f)
		if ctx.Err() != nil {
			return
		}
		w.result.Records = append(w.result.Records, record)
		if record.Fired {
			w.result.Faults++
			w.result.Kinds[f.Kind]++
		}
		if err != nil {
			w.ended = fmt.Errorf("fault %d (%s): %w", f.Number, f.Kind, err)
			return
		}
	}
}

// progress waits while showing how things stand.
func (w *clusterWorld) progress(ctx context.Context, f Fault, d time.Duration) bool {
	for end := time.Now().Add(d); ; {
		w.show("fault %d of %d: %s · %d acknowledged · %d under way", f.Number, w.cfg.Faults, f.Kind, w.account.acknowledged(), w.account.flying())
		left := time.Until(end)
		if left <= 0 {
			return ctx.Err() == nil
		}
		if !rest(ctx, min(left, 200*time.Millisecond)) {
			return false
		}
	}
}

// suffer inflicts one fault and waits until the cluster is whole. The error is
// that it did not become so, or that the drill could not go on.
func (w *clusterWorld) suffer(ctx context.Context, f Fault) (r FaultRecord, err error) {
	r = FaultRecord{Number: f.Number, Kind: f.Kind, Begin: w.line.now()}
	w.show("fault %d of %d: %s · %d acknowledged · %d under way", f.Number, w.cfg.Faults, f.Kind, w.account.acknowledged(), w.account.flying())
	w.line.log("fault %d %s", f.Number, f.Kind)
	err = inflictors[f.Kind](ctx, w, f, &r)
	r.End = w.line.now()
	w.line.log("fault %d %s of %v is over, fired %v: %s %s %v", f.Number, f.Kind, r.Nodes, r.Fired, r.Proof, r.Wrong, err)
	// Whatever happened, from here on nothing is broken.
	err = errors.Join(err, w.network.Heal())
	for _, n := range w.cell.members() {
		err = errors.Join(err, n.play(faults.Set{}))
	}
	if err != nil {
		return r, err
	}
	if err := w.cell.awaitAll(ctx, wholeTimeout); err != nil {
		r.wrong("not whole again: %v", err)
		return r, errors.New("the cluster did not become whole again")
	}
	r.Whole = w.line.now()
	w.line.log("whole")
	return r, nil
}

// settle waits until nothing is on its way and every live stream has caught up.
func (w *clusterWorld) settle(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		w.talk.writing.Wait()
		close(done)
	}()
	limit, cancel := context.WithTimeout(ctx, talkSettle)
	defer cancel()
	for settled := false; !settled; {
		w.show("%d messages wait for their acknowledgement", w.account.flying())
		select {
		case <-done:
			settled = true
		case <-time.After(200 * time.Millisecond):
		case <-limit.Done():
			w.talk.complain("%d messages were not acknowledged %v after the last fault", w.account.flying(), talkSettle)
			for _, p := range w.talk.people {
				p.outbox.Close()
			}
			<-done
			settled = true
		}
	}
	w.show("live streams are catching up")
	w.talk.closing.Wait()
}

// judge reads everything back from every replica and counts.
func (w *clusterWorld) judge(ctx context.Context) error {
	r := w.result
	sides := w.talk.sides()
	live := len(sides)
	for _, d := range w.doors {
		read, err := w.talk.audit(ctx, d.name, d.url, func(done, of int) { w.show("reading from %s: %d of %d rooms", d.name, done, of) })
		if err != nil {
			w.talk.complain("%v", err)
		}
		sides = append(sides, read...)
	}
	r.Acknowledged = w.account.acknowledged()
	w.tellProblems() // first: they explain what the judges find
	r.judged(oracle.Judge(w.account.acknowledgements(), sides))
	w.judgeOrder()
	r.Figures = w.figures()
	r.Figures["histories_read"], r.Figures["live_streams"] = float64(len(sides)-live), float64(live)
	r.Notes, r.leads = w.line.notes, w.line.leads
	r.talking, r.waits = w.line.talking.Sub(w.line.began).Seconds(), w.account.perSecond(w.line.began)
	r.nodes = w.cfg.Nodes
	r.verdict()
	return nil
}

// tellProblems tells what went wrong before anything was judged.
func (w *clusterWorld) tellProblems() {
	r := w.result
	if w.ended != nil {
		r.problem("ended early: %v", w.ended)
	}
	for _, rec := range r.Records {
		if rec.Wrong != "" {
			r.problem("fault %d, %s of %s at %.1f s: %s", rec.Number, rec.Kind, strings.Join(rec.Nodes, ", "), rec.Begin, rec.Wrong)
		}
	}
	w.talk.mu.Lock()
	defer w.talk.mu.Unlock()
	for _, p := range w.talk.problems {
		r.problem("%s", p)
	}
}

// judgeOrder has porcupine judge each room, as many at once as there are
// processors.
func (w *clusterWorld) judgeOrder() {
	sends := w.account.sends()
	rooms := make(chan *talkRoom)
	var judges sync.WaitGroup
	var mu sync.Mutex
	for range 2 {
		judges.Go(func() {
			for room := range rooms {
				happened := history.Room{ID: room.id, Sends: sends[room.id], Reads: room.reads}
				outcome := history.Judge(happened, 20*time.Second)
				if outcome == history.Violated {
					w.tellCulprits(happened)
				}
				mu.Lock()
				switch outcome {
				case history.Violated:
					w.result.LinearizabilityViolations++
					w.result.explain(fmt.Sprintf("room %s: no order of what happened gives the answers that people got (%d sends, %d reads)", room.id, len(sends[room.id]), len(room.reads)))
				case history.Undecided:
					w.result.Undecided++
				}
				mu.Unlock()
			}
		})
	}
	for i, room := range w.talk.rooms {
		w.show("judging the order of %d of %d rooms", i, len(w.talk.rooms))
		rooms <- room
	}
	close(rooms)
	judges.Wait()
}

// tellCulprits logs the reads without each of which there would be an order.
func (w *clusterWorld) tellCulprits(room history.Room) {
	for i, read := range room.Reads {
		without := room
		without.Reads = append(slices.Clone(room.Reads[:i]), room.Reads[i+1:]...)
		if history.Judge(without, 5*time.Second) != history.Linear {
			continue
		}
		before := uint64(0)
		for _, s := range room.Sends {
			if s.Seq > 0 && s.Answer.Before(read.Called) {
				before = max(before, s.Seq)
			}
		}
		w.line.log("room %s: the read by %d asked at %.2f s, answered at %.2f s, shows %d messages; %d were acknowledged when it was asked",
			room.ID, read.Who, read.Called.Sub(w.line.began).Seconds(), read.Answer.Sub(w.line.began).Seconds(), len(read.Keys), before)
	}
}

// figures are what was measured beside what must hold.
func (w *clusterWorld) figures() map[string]float64 {
	r := w.result
	var killed, frozen, cut []time.Duration
	out := map[string]float64{}
	ms := func(v float64) time.Duration { return time.Duration(v * float64(time.Millisecond)) }
	for _, rec := range r.Records {
		for _, took := range rec.FirstAckMs {
			switch rec.Kind {
			case KillOwner:
				killed = append(killed, ms(took))
			case FreezeOwner, FreezeDoor:
				frozen = append(frozen, ms(took))
			case CutOff:
				cut = append(cut, ms(took))
			}
		}
		switch rec.Kind {
		case MoveLead:
			out["move_longest_wait_ms"] = max(out["move_longest_wait_ms"], rec.LongestWaitMs)
		case LowSpace:
			out["low_space_longest_wait_ms"] = max(out["low_space_longest_wait_ms"], rec.LongestWaitMs)
		case Upgrade:
			out["upgrade_longest_wait_ms"] = max(out["upgrade_longest_wait_ms"], rec.LongestWaitMs)
		case Rolling:
			out["rolling_longest_wait_ms"] = max(out["rolling_longest_wait_ms"], rec.LongestWaitMs)
		case TornTail, FlippedBit, Truncated, DamagedView, LostMetadata, LostDisk, FsyncError, NoSpace:
			if rec.Whole > 0 {
				out["repair_longest_s"] = max(out["repair_longest_s"], rec.Whole-rec.End)
			}
		}
	}
	quantiles := func(name string, values []time.Duration) (p50, p99 float64) {
		if len(values) == 0 {
			return 0, 0
		}
		p50, p99 = quantileMs(values, 0.5), quantileMs(values, 0.99)
		out[name+"_p50_ms"], out[name+"_p99_ms"], out[name+"_samples"] = p50, p99, float64(len(values))
		return p50, p99
	}
	r.FailoverP50Ms, r.FailoverP99Ms = quantiles("failover", killed)
	quantiles("freeze", frozen)
	quantiles("cut", cut)
	out["messages_sent_again"] = float64(w.account.retried())
	slow, longest := w.account.slow(w.line.began, slowSend)
	for _, text := range slow {
		w.line.log("%s", text)
	}
	out["longest_wait_ms"], out["messages_that_waited_over_3s"] = float64(longest)/float64(time.Millisecond), float64(len(slow))
	out["messages_per_second"] = w.account.rate(w.line.talking)
	out["rooms"] = float64(len(w.talk.rooms))
	out["processes_ended_by_themselves"] = float64(len(w.line.notes))
	return out
}

// ClusterResult is what a cluster drill found; its JSON names are part of the
// public contract.
type ClusterResult struct {
	Result
	FailoverP50Ms float64 `json:"failover_p50_ms"`
	FailoverP99Ms float64 `json:"failover_p99_ms"`
	// LinearizabilityViolations are rooms whose history has no linear order,
	// Undecided those where none was found or excluded in time.
	LinearizabilityViolations int `json:"linearizability_violations"`
	Undecided                 int `json:"undecided"`
	// Kinds counts the faults that are proven to have fired.
	Kinds   map[FaultKind]int `json:"kinds"`
	Network string            `json:"network"` // namespaces or loopback
	Records []FaultRecord     `json:"records"`
	Notes   []Note            `json:"notes"`
	// Versions are the releases that an upgrade went between.
	Versions []string `json:"versions,omitempty"`

	problems int
	nodes    int
	leads    []leadsAt
	talking  float64 // seconds until people began
	waits    [][]time.Duration
}

func (r *ClusterResult) problem(format string, args ...any) {
	r.problems++
	r.explain(fmt.Sprintf(format, args...))
}

// verdict decides whether the run passed.
func (r *ClusterResult) verdict() {
	r.Passed = r.wrong() == 0 && r.LinearizabilityViolations == 0 && r.Undecided == 0 && r.problems == 0 && r.Acknowledged > 0 && r.Faults > 0
	if r.Undecided > 0 {
		r.explain(fmt.Sprintf("%d rooms could not be judged in time", r.Undecided))
	}
}

// JSON writes the result as one line for machines.
func (r *ClusterResult) JSON(w io.Writer) error {
	if r.Details == nil {
		r.Details = []string{}
	}
	if r.Records == nil {
		r.Records = []FaultRecord{}
	}
	if r.Notes == nil {
		r.Notes = []Note{}
	}
	return json.NewEncoder(w).Encode(r)
}

// Print writes the result for people: every fault in a line, then the counts.
func (r *ClusterResult) Print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%4s  %-14s %-10s %8s %8s %8s  %s\n", "", "fault", "of", "at s", "held s", "whole s", "proof")
	for _, f := range r.Records {
		whole := "–"
		if f.Whole > 0 {
			whole = fmt.Sprintf("%.1f", f.Whole-f.End)
		}
		proof := f.Proof
		if !f.Fired {
			proof = "DID NOT FIRE: " + proof
		}
		if f.Wrong != "" {
			proof += " · WRONG: " + f.Wrong
		}
		fmt.Fprintf(&b, "%4d  %-14s %-10s %8.1f %8.1f %8s  %s\n", f.Number, f.Kind, strings.Join(f.Nodes, " "), f.Begin, f.End-f.Begin, whole, proof)
	}
	var kinds []string
	for _, k := range slices.Sorted(maps.Keys(r.Kinds)) {
		kinds = append(kinds, fmt.Sprintf("%s %d", k, r.Kinds[k]))
	}
	fmt.Fprintf(&b, "\n  %d nodes in %s; %s\n", r.nodes, r.Network, strings.Join(kinds, ", "))
	fmt.Fprintf(&b, "  %d rooms without a linear order, %d undecided\n", r.LinearizabilityViolations, r.Undecided)
	if _, err := io.WriteString(w, b.String()); err != nil {
		return err
	}
	return r.Result.Print(w)
}
