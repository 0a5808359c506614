package authapi

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/reason"
)

// verify is GET AuthPath/verify: a proxy asks whether a request that it has may go
// on (auth_request of nginx, ForwardAuth of Traefik, forward_auth of Caddy). 204
// with the identity is yes; there is no other 2xx, and everything else is no.
func (a *API) verify(w http.ResponseWriter, r *http.Request) error {
	if a.o.Ready != nil && a.o.Ready(r.Context()) != nil {
		return reason.NotReady
	}
	o, err := a.original(r)
	if err != nil {
		return err
	}
	d, err := a.demandOf(o, r.URL.RawQuery)
	if err != nil {
		return err
	}
	raw, err := a.verifiable(r, o, d.TokenFrom)
	if err != nil {
		return err
	}
	// Not VerifyRequest: a proof of possession is for the URL that the client
	// called, and a certificate here is the proxy's. Bound tokens are refused.
	t, err := a.o.Bouncer.Verify(r.Context(), raw)
	if err != nil {
		return err
	}
	p, err := a.o.Bouncer.Permit(o.request(r), t, d)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("X-Wsbouncer-Subject", httpx.HeaderValue(p.Subject))
	h.Set("X-Wsbouncer-Issuer", httpx.HeaderValue(p.Issuer))
	// Empty and not absent: a proxy that copies what is there leaves none of the client's.
	h.Set("X-Wsbouncer-Session", httpx.HeaderValue(p.Session))
	h.Set("X-Wsbouncer-Scopes", httpx.HeaderList(p.Scopes))
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// An original is the request that a proxy asks about, as far as it tells.
type original struct {
	url    *url.URL // nil: not told
	method string   // "": not told
}

// Headers by which proxies tell, and what else could be taken for one of them.
var (
	originalURIs    = []string{"X-Original-Uri", "X-Original-Url", "X-Forwarded-Uri"}
	originalMethods = []string{"X-Original-Method", "X-Forwarded-Method"}
)

var (
	untrustedOriginal = reason.Forbidden.Because("Headers that name the original request are believed from trusted_proxies alone.")
	oddOriginal       = reason.Forbidden.Because("The original request is told twice, or in a form that servers read differently.")
)

// original believes trusted proxies alone, and only what says one thing: whoever
// could add another line would choose which rules hold.
func (a *API) original(r *http.Request) (original, error) {
	uri, toldURI, ok := oneValue(r.Header, originalURIs)
	method, toldMethod, okMethod := oneValue(r.Header, originalMethods)
	switch {
	case (toldURI || toldMethod) && !a.o.Peers.Trusted(r):
		return original{}, untrustedOriginal
	case !ok || !okMethod || toldMethod && method == "":
		return original{}, oddOriginal
	}
	o := original{method: method}
	if !toldURI {
		return o, nil
	}
	path, _, _ := strings.Cut(uri, "?")
	if !strings.HasPrefix(path, "/") || httpx.OddPath(path) || strings.ContainsFunc(uri, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return original{}, oddOriginal
	}
	var err error
	if o.url, err = url.ParseRequestURI(uri); err != nil || o.url.Host != "" {
		return original{}, oddOriginal
	}
	return o, nil
}

// oneValue is the value of whichever of the headers are there. Not ok: one is there
// twice, or two disagree. Of a URL its path and query count.
func oneValue(h http.Header, names []string) (value string, present, ok bool) {
	for _, name := range names {
		lines, there := h[name]
		if !there {
			continue
		}
		if len(lines) != 1 {
			return "", true, false
		}
		v := lines[0]
		if scheme, rest, full := strings.Cut(v, "://"); full && name == "X-Original-Url" && (scheme == "http" || scheme == "https") {
			authority, _, pathed := strings.Cut(rest, "/")
			u, err := url.Parse(v)
			if !pathed || strings.ContainsAny(authority, `?#\@`) || err != nil || u.Host == "" {
				return "", true, false
			}
			v = rest[len(authority):]
		}
		if present && v != value {
			return "", true, false
		}
		value, present = v, true
	}
	return value, present, true
}

// request is o for an Authorizer: without headers that could carry a credential.
func (o *original) request(r *http.Request) *http.Request {
	clean := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/"}, Header: http.Header{}, Host: r.Host, RemoteAddr: r.RemoteAddr}
	if o.method != "" {
		clean.Method = o.method
	}
	if o.url != nil {
		u := *o.url
		q := u.Query()
		for _, name := range []string{"ticket", "token", "access_token"} {
			q.Del(name)
		}
		u.RawQuery = q.Encode()
		clean.URL = &u
	}
	if hops := r.Header["X-Forwarded-For"]; len(hops) > 0 { // for the address
		clean.Header["X-Forwarded-For"] = hops
	}
	return clean.WithContext(r.Context())
}

// demandOf is what the route of the original path demands, if there is one, and
// the scopes of the query, which the operator writes into the proxy's
// configuration. A mistake there must not look like no demand.
func (a *API) demandOf(o original, query string) (wsbouncer.Demand, error) {
	d, ok := wsbouncer.Demand{}, false
	if o.url != nil {
		d, ok = a.o.Route(o.url.EscapedPath())
	}
	switch {
	case !ok:
		d = wsbouncer.Demand{TokenFrom: []string{"header", "cookie"}}
	case d.TokenFrom == nil:
		d.TokenFrom = []string{"header"} // and others that are not looked at here
	}
	asked, err := url.ParseQuery(query)
	if err != nil {
		return d, reason.Forbidden.Because("The query of this call is malformed.")
	}
	scopes := slices.Clone(d.Scopes)
	for name, values := range asked {
		if name != "scope" {
			return d, reason.Forbidden.Because("This call takes scope in its query, and nothing else.")
		}
		for _, v := range values {
			list := strings.Fields(v)
			if len(list) == 0 {
				return d, reason.Forbidden.Because("scope names none.")
			}
			scopes = append(scopes, list...)
		}
	}
	d.Scopes = scopes
	return d, nil
}

// verifiable is the token of the Authorization header or, without one, of the
// cookie, where the route takes it there. Nothing else is looked at: a ticket is
// good once, and a proxy asks as often as it likes.
func (a *API) verifiable(r *http.Request, o original, places []string) (string, error) {
	h := r.Header
	origin, present, err := httpx.RequestOrigin(h)
	if err != nil || present && !a.o.Origins.Allowed(origin) {
		return "", reason.OriginDenied
	}
	raw, inHeader, err := bearer(h)
	if err != nil {
		return "", err
	}
	if inHeader {
		switch {
		case !slices.Contains(places, "header"):
			return "", reason.TokenMissing
		case strings.EqualFold(schemeOf(h), "DPoP"):
			return "", reason.TokenBinding.Because("A proof of possession cannot be judged for another URL. Use a token that is not bound.")
		}
		return raw, nil
	}
	raw, inCookie, err := a.o.Cookies.Access(r)
	switch {
	case err != nil:
		return "", err
	case !inCookie || !slices.Contains(places, "cookie"):
		return "", reason.TokenMissing
	}
	// A method that nobody told may be any, and a page may open WebSockets anywhere:
	// those need an Origin. What a person typed or keeps as a bookmark has none, and
	// no other site made the browser ask.
	if err := a.cookiesAllowed(h, safe(o.method) && !opensWebSocket(h), "same-origin", "none"); err != nil {
		return "", err
	}
	return raw, nil
}

func schemeOf(h http.Header) string {
	scheme, _, _ := strings.Cut(strings.TrimSpace(h.Get("Authorization")), " ")
	return scheme
}

// opensWebSocket looks at more than Upgrade, which is for one hop and may be gone.
func opensWebSocket(h http.Header) bool {
	for _, name := range []string{"Upgrade", "Sec-Websocket-Key", "Sec-Websocket-Version"} {
		if len(h[name]) > 0 {
			return true
		}
	}
	return false
}

// denial is err as the proxies know one: 401 and 403 are answers about the client,
// 405 is one about the proxy, and 5xx says that nobody could decide. All of them
// keep the client out.
func denial(err error) error {
	var p httpx.Problemer
	if !errors.As(err, &p) {
		return err
	}
	status, code, detail := p.Problem()
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusMethodNotAllowed, status >= 500:
		return err
	}
	return &httpx.Problem{Status: http.StatusForbidden, Code: code, Detail: detail}
}
