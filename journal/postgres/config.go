package postgres

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/bongsu-im/bongsu/internal/durable"
)

// Config configures a Journal. URL and Dir must be given; the zero value of
// everything else is safe.
type Config struct {
	// URL is postgres://user:password@host[,host]/database?parameters. Besides
	// those of libpq it knows allow_single=1 (a database without a synchronous
	// standby is accepted), schema=NAME and lease=DURATION.
	URL    string
	Cell   uint16     // fixed when the store is made
	Node   uint64     // this node; a new run of it takes over from its last one at once. 0 means 1
	Shards int        // fixed when the store is made; 0 means 16
	Dir    string     // folder of the marks; made if missing
	FS     durable.FS // nil: the machine's disk
	Logger *slog.Logger

	LeaseTTL      time.Duration // how long an owner that says nothing keeps its shards; 0 means 3 s
	MarkInterval  time.Duration // how often marks become durable; 0 means 1 s
	PollInterval  time.Duration // how often a follower looks without being told; 0 means 250 ms
	CommitTimeout time.Duration // after which the outcome of a round is given up as unknown; 0 means 5 s
	OpenTimeout   time.Duration // how long Open tries to reach the database; 0 means 30 s
	Committers    int           // rounds at once, each a connection; 0 means 2
	Readers       int           // connections for reads, leases and checks; 0 means 3
}

const (
	minLease, maxLease = 100 * time.Millisecond, time.Minute
	maxShards          = 4096
)

func (c Config) withDefaults() (Config, error) {
	for _, d := range []struct {
		v  *time.Duration
		to time.Duration
	}{
		{&c.LeaseTTL, 3 * time.Second}, {&c.MarkInterval, time.Second}, {&c.PollInterval, 250 * time.Millisecond},
		{&c.CommitTimeout, 5 * time.Second}, {&c.OpenTimeout, 30 * time.Second},
	} {
		if *d.v == 0 {
			*d.v = d.to
		}
		if *d.v < 0 {
			return c, errors.New("journal: negative time in configuration")
		}
	}
	for _, n := range []struct {
		v  *int
		to int
	}{{&c.Shards, 16}, {&c.Committers, 2}, {&c.Readers, 3}} {
		if *n.v == 0 {
			*n.v = n.to
		}
	}
	if c.FS == nil {
		c.FS = durable.Disk
	}
	if c.Node == 0 {
		c.Node = 1
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.Dir == "":
		return c, errors.New("journal: Config.Dir is empty")
	case c.Shards < 1 || c.Shards > maxShards:
		return c, fmt.Errorf("journal: %d shards, 1 to %d are possible", c.Shards, maxShards)
	case c.Committers < 1 || c.Committers > 16 || c.Readers < 1 || c.Readers > 32:
		return c, errors.New("journal: 1 to 16 committers and 1 to 32 readers are possible")
	case c.LeaseTTL < minLease || c.LeaseTTL > maxLease:
		return c, fmt.Errorf("journal: a lease lasts %v to %v", minLease, maxLease)
	}
	return c, nil
}
