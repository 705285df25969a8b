//go:build mutant_sync

package raft

const mutantNoSync = true
