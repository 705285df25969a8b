package sim

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/raft"
)

// Config is one seed's run.
type Config struct {
	Seed   uint64
	Faults int          // how many; 0 means 25
	Log    *slog.Logger // nil: nothing is logged
}

// Report is what a run has found.
type Report struct {
	Seed  uint64
	Stats Stats
	Did   []string // the faults, in order
	Wrong []string // broken promises; none is what we want
}

// Stats prove that a run has done something.
type Stats struct {
	Machines, Shards           int
	Sent, Acked, Given, Reads  int
	Kills, Fences, Lost        int
	Views                      int // deleted
	ParcelsSent, ParcelsLost   uint64
	Virtual                    time.Duration
	FaultsMet                  map[string]int
	ReplicasCompared, Readings int
}

const maxWrong = 20

// world is one cluster under one seed.
type world struct {
	seed   uint64
	rng    *rand.Rand // the schedule's, used by Run's goroutine only
	log    *slog.Logger
	shards int
	first  []uint64 // the first voters
	net    *raft.Network
	wires  *wires

	lastNode uint64 // the schedule's, as rng
	machines []*machine
	people   []*person
	rooms    []*room
	everyone chan struct{} // closed when all have signed up

	mu       sync.Mutex // guards what follows
	signedUp int
	sends    []*send
	read     map[place]string
	found    []string
	stats    Stats
}

// Run runs one seed. It must be called in a synctest bubble, and returns when
// everything that it started has ended.
func Run(cfg Config) Report {
	began := time.Now()
	w := &world{
		seed: cfg.Seed, rng: rand.New(rand.NewPCG(cfg.Seed, 1)), log: cfg.Log,
		net: raft.NewNetwork(cfg.Seed), wires: newWires(cfg.Seed), everyone: make(chan struct{}), read: map[place]string{},
	}
	if w.log == nil {
		w.log = discard
	}
	if cfg.Faults == 0 {
		cfg.Faults = 25
	}
	nodes := 3
	if w.rng.IntN(7) == 0 {
		nodes = 5
	}
	w.shards = 1 + w.rng.IntN(3)
	w.stats.Machines, w.stats.Shards = nodes, w.shards
	w.stats.FaultsMet = map[string]int{}
	for i := range nodes {
		w.lastNode++
		w.first = append(w.first, w.lastNode)
		w.machines = append(w.machines, &machine{w: w, at: i, node: w.lastNode, disk: newDisk()})
	}
	w.wires.delay = 2 * time.Millisecond
	w.newPeople(6)
	for _, m := range w.machines {
		if err := m.start(); err != nil {
			w.wrong("a first start failed: %v", err)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	var living sync.WaitGroup
	for _, p := range w.people {
		living.Go(func() { p.live(ctx) })
	}
	did := w.faults(cfg.Faults)
	w.healAll()
	healed := w.settle(ctx)
	stop()
	living.Wait()
	if healed {
		w.judge()
	}
	for _, m := range w.machines {
		m.stop()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.Virtual = time.Since(began)
	w.stats.ParcelsSent, w.stats.ParcelsLost = w.net.Count()
	w.stats.Sent = len(w.sends)
	return Report{Seed: cfg.Seed, Stats: w.stats, Did: did, Wrong: w.found}
}

// ids are the nodes that there are, as a roster tells.
func (w *world) ids() (all []uint64) {
	for _, m := range w.machines {
		all = append(all, m.id())
	}
	return all
}

// silence ends what a life can tell anybody.
func (w *world) silence(l *life) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l.dead.Store(true)
}

// hears tells whether an answer of this life has reached its person.
func (w *world) hears(l *life) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !l.dead.Load()
}

func (w *world) wrong(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrongLocked(format, args...)
}

func (w *world) wrongLocked(format string, args ...any) {
	if len(w.found) < maxWrong {
		w.found = append(w.found, fmt.Sprintf(format, args...))
		w.log.Error("WRONG", "what", w.found[len(w.found)-1])
	}
}

func (w *world) count(n *int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*n++
}

func (w *world) met(fault string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.FaultsMet[fault]++
}

// meant notes a message before it is sent for the first time.
func (w *world) meant(s *send) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sends = append(w.sends, s)
}

// signUpDone counts those who have signed up.
func (w *world) signUpDone() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.signedUp++; w.signedUp == len(w.people) {
		close(w.everyone)
	}
}

// acked notes an acknowledgement; a repeated send must find its first place.
func (w *world) acked(s *send, o outcome) {
	m := o.reply.GetMessage()
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	if s.seq != 0 {
		if s.seq != m.GetSeq() {
			w.wrong("message %s was acknowledged at %d, sent again at %d", s.client(), s.seq, m.GetSeq())
		}
		return
	}
	if m.GetSeq() == 0 || m.GetClientId() != s.client() || m.GetText() != s.text {
		w.wrong("message %s was answered by %v", s.client(), m)
	}
	s.seq, s.at, s.through = m.GetSeq(), time.Now(), o.through
	s.room.acked = append(s.room.acked, s)
	w.count(&w.stats.Acked)
}

// owners tells who holds which shard to be whose, for people who read a finding.
func (w *world) owners() string {
	var b strings.Builder
	for _, m := range w.machines {
		l := m.up()
		if l == nil {
			fmt.Fprintf(&b, "machine %d is down; ", m.at)
			continue
		}
		fmt.Fprintf(&b, "machine %d (node %d):", m.at, m.id())
		for shard := range w.shards {
			leader, term := l.journal.Leader(journal.ShardID(shard))
			mark := l.plane.View.Shard(shard).Mark()
			last := l.journal.Log(journal.ShardID(shard)).Last()
			fmt.Fprintf(&b, " [leader %d in term %d, heard %v ago, owned here %v, view at %d/%d, committed %d/%d]", leader, term,
				time.Since(l.journal.Heard(journal.ShardID(shard))).Round(time.Millisecond), l.plane.Shards.Owns(shard), mark.GetTerm(), mark.GetIndex(), last.Term, last.Index)
		}
		b.WriteString("; ")
	}
	return b.String()
}
