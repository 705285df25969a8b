package load

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/bongsu-im/bongsu/client"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// rig is everything around one measurement.
type rig struct {
	cfg    Config
	began  time.Time
	dir    string
	server *server      // nil until it is started
	cert   *certificate // nil without TLS
	// version of the server's binary; empty if it is not ours.
	version string
	fsync   time.Duration
	http    *http.Client

	mu    sync.Mutex
	close []func() // in reverse order
}

// open makes the folder, probes its disk, lets prepare fill the store while
// nobody serves it (own server only), and starts the server.
func open(ctx context.Context, cfg Config, prepare func(ctx context.Context, dir string) error) (_ *rig, err error) {
	r := &rig{cfg: cfg, began: time.Now()}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.shut())
		}
	}()
	if r.dir, err = os.MkdirTemp(cfg.Dir, "bongsu-bench-*"); err != nil {
		return nil, fmt.Errorf("make a temporary folder: %w", err)
	}
	if r.fsync, err = probeFsync(r.dir); err != nil {
		return nil, err
	}
	if cfg.TLS && !cfg.relay {
		if r.cert, err = newCertificate(r.dir); err != nil {
			return nil, err
		}
	}
	if r.http = cfg.HTTPClient; r.http == nil {
		transport := &http.Transport{MaxIdleConnsPerHost: signInParallel, IdleConnTimeout: time.Minute}
		if r.cert != nil {
			transport.TLSClientConfig = r.cert.trust.Clone()
		}
		r.http = &http.Client{Transport: transport}
		r.onShut(transport.CloseIdleConnections)
	}
	switch {
	case cfg.relay && cfg.relayAt != "":
		r.server = &server{url: cfg.relayAt}
		return r, nil
	case cfg.relay:
		return r, r.startRelay(ctx)
	case cfg.Target != "":
		r.server = &server{url: strings.TrimSuffix(cfg.Target, "/")}
		return r, nil
	}
	if cfg.From != "" {
		prepare = func(_ context.Context, dir string) error {
			if err := copyFolder(filepath.Join(dir, "data"), cfg.From); err != nil {
				return fmt.Errorf("copy the data folder: %w", err)
			}
			return nil
		}
	}
	if prepare != nil {
		if err := prepare(ctx, r.dir); err != nil {
			return nil, err
		}
	}
	r.version = versionOf(ctx, cfg.Bin)
	if cfg.Nodes > 1 {
		return r, r.startCluster(ctx)
	}
	return r, r.startServer(ctx)
}

// onShut is called by whatever has to be undone.
func (r *rig) onShut(undo func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.close = append(r.close, undo)
}

func (r *rig) shut() (err error) {
	for i := len(r.close) - 1; i >= 0; i-- {
		r.close[i]()
	}
	if r.server != nil {
		err = r.server.stop()
	}
	if r.dir != "" {
		err = errors.Join(err, os.RemoveAll(r.dir))
	}
	return err
}

// guard ends the context that it returns when the server dies, which is then
// its cause.
func (r *rig) guard(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	if c := r.server.child; c != nil {
		go func() {
			select {
			case <-c.Ended():
				cancel(c.Died())
			case <-ctx.Done():
			}
		}()
	}
	return ctx, func() { cancel(nil) }
}

// measure runs work over a window, and looks at the machine and the server
// meanwhile.
func (r *rig) measure(ctx context.Context, w window, work func(ctx context.Context) error) (o observation, err error) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	seen := make(chan error, 1)
	wg.Go(func() {
		var err error
		o, err = r.observe(ctx, w)
		seen <- err
	})
	if err := work(ctx); err != nil {
		cancel(err)
		return observation{}, errors.Join(err, <-seen)
	}
	err = <-seen
	return o, err
}

func (r *rig) result(name, workload, operation string) Result {
	return Result{Name: name, Seed: r.cfg.Seed, Details: Details{
		Workload: workload, Operation: operation,
		FsyncMs: round(float64(r.fsync.Microseconds())/1000, 3), SetupS: round(time.Since(r.began).Seconds(), 1),
		Machine: thisMachine(), Version: r.version, Server: r.cfg.Server, TLS: r.cert != nil,
	}}
}

const (
	// signInParallel is enough to keep the server hashing without making it
	// refuse: hashing a password takes a core 150 ms.
	signInParallel = 4
	password       = "bench-password"
)

// person is an account that is online.
type person struct {
	*client.Conn
	userID string
}

// people signs n accounts up (or in, on a server that knows them) and connects
// them.
func (r *rig) people(ctx context.Context, n int, login func(i int) string, options func(i int) client.ConnectOptions) ([]person, error) {
	clients, err := r.accounts(ctx, n, login)
	if err != nil {
		return nil, err
	}
	return r.connect(ctx, clients, options)
}

