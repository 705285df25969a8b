package drill

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/node"
	"github.com/bongsu-im/bongsu/proof/oracle"
)

// DamageConfig says how the damage drill runs.
type DamageConfig struct {
	Seed      uint64    // of the words, of which bits flip and where files end
	Positions int       // how many flips and how many truncations a file; 0 means 1
	Out       io.Writer // progress for people; nil for none
}

// DamageKind is what is done to one file.
type DamageKind string

// The kinds of damage.
const (
	FlipBit  DamageKind = "flip"     // one bit, anywhere
	Truncate DamageKind = "truncate" // at any byte
	Empty    DamageKind = "empty"    // to no bytes at all
	Delete   DamageKind = "delete"
)

// DamageClass is a kind of file in a data folder.
type DamageClass struct{ Store, Files string }

// DamageRow counts how damage of one kind to one class of files was met.
type DamageRow struct {
	DamageClass
	Kind DamageKind

	Cases     int
	Detected  int // refused at open, a lost tail named, fenced at reading, damaged marks reported
	Rebuilt   int // the view was set aside and made again, nothing missing
	ByCheck   int // served whole, and `admin check` tells of it
	ByClients int // last words of a torn WAL: clients' positions prove them lost, and clients send them again
	Harmless  int // served whole, and nothing that is in use was hit
}

// DamageReport is the drill's count, by class and kind.
type DamageReport struct {
	Result
	Rows []DamageRow
}

// Table is the count for people.
func (r *DamageReport) Table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-8s %-9s %-9s %6s %9s %8s %9s %10s %9s\n", "store", "files", "damage", "cases", "detected", "rebuilt", "by check", "by clients", "harmless")
	for _, w := range r.Rows {
		fmt.Fprintf(&b, "%-8s %-9s %-9s %6d %9d %8d %9d %10d %9d\n", w.Store, w.Files, w.Kind, w.Cases, w.Detected, w.Rebuilt, w.ByCheck, w.ByClients, w.Harmless)
	}
	return b.String()
}

const (
	damageShards    = 4
	damageLives     = 4  // starts while filling: each leaves tables in the journal store
	damageRounds    = 3  // view flushes a life
	damageMessages  = 12 // between flushes
	damageLastWords = 16 // acknowledged after the last durable mark
	damagePatience  = 20 * time.Second
)

// Damage fills a small data folder, then damages one file of a copy at a time:
// every file of both stores, the marks and the identity, after a clean stop and
// after a crash. What it demands of the core is invariant 6: damage is told of,
// or every acknowledged message is read back from both sides as it was. The one
// exception are words of the last second in a torn WAL; they must be found by
// the position that clients hold, and come back when clients send them again.
// After that the core must go on without losing anything, restarts included.
//
// Nothing here knows how the stores are made but the names of their files.
func Damage(ctx context.Context, cfg DamageConfig) (*DamageReport, error) {
	started := time.Now()
	r := &DamageReport{Result: Result{Name: "damage", Seed: cfg.Seed}}
	show := newTicker(cfg.Out)
	for n, closed := range []bool{true, false} {
		image, err := fillImage(ctx, cfg.Seed, uint64(n), closed)
		if err != nil {
			return r, fmt.Errorf("make the data folder: %w", err)
		}
		r.Acknowledged += len(image.acked)
		cases, err := image.cases(cfg)
		if err != nil {
			return r, err
		}
		inUse := map[string]bool{}
		for i, c := range cases {
			show("%s: damage %d of %d, wrong %d", image.name, i+1, len(cases), len(r.Details))
			outcome, err := image.suffer(ctx, c)
			if ctx.Err() != nil {
				return r, ctx.Err()
			}
			r.Faults++
			var wrong *wrongError
			if errors.As(err, &wrong) {
				r.Lost += wrong.verdict.Lost
				r.Duplicated += wrong.verdict.Duplicated
				r.Moved += wrong.verdict.Moved
				r.Holes += wrong.verdict.Holes
			}
			if err != nil {
				r.explain(fmt.Sprintf("%s: %s: %v", image.name, c, err))
				continue
			}
			r.count(c, outcome)
			// The first damage to each file is its deletion: a table that nobody
			// misses is left over from a compaction.
			if c.kind == Delete {
				inUse[c.file] = outcome > byClients
			}
			if c.class.Files == "table" && inUse[c.file] && outcome <= byClients {
				r.explain(fmt.Sprintf("%s: %s: the table is in use, and neither the core nor `admin check` noticed", image.name, c))
			}
		}
	}
	r.Seconds = time.Since(started).Seconds()
	r.Passed = len(r.Details) == 0 && r.Faults > 0
	return r, nil
}

