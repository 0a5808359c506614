package authapi_test

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/authapi"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
)

// behindProxy believes the test's own address.
func behindProxy(more ...func(*authapi.Options)) func(*authapi.Options) {
	return func(o *authapi.Options) {
		o.Peers = httpx.NewPeers([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})
		for _, f := range more {
			f(o)
		}
	}
}

func (r *rig) verify(query string, ws ...with) *answer {
	r.t.Helper()
	return r.do("GET", "/auth/verify"+query, nil, ws...)
}

// yes demands a 204 that names who it is.
func (r *rig) yes(a *answer, subject, scopes string) {
	r.t.Helper()
	r.want(a, 204, "")
	if a.header.Get("X-Wsbouncer-Subject") != subject || a.header.Get("X-Wsbouncer-Scopes") != scopes || len(a.header["X-Wsbouncer-Session"]) != 1 {
		r.t.Fatalf("headers %v, want %s with %q", a.header, subject, scopes)
	}
}

// no demands a refusal that names nobody.
func (r *rig) no(a *answer, status int, code string) {
	r.t.Helper()
	r.want(a, status, code)
	for name := range a.header {
		if strings.HasPrefix(name, "X-Wsbouncer-") {
			r.t.Fatalf("%s with a refusal", name)
		}
	}
}

func TestVerifyNamesTheHolder(t *testing.T) {
	r := newRig(t, setup{})
	login := r.login(anns, secret)
	raw := login.str("access_token")
	a := r.verify("", bearer(raw))
	subject := r.want(r.do("GET", "/auth/session", nil, bearer(raw)), 200, "").str("subject")
	r.yes(a, subject, "chat chat:write")
	if a.header.Get("X-Wsbouncer-Session") != login.str("session_id") || a.header.Get("X-Wsbouncer-Issuer") != r.issuer {
		t.Errorf("headers %v", a.header)
	}
	r.yes(r.do("HEAD", "/auth/verify", nil, bearer(raw)), subject, "chat chat:write")
	r.yes(r.verify("?scope=chat&scope=chat:write", bearer(raw)), subject, "chat chat:write")
	r.yes(r.verify("?scope=chat+chat:write", bearer(raw)), subject, "chat chat:write")

	r.no(r.verify(""), 401, "token_missing")
	r.no(r.verify("", bearer("nonsense")), 401, "token_malformed")
	r.no(r.verify("", bearer(raw+"x")), 401, "token_malformed")
	r.no(r.verify("", header("Authorization", "Bearer "+raw, "Bearer "+raw)), 403, "credential_ambiguous")
	r.no(r.verify("", header("Authorization", "DPoP "+raw)), 401, "token_binding")
	r.no(r.verify("", header("Authorization", "Basic YTpi")), 401, "token_missing")
	r.no(r.verify("", bearer(strings.Repeat("x", 10<<10))), 403, "token_too_large")
	r.no(r.verify("", bearer(raw), origin(evil)), 403, "origin_denied")
	r.no(r.verify("", bearer(raw), header("Origin", page, page)), 403, "invalid_request")
	if a := r.verify("?scope=admin", bearer(raw)); a.status != 403 || a.header.Get("WWW-Authenticate") != `Bearer error="insufficient_scope", scope="admin"` {
		t.Errorf("%d %v", a.status, a.header)
	}
	// A mistake in the proxy's configuration is not a smaller demand.
	for _, query := range []string{"?scopes=chat", "?scope=", "?scope", "?scope=%zz", "?scope=chat;x", "?ticket=x", "?token=" + raw} {
		r.no(r.verify(query, bearer(raw)), 403, "not_allowed")
	}
	ticket := r.want(r.ticket(lobby, bearer(raw)), 200, "").str("ticket")
	for _, query := range []string{"?ticket=" + ticket, "?access_token=" + raw, "?token=" + raw} {
		r.no(r.verify(query), 403, "not_allowed")
	}
	r.no(r.verify("", bearer(ticket)), 401, "token_malformed")
	if s, status := r.tryDial("/chat/lobby", "?ticket="+ticket, nil); s == nil {
		t.Errorf("the ticket was spent: %d", status)
	}

	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
		r.no(r.do(method, "/auth/verify", nil, bearer(raw), origin(page)), 405, "method_not_allowed")
	}
	// A preflight has no credential; its usual 204 would let it in.
	r.no(r.do("OPTIONS", "/auth/verify", nil, origin(page), header("Access-Control-Request-Method", "GET")), 405, "method_not_allowed")

	r.want(r.do("POST", "/auth/logout", nil, bearer(raw)), 200, "")
	r.no(r.verify("", bearer(raw)), 401, "token_revoked")
}

