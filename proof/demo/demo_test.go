package demo

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
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
)

// binary returns the binary to run: BONGSU_BIN, or one that is built now.
func binary(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("BONGSU_BIN"); bin != "" {
		return bin
	}
	bin := filepath.Join(t.TempDir(), "bongsu")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/bongsu-im/bongsu/cmd/bongsu").CombinedOutput(); err != nil {
		t.Fatalf("build the binary: %v\n%s", err, out)
	}
	return bin
}

// The whole demo, as a person would run it, with one node killed midway from
// the page.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs three nodes for half a minute")
	}
	cmd := exec.Command(binary(t), "demo", "--listen", "127.0.0.1:0", "--seconds", "20", "--bots", "12", "--rate", "25", "--json")
	var out bytes.Buffer
	progress, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	overdue := time.AfterFunc(4*time.Minute, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer overdue.Stop()
	lines := bufio.NewReader(io.TeeReader(progress, testWriter{t}))
	page := ""
	for page == "" {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("no page: %v", err)
		}
		_, page, _ = strings.Cut(strings.TrimSpace(line), "the page is ")
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, lines)
	}()

	token := regexp.MustCompile(`name="demo-token" content="(\w+)"`)
	_, body := ask(t, "GET", page, "")
	m := token.FindStringSubmatch(body)
	if m == nil {
		t.Fatalf("no token in the page")
	}
	killed := killLeader(t, page, m[1])
	<-ended
	if err := cmd.Wait(); err != nil {
		t.Errorf("the demo ended with %v", err)
	}
	var r Result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("printed %q: %v", out.String(), err)
	}
	if !r.Passed || !r.Settled || r.Wrong() != 0 || r.Acknowledged < 100 || r.Acknowledged != r.Sent || r.Checked < r.Acknowledged {
		t.Errorf("result: %+v", r)
	}
	if len(r.Faults) != 2 || r.Faults[0].Kind != Kill || r.Faults[0].Node != killed || r.Faults[1].Kind != Heal {
		t.Errorf("faults: %+v", r.Faults)
	}
	if len(r.Audits) != 3 {
		t.Errorf("audits: %+v", r.Audits)
	}
	for _, a := range r.Audits {
		if a.Messages < r.Acknowledged || a.Wrong != 0 || a.Error != "" {
			t.Errorf("audit: %+v of %d messages", a, r.Acknowledged)
		}
	}
}

// killLeader waits until the bots have talked for a while, kills a node that
// leads something, and waits until others lead all of it.
func killLeader(t *testing.T, page, token string) string {
	t.Helper()
	response, err := http.Get(page + "events")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	killed := ""
	for news := bufio.NewScanner(response.Body); news.Scan(); {
		data, ok := strings.CutPrefix(news.Text(), "data: ")
		var s state
		if !ok || json.Unmarshal([]byte(data), &s) != nil {
			continue
		}
		switch {
		case killed == "" && s.Phase.Name == "talking" && s.Tally.Acknowledged > 50 && len(s.Leaders) == shardCount && s.Leaders[0] != "":
			killed = s.Leaders[0]
			if r, b := ask(t, "POST", page+"act", "do=kill&node="+killed, "X-Demo-Token", token, "Content-Type", "application/x-www-form-urlencoded"); r.StatusCode != http.StatusNoContent {
				t.Fatalf("kill %s: %d %s", killed, r.StatusCode, b)
			}
		case killed != "" && len(s.Leaders) == shardCount && !slices.Contains(s.Leaders, "") && !slices.Contains(s.Leaders, killed):
			return killed
		}
	}
	t.Errorf("nobody took over from %q", killed)
	return killed
}

// testWriter shows what a process prints in the log of a test.
type testWriter struct{ t *testing.T }

// Write implements io.Writer.
func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// A binary that is no node is an error, not a demo.
func TestDemoNeedsABinary(t *testing.T) {
	_, err := Run(t.Context(), Config{Bin: "/bin/false", Listen: "127.0.0.1:0", Dir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "certs") {
		t.Errorf("err = %v", err)
	}
	if _, err := Run(t.Context(), Config{}); err == nil {
		t.Error("ran without a binary")
	}
}
