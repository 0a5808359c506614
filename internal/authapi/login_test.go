package authapi_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/wsbouncer/wsbouncer/internal/account"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/limit"
)

func TestLoginGivesTokens(t *testing.T) {
	r := newRig(t, setup{})
	a := r.login(anns, secret)
	if len(a.setter) != 0 {
		t.Errorf("the token form sets cookies: %v", a.setter)
	}
	if a.str("token_type") != "Bearer" || a.json["expires_in"] != 300.0 || a.str("scope") != "chat chat:write" {
		t.Errorf("answer: %s", a.body)
	}
	tok, err := r.verifier.Verify(t.Context(), a.str("access_token"))
	if err != nil {
		t.Fatal(err)
	}
	if tok.Subject != anns || tok.Session != a.str("session_id") || tok.Issuer != r.issuer || tok.ClientID == "" || !tok.HasRev {
		t.Errorf("token: %+v", tok)
	}
	e := r.events(audit.LoginOK)
	if len(e) != 1 || e[0].Subject != anns || e[0].Session != tok.Session || !e[0].IP.IsLoopback() || e[0].UserAgent != "rig/1" {
		t.Errorf("audit: %+v", e)
	}
}

func TestCOK01CookieAttributes(t *testing.T) {
	for _, c := range []struct{ public, access, refresh string }{
		{"https://rt.example.com", "__Host-wsbouncer", "__Secure-wsbouncer-refresh"},
		{"http://127.0.0.1:8080", "wsbouncer", "wsbouncer-refresh"},
	} {
		r := newRig(t, setup{public: c.public})
		access, refresh, a := r.cookieLogin()
		secure := strings.HasPrefix(c.public, "https")
		for _, cookie := range []*http.Cookie{access, refresh} {
			if !cookie.HttpOnly || cookie.Secure != secure || cookie.Domain != "" || cookie.SameSite != http.SameSiteStrictMode || cookie.MaxAge <= 0 || len(cookie.String()) > 4096 {
				t.Errorf("%s: %s", c.public, cookie)
			}
		}
		if access.Name != c.access || access.Path != "/" || access.MaxAge > 300 {
			t.Errorf("%s: %s", c.public, access)
		}
		if refresh.Name != c.refresh || refresh.Path != "/auth" {
			t.Errorf("%s: %s", c.public, refresh)
		}
		if a.str("access_token")+a.str("refresh_token") != "" || strings.Contains(string(a.body), access.Value) || strings.Contains(string(a.body), refresh.Value) {
			t.Errorf("a token is in the body: %s", a.body)
		}
		if a.str("session_id") == "" || a.header.Get("Access-Control-Allow-Origin") != page || a.header.Get("Access-Control-Allow-Credentials") != "true" {
			t.Errorf("answer: %v %s", a.header, a.body)
		}

		next := r.want(r.do("POST", "/auth/token", map[string]any{"grant_type": "refresh_token"}, origin(page), cookies(refresh)), 200, "")
		newRefresh := next.cookie(c.refresh)
		if newRefresh == nil || newRefresh.Value == refresh.Value || newRefresh.Path != "/auth" || !newRefresh.HttpOnly || next.cookie(c.access) == nil {
			t.Errorf("refresh: %v", next.header["Set-Cookie"])
		}
		if next.str("access_token")+next.str("refresh_token") != "" {
			t.Errorf("refresh: a token is in the body: %s", next.body)
		}

		out := r.want(r.do("POST", "/auth/logout", map[string]any{}, origin(page), cookies(next.cookie(c.access), newRefresh)), 200, "")
		for name, path := range map[string]string{c.access: "/", c.refresh: "/auth"} {
			if gone := out.cookie(name); gone == nil || gone.MaxAge >= 0 || gone.Value != "" || gone.Path != path {
				t.Errorf("logout leaves %s: %v", name, out.header["Set-Cookie"])
			}
		}
	}
}

