package load

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bongsu-im/bongsu/client"
	"github.com/bongsu-im/bongsu/client/clienttest"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// onFake runs a measurement against the fake server.
func onFake(t *testing.T, cfg Config, measure func(context.Context, Config) (Result, error), prepare func(*clienttest.Server)) Result {
	t.Helper()
	s := clienttest.New()
	cfg.Target, cfg.HTTPClient, cfg.Dir = clienttest.BaseURL, s.HTTPClient(), t.TempDir()
	defer func() {
		cfg.HTTPClient.CloseIdleConnections()
		s.Close()
	}()
	if prepare != nil {
		prepare(s)
	}
	r, err := measure(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if r.ServerCPUPer1000 != nil || r.Details.Counts != nil {
		t.Error("it knows the CPU of a server that is not ours")
	}
	return r
}

func TestSendOnAFake(t *testing.T) {
	r := onFake(t, Config{Senders: 3, Bound: 200 * time.Millisecond}, Send, nil)
	if !r.Passed || r.Errors != 0 || r.Details.Ops < 3 || r.Details.Samples < r.Details.Ops || r.P99Ms <= 0 {
		t.Errorf("%+v", r)
	}
	refused := onFake(t, Config{Senders: 3, Bound: 200 * time.Millisecond}, Send, func(s *clienttest.Server) {
		n := 0
		s.Intercept(func(_ string, f *edgev1.ClientFrame) clienttest.Fault {
			if f.GetSend() == nil {
				return clienttest.Fault{}
			}
			if n++; n%2 == 0 {
				return clienttest.Fault{}
			}
			return clienttest.Fault{Error: &edgev1.Error{Code: "resource_exhausted", Message: "full"}}
		})
	})
	if refused.Passed || refused.Errors == 0 || !strings.Contains(refused.Details.FirstError, "full") {
		t.Errorf("%+v", refused)
	}
}

// At a rate the pairs take turns, and a server that refuses falls behind.
func TestSendAtARate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{Senders: 3, Rate: 50, WarmUp: time.Second, Window: 4 * time.Second}
		r := onFake(t, cfg, Send, nil)
		if !r.Passed || r.OpsPerS != 50 || r.Details.Samples != 200 || r.Details.OfferedPerS != 50 || len(r.Details.Goals) > 0 {
			t.Errorf("%+v", r)
		}
		if n := len(r.Details.Seconds); n != 4 || r.Details.Seconds[1].Ops != 50 {
			t.Errorf("by second: %+v", r.Details.Seconds)
		}
		n := 0
		behind := onFake(t, cfg, Send, func(s *clienttest.Server) {
			s.Intercept(func(_ string, f *edgev1.ClientFrame) clienttest.Fault {
				if f.GetSend() != nil {
					n++
				}
				return clienttest.Fault{Hang: f.GetSend() != nil && n > 200}
			})
		})
		if behind.Passed || !behind.Details.Behind || behind.Details.Samples != 200 || behind.Errors != 50 {
			t.Errorf("%+v", behind)
		}
	})
}

// Accounts of an earlier run are used again.
func TestPeopleAreSignedInIfTheyExist(t *testing.T) {
	var known *clienttest.Server
	r := onFake(t, Config{Senders: 2, Bound: 50 * time.Millisecond}, Send, func(s *clienttest.Server) {
		known = s
		c, err := client.New(client.Config{BaseURL: clienttest.BaseURL, HTTPClient: s.HTTPClient()})
		if err != nil {
			t.Fatal(err)
		}
		for _, login := range []string{"bench-0-0", "bench-1-1"} {
			if _, err := c.SignUp(t.Context(), &edgev1.SignUpRequest{Login: login, Password: password}); err != nil {
				t.Fatal(err)
			}
		}
	})
	if !r.Passed || known.Requests("SignIn") != 2 {
		t.Errorf("%d signed in, %+v", known.Requests("SignIn"), r)
	}
}

var offered = Config{Pairs: 3, Rate: 50, WarmUp: time.Second, Window: 4 * time.Second, Bytes: 64}

