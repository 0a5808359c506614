package authapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/account"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/authapi"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/secevent"
	"github.com/wsbouncer/wsbouncer/internal/session"
	"github.com/wsbouncer/wsbouncer/internal/store/sqlite"
	"github.com/wsbouncer/wsbouncer/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	page     = "https://app.example.com" // an allowed Origin
	evil     = "https://evil.example"
	secret   = "seven grey herons upstream" // ann's password
	anns     = "ann"
	waitFor  = 10 * time.Second
	formType = "application/x-www-form-urlencoded"
)

// rig is the API over the real rooms, and a protected WebSocket beside it.
type rig struct {
	t         *testing.T
	store     *sqlite.Store
	ring      *token.Ring
	verifier  *token.Verifier
	sessions  *session.Service
	accounts  *account.Service
	bouncer   *wsbouncer.Bouncer
	cookies   httpx.Cookies
	server    *httptest.Server
	log       *safeBuffer
	mu        sync.Mutex
	secrets   []string // under mu
	issuer    string
	publicURL *url.URL
	doc       *document
}

// setup is what a test changes of a rig.
type setup struct {
	public  string // public_url
	gateway bool   // no issuer
	origins []string
	session func(*session.Options)
	account func(*account.Options)
	api     func(*authapi.Options)
	demand  wsbouncer.Demand
	foreign *token.Issuer
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newRig(t *testing.T, s setup) *rig {
	t.Helper()
	if s.public == "" {
		s.public = "https://rt.example.com"
	}
	if s.origins == nil {
		s.origins = []string{page}
	}
	r := &rig{t: t, log: &safeBuffer{}, issuer: "https://issuer.example"}
	log := slog.New(slog.NewJSONHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	dir := t.TempDir()
	var err error
	must := func(what string) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	r.store, err = sqlite.Open(t.Context(), filepath.Join(dir, "db"))
	must("store")
	t.Cleanup(func() {
		if err := r.store.Close(); err != nil {
			t.Error(err)
		}
	})
	r.ring, err = token.OpenRing(token.RingOptions{Path: filepath.Join(dir, "keys.json"), Algorithm: "EdDSA", Overlap: time.Hour})
	must("ring")
	issuers := []token.Issuer{}
	if !s.gateway {
		issuers = append(issuers, token.Issuer{
			Name: r.issuer, Audience: "wsbouncer", Algorithms: []string{"EdDSA"}, Keys: r.ring, ScopeClaim: "scope", MaxLifetime: time.Hour, Own: true,
		})
	}
	if s.foreign != nil {
		issuers = append(issuers, *s.foreign)
	}
	r.verifier, err = token.NewVerifier(token.Options{Issuers: issuers})
	must("verifier")
	events := authapi.AuditFrom(r.store)
	so := session.Options{
		Store: r.store, Audit: events, MaxTokenLife: time.Hour,
		Apply: func(rs ...wsbouncer.Revocation) int { return r.bouncer.Apply(rs...) },
	}
	if !s.gateway {
		ao := account.Options{Store: r.store, Audit: events}
		if s.account != nil {
			s.account(&ao)
		}
		r.accounts = account.New(ao)
		so.Issuer, so.Audience, so.Sign, so.Accounts = r.issuer, "wsbouncer", r.ring.Sign, r.accounts
	}
	if s.session != nil {
		s.session(&so)
	}
	r.sessions = session.New(so)
	r.publicURL, err = url.Parse(s.public)
	must("public_url")
	r.cookies = httpx.NewCookies(r.publicURL, "/auth", http.SameSiteStrictMode)
	r.bouncer, err = wsbouncer.New(wsbouncer.Options{
		Verifier: r.verifier, Issuer: r.issuer, Origins: s.origins, Tickets: r.sessions, Source: r.sessions,
		Logger: log, CookieName: r.cookies.AccessName,
	})
	must("bouncer")
	_, err = r.sessions.Load(t.Context())
	must("load")

	origins, err := httpx.ParseOrigins(s.origins)
	must("origins")
	o := authapi.Options{
		Bouncer: r.bouncer, Sessions: r.sessions, Accounts: r.accounts, Ring: r.ring, Tx: r.store.Tx, Origins: origins, Audit: r.store,
		Peers: httpx.NewPeers(nil), Cookies: r.cookies, PublicURL: r.publicURL, Log: log,
		Route: func(path string) (wsbouncer.Demand, bool) { return s.demand, strings.HasPrefix(path, "/chat/") },
	}
	if !s.gateway {
		o.Events = secevent.New()
		o.Issuer = r.issuer
	}
	if s.api != nil {
		s.api(&o)
	}
	mux := http.NewServeMux()
	authapi.New(o).Mount(mux)
	mux.Handle("/chat/{room}", r.bouncer.Require(s.demand).Protect(http.HandlerFunc(echo)))
	r.server = httptest.NewServer(mux)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waitFor)
		defer cancel()
		if err := r.bouncer.Shutdown(ctx, 0); err != nil {
			t.Error(err)
		}
		r.server.Close()
		r.checkLog()
	})
	r.doc = readDocument(t)
	if !s.gateway {
		r.addUser(anns, secret, "chat", "chat:write")
	}
	return r
}