// outcome is how one damage was met.
type outcome int

const (
	harmless outcome = iota
	byClients
	byCheck
	rebuilt
	detected
)

func (r *DamageReport) count(c damageCase, o outcome) {
	i := slices.IndexFunc(r.Rows, func(w DamageRow) bool { return w.DamageClass == c.class && w.Kind == c.kind })
	if i < 0 {
		i = len(r.Rows)
		r.Rows = append(r.Rows, DamageRow{DamageClass: c.class, Kind: c.kind})
	}
	w := &r.Rows[i]
	w.Cases++
	*map[outcome]*int{harmless: &w.Harmless, byClients: &w.ByClients, byCheck: &w.ByCheck, rebuilt: &w.Rebuilt, detected: &w.Detected}[o]++
	slices.SortFunc(r.Rows, func(a, b DamageRow) int {
		return cmp.Or(cmp.Compare(a.Store, b.Store), cmp.Compare(a.Files, b.Files), cmp.Compare(a.Kind, b.Kind))
	})
}

// wrongError is what must not be: something missing or different that nobody
// was told of.
type wrongError struct{ verdict oracle.Verdict }

func (e *wrongError) Error() string {
	v := e.verdict
	return fmt.Sprintf("served in silence with %d lost, %d duplicated, %d moved, %d holes: %s",
		v.Lost, v.Duplicated, v.Moved, v.Holes, strings.Join(v.Details[:min(len(v.Details), 3)], "; "))
}

// damageSend is a message with all that its sender was told.
type damageSend struct {
	*powerSend
	at       *edgev1.Position
	lastWord bool // acknowledged after the last durable mark
}

// damageImage is a data folder and what its people were told.
type damageImage struct {
	*powerWorld // people and rooms; its disk is the image
	name        string
	acked       []damageSend
	state       []proto.Message // what everyone reads of lists and people
}

// fillImage lives through a few lives, so that there is something in every class
// of file of both stores. closed ends the last one cleanly, else it crashes
// with everything written and the marks a little behind.
func fillImage(ctx context.Context, seed, n uint64, closed bool) (*damageImage, error) {
	m := &damageImage{powerWorld: newPowerWorld(seed, 1<<40+n), name: "crashed"}
	if closed {
		m.name = "closed"
	}
	for life := range damageLives {
		core, err := m.serve(ctx, m.disk)
		if err != nil {
			return nil, err
		}
		m.core = core
		if life == 0 {
			err = errors.Join(m.settle(ctx), m.awaitLists(ctx))
		}
		for round := 0; round < damageRounds && err == nil; round++ {
			if err = m.say(ctx, damageMessages, false); err == nil {
				err = core.View.Flush()
			}
		}
		if err == nil && life == damageLives-1 {
			if err = m.say(ctx, damageMessages, false); err == nil {
				err = m.lastWords(ctx, closed)
			}
		}
		if err := errors.Join(err, core.Close()); err != nil {
			return nil, err
		}
		if left := m.disk; life == damageLives-1 && closed {
			m.disk = left.Crash(1, 0)
		}
	}
	return m, m.baseline(ctx)
}

// awaitLists waits until all rooms are in their members' lists, which they
// reach by an outbox: what is compared later must have come to rest.
func (m *damageImage) awaitLists(ctx context.Context) error {
	want := 0
	for _, room := range m.rooms {
		want += len(room.members)
	}
	for end := time.Now().Add(damagePatience); ; time.Sleep(time.Millisecond) {
		lists, err := m.lists(ctx, m.core)
		if err != nil {
			return err
		}
		listed := 0
		for _, reply := range lists {
			listed += len(reply.(*nodev1.QueryReply).GetListRooms().GetRooms())
		}
		if listed == want {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d of %d rooms are listed after %v", listed, want, damagePatience)
		}
	}
}

