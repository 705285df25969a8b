// Package node puts the parts of one machine together: stores, shards,
// gateway, the web client, the echo friend.
//
// New checks and claims, Run starts everything and stops it in reverse order,
// waiting for whatever was started. A Core is the message plane without its
// door, for tools that work on a data folder at rest. This is the one package
// that sees the whole house; nothing but commands and drills imports it.
//
// What it does not do: decide, store, or speak any protocol itself.
package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/bongsu-im/bongsu/gateway"
	"github.com/bongsu-im/bongsu/gateway/auth"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/web"
)

// Node is one machine's process. Make it with New, run it once.
type Node struct {
	cfg      Config
	listener net.Listener
	tls      bool
	pair     *certificate           // of the public address; nil without TLS
	mended   *prometheus.CounterVec // outlives the stores
	// serves, if set, is asked instead of the other nodes; for tests.
	serves func(context.Context) error
	// What people may take of the descriptors.
	maxSessions int
	connections *gateway.Connections
	// insideURL is where services of this process reach the door.
	insideURL string
	serving   chan struct{}
	first     sync.Once // closes it
	warned    sync.Once // of what a single machine does not have
	// door answers requests; until the stores are open it says so.
	door atomic.Pointer[http.Handler]
}

// gcPauses is when the collector stopped the program: all pauses, where the
// collector's own summary knows the last 256.
var gcPauses = collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile(`^/sched/pauses/total/gc:seconds$`)}

// New checks the configuration and takes the address, so that a mistake is
// told before anything has started.
func New(cfg Config) (*Node, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, serving: make(chan struct{}), mended: newMended()}
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("take the address: %w", err)
	}
	n.listener = l
	if cfg.CertFile != "" {
		pair := &certificate{certFile: cfg.CertFile, keyFile: cfg.KeyFile}
		n.pair = pair
		if _, err := pair.get(nil); err != nil {
			return nil, errors.Join(err, l.Close())
		}
		n.listener = tls.NewListener(l, &tls.Config{
			GetCertificate: pair.get, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		})
		n.tls = true
	}
	opening := http.Handler(http.HandlerFunc(answerOpening))
	n.door.Store(&opening)
	return n, nil
}

// answerOpening is what the door says while the stores are being opened.
func answerOpening(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if r.URL.Path == "/healthz" {
		fmt.Fprintln(w, "ok")
		return
	}
	w.Header().Set("Retry-After", "1")
	http.Error(w, "starting: the stores are being opened; nothing is lost, try again in a moment", http.StatusServiceUnavailable)
}

// URL is where people find the node.
func (n *Node) URL() string {
	scheme := "http"
	if n.tls {
		scheme = "https"
	}
	host, port, _ := net.SplitHostPort(n.listener.Addr().String())
	if asked, _, err := net.SplitHostPort(n.cfg.Listen); err == nil && asked == "localhost" {
		host = asked
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// Serving is closed when the node answers requests.
func (n *Node) Serving() <-chan struct{} { return n.serving }

// Run serves until ctx ends (then it drains and returns nil) or a part fails.
func (n *Node) Run(ctx context.Context) (err error) {
	server := gateway.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		(*n.door.Load()).ServeHTTP(w, r)
	}), n.cfg.Logger)
	sessions, connections := divideDescriptors(descriptors(), n.cfg.MaxSessions)
	n.maxSessions, n.connections = sessions, gateway.Bound(server, connections)
	failed := make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() {
		if err := server.Serve(n.listener); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("serve: %w", err)
		}
	})
	defer func() {
		err = errors.Join(err, server.Close())
		running.Wait()
	}()
	inside, err := n.openInside()
	if err != nil {
		return err
	}
	if n.cfg.Debug != "" {
		debug, err := openDebug(n.cfg.Debug)
		if err != nil {
			return err
		}
		defer debug.Close()
	}
	if inside != nil {
		running.Go(func() { _ = server.Serve(inside) }) // ends with the public one
	}
	if n.cfg.Cluster != nil && n.cfg.Cluster.URL == "" {
		n.cfg.Cluster.URL = n.URL()
	}
	for m := (mending{}); ; {
		err := n.serve(ctx, server, failed)
		if err == nil || ctx.Err() != nil {
			return ignoreEnd(ctx, err)
		}
		if unmended := n.mend(ctx, err, &m); unmended != nil {
			return unmended
		}
		if wait(ctx, m.pause) != nil || isFull(err) && awaitRoom(ctx, n.cfg.FS, n.cfg.Data) != nil {
			return nil
		}
	}
}

