package child

import "syscall"

// dieWithParent keeps a killed drill from leaving servers behind.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
