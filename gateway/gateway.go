// Package gateway is the one public door: Connect RPC (gRPC, gRPC-Web, JSON)
// and WebSocket sessions on one port, with health, metrics and the web client.
//
// Vocabulary: a method is one request of the public API; RPC and socket share
// one implementation of each. A caller is the user and device that a verified
// access token names. A session is one socket that has said hello. The hub
// knows which local sessions hear of which room. The feed is what replicas have
// just applied; an event is encoded once per subprotocol and the same bytes go
// to every socket. A refusal is a typed error (edge.v1.Error): nothing was
// changed. The backend is the shards, in this process or elsewhere.
//
// The path of a request: admission by class and authentication (before the
// body is decoded, on RPC), validation of every field, the method, the answer.
// Nothing here is awaited by the message path but the backend (invariant 9).
//
// Concurrency: Gateway is safe for concurrent use. Lock order: hub.mu and
// session.mu are never held together, and neither while writing to a socket or
// calling the backend; a loop's mu comes after session.mu and is a leaf.
// Sockets of the system are carried by loops, one goroutine a processor with an
// epoll of its own: an idle session has no goroutine, no buffer and no timer.
// Sockets that only block (TLS, tests' pipes) have a goroutine that reads, and
// one that writes while something waits. Both drive the same session (see
// wire). Sends and read cursors are begun in the backend without waiting; every
// other request has a goroutine while it runs. Close waits for all of them; what
// the backend has begun and answers later finds nobody and is forgotten.
//
// Requests carry their credentials in the Authorization header (or in hello),
// never in a cookie, so another site's page cannot ride on them: there is no
// CSRF token, and no CORS header is ever sent. Unknown JSON fields are ignored,
// so that a newer client can talk to an older server.
//
// What it does not do: decide anything about rooms or accounts, store
// anything, or limit how often one login may be tried.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bongsu-im/bongsu/gateway/auth"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/clock"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/overload"
)

// Backend is what the gateway asks of the shards.
//
// A refusal is in the reply's Error: definite, nothing was changed. A Go error
// means that the outcome is unknown (deadline passed, connection lost, shutting
// down). Every command may be submitted again after either; the backend makes
// repeated ones harmless.
type Backend interface {
	Do(ctx context.Context, cmd *nodev1.Command) (*nodev1.Reply, error)
	// Begin is Do for callers that must not wait: done is called exactly once,
	// from any goroutine, perhaps before Begin returns, and must not block. Once
	// the deadline has passed it hears a refusal if nothing was begun, else an
	// error. What one goroutine begins of one shard is decided in that order.
	Begin(cmd *nodev1.Command, deadline time.Time, done func(*nodev1.Reply, error))
	Query(ctx context.Context, q *nodev1.Query) (*nodev1.QueryReply, error)
	// Ready returns nil when every local shard has an owner and accepts sends.
	Ready() error
}

// Config is what a Gateway is made of. Backend and Keys are required; the zero
// value of every other field is safe.
type Config struct {
	Backend Backend
	Keys    *auth.Ring

	// Clock and Random default to the machine's.
	Clock  clock.Clock
	Random clock.Source
	// Logger defaults to none. No password or token is ever logged.
	Logger *slog.Logger

	// Cell is put into the IDs of new accounts, devices and rooms.
	Cell uint16
	// Version of the release, told to clients.
	Version string
	// WelcomeFriends are added to every new account (at most 20).
	WelcomeFriends []id.ID

	// Metrics are registered with Registerer and served from Gatherer at
	// /metrics; without a Gatherer there is no /metrics. If MetricsToken is
	// set, /metrics wants it as a bearer token.
	Registerer   prometheus.Registerer
	Gatherer     prometheus.Gatherer
	MetricsToken string

	// Web answers what no other path does; nil is not found. See Static.
	Web http.Handler
	// Origins (as "https://chat.example") whose pages may open sockets, beside
	// those of the host that was asked.
	Origins []string

	// Limits of admission; zero means overload.DefaultLimits.
	Limits overload.Limits
	// Password is the cost of new hashes; zero means auth.Standard.
	Password auth.Params
	// HashSlots is how many passwords are hashed at once (0: one a core), and
	// HashQueue how many may wait (0: 16 a slot).
	HashSlots, HashQueue int
	// MaxSessions bounds the open sockets (0 means 20,000), MaxUserSessions
	// those of one person (0 means 1,000).
	MaxSessions, MaxUserSessions int
	// Heartbeat is how often clients must be heard; 0 means 30 s. A socket
	// silent for twice this long is closed.
	Heartbeat time.Duration
	// Grace is how long a session may live whose account's shard cannot be
	// asked (invariant 11); 0 means one hour.
	Grace time.Duration
}

