package journal

import (
	"bytes"
	"crypto/sha256"
	"fmt"

	"google.golang.org/protobuf/proto"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
)

// NextHash is the running hash after a record: SHA-256 over the running hash
// before it and the record's bytes.
func NextHash(before [32]byte, record []byte) [32]byte {
	h := sha256.New()
	h.Write(before[:])
	h.Write(record)
	return [32]byte(h.Sum(nil))
}

// Chain checks the running hash from entry to entry of one shard (invariant 6).
// The zero Chain trusts the previous_hash of the first entry it is shown, unless
// From has told it what that must be.
type Chain struct {
	hash  [32]byte
	known bool
}

// From sets the running hash before the next entry.
func (c *Chain) From(hash [32]byte) { c.hash, c.known = hash, true }

// Hash returns the running hash after the last entry shown.
func (c *Chain) Hash() [32]byte { return c.hash }

// Check takes the next entry; an error means that it does not follow the one
// before, or is no record.
func (c *Chain) Check(e Entry) error {
	var r journalv1.Record
	if err := proto.Unmarshal(e.Data, &r); err != nil {
		return fmt.Errorf("entry %d is no record: %w", e.Index, err)
	}
	if len(r.PreviousHash) != len(c.hash) {
		return fmt.Errorf("entry %d carries a running hash of %d bytes", e.Index, len(r.PreviousHash))
	}
	if c.known && !bytes.Equal(r.PreviousHash, c.hash[:]) {
		return fmt.Errorf("entry %d follows %x, the entry before it gives %x", e.Index, r.PreviousHash[:8], c.hash[:8])
	}
	c.hash, c.known = NextHash([32]byte(r.PreviousHash), e.Data), true
	return nil
}
