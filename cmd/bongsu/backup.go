package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/bongsu-im/bongsu/backup"
	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/node"
)

type backupCmd struct {
	Run    backupRunCmd `cmd:"" default:"withargs" help:"Archive what is new in a data folder at rest. (A server does it by itself: serve --backup.)"`
	Keygen keygenCmd    `cmd:"" help:"Make a pair of keys: the public one encrypts backups, the private one reads them."`
	Verify verifyCmd    `cmd:"" help:"Read an archive back in full and say whether it is whole; with --restore-to really restore it."`
}

type backupRunCmd struct {
	Data      string   `help:"Data folder of a stopped server." default:"data" type:"existingdir"`
	To        string   `help:"Where the archive is: a folder, or s3://bucket/prefix?endpoint=https://host&region=name with credentials from the environment." required:"" placeholder:"PLACE"`
	Recipient []string `help:"Public key that can open it (age1…); may be repeated." required:"" placeholder:"AGE1"`
}

func (c *backupRunCmd) Run(ctx context.Context) error {
	began := time.Now()
	stats, err := node.Backup(ctx, node.Config{Data: c.Data, Version: version, Logger: quiet()}, node.BackupConfig{To: c.To, Recipients: c.Recipient})
	if err != nil {
		return err
	}
	fmt.Printf("archived %s to %s: %d new entries, %.1f MB in %d segments, %.1f MB stored, in %v\n", c.Data, c.To,
		stats.Entries, float64(stats.Bytes)/1e6, stats.Segments, float64(stats.Stored)/1e6, time.Since(began).Round(time.Millisecond))
	return nil
}

type keygenCmd struct {
	Out string `arg:"" help:"File for the private key; it must not exist. Keep it away from the machine that is backed up." type:"path"`
}

func (c *keygenCmd) Run() error {
	key, err := backup.NewKey()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(c.Out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make the file of the private key: %w", err)
	}
	_, err = fmt.Fprintf(f, "# reads backups made for %s\n%s\n", key.Public, key.Private)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the private key: %w", err)
	}
	fmt.Println(key.Public)
	return nil
}

// archiveFlags say which archive is read, and with what.
type archiveFlags struct {
	From     string   `help:"Where the archive is, as in backup --to." required:"" placeholder:"PLACE"`
	Identity []string `help:"File with a private key that opens it; may be repeated." required:"" type:"existingfile" placeholder:"FILE"`
	Cluster  string   `help:"Whose archive, if the place holds several." placeholder:"ID"`
}

func (f *archiveFlags) identities() (all backup.Identities, err error) {
	for _, name := range f.Identity {
		file, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("open the private key: %w", err)
		}
		ids, err := backup.ParseIdentities(file)
		if err := errors.Join(err, file.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, ids...)
	}
	return all, nil
}

type verifyCmd struct {
	archiveFlags
	RestoreTo string `help:"Empty folder to restore to and to read back: the proof that counts. It is left there." placeholder:"DIR" type:"path"`
}

func (c *verifyCmd) Run(ctx context.Context) error {
	ids, err := c.identities()
	if err != nil {
		return err
	}
	store, err := backup.Open(c.From, durable.Disk)
	if err != nil {
		return err
	}
	archive, err := backup.OpenArchive(ctx, store, ids, c.Cluster)
	if err != nil {
		return err
	}
	p := progress{start: time.Now()}
	report, err := archive.Verify(ctx, p.show)
	p.end()
	if err != nil {
		return err
	}
	fmt.Print(report.Text())
	if !report.Whole() {
		return errRed
	}
	if c.RestoreTo == "" {
		return nil
	}
	return c.restore(ctx, ids, archive.Cluster.String())
}

// restore restores, starts what was restored until every shard serves, and reads
// every byte of it.
func (c *verifyCmd) restore(ctx context.Context, ids backup.Identities, cluster string) error {
	cfg := node.Config{Data: c.RestoreTo, Version: version, Logger: quiet()}
	restored, err := node.Restore(ctx, cfg, node.RestoreConfig{From: c.From, Identities: ids, Cluster: cluster})
	if err != nil {
		return err
	}
	began := time.Now()
	core, err := node.OpenCore(ctx, cfg, nil)
	if err != nil {
		return err
	}
	if err := errors.Join(core.AwaitReady(ctx), core.Close()); err != nil {
		return fmt.Errorf("start what was restored: %w", err)
	}
	fmt.Printf("restored to %s in %.1f s, its shards served after %.1f s more\n", filepath.Clean(c.RestoreTo), restored.Seconds, time.Since(began).Seconds())
	p := progress{start: time.Now()}
	report, err := node.Check(ctx, cfg, p.show)
	p.end()
	if err != nil {
		return err
	}
	fmt.Print(report.Text())
	if !report.Whole() {
		return errRed
	}
	return nil
}