// Gateway serves the public port. Make it with New.
type Gateway struct {
	cfg       Config
	backend   Backend
	keys      *auth.Ring
	clock     clock.Clock
	log       *slog.Logger
	random    lockedReader
	admission *overload.Admission
	hashing   *overload.Slots
	revoked   *auth.Revoked
	dummyHash string
	metrics   *metrics
	hub       *hub
	typing    *typingLimiter
	handler   http.Handler
	origins   map[string]bool
	// confirming bounds the confirmations of refresh tokens under way.
	confirming chan struct{}
	// birth is when moments are counted from.
	birth    time.Time
	patience patience
	// shardCount as the backend last told it, for hellos while it cannot.
	shardCount atomic.Uint32

	// life ends when Close is called; running counts every goroutine.
	life    context.Context
	end     context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex // guards what follows
	sessions map[*session]struct{}
	loops    *loops // nil until a socket is parked
	draining bool
	closed   bool
}

// lockedReader serialises a source of randomness that may not be safe for
// concurrent use (a seeded one, in simulations).
type lockedReader struct {
	mu     sync.Mutex
	source io.Reader
}

func (r *lockedReader) Read(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return io.ReadFull(r.source, b)
}

// New makes a Gateway. It starts nothing.
func New(cfg Config) (*Gateway, error) {
	if cfg.Backend == nil || cfg.Keys == nil {
		return nil, errors.New("gateway: Config needs Backend and Keys")
	}
	if len(cfg.WelcomeFriends) > maxWelcomeFriends {
		return nil, fmt.Errorf("gateway: %d welcome friends, at most %d", len(cfg.WelcomeFriends), maxWelcomeFriends)
	}
	for _, f := range cfg.WelcomeFriends {
		if f.Kind() != id.User {
			return nil, fmt.Errorf("gateway: welcome friend %v is not a user", f)
		}
	}
	fillDefaults(&cfg)
	if cfg.Heartbeat < time.Second || cfg.Grace < 0 || cfg.MaxSessions < 0 || cfg.MaxUserSessions < 0 {
		return nil, fmt.Errorf("gateway: heartbeat %v, grace %v, sessions %d: out of range", cfg.Heartbeat, cfg.Grace, cfg.MaxSessions)
	}
	g := &Gateway{
		cfg: cfg, backend: cfg.Backend, keys: cfg.Keys, clock: cfg.Clock, log: cfg.Logger,
		random:     lockedReader{source: cfg.Random},
		hashing:    overload.NewSlots(cfg.HashSlots, cfg.HashQueue),
		revoked:    auth.NewRevoked(),
		hub:        newHub(),
		typing:     newTypingLimiter(),
		origins:    make(map[string]bool),
		confirming: make(chan struct{}, maxConfirming),
		sessions:   make(map[*session]struct{}),
		birth:      time.Now(),
		patience:   patience{hello: helloWithin, silence: 2 * cfg.Heartbeat, write: writeTimeout, close: closeWait},
	}
	for _, origin := range cfg.Origins {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme == "" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
			return nil, fmt.Errorf("gateway: origin %q: want scheme://host", origin)
		}
		g.origins[strings.ToLower(u.Scheme+"://"+u.Host)] = true
	}
	var err error
	if g.admission, err = overload.NewAdmission(cfg.Limits); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	if g.dummyHash, err = auth.DummyHash(cfg.Password, &g.random); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	if g.metrics, err = newMetrics(cfg.Registerer, g); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	// The lifetime of all sessions, not a request's: ended by Close.
	g.life, g.end = context.WithCancel(context.Background())
	g.handler = bounded(g.routes())
	return g, nil
}

