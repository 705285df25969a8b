package node_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bongsu-im/bongsu/client"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/internal/mtls"
	"github.com/bongsu-im/bongsu/node"
	"github.com/bongsu-im/bongsu/view"
)

// nodes is a cluster in this process, over TLS on loopback, each node with a
// folder of its own.
type nodes struct {
	t     *testing.T
	dir   string
	peers map[string]string // peer addresses by name
	run   map[string]*running
	// backup of nodes that are started from now on.
	backup node.BackupConfig
	disks  map[string]*durable.Faulty // of nodes that have one which can fail
	scrub  time.Duration              // of nodes that are started from now on; 0: as usual
}

func newNodes(t *testing.T, names ...string) *nodes {
	t.Helper()
	c := &nodes{t: t, dir: t.TempDir(), peers: map[string]string{}, run: map[string]*running{}, disks: map[string]*durable.Faulty{}}
	authority, err := mtls.NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(names, "operator") {
		if err := authority.Issue(filepath.Join(c.dir, "certs", name), name, nil, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		c.peers[name] = freeAddr(t)
	}
	return c
}

// start runs a node; it joins the node called door, or begins the cluster.
func (c *nodes) start(name, door string, shards int) {
	c.t.Helper()
	n := c.begin(name, door, shards)
	select {
	case <-n.Serving():
	case <-time.After(60 * time.Second):
		c.t.Fatalf("%s does not serve within a minute", name)
	}
}

// begin runs a node without waiting for it.
func (c *nodes) begin(name, door string, shards int) *running {
	c.t.Helper()
	cfg := node.Config{
		Data: filepath.Join(c.dir, name), Listen: "127.0.0.1:0", Shards: shards, DrainTimeout: 2 * time.Second,
		Logger: testLogger(c.t, name), Backup: c.backup, ScrubEvery: c.scrub,
		Cluster: &node.ClusterConfig{
			Certs: filepath.Join(c.dir, "certs", name), Zone: name, Listen: c.peers[name],
		},
	}
	if disk := c.disks[name]; disk != nil {
		cfg.FS = disk
	}
	if door != "" {
		cfg.Cluster.Join = []string{c.peers[door]}
	}
	n, err := node.New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	r := &running{Node: n, ended: ended, stop: func() error { cancel(); err := <-ended; ended <- err; return err }}
	c.run[name] = r
	c.t.Cleanup(func() { _ = r.stop() })
	return r
}

func (c *nodes) operator(at string) *node.ClusterClient {
	c.t.Helper()
	identity, err := mtls.Open(filepath.Join(c.dir, "certs", "operator"))
	if err != nil {
		c.t.Fatal(err)
	}
	client := node.DialCluster(identity, c.peers[at])
	c.t.Cleanup(client.Close)
	return client
}

// eventually waits until what is so; it may take a while on a loaded machine.
func eventually(t *testing.T, what string, so func() error) {
	t.Helper()
	end := time.Now().Add(40 * time.Second)
	for {
		err := so()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
}

func (c *nodes) add(at, name string) {
	c.t.Helper()
	op := c.operator(at)
	eventually(c.t, "add "+name, func() error {
		return op.Add(c.t.Context(), name, func(p *nodev1.Progress) { c.t.Logf("%d/%d %s", p.GetDone(), p.GetTotal(), p.GetText()) })
	})
}

// form begins a cluster with the first name and adds the others.
func (c *nodes) form(shards int, first string, others ...string) {
	c.t.Helper()
	c.start(first, "", shards)
	for _, name := range others {
		c.begin(name, first, shards)
		c.add(first, name)
	}
}

// serves waits until a node says that it serves people.
func (c *nodes) serves(name string) {
	c.t.Helper()
	eventually(c.t, name+" serves", func() error {
		if code, text := get(c.t, c.run[name].URL()+"/readyz"); code != http.StatusOK {
			return fmt.Errorf("%d %s", code, text)
		}
		return nil
	})
}

// replicated tells whether every shard has a leader and so many voters, all of
// them near.
func replicated(state *nodev1.GetClusterResponse, voters int) error {
	leaders := map[uint32]*nodev1.ShardState{}
	for _, n := range state.GetNodes() {
		for _, s := range n.GetNode().GetShards() {
			if s.GetRole() == "leader" {
				leaders[s.GetShard()] = s
			}
		}
	}
	for shard := range state.GetShards() {
		s := leaders[shard]
		if s == nil {
			return fmt.Errorf("shard %d has no leader", shard)
		}
		near := 0
		for _, m := range s.GetMembers() {
			if m.GetVoter() && m.GetActive() && m.GetMatch() >= s.GetCommit() {
				near++
			}
		}
		if near != voters {
			return fmt.Errorf("shard %d has %d of %d voters near: %v", shard, near, voters, s.GetMembers())
		}
	}
	return nil
}

func testLogger(t *testing.T, name string) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug})).With("at", name)
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// signIn is another device of somebody.
func signIn(t *testing.T, url, login string) *client.Client {
	t.Helper()
	transport := &http.Transport{}
	c, err := client.New(client.Config{BaseURL: url, HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); transport.CloseIdleConnections() })
	if _, err := c.SignIn(t.Context(), login, "a long password", "another"); err != nil {
		t.Fatalf("sign in at %s: %v", url, err)
	}
	return c
}