// serve opens the stores and serves until ctx ends, or something fails.
func (n *Node) serve(ctx context.Context, server *http.Server, failed <-chan error) (err error) {
	started := n.cfg.Clock.Now()
	opening := http.Handler(http.HandlerFunc(answerOpening))
	n.door.Store(&opening)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(gcPauses)), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), n.mended)
	core, err := OpenCore(ctx, n.cfg, registry)
	if err != nil {
		return ignoreEnd(ctx, err)
	}
	defer func() {
		n.door.Store(&opening)
		err = errors.Join(err, core.Close())
	}()
	if n.cfg.Backup.To == "" && core.alone() {
		n.warned.Do(n.warnAlone)
	}
	if err := n.awaitServable(ctx, core); err != nil {
		return ignoreEnd(ctx, err)
	}
	if core.alone() && len(core.Lost()) == 0 {
		if err := core.renewRules(ctx); err != nil {
			return ignoreEnd(ctx, err)
		}
	}
	keys, err := n.keys()
	if err != nil {
		return err
	}
	friend, err := n.provisionEcho(ctx, core)
	if err != nil {
		return ignoreEnd(ctx, err)
	}
	door, err := n.openDoor(core, registry, keys, friend)
	if err != nil {
		return err
	}
	defer door.Close()
	n.cfg.Logger.Info("serving", "url", n.URL(), "shards", core.identity.Shards, "version", n.cfg.Version,
		"opened_in", n.cfg.Clock.Now().Sub(started).Round(time.Millisecond))
	n.first.Do(func() { close(n.serving) })

	if friend != nil {
		var echoing sync.WaitGroup
		echoCtx, stopEcho := context.WithCancel(ctx)
		defer func() {
			stopEcho()
			echoing.Wait()
		}()
		echoing.Go(func() { n.keepEcho(echoCtx, core, friend) })
	}
	select {
	case <-ctx.Done():
	case err = <-failed:
	case err = <-core.Failed():
	}
	n.cfg.Logger.Info("draining", "for_at_most", n.cfg.DrainTimeout)
	drainCtx, cancel := context.WithTimeout(context.Background(), n.cfg.DrainTimeout)
	defer cancel()
	core.Leave(drainCtx)
	if drainErr := door.Drain(drainCtx, min(n.cfg.DrainTimeout/2, time.Second)); drainErr != nil {
		n.cfg.Logger.Warn("some sessions were still there when the time was up", "error", drainErr)
	}
	if ctx.Err() == nil {
		return err // it may be opened again, behind the same door
	}
	if shutdownErr := server.Shutdown(drainCtx); shutdownErr != nil && !errors.Is(shutdownErr, context.DeadlineExceeded) {
		err = errors.Join(err, shutdownErr)
	}
	return err
}

// warnAlone tells a single machine what it does not have.
func (n *Node) warnAlone() {
	n.cfg.Logger.Warn("this machine is alone and has no backup: if its disk is lost, so is every message",
		"do", "bongsu backup keygen FILE, then serve with --backup PLACE --backup-recipient age1…, on another disk at least (docs/backup.md); or add machines (bongsu cluster add)")
}

// awaitServable waits for the shards. Damaged ones never become ready: the
// node then serves the others, and /readyz says why.
func (n *Node) awaitServable(ctx context.Context, core *Core) error {
	if len(core.Lost()) > 0 {
		return nil
	}
	return core.AwaitReady(ctx)
}

func (n *Node) openDoor(core *Core, registry *prometheus.Registry, keys *auth.Ring, friend *echoFriend) (*gateway.Gateway, error) {
	if err := registry.Register(newCensus(n, core)); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	var welcome []id.ID
	if friend != nil {
		welcome = []id.ID{friend.user}
	}
	door, err := gateway.New(gateway.Config{
		Backend: core, Keys: keys, Clock: n.cfg.Clock, Random: n.cfg.Random, Logger: n.cfg.Logger,
		Cell: core.identity.Cell, Version: n.cfg.Version, WelcomeFriends: welcome,
		Registerer: registry, Gatherer: registry, MetricsToken: n.cfg.MetricsToken, MaxSessions: n.maxSessions,
		Web: gateway.Static(web.Files()), Origins: n.cfg.Origins,
	})
	if err != nil {
		return nil, err
	}
	core.OnFeed(door.Feed)
	core.OnMissed(func(of func(id.Partition) bool) {
		if core.ended.Err() != nil {
			return
		}
		core.running.Go(func() {
			if err := door.Missed(core.ended, missedWithin, of); err != nil && core.ended.Err() == nil {
				n.cfg.Logger.Warn("not every session was asked to say hello again", "error", err)
			}
		})
	})
	handler := door.Handler()
	n.door.Store(&handler)
	return door, nil
}

// missedWithin is how long it takes until all sessions are asked to say hello
// again that may have missed something: a crowd that comes back at once is a storm.
const missedWithin = 2 * time.Second

// ignoreEnd turns the end of ctx into an ordinary stop.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// openInside opens a plain listener on the loopback address for services of
// this process when the public one speaks TLS under a name we may not have here.
func (n *Node) openInside() (net.Listener, error) {
	if !n.tls {
		n.insideURL = "http://" + net.JoinHostPort(n.reachableHost(), n.port())
		return nil, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open the inside address: %w", err)
	}
	n.insideURL = "http://" + l.Addr().String()
	return l, nil
}

// publicExpiry is when the certificate of the public address ends; zero without
// one.
func (n *Node) publicExpiry() time.Time {
	if n.pair == nil {
		return time.Time{}
	}
	pair, err := n.pair.get(nil)
	if err != nil || pair.Leaf == nil {
		return time.Time{}
	}
	return pair.Leaf.NotAfter
}

func (n *Node) port() string {
	_, port, _ := net.SplitHostPort(n.listener.Addr().String())
	return port
}

// reachableHost is an address that leads to the public listener from here.
func (n *Node) reachableHost() string {
	host, _, _ := net.SplitHostPort(n.listener.Addr().String())
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return "127.0.0.1"
	}
	return host
}
