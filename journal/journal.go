// Package journal is the contract of the replicated append-only log that every
// shard stands on. The log is the truth: views, feeds and caches are made from
// it and can be made again.
//
// Vocabulary: a Log holds the entries of one shard, numbered by an Index that
// only grows; entries of one Term were appended by one owner. A node owns a
// shard while it holds a Lease. Implementations are journal/raft (disk, etcd's
// raft), journal/memory (tests, with faults on demand) and
// journal/postgres (an operator's own cluster); journal/journaltest is the suite
// each must pass.
//
// What the contract does not do: it knows nothing of what entries mean, keeps no
// state but the log, and never retries an append on its own.
package journal

import (
	"context"
	"errors"
	"fmt"
)

// ShardID numbers the shards of a cell from 0.
type ShardID uint16

// Term numbers the ownerships of a shard; it grows with every change of owner
// and every restart.
type Term uint64

// Index numbers the entries of a shard's log. It grows; numbers may be missing
// (an implementation may use some for itself).
type Index uint64

// MaxEntryBytes bounds one entry's data.
const MaxEntryBytes = 1 << 20

// Position is the place of an entry: with its term, so that a history that
// lost its tail and wrote another is told from the one that was acknowledged.
type Position struct {
	Term  Term
	Index Index
}

// Entry is one committed record.
type Entry struct {
	Position
	Data []byte // must not be modified
}

// Lease is the right to append to one shard's log during one term.
type Lease struct {
	Term Term
	// Applied is the index up to which the holder must have applied the log
	// before it decides anything: everything committed before its own term, and
	// in it before this lease was given. It is the index of an entry that Read
	// returns (or has trimmed), 0 while there is none.
	Applied Index
}

// Mark is what is known to have been durable: the log of a shard held at least
// this entry, and Hash was the running hash after it.
type Mark struct {
	Position
	Hash [32]byte
}

// Log is one shard's journal. All methods may be called from any goroutine;
// Append is called by the shard's owner alone, one at a time.
type Log interface {
	// Lease waits until this node owns the shard and returns the lease.
	// It returns a *FencedError once the store is fenced.
	Lease(ctx context.Context) (Lease, error)

	// Append adds one entry under the lease and returns when it is committed:
	// fsynced by a quorum. data must not be changed afterwards.
	//
	// Errors and what they mean:
	//   ErrNotOwner     definite: the entry is not and will not be in the log.
	//   ErrTooLarge     definite, likewise.
	//   ErrNoSpace      definite, likewise: the disk reserve would be touched.
	//   ErrCancelled    definite, likewise: ctx was done before anything began.
	//   ErrClosed       definite, likewise: the journal was closed before.
	//   *LostTailError  definite, likewise: the shard's log is damaged.
	//   *FencedError    unknown: the store failed; it accepts nothing from now on.
	//   ErrUnknown      unknown: the entry may be in the log now or later. The
	//                   caller drops what it staged, asks for a new Lease and reads.
	// A cancelled ctx after the proposal has begun gives ErrUnknown.
	Append(ctx context.Context, lease Lease, data []byte) (Position, error)

	// Read returns committed entries with an index above after, in order, at
	// least one and about maxBytes at most; it waits while there is none.
	// ErrTrimmed: entries above after have been trimmed. *CorruptError: what the
	// disk gave back is not what was written; nothing of it is returned.
	// *LostTailError: the shard's log is damaged; what exists has been returned
	// before, and nothing will follow. *FencedError: likewise for the store.
	Read(ctx context.Context, after Index, maxBytes int) ([]Entry, error)

	// Last returns the position of the last committed entry known here (one that
	// Read returns or has trimmed); the zero Position while there is none.
	Last() Position

	// Contains tells whether the history of this log has an entry (or internal
	// entry) at exactly this position. Positions before the trimmed part are
	// taken on trust of their term's range. False for one beyond the end. The
	// zero Position is before everything: every history contains it.
	Contains(p Position) bool

	// SetMark tells the journal what the shard has applied, with the running
	// hash; the journal makes marks durable (within a second, and on SyncMarks).
	SetMark(m Mark)

	// Trim forgets entries up to and including upTo. The caller has made
	// durable elsewhere all that it still needs of them. Where all nodes share
	// one log, only the owner's Trim does anything, and it forgets for everyone:
	// upTo is then what the slowest node has applied.
	Trim(ctx context.Context, upTo Index) error
}

// Journal holds the logs of all shards of a node.
type Journal interface {
	// Log returns the log of a shard; it panics for a shard that the journal
	// was not opened with.
	Log(shard ShardID) Log
	// SyncMarks makes every mark set so far durable now.
	SyncMarks() error
	// Scrub reads back every entry of every shard and checks that none is
	// missing or damaged. progress may be nil; it is called with entries read.
	Scrub(ctx context.Context, progress func(done uint64)) error
	// Close stops everything; unfinished appends return ErrUnknown.
	Close() error
}

// Errors of the contract; test with errors.Is and errors.As.
var (
	ErrNotOwner = errors.New("journal: not the owner")
	ErrUnknown  = errors.New("journal: outcome unknown")
	ErrTooLarge = errors.New("journal: entry too large")
	ErrTrimmed  = errors.New("journal: entries trimmed")
	ErrClosed   = errors.New("journal: closed")

	ErrNoSpace   = errors.New("journal: disk reserve reached")
	ErrCancelled = errors.New("journal: cancelled before the append began")
)

// Definite tells whether an error of Append means that the entry is not and will
// not be in the log. After any other error the outcome is unknown.
func Definite(err error) bool {
	var lost *LostTailError
	return errors.Is(err, ErrNotOwner) || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrNoSpace) ||
		errors.Is(err, ErrCancelled) || errors.Is(err, ErrClosed) || errors.As(err, &lost)
}

// FencedError: a store has met its first fsync, checksum or space error and
// acknowledges nothing any more (invariant 7).
type FencedError struct {
	Store string // which store, as an operator knows it
	Cause error
}

func (e *FencedError) Error() string {
	return fmt.Sprintf("store %s is fenced: %v", e.Store, e.Cause)
}

func (e *FencedError) Unwrap() error { return e.Cause }

// CorruptError: data read back differs from data written.
type CorruptError struct {
	Shard ShardID
	Index Index // 0 where unknown
	Cause error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("journal of shard %d is damaged at or near entry %d: %v", e.Shard, e.Index, e.Cause)
}

func (e *CorruptError) Unwrap() error { return e.Cause }

// LostTailError: the log ends before a position that is proven to have been
// acknowledged. Have is where it ends, Proven what existed, Proof who says so.
type LostTailError struct {
	Shard        ShardID
	Have, Proven Position
	Proof        string
}

func (e *LostTailError) Error() string {
	return fmt.Sprintf("journal of shard %d ends at term %d index %d, but %s proves term %d index %d: acknowledged entries are missing",
		e.Shard, e.Have.Term, e.Have.Index, e.Proof, e.Proven.Term, e.Proven.Index)
}
