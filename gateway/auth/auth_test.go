package auth

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/internal/id"
)

// counting is a source of the bytes 0, 1, 2, …: golden keys.
type counting struct{ next byte }

func (c *counting) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = c.next
		c.next++
	}
	return len(b), nil
}

var (
	testUser   = id.New(1, id.User, 1148, []byte("abcdefghijkl"))
	testDevice = id.New(1, id.Device, 1148, []byte("mnopqrstuvwx"))
	testNow    = time.UnixMilli(1_795_000_000_123)
)

func goldenRing(t testing.TB) *Ring {
	t.Helper()
	r, err := NewRing(&counting{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestGoldenTokens(t *testing.T) {
	r := goldenRing(t)
	access := r.SignAccess(Access{testUser, testDevice, 7, testNow})
	refresh := r.SignRefresh(Refresh{testUser, testDevice, 7})
	const wantAccess = "AVZHWqcAARR8YWJjZGVmZ2hpamtsAAE0fG1ub3BxcnN0dXZ3eAAAAAcAAAGh7lZee7Q5SQS2LZxk-jtle6jn7KDP5wmq8OjJKNpEqxkTDyomnw97LiHza921vUfeFlhxvYUujehFqdoGdOgRXyF1aA8"
	const wantRefresh = "AZG_19EAARR8YWJjZGVmZ2hpamtsAAE0fG1ub3BxcnN0dXZ3eAAAAAeF5PmjGQODuZQltZhvLgcTS0m2DQ8oAcEe1kQBnoJRUg"
	if access != wantAccess {
		t.Errorf("access token\n got %s\nwant %s", access, wantAccess)
	}
	if refresh != wantRefresh {
		t.Errorf("refresh token\n got %s\nwant %s", refresh, wantRefresh)
	}
}

func TestGoldenRing(t *testing.T) {
	data, err := goldenRing(t).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
  "version": 1,
  "signing": [
    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
  ],
  "refresh": [
    "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="
  ]
}`
	if string(data) != want {
		t.Errorf("key file\n%s\nwant\n%s", data, want)
	}
}

func TestAccess(t *testing.T) {
	r := goldenRing(t)
	a := Access{testUser, testDevice, 3, testNow.Add(Life)}
	text := r.SignAccess(a)
	got, err := r.VerifyAccess(text, testNow)
	if err != nil || got.User != a.User || got.Device != a.Device || got.Generation != 3 || !got.Expires.Equal(a.Expires) {
		t.Fatalf("verify: %+v, %v", got, err)
	}
	if _, err := r.VerifyAccess(text, a.Expires.Add(Skew)); err != nil {
		t.Errorf("within the skew: %v", err)
	}
	got, err = r.VerifyAccess(text, a.Expires.Add(Skew+time.Millisecond))
	if !errors.Is(err, ErrExpired) || got.User != testUser {
		t.Errorf("after the skew: %+v, %v, want ErrExpired with what it said", got, err)
	}
}

func TestRefresh(t *testing.T) {
	r := goldenRing(t)
	want := Refresh{testUser, testDevice, 1 << 31}
	if got, err := r.VerifyRefresh(r.SignRefresh(want)); err != nil || got != want {
		t.Fatalf("verify: %+v, %v", got, err)
	}
}

// Any flipped bit, any cut, and the other kind of token must be refused.
func TestTokensResistTampering(t *testing.T) {
	r := goldenRing(t)
	access := r.SignAccess(Access{testUser, testDevice, 3, testNow.Add(Life)})
	refresh := r.SignRefresh(Refresh{testUser, testDevice, 3})
	verify := map[string]func(string) error{
		access:  func(s string) error { _, err := r.VerifyAccess(s, testNow); return err },
		refresh: func(s string) error { _, err := r.VerifyRefresh(s); return err },
	}
	for text, check := range verify {
		if err := check(text); err != nil {
			t.Fatal(err)
		}
		raw, _ := base64.RawURLEncoding.DecodeString(text)
		for bit := range len(raw) * 8 {
			bad := bytes.Clone(raw)
			bad[bit/8] ^= 1 << (bit % 8)
			if err := check(base64.RawURLEncoding.EncodeToString(bad)); !errors.Is(err, ErrToken) {
				t.Fatalf("bit %d flipped: %v", bit, err)
			}
		}
		for _, bad := range []string{"", text[:len(text)-1], text + "A", text[:10] + "\n" + text[11:], strings.Repeat("A", len(text)), text + "="} {
			if err := check(bad); !errors.Is(err, ErrToken) {
				t.Errorf("%q: %v", bad, err)
			}
		}
	}
	if verify[access](refresh) == nil || verify[refresh](access) == nil {
		t.Error("one kind of token passed for the other")
	}
}

// The last character of a text whose bits do not fill it has one spelling.
func TestTokenHasOneSpelling(t *testing.T) {
	r := goldenRing(t)
	for _, text := range []string{
		r.SignAccess(Access{testUser, testDevice, 3, testNow.Add(Life)}),
		r.SignRefresh(Refresh{testUser, testDevice, 3}),
	} {
		good := 0
		for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" {
			other := text[:len(text)-1] + string(c)
			_, err1 := r.VerifyAccess(other, testNow)
			_, err2 := r.VerifyRefresh(other)
			if err1 == nil || err2 == nil {
				good++
			}
		}
		if good != 1 {
			t.Errorf("%d spellings of the last character pass", good)
		}
	}
}

func TestRotationKeepsOldTokens(t *testing.T) {
	r := goldenRing(t)
	access := r.SignAccess(Access{testUser, testDevice, 3, testNow.Add(Life)})
	refresh := r.SignRefresh(Refresh{testUser, testDevice, 3})
	var err error
	for i := range maxKeys {
		if _, err := r.VerifyAccess(access, testNow); err != nil {
			t.Fatalf("after %d rotations: access: %v", i, err)
		}
		if _, err := r.VerifyRefresh(refresh); err != nil {
			t.Fatalf("after %d rotations: refresh: %v", i, err)
		}
		if r, err = r.Rotated(rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.VerifyAccess(access, testNow); !errors.Is(err, ErrToken) {
		t.Errorf("a key beyond the ring still verifies: %v", err)
	}
	if len(r.signers) != maxKeys || len(r.secrets) != maxKeys {
		t.Errorf("ring holds %d and %d keys, bound is %d", len(r.signers), len(r.secrets), maxKeys)
	}
}

func TestLoadOrCreate(t *testing.T) {
	dir := t.TempDir()
	r, err := LoadOrCreate(dir, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, FileName)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v, want 0600", info.Mode(), err)
	}
	token := r.SignAccess(Access{testUser, testDevice, 3, testNow.Add(Life)})
	again, err := LoadOrCreate(dir, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.VerifyAccess(token, testNow); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("%d files left, want 1", len(entries))
	}

	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreate(dir, rand.Reader); err == nil {
		t.Error("a key file that others may read was accepted")
	}
	for name, content := range map[string]string{
		"empty": "", "no keys": `{"version":1}`, "newer": `{"version":2}`,
		"short": `{"version":1,"signing":["AAEC"],"refresh":["AAEC"]}`,
		"half":  `{"version":1,"signing":["AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="],"ref`,
	} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadOrCreate(dir, rand.Reader)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v: new keys would sign everyone out", name, err)
		} else if strings.Contains(err.Error(), "AAEC") {
			t.Errorf("%s: the error quotes a key: %v", name, err)
		}
	}
}