func TestCOK01PlantedSessionIsReplacedAndEnded(t *testing.T) {
	r := newRig(t, setup{})
	// The attacker's own session, planted in the victim's browser.
	planted, plantedRefresh, _ := r.cookieLogin()
	theirs := r.dial(planted.Value)
	access, refresh, _ := r.cookieLogin(cookies(planted, plantedRefresh))
	if access.Value == planted.Value || refresh.Value == plantedRefresh.Value {
		t.Fatal("the login kept a planted cookie")
	}
	theirs.closes(3000, "logged_out")
	h := http.Header{"Cookie": {planted.Name + "=" + planted.Value}, "Origin": {page}}
	r.want(r.do("GET", "/auth/session", nil, origin(page), cookies(planted)), 401, "token_revoked")
	if _, status := r.tryDial("/chat/lobby", "", h); status != 401 {
		t.Errorf("WebSocket with the planted cookie: %d", status)
	}
	r.want(r.do("GET", "/auth/session", nil, origin(page), cookies(access)), 200, "")
}

func TestPWD04UnknownUserAndWrongPasswordLookTheSame(t *testing.T) {
	r := newRig(t, setup{account: func(o *account.Options) { o.PerIP = limit.Rate{PerSecond: 100, Burst: 100} }})
	var first *answer
	for _, try := range [][2]string{
		{anns, "wrong horse battery"}, {"nobody", "wrong horse battery"}, {"nobody", ""}, {"", ""}, {anns, ""}, {"\u0000", "x"},
	} {
		a := r.want(r.do("POST", "/auth/login", map[string]any{"username": try[0], "password": try[1]}), 401, "login_failed")
		if first == nil {
			first = a
		}
		first.header.Set("Date", a.header.Get("Date"))
		if string(a.body) != string(first.body) || len(a.header) != len(first.header) {
			t.Errorf("%q differs:\n%s\n%s", try, a.body, first.body)
		}
		for name := range first.header {
			if !slices.Equal(a.header[name], first.header[name]) {
				t.Errorf("%q: %s differs: %q and %q", try, name, a.header[name], first.header[name])
			}
		}
	}
	if e := r.events(audit.LoginFailed); len(e) != 6 || e[0].Subject != anns || !e[0].IP.IsLoopback() || e[0].UserAgent != "rig/1" {
		t.Errorf("audit: %+v", e)
	}
	r.login(anns, secret) // and none of that keeps ann out
}

func TestPWD05ThrottledLoginsAre429(t *testing.T) {
	r := newRig(t, setup{account: func(o *account.Options) { o.PerIP = limit.Rate{PerSecond: 1.0 / 60, Burst: 1} }})
	wrong := map[string]any{"username": anns, "password": "wrong horse battery"}
	r.want(r.do("POST", "/auth/login", wrong), 401, "login_failed")
	// Rotating headers of no trusted proxy does not help.
	a := r.want(r.do("POST", "/auth/login", wrong, header("X-Forwarded-For", "203.0.113.9")), 429, "login_throttled")
	if a.header.Get("Retry-After") == "" || a.header.Get("Retry-After") == "0" {
		t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
	}
}

func TestPWD06PasswordChange(t *testing.T) {
	r := newRig(t, setup{})
	const changed = "eleven brass lanterns ashore"
	here, there := r.login(anns, secret), r.login(anns, secret)
	mine, other := r.dial(here.str("access_token")), r.dial(there.str("access_token"))
	auth := bearer(here.str("access_token"))

	change := func(body any, ws ...with) *answer { return r.do("POST", "/auth/password", body, ws...) }
	r.want(change(map[string]any{"current_password": secret, "new_password": changed}), 401, "token_missing")
	r.want(change(map[string]any{"new_password": changed}, auth), 403, "wrong_password")
	r.want(change(map[string]any{"current_password": "not it at all", "new_password": changed}, auth), 403, "wrong_password")
	r.want(change(map[string]any{"current_password": secret}, auth), 400, "invalid_request")
	r.want(change(map[string]any{"current_password": secret, "new_password": "short"}, auth), 400, "password_refused")
	other.ping() // nothing has happened yet

	r.want(change(map[string]any{"current_password": secret, "new_password": changed}, auth), 204, "")
	other.closes(3000, "session_revoked")
	mine.ping()
	r.want(r.refresh(there.str("refresh_token")), 400, "invalid_grant")
	r.want(r.do("GET", "/auth/session", nil, bearer(there.str("access_token"))), 401, "token_revoked")
	r.want(r.refresh(here.str("refresh_token")), 200, "")
	r.want(r.do("POST", "/auth/login", map[string]any{"username": anns, "password": secret}), 401, "login_failed")
	r.login(anns, changed)
	if e := r.events(audit.PasswordChanged); len(e) != 1 || e[0].Subject != anns || !e[0].IP.IsLoopback() {
		t.Errorf("audit: %+v", e)
	}
}

