package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/bongsu-im/bongsu/internal/mtls"
)

type certsCmd struct {
	Dir   string   `help:"Folder of the cluster's authority; made if missing. Its key stays here and belongs on no node." default:"certs" type:"path"`
	Host  []string `help:"Name or address put into the certificates, for tools that check them; nodes go by the node's name alone." placeholder:"HOST"`
	Names []string `arg:"" name:"name" help:"Nodes, and operators, to make an identity for: DIR/NAME."`
}

func (c *certsCmd) Run() error {
	for _, name := range c.Names {
		if err := mtls.CheckName(name); err != nil {
			return err
		}
	}
	now := time.Now()
	authority, err := mtls.OpenAuthority(c.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		if _, certErr := os.Stat(filepath.Join(c.Dir, mtls.AuthorityCert)); certErr == nil {
			return fmt.Errorf("%s has an authority without its key: make certificates where the key is", c.Dir)
		}
		if authority, err = mtls.NewAuthority(now); err == nil {
			err = authority.Save(c.Dir)
		}
		if err == nil {
			fmt.Printf("made a new authority in %s; keep %s safe, off the nodes\n", c.Dir, mtls.AuthorityKey)
		}
	}
	if err != nil {
		return err
	}
	for _, name := range c.Names {
		dir := filepath.Join(c.Dir, name)
		if err := authority.Issue(dir, name, c.Host, now); err != nil {
			return err
		}
		identity, err := mtls.Open(dir)
		if err != nil {
			return err
		}
		fmt.Printf("%s: good until %s\n", dir, identity.Expires().Format(time.DateOnly))
	}
	return nil
}
