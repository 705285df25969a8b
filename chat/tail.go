package chat

import (
	"unicode/utf8"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
)

// MaxProofBytes bounds the words that say who has proven a lost tail.
const MaxProofBytes = 1000

// decideNoteTailLost records that acknowledged entries are missing. Where the
// journal ends (TailLost.term and index) is for package shard to fill in, who
// knows it; the state has no part in this event.
func decideNoteTailLost(actor []byte, c *nodev1.NoteTailLost) (Decision, error) {
	if err := systemOnly(actor); err != nil {
		return Decision{}, err
	}
	if len(c.GetProof()) > MaxProofBytes || !utf8.ValidString(c.GetProof()) {
		return Decision{}, refuse(BadCommand, "proof")
	}
	return Decision{Events: []*journalv1.Event{{Kind: &journalv1.Event_TailLost{TailLost: &journalv1.TailLost{
		ProvenTerm: c.GetProvenTerm(), ProvenIndex: c.GetProvenIndex(), Proof: c.GetProof(),
	}}}}}, nil
}