// lastWords says a little more than the marks cover. Crashed, the disk is taken
// while the core runs.
func (m *damageImage) lastWords(ctx context.Context, closed bool) error {
	if err := m.core.Journal.SyncMarks(); err != nil {
		return err
	}
	marks := map[string][]byte{}
	for _, name := range []string{"marks.0", "marks.1"} {
		b, err := durable.ReadFile(m.disk, path.Join(powerData, "journal", name))
		if err != nil {
			return err
		}
		marks[name] = b
	}
	if err := m.say(ctx, damageLastWords, !closed); err != nil || closed {
		return err
	}
	taken := m.disk.Crash(1, 0)
	// On a slow machine the second may have passed and the marks moved on; here
	// the cut comes just before.
	for name, b := range marks {
		if err := durable.WriteFile(taken, path.Join(powerData, "journal", name), b, 0o600); err != nil {
			return err
		}
	}
	m.disk = taken
	return nil
}

// say sends n messages, one after another, of a few bytes to a few blocks.
func (m *damageImage) say(ctx context.Context, n int, last bool) error {
	for range n {
		s := m.newSend(m.rng)
		if len(s.text) < 1000 && m.rng.IntN(3) == 0 {
			s.text += string(make20k(m.rng)[:m.rng.IntN(5000)])
		}
		at, err := m.deliver(ctx, m.core, s)
		if err != nil {
			return err
		}
		m.acked = append(m.acked, damageSend{s, at, last})
	}
	return nil
}

// deliver sends a message and notes its number.
func (m *damageImage) deliver(ctx context.Context, core *node.Core, s *powerSend) (*edgev1.Position, error) {
	reply, err := core.Do(ctx, &nodev1.Command{
		Actor: m.users[s.sender].Bytes(),
		Kind: &nodev1.Command_Send{Send: &nodev1.Send{
			RoomId: m.rooms[s.room].id.Bytes(), ClientId: s.clientID[:], Text: s.text,
		}},
	})
	if err == nil && reply.GetError() != nil {
		err = &refusedError{reply.GetError()}
	}
	if err != nil {
		return nil, err
	}
	s.seq = reply.GetMessage().GetSeq()
	return reply.GetPosition(), nil
}

// refusedError is a refusal of the core.
type refusedError struct{ e *edgev1.Error }

func (e *refusedError) Error() string {
	return e.e.GetCode() + ": " + e.e.GetInfo().GetReason() + ": " + e.e.GetMessage()
}

// owned tells whether an error is the core saying that it is damaged: a refusal
// such as "no such room" is not, that is a silent loss.
func owned(err error) bool {
	var r *refusedError
	if !errors.As(err, &r) {
		return false
	}
	switch r.e.GetInfo().GetReason() {
	case "store_fenced", "shard_damaged":
		return true
	}
	return false
}

func damageCoreConfig(disk *durable.Crashable) node.Config {
	return node.Config{Data: powerData, FS: disk, Shards: damageShards, Logger: slog.New(slog.DiscardHandler)}
}

// serve opens a core and waits until each shard serves or says why it does not.
func (m *damageImage) serve(ctx context.Context, disk *durable.Crashable) (*node.Core, error) {
	core, err := node.OpenCore(context.Background(), damageCoreConfig(disk), nil)
	if err != nil {
		return nil, &openError{err}
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(damagePatience)
	defer limit.Stop()
	for {
		// Words of the shards' own: they say "starting" until they know better.
		if err := core.Ready(); err == nil || !strings.Contains(err.Error(), "starting") {
			return core, nil
		}
		select {
		case <-tick.C:
		case <-limit.C:
			return nil, errors.Join(fmt.Errorf("neither serves nor says why not after %v: %w", damagePatience, core.Ready()), core.Close())
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), core.Close())
		}
	}
}

// openError is a core that says of itself that it cannot open.
type openError struct{ cause error }

func (e *openError) Error() string { return "open: " + e.cause.Error() }
func (e *openError) Unwrap() error { return e.cause }

// baseline reads the undamaged image, which must be whole, and remembers what
// everyone's lists say.
func (m *damageImage) baseline(ctx context.Context) error {
	if whole, err := m.checked(ctx, m.disk.Crash(1, 0)); err != nil || !whole {
		return fmt.Errorf("check of the undamaged folder: whole %v, %w", whole, err)
	}
	core, err := m.serve(ctx, m.disk.Crash(1, 0))
	if err != nil {
		return err
	}
	found, err := m.look(ctx, core, nil)
	if err == nil && (found.silent() != nil || found.told || len(found.missing) > 0) {
		err = fmt.Errorf("the undamaged folder is not whole: %+v", found)
	}
	if err == nil {
		m.state, err = m.lists(ctx, core)
	}
	return errors.Join(err, core.Close())
}

