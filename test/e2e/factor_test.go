package e2e_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	binenc "encoding/binary"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const factorYAML = `
issuer: {}
limits: {logins: {per_ip: {rate: 100000/m, burst: 100000}, per_account: {rate: 100000/m, burst: 100000}}}
routes:
  - {path: /chat, upstream: "ws://UPSTREAM", scopes: [chat]}
  - {path: /admin, upstream: "ws://UPSTREAM", require_amr: [mfa], max_auth_age: 5m, token_from: [header, cookie, ticket]}
`

// app is an authenticator app, written from RFC 6238 and not from the server.
type app struct {
	t    testing.TB
	key  []byte
	last int64 // the last step shown
}

func newApp(t testing.TB, uri string) *app {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "otpauth" || u.Host != "totp" || u.Query().Get("period") != "30" || u.Query().Get("digits") != "6" {
		t.Fatalf("no TOTP uri: %q %v", uri, err)
	}
	key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(u.Query().Get("secret"))
	if err != nil || len(key) < 16 {
		t.Fatalf("secret of %d bytes: %v", len(key), err)
	}
	secret(t, u.Query().Get("secret"))
	return &app{t: t, key: key}
}

func (a *app) at(step int64) string {
	var b [8]byte
	binenc.BigEndian.PutUint64(b[:], uint64(step))
	h := hmac.New(sha1.New, a.key)
	h.Write(b[:])
	sum := h.Sum(nil)
	o := sum[19] & 0xf
	return fmt.Sprintf("%06d", (binenc.BigEndian.Uint32(sum[o:o+4])&0x7fffffff)%1000000)
}

func step() int64 { return time.Now().Unix() / 30 }

// code is one that was not shown before and is good for some seconds more: the
// server takes the step before this one and the one after it, so there are three at a time.
func (a *app) code() string {
	eventually(a.t, "a code that is not about to change", func() bool { return time.Now().Unix()%30 < 28 })
	eventually(a.t, "a new code", func() bool { return a.last <= step() })
	a.last = max(a.last+1, step()-1)
	return a.at(a.last)
}

// wrong is no code of these minutes.
func (a *app) wrong() string {
	for n := 0; ; n++ {
		c := fmt.Sprintf("%06d", n)
		good := false
		for s := step() - 4; s <= step()+4; s++ {
			good = good || a.at(s) == c
		}
		if !good {
			return c
		}
	}
}

// enrol gives an account an authenticator app and returns it, its recovery codes
// and the login before.
func (s *server) enrol(name string) (*app, []string, *answer) {
	s.t.Helper()
	s.addUser(name, "chat")
	in := s.login(name)
	token := bearer(in.str("access_token"))
	begun := s.want(s.call("POST", "/auth/factors/totp", map[string]any{}, token), 200, "")
	a := newApp(s.t, begun.str("uri"))
	if secret := begun.str("secret"); !strings.Contains(begun.str("uri"), "secret="+secret) {
		s.t.Errorf("uri %q, secret %q", begun.str("uri"), secret)
	}
	done := s.want(s.call("POST", "/auth/factors/totp/confirm", map[string]any{"code": a.code()}, token), 200, "")
	var codes []string
	for _, c := range done.json["recovery_codes"].([]any) {
		codes = append(codes, secret(s.t, c.(string)))
	}
	if len(codes) != 10 {
		s.t.Errorf("%d recovery codes", len(codes))
	}
	return a, codes, in
}

// challenge is the first half of a login.
func (s *server) challenge(name string) string {
	s.t.Helper()
	a := s.want(s.tryLogin(name, password(s.t, name)), 401, "factor_required")
	if a.str("access_token") != "" || a.str("challenge") == "" || len(a.header["Set-Cookie"]) > 0 {
		s.t.Errorf("half a login: %s", a.body)
	}
	return secret(s.t, a.str("challenge"))
}

