package auth

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/bongsu-im/bongsu/internal/id"
)

const (
	tokenVersion = 1
	headSize     = 1 + 4 + id.Size + id.Size + 4
	accessBody   = headSize + 8
	accessSize   = accessBody + ed25519.SignatureSize
	refreshSize  = headSize + sha256.Size
)

// Labels keep one kind of token from ever passing for the other.
const (
	accessLabel  = "bongsu access\x00"
	refreshLabel = "bongsu refresh\x00"
)

// Token text is base64url in its one spelling: strict refuses stray bits.
var tokenText = base64.RawURLEncoding.Strict()

// Refresh is what a refresh token says.
type Refresh struct {
	User, Device id.ID
	Generation   uint32
}

// Access is what an access token says.
type Access struct {
	User, Device id.ID
	// Generation of the refresh token it was handed out with.
	Generation uint32
	Expires    time.Time // millisecond precision
}

func appendHead(b []byte, key keyID, user, device id.ID, generation uint32) []byte {
	b = append(b, tokenVersion)
	b = append(b, key[:]...)
	b = append(b, user[:]...)
	b = append(b, device[:]...)
	return binary.BigEndian.AppendUint32(b, generation)
}

// parseHead reads what both kinds share; b has at least headSize bytes.
func parseHead(b []byte) (key keyID, t Refresh, err error) {
	if b[0] != tokenVersion {
		return key, t, fmt.Errorf("%w: version %d", ErrToken, b[0])
	}
	copy(key[:], b[1:5])
	if t.User, err = id.FromBytes(id.User, b[5:5+id.Size]); err != nil {
		return key, t, fmt.Errorf("%w: user", ErrToken)
	}
	if t.Device, err = id.FromBytes(id.Device, b[5+id.Size:5+2*id.Size]); err != nil {
		return key, t, fmt.Errorf("%w: device", ErrToken)
	}
	t.Generation = binary.BigEndian.Uint32(b[5+2*id.Size:])
	return key, t, nil
}

func decodeToken(text string, size int) ([]byte, error) {
	if len(text) != tokenText.EncodedLen(size) {
		return nil, fmt.Errorf("%w: %d characters, want %d", ErrToken, len(text), tokenText.EncodedLen(size))
	}
	b, err := tokenText.DecodeString(text)
	if err != nil || len(b) != size { // line breaks are skipped by the decoder, so count again
		return nil, fmt.Errorf("%w: not base64url", ErrToken)
	}
	return b, nil
}

// SignAccess makes an access token with the current key.
func (r *Ring) SignAccess(a Access) string {
	key := r.signers[0]
	b := appendHead(make([]byte, 0, accessSize), key.id, a.User, a.Device, a.Generation)
	b = binary.BigEndian.AppendUint64(b, uint64(a.Expires.UnixMilli()))
	b = append(b, ed25519.Sign(key.private, append([]byte(accessLabel), b...))...)
	return tokenText.EncodeToString(b)
}

// VerifyAccess checks the signature and the time of an access token. With
// ErrExpired what the token says is returned too, for those who honour it for
// a while (invariant 11); with ErrToken nothing is.
func (r *Ring) VerifyAccess(text string, now time.Time) (Access, error) {
	b, err := decodeToken(text, accessSize)
	if err != nil {
		return Access{}, err
	}
	id, head, err := parseHead(b)
	if err != nil {
		return Access{}, err
	}
	signed := append([]byte(accessLabel), b[:accessBody]...)
	for _, key := range r.signers {
		if key.id != id || !ed25519.Verify(key.private.Public().(ed25519.PublicKey), signed, b[accessBody:]) {
			continue
		}
		a := Access{head.User, head.Device, head.Generation, time.UnixMilli(int64(binary.BigEndian.Uint64(b[headSize:])))}
		if now.After(a.Expires.Add(Skew)) {
			return a, fmt.Errorf("%w: ended at %v", ErrExpired, a.Expires.UTC().Format(time.RFC3339))
		}
		return a, nil
	}
	return Access{}, fmt.Errorf("%w: signature", ErrToken)
}

// SignRefresh makes a refresh token with the current key.
func (r *Ring) SignRefresh(t Refresh) string {
	key := r.secrets[0]
	b := appendHead(make([]byte, 0, refreshSize), key.id, t.User, t.Device, t.Generation)
	return tokenText.EncodeToString(append(b, refreshMAC(key, b)...))
}

// VerifyRefresh checks that a refresh token is ours. Whether its generation is
// still good only the account's shard can say.
func (r *Ring) VerifyRefresh(text string) (Refresh, error) {
	b, err := decodeToken(text, refreshSize)
	if err != nil {
		return Refresh{}, err
	}
	id, head, err := parseHead(b)
	if err != nil {
		return Refresh{}, err
	}
	for _, key := range r.secrets {
		if key.id == id && hmac.Equal(refreshMAC(key, b[:headSize]), b[headSize:]) {
			return head, nil
		}
	}
	return Refresh{}, fmt.Errorf("%w: signature", ErrToken)
}

func refreshMAC(key secret, head []byte) []byte {
	h := hmac.New(sha256.New, key.key)
	h.Write([]byte(refreshLabel))
	h.Write(head)
	return h.Sum(nil)
}
