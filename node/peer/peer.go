// Package peer carries commands and queries between the nodes of a cluster, so
// that any node serves anyone: a gateway's request reaches the owner of its
// shard wherever that is.
//
// Vocabulary: a link is one connection, in one direction of asking; a Client
// keeps one link to one node, and a Server answers links with a Backend. What
// is asked through a link that breaks has an unknown outcome; what is asked
// while there is no link is refused, for certain.
//
// A link is one TLS connection that carries length-prefixed PeerFrames in both
// directions, many requests at once, gathered into few writes. Both ends ping;
// an end that hears nothing for Silence drops the link, so that a frozen node
// holds nobody for longer.
//
// Concurrency: Client and Server may be used from any goroutine. done functions
// are called from the link's goroutines and must not block.
//
// What it does not do: it retries nothing, knows no shards, and does not decide
// whom to ask; package node does.
package peer

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
)

// Protocol is the link's name in ALPN; its number grows with what old nodes
// cannot understand.
const Protocol = "bongsu-peer/1"

const (
	// maxFrameBytes bounds a frame: a page of history is the largest.
	maxFrameBytes = 16 << 20
	// maxQueuedBytes bounds what waits to be written to one link.
	maxQueuedBytes = 32 << 20
	// gatherBytes is about how much goes into one write.
	gatherBytes = 64 << 10
	readBuffer  = 64 << 10
)

// Times of a link; tests shorten them.
type Times struct {
	Ping    time.Duration // between signs of life; 250 ms
	Silence time.Duration // after which a link is dropped; 1 s
	Dial    time.Duration // for connecting and shaking hands; 2 s
	Redial  time.Duration // longest pause between attempts; 1 s
}

func (t Times) withDefaults() Times {
	for _, f := range []struct {
		value *time.Duration
		want  time.Duration
	}{
		{&t.Ping, 250 * time.Millisecond}, {&t.Silence, time.Second}, {&t.Dial, 2 * time.Second}, {&t.Redial, time.Second},
	} {
		if *f.value <= 0 {
			*f.value = f.want
		}
	}
	return t
}

// errLinkFull: the other end reads too slowly.
var errLinkFull = errors.New("peer: too much waits to be written")

// link writes and reads the frames of one connection.
type link struct {
	conn  net.Conn
	times Times

	mu     sync.Mutex // guards what follows
	queue  []byte     // encoded frames
	err    error      // why the link has ended
	wake   chan struct{}
	closed chan struct{}
}

func newLink(conn net.Conn, times Times) *link {
	return &link{conn: conn, times: times, wake: make(chan struct{}, 1), closed: make(chan struct{})}
}

// put queues a frame.
func (l *link) put(f *nodev1.PeerFrame) error {
	size := proto.Size(f)
	if size > maxFrameBytes {
		return fmt.Errorf("peer: a frame of %d bytes, at most %d", size, maxFrameBytes)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	if len(l.queue)+size > maxQueuedBytes {
		return errLinkFull
	}
	l.queue = binary.BigEndian.AppendUint32(l.queue, uint32(size))
	queue, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(l.queue, f)
	if err != nil {
		l.queue = l.queue[:len(l.queue)-4]
		return fmt.Errorf("peer: encode: %w", err)
	}
	l.queue = queue
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

// end closes the link; the first reason stays.
func (l *link) end(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.err = err
	close(l.closed)
	_ = l.conn.Close() // the reason is known already
}

func (l *link) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// run reads and writes until the link ends; take gets each frame but pings.
func (l *link) run(ctx context.Context, take func(*nodev1.PeerFrame)) error {
	stop := context.AfterFunc(ctx, func() { l.end(ctx.Err()) })
	defer stop()
	var writing sync.WaitGroup
	writing.Go(func() { l.end(l.write()) })
	l.end(l.read(take))
	writing.Wait()
	return l.reason()
}

// write sends what is queued, and a ping when there has been nothing.
func (l *link) write() error {
	ping := time.NewTicker(l.times.Ping)
	defer ping.Stop()
	var spare []byte
	for {
		select {
		case <-l.wake:
		case <-ping.C:
			if err := l.put(&nodev1.PeerFrame{Body: &nodev1.PeerFrame_Ping{Ping: true}}); err != nil && !errors.Is(err, errLinkFull) {
				return err
			}
		case <-l.closed:
			return net.ErrClosed
		}
		l.mu.Lock()
		out := l.queue
		if len(out) == 0 { // a word that came after what it was about
			l.mu.Unlock()
			continue
		}
		l.queue, spare = spare[:0], nil // each buffer is in one place only
		l.mu.Unlock()
		if err := l.conn.SetWriteDeadline(time.Now().Add(l.times.Silence)); err != nil {
			return fmt.Errorf("peer: write: %w", err)
		}
		if _, err := l.conn.Write(out); err != nil {
			return fmt.Errorf("peer: write: %w", err)
		}
		if cap(out) <= 4*gatherBytes { // else it lets go of a burst's memory
			spare = out
		}
	}
}

func (l *link) read(take func(*nodev1.PeerFrame)) error {
	in := bufio.NewReaderSize(l.conn, readBuffer)
	var buf []byte
	for {
		if err := l.conn.SetReadDeadline(time.Now().Add(l.times.Silence)); err != nil {
			return fmt.Errorf("peer: read: %w", err)
		}
		f, err := readFrame(in, &buf)
		if err != nil {
			return err
		}
		switch f.GetBody().(type) {
		case *nodev1.PeerFrame_Ping:
			// Both ends ping, so an answer would say nothing new.
		case nil:
			return errors.New("peer: a frame of a kind that this release does not know")
		default:
			take(f)
		}
	}
}

// readFrame reads one frame; buf is kept between calls. Memory grows only with
// bytes that have come.
func readFrame(in *bufio.Reader, buf *[]byte) (*nodev1.PeerFrame, error) {
	var head [4]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return nil, fmt.Errorf("peer: read: %w", err)
	}
	size := int(binary.BigEndian.Uint32(head[:]))
	if size > maxFrameBytes {
		return nil, fmt.Errorf("peer: a frame of %d bytes is announced, at most %d", size, maxFrameBytes)
	}
	data := (*buf)[:0]
	for len(data) < size {
		at, n := len(data), min(size-len(data), max(gatherBytes, len(data)))
		if cap(data) < at+n {
			grown := make([]byte, at, at+n)
			copy(grown, data)
			data = grown
		}
		data = data[:at+n]
		if _, err := io.ReadFull(in, data[at:]); err != nil {
			return nil, fmt.Errorf("peer: read: %w", err)
		}
	}
	if cap(data) <= 4*gatherBytes {
		*buf = data
	}
	f := &nodev1.PeerFrame{}
	if err := proto.Unmarshal(data, f); err != nil {
		return nil, fmt.Errorf("peer: a frame cannot be decoded: %w", err)
	}
	return f, nil
}