func TestPassword(t *testing.T) {
	cheap := Params{MemoryKiB: 16, Passes: 1, Lanes: 1}
	phc, err := HashPassword("correct horse", cheap, &counting{})
	if err != nil {
		t.Fatal(err)
	}
	const golden = "$argon2id$v=19$m=16,t=1,p=1$AAECAwQFBgcICQoLDA0ODw$FPxxdDmOPKGGE29RU9Lz8gpso8M0mAP3Rf00/HHCo70"
	if phc != golden {
		t.Errorf("PHC\n got %s\nwant %s", phc, golden)
	}
	for password, want := range map[string]bool{"correct horse": true, "correct horsf": false, "": false, "correct horse\x00": false} {
		if ok, err := VerifyPassword(phc, password); err != nil || ok != want {
			t.Errorf("%q: %v, %v, want %v", password, ok, err, want)
		}
	}
	dummy, err := DummyHash(Standard, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if p, _, _, err := decodePHC(dummy); err != nil || p != Standard {
		t.Errorf("dummy: %+v, %v", p, err)
	}
}

// The reference vector of draft-irtf-cfrg-argon2 cannot be used (it has a
// secret and associated data); this one is from the reference command line:
// echo -n password | argon2 somesalt -id -t 2 -k 65536 -p 1 -l 32.
func TestPasswordAgainstReference(t *testing.T) {
	const phc = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	if ok, err := VerifyPassword(phc, "password"); err != nil || !ok {
		t.Fatalf("%v, %v", ok, err)
	}
}

func TestHashesThatAreRefused(t *testing.T) {
	const salt, hash = "AAECAwQFBgcICQoLDA0ODw", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
	if _, _, _, err := decodePHC("$argon2id$v=19$m=19456,t=2,p=1$" + salt + "$" + hash); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	for name, phc := range map[string]string{
		"empty":       "",
		"argon2i":     "$argon2i$v=19$m=19456,t=2,p=1$" + salt + "$" + hash,
		"version":     "$argon2id$v=16$m=19456,t=2,p=1$" + salt + "$" + hash,
		"memory":      "$argon2id$v=19$m=65537,t=2,p=1$" + salt + "$" + hash,
		"no memory":   "$argon2id$v=19$m=0,t=2,p=1$" + salt + "$" + hash,
		"passes":      "$argon2id$v=19$m=19456,t=9,p=1$" + salt + "$" + hash,
		"lanes":       "$argon2id$v=19$m=19456,t=2,p=5$" + salt + "$" + hash,
		"lane memory": "$argon2id$v=19$m=15,t=2,p=2$" + salt + "$" + hash,
		"sign":        "$argon2id$v=19$m=+19456,t=2,p=1$" + salt + "$" + hash,
		"zero":        "$argon2id$v=19$m=019456,t=2,p=1$" + salt + "$" + hash,
		"order":       "$argon2id$v=19$t=2,m=19456,p=1$" + salt + "$" + hash,
		"salt":        "$argon2id$v=19$m=19456,t=2,p=1$AAEC$" + hash,
		"hash":        "$argon2id$v=19$m=19456,t=2,p=1$" + salt + "$AAEC",
		"long":        "$argon2id$v=19$m=19456,t=2,p=1$" + salt + "$" + strings.Repeat("A", 300),
		"base64":      "$argon2id$v=19$m=19456,t=2,p=1$" + salt + "$!" + hash[1:],
		"line break":  "$argon2id$v=19$m=19456,t=2,p=1$" + salt + "\n$" + hash,
		"more":        "$argon2id$v=19$m=19456,t=2,p=1$" + salt + "$" + hash + "$",
	} {
		if _, _, _, err := decodePHC(phc); !errors.Is(err, ErrHash) {
			t.Errorf("%s: %v, want ErrHash", name, err)
		}
	}
}

func TestRevoked(t *testing.T) {
	r := NewRevoked()
	other := id.New(1, id.Device, 2, []byte("other"))
	r.Add(testDevice, testNow)
	for _, c := range []struct {
		device id.ID
		after  time.Duration
		want   bool
	}{
		{testDevice, 0, true}, {testDevice, Life + Skew, true}, {testDevice, Life + 2*Skew + 1, false}, {other, 0, false},
	} {
		if got := r.Has(c.device, testNow.Add(c.after)); got != c.want {
			t.Errorf("Has(%v) after %v = %v, want %v", c.device, c.after, got, c.want)
		}
	}
	r.most = 2
	r.Add(other, testNow)
	third := id.New(1, id.Device, 2, []byte("third"))
	if r.Add(third, testNow) || r.Has(third, testNow) {
		t.Error("the set grew beyond its bound")
	}
	if n, overflow := r.Len(); n != 2 || overflow != 1 {
		t.Errorf("%d remembered, %d overflowed", n, overflow)
	}
	if !r.Add(third, testNow.Add(Life+3*Skew)) {
		t.Error("old ones were not forgotten to make room")
	}
}

func FuzzVerifyAccess(f *testing.F) {
	r := goldenRing(f)
	f.Add(r.SignAccess(Access{testUser, testDevice, 3, testNow.Add(Life)}))
	f.Add("AQ")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := r.VerifyAccess(text, testNow)
		if err == nil && r.SignAccess(a) != text {
			t.Fatalf("%q verifies, but we did not sign it", text)
		}
	})
}

