package peers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/bongsu-im/bongsu/client"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/bongsu-im/bongsu/internal/clock"
)

// Bongsu is our own server, from a binary, with its defaults.
type Bongsu struct {
	// Bin is the binary.
	Bin string

	server  *process
	url     string
	http    *http.Client
	clients []*client.Client
	people  []*bongsuPerson
	reading sync.WaitGroup
	stop    context.CancelFunc // ends the pings
}

const bongsuPassword = "peers-password"

// Name implements Peer.
func (b *Bongsu) Name() string { return "bongsu" }

// Lacks implements Peer.
func (b *Bongsu) Lacks() string {
	if info, err := os.Stat(b.Bin); err != nil || info.IsDir() {
		return fmt.Sprintf("no binary at %s: run `make build` in the project's folder, or give --bin", b.Bin)
	}
	return ""
}

// Describe implements Peer.
func (b *Bongsu) Describe() Description {
	out, err := exec.Command(b.Bin, "version").CombinedOutput()
	version := strings.TrimSpace(string(out))
	if err != nil {
		version = "unknown"
	}
	return Description{
		Version: version, Durable: true,
		Ack: "the message is in the fsynced journal, from which both sides' history is made",
	}
}

// Start implements Peer.
func (b *Bongsu) Start(ctx context.Context, dir string) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	bin, err := filepath.Abs(b.Bin)
	if err != nil {
		return fmt.Errorf("find the binary: %w", err)
	}
	address := loopback(port)
	// Of its settings only what must be: where to listen, and no echo friend,
	// who takes no part.
	cmd := exec.Command(bin, "serve", "--data", filepath.Join(dir, "data"), "--listen", address, "--no-echo")
	cmd.Env = slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "BONGSU_") })
	if b.server, err = startProcess("bongsu", dir, "", cmd); err != nil {
		return err
	}
	b.url, b.http = "http://"+address, &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	return b.server.await(ctx, func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+"/readyz", nil)
		if err != nil {
			return err
		}
		response, err := b.http.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("not ready: %s", response.Status)
		}
		return nil
	})
}

// Processes implements Peer.
func (b *Bongsu) Processes() []int { return []int{b.server.pid()} }

// Stop implements Peer.
func (b *Bongsu) Stop() error {
	if b.stop != nil {
		b.stop()
	}
	for _, p := range b.people {
		p.socket.close()
	}
	b.reading.Wait()
	for _, c := range b.clients {
		c.Close()
	}
	if b.http != nil {
		b.http.CloseIdleConnections()
	}
	err := b.server.stop(syscall.SIGTERM)
	*b = Bongsu{Bin: b.Bin}
	return err
}

