// Package id makes and reads the identifiers of accounts, rooms and devices.
//
// An ID has 16 bytes: cell (2, big endian), kind (4 bits) and partition (12
// bits), and 12 bytes of its own. Its text is one letter for the kind and 26
// characters of Crockford's base 32 in lower case. The partition in the ID
// never changes: it says which slice of the country the room or account lives
// in, and the shard map says who serves that slice (DESIGN §2). Golden tests
// hold both forms; they are for ever.
package id

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
)

// Partitions is the fixed number of slices that rooms and accounts are spread over.
const Partitions = 4096

// Size is the length of an ID in bytes.
const Size = 16

// Kind says what an ID names.
type Kind uint8

// The kinds; 0 and those not named here are invalid.
const (
	User   Kind = 1
	Room   Kind = 2
	Device Kind = 3
)

var letters = [...]byte{User: 'u', Room: 'r', Device: 'd'}

// ErrInvalid is wrapped by every error of Parse and FromBytes.
var ErrInvalid = errors.New("invalid id")

// ID identifies one account, room or device. The zero ID is nobody's.
type ID [Size]byte

// Partition is one of the 4,096 slices.
type Partition uint16

var encoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// Shard returns which of count equal, contiguous ranges of partitions p is in.
func (p Partition) Shard(count int) int { return int(p) * count / Partitions }

// New assembles an ID from its parts; unique is cut or zero-extended to 12 bytes.
func New(cell uint16, kind Kind, partition Partition, unique []byte) ID {
	var i ID
	binary.BigEndian.PutUint16(i[0:2], cell)
	binary.BigEndian.PutUint16(i[2:4], uint16(kind)<<12|uint16(partition)%Partitions)
	copy(i[4:], unique)
	return i
}

// LoginPartition is the slice in which the account of a (folded) login lives,
// so that its shard alone can keep logins unique.
func LoginPartition(login string) Partition {
	sum := sha256.Sum256([]byte("bongsu login\x00" + login))
	return Partition(binary.BigEndian.Uint16(sum[:2]) % Partitions)
}

// Direct is the one room of two people (or of one with themselves), whoever
// opens it first. It lives in the cell of the smaller ID.
func Direct(a, b ID) ID {
	if string(b[:]) < string(a[:]) {
		a, b = b, a
	}
	h := sha256.New()
	h.Write([]byte("bongsu direct\x00"))
	h.Write(a[:])
	h.Write(b[:])
	sum := h.Sum(nil)
	return New(a.Cell(), Room, Partition(binary.BigEndian.Uint16(sum[:2])%Partitions), sum[2:14])
}

// Group is the room that creator makes with a client-chosen key (any bytes):
// asking again with the same key names the same room.
func Group(creator ID, key []byte) ID {
	h := sha256.New()
	h.Write([]byte("bongsu group\x00"))
	h.Write(creator[:])
	h.Write(key)
	sum := h.Sum(nil)
	return New(creator.Cell(), Room, Partition(binary.BigEndian.Uint16(sum[:2])%Partitions), sum[2:14])
}

// Cell returns the cell in which the ID was made.
func (i ID) Cell() uint16 { return binary.BigEndian.Uint16(i[0:2]) }

// Kind returns what the ID names.
func (i ID) Kind() Kind { return Kind(i[2] >> 4) }

// Partition returns the slice in which the ID lives.
func (i ID) Partition() Partition {
	return Partition(binary.BigEndian.Uint16(i[2:4]) % Partitions)
}

// Bytes returns the 16 bytes in a new slice.
func (i ID) Bytes() []byte { return append([]byte(nil), i[:]...) }

// IsZero tells whether i is the zero ID.
func (i ID) IsZero() bool { return i == ID{} }

// String returns the text form, 27 characters; "-" for an invalid kind.
func (i ID) String() string {
	k := i.Kind()
	if k < User || k > Device {
		return "-"
	}
	var out [27]byte
	out[0] = letters[k]
	encoding.Encode(out[1:], i[:])
	return string(out[:])
}

// Parse reads the text form of an ID of the given kind.
func Parse(kind Kind, text string) (ID, error) {
	var i ID
	if len(text) != 27 || kind < User || kind > Device || text[0] != letters[kind] {
		return ID{}, fmt.Errorf("%w: want %d characters beginning with the kind's letter", ErrInvalid, 27)
	}
	var raw [17]byte
	n, err := encoding.Decode(raw[:], []byte(text[1:]))
	if err != nil || n != Size {
		return ID{}, fmt.Errorf("%w: not base 32", ErrInvalid)
	}
	copy(i[:], raw[:Size])
	// Base 32 leaves two spare bits; only one spelling is an ID.
	if i.Kind() != kind || i.String() != text {
		return ID{}, fmt.Errorf("%w: not in its one spelling", ErrInvalid)
	}
	return i, nil
}

// FromBytes reads the stored form of an ID of the given kind.
func FromBytes(kind Kind, b []byte) (ID, error) {
	var i ID
	if len(b) != Size {
		return ID{}, fmt.Errorf("%w: %d bytes", ErrInvalid, len(b))
	}
	copy(i[:], b)
	if i.Kind() != kind {
		return ID{}, fmt.Errorf("%w: kind %d, want %d", ErrInvalid, i.Kind(), kind)
	}
	return i, nil
}