// damageCase is one damage to one file.
type damageCase struct {
	class DamageClass
	kind  DamageKind
	file  string
	// at is where, in 65536ths of the length of the file.
	at  uint32
	bit uint
}

func (c damageCase) String() string {
	return fmt.Sprintf("%s %s at %d/65536 bit %d", c.kind, c.file, c.at, c.bit)
}

// classOfFile names the class of a file in the data folder; false for what is
// not part of it (locks).
func classOfFile(name string) (DamageClass, bool) {
	rel := strings.TrimPrefix(name, powerData+"/")
	store, base := path.Dir(rel), path.Base(rel)
	switch store {
	case ".":
		return DamageClass{"node", "identity"}, base == "node.json"
	case "journal":
		return DamageClass{"journal", "marks"}, base == "marks.0" || base == "marks.1"
	case "journal/log":
		store = "journal"
	}
	for prefix, class := range map[string]string{"MANIFEST": "manifest", "OPTIONS": "options", "marker.": "marker"} {
		if strings.HasPrefix(base, prefix) {
			return DamageClass{store, class}, true
		}
	}
	switch path.Ext(base) {
	case ".log":
		return DamageClass{store, "wal"}, true
	case ".sst":
		return DamageClass{store, "table"}, true
	}
	return DamageClass{}, false
}

// filesBelow lists the files of a folder and of those in it, in order.
func filesBelow(fs durable.FS, dir string) ([]string, error) {
	names, err := fs.List(dir)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	slices.Sort(names)
	var all []string
	for _, name := range names {
		full := path.Join(dir, name)
		info, err := fs.Stat(full)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			all = append(all, full)
			continue
		}
		below, err := filesBelow(fs, full)
		if err != nil {
			return nil, err
		}
		all = append(all, below...)
	}
	return all, nil
}

// cases draws the damages: each kind to each file, flips and truncations at
// several places, in a WAL mostly near its end, where the promise is hardest.
func (m *damageImage) cases(cfg DamageConfig) (all []damageCase, err error) {
	files, err := filesBelow(m.disk, powerData)
	if err != nil {
		return nil, err
	}
	rng := rand.New(rand.NewPCG(cfg.Seed, 0xda3a9e))
	for _, file := range files {
		class, ok := classOfFile(file)
		if !ok {
			continue
		}
		info, err := m.disk.Stat(file)
		if err != nil {
			return nil, err
		}
		all = append(all, damageCase{class: class, kind: Delete, file: file})
		if info.Size() == 0 {
			continue // markers are names without content
		}
		all = append(all, damageCase{class: class, kind: Empty, file: file})
		places := max(cfg.Positions, 1)
		if class.Files == "wal" || class.Files == "manifest" || class.Files == "identity" {
			places *= 4
		}
		for p := range places {
			for _, kind := range []DamageKind{FlipBit, Truncate} {
				at := rng.Uint32N(1 << 16)
				if class.Files == "wal" && p%3 > 0 {
					at = 1<<16 - 1 - at/4
				}
				all = append(all, damageCase{class, kind, file, at, uint(rng.IntN(8))})
			}
		}
	}
	return all, nil
}

func (c damageCase) inflict(fs durable.FS) error {
	if c.kind == Delete {
		if err := fs.Remove(c.file); err != nil {
			return err
		}
		return durable.SyncDir(fs, path.Dir(c.file)) // or a copy of the disk has it again
	}
	b, err := durable.ReadFile(fs, c.file)
	if err != nil {
		return err
	}
	at := int(uint64(len(b)) * uint64(c.at) >> 16)
	switch c.kind {
	case FlipBit:
		b[at] ^= 1 << c.bit
	case Truncate:
		b = b[:at]
	case Empty:
		b = nil
	}
	return durable.WriteFile(fs, c.file, b, 0o600)
}

// suffer damages a copy of the image and demands what Damage promises.
func (m *damageImage) suffer(ctx context.Context, c damageCase) (outcome, error) {
	disk := m.disk.Crash(1, 0)
	if err := c.inflict(disk); err != nil {
		return 0, fmt.Errorf("inflict: %w", err)
	}
	checkedDisk := disk.Crash(1, 0)
	o, err := m.meet(ctx, c, disk)
	if err != nil {
		return 0, err
	}
	whole, err := m.checked(ctx, checkedDisk)
	switch {
	case err != nil:
		return 0, err
	case whole && o >= rebuilt:
		return 0, errors.New("the core noticed, `admin check` calls the folder whole")
	case !whole && o == harmless:
		o = byCheck
	}
	return o, nil
}