func (s *server) finish(challenge, kind, code string) *answer {
	s.t.Helper()
	return s.call("POST", "/auth/login", map[string]any{"challenge": challenge, kind: code})
}

func amrOf(t testing.TB, a *answer) string {
	return fmt.Sprint(claimsOf(t, a.str("access_token"))["amr"])
}

func TestMFALoginWithAnAuthenticatorApp(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, echo)
	s := start(t, up, factorYAML)
	a, codes, in := s.enrol("ann")

	// The login before it was enrolled is still one with a password alone.
	s.refused(401, tooWeak, "/admin", bearer(in.str("access_token")))

	ch := s.challenge("ann")
	s.want(s.finish(ch, "code", a.wrong()), 401, "factor_failed")
	s.want(s.finish(ch, "code", a.at(a.last)), 401, "factor_failed") // it confirmed the app
	code := a.code()
	out := s.want(s.finish(ch, "code", code), 200, "")
	if got := amrOf(t, out); got != "[pwd otp mfa]" {
		t.Errorf("amr %s", got)
	}
	s.connect("/admin", bearer(out.str("access_token"))).alive()
	s.connect("/admin?ticket=" + s.want(s.ticket(out.str("access_token"), "/admin"), 200, "").str("ticket")).alive()

	// A challenge is good once, and so is a code.
	s.want(s.finish(ch, "code", a.code()), 401, "challenge_invalid")
	s.want(s.finish(s.challenge("ann"), "code", code), 401, "factor_failed")

	// What rests on the login keeps it through refreshes.
	again := s.want(s.refresh(out.str("refresh_token")), 200, "")
	if got := amrOf(t, again); got != "[pwd otp mfa]" {
		t.Errorf("amr after a refresh %s", got)
	}

	// A recovery code is good once, however it is typed, and only for its account.
	typed := strings.ToLower(strings.ReplaceAll(codes[0], "-", " "))
	if got := amrOf(t, s.want(s.finish(s.challenge("ann"), "recovery_code", typed), 200, "")); got != "[pwd mfa]" {
		t.Errorf("amr with a recovery code %s", got)
	}
	s.want(s.finish(s.challenge("ann"), "recovery_code", codes[0]), 401, "factor_failed")
	_, bobs, _ := s.enrol("bob")
	s.want(s.finish(s.challenge("ann"), "recovery_code", bobs[0]), 401, "factor_failed")
	list := s.want(s.call("GET", "/auth/factors", nil, bearer(out.str("access_token"))), 200, "")
	if list.json["recovery_codes_left"] != 9.0 || len(list.json["factors"].([]any)) != 1 {
		t.Errorf("factors: %s", list.body)
	}
	if out := s.cli("user", "show", "ann"); !strings.Contains(out, "totp since") || !strings.Contains(out, "9 recovery codes") {
		t.Errorf("user show: %s", out)
	}
	for _, kind := range []string{"factor_added", "factor_failed", "recovery_code_used"} {
		s.waitEvent(kind)
	}

	// Secrets are not in the database as they are.
	for _, name := range []string{"wsbouncer.db", "wsbouncer.db-wal"} {
		b, err := os.ReadFile(filepath.Join(s.dir, "data", name))
		if err != nil {
			t.Fatal(err)
		}
		for what, plain := range map[string]string{"secret": string(a.key), "base32": base32.StdEncoding.EncodeToString(a.key)[:32], "recovery code": strings.ReplaceAll(codes[1], "-", "")} {
			if strings.Contains(string(b), plain) {
				t.Errorf("%s holds the %s", name, what)
			}
		}
	}
	if info, err := os.Stat(filepath.Join(s.dir, "data", "factors.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("factors.key: %v %v", info, err)
	}

	// An administrator helps whoever lost all; the sessions that rested on it end.
	c := s.connect("/admin", bearer(out.str("access_token"))).alive()
	s.cli("user", "reset-factors", "ann")
	c.closes(3000, "subject_revoked")
	if got := amrOf(t, s.want(s.tryLogin("ann", password(t, "ann")), 200, "")); got != "[pwd]" {
		t.Errorf("amr %s", got)
	}
}

