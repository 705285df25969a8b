package auth

import (
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// Params are the costs of one Argon2id computation.
type Params struct {
	MemoryKiB uint32
	Passes    uint32
	Lanes     uint8
}

// Standard is OWASP's second recommendation, which a small server can afford.
var Standard = Params{MemoryKiB: 19 * 1024, Passes: 2, Lanes: 1}

// What a stored hash may ask us to compute. A hash beyond it is refused: it
// could take the machine down.
var most = Params{MemoryKiB: 64 * 1024, Passes: 8, Lanes: 4}

const (
	saltSize = 16
	hashSize = 32
	// bounds of the two in a PHC string
	minSalt, maxSalt = 8, 64
	minHash, maxHash = 16, 64
	maxPHC           = 256
)

var phcText = base64.RawStdEncoding.Strict()

// HashPassword computes the PHC string of a password with a fresh salt. It
// takes about 0.1 s of one core: callers hold a slot.
func HashPassword(password string, p Params, random io.Reader) (string, error) {
	var salt [saltSize]byte
	if _, err := io.ReadFull(random, salt[:]); err != nil {
		return "", fmt.Errorf("make salt: %w", err)
	}
	hash := argon2.IDKey([]byte(password), salt[:], p.Passes, p.MemoryKiB, p.Lanes, hashSize)
	return encodePHC(p, salt[:], hash), nil
}

// DummyHash returns a PHC string that no password has, and that costs as much
// to check as a real one: for accounts that do not exist.
func DummyHash(p Params, random io.Reader) (string, error) {
	var b [saltSize + hashSize]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("make dummy hash: %w", err)
	}
	return encodePHC(p, b[:saltSize], b[saltSize:]), nil
}

// VerifyPassword tells whether password is the one that phc was made of, in
// time that depends on phc's parameters alone. It fails with ErrHash for a
// string that is malformed or too costly.
func VerifyPassword(phc, password string) (bool, error) {
	p, salt, want, err := decodePHC(phc)
	if err != nil {
		return false, err
	}
	got := argon2.IDKey([]byte(password), salt, p.Passes, p.MemoryKiB, p.Lanes, uint32(len(want)))
	return subtle.ConstantTimeCompare(got, want) == 1, nil
}

func encodePHC(p Params, salt, hash []byte) string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.MemoryKiB, p.Passes, p.Lanes,
		phcText.EncodeToString(salt), phcText.EncodeToString(hash))
}

func decodePHC(phc string) (p Params, salt, hash []byte, err error) {
	fail := func(what string) (Params, []byte, []byte, error) {
		return Params{}, nil, nil, fmt.Errorf("%w: %s", ErrHash, what)
	}
	if len(phc) > maxPHC {
		return fail("too long")
	}
	if strings.ContainsAny(phc, "\r\n") { // which the base64 decoder would skip
		return fail("line break")
	}
	parts := strings.Split(phc, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" {
		return fail("not an argon2id PHC string")
	}
	if parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return fail("unknown version of Argon2")
	}
	costs := strings.Split(parts[3], ",")
	if len(costs) != 3 {
		return fail("parameters")
	}
	memory, ok1 := cost(costs[0], "m=", most.MemoryKiB)
	passes, ok2 := cost(costs[1], "t=", most.Passes)
	lanes, ok3 := cost(costs[2], "p=", uint32(most.Lanes))
	if !ok1 || !ok2 || !ok3 || memory < 8*lanes {
		return fail("parameters")
	}
	if salt, err = phcText.DecodeString(parts[4]); err != nil || len(salt) < minSalt || len(salt) > maxSalt {
		return fail("salt")
	}
	if hash, err = phcText.DecodeString(parts[5]); err != nil || len(hash) < minHash || len(hash) > maxHash {
		return fail("hash")
	}
	return Params{memory, passes, uint8(lanes)}, salt, hash, nil
}

// cost reads "m=19456": a decimal number from 1 to most, in its one spelling.
func cost(text, prefix string, most uint32) (uint32, bool) {
	digits, ok := strings.CutPrefix(text, prefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || n == 0 || n > uint64(most) || strconv.FormatUint(n, 10) != digits {
		return 0, false
	}
	return uint32(n), true
}
