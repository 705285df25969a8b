package raft

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/internal/durable"
	"github.com/bongsu-im/bongsu/journal"
)

// authority signs certificates for tests.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{}
	der := a.sign(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	var err error
	if a.cert, err = x509.ParseCertificate(der.Certificate[0]); err != nil {
		t.Fatal(err)
	}
	a.key = der.PrivateKey.(*ecdsa.PrivateKey)
	a.pool = x509.NewCertPool()
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) sign(t testing.TB, c *x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.Subject = pkix.Name{CommonName: "test"}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// config is a node's TLS configuration: its certificate by a, its trust in b.
func (a *authority) config(t testing.TB, b *authority) *tls.Config {
	cert := a.sign(t, &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: b.pool, ClientCAs: b.pool, ClientAuth: tls.RequireAndVerifyClientCert}
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// dialTLS connects as the nodes of a cluster do; internal/mtls is stricter.
func dialTLS(cfg *tls.Config) func(context.Context, NodeID, string) (net.Conn, error) {
	return func(ctx context.Context, _ NodeID, address string) (net.Conn, error) {
		return (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", address)
	}
}

// tcpNode is a node on real sockets and a disk in memory.
func tcpNode(t testing.TB, id NodeID, l net.Listener, cfg *tls.Config, peers map[NodeID]string, change func(*Config)) (*Journal, *TCP) {
	t.Helper()
	tr, err := NewTCP(TCPConfig{Listener: tls.NewListener(l, cfg), Dial: dialTLS(cfg), Peers: peers})
	if err != nil {
		t.Fatal(err)
	}
	c := config(durable.NewCrashable(), 4)
	c.NodeID, c.Cluster, c.Voters, c.Transport = id, testCluster, []NodeID{1, 2, 3}, tr
	if change != nil {
		change(&c)
	}
	return mustOpen(t, c), tr
}

// TestTCP runs three nodes over TLS on loopback, kills the one that leads (its
// connections break at once) and reports how long the next append takes.
func TestTCP(t *testing.T) {
	a := newAuthority(t)
	peers, listeners := map[NodeID]string{}, map[NodeID]net.Listener{}
	for id := NodeID(1); id <= 3; id++ {
		listeners[id] = listen(t)
		peers[id] = listeners[id].Addr().String()
	}
	c := &cluster{t: t}
	for id := NodeID(1); id <= 3; id++ {
		j, _ := tcpNode(t, id, listeners[id], a.config(t, a), peers, nil)
		c.members = append(c.members, &member{id: id, j: j, cfg: j.cfg})
	}
	// On a busy machine a lease may be lost between two appends.
	write := func(data string) (*member, journal.Position) {
		for {
			m, lease := c.leader(0)
			p, err := m.j.Log(0).Append(t.Context(), lease, []byte(data))
			if err == nil {
				return m, p
			}
			if !errors.Is(err, journal.ErrNotOwner) && !errors.Is(err, journal.ErrUnknown) {
				t.Fatal(err)
			}
		}
	}
	var last journal.Position
	var leader *member
	for range 100 {
		leader, last = write(strings.Repeat("봉수", 100))
	}
	leader, last = write(strings.Repeat("x", journal.MaxEntryBytes))
	for _, m := range c.members {
		c.await("the largest entry everywhere", func() bool { return m.log(0).Contains(last) })
	}
	leader.j.store.trip(errors.New("the test breaks it")) // no hand-over: connections just end
	began := time.Now()
	leader.j = nil
	_, after := write("after")
	t.Logf("%v from the loss of the leader to the next append", time.Since(began))
	for _, m := range c.members {
		if m.j == nil {
			continue
		}
		c.await("the entry after the loss", func() bool { return m.log(0).Contains(after) })
		if !m.log(0).Contains(last) {
			t.Fatalf("node %d has lost %+v", m.id, last)
		}
	}
}

// BenchmarkThreeNodes appends on three nodes over TLS on loopback, each with its
// folder on the disk.
func BenchmarkThreeNodes(b *testing.B) {
	a := newAuthority(b)
	peers, listeners := map[NodeID]string{}, map[NodeID]net.Listener{}
	for id := NodeID(1); id <= 3; id++ {
		listeners[id] = listen(b)
		peers[id] = listeners[id].Addr().String()
	}
	c := &cluster{t: b}
	for id := NodeID(1); id <= 3; id++ {
		j, _ := tcpNode(b, id, listeners[id], a.config(b, a), peers, func(c *Config) { c.Dir, c.FS = b.TempDir(), durable.Disk })
		c.members = append(c.members, &member{id: id, j: j, cfg: j.cfg})
	}
	m, lease := c.leader(0)
	data := make([]byte, 400)
	var took []time.Duration
	b.ResetTimer()
	for len(took) < b.N {
		at := time.Now()
		if _, err := m.j.Log(0).Append(b.Context(), lease, data); err != nil {
			m, lease = c.leader(0)
			continue
		}
		took = append(took, time.Since(at))
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

// refusedBy waits until a peer is not reached for a reason that says why.
func refusedBy(t *testing.T, tr *TCP, why ...string) {
	t.Helper()
	var last []PeerState
	for range 2000 {
		last = tr.Peers()
		for _, p := range last {
			for _, w := range why {
				if p.Err != nil && strings.Contains(p.Err.Error(), w) {
					return
				}
			}
		}
		<-time.After(5 * time.Millisecond)
	}
	t.Fatalf("not refused with any of %q: %+v", why, last)
}

// TestTCPRefuses: strangers are refused, each with a reason.
func TestTCPRefuses(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	l := listen(t)
	host, _ := tcpNode(t, 1, l, a.config(t, a), nil, nil)
	peers := map[NodeID]string{1: l.Addr().String()}
	t.Run("certificate of another authority", func(t *testing.T) {
		_, tr := tcpNode(t, 2, listen(t), stranger.config(t, a), peers, nil)
		refusedBy(t, tr, "certificate", "bad certificate", "unknown certificate authority")
	})
	t.Run("server of another authority", func(t *testing.T) {
		_, tr := tcpNode(t, 2, listen(t), a.config(t, stranger), peers, nil)
		refusedBy(t, tr, "certificate signed by unknown authority")
	})
	t.Run("no certificate", func(t *testing.T) {
		c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: a.pool, ServerName: "127.0.0.1"})
		if err == nil {
			_, err = c.Read(make([]byte, 1)) // TLS 1.3 tells the client late
			_ = c.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Fatalf("without a certificate: %v", err)
		}
	})
	t.Run("another cluster", func(t *testing.T) {
		_, tr := tcpNode(t, 2, listen(t), a.config(t, a), peers, func(c *Config) { c.Cluster = ClusterID{9} })
		refusedBy(t, tr, "is of cluster 0900")
	})
	t.Run("another number of shards", func(t *testing.T) {
		_, tr := tcpNode(t, 2, listen(t), a.config(t, a), peers, func(c *Config) { c.Shards = 5 })
		refusedBy(t, tr, "has 5 shards")
	})
	t.Run("another version", func(t *testing.T) {
		c, err := tls.Dial("tcp", l.Addr().String(), a.config(t, a))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		b := append([]byte(handshakeMagic), 0, protocolVersion+1)
		if err := writeFrame(c, frameHello, Identity{Cluster: testCluster, Node: 2, Shards: 4}.append(b)); err != nil {
			t.Fatal(err)
		}
		_, _, err = readHello(c, frameReply)
		var refused *RefusedError
		if !errors.As(err, &refused) || !strings.Contains(refused.Reason, "version 2") {
			t.Fatalf("another version: %v", err)
		}
	})
	t.Run("a node that lost its disk", func(t *testing.T) {
		first, tr := tcpNode(t, 3, listen(t), a.config(t, a), peers, nil)
		for range 2000 {
			if p := tr.Peers(); len(p) == 1 && p[0].Up {
				break
			}
			<-time.After(5 * time.Millisecond)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		_, tr = tcpNode(t, 3, listen(t), a.config(t, a), peers, nil)
		refusedBy(t, tr, "must join under a new node ID")
		var impostor *ImpostorError
		if d := errors.Join(host.Damage()...); !errors.As(d, &impostor) || impostor.Node != 3 {
			t.Fatalf("the refusal is not told of: %v", d)
		}
	})
	t.Run("a node that calls itself another", func(t *testing.T) {
		l := listen(t)
		strict, err := NewTCP(TCPConfig{Listener: tls.NewListener(l, a.config(t, a)), Dial: dialTLS(a.config(t, a)),
			Verify: func(node NodeID, _ net.Conn) error {
				if node == 3 {
					return errors.New("the certificate says node 4")
				}
				return nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		c := config(durable.NewCrashable(), 4)
		c.NodeID, c.Cluster, c.Voters, c.Transport = 1, testCluster, []NodeID{1, 2, 3}, strict
		mustOpen(t, c)
		_, tr := tcpNode(t, 3, listen(t), a.config(t, a), map[NodeID]string{1: l.Addr().String()}, nil)
		refusedBy(t, tr, "the certificate says node 4")
	})
	for name, broken := range map[string]TCPConfig{
		"without a listener":    {Dial: dialTLS(a.config(t, a))},
		"without a way to dial": {Listener: l},
	} {
		if _, err := NewTCP(broken); err == nil {
			t.Errorf("a configuration %s is taken", name)
		}
	}
	if _, err := host.Status(context.Background(), 0); err != nil {
		t.Fatalf("the node that refused them all is not well: %v", err)
	}
}

// TestTCPSnapshot: a node joins over TLS behind the trimmed part; and what cannot
// be served is refused with a reason, never a short stream.
func TestTCPSnapshot(t *testing.T) {
	a := newAuthority(t)
	l1, l2 := listen(t), listen(t)
	peers := map[NodeID]string{1: l1.Addr().String(), 2: l2.Addr().String()}
	from, to := &views{}, &views{}
	one, _ := tcpNode(t, 1, l1, a.config(t, a), peers, func(c *Config) { c.Voters, c.Snapshots = nil, from })
	lease := mustLease(t, one.Log(0))
	var last journal.Position
	for n := range 30 {
		last = mustAppend(t, one.Log(0), lease, strings.Repeat(string(rune('a'+n%26)), 100_000))
	}
	from.apply(t, one.Log(0), last.Index)
	if err := one.Log(0).Trim(t.Context(), last.Index); err != nil {
		t.Fatal(err)
	}
	two, tr := tcpNode(t, 2, l2, a.config(t, a), peers, func(c *Config) { c.Voters, c.Join, c.Snapshots = nil, true, to })
	if err := one.AddLearner(t.Context(), 0, 2, 0); err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, members: []*member{{id: 1, j: one, cfg: one.cfg}, {id: 2, j: two, cfg: two.cfg}}}
	c.await("node 2 to have the snapshot", func() bool { return two.Log(0).Last() == last })
	if to.restores != 1 || to.sum() != from.sum() || to.at != from.at {
		t.Fatalf("restored %d times to %+v, the original stands at %+v", to.restores, to.at, from.at)
	}
	s, err := two.Status(t.Context(), 0)
	if err != nil || s.Role != RoleLearner || s.Snapshot.From != 1 || s.Snapshot.Bytes != uint64(len(from.records)) {
		t.Fatalf("status of the new member: %+v, %v", s, err)
	}
	r, err := tr.Fetch(t.Context(), 1, 77)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	var refused *RefusedError
	if b, err := io.ReadAll(r); !errors.As(err, &refused) || len(b) > 0 {
		t.Fatalf("a shard that does not exist: %d bytes, %v", len(b), err)
	}
}

// TestDownloadIsWhole: a snapshot that ends without its sum, or with another, is
// not taken for whole.
func TestDownloadIsWhole(t *testing.T) {
	chunk := endFrame(append(beginFrame(nil, frameChunk), "half of it"...))
	for name, tail := range map[string][]byte{
		"cut":         nil,
		"another sum": endFrame(append(beginFrame(nil, frameEnd), make([]byte, 40)...)),
		"a stranger":  endFrame(beginFrame(nil, framePing)),
	} {
		client, server := net.Pipe()
		go func() {
			_, _ = server.Write(append(append([]byte(nil), chunk...), tail...)) // the reader judges
			_ = server.Close()
		}()
		d := &download{c: client, r: bufio.NewReader(client), sum: sha256.New()}
		if b, err := io.ReadAll(d); err == nil {
			t.Errorf("%s: %q is taken for whole", name, b)
		}
		_ = client.Close()
	}
}
