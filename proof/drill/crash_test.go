package drill

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/client/clienttest"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/bongsu-im/bongsu/proof/oracle"
)

// serverBinary returns the server to kill: BONGSU_BIN, or one that is built now.
func serverBinary(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("BONGSU_BIN"); bin != "" {
		return bin
	}
	bin := filepath.Join(t.TempDir(), "bongsu")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/bongsu-im/bongsu/cmd/bongsu").CombinedOutput(); err != nil {
		t.Fatalf("build the server: %v\n%s", err, out)
	}
	return bin
}

// Invariants 1, 2 and 3, by kill -9 (ten of them, so that the view is deleted once).
func TestCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and kills a server")
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r, err := Crash(t.Context(), CrashConfig{Bin: serverBinary(t), Kills: crashViewEvery, Seed: seed, Pairs: 4, Groups: 1})
	var report bytes.Buffer
	if printErr := r.Print(&report); printErr != nil {
		t.Fatal(printErr)
	}
	if err != nil || !r.Passed || r.Faults != crashViewEvery {
		t.Fatalf("%v\n%s", err, report.String())
	}
	t.Log(report.String())
}

// A server that is gone for good is an error, not a pass.
func TestCrashNeedsAServer(t *testing.T) {
	if _, err := Crash(t.Context(), CrashConfig{Bin: "/bin/false", Kills: 1}); err == nil || !strings.Contains(err.Error(), "before it was ready") {
		t.Fatalf("err = %v", err)
	}
}

// The test of the test: what the server loses or turns over must be seen by the
// drill's own way of reading back.
func TestCrashJudgesWhatItReads(t *testing.T) {
	for name, c := range map[string]struct {
		plant func(*clienttest.Server, *crashWorld, string)
		found func(Result) bool
	}{
		"nothing": {func(*clienttest.Server, *crashWorld, string) {}, func(r Result) bool { return r.Passed && r.wrong() == 0 }},
		"a hole":  {func(s *clienttest.Server, _ *crashWorld, room string) { s.DropMessage(room, 3) }, func(r Result) bool { return r.Holes > 0 && r.Lost > 0 }},
		"a tail":  {func(s *clienttest.Server, _ *crashWorld, room string) { s.LoseTail(room, 4) }, func(r Result) bool { return r.Lost > 0 }},
		"a live message twice": {func(_ *clienttest.Server, w *crashWorld, _ string) {
			w.streams[0].messages = append(w.streams[0].messages, w.streams[0].messages[0])
		}, func(r Result) bool { return r.Duplicated > 0 }},
		"a live message missed": {func(_ *clienttest.Server, w *crashWorld, _ string) {
			w.streams[1].messages = w.streams[1].messages[:4]
		}, func(r Result) bool { return r.Lost > 0 }},
		"a complaint": {func(_ *clienttest.Server, w *crashWorld, _ string) { w.complain("planted") }, func(r Result) bool { return r.wrong() == 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			server := clienttest.New()
			defer server.Close()
			h := server.HTTPClient()
			defer h.CloseIdleConnections()
			people, err := signUpAll(t.Context(), clienttest.BaseURL, h, 2, func(int) {})
			if err != nil {
				t.Fatal(err)
			}
			w := &crashWorld{cfg: CrashConfig{Kills: 1}, people: people, show: newTicker(nil), result: &Result{Faults: 1}, inFlight: []int64{1}}
			if err := w.openRooms(t.Context()); err != nil {
				t.Fatal(err)
			}
			room := w.streams[0].roomID
			for _, text := range []string{"a", "b", "c", "d", "e"} {
				m, err := people[0].client.Send(t.Context(), &edgev1.SendRequest{RoomId: room, ClientId: text, Text: text})
				if err != nil {
					t.Fatal(err)
				}
				w.told = append(w.told, oracle.Acknowledgement{RoomID: room, SenderID: people[0].client.UserID(), ClientID: text, Text: text, Seq: m.GetMessage().GetSeq()})
				for _, s := range w.streams {
					s.add(m.GetMessage())
				}
			}
			c.plant(server, w, room)
			if err := w.judge(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !c.found(*w.result) || (name != "nothing" && w.result.Passed) {
				t.Errorf("%+v", w.result)
			}
			for _, p := range people {
				p.client.Close()
			}
		})
	}
}
