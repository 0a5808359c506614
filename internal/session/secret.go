package session

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
)

// A refresh token is base64url of 16 bytes that all tokens of its session share
// and 32 bytes of its own. The first part lets any used token be told from an
// unknown one without keeping them all; it is a secret as good as the tokens,
// and stored as a hash like them.
const (
	familyBytes  = 16
	secretBytes  = 32
	refreshBytes = familyBytes + secretBytes
)

var b64 = base64.RawURLEncoding.Strict()

type refreshToken [refreshBytes]byte

func newRefreshToken() (t refreshToken) {
	_, _ = rand.Read(t[:]) // never fails
	return t
}

// next is another token of the same family.
func (t refreshToken) next() refreshToken {
	_, _ = rand.Read(t[familyBytes:])
	return t
}

func parseRefreshToken(raw string) (t refreshToken, ok bool) {
	if len(raw) != b64.EncodedLen(refreshBytes) {
		return t, false
	}
	n, err := b64.Decode(t[:], []byte(raw))
	return t, err == nil && n == refreshBytes
}

func (t refreshToken) String() string { return b64.EncodeToString(t[:]) }
func (t refreshToken) family() Hash   { return sha256.Sum256(t[:familyBytes]) }
func (t refreshToken) hash() Hash     { return sha256.Sum256(t[:]) }

// aead seals the answer to a use of t. Its key is made of t itself, which
// nobody but its holder has once it is used: the database keeps the answer, and
// cannot read it.
func (t refreshToken) aead() (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, t[:], nil, "wsbouncer refresh answer v1", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (t refreshToken) seal(answer []byte, sid string) ([]byte, error) {
	a, err := t.aead()
	if err != nil {
		return nil, fmt.Errorf("seal the refresh answer: %w", err)
	}
	return a.Seal(nil, nil, answer, []byte(sid)), nil //nolint:gosec // this AEAD makes its own random nonce
}

func (t refreshToken) open(sealed []byte, sid string) ([]byte, error) {
	a, err := t.aead()
	if err == nil {
		sealed, err = a.Open(nil, nil, sealed, []byte(sid))
	}
	if err != nil {
		return nil, fmt.Errorf("open the refresh answer: %w", err)
	}
	return sealed, nil
}

// newTicket is 256 random bits in base64url.
func newTicket() (raw string, hash Hash) {
	var b [secretBytes]byte
	_, _ = rand.Read(b[:])
	return b64.EncodeToString(b[:]), sha256.Sum256(b[:])
}

func parseTicket(raw string) (hash Hash, ok bool) {
	var b [secretBytes]byte
	if len(raw) != b64.EncodedLen(secretBytes) {
		return hash, false
	}
	n, err := b64.Decode(b[:], []byte(raw))
	return sha256.Sum256(b[:]), err == nil && n == secretBytes
}

// newID names a session, a token or a connection: 130 random bits that survive
// a command line (no hyphen at the start), no secret.
func newID() string { return rand.Text() }
