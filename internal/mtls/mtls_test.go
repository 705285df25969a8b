package mtls

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func authority(t *testing.T) *Authority {
	t.Helper()
	a, err := NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func identity(t *testing.T, a *Authority, name string, at time.Time) *Identity {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := a.Issue(dir, name, []string{"127.0.0.1", "localhost"}, at); err != nil {
		t.Fatal(err)
	}
	i, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// meet lets a client and a server shake hands and say one word; it returns the
// name that the server saw, and what each end says of it.
func meet(client, server *tls.Config) (seen string, clientErr, serverErr error) {
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer b.Close()
		s := tls.Server(b, server)
		if serverErr = s.Handshake(); serverErr != nil {
			return
		}
		if seen, serverErr = PeerName(s.ConnectionState()); serverErr != nil {
			return
		}
		_, serverErr = s.Write([]byte("x"))
	}()
	c := tls.Client(a, client)
	if clientErr = c.Handshake(); clientErr == nil {
		_, clientErr = io.ReadFull(c, make([]byte, 1)) // the server's verdict comes with the first read
	}
	_ = a.Close()
	<-done
	return seen, clientErr, serverErr
}

func TestNodesKnowEachOther(t *testing.T) {
	ours, theirs := authority(t), authority(t)
	now := time.Now()
	n1, n2 := identity(t, ours, "n1", now), identity(t, ours, "n2", now)
	stranger := identity(t, theirs, "n1", now)
	expired := identity(t, ours, "n1", now.Add(-2*nodeLife))
	future := identity(t, ours, "n1", now.Add(48*time.Hour))

	if seen, c, s := meet(n1.Client("n2", "raft"), n2.Server("raft")); seen != "n1" || c != nil || s != nil {
		t.Fatalf("n1 to n2: seen as %q, %v, %v", seen, c, s)
	}
	for name, x := range map[string]struct {
		client, server *tls.Config
		want           string
	}{
		"a node of another cluster calls":    {stranger.Client("n2"), n2.Server(), "not of this cluster"},
		"we call a node of another cluster":  {n1.Client("n1"), stranger.Server(), "not of this cluster"},
		"another node answers":               {n1.Client("n3"), n2.Server(), "this is node n2, not n3"},
		"an expired node calls":              {expired.Client("n2"), n2.Server(), "expired"},
		"a node of the future calls":         {future.Client("n2"), n2.Server(), "not of this cluster"},
		"a client without a certificate":     {&tls.Config{InsecureSkipVerify: true}, n2.Server(), "certificate"},
		"old TLS":                            {&tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}, n2.Server(), "protocol version"},
		"a protocol that nobody understands": {n1.Client("n2", "other"), n2.Server("raft"), "no application protocol"},
	} {
		if _, c, s := meet(x.client, x.server); errors.Join(c, s) == nil || !strings.Contains(errors.Join(c, s).Error(), x.want) {
			t.Errorf("%s: %v, %v; want %q", name, c, s, x.want)
		} else if c == nil {
			t.Errorf("%s: the client noticed nothing", name)
		}
	}
}

func TestRenewalNeedsNoRestart(t *testing.T) {
	a := authority(t)
	now := time.Now()
	n1, n2 := identity(t, a, "n1", now.Add(-nodeLife+time.Hour)), identity(t, a, "n2", now)
	before := n1.Expires()
	if err := a.Issue(n1.dir, "n1", nil, now); err != nil {
		t.Fatal(err)
	}
	later := now.Add(time.Minute) // file systems' clocks are coarse
	if err := os.Chtimes(filepath.Join(n1.dir, NodeCert), later, later); err != nil {
		t.Fatal(err)
	}
	n1.mu.Lock()
	n1.checked = time.Time{}
	n1.mu.Unlock()
	if after := n1.Expires(); !after.After(before) {
		t.Errorf("after renewal it still ends at %v", after)
	}
	if _, c, s := meet(n1.Client("n2"), n2.Server()); c != nil || s != nil {
		t.Errorf("after renewal: %v, %v", c, s)
	}
	// A file that cannot be read leaves the node as it was.
	if err := os.WriteFile(filepath.Join(n1.dir, NodeCert), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	n1.mu.Lock()
	n1.checked, n1.modified = time.Time{}, time.Time{}
	n1.mu.Unlock()
	if _, c, s := meet(n1.Client("n2"), n2.Server()); c != nil || s != nil {
		t.Errorf("with a broken file: %v, %v", c, s)
	}
}

func TestFiles(t *testing.T) {
	a := authority(t)
	dir := t.TempDir()
	if err := a.Save(dir); err != nil {
		t.Fatal(err)
	}
	if err := authority(t).Save(dir); !errors.Is(err, os.ErrExist) {
		t.Errorf("an authority was overwritten: %v", err)
	}
	again, err := OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	n1, n2 := identity(t, a, "n1", time.Now()), identity(t, again, "n2", time.Now())
	if seen, c, s := meet(n1.Client("n2"), n2.Server()); seen != "n1" || c != nil || s != nil {
		t.Errorf("nodes of a saved authority: %v, %v", c, s)
	}
	for _, f := range []string{filepath.Join(dir, AuthorityKey), filepath.Join(n1.dir, NodeKey)} {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, info.Mode(), err)
		}
	}
	for _, bad := range []string{"", "N1", "-a", "a-", "a.b", strings.Repeat("a", 64), "a/b", "노드"} {
		if err := a.Issue(t.TempDir(), bad, nil, time.Now()); err == nil {
			t.Errorf("the name %q was accepted", bad)
		}
	}
	if _, err := Open(t.TempDir()); err == nil || !strings.Contains(err.Error(), NodeCert) {
		t.Errorf("an empty folder: %v", err)
	}
}
