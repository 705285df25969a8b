package peer

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// backend answers a send with its text as the sequence's reason, so that
// answers can be told apart; a text of "wait" is answered by release.
type backend struct {
	mu      sync.Mutex
	waiting []func()
}

func (b *backend) Begin(cmd *nodev1.Command, deadline time.Time, done func(*nodev1.Reply, error)) {
	text := cmd.GetSend().GetText()
	answer := func() {
		done(&nodev1.Reply{Kind: &nodev1.Reply_Message{Message: &edgev1.Message{Text: text}}}, nil)
	}
	switch text {
	case "wait":
		b.mu.Lock()
		defer b.mu.Unlock()
		b.waiting = append(b.waiting, answer)
	case "unknown":
		done(nil, errors.New("nobody knows"))
	default:
		go answer()
	}
}

func (b *backend) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, w := range b.waiting {
		w()
	}
	b.waiting = nil
}

func (b *backend) Query(ctx context.Context, q *nodev1.Query) (*nodev1.QueryReply, error) {
	if q.GetHistory() != nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &nodev1.QueryReply{Kind: &nodev1.QueryReply_RoomIds{RoomIds: &nodev1.RoomIDs{RoomIds: [][]byte{q.GetActor()}}}}, nil
}

// world is a client and a server with a pipe between them.
type world struct {
	t       *testing.T
	backend *backend
	client  *Client
	server  *Server
	stop    func()

	mu    sync.Mutex
	down  bool     // dialling fails
	ends  net.Conn // the client's end of the newest link
	links int
	serve sync.WaitGroup
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, backend: &backend{}}
	log := slog.New(slog.DiscardHandler)
	w.server = NewServer(w.backend, nil, log, Times{})
	ctx, cancel := context.WithCancel(context.Background())
	w.client = NewClient("n2", func(context.Context) (net.Conn, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.down {
			return nil, errors.New("nobody is there")
		}
		a, b := net.Pipe()
		w.ends = a
		w.links++
		w.serve.Go(func() { w.server.Serve(ctx, b, "n1") })
		return a, nil
	}, log, Times{})
	ran := make(chan struct{})
	go func() { defer close(ran); w.client.Run(ctx) }()
	w.stop = func() { w.backend.release(); cancel(); <-ran; w.serve.Wait() }
	synctest.Wait()
	return w
}

func (w *world) set(down bool) { w.mu.Lock(); w.down = down; w.mu.Unlock() }
func (w *world) cut()          { w.mu.Lock(); _ = w.ends.Close(); w.mu.Unlock() }

type answer struct {
	reply *nodev1.Reply
	err   error
}

func (w *world) begin(text string, within time.Duration) <-chan answer {
	c := make(chan answer, 2)
	cmd := &nodev1.Command{Kind: &nodev1.Command_Send{Send: &nodev1.Send{Text: text}}}
	w.client.Begin(cmd, time.Now().Add(within), func(r *nodev1.Reply, err error) { c <- answer{r, err} })
	return c
}

func once(t *testing.T, c <-chan answer) answer {
	t.Helper()
	a := <-c
	synctest.Wait()
	if len(c) > 0 {
		t.Errorf("answered twice: %v, then %v", a, <-c)
	}
	return a
}

func TestManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		slow := w.begin("wait", time.Minute)
		var all []<-chan answer
		for i := range 500 {
			all = append(all, w.begin(fmt.Sprint("text ", i), time.Minute))
		}
		for i, c := range all {
			if a := once(t, c); a.err != nil || a.reply.GetMessage().GetText() != fmt.Sprint("text ", i) {
				t.Fatalf("request %d: %v, %v", i, a.reply, a.err)
			}
		}
		w.backend.release()
		if a := once(t, slow); a.reply.GetMessage().GetText() != "wait" {
			t.Errorf("the slow one: %v, %v", a.reply, a.err)
		}
		if a := once(t, w.begin("unknown", time.Minute)); a.err == nil || !strings.Contains(a.err.Error(), "nobody knows") {
			t.Errorf("an unknown outcome: %v, %v", a.reply, a.err)
		}
		if r, err := w.client.Query(t.Context(), &nodev1.Query{Actor: []byte("me")}); err != nil || string(r.GetRoomIds().GetRoomIds()[0]) != "me" {
			t.Errorf("query: %v, %v", r, err)
		}
		w.stop()
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		began := time.Now()
		if a := once(t, w.begin("wait", 3*time.Second)); !errors.Is(a.err, context.DeadlineExceeded) || time.Since(began) > 3*time.Second+sweepEvery {
			t.Errorf("after %v: %v, %v", time.Since(began), a.reply, a.err)
		}
		if a := once(t, w.begin("x", 0)); a.reply.GetError() == nil {
			t.Errorf("asked after its deadline: %v, %v", a.reply, a.err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		q := &nodev1.Query{Kind: &nodev1.Query_History{History: &nodev1.HistoryQuery{}}}
		if r, err := w.client.Query(ctx, q); err == nil {
			t.Errorf("a query that nobody answers: %v", r)
		}
		w.backend.release() // too late: nobody is asked twice
		if a := once(t, w.begin("after", time.Second)); a.reply.GetMessage().GetText() != "after" {
			t.Errorf("after the late answer: %v, %v", a.reply, a.err)
		}
		w.stop()
	})
}

func TestBrokenLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		waiting := w.begin("wait", time.Hour)
		w.set(true)
		w.cut()
		if a := once(t, waiting); !errors.Is(a.err, ErrLinkBroken) {
			t.Errorf("in flight when the link broke: %v, %v", a.reply, a.err)
		}
		if a := once(t, w.begin("x", time.Hour)); a.err != nil || a.reply.GetError().GetInfo().GetReason() != "not_owner" {
			t.Errorf("without a link: %v, %v", a.reply, a.err)
		}
		if r, err := w.client.Query(t.Context(), &nodev1.Query{}); err != nil || r.GetError().GetCode() != "unavailable" {
			t.Errorf("query without a link: %v, %v", r, err)
		}
		time.Sleep(time.Minute)
		w.set(false)
		time.Sleep(time.Second) // the longest pause between attempts
		if a := once(t, w.begin("back", time.Hour)); a.reply.GetMessage().GetText() != "back" {
			t.Errorf("after it came back: %v, %v", a.reply, a.err)
		}
		w.stop()
	})
}

// A node that is frozen, not dead, keeps its connections open: nobody may wait
// for it longer than Silence.
func TestSilenceEndsALink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, b) }() // reads, and never says anything
		ctx, cancel := context.WithCancel(context.Background())
		first := true
		c := NewClient("n2", func(context.Context) (net.Conn, error) {
			if !first {
				return nil, errors.New("gone")
			}
			first = false
			return a, nil
		}, slog.New(slog.DiscardHandler), Times{})
		ran := make(chan struct{})
		go func() { defer close(ran); c.Run(ctx) }()
		synctest.Wait()
		began := time.Now()
		told := make(chan answer, 2)
		c.Begin(&nodev1.Command{}, began.Add(time.Hour), func(r *nodev1.Reply, err error) { told <- answer{r, err} })
		if x := once(t, told); !errors.Is(x.err, ErrLinkBroken) || time.Since(began) > time.Second {
			t.Errorf("after %v: %v, %v", time.Since(began), x.reply, x.err)
		}
		cancel()
		<-ran
		_ = b.Close()
	})
}

// What is queued while a write is under way must not touch what is being
// written, also after the writer was woken for nothing.
func TestWritesDoNotMix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		l := newLink(a, Times{}.withDefaults())
		ended := make(chan struct{})
		go func() { defer close(ended); l.end(l.write()) }()
		in, buf := bufio.NewReader(b), []byte(nil)
		put := func(n uint64) {
			if err := l.put(&nodev1.PeerFrame{Id: n, Body: &nodev1.PeerFrame_Unknown{Unknown: strings.Repeat(fmt.Sprint(n%10), 100)}}); err != nil {
				t.Fatal(err)
			}
		}
		take := func(want uint64) {
			f, err := readFrame(in, &buf)
			if err != nil || f.GetId() != want || f.GetUnknown() != strings.Repeat(fmt.Sprint(want%10), 100) {
				t.Fatalf("frame %d came as %v, %v", want, f, err)
			}
		}
		for n := uint64(1); n < 30; n += 3 {
			put(n)
			take(n)
			l.wake <- struct{}{} // for nothing
			synctest.Wait()
			put(n + 1)
			synctest.Wait() // the writer is in the middle of it, as nobody reads
			put(n + 2)
			take(n + 1)
			take(n + 2)
		}
		l.end(net.ErrClosed)
		<-ended
		_ = b.Close()
	})
}

// An idle link lives on pings alone.
func TestIdleLinkLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		time.Sleep(time.Hour)
		if w.links != 1 || !w.client.Linked() {
			t.Errorf("%d links were made in an idle hour", w.links)
		}
		w.stop()
	})
}

func frame(t testing.TB, f *nodev1.PeerFrame) []byte {
	b, err := proto.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

func TestBadFramesEndTheLink(t *testing.T) {
	long := binary.BigEndian.AppendUint32(nil, maxFrameBytes+1)
	for name, sent := range map[string][]byte{
		"too long":     long,
		"no kind":      frame(t, &nodev1.PeerFrame{Id: 1}),
		"an answer":    frame(t, &nodev1.PeerFrame{Id: 1, Body: &nodev1.PeerFrame_Reply{Reply: &nodev1.Reply{}}}),
		"no protobuf":  {0, 0, 0, 2, 0xff, 0xff},
		"half a frame": {0, 0, 0, 9, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			served := make(chan struct{})
			go func() {
				defer close(served)
				NewServer(&backend{}, nil, slog.New(slog.DiscardHandler), Times{}).Serve(context.Background(), b, "n1")
			}()
			go func() { _, _ = io.Copy(io.Discard, a) }()
			if _, err := a.Write(sent); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			<-served
			_ = a.Close()
		})
	}
}

// FuzzFrame: whatever comes is a frame or an error, memory follows what has
// come, and what was read is written back the same.
func FuzzFrame(f *testing.F) {
	f.Add(frame(f, &nodev1.PeerFrame{Id: 7, DeadlineMs: 9, Body: &nodev1.PeerFrame_Command{Command: &nodev1.Command{Actor: []byte("a")}}}))
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		var buf []byte
		in := bufio.NewReader(bytes.NewReader(data))
		for {
			m, err := readFrame(in, &buf)
			if cap(buf) > 2*len(data)+gatherBytes {
				t.Fatalf("%d bytes came, %d are held", len(data), cap(buf))
			}
			if err != nil {
				return
			}
			again, err := readFrame(bufio.NewReader(bytes.NewReader(frame(t, m))), new([]byte))
			if err != nil || !proto.Equal(m, again) {
				t.Fatalf("%v was read, and again as %v, %v", m, again, err)
			}
		}
	})
}
