package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"runtime"
	"strings"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/account"
	"github.com/wsbouncer/wsbouncer/internal/adminapi"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/authapi"
	"github.com/wsbouncer/wsbouncer/internal/config"
	"github.com/wsbouncer/wsbouncer/internal/gateway"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/limit"
	"github.com/wsbouncer/wsbouncer/internal/relay"
	"github.com/wsbouncer/wsbouncer/internal/secevent"
	"github.com/wsbouncer/wsbouncer/internal/session"
	"github.com/wsbouncer/wsbouncer/token"
)

// maxOwnToken is the longest life of a token of our own, those that an
// administrator issues included.
const maxOwnToken = 24 * time.Hour

// assertionLife is how long an assertion to an upstream is good.
const assertionLife = 60 * time.Second

// defaultRotation is how long a key signs where there is no issuer and the
// key is for assertions alone.
const defaultRotation = 720 * time.Hour

// openIssuer opens keys, sessions and accounts. Keys are there without an
// issuer too: assertions to upstreams are signed with them.
func (a *App) openIssuer(p *plan) (err error) {
	c := a.o.Config
	keys := token.RingOptions{
		Path: a.data.file(keysFile), Algorithm: "EdDSA", Rotation: defaultRotation, Overlap: maxOwnToken, Log: a.log,
		OnRotate: a.keyRotated,
	}
	a.events = authapi.AuditFrom(told{a.store, a.watch})
	so := session.Options{
		Store: a.store, Audit: a.events, Issuer: a.issuerName(),
		Apply: func(rs ...wsbouncer.Revocation) int { return a.bouncer.Apply(rs...) },
	}
	if i := c.Issuer; i != nil {
		so.MaxTokenLife = maxOwnToken
		keys.Algorithm, keys.Rotation = i.Algorithm, i.KeyRotation.D()
		if a.account, err = a.openAccounts(p); err != nil {
			return err
		}
		if err := a.openLogin(p); err != nil {
			return err
		}
		so.Audience, so.AccessTTL, so.RefreshTTL, so.RefreshIdle = i.Audience, i.AccessTTL.D(), i.RefreshTTL.D(), i.RefreshIdle.D()
		so.PerSubject, so.Accounts = i.SessionsPerSubject, subjects{a.account, a.login}
		so.RefreshGrace = i.RefreshGrace.D()
		if so.RefreshGrace == 0 {
			so.RefreshGrace = -1
		}
		so.Sign = func(t token.AccessToken) (string, error) { return a.ring.Sign(t) }
	}
	if a.ring, err = token.OpenRing(keys); err != nil {
		return err
	}
	a.session = session.New(so)
	a.fetch.plan(a, p)
	if a.proofs, err = token.NewProofChecker(token.ProofOptions{URL: c.PublicURL.String(), RequireNonce: c.DPoP.Nonce == "required"}); err != nil {
		return err
	}
	a.trust, err = token.NewVerifier(token.Options{Issuers: a.issuers(p), MaxBytes: int(c.Limits.TokenBytes)})
	return err
}

// keyRotated keeps a rotation by schedule in the audit trail.
func (a *App) keyRotated(k token.KeyInfo) {
	e := audit.Event{Type: audit.KeyRotated, Issuer: a.issuerName(), Actor: "schedule", Detail: map[string]string{"kid": k.ID}}
	if err := a.events.Write(context.Background(), e); err != nil {
		a.log.Error("writing the audit trail", "error", err)
	}
}

func (a *App) openAccounts(p *plan) (*account.Service, error) {
	c := a.o.Config
	key, err := a.data.factorKey()
	if err != nil {
		return nil, err
	}
	return account.New(account.Options{
		Store: a.store, Audit: a.events, MinLength: c.Login.Password.MinLength, Blocklist: p.blocklist,
		Words:      []string{"wsbouncer", c.PublicURL.Hostname()},
		PerAccount: limit.Rate(c.Limits.Logins.PerAccount), PerIP: limit.Rate(c.Limits.Logins.PerIP),
		FactorKey: key, FactorIssuer: c.PublicURL.Hostname(), Passkeys: passkeys(c),
	}), nil
}

