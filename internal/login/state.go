package login

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/limit"
)

// StateLife is how long somebody may take to log in at a provider.
const StateLife = 10 * time.Minute

const (
	// maxState bounds the state parameter in bytes.
	maxState = 4096
	// maxUsed is how many used states are remembered: those of ten minutes at
	// more than a hundred logins a second. What is forgotten earlier still has a
	// code that the provider takes once.
	maxUsed = 100_000
)

// transaction is one login under way. It travels sealed, as the state parameter,
// so that any number of them takes no memory here. A copy of it alone is of no
// use: the browser that began the login has a cookie to go with it.
type transaction struct {
	Provider string `json:"p"`
	Nonce    string `json:"n"`
	Verifier string `json:"v"`
	ReturnTo string `json:"r"`
	// Browser is the hash of what the cookie holds.
	Browser []byte `json:"b"`
	// Replaces is the session that a new one takes the place of.
	Replaces string `json:"x,omitempty"`
	Begun    int64  `json:"t"`
}

// states seals transactions and takes each once. Its key is the process's own: a
// restart ends the logins that are under way.
type states struct {
	aead cipher.AEAD
	mu   sync.Mutex
	used *limit.Cache[[32]byte, struct{}]
}

func newStates() *states {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // of a wrong length
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return &states{aead: aead, used: limit.NewCache[[32]byte, struct{}](maxUsed)}
}

func (s *states) seal(t transaction) (string, error) {
	plain, err := json.Marshal(t)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(s.aead.Seal(nil, nil, plain, nil)), nil //nolint:gosec // this AEAD makes its nonce itself
}

var errState = errors.New("unknown, from before a restart, or altered")

// take opens a state for the browser that began it, once.
func (s *states) take(raw, browser, provider string, now time.Time) (t transaction, err error) {
	if raw == "" || len(raw) > maxState {
		return t, errors.New("absent or too long")
	}
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(raw)
	if err != nil {
		return t, errState
	}
	plain, err := s.aead.Open(nil, nil, sealed, nil)
	if err != nil {
		return t, errState
	}
	if err := json.Unmarshal(plain, &t); err != nil {
		return t, errState
	}
	hash := browserHash(browser)
	begun := time.Unix(t.Begun, 0)
	switch {
	case browser == "":
		return t, errors.New("the browser's cookie is absent")
	case subtle.ConstantTimeCompare(hash, t.Browser) != 1:
		return t, errors.New("another browser's")
	case t.Provider != provider:
		return t, errors.New("of a login at another provider")
	case now.Before(begun.Add(-time.Minute)) || now.After(begun.Add(StateLife)):
		return t, errors.New("too old")
	}
	id := sha256.Sum256(sealed)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, was := s.used.Get(id); was {
		return t, errors.New("used already")
	}
	s.used.Put(id, struct{}{})
	return t, nil
}

func browserHash(browser string) []byte {
	h := sha256.Sum256([]byte("wsbouncer login\x00" + browser))
	return h[:]
}

// NewBrowser is a new secret for a browser's cookie.
func NewBrowser() string { return secret() }

// IsBrowser reports whether s looks like one of NewBrowser.
func IsBrowser(s string) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return err == nil && len(b) == 32
}

func secret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}
