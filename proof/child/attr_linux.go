package child

import "syscall"

// attributes keep a killed drill from leaving servers behind, and a Ctrl-C at
// the terminal from reaching them: it is for us, who then stop them.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
