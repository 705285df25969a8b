package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/bongsu-im/bongsu/internal/faults"
	"github.com/bongsu-im/bongsu/internal/mtls"
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
	Node         string        `help:"This node's name; it must be that of its certificate." placeholder:"NAME"`
	Zone         string        `help:"Where the machine stands; copies are spread over zones." default:"a" placeholder:"NAME"`
	Certs        string        `help:"Folder of this node's identity (bongsu certs); makes it one of a cluster." type:"path" placeholder:"DIR"`
	PeerListen   string        `help:"Address for the other nodes and operators, HOST:PORT." placeholder:"HOST:PORT"`
	PeerAddress  string        `help:"Where others reach the peer address, if that is another." placeholder:"HOST:PORT"`
	Join         []string      `help:"Peer address of a node of the cluster that an empty folder is to join; may be repeated." placeholder:"HOST:PORT"`
	Reach        []string      `help:"Reach a node at this address, whatever it announces; may be repeated." placeholder:"NAME=HOST:PORT"`
	PublicURL    string        `name:"public-url" help:"Where people reach this node, as told to the other nodes." placeholder:"URL"`
	MaxSessions  int           `name:"max-sessions" help:"Most open sockets of people; 0 means 20,000, and never more than the process may have files open, less 1,500 for the stores." default:"0"`
	ViewCache    int           `name:"view-cache-mib" help:"Memory for reading history and for its write buffers, in MiB; more helps when the store outgrows it." default:"256" placeholder:"MIB"`
	Echo         bool          `help:"Run the echo friend." default:"true" negatable:""`
	MetricsToken string        `help:"Bearer token that /metrics demands; open without." placeholder:"TOKEN"`
	Debug        string        `help:"Second address for Go's profiles (/debug/pprof); keep it on loopback." placeholder:"HOST:PORT"`
	LogFormat    string        `help:"text or json." enum:"text,json" default:"text"`
	LogLevel     slog.Level    `help:"debug, info, warn or error." default:"info"`
	Backup       string        `help:"Archive the journal there while serving: a folder on another disk, or s3://bucket/prefix?endpoint=https://host&region=name with credentials from the environment." placeholder:"PLACE"`
	Recipients   []string      `name:"backup-recipient" help:"Public key that can open the backup (age1…, from bongsu backup keygen); may be repeated." placeholder:"AGE1"`
	BackupEvery  time.Duration `help:"How often what is new is archived." default:"1m"`
	ScrubEvery   time.Duration `help:"How often both stores are read back in full to find damage; negative: never." default:"24h"`
	DrainTimeout time.Duration `help:"How long a stop waits for sessions to leave." default:"10s"`
	FaultFile    string        `hidden:"" help:"Of drills only: what shall go wrong (internal/faults)." placeholder:"FILE" type:"path"`
}

func (c *serveCmd) Run(ctx context.Context) error {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	var handler slog.Handler = slog.NewTextHandler(os.Stderr, options)
	if c.LogFormat == "json" {
		handler = slog.NewJSONHandler(os.Stderr, options)
	}
	cluster, err := c.cluster()
	if err != nil {
		return err
	}
	config := node.Config{
		Data: c.Data, Listen: c.Listen, CertFile: c.TLSCert, KeyFile: c.TLSKey,
		Origins: c.Origin, Shards: c.Shards, Journal: c.Journal, Cluster: cluster, MaxSessions: c.MaxSessions, ViewCacheMiB: c.ViewCache, Echo: c.Echo, MetricsToken: c.MetricsToken, Debug: c.Debug,
		Backup:  node.BackupConfig{To: c.Backup, Recipients: c.Recipients, Every: c.BackupEvery},
		Version: version, ScrubEvery: c.ScrubEvery, DrainTimeout: c.DrainTimeout, Logger: slog.New(handler),
	}
	if c.FaultFile != "" {
		player := faults.New(c.FaultFile, config.Logger)
		config.FS, config.Clock = player.Disk, player.Clock
		playing, stop := context.WithCancel(context.WithoutCancel(ctx)) // draining may fail as well
		var running sync.WaitGroup
		running.Go(func() { player.Run(playing) })
		defer func() {
			stop()
			running.Wait()
		}()
	}
	n, err := node.New(config)
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

// cluster is nil for a node that is alone.
func (c *serveCmd) cluster() (*node.ClusterConfig, error) {
	if c.Certs == "" && c.PeerListen == "" {
		if c.Node != "" || len(c.Join) > 0 || len(c.Reach) > 0 {
			return nil, errors.New("--node, --join and --reach need --certs and --peer-listen")
		}
		return nil, nil
	}
	if c.Certs == "" || c.PeerListen == "" {
		return nil, errors.New("--certs and --peer-listen belong together")
	}
	identity, err := mtls.Open(c.Certs)
	if err != nil {
		return nil, err
	}
	if c.Node != "" && c.Node != identity.Name() {
		return nil, fmt.Errorf("the certificate in %s is of node %s, not of %s", c.Certs, identity.Name(), c.Node)
	}
	reach, err := parseReach(c.Reach)
	if err != nil {
		return nil, err
	}
	return &node.ClusterConfig{
		Certs: c.Certs, Zone: c.Zone, Listen: c.PeerListen, Address: c.PeerAddress, Join: c.Join, Reach: reach, URL: c.PublicURL,
	}, nil
}