func TestMFAStepUp(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, echo)
	s := start(t, up, factorYAML)
	a, codes, in := s.enrol("ann")
	token := bearer(in.str("access_token"))
	c, first := s.handshake("/chat", token)
	cid := first.header.Get("X-Wsbouncer-Connection")
	verify := func(body map[string]any, lines ...string) *answer {
		return s.call("POST", "/auth/factors/verify", body, lines...)
	}
	s.want(verify(map[string]any{"code": a.wrong(), "refresh_token": in.str("refresh_token")}, token), 403, "factor_failed")
	s.want(verify(map[string]any{"code": a.code()}, token), 400, "invalid_request")
	out := s.want(verify(map[string]any{"code": a.at(a.last), "refresh_token": in.str("refresh_token"), "connection": []string{cid}}, token), 200, "")
	if got := amrOf(t, out); got != "[pwd otp mfa]" {
		t.Errorf("amr %s", got)
	}
	if out.str("session_id") != in.str("session_id") {
		t.Error("another session")
	}
	c.alive()
	s.connect("/admin", bearer(out.str("access_token"))).alive()
	// COK-01: whoever had the old refresh token does not get what was raised.
	if out.str("refresh_token") == in.str("refresh_token") || out.str("refresh_token") == "" {
		t.Error("the refresh token was not replaced")
	}

	// Not by a session of somebody else, nor by a token of another session.
	_, bobs, bob := s.enrol("bob")
	s.want(verify(map[string]any{"recovery_code": bobs[0], "refresh_token": out.str("refresh_token")}, bearer(bob.str("access_token"))), 400, "invalid_grant")
	s.want(verify(map[string]any{"recovery_code": codes[0], "refresh_token": bob.str("refresh_token")}, bearer(out.str("access_token"))), 400, "invalid_grant")
	// Nobody's session ended for it.
	s.want(s.refresh(bob.str("refresh_token")), 200, "")
	s.want(s.refresh(out.str("refresh_token")), 200, "")

	// As a page does it, with cookies.
	page := []string{"Origin: " + s.url}
	half := s.want(s.call("POST", "/auth/login", map[string]any{"username": "ann", "password": password(t, "ann"), "cookie": true}, page...), 401, "factor_required")
	whole := s.want(s.call("POST", "/auth/login", map[string]any{"challenge": half.str("challenge"), "recovery_code": codes[1], "cookie": true}, page...), 200, "")
	if whole.str("access_token") != "" || whole.cookie("wsbouncer") == nil {
		t.Fatalf("cookies: %s", whole.body)
	}
	line := "Cookie: wsbouncer=" + whole.cookie("wsbouncer").Value + "; wsbouncer-refresh=" + whole.cookie("wsbouncer-refresh").Value
	raised := s.want(verify(map[string]any{"recovery_code": codes[2]}, append(page, line)...), 200, "")
	if n := raised.cookie("wsbouncer-refresh"); n == nil || strings.Contains(line, n.Value) || raised.str("refresh_token") != "" {
		t.Errorf("step-up with cookies: %s %v", raised.body, raised.header)
	}
	s.want(verify(map[string]any{"recovery_code": codes[3]}, "Origin: https://evil.example", line), 403, "origin_denied")
}

