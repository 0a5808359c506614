package authapi

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/limit"
	"github.com/wsbouncer/wsbouncer/internal/session"
	"github.com/wsbouncer/wsbouncer/token"
)

// Grants a Client can have, as the token endpoint names them.
const (
	GrantClientCredentials = "client_credentials"
	GrantTokenExchange     = "urn:ietf:params:oauth:grant-type:token-exchange" //nolint:gosec // RFC 8693 §2.1
)

// A Client is a machine client: a program with a credential of its own.
type Client struct {
	ID string
	// Secret is the SHA-256 of its secret, which has at least 256 random bits;
	// nil: it signs assertions.
	Secret *[sha256.Size]byte
	// Keys verify its assertions, by one of Algorithms.
	Keys       token.KeySet
	Algorithms []string
	Scopes     []string
	// Grants are those of the constants that it may use.
	Grants []string
	// TokenTTL is the life of its tokens; zero: the issuer's.
	TokenTTL time.Duration
	// Connections it may have at once; zero: as everybody.
	Connections int
	// Introspect lets it ask about tokens.
	Introspect bool
}

// Clients are the machine clients there are. They can be replaced at any time.
type Clients struct {
	byID atomic.Pointer[map[string]*Client]
}

// Set replaces them.
func (cs *Clients) Set(list []Client) {
	m := make(map[string]*Client, len(list))
	for _, c := range list {
		m[c.ID] = &c
	}
	cs.byID.Store(&m)
}

func (cs *Clients) all() map[string]*Client {
	if cs == nil || cs.byID.Load() == nil {
		return nil
	}
	return *cs.byID.Load()
}

// any reports whether one of them is so.
func (cs *Clients) any(is func(*Client) bool) bool {
	for _, c := range cs.all() {
		if is(c) {
			return true
		}
	}
	return false
}

func (cs *Clients) offer(grant string) bool {
	return cs.any(func(c *Client) bool { return slices.Contains(c.Grants, grant) })
}

// methods of authentication that they have (RFC 8414 §2).
func (cs *Clients) methods() (list []string) {
	if cs.any(func(c *Client) bool { return c.Secret != nil }) {
		list = append(list, "client_secret_basic", "client_secret_post")
	}
	if cs.any(func(c *Client) bool { return c.Keys != nil }) {
		list = append(list, "private_key_jwt")
	}
	return list
}