func TestAUT08OnlyProxiesNameTheOriginalRequest(t *testing.T) {
	r := newRig(t, setup{})
	raw := r.login(anns, secret).str("access_token")
	for _, name := range []string{"X-Original-URI", "X-Original-URL", "X-Forwarded-Uri", "X-Original-Method", "X-Forwarded-Method"} {
		for _, value := range []string{"/chat/lobby", "GET", ""} {
			r.no(r.verify("", bearer(raw), header(name, value)), 403, "not_allowed")
		}
	}
	r.want(r.verify("", bearer(raw), header("X-Forwarded-For", "203.0.113.1"), header("X-Rewrite-Url", "/admin")), 204, "")
}

func TestVerifyDemandsWhatTheRouteDemands(t *testing.T) {
	routes := map[string]wsbouncer.Demand{
		"/chat":   {Scopes: []string{"chat"}},
		"/admin":  {Scopes: []string{"admin"}},
		"/strong": {RequireAMR: []string{"mfa"}},
		"/ticket": {TokenFrom: []string{"ticket"}},
		"/cookie": {TokenFrom: []string{"cookie"}},
		"/vip": {Authorizer: authorizer(func(p *wsbouncer.Principal, q *http.Request) error {
			if q.URL.Query().Get("who") != p.Subject || q.URL.Query().Has("access_token") || len(q.Header["Authorization"]) > 0 || q.Method != "POST" {
				return errors.New("no")
			}
			return nil
		})},
	}
	r := newRig(t, setup{api: behindProxy(func(o *authapi.Options) {
		o.Route = func(path string) (wsbouncer.Demand, bool) {
			path, err := url.PathUnescape(path)
			d, ok := routes[path]
			return d, ok && err == nil
		}
	})})
	raw := r.login(anns, secret).str("access_token")
	who := r.want(r.do("GET", "/auth/session", nil, bearer(raw)), 200, "").str("subject")
	access, _, _ := r.cookieLogin()
	for name, c := range map[string]struct {
		ws     []with
		query  string
		status int
		code   string
	}{
		"its scope":             {[]with{header("X-Original-URI", "/chat?room=1")}, "", 204, ""},
		"and the operator's":    {[]with{header("X-Original-URI", "/chat")}, "?scope=admin", 403, "insufficient_scope"},
		"another":               {[]with{header("X-Original-URI", "/admin")}, "", 403, "insufficient_scope"},
		"escaped":               {[]with{header("X-Original-URI", "/%61dmin")}, "", 403, "insufficient_scope"},
		"a query is no path":    {[]with{header("X-Original-URI", "/admin?x=/chat")}, "", 403, "insufficient_scope"},
		"a fragment":            {[]with{header("X-Original-URI", "/admin#/chat")}, "", 403, "not_allowed"},
		"Traefik's":             {[]with{header("X-Forwarded-Uri", "/admin")}, "", 403, "insufficient_scope"},
		"a URL":                 {[]with{header("X-Original-URL", "https://app.example.com/admin?x")}, "", 403, "insufficient_scope"},
		"a URL without a path":  {[]with{header("X-Original-URL", "https://app.example.com?/chat")}, "", 403, "not_allowed"},
		"a URL in the wrong":    {[]with{header("X-Original-URI", "https://app.example.com/chat")}, "", 403, "not_allowed"},
		"the same twice":        {[]with{header("X-Original-URI", "/chat"), header("X-Forwarded-Uri", "/chat")}, "", 204, ""},
		"two":                   {[]with{header("X-Original-URI", "/admin"), header("X-Forwarded-Uri", "/chat")}, "", 403, "not_allowed"},
		"two lines":             {[]with{header("X-Original-URI", "/chat", "/chat")}, "", 403, "not_allowed"},
		"a list":                {[]with{header("X-Original-URI", "/admin, /chat")}, "", 403, "not_allowed"},
		"nothing":               {[]with{header("X-Original-URI", "")}, "", 403, "not_allowed"},
		"dot segments":          {[]with{header("X-Original-URI", "/chat/../admin")}, "", 403, "not_allowed"},
		"escaped dots":          {[]with{header("X-Original-URI", "/chat/%2e%2e/admin")}, "", 403, "not_allowed"},
		"an empty segment":      {[]with{header("X-Original-URI", "//admin")}, "", 403, "not_allowed"},
		"an escaped slash":      {[]with{header("X-Original-URI", "/x%2fadmin")}, "", 403, "not_allowed"},
		"a parameter":           {[]with{header("X-Original-URI", "/admin;x")}, "", 403, "not_allowed"},
		"a bad escape":          {[]with{header("X-Original-URI", "/%zz")}, "", 403, "not_allowed"},
		"not a path":            {[]with{header("X-Original-URI", "admin")}, "", 403, "not_allowed"},
		"methods":               {[]with{header("X-Original-Method", "GET"), header("X-Forwarded-Method", "POST")}, "", 403, "not_allowed"},
		"no route":              {[]with{header("X-Original-URI", "/else")}, "", 204, ""},
		"no route, but a scope": {[]with{header("X-Original-URI", "/else")}, "?scope=admin", 403, "insufficient_scope"},
		"a weak login":          {[]with{header("X-Original-URI", "/strong")}, "", 401, "insufficient_user_authentication"},
		"tickets alone":         {[]with{header("X-Original-URI", "/ticket")}, "", 401, "token_missing"},
		"cookies alone":         {[]with{header("X-Original-URI", "/cookie")}, "", 401, "token_missing"},
		"an expression":         {[]with{header("X-Original-URI", "/vip?who="+who+"&access_token=x"), header("X-Original-Method", "POST")}, "", 204, ""},
		"an expression says no": {[]with{header("X-Original-URI", "/vip?who=eve"), header("X-Original-Method", "POST")}, "", 403, "not_allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			a := r.verify(c.query, append(c.ws, bearer(raw))...)
			if a.status != c.status || a.code() != c.code {
				t.Errorf("%d %s, want %d %s", a.status, a.body, c.status, c.code)
			}
		})
	}
	viaCookie := []with{cookies(access), origin(page)}
	r.want(r.verify("", append(viaCookie, header("X-Original-URI", "/cookie"))...), 204, "")
	r.no(r.verify("", append(viaCookie, header("X-Original-URI", "/chat"))...), 401, "token_missing")
}

