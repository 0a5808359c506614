package token

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/jws"
	"github.com/wsbouncer/wsbouncer/internal/limit"
)

const (
	// defaultMaxBytes bounds a token's length in bytes.
	defaultMaxBytes = 8 << 10
	// defaultCacheSize bounds the verified tokens remembered. With the longest
	// tokens it is about 60 MB, with usual ones about 15.
	defaultCacheSize = 8192
)

// Options are what a Verifier is made of.
type Options struct {
	// Issuers are those trusted; at least one.
	Issuers []Issuer
	// MaxBytes bounds a token's length; zero means 8 KiB.
	MaxBytes int
	// CacheSize bounds how many verified tokens are remembered; zero means
	// 8192, negative none.
	CacheSize int
}

// A Verifier decides whether a text is an access token of a trusted issuer. It
// is safe for concurrent use.
type Verifier struct {
	maxBytes int
	issuers  atomic.Pointer[issuers]
	cache    *limit.Cache[[sha256.Size]byte, cached] // nil: none
}

// cached is a token whose signature has been checked, and under what: it counts
// only while the configuration and the issuer's key set are still the same.
type cached struct {
	token *Token
	under *under
}

// under is what many tokens were verified under.
type under struct {
	by         *issuers
	kid        string
	generation uint64
}

// NewVerifier checks the options. It starts nothing.
func NewVerifier(o Options) (*Verifier, error) {
	s, err := checkedIssuers(o.Issuers)
	if err != nil {
		return nil, err
	}
	if o.MaxBytes < 0 || o.MaxBytes > maxInspectBytes {
		return nil, fmt.Errorf("token: the greatest token length %d is not between 0 and %d bytes", o.MaxBytes, maxInspectBytes)
	}
	v := &Verifier{maxBytes: o.MaxBytes}
	if v.maxBytes == 0 {
		v.maxBytes = defaultMaxBytes
	}
	if o.CacheSize == 0 {
		o.CacheSize = defaultCacheSize
	}
	if o.CacheSize > 0 {
		v.cache = limit.NewCache[[sha256.Size]byte, cached](o.CacheSize)
	}
	v.issuers.Store(s)
	return v, nil
}

// SetIssuers replaces the trusted issuers at once. Tokens verified before are
// judged anew. On an error nothing changes.
func (v *Verifier) SetIssuers(list []Issuer) error {
	s, err := checkedIssuers(list)
	if err != nil {
		return err
	}
	v.issuers.Store(s)
	if v.cache != nil {
		v.cache.Clear()
	}
	return nil
}

// DefaultIssuer is the issuer meant when none is named: one's own, or else the
// only one, or else "".
func (v *Verifier) DefaultIssuer() string { return v.issuers.Load().fallback }

// Trusts reports whether the issuer is trusted and has the key just now: whether
// a token that it verified before would still be one of the issuer's. It does
// not tell a key from another that took its name.
func (v *Verifier) Trusts(issuer, keyID string) bool {
	i := v.issuers.Load().byName[issuer]
	if i == nil {
		return false
	}
	if i.Introspection != nil {
		return i.Introspection.holds(keyID)
	}
	keys, _ := i.Keys.Keys(keyID)
	return slices.ContainsFunc(keys, func(k Key) bool { return k.ID == keyID })
}

// Verify returns the access token that raw is, or an *Error. It performs no
// I/O, but where an issuer's keys are fetched it may wait for a fetch, until ctx
// is done at most; and where an issuer has to be asked, this asks it.
//
// A token that is bound to a key (cnf) is refused unless ctx says that the key was
// proved: see WithProof.
//
// Whether the token has been revoked is not asked.
func (v *Verifier) Verify(ctx context.Context, raw string) (*Token, error) {
	t, err := v.find(ctx, raw)
	if err != nil {
		return nil, err
	}
	// On every call: what is remembered of a token is no proof.
	if !Proved(ctx, t.Binding) {
		return nil, refuse(CodeBinding, "it is bound to a key (cnf), and no proof of that key came with it")
	}
	return t, nil
}

func (v *Verifier) find(ctx context.Context, raw string) (*Token, error) {
	if len(raw) > v.maxBytes {
		return nil, refuse(CodeTooLarge, "the token is longer than is allowed")
	}
	now := time.Now()
	known := v.issuers.Load()
	switch by, err := known.introspector(raw, v.maxBytes); {
	case err != nil:
		return nil, err
	case by != nil:
		return by.Introspection.verify(ctx, by, raw, now)
	}
	if v.cache == nil {
		c, err := v.verify(ctx, known, raw, now)
		return c.token, err
	}
	// The whole text is hashed, signature included: another spelling of the same
	// token is another entry, never a hit.
	sum := sha256.Sum256([]byte(raw))
	if c, ok := v.cache.Get(sum); ok && c.current(known) {
		if err := judgeTime(c.token, known.byName[c.token.Issuer], now); err != nil {
			return nil, err
		}
		return c.token, nil
	}
	c, err := v.verify(ctx, known, raw, now)
	if err != nil {
		return nil, err
	}
	v.cache.Put(sum, c)
	return c.token, nil
}

