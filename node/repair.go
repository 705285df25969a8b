package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"connectrpc.com/connect"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/internal/mtls"
	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/raft"
	"github.com/bongsu-im/bongsu/node/roster"
	"github.com/bongsu-im/bongsu/view"
)

// A node of a cluster mends its own stores: the others have everything. What
// failed while it was open is opened again, which replays and proves what is
// there; what is not whole is set aside, and the node comes back as a new member
// with an empty store, in the place of the one it was. It never votes with a
// store that has forgotten something.

// brokenError ends a core whose stores are to be mended.
type brokenError struct {
	cause error
	view  bool // the view does not agree with the journal: made again from it
	anew  bool // not whole: begin with an empty store, as a new member
}

func (e *brokenError) Error() string { return e.cause.Error() }
func (e *brokenError) Unwrap() error { return e.cause }

const (
	watchEvery = 250 * time.Millisecond
	// fencedAgain within this time of the last mending: the disk cannot be trusted
	// with what is on it.
	fencedAgain = 10 * time.Minute
	mendPause   = time.Second
	mendMost    = 30 * time.Second
)

// watchStores ends the core when what it holds is of a newer release, and that of
// a node of a cluster when a store has failed.
func (c *Core) watchStores(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if err := c.Shards.TooOld(); err != nil {
			return err
		}
		if c.cluster == nil {
			continue
		}
		j := c.Journal.(*raft.Journal)
		if err := j.Fenced(); err != nil {
			return &brokenError{cause: err, anew: isDamage(err)}
		}
		if err := c.View.Err(); err != nil {
			return &brokenError{cause: err}
		}
		for n := range c.identity.Shards {
			st, err := j.Status(ctx, journal.ShardID(n))
			if err == nil && st.Role == raft.RoleDamaged {
				return &brokenError{cause: fmt.Errorf("the journal of shard %d lacks what was acknowledged: %w", n, errors.Join(j.Damage()...)), anew: true}
			}
		}
		if err := c.Shards.Damaged(); err != nil {
			return &brokenError{cause: err, view: true}
		}
	}
}

// distrust ends the core to have its view made again.
func (c *Core) distrust(why string) { c.fail(&brokenError{cause: errors.New(why), view: true}) }

// beginAnew ends the core to have this node come back as a new member.
func (c *Core) beginAnew(why string) { c.fail(&brokenError{cause: errors.New(why), anew: true}) }

// BeginAnew implements nodev1connect.ClusterServiceHandler.
func (s *clusterService) BeginAnew(_ context.Context, r *connect.Request[nodev1.BeginAnewRequest]) (*connect.Response[nodev1.BeginAnewResponse], error) {
	time.AfterFunc(50*time.Millisecond, func() { s.c.core.beginAnew(r.Msg.GetWhy()) }) // the answer goes first
	return connect.NewResponse(&nodev1.BeginAnewResponse{}), nil
}

// isDamage tells an error about what is stored from one of the device.
func isDamage(err error) bool {
	var corrupt *journal.CorruptError
	var lost *journal.LostTailError
	return errors.As(err, &corrupt) || errors.As(err, &lost)
}