type authorizer func(p *wsbouncer.Principal, r *http.Request) error

func (f authorizer) Authorize(_ context.Context, p *wsbouncer.Principal, r *http.Request) error {
	return f(p, r)
}

func TestVerifyTakesCookiesFromPagesOfAllowedOriginsAlone(t *testing.T) {
	r := newRig(t, setup{api: behindProxy()})
	access, refresh, _ := r.cookieLogin()
	get, post := header("X-Original-Method", "GET"), header("X-Forwarded-Method", "POST")
	site := func(s string) with { return header("Sec-Fetch-Site", s) }
	socket := header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
	for name, c := range map[string]struct {
		ws     []with
		status int
		code   string
	}{
		"a page's call":                 {[]with{post, origin(page)}, 204, ""},
		"a page's WebSocket":            {[]with{get, socket, origin(page)}, 204, ""},
		"our own page's GET":            {[]with{get, site("same-origin")}, 204, ""},
		"an address that was typed":     {[]with{get, site("none")}, 204, ""},
		"a foreign page":                {[]with{get, origin(evil)}, 403, "origin_denied"},
		"no page's":                     {[]with{get, origin("null")}, 403, "origin_denied"},
		"a foreign page's GET":          {[]with{get, site("cross-site")}, 403, "origin_denied"},
		"another host of the site":      {[]with{get, site("same-site")}, 403, "origin_denied"},
		"two claims":                    {[]with{get, header("Sec-Fetch-Site", "same-origin", "none")}, 403, "origin_denied"},
		"no browser":                    {[]with{get}, 403, "origin_denied"},
		"a POST without an Origin":      {[]with{post, site("same-origin")}, 403, "origin_denied"},
		"a WebSocket without an Origin": {[]with{get, socket, site("same-origin")}, 403, "origin_denied"},
		"any upgrade":                   {[]with{get, header("Upgrade", "h2c"), site("same-origin")}, 403, "origin_denied"},
		"a method that nobody told":     {[]with{site("same-origin")}, 403, "origin_denied"},
		"two cookies":                   {[]with{get, origin(page), cookies(access)}, 403, "credential_ambiguous"},
	} {
		t.Run(name, func(t *testing.T) {
			a := r.verify("", append([]with{cookies(access)}, c.ws...)...)
			if a.status != c.status || a.code() != c.code {
				t.Errorf("%d %s, want %d %s", a.status, a.body, c.status, c.code)
			}
		})
	}
	r.no(r.verify("", cookies(refresh), origin(page)), 401, "token_missing")
	r.no(r.verify("", cookies(access), origin(page), bearer("x")), 401, "token_malformed")

	any := newRig(t, setup{origins: []string{"*"}})
	any.no(any.verify("", cookies(access), origin(page)), 403, "origin_denied")
}

