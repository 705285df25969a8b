package peers

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// xmppDomain is the host that the peer serves.
const xmppDomain = "localhost"

// xmppConn is one signed-in client: plain TCP, SASL PLAIN, one resource.
type xmppConn struct {
	conn   net.Conn
	stream stanzaReader

	writing sync.Mutex
}

// dialXMPP signs a user in and becomes available.
func dialXMPP(ctx context.Context, address, user, password string) (_ *xmppConn, err error) {
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("sign %s in: %w", user, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // reads and writes under way end
	defer stop()
	x := &xmppConn{conn: conn, stream: stanzaReader{in: bufio.NewReaderSize(conn, 8<<10)}}
	if err := x.signIn(user, password); err != nil {
		return nil, errors.Join(fmt.Errorf("sign %s in: %w", user, err), conn.Close())
	}
	if !stop() {
		return nil, errors.Join(context.Cause(ctx), conn.Close())
	}
	return x, nil
}

const xmppOpen = `<stream:stream to='` + xmppDomain + `' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>`

func (x *xmppConn) signIn(user, password string) error {
	if err := x.open(); err != nil {
		return err
	}
	proof := base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
	if _, err := x.converse("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>"+proof+"</auth>", "success"); err != nil {
		return err
	}
	if err := x.open(); err != nil {
		return err
	}
	_, err := x.converse("<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>"+xmppResource+"</resource></bind></iq>", "iq")
	if err != nil {
		return err
	}
	if err := x.write("<presence/>"); err != nil {
		return err
	}
	// Its own presence comes back: from then on it is reachable.
	_, err = x.await("presence")
	return err
}

// xmppResource is the name of everybody's one device.
const xmppResource = "r"

// open begins a stream and waits for its features.
func (x *xmppConn) open() error {
	if _, err := x.converse(xmppOpen, "stream:stream"); err != nil {
		return err
	}
	_, err := x.await("stream:features")
	return err
}

// converse writes and awaits an element.
func (x *xmppConn) converse(what, answer string) (element, error) {
	if err := x.write(what); err != nil {
		return element{}, err
	}
	return x.await(answer)
}

// await returns the next element with a name, passing over others.
func (x *xmppConn) await(name string) (element, error) {
	for {
		e, err := x.next()
		if err != nil {
			return e, fmt.Errorf("wait for <%s>: %w", name, err)
		}
		if e.name == "failure" || e.name == "stream:error" || e.attr("type") == "error" {
			return e, fmt.Errorf("wait for <%s>: the server said %v", name, e)
		}
		if e.name == name {
			return e, nil
		}
	}
}

// next returns the next element. One goroutine reads.
func (x *xmppConn) next() (element, error) {
	raw, err := x.stream.next()
	if err != nil {
		return element{}, err
	}
	return parseStanza(raw)
}

// write sends text as it is, whole.
func (x *xmppConn) write(text string) error {
	x.writing.Lock()
	defer x.writing.Unlock()
	_, err := x.conn.Write([]byte(text))
	return err
}

func (x *xmppConn) close() { _ = x.conn.Close() } // the server sees the end either way