// checked runs what `bongsu admin check` runs.
func (m *damageImage) checked(ctx context.Context, disk *durable.Crashable) (whole bool, err error) {
	report, err := node.Check(ctx, damageCoreConfig(disk), func(string, int, int) {})
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	return err == nil && report.Whole(), nil // an error of Check is a report, too
}

// meet opens a core on the damaged disk, looks, goes on, and starts again.
func (m *damageImage) meet(ctx context.Context, c damageCase, disk *durable.Crashable) (outcome, error) {
	core, err := m.serve(ctx, disk)
	var refused *openError
	if errors.As(err, &refused) {
		if c.class.Store == "view" {
			return 0, fmt.Errorf("a damaged view must be set aside, not refused: %w", err)
		}
		return detected, nil
	}
	if err != nil {
		return 0, err
	}
	o, news, err := m.live(ctx, core)
	closeErr := core.Close()
	switch {
	case err != nil:
		return 0, err
	case o != detected && closeErr != nil:
		return 0, fmt.Errorf("close: %w", closeErr)
	case o == detected && c.class.Store != "view":
		return o, nil
	}
	// Damage may hide what is written after it; a view met with damage while it
	// ran must be made again by the next start.
	core, err = m.serve(ctx, disk)
	if errors.As(err, &refused) && c.class.Store != "view" {
		return detected, nil
	}
	if err != nil {
		return 0, fmt.Errorf("the start after: %w", err)
	}
	found, err := m.look(ctx, core, news)
	if err = errors.Join(err, core.Close()); err != nil {
		return 0, fmt.Errorf("the start after: %w", err)
	}
	if err := found.silent(); err != nil {
		return 0, fmt.Errorf("the start after: %w", err)
	}
	if len(found.missing) > 0 || found.told && c.class.Store == "view" {
		return 0, fmt.Errorf("the start after: %d messages missing; %w", len(found.missing), cmp.Or(found.why, errors.New("nothing said")))
	}
	if found.told {
		return detected, nil
	}
	if m.setAside(disk) {
		return rebuilt, nil
	}
	return o, nil
}

func (m *damageImage) setAside(disk *durable.Crashable) bool {
	names, err := disk.List(powerData)
	return err == nil && slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "view.damaged-") })
}

// live looks at what a core serves, sends again what is lost as clients do,
// and one new message in each room.
func (m *damageImage) live(ctx context.Context, core *node.Core) (outcome, []damageSend, error) {
	found, err := m.look(ctx, core, nil)
	if err != nil {
		return 0, nil, err
	}
	if err := found.silent(); err != nil {
		return 0, nil, err
	}
	o := harmless
	switch {
	case found.told:
		o = detected
	case len(found.missing) > 0:
		o = byClients
	default:
		state, err := m.lists(ctx, core)
		if err == nil {
			if err := same(m.state, state); err != nil {
				return 0, nil, fmt.Errorf("other lists than before the damage, and nothing was said: %w", err)
			}
		}
		if err != nil && !owned(err) {
			return 0, nil, fmt.Errorf("read the lists: %w", err)
		}
		if err != nil {
			o = detected
		}
	}
	if o == detected && core.Ready() != nil {
		return o, nil, nil
	}
	news, err := m.goOn(ctx, core, found.missing)
	if owned(err) {
		return detected, nil, nil
	}
	return o, news, err
}

// goOn sends the missing again with their old client IDs and something new to
// each room. It returns everything that was acknowledged now.
func (m *damageImage) goOn(ctx context.Context, core *node.Core, missing []damageSend) (news []damageSend, err error) {
	for _, s := range missing {
		again := *s.powerSend
		news = append(news, damageSend{powerSend: &again})
	}
	for room := range m.rooms {
		s := &powerSend{room: room, sender: m.rooms[room].members[0], text: "after the damage"}
		binary.BigEndian.PutUint32(s.clientID[:], uint32(room)+1)
		s.clientID[6], s.clientID[8] = 0x80, 0x80
		news = append(news, damageSend{powerSend: s})
	}
	for i := range news {
		if news[i].at, err = m.deliver(ctx, core, news[i].powerSend); err != nil {
			return nil, fmt.Errorf("go on after the damage: %w", err)
		}
	}
	return news, nil
}

