package token

import (
	"container/list"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
	"github.com/wsbouncer/wsbouncer/internal/jws"
)

const (
	proofType = "dpop+jwt" // RFC 9449 §4.2
	// maxProofBytes bounds a proof; one with an RSA key of 8192 bits has 3 KiB.
	maxProofBytes = 8 << 10
	// proofWindow is how far iat of a proof may be from now, to either side.
	proofWindow = 60 * time.Second
	// proofKept is how long a used proof is remembered: longer than it counts.
	proofKept = 2*proofWindow + time.Second
	// defaultProofs bounds the used proofs remembered: about 2000 a second, 40 MB.
	defaultProofs = 1 << 18
	// nonceLife is how long a nonce is good.
	nonceLife = 5 * time.Minute
)

// proofAlgorithms are those that a proof may be signed with, in the order of the
// documentation.
var proofAlgorithms = []string{"ES256", "ES384", "ES512", "EdDSA", "RS256", "PS256"}

// ProofAlgorithms lists the algorithms that a DPoP proof may be signed with.
func ProofAlgorithms() []string { return slices.Clone(proofAlgorithms) }

// ProofOptions are what a ProofChecker is made of.
type ProofOptions struct {
	// URL is the scheme and host that clients use: htu begins with it.
	URL string
	// RequireNonce: a proof must carry a nonce of ours (RFC 9449 §8).
	RequireNonce bool
	// Size bounds how many used proofs are remembered; zero means 262144. When
	// it is full, proofs are refused rather than forgotten.
	Size int
}

// A ProofChecker judges DPoP proofs (RFC 9449). It is safe for concurrent use.
type ProofChecker struct {
	base    string
	nonces  bool
	secret  [32]byte
	maximum int

	mu    sync.Mutex
	used  map[[sha256.Size]byte]struct{}
	order *list.List // of usedProof, oldest first
}

type usedProof struct {
	id      [sha256.Size]byte
	forgets time.Time
}

// NewProofChecker checks the options. It starts nothing.
func NewProofChecker(o ProofOptions) (*ProofChecker, error) {
	base, err := normalURL(o.URL)
	if err != nil {
		return nil, fmt.Errorf("token: proofs of possession: %q: %w", o.URL, err)
	}
	if o.Size < 0 {
		return nil, errors.New("token: proofs of possession: the size is negative")
	}
	c := &ProofChecker{
		base: strings.TrimSuffix(base, "/"), nonces: o.RequireNonce, maximum: o.Size,
		used: map[[sha256.Size]byte]struct{}{}, order: list.New(),
	}
	if c.maximum == 0 {
		c.maximum = defaultProofs
	}
	_, _ = rand.Read(c.secret[:]) // never fails
	return c, nil
}

// A Proof is a checked DPoP proof, which has not been spent yet.
type Proof struct {
	// Binding names its key, as Token.Binding does; Key is the thumbprint alone.
	Binding, Key string

	id [sha256.Size]byte
}

// Check judges the DPoP header of a request by method for the escaped path: all
// of RFC 9449 §4.3 but whether it was used before, which Spend asks. accessToken
// is the token that came with it; empty: it came to get one. It fails with an
// *Error.
func (c *ProofChecker) Check(header []string, method, path, accessToken string) (*Proof, error) {
	bad := func(why string, cause error) (*Proof, error) { return nil, refuseFor(CodeProof, why, cause) }
	if len(header) != 1 {
		return bad("there is not exactly one DPoP header", nil)
	}
	m, err := jws.ParseProof(header[0], maxProofBytes)
	switch {
	case err != nil:
		return bad("it cannot be read", err)
	case !strings.EqualFold(m.Type, proofType):
		return bad("typ is not dpop+jwt", nil)
	case !slices.Contains(proofAlgorithms, m.Algorithm):
		return bad("its alg is not allowed", nil)
	}
	key, _, err := parseJWK(m.Key, []string{m.Algorithm})
	if err != nil {
		return bad("its jwk is no sound public key for its alg", err)
	}
	if err := m.Verify(key.Algorithm, key.Public); err != nil {
		return bad("the signature is not of its key", err)
	}
	p, err := readProof(m.Payload)
	if err != nil {
		return bad("its claims", err)
	}
	if p.method != method {
		return bad("htm is another method", nil)
	}
	uri, err := normalURL(p.uri)
	if err != nil {
		return bad("htu", err)
	}
	if want, err := normalURL(c.base + path); err != nil || uri != want {
		return bad("htu is another address", err)
	}
	now := time.Now()
	if p.issued.IsZero() || now.Sub(p.issued).Abs() > proofWindow {
		return bad("iat is not near the time it is here", nil)
	}
	sum := sha256.Sum256([]byte(accessToken))
	if accessToken != "" && subtle.ConstantTimeCompare([]byte(p.accessHash), []byte(base64.RawURLEncoding.EncodeToString(sum[:]))) == 0 {
		return bad("ath is not of the token that came with it", nil)
	}
	// Asked last: whoever sends nonsense is not told to send it again.
	if c.nonces && !c.fresh(p.nonce, now) {
		return nil, refuse(CodeNonce, "it has no nonce of ours, or an old one")
	}
	thumb, err := thumbprint(key.Public)
	if err != nil {
		return bad("its jwk", err)
	}
	return &Proof{
		Binding: boundToKey + thumb, Key: thumb,
		id: sha256.Sum256([]byte(thumb + p.id)), // a thumbprint has one length
	}, nil
}

