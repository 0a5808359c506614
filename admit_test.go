package wsbouncer_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/token"
)

func TestHS01OnlyVersion13(t *testing.T) {
	b, w := bouncer(t, nil)
	raw := w.token()
	for _, c := range []struct {
		versions []string
		want     *wsbouncer.Refusal
	}{
		{[]string{"0"}, reason.UpgradeRequired}, {[]string{"7"}, reason.UpgradeRequired},
		{[]string{"8"}, reason.UpgradeRequired}, {[]string{"12"}, reason.UpgradeRequired},
		{[]string{"14"}, reason.UpgradeRequired}, {[]string{"13, 8"}, reason.UpgradeRequired},
		{[]string{"013"}, reason.UpgradeRequired},
		{nil, reason.BadHandshake}, {[]string{"13", "13"}, reason.BadHandshake},
	} {
		r := handshake(bearer(raw))
		r.Header["Sec-Websocket-Version"] = c.versions
		_, err := b.Admit(r, wsbouncer.Demand{})
		wantRefusal(t, err, c.want)
	}
}

func TestHS02MalformedHandshakes(t *testing.T) {
	b, w := bouncer(t, nil)
	raw := w.token()
	for name, c := range map[string]struct {
		change func(*http.Request)
		want   *wsbouncer.Refusal
	}{
		"POST":              {func(r *http.Request) { r.Method = "POST" }, reason.MethodNotAllowed},
		"HEAD":              {func(r *http.Request) { r.Method = "HEAD" }, reason.MethodNotAllowed},
		"HTTP/1.0":          {func(r *http.Request) { r.ProtoMinor = 0 }, reason.BadHandshake},
		"HTTP/2":            {func(r *http.Request) { r.ProtoMajor, r.ProtoMinor = 2, 0 }, reason.BadHandshake},
		"H2-01 CONNECT":     {func(r *http.Request) { r.Method, r.ProtoMajor, r.ProtoMinor = "CONNECT", 2, 0 }, reason.MethodNotAllowed},
		"no Host":           {func(r *http.Request) { r.Host = "" }, reason.BadHandshake},
		"no Upgrade":        {func(r *http.Request) { r.Header.Del("Upgrade") }, reason.BadHandshake},
		"two Upgrades":      {func(r *http.Request) { r.Header.Add("Upgrade", "websocket") }, reason.BadHandshake},
		"HS-07 h2c":         {func(r *http.Request) { r.Header.Set("Upgrade", "h2c") }, reason.BadHandshake},
		"HS-07 two":         {func(r *http.Request) { r.Header.Set("Upgrade", "websocket, h2c") }, reason.BadHandshake},
		"HS-07 TLS":         {func(r *http.Request) { r.Header.Set("Upgrade", "TLS/1.0") }, reason.BadHandshake},
		"keep-alive":        {func(r *http.Request) { r.Header.Set("Connection", "keep-alive") }, reason.BadHandshake},
		"no key":            {func(r *http.Request) { r.Header.Del("Sec-WebSocket-Key") }, reason.BadHandshake},
		"two keys":          {func(r *http.Request) { r.Header.Add("Sec-WebSocket-Key", sampleKey) }, reason.BadHandshake},
		"15 bytes":          {func(r *http.Request) { r.Header.Set("Sec-WebSocket-Key", "MTIzNDU2Nzg5MDEyMzQ1") }, reason.BadHandshake},
		"17 bytes":          {func(r *http.Request) { r.Header.Set("Sec-WebSocket-Key", "MTIzNDU2Nzg5MDEyMzQ1Njc=") }, reason.BadHandshake},
		"not base64":        {func(r *http.Request) { r.Header.Set("Sec-WebSocket-Key", "!!!!IHNhbXBsZSBub25jZQ==") }, reason.BadHandshake},
		"unused bits":       {func(r *http.Request) { r.Header.Set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZR==") }, reason.BadHandshake},
		"HS-06 length":      {func(r *http.Request) { r.ContentLength = 44 }, reason.BadHandshake},
		"HS-06 chunked":     {func(r *http.Request) { r.ContentLength, r.TransferEncoding = -1, []string{"chunked"} }, reason.BadHandshake},
		"an ordinary GET":   {func(r *http.Request) { r.Header = http.Header{} }, reason.UpgradeRequired},
		"protocol not list": {func(r *http.Request) { r.Header.Set("Sec-WebSocket-Protocol", "a b") }, reason.BadHandshake},
	} {
		t.Run(name, func(t *testing.T) {
			r := handshake(bearer(raw))
			c.change(r)
			_, err := b.Admit(r, wsbouncer.Demand{})
			wantRefusal(t, err, c.want)
		})
	}
	if _, err := b.Admit(handshake(bearer(raw)), wsbouncer.Demand{}); err != nil {
		t.Fatalf("a good one: %v", err)
	}
}

func TestHS09OddTargets(t *testing.T) {
	b, w := bouncer(t, nil)
	raw := w.token()
	for _, target := range []string{
		"//evil/ws", "http://evil/ws", "/ws#x", "/public/..%2fadmin", "/public/%2e%2e/admin", "/public/../admin",
		"/a/./b", "/a/%2E/b", "/admin;a=b", "/admin?x=1;token=a", "/a%5cb", `/a\b`, "/ws%00", "/ws?x=%00", "/a//b", "/a/..", "*",
	} {
		r := handshake(bearer(raw))
		r.RequestURI = target
		if u, err := url.ParseRequestURI(target); err == nil {
			r.URL = u
		}
		if _, err := b.Admit(r, wsbouncer.Demand{}); !errors.Is(err, reason.BadHandshake) {
			t.Errorf("%s: %v", target, err)
		}
	}
	for _, target := range []string{"/", "/ws", "/a.b/c..d", "/a/...", "/%C3%A9", "/a/b/", "/ws?next=https%3A%2F%2Fx//y&z=..", "/a%20b", "/a%3Bb"} {
		r := handshake(bearer(raw))
		r.RequestURI = target
		r.URL, _ = url.ParseRequestURI(target)
		if _, err := b.Admit(r, wsbouncer.Demand{}); err != nil {
			t.Errorf("%s: %v", target, err)
		}
	}
}

func TestProtectBehindAPrefix(t *testing.T) {
	b, w := bouncer(t, nil)
	h := http.StripPrefix("/api/", b.Protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(r.URL.Path))
	})))
	c := dial(t, serve(t, h), "/api/ws", auth(w.token()))
	if body, _ := io.ReadAll(c.resp.Body); string(body) != "ws" {
		t.Errorf("%d %s", c.resp.StatusCode, body)
	}
}

