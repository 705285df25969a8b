package drill

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// FaultKind is one way in which a cluster is hurt.
type FaultKind string

// The kinds of faults.
const (
	KillOwner    FaultKind = "kill"          // SIGKILL the node that leads most, in the middle of a batch
	FreezeOwner  FaultKind = "freeze"        // SIGSTOP it, then SIGCONT
	FreezeDoor   FaultKind = "freeze-door"   // the same to the node that most clients talk to
	KillAll      FaultKind = "kill-all"      // SIGKILL every node, start them again
	CutOff       FaultKind = "cut"           // one node hears nobody and nobody hears it
	CutOneWay    FaultKind = "cut-one-way"   // one node hears and is not heard, or the other way round
	CutBridge    FaultKind = "cut-bridge"    // two nodes do not hear each other; a third hears both
	SlowLink     FaultKind = "slow-link"     // what two nodes say to each other comes late
	LossyLink    FaultKind = "lossy-link"    // connections between two nodes stall and break
	SlowDisk     FaultKind = "slow-disk"     // each fsync takes longer
	FsyncError   FaultKind = "fsync-error"   // one fsync fails
	NoSpace      FaultKind = "no-space"      // the disk is full, then not any more
	LowSpace     FaultKind = "low-space"     // the disk is nearly full: the node gives away what it leads
	TornTail     FaultKind = "torn-tail"     // the end of the newest log file is missing after a crash
	FlippedBit   FaultKind = "flipped-bit"   // one bit in a file of the journal; then the node shall lead
	Truncated    FaultKind = "truncated"     // a file of the journal ends early; then the node shall lead
	DamagedView  FaultKind = "damaged-view"  // a file of the view is damaged
	LostDisk     FaultKind = "lost-disk"     // the folder is empty; the node joins anew and is replaced
	LostMetadata FaultKind = "lost-metadata" // identity, marks or roster are damaged or gone
	ClockJump    FaultKind = "clock-jump"    // one node's clock is wrong by an hour, either way
	LostAnswer   FaultKind = "lost-answer"   // what clients were told did not arrive
	AddWhileCut  FaultKind = "add-while-cut" // a change of members while one is out of reach: refused
	Snapshot     FaultKind = "snapshot"      // a node leaves and comes back empty, while people write
	Rolling      FaultKind = "rolling"       // SIGTERM one node after the other
	MoveLead     FaultKind = "move"          // a planned move of leadership

	// These two are of the upgrade drill, which has several releases.
	Upgrade FaultKind = "upgrade" // SIGTERM one node after the other, and start it with another release
	Finish  FaultKind = "finish"  // activate the rules of the newest release; an older one must not take part then
)

// FaultKinds are all of them.
var FaultKinds = []FaultKind{
	KillOwner, FreezeOwner, FreezeDoor, KillAll, CutOff, CutOneWay, CutBridge, SlowLink, LossyLink, SlowDisk, FsyncError,
	NoSpace, LowSpace, TornTail, FlippedBit, Truncated, DamagedView, LostDisk, LostMetadata, ClockJump, LostAnswer, AddWhileCut, Snapshot, Rolling, MoveLead,
}

// ParseFaultKinds reads names of kinds; none means all.
func ParseFaultKinds(names []string) (kinds []FaultKind, err error) {
	for _, name := range names {
		kind := FaultKind(name)
		if !slices.Contains(FaultKinds, kind) {
			var all []string
			for _, k := range FaultKinds {
				all = append(all, string(k))
			}
			return nil, fmt.Errorf("no fault is called %q; there are %s", name, strings.Join(all, ", "))
		}
		kinds = append(kinds, kind)
	}
	if len(kinds) == 0 {
		kinds = FaultKinds
	}
	return kinds, nil
}

// Fault is one planned fault. What it hits may depend on who leads at that
// moment; everything else is drawn from the seed.
type Fault struct {
	Number int // from 1
	Kind   FaultKind
	// Node is the place of the node to hurt, where no better one is known then.
	Node int
	// After is how long all is well before it, Hold how long it stands.
	After, Hold time.Duration
	// Draw is the seed of what else is random about it.
	Draw uint64
	// Bin is the release that an upgrade goes to, or that must not take part.
	Bin string
}

func (f Fault) random() *rand.Rand { return rand.New(rand.NewPCG(f.Draw, uint64(f.Number))) }

// holds are how long faults stand, from and to.
var holds = map[FaultKind][2]time.Duration{
	KillOwner:   {0, 1500 * time.Millisecond},
	KillAll:     {0, 500 * time.Millisecond},
	FreezeOwner: {3 * time.Second, 6 * time.Second},
	FreezeDoor:  {3 * time.Second, 6 * time.Second},
	CutOff:      {2 * time.Second, 6 * time.Second},
	CutOneWay:   {2 * time.Second, 6 * time.Second},
	CutBridge:   {2 * time.Second, 6 * time.Second},
	SlowLink:    {2 * time.Second, 4 * time.Second},
	LossyLink:   {2 * time.Second, 4 * time.Second},
	SlowDisk:    {2 * time.Second, 4 * time.Second},
	NoSpace:     {2 * time.Second, 4 * time.Second},
	ClockJump:   {2 * time.Second, 4 * time.Second},
	LostAnswer:  {200 * time.Millisecond, 600 * time.Millisecond},
	AddWhileCut: {1500 * time.Millisecond, 2500 * time.Millisecond},
}

// longFreeze is how long a node is frozen when asked to take the long way.
const longFreeze = 30 * time.Second

const (
	leastCalm = 300 * time.Millisecond
	mostCalm  = 1200 * time.Millisecond
)

// Schedule plans n faults for nodes nodes: the kinds in turns, each turn in
// another order, so that a short run has as many of them as it can.
func Schedule(seed uint64, n, nodes int, kinds []FaultKind, long bool) []Fault {
	rng := rand.New(rand.NewPCG(seed, 0xfa017))
	between := func(span [2]time.Duration) time.Duration {
		return span[0] + time.Duration(rng.Int64N(int64(span[1]-span[0])+1))
	}
	plan := make([]Fault, 0, n)
	var turn []FaultKind
	for len(plan) < n {
		if len(turn) == 0 {
			turn = slices.Clone(kinds)
			rng.Shuffle(len(turn), func(i, j int) { turn[i], turn[j] = turn[j], turn[i] })
		}
		f := Fault{
			Number: len(plan) + 1, Kind: turn[0], Node: rng.IntN(nodes),
			After: between([2]time.Duration{leastCalm, mostCalm}), Draw: rng.Uint64(),
		}
		f.Hold = between(holds[f.Kind])
		if long && (f.Kind == FreezeOwner || f.Kind == FreezeDoor) {
			f.Hold = longFreeze
		}
		turn = turn[1:]
		plan = append(plan, f)
	}
	return plan
}

// Rollout plans the upgrade drill: from old to bin and back, so many times, and
// then, where there is a release with newer rules, to that for good.
func Rollout(old, bin, next string, rounds int) (plan []Fault) {
	step := func(kind FaultKind, to string) {
		plan = append(plan, Fault{Number: len(plan) + 1, Kind: kind, After: leastCalm, Bin: to})
	}
	for range rounds {
		step(Upgrade, bin)
		step(Upgrade, old)
	}
	if next != "" {
		step(Upgrade, bin)
		step(Upgrade, next)
		step(Upgrade, bin)
		step(Upgrade, next)
		step(Finish, bin)
	}
	return plan
}
