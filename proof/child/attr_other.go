//go:build !linux

package child

import "syscall"

// dieWithParent: only Linux can.
func dieWithParent() *syscall.SysProcAttr { return nil }
