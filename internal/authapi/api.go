package authapi

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/account"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/limit"
	"github.com/wsbouncer/wsbouncer/internal/login"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/secevent"
	"github.com/wsbouncer/wsbouncer/internal/session"
	"github.com/wsbouncer/wsbouncer/token"
)

// Options are what the API speaks for. Bouncer, Sessions, Tx, Route, Origins,
// Peers, Cookies and PublicURL are needed.
type Options struct {
	Bouncer *wsbouncer.Bouncer
	// Sessions and Accounts should keep their events in an AuditFrom.
	Sessions *session.Service
	// Issuer is our own issuer's name. Empty: the gateway works alone, and the
	// calls that need an issuer are absent.
	Issuer string
	// Audience is that of its tokens.
	Audience string
	// Clients are the machine clients; nil: there are none.
	Clients *Clients
	// FailuresPerIP and FailuresPerClient bound failed client authentication from
	// an address, and of a client from an address; zero: the defaults of logins.
	FailuresPerIP, FailuresPerClient limit.Rate
	// Events believes what other parties say has ended; nil: nobody is believed.
	Events *secevent.Receiver
	// Audit keeps events; nil: nothing does.
	Audit audit.Sink
	// Accounts log in by password; nil: nobody does.
	Accounts *account.Service
	// Login is logins at other providers; nil: there are none.
	Login *login.Service
	// Ring holds our public keys; nil: there are none.
	Ring *token.Ring
	// Proofs judges proofs of possession (RFC 9449), the same as Bouncer's; nil: none
	// are taken.
	Proofs *token.ProofChecker
	// Tx runs fn in a transaction that Sessions and Accounts join.
	Tx func(ctx context.Context, fn func(ctx context.Context) error) error
	// Route is what the route at an escaped path demands, and whether there is one.
	Route func(path string) (wsbouncer.Demand, bool)
	// Origins are the pages that may call, and use cookies unless it allows any.
	Origins *httpx.Origins
	Peers   *httpx.Peers
	Cookies httpx.Cookies
	// PublicURL is what clients use.
	PublicURL *url.URL
	// AuthPath is the prefix of the API; empty: /auth.
	AuthPath string
	// Ready says why this node takes no connections; nil: it is always ready.
	Ready func(ctx context.Context) error
	// Log is for the operator; nil: slog.Default.
	Log *slog.Logger
}

// API is the HTTP API. It is safe for concurrent use.
type API struct {
	o         Options
	base      string // public_url without a trailing slash
	endpoints []endpoint
	openapi   []byte
	changing  *limit.Count[netip.Prefix] // calls that may change something
	clients   *authenticator
	logins    *limit.Keyed[netip.Prefix] // logins at providers that failed
	refusals  *limit.Keyed[netip.Prefix] // that are kept as events
	// statements of others that were refused, and those of them kept as events.
	statements, keptEvents *limit.Keyed[netip.Prefix]
}

// maxChanging is how many calls of one address may be under way that change
// something. They wait for the database's one writer, where revocations wait too.
const maxChanging = 256

var tooManyAtOnce = reason.Overloaded503.Because("Too many calls of this address at once. Try again shortly.").After(1)

// An endpoint is a path and what it does by method. The rules that hold for
// all of them are in serve, where none can forget one.
type endpoint struct {
	path    string
	methods map[string]httpx.HandlerFunc
	// oauth: errors are written as in RFC 6749 §5.2.
	oauth bool
	// forProxies: no page calls it, and a proxy takes 2xx for a yes: there is no
	// preflight, whose 204 would be one.
	forProxies bool
}