// checkLog: no credential is ever logged, at debug level either (LOG-02, TKT-03,
// REF-06).
func (r *rig) checkLog() {
	log := r.log.String()
	for _, s := range append(r.secrets, secret) {
		if s != "" && (strings.Contains(log, s) || strings.Contains(log, url.QueryEscape(s))) {
			r.t.Errorf("a secret is in the log:\n%s", log)
			return
		}
	}
}

func (r *rig) addUser(name, password string, scopes ...string) {
	r.t.Helper()
	if _, err := r.accounts.Add(r.t.Context(), name, password, scopes, "test"); err != nil {
		r.t.Fatal(err)
	}
}

func echo(w http.ResponseWriter, req *http.Request) {
	c, err := websocket.Accept(w, req, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		kind, msg, err := c.Read(context.Background())
		if err != nil {
			return
		}
		if c.Write(context.Background(), kind, msg) != nil {
			return
		}
	}
}

// answer is an HTTP answer.
type answer struct {
	status int
	header http.Header
	body   []byte
	json   map[string]any
	setter []*http.Cookie
}

func (a *answer) str(name string) string { s, _ := a.json[name].(string); return s }

// code is the stable name of a refusal, in either shape.
func (a *answer) code() string {
	if c := a.str("code"); c != "" {
		return c
	}
	return a.str("error")
}

func (a *answer) cookie(name string) *http.Cookie {
	for _, c := range a.setter {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// with changes a request.
type with func(*http.Request)

func header(name string, values ...string) with {
	return func(r *http.Request) { r.Header[http.CanonicalHeaderKey(name)] = values }
}

func origin(o string) with { return header("Origin", o) }

func bearer(raw string) with { return header("Authorization", "Bearer "+raw) }

func cookies(cs ...*http.Cookie) with {
	return func(r *http.Request) {
		for _, c := range cs {
			if c != nil {
				r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
			}
		}
	}
}

// do sends a request: body nil for none, a string as it is with the given
// Content-Type header, anything else as JSON. What comes back must be described.
func (r *rig) do(method, path string, body any, ws ...with) *answer {
	r.t.Helper()
	var rd io.Reader
	contentType := ""
	switch b := body.(type) {
	case nil:
	case string:
		rd = strings.NewReader(b)
	case url.Values:
		rd, contentType = strings.NewReader(b.Encode()), formType
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			r.t.Fatal(err)
		}
		rd, contentType = bytes.NewReader(raw), "application/json"
	}
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.server.URL+path, rd)
	if err != nil {
		r.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	req.Header.Set("User-Agent", "rig/1")
	for _, w := range ws {
		w(req)
	}
	res, err := r.server.Client().Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	a := &answer{status: res.StatusCode, header: res.Header, setter: res.Cookies()}
	if a.body, err = io.ReadAll(res.Body); err != nil {
		r.t.Fatal(err)
	}
	if len(a.body) > 0 {
		if err := json.Unmarshal(a.body, &a.json); err != nil {
			r.t.Fatalf("%s %s: %q is not JSON", method, path, a.body)
		}
	}
	r.mu.Lock()
	for _, name := range []string{"access_token", "refresh_token", "ticket"} {
		r.secrets = append(r.secrets, a.str(name))
	}
	for _, c := range a.setter {
		r.secrets = append(r.secrets, c.Value)
	}
	r.mu.Unlock()
	r.doc.check(r.t, method, path, a)
	r.checkHeaders(method, path, a)
	return a
}

// checkHeaders: what every answer has.
func (r *rig) checkHeaders(method, path string, a *answer) {
	r.t.Helper()
	cache := a.header.Get("Cache-Control")
	public := strings.HasPrefix(path, "/.well-known/") || strings.HasSuffix(path, "/openapi.json")
	if cache != "no-store" && (!public || a.status != http.StatusOK) {
		r.t.Errorf("%s %s: Cache-Control %q", method, path, cache)
	}
	if a.header.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(a.header.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
		r.t.Errorf("%s %s: headers %v", method, path, a.header)
	}
	if !strings.Contains(strings.Join(a.header.Values("Vary"), ","), "Origin") {
		r.t.Errorf("%s %s: no Vary: Origin", method, path)
	}
	if a.status == http.StatusUnauthorized && a.header.Get("WWW-Authenticate") == "" {
		r.t.Errorf("%s %s: 401 without a challenge", method, path)
	}
}

// want demands a status and code.
func (r *rig) want(a *answer, status int, code string) *answer {
	r.t.Helper()
	if a.status != status || a.code() != code {
		r.t.Fatalf("%d %q, want %d %q: %s", a.status, a.code(), status, code, a.body)
	}
	return a
}

func (r *rig) login(name, password string) *answer {
	r.t.Helper()
	return r.want(r.do("POST", "/auth/login", map[string]any{"username": name, "password": password}), 200, "")
}

// cookieLogin gives both cookies.
func (r *rig) cookieLogin(ws ...with) (access, refresh *http.Cookie, a *answer) {
	r.t.Helper()
	a = r.want(r.do("POST", "/auth/login", map[string]any{"username": anns, "password": secret, "cookie": true}, append([]with{origin(page)}, ws...)...), 200, "")
	access, refresh = a.cookie(r.cookies.AccessName), a.cookie(r.cookies.RefreshName)
	if access == nil || refresh == nil {
		r.t.Fatalf("cookies: %v", a.header["Set-Cookie"])
	}
	return access, refresh, a
}

func (r *rig) refresh(raw string, more ...string) *answer {
	r.t.Helper()
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {raw}}
	for i := 0; i < len(more); i += 2 {
		form.Add(more[i], more[i+1])
	}
	return r.do("POST", "/auth/token", form)
}