func TestVerifyWithoutAnIssuer(t *testing.T) {
	ready := errors.New("not yet")
	r := newRig(t, setup{gateway: true, foreign: foreignIssuer(t), api: func(o *authapi.Options) {
		o.Ready = func(context.Context) error { return ready }
	}})
	raw := foreignToken(t, time.Minute)
	r.no(r.verify("", bearer(raw)), 503, "not_ready")
	ready = nil
	r.yes(r.verify("?scope=chat", bearer(raw)), "zoe", "chat")
	r.no(r.verify("", bearer(foreignToken(t, -time.Minute))), 401, "token_expired")
}

// What is believed is one plain path, whichever header tells it, and the very one
// that was told.
func FuzzOriginal(f *testing.F) {
	for _, s := range []string{"/chat?room=1", `/"`, "https://app.example.com/chat", "/a/../b", "/%2e%2e/", "//x", "/é", "/a b", "http://u@h/x", "/x#y", "/%zz", "*", ""} {
		f.Add(s, "")
		f.Add(s, "/chat")
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		h := http.Header{"X-Original-Url": {first}}
		if second != "" {
			h["X-Forwarded-Uri"] = []string{second}
		}
		path, ok := authapi.OriginalPath(h)
		if !ok {
			return
		}
		told := func(s string) string {
			s, _, _ = strings.Cut(s, "?")
			s, err := url.PathUnescape(s)
			if err != nil {
				t.Fatalf("%q is taken for %q", s, path)
			}
			return s
		}
		if !strings.HasPrefix(path, "/") || httpx.OddPath(path) || !strings.HasSuffix(told(first), told(path)) {
			t.Fatalf("%q is taken for %q", first, path)
		}
		if second != "" && told(second) != told(path) {
			t.Fatalf("%q and %q are taken for %q", first, second, path)
		}
	})
}
