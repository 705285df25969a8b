package node

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tcpPatience is how long data between nodes may go without an acknowledgement by
// the other machine's kernel before the connection counts as broken. Left alone,
// TCP waits twice as long before each time it sends again: after a cut of five
// seconds nothing got through for three more. A new connection does at once.
const tcpPatience = 1500 * time.Millisecond

// giveUpSoon sets TCP_USER_TIMEOUT (RFC 5482); connections inherit a listener's.
func giveUpSoon(_, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(tcpPatience.Milliseconds()))
	}); e != nil {
		return e
	}
	return err
}