// Spend uses p up: it fails with an *Error when that was done before. Call it
// when everything else that came with p turned out good, so that nobody without
// a credential can fill what is remembered.
func (c *ProofChecker) Spend(p *Proof) error {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := c.order.Front(); e != nil; e = c.order.Front() {
		old := e.Value.(usedProof) //nolint:forcetypeassert // nothing else is in it
		if now.Before(old.forgets) {
			break
		}
		delete(c.used, old.id)
		c.order.Remove(e)
	}
	if _, was := c.used[p.id]; was {
		return refuse(CodeProof, "its jti was used before")
	}
	if len(c.used) >= c.maximum {
		return refuse(CodeNonce, "no more used proofs can be remembered just now")
	}
	c.used[p.id] = struct{}{}
	c.order.PushBack(usedProof{p.id, now.Add(proofKept)})
	return nil
}

// Nonce is one that a proof may carry from now on, for the DPoP-Nonce header.
func (c *ProofChecker) Nonce() string { return c.nonceAt(time.Now()) }

// nonceAt is the time and its MAC: nothing has to be remembered of it.
func (c *ProofChecker) nonceAt(at time.Time) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(at.Unix())) //nolint:gosec // after 1970
	return base64.RawURLEncoding.EncodeToString(append(b, c.mac(b)...))
}

func (c *ProofChecker) mac(b []byte) []byte {
	h := hmac.New(sha256.New, c.secret[:])
	h.Write(b)
	return h.Sum(nil)[:16]
}

func (c *ProofChecker) fresh(nonce string, now time.Time) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(nonce)
	if err != nil || len(b) != 24 || !hmac.Equal(b[8:], c.mac(b[:8])) {
		return false
	}
	at := time.Unix(int64(binary.BigEndian.Uint64(b)), 0) //nolint:gosec // we wrote it
	return now.Sub(at).Abs() <= nonceLife
}

// proofClaims are those of RFC 9449 §4.2.
type proofClaims struct {
	id, method, uri, accessHash, nonce string
	issued                             time.Time
}

func readProof(payload []byte) (p proofClaims, err error) {
	err = jsonscan.Object(payload, payloadJSON, func(key, value []byte) error {
		var refused *Error
		switch name := string(key); name {
		case "jti":
			p.id, refused = identifier(name, value)
		case "htm":
			p.method, refused = identifier(name, value)
		case "htu":
			if p.uri, err = jsonscan.String(value); err != nil {
				return errors.New("htu is not a string")
			}
		case "iat":
			p.issued, refused = numericDate(name, value)
		case "ath":
			p.accessHash, refused = identifier(name, value)
		case "nonce":
			p.nonce, refused = identifier(name, value)
		}
		if refused != nil {
			return refused
		}
		return nil
	})
	switch {
	case err != nil:
		return p, err
	case p.id == "" || p.method == "" || p.uri == "" || p.issued.IsZero():
		return p, errors.New("one of jti, htm, htu and iat is missing")
	}
	return p, nil
}

// normalURL is an address after RFC 3986 §6.2.2 and §6.2.3, as far as they hold
// for https: what two programs may write differently is the same here. A
// WebSocket's address is that of its handshake (RFC 6455 §3). Query, fragment
// and user have no place in it.
func normalURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil {
		return "", errors.New("is no address") // err repeats it
	}
	scheme := strings.ToLower(u.Scheme)
	switch scheme {
	case "ws":
		scheme = "http"
	case "wss":
		scheme = "https"
	}
	switch {
	case scheme != "http" && scheme != "https" || u.Host == "" || u.Opaque != "":
		return "", errors.New("is no http or https address")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(s, "#"):
		return "", errors.New("has a query, a fragment or a user")
	}
	host := strings.ToLower(u.Host)
	if port := u.Port(); port == "" || port == "443" && scheme == "https" || port == "80" && scheme == "http" {
		host = strings.TrimSuffix(strings.TrimSuffix(host, port), ":")
	}
	path := normalPath(u.EscapedPath())
	if path == "" {
		path = "/"
	}
	return scheme + "://" + host + path, nil
}

// normalPath decodes what needs no escape and writes the others in upper case.
// Dot segments stay: no request has any here.
func normalPath(escaped string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(escaped); i++ {
		if escaped[i] != '%' || i+2 >= len(escaped) {
			b.WriteByte(escaped[i])
			continue
		}
		hi := strings.IndexByte(digits, upper(escaped[i+1]))
		lo := strings.IndexByte(digits, upper(escaped[i+2]))
		if hi < 0 || lo < 0 {
			b.WriteByte(escaped[i])
			continue
		}
		c := byte(hi<<4 | lo) //nolint:gosec // two hexadecimal digits
		i += 2
		if unreserved(c) {
			b.WriteByte(c)
		} else {
			b.WriteString(string([]byte{'%', digits[hi], digits[lo]}))
		}
	}
	return b.String()
}

func upper(c byte) byte {
	if 'a' <= c && c <= 'f' {
		return c - 'a' + 'A'
	}
	return c
}

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}
