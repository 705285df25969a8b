package drill

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/bongsu-im/bongsu/internal/faults"
)

// FaultRecord is what became of a planned fault.
type FaultRecord struct {
	Number int       `json:"number"`
	Kind   FaultKind `json:"kind"`
	Nodes  []string  `json:"nodes"`
	// Seconds since the run began: when it began, when it ended, and when the
	// cluster was whole again.
	Begin float64 `json:"begin"`
	End   float64 `json:"end"`
	Whole float64 `json:"whole"`
	// Fired tells that it is proven to have had an effect; Proof is how.
	Fired bool   `json:"fired"`
	Proof string `json:"proof"`
	// FirstAckMs is, by shard that lost its owner, the time to the first
	// acknowledgement of the next one.
	FirstAckMs map[uint32]float64 `json:"first_ack_ms,omitempty"`
	// LongestWaitMs is how long a message waited at most that was under way
	// during a planned change.
	LongestWaitMs float64 `json:"longest_wait_ms,omitempty"`
	// Wrong is what must not have happened; empty if nothing did.
	Wrong string `json:"wrong,omitempty"`
}

func (r *FaultRecord) fired(ok bool, format string, args ...any) {
	r.Fired, r.Proof = ok, fmt.Sprintf(format, args...)
}

func (r *FaultRecord) wrong(format string, args ...any) {
	if r.Wrong == "" {
		r.Wrong = fmt.Sprintf(format, args...)
	}
}

// inflictors do the faults. They return when the fault is over; that the cluster
// becomes whole is waited for by who calls. An error says that the drill, not
// the cluster, could not do what it wanted.
var inflictors = map[FaultKind]func(context.Context, *clusterWorld, Fault, *FaultRecord) error{
	KillOwner: killOwner, FreezeOwner: freezeOwner, FreezeDoor: freezeDoor, KillAll: killAll,
	CutOff: cutOff, CutOneWay: cutOneWay, CutBridge: cutBridge, SlowLink: slowLink, LossyLink: lossyLink,
	SlowDisk: slowDisk, FsyncError: fsyncError, NoSpace: noSpace, LowSpace: lowSpace,
	TornTail: tornTail, FlippedBit: flippedBit, Truncated: truncated, DamagedView: damagedView,
	LostDisk: lostDisk, LostMetadata: lostMetadata, ClockJump: clockJump, LostAnswer: lostAnswer,
	AddWhileCut: addWhileCut, Snapshot: takeSnapshot, Rolling: roll, MoveLead: moveLead, Upgrade: upgrade, Finish: finish,
}

// owner is the node that leads most shards, with those; the planned one where
// that cannot be found out.
func (w *clusterWorld) owner(ctx context.Context, f Fault) (*cellNode, []uint32) {
	s, err := w.cell.status(ctx)
	if err != nil {
		return w.cell.node(f.Node), nil
	}
	w.line.led(s)
	best, shards := w.cell.node(f.Node), s.leads(w.cell.node(f.Node).name)
	for _, n := range w.cell.members() {
		if l := s.leads(n.name); len(l) > len(shards) {
			best, shards = n, l
		}
	}
	return best, shards
}

// awaitOwners waits until somebody else answers for all the shards, and notes
// how long each took.
func (w *clusterWorld) awaitOwners(ctx context.Context, watched *watch, r *FaultRecord) {
	if len(watched.before) > 0 {
		select {
		case <-watched.all:
		case <-time.After(30 * time.Second):
		case <-ctx.Done():
		}
	}
	first := w.account.done(watched)
	r.FirstAckMs = map[uint32]float64{}
	for shard := range watched.before {
		took, ok := first[shard]
		if !ok {
			r.wrong("nothing was acknowledged on shard %d for %v", shard, time.Since(watched.began).Round(time.Millisecond))
			continue
		}
		r.FirstAckMs[shard] = float64(took) / float64(time.Millisecond)
	}
}