// Pairs implements Peer.
func (b *Bongsu) Pairs(ctx context.Context, n int, arrived Arrived) ([]Sender, error) {
	if err := b.gather(ctx, 2*n, func(i int) func(text []byte) {
		if i%2 == 0 {
			return nil
		}
		return func(text []byte) { arrived(i/2, text) }
	}); err != nil {
		return nil, err
	}
	senders := make([]Sender, n)
	err := each(ctx, n, 16, func(ctx context.Context, i int) error {
		return patiently(ctx, func() error {
			room, err := b.clients[2*i].OpenDirect(ctx, b.clients[2*i+1].UserID())
			senders[i] = &bongsuSender{b.people[2*i], room.GetRoomId()}
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("open the pairs' rooms: %w", err)
	}
	return senders, nil
}

// Room implements Peer.
func (b *Bongsu) Room(ctx context.Context, members, senders int, arrived Arrived) ([]Sender, error) {
	if err := b.gather(ctx, members, func(i int) func(text []byte) {
		return func(text []byte) { arrived(i, text) }
	}); err != nil {
		return nil, err
	}
	var others []string
	for _, c := range b.clients[1:] {
		others = append(others, c.UserID())
	}
	room := ""
	for chunk := range slices.Chunk(others, 99) { // so many may be invited at once
		err := patiently(ctx, func() error {
			if room == "" {
				r, err := b.clients[0].CreateGroup(ctx, "peers", chunk, "")
				room = r.GetRoomId()
				return err
			}
			_, err := b.clients[0].Invite(ctx, room, chunk...)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("make the room: %w", err)
		}
	}
	var out []Sender
	for i := range senders {
		out = append(out, &bongsuSender{b.people[i], room})
	}
	return out, nil
}

// Long implements Peer.
func (b *Bongsu) Long(ctx context.Context, messages, bytes int) (Fetch, error) {
	senders, err := b.Pairs(ctx, 1, func(int, []byte) {})
	if err != nil {
		return nil, err
	}
	if err := fillRoom(ctx, senders[0], messages, bytes); err != nil {
		return nil, err
	}
	s := senders[0].(*bongsuSender)
	return func(ctx context.Context) (n int, err error) {
		err = s.person.ask(ctx, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_List{
			List: &edgev1.ListRequest{RoomId: s.room, Limit: pageSize},
		}}, func(frame []byte) error {
			var f edgev1.ServerFrame
			if err := proto.Unmarshal(frame, &f); err != nil {
				return err
			}
			if got := f.GetList().GetLastSeq(); got != uint64(messages) {
				return fmt.Errorf("the room has %d messages, want %d", got, messages)
			}
			n = len(f.GetList().GetMessages())
			return nil
		})
		return n, err
	}, nil
}

// fillParallel is how many messages are under way while a room is filled; ours
// refuses more than 64 requests at once on a socket.
const fillParallel = 32

// fillRoom sends messages.
func fillRoom(ctx context.Context, from Sender, messages, bytes int) error {
	err := each(ctx, messages, fillParallel, func(ctx context.Context, i int) error {
		return from.Send(ctx, body(fmt.Sprintf("message %d ", i), bytes))
	})
	if err != nil {
		return fmt.Errorf("fill the room: %w", err)
	}
	return nil
}

// gather signs n people up and connects them.
func (b *Bongsu) gather(ctx context.Context, n int, take func(i int) func(text []byte)) error {
	b.clients = make([]*client.Client, n)
	var err error
	for i := range b.clients {
		if b.clients[i], err = client.New(client.Config{BaseURL: b.url, HTTPClient: b.http, Timeout: 30 * time.Second}); err != nil {
			b.clients = b.clients[:i]
			return err
		}
	}
	// Hashing a password takes a core 150 ms: enough at once to keep it busy.
	err = each(ctx, n, max(4, runtime.NumCPU()), func(ctx context.Context, i int) error {
		return patiently(ctx, func() error {
			_, err := b.clients[i].SignUp(ctx, &edgev1.SignUpRequest{Login: fmt.Sprintf("peers-%d", i), Password: bongsuPassword, DeviceName: "peers"})
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("sign people up: %w", err)
	}
	people := make([]*bongsuPerson, n)
	err = each(ctx, n, 16, func(ctx context.Context, i int) error {
		c := b.clients[i]
		if time.Until(c.Session().ExpiresAt) < 5*time.Minute { // the first have waited long for the last
			if err := patiently(ctx, func() error { return c.Refresh(ctx) }); err != nil {
				return err
			}
		}
		s, err := dialSocket(ctx, "ws"+strings.TrimPrefix(b.url, "http")+"/v1/socket", "bongsu.v1")
		if err != nil {
			return err
		}
		p := &bongsuPerson{socket: s, take: take(i)}
		people[i] = p
		b.reading.Go(func() { p.read() })
		ctx, cancel := context.WithTimeout(ctx, setupTimeout)
		defer cancel()
		return p.ask(ctx, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_Hello{Hello: &edgev1.HelloRequest{AccessToken: c.Session().AccessToken}}}, nil)
	})
	b.people = slices.DeleteFunc(people, func(p *bongsuPerson) bool { return p == nil })
	if err != nil {
		return fmt.Errorf("connect people: %w", err)
	}
	alive, stop := context.WithCancel(context.WithoutCancel(ctx))
	b.stop = stop
	b.reading.Go(func() { b.keepAlive(alive) })
	return nil
}

// keepAlive pings each socket every 10 s, spread over time: the server ends
// those that are silent.
func (b *Bongsu) keepAlive(ctx context.Context) {
	const every = 10 * time.Second
	people := b.people
	for round := time.Now(); ; round = round.Add(every) {
		for i, p := range people {
			if !sleepUntil(ctx, round.Add(every*time.Duration(i+1)/time.Duration(len(people)))) {
				return
			}
			// Nobody waits for the answer; a broken socket is its reader's business.
			frame, err := proto.Marshal(&edgev1.ClientFrame{Id: bongsuPing, Request: &edgev1.ClientFrame_Ping{Ping: &edgev1.PingRequest{}}})
			if err == nil {
				_ = p.socket.write(frame)
			}
		}
	}
}

// bongsuPing is an ID that no request has in a run's time.
const bongsuPing = 1<<32 - 1

// patiently tries while the server asks for patience, for five minutes.
func patiently(ctx context.Context, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for {
		err := try()
		if err == nil || !client.IsRetryable(err) {
			return err
		}
		if !sleepUntil(ctx, time.Now().Add(max(client.RetryAfter(err), 100*time.Millisecond))) {
			return err
		}
	}
}

// bongsuPerson is a signed-in socket.
type bongsuPerson struct {
	socket  *socket
	take    func(text []byte) // nil: not interested
	waiting waiting

	mu     sync.Mutex
	answer map[uint64]func(frame []byte) error // of requests whose answer is wanted
}

// ask sends a request and waits for its answer, which read sees if it is given.
func (p *bongsuPerson) ask(ctx context.Context, f *edgev1.ClientFrame, read func(frame []byte) error) error {
	return p.waiting.ask(ctx, func(number uint64) error {
		if read != nil {
			p.mu.Lock()
			if p.answer == nil {
				p.answer = map[uint64]func([]byte) error{}
			}
			p.answer[number] = read
			p.mu.Unlock()
		}
		f.Id = uint32(number)
		b, err := proto.Marshal(f)
		if err != nil {
			return err
		}
		return p.socket.write(b)
	})
}

// read takes what the server says until the socket ends.
func (p *bongsuPerson) read() {
	for {
		frame, err := p.socket.next()
		if err != nil {
			p.waiting.fail(fmt.Errorf("the socket ended: %w", err))
			return
		}
		f, err := parseBongsu(frame)
		if err != nil {
			p.waiting.fail(err)
			p.socket.close()
			return
		}
		if f.id == 0 {
			if f.text != nil && p.take != nil {
				p.take(f.text)
			}
			continue
		}
		p.mu.Lock()
		read := p.answer[f.id]
		delete(p.answer, f.id)
		p.mu.Unlock()
		if f.err == nil && read != nil {
			f.err = read(frame)
		}
		p.waiting.end(f.id, f.err)
	}
}

// Numbers of the fields that parseBongsu looks at.
const (
	frameID, frameError, frameEvent = 1, 2, 3
	eventMessage, eventLag          = 1, 8
	messageEventMessage             = 1
	messageText                     = 5
)

// bongsuFrame is what the generator needs of a ServerFrame.
type bongsuFrame struct {
	id   uint64
	err  error
	text []byte // of a message event; nil for other events
}

// parseBongsu looks into a ServerFrame without decoding all of it.
func parseBongsu(frame []byte) (out bongsuFrame, err error) {
	_, out.id, _ = field(frame, frameID)
	if _, _, failed := field(frame, frameError); failed {
		var f edgev1.ServerFrame
		if err := proto.Unmarshal(frame, &f); err != nil {
			return out, fmt.Errorf("read an error of the server: %w", err)
		}
		out.err = fmt.Errorf("%s: %s", f.GetError().GetCode(), f.GetError().GetMessage())
		if out.id == 0 {
			return out, out.err // about the socket itself
		}
		return out, nil
	}
	event, _, ok := field(frame, frameEvent)
	if !ok {
		return out, nil
	}
	if _, _, ok := field(event, eventLag); ok {
		return out, errors.New("the server dropped events of a slow socket")
	}
	if e, _, ok := field(event, eventMessage); ok {
		m, _, _ := field(e, messageEventMessage)
		out.text, _, _ = field(m, messageText)
	}
	return out, nil
}

// field finds the first field with a number in an encoded message: its bytes or
// its integer.
func field(message []byte, want protowire.Number) (b []byte, n uint64, ok bool) {
	for len(message) > 0 {
		number, kind, head := protowire.ConsumeTag(message)
		if head < 0 {
			return nil, 0, false
		}
		message = message[head:]
		size := protowire.ConsumeFieldValue(number, kind, message)
		if size < 0 {
			return nil, 0, false
		}
		if number == want {
			switch kind {
			case protowire.BytesType:
				b, _ = protowire.ConsumeBytes(message)
			case protowire.VarintType:
				n, _ = protowire.ConsumeVarint(message)
			}
			return b, n, true
		}
		message = message[size:]
	}
	return nil, 0, false
}

// bongsuSender sends into one room.
type bongsuSender struct {
	person *bongsuPerson
	room   string
}

// Send implements Sender.
func (s *bongsuSender) Send(ctx context.Context, text string) error {
	id, err := client.NewMessageID(time.Now(), clock.Random)
	if err != nil {
		return err
	}
	return s.person.ask(ctx, &edgev1.ClientFrame{Request: &edgev1.ClientFrame_Send{
		Send: &edgev1.SendRequest{RoomId: s.room, ClientId: id, Text: text},
	}}, nil)
}