// current reports whether the key that verified c is still one of the issuer's.
func (c cached) current(known *issuers) bool {
	if c.under.by != known {
		return false
	}
	_, generation := known.byName[c.token.Issuer].Keys.Keys(c.under.kid)
	return generation == c.under.generation
}

func (v *Verifier) verify(ctx context.Context, known *issuers, raw string, now time.Time) (cached, error) {
	m, err := jws.Parse(raw, v.maxBytes)
	if err != nil {
		return cached{}, refuseFor(CodeMalformed, "the token cannot be read", err)
	}
	c, err := readClaims(m.Payload)
	if err != nil {
		return cached{}, err
	}
	// An unknown issuer costs no signature work, and nothing else of the token
	// is used before the signature has been checked but the name of a key.
	issuer := known.byName[c.issuer]
	if issuer == nil {
		return cached{}, refuse(CodeIssuer, "iss is no trusted issuer")
	}
	if err := checkType(m, c, issuer); err != nil {
		return cached{}, err
	}
	key, generation, err := signedBy(m, issuer)
	if more, ok := issuer.Keys.(Awaiter); ok && errors.Is(err, errUnknownKey) {
		if err := more.Await(ctx); err != nil {
			return cached{}, refuseFor(CodeUnavailable, "nothing can be said about tokens of the issuer now", err)
		}
		key, generation, err = signedBy(m, issuer)
	}
	if err != nil {
		return cached{}, err
	}
	t, err := c.token(issuer, m.Payload)
	if err != nil {
		return cached{}, err
	}
	t.KeyID, t.Scopes = key.ID, known.scopes(issuer.Name, t.Scopes)
	if err := judgeTime(t, issuer, now); err != nil {
		return cached{}, err
	}
	return cached{t, known.under(issuer.Name, m.KeyID, generation)}, nil
}

// errUnknownKey marks refusals that a newer key set might not give.
var errUnknownKey = errors.New("no key known just now")

// signedBy finds the key that the token is signed with.
func signedBy(m *jws.Message, issuer *Issuer) (Key, uint64, error) {
	key, generation, err := pick(m, issuer)
	if err != nil {
		return Key{}, 0, err
	}
	if err := m.Verify(key.Algorithm, key.Public); err != nil {
		if !m.HasKeyID { // it does not say which key; it may be of a new one
			err = errors.Join(err, errUnknownKey)
		}
		return Key{}, 0, refuseFor(CodeSignature, "the signature is not of the issuer's key", err)
	}
	return key, generation, nil
}

// pick finds the one key that the token can be signed with.
func pick(m *jws.Message, issuer *Issuer) (Key, uint64, error) {
	if !slices.Contains(issuer.Algorithms, m.Algorithm) {
		return Key{}, 0, refuse(CodeSignature, "its alg is not allowed for the issuer")
	}
	if m.HasKeyID && m.KeyID == "" {
		return Key{}, 0, refuse(CodeMalformed, "its kid is empty")
	}
	keys, generation := issuer.Keys.Keys(m.KeyID)
	var found Key
	fitting := 0
	for _, k := range keys {
		if k.Algorithm == m.Algorithm {
			found = k
			fitting++
		}
	}
	switch fitting {
	case 0:
		return Key{}, 0, refuseFor(CodeSignature, "the issuer has no such key for its alg", errUnknownKey)
	case 1:
		return found, generation, nil
	}
	return Key{}, 0, refuse(CodeSignature, "more than one key of the issuer fits, and it does not say which")
}

// Inspect decodes a token without verifying anything: what it returns may be
// anybody's invention. Header and payload are strict JSON.
func Inspect(raw string) (header, payload json.RawMessage, err error) {
	m, err := jws.Parse(raw, maxInspectBytes)
	if err != nil {
		code := CodeMalformed
		if errors.Is(err, jws.ErrTooLarge) {
			code = CodeTooLarge
		}
		return nil, nil, refuseFor(code, "the token cannot be read", err)
	}
	if err := checkPayload(m.Payload); err != nil {
		return nil, nil, err
	}
	return m.Header, m.Payload, nil
}

// maxInspectBytes bounds what a person may look at, and Options.MaxBytes.
const maxInspectBytes = 64 << 10