func killOwner(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	n, shards := w.owner(ctx, f)
	r.Nodes = []string{n.name}
	w.awaitFlying(ctx)
	flying := w.account.flying()
	watched := w.account.watch(shards)
	if err := n.kill(); err != nil {
		return err
	}
	r.fired(len(shards) > 0, "killed by signal 9 while it led %d shards, %d messages under way", len(shards), flying)
	began := time.Now()
	w.awaitOwners(ctx, watched, r)
	rest(ctx, f.Hold-time.Since(began))
	return n.start()
}

func freezeOwner(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	n, shards := w.owner(ctx, f)
	return freeze(ctx, w, f, r, n, shards)
}

func freezeDoor(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	n := w.cell.node(f.Node)
	for _, m := range w.cell.members() {
		if w.muffler.Count(m.public()) > w.muffler.Count(n.public()) {
			n = m
		}
	}
	s, err := w.cell.status(ctx)
	if err != nil {
		return err
	}
	clients := w.muffler.Count(n.public())
	if err := freeze(ctx, w, f, r, n, s.leads(n.name)); err != nil {
		return err
	}
	r.Proof += fmt.Sprintf(", %d connections of clients", clients)
	return nil
}

func freeze(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord, n *cellNode, shards []uint32) error {
	r.Nodes = []string{n.name}
	w.awaitFlying(ctx)
	watched := w.account.watch(shards)
	began := time.Now()
	if err := n.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	rest(ctx, 50*time.Millisecond)
	r.fired(n.stopped(), "stopped by the kernel while it led %d shards", len(shards))
	w.awaitOwners(ctx, watched, r)
	rest(ctx, f.Hold-time.Since(began))
	return n.signal(syscall.SIGCONT)
}

func killAll(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	w.awaitFlying(ctx)
	flying := w.account.flying()
	for _, n := range w.cell.members() {
		r.Nodes = append(r.Nodes, n.name)
		if err := n.kill(); err != nil {
			return err
		}
	}
	r.fired(true, "all %d killed by signal 9, %d messages under way", len(r.Nodes), flying)
	rest(ctx, f.Hold)
	for _, n := range w.cell.members() {
		if err := n.start(); err != nil {
			return err
		}
	}
	return nil
}

// cutting keeps cuts for a while and proves that something met them.
func cutting(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord, cuts ...[2]int) error {
	before, err := w.network.Met()
	if err != nil {
		return err
	}
	for _, c := range cuts {
		if err := w.network.Cut(c[0], c[1]); err != nil {
			return err
		}
	}
	rest(ctx, f.Hold)
	met, err := w.network.Met()
	if err != nil {
		return err
	}
	r.fired(met > before, "%d packets or pieces did not get through", met-before)
	return w.network.Heal()
}

func cutOff(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	n, shards := w.owner(ctx, f)
	r.Nodes = []string{n.name}
	var cuts [][2]int
	for _, other := range w.cell.members() {
		if other != n {
			cuts = append(cuts, [2]int{n.place, other.place}, [2]int{other.place, n.place})
		}
	}
	watched := w.account.watch(shards)
	if err := cutting(ctx, w, f, r, cuts...); err != nil {
		return err
	}
	w.awaitOwners(ctx, watched, r)
	return nil
}

func cutOneWay(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	n, _ := w.owner(ctx, f)
	r.Nodes = []string{n.name}
	deaf := f.random().IntN(2) == 0
	var cuts [][2]int
	for _, other := range w.cell.members() {
		switch {
		case other == n:
		case deaf:
			cuts = append(cuts, [2]int{other.place, n.place})
		default:
			cuts = append(cuts, [2]int{n.place, other.place})
		}
	}
	err := cutting(ctx, w, f, r, cuts...)
	r.Proof += map[bool]string{true: " to it", false: " from it"}[deaf]
	return err
}

func cutBridge(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	n, _ := w.owner(ctx, f)
	other := w.cell.node((n.place + 1 + f.random().IntN(w.cell.size-1)) % w.cell.size)
	r.Nodes = []string{n.name, other.name}
	return cutting(ctx, w, f, r, [2]int{n.place, other.place}, [2]int{other.place, n.place})
}

