package login

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
	"github.com/wsbouncer/wsbouncer/policy"
)

// Types of providers.
const (
	OIDC   = "oidc"
	OAuth2 = "oauth2"
)

// Ways to authenticate to a provider's token endpoint (RFC 6749 §2.3.1).
const (
	SecretBasic = "client_secret_basic"
	SecretPost  = "client_secret_post"
)

// A Provider is one that people may log in at.
type Provider struct {
	Name string
	// Type is OIDC or OAuth2.
	Type string
	// Issuer is iss. Of OAuth2 it may be empty: there is no such thing in RFC 6749.
	Issuer string
	// AuthURL, TokenURL and UserinfoURL are OAuth2's, and Subject the name of the
	// member of a user's information that tells users apart for ever.
	AuthURL, TokenURL, UserinfoURL, Subject string
	ClientID, ClientSecret                  string
	// ClientAuth is SecretBasic or SecretPost; empty: as the provider's metadata
	// says, else SecretBasic.
	ClientAuth string
	// Scopes are asked for there.
	Scopes []string
	// Allow says who may log in here. It is needed.
	Allow *policy.Program
	// DefaultScopes are what everybody gets here, ScopesFor what some get besides.
	DefaultScopes []string
	ScopesFor     []ScopeRule
	// TokenClaims are further claims of our access tokens, by name.
	TokenClaims map[string]*policy.Program
	// SessionTTL is how long a session lives at most; zero: as any.
	SessionTTL time.Duration
	// Roots are whose the provider's certificate must be; nil: the system's.
	Roots *x509.CertPool
}

// A ScopeRule gives scopes to those it holds for.
type ScopeRule struct {
	When   *policy.Program
	Scopes []string
}

// namespace is what makes a user's subject there unique: users are the same for
// every Provider with the same one.
func (p *Provider) namespace() string {
	if p.Issuer != "" {
		return p.Issuer
	}
	return p.UserinfoURL
}

// most are all scopes that somebody can get by p.
func (p *Provider) most() []string {
	all := append([]string{}, p.DefaultScopes...)
	for _, r := range p.ScopesFor {
		all = append(all, r.Scopes...)
	}
	return all
}

// Bounds of what a provider says, and of how long it takes.
const (
	maxAnswer   = 1 << 20
	callTimeout = 10 * time.Second
	// maxClaims bounds an ID token's payload and a user's information.
	maxClaims = 64 << 10
	maxDepth  = 16
	// maxValue bounds a subject, a session id, a method; OpenID Connect Core §2
	// gives a subject 255.
	maxValue = 255
	// maxInFlight is how many of one provider's logins may be under way at once.
	maxInFlight = 64
)

var claimsOptions = jsonscan.Options{MaxBytes: maxClaims, MaxDepth: maxDepth, MaxMembers: 512, FoldKeys: true}

// client calls a provider: over TLS but for loopback, following no redirect,
// reading no more than it must.
func client(roots *x509.CertPool) *http.Client {
	return &http.Client{
		Timeout: callTimeout,
		Transport: guarded{&http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			TLSHandshakeTimeout:    callTimeout,
			MaxConnsPerHost:        maxInFlight,
			MaxIdleConnsPerHost:    4,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:      true,
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return errRedirect },
	}
}

var (
	errRedirect  = errors.New("it redirects, which no such call does")
	errInsecure  = errors.New("its address is neither https nor on loopback")
	errTooLarge  = errors.New("its answer is too large")
	errPasswords = errors.New("its address holds a user name")
)

type guarded struct{ next http.RoundTripper }

func (g guarded) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := safe(r.URL); err != nil {
		return nil, err
	}
	res, err := g.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	res.Body = &bounded{res.Body, maxAnswer}
	return res, nil
}

// bounded fails where a body goes on too long.
type bounded struct {
	io.ReadCloser
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}

// safe refuses an address where somebody could listen or answer in between.
func safe(u *url.URL) error {
	switch {
	case u.User != nil:
		return errPasswords
	case u.Scheme == "https" && u.Host != "":
		return nil
	case u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	}
	return errInsecure
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// CheckURL says what is wrong with an address of a provider.
func CheckURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || !u.IsAbs() {
		return errors.New("is not a URL with a scheme and a host")
	}
	if u.Fragment != "" {
		return errors.New("has a fragment")
	}
	if _, _, err := net.SplitHostPort(u.Host); err != nil && strings.HasSuffix(u.Host, ":") {
		return errors.New("has a colon without a port")
	}
	if err := safe(u); err != nil {
		return errors.New("must be https, but for loopback")
	}
	return nil
}
