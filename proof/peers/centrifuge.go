package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"github.com/centrifugal/protocol"
)

// Centrifuge is a small server on the centrifuge library, with its broker in
// memory: a ceiling among the peers, for it keeps nothing when it ends.
type Centrifuge struct {
	// Server returns the command that serves at an address, keeping so many
	// messages a channel: ServeCentrifuge in a process of its own.
	Server func(address string, history int) *exec.Cmd

	dir     string
	server  *process
	address string
	conns   []*centrifugeConn
	reading sync.WaitGroup
}

const centrifugePath = "/connection/websocket"

// centrifugeHistory is how many messages a channel keeps in the workloads that
// do not read them; few favour it.
const centrifugeHistory = 1000

// Name implements Peer.
func (c *Centrifuge) Name() string { return "centrifuge" }

// Lacks implements Peer.
func (c *Centrifuge) Lacks() string { return "" }

// Describe implements Peer.
func (c *Centrifuge) Describe() Description {
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == "github.com/centrifugal/centrifuge" {
				version = d.Version
			}
		}
	}
	return Description{
		Version: "centrifuge library " + version, Durable: false,
		Ack: "the message is in the memory of the server and queued to the partner; a crash loses everything",
	}
}

// Start implements Peer.
func (c *Centrifuge) Start(ctx context.Context, dir string) error {
	c.dir = dir
	return c.serve(ctx, centrifugeHistory)
}

func (c *Centrifuge) serve(ctx context.Context, history int) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	c.address = loopback(port)
	if c.server, err = startProcess("centrifuge", c.dir, "", c.Server(c.address, history)); err != nil {
		return err
	}
	return c.server.await(ctx, listens(c.address))
}

// Processes implements Peer.
func (c *Centrifuge) Processes() []int { return []int{c.server.pid()} }

// Stop implements Peer.
func (c *Centrifuge) Stop() error {
	for _, conn := range c.conns {
		conn.socket.close()
	}
	c.reading.Wait()
	err := c.server.stop(syscall.SIGTERM)
	*c = Centrifuge{Server: c.Server}
	return err
}

// gather connects n people.
func (c *Centrifuge) gather(ctx context.Context, n int, take func(i int) func(text []byte)) error {
	conns := make([]*centrifugeConn, n)
	err := each(ctx, n, 16, func(ctx context.Context, i int) error {
		s, err := dialSocket(ctx, "ws://"+c.address+centrifugePath, "centrifuge-protobuf")
		if err != nil {
			return err
		}
		conn := &centrifugeConn{socket: s, take: take(i)}
		conns[i] = conn
		c.reading.Go(func() { conn.read() })
		return conn.ask(ctx, &protocol.Command{Connect: &protocol.ConnectRequest{Token: "u" + strconv.Itoa(i)}}, nil)
	})
	c.conns = slices.DeleteFunc(conns, func(c *centrifugeConn) bool { return c == nil })
	if err != nil {
		return fmt.Errorf("connect people: %w", err)
	}
	return nil
}

// Pairs implements Peer.
func (c *Centrifuge) Pairs(ctx context.Context, n int, arrived Arrived) ([]Sender, error) {
	err := c.gather(ctx, 2*n, func(i int) func(text []byte) {
		if i%2 == 0 {
			return nil
		}
		return func(text []byte) { arrived(i/2, text) }
	})
	if err != nil {
		return nil, err
	}
	senders := make([]Sender, n)
	return senders, each(ctx, n, 16, func(ctx context.Context, i int) error {
		// The sender does not subscribe: it would be told of its own messages,
		// which neither of the others does in a room of two.
		channel := "pair" + strconv.Itoa(i)
		senders[i] = &centrifugeSender{c.conns[2*i], channel}
		return c.conns[2*i+1].subscribe(ctx, channel)
	})
}

// Room implements Peer.
func (c *Centrifuge) Room(ctx context.Context, members, senders int, arrived Arrived) ([]Sender, error) {
	err := c.gather(ctx, members, func(i int) func(text []byte) {
		return func(text []byte) { arrived(i, text) }
	})
	if err != nil {
		return nil, err
	}
	const channel = "room"
	if err := each(ctx, members, 16, func(ctx context.Context, i int) error { return c.conns[i].subscribe(ctx, channel) }); err != nil {
		return nil, err
	}
	var out []Sender
	for _, conn := range c.conns[:senders] {
		out = append(out, &centrifugeSender{conn, channel})
	}
	return out, nil
}

