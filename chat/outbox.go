package chat

import (
	"fmt"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// MaxOutboxKeys bounds the keys of one FinishEffects.
const MaxOutboxKeys = 1000

// What an outbox key is about.
const (
	effectListing = 'l' // room, user, version of the membership
	effectBlock   = 'b' // account, blocked user, version of the block
)

// OutboxItem is one effect that its target has not acknowledged yet.
type OutboxItem struct {
	Key    []byte
	Effect *journalv1.Effect
}

// Outbox returns up to limit effects of the partitions from low to high
// inclusive, in the order of their keys.
func Outbox(r Reader, low, high id.Partition, limit int) ([]OutboxItem, error) {
	return OutboxAfter(r, nil, low, high, limit)
}

// OutboxAfter is Outbox beginning behind a key returned before, so that effects
// whose target is away do not stand in the way of the others.
func OutboxAfter(r Reader, afterKey []byte, low, high id.Partition, limit int) ([]OutboxItem, error) {
	if p, ok := KeyPartition(afterKey); ok && p > low {
		low = p
	}
	var items []OutboxItem
	for p := low; p <= high && len(items) < limit; p++ {
		prefix := []byte{byte(p >> 8), byte(p), kindOutbox}
		from := prefix
		if string(afterKey) >= string(prefix) {
			from = append(append([]byte(nil), afterKey...), 0)
		}
		err := scan(r, from, after(prefix), false, func(k, v []byte) (bool, error) {
			e := &journalv1.Effect{}
			if err := decode(k, v, e); err != nil {
				return false, err
			}
			items = append(items, OutboxItem{Key: append([]byte(nil), k...), Effect: e})
			return len(items) < limit, nil
		})
		if err != nil {
			return nil, err
		}
	}
	return items, nil
}

// EffectPartition returns the partition that an effect is for; a *Refusal if
// it is malformed.
func EffectPartition(e *journalv1.Effect) (id.Partition, error) {
	switch k := e.GetKind().(type) {
	case *journalv1.Effect_RoomListed:
		return partitionOf(id.User, k.RoomListed.GetUserId(), "effect")
	case *journalv1.Effect_BlockNoted:
		return partitionOf(id.Room, k.BlockNoted.GetRoomId(), "effect")
	}
	return 0, refuse(BadCommand, "effect")
}

// putListingEffect says that user's membership of room has changed; it takes
// the place of the change before, if that is still waiting.
func putListingEffect(tx Tx, room, user id.ID, version uint64, listed bool) error {
	if version > 1 {
		if err := remove(tx, outboxKey(effectListing, room, user, version-1)); err != nil {
			return err
		}
	}
	e := &journalv1.Effect{Kind: &journalv1.Effect_RoomListed{RoomListed: &journalv1.RoomListed{
		UserId: user.Bytes(), RoomId: room.Bytes(), Version: version, Listed: listed,
	}}}
	return write(tx, outboxKey(effectListing, room, user, version), e)
}

func putBlockEffect(tx Tx, user, other id.ID, before, version uint64, blocked bool) error {
	if before > 0 {
		if err := remove(tx, outboxKey(effectBlock, user, other, before)); err != nil {
			return err
		}
	}
	e := &journalv1.Effect{Kind: &journalv1.Effect_BlockNoted{BlockNoted: &journalv1.BlockNoted{
		RoomId: id.Direct(user, other).Bytes(), BlockerId: user.Bytes(), Version: version, Blocked: blocked,
	}}}
	return write(tx, outboxKey(effectBlock, user, other, version), e)
}

// isOutboxKey keeps OutboxDone from deleting anything else.
func isOutboxKey(key []byte) bool {
	p, ok := KeyPartition(key)
	return ok && p < id.Partitions && len(key) == outboxKeyBytes && key[2] == kindOutbox &&
		(key[3] == effectListing || key[3] == effectBlock)
}

func systemOnly(actor []byte) error {
	if len(actor) > 0 {
		return refuse(NotYours, "")
	}
	return nil
}

// decideApplyEffect accepts an effect of another shard. One that is not newer
// than what is known changes nothing and succeeds, as does one for an account
// that does not exist: repeating it would not help.
func decideApplyEffect(r Reader, actor []byte, c *nodev1.ApplyEffect) (Decision, error) {
	if err := systemOnly(actor); err != nil {
		return Decision{}, err
	}
	switch k := c.GetEffect().GetKind().(type) {
	case *journalv1.Effect_RoomListed:
		return decideRoomListed(r, k.RoomListed)
	case *journalv1.Effect_BlockNoted:
		return decideBlockNoted(r, k.BlockNoted)
	}
	return Decision{}, refuse(BadCommand, "effect")
}

func decideRoomListed(r Reader, e *journalv1.RoomListed) (Decision, error) {
	user, err := parse(id.User, e.GetUserId(), "effect")
	if err != nil {
		return Decision{}, err
	}
	room, err := parse(id.Room, e.GetRoomId(), "effect")
	if err != nil {
		return Decision{}, err
	}
	a, err := readAccount(r, user)
	if err != nil || a == nil {
		return Decision{}, err
	}
	l, err := readListing(r, user, room)
	if err != nil || l.GetVersion() >= e.GetVersion() {
		return Decision{}, err
	}
	return Decision{Events: []*journalv1.Event{{Kind: &journalv1.Event_RoomListed{RoomListed: &journalv1.RoomListed{
		UserId: user.Bytes(), RoomId: room.Bytes(), Version: e.GetVersion(), Listed: e.GetListed(),
	}}}}}, nil
}

func decideBlockNoted(r Reader, e *journalv1.BlockNoted) (Decision, error) {
	room, err := parse(id.Room, e.GetRoomId(), "effect")
	if err != nil {
		return Decision{}, err
	}
	blocker, err := parse(id.User, e.GetBlockerId(), "effect")
	if err != nil {
		return Decision{}, err
	}
	b, err := readBlock(r, notedKey(room, blocker))
	if err != nil || b.GetVersion() >= e.GetVersion() {
		return Decision{}, err
	}
	return Decision{Events: []*journalv1.Event{{Kind: &journalv1.Event_BlockNoted{BlockNoted: &journalv1.BlockNoted{
		RoomId: room.Bytes(), BlockerId: blocker.Bytes(), Version: e.GetVersion(), Blocked: e.GetBlocked(),
	}}}}}, nil
}

// decideFinishEffects records those of the keys that are still waiting.
func decideFinishEffects(r Reader, actor []byte, c *nodev1.FinishEffects) (Decision, error) {
	if err := systemOnly(actor); err != nil {
		return Decision{}, err
	}
	if len(c.GetKeys()) > MaxOutboxKeys {
		return Decision{}, refuse(TooManyIDs, "keys")
	}
	done := &journalv1.OutboxDone{}
	seen := make(map[string]bool, len(c.GetKeys()))
	for _, key := range c.GetKeys() {
		if !isOutboxKey(key) {
			return Decision{}, refuse(BadCommand, "keys")
		}
		there, err := has(r, key)
		if err != nil {
			return Decision{}, fmt.Errorf("read state: %w", err)
		}
		if there && !seen[string(key)] {
			seen[string(key)] = true
			done.Keys = append(done.Keys, append([]byte(nil), key...))
		}
	}
	if len(done.Keys) == 0 {
		return Decision{}, nil
	}
	return Decision{Events: []*journalv1.Event{{Kind: &journalv1.Event_OutboxDone{OutboxDone: done}}}}, nil
}

// applyOutboxDone removes finished effects. With the effect of an unblocking
// goes the account's entry of it, unless that is newer by now.
func applyOutboxDone(tx Tx, ev *journalv1.OutboxDone) error {
	for _, key := range ev.GetKeys() {
		if !isOutboxKey(key) {
			return badEvent("finishes %x, which is no effect", key)
		}
		if err := forgetUnblocked(tx, key); err != nil {
			return err
		}
		if err := remove(tx, key); err != nil {
			return err
		}
	}
	return nil
}

func forgetUnblocked(tx Tx, key []byte) error {
	if key[3] != effectBlock {
		return nil
	}
	blocks := append(append([]byte{key[0], key[1], kindBlock}, key[4:4+uniqueBytes]...), key[4+uniqueBytes:4+uniqueBytes+id.Size]...)
	b, err := readBlock(tx, blocks)
	if err != nil {
		return err
	}
	version := key[4+uniqueBytes+id.Size:]
	if b.GetBlocked() || b.GetVersion() != be64(version) {
		return nil
	}
	return remove(tx, blocks)
}

// applyRoomListed keeps the newest version of whether a room is in user's list.
func applyRoomListed(tx Tx, ev *journalv1.RoomListed) ([]*nodev1.FeedItem, error) {
	user, a, err := eventAccount(tx, ev.GetUserId())
	if err != nil {
		return nil, err
	}
	room, err := parseEvent(id.Room, ev.GetRoomId())
	if err != nil {
		return nil, err
	}
	l, err := readListing(tx, user, room)
	if err != nil || l.GetVersion() >= ev.GetVersion() {
		return nil, err
	}
	switch {
	case ev.GetListed() && !l.GetListed():
		a.RoomCount++
	case !ev.GetListed() && l.GetListed() && a.RoomCount > 0:
		a.RoomCount--
	}
	if err := write(tx, listingKey(user, room), &journalv1.Listing{Version: ev.GetVersion(), Listed: ev.GetListed()}); err != nil {
		return nil, err
	}
	item := &nodev1.FeedItem{RoomId: room.Bytes()}
	if ev.GetListed() {
		item.Subscribe = [][]byte{user.Bytes()}
	} else {
		item.Unsubscribe = [][]byte{user.Bytes()}
	}
	return []*nodev1.FeedItem{item}, write(tx, accountKey(user), a)
}
