package lint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
)

// shown is what a running server shows: by name, the labels that were seen.
type shown map[string]map[string]bool

// Alerts and the dashboard use only metrics, and labels of them, that a running
// server shows; what it shows is named as Prometheus' practice says, and is
// looked at by an alert or a panel: what nobody looks at is left out.
func TestMetricsExist(t *testing.T) {
	seen := scrape(t)
	unread := map[string]bool{}
	for name := range seen {
		if strings.HasPrefix(name, "bongsu_") {
			unread[family(name)] = true
		}
	}
	groups := readRules(t)
	use := map[string]string{}
	for _, g := range groups {
		for _, r := range g.Rules {
			use[r.Expr] = "rule " + r.Record + r.Alert
			if r.Record != "" {
				seen[r.Record] = map[string]bool{"instance": true, "shard": true}
			}
		}
	}
	maps.Copy(use, readDashboard(t).expressions())
	seen["up"] = map[string]bool{}
	seen["ALERTS"] = map[string]bool{"alertname": true, "alertstate": true, "severity": true}
	if len(use) < 100 {
		t.Fatalf("only %d expressions", len(use))
	}
	for expr, where := range use {
		e, err := promParser.ParseExpr(expr)
		if err != nil {
			t.Errorf("%s: %v", where, err)
			continue
		}
		parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
			s, ok := n.(*parser.VectorSelector)
			if !ok {
				return nil
			}
			labels, known := seen[s.Name]
			delete(unread, family(s.Name))
			if !known {
				t.Errorf("%s: no server shows %s", where, s.Name)
				return nil
			}
			for _, m := range s.LabelMatchers {
				if l := m.Name; l != model.MetricNameLabel && l != "job" && l != "instance" && !labels[l] {
					t.Errorf("%s: %s has no label %s", where, s.Name, l)
				}
			}
			return nil
		})
	}
	for name := range unread {
		t.Errorf("%s is shown, and neither an alert nor a panel looks at it", name)
	}
}

// family is a metric's name without what a histogram adds to it.
func family(name string) string {
	for _, part := range []string{"_bucket", "_sum", "_count"} {
		name = strings.TrimSuffix(name, part)
	}
	return name
}

// plural units and the words at the ends of names, by Prometheus' practice.
var goodName = regexp.MustCompile(`^bongsu_(gateway|shard|raft|journal|node|backup|view)_[a-z0-9]+(_[a-z0-9]+)*$`)

// bareCounts are gauges and histograms that count things: the thing is the unit.
var bareCounts = regexp.MustCompile(`_(sessions|limit|waiting|devices|depth|owner|condition|index|term|active|fenced|ready|in_flight|commands|entries|connected|links|files|up|connections)$`)

func checkName(t *testing.T, name, kind, help string) {
	t.Helper()
	switch {
	case name == "bongsu_build_info":
	case !goodName.MatchString(name):
		t.Errorf("%s: not bongsu_PART_WHAT_UNIT", name)
	case kind == "COUNTER" != strings.HasSuffix(name, "_total"):
		t.Errorf("%s is a %s: counters, and they alone, end in _total", name, kind)
	case kind == "HISTOGRAM" && !strings.HasSuffix(name, "_seconds") && !strings.HasSuffix(name, "_bytes") && !bareCounts.MatchString(name):
		t.Errorf("%s: in what unit?", name)
	case kind == "GAUGE" && !strings.HasSuffix(name, "_seconds") && !strings.HasSuffix(name, "_bytes") && !bareCounts.MatchString(name):
		t.Errorf("%s: in what unit?", name)
	}
	if !strings.HasSuffix(help, ".") || len(help) < 10 {
		t.Errorf("%s: help %q is no sentence", name, help)
	}
}

