//go:build !linux

package load

import (
	"context"
	"errors"
	"net"
)

// relay needs epoll.
type relay struct {
	people         map[int]*relaySocket
	seq            uint64
	dirty          []*relaySocket
	message, event []byte
}

// Relay is of Linux alone.
func Relay(_ context.Context, l net.Listener) error {
	return errors.Join(errors.New("the relay needs Linux"), l.Close())
}
