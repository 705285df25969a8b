package node

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/bongsu-im/bongsu/journal"
	"github.com/bongsu-im/bongsu/journal/raft"
)

// Kinds of mending, as the metric names them.
const (
	mendReopened = "reopened" // a store had failed; it was opened again and proven
	mendView     = "view"     // the view was made again from the journal
	mendAnew     = "anew"     // the stores were not whole: a new member in the place of the old
)

// newMended counts mendings. It belongs to the process: what else is counted
// begins anew with every opening of the stores.
func newMended() *prometheus.CounterVec {
	m := prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "bongsu", Subsystem: "node", Name: "mendings_total", Help: "Times this node has mended its own stores, by how.",
	}, []string{"kind"})
	for _, kind := range []string{mendReopened, mendView, mendAnew} {
		m.WithLabelValues(kind)
	}
	return m
}

// censusPatience is how long a census waits for a group's loop, which may be at
// the disk: what it does not say in time is left out.
const censusPatience = 500 * time.Millisecond

// census tells how the stores, the groups and the node's surroundings are, when
// it is asked.
type census struct {
	n *Node
	c *Core

	clock, expiry, peerUp            *prometheus.Desc
	open, turned                     *prometheus.Desc
	fenced, free, reserve, size      map[string]*prometheus.Desc // by store
	fsync                            *prometheus.Desc
	term, first, last, dropped       *prometheus.Desc
	received, memberLag, memberHeard *prometheus.Desc
}

// The stores, as metrics name them.
const (
	journalPart = "journal"
	viewPart    = "view"
)

func newCensus(n *Node, c *Core) *census {
	desc := func(part, name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName("bongsu", part, name), help, labels, nil)
	}
	s := &census{
		n: n, c: c,
		clock:  desc("node", "clock_seconds", "The node's own time of day, in Unix seconds."),
		expiry: desc("node", "certificate_expiry_timestamp_seconds", "When a certificate ends, in Unix seconds: the node's to its peers, or the public one.", "use"),
		peerUp: desc("node", "peer_up", "1 where another node was heard of lately.", "peer"),
		open:   desc("node", "open_connections", "Connections of people that are no sessions."),
		turned: desc("node", "connections_refused_total", "Connections closed at once because there were too many."),
		fenced: map[string]*prometheus.Desc{}, free: map[string]*prometheus.Desc{}, size: map[string]*prometheus.Desc{},
		fsync:       desc(journalPart, "fsync_duration_seconds", "Time of an fsync of the journal's log."),
		reserve:     map[string]*prometheus.Desc{journalPart: desc(journalPart, "disk_reserve_bytes", "Free space below which sends are refused.")},
		term:        desc("raft", "term", "Term of the shard's group; it grows with every election and transfer.", "shard"),
		first:       desc("raft", "first_index", "Index of the first entry that is not trimmed.", "shard"),
		last:        desc("raft", "last_index", "Index of the last entry on this disk.", "shard"),
		dropped:     desc("raft", "dropped_messages_total", "Messages of peers for which there was no room; they are sent again.", "shard"),
		received:    desc("raft", "snapshot_received_bytes", "Bytes of the snapshot that is being taken from a peer, or was taken last.", "shard"),
		memberLag:   desc("raft", "member_lag_entries", "Entries that are committed and that a member's log lacks, as its leader knows.", "shard", "member"),
		memberHeard: desc("raft", "member_active", "1 where the leader has heard of a member within an election's time.", "shard", "member"),
	}
	for _, part := range []string{journalPart, viewPart} {
		s.fenced[part] = desc(part, "fenced", "1 where the store has met an error and accepts nothing any more.")
		s.free[part] = desc(part, "disk_free_bytes", "Free space of the disk that the store is on.")
		s.size[part] = desc(part, "store_bytes", "Size of the store on disk.")
	}
	return s
}

// Describe implements prometheus.Collector.
func (s *census) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		s.clock, s.expiry, s.peerUp, s.open, s.turned, s.fsync, s.term, s.first, s.last, s.dropped, s.received, s.memberLag, s.memberHeard,
	} {
		out <- d
	}
	for _, parts := range []map[string]*prometheus.Desc{s.fenced, s.free, s.reserve, s.size} {
		for _, d := range parts {
			out <- d
		}
	}
}

