package chat

import (
	"errors"
	"testing"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
)

func TestActivateRules(t *testing.T) {
	for name, c := range map[string]struct {
		actor   []byte
		holds   uint32
		version uint32
		refused bool
		raises  bool
	}{
		"the next":          {holds: RulesVersion - 1, version: RulesVersion, raises: true},
		"what holds":        {holds: RulesVersion, version: RulesVersion},
		"less":              {holds: RulesVersion + 1, version: RulesVersion},
		"unknown here":      {holds: RulesVersion, version: RulesVersion + 1, refused: true},
		"none":              {holds: RulesVersion, refused: true},
		"asked by a person": {actor: userID("jimin").Bytes(), holds: RulesVersion - 1, version: RulesVersion, refused: true},
	} {
		d, err := Decide(newMemTx(), Env{Rules: c.holds}, &nodev1.Command{Actor: c.actor, Kind: &nodev1.Command_ActivateRules{ActivateRules: &nodev1.ActivateRules{Version: c.version}}})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if (d.Reply.GetError() != nil) != c.refused || (len(d.Events) == 1 && d.Events[0].GetRulesActivated().GetVersion() == c.version) != c.raises {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

// The version rises with the record after the one that says so, and not before.
func TestRulesAfter(t *testing.T) {
	rec := &journalv1.Record{Events: []*journalv1.Event{
		{Kind: &journalv1.Event_TailLost{TailLost: &journalv1.TailLost{}}},
		{Kind: &journalv1.Event_RulesActivated{RulesActivated: &journalv1.RulesActivated{Version: 3}}},
		{Kind: &journalv1.Event_RulesActivated{RulesActivated: &journalv1.RulesActivated{Version: 2}}},
	}}
	if got := RulesAfter(1, rec); got != 3 {
		t.Errorf("after 1: %d", got)
	}
	if got := RulesAfter(4, rec); got != 4 {
		t.Errorf("after 4: %d", got)
	}
	if err := checkRules(RulesVersion+1, rec.Events[0]); !errors.Is(err, ErrUnknownRules) {
		t.Errorf("a record of newer rules: %v", err)
	}
}