// algorithms that their assertions may be signed with.
func (cs *Clients) algorithms() (list []string) {
	for _, c := range cs.all() {
		list = append(list, c.Algorithms...)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// ConnectionsOf is how many connections a client may have for itself, of p, whose
// issuer is own; 0 of anybody else.
func (cs *Clients) ConnectionsOf(own string, p *wsbouncer.Principal) int {
	if c := cs.all()[p.ClientID]; c != nil && p.Issuer == own && p.Subject == session.ClientSubject(c.ID) {
		return c.Connections
	}
	return 0
}

// Bounds of client authentication.
const (
	assertionType    = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	maxAssertionLife = 5 * time.Minute
	assertionLeeway  = 5 * time.Second
	// maxAssertions is how many assertions of one client are remembered, each
	// for as long as it could be used again: more are refused.
	maxAssertions = 1 << 14
	maxThrottled  = 1 << 14
)

// Failures are how many a client, or an address, may have.
var (
	defaultFailuresPerIP     = limit.Rate{PerSecond: 10.0 / 60, Burst: 10}
	defaultFailuresPerClient = limit.Rate{PerSecond: 5.0 / 60, Burst: 5}
)

// errInvalidClient is RFC 6749 §5.2: 401, and the scheme that can be tried.
var errInvalidClient = &httpx.Problem{
	Status: http.StatusUnauthorized, Code: "invalid_client",
	Detail: "The client is unknown, or did not prove who it is, or has to.",
	Header: http.Header{"Www-Authenticate": {`Basic realm="wsbouncer"`}},
}

var errManyMethods = invalidRequest("Use one method of client authentication, once.")

// authenticator decides who a machine client is. There is no other place.
type authenticator struct {
	clients  *Clients
	issuer   string
	audience []string // ours, of an assertion
	events   audit.Sink
	began    time.Time
	used     usedAssertions
	perIP    *limit.Keyed[netip.Prefix]
	perID    *limit.Keyed[failureOf]
	reports  *limit.Keyed[struct{}]
}

type failureOf struct {
	id   [sha256.Size]byte
	from netip.Prefix
}

func (a *API) newAuthenticator() *authenticator {
	perIP, perID := a.o.FailuresPerIP, a.o.FailuresPerClient
	if perIP == (limit.Rate{}) {
		perIP = defaultFailuresPerIP
	}
	if perID == (limit.Rate{}) {
		perID = defaultFailuresPerClient
	}
	return &authenticator{
		clients: a.o.Clients, issuer: a.o.Issuer, audience: []string{a.o.Issuer, a.base + a.o.AuthPath + "/token"}, events: a.o.Audit, began: time.Now(),
		perIP:   limit.NewKeyed[netip.Prefix](perIP, maxThrottled),
		perID:   limit.NewKeyed[failureOf](perID, maxThrottled),
		reports: limit.NewKeyed[struct{}](limit.Rate{PerSecond: 1, Burst: 10}, 1),
	}
}

// claimed is a client's claim of who it is, not looked at yet.
type claimed struct {
	id, secret, assertion string
	asserted              bool
	named                 string // client_id of the form
}

// claim is the one method of client authentication that a request uses (RFC 6749
// §2.3); false: none.
func claim(r *http.Request, form url.Values) (c claimed, there bool, err error) {
	lines := r.Header["Authorization"]
	secret := form.Get("client_secret")
	asserted := form.Get("client_assertion") != "" || form.Get("client_assertion_type") != ""
	methods := len(lines)
	if secret != "" {
		methods++
	}
	if asserted {
		methods++
	}
	c.named = form.Get("client_id")
	switch {
	case methods == 0:
		return c, false, nil
	case methods > 1:
		return c, true, errManyMethods
	case asserted:
		c.asserted, c.assertion = true, form.Get("client_assertion")
		if form.Get("client_assertion_type") != assertionType {
			c.assertion = "" // RFC 7521 §4.2.1: as if it were not valid
		}
	case secret != "":
		c.id, c.secret = c.named, secret
	default:
		c.id, c.secret, _ = basic(lines[0])
		if c.named != "" && c.named != c.id {
			c.id = ""
		}
	}
	return c, true, nil
}

// basic is RFC 6749 §2.3.1: both halves are encoded as in a form.
func basic(line string) (id, secret string, ok bool) {
	scheme, value, _ := strings.Cut(line, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", "", false
	}
	raw, err := base64.StdEncoding.DecodeString(strings.Trim(value, " "))
	if err != nil {
		return "", "", false
	}
	id, secret, ok = strings.Cut(string(raw), ":")
	if !ok {
		return "", "", false
	}
	if id, err = url.QueryUnescape(id); err != nil {
		return "", "", false
	}
	if secret, err = url.QueryUnescape(secret); err != nil {
		return "", "", false
	}
	return id, secret, true
}

// client is who the machine client is that sent a request; nil: none says that
// it is one.
//
// Failures are bounded for an address, and for a client from an address, so that
// they tell nobody anything and fill no log. Whoever proves to be a client is let
// in all the same: what proves it cannot be guessed, and a neighbour's mistake
// must not keep it out.
func (a *authenticator) client(r *http.Request, form url.Values) (*Client, error) {
	c, there, err := claim(r, form)
	if err != nil || !there {
		return nil, err
	}
	var found *Client
	why := "wrong secret"
	if c.asserted {
		found, why = a.byAssertion(&c)
	} else {
		found = a.bySecret(c)
	}
	if found != nil {
		return found, nil
	}
	return nil, a.failed(r.Context(), c.id, why)
}

// nobody is the hash of a secret that no client has, and nobody knows.
var nobody = sha256.Sum256([]byte(rand.Text()))

// bySecret takes the same steps for a client that is unknown or has no secret.
func (a *authenticator) bySecret(c claimed) *Client {
	client, want := a.clients.all()[c.id], &nobody
	if client != nil && client.Secret != nil {
		want = client.Secret
	}
	got := sha256.Sum256([]byte(c.secret))
	if same := subtle.ConstantTimeCompare(got[:], want[:]) == 1; !same || want == &nobody {
		return nil
	}
	return client
}

// byAssertion is private_key_jwt (RFC 7523 §3). Only a signed one is remembered.
func (a *authenticator) byAssertion(c *claimed) (_ *Client, why string) {
	_, payload, err := token.Inspect(c.assertion)
	if err != nil {
		return nil, "assertion: malformed"
	}
	var iss string
	if _, err := token.Claims(payload).Lookup("iss", &iss); err != nil {
		return nil, "assertion: malformed"
	}
	client := a.clients.all()[iss]
	if client == nil || client.Keys == nil {
		return nil, "assertion: of no client that signs"
	}
	c.id = client.ID
	s, err := a.verify(c.assertion, client)
	now := time.Now()
	var bad *token.Error
	switch {
	case errors.As(err, &bad):
		return nil, "assertion: " + bad.Code
	case err != nil:
		return nil, "assertion: not valid"
	case s.Subject != client.ID || c.named != "" && c.named != client.ID:
		return nil, "assertion: about another client"
	case s.ID == "":
		return nil, "assertion: no jti"
	case slices.ContainsFunc(s.Audience, func(aud string) bool { return !slices.Contains(a.audience, aud) }):
		// Who else is named could use it here.
		return nil, "assertion: for somebody else too"
	case a.older(s):
		return nil, "assertion: older than this server's memory"
	}
	switch first, room := a.used.first(client.ID, s.ID, s.Expiry.Add(assertionLeeway), now); {
	case !room:
		return nil, "assertion: too many at once"
	case !first:
		return nil, "assertion: used before"
	}
	return client, ""
}

func (a *authenticator) verify(raw string, client *Client) (s *token.Statement, err error) {
	by := token.Issuer{Name: client.ID, Algorithms: client.Algorithms, Keys: client.Keys, Leeway: assertionLeeway}
	rules := token.StatementRules{Types: []string{"", "client-authentication+jwt"}, Expires: true, MaxLifetime: maxAssertionLife}
	for _, rules.Audience = range a.audience {
		s, err = token.VerifyStatement(raw, by, rules, time.Now())
		if !errors.Is(err, &token.Error{Code: token.CodeAudience}) {
			break
		}
	}
	return s, err
}

// older: it may have been used before this process began, which remembers nothing
// of that. One that does not say when it was made is as old as it can be.
func (a *authenticator) older(s *token.Statement) bool {
	made := s.IssuedAt
	if made.IsZero() {
		made = s.Expiry.Add(-maxAssertionLife)
	}
	return made.Before(a.began.Truncate(time.Second))
}

// failed is what a client is told that is none, or not the one it says.
func (a *authenticator) failed(ctx context.Context, id, why string) error {
	now, caller := time.Now(), limit.IPKey(from(ctx).ip)
	ok, retry := a.perIP.Allow(caller, now)
	okID, retryID := a.perID.Allow(failureOf{sha256.Sum256([]byte(id)), caller}, now)
	e := audit.Event{Type: audit.ClientFailed, Detail: map[string]string{"why": why}}
	if a.clients.all()[id] != nil { // what else stands there may be a secret
		e.Issuer, e.Subject = a.issuer, session.ClientSubject(id)
	}
	answer := error(errInvalidClient)
	if !ok || !okID {
		answer = tooMany("failures of client authentication", max(retry, retryID))
		e.Type = audit.ClientThrottled
		if report, _ := a.reports.Allow(struct{}{}, now); !report {
			return answer
		}
	}
	if err := a.events.Write(ctx, e); err != nil {
		return err
	}
	return answer
}

// usedAssertions remembers each assertion until it has expired.
type usedAssertions struct {
	mu    sync.Mutex
	of    map[string]map[[sha256.Size]byte]time.Time
	swept time.Time
}

// first notes the use of a client's jti. room is false where so many are
// remembered that one more cannot be, which is then as good as used.
func (u *usedAssertions) first(client, jti string, until, now time.Time) (first, room bool) {
	key := sha256.Sum256([]byte(jti))
	u.mu.Lock()
	defer u.mu.Unlock()
	if wait := now.Sub(u.swept); wait >= time.Minute || len(u.of[client]) >= maxAssertions && wait >= time.Second {
		u.sweep(now)
	}
	if _, used := u.of[client][key]; used {
		return false, true
	}
	if len(u.of[client]) >= maxAssertions {
		return false, false
	}
	if u.of == nil {
		u.of = map[string]map[[sha256.Size]byte]time.Time{}
	}
	if u.of[client] == nil {
		u.of[client] = map[[sha256.Size]byte]time.Time{}
	}
	u.of[client][key] = until
	return true, true
}

func (u *usedAssertions) sweep(now time.Time) {
	u.swept = now
	for client, used := range u.of {
		for key, until := range used {
			if now.After(until) {
				delete(used, key)
			}
		}
		if len(used) == 0 {
			delete(u.of, client)
		}
	}
}
