package backup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

// Recipients are the public keys that objects are sealed for; each one's owner
// can open them.
type Recipients []age.Recipient

// Identities are private keys that open what was sealed for one of them.
type Identities []age.Identity

// ParseRecipients reads public keys like age1….
func ParseRecipients(texts []string) (Recipients, error) {
	var all Recipients
	for _, t := range texts {
		r, err := parseRecipient(strings.TrimSpace(t))
		if err != nil {
			return nil, fmt.Errorf("recipient %q is no public key like age1…; \"bongsu backup keygen\" makes one: %w", t, err)
		}
		all = append(all, r)
	}
	if len(all) == 0 {
		return nil, errors.New("a backup is encrypted: give the public key of at least one recipient (\"bongsu backup keygen\" makes one)")
	}
	return all, nil
}

func parseRecipient(text string) (age.Recipient, error) {
	if strings.HasPrefix(text, "age1pq1") {
		return age.ParseHybridRecipient(text)
	}
	return age.ParseX25519Recipient(text)
}

// ParseIdentities reads a file of private keys, as "bongsu backup keygen" or
// age-keygen write it.
func ParseIdentities(r io.Reader) (Identities, error) {
	ids, err := age.ParseIdentities(bufio.NewReader(io.LimitReader(r, 1<<20)))
	if err != nil {
		return nil, fmt.Errorf("read private keys: %w", err)
	}
	return ids, nil
}

// Key is a new pair of keys.
type Key struct {
	Public  string // for --recipient
	Private string // the line of an identity file; who has it can read the archive
}

// NewKey draws a pair of keys.
func NewKey() (Key, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return Key{}, fmt.Errorf("make a key: %w", err)
	}
	return Key{Public: id.Recipient().String(), Private: id.String()}, nil
}

// compressor and expander are stateless in the way they are used here.
var (
	compressor, _ = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))                 // its options are valid
	expander, _   = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(MaxObjectBytes)) // likewise
)

// seal compresses and encrypts.
func seal(plain []byte, to Recipients) ([]byte, error) {
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to...)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	if _, err := w.Write(compressor.EncodeAll(plain, nil)); err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	return out.Bytes(), nil
}

// unseal undoes seal. Damage anywhere in the object is an error.
func unseal(sealed []byte, with Identities) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(sealed), with...)
	if err != nil {
		return nil, fmt.Errorf("decrypt: %w", err)
	}
	packed, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("decrypt: %w", err)
	}
	plain, err := expander.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("expand: %w", err)
	}
	return plain, nil
}

// wrongKey tells whether an object is well but sealed for others.
func wrongKey(err error) bool {
	var none *age.NoIdentityMatchError
	return errors.As(err, &none)
}
