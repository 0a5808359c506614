package httpx_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/httpx"
)

type problem struct {
	Type, Title, Code, Detail string
	Status                    int
}

func readProblem(t *testing.T, w *httptest.ResponseRecorder) problem {
	t.Helper()
	if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("Content-Type %q", ct)
	}
	if cc := w.Header().Get("Cache-Control"); cc != "no-store" {
		t.Errorf("Cache-Control %q", cc)
	}
	var p problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("%v in %q", err, w.Body)
	}
	if p.Status != w.Code || p.Type != httpx.DocsBase+"#"+p.Code || p.Title != http.StatusText(w.Code) {
		t.Errorf("problem %+v with status %d", p, w.Code)
	}
	return p
}

func TestWriteProblem(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		status int
		code   string
		header map[string]string
	}{
		"a problem":         {&httpx.Problem{Status: 429, Code: "slow_down", Header: http.Header{"Retry-After": {"7"}}}, 429, "slow_down", map[string]string{"Retry-After": "7", "WWW-Authenticate": ""}},
		"a wrapped one":     {fmt.Errorf("select: %w", &httpx.Problem{Status: 404, Code: "no_route"}), 404, "no_route", nil},
		"anything else":     {errors.New("dial tcp 10.1.2.3:5432: password=hunter2"), 500, "internal", nil},
		"a senseless one":   {&httpx.Problem{Status: 200, Code: "fine"}, 500, "internal", nil},
		"AUT-01 no token":   {&httpx.Problem{Status: 401, Code: "token_missing"}, 401, "token_missing", map[string]string{"WWW-Authenticate": "Bearer"}},
		"AUT-01 bad token":  {&httpx.Problem{Status: 401, Code: "token_expired"}, 401, "token_expired", map[string]string{"WWW-Authenticate": `Bearer error="invalid_token"`}},
		"AUT-01 scope":      {&httpx.Problem{Status: 403, Code: "insufficient_scope"}, 403, "insufficient_scope", map[string]string{"WWW-Authenticate": `Bearer error="insufficient_scope"`}},
		"own challenge":     {&httpx.Problem{Status: 401, Code: "x", Header: http.Header{"Www-Authenticate": {`Bearer scope="chat"`}}}, 401, "x", map[string]string{"WWW-Authenticate": `Bearer scope="chat"`}},
		"HS-01 version":     {&httpx.Problem{Status: 426, Code: "upgrade_required"}, 426, "upgrade_required", map[string]string{"Sec-WebSocket-Version": "13", "Upgrade": "websocket", "Connection": "Upgrade"}},
		"method":            {&httpx.Problem{Status: 405, Code: "bad_handshake"}, 405, "bad_handshake", map[string]string{"Allow": "GET"}},
		"a body over bound": {fmt.Errorf("read: %w", &http.MaxBytesError{Limit: 3}), 413, "body_too_large", nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			w.Header().Set("ETag", "x")
			httpx.WriteProblem(w, c.err)
			if p := readProblem(t, w); w.Code != c.status || p.Code != c.code {
				t.Errorf("%d %s, want %d %s", w.Code, p.Code, c.status, c.code)
			}
			for k, v := range c.header {
				if got := w.Header().Get(k); got != v {
					t.Errorf("%s: %q, want %q", k, got, v)
				}
			}
			if strings.Contains(w.Body.String(), "hunter2") || w.Header().Get("ETag") != "" {
				t.Errorf("something leaked: %v %s", w.Header(), w.Body)
			}
		})
	}
}

