//go:build unix

package node

import "syscall"

// descriptors is how many files the process may have open. Go has raised the
// soft limit to the hard one by now.
func descriptors() uint64 {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 1024 // what a system gives at least
	}
	return uint64(l.Cur)
}
