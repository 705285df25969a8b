package load

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bongsu-im/bongsu/client/clienttest"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// 120 members are invited in two chunks; every one is told of everything.
func TestFanoutOnAFake(t *testing.T) {
	var chunks []int
	cfg := Config{Members: 120, Bound: 500 * time.Millisecond, Settle: time.Millisecond}
	r := onFake(t, cfg, Fanout, func(s *clienttest.Server) {
		s.Intercept(func(_ string, f *edgev1.ClientFrame) clienttest.Fault {
			switch {
			case f.GetCreateGroup() != nil:
				chunks = append(chunks, len(f.GetCreateGroup().GetUserIds()))
			case f.GetInvite() != nil:
				chunks = append(chunks, len(f.GetInvite().GetUserIds()))
			}
			return clienttest.Fault{}
		})
	})
	d := r.Details
	if !r.Passed || r.Errors != 0 || d.Duplicates != 0 || d.Fanout.Missing != 0 || d.Fanout.AckPerS <= 0 || d.Fanout.AckP99Ms <= 0 {
		t.Errorf("%+v, %+v", r, d.Fanout)
	}
	if d.Samples < d.Ops || d.Ops < int64(100*d.Fanout.AckPerS*r.Seconds/2) {
		t.Errorf("%d deliveries, %d samples of %g messages/s to 120", d.Ops, d.Samples, d.Fanout.AckPerS)
	}
	if len(chunks) != 2 || chunks[0] != 99 || chunks[1] != 20 {
		t.Errorf("invited %v", chunks)
	}
}

// In an open loop a delivery counts from the time its message was meant for.
func TestFanoutAtARate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{Members: 15, Rate: 10, WarmUp: time.Second, Window: 5 * time.Second}
		r := onFake(t, cfg, Fanout, nil)
		if !r.Passed || r.OpsPerS != 150 || r.Details.OfferedPerS != 150 || r.Details.Samples != 15*50 || r.Details.Fanout.AckPerS != 10 || len(r.Details.Goals) > 0 {
			t.Errorf("%+v, %+v", r, r.Details.Fanout)
		}
		if s := r.Details.Seconds; len(s) != 5 || s[0].Ops != 150 || s[4].Ops != 150 {
			t.Errorf("by second: %+v", s)
		}
	})
}

// Each kind of fault shows, at those who decode and those who only look.
func TestFanoutCountsFaults(t *testing.T) {
	push := func(event func(m *edgev1.SendRequest) *edgev1.Event) func(*clienttest.Server) {
		return func(s *clienttest.Server) {
			var sender, listener string
			n := 0
			s.Intercept(func(user string, f *edgev1.ClientFrame) clienttest.Fault {
				if g := f.GetCreateGroup(); g != nil {
					sender, listener = user, g.GetUserIds()[len(g.GetUserIds())-1]
				}
				if m := f.GetSend(); m != nil {
					if n++; n == 200 {
						go func() {
							s.Push(sender, event(m))
							s.Push(listener, event(m))
						}()
					}
				}
				return clienttest.Fault{}
			})
		}
	}
	message := func(seq uint64, text string) func(m *edgev1.SendRequest) *edgev1.Event {
		return func(m *edgev1.SendRequest) *edgev1.Event {
			return &edgev1.Event{Event: &edgev1.Event_Message{Message: &edgev1.MessageEvent{
				Message: &edgev1.Message{RoomId: m.GetRoomId(), Seq: seq, Text: text},
			}}}
		}
	}
	for name, c := range map[string]struct {
		prepare            func(*clienttest.Server)
		errors, duplicates int64
		lagged             int64
		says               string
	}{
		"duplicate": {prepare: push(message(1, "1 x")), duplicates: 2},
		"nonsense":  {prepare: push(message(1<<40, "1 x")), errors: 2, says: "nobody sent"},
		"lag": {prepare: push(func(*edgev1.SendRequest) *edgev1.Event {
			return &edgev1.Event{Event: &edgev1.Event_Lag{Lag: &edgev1.LagEvent{Dropped: 3}}}
		}), errors: 2, lagged: 6, says: "dropped"},
		"refused": {prepare: func(s *clienttest.Server) {
			n := 0
			s.Intercept(func(_ string, f *edgev1.ClientFrame) clienttest.Fault {
				if f.GetSend() != nil {
					if n++; n > 200 && n <= 203 {
						return clienttest.Fault{Error: &edgev1.Error{Code: "unavailable", Message: "not now"}}
					}
				}
				return clienttest.Fault{}
			})
		}, errors: 3, says: "not now"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Members: 14, WarmUp: time.Nanosecond, Window: 400 * time.Millisecond, Settle: time.Millisecond}
			r := onFake(t, cfg, Fanout, c.prepare)
			d := r.Details
			if r.Passed || r.Errors != c.errors || d.Duplicates != c.duplicates || d.Fanout.Lagged != c.lagged || !strings.Contains(d.FirstError, c.says) {
				t.Errorf("%+v, %+v", r, d.Fanout)
			}
		})
	}
}