// proxied is a pair of places between which proxies stand.
func (w *clusterWorld) proxied(f Fault) (a, b int) {
	var pairs [][2]int
	for a := range w.cell.size {
		for b := a + 1; b < w.cell.size; b++ {
			if w.network.Proxied(a, b) {
				pairs = append(pairs, [2]int{a, b})
			}
		}
	}
	pair := pairs[f.random().IntN(len(pairs))]
	return pair[0], pair[1]
}

func slowLink(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	a, b := w.proxied(f)
	r.Nodes = []string{w.cell.node(a).name, w.cell.node(b).name}
	before, err := w.network.Met()
	if err != nil {
		return err
	}
	delay := 20*time.Millisecond + time.Duration(f.random().Int64N(int64(180*time.Millisecond)))
	if err := w.network.Slow(a, b, delay); err != nil {
		return err
	}
	rest(ctx, f.Hold)
	met, err := w.network.Met()
	if err != nil {
		return err
	}
	r.fired(met > before, "%d pieces came %v late", met-before, delay.Round(time.Millisecond))
	return w.network.Heal()
}

func lossyLink(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	a, b := w.proxied(f)
	r.Nodes = []string{w.cell.node(a).name, w.cell.node(b).name}
	rng := f.random()
	broken, stalls := 0, 0
	for end := time.Now().Add(f.Hold); time.Now().Before(end) && ctx.Err() == nil; {
		if rng.IntN(2) == 0 {
			broken += w.network.Break(a, b)
		} else {
			stalls++
			if err := w.network.Cut(a, b); err != nil {
				return err
			}
			rest(ctx, 50*time.Millisecond+time.Duration(rng.Int64N(int64(250*time.Millisecond))))
			if err := w.network.Heal(); err != nil {
				return err
			}
		}
		rest(ctx, 50*time.Millisecond+time.Duration(rng.Int64N(int64(250*time.Millisecond))))
	}
	r.fired(broken > 0 || stalls > 0, "%d connections broken, %d stalls", broken, stalls)
	return nil
}

// playing keeps faults of the fault file for a while.
func playing(ctx context.Context, w *clusterWorld, n *cellNode, set faults.Set, hold time.Duration) error {
	if err := n.play(set); err != nil {
		return err
	}
	rest(ctx, hold)
	return n.play(faults.Set{})
}

func slowDisk(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	n, _ := w.owner(ctx, f)
	r.Nodes = []string{n.name}
	slow := 10*time.Millisecond + time.Duration(f.random().Int64N(int64(60*time.Millisecond)))
	before := n.met("slow-disk")
	err := playing(ctx, w, n, faults.Set{SlowDisk: slow}, f.Hold)
	rest(ctx, 100*time.Millisecond) // until what was met is written
	r.fired(n.met("slow-disk") > before, "%d fsyncs took %v longer", n.met("slow-disk")-before, slow.Round(time.Millisecond))
	return err
}

func fsyncError(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	n, _ := w.owner(ctx, f)
	if f.random().IntN(3) == 0 {
		n = w.cell.node(f.Node) // not always the owner
	}
	r.Nodes = []string{n.name}
	mark, deaths := n.logSize(), n.died()
	before := n.met("fsync-error")
	if err := n.play(faults.Set{FsyncError: true}); err != nil {
		return err
	}
	// The counter of a process that ended is gone; then its log says it.
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if n.met("fsync-error") > before || strings.Contains(n.said(mark), "input/output error") {
			r.fired(true, "an fsync failed with EIO")
			break
		}
		if !rest(ctx, 20*time.Millisecond) {
			break
		}
	}
	if n.died() > deaths {
		r.Proof += ", the process ended and was started again"
	}
	return n.play(faults.Set{})
}

func noSpace(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	n, _ := w.owner(ctx, f)
	if f.random().IntN(3) == 0 {
		n = w.cell.node(f.Node)
	}
	r.Nodes = []string{n.name}
	mark := n.logSize()
	before := n.met("no-space")
	err := n.play(faults.Set{NoSpace: true})
	most := 0
	for end := time.Now().Add(f.Hold); err == nil && time.Now().Before(end) && rest(ctx, 50*time.Millisecond); {
		most = max(most, n.met("no-space")-before)
	}
	said := strings.Contains(n.said(mark), "no space left")
	r.fired(most > 0 || said, "%d writes refused with ENOSPC", most)
	if err != nil {
		return err
	}
	return n.play(faults.Set{})
}