func TestPRX04HandlerTellsStrangersNothing(t *testing.T) {
	secret := errors.New("open /var/lib/secret: no such table")
	for name, c := range map[string]struct {
		h      httpx.HandlerFunc
		code   string
		logged string // "" nothing
	}{
		"error":    {func(http.ResponseWriter, *http.Request) error { return secret }, "internal", "no such table"},
		"panic":    {func(http.ResponseWriter, *http.Request) error { panic(secret) }, "internal", "no such table"},
		"refusal":  {func(http.ResponseWriter, *http.Request) error { return &httpx.Problem{Status: 404, Code: "no_route"} }, "no_route", ""},
		"bare 503": {func(http.ResponseWriter, *http.Request) error { return &httpx.Problem{Status: 503, Code: "not_ready"} }, "not_ready", ""},
		"503 with why": {func(http.ResponseWriter, *http.Request) error {
			return fmt.Errorf("%w: %w", secret, &httpx.Problem{Status: 503, Code: "not_ready"})
		}, "not_ready", "no such table"},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			w := httptest.NewRecorder()
			httpx.Handler(slog.New(slog.NewTextHandler(&log, nil)), c.h).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/x?token=s3cret", nil))
			if p := readProblem(t, w); p.Code != c.code {
				t.Errorf("code %s, want %s", p.Code, c.code)
			}
			if strings.Contains(w.Body.String(), "secret") || strings.Contains(log.String(), "s3cret") {
				t.Errorf("leaked: %s / %s", w.Body, &log)
			}
			if (c.logged == "") != (log.Len() == 0) || !strings.Contains(log.String(), c.logged) {
				t.Errorf("log %q, want %q", &log, c.logged)
			}
		})
	}
}

func TestHandlerCutsAnAnswerUnderWay(t *testing.T) {
	for name, h := range map[string]httpx.HandlerFunc{
		"error": func(w http.ResponseWriter, _ *http.Request) error {
			_, _ = io.WriteString(w, `{"half":`)
			_ = http.NewResponseController(w).Flush()
			return errors.New("broke")
		},
		"panic": func(w http.ResponseWriter, _ *http.Request) error {
			_, _ = io.WriteString(w, `{"half":`)
			_ = http.NewResponseController(w).Flush()
			panic("broke")
		},
		"abort": func(http.ResponseWriter, *http.Request) error { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(httpx.Handler(slog.New(slog.DiscardHandler), h))
			defer srv.Close()
			resp, err := srv.Client().Get(srv.URL)
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				_ = resp.Body.Close()
			}
			if err == nil {
				t.Error("the client took the answer for whole")
			}
		})
	}
}

func TestHosts(t *testing.T) {
	hosts, err := httpx.ParseHosts([]string{"rt.example.com", "127.0.0.1:8080", "[::1]:8080", "Secure.example.com:443"})
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]bool{
		"rt.example.com": true, "RT.example.com:8443": true, "rt.example.com:443": true, "127.0.0.1:8080": true, "[::1]:8080": true, "[0:0::1]:8080": true,
		"secure.example.com": true, "secure.example.com:443": true, "secure.example.com:80": false,
		"127.0.0.1": false, "127.0.0.1:8081": false, "localhost:8080": false, "evil.test": false, "rt.example.com.": false, "": false,
		"rt.example.com.evil.test": false, "u@rt.example.com": false, "rt.example.com:443:443": false, "rt.example.com/": false, "rt.example.com:": false, "::1": false,
	} {
		if got := hosts.Allowed(host); got != want {
			t.Errorf("Allowed(%q) = %v, want %v", host, got, want)
		}
	}
	empty, _ := httpx.ParseHosts(nil)
	if !empty.Allowed("anything") {
		t.Error("an empty set refuses")
	}
	if _, err := httpx.ParseHosts([]string{"https://x"}); err == nil || !strings.Contains(err.Error(), "https://x") {
		t.Errorf("error %v does not name the entry", err)
	}

	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "http://evil.test/", nil)
	r.Header.Set("X-Forwarded-Host", "rt.example.com") // ORG-06: nobody's word
	hosts.Middleware(http.NotFoundHandler()).ServeHTTP(w, r)
	if p := readProblem(t, w); w.Code != 421 || p.Code != "unknown_host" {
		t.Errorf("%d %s", w.Code, p.Code)
	}
	w = httptest.NewRecorder()
	hosts.Middleware(http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://rt.example.com/", nil))
	if w.Code != 404 {
		t.Errorf("our own host: %d", w.Code)
	}
}

