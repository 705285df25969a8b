package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/bongsu-im/bongsu/client"
	"github.com/bongsu-im/bongsu/proof/child"
)

const (
	// sessionsPerAccount leaves room below the server's bound of 1,000.
	sessionsPerAccount = 900
	// sessionsPerAddress of ours keeps below what ports there are.
	sessionsPerAddress = 8000
	// spareFiles is what a process has open beside sockets.
	spareFiles = 500
	// answerTimeout is how long sessions may take to answer the last ping.
	answerTimeout = 10 * time.Second
)

// Idle measures W4: the resident memory of the server before Sessions signed-in
// sockets are opened and Settle after the last, by their number. An operation is
// a session opened, its latency that of the handshake and hello.
//
// Signing in is measured apart, and first: the server is then started anew over
// the same data, as memory in which passwords were hashed would otherwise be
// taken for the sessions' (or theirs for it). It passes if every session lives
// at the end and answers a ping.
func Idle(ctx context.Context, cfg Config) (_ Result, err error) {
	if err := cfg.setDefaults(); err != nil {
		return Result{}, err
	}
	if cfg.Nodes > 1 {
		return Result{}, errors.New("the memory of a session is that of one server: not of several nodes")
	}
	if err := enoughFiles(cfg.Sessions); err != nil {
		return Result{}, err
	}
	r, err := open(ctx, cfg, nil)
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, r.shut()) }()
	if cfg.Target != "" && cfg.Sessions > sessionsPerAddress && !r.loopback() {
		return Result{}, fmt.Errorf("%d sessions from one address: at most %d; several only reach a server on loopback", cfg.Sessions, sessionsPerAddress)
	}
	i := &idle{rig: r, tally: &tally{}, latencies: newLatencies()}
	if err := i.signIn(ctx); err != nil {
		return Result{}, err
	}
	if err := i.restart(ctx); err != nil {
		return Result{}, fmt.Errorf("start the server anew: %w", err)
	}
	ctx, cancel := r.guard(ctx)
	defer cancel()
	return i.measure(ctx)
}

// enoughFiles tells whether a process, ours or the server's, which inherits the
// limit, can hold n sockets.
func enoughFiles(n int) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	if uint64(n)+spareFiles > limit.Cur {
		return fmt.Errorf("%d sessions: a process may have %d files open, so at most %d", n, limit.Cur, max(int64(limit.Cur)-spareFiles, 0))
	}
	return nil
}

type idle struct {
	rig       *rig
	tally     *tally
	latencies *latencies
	clients   []*client.Client
	sessions  []client.Session
	sockets   []*leanSocket
	reading   sync.WaitGroup
	closing   atomic.Bool
	details   IdleDetails

	mu       sync.Mutex
	answered map[int]struct{} // sockets heard since the last ping; nil until it
}

// signIn makes the accounts and takes their sessions.
func (i *idle) signIn(ctx context.Context) error {
	n := (i.rig.cfg.Sessions + sessionsPerAccount - 1) / sessionsPerAccount
	before, err := readUsage(i.rig.server.pids()...)
	if err != nil {
		return err
	}
	times := newHistogram()
	for k := range n {
		i.rig.cfg.Progress("accounts", k, n)
		began := time.Now()
		c, err := i.rig.enter(ctx, fmt.Sprintf("bench-idle-%d", k))
		if err != nil {
			return err
		}
		_ = times.RecordValue(min(time.Since(began), latencyMax).Microseconds()) // within bounds
		i.clients, i.sessions = append(i.clients, c), append(i.sessions, c.Session())
	}
	i.rig.cfg.Progress("accounts", n, n)
	after, err := readUsage(i.rig.server.pids()...)
	if err != nil {
		return err
	}
	i.details.Accounts = n
	i.details.SignInMs = milliseconds(times.ValueAtQuantile(50))
	if after.serverKnown {
		i.details.SignInCPUMs = round(after.server.CPU.Sub(before.server.CPU).Total().Seconds()*1000/float64(n), 1)
	}
	return nil
}

// restart gives the sessions a server that has hashed no password. Their access
// tokens are signed by a key that is stored with the data.
func (i *idle) restart(ctx context.Context) error {
	r := i.rig
	if r.server.child == nil {
		return nil
	}
	if err := r.server.stop(); err != nil {
		return err
	}
	return r.startServer(ctx)
}

// loopback tells whether the server is on this machine's loopback.
func (r *rig) loopback() bool {
	u, err := url.Parse(r.server.url)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return ip.IsLoopback() && ip.To4() != nil
}

// dialFrom returns the dialer of a session, which takes 127.0.0.1, 127.0.0.2, …
// for its own address, 8,000 sessions each.
func (r *rig) dialFrom(session int) dialer {
	if !r.loopback() {
		return r.dialer()
	}
	local := &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+session/sessionsPerAddress))}
	return (&net.Dialer{LocalAddr: local, KeepAlive: -1}).DialContext
}

