// Package chat is the rules of the messenger: accounts, people, rooms,
// messages, read cursors.
//
// Decide turns a command into events, judging it on a state that holds every
// earlier event; Apply writes an event into the state; the queries read the
// state for people. All of it is pure: no clock, no randomness, no goroutine,
// no I/O beyond the transaction it is given, no configuration (invariant 5).
// Time comes in Env, random values come in the command. The same records give
// the same state, byte for byte, on every replica and release.
//
// An owner calls Step for each command and puts the events of a batch into one
// record; a replica calls ApplyRecord for each record; Answer and the queries
// serve people; Outbox serves the pump. Nothing here is safe for use by several
// goroutines on one transaction; there is no other shared state.
//
// Three things can be wrong, and each has its own end. The caller's mistake is
// a *Refusal: nothing changes. An event that panics or contradicts the state is
// set aside and its room stops (invariant 12). A failing store, damage
// (*CorruptError) or rules from the future (ErrUnknownRules) are errors, and the
// shard stops.
//
// A state is that of one shard: it never sees another's keys. What concerns
// another shard is written to the outbox in the state (outbox.go) and carried
// over by package shard.
package chat

// Reader reads the state of one shard.
type Reader interface {
	// Get returns the value of key, or nil if there is none. The value must not
	// be modified and is valid until the next call on the reader's transaction.
	// An error is a failure of the store; the caller of Decide, Apply or a query
	// gets it back unchanged (wrapped) and nothing else happens.
	Get(key []byte) ([]byte, error)
	// Scan calls fn for keys in [low, high), ascending or, if reverse,
	// descending, until fn returns false or the range ends. key and value are
	// valid only during the call.
	Scan(low, high []byte, reverse bool, fn func(key, value []byte) bool) error
}

// Ceiling is what a Reader may offer as well: to know for many keys, without
// looking for them, that they cannot be there.
type Ceiling interface {
	// Above tells whether key is greater than every key of the state that begins
	// with its first prefix bytes. false says nothing.
	Above(key []byte, prefix int) (bool, error)
}

// Tx reads and writes the state of one shard; reads see earlier writes.
type Tx interface {
	Reader
	// Set and Delete may keep what they are given: nobody modifies it afterwards.
	Set(key, value []byte) error
	Delete(key []byte) error
}