// lowSpace has a disk say that it is nearly full: its node must lead nothing
// before long, and nobody who sends may notice.
func lowSpace(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	n, shards := w.owner(ctx, f)
	r.Nodes = []string{n.name}
	w.awaitFlying(ctx)
	from, before := time.Now(), n.met("low-space")
	if err := n.play(faults.Set{LowSpace: true}); err != nil {
		return err
	}
	left := len(shards)
	for end := from.Add(10 * time.Second); left > 0 && time.Now().Before(end) && rest(ctx, 100*time.Millisecond); {
		if s, err := w.cell.status(ctx); err == nil {
			left = len(s.leads(n.name))
		}
	}
	took := time.Since(from)
	if left > 0 {
		r.wrong("%s still leads %d shards %v after its disk was nearly full", n.name, left, took.Round(time.Millisecond))
	}
	longest := w.account.longestWait(from, time.Now())
	r.LongestWaitMs = float64(longest) / float64(time.Millisecond)
	r.fired(n.met("low-space") > before, "gave %d shards away within %v; the longest send took %v", len(shards)-left, took.Round(time.Millisecond), longest.Round(time.Millisecond))
	return n.play(faults.Set{})
}

func clockJump(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	n, _ := w.owner(ctx, f)
	r.Nodes = []string{n.name}
	jump := time.Hour
	if f.random().IntN(2) == 0 {
		jump = -time.Hour
	}
	before := n.met("clock")
	err := playing(ctx, w, n, faults.Set{Clock: jump}, f.Hold)
	rest(ctx, 100*time.Millisecond)
	r.fired(n.met("clock") > before, "a clock wrong by %v was read %d times", jump, n.met("clock")-before)
	return err
}

// wounding kills a node, damages its folder, starts it, and has it become whole
// by itself. One that refuses to start is replaced, as its operator would.
func wounding(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord, wound func(*cellNode) (string, error)) error {
	n, _ := w.owner(ctx, f)
	if f.random().IntN(2) == 0 {
		n = w.cell.node(f.Node)
	}
	r.Nodes = []string{n.name}
	before, err := w.cell.status(ctx)
	if err != nil {
		return err
	}
	if err := n.kill(); err != nil {
		return err
	}
	said, err := wound(n)
	if err != nil {
		return fmt.Errorf("damage %s: %w", n.name, err)
	}
	r.fired(true, "%s", said)
	mark := n.logSize()
	if err := n.start(); err != nil {
		return err
	}
	if err := w.comeBack(ctx, n, r); err != nil {
		return err
	}
	after, err := w.cell.status(ctx)
	if err != nil {
		return err
	}
	switch log := n.said(mark); {
	case after.id(n.name) != before.id(n.name):
		r.Proof += "; it came back as a new member"
	case strings.Contains(log, "level=ERROR") || strings.Contains(log, "damage"):
		r.Proof += "; noticed and repaired"
	default:
		r.Proof += "; nothing that was in use"
	}
	return nil
}

const (
	// repairTimeout is how long a damaged node may take until it serves again.
	repairTimeout = 60 * time.Second
	// refusals is how often a node must have ended by itself to count as one
	// that refuses its folder.
	refusals = 3
)

// comeBack waits until a damaged node serves. One that refuses to start gets an
// empty disk and is replaced.
func (w *clusterWorld) comeBack(ctx context.Context, n *cellNode, r *FaultRecord) error {
	deaths := n.died()
	for end := time.Now().Add(repairTimeout); ; {
		err := w.cell.ready(ctx, n)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case n.died()-deaths >= refusals:
			r.Proof += "; it refused to start: " + n.lastWords()
			return w.replace(ctx, n, r)
		case time.Now().After(end):
			r.wrong("%s had not repaired itself after %v: %v", n.name, repairTimeout, err)
			r.Proof += "; replaced"
			return w.replace(ctx, n, r)
		}
		rest(ctx, 50*time.Millisecond)
	}
}