func TestHostAndRate(t *testing.T) {
	b, w := bouncer(t, func(o *wsbouncer.Options) {
		o.Hosts = []string{"rt.example.com"}
		o.Limits.HandshakesPerIP = wsbouncer.Rate{PerSecond: 1, Burst: 2}
		o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	})
	raw := w.token()
	from := func(addr, forwarded string) error {
		r := handshake(bearer(raw))
		r.Host, r.RemoteAddr = "rt.example.com", addr
		if forwarded != "" {
			r.Header.Set("X-Forwarded-For", forwarded)
		}
		_, err := b.Admit(r, wsbouncer.Demand{})
		return err
	}
	_, err := b.Admit(handshake(bearer(raw)), wsbouncer.Demand{})
	wantRefusal(t, err, reason.UnknownHost)
	for range 2 {
		if err := from("203.0.113.7:1", ""); err != nil {
			t.Fatal(err)
		}
	}
	// AUT-10: an address that anybody can write changes nothing.
	err = from("203.0.113.7:2", "198.51.100.9")
	wantRefusal(t, err, reason.TooManyHandshakes)
	if refusal(t, err).RetryAfter < 1 {
		t.Error("no Retry-After")
	}
	// IPv6 counts by /64.
	for i, want := range []bool{true, true, false} {
		err := from("[2001:db8::"+string(rune('1'+i))+"]:1", "")
		if (err == nil) != want {
			t.Errorf("address %d of one /64: %v", i, err)
		}
	}
	for range 2 {
		if err := from("10.1.1.1:1", "198.51.100.9"); err != nil {
			t.Fatal(err)
		}
	}
	wantRefusal(t, from("10.1.1.2:1", "198.51.100.9"), reason.TooManyHandshakes)
	if err := from("10.1.1.1:1", "198.51.100.10"); err != nil {
		t.Errorf("another client of the proxy: %v", err)
	}
}

