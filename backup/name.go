package backup

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/bongsu-im/bongsu/journal"
)

// ClusterID tells whose history an archive holds; a restored node begins one of
// its own, so that what it writes is never taken for what was there before.
type ClusterID [16]byte

func (c ClusterID) String() string { return hex.EncodeToString(c[:]) }

// parseCluster reads a cluster's ID.
func parseCluster(text string) (c ClusterID, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(c) || hex.EncodeToString(b) != text {
		return c, fmt.Errorf("%q is no ID of a cluster", text)
	}
	return ClusterID(b), nil
}

// hashHint is as much of a running hash as names carry: enough to notice that a
// journal and its archive have parted, nothing to rely on.
type hashHint [8]byte

func hintOf(hash [32]byte) hashHint { return hashHint(hash[:8]) }

// segmentName is what a segment's name says: a shard's entries behind after, up
// to to, and the running hash there. The zero after is the beginning.
//
//	<cluster>/shard-0003/<after index>.<after term>-<to index>.<to term>-<hash>.segment.age
type segmentName struct {
	cluster   ClusterID
	shard     journal.ShardID
	after, to journal.Position
	hash      hashHint
}

const segmentSuffix = ".segment.age"

func (n segmentName) String() string {
	return fmt.Sprintf("%s%s-%s-%x%s", shardPrefix(n.cluster, n.shard), placeText(n.after), placeText(n.to), n.hash, segmentSuffix)
}

func shardPrefix(c ClusterID, shard journal.ShardID) string {
	return fmt.Sprintf("%s/shard-%04d/", c, shard)
}

func placeText(p journal.Position) string { return fmt.Sprintf("%020d.%d", p.Index, p.Term) }

func parsePlace(text string) (p journal.Position, ok bool) {
	index, term, found := strings.Cut(text, ".")
	if !found {
		return p, false
	}
	i, err1 := strconv.ParseUint(index, 10, 64)
	t, err2 := strconv.ParseUint(term, 10, 64)
	p = journal.Position{Term: journal.Term(t), Index: journal.Index(i)}
	return p, err1 == nil && err2 == nil && placeText(p) == text && (i == 0) == (t == 0)
}

// parseSegmentName reads a name; false for whatever is not exactly one.
func parseSegmentName(name string) (n segmentName, ok bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 3 {
		return n, false
	}
	var err error
	if n.cluster, err = parseCluster(parts[0]); err != nil {
		return n, false
	}
	shard, err := strconv.ParseUint(strings.TrimPrefix(parts[1], "shard-"), 10, 16)
	if err != nil {
		return n, false
	}
	n.shard = journal.ShardID(shard)
	words := strings.Split(strings.TrimSuffix(parts[2], segmentSuffix), "-")
	if len(words) != 3 {
		return n, false
	}
	var ok1, ok2 bool
	n.after, ok1 = parsePlace(words[0])
	n.to, ok2 = parsePlace(words[1])
	hash, err := hex.DecodeString(words[2])
	if !ok1 || !ok2 || err != nil || len(hash) != len(n.hash) || n.to.Index <= n.after.Index || n.to.Term < n.after.Term {
		return n, false
	}
	n.hash = hashHint(hash)
	return n, n.String() == name
}

// partName is what the name of a part of a base says: a snapshot of a shard's
// view at a position, from which a chain may begin. The last part says so.
//
//	<cluster>/shard-0003/base-<index>.<term>-<hash>-<part>.part.age, …-<part>.last.age
type partName struct {
	cluster ClusterID
	shard   journal.ShardID
	at      journal.Position
	hash    hashHint
	part    int
	last    bool
}

func (n partName) String() string {
	suffix := ".part.age"
	if n.last {
		suffix = ".last.age"
	}
	return fmt.Sprintf("%sbase-%s-%x-%06d%s", shardPrefix(n.cluster, n.shard), placeText(n.at), n.hash, n.part, suffix)
}

func parsePartName(name string) (n partName, ok bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 3 {
		return n, false
	}
	var err error
	if n.cluster, err = parseCluster(parts[0]); err != nil {
		return n, false
	}
	shard, err := strconv.ParseUint(strings.TrimPrefix(parts[1], "shard-"), 10, 16)
	if err != nil {
		return n, false
	}
	n.shard = journal.ShardID(shard)
	stem, last := strings.CutSuffix(parts[2], ".last.age")
	n.last = last
	words := strings.Split(strings.TrimSuffix(stem, ".part.age"), "-")
	if len(words) != 4 || words[0] != "base" {
		return n, false
	}
	at, ok := parsePlace(words[1])
	hash, err := hex.DecodeString(words[2])
	part, err2 := strconv.ParseUint(words[3], 10, 31)
	if !ok || at.Index == 0 || err != nil || err2 != nil || len(hash) != len(n.hash) {
		return n, false
	}
	n.at, n.hash, n.part = at, hashHint(hash), int(part)
	return n, n.String() == name
}

// manifestName is what a manifest's name says. Numbers count a node's manifests
// from 1; the newest two are kept, so that damage to one is survived and a
// missing one is noticed.
//
//	<cluster>/manifest-<node>-<number>.age
type manifestName struct {
	cluster ClusterID
	node    uint64
	number  uint64
}

func (n manifestName) String() string {
	return fmt.Sprintf("%s/manifest-%016x-%010d.age", n.cluster, n.node, n.number)
}

func parseManifestName(name string) (n manifestName, ok bool) {
	cluster, rest, found := strings.Cut(name, "/")
	if !found {
		return n, false
	}
	var err error
	if n.cluster, err = parseCluster(cluster); err != nil {
		return n, false
	}
	words := strings.Split(strings.TrimSuffix(rest, ".age"), "-")
	if len(words) != 3 || words[0] != "manifest" {
		return n, false
	}
	var err1, err2 error
	n.node, err1 = strconv.ParseUint(words[1], 16, 64)
	n.number, err2 = strconv.ParseUint(words[2], 10, 64)
	return n, err1 == nil && err2 == nil && n.number > 0 && n.String() == name
}