// replace gives a node an empty disk and puts it in its own place.
func (w *clusterWorld) replace(ctx context.Context, n *cellNode, r *FaultRecord) error {
	if err := n.kill(); err != nil {
		return err
	}
	if err := n.wipe(); err != nil {
		return err
	}
	if err := n.start(); err != nil {
		return err
	}
	if err := w.cell.insist(ctx, w.other(n), wholeTimeout, "replace", n.name); err != nil {
		r.wrong("%s could not be replaced: %v", n.name, err)
	}
	return nil
}

// other is a member that is not n.
func (w *clusterWorld) other(n *cellNode) *cellNode { return w.cell.node((n.place + 1) % w.cell.size) }

func tornTail(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	return wounding(ctx, w, f, r, func(n *cellNode) (string, error) { return n.tearTail(f.random()) })
}

func flippedBit(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	err := wounding(ctx, w, f, r, func(n *cellNode) (string, error) { return n.flip(f.random(), "journal", anyFile) })
	return leadAfter(ctx, w, f, r, err)
}

func truncated(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	err := wounding(ctx, w, f, r, func(n *cellNode) (string, error) { return n.truncate(f.random(), "journal", anyFile) })
	return leadAfter(ctx, w, f, r, err)
}

// leadAfter has the node that was damaged lead a shard: what it serves then is
// read by everyone.
func leadAfter(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord, err error) error {
	if err != nil {
		return err
	}
	if err := w.cell.awaitAll(ctx, wholeTimeout); err != nil {
		return nil // who calls waits for the same and says so
	}
	n := w.cell.node(w.cell.named(r.Nodes[0]))
	shard := f.random().IntN(w.shards)
	if err := w.cell.insist(ctx, n, 15*time.Second, "transfer", "--shard", fmt.Sprint(shard), "--to", n.name); err != nil {
		r.wrong("repaired, and it cannot lead shard %d: %v", shard, err)
		return nil
	}
	r.Proof += fmt.Sprintf("; then it led shard %d", shard)
	rest(ctx, 500*time.Millisecond)
	return nil
}

func damagedView(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	return wounding(ctx, w, f, r, func(n *cellNode) (string, error) { return n.hurtView(f.random()) })
}

func lostMetadata(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	return wounding(ctx, w, f, r, func(n *cellNode) (string, error) { return n.hurtMetadata(f.random()) })
}

func lostDisk(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	n, _ := w.owner(ctx, f)
	r.Nodes = []string{n.name}
	before, err := w.cell.status(ctx)
	if err != nil {
		return err
	}
	if err := w.replace(ctx, n, r); err != nil {
		return err
	}
	if err := w.cell.awaitReady(ctx, n, wholeTimeout); err != nil {
		r.wrong("%v", err)
		return nil
	}
	after, err := w.cell.status(ctx)
	if err != nil {
		return err
	}
	r.fired(before.id(n.name) != after.id(n.name), "node %s came back empty as %s and took its place", before.id(n.name), after.id(n.name))
	return nil
}

// takeSnapshot has a node leave and come back empty while people write.
func takeSnapshot(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	n := w.cell.node(f.Node)
	r.Nodes = []string{n.name}
	if err := w.cell.insist(ctx, w.other(n), wholeTimeout, "remove", n.name); err != nil {
		r.wrong("%s could not be removed: %v", n.name, err)
		return nil
	}
	if err := n.kill(); err != nil {
		return err
	}
	if err := n.wipe(); err != nil {
		return err
	}
	if err := n.start(); err != nil {
		return err
	}
	acked := w.account.acknowledged()
	snapshots := make(chan bool, 1)
	watching, stop := context.WithCancel(ctx)
	go func() { snapshots <- w.sawSnapshot(watching, n) }()
	err := w.cell.insist(ctx, w.other(n), wholeTimeout, "add", n.name)
	stop()
	if err != nil {
		r.wrong("%s could not be added again: %v", n.name, err)
	}
	how := "caught up"
	if <-snapshots {
		how = "took snapshots"
	}
	r.fired(err == nil, "removed, wiped and added; it %s while %d messages were acknowledged", how, w.account.acknowledged()-acked)
	return nil
}

