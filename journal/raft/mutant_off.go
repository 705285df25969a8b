//go:build !mutant_sync

package raft

// mutantNoSync is a planted defect, on only in a build with the tag mutant_sync:
// entries are acknowledged without an fsync. The power drill must notice.
const mutantNoSync = false
