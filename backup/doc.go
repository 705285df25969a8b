// Package backup keeps a copy of the journal away from the machine, and gives it
// back: the log is the truth, so an archive of the log is an archive of
// everything.
//
// Vocabulary: an archive is what one cluster has put into a Store. A segment is
// an object with consecutive entries of one shard, from behind one position up to
// another, with the running hash before and after; segments that join form the
// shard's chain, whose end is the archive's tip for that shard. A manifest is a
// small object that says what a node has archived by a certain time, with the
// files that are not in the journal (the keys that sign tokens). Every object is
// compressed, then sealed (age) for one or more recipients: who writes an archive
// cannot read it, and needs no secret. What a writer must know to go on, the
// names of the objects say; what a reader believes, the contents prove.
//
// A copy that lacks something is worse than none, because it is trusted. So
// nothing here is believed for its name: a reader follows the running hash of
// every shard from its first record to its last, over all seams, and holds the
// ends against the manifests, which prove what must be there. Objects are never
// changed, only added, and removed once another holds all they hold.
//
// Concurrency: a Writer belongs to one goroutine; several nodes may write one
// archive at a time, each the shards that it owns, and overlap when ownership
// moves. An Archive may be read from several goroutines.
//
// What it does not do: it decides about no schedule (node does), opens no journal
// and makes no data folder (node and journal/raft do), and keeps no view: that is
// made again from the entries.
package backup