func fillDefaults(cfg *Config) {
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if cfg.Random == nil {
		cfg.Random = clock.Random
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Registerer == nil {
		cfg.Registerer = prometheus.NewRegistry()
	}
	if cfg.Password == (auth.Params{}) {
		cfg.Password = auth.Standard
	}
	if cfg.HashSlots <= 0 {
		cfg.HashSlots = runtime.GOMAXPROCS(0)
	}
	if cfg.HashQueue <= 0 {
		cfg.HashQueue = 16 * cfg.HashSlots
	}
	if cfg.MaxSessions == 0 {
		cfg.MaxSessions = 20_000
	}
	if cfg.MaxUserSessions == 0 {
		cfg.MaxUserSessions = 1000
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = 30 * time.Second
	}
	if cfg.Grace == 0 {
		cfg.Grace = time.Hour
	}
}

// Handler serves everything on the public port.
func (g *Gateway) Handler() http.Handler { return g.handler }

// NewServer wraps a handler into a server for the public port: HTTP/1.1 and
// HTTP/2, the latter also without TLS (h2c), with every wait bounded. The
// caller serves and shuts it down; sockets are Drain's.
func NewServer(handler http.Handler, log *slog.Logger) *http.Server {
	s := &http.Server{
		Handler:           handler,
		Protocols:         Protocols(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	if log != nil {
		s.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug) // mostly clients' mistakes
	}
	return s
}

// Protocols are those of the public port: HTTP/1.1 (which sockets need) and
// HTTP/2, the latter also without TLS, for gRPC.
func Protocols() *http.Protocols {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return protocols
}

// exchangeTimeout bounds reading one request and writing its answer. It is
// more than the longest deadline, so that a request ends by its own.
const exchangeTimeout = 75 * time.Second

// bounded keeps a client that sends or reads too slowly from holding on to a
// request for ever, whatever server this handler is put into. A socket's own
// deadlines replace these when it takes over the connection.
func bounded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		until := time.Now().Add(exchangeTimeout)
		_ = c.SetReadDeadline(until) // not supported means not a network
		_ = c.SetWriteDeadline(until)
		h.ServeHTTP(w, r)
	})
}

// now is the time of day.
func (g *Gateway) now() time.Time { return g.clock.Now() }

// newID makes an ID with 12 random bytes.
func (g *Gateway) newID(kind id.Kind, partition id.Partition) (id.ID, error) {
	var unique [12]byte
	if _, err := g.random.Read(unique[:]); err != nil {
		return id.ID{}, fmt.Errorf("make an ID: %w", err)
	}
	return id.New(g.cfg.Cell, kind, partition, unique[:]), nil
}

// Close ends every session at once and waits for every goroutine.
func (g *Gateway) Close() {
	g.mu.Lock()
	g.draining, g.closed = true, true
	sessions := g.snapshotLocked()
	loops := g.loops
	g.mu.Unlock()
	g.end()
	for _, s := range sessions {
		s.abort()
	}
	g.running.Wait()
	loops.stop()
}

func (g *Gateway) snapshotLocked() []*session {
	all := make([]*session, 0, len(g.sessions))
	for s := range g.sessions {
		all = append(all, s)
	}
	return all
}

// userHash spreads users for admission and hints; it changes by the hour, so
// that nobody is always the unlucky one.
func userHash(user id.ID, now time.Time) uint64 {
	h := uint64(now.Unix()/3600) * 0x9e3779b97f4a7c15
	for _, b := range user {
		h = (h ^ uint64(b)) * 0x100000001b3
	}
	return h
}