// What was acknowledged and never arrived is an error at each place, and weighs.
func TestFanoutChargesWhatIsMissing(t *testing.T) {
	w := newWindow(time.Now(), time.Second, 10*time.Second)
	f := &fanout{start: w.start, sends: &tally{}, sendTimes: newLatencies(), tally: &tally{}, latencies: newLatencies(), members: make([]member, 3)}
	f.window.Store(&w)
	for seq := range uint64(5) {
		f.acknowledged = append(f.acknowledged, ackedMessage{seq + 1, w.begin.Add(time.Duration(seq) * time.Second)})
	}
	for who := range f.members {
		for seq := range uint64(5) {
			if who != 1 || seq != 2 && seq != 4 {
				f.members[who].take(seq + 1)
			}
		}
	}
	if !f.lacking(nil) {
		t.Error("nothing is lacking")
	}
	f.settle(w.end.Add(time.Second))
	if f.missing.Load() != 2 || f.tally.errors.Load() != 2 || !strings.Contains(f.tally.firstError(), "message 5 was acknowledged but did not reach member 1") {
		t.Errorf("%d missing, %d errors, %s", f.missing.Load(), f.tally.errors.Load(), f.tally.firstError())
	}
	// Sent 2 s and 4 s into the window of 10 s, given up 1 s after it.
	if h := f.latencies.merged(); h.TotalCount() != 2 || h.Min() < 6_990_000 || h.Max() < 8_990_000 {
		t.Errorf("%d samples from %d to %d", h.TotalCount(), h.Min(), h.Max())
	}
	for _, seq := range []uint64{3, 5} {
		f.members[1].take(seq)
	}
	if f.lacking(nil) {
		t.Error("all is there")
	}
}

func TestMemberSeesOnce(t *testing.T) {
	var m member
	for _, seq := range []uint64{1, 64, 63, 1000, 65} {
		if m.has(seq) || !m.take(seq) || !m.has(seq) || m.take(seq) {
			t.Errorf("message %d", seq)
		}
	}
	if m.has(2) || m.has(1<<30) {
		t.Error("messages that never came")
	}
}

func TestFanoutTextTellsItsTime(t *testing.T) {
	f := &fanout{rig: &rig{cfg: Config{Bytes: 128}}, start: time.Now()}
	sent := f.start.Add(1234567890123)
	text := f.text(sent)
	if got, ok := f.sentAt([]byte(text)); !ok || !got.Equal(sent) || len(text) != 128 {
		t.Errorf("%s, %v of %q", got.Sub(f.start), ok, text)
	}
	for _, bad := range []string{"", " ", "12", "x 1", "-1 x", fmt.Sprint(uint64(1<<63)) + "0 x"} {
		if at, ok := f.sentAt([]byte(bad)); ok {
			t.Errorf("%q was sent at %s", bad, at)
		}
	}
}