// New is an API. It starts nothing.
func New(o Options) *API {
	if o.AuthPath == "" {
		o.AuthPath = defaultAuthPath
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Audit == nil {
		o.Audit = audit.Discard
	}
	o.Audit = AuditFrom(o.Audit)
	a := &API{o: o, base: strings.TrimRight(o.PublicURL.String(), "/"), changing: limit.NewCount[netip.Prefix](maxChanging)}
	a.refusals = limit.NewKeyed[netip.Prefix](limit.Rate{PerSecond: 10.0 / 60, Burst: 10}, maxThrottled)
	a.statements = limit.NewKeyed[netip.Prefix](refusedStatements, maxThrottled)
	a.keptEvents = limit.NewKeyed[netip.Prefix](keptStatements, maxThrottled)
	a.clients = a.newAuthenticator()
	a.logins = limit.NewKeyed[netip.Prefix](o.FailuresPerIP, maxThrottled)
	a.endpoints = a.table()
	a.openapi = a.describe()
	return a
}

const defaultAuthPath = "/auth"

type methods = map[string]httpx.HandlerFunc

func (a *API) table() []endpoint {
	auth := a.o.AuthPath
	list := []endpoint{
		{path: auth + "/ticket", methods: methods{http.MethodPost: a.ticket}},
		{path: auth + "/extend", methods: methods{http.MethodPost: a.extend}},
		{path: auth + "/verify", methods: methods{http.MethodGet: a.verify}, forProxies: true},
		{path: auth + "/openapi.json", methods: methods{http.MethodGet: a.serveOpenAPI}},
		{path: "/healthz", methods: methods{http.MethodGet: a.healthz}},
		{path: "/readyz", methods: methods{http.MethodGet: a.readyz}},
	}
	if a.o.Ring != nil {
		list = append(list, endpoint{path: jwksPath, methods: methods{http.MethodGet: a.jwks}})
	}
	if a.o.Events != nil {
		list = append(list,
			endpoint{path: auth + "/backchannel-logout", methods: methods{http.MethodPost: a.backchannelLogout}, oauth: true},
			endpoint{path: auth + "/events", methods: methods{http.MethodPost: a.securityEvent}},
		)
	}
	if a.o.Issuer == "" {
		return list
	}
	list = append(list,
		endpoint{path: auth + "/token", methods: methods{http.MethodPost: a.token}, oauth: true},
		endpoint{path: auth + "/revoke", methods: methods{http.MethodPost: a.revoke}, oauth: true},
		endpoint{path: auth + "/introspect", methods: methods{http.MethodPost: a.introspect}, oauth: true},
		endpoint{path: auth + "/logout", methods: methods{http.MethodPost: a.logout}},
		endpoint{path: auth + "/session", methods: methods{http.MethodGet: a.whoami}},
		endpoint{path: auth + "/sessions", methods: methods{http.MethodGet: a.sessions}},
		endpoint{path: auth + "/sessions/{id}", methods: methods{http.MethodDelete: a.endSession}},
		endpoint{path: metadataPath, methods: methods{http.MethodGet: a.metadata}},
	)
	if a.o.Login != nil {
		list = append(list,
			endpoint{path: auth + "/login/{provider}", methods: methods{http.MethodGet: a.loginWith}},
			endpoint{path: auth + "/callback/{provider}", methods: methods{http.MethodGet: a.callback}},
		)
	}
	if a.o.Accounts != nil {
		list = append(list,
			endpoint{path: auth + "/login", methods: methods{http.MethodPost: a.login}},
			endpoint{path: auth + "/password", methods: methods{http.MethodPost: a.password}},
			endpoint{path: auth + "/factors", methods: methods{http.MethodGet: a.factors}},
			endpoint{path: auth + "/factors/{id}", methods: methods{http.MethodDelete: a.removeFactor}},
			endpoint{path: auth + "/factors/totp", methods: methods{http.MethodPost: a.beginTOTP}},
			endpoint{path: auth + "/factors/totp/confirm", methods: methods{http.MethodPost: a.confirmTOTP}},
			endpoint{path: auth + "/factors/recovery-codes", methods: methods{http.MethodPost: a.newRecoveryCodes}},
			endpoint{path: auth + "/factors/verify", methods: methods{http.MethodPost: a.verifyFactor}},
			endpoint{path: auth + "/factors/verify/options", methods: methods{http.MethodPost: a.beginStepUp}},
			endpoint{path: auth + "/factors/webauthn", methods: methods{http.MethodPost: a.addPasskey}},
			endpoint{path: auth + "/factors/webauthn/options", methods: methods{http.MethodPost: a.beginPasskey}},
			endpoint{path: auth + "/webauthn", methods: methods{http.MethodPost: a.passkeyLogin}},
			endpoint{path: auth + "/webauthn/options", methods: methods{http.MethodPost: a.beginPasskeyLogin}},
		)
	}
	return list
}

// Mount puts the API on mux. Whatever else is at or below AuthPath is no_route,
// so that it can never reach an upstream, and mux redirects nobody.
func (a *API) Mount(mux *http.ServeMux) {
	for _, e := range a.endpoints {
		mux.Handle(e.path, a.serve(e))
	}
	nothing := a.serve(endpoint{methods: nil})
	for _, path := range []string{a.o.AuthPath, a.o.AuthPath + "/"} {
		mux.Handle(path, nothing)
	}
}

// serve is the pipeline of every request.
func (a *API) serve(e endpoint) http.Handler {
	h := httpx.Handler(a.o.Log, func(w http.ResponseWriter, r *http.Request) error {
		err := a.dispatch(e, w, r)
		if err != nil && e.oauth {
			return writeOAuthError(w, err)
		}
		if err != nil && e.forProxies {
			return denial(err)
		}
		return err
	})
	if e.forProxies {
		h = varyingByOrigin(h)
	} else {
		h = httpx.CORS(a.o.Origins, h)
	}
	return httpx.Secure(h, a.o.PublicURL.Scheme == "https")
}

func varyingByOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Vary", "Origin")
		next.ServeHTTP(w, r)
	})
}

func (a *API) dispatch(e endpoint, w http.ResponseWriter, r *http.Request) error {
	if e.methods == nil {
		return reason.NoRoute
	}
	h, ok := e.methods[r.Method]
	if !ok && r.Method == http.MethodHead {
		h, ok = e.methods[http.MethodGet] // net/http leaves the body out
	}
	if !ok {
		return methodNotAllowed(e.methods)
	}
	if err := a.guard(r); err != nil {
		return err
	}
	ctx := a.withRequest(r)
	if !safe(r.Method) {
		caller := limit.IPKey(from(ctx).ip)
		if !a.changing.Acquire(caller) {
			return tooManyAtOnce
		}
		defer a.changing.Release(caller)
	}
	return h(w, r.WithContext(ctx))
}

func methodNotAllowed(ms methods) error {
	var allow []string
	for m := range ms {
		if allow = append(allow, m); m == http.MethodGet {
			allow = append(allow, http.MethodHead)
		}
	}
	slices.Sort(allow)
	list := strings.Join(allow, ", ")
	return &httpx.Problem{
		Status: http.StatusMethodNotAllowed, Code: "method_not_allowed",
		Detail: "This path takes " + list + ".", Header: http.Header{"Allow": {list}},
	}
}
