package view

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"

	"google.golang.org/protobuf/proto"
)

// digestStep is how many bytes are hashed between two calls of pace.
const digestStep = 1 << 20

// Digest hashes everything that Dump shows, lengths included: two views that
// have applied the same records have the same digest. pace is called after each
// MiB or so with how much was read, and may wait; its error ends the digest.
func (r *Reader) Digest(ctx context.Context, pace func(ctx context.Context, bytes int) error) (sum [32]byte, err error) {
	mark, err := r.Mark()
	if err != nil {
		return sum, err
	}
	h, read := sha256.New(), 0
	w := r.walk()
	for more := true; more; {
		read = 0
		more, err = w.next(func(k, v []byte) (bool, error) {
			hashEntry(h, k, v)
			read += len(k) + len(v)
			return read >= digestStep, nil
		})
		if err == nil {
			err = ctx.Err()
		}
		if err == nil && pace != nil {
			err = pace(ctx, read)
		}
		if err != nil {
			return sum, fmt.Errorf("digest of shard %d: %w", r.sh.n, err)
		}
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(mark)
	if err != nil {
		return sum, fmt.Errorf("encode mark of shard %d: %w", r.sh.n, err)
	}
	hashEntry(h, r.sh.markKey, value)
	return [32]byte(h.Sum(nil)), nil
}

func hashEntry(h hash.Hash, key, value []byte) {
	var sizes [8]byte
	binary.BigEndian.PutUint32(sizes[:], uint32(len(key)))
	binary.BigEndian.PutUint32(sizes[4:], uint32(len(value)))
	h.Write(sizes[:])
	h.Write(key)
	h.Write(value)
}