func TestMFAWhoMayChangeFactors(t *testing.T) {
	t.Parallel()
	s := start(t, newUpstream(t, echo), factorYAML)
	_, codes, in := s.enrol("ann")
	weak := bearer(in.str("access_token"))
	// Whoever has the password alone can neither add nor take away.
	s.want(s.call("POST", "/auth/factors/totp", map[string]any{}, weak), 401, tooWeak)
	s.want(s.call("POST", "/auth/factors/recovery-codes", map[string]any{}, weak), 401, tooWeak)
	id := s.want(s.call("GET", "/auth/factors", nil, weak), 200, "").json["factors"].([]any)[0].(map[string]any)["id"].(string)
	s.want(s.call("DELETE", "/auth/factors/"+id, nil, weak), 401, tooWeak)
	s.want(s.call("GET", "/auth/factors", nil), 401, "token_missing")

	out := s.want(s.finish(s.challenge("ann"), "recovery_code", codes[0]), 200, "")
	strong := bearer(out.str("access_token"))
	s.want(s.call("POST", "/auth/factors/totp", map[string]any{}, strong), 409, "factor_exists")
	// Nor with an access token that an administrator made: nobody logged in for it.
	minted := strings.TrimSpace(s.cli("token", "issue", "--subject", "ann", "--scope", "chat"))
	s.want(s.call("DELETE", "/auth/factors/"+id, nil, bearer(secret(t, minted))), 401, tooWeak)

	fresh := s.want(s.call("POST", "/auth/factors/recovery-codes", map[string]any{}, strong), 200, "").json["recovery_codes"].([]any)
	s.want(s.finish(s.challenge("ann"), "recovery_code", codes[1]), 401, "factor_failed")
	s.want(s.finish(s.challenge("ann"), "recovery_code", secret(t, fresh[0].(string))), 200, "")

	_, _, bob := s.enrol("bob")
	s.want(s.call("DELETE", "/auth/factors/"+id, nil, bearer(bob.str("access_token"))), 401, tooWeak)
	s.want(s.call("DELETE", "/auth/factors/no-such", nil, strong), 404, "not_found")
	if a := s.call("DELETE", "/auth/factors/"+id, nil, strong); a.status != 204 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	s.want(s.tryLogin("ann", password(t, "ann")), 200, "")

	// One that was begun and not confirmed is no factor.
	in = s.login("ann")
	s.want(s.call("POST", "/auth/factors/totp", map[string]any{}, bearer(in.str("access_token"))), 200, "")
	s.want(s.call("POST", "/auth/factors/totp/confirm", map[string]any{"code": "000000x"}, bearer(in.str("access_token"))), 403, "factor_failed")
	s.login("ann")
}

