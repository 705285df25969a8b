//go:build !linux

package child

import "syscall"

// attributes keep a Ctrl-C at the terminal from reaching servers: it is for us,
// who then stop them.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