func TestPWD06LargeBodyIsRefusedUnread(t *testing.T) {
	r := newRig(t, setup{})
	large := `{"username":"ann","password":"` + strings.Repeat("x", 1<<20) + `"}`
	r.want(r.do("POST", "/auth/login", large, header("Content-Type", "application/json")), 413, "body_too_large")
	access := r.login(anns, secret).str("access_token")
	large = `{"current_password":"` + strings.Repeat("x", 1<<20) + `"}`
	r.want(r.do("POST", "/auth/password", large, header("Content-Type", "application/json"), bearer(access)), 413, "body_too_large")
	r.want(r.do("POST", "/auth/token", strings.Repeat("a=b&", 1<<18), header("Content-Type", formType)), 413, "body_too_large")
}

func TestLoginRefusesWhatItDoesNotTake(t *testing.T) {
	r := newRig(t, setup{})
	asJSON := header("Content-Type", "application/json")
	for name, c := range map[string]struct {
		body string
		with with
		want int
		code string
	}{
		"not JSON":            {`{"username":`, asJSON, 400, "invalid_request"},
		"no object":           {`["ann"]`, asJSON, 400, "invalid_request"},
		"null":                {`null`, asJSON, 400, "invalid_request"},
		"empty":               {``, asJSON, 400, "invalid_request"},
		"missing":             {`{"username":"ann"}`, asJSON, 400, "invalid_request"},
		"null password":       {`{"username":"ann","password":null}`, asJSON, 400, "invalid_request"},
		"number":              {`{"username":"ann","password":1}`, asJSON, 400, "invalid_request"},
		"unknown":             {`{"username":"ann","password":"x","admin":true}`, asJSON, 400, "invalid_request"},
		"duplicate":           {`{"username":"bob","username":"ann","password":"x"}`, asJSON, 400, "invalid_request"},
		"escaped duplicate":   {`{"username":"bob","user\u006eame":"ann","password":"x"}`, asJSON, 400, "invalid_request"},
		"another case":        {`{"Username":"ann","password":"x"}`, asJSON, 400, "invalid_request"},
		"trailing":            {`{"username":"ann","password":"x"} {}`, asJSON, 400, "invalid_request"},
		"lone surrogate":      {`{"username":"ann","password":"\ud800"}`, asJSON, 400, "invalid_request"},
		"no type":             {`{"username":"ann","password":"x"}`, header("Content-Type"), 415, "unsupported_media_type"},
		"text":                {`{"username":"ann","password":"x"}`, header("Content-Type", "text/plain"), 415, "unsupported_media_type"},
		"a form":              {url.Values{"username": {"ann"}, "password": {secret}}.Encode(), header("Content-Type", formType), 415, "unsupported_media_type"},
		"two types":           {`{"username":"ann","password":"x"}`, header("Content-Type", "application/json", "text/plain"), 415, "unsupported_media_type"},
		"another charset":     {`{"username":"ann","password":"x"}`, header("Content-Type", "application/json; charset=utf-16"), 415, "unsupported_media_type"},
		"compressed":          {`x`, with(func(r *http.Request) { asJSON(r); r.Header.Set("Content-Encoding", "gzip") }), 415, "unsupported_media_type"},
		"cookies, no Origin":  {`{"username":"ann","password":"x","cookie":true}`, asJSON, 403, "origin_denied"},
		"cookies, two Origin": {`{"username":"ann","password":"x","cookie":true}`, with(func(r *http.Request) { asJSON(r); r.Header["Origin"] = []string{page, page} }), 400, "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			r.t = t
			a := r.want(r.do("POST", "/auth/login", c.body, c.with), c.want, c.code)
			if len(a.setter) != 0 || strings.Contains(string(a.body), "ann") {
				t.Errorf("answer: %v %s", a.header, a.body)
			}
		})
	}
	r.t = t
	if n := len(r.events(audit.LoginOK)) + len(r.events(audit.LoginFailed)); n != 0 {
		t.Errorf("%d of them reached the password check", n)
	}
}