// passkeys are good on the public URL's host, and on pages below it that may
// connect. An address can have none; that of this machine is localhost.
func passkeys(c *config.Config) *account.Passkeys {
	id := c.PublicURL.Hostname()
	if ip, err := netip.ParseAddr(id); err == nil {
		if !ip.IsLoopback() {
			return nil
		}
		id = "localhost"
	}
	p := &account.Passkeys{ID: id}
	for _, o := range c.OriginList() {
		u, err := url.Parse(o)
		if err == nil && (u.Hostname() == id || strings.HasSuffix(u.Hostname(), "."+id)) {
			p.Origins = append(p.Origins, o)
		}
	}
	if len(p.Origins) == 0 {
		return nil
	}
	return p
}

// ownIssuer is our issuer's name, or "" without one.
func (a *App) ownIssuer() string {
	if i := a.o.Config.Issuer; i != nil {
		return i.Name
	}
	return ""
}

// issuerName is who signs: our issuer, or the gateway by its public URL.
func (a *App) issuerName() string {
	if i := a.o.Config.Issuer; i != nil {
		return i.Name
	}
	return a.o.Config.PublicURL.String()
}

// issuers are all whose tokens are accepted: ours first, then those trusted.
func (a *App) issuers(p *plan) []token.Issuer {
	i := a.o.Config.Issuer
	if i == nil {
		return p.trusted
	}
	own := token.Issuer{
		Name: i.Name, Audience: i.Audience, Algorithms: []string{"EdDSA", "ES256", "RS256"}, Keys: a.ring,
		ScopeClaim: "scope", MaxLifetime: maxOwnToken, Own: true,
	}
	return append([]token.Issuer{own}, p.trusted...)
}

// openBouncer builds the library's part and tells it what was revoked before.
func (a *App) openBouncer(ctx context.Context, p *plan) (err error) {
	c := a.o.Config
	a.cookies = httpx.NewCookies(c.PublicURL.URL, c.AuthPath, sameSite(c.Cookies.SameSite))
	a.bouncer, err = wsbouncer.New(wsbouncer.Options{
		Verifier: a.trust, Issuer: a.issuerName(), Origins: c.OriginList(), Hosts: c.HostList(), TrustedProxies: c.ProxyPrefixes(),
		Limits: p.limits, ConnectionsOf: func(who *wsbouncer.Principal) int { return a.clients.ConnectionsOf(a.ownIssuer(), who) }, Proofs: a.proofs, Tickets: a.session, Source: a.session, Observer: a.watch, Logger: a.log, CookieName: a.cookies.AccessName,
	})
	if err != nil {
		return err
	}
	known, err := a.session.Load(ctx)
	if err != nil {
		return fmt.Errorf("loading revocations: %w", err)
	}
	a.bouncer.Apply(known...)
	return nil
}

func sameSite(s string) http.SameSite {
	switch s {
	case "lax":
		return http.SameSiteLaxMode
	case "none":
		return http.SameSiteNoneMode
	}
	return http.SameSiteStrictMode
}

// relayLoops are the event loops of a relay setting, one a processor; nil:
// goroutines.
func relayLoops(setting string) (*relay.Loops, error) {
	if setting == "goroutine" {
		return nil, nil
	}
	loops, err := relay.NewLoops(runtime.GOMAXPROCS(0))
	if err != nil && setting == "epoll" {
		return nil, fmt.Errorf("relay: epoll: %w on this system; take auto or goroutine", err)
	}
	return loops, nil
}

