package load

import (
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bongsu-im/bongsu/client/clienttest"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

func TestIdleOnAFake(t *testing.T) {
	var fake *clienttest.Server
	r := onFake(t, Config{Sessions: 950, Settle: 10 * time.Millisecond}, Idle, func(s *clienttest.Server) { fake = s })
	if !r.Passed || r.Details.Ops != 950 || r.Details.Samples != 950 || r.Details.Idle.Accounts != 2 || r.Details.Idle.Silent != 0 {
		t.Errorf("%+v, %+v", r, r.Details.Idle)
	}
	if r.KiBPerSession != nil {
		t.Error("it knows the memory of a server that is not ours")
	}
	if n := fake.Requests("SignUp"); n != 2 || fake.Requests("Hello") != 950 || fake.Requests("Ping") < 950 {
		t.Errorf("%d signed up, %d hellos, %d pings", n, fake.Requests("Hello"), fake.Requests("Ping"))
	}
}

func TestIdleSeesSessionsThatEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := onFake(t, Config{Sessions: 20}, Idle, func(s *clienttest.Server) {
			n := 0
			s.Intercept(func(_ string, f *edgev1.ClientFrame) clienttest.Fault {
				if f.GetPing() != nil { // which comes before the sessions are asked
					n++
					return clienttest.Fault{LoseAnswer: n == 1} // the socket goes
				}
				return clienttest.Fault{}
			})
		})
		// It ended, and was silent in the end.
		if r.Passed || r.Errors != 2 || r.Details.Idle.Silent != 1 || !strings.Contains(r.Details.FirstError, "ended") || r.Details.Idle.SettleS != 20 {
			t.Errorf("%+v, %+v", r, r.Details.Idle)
		}
	})
}

func TestIdleRefusesWhatCannotBe(t *testing.T) {
	if err := enoughFiles(100); err != nil {
		t.Error(err)
	}
	if err := enoughFiles(math.MaxInt32); err == nil {
		t.Skip("no limit of open files here")
	}
	if _, err := Idle(t.Context(), Config{Sessions: math.MaxInt32}); err == nil || !strings.Contains(err.Error(), "files open") {
		t.Errorf("%v", err)
	}
}

func TestAddressesOfSessions(t *testing.T) {
	for url, want := range map[string]bool{
		"http://127.0.0.1:8080": true, "http://127.0.0.9:1": true, "http://example.org": false, "http://[::1]:80": false, "http://10.0.0.1": false,
	} {
		if got := (&rig{server: &server{url: url}}).loopback(); got != want {
			t.Errorf("%s is on loopback: %v", url, got)
		}
	}
}
