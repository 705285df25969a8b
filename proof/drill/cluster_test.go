package drill

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/client/clienttest"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/bongsu-im/bongsu/proof/load/report"
)

// The test of the test: people talk to a server that plants a defect, and the
// drill's own account, live streams, readings and judges must find it.
func TestClusterDrillJudgesWhatItSees(t *testing.T) {
	for name, c := range map[string]struct {
		plant func(*clienttest.Server, *clusterWorld, string)
		found func(*ClusterResult) bool
	}{
		"nothing": {func(*clienttest.Server, *clusterWorld, string) {}, func(r *ClusterResult) bool { return r.Passed }},
		"a hole":  {func(s *clienttest.Server, _ *clusterWorld, room string) { s.DropMessage(room, 3) }, func(r *ClusterResult) bool { return r.Holes > 0 && r.Lost > 0 }},
		"a tail": {func(s *clienttest.Server, _ *clusterWorld, room string) {
			s.LoseTail(room, 2)
		}, func(r *ClusterResult) bool { return r.Lost > 0 && r.LinearizabilityViolations > 0 }},
		"another place": {func(_ *clienttest.Server, w *clusterWorld, _ string) { w.account.order[0].again = 99 }, func(r *ClusterResult) bool { return r.Moved+r.Lost > 0 }},
		"a live message twice": {func(_ *clienttest.Server, w *clusterWorld, _ string) {
			s := w.talk.rooms[0].streams[0]
			s.messages = append(s.messages, s.messages[0])
		}, func(r *ClusterResult) bool { return r.Duplicated > 0 }},
		"a read from before": {func(_ *clienttest.Server, w *clusterWorld, _ string) {
			w.talk.rooms[0].note(&edgev1.ListResponse{}, w.talk.people[0], 0, time.Now(), 77)
		}, func(r *ClusterResult) bool { return r.wrong() == 0 && r.LinearizabilityViolations == 1 }},
		"a complaint": {func(_ *clienttest.Server, w *clusterWorld, _ string) { w.talk.complain("planted") }, func(r *ClusterResult) bool { return r.wrong() == 0 }},
		"an early end": {func(_ *clienttest.Server, w *clusterWorld, _ string) {
			w.result.Records = []FaultRecord{{Number: 1, Kind: CutOff, Nodes: []string{"n1"}, Wrong: "planted"}}
		}, func(r *ClusterResult) bool { return strings.Contains(strings.Join(r.Details, " "), "planted") }},
	} {
		t.Run(name, func(t *testing.T) {
			server := clienttest.New()
			defer server.Close()
			h := server.HTTPClient()
			defer h.CloseIdleConnections()
			w := &clusterWorld{account: newAccount(), line: &timeline{began: time.Now(), talking: time.Now()}, show: newTicker(nil), result: &ClusterResult{Kinds: map[FaultKind]int{}}}
			w.cfg.fill()
			w.result.Faults = 1
			var err error
			if w.talk, err = newTalk(t.Context(), talkConfig{
				URLs: []string{clienttest.BaseURL}, HTTP: h, Seed: 7, People: 4, Lanes: 2, Shards: clienttest.Shards, Pause: 2 * time.Millisecond,
			}, w.account, func(int) {}); err != nil {
				t.Fatal(err)
			}
			defer w.talk.close()
			w.doors = []door{{"n1", clienttest.BaseURL}, {"n2", clienttest.BaseURL}}
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			w.talk.begin(ctx)
			for w.account.acknowledged() < 100 {
				if !rest(t.Context(), time.Millisecond) {
					t.Fatal("nobody talked")
				}
			}
			stop()
			w.settle(t.Context())
			c.plant(server, w, w.talk.rooms[0].id)
			if err := w.judge(t.Context()); err != nil {
				t.Fatal(err)
			}
			var said bytes.Buffer
			if err := w.result.Print(&said); err != nil {
				t.Fatal(err)
			}
			if !c.found(w.result) || name != "nothing" && w.result.Passed {
				t.Error(said.String())
			}
		})
	}
}