// findings is what one look at a core gives.
type findings struct {
	verdict oracle.Verdict // without what is missing
	missing []damageSend   // acknowledged, and not there
	unfound []damageSend   // of these, what no client's position proves
	claimed []damageSend   // there, and called lost
	told    bool           // the core says that something is damaged
	why     error          // in its words
}

// silent returns an error if the core serves something wrong and says nothing.
func (f *findings) silent() error {
	for _, s := range f.missing {
		if !s.lastWord {
			f.verdict.Lost++
			f.verdict.Details = append(f.verdict.Details, fmt.Sprintf("message %x, older than the marks, is missing", s.clientID))
		}
	}
	for _, s := range f.unfound {
		f.verdict.Lost++
		f.verdict.Details = append(f.verdict.Details, fmt.Sprintf("message %x is missing and its position %v is not called lost", s.clientID, s.at))
	}
	if f.verdict.Wrong() > 0 {
		return &wrongError{f.verdict}
	}
	if len(f.claimed) > 0 {
		return fmt.Errorf("%d messages are there and are called lost, such as %v", len(f.claimed), f.claimed[0].at)
	}
	return nil
}

// look reads every room from two sides, as far as they are served, and presents
// every acknowledged position. news replace what they have the client ID of.
func (m *damageImage) look(ctx context.Context, core *node.Core, news []damageSend) (*findings, error) {
	f := &findings{}
	if d := core.Journal.Damage(); len(d) > 0 {
		f.told, f.why = true, errors.Join(d...)
	}
	var sides []oracle.Side
	there := map[int]map[[16]byte]bool{} // by room: what every side of it shows
	reader := &powerWorld{users: m.users, core: core}
	for n, room := range m.rooms {
		for _, member := range room.members[:2] {
			messages, err := reader.readRoom(ctx, room, member)
			if owned(err) {
				f.told, f.why = true, err
				delete(there, n)
				break
			}
			if err != nil {
				f.verdict.Lost++
				f.verdict.Details = append(f.verdict.Details, fmt.Sprintf("room %s, read by %s: %v", room.id, powerLogin(member), err))
				break
			}
			sides = append(sides, oracle.Side{RoomID: room.id.String(), Reader: powerLogin(member), Messages: messages})
			there[n] = both(there[n], messages)
		}
	}
	acks, err := m.compare(ctx, core, f, there, latest(m.acked, news))
	if err != nil {
		return nil, err
	}
	v := oracle.Judge(acks, sides)
	f.verdict.Lost += v.Lost
	f.verdict.Duplicated, f.verdict.Moved, f.verdict.Holes = v.Duplicated, v.Moved, v.Holes
	f.verdict.Details = append(f.verdict.Details, v.Details...)
	return f, nil
}

// compare sorts the acknowledged messages of served rooms into those that are
// there, returned for judgement, and those that are missing.
func (m *damageImage) compare(ctx context.Context, core *node.Core, f *findings, there map[int]map[[16]byte]bool, all []damageSend) (acks []oracle.Acknowledgement, err error) {
	lost, err := m.present(ctx, core, f, there, all)
	if err != nil {
		return nil, err
	}
	for i, s := range all {
		shown, served := there[s.room]
		switch {
		case !served:
		case !shown[s.clientID]:
			f.missing = append(f.missing, s)
			if !lost[i] {
				f.unfound = append(f.unfound, s)
			}
		default:
			if lost[i] {
				f.claimed = append(f.claimed, s)
			}
			acks = append(acks, oracle.Acknowledgement{
				RoomID: m.rooms[s.room].id.String(), SenderID: m.users[s.sender].String(),
				ClientID: uuid.UUID(s.clientID).String(), Text: s.text, Seq: s.seq,
			})
		}
	}
	return acks, nil
}

