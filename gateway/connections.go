package gateway

import (
	"net"
	"net/http"
	"sync/atomic"
)

// Connections bounds what is connected to a public server without being a
// session: requests, and whoever connects and says nothing. Every one of them is
// a file descriptor that the stores may need; a store that cannot open a file is
// fenced (invariants 7 and 8). Sessions have a bound of their own.
type Connections struct {
	most   int64
	open   atomic.Int64
	turned atomic.Uint64
}

// Bound gives the server a bound of most connections. Beyond it a new one is
// closed at once, before anything of it is read: it costs a descriptor for as
// long as that takes. Call it before the server serves.
func Bound(s *http.Server, most int) *Connections {
	c := &Connections{most: int64(most)}
	s.ConnState = c.change
	return c
}

// TurnedAway is how many connections were closed at once so far.
func (c *Connections) TurnedAway() uint64 { return c.turned.Load() }

// Open is how many connections there are now.
func (c *Connections) Open() int { return int(c.open.Load()) }

func (c *Connections) change(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if c.open.Add(1) > c.most {
			c.turned.Add(1)
			_ = conn.Close() // the server notices and says StateClosed
		}
	case http.StateClosed, http.StateHijacked: // taken over: a session from here on
		c.open.Add(-1)
	}
}
