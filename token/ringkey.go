package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/wsbouncer/wsbouncer/internal/jws"
)

var ringAlgorithms = []string{"EdDSA", "ES256", "RS256"}

// A ringKey is one key as it is kept. A revoked one has no Private.
type ringKey struct {
	ID        string    `json:"id"`
	Algorithm string    `json:"algorithm"`
	State     KeyState  `json:"state"`
	Created   time.Time `json:"created"`
	Since     time.Time `json:"since"`
	Until     time.Time `json:"until,omitzero"`
	Private   []byte    `json:"private,omitempty"` // PKCS #8
}

func (k *ringKey) info() KeyInfo {
	return KeyInfo{ID: k.ID, Algorithm: k.Algorithm, State: k.State, Created: k.Created, Since: k.Since, Until: k.Until}
}

// sameKeys reports whether nothing has changed. A key's secret never does while
// its name and state stay.
func sameKeys(a, b []ringKey) bool {
	return slices.EqualFunc(a, b, func(x, y ringKey) bool {
		return x.ID == y.ID && x.State == y.State && x.Since.Equal(y.Since) && x.Until.Equal(y.Until)
	})
}

// makeKey makes a key whose id does not begin with a hyphen: ids are typed as
// commands' arguments, where that would be an option.
func makeKey(alg string, state KeyState, now time.Time) (ringKey, error) {
	for {
		k, err := makeAnyKey(alg, state, now)
		if err != nil || k.ID[0] != '-' {
			return k, err
		}
	}
}

func makeAnyKey(alg string, state KeyState, now time.Time) (ringKey, error) {
	var private crypto.Signer
	var err error
	switch alg {
	case "EdDSA":
		_, private, err = ed25519.GenerateKey(rand.Reader)
	case "ES256":
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "RS256":
		private, err = rsa.GenerateKey(rand.Reader, jws.MinRSABits)
	default:
		err = fmt.Errorf("no keys are made for %q", alg)
	}
	if err != nil {
		return ringKey{}, fmt.Errorf("making a key: %w", err)
	}
	id, err := thumbprint(private.Public())
	if err != nil {
		return ringKey{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return ringKey{}, fmt.Errorf("making a key: %w", err)
	}
	return ringKey{ID: id, Algorithm: alg, State: state, Created: now, Since: now, Private: der}, nil
}

// private parses the secret and checks that it is the key it claims to be.
func (k *ringKey) private() (crypto.Signer, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(k.Private)
	if err != nil {
		return nil, fmt.Errorf("key %s does not parse", k.ID) // the cause may quote it
	}
	private, ok := parsed.(crypto.Signer)
	if !ok || !slices.Contains(ringAlgorithms, k.Algorithm) || !jws.Fits(k.Algorithm, private.Public()) {
		return nil, fmt.Errorf("key %s is no key for %q", k.ID, k.Algorithm)
	}
	if id, err := thumbprint(private.Public()); err != nil || id != k.ID {
		return nil, fmt.Errorf("key %s is another key", k.ID)
	}
	return private, nil
}

// newRingState derives everything that is asked often.
func newRingState(keys []ringKey, generation uint64) (*ringState, error) {
	s := &ringState{keys: keys, generation: generation, byID: map[string][]Key{}}
	var document jose.JSONWebKeySet
	for i := range keys {
		k := &keys[i]
		if k.State == KeyRevoked {
			continue
		}
		private, err := k.private()
		if err != nil {
			return nil, err
		}
		if k.State == KeyActive {
			if s.active, err = newSigner(k, private); err != nil {
				return nil, err
			}
		}
		s.byID[k.ID] = []Key{{ID: k.ID, Algorithm: k.Algorithm, Public: private.Public()}}
		document.Keys = append(document.Keys, jose.JSONWebKey{
			Key: private.Public(), KeyID: k.ID, Algorithm: k.Algorithm, Use: "sig",
		})
	}
	if s.active.accessTokens == nil {
		return nil, errors.New("there is no active key")
	}
	var err error
	s.jwks, err = json.Marshal(document)
	return s, err
}