// isFull tells an error of something that is used up, space or descriptors. It
// says nothing against what is on the disk, and it may meet all nodes at once:
// nobody begins anew for it.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// mend decides what follows the end of a core; nil: it is opened again.
func (n *Node) mend(ctx context.Context, err error, m *mending) error {
	var broken *brokenError
	var fenced *view.FencedError
	var store *journal.FencedError
	switch {
	case n.cfg.Cluster == nil:
		return err
	case errors.As(err, &broken):
	case errors.As(err, &fenced):
		broken = &brokenError{cause: err}
	case isFull(err):
		broken = &brokenError{cause: err}
	case isDamage(err), isDamagedIdentity(err):
		broken = &brokenError{cause: err, anew: true}
	case errors.As(err, &store):
		broken = &brokenError{cause: err}
	default:
		return err
	}
	if isFull(err) && !broken.anew && !broken.view {
		m.pause = mendPause
		n.mended.WithLabelValues(mendReopened).Inc()
		n.cfg.Logger.Error("the disk is full; the stores are opened again, and proven, when it has room", "error", broken.cause)
		return nil
	}
	now := time.Now()
	if !m.last.IsZero() && now.Sub(m.last) < fencedAgain {
		m.pause = min(2*m.pause, mendMost)
		var journalFence *journal.FencedError
		broken.anew = broken.anew || broken.view || errors.As(err, &journalFence) && !isFull(err)
	} else {
		m.pause = mendPause
	}
	m.last = now
	if broken.view && !broken.anew {
		aside, err := view.SetAside(n.cfg.FS, Layout{n.cfg.Data}.View(), n.cfg.Clock)
		if err != nil {
			return errors.Join(broken.cause, err)
		}
		n.mended.WithLabelValues(mendView).Inc()
		n.cfg.Logger.Error("the view does not agree with the journal; it is set aside and made again", "error", broken.cause, "aside", aside)
		return nil
	}
	if !broken.anew {
		n.mended.WithLabelValues(mendReopened).Inc()
		n.cfg.Logger.Error("a store has failed; it is opened again and proven", "error", broken.cause, "in", m.pause)
		return nil
	}
	if others, err := n.others(); err != nil || len(others) == 0 {
		// What is here may be all there is.
		return errors.Join(broken.cause, err, errors.New("there is no other node to begin anew from: this one needs a person"))
	}
	if err := n.othersServe(ctx); err != nil {
		// Whatever has met this store may have met all: then it is the disks that
		// are to be mended, and nobody may be the first to give up what it has.
		n.cfg.Logger.Error("the stores are not whole, and the other nodes do not serve without this one: nothing is set aside yet", "error", broken.cause, "others", err, "again_in", m.pause)
		return nil
	}
	aside, err := Layout{n.cfg.Data}.setAside(n.cfg.FS, now)
	if err != nil {
		return errors.Join(broken.cause, fmt.Errorf("set the damaged stores aside: %w", err))
	}
	n.mended.WithLabelValues(mendAnew).Inc()
	n.cfg.Logger.Error("the stores are not whole; they are set aside, and this node comes back as a new member in its own place",
		"error", broken.cause, "aside", aside, "in", m.pause)
	return nil
}

// othersServe tells why not every shard is led by another node that hears most of
// its members, this node left out.
func (n *Node) othersServe(ctx context.Context) error {
	if n.serves != nil {
		return n.serves(ctx)
	}
	identity, err := mtls.Open(n.cfg.Cluster.Certs)
	if err != nil {
		return err
	}
	c := &cluster{cfg: *n.cfg.Cluster, name: identity.Name(), roster: n.knownRoster()}
	var errs []error
	for _, address := range c.doors() {
		asked, cancel := context.WithTimeout(ctx, 2*statusWait)
		client := DialCluster(identity, address)
		state, err := client.Status(asked)
		client.Close()
		cancel()
		if err == nil {
			err = servedWithout(state, identity.Name())
		}
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", address, err))
	}
	return errors.Join(append(errs, errors.New("no other node says that the cluster is served"))...)
}

// servedWithout tells which shard is not led by a node that hears most of its
// voters, those of a name left out.
func servedWithout(state *nodev1.GetClusterResponse, name string) error {
	left := map[uint64]bool{}
	for _, n := range state.GetNodes() {
		left[n.GetMember().GetId()] = n.GetMember().GetName() == name
	}
	served := make([]bool, state.GetShards())
	for _, n := range state.GetNodes() {
		for _, sh := range n.GetNode().GetShards() {
			if sh.GetRole() != string(raft.RoleLeader) || left[n.GetMember().GetId()] || int64(sh.GetShard()) >= int64(len(served)) {
				continue
			}
			voters, heard := 0, 0
			for _, m := range sh.GetMembers() {
				if !m.GetVoter() {
					continue
				}
				voters++
				if m.GetActive() && !left[m.GetNode()] {
					heard++
				}
			}
			served[sh.GetShard()] = served[sh.GetShard()] || 2*heard > voters
		}
	}
	if len(served) == 0 || slices.Contains(served, false) {
		return fmt.Errorf("shard %d has no leader that hears most of its members", max(slices.Index(served, false), 0))
	}
	return nil
}

// knownRoster is the roster on the disk; an empty one in memory if it cannot be read.
func (n *Node) knownRoster() *roster.Roster {
	r, err := roster.Open(n.cfg.FS, Layout{n.cfg.Data}.Roster())
	if err != nil {
		return &roster.Roster{}
	}
	return r
}