// PWD-01, PWD-04: a second factor tells nobody anything who lacks the password.
func TestPWD01AndPWD04WithAFactor(t *testing.T) {
	t.Parallel()
	s := start(t, newUpstream(t, echo), factorYAML)
	s.enrol("ann")
	shape := func(a *answer) string {
		h := a.header.Clone()
		h.Del("Date")
		return fmt.Sprintf("%d %v %s", a.status, h, a.body)
	}
	want := shape(s.want(s.tryLogin("nobody", "wrong but long enough"), 401, "login_failed"))
	if got := shape(s.tryLogin("ann", "wrong but long enough")); got != want {
		t.Errorf("with a factor:\n%s\nwithout an account:\n%s", got, want)
	}
	ch := s.challenge("ann")
	for name, body := range map[string]map[string]any{
		"both halves":    {"username": "ann", "password": password(t, "ann"), "challenge": ch, "code": "123456"},
		"code first":     {"username": "ann", "password": password(t, "ann"), "code": "123456"},
		"no code":        {"challenge": ch},
		"two codes":      {"challenge": ch, "code": "123456", "recovery_code": "AAAA"},
		"null":           {"challenge": ch, "code": nil},
		"a number":       {"challenge": ch, "code": 123456},
		"no challenge":   {"code": "123456"},
		"unknown member": {"challenge": ch, "code": "123456", "admin": true},
	} {
		if a := s.call("POST", "/auth/login", body); a.status != 400 || a.code() != "invalid_request" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	for name, bad := range map[string]string{
		"empty": "", "short": ch[:20], "longer": ch + "A", "other": strings.Repeat("A", len(ch)), "changed": ch[:len(ch)-2] + "AA",
	} {
		s.want(s.finish(bad, "code", "123456"), 401, "challenge_invalid")
		_ = name
	}
	// Five wrong codes, and it begins anew with the password.
	for range 5 {
		s.want(s.finish(ch, "code", "no code"), 401, "factor_failed")
	}
	s.want(s.finish(ch, "code", "no code"), 401, "challenge_invalid")
	// A password that was changed, or an account that was disabled, takes the challenge with it.
	_, codes, _ := s.enrol("bob")
	ch = s.challenge("bob")
	s.cli("user", "disable", "bob")
	s.want(s.finish(ch, "recovery_code", codes[0]), 401, "login_failed")
	s.cli("user", "enable", "bob")
	s.want(s.finish(s.challenge("bob"), "recovery_code", codes[0]), 200, "") // it was not used up
}

func TestMFAOneCodeOneLogin(t *testing.T) {
	t.Parallel()
	s := start(t, newUpstream(t, echo), factorYAML)
	a, codes, _ := s.enrol("ann")
	for _, c := range []struct{ kind, code string }{{"code", a.code()}, {"recovery_code", codes[0]}} {
		chs := []string{s.challenge("ann"), s.challenge("ann"), s.challenge("ann")}
		var mu sync.Mutex
		var all sync.WaitGroup
		got := map[int]int{}
		for i := range 6 {
			all.Go(func() {
				r := s.finish(chs[i%3], c.kind, c.code)
				mu.Lock()
				got[r.status]++
				mu.Unlock()
			})
		}
		all.Wait()
		if got[200] != 1 || got[401] != 5 {
			t.Errorf("six at once with one %s: %v", c.kind, got)
		}
	}
}

func TestMFAThrottling(t *testing.T) {
	t.Parallel()
	s := start(t, newUpstream(t, echo), `
issuer: {}
limits: {logins: {per_ip: {rate: 100000/m, burst: 100000}, per_account: {rate: 1/m, burst: 7}}}
routes:
  - {path: /chat, upstream: "ws://UPSTREAM", scopes: [chat]}
`)
	_, codes, in := s.enrol("ann")
	wrong := 0
	for {
		r := s.finish(s.challenge("ann"), "code", "no code")
		if r.status == 429 {
			if r.header.Get("Retry-After") == "" || r.code() != "login_throttled" {
				t.Errorf("%s", r.body)
			}
			break
		}
		if wrong++; wrong > 7 {
			t.Fatalf("%d wrong codes in a row: %s", wrong, r.body)
		}
	}
	// A good one is not looked at either, wherever it is shown, and no password helps.
	s.want(s.finish(s.challenge("ann"), "recovery_code", codes[0]), 429, "login_throttled")
	s.want(s.call("POST", "/auth/factors/verify", map[string]any{"recovery_code": codes[0], "refresh_token": in.str("refresh_token")}, bearer(in.str("access_token"))), 429, "login_throttled")
	s.waitEvent("login_throttled")
	_, bobs, _ := s.enrol("bob")
	s.want(s.finish(s.challenge("bob"), "recovery_code", bobs[0]), 200, "")
}

// However wide the limits of logins are, and although the account is at home at
// this address: six digits are not many.
func TestMFAGuessingIsSlow(t *testing.T) {
	t.Parallel()
	s := start(t, newUpstream(t, echo), factorYAML)
	_, codes, in := s.enrol("ann")
	s.want(s.finish(s.challenge("ann"), "recovery_code", codes[0]), 200, "")
	body := map[string]any{"code": "no code", "refresh_token": in.str("refresh_token")}
	for n := 0; ; n++ {
		a := s.call("POST", "/auth/factors/verify", body, bearer(in.str("access_token")))
		if a.status == 429 {
			if n < 15 || a.header.Get("Retry-After") == "" {
				t.Errorf("after %d: %v %s", n, a.header, a.body)
			}
			break
		}
		if s.want(a, 403, "factor_failed"); n > 20 {
			t.Fatalf("%d wrong codes were looked at", n)
		}
	}
}