func FuzzVerifyRefresh(f *testing.F) {
	r := goldenRing(f)
	f.Add(r.SignRefresh(Refresh{testUser, testDevice, 3}))
	f.Fuzz(func(t *testing.T, text string) {
		if a, err := r.VerifyRefresh(text); err == nil && r.SignRefresh(a) != text {
			t.Fatalf("%q verifies, but we did not sign it", text)
		}
	})
}

func FuzzDecodePHC(f *testing.F) {
	f.Add("$argon2id$v=19$m=19456,t=2,p=1$AAECAwQFBgcICQoLDA0ODw$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")
	f.Fuzz(func(t *testing.T, phc string) {
		p, salt, hash, err := decodePHC(phc)
		if err != nil {
			return
		}
		if p.MemoryKiB > most.MemoryKiB || p.Passes > most.Passes || p.Lanes > most.Lanes || len(hash) > maxHash {
			t.Fatalf("%q asks for too much: %+v", phc, p)
		}
		if again := encodePHC(p, salt, hash); again != phc {
			t.Fatalf("%q has another spelling %q", phc, again)
		}
	})
}

func FuzzParseRing(f *testing.F) {
	data, _ := goldenRing(f).Marshal()
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := ParseRing(data); err == nil {
			r.SignAccess(Access{testUser, testDevice, 3, testNow})
			r.SignRefresh(Refresh{testUser, testDevice, 3})
		}
	})
}
