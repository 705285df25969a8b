// Package mutant plants known defects in a build with the tag mutants, so that
// the tests of the tests can ask whether a simulation turns red. In every other
// build On is constantly false and the planted code is not even compiled in.
//
// Vocabulary: a mutant is one defect; at most one is on in a process, named by
// the environment variable BONGSU_MUTANT. One tag for all of them, because each
// build of the product costs more than a run that finds one.
//
// Concurrency: what is on is read once, at the start, and never changes. It does
// not say what must notice a mutant; proof/sim does.
package mutant

// Name of a mutant.
type Name string

// The mutants. The place that asks On says what is wrong there.
const (
	// AckEarly answers a batch before its record is committed.
	AckEarly Name = "ack-early"
	// StaleOwner lets a deposed owner serve on until it tries to append.
	StaleOwner Name = "stale-owner"
	// FreshAlways lets a replica that has lost its leader answer reads.
	FreshAlways Name = "fresh-always"
	// ApplyTwice applies now and then a record of another owner two times.
	ApplyTwice Name = "apply-twice"
	// UnknownRefused takes a broken link for the certainty that nothing was done.
	UnknownRefused Name = "unknown-refused"
	// StaleNo gives a replica's no without the owner's word.
	StaleNo Name = "stale-no"
	// NoFloors forgets what a node has acknowledged for others.
	NoFloors Name = "no-floors"
	// IgnorePositions answers reads without waiting for the positions they name.
	IgnorePositions Name = "ignore-positions"
	// TrimTooFar trims what no flush of the view has made durable.
	TrimTooFar Name = "trim-too-far"
	// SkipCatchUp lets a new owner decide before it has applied what was before it.
	SkipCatchUp Name = "skip-catch-up"
)