// Long implements Peer. The server is started anew, for its channels must keep
// more.
func (c *Centrifuge) Long(ctx context.Context, messages, bytes int) (Fetch, error) {
	if err := c.server.stop(syscall.SIGTERM); err != nil {
		return nil, err
	}
	c.server = nil
	if err := c.serve(ctx, messages); err != nil {
		return nil, err
	}
	senders, err := c.Pairs(ctx, 1, func(int, []byte) {})
	if err != nil {
		return nil, err
	}
	if err := fillRoom(ctx, senders[0], messages, bytes); err != nil {
		return nil, err
	}
	s := senders[0].(*centrifugeSender)
	return func(ctx context.Context) (n int, err error) {
		err = s.conn.ask(ctx, &protocol.Command{History: &protocol.HistoryRequest{Channel: s.channel, Limit: pageSize, Reverse: true}},
			func(r *protocol.Reply) error {
				if got := r.GetHistory().GetOffset(); got != uint64(messages) {
					return fmt.Errorf("the room has %d messages, want %d", got, messages)
				}
				n = len(r.GetHistory().GetPublications())
				return nil
			})
		return n, err
	}, nil
}

// centrifugeConn is a connected client.
type centrifugeConn struct {
	socket  *socket
	take    func(text []byte) // nil: not interested
	waiting waiting

	mu     sync.Mutex
	answer map[uint64]func(*protocol.Reply) error // of requests whose answer is wanted
}

func (c *centrifugeConn) subscribe(ctx context.Context, channel string) error {
	return c.ask(ctx, &protocol.Command{Subscribe: &protocol.SubscribeRequest{Channel: channel}}, nil)
}

// ask sends a command and waits for its reply, which read sees if it is given.
func (c *centrifugeConn) ask(ctx context.Context, command *protocol.Command, read func(*protocol.Reply) error) error {
	return c.waiting.ask(ctx, func(number uint64) error {
		if read != nil {
			c.mu.Lock()
			if c.answer == nil {
				c.answer = map[uint64]func(*protocol.Reply) error{}
			}
			c.answer[number] = read
			c.mu.Unlock()
		}
		command.Id = uint32(number)
		return c.write(command)
	})
}

func (c *centrifugeConn) write(command *protocol.Command) error {
	b, err := protocol.NewProtobufCommandEncoder().Encode(command)
	if err != nil {
		return fmt.Errorf("encode a command: %w", err)
	}
	return c.socket.write(b)
}

// read takes what the server says until the socket ends.
func (c *centrifugeConn) read() {
	for {
		frame, err := c.socket.next()
		if err == nil {
			err = eachReply(frame, c.reply)
		}
		if err != nil {
			c.waiting.fail(fmt.Errorf("the socket ended: %w", err))
			c.socket.close()
			return
		}
	}
}

// eachReply decodes the replies that one frame holds.
func eachReply(frame []byte, take func(*protocol.Reply) error) error {
	for decoder := protocol.NewProtobufReplyDecoder(frame); ; {
		r, err := decoder.Decode()
		if r != nil {
			if err := take(r); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("decode a reply: %w", err)
		}
	}
}

func (c *centrifugeConn) reply(r *protocol.Reply) error {
	if r.Id == 0 {
		switch {
		case r.Push == nil:
			return c.write(&protocol.Command{}) // a ping, and this its answer
		case r.Push.Pub != nil:
			if c.take != nil {
				c.take(r.Push.Pub.Data)
			}
		case r.Push.Disconnect != nil:
			return fmt.Errorf("the server disconnects: %s", r.Push.Disconnect.Reason)
		}
		return nil
	}
	number := uint64(r.Id)
	c.mu.Lock()
	read := c.answer[number]
	delete(c.answer, number)
	c.mu.Unlock()
	var err error
	if r.Error != nil {
		err = fmt.Errorf("the server refused: %d %s", r.Error.Code, r.Error.Message)
	} else if read != nil {
		err = read(r)
	}
	c.waiting.end(number, err)
	return nil
}

// centrifugeSender publishes to one channel.
type centrifugeSender struct {
	conn    *centrifugeConn
	channel string
}

// Send implements Sender.
func (s *centrifugeSender) Send(ctx context.Context, text string) error {
	return s.conn.ask(ctx, &protocol.Command{Publish: &protocol.PublishRequest{Channel: s.channel, Data: []byte(text)}}, nil)
}