// scrape starts two nodes as the examples do, forms a cluster of them, lets two
// people talk, and reads the first one's metrics.
func scrape(t *testing.T) shown {
	t.Helper()
	dir := t.TempDir()
	key, err := exec.Command(bongsu, "backup", "keygen", filepath.Join(dir, "key")).Output()
	if err != nil {
		t.Fatalf("backup keygen: %v", err)
	}
	public, peers := freePort(t), freePort(t)
	serve(t, "n1", public, peers, "--shards", "2", "--backup", filepath.Join(dir, "backup"), "--backup-recipient", strings.TrimSpace(string(key)))
	await(t, "http://"+public+"/readyz")
	second, secondPeers := freePort(t), freePort(t)
	serve(t, "n2", second, secondPeers, "--join", peers)
	addNode(t, "n2", peers)
	await(t, "http://"+second+"/readyz")
	talk(t, "http://"+second)
	answer, err := http.Get("http://" + public + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text := expfmt.NewTextParser(model.LegacyValidation)
	families, err := text.TextToMetricFamilies(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	seen := shown{}
	for name, f := range families {
		if strings.HasPrefix(name, "bongsu_") {
			checkName(t, name, f.GetType().String(), f.GetHelp())
		}
		labels := map[string]bool{}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = true
			}
		}
		if f.GetType().String() != "HISTOGRAM" {
			seen[name] = labels
			continue
		}
		seen[name+"_sum"], seen[name+"_count"] = labels, labels
		seen[name+"_bucket"] = maps.Clone(labels)
		seen[name+"_bucket"]["le"] = true
	}
	return seen
}

// serve starts a node, and stops it when the test is over.
func serve(t *testing.T, name, public, peers string, more ...string) {
	t.Helper()
	var log bytes.Buffer
	server := exec.Command(bongsu, append([]string{
		"serve", "--data", filepath.Join(t.TempDir(), name), "--listen", public,
		"--node", name, "--zone", name, "--certs", filepath.Join(certs, name), "--peer-listen", peers,
	}, more...)...)
	server.Stderr = &log
	server.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "BONGSU_") })
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGTERM) // Wait tells whether it went well
		if err := server.Wait(); err != nil || t.Failed() {
			t.Errorf("serve %s: %v\n%s", name, err, log.String())
		}
	})
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// addNode lets a node in. Until it has found the cluster it is refused: that is
// why the Compose file and the chart try again, too.
func addNode(t *testing.T, name, peers string) {
	t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var out []byte
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); <-tick.C {
		out, err = exec.Command(bongsu, "cluster", "add", name, "--certs", filepath.Join(certs, "n1"), "--at", peers, "--wait", "1m").CombinedOutput()
		if err == nil {
			return
		}
	}
	t.Fatalf("cluster add: %v\n%s", err, out)
}

func await(t *testing.T, url string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); <-tick.C {
		if answer, err := http.Get(url); err == nil {
			_ = answer.Body.Close() // the status is what matters
			if answer.StatusCode == http.StatusOK {
				return
			}
		}
	}
	t.Fatalf("%s does not say 200 within a minute", url)
}

// talk lets two people say something to each other.
func talk(t *testing.T, url string) {
	t.Helper()
	token := map[string]string{}
	ids := map[string]string{}
	for _, who := range []string{"ann", "ben"} {
		out := call(t, url, "", "AccountService/SignUp", map[string]any{"login": who, "password": "correct horse battery", "displayName": who})
		token[who] = text(t, out, "accessToken")
		ids[who] = text(t, out, "userId")
	}
	opened := call(t, url, token["ann"], "RoomService/OpenDirect", map[string]any{"userId": ids["ben"]})
	room := text(t, opened, "room", "roomId")
	call(t, url, token["ann"], "MessageService/Send", map[string]any{"roomId": room, "clientId": "0190163d-8694-739b-aea5-966c26f8ad91", "text": "hello"})
	call(t, url, token["ben"], "MessageService/MarkRead", map[string]any{"roomId": room, "seq": "1"})
	call(t, url, token["ben"], "MessageService/List", map[string]any{"roomId": room})
}

func call(t *testing.T, url, token, method string, body any) (out map[string]any) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/bongsu.edge.v1."+method, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	if err == nil {
		err = json.Unmarshal(got, &out)
	}
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %s %v", method, answer.Status, got, err)
	}
	return out
}

// text is what stands in a JSON object at a path.
func text(t *testing.T, object map[string]any, path ...string) string {
	t.Helper()
	var at any = object
	for _, key := range path {
		m, _ := at.(map[string]any)
		at = m[key]
	}
	s, ok := at.(string)
	if !ok {
		t.Fatalf("no %v in %v", path, fmt.Sprint(object))
	}
	return s
}