// others are the names of the other nodes that this one knows of, or was told to
// join.
func (n *Node) others() ([]string, error) {
	names := slices.Clone(n.cfg.Cluster.Join)
	r, err := roster.Open(n.cfg.FS, Layout{n.cfg.Data}.Roster())
	if err != nil || len(r.Members()) == 0 {
		return names, nil // a damaged one is learned again, if there is somebody to learn it from
	}
	identity, err := mtls.Open(n.cfg.Cluster.Certs)
	if err != nil {
		return nil, err
	}
	for _, m := range r.Members() {
		if m.GetName() != identity.Name() {
			names = append(names, m.GetName())
		}
	}
	return names, nil
}

// mending remembers how often it was needed.
type mending struct {
	last  time.Time
	pause time.Duration
}

func isDamagedIdentity(err error) bool {
	var e *identityError
	return errors.As(err, &e)
}

const (
	// asidePrefix of folders with stores that were not whole. What was set aside
	// may be all there is until the node has its place again, so nothing of it is
	// removed before; then the newest is kept, for whoever asks what happened.
	asidePrefix = "damaged-"
	// mostAside bounds them: who has begun anew so often and was never whole
	// needs a person.
	mostAside = 8
)

// asides are the folders of stores that were set aside, oldest first.
func (l Layout) asides(fs durable.FS) (names []string, err error) {
	all, err := fs.List(l.Dir)
	if err != nil {
		return nil, err
	}
	for _, name := range all {
		if strings.HasPrefix(name, asidePrefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// tidyAside removes what was set aside but for the newest: the node has all that
// it held, from the others, and votes again.
func (l Layout) tidyAside(fs durable.FS) error {
	names, err := l.asides(fs)
	if err != nil {
		return err
	}
	for _, name := range names[:max(len(names)-1, 0)] {
		if err := fs.RemoveAll(fs.PathJoin(l.Dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// setAside moves both stores and the identity into a folder of their own. The
// identity goes first: without it nobody takes what is left for a whole folder,
// and the next start finishes.
func (l Layout) setAside(fs durable.FS, now time.Time) (string, error) {
	before, err := l.asides(fs)
	if err != nil {
		return "", err
	}
	if len(before) >= mostAside {
		return "", fmt.Errorf("stores have been set aside %d times and the node was never whole since: look at the disk, then remove the folders %s* that nobody needs", len(before), asidePrefix)
	}
	names, err := fs.List(l.Dir)
	if err != nil {
		return "", err
	}
	// Names are times; the number keeps them apart, and in order, within one.
	aside := fs.PathJoin(l.Dir, fmt.Sprintf("%s%s-%d", asidePrefix, now.UTC().Format("20060102T150405.000"), len(before)))
	if err := durable.MkdirAll(fs, aside, 0o700); err != nil {
		return "", err
	}
	for _, path := range []string{l.identity(), l.Journal(), l.View()} {
		name := fs.PathBase(path)
		if !slices.Contains(names, name) {
			continue
		}
		if err := fs.Rename(path, fs.PathJoin(aside, name)); err != nil {
			return "", fmt.Errorf("set %s aside: %w", name, err)
		}
		if err := durable.SyncDir(fs, l.Dir); err != nil {
			return "", err
		}
	}
	return aside, nil
}

// replaced is the member that a new folder of this node takes the place of: the
// one of its name that is not there any more; 0 if there is none.
func (c *cluster) replaced() uint64 {
	var old uint64
	for _, m := range c.roster.Named(c.name) {
		if m.GetId() != c.self {
			old = m.GetId()
		}
	}
	return old
}

// keepReplacing takes the place of the member that this node was, until that is
// done. Members that are missing hold it up: one replica at a time.
func (c *cluster) keepReplacing(ctx context.Context, old uint64) {
	for pause := mendPause; ctx.Err() == nil; pause = min(2*pause, 5*time.Second) {
		ch := &changer{c: c, tell: c.tellChange}
		err := ch.replaceBy(ctx, old, c.self)
		if err == nil {
			c.log.Info("this node has taken the place of the one that it was", "old", old, "new", c.self)
			if err := (Layout{c.core.config.Data}).tidyAside(c.core.config.FS); err != nil {
				c.log.Warn("stores that were set aside are still there", "error", err)
			}
			return
		}
		if ctx.Err() == nil {
			c.log.Warn("this node has not taken its old place yet", "error", err, "again_in", pause)
		}
		if wait(ctx, pause) != nil {
			return
		}
	}
}