// present shows the core the positions of all messages in served rooms, as
// hello does, and returns which of them it calls lost.
func (m *damageImage) present(ctx context.Context, core *node.Core, f *findings, there map[int]map[[16]byte]bool, all []damageSend) (map[int]bool, error) {
	type key struct {
		shard       uint32
		term, index uint64
	}
	of := func(p *edgev1.Position) key { return key{p.GetShard(), p.GetTerm(), p.GetIndex()} }
	byShard := map[uint32][]*edgev1.Position{}
	for _, s := range all {
		if there[s.room] != nil {
			byShard[s.at.GetShard()] = append(byShard[s.at.GetShard()], s.at)
		}
	}
	lost := map[key]bool{}
	for _, positions := range byShard {
		for page := range slices.Chunk(positions, 200) {
			reply, err := core.Query(ctx, &nodev1.Query{Kind: &nodev1.Query_Positions{Positions: &edgev1.HelloRequest{Positions: page}}})
			if err == nil && reply.GetError() != nil {
				err = &refusedError{reply.GetError()}
			}
			if owned(err) {
				f.told, f.why = true, err
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("present positions: %w", err)
			}
			for _, p := range reply.GetLost().GetLost() {
				lost[of(p)] = true
			}
		}
	}
	out := map[int]bool{}
	for i, s := range all {
		out[i] = lost[of(s.at)]
	}
	return out, nil
}

// both narrows what is there to what one more side shows as well.
func both(before map[[16]byte]bool, side []*edgev1.Message) map[[16]byte]bool {
	now := map[[16]byte]bool{}
	for _, msg := range side {
		if u, err := uuid.Parse(msg.GetClientId()); err == nil && (before == nil || before[u]) {
			now[u] = true
		}
	}
	return now
}

// latest is what people hold now: of a message acknowledged twice, the newer.
func latest(old, news []damageSend) []damageSend {
	newer := map[[16]byte]bool{}
	for _, s := range news {
		newer[s.clientID] = true
	}
	all := slices.Clone(news)
	for _, s := range old {
		if !newer[s.clientID] {
			all = append(all, s)
		}
	}
	return all
}

// readRoom reads a whole room as one member sees it. A refusal is a *refusedError.
func (w *powerWorld) readRoom(ctx context.Context, room powerRoom, member int) ([]*edgev1.Message, error) {
	var all []*edgev1.Message
	after := uint64(0)
	for {
		reply, err := w.core.Query(ctx, &nodev1.Query{
			Actor: w.users[member].Bytes(),
			Kind:  &nodev1.Query_History{History: &nodev1.HistoryQuery{RoomId: room.id.Bytes(), AfterSeq: &after, Limit: 200}},
		})
		if err == nil && reply.GetError() != nil {
			err = &refusedError{reply.GetError()}
		}
		if err != nil {
			return nil, err
		}
		page := reply.GetHistory()
		all = append(all, page.GetMessages()...)
		if !page.GetHasMore() || len(page.GetMessages()) == 0 {
			return all, nil
		}
		after = page.GetMessages()[len(page.GetMessages())-1].GetSeq()
	}
}

// lists is everything that people read beside histories: their rooms with
// unread counts, themselves, each other and their devices.
func (m *damageImage) lists(ctx context.Context, core *node.Core) (all []proto.Message, err error) {
	for u, user := range m.users {
		for _, q := range []*nodev1.Query{
			{Kind: &nodev1.Query_ListRooms{ListRooms: &edgev1.ListRoomsRequest{}}},
			{Kind: &nodev1.Query_GetMe{GetMe: &edgev1.GetMeRequest{}}},
			{Kind: &nodev1.Query_Find{Find: &edgev1.FindRequest{Login: powerLogin((u + 1) % powerUsers)}}},
			{Kind: &nodev1.Query_Devices{Devices: &nodev1.DevicesQuery{}}},
		} {
			q.Actor = user.Bytes()
			reply, err := core.Query(ctx, q)
			if err == nil && reply.GetError() != nil {
				err = &refusedError{reply.GetError()}
			}
			if err != nil {
				return nil, fmt.Errorf("%T: %w", q.GetKind(), err)
			}
			all = append(all, reply)
		}
	}
	return all, nil
}

// same says where two looks at the lists differ first.
func same(before, after []proto.Message) error {
	if len(before) != len(after) {
		return fmt.Errorf("%d answers before, now %d", len(before), len(after))
	}
	for i := range before {
		if proto.Equal(before[i], after[i]) {
			continue
		}
		a, b := strings.Fields(fmt.Sprint(before[i])), strings.Fields(fmt.Sprint(after[i]))
		for n := range min(len(a), len(b)) {
			if a[n] != b[n] {
				from := max(n-3, 0)
				return fmt.Errorf("answer %d, word %d: before …%.300v, now …%.300v", i, n, a[from:], b[from:])
			}
		}
		return fmt.Errorf("answer %d: %d words before, now %d", i, len(a), len(b))
	}
	return nil
}
