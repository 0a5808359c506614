package token

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
	"github.com/wsbouncer/wsbouncer/internal/jws"
)

const (
	maxKeySetBytes = 512 << 10
	maxKeys        = 128
)

// jwk is the members of a JWK (RFC 7517 §4) that are looked at.
type jwk struct {
	Type       string   `json:"kty"`
	Use        *string  `json:"use"`
	Operations []string `json:"key_ops"`
	Algorithm  *string  `json:"alg"`
	ID         *string  `json:"kid"`
	Curve      string   `json:"crv"`
	X          string   `json:"x"`
	Y          string   `json:"y"`
	N          string   `json:"n"`
	E          string   `json:"e"`
}

// JWKS is the key set of a JWK Set document (RFC 7517 §5) for an issuer that
// may use algs, none of them HS.
//
// Keys for other work are passed over: another use or key_ops, a kind or an
// algorithm that is not allowed. Keys that ought not to be there refuse the
// whole set: weak ones (RSA below 2048 bits or with a small exponent, ROCA,
// points off the curve), two with one kid, private or symmetric ones, and a key
// without alg that would fit two of the allowed algorithms. So does a set that
// leaves no key.
func JWKS(b []byte, algs []string) (KeySet, error) {
	if err := checkPublicAlgorithms(algs); err != nil {
		return nil, fmt.Errorf("token: key set: %w", err)
	}
	set, passed, err := parseKeySet(b, algs)
	switch {
	case err != nil:
		return nil, fmt.Errorf("token: key set: %w", err)
	case len(set.all) == 0 && len(passed) == 0:
		return nil, errors.New("token: key set: it has no keys")
	case len(set.all) == 0:
		return nil, fmt.Errorf("token: key set: it has no key for %s (%s)", strings.Join(algs, ", "), strings.Join(passed, "; "))
	}
	return set, nil
}

// parseKeySet reads a sound document, which may leave no key; passed says why
// others were passed over.
func parseKeySet(b []byte, algs []string) (set *staticKeys, passed []string, err error) {
	documents, err := splitKeys(b)
	if err != nil {
		return nil, nil, err
	}
	set = &staticKeys{}
	seen := map[string]bool{}
	for i, doc := range documents {
		k, named, err := parseJWK(doc, algs)
		var notOurs *passedOver
		switch {
		case errors.As(err, &notOurs):
			passed = append(passed, fmt.Sprintf("key %d: %s", i+1, notOurs.why))
		case err != nil:
			return nil, nil, fmt.Errorf("key %d: %w", i+1, err)
		case seen[k.ID]:
			// The same name for a key passed over does no harm: it is never found by it.
			return nil, nil, fmt.Errorf("key %d has the kid of another", i+1)
		default:
			seen[k.ID] = true
			set.add(k, named)
		}
	}
	return set, passed, nil
}

// passedOver is why a key is no business of ours.
type passedOver struct{ why string }

func (p *passedOver) Error() string { return p.why }

var keySetJSON = jsonscan.Options{MaxBytes: maxKeySetBytes, MaxDepth: 16, MaxMembers: 256, FoldKeys: true}

func splitKeys(b []byte) ([]json.RawMessage, error) {
	if len(b) > maxKeySetBytes {
		return nil, fmt.Errorf("it has more than %d bytes", maxKeySetBytes)
	}
	raw, found, err := jsonscan.Find(b, keySetJSON, "keys")
	if err != nil {
		return nil, fmt.Errorf("it is not a JSON object: %w", err)
	}
	var docs []json.RawMessage
	if !found || json.Unmarshal(raw, &docs) != nil || docs == nil {
		return nil, errors.New(`it has no array "keys"`)
	}
	if len(docs) > maxKeys {
		return nil, fmt.Errorf("it has more than %d keys", maxKeys)
	}
	return docs, nil
}

func parseJWK(doc json.RawMessage, algs []string) (k Key, named bool, err error) {
	if len(doc) == 0 || doc[0] != '{' {
		return Key{}, false, errors.New("it is not a JSON object")
	}
	j, err := readJWK(doc)
	if err != nil {
		return Key{}, false, err
	}
	if j.Use != nil && *j.Use != "sig" {
		return Key{}, false, &passedOver{"it is not for signatures (use)"}
	}
	if j.Operations != nil && !slices.Contains(j.Operations, "verify") {
		return Key{}, false, &passedOver{"it is not for verifying (key_ops)"}
	}
	if j.Algorithm != nil && !slices.Contains(algs, *j.Algorithm) {
		return Key{}, false, &passedOver{"its alg is not allowed"}
	}
	public, err := j.public()
	if err != nil {
		return Key{}, false, err
	}
	if j.Algorithm != nil {
		algs = []string{*j.Algorithm}
	}
	alg, err := algorithmFor(public, algs)
	switch {
	case errors.Is(err, errUnfit) && j.Algorithm != nil:
		return Key{}, false, errors.New("it is no key for its own alg")
	case errors.Is(err, errUnfit):
		return Key{}, false, &passedOver{err.Error()}
	case err != nil:
		return Key{}, false, err
	}
	if j.ID != nil {
		return Key{ID: *j.ID, Algorithm: alg, Public: public}, true, nil
	}
	id, err := thumbprint(public)
	return Key{ID: id, Algorithm: alg, Public: public}, false, err
}

