package journal

import "errors"

// Loss is what accepting a loss gives up for good: the entries after Have, up to
// Proven at the least. The journals on disk and on a database each have an
// AcceptLoss, which returns it.
type Loss struct {
	Shard        ShardID
	Have, Proven Position
	Proof        string
	// Entries that are known to be missing: From to To, both included.
	From, To Index
}

// ErrNoLoss: a loss was to be accepted for a shard that lacks nothing.
var ErrNoLoss = errors.New("journal: the shard's log is not missing anything")

// Loss is what is lost if the error is accepted.
func (e *LostTailError) Loss() Loss {
	return Loss{Shard: e.Shard, Have: e.Have, Proven: e.Proven, Proof: e.Proof, From: e.Have.Index + 1, To: e.Proven.Index}
}
