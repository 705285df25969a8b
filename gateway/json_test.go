package gateway

import (
	"bytes"
	"encoding/json"
	"testing"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// Who reads JSON without a schema must find zeros, and an event without an id.
func TestJSONAnswersShowZeros(t *testing.T) {
	for _, c := range []struct {
		frame *edgev1.ServerFrame
		want  string
	}{
		{&edgev1.ServerFrame{Id: 7, Body: &edgev1.ServerFrame_MarkRead{MarkRead: &edgev1.MarkReadResponse{Position: &edgev1.Position{Term: 2, Index: 9}}}},
			`{"id":7,"markRead":{"position":{"shard":0,"term":"2","index":"9"}}}`},
		{frameOf(&edgev1.Event{Event: &edgev1.Event_Level{Level: &edgev1.LevelEvent{}}}),
			`{"event":{"level":{"level":0,"reason":""}}}`},
	} {
		b, err := appendJSON(nil, c.frame)
		if err != nil {
			t.Fatal(err)
		}
		stable, err := (rpcJSON{}).MarshalStable(c.frame.GetEvent())
		if c.frame.GetEvent() != nil && (err != nil || `{"event":`+string(stable)+`}` != c.want) {
			t.Errorf("stable %s, %v", stable, err)
		}
		if got := compact(t, b); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func frameOf(e *edgev1.Event) *edgev1.ServerFrame {
	return &edgev1.ServerFrame{Body: &edgev1.ServerFrame_Event{Event: e}}
}

// compact takes out the white space that protojson puts in at random.
func compact(t *testing.T, b []byte) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		t.Fatal(err)
	}
	return out.String()
}
