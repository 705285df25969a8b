package client

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/bongsu-im/bongsu/internal/clock"
)

// maxFrameBytes bounds one answer: a page of 200 messages of 40,000 bytes fits.
const maxFrameBytes = 16 << 20

// Config is what a Client needs. Only BaseURL, or BaseURLs, is required.
type Config struct {
	// BaseURL of the server, such as "http://127.0.0.1:8080".
	BaseURL string
	// BaseURLs are more addresses of the same messenger. The one in use is left
	// for the next when it does not answer, or has served nothing for 1.5 s.
	BaseURLs []string
	// HTTPClient carries RPC calls and opens sockets; nil means one of the
	// client's own. Its Timeout should be 0: deadlines come from contexts.
	HTTPClient *http.Client
	// JSON makes RPC calls speak JSON instead of binary protobuf.
	JSON bool
	// Timeout of a request whose context has no deadline; 0 means 10 s.
	Timeout time.Duration
	// Clock judges when tokens are old; nil means the machine's.
	Clock clock.Clock
	// Random feeds jitter and message IDs; nil means the system's. Reads are
	// serialised.
	Random clock.Source
	// Logger tells of reconnects and refreshes; nil discards.
	Logger *slog.Logger
	// OnSession is called with every new session (signed up, signed in,
	// refreshed) before it is first used, so that it can be stored first. Its
	// error is logged and the session used all the same: losing a stored
	// session costs a refresh, refusing a new one would sign the person out.
	OnSession func(Session) error
}

func (cfg *Config) setDefaults() {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if cfg.Random == nil {
		cfg.Random = clock.Random
	}
	cfg.Random = &lockedSource{source: cfg.Random}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
}

// Client is one account on one device. Make it with New, then SignUp, SignIn or
// Resume.
type Client struct {
	// API by RPC.
	API
	cfg       Config
	addresses addresses
	ownHTTP   *http.Transport // nil if the HTTP client was given

	// wg counts refresh flights.
	wg sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	session Session
	// ended is set once the server has said that the session is over.
	ended error
	// flight is the one refresh under way; nil if there is none.
	flight *flight
	// refreshedAt keeps a wrong clock from refreshing before every call.
	refreshedAt time.Time
	positions   positions
}

// New checks the configuration; it does not touch the network.
func New(cfg Config) (*Client, error) {
	bases, err := cfg.checkAddresses()
	if err != nil {
		return nil, err
	}
	c := &Client{positions: positions{}}
	if cfg.HTTPClient == nil {
		c.ownHTTP = http.DefaultTransport.(*http.Transport).Clone()
		c.ownHTTP.Proxy = nil
		cfg.HTTPClient = &http.Client{Transport: c.ownHTTP}
	}
	cfg.setDefaults()
	c.cfg = cfg
	c.addresses.open(&c.cfg, bases)
	c.API = API{carrier: c}
	return c, nil
}

// Close waits for what the client runs itself and drops its idle connections.
// It signs nobody out. Close the client's Conns first.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.wg.Wait()
	if c.ownHTTP != nil {
		c.ownHTTP.CloseIdleConnections()
	}
}

// note remembers the position in an answer or event.
func (c *Client) note(f *edgev1.ServerFrame) {
	switch b := f.Body.(type) {
	case *edgev1.ServerFrame_Event:
		c.NotePosition(b.Event.GetMessage().GetPosition())
	case *edgev1.ServerFrame_Send:
		c.NotePosition(b.Send.GetPosition())
	case *edgev1.ServerFrame_MarkRead:
		c.NotePosition(b.MarkRead.GetPosition())
	case *edgev1.ServerFrame_OpenDirect:
		c.NotePosition(b.OpenDirect.GetPosition())
	case *edgev1.ServerFrame_CreateGroup:
		c.NotePosition(b.CreateGroup.GetPosition())
	case *edgev1.ServerFrame_Invite:
		c.NotePosition(b.Invite.GetPosition())
	case *edgev1.ServerFrame_SetTitle:
		c.NotePosition(b.SetTitle.GetPosition())
	}
}

func (c *Client) withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, c.cfg.Timeout)
}

func isUnauthenticated(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == connect.CodeUnauthenticated
}