func (r *rig) progress(what string) func(done, total int) {
	return func(done, total int) { r.cfg.Progress(what, done, total) }
}

// accounts signs n people up or in.
func (r *rig) accounts(ctx context.Context, n int, login func(i int) string) ([]*client.Client, error) {
	clients := make([]*client.Client, n)
	parallel := max(signInParallel, runtime.NumCPU())
	err := each(ctx, n, parallel, r.progress("accounts"), func(ctx context.Context, i int) (err error) {
		if r.cfg.relay {
			clients[i], err = r.relayed(i)
			return err
		}
		clients[i], err = r.enterAt(ctx, r.server.door(i), login(i))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("sign people in: %w", err)
	}
	return clients, nil
}

// relayed returns a client that the relay takes for its number i.
func (r *rig) relayed(i int) (*client.Client, error) {
	c, err := client.New(client.Config{BaseURL: r.server.url, HTTPClient: r.http, Timeout: 30 * time.Second})
	if err != nil {
		return nil, err
	}
	r.onShut(c.Close)
	// The refresh token is never shown to anyone: the session outlasts the run.
	c.Resume(client.Session{UserID: relayName(i), AccessToken: relayName(i), RefreshToken: "none", ExpiresAt: time.Now().Add(240 * time.Hour)})
	return c, nil
}

// connect brings clients online.
func (r *rig) connect(ctx context.Context, clients []*client.Client, options func(i int) client.ConnectOptions) ([]person, error) {
	out := make([]person, len(clients))
	err := each(ctx, len(clients), 32, r.progress("sockets"), func(ctx context.Context, i int) error {
		// The Conn outlives this call: it ends when the rig is shut.
		conn := clients[i].Connect(context.WithoutCancel(ctx), options(i))
		r.onShut(conn.Close)
		out[i] = person{conn, clients[i].UserID()}
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		return conn.Ready(ctx)
	})
	if err != nil {
		return nil, fmt.Errorf("connect people: %w", err)
	}
	return out, nil
}

// enter returns a client that is signed in, as a new account if need be.
func (r *rig) enter(ctx context.Context, login string) (*client.Client, error) {
	return r.enterAt(ctx, r.server.url, login)
}

// enterAt is enter at a node.
func (r *rig) enterAt(ctx context.Context, url, login string) (*client.Client, error) {
	c, err := client.New(client.Config{BaseURL: url, HTTPClient: r.http, Timeout: 30 * time.Second})
	if err != nil {
		return nil, err
	}
	r.onShut(c.Close)
	err = patiently(ctx, func() error {
		_, err := c.SignUp(ctx, &edgev1.SignUpRequest{Login: login, Password: password, DeviceName: "bench"})
		if errors.Is(err, &client.Error{Code: connect.CodeAlreadyExists}) {
			_, err = c.SignIn(ctx, login, password, "bench")
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("sign %s in: %w", login, err)
	}
	return c, nil
}

// patiently tries while the server asks for patience, for two minutes.
func patiently(ctx context.Context, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
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

// pair is two people with a direct room, the first of whom sends.
type pair struct {
	from, to person
	room     string
}

// pairs brings n pairs online. tap sees what the receiver of a pair is told.
func (r *rig) pairs(ctx context.Context, n int, tap func(i int, e *edgev1.Event)) ([]pair, error) {
	login := func(i int) string { return fmt.Sprintf("bench-%d-%d", i/2, i%2) }
	people, err := r.people(ctx, 2*n, login, func(i int) client.ConnectOptions {
		o := client.ConnectOptions{Queue: -1}
		if i%2 == 1 && tap != nil {
			o.Tap = func(e *edgev1.Event) { tap(i/2, e) }
		}
		return o
	})
	if err != nil {
		return nil, err
	}
	pairs := make([]pair, n)
	err = each(ctx, n, 32, func(int, int) {}, func(ctx context.Context, i int) error {
		p := pair{from: people[2*i], to: people[2*i+1]}
		if r.cfg.relay {
			p.room = relayRoom(i)
			pairs[i] = p
			return nil
		}
		err := patiently(ctx, func() error {
			room, err := p.from.OpenDirect(ctx, p.to.userID)
			p.room = room.GetRoomId()
			return err
		})
		pairs[i] = p
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open the pairs' rooms: %w", err)
	}
	return pairs, nil
}

// body makes a text of exactly n bytes that begins with head.
func body(head string, n int) string {
	return head + strings.Repeat("x", max(0, n-len(head)))
}

// copyFolder copies a data folder with the modes of its files: a server refuses
// keys that others may read.
func copyFolder(to, from string) error {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		return os.Chmod(filepath.Join(to, name), info.Mode().Perm())
	})
}
