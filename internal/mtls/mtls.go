// Package mtls is the identity of nodes to each other: a small certificate
// authority of the cluster's own, one certificate a node, and TLS settings that
// let in nobody else.
//
// Vocabulary: the authority signs; an identity is a node's certificate, key and
// the authority's certificate, as files in one folder. A node's name is in its
// certificate as the URI bongsu://node/NAME, which is what peers check: host
// names and addresses may change, names do not.
//
// Concurrency: an Identity may be used from any goroutine; its files are read
// again when they change, so that renewal needs no restart.
//
// What it does not do: it revokes nothing. A stolen key is answered by a new
// authority: both can be trusted while it is replaced, as the authority file
// may hold several certificates.
package mtls

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"
)

// Names of the files of an identity, in its folder.
const (
	AuthorityCert = "authority.pem"
	NodeCert      = "node.pem"
	NodeKey       = "node.key"
	// AuthorityKey lies only where certificates are made, never on a node.
	AuthorityKey = "authority.key"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	nodeLife      = 397 * 24 * time.Hour
	// backdate forgives clocks that are a little behind.
	backdate = time.Hour
	scheme   = "bongsu"
	uriHost  = "node"
)

var nameRule = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckName tells whether a node may have this name: a DNS label.
func CheckName(name string) error {
	if !nameRule.MatchString(name) {
		return fmt.Errorf("node name %q: want 1 to 63 of a–z, 0–9 and '-', not at an end", name)
	}
	return nil
}

// Authority signs nodes' certificates.
type Authority struct {
	cert    *x509.Certificate
	certPEM []byte
	key     *ecdsa.PrivateKey
	keyPEM  []byte
}

// NewAuthority makes one, good for ten years from now on.
func NewAuthority(now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the authority's key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Bongsu cluster authority " + serial.Text(36)[:6]},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign the authority: %w", err)
	}
	return newAuthority(der, key)
}

func newAuthority(der []byte, key *ecdsa.PrivateKey) (*Authority, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the authority's certificate: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return &Authority{cert: cert, certPEM: encodeCert(der), key: key, keyPEM: keyPEM}, nil
}

// OpenAuthority reads what Save has written.
func OpenAuthority(dir string) (*Authority, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, AuthorityCert), filepath.Join(dir, AuthorityKey))
	if err != nil {
		return nil, fmt.Errorf("open the authority: %w", err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("open the authority: its key is not an ECDSA key")
	}
	return newAuthority(pair.Certificate[0], key)
}

// Save writes the authority into a folder; an authority that is there is not
// overwritten, as the nodes that trust it would be locked out.
func (a *Authority) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := writeNew(filepath.Join(dir, AuthorityKey), a.keyPEM, 0o600); err != nil {
		return err
	}
	return writeNew(filepath.Join(dir, AuthorityCert), a.certPEM, 0o644)
}