// socket is a live connection through the bouncer.
type socket struct {
	r    *rig
	conn *websocket.Conn
	id   string
}

// dial opens one with a token, and fails the test if it is refused.
func (r *rig) dial(raw string) *socket {
	r.t.Helper()
	s, status := r.tryDial("/chat/lobby", "", bearerHeader(raw))
	if s == nil {
		r.t.Fatalf("refused with %d", status)
	}
	return s
}

func bearerHeader(raw string) http.Header { return http.Header{"Authorization": {"Bearer " + raw}} }

func (r *rig) tryDial(path, query string, h http.Header) (*socket, int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), waitFor)
	defer cancel()
	address := "ws" + strings.TrimPrefix(r.server.URL, "http") + path + query
	c, res, err := websocket.Dial(ctx, address, &websocket.DialOptions{HTTPHeader: h})
	if err != nil {
		if res == nil {
			r.t.Fatal(err)
		}
		return nil, res.StatusCode
	}
	r.t.Cleanup(func() { _ = c.CloseNow() })
	s := &socket{r: r, conn: c, id: res.Header.Get("X-Wsbouncer-Connection")}
	s.ping()
	return s, 101
}

// ping proves that the connection lives.
func (s *socket) ping() {
	s.r.t.Helper()
	ctx, cancel := context.WithTimeout(s.r.t.Context(), waitFor)
	defer cancel()
	if err := s.conn.Write(ctx, websocket.MessageText, []byte("ping")); err != nil {
		s.r.t.Fatalf("connection is gone: %v", err)
	}
	if _, msg, err := s.conn.Read(ctx); err != nil || string(msg) != "ping" {
		s.r.t.Fatalf("echo: %q %v", msg, err)
	}
}

// closes waits for the end and demands its code and reason.
func (s *socket) closes(code int, text string) {
	s.r.t.Helper()
	ctx, cancel := context.WithTimeout(s.r.t.Context(), waitFor)
	defer cancel()
	_, _, err := s.conn.Read(ctx)
	var ce websocket.CloseError
	if !errors.As(err, &ce) || int(ce.Code) != code || ce.Reason != text {
		s.r.t.Fatalf("ended with %v, want %d %s", err, code, text)
	}
}

// expires is the deadline the connection has now.
func (s *socket) expires() time.Time {
	s.r.t.Helper()
	l := s.r.bouncer.Lookup(s.id)
	if l == nil {
		s.r.t.Fatalf("connection %q is not tracked", s.id)
	}
	return l.ExpiresAt()
}

// events are those of a type, in order.
func (r *rig) events(kind audit.Type) (found []audit.Event) {
	r.t.Helper()
	all, err := r.store.Events(r.t.Context(), 0, 1000)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range all {
		if e.Type == kind {
			found = append(found, e)
		}
	}
	return found
}
