package authapi_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/account"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/authapi"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/session"
)

func noGrace(o *session.Options) { o.RefreshGrace = -1 }

func TestREF01EveryUseRotates(t *testing.T) {
	r := newRig(t, setup{session: noGrace})
	first := r.login(anns, secret)
	second := r.want(r.refresh(first.str("refresh_token")), 200, "")
	if second.str("refresh_token") == first.str("refresh_token") || second.str("access_token") == first.str("access_token") {
		t.Error("nothing was rotated")
	}
	if second.str("session_id") != first.str("session_id") || second.str("scope") != first.str("scope") || second.str("token_type") != "Bearer" {
		t.Errorf("answer: %s", second.body)
	}
	if _, there := second.json["extended"]; there {
		t.Error("extended, though no connection was named")
	}
	r.want(r.refresh(first.str("refresh_token")), 400, "invalid_grant")
}

func TestREF02ReuseEndsTheSessionAndItsConnections(t *testing.T) {
	r := newRig(t, setup{})
	first := r.login(anns, secret)
	other := r.login(anns, secret)
	s, bystander := r.dial(first.str("access_token")), r.dial(other.str("access_token"))
	second := r.want(r.refresh(first.str("refresh_token")), 200, "")
	third := r.want(r.refresh(second.str("refresh_token")), 200, "")
	r.want(r.refresh(first.str("refresh_token")), 400, "invalid_grant")
	s.closes(3000, "session_revoked")
	bystander.ping()
	r.want(r.refresh(third.str("refresh_token")), 400, "invalid_grant")
	r.want(r.do("GET", "/auth/session", nil, bearer(third.str("access_token"))), 401, "token_revoked")
	e := r.events(audit.RefreshReuse)
	if len(e) != 1 || e[0].Subject != anns || e[0].Session != first.str("session_id") || !e[0].IP.IsLoopback() || e[0].UserAgent != "rig/1" {
		t.Errorf("audit: %+v", e)
	}
}

func TestREF03TwoAtOnceAreOneFamily(t *testing.T) {
	r := newRig(t, setup{})
	first := r.login(anns, secret).str("refresh_token")
	answers := make([]*answer, 2)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() { answers[i] = r.refresh(first) })
	}
	wg.Wait()
	for _, a := range answers {
		if a.status != http.StatusOK || a.str("refresh_token") != answers[0].str("refresh_token") {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	r.want(r.refresh(answers[0].str("refresh_token")), 200, "")
}

func TestREF05ARefreshTokenIsNoAccessToken(t *testing.T) {
	r := newRig(t, setup{})
	a := r.login(anns, secret)
	raw := a.str("refresh_token")
	if s, status := r.tryDial("/chat/lobby", "", bearerHeader(raw)); s != nil || status != 401 {
		t.Errorf("as a Bearer token: %d", status)
	}
	r.want(r.do("GET", "/auth/session", nil, bearer(raw)), 401, "token_malformed")
	r.want(r.refresh(raw, "client_id", "another"), 400, "invalid_grant")
	r.want(r.refresh(raw, "scope", "chat wsbouncer:admin"), 400, "invalid_scope")
	narrow := r.want(r.refresh(raw, "scope", "chat"), 200, "")
	if narrow.str("scope") != "chat" {
		t.Errorf("scope %q", narrow.str("scope"))
	}
	// The access token is no refresh token either.
	r.want(r.refresh(narrow.str("access_token")), 400, "invalid_grant")
}

func TestREF06LogoutKillsTheRefreshToken(t *testing.T) {
	r := newRig(t, setup{})
	a := r.login(anns, secret)
	r.want(r.do("POST", "/auth/logout", nil, bearer(a.str("access_token"))), 200, "")
	r.want(r.refresh(a.str("refresh_token")), 400, "invalid_grant")
}

func TestRefreshExtendsTheConnectionsItNames(t *testing.T) {
	// A whole second must pass for a token with a later end.
	clock := &clock{}
	r := newRig(t, setup{session: func(o *session.Options) { o.Now = clock.now }})
	a, foreign := r.login(anns, secret), r.login(anns, secret)
	named, unnamed, theirs := r.dial(a.str("access_token")), r.dial(a.str("access_token")), r.dial(foreign.str("access_token"))
	before, was, wasTheirs := named.expires(), unnamed.expires(), theirs.expires()
	clock.ahead(3 * time.Second)
	next := r.want(r.refresh(a.str("refresh_token"), "connection", named.id, "connection", theirs.id, "connection", "unknown"), 200, "")
	if got := next.json["extended"].([]any); len(got) != 1 || got[0] != named.id {
		t.Errorf("extended %v, want %s", got, named.id)
	}
	if !named.expires().After(before) || !unnamed.expires().Equal(was) || !theirs.expires().Equal(wasTheirs) {
		t.Errorf("deadlines: %s %s %s", named.expires(), unnamed.expires(), theirs.expires())
	}
	// By cookie, as JSON.
	access, refresh, _ := r.cookieLogin()
	s := r.dial(access.Value)
	before = s.expires()
	clock.ahead(1500 * time.Millisecond)
	next = r.want(r.do("POST", "/auth/token", map[string]any{"grant_type": "refresh_token", "connection": []string{s.id}}, origin(page), cookies(refresh)), 200, "")
	if got := next.json["extended"].([]any); len(got) != 1 || !s.expires().After(before) {
		t.Errorf("extended %v, deadline %s", got, s.expires())
	}
}

// clock is the time with an offset. It only ever goes ahead by less than tokens
// may be early: see token.Issuer.
type clock struct {
	mu  sync.Mutex
	off time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.off)
}