// sawSnapshot watches whether a node takes a snapshot, until ctx ends.
func (w *clusterWorld) sawSnapshot(ctx context.Context, n *cellNode) (seen bool) {
	for rest(ctx, 100*time.Millisecond) {
		s, err := w.cell.status(ctx)
		if err != nil {
			continue
		}
		for _, sh := range s.Shards {
			for _, m := range sh.Members {
				seen = seen || m.Node == n.name && m.Snapshot
			}
		}
	}
	return seen
}

func lostAnswer(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	n := w.cell.node(f.Node)
	for _, m := range w.cell.members() {
		if w.muffler.Count(m.public()) > w.muffler.Count(n.public()) {
			n = m
		}
	}
	r.Nodes = []string{n.name}
	w.awaitFlying(ctx)
	before, retried := w.muffler.Lost(), w.account.retried()
	unmute := w.muffler.Mute(n.public())
	rest(ctx, f.Hold)
	unmute()
	rest(ctx, 100*time.Millisecond)
	lost := w.muffler.Lost() - before
	r.fired(lost > 0, "%d bytes of answers were lost, %d messages were sent again", lost, w.account.retried()-retried)
	return nil
}

// addWhileCut cuts a node off and asks for a new member: that must be refused,
// soon and whole.
func addWhileCut(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	n := w.cell.node(f.Node)
	spare := w.cell.spare()
	r.Nodes = []string{n.name, spare.name}
	if err := spare.start(); err != nil {
		return err
	}
	at := w.other(n)
	for _, m := range w.cell.members() {
		if m != n {
			if err := errors.Join(w.network.Cut(n.place, m.place), w.network.Cut(m.place, n.place)); err != nil {
				return err
			}
		}
	}
	rest(ctx, f.Hold) // until the others have noticed
	began := time.Now()
	out, err := w.cell.operate(ctx, at, 30*time.Second, "add", spare.name)
	took := time.Since(began).Round(10 * time.Millisecond)
	if err == nil {
		r.wrong("%s was added while %s was out of reach: %s", spare.name, n.name, strings.TrimSpace(out))
	}
	r.fired(err != nil, "refused after %v: %s", took, lastLine(out))
	if took > 25*time.Second {
		r.wrong("the refusal took %v", took)
	}
	if err := w.network.Heal(); err != nil {
		return err
	}
	// Whatever half of it was done is undone.
	if err := w.cell.insist(ctx, at, wholeTimeout, "remove", spare.name); err != nil {
		r.wrong("the refused %s cannot be removed: %v", spare.name, err)
	}
	if err := spare.kill(); err != nil {
		return err
	}
	return spare.wipe()
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// roll stops and starts one node after the other, as an upgrade does.
func roll(ctx context.Context, w *clusterWorld, _ Fault, r *FaultRecord) error {
	return rollTo(ctx, w, r, "")
}

// moveLead moves the leadership of a shard as an operator does.
func moveLead(ctx context.Context, w *clusterWorld, f Fault, r *FaultRecord) error {
	s, err := w.cell.status(ctx)
	if err != nil {
		return err
	}
	shard := s.Shards[f.random().IntN(len(s.Shards))]
	to := w.cell.node(f.Node)
	if to.name == shard.Leader {
		to = w.other(to)
	}
	r.Nodes = []string{shard.Leader, to.name}
	w.awaitFlying(ctx)
	from := time.Now()
	if err := w.cell.insist(ctx, to, 15*time.Second, "transfer", "--shard", fmt.Sprint(shard.Shard), "--to", to.name); err != nil {
		r.wrong("shard %d could not be moved: %v", shard.Shard, err)
		return nil
	}
	until := time.Now()
	rest(ctx, 500*time.Millisecond)
	after, err := w.cell.status(ctx)
	if err != nil {
		return err
	}
	longest := w.account.longestWait(from, until)
	r.LongestWaitMs = float64(longest) / float64(time.Millisecond)
	moved := after.Shards[shard.Shard].Leader
	r.fired(moved == to.name, "shard %d moved from %s to %s; the longest send took %v", shard.Shard, shard.Leader, moved, longest.Round(time.Millisecond))
	return nil
}
