//go:build !linux

package gateway

import "net"

// loops exist only where there is epoll; elsewhere every session has goroutines.
type loops struct{}

func (g *Gateway) park(*session, net.Conn) wire { return nil }

func (l *loops) stop() {}
