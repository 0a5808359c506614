package token

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/wsbouncer/wsbouncer/internal/jws"
)

// A Key is one key and the one algorithm it is used with (RFC 8725 §3.1).
type Key struct {
	// ID is its name in the key set, and Token.KeyID of what it verifies.
	ID string
	// Algorithm is a JWS algorithm: RS256 … EdDSA … HS512.
	Algorithm string
	// Public is an *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey, or the
	// secret of an HS algorithm as []byte.
	Public any
}

// A KeySet is the keys of one issuer, as far as they are known just now. It is
// safe for concurrent use and never performs I/O: whoever fetches keys does so
// beside it. Its answers are read-only.
type KeySet interface {
	// Keys returns the keys that a token with this kid may be signed with; with
	// an empty kid (the token has none), all that might fit. generation changes
	// whenever the set does, so that a removed key ends what it verified before.
	Keys(kid string) (keys []Key, generation uint64)
}

// An Awaiter is a KeySet that may come to know more keys; a Verifier asks it
// when none fits a token. Await waits, as long as that makes sense and at most
// until ctx is done. An error means that nothing can be said about tokens of
// the issuer now, and refuses the token with CodeUnavailable.
type Awaiter interface {
	Await(ctx context.Context) error
}

// staticKeys is a key set that never changes: another one takes its place.
type staticKeys struct {
	all     []Key
	byID    map[string][]Key
	unnamed []Key // the set gives them no name: they may stand for any kid
}

// Keys implements KeySet.
func (s *staticKeys) Keys(kid string) ([]Key, uint64) {
	if kid == "" {
		return s.all, 1
	}
	if keys, ok := s.byID[kid]; ok {
		return keys, 1
	}
	return s.unnamed, 1
}

// add puts k in, under its name, or under its thumbprint as a key without one.
func (s *staticKeys) add(k Key, named bool) {
	s.all = append(s.all, k)
	if !named {
		s.unnamed = append(s.unnamed, k)
		return
	}
	if s.byID == nil {
		s.byID = map[string][]Key{}
	}
	s.byID[k.ID] = []Key{k}
}

// print is a text that is equal for equal sets, whatever their order.
func (s *staticKeys) print() (string, error) {
	lines := make([]string, len(s.all))
	for i, k := range s.all {
		der, err := x509.MarshalPKIXPublicKey(k.Public)
		if err != nil {
			return "", fmt.Errorf("comparing keys: %w", err)
		}
		_, named := s.byID[k.ID]
		lines[i] = fmt.Sprintf("%q %s %t %x", k.ID, k.Algorithm, named, der)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n"), nil
}

// checkAlgorithms refuses an empty list, unknown names, and secrets beside
// public keys, which is how key confusion begins (CVE-2016-5431).
func checkAlgorithms(algs []string) error {
	if len(algs) == 0 {
		return errors.New("no algorithm is allowed: name one, for example RS256")
	}
	for _, a := range algs {
		if !jws.Known(a) {
			return fmt.Errorf("algorithm %q is not one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA, HS256, HS384, HS512", a)
		}
		if jws.Symmetric(a) != jws.Symmetric(algs[0]) {
			return fmt.Errorf("%s and %s cannot be allowed together: one has a shared secret, the other a public key", algs[0], a)
		}
	}
	return nil
}

// algorithmFor is the one algorithm of algs that public fits.
func algorithmFor(public any, algs []string) (string, error) {
	fits := slices.DeleteFunc(slices.Clone(algs), func(a string) bool { return !jws.Fits(a, public) })
	slices.Sort(fits)
	switch fits = slices.Compact(fits); len(fits) {
	case 0:
		return "", errUnfit
	case 1:
		return fits[0], nil
	}
	return "", fmt.Errorf("it fits %s and does not say which: allow one of them, because a key has one algorithm", strings.Join(fits, " and "))
}

// errUnfit: a sound key, of a kind that none of the allowed algorithms uses.
var errUnfit = errors.New("it is no key for the allowed algorithms")

// Secret is the key set of one shared secret, for exactly one HS algorithm. The
// secret is taken byte for byte, is at least as long as the hash (RFC 7518
// §3.2) and random: what people type is refused where it can be told.
func Secret(b []byte, algs []string) (KeySet, error) {
	if err := checkAlgorithms(algs); err != nil {
		return nil, fmt.Errorf("token: secret: %w", err)
	}
	if len(algs) != 1 || !jws.Symmetric(algs[0]) {
		return nil, errors.New("token: a secret is for exactly one algorithm of HS256, HS384 and HS512")
	}
	if need := jws.SecretLength(algs[0]); len(b) < need {
		return nil, fmt.Errorf("token: the secret has %d bytes, %s needs at least %d random ones", len(b), algs[0], need)
	}
	if guessable(b) {
		return nil, errors.New("token: the secret is a published or a repetitive one: take random bytes, for example of openssl rand -base64 48")
	}
	secret := slices.Clone(b)
	var s staticKeys
	s.add(Key{ID: secretID(secret), Algorithm: algs[0], Public: secret}, false)
	return &s, nil
}

// secretID names a secret so that it can be revoked as a key, without telling
// more of it than any token signed with it does.
func secretID(secret []byte) string {
	sum := sha256.Sum256(append([]byte("wsbouncer key id\x00"), secret...))
	return "secret-" + fmt.Sprintf("%x", sum[:8])
}

// minDistinct is fewer different bytes than 32 random ones ever have (the
// chance is below 2^-60), hexadecimal digits included.
const minDistinct = 8

// published are secrets of documentation and examples, long enough to pass for
// one. Shorter ones fall to the length.
var published = []string{
	"a-string-secret-at-least-256-bits-long",
	"a-valid-string-secret-that-is-at-least-384-bits-long",
	"a-valid-string-secret-that-is-at-least-512-bits-long-which-is-very-long",
	"your-256-bit-secret-your-256-bit-secret",
	"super-secret-jwt-token-with-at-least-32-characters-long",
	"your-super-secret-jwt-token-with-at-least-32-characters-long",
	"this-is-a-secret-key-that-is-at-least-32-characters-long",
	// RFC 7515 appendix A.1.
	"\x03\x23\x35\x4b\x2b\x0f\xa5\xbc\x83\x7e\x06\x65\x77\x7b\xa6\x8f\x5a\xb3\x28\xe6\xf0\x54\xc9\x28\xa9\x0f\x84\xb2\xd2\x50\x2e\xbf\xd3\xfb\x5a\x92\xd2\x06\x47\xef\x96\x8a\xb4\xc3\x77\x62\x3d\x22\x3d\x2e\x21\x72\x05\x2e\x4f\x08\xc0\xcd\x9a\xf5\x67\xd0\x80\xa3",
}

func guessable(b []byte) bool {
	var seen [256]bool
	distinct := 0
	for _, c := range b {
		if !seen[c] {
			seen[c] = true
			distinct++
		}
	}
	// A line break at the end is the file's, not the secret's.
	return distinct < minDistinct || slices.Contains(published, strings.TrimRight(string(b), "\r\n"))
}