func list(t *testing.T, c *client.Client, room string) []*edgev1.Message {
	t.Helper()
	page, err := c.ListAfter(t.Context(), room, 0)
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	return page.GetMessages()
}

func say(t *testing.T, c *client.Client, room, text string) *edgev1.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	m, err := c.Send(ctx, &edgev1.SendRequest{RoomId: room, Text: text, ClientId: uuid.NewString()})
	if err != nil {
		t.Fatalf("send %q: %v", text, err)
	}
	return m.GetMessage()
}

// TestOneGrowsToThree: a cluster of one with history becomes three without
// stopping; any node serves anyone; the one that began it leaves and comes back.
func TestOneGrowsToThree(t *testing.T) {
	c := newNodes(t, "n1", "n2", "n3")
	c.start("n1", "", 4)
	ann := join(t, c.run["n1"].URL(), "ann")
	ben := join(t, c.run["n1"].URL(), "ben")
	room, err := ann.OpenDirect(t.Context(), ben.UserID())
	if err != nil {
		t.Fatal(err)
	}
	id := room.GetRoomId()
	for n := range 20 {
		say(t, ann, id, fmt.Sprint("before ", n))
	}
	for _, name := range []string{"n2", "n3"} {
		n := c.begin(name, "n1", 4)
		c.add("n1", name)
		select {
		case <-n.Serving():
		case <-time.After(60 * time.Second):
			t.Fatalf("%s does not serve", name)
		}
	}
	eventually(t, "three of each", func() error {
		state, err := c.operator("n2").Status(t.Context())
		if err != nil {
			return err
		}
		return replicated(state, 3)
	})
	// The same accounts at any door.
	there := signIn(t, c.run["n2"].URL(), "ann")
	last := say(t, there, id, "from the second node")
	for _, name := range []string{"n1", "n2", "n3"} {
		reader := signIn(t, c.run[name].URL(), "ben")
		got := list(t, reader, id)
		if len(got) != 21 || got[20].GetSeq() != last.GetSeq() || got[20].GetText() != "from the second node" {
			t.Fatalf("%s shows %d messages", name, len(got))
		}
	}
	if err := c.run["n1"].stop(); err != nil {
		t.Fatalf("n1: %v", err)
	}
	after := say(t, there, id, "the first has left")
	if after.GetSeq() != last.GetSeq()+1 {
		t.Fatalf("sequence %d after %d", after.GetSeq(), last.GetSeq())
	}
	c.start("n1", "", 4)
	back := signIn(t, c.run["n1"].URL(), "ben")
	if got := list(t, back, id); len(got) != 22 {
		t.Fatalf("after its return n1 shows %d messages", len(got))
	}
}

// TestALostDiskComesBackAsANewMember: the folder is gone; the node joins anew
// under its name and is put in its own place, with everything.
func TestALostDiskComesBackAsANewMember(t *testing.T) {
	c := newNodes(t, "n1", "n2", "n3")
	c.form(2, "n1", "n2", "n3")
	ann, ben := join(t, c.run["n1"].URL(), "ann"), join(t, c.run["n1"].URL(), "ben")
	room, err := ann.OpenDirect(t.Context(), ben.UserID())
	if err != nil {
		t.Fatal(err)
	}
	for n := range 10 {
		say(t, ann, room.GetRoomId(), fmt.Sprint("message ", n))
	}
	if err := c.run["n3"].stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(c.dir, "n3")); err != nil {
		t.Fatal(err)
	}
	n3 := c.begin("n3", "n1", 2)
	op := c.operator("n1")
	eventually(t, "replace n3", func() error {
		return op.Replace(t.Context(), &nodev1.ReplaceNodeRequest{Name: "n3"}, func(p *nodev1.Progress) { t.Log(p.GetText()) })
	})
	<-n3.Serving()
	eventually(t, "three of each", func() error {
		state, err := op.Status(t.Context())
		if err != nil {
			return err
		}
		if len(state.GetNodes()) != 3 {
			return fmt.Errorf("%d nodes", len(state.GetNodes()))
		}
		return replicated(state, 3)
	})
	reader := signIn(t, n3.URL(), "ben")
	if got := list(t, reader, room.GetRoomId()); len(got) != 10 {
		t.Fatalf("n3 shows %d messages", len(got))
	}
}