// Issue makes a node's identity and writes it into a folder. hosts are names and
// addresses for tools that check them; nodes go by the name alone.
func (a *Authority) Issue(dir, name string, hosts []string, now time.Time) error {
	if err := CheckName(name); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make the key of node %s: %w", name, err)
	}
	serial, err := newSerial()
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(nodeLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{{Scheme: scheme, Host: uriHost, Path: "/" + name}},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("sign node %s: %w", name, err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// The key first: a certificate without its key is noticed at the next look.
	if err := replace(filepath.Join(dir, NodeKey), keyPEM, 0o600); err != nil {
		return err
	}
	if err := replace(filepath.Join(dir, NodeCert), encodeCert(der), 0o644); err != nil {
		return err
	}
	return replace(filepath.Join(dir, AuthorityCert), a.certPEM, 0o644)
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	return serial.SetBit(serial, 120, 1), nil // never short
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func writeNew(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// replace swaps a file in one step, so that a reader sees the old or the new.
func replace(path string, data []byte, mode os.FileMode) error {
	next := path + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := writeNew(next, data, mode); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// Identity is a node's own, as read from its folder.
type Identity struct {
	dir  string
	name string

	mu       sync.Mutex // guards what follows
	pair     *tls.Certificate
	trusted  *x509.CertPool
	modified time.Time
	checked  time.Time
}

// checkEvery is how often the files are looked at for changes.
const checkEvery = 10 * time.Second

// Open reads an identity.
func Open(dir string) (*Identity, error) {
	i := &Identity{dir: dir}
	if err := i.load(); err != nil {
		return nil, err
	}
	var err error
	if i.name, err = nameOf(i.pair.Leaf); err != nil {
		return nil, fmt.Errorf("open identity %s: %w", dir, err)
	}
	return i, nil
}

// Name of the node.
func (i *Identity) Name() string { return i.name }

// Expires tells when the certificate ends.
func (i *Identity) Expires() time.Time {
	pair, _ := i.current()
	return pair.Leaf.NotAfter
}

func (i *Identity) load() error {
	pair, err := tls.LoadX509KeyPair(filepath.Join(i.dir, NodeCert), filepath.Join(i.dir, NodeKey))
	if err != nil {
		return fmt.Errorf("open identity: %w", err)
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return fmt.Errorf("open identity %s: %w", i.dir, err)
		}
	}
	authority, err := os.ReadFile(filepath.Join(i.dir, AuthorityCert))
	if err != nil {
		return fmt.Errorf("open identity: %w", err)
	}
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(authority) {
		return fmt.Errorf("open identity: %s holds no certificate", filepath.Join(i.dir, AuthorityCert))
	}
	i.pair, i.trusted, i.modified, i.checked = &pair, trusted, i.newest(), time.Now()
	return nil
}

func (i *Identity) newest() (at time.Time) {
	for _, name := range []string{NodeCert, NodeKey, AuthorityCert} {
		if info, err := os.Stat(filepath.Join(i.dir, name)); err == nil && info.ModTime().After(at) {
			at = info.ModTime()
		}
	}
	return at
}

// current returns the certificate and whom it trusts, read again if the files
// have changed. Files that cannot be read leave what was there in force.
func (i *Identity) current() (*tls.Certificate, *x509.CertPool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if time.Since(i.checked) > checkEvery {
		i.checked = time.Now()
		if i.newest().After(i.modified) {
			_ = i.load() // a renewal under way: the next look
		}
	}
	return i.pair, i.trusted
}

// Server returns settings for taking connections of any node of the cluster.
// protocols are offered by ALPN.
func (i *Identity) Server(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: protocols,
		ClientAuth: tls.RequireAnyClientCert, // verified below, with the authorities of now
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			pair, _ := i.current()
			return pair, nil
		},
		VerifyConnection: func(c tls.ConnectionState) error {
			_, err := i.verify(c, x509.ExtKeyUsageClientAuth)
			return err
		},
	}
}

// Client returns settings for connecting to the node of this name; "" is
// whichever node of the cluster answers.
func (i *Identity) Client(node string, protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: protocols, ServerName: cmp.Or(node, uriHost),
		InsecureSkipVerify: true, // host names say nothing here: verified below, by node name
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, _ := i.current()
			return pair, nil
		},
		VerifyConnection: func(c tls.ConnectionState) error {
			name, err := i.verify(c, x509.ExtKeyUsageServerAuth)
			if err == nil && node != "" && name != node {
				err = fmt.Errorf("this is node %s, not %s", name, node)
			}
			return err
		},
	}
}

// verify checks the other end's certificate and returns its node's name.
func (i *Identity) verify(c tls.ConnectionState, usage x509.ExtKeyUsage) (string, error) {
	if len(c.PeerCertificates) == 0 {
		return "", errors.New("the peer has shown no certificate")
	}
	_, trusted := i.current()
	leaf := c.PeerCertificates[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: trusted, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		return "", fmt.Errorf("the peer is not of this cluster: %w", err)
	}
	return nameOf(leaf)
}

// PeerName returns the name of the node at the other end of a connection that
// was made with Server's or Client's settings.
func PeerName(c tls.ConnectionState) (string, error) {
	if len(c.PeerCertificates) == 0 {
		return "", errors.New("the peer has shown no certificate")
	}
	return nameOf(c.PeerCertificates[0])
}

func nameOf(cert *x509.Certificate) (string, error) {
	for _, u := range cert.URIs {
		if u.Scheme == scheme && u.Host == uriHost && len(u.Path) > 1 {
			return u.Path[1:], CheckName(u.Path[1:])
		}
	}
	return "", errors.New("the certificate names no node")
}