func TestDeliverOnAFake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sizes []int
		r := onFake(t, offered, Deliver, func(s *clienttest.Server) {
			s.Intercept(func(_ string, f *edgev1.ClientFrame) clienttest.Fault {
				if m := f.GetSend(); m != nil {
					sizes = append(sizes, len(m.GetText()))
				}
				return clienttest.Fault{}
			})
		})
		if !r.Passed || r.OpsPerS != 50 || r.Details.Ops != 200 || r.Details.Samples != 200 || r.P99Ms > 0.01 {
			t.Errorf("%+v", r)
		}
		if len(sizes) != 250 || sizes[0] != 64 || sizes[249] != 64 {
			t.Errorf("%d messages, the last of %d bytes", len(sizes), sizes[len(sizes)-1])
		}
	})
}

// Each kind of fault shows, and none makes a sample disappear.
func TestDeliverCountsFaults(t *testing.T) {
	for name, c := range map[string]struct {
		fault    clienttest.Fault
		fired    func(n int) bool
		errors   int64
		arrivals int64
	}{
		// Sends 100 to 109 are of the window.
		"refused":    {clienttest.Fault{Error: &edgev1.Error{Code: "unavailable"}}, func(n int) bool { return n >= 100 && n < 110 }, 10, 190},
		"of warm-up": {clienttest.Fault{Error: &edgev1.Error{Code: "unavailable"}}, func(n int) bool { return n < 10 }, 0, 200},
		"hung":       {clienttest.Fault{Hang: true}, func(n int) bool { return n >= 240 }, 10, 190},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := onFake(t, offered, Deliver, func(s *clienttest.Server) {
					n := -1
					s.Intercept(func(_ string, f *edgev1.ClientFrame) clienttest.Fault {
						if f.GetSend() == nil {
							return clienttest.Fault{}
						}
						if n++; c.fired(n) {
							return c.fault
						}
						return clienttest.Fault{}
					})
				})
				if r.Errors != c.errors || r.Details.Ops != c.arrivals || r.Details.Samples != 200 || r.Passed != (c.errors == 0) {
					t.Errorf("%+v", r)
				}
				if c.errors > 0 && (r.P99Ms < drainTimeout.Seconds()*1000 || !r.Details.Behind) {
					t.Errorf("p99 %g ms, behind %v: what never came must weigh", r.P99Ms, r.Details.Behind)
				}
			})
		})
	}
}

func TestDeliverSeesDuplicates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := onFake(t, offered, Deliver, func(s *clienttest.Server) {
			n := 0
			receivers := map[int]string{}
			s.Intercept(func(_ string, f *edgev1.ClientFrame) clienttest.Fault {
				if q := f.GetOpenDirect(); q != nil {
					receivers[len(receivers)] = q.GetUserId()
				}
				if m := f.GetSend(); m != nil {
					if n++; n%50 == 0 {
						// Somebody is told beside what the server itself tells.
						go s.Push(receivers[0], &edgev1.Event{Event: &edgev1.Event_Message{Message: &edgev1.MessageEvent{
							Message: &edgev1.Message{RoomId: m.GetRoomId(), Seq: 1, Text: m.GetText()},
						}}})
					}
				}
				return clienttest.Fault{}
			})
		})
		if r.Details.Duplicates != 5 || r.Passed {
			t.Errorf("%+v", r)
		}
	})
}

func TestHistoryOnAFake(t *testing.T) {
	for _, n := range []int{20, 300} {
		r := onFake(t, Config{Messages: n}, History, nil)
		if !r.Passed || r.Details.Ops != fetches || r.Details.Samples != fetches {
			t.Errorf("%d messages: %+v", n, r)
		}
	}
	short := onFake(t, Config{Messages: 60}, History, func(s *clienttest.Server) {
		lists := 0
		s.Intercept(func(_ string, f *edgev1.ClientFrame) clienttest.Fault {
			if f.GetList() != nil {
				if lists++; lists == warmFetches+10 {
					f.GetList().Limit = 49 // a server that loses one
				}
			}
			return clienttest.Fault{}
		})
	})
	if short.Passed || short.Errors != 1 || short.Details.Samples != fetches {
		t.Errorf("%+v", short)
	}
}
