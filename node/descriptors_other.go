//go:build !unix

package node

// descriptors is how many files the process may have open; there is no such
// limit here.
func descriptors() uint64 { return 1 << 20 }
