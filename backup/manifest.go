package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/bongsu-im/bongsu/journal"
)

// manifestFormat is the version of a manifest's shape; a reader refuses others.
const manifestFormat = 1

// maxFileBytes bounds the files in one manifest, all together.
const maxFileBytes = 1 << 20

// Manifest is what a node has archived by a certain time, and what a restored
// folder needs beside the entries. It is stored as sealed JSON.
type Manifest struct {
	Format  int       `json:"format"`
	Cluster string    `json:"cluster"`
	Node    uint64    `json:"node"`
	Number  uint64    `json:"number"`
	Time    time.Time `json:"time"`
	Version string    `json:"version"` // of the release that wrote it
	Cell    uint16    `json:"cell"`
	Shards  int       `json:"shards"`
	// Ends are what the archive must hold: this node has put it there.
	Ends []End `json:"ends"`
	// Files by their names in the data folder, like keys/ring.json.
	Files map[string][]byte `json:"files"`
}

// End is a position that a node has archived its shard up to.
type End struct {
	Shard journal.ShardID `json:"shard"`
	Term  journal.Term    `json:"term"`
	Index journal.Index   `json:"index"`
	// Hash is the running hash there; empty if the journal could not tell it.
	Hash []byte `json:"hash,omitempty"`
}

func (m *Manifest) name() (manifestName, error) {
	cluster, err := parseCluster(m.Cluster)
	return manifestName{cluster: cluster, node: m.Node, number: m.Number}, err
}

func (m *Manifest) encode() ([]byte, error) { return json.Marshal(m) }

// parseManifest reads a manifest and proves that it is what its name says.
func parseManifest(name manifestName, plain []byte) (*Manifest, error) {
	m := &Manifest{}
	if err := json.Unmarshal(plain, m); err != nil {
		return nil, fmt.Errorf("not a manifest: %w", err)
	}
	if m.Format != manifestFormat {
		return nil, fmt.Errorf("a manifest of format %d, this release knows %d", m.Format, manifestFormat)
	}
	if is, err := m.name(); err != nil || is != name {
		return nil, errors.Join(fmt.Errorf("it is manifest %d of node %x in cluster %s: it was put in another's place", m.Number, m.Node, m.Cluster), err)
	}
	if m.Shards < 1 || m.Shards > 1<<12 {
		return nil, fmt.Errorf("a manifest of %d shards", m.Shards)
	}
	for _, e := range m.Ends {
		if int(e.Shard) >= m.Shards || e.Index == 0 || e.Term == 0 || len(e.Hash) != 0 && len(e.Hash) != 32 {
			return nil, fmt.Errorf("a manifest with an end of shard %d at term %d index %d", e.Shard, e.Term, e.Index)
		}
	}
	if err := checkFiles(m.Files); err != nil {
		return nil, err
	}
	return m, nil
}

// checkFiles keeps files small and inside the folder that they are written to.
func checkFiles(files map[string][]byte) error {
	total := 0
	for name, content := range files {
		if total += len(content); total > maxFileBytes {
			return fmt.Errorf("files of more than %d bytes", maxFileBytes)
		}
		if name != path.Clean(name) || checkName(name) != nil {
			return fmt.Errorf("a file called %q", name)
		}
	}
	return nil
}