func (i *idle) measure(ctx context.Context) (Result, error) {
	r, n := i.rig, i.rig.cfg.Sessions
	res := r.result("idle", fmt.Sprintf("%d signed-in sessions of %d accounts, silent but for heartbeats", n, len(i.clients)), "opened")
	settle := r.cfg.Settle
	if settle <= 0 {
		if settle = 20 * time.Second; r.cfg.Bound > 0 {
			settle = min(settle, r.cfg.Bound)
		}
	}
	i.details.SettleS = settle.Seconds()
	// What starting left behind is not the sessions'.
	if !sleepUntil(ctx, time.Now().Add(min(settle, 5*time.Second))) {
		return Result{}, context.Cause(ctx)
	}
	kernelBefore, err := child.ReadKernel()
	if err != nil {
		return Result{}, err
	}
	seen := observation{first: r.counters(ctx)}
	if seen.before, err = readUsage(r.server.pids()...); err != nil {
		return Result{}, err
	}
	began := time.Now()
	i.latencies.over(window{begin: began})
	r.onShut(i.close)
	if err := i.open(ctx); err != nil {
		return Result{}, fmt.Errorf("open sessions: %w", err)
	}
	w := window{began, began, time.Now()}
	if seen.after, err = readUsage(r.server.pids()...); err != nil {
		return Result{}, err
	}
	alive, stop := context.WithCancel(ctx)
	i.reading.Go(func() { keepAlive(alive, i.sockets) })
	rested := sleepUntil(ctx, time.Now().Add(settle))
	then, err := readUsage(r.server.pids()...)
	stop()
	if err != nil {
		return Result{}, err
	}
	kernelAfter, err := child.ReadKernel()
	if err != nil {
		return Result{}, err
	}
	seen.after.server.Peak = then.server.Peak
	// Asking collects garbage: only once the memory has been read.
	seen.last = r.counters(ctx)
	if !rested || !i.ask(ctx) {
		return Result{}, fmt.Errorf("measure: %w", context.Cause(ctx))
	}
	perSession := func(bytes int64) float64 { return round(float64(bytes)/1024/float64(n), 3) }
	tcp := kernelAfter.Buffers - kernelBefore.Buffers
	i.details.TCPKiB, i.details.KernelKiB = perSession(tcp), perSession(tcp+kernelAfter.Slab-kernelBefore.Slab)
	before, after := seen.before.server.Memory, then.server.Memory
	i.details.BeforeMiB, i.details.MemoryMiB = mebibytes(before), mebibytes(after)
	if then.serverKnown {
		kib := perSession(after - before)
		res.KiBPerSession = &kib
	}
	res.fill(w, i.tally, i.latencies, seen)
	res.Details.Idle = &i.details
	res.Passed = res.Errors == 0
	if res.KiBPerSession != nil && n >= 10_000 && !res.Details.TLS {
		res.addGoal(Goal{"kib_per_session", idleGoal, *res.KiBPerSession, *res.KiBPerSession <= idleGoal})
	}
	return res, nil
}

// open opens the sessions and starts their readers.
func (i *idle) open(ctx context.Context) error {
	i.sockets = make([]*leanSocket, i.rig.cfg.Sessions)
	return each(ctx, len(i.sockets), 32, i.rig.progress("sessions"), func(ctx context.Context, k int) error {
		began := time.Now()
		token := i.sessions[k%len(i.sessions)].AccessToken
		s, err := i.rig.dialLean(ctx, i.rig.dialFrom(k), token, 256)
		if err != nil {
			return err
		}
		i.sockets[k] = s
		ended := time.Now()
		i.latencies.record(k, ended, ended.Sub(began))
		i.tally.ops.Add(1)
		i.reading.Go(func() { i.read(k, s) })
		return nil
	})
}

func (i *idle) read(k int, s *leanSocket) {
	for {
		payload, err := s.next()
		if err != nil {
			if !i.closing.Load() {
				i.tally.fail(fmt.Errorf("session %d ended: %w", k, err))
			}
			return
		}
		if _, _, ok := field(payload, framePing); !ok {
			continue
		}
		i.mu.Lock()
		if i.answered != nil {
			i.answered[k] = struct{}{}
		}
		i.mu.Unlock()
	}
}

// ask pings every session and charges those that do not answer. It returns
// false if ctx ended.
func (i *idle) ask(ctx context.Context) bool {
	i.mu.Lock()
	i.answered = make(map[int]struct{}, len(i.sockets))
	i.mu.Unlock()
	frame := pingFrame(askID)
	for _, s := range i.sockets {
		_ = s.write(frame) // a broken one stays silent
	}
	missing := func() int {
		i.mu.Lock()
		defer i.mu.Unlock()
		return len(i.sockets) - len(i.answered)
	}
	for deadline := time.Now().Add(answerTimeout); missing() > 0 && time.Now().Before(deadline); {
		if !sleepUntil(ctx, time.Now().Add(20*time.Millisecond)) {
			return false
		}
	}
	if n := missing(); n > 0 {
		i.details.Silent = n
		i.tally.fail(fmt.Errorf("%d sessions did not answer a ping in %s", n, answerTimeout))
		i.tally.errors.Add(int64(n - 1))
	}
	return true
}

func (i *idle) close() {
	i.closing.Store(true)
	for _, s := range i.sockets {
		if s != nil {
			s.close()
		}
	}
	i.reading.Wait()
}