// TestADamagedNodeMendsItself: the journal of a stopped node is cut; started
// again it notices, sets its stores aside and takes its own place.
func TestADamagedNodeMendsItself(t *testing.T) {
	c := newNodes(t, "n1", "n2", "n3")
	c.form(2, "n1", "n2", "n3")
	ann, ben := join(t, c.run["n1"].URL(), "ann"), join(t, c.run["n1"].URL(), "ben")
	room, err := ann.OpenDirect(t.Context(), ben.UserID())
	if err != nil {
		t.Fatal(err)
	}
	say(t, ann, room.GetRoomId(), "one")
	if err := c.run["n2"].stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "n2", "node.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	n2 := c.begin("n2", "", 2) // without --join: it knows the others
	eventually(t, "n2 in its own place", func() error {
		state, err := c.operator("n1").Status(t.Context())
		if err != nil {
			return err
		}
		if n := slices.IndexFunc(state.GetNodes(), func(n *nodev1.NodeState) bool { return n.GetMember().GetName() == "n2" && !n.GetUp() }); n >= 0 {
			return fmt.Errorf("the old n2 is still a member")
		}
		return replicated(state, 3)
	})
	<-n2.Serving()
	reader := signIn(t, n2.URL(), "ben")
	if got := list(t, reader, room.GetRoomId()); len(got) != 1 {
		t.Fatalf("n2 shows %d messages", len(got))
	}
}

// TestAFourthNodeLeavesAgain: what it held goes back to nodes that had given it
// away, which come back as new members for that, one at a time.
func TestAFourthNodeLeavesAgain(t *testing.T) {
	c := newNodes(t, "n1", "n2", "n3", "n4")
	c.form(4, "n1", "n2", "n3", "n4")
	ann, ben := join(t, c.run["n1"].URL(), "ann"), join(t, c.run["n1"].URL(), "ben")
	room, err := ann.OpenDirect(t.Context(), ben.UserID())
	if err != nil {
		t.Fatal(err)
	}
	say(t, ann, room.GetRoomId(), "one")
	op := c.operator("n4") // it does not have to come back
	eventually(t, "remove n4", func() error {
		return op.Remove(t.Context(), "n4", func(p *nodev1.Progress) { t.Log(p.GetText()) })
	})
	eventually(t, "three of each without n4", func() error {
		state, err := c.operator("n2").Status(t.Context())
		if err != nil {
			return err
		}
		for _, n := range state.GetNodes() {
			if n.GetMember().GetName() == "n4" {
				return errors.New("n4 is still a member")
			}
		}
		return replicated(state, 3)
	})
	for _, name := range []string{"n1", "n2", "n3"} {
		c.serves(name)
		if got := list(t, signIn(t, c.run[name].URL(), "ben"), room.GetRoomId()); len(got) != 1 {
			t.Fatalf("%s shows %d messages", name, len(got))
		}
	}
}