func (c *clock) ahead(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off += d
}

func TestTokenEndpointErrors(t *testing.T) {
	r := newRig(t, setup{})
	good := r.login(anns, secret).str("refresh_token")
	_, cookie, _ := r.cookieLogin()
	form := header("Content-Type", formType)
	many := strings.Repeat("&connection=x", 257)
	for name, c := range map[string]struct {
		body any
		with with
		want int
		code string
	}{
		"no grant type":          {"refresh_token=" + good, form, 400, "invalid_request"},
		"no token":               {"grant_type=refresh_token", form, 400, "invalid_request"},
		"empty token":            {"grant_type=refresh_token&refresh_token=", form, 400, "invalid_request"},
		"twice":                  {"grant_type=refresh_token&refresh_token=" + good + "&refresh_token=" + good, form, 400, "invalid_request"},
		"bad escape":             {"grant_type=refresh_token&refresh_token=%zz", form, 400, "invalid_request"},
		"too many connections":   {"grant_type=refresh_token&refresh_token=" + good + many, form, 400, "invalid_request"},
		"an empty connection":    {"grant_type=refresh_token&connection=&refresh_token=" + good, form, 400, "invalid_request"},
		"password grant":         {"grant_type=password&username=ann&password=x", form, 400, "unsupported_grant_type"},
		"client credentials":     {"grant_type=client_credentials", form, 400, "unsupported_grant_type"},
		"unknown token":          {"grant_type=refresh_token&refresh_token=nothing", form, 400, "invalid_grant"},
		"in the query":           {"", with(func(r *http.Request) { form(r); r.URL.RawQuery = "grant_type=refresh_token&refresh_token=" + good }), 400, "invalid_request"},
		"client secret":          {"grant_type=refresh_token&client_id=x&client_secret=y&refresh_token=" + good, form, 401, "invalid_client"},
		"Basic":                  {"grant_type=refresh_token&refresh_token=" + good, with(func(r *http.Request) { form(r); r.SetBasicAuth("x", "y") }), 401, "invalid_client"},
		"text":                   {"grant_type=refresh_token&refresh_token=" + good, header("Content-Type", "text/plain"), 415, "unsupported_media_type"},
		"no type":                {"grant_type=refresh_token&refresh_token=" + good, header("Content-Type"), 415, "unsupported_media_type"},
		"JSON without cookie":    {map[string]any{"grant_type": "refresh_token"}, origin(page), 400, "invalid_grant"},
		"JSON without Origin":    {map[string]any{"grant_type": "refresh_token"}, cookies(cookie), 403, "origin_denied"},
		"JSON of evil":           {map[string]any{"grant_type": "refresh_token"}, with(func(r *http.Request) { cookies(cookie)(r); origin(evil)(r) }), 403, "origin_denied"},
		"JSON with a token":      {map[string]any{"grant_type": "refresh_token", "refresh_token": good}, with(func(r *http.Request) { cookies(cookie)(r); origin(page)(r) }), 400, "invalid_request"},
		"JSON, another grant":    {map[string]any{"grant_type": "password"}, with(func(r *http.Request) { cookies(cookie)(r); origin(page)(r) }), 400, "unsupported_grant_type"},
		"JSON, the cookie twice": {map[string]any{"grant_type": "refresh_token"}, with(func(r *http.Request) { cookies(cookie, cookie)(r); origin(page)(r) }), 400, "credential_ambiguous"},
	} {
		t.Run(name, func(t *testing.T) {
			r.t = t
			a := r.want(r.do("POST", "/auth/token", c.body, c.with), c.want, c.code)
			if a.str("error") == "" || len(a.setter) != 0 {
				t.Errorf("not the shape of RFC 6749 section 5.2: %s", a.body)
			}
		})
	}
	r.t = t
	// None of those used a token up.
	r.want(r.refresh(good), 200, "")
	r.want(r.do("POST", "/auth/token", map[string]any{"grant_type": "refresh_token"}, origin(page), cookies(cookie)), 200, "")
	// A cookie beside the form is ignored: the form is answered with tokens.
	a := r.login(anns, secret)
	b := r.do("POST", "/auth/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {a.str("refresh_token")}}, cookies(cookie))
	if r.want(b, 200, ""); b.str("session_id") != a.str("session_id") || len(b.setter) != 0 {
		t.Errorf("the cookie was looked at: %s", b.body)
	}
}

func TestSES12Revocation(t *testing.T) {
	r := newRig(t, setup{foreign: foreignIssuer(t)})
	revoke := func(token string, ws ...with) *answer {
		return r.do("POST", "/auth/revoke", url.Values{"token": {token}, "token_type_hint": {"refresh_token"}}, ws...)
	}
	r.want(revoke("nothing"), 200, "")
	r.want(revoke("a.b.c"), 200, "")
	r.want(revoke(""), 400, "invalid_request")
	r.want(revoke("x", header("Authorization", "Basic eDp5")), 401, "invalid_client")
	r.want(revoke("x", origin(evil)), 403, "origin_denied")
	r.want(revoke(foreignToken(t, time.Minute)), 400, "unsupported_token_type")
	r.want(r.do("GET", "/auth/revoke", nil), 405, "method_not_allowed")

	a, b := r.login(anns, secret), r.login(anns, secret)
	byRefresh, byAccess, other := r.dial(a.str("access_token")), r.dial(b.str("access_token")), r.dial(r.login(anns, secret).str("access_token"))
	r.want(revoke(a.str("refresh_token")), 200, "")
	byRefresh.closes(3000, "logged_out")
	r.want(r.refresh(a.str("refresh_token")), 400, "invalid_grant")
	r.want(r.do("GET", "/auth/session", nil, bearer(a.str("access_token"))), 401, "token_revoked")

	r.want(revoke(b.str("access_token")), 200, "")
	byAccess.closes(3000, "token_revoked")
	r.want(r.do("GET", "/auth/session", nil, bearer(b.str("access_token"))), 401, "token_revoked")
	r.want(revoke(b.str("access_token")), 200, "") // again
	r.want(r.refresh(b.str("refresh_token")), 200, "")
	other.ping()
	if e := r.events(audit.Revoked); len(e) != 1 || e[0].Actor != anns || !e[0].IP.IsLoopback() {
		t.Errorf("audit: %+v", e)
	}
}

func TestLoginBusyIs503(t *testing.T) {
	w := httptest.NewRecorder()
	httpx.WriteProblem(w, authapi.AccountProblem(account.ErrBusy))
	if w.Code != 503 || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), `"overloaded"`) {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}

func TestExtendRoutesBySessionAreExtendedUnnamed(t *testing.T) {
	clock := &clock{}
	r := newRig(t, setup{session: func(o *session.Options) { o.Now = clock.now }, demand: wsbouncer.Demand{ExtendSession: true}})
	a := r.login(anns, secret)
	s := r.dial(a.str("access_token"))
	before := s.expires()
	clock.ahead(3 * time.Second)
	next := r.want(r.refresh(a.str("refresh_token")), 200, "")
	got, _ := next.json["extended"].([]any)
	if !slices.Equal(got, []any{s.id}) || !s.expires().After(before) {
		t.Errorf("extended %v", got)
	}
}