func TestCOK03CORSNeverReflectsStrangers(t *testing.T) {
	called := false
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { called = true; w.WriteHeader(http.StatusOK) })
	const good, evil = "https://app.example.com", "https://evil.test"
	listed, any := origins(t, good), origins(t, "*")
	for name, c := range map[string]struct {
		set       *httpx.Origins
		method    string
		origin    []string
		preflight bool
		status    int
		called    bool
		acao      string
		creds     string
	}{
		"same site, no Origin":       {listed, "GET", nil, false, 200, true, "", ""},
		"allowed":                    {listed, "POST", []string{good}, false, 200, true, good, "true"},
		"evil":                       {listed, "POST", []string{evil}, false, 200, true, "", ""},
		"null":                       {listed, "POST", []string{"null"}, false, 200, true, "", ""},
		"two lines":                  {listed, "POST", []string{good, good}, false, 200, true, "", ""},
		"preflight":                  {listed, "OPTIONS", []string{good}, true, 204, false, good, "true"},
		"evil preflight":             {listed, "OPTIONS", []string{evil}, true, 403, false, "", ""},
		"OPTIONS, no preflight":      {listed, "OPTIONS", []string{good}, false, 200, true, good, "true"},
		"any: no credentials":        {any, "GET", []string{evil}, false, 200, true, "*", ""},
		"any: null is still nothing": {any, "GET", []string{"null"}, false, 200, true, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			called = false
			w := httptest.NewRecorder()
			r := httptest.NewRequest(c.method, "/auth/login", nil)
			if c.origin != nil {
				r.Header["Origin"] = c.origin
			}
			if c.preflight {
				r.Header.Set("Access-Control-Request-Method", "POST")
			}
			httpx.CORS(c.set, next).ServeHTTP(w, r)
			if w.Code != c.status || called != c.called {
				t.Errorf("status %d, called %v", w.Code, called)
			}
			if got := w.Header().Get("Access-Control-Allow-Origin"); got != c.acao {
				t.Errorf("Access-Control-Allow-Origin %q, want %q", got, c.acao)
			}
			if got := w.Header().Get("Access-Control-Allow-Credentials"); got != c.creds {
				t.Errorf("Access-Control-Allow-Credentials %q, want %q", got, c.creds)
			}
			if !slices.Contains(w.Header().Values("Vary"), "Origin") {
				t.Error("no Vary: Origin")
			}
		})
	}
}

func TestCOK03SecureHeaders(t *testing.T) {
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Cache-Control", "max-age=300") })
	w := httptest.NewRecorder()
	httpx.Secure(page, true).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	h := w.Header()
	if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" ||
		!strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'none'") || !strings.HasPrefix(h.Get("Strict-Transport-Security"), "max-age=") {
		t.Errorf("headers %v", h)
	}
	if h.Get("Cache-Control") != "max-age=300" {
		t.Error("a handler cannot make its answer cacheable")
	}
	w = httptest.NewRecorder()
	httpx.Secure(http.NotFoundHandler(), false).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Header().Get("Strict-Transport-Security") != "" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("headers over http: %v", w.Header())
	}
}

