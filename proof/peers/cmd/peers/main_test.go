package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/proof/peers"
)

func TestParseRefuses(t *testing.T) {
	for name, args := range map[string][]string{
		"no rounds":           {"-rounds", "0"},
		"a window too short":  {"-window", "10ms"},
		"a negative warm-up":  {"-warm-up", "-1s"},
		"bytes for no time":   {"-bytes", "5"},
		"an unknown workload": {"-workloads", "w1-100,w9-1"},
		"a word that is none": {"w1-100"},
		"an unknown flag":     {"-fast"},
	} {
		if o, err := parse(args, &bytes.Buffer{}); err == nil {
			t.Errorf("%s: taken as %+v", name, o)
		}
	}
}

func TestDefaultsAreTheProtocol(t *testing.T) {
	o, err := parse(nil, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if o.plan.WarmUp != 8*time.Second || o.plan.Window != 30*time.Second || o.plan.Bytes != 128 || o.rounds != 3 ||
		len(o.workloads) != 1 || o.workloads[0] != (peers.Workload{Kind: peers.Send, Size: 100}) || o.names[0] != "bongsu" {
		t.Errorf("got %+v", o)
	}
}

func TestSelfTestIsShortAndRunsEverything(t *testing.T) {
	o, err := parse([]string{"-self-test"}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if o.plan.Window != 2*time.Second || o.rounds != 1 || len(o.workloads) != 4 || len(o.names) < 3 {
		t.Errorf("got %+v", o)
	}
}

func TestChooseSaysWhatIsLacking(t *testing.T) {
	var said bytes.Buffer
	nowhere := filepath.Join(t.TempDir(), "bongsu")
	o := options{bin: nowhere, names: []string{"bongsu", "centrifuge"}}
	if _, err := choose(o, &said); err == nil || !strings.Contains(err.Error(), nowhere) || !strings.Contains(err.Error(), "make build") {
		t.Errorf("got %v", err)
	}
	o.selfTest = true
	got, err := choose(o, &said)
	if err != nil || len(got) != 1 || got[0].Name() != "centrifuge" || !strings.Contains(said.String(), "left out: bongsu") {
		t.Errorf("self-test: %v, %v, said %q", got, err, said.String())
	}
	if _, err := choose(options{names: []string{"nobody"}}, &said); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(nowhere, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := choose(options{bin: nowhere, names: []string{"centrifuge", "bongsu"}}, &said); err != nil || len(got) != 2 || got[1].Name() != "bongsu" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestSelfTestFailsOnErrors(t *testing.T) {
	good := peers.Run{Workload: "w1-1", Peer: "a", Ops: 5} // that others were busy is no error
	if err := allGood(peers.Report{Runs: []peers.Run{good}}); err != nil {
		t.Error(err)
	}
	bad := good
	bad.Errors, bad.FirstError = 1, "broken"
	if err := allGood(peers.Report{Runs: []peers.Run{good, bad}}); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("got %v", err)
	}
	if err := allGood(peers.Report{Runs: []peers.Run{{}}}); err == nil {
		t.Error("a run in which nothing was done is good")
	}
}
