package node_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/bongsu-im/bongsu/client"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/node"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// running is a node of a test.
type running struct {
	*node.Node
	ended chan error // holds how Run ended; whoever takes it puts it back
	stop  func() error
}

// start runs a node and waits until it serves.
func start(t *testing.T, cfg node.Config) *running {
	t.Helper()
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	cfg.DrainTimeout = 2 * time.Second
	n, err := node.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	r := &running{Node: n, stop: func() error { cancel(); err := <-ended; ended <- err; return err }}
	t.Cleanup(func() { _ = r.stop() })
	select {
	case <-n.Serving():
	case err := <-ended:
		ended <- err
		t.Fatalf("did not serve: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("did not serve within 30 s")
	}
	return r
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", strings.TrimSpace(string(b)))
	return len(b), nil
}

// join signs someone up.
func join(t *testing.T, url, login string) *client.Client {
	t.Helper()
	transport := &http.Transport{}
	c, err := client.New(client.Config{BaseURL: url, HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); transport.CloseIdleConnections() })
	if _, err := c.SignUp(t.Context(), &edgev1.SignUpRequest{Login: login, Password: "a long password", DisplayName: login, DeviceName: "test"}); err != nil {
		t.Fatal(err)
	}
	return c
}

func connect(t *testing.T, c *client.Client) *client.Conn {
	t.Helper()
	conn := c.Connect(context.Background(), client.ConnectOptions{Queue: -1, Backoff: client.Backoff{Base: 5 * time.Millisecond, Max: 100 * time.Millisecond}})
	t.Cleanup(conn.Close)
	return conn
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// Someone alone sees messages flow: the echo friend is there and answers.
func TestEchoFriendAnswers(t *testing.T) {
	n := start(t, node.Config{Data: t.TempDir(), Echo: true})
	for path, want := range map[string]string{"/healthz": "ok", "/readyz": "ready", "/metrics": "bongsu_"} {
		if code, body := get(t, n.URL()+path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d %.60q", path, code, body)
		}
	}
	jimin := join(t, n.URL(), "jimin")
	friends, _, err := jimin.Friends(t.Context())
	if err != nil || len(friends) != 1 || !friends[0].GetBot() {
		t.Fatalf("friends %v, %v", friends, err)
	}
	conn := connect(t, jimin)
	room, err := conn.OpenDirect(t.Context(), friends[0].GetUserId())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Send(t.Context(), &edgev1.SendRequest{RoomId: room.GetRoomId(), ClientId: "0199aaaa-0000-7000-8000-000000000001", Text: "안녕하세요"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for m, err := range conn.Follow(ctx, room.GetRoomId(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if m.GetSenderId() != jimin.UserID() && strings.Contains(m.GetText(), "안녕하세요") && m.GetReplyTo() == 0 {
			return
		}
		if m.GetSenderId() != jimin.UserID() && strings.Contains(m.GetText(), "메아리") {
			return
		}
	}
}

// A planned stop is clean, a second process is refused, and everything is
// there afterwards.
func TestStopAndStartAgain(t *testing.T) {
	dir := t.TempDir()
	n := start(t, node.Config{Data: dir})
	jimin := join(t, n.URL(), "jimin")
	room, err := jimin.OpenDirect(t.Context(), jimin.UserID())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jimin.Send(t.Context(), &edgev1.SendRequest{RoomId: room.GetRoomId(), ClientId: "0199aaaa-0000-7000-8000-000000000001", Text: "우산"}); err != nil {
		t.Fatal(err)
	}
	second, err := node.New(node.Config{Data: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Fatalf("a second process on the same folder: %v", err)
	}
	if err := n.stop(); err != nil {
		t.Fatalf("stop: %v", err)
	}
	n = start(t, node.Config{Data: dir, Listen: strings.TrimPrefix(n.URL(), "http://")})
	page, err := jimin.ListAfter(t.Context(), room.GetRoomId(), 0)
	if err != nil || len(page.GetMessages()) != 1 || page.GetMessages()[0].GetText() != "우산" {
		t.Fatalf("after the restart: %v, %v", page, err)
	}
}

// The one hole of a single machine: the disk comes back without its last
// words, marks and all. The client's position proves it, and the client sends
// again what it holds; others read it once.
func TestLostTailIsFoundAndRepairedByClients(t *testing.T) {
	disk := durable.NewCrashable()
	n := start(t, node.Config{Data: "data", FS: disk})
	address := strings.TrimPrefix(n.URL(), "http://")
	jimin, minsu := join(t, n.URL(), "jimin"), join(t, n.URL(), "minsu")
	conn := connect(t, jimin)
	room, err := conn.OpenDirect(t.Context(), minsu.UserID())
	if err != nil {
		t.Fatal(err)
	}
	acked := make(chan *edgev1.Message, 100)
	outbox := client.NewOutbox(conn, client.NewMemoryStore(), client.OutboxOptions{
		Backoff: client.Backoff{Base: 5 * time.Millisecond, Max: 100 * time.Millisecond},
		OnAck:   func(m *edgev1.Message) { acked <- m },
	})
	t.Cleanup(outbox.Close)
	say := func(text string) {
		t.Helper()
		if _, err := outbox.Send(client.Draft{RoomID: room.GetRoomId(), Text: text}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-acked:
		case <-time.After(20 * time.Second):
			t.Fatalf("%q was not acknowledged", text)
		}
	}
	for i := range 3 {
		say(fmt.Sprint("kept ", i))
	}
	truncated := disk.Crash(0, 1) // the disk as it will come back
	for i := range 3 {
		say(fmt.Sprint("lost ", i))
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	n = start(t, node.Config{Data: "data", FS: truncated, Listen: address})
	for again := 0; again < 3; { // acknowledged once more, unasked; what was kept may be, too
		select {
		case m := <-acked:
			if strings.HasPrefix(m.GetText(), "lost ") {
				again++
			}
		case <-time.After(30 * time.Second):
			t.Fatal("the client did not send again what the disk had lost")
		}
	}
	page, err := minsu.ListAfter(t.Context(), room.GetRoomId(), 0)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, m := range page.GetMessages() {
		texts = append(texts, m.GetText())
	}
	if got, want := strings.Join(texts, ", "), "kept 0, kept 1, kept 2, lost 0, lost 1, lost 2"; got != want {
		t.Fatalf("the other side reads %q, want %q", got, want)
	}
}

// A journal that ends before its mark is not served, and says so; accepting
// the loss lets it go on, with the loss in its journal.
func TestLossBeforeTheMarkIsAcceptedByHand(t *testing.T) {
	disk := durable.NewCrashable()
	n := start(t, node.Config{Data: "data", FS: disk})
	jimin := join(t, n.URL(), "jimin")
	room, err := jimin.OpenDirect(t.Context(), jimin.UserID())
	if err != nil {
		t.Fatal(err)
	}
	send := func(i int) error {
		_, err := jimin.Send(t.Context(), &edgev1.SendRequest{RoomId: room.GetRoomId(), ClientId: fmt.Sprintf("0199aaaa-0000-7000-8000-%012d", i), Text: fmt.Sprint("message ", i)})
		return err
	}
	if err := send(1); err != nil {
		t.Fatal(err)
	}
	old := disk.Crash(0, 1)
	if err := send(2); err != nil {
		t.Fatal(err)
	}
	if err := n.stop(); err != nil { // marks are made durable
		t.Fatal(err)
	}
	// The journal's store is the old one, the marks are the new ones.
	for _, name := range []string{"marks.0", "marks.1"} {
		b, err := durable.ReadFile(disk, filepath.Join("data", "journal", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := durable.WriteFile(old, filepath.Join("data", "journal", name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	report, err := node.Check(t.Context(), node.Config{Data: "data", FS: old, Logger: slog.New(slog.DiscardHandler)}, func(string, int, int) {})
	if err != nil || len(report.Missing) == 0 || report.Whole() || !strings.Contains(report.Text(), "accept-loss") {
		t.Fatalf("check: %+v, %v", report, err)
	}
	n = start(t, node.Config{Data: "data", FS: old, Listen: strings.TrimPrefix(n.URL(), "http://"), Logger: slog.New(slog.DiscardHandler)})
	if code, body := get(t, n.URL()+"/readyz"); code != http.StatusServiceUnavailable {
		t.Fatalf("readyz of a damaged node: %d %q", code, body)
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	var shown []string
	accepted, err := node.AcceptLoss(t.Context(), node.Config{Data: "data", FS: old, Logger: slog.New(slog.DiscardHandler)}, func(missing []string) bool {
		shown = missing
		return true
	})
	if err != nil || accepted == 0 || len(shown) != accepted {
		t.Fatalf("accepted %d, shown %q, %v", accepted, shown, err)
	}
	n = start(t, node.Config{Data: "data", FS: old, Listen: strings.TrimPrefix(n.URL(), "http://")})
	if err := send(2); err != nil {
		t.Fatal(err)
	}
	page, err := jimin.ListAfter(t.Context(), room.GetRoomId(), 0)
	if err != nil || len(page.GetMessages()) != 2 {
		t.Fatalf("after accepting the loss: %v, %v", page, err)
	}
}

func TestBadConfigurationIsToldBeforeAnythingStarts(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for want, cfg := range map[string]node.Config{
		"no data folder":      {},
		"HOST:PORT":           {Data: "d", Listen: "8080"},
		"certificate and a k": {Data: "d", CertFile: "x"},
		"origin":              {Data: "d", Origins: []string{"chat.example.org"}},
		"shards":              {Data: "d", Shards: 1000},
		"journal's address":   {Data: "d", Journal: "mysql://root:secret@db"},
		"view cache":          {Data: "d", ViewCacheMiB: 8},
		"in use":              {Data: "d", Listen: busy.Addr().String()},
		"load certificate":    {Data: "d", Listen: "127.0.0.1:0", CertFile: "missing.pem", KeyFile: "missing.pem"},
	} {
		if _, err := node.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", cfg, err, want)
		}
	}
}
