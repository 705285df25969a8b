// Package auth makes and checks what proves who someone is: access tokens,
// refresh tokens and password hashes, and remembers which devices were revoked.
//
// Vocabulary: an access token is signed with Ed25519, lives Life (five minutes)
// and is verified anywhere from the ring's public halves, without asking
// anyone (invariant 9). A refresh token carries a generation and an
// HMAC-SHA256; whether the generation is still good is for the account's shard
// to decide. The ring is the current key of each kind and the previous ones,
// which verify but sign no more. A PHC string is a password hash with its
// parameters.
//
// Formats are golden-tested. Both tokens are base64url (no padding) of a fixed
// binary layout, all numbers big endian:
//
//	access:  version 1 (1) | key (4) | user (16) | device (16) | generation (4) | expires, ms (8) | signature (64)
//	refresh: version 1 (1) | key (4) | user (16) | device (16) | generation (4) | HMAC (32)
//
// where key is the beginning of the SHA-256 of the public or secret key, and
// what is signed is a label naming the kind of token, then everything before
// the signature.
//
// Concurrency: a Ring never changes after it is made; Revoked is safe for
// concurrent use. Decoding touches attacker-made input: every decoder is
// bounded and fuzzed.
//
// What it does not do: talk to anyone, limit how often a password may be
// tried, or limit how many are hashed at once (the gateway does).
package auth

import (
	"errors"
	"time"
)

// Life is how long an access token is good for.
const Life = 5 * time.Minute

// Skew is how far the clocks of our own machines may disagree before a token
// that just ended is refused.
const Skew = 30 * time.Second

// The errors that every check wraps.
var (
	// ErrToken: not one of our tokens, or not signed by a key of the ring.
	ErrToken = errors.New("invalid token")
	// ErrExpired: it was ours, and its time is over.
	ErrExpired = errors.New("expired token")
	// ErrHash: a PHC string that we did not write or would not compute.
	ErrHash = errors.New("invalid password hash")
)