func TestORG01OriginsAreComparedExactly(t *testing.T) {
	b, w := bouncer(t, nil)
	raw := w.token()
	for origin, ok := range map[string]bool{
		appOrigin: true, "HTTPS://APP.example.com": true,
		"http://app.example.com": false, "https://app.example.com:444": false, "https://x.app.example.com": false,
		"https://app.example.com.": false, "https://app.example.com/": false, "https://app.example.com.evil.test": false,
		"null": false, "": false, " https://app.example.com": false, appOrigin + ", " + appOrigin: false,
		"https://evil.test#https://app.example.com": false, "https://user@app.example.com": false,
	} {
		r := handshake(bearer(raw))
		r.Header["Origin"] = []string{origin}
		_, err := b.Admit(r, wsbouncer.Demand{})
		if (err == nil) != ok {
			t.Errorf("%q: %v", origin, err)
		}
		if err != nil && !errors.Is(err, reason.OriginDenied) {
			t.Errorf("%q: refused as %v", origin, err)
		}
	}
}

func TestORG03MissingAndDoubledOrigins(t *testing.T) {
	b, w := bouncer(t, nil)
	raw := w.token()
	cookie := wsbouncer.Demand{TokenFrom: []string{"cookie"}}
	withCookie := func(r *http.Request) { r.Header.Set("Cookie", "__Host-wsbouncer="+raw) }

	r := handshake(bearer(raw))
	r.Header.Del("Origin")
	if _, err := b.Admit(r, wsbouncer.Demand{}); err != nil {
		t.Errorf("no Origin with a header: %v", err)
	}
	r = handshake(withCookie)
	r.Header.Del("Origin")
	_, err := b.Admit(r, cookie)
	wantRefusal(t, err, reason.OriginDenied)
	if _, err := b.Admit(handshake(withCookie), cookie); err != nil {
		t.Errorf("Origin with a cookie: %v", err)
	}
	r = handshake(bearer(raw))
	r.Header["Origin"] = []string{appOrigin, appOrigin}
	_, err = b.Admit(r, wsbouncer.Demand{})
	wantRefusal(t, err, reason.OriginDenied)
	// ORG-06: what a stranger may write into other headers is not looked at.
	r = handshake(bearer(raw))
	r.Host = "evil.test"
	for _, h := range []string{"X-Forwarded-Host", "Forwarded", "X-Original-Host"} {
		r.Header.Set(h, "host=evil.test")
	}
	r.Header.Set("Origin", "https://evil.test")
	_, err = b.Admit(r, wsbouncer.Demand{})
	wantRefusal(t, err, reason.OriginDenied)
}