// openHandlers builds what listens: the gateway with the HTTP API beside it,
// and the admin interface.
func (a *App) openHandlers(p *plan) (err error) {
	c := a.o.Config
	if a.loops, err = relayLoops(c.Relay); err != nil {
		return err
	}
	a.gateway, err = gateway.New(gateway.Options{
		Bouncer: a.bouncer, Routes: p.routes, Peers: a.peers, Log: a.log,
		Assertion: a.assertion, Loops: a.loops, Room: a.files.room,
	})
	if err != nil {
		return err
	}
	origins, err := httpx.ParseOrigins(c.OriginList())
	if err != nil {
		return err
	}
	a.heard = secevent.New()
	a.heard.Set(p.logout, p.transmitters)
	o := authapi.Options{
		Events:  a.heard,
		Bouncer: a.bouncer, Sessions: a.session, Accounts: a.account, Ring: a.ring, Proofs: a.proofs, Tx: a.store.Tx, Route: a.gateway.Demand,
		Origins: origins, Peers: a.peers, Cookies: a.cookies, PublicURL: c.PublicURL.URL, AuthPath: c.AuthPath,
		Issuer: a.ownIssuer(), Ready: a.isReady, Log: a.log, Audit: a.events, Clients: &a.clients,
		FailuresPerIP: limit.Rate(c.Limits.Logins.PerIP), FailuresPerClient: limit.Rate(c.Limits.Logins.PerAccount),
	}
	if i := c.Issuer; i != nil {
		o.Audience = i.Audience
		if len(c.Login.Providers) > 0 {
			o.Login = a.login
		}
		if !c.Login.Password.Enabled {
			o.Accounts = nil
		}
	}
	api := authapi.New(o)
	hosts, err := httpx.ParseHosts(c.HostList())
	if err != nil {
		return err
	}
	a.public = hosts.Middleware(a.onlyTrusted(a.dispatch(api)))
	a.admin = adminapi.New(adminapi.Options{
		Bouncer: a.bouncer, Sessions: a.session, Issuer: a.ownIssuer(), DefaultIssuer: a.trust.DefaultIssuer,
		Accounts: a.account, Login: a.login, Ring: a.ring, Tx: a.store.Tx,
		Audit: a.events, Events: a.store, Reload: a.Reload, Status: a.status, Log: a.log,
	})
	return nil
}

// dispatch sends a request to the HTTP API, to a WebSocket route, or in the
// development setup to a page. The API's own mux sees none but clean paths: it
// would answer others with a redirect.
func (a *App) dispatch(api *authapi.API) http.Handler {
	mux := http.NewServeMux()
	api.Mount(mux)
	prefixes := []string{a.o.Config.AuthPath, "/.well-known", "/healthz", "/readyz"}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := r.URL.Path
		for _, prefix := range prefixes {
			if rest, ok := strings.CutPrefix(p, prefix); ok && (rest == "" || rest[0] == '/') && clean(p) && r.Method != http.MethodConnect {
				mux.ServeHTTP(w, r)
				return
			}
		}
		if a.o.Page != nil && r.Header.Get("Upgrade") == "" {
			a.o.Page.ServeHTTP(w, r)
			return
		}
		a.gateway.ServeHTTP(w, r)
	})
}

// clean reports whether a mux takes a path as it is. A slash at the end is: what
// it ends is still ours and no upstream's.
func clean(p string) bool { return path.Clean(p) == strings.TrimSuffix(p, "/") }

// isReady says why no connection is taken.
func (a *App) isReady(context.Context) error {
	if !a.ready.Load() {
		return errors.New("starting or stopping")
	}
	return a.anyKeys()
}

// assertion signs who is there, for upstreams that verify who calls them.
func (a *App) assertion(audience string, p *wsbouncer.Principal) (string, error) {
	now := time.Now()
	return a.ring.SignAssertion(map[string]any{
		"iss": a.issuerName(), "aud": audience, "sub": p.Subject, "sub_iss": p.Issuer, "sid": p.Session,
		"scope": p.Scopes, "iat": now.Unix(), "exp": now.Add(assertionLife).Unix(),
	}, "wsbouncer-assertion+jwt")
}

// onlyTrusted refuses plain http from anybody but a trusted proxy on a
// listener that other machines reach: TLS ends at the proxy, or here. With the
// PROXY protocol nobody else gets as far as this.
func (a *App) onlyTrusted(next http.Handler) http.Handler {
	c := a.o.Config
	if c.TLS != nil || c.Loopback() || c.InsecureHTTP || c.ProxyProtocol {
		return next
	}
	refusal := &httpx.Problem{Status: http.StatusForbidden, Code: "tls_required",
		Detail: "This listener speaks to its proxies alone. Use " + c.PublicURL.String() + "."}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !a.peers.Trusted(r) {
			httpx.WriteProblem(w, refusal)
			return
		}
		next.ServeHTTP(w, r)
	})
}
