// Package sim runs the whole message plane of several nodes in one process, on
// disks and a network in memory, under a seed's schedule of faults, and judges
// what people were told against what every replica holds afterwards.
//
// What runs is what serves: journal/raft on Pebble, the view, the shards and the
// routers as node.OpenPlane wires them, joined by raft.Network and, for requests,
// by node/peer over in-memory connections. Not in it are the gateway, TLS, the
// roster and the operator's changes; the people here behave as the gateway does
// (gateway/backend.go): they repeat what was refused for a moment or had no
// answer, with the same command, within a deadline.
//
// Vocabulary: a world is one seed's cluster; a machine is a place with a disk, a
// life one start of a node on it; a person sends and reads through machines. A
// claim is something that must hold while faults come (see claims.go); the
// judgement is what must hold after them (see judge.go).
//
// Concurrency: Run must be called in a testing/synctest bubble. Time is the
// bubble's, so that hours cost seconds and nothing waits for a clock. A seed
// fixes the schedule, the faults, the words and the choices of everybody; how
// goroutines meet in between it fixes only nearly, so a rare finding may need its
// seed to be run several times.
//
// What it does not see: real disks and sockets (the drills do), disks that take
// their time (see disk), and processes that stop as a whole: a machine that does
// not take anything any more is one that is cut off, with a clock that goes on.
package sim
