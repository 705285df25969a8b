package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"bongsu": main})
}

// Scenarios of the command line, as operators meet it: testdata/script.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			// What the caller has set must not reach into the scenarios.
			env.Vars = slices.DeleteFunc(env.Vars, func(v string) bool { return strings.HasPrefix(v, "BONGSU_") })
			port, err := freePort()
			env.Setenv("PORT", port)
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"get": get, "flipbyte": flipByte, "certificate": certificate, "busy": busy, "lastjson": lastJSON,
			"status": status, "recipient": recipient,
		},
	})
}

// recipient VARIABLE FILE: sets the variable to the first word of the file.
func recipient(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 || neg {
		ts.Fatalf("usage: recipient VARIABLE FILE")
	}
	words := strings.Fields(ts.ReadFile(args[1]))
	if len(words) == 0 {
		ts.Fatalf("%s is empty", args[1])
	}
	ts.Setenv(args[0], words[0])
}

// status CODE PROGRAM ARGS...: runs it and wants exactly this exit status.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || neg {
		ts.Fatalf("usage: status CODE PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// get URL WANT: asks until the answer is 200 and holds WANT. With TLS the
// certificate is checked against cert.pem of the scenario.
func get(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 || neg {
		ts.Fatalf("usage: get URL WANT")
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	if strings.HasPrefix(args[0], "https:") {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM([]byte(ts.ReadFile("cert.pem")))
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	hc := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	last := "no answer"
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		r, err := hc.Get(args[0])
		if err != nil {
			last = err.Error()
			continue
		}
		b, err := io.ReadAll(r.Body)
		_ = r.Body.Close() // read already
		if err == nil && r.StatusCode == http.StatusOK && strings.Contains(string(b), args[1]) {
			return
		}
		last = r.Status + " " + string(b)
	}
	ts.Fatalf("%s: %.300s", args[0], last)
}

// flipbyte GLOB: flips a bit in the middle of the largest file that fits.
func flipByte(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: flipbyte GLOB")
	}
	names, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	var name string
	var content []byte
	for _, n := range names {
		b, err := os.ReadFile(n)
		ts.Check(err)
		if len(b) > len(content) {
			name, content = n, b
		}
	}
	if name == "" {
		ts.Fatalf("no file fits %s", args[0])
	}
	content[len(content)/2] ^= 1
	ts.Check(os.WriteFile(name, content, 0o600))
}

// certificate writes cert.pem and key.pem for 127.0.0.1, signed by themselves.
func certificate(ts *testscript.TestScript, _ bool, _ []string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bongsu test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	ts.Check(err)
	private, err := x509.MarshalECPrivateKey(key)
	ts.Check(err)
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: cert}, "key.pem": {Type: "EC PRIVATE KEY", Bytes: private},
	} {
		ts.Check(os.WriteFile(ts.MkAbs(name), pem.EncodeToMemory(block), 0o600))
	}
}

// busy takes $PORT until the scenario ends.
func busy(ts *testscript.TestScript, _ bool, _ []string) {
	l, err := net.Listen("tcp", "127.0.0.1:"+ts.Getenv("PORT"))
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
}

// lastjson KEY[=VALUE]...: the last line of standard output is one JSON object
// with exactly such keys among its own.
func lastJSON(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 || neg {
		ts.Fatalf("usage: lastjson KEY[=VALUE]...")
	}
	lines := strings.Split(strings.TrimSpace(ts.ReadFile("stdout")), "\n")
	decoder := json.NewDecoder(strings.NewReader(lines[len(lines)-1]))
	decoder.UseNumber()
	var object map[string]any
	ts.Check(decoder.Decode(&object))
	for _, arg := range args {
		key, want, compare := strings.Cut(arg, "=")
		value, there := object[key]
		if !there {
			ts.Fatalf("no %q in %s", key, lines[len(lines)-1])
		}
		got, err := json.Marshal(value)
		ts.Check(err)
		if compare && string(got) != want {
			ts.Fatalf("%s is %s, want %s", key, got, want)
		}
	}
}

// A stop by SIGTERM, as service managers do it, drains and ends with 0. (Scripts
// can only interrupt.) The program is this binary, put into PATH by TestMain.
func TestSigtermDrains(t *testing.T) {
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	server := exec.Command("bongsu", "serve", "--data", t.TempDir(), "--listen", "127.0.0.1:"+port)
	server.Stderr = &stderr
	server.WaitDelay = time.Second
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	hc := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if r, err := hc.Get("http://127.0.0.1:" + port + "/readyz"); err == nil {
			_ = r.Body.Close() // only the status matters
			if r.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(end) {
			_ = server.Process.Kill() // the failure below is the one to tell
			t.Fatalf("not ready in 20 s: %v\n%s", <-ended, stderr.String())
		}
	}
	if err := server.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil || !strings.Contains(stderr.String(), "draining") {
			t.Fatalf("%v\n%s", err, stderr.String())
		}
	case <-time.After(30 * time.Second):
		_ = server.Process.Kill()
		t.Fatal("still there 30 s after SIGTERM")
	}
}