// TestAViewThatDiffersIsMadeAgain: a replica whose view holds something else than
// the others' at the same position is found by the scrub, and makes its view again.
func TestAViewThatDiffersIsMadeAgain(t *testing.T) {
	c := newNodes(t, "n1", "n2", "n3")
	c.form(2, "n1", "n2", "n3")
	ann, ben := join(t, c.run["n1"].URL(), "ann"), join(t, c.run["n1"].URL(), "ben")
	room, err := ann.OpenDirect(t.Context(), ben.UserID())
	if err != nil {
		t.Fatal(err)
	}
	say(t, ann, room.GetRoomId(), "one")
	if err := c.run["n3"].stop(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(c.dir, "n3", "view")
	open := func() *view.Store {
		store, err := view.Open(view.Config{Dir: dir, Shards: 2, Layout: 1})
		if err != nil {
			t.Fatal(err)
		}
		return store
	}
	store := open()
	marks := store.Marks()
	if err := errors.Join(store.Close(), os.RemoveAll(dir)); err != nil {
		t.Fatal(err)
	}
	store = open() // it stands where the old one did, and holds something else
	for n, mark := range marks {
		stage, err := store.Shard(n).Stage()
		if err != nil {
			t.Fatal(err)
		}
		stage.SetNote("what no record says", []byte("x"))
		if err := stage.Commit(mark); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"n1", "n2"} { // they scrub often from now on
		if err := c.run[name].stop(); err != nil {
			t.Fatal(err)
		}
	}
	c.scrub = 500 * time.Millisecond
	for _, name := range []string{"n1", "n2", "n3"} {
		c.begin(name, "", 2)
	}
	eventually(t, "the view of n3 set aside", func() error {
		names, err := os.ReadDir(filepath.Join(c.dir, "n3"))
		if err != nil {
			return err
		}
		for _, e := range names {
			if strings.HasPrefix(e.Name(), "view.damaged-") {
				return nil
			}
		}
		return errors.New("not yet")
	})
	for _, name := range []string{"n1", "n2"} {
		names, err := os.ReadDir(filepath.Join(c.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range names {
			if strings.Contains(e.Name(), "damaged") {
				t.Errorf("%s has set %s aside", name, e.Name())
			}
		}
	}
	c.serves("n3")
	if got := list(t, signIn(t, c.run["n3"].URL(), "ben"), room.GetRoomId()); len(got) != 1 {
		t.Fatalf("n3 shows %d messages", len(got))
	}
}

// leads counts what the nodes lead, by name.
func leads(state *nodev1.GetClusterResponse) map[string]int {
	out := map[string]int{}
	for _, n := range state.GetNodes() {
		for _, sh := range n.GetNode().GetShards() {
			if sh.GetRole() == "leader" {
				out[n.GetMember().GetName()]++
			}
		}
	}
	return out
}

// TestAFullDisk: a node whose disk is nearly full leads nothing, and says so; one
// without any space stands aside, lives on, and is whole when there is space.
func TestAFullDisk(t *testing.T) {
	c := newNodes(t, "n1", "n2", "n3")
	for name := range c.peers {
		c.disks[name] = durable.NewFaulty(durable.Disk)
	}
	c.form(4, "n1", "n2", "n3")
	ann, ben := join(t, c.run["n3"].URL(), "ann"), join(t, c.run["n3"].URL(), "ben")
	room, err := ann.OpenDirect(t.Context(), ben.UserID())
	if err != nil {
		t.Fatal(err)
	}
	op := c.operator("n3")
	c.disks["n1"].SetLow(true)
	eventually(t, "n1 leads nothing", func() error {
		state, err := op.Status(t.Context())
		if err != nil {
			return err
		}
		if n := leads(state); n["n1"] != 0 || n["n2"]+n["n3"] != 4 {
			return fmt.Errorf("led: %v", n)
		}
		for _, n := range state.GetNodes() {
			if m := n.GetMember(); m.GetFull() != (m.GetName() == "n1") || m.GetLeaving() != m.GetFull() {
				return fmt.Errorf("%s: full %v, leaving %v", m.GetName(), m.GetFull(), m.GetLeaving())
			}
		}
		return nil
	})
	say(t, ann, room.GetRoomId(), "one")
	c.disks["n1"].SetLow(false)

	c.disks["n2"].SetFull(true)
	n := 1
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); n++ {
		say(t, ann, room.GetRoomId(), "more")
	}
	c.disks["n2"].SetFull(false)
	eventually(t, "three of each", func() error {
		state, err := op.Status(t.Context())
		if err != nil {
			return err
		}
		return replicated(state, 3)
	})
	c.serves("n2")
	select {
	case err := <-c.run["n2"].ended:
		t.Fatalf("n2 has ended: %v", err)
	default:
	}
	page, err := signIn(t, c.run["n2"].URL(), "ben").ListAfter(t.Context(), room.GetRoomId(), uint64(n-10))
	if got := page.GetMessages(); err != nil || len(got) != 10 || got[9].GetSeq() != uint64(n) {
		t.Fatalf("n2 shows %d of the last 10 messages of %d: %v", len(got), n, err)
	}
}

// TestChangesAreRefusedWhileNotWhole: with a member missing nothing but its
// replacement is begun, and what is refused says why.
func TestChangesAreRefusedWhileNotWhole(t *testing.T) {
	c := newNodes(t, "n1", "n2", "n3", "n4")
	c.form(2, "n1", "n2", "n3")
	<-c.run["n3"].Serving()
	if err := c.run["n3"].stop(); err != nil {
		t.Fatal(err)
	}
	c.begin("n4", "n1", 2)
	op := c.operator("n1")
	eventually(t, "n4 joins", func() error {
		state, err := op.Status(t.Context())
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(state.GetNodes(), func(n *nodev1.NodeState) bool { return n.GetMember().GetName() == "n4" && n.GetUp() }) {
			return fmt.Errorf("it is not there")
		}
		if replicated(state, 3) == nil {
			return fmt.Errorf("nobody misses n3 yet")
		}
		return nil
	})
	err := op.Add(t.Context(), "n4", func(*nodev1.Progress) {})
	if err == nil || !strings.Contains(err.Error(), "not whole") {
		t.Fatalf("a fourth node while the third is missing: %v", err)
	}
	if err := op.Replace(t.Context(), &nodev1.ReplaceNodeRequest{Name: "n3", With: "n4"}, func(p *nodev1.Progress) { t.Log(p.GetText()) }); err != nil {
		t.Fatalf("replace the missing one: %v", err)
	}
	<-c.run["n4"].Serving()
}

// TestAFourthNodeHearsOfWhatItDoesNotHold: with four nodes each holds three
// quarters of the shards; whoever is connected to any of them hears of every room.
func TestAFourthNodeHearsOfWhatItDoesNotHold(t *testing.T) {
	c := newNodes(t, "n1", "n2", "n3", "n4")
	c.form(4, "n1", "n2", "n3", "n4")
	for _, name := range []string{"n2", "n3", "n4"} {
		<-c.run[name].Serving()
	}
	state, err := c.operator("n4").Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	absent := map[string]int{}
	for _, n := range state.GetNodes() {
		for _, s := range n.GetNode().GetShards() {
			if s.GetRole() == "joining" || s.GetRole() == "removed" {
				absent[n.GetMember().GetName()]++
			}
		}
	}
	if absent["n4"] != 1 {
		t.Fatalf("n4 does not hold %d shards, want 1: %v", absent["n4"], absent)
	}
	for at, n := range c.run {
		eventually(t, "ready "+at, func() error {
			if code, text := get(t, n.URL()+"/readyz"); code != http.StatusOK {
				state, err := c.operator(at).Status(t.Context())
				if err != nil {
					return err
				}
				for _, n := range state.GetNodes() {
					text += n.GetMember().GetName() + ": " + n.GetNode().GetReady() + "; "
				}
				return fmt.Errorf("%d %s", code, text)
			}
			return nil
		})
	}
	ann := join(t, c.run["n1"].URL(), "ann")
	var rooms []string
	for i := range 8 { // eight accounts: some room is on every shard
		login := fmt.Sprint("friend", i)
		join(t, c.run["n2"].URL(), login)
		them := signIn(t, c.run["n4"].URL(), login)
		room, err := ann.OpenDirect(t.Context(), them.UserID())
		if err != nil {
			t.Fatal(err)
		}
		rooms = append(rooms, room.GetRoomId())
		// The account's list follows the room; whoever connects before it does hears
		// of the room by an event of its own.
		eventually(t, "the room is on their list", func() error {
			list, err := them.Rooms(t.Context())
			if err == nil && len(list) == 0 {
				err = fmt.Errorf("it is not: %s of shard %d, room of shard %d", login, shardOf(them.UserID()), shardOf(room.GetRoomId()))
			}
			return err
		})
		heard := make(chan string, 16)
		conn := them.Connect(t.Context(), client.ConnectOptions{OnEvent: func(e client.Event) {
			if m := e.Push.GetMessage(); m != nil {
				heard <- m.GetMessage().GetText()
			}
		}})
		t.Cleanup(conn.Close)
		if _, err := conn.Me(t.Context()); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprint("for ", login)
		say(t, ann, rooms[i], text)
		select {
		case got := <-heard:
			if got != text {
				t.Errorf("%s hears %q", login, got)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s (shard %d) at n4 hears nothing of a room of shard %d", login, shardOf(them.UserID()), shardOf(rooms[i]))
		}
	}
}

func shardOf(text string) int {
	for _, kind := range []id.Kind{id.User, id.Room} {
		if i, err := id.Parse(kind, text); err == nil {
			return i.Partition().Shard(4)
		}
	}
	return -1
}

// TestTheOnlyNodeNeverBeginsAnew: a cluster of one whose identity is damaged has
// nobody to begin anew from, and leaves everything where it is.
func TestTheOnlyNodeNeverBeginsAnew(t *testing.T) {
	c := newNodes(t, "n1")
	c.start("n1", "", 2)
	join(t, c.run["n1"].URL(), "ann")
	if err := c.run["n1"].stop(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(c.dir, "n1", "node.json")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	n1 := c.begin("n1", "", 2)
	select {
	case <-n1.Serving():
		t.Fatal("it serves: it has begun anew")
	case err := <-n1.ended:
		n1.ended <- err
		if err == nil || !strings.Contains(err.Error(), "no other node") {
			t.Fatalf("it ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it neither ended nor served")
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	c.start("n1", "", 2)
	signIn(t, c.run["n1"].URL(), "ann")
}
