package client

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
)

// addresses are where the messenger is. All calls and sockets of a client use
// the same one until it does not serve; then they go to the next.
type addresses struct {
	all   []address
	inUse atomic.Int64
}

// address is one base URL with its stubs.
type address struct {
	base  string
	stubs stubs
}

// checkAddresses returns the base URLs of a configuration, BaseURL first.
func (cfg *Config) checkAddresses() (bases []string, err error) {
	all := cfg.BaseURLs
	if cfg.BaseURL != "" || len(all) == 0 {
		all = append([]string{cfg.BaseURL}, all...)
	}
	for _, text := range all {
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return nil, fmt.Errorf("client: base URL %q is not http(s)://host[:port]", text)
		}
		if text = strings.TrimSuffix(text, "/"); !slices.Contains(bases, text) {
			bases = append(bases, text)
		}
	}
	return bases, nil
}

func (a *addresses) open(cfg *Config, bases []string) {
	for _, base := range bases {
		a.all = append(a.all, address{base, newStubs(cfg, base)})
	}
}

func (a *addresses) several() bool { return len(a.all) > 1 }

// current returns the address in use and its number.
func (a *addresses) current() (int64, address) {
	i := a.inUse.Load()
	return i, a.all[i]
}

// leave goes on to the next address, unless someone else has left this one.
func (a *addresses) leave(i int64) {
	a.inUse.CompareAndSwap(i, (i+1)%int64(len(a.all)))
}

// patience is how long an address may serve nothing, although it is asked,
// before another one is tried.
const patience = 1500 * time.Millisecond

// call makes one call at the address in use. One that cannot be reached has been
// sent nothing, so the next is asked at once; after another failure to serve the
// next call goes there, for whether this one had an effect is not known.
func call[R any](c *Client, f func(stubs) (R, error)) (R, error) {
	for tried := 1; ; tried++ {
		i, at := c.addresses.current()
		r, err := f(at.stubs)
		if !unserved(err) {
			return r, err
		}
		c.addresses.leave(i)
		if !unsent(err) || tried >= len(c.addresses.all) {
			return r, err
		}
	}
}

// unserved tells whether an error is for want of a server that serves: not a
// refusal, not one that is busy, and not the caller giving up.
func unserved(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	return e.Code == connect.CodeUnavailable || e.Code == connect.CodeDeadlineExceeded
}

// unsent tells whether an error came before anything was sent.
func unsent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// errUnserving is why a socket ends whose server serves nothing.
var errUnserving = errors.New("nothing was served here for a while; trying another address")

// served notes how a request fared that began then, and ends a socket that has
// served nothing for too long. Call it only where there is another address.
func (l *link) served(began time.Time, err error) {
	l.mu.Lock()
	switch {
	case !unserved(err):
		l.unserving = time.Time{}
	case l.unserving.IsZero():
		l.unserving = began
	}
	over := !l.unserving.IsZero() && time.Since(l.unserving) >= patience
	l.mu.Unlock()
	if over {
		l.end(errUnserving)
	}
}

// silence is how long a server may say nothing at all while a request waits before
// it is pinged, and then how long it has for that: a ping waits for nothing there,
// so a server that is slow answers it, and one that is frozen or cut off does not.
const silence = 800 * time.Millisecond

// hush watches a socket whose server has gone silent.
type hush struct {
	since time.Time // requests have waited, and nothing was heard
	asked time.Time // the ping; zero: none yet
}

const (
	hushNone = iota
	hushAsk  // ping it
	hushOver // it is silent: another address is to be tried
)

// step looks at the socket: whether requests wait there, and for how long nothing
// was heard.
func (h *hush) step(now time.Time, waiting bool, quiet time.Duration) int {
	if heard := now.Add(-quiet); !waiting || heard.After(h.since) {
		*h = hush{since: now}
		return hushNone
	}
	switch {
	case h.asked.IsZero() && now.Sub(h.since) >= silence:
		h.asked = now
		return hushAsk
	case !h.asked.IsZero() && now.Sub(h.asked) >= silence:
		return hushOver
	}
	return hushNone
}