// Collect implements prometheus.Collector.
func (s *census) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(s.clock, unixSeconds(s.c.config.Clock.Now()))
	if at := s.n.publicExpiry(); !at.IsZero() {
		gauge(s.expiry, unixSeconds(at), "public")
	}
	if cl := s.c.cluster; cl != nil {
		gauge(s.expiry, unixSeconds(cl.port.identity.Expires()), "peer")
		for _, m := range cl.roster.Members() {
			if m.GetId() != cl.self {
				gauge(s.peerUp, oneIf(cl.up(m.GetId())), m.GetName())
			}
		}
	}
	gauge(s.open, float64(s.n.connections.Open()))
	out <- prometheus.MustNewConstMetric(s.turned, prometheus.CounterValue, float64(s.n.connections.TurnedAway()))
	layout := Layout{s.c.config.Data}
	gauge(s.fenced[viewPart], oneIf(s.c.View.Err() != nil))
	gauge(s.size[viewPart], float64(s.c.View.DiskBytes()))
	for part, dir := range map[string]string{journalPart: layout.Journal(), viewPart: layout.View()} {
		if usage, err := s.c.config.FS.GetDiskUsage(dir); err == nil { // file systems in memory do not know
			gauge(s.free[part], float64(usage.AvailBytes))
		}
	}
	if j, ok := s.c.Journal.(*raft.Journal); ok {
		s.collectStore(j, out, gauge)
		s.collectGroups(j, out, gauge)
	}
}

func (s *census) collectStore(j *raft.Journal, out chan<- prometheus.Metric, gauge func(*prometheus.Desc, float64, ...string)) {
	gauge(s.fenced[journalPart], oneIf(j.Fenced() != nil))
	m := j.Metrics()
	if m.Pebble == nil {
		return // it is closed
	}
	gauge(s.size[journalPart], float64(m.DiskBytes))
	gauge(s.reserve[journalPart], float64(m.ReserveBytes))
	if h, err := inSeconds(s.fsync, m.Pebble.LogWriter.FsyncLatency); err == nil {
		out <- h
	}
}

// inSeconds gives a histogram of nanoseconds as one of seconds, with fewer
// bounds: from about 0.1 ms to 10 s.
func inSeconds(d *prometheus.Desc, from prometheus.Metric) (prometheus.Metric, error) {
	var raw dto.Metric
	if err := from.Write(&raw); err != nil {
		return nil, err
	}
	h := raw.GetHistogram()
	counts := map[float64]uint64{}
	for _, bound := range fsyncBounds {
		for _, b := range h.GetBucket() {
			if b.GetUpperBound() > bound*(1e9+1) {
				break
			}
			counts[bound] = b.GetCumulativeCount()
		}
	}
	return prometheus.NewConstHistogram(d, h.GetSampleCount(), h.GetSampleSum()/1e9, counts)
}

// fsyncBounds are where the buckets end. Pebble's own lie 0.1 ms apart below
// 5 ms and 15 % apart above, so each of ours is counted to the bound of Pebble's
// before it.
var fsyncBounds = []float64{.0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10}

func (s *census) collectGroups(j *raft.Journal, out chan<- prometheus.Metric, gauge func(*prometheus.Desc, float64, ...string)) {
	ctx, cancel := context.WithTimeout(context.Background(), censusPatience)
	defer cancel()
	for n := range s.c.identity.Shards {
		st, err := j.Status(ctx, journal.ShardID(n))
		shard := strconv.Itoa(n)
		gauge(s.term, float64(st.Term), shard)
		gauge(s.first, float64(st.First), shard)
		gauge(s.last, float64(st.Last), shard)
		gauge(s.received, float64(st.Snapshot.Bytes), shard)
		out <- prometheus.MustNewConstMetric(s.dropped, prometheus.CounterValue, float64(st.Dropped), shard)
		if err != nil || st.Role != raft.RoleLeader {
			continue // only a leader knows of the others
		}
		for _, m := range st.Members {
			if m.Node == s.c.identity.Node {
				continue
			}
			name := s.nameOf(m.Node)
			gauge(s.memberHeard, oneIf(m.Active), shard, name)
			gauge(s.memberLag, float64(max(st.Commit, m.Match)-m.Match), shard, name)
		}
	}
}

// nameOf is what people call a node; its number, if nobody has said.
func (s *census) nameOf(node raft.NodeID) string {
	if s.c.cluster != nil {
		if name := s.c.cluster.nameOf(node); name != "" {
			return name
		}
	}
	return "#" + strconv.FormatUint(node, 10)
}

func unixSeconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