func TestReadBody(t *testing.T) {
	for name, c := range map[string]struct {
		header http.Header
		body   io.Reader
		length int64
		code   string
	}{
		"json":             {http.Header{"Content-Type": {"application/json"}}, strings.NewReader("{}"), 2, ""},
		"json, utf-8":      {http.Header{"Content-Type": {"Application/JSON; charset=UTF-8"}}, strings.NewReader("{}"), 2, ""},
		"json, latin 1":    {http.Header{"Content-Type": {"application/json; charset=latin1"}}, strings.NewReader("{}"), 2, "unsupported_media_type"},
		"ORG-08 text":      {http.Header{"Content-Type": {"text/plain"}}, strings.NewReader("{}"), 2, "unsupported_media_type"},
		"ORG-08 form":      {http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, strings.NewReader("{}"), 2, "unsupported_media_type"},
		"no type":          {http.Header{}, strings.NewReader("{}"), 2, "unsupported_media_type"},
		"two types":        {http.Header{"Content-Type": {"application/json", "text/plain"}}, strings.NewReader("{}"), 2, "unsupported_media_type"},
		"a list of types":  {http.Header{"Content-Type": {"text/plain, application/json"}}, strings.NewReader("{}"), 2, "unsupported_media_type"},
		"compressed":       {http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}, strings.NewReader("{}"), 2, "unsupported_media_type"},
		"identity":         {http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"identity"}}, strings.NewReader("{}"), 2, ""},
		"said too large":   {http.Header{"Content-Type": {"application/json"}}, strings.NewReader(strings.Repeat(" ", 17)), 17, "body_too_large"},
		"found too large":  {http.Header{"Content-Type": {"application/json"}}, strings.NewReader(strings.Repeat(" ", 17)), -1, "body_too_large"},
		"exactly so large": {http.Header{"Content-Type": {"application/json"}}, strings.NewReader(strings.Repeat(" ", 16)), -1, ""},
		"broken off":       {http.Header{"Content-Type": {"application/json"}}, io.MultiReader(strings.NewReader("{"), errReader{}), 16, "body_unreadable"},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/", c.body)
			r.Header, r.ContentLength = c.header, c.length
			b, err := httpx.ReadBody(httptest.NewRecorder(), r, 16, "application/json")
			if c.code == "" {
				if err != nil || len(b) == 0 {
					t.Errorf("%q, %v", b, err)
				}
				return
			}
			var p *httpx.Problem
			if !errors.As(err, &p) || p.Code != c.code || b != nil {
				t.Errorf("%q, error %v, want %s", b, err, c.code)
			}
		})
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestCOK01Cookies(t *testing.T) {
	for public, names := range map[string][2]string{
		"https://rt.example.com": {"__Host-wsbouncer", "__Secure-wsbouncer-refresh"},
		"http://127.0.0.1:8080":  {"wsbouncer", "wsbouncer-refresh"},
	} {
		u, _ := url.Parse(public)
		c := httpx.NewCookies(u, "/auth", http.SameSiteStrictMode)
		if c.AccessName != names[0] || c.RefreshName != names[1] {
			t.Errorf("%s: %q %q", public, c.AccessName, c.RefreshName)
		}
		w := httptest.NewRecorder()
		if err := errors.Join(c.SetAccess(w, "aaa", 5*time.Minute), c.SetRefresh(w, "rrr", time.Hour)); err != nil {
			t.Fatal(err)
		}
		set := w.Result().Cookies()
		if len(set) != 2 {
			t.Fatalf("%d cookies", len(set))
		}
		for i, want := range []struct {
			value, path string
			age         int
		}{{"aaa", "/", 300}, {"rrr", "/auth", 3600}} {
			k := set[i]
			if k.Name != names[i] || k.Value != want.value || k.Path != want.path || k.MaxAge != want.age || !k.HttpOnly ||
				k.Secure != (u.Scheme == "https") || k.SameSite != http.SameSiteStrictMode || k.Domain != "" {
				t.Errorf("%s: %s", public, k.Raw)
			}
		}

		r := httptest.NewRequest(http.MethodGet, "/", nil)
		if _, present, err := c.Access(r); present || err != nil {
			t.Errorf("no cookie: %v %v", present, err)
		}
		r.Header.Set("Cookie", names[0]+"=aaa; "+names[1]+"=rrr; other=x")
		if v, present, err := c.Access(r); v != "aaa" || !present || err != nil {
			t.Errorf("Access: %q %v %v", v, present, err)
		}
		if v, present, err := c.Refresh(r); v != "rrr" || !present || err != nil {
			t.Errorf("Refresh: %q %v %v", v, present, err)
		}
		r.Header.Add("Cookie", names[0]+"=planted")
		if v, _, err := c.Access(r); err == nil || v != "" {
			t.Errorf("two access cookies: %q, %v", v, err)
		}

		w = httptest.NewRecorder()
		c.Clear(w)
		for i, k := range w.Result().Cookies() {
			if k.Name != names[i] || k.MaxAge != -1 || k.Value != "" || k.Path != set[i].Path {
				t.Errorf("Clear: %s", k.Raw)
			}
		}
		w = httptest.NewRecorder()
		if err := c.SetAccess(w, strings.Repeat("x", 4096), time.Minute); !errors.Is(err, httpx.ErrCookieSize) || len(w.Result().Cookies()) != 0 {
			t.Errorf("a cookie browsers drop: %v", err)
		}
	}
}

func TestWriteJSON(t *testing.T) {
	w := httptest.NewRecorder()
	if err := httpx.WriteJSON(w, 201, map[string]int{"a": 1}); err != nil || w.Code != 201 || w.Body.String() != "{\"a\":1}\n" || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%v %d %q", err, w.Code, w.Body)
	}
	w = httptest.NewRecorder()
	if err := httpx.WriteJSON(w, 200, func() {}); err == nil || w.Body.Len() != 0 {
		t.Errorf("%v %q", err, w.Body)
	}
}
