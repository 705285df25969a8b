package node

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/bongsu-im/bongsu/internal/clock"
	"github.com/bongsu-im/bongsu/internal/durable"
)

// Config is what an operator can set. Zero values are safe: New fills them in.
type Config struct {
	// Data is the folder that holds everything. It is made if missing.
	Data string
	// Listen is the public address, HOST:PORT; port 0 picks a free one.
	Listen string
	// CertFile and KeyFile turn TLS on; both or neither. They are read again
	// when they change, so that renewal needs no restart.
	CertFile, KeyFile string
	// Origins are allowed to open sockets beside the page's own, such as
	// "https://chat.example.org" when TLS ends in front of us.
	Origins []string
	// Shards is how many the store is made with (default: DefaultShards of this
	// machine's processors); an existing
	// store keeps its own number.
	Shards int
	// Journal is the address of a journal outside the folder, postgres://…;
	// empty: the built-in one. It is fixed when the store is made.
	Journal string
	// Cluster makes the node one of several; nil: it is alone.
	Cluster *ClusterConfig
	// MaxSessions bounds people's sockets (default 20,000, and never more than the
	// process may have files open, less what the stores need).
	MaxSessions int
	// ViewCacheMiB is the view's block cache, of which its write buffers (up to
	// 128 MiB under load) are taken (default 256; at least 64).
	ViewCacheMiB int
	// Echo runs the echo friend.
	Echo bool
	// MetricsToken, if set, must be presented as a bearer token at /metrics.
	MetricsToken string
	// Debug, if set, is a second address that serves Go's profiles to whoever
	// reaches it; keep it on loopback.
	Debug string
	// Version of the release, for people who ask.
	Version string
	// ScrubEvery is how often both stores are read back in full to find damage
	// (default 24 h, the first 10 minutes after the start; negative: never).
	ScrubEvery time.Duration
	// KeepJournal is how long entries stay in the journal of a cluster when no
	// store needs them any more (default: trimRules').
	KeepJournal time.Duration
	// Backup says where the journal is archived while the node serves.
	Backup BackupConfig
	// DrainTimeout bounds a graceful stop (default 10 s).
	DrainTimeout time.Duration

	Clock  clock.Clock
	Random clock.Source
	FS     durable.FS
	Logger *slog.Logger
}

// DefaultShards is how many shards a new store gets: two a processor, from 4 to
// 16 (docs/decisions/0011). Fewer cannot use the machine, more only make smaller
// batches: each costs a pass through raft and the log of its own.
func DefaultShards(processors int) int { return min(max(2*processors, 4), 16) }

func (c *Config) fill() error {
	if c.Data == "" {
		return errors.New("no data folder given")
	}
	if c.Listen == "" {
		c.Listen = "localhost:8080"
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return fmt.Errorf("listen address %q is not HOST:PORT: %w", c.Listen, err)
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return errors.New("TLS needs both a certificate and a key file")
	}
	for _, o := range c.Origins {
		if u, err := url.Parse(o); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.Path != "" {
			return fmt.Errorf("origin %q is not like https://chat.example.org", o)
		}
	}
	if c.Shards == 0 {
		c.Shards = DefaultShards(runtime.NumCPU())
	}
	if c.Shards < 1 || c.Shards > 256 {
		return fmt.Errorf("%d shards: want 1 to 256", c.Shards)
	}
	if _, err := journalKind(c.Journal); err != nil {
		return err
	}
	if err := c.fillCluster(); err != nil {
		return err
	}
	if c.ViewCacheMiB == 0 {
		c.ViewCacheMiB = 256
	}
	if c.ViewCacheMiB < 64 || c.ViewCacheMiB > 1<<20 {
		return fmt.Errorf("a view cache of %d MiB: want at least 64", c.ViewCacheMiB)
	}
	if err := c.Backup.fill(); err != nil {
		return err
	}
	if c.DrainTimeout <= 0 {
		c.DrainTimeout = 10 * time.Second
	}
	if c.ScrubEvery == 0 {
		c.ScrubEvery = 24 * time.Hour
	}
	if c.Clock == nil {
		c.Clock = clock.System{}
	}
	if c.Random == nil {
		c.Random = clock.Random
	}
	if c.FS == nil {
		c.FS = durable.Disk
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return nil
}

func (c *Config) fillCluster() error {
	if c.Cluster == nil {
		return nil
	}
	own := *c.Cluster // ours to fill in
	c.Cluster = &own
	if c.Journal != "" {
		return errors.New("a node with a journal on PostgreSQL is alone: the database is what several share")
	}
	if own.Certs == "" || own.Listen == "" {
		return errors.New("a node of a cluster needs both its certificates and a peer address")
	}
	for _, a := range append([]string{own.Listen}, own.Join...) {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return fmt.Errorf("peer address %q is not HOST:PORT: %w", a, err)
		}
	}
	if own.Address == "" {
		host, port, _ := net.SplitHostPort(own.Listen)
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			return errors.New("the peer address is that of every interface: say where others reach it (--peer-address)")
		}
		if port != "0" {
			own.Address = own.Listen
		}
	} else if _, _, err := net.SplitHostPort(own.Address); err != nil {
		return fmt.Errorf("peer address %q is not HOST:PORT: %w", own.Address, err)
	}
	return nil
}

// certificate serves a key pair from files and reads them again when they change.
type certificate struct {
	certFile, keyFile string

	mu       sync.Mutex // guards what follows
	loaded   *tls.Certificate
	modified time.Time
	checked  time.Time
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.loaded != nil && time.Since(c.checked) < 10*time.Second {
		return c.loaded, nil
	}
	c.checked = time.Now()
	info, err := os.Stat(c.certFile)
	if err == nil && (c.loaded == nil || !info.ModTime().Equal(c.modified)) {
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(c.certFile, c.keyFile); err == nil {
			c.loaded, c.modified = &pair, info.ModTime()
		}
	}
	// A half-written renewal must not end the service: the old pair serves on.
	if c.loaded == nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	return c.loaded, nil
}