// readJWK takes the members by their exact names and refuses secret ones.
func readJWK(doc json.RawMessage) (j jwk, err error) {
	err = jsonscan.Object(doc, keySetJSON, func(key, value []byte) error {
		var into any
		switch string(key) {
		case "kty":
			into = &j.Type
		case "use":
			into = &j.Use
		case "key_ops":
			into = &j.Operations
		case "alg":
			into = &j.Algorithm
		case "kid":
			into = &j.ID
		case "crv":
			into = &j.Curve
		case "x":
			into = &j.X
		case "y":
			into = &j.Y
		case "n":
			into = &j.N
		case "e":
			into = &j.E
		case "d", "p", "q", "dp", "dq", "qi", "oth", "priv":
			return errors.New("it is a private key: everybody who could read this document can sign; replace it")
		case "k":
			return errors.New("it is a symmetric key, which does not belong in a public key set")
		default:
			return nil
		}
		if bytes.Equal(value, []byte("null")) || json.Unmarshal(value, into) != nil {
			return fmt.Errorf("its %s has the wrong type", key)
		}
		return nil
	})
	switch {
	case err != nil:
		return jwk{}, err
	case j.ID != nil && (*j.ID == "" || jws.Name(*j.ID) != nil):
		return jwk{}, errors.New("its kid is empty, too long, or has control characters")
	case j.Operations != nil && repeated(j.Operations):
		return jwk{}, errors.New("its key_ops repeat a value") // RFC 7517 §4.3
	}
	return j, nil
}

func repeated(values []string) bool {
	sorted := slices.Sorted(slices.Values(values))
	return len(slices.Compact(sorted)) != len(values)
}

// public is the key of RFC 7518 §6.2.1 and §6.3.1, and RFC 8037 §2.
func (j *jwk) public() (any, error) {
	switch j.Type {
	case "RSA":
		return j.rsa()
	case "EC":
		return j.ec()
	case "OKP":
		if j.Curve != "Ed25519" {
			return nil, &passedOver{"its curve is not Ed25519"}
		}
		x, err := segment("x", j.X)
		if err != nil {
			return nil, err
		}
		if len(x) != ed25519.PublicKeySize {
			return nil, errors.New("its x does not have 32 bytes")
		}
		return ed25519.PublicKey(x), nil
	}
	return nil, &passedOver{"its kty is not RSA, EC or OKP"}
}

func (j *jwk) rsa() (any, error) {
	n, err := segment("n", j.N)
	if err != nil {
		return nil, err
	}
	e, err := segment("e", j.E)
	if err != nil {
		return nil, err
	}
	if len(e) > 4 {
		return nil, errors.New("its RSA exponent has more than 32 bits")
	}
	exponent := new(big.Int).SetBytes(e).Int64()
	if exponent > 1<<31-1 {
		return nil, errors.New("its RSA exponent has more than 31 bits")
	}
	k := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent)}
	return k, checkRSA(k)
}

func (j *jwk) ec() (any, error) {
	var curve elliptic.Curve
	switch j.Curve {
	case "P-256":
		curve = elliptic.P256()
	case "P-384":
		curve = elliptic.P384()
	case "P-521":
		curve = elliptic.P521()
	default:
		return nil, &passedOver{"its curve is not P-256, P-384 or P-521"}
	}
	size := (curve.Params().BitSize + 7) / 8
	x, err := segment("x", j.X)
	if err != nil {
		return nil, err
	}
	y, err := segment("y", j.Y)
	if err != nil {
		return nil, err
	}
	if len(x) != size || len(y) != size { // RFC 7518 §6.2.1.2
		return nil, fmt.Errorf("its x and y do not have %d bytes each", size)
	}
	k, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y))
	if err != nil {
		return nil, errors.New("its point is not on its curve")
	}
	return k, nil
}

func segment(name, s string) ([]byte, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || s == "" || strings.ContainsAny(s, "\r\n") {
		return nil, fmt.Errorf("its %s is not base64url", name)
	}
	return b, nil
}

// thumbprint is the RFC 7638 name of a public key.
func thumbprint(public any) (string, error) {
	sum, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("naming the key: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}
