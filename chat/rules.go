package chat

import (
	"fmt"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
)

// A shard decides and applies by one version of the rules at a time. Its state
// begins at version 1; a record with RulesActivated raises it for the records
// after it, on every replica alike. So a release with a newer version runs beside
// an older one, and can be rolled back, until an operator ends the upgrade.

// RulesAfter returns the version of the rules that holds after a record, given
// the one before it. The mark of the view keeps it; the state does not.
func RulesAfter(before uint32, rec *journalv1.Record) uint32 {
	for _, ev := range rec.GetEvents() {
		if v := ev.GetRulesActivated().GetVersion(); v > before {
			before = v
		}
	}
	return before
}

func checkRules(rules uint32, ev *journalv1.Event) error {
	if rules == 0 || rules > RulesVersion {
		return fmt.Errorf("rules %d: %w", rules, ErrUnknownRules)
	}
	if ev.GetKind() == nil {
		return fmt.Errorf("event of a kind unknown here: %w", ErrUnknownRules)
	}
	if v := ev.GetRulesActivated().GetVersion(); v > RulesVersion {
		return fmt.Errorf("activation of rules %d: %w", v, ErrUnknownRules)
	}
	return nil
}

// decideActivateRules raises the version; what holds already is no news.
func decideActivateRules(env Env, actor []byte, c *nodev1.ActivateRules) (Decision, error) {
	if err := systemOnly(actor); err != nil {
		return Decision{}, err
	}
	switch v := c.GetVersion(); {
	case v == 0 || v > RulesVersion:
		return Decision{}, refuse(BadCommand, "version")
	case v <= env.Rules:
		return Decision{}, nil
	default:
		return Decision{Events: []*journalv1.Event{{Kind: &journalv1.Event_RulesActivated{RulesActivated: &journalv1.RulesActivated{Version: v}}}}}, nil
	}
}
