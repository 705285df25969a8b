package load

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"time"
)

// Config of a measurement. The zero value is the workload of PEERS.md.
type Config struct {
	// Target is the URL of the server to measure; empty starts one.
	Target string
	// HTTPClient reaches the server; nil means one of its own.
	HTTPClient *http.Client
	// Bin is the server's binary; empty means the running one. Not used with Target.
	Bin string
	// Server is flags for the server that is started, such as --shards 1.
	Server []string
	// From is the data folder of a stopped server, a copy of which is served;
	// empty means an empty store.
	From string
	// Nodes of the cluster that is started, on this one machine; 0 and 1 mean a
	// server alone. Clients are spread over them.
	Nodes int
	// TLS makes the server speak it, with a certificate made for the run.
	TLS bool
	// Dir holds the temporary data folder; empty means os.TempDir.
	Dir string
	// Seed of message IDs; 0 draws one, which the Result names.
	Seed uint64

	// Senders of Send: pairs with one message outstanding each; 0 means 100.
	Senders int
	// Rate in messages a second makes Send, Fanout and Receipts open loops.
	// Deliver always is one; 0 then means 500.
	Rate float64
	// Pairs of Deliver that share the rate; 0 means 200.
	Pairs int
	// Members of Fanout's and Receipts' room, 10 of whom send; 0 means 100.
	Members int
	// Sessions of Idle; 0 means 10,000.
	Sessions int
	// Settle is how long Fanout and Receipts wait after the last join, 0 meaning 30 s, and
	// Idle after the last session, 0 meaning 20 s.
	Settle time.Duration
	// Ceiling of Send, Deliver and Fanout: the same is measured once more on a
	// bare relay.
	Ceiling bool
	// Messages of History in the one room; 0 means 100,000.
	Messages int
	// Bytes of each message's text; 0 means 128.
	Bytes int

	// WarmUp and Window; 0 means 8 s and 30 s. History has a number of
	// fetches instead.
	WarmUp, Window time.Duration
	// Bound, if set, is the time for warm-up and window together, in place of both.
	Bound time.Duration

	// relay makes the run one of the ceiling: a relay takes the place of the
	// server, the one at the URL relayAt or, if that is empty, a child.
	relay   bool
	relayAt string

	// Progress is told how far preparations are, from one goroutine at a time.
	Progress func(what string, done, total int)
}

func (c *Config) setDefaults() error {
	setDefault(&c.Senders, 100)
	setDefault(&c.Pairs, 200)
	setDefault(&c.Members, 100)
	setDefault(&c.Sessions, 10_000)
	setDefault(&c.Messages, 100_000)
	setDefault(&c.Bytes, 128)
	setDefault(&c.WarmUp, 8*time.Second)
	setDefault(&c.Window, 30*time.Second)
	if c.Bound > 0 {
		c.WarmUp = min(8*time.Second, c.Bound/5)
		c.Window = c.Bound - c.WarmUp
	}
	for c.Seed == 0 {
		c.Seed = rand.Uint64()
	}
	if c.Progress == nil {
		c.Progress = func(string, int, int) {}
	}
	switch {
	case c.Senders > 8000 || c.Pairs > 8000:
		return fmt.Errorf("at most 8,000 pairs: a process has 20,000 file descriptors")
	case c.Members > 3000:
		return fmt.Errorf("%d members: a group has at most 3,000", c.Members)
	case c.Members < 2:
		return fmt.Errorf("a room of one has nobody to fan out to")
	case c.TLS && (c.Target != "" || c.Ceiling):
		return fmt.Errorf("TLS is of the server that is started, and the relay speaks none")
	case (len(c.Server) > 0 || c.From != "") && c.Target != "":
		return fmt.Errorf("flags or data for a server that is not ours to start")
	case c.Ceiling && c.Target != "" && c.relayAt == "":
		return fmt.Errorf("a ceiling is of the server's machine, which a target may not share")
	case c.Nodes < 0 || c.Nodes > 5:
		return fmt.Errorf("%d nodes: at most 5 on one machine", c.Nodes)
	case c.Nodes > 1 && (c.Target != "" || c.From != "" || c.TLS):
		return fmt.Errorf("a cluster is one that is started with empty folders and without TLS to clients")
	case c.Rate < 0 || c.Rate > 1e6:
		return fmt.Errorf("a rate of %g is none or beyond any generator", c.Rate)
	case c.Rate*(c.WarmUp+c.Window).Seconds() > 50e6:
		return fmt.Errorf("%g messages a second for %s are too many to keep count of", c.Rate, c.WarmUp+c.Window)
	case c.Messages > 10_000_000:
		return fmt.Errorf("%d messages in a room: at most 10,000,000", c.Messages)
	case c.Bytes < 40 || c.Bytes > 10_000:
		return fmt.Errorf("%d bytes a message: want 40 to 10,000", c.Bytes)
	}
	if c.Target != "" {
		if u, err := url.Parse(c.Target); err != nil || u.Host == "" {
			return fmt.Errorf("target %q is not http(s)://host[:port]", c.Target)
		}
		return nil
	}
	if c.Bin == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find our own binary: %w", err)
		}
		c.Bin = self
	}
	return nil
}

func setDefault[T int | float64 | time.Duration](v *T, value T) {
	if *v <= 0 {
		*v = value
	}
}

// random returns the stream that belongs to one of the run's parts.
func (c *Config) random(part int) io.Reader {
	var key [32]byte
	for i := range 8 {
		key[i], key[8+i] = byte(c.Seed>>(8*i)), byte(part>>(8*i))
	}
	return rand.NewChaCha8(key)
}