func TestORG04SafeDefaults(t *testing.T) {
	w := newWallet()
	for name, o := range map[string]wsbouncer.Options{
		"zero":               {},
		"no origins":         {Verifier: w},
		"no verifier":        {Origins: []string{appOrigin}},
		"star with cookies":  {Verifier: w, Origins: []string{"*"}, Demand: wsbouncer.Demand{TokenFrom: []string{"cookie"}}},
		"bad origin":         {Verifier: w, Origins: []string{"app.example.com"}},
		"bad place":          {Verifier: w, Origins: []string{appOrigin}, Demand: wsbouncer.Demand{TokenFrom: []string{"body"}}},
		"tickets of nobody":  {Verifier: w, Origins: []string{appOrigin}, Demand: wsbouncer.Demand{TokenFrom: []string{"ticket"}}},
		"no query limit":     {Verifier: w, Origins: []string{appOrigin}, Limits: wsbouncer.Limits{QueryTokenTTL: -1}},
		"no handshake limit": {Verifier: w, Origins: []string{appOrigin}, Limits: wsbouncer.Limits{HandshakeTimeout: -1}},
	} {
		if _, err := wsbouncer.New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	b, _ := bouncer(t, func(o *wsbouncer.Options) { o.Origins = []string{"*"} })
	defer func() {
		if recover() == nil {
			t.Error("Require accepted cookies with any Origin")
		}
	}()
	b.Require(wsbouncer.Demand{TokenFrom: []string{"cookie"}})
}

// redeemer knows one ticket.
type redeemer struct {
	ticket, path, origin string
	t                    *token.Token
	err                  error
	used                 bool
}

func (d *redeemer) Redeem(_ context.Context, ticket, path, origin string) (*token.Token, string, error) {
	if d.err != nil {
		return nil, "", d.err
	}
	if d.used || ticket != d.ticket || path != d.path || origin != d.origin {
		return nil, "", reason.TicketInvalid
	}
	d.used = true
	return d.t, "cid-of-ticket", nil
}

// places are the six carriers of AUT-03: how each sends a credential.
var places = map[string]func(r *http.Request, raw string){
	"header":      func(r *http.Request, raw string) { r.Header.Add("Authorization", "Bearer "+raw) },
	"subprotocol": func(r *http.Request, raw string) { r.Header.Add("Sec-WebSocket-Protocol", "bearer, "+raw+", chat") },
	"ticket":      func(r *http.Request, raw string) { addQuery(r, "ticket="+raw) },
	"query":       func(r *http.Request, raw string) { addQuery(r, "token="+raw) },
	"cookie":      func(r *http.Request, raw string) { r.Header.Add("Cookie", "a=1; __Host-wsbouncer="+raw+"; b=2") },
}

func addQuery(r *http.Request, pair string) {
	if r.URL.RawQuery != "" {
		pair = r.URL.RawQuery + "&" + pair
	}
	r.URL.RawQuery = pair
	r.RequestURI = r.URL.Path + "?" + pair
}

func TestAUT03EachCarrierAloneAndSwitchedOff(t *testing.T) {
	for name, put := range places {
		t.Run(name, func(t *testing.T) {
			d := &redeemer{path: "/chat/lobby", origin: appOrigin}
			b, w := bouncer(t, func(o *wsbouncer.Options) { o.Tickets = d })
			raw := w.token()
			d.ticket, d.t = raw, w.tokens[raw]
			r := handshake(func(r *http.Request) { put(r, raw) })
			a, err := b.Admit(r, wsbouncer.Demand{TokenFrom: []string{name}})
			if err != nil {
				t.Fatal(err)
			}
			if a.Principal == nil || a.Principal.Subject != "alice" || wsbouncer.FromContext(a.Request.Context()) != a.Principal {
				t.Errorf("principal %+v", a.Principal)
			}
			if a.Bearer != (name == "subprotocol") || (a.Connection == "cid-of-ticket") != (name == "ticket") || a.Connection == "" {
				t.Errorf("bearer %v, connection %q", a.Bearer, a.Connection)
			}
			noTrace(t, a.Request, raw)

			var others []string
			for other := range places {
				if other != name {
					others = append(others, other)
				}
			}
			d.used = false
			_, err = b.Admit(handshake(func(r *http.Request) { put(r, raw) }), wsbouncer.Demand{TokenFrom: others})
			wantRefusal(t, err, reason.TokenMissing)
		})
	}
}

// noTrace wants nothing of the credential left in r, wherever a handler looks.
func noTrace(t *testing.T, r *http.Request, raw string) {
	t.Helper()
	var dump strings.Builder
	_ = r.Header.Write(&dump)
	dump.WriteString(r.URL.String() + " " + r.RequestURI)
	_ = r.ParseForm()
	dump.WriteString(r.Form.Encode())
	if strings.Contains(dump.String(), raw) || strings.Contains(dump.String(), "bearer") {
		t.Errorf("the credential is still there:\n%s", dump.String())
	}
}

func TestAUT04CredentialsAreRemovedAndTheRestStays(t *testing.T) {
	b, w := bouncer(t, nil)
	raw := w.token()
	r := handshake(func(r *http.Request) {
		r.Header.Set("Sec-WebSocket-Protocol", "chat")
		r.Header.Add("Sec-WebSocket-Protocol", "bearer, "+raw+",v2")
		r.Header.Set("Cookie", "a=1;  __Host-wsbouncer=old; b=\"x y\"")
		r.Header.Add("Cookie", "__Secure-wsbouncer-refresh=rrr")
		r.Header.Add("Cookie", "c=3; wsbouncer-admin=zzz; __host-WSBOUNCER=q")
		r.Header.Set("Proxy-Thing", "kept")
		addQuery(r, "z=%7E1&tick%65t=ttt&a=b%20c&&access_token=zzz&A=+")
	})
	r.URL.User = url.UserPassword("u", "p")
	_ = r.ParseForm()
	// In disabled places credentials do not count, and are removed all the same.
	a, err := b.Admit(r, wsbouncer.Demand{TokenFrom: []string{"subprotocol"}})
	if err != nil {
		t.Fatal(err)
	}
	got := a.Request
	if got.URL.RawQuery != "z=%7E1&a=b%20c&&A=+" || got.RequestURI != "/chat/lobby?"+got.URL.RawQuery {
		t.Errorf("query %q, target %q", got.URL.RawQuery, got.RequestURI)
	}
	if got.Form != nil || got.URL.User != nil {
		t.Error("a parsed form or user survived")
	}
	if c := strings.Join(got.Header["Cookie"], "|"); c != "a=1; b=\"x y\"|c=3" {
		t.Errorf("cookies %q", c)
	}
	if p := strings.Join(got.Header["Sec-Websocket-Protocol"], "|"); p != "chat, v2" {
		t.Errorf("protocols %q", p)
	}
	if strings.Join(a.Protocols, "|") != "chat|v2" || got.Header.Get("Proxy-Thing") != "kept" || got.Header.Get("Origin") != appOrigin {
		t.Errorf("protocols %v, header %v", a.Protocols, got.Header)
	}
	if r.URL.RawQuery == got.URL.RawQuery || r.Header.Get("Cookie") == got.Header.Get("Cookie") {
		t.Error("the caller's request was changed")
	}
}

func TestAUT04QueryTokensMustBeShortLived(t *testing.T) {
	b, w := bouncer(t, nil)
	long := w.add(func(t *token.Token) { t.Expiry = time.Now().Add(time.Hour) })
	_, err := b.Admit(handshake(func(r *http.Request) { addQuery(r, "access_token="+long) }), wsbouncer.Demand{})
	wantRefusal(t, err, reason.TokenLifetime)
	if _, err := b.Admit(handshake(bearer(long)), wsbouncer.Demand{}); err != nil {
		t.Errorf("the same in a header: %v", err)
	}
}

func TestAUT02TwoCredentialsAreNeverMerged(t *testing.T) {
	d := &redeemer{path: "/chat/lobby", origin: appOrigin}
	b, w := bouncer(t, func(o *wsbouncer.Options) { o.Tickets = d })
	alice := w.token()
	bob := w.add(func(t *token.Token) { t.Subject = "bob" })
	d.ticket, d.t = alice, w.tokens[alice]
	all := wsbouncer.Demand{TokenFrom: []string{"ticket", "header", "subprotocol", "query", "cookie"}}
	for one, putOne := range places {
		for two, putTwo := range places {
			d.used = false
			_, err := b.Admit(handshake(func(r *http.Request) { putOne(r, alice); putTwo(r, bob) }), all)
			// A cookie comes unasked: beside another credential it is ignored.
			if cookies := (one == "cookie") != (two == "cookie"); cookies {
				if two == "ticket" {
					wantRefusal(t, err, reason.TicketInvalid) // bob's token is no ticket; alice's cookie does not help
					continue
				}
				if err != nil {
					t.Errorf("%s and %s: %v", one, two, err)
				}
				continue
			}
			if !errors.Is(err, reason.CredentialAmbiguous) {
				t.Errorf("%s and %s: %v", one, two, err)
			}
		}
	}
	for name, change := range map[string]func(r *http.Request){
		"token and access_token": func(r *http.Request) { addQuery(r, "token="+alice); addQuery(r, "access_token="+alice) },
		"escaped name":           func(r *http.Request) { addQuery(r, "token="+alice); addQuery(r, "%74oken="+alice) },
		"a second scheme":        func(r *http.Request) { bearer(alice)(r); r.Header.Add("Authorization", "Basic YTpi") },
		"bearer twice":           func(r *http.Request) { r.Header.Set("Sec-WebSocket-Protocol", "bearer, "+alice+", bearer, "+bob) },
	} {
		if _, err := b.Admit(handshake(change), all); !errors.Is(err, reason.CredentialAmbiguous) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAUT01RefusalsOfTokens(t *testing.T) {
	b, w := bouncer(t, nil)
	good := w.token()
	for _, c := range []struct {
		name   string
		change func(*http.Request)
		demand wsbouncer.Demand
		want   *wsbouncer.Refusal
	}{
		{"none", nil, wsbouncer.Demand{}, reason.TokenMissing},
		{"another scheme", func(r *http.Request) { r.Header.Set("Authorization", "Basic YTpi") }, wsbouncer.Demand{}, reason.TokenMissing},
		{"empty", func(r *http.Request) { r.Header.Set("Authorization", "Bearer ") }, wsbouncer.Demand{}, reason.TokenMalformed},
		{"bearer and nothing", func(r *http.Request) { r.Header.Set("Sec-WebSocket-Protocol", "bearer") }, wsbouncer.Demand{}, reason.TokenMalformed},
		{"unknown", bearer("nonsense"), wsbouncer.Demand{}, reason.TokenSignature},
		{"expired", bearer(w.add(func(t *token.Token) { t.Expiry = time.Now().Add(-time.Second) })), wsbouncer.Demand{}, reason.TokenExpired401},
		{"bound", bearer(w.add(func(t *token.Token) { t.Binding = "jkt" })), wsbouncer.Demand{}, reason.TokenBinding},
		{"JWT-15 large", bearer(strings.Repeat("a.", 5000)), wsbouncer.Demand{}, reason.TokenTooLarge},
		{"scope", bearer(good), wsbouncer.Demand{Scopes: []string{"chat", "chat:write"}}, reason.InsufficientScope},
		{"not allowed", bearer(good), wsbouncer.Demand{Authorizer: verdict{errors.New("no")}}, reason.Forbidden},
		{"its own refusal", bearer(good), wsbouncer.Demand{Authorizer: verdict{reason.NotReady}}, reason.NotReady},
		{"a ticket without tickets", func(r *http.Request) { addQuery(r, "ticket=x") }, wsbouncer.Demand{}, reason.TokenMissing},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := b.Admit(handshake(c.change), c.demand)
			wantRefusal(t, err, c.want)
		})
	}
	_, err := b.Admit(handshake(bearer(good)), wsbouncer.Demand{Scopes: []string{"chat", "chat:write"}})
	if refusal(t, err).Scope != "chat chat:write" {
		t.Error("the challenge does not say what is needed")
	}
	w.err = errors.New("the key store is down")
	_, err = b.Admit(handshake(bearer(good)), wsbouncer.Demand{})
	wantRefusal(t, err, reason.NotReady)
}

// Every code package token knows must be a refusal of ours.
func TestAUT01EveryTokenErrorHasItsRefusal(t *testing.T) {
	b, w := bouncer(t, nil)
	for _, code := range []string{
		token.CodeTooLarge, token.CodeMalformed, token.CodeIssuer, token.CodeType, token.CodeSignature,
		token.CodeAudience, token.CodeExpired, token.CodeNotYetValid, token.CodeLifetime, token.CodeBinding,
	} {
		w.err = &token.Error{Code: code}
		_, err := b.Verify(t.Context(), "x")
		if got := refusal(t, err).Code; got != code {
			t.Errorf("%s became %s", code, got)
		}
	}
}

type verdict struct{ err error }

func (v verdict) Authorize(context.Context, *wsbouncer.Principal, *http.Request) error { return v.err }

func TestReservedScopesCountForOwnTokensOnly(t *testing.T) {
	b, w := bouncer(t, nil)
	d := wsbouncer.Demand{Scopes: []string{"wsbouncer:admin"}}
	scopes := []string{"chat", "wsbouncer:admin"}
	_, err := b.Admit(handshake(bearer(w.add(func(t *token.Token) { t.Scopes = scopes }))), d)
	wantRefusal(t, err, reason.InsufficientScope)
	if _, err := b.Admit(handshake(bearer(w.add(func(t *token.Token) { t.Scopes, t.Own = scopes, true }))), d); err != nil {
		t.Errorf("own: %v", err)
	}
}

func TestTKTTicketsAreBoundAndTroubleIsNotPermission(t *testing.T) {
	d := &redeemer{ticket: "tic", path: "/chat/a%20b", origin: appOrigin}
	b, w := bouncer(t, func(o *wsbouncer.Options) { o.Tickets = d })
	d.t = w.tokens[w.token()]
	try := func(path string, change func(*http.Request)) error {
		r := handshake(change)
		r.URL, _ = url.ParseRequestURI(path)
		r.RequestURI = path
		addQuery(r, "ticket=tic")
		r.RequestURI = path + "?ticket=tic"
		_, err := b.Admit(r, wsbouncer.Demand{})
		return err
	}
	wantRefusal(t, try("/chat/b", nil), reason.TicketInvalid)
	wantRefusal(t, try("/chat/a%20b", func(r *http.Request) { r.Header.Del("Origin") }), reason.TicketInvalid)
	if err := try("/chat/a%20b", nil); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, try("/chat/a%20b", nil), reason.TicketInvalid)
	d.used = false
	b.Apply(wsbouncer.Session("s1"))
	wantRefusal(t, try("/chat/a%20b", nil), reason.TokenRevoked401)
	d.err = errors.New("disk full")
	wantRefusal(t, try("/chat/a%20b", nil), reason.NotReady)
}
