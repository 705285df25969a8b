package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/bongsu-im/bongsu/node"
)

type serveCmd struct {
	Data         string        `help:"Folder that holds everything; made if missing." default:"data" type:"path"`
	Listen       string        `help:"Public address, HOST:PORT; port 0 picks a free one." default:"localhost:8080" placeholder:"HOST:PORT"`
	TLSCert      string        `name:"tls-cert" help:"Certificate chain (PEM); read again when it changes. Without it TLS ends in front." type:"path" placeholder:"FILE"`
	TLSKey       string        `name:"tls-key" help:"Private key of the certificate (PEM)." type:"path" placeholder:"FILE"`
	Origin       []string      `help:"Web origin that may open sockets beside the page's own, such as https://chat.example.org; may be repeated." placeholder:"URL"`
	Shards       int           `help:"Number of shards of a new store, for good; 0 means two a processor, 4 to 16. Give more to a store that will move to larger machines." default:"0"`
	Journal      string        `help:"Journal on a PostgreSQL cluster, postgres://user@host/database, instead of the built-in one; better given by BONGSU_JOURNAL than seen by ps." placeholder:"URL"`
	ViewCache    int           `name:"view-cache-mib" help:"Memory for reading history and for its write buffers, in MiB; more helps when the store outgrows it." default:"256" placeholder:"MIB"`
	Echo         bool          `help:"Run the echo friend." default:"true" negatable:""`
	MetricsToken string        `help:"Bearer token that /metrics demands; open without." placeholder:"TOKEN"`
	Debug        string        `help:"Second address for Go's profiles (/debug/pprof); keep it on loopback." placeholder:"HOST:PORT"`
	LogFormat    string        `help:"text or json." enum:"text,json" default:"text"`
	LogLevel     slog.Level    `help:"debug, info, warn or error." default:"info"`
	ScrubEvery   time.Duration `help:"How often both stores are read back in full to find damage; negative: never." default:"24h"`
	DrainTimeout time.Duration `help:"How long a stop waits for sessions to leave." default:"10s"`
}

func (c *serveCmd) Run(ctx context.Context) error {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	var handler slog.Handler = slog.NewTextHandler(os.Stderr, options)
	if c.LogFormat == "json" {
		handler = slog.NewJSONHandler(os.Stderr, options)
	}
	n, err := node.New(node.Config{
		Data: c.Data, Listen: c.Listen, CertFile: c.TLSCert, KeyFile: c.TLSKey,
		Origins: c.Origin, Shards: c.Shards, Journal: c.Journal, ViewCacheMiB: c.ViewCache, Echo: c.Echo, MetricsToken: c.MetricsToken, Debug: c.Debug,
		Version: version, ScrubEvery: c.ScrubEvery, DrainTimeout: c.DrainTimeout, Logger: slog.New(handler),
	})
	if err != nil {
		return err
	}
	go func() {
		select {
		case <-n.Serving():
			fmt.Printf("\n  Bongsu is at %s   (stop: Ctrl-C; data: %s)\n\n", n.URL(), c.Data)
		case <-ctx.Done():
		}
	}()
	return n.Run(ctx)
}
