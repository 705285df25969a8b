package oracle

import (
	"fmt"
	"strings"
	"testing"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

func said(seq int, client string) *edgev1.Message {
	return &edgev1.Message{RoomId: "r", Seq: uint64(seq), SenderId: "jimin", ClientId: client, Text: "words of " + client}
}

func acked(seq int, client string) Acknowledgement {
	return Acknowledgement{RoomID: "r", SenderID: "jimin", ClientID: client, Text: "words of " + client, Seq: uint64(seq)}
}

func side(reader string, messages ...*edgev1.Message) Side {
	return Side{RoomID: "r", Reader: reader, Messages: messages}
}

func counts(v Verdict) string {
	return fmt.Sprintf("lost %d duplicated %d moved %d holes %d", v.Lost, v.Duplicated, v.Moved, v.Holes)
}

// The test of the test: every kind of defect, planted, must be seen, and a
// whole history must not be accused.
func TestPlantedDefects(t *testing.T) {
	acks := []Acknowledgement{acked(1, "a"), acked(2, "b"), acked(3, "c")}
	other := said(2, "b")
	other.Text = "other words"
	for _, c := range []struct {
		name  string
		sides []Side
		want  string
	}{
		{"whole on both sides", []Side{side("jimin", said(1, "a"), said(2, "b"), said(3, "c")), side("minsu", said(1, "a"), said(2, "b"), said(3, "c"))}, "lost 0 duplicated 0 moved 0 holes 0"},
		{"one more that was never acknowledged", []Side{side("jimin", said(1, "a"), said(2, "b"), said(3, "c"), said(4, "d"))}, "lost 0 duplicated 0 moved 0 holes 0"},
		{"the tail is gone", []Side{side("jimin", said(1, "a"), said(2, "b"))}, "lost 1 duplicated 0 moved 0 holes 0"},
		{"the tail is gone on one side", []Side{side("jimin", said(1, "a"), said(2, "b"), said(3, "c")), side("minsu", said(1, "a"), said(2, "b"))}, "lost 1 duplicated 0 moved 0 holes 0"},
		{"a hole", []Side{side("jimin", said(1, "a"), said(3, "c"))}, "lost 1 duplicated 0 moved 0 holes 1"},
		{"sent again as another message", []Side{side("jimin", said(1, "a"), said(2, "b"), said(3, "c"), said(4, "b"))}, "lost 0 duplicated 1 moved 0 holes 0"},
		{"two have changed places", []Side{side("jimin", said(1, "b"), said(2, "a"), said(3, "c"))}, "lost 0 duplicated 0 moved 2 holes 0"},
		{"out of order", []Side{side("jimin", said(2, "b"), said(1, "a"), said(3, "c"))}, "lost 0 duplicated 0 moved 1 holes 1"},
		{"other words", []Side{side("jimin", said(1, "a"), other, said(3, "c"))}, "lost 1 duplicated 0 moved 0 holes 0"},
		{"sides disagree beyond what was acknowledged", []Side{side("jimin", said(1, "a"), said(2, "b"), said(3, "c"), said(4, "d")), side("minsu", said(1, "a"), said(2, "b"), said(3, "c"), said(4, "e"))}, "lost 0 duplicated 0 moved 1 holes 0"},
		{"nobody can read", nil, "lost 3 duplicated 0 moved 0 holes 0"},
		{"joined later", []Side{{RoomID: "r", Reader: "late", Joined: 2, Messages: []*edgev1.Message{said(3, "c")}}}, "lost 0 duplicated 0 moved 0 holes 0"},
	} {
		v := Judge(acks, c.sides)
		if got := counts(v); got != c.want {
			t.Errorf("%s: %s, want %s\n%s", c.name, got, c.want, strings.Join(v.Details, "\n"))
		}
		if (v.Wrong() > 0) != (len(v.Details) > 0) {
			t.Errorf("%s: %d wrong, explained by %q", c.name, v.Wrong(), v.Details)
		}
	}
	twice := Judge([]Acknowledgement{acked(1, "a"), acked(1, "b")}, []Side{side("jimin", said(1, "a"))})
	if twice.Moved != 1 || twice.Lost != 1 {
		t.Errorf("one place acknowledged twice: %s", counts(twice))
	}
}
