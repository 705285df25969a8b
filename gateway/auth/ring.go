package auth

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// FileName is the file in the data folder that holds the ring. It is the one
// secret of the message plane: whoever reads it can be anyone.
const FileName = "auth-keys.json"

// maxKeys bounds the ring: the current key of each kind and the previous ones.
const maxKeys = 8

// maxFileBytes bounds what is read from the key file.
const maxFileBytes = 64 << 10

const secretSize = 32

type keyID [4]byte

// signer is one Ed25519 key pair.
type signer struct {
	id      keyID
	private ed25519.PrivateKey
}

// secret is one HMAC key.
type secret struct {
	id  keyID
	key []byte
}

// Ring holds the keys that tokens are made and checked with. The first of each
// kind is current.
type Ring struct {
	signers []signer
	secrets []secret
}

// ringFile is the stored form. Seeds and secrets are base64 in JSON.
type ringFile struct {
	Version int      `json:"version"`
	Signing [][]byte `json:"signing"` // Ed25519 seeds, current first
	Refresh [][]byte `json:"refresh"` // HMAC keys, current first
}

// NewRing makes a ring of fresh keys.
func NewRing(random io.Reader) (*Ring, error) {
	return (&Ring{}).Rotated(random)
}

// Rotated returns a ring with new current keys, in which r's still verify.
func (r *Ring) Rotated(random io.Reader) (*Ring, error) {
	var fresh [2 * secretSize]byte
	if _, err := io.ReadFull(random, fresh[:]); err != nil {
		return nil, fmt.Errorf("make keys: %w", err)
	}
	next := &Ring{
		signers: []signer{newSigner(fresh[:secretSize])},
		secrets: []secret{newSecret(fresh[secretSize:])},
	}
	next.signers = append(next.signers, r.signers[:min(len(r.signers), maxKeys-1)]...)
	next.secrets = append(next.secrets, r.secrets[:min(len(r.secrets), maxKeys-1)]...)
	return next, nil
}

func newSigner(seed []byte) signer {
	private := ed25519.NewKeyFromSeed(seed)
	sum := sha256.Sum256(private.Public().(ed25519.PublicKey))
	return signer{keyID(sum[:4]), private}
}

func newSecret(key []byte) secret {
	// The label keeps the identifier from saying anything about the MACs.
	sum := sha256.Sum256(append([]byte("bongsu refresh key\x00"), key...))
	return secret{keyID(sum[:4]), append([]byte(nil), key...)}
}

// Marshal returns the stored form of r. It is secret.
func (r *Ring) Marshal() ([]byte, error) {
	f := ringFile{Version: 1}
	for _, s := range r.signers {
		f.Signing = append(f.Signing, s.private.Seed())
	}
	for _, s := range r.secrets {
		f.Refresh = append(f.Refresh, s.key)
	}
	return json.MarshalIndent(f, "", "  ")
}

// ParseRing reads the stored form.
func ParseRing(data []byte) (*Ring, error) {
	var f ringFile
	if err := json.Unmarshal(data, &f); err != nil {
		// The decoder's error may quote what it read, which is secret.
		return nil, errors.New("parse keys: not JSON of the expected form")
	}
	if f.Version != 1 {
		return nil, fmt.Errorf("parse keys: version %d is not known to this release", f.Version)
	}
	if n, m := len(f.Signing), len(f.Refresh); n == 0 || m == 0 || n > maxKeys || m > maxKeys {
		return nil, fmt.Errorf("parse keys: %d signing and %d refresh keys, want 1 to %d of each", n, m, maxKeys)
	}
	r := &Ring{}
	for i, seed := range f.Signing {
		if len(seed) != ed25519.SeedSize {
			return nil, fmt.Errorf("parse keys: signing key %d has %d bytes, want %d", i, len(seed), ed25519.SeedSize)
		}
		r.signers = append(r.signers, newSigner(seed))
	}
	for i, key := range f.Refresh {
		if len(key) != secretSize {
			return nil, fmt.Errorf("parse keys: refresh key %d has %d bytes, want %d", i, len(key), secretSize)
		}
		r.secrets = append(r.secrets, newSecret(key))
	}
	return r, nil
}

// Files is where the ring is kept.
type Files interface {
	// Read returns the content of a file; an error that is fs.ErrNotExist if there is none.
	Read(name string) ([]byte, error)
	// Write replaces a file with one that only the owner may read. When it
	// returns, the file survives a power cut, whole.
	Write(name string, data []byte) error
}

// LoadOrCreate reads the ring of a data folder, or makes one there if the
// folder has none yet. A damaged file is an error: making new keys would sign
// everyone out (invariant 11).
func LoadOrCreate(dir string, random io.Reader) (*Ring, error) {
	return LoadOrCreateIn(Folder(dir), random)
}

// LoadOrCreateIn is LoadOrCreate for any place.
func LoadOrCreateIn(files Files, random io.Reader) (*Ring, error) {
	data, err := files.Read(FileName)
	if err == nil {
		return ParseRing(data)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	ring, err := NewRing(random)
	if err != nil {
		return nil, err
	}
	return ring, Save(files, ring)
}

// Save stores the ring, as after Rotated.
func Save(files Files, ring *Ring) error {
	data, err := ring.Marshal()
	if err != nil {
		return fmt.Errorf("encode keys: %w", err)
	}
	if err := files.Write(FileName, data); err != nil {
		return fmt.Errorf("write keys: %w", err)
	}
	return nil
}

// Folder is a folder of the machine's file system. It does not go through
// internal/durable because that interface cannot say who may read a file.
type Folder string

// Read implements Files. A file that others may read is refused.
func (f Folder) Read(name string) ([]byte, error) {
	file, err := os.Open(filepath.Join(string(f), name))
	if err != nil {
		return nil, err
	}
	defer file.Close() // only read from
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s may be read by others (mode %04o): it holds secrets, set it to 0600", name, info.Mode().Perm())
	}
	if info.Size() > maxFileBytes {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", name, info.Size(), maxFileBytes)
	}
	return io.ReadAll(io.LimitReader(file, maxFileBytes))
}

// Write implements Files: a new file is written and synced, renamed over the
// old one, and the folder synced, in this order.
func (f Folder) Write(name string, data []byte) (err error) {
	temp, err := os.CreateTemp(string(f), name+".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp.Name()) // best effort: the first error is the one to tell
		}
	}()
	if _, err = temp.Write(data); err == nil {
		err = temp.Sync()
	}
	if closed := temp.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	if err = os.Rename(temp.Name(), filepath.Join(string(f), name)); err != nil {
		return err
	}
	dir, err := os.Open(string(f))
	if err != nil {
		return err
	}
	defer dir.Close() // only synced
	return dir.Sync()
}
