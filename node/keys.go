package node

import (
	"fmt"

	"github.com/bongsu-im/bongsu/gateway/auth"
	"github.com/bongsu-im/bongsu/internal/durable"
)

// keyFiles keeps keys on a file system that is not the machine's: one in
// memory, for tests that pull the plug.
type keyFiles struct {
	fs  durable.FS
	dir string
}

// Read implements auth.Files.
func (k keyFiles) Read(name string) ([]byte, error) {
	return durable.ReadFile(k.fs, k.fs.PathJoin(k.dir, name))
}

// Write implements auth.Files.
func (k keyFiles) Write(name string, data []byte) error {
	return durable.WriteFile(k.fs, k.fs.PathJoin(k.dir, name), data, 0o600)
}

// keys loads the keys that tokens are made with, or makes them at first.
func (n *Node) keys() (*auth.Ring, error) {
	dir := Layout{n.cfg.Data}.Keys()
	if err := durable.MkdirAll(n.cfg.FS, dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of keys: %w", err)
	}
	var files auth.Files = auth.Folder(dir)
	if !durable.OnDisk(n.cfg.FS) {
		files = keyFiles{n.cfg.FS, dir}
	}
	ring, err := auth.LoadOrCreateIn(files, n.cfg.Random)
	if err != nil {
		return nil, fmt.Errorf("load keys: %w", err)
	}
	return ring, nil
}
