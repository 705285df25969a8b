package load

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bongsu-im/bongsu/client/clienttest"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

var reading = Config{Members: 12, Rate: 5, WarmUp: time.Second, Window: 3 * time.Second}

// Everybody reads every message; both ways of asking, and both of being told.
func TestReceiptsOnAFake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fake *clienttest.Server
		r := onFake(t, reading, Receipts, func(s *clienttest.Server) { fake = s })
		d := r.Details.Receipts
		// 20 messages, 12 members each; the fake tells everybody of every mark.
		if !r.Passed || d.Messages != 20 || d.MessageDeliveries != 240 || d.WrongCursors != 0 || r.Name != "receipts" {
			t.Errorf("%+v, %+v", r, d)
		}
		if n := fake.Requests("MarkRead"); int64(n) != d.Marks || d.Marks != 240 || d.MarksPerMessage != 12 || d.MessageDeliveriesPerMessage != 12 {
			t.Errorf("%d marks came in: %+v", n, d)
		}
		if d.ReadDeliveries == 0 || d.ReadChanges != d.ReadDeliveries {
			t.Errorf("%+v", d)
		}
		if d.CountedBy != "" || !strings.Contains(r.table(), "unknown") {
			t.Errorf("a server that tells nothing was counted by %q", d.CountedBy)
		}
	})
}

// A server that tells everybody of everybody's mark does not scale.
func TestReceiptsMustBeBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := reading
		cfg.Members = 24
		r := onFake(t, cfg, Receipts, nil)
		if d := r.Details.Receipts; r.Passed || r.Errors != 1 || !d.Unbounded || d.ReadDeliveriesPerMessage != 24*23 || !strings.Contains(r.table(), "bounded: false") {
			t.Errorf("%+v, %+v", r, d)
		}
	})
}

// A mark that is refused is an error, and asked for again; one that the server
// swallows leaves a cursor that is wrong.
func TestReceiptsCountFaults(t *testing.T) {
	for name, c := range map[string]struct {
		fault  clienttest.Fault
		errors int64
		wrong  int
		says   string
	}{
		"refused": {clienttest.Fault{Error: &edgev1.Error{Code: "unavailable", Message: "not now"}}, 12, 0, "not now"},
		// The last marks of all are never answered; who sent it has read it.
		"swallowed": {clienttest.Fault{Hang: true}, 1, 11, "11 of 12 members have a cursor that is not at message 20"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := onFake(t, reading, Receipts, func(s *clienttest.Server) {
					marks := map[string]int{}
					s.Intercept(func(user string, f *edgev1.ClientFrame) clienttest.Fault {
						if m := f.GetMarkRead(); m != nil && m.GetSeq() == 20 {
							if marks[user]++; marks[user] == 1 {
								return c.fault
							}
						}
						return clienttest.Fault{}
					})
				})
				d := r.Details.Receipts
				if r.Passed || r.Errors < c.errors || d.WrongCursors != c.wrong || !strings.Contains(r.Details.FirstError+r.table(), c.says) {
					t.Errorf("%+v, %+v", r, d)
				}
			})
		})
	}
}

func TestWrongCursors(t *testing.T) {
	room := &edgev1.Room{Members: []*edgev1.Member{{ReadSeq: 7}, {ReadSeq: 6}, {ReadSeq: 7}}}
	if n := wrongCursors(room, 4, 7); n != 2 { // one behind, one not told of
		t.Errorf("%d", n)
	}
}

func TestMostReadEvents(t *testing.T) {
	for members, want := range map[float64]float64{10: 100, 20: 400, 60: 400, 100: 1000, 1000: 100_000} {
		if got := mostReadEvents(members); got != want {
			t.Errorf("of %g: %g, want %g", members, got, want)
		}
	}
}

func TestCounters(t *testing.T) {
	first := parseCounters(strings.NewReader("# HELP x y\nx_total{shard=\"0\",kind=\"a\"} 1\nx_total{shard=\"1\",kind=\"a\"} 2\nx_total_more 100\nplain 7\nbroken\nnan x\n"))
	last := parseCounters(strings.NewReader("x_total{shard=\"0\",kind=\"a\"} 5\nx_total{shard=\"1\",kind=\"a\"} 2.5e1\nx_total{shard=\"1\",kind=\"b\"} 9\nplain 8\n"))
	if n, ok := grown(first, last, "x_total", `kind="a"`); !ok || n != 27 {
		t.Errorf("%g, %v", n, ok)
	}
	if n, ok := grown(first, last, "x_total"); !ok || n != 36 {
		t.Errorf("%g, %v", n, ok)
	}
	if n, ok := grown(first, last, "x_total", `kind="b"`); !ok || n != 9 {
		t.Errorf("one that first counted in between: %g, %v", n, ok)
	}
	if n, ok := grown(first, last, "plain"); !ok || n != 1 {
		t.Errorf("%g, %v", n, ok)
	}
	if _, ok := grown(first, last, "y"); ok {
		t.Error("what nobody counts has grown")
	}
	if _, ok := grown(nil, last, "plain"); ok {
		t.Error("a beginning that is not known")
	}
	if c := parseCounters(strings.NewReader("<html>\n")); c != nil {
		t.Errorf("a page is taken for counters: %v", c)
	}
}

func TestCountFields(t *testing.T) {
	b := appendBytes(appendBytes(appendBytes(nil, 1, []byte("room")), readChanges, []byte("a")), readChanges, []byte("b"))
	if n := countFields(b, readChanges); n != 2 {
		t.Errorf("%d", n)
	}
	if n := countFields(b[:len(b)-1], readChanges); n != 1 { // the last is cut off
		t.Errorf("%d", n)
	}
}