// Every kind of fault can be inflicted, and every wound changes its folder.
func TestWounds(t *testing.T) {
	for _, k := range FaultKinds {
		if inflictors[k] == nil {
			t.Errorf("nobody can inflict %s", k)
		}
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for round := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, round))
		for name, wound := range map[string]func(*cellNode) (string, error){
			"tail":     func(n *cellNode) (string, error) { return n.tearTail(rng) },
			"flip":     func(n *cellNode) (string, error) { return n.flip(rng, "journal", anyFile) },
			"truncate": func(n *cellNode) (string, error) { return n.truncate(rng, "journal", anyFile) },
			"view":     func(n *cellNode) (string, error) { return n.hurtView(rng) },
			"metadata": func(n *cellNode) (string, error) { return n.hurtMetadata(rng) },
		} {
			n := &cellNode{cell: &cell{folder: t.TempDir()}, name: "n1"}
			for file, size := range map[string]int{
				"node.json": 80, "cluster.json": 200, "journal/marks.0": 64, "journal/marks.1": 64,
				"journal/log/000002.log": 5000, "journal/log/000004.sst": 3000, "journal/log/LOCK": 1, "view/000007.sst": 4000,
			} {
				full := filepath.Join(n.data(), file)
				if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
					t.Fatal(err)
				}
				content := bytes.Repeat([]byte{0xb5}, size)
				if strings.HasSuffix(file, ".log") {
					content = append(content, make([]byte, 3000)...) // written ahead
				}
				if err := os.WriteFile(full, content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			before := folder(t, n.data())
			said, err := wound(n)
			if err != nil || said == "" {
				t.Errorf("%s: %q, %v", name, said, err)
			}
			if after := folder(t, n.data()); after == before {
				t.Errorf("%s: %q changed nothing", name, said)
			}
			if _, err := os.Stat(filepath.Join(n.data(), "journal/log/LOCK")); err != nil {
				t.Errorf("%s: the lock was hurt: %v", name, err)
			}
		}
	}
}

// folder is what is in a folder, in one string.
func folder(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	files, err := filesIn(dir, anyFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(f + "\x00" + string(content) + "\x00")
	}
	return b.String()
}

func TestStatus(t *testing.T) {
	s := clusterStatus{}
	if s.unwhole() != nil || s.id("n1") != "" {
		t.Errorf("of nothing: %v, %q", s.unwhole(), s.id("n1"))
	}
}

// The page of a run holds its faults, well escaped, and its picture.
func TestClusterPage(t *testing.T) {
	r := &ClusterResult{
		Result:  Result{Name: "cluster", Seed: 7, Seconds: 60, Passed: true, Faults: 2, Acknowledged: 5000, Figures: map[string]float64{"rooms": 12}},
		Network: "namespaces", FailoverP50Ms: 420, FailoverP99Ms: 900, nodes: 3, talking: 5,
		Records: []FaultRecord{
			{Number: 1, Kind: KillOwner, Nodes: []string{"n1"}, Begin: 10, End: 11, Whole: 13, Fired: true, Proof: "killed <by> signal"},
			{Number: 2, Kind: CutOff, Nodes: []string{"n2"}, Begin: 20, End: 25, Proof: "nothing met it"},
		},
		Notes: []Note{{At: 30, Node: "n3", Text: "ended & was started"}},
		leads: []leadsAt{{5, []string{"n1", "n2"}}, {12, []string{"n3", ""}}},
		waits: slices.Repeat([][]time.Duration{{time.Millisecond, 5 * time.Millisecond}, nil}, 30),
	}
	var page bytes.Buffer
	if err := r.HTML(&page, report.Fact{Name: "Command", Value: "bongsu drill cluster", Code: true}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"killed &lt;by&gt; signal", "did not fire", "ended &amp; was started", "<svg viewBox", "shard 1", "prefers-color-scheme"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(page.String(), "NaN") || strings.Contains(page.String(), "<by>") {
		t.Error("the page has what it must not have")
	}
}
