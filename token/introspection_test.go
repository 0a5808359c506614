package token_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsbouncer/wsbouncer/token"
)

// endpoint is an introspection endpoint reached without a network.
type endpoint struct {
	t  *testing.T
	mu sync.Mutex
	// answer is the body for a token; a status "HTTP 500", or "hang".
	answer func(token string) string
	kind   string // Content-Type
	asked  map[string]int
}

func (e *endpoint) RoundTrip(r *http.Request) (*http.Response, error) {
	b, _ := io.ReadAll(r.Body)
	form, err := url.ParseQuery(string(b))
	if id, secret, ok := r.BasicAuth(); !ok || id != "gw%3A1" || secret != "s%26cret" || err != nil || r.Method != "POST" {
		e.t.Errorf("%s %q %q %v", r.Method, id, secret, err)
	}
	raw := form.Get("token")
	e.mu.Lock()
	e.asked[raw]++
	answer, kind := e.answer(raw), e.kind
	e.mu.Unlock()
	if answer == "hang" {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	status := 200
	if _, err := fmt.Sscanf(answer, "HTTP %d", &status); err == nil {
		answer = ""
	}
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {kind}}, Body: io.NopCloser(strings.NewReader(answer)), Request: r}, nil
}

func (e *endpoint) set(answer string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answer = func(string) string { return answer }
}

func (e *endpoint) total() (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.asked {
		n += c
	}
	return n
}

const opaqueName = "https://opaque.example"

// active is a good answer, with members added before the others.
func active(more string) string {
	return fmt.Sprintf(`{%s"active":true,"sub":"ann","aud":"chat","scope":"chat read","client_id":"app","token_type":"Bearer","exp":%d}`, more, time.Now().Add(time.Hour).Unix())
}

func newEndpoint(t *testing.T) (*endpoint, *token.Verifier, *token.Introspection) {
	t.Helper()
	e := &endpoint{t: t, kind: "application/json;charset=UTF-8", asked: map[string]int{}}
	e.set(active(""))
	n, err := token.NewIntrospection(token.IntrospectionOptions{URL: "https://opaque.example/introspect", ClientID: "gw:1", ClientSecret: "s&cret", Transport: e})
	if err != nil {
		t.Fatal(err)
	}
	v, err := token.NewVerifier(token.Options{Issuers: []token.Issuer{{Name: opaqueName, Audience: "chat", Introspection: n, Leeway: 10 * time.Second}}})
	if err != nil {
		t.Fatal(err)
	}
	return e, v, n
}

// codeFor is why raw is refused, "" for not.
func codeFor(t *testing.T, v *token.Verifier, raw string) string {
	t.Helper()
	_, err := v.Verify(t.Context(), raw)
	var bad *token.Error
	if err != nil && !errors.As(err, &bad) {
		t.Fatalf("%v", err)
	}
	if err != nil && len(raw) > 3 && strings.Contains(err.Error(), raw) {
		t.Errorf("the token is in %q", err)
	}
	if bad == nil {
		return ""
	}
	return bad.Code
}

func TestSES13OnlyActiveCountsAndClaimsAreChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, v, _ := newEndpoint(t)
		now := time.Now().Unix()
		full := func(change string) string { // every claim good, one member changed
			return strings.Replace(active(""), `"active":true`, change, 1)
		}
		for name, c := range map[string]struct{ answer, code string }{
			"good":                       {active(""), ""},
			"issued long ago":            {active(`"iss":"` + opaqueName + `","jti":"j","sid":"s","iat":1,`), token.CodeLifetime},
			"audiences":                  {strings.Replace(active(""), `"chat"`, `["other","chat"]`, 1), ""},
			"no token_type":              {strings.Replace(active(""), `"token_type":"Bearer",`, "", 1), ""},
			"Hydra's kind":               {active(`"token_use":"access_token",`), ""},
			"inactive with all claims":   {full(`"active":false`), token.CodeInactive},
			"inactive alone":             {`{"active":false}`, token.CodeInactive},
			"no active":                  {full(`"x":1`), token.CodeUnavailable},
			"active as text":             {full(`"active":"true"`), token.CodeUnavailable},
			"active as a number":         {full(`"active":1`), token.CodeUnavailable},
			"active twice":               {full(`"active":false,"active":true`), token.CodeUnavailable},
			"active in two cases":        {full(`"active":true,"Active":false`), token.CodeUnavailable},
			"another issuer":             {active(`"iss":"https://other.example",`), token.CodeIssuer},
			"another audience":           {strings.Replace(active(""), `"chat"`, `"other"`, 1), token.CodeAudience},
			"no audience":                {strings.Replace(active(""), `"aud":"chat",`, "", 1), token.CodeAudience},
			"no subject":                 {strings.Replace(active(""), `"sub":"ann",`, "", 1), token.CodeMalformed},
			"no expiry":                  {`{"active":true,"sub":"ann","aud":"chat"}`, token.CodeMalformed},
			"expired":                    {fmt.Sprintf(`{"active":true,"sub":"ann","aud":"chat","exp":%d}`, now-11), token.CodeExpired},
			"not yet":                    {active(fmt.Sprintf(`"nbf":%d,`, now+60)), token.CodeNotYetValid},
			"bound":                      {active(`"cnf":{"jkt":"x"},`), token.CodeBinding},
			"DPoP":                       {strings.Replace(active(""), "Bearer", "DPoP", 1), token.CodeBinding},
			"a refresh token":            {strings.Replace(active(""), "Bearer", "refresh_token", 1), token.CodeType},
			"Hydra's refresh token":      {active(`"token_use":"refresh_token",`), token.CodeType},
			"Keycloak's refresh token":   {active(`"typ":"Refresh",`), token.CodeType},
			"an ID token":                {active(`"at_hash":"x",`), token.CodeType},
			"a subject that is a number": {strings.Replace(active(""), `"ann"`, "7", 1), token.CodeMalformed},
			"an array":                   {"[" + active("") + "]", token.CodeUnavailable},
			"HTML":                       {"<html>", token.CodeUnavailable},
			"nothing":                    {"", token.CodeUnavailable},
			"status 500":                 {"HTTP 500", token.CodeUnavailable},
			"status 401":                 {"HTTP 401", token.CodeUnavailable},
			"status 302":                 {"HTTP 302", token.CodeUnavailable},
			"no answer":                  {"hang", token.CodeUnavailable},
			"too long":                   {strings.Repeat(" ", 65<<10) + active(""), token.CodeUnavailable},
		} {
			e.set(c.answer)
			begin := time.Now()
			if got := codeFor(t, v, "opaque-"+strings.ReplaceAll(strings.ReplaceAll(name, " ", "-"), "'", "_")); got != c.code {
				t.Errorf("%s: %q, want %q", name, got, c.code)
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("%s: it took %s", name, took)
			}
		}
		e.set(active(""))
		e.kind = "text/plain"
		if got := codeFor(t, v, "plain"); got != token.CodeUnavailable {
			t.Errorf("text/plain: %q", got)
		}
		e.kind = "application/json"
		before := e.total()
		for _, raw := range []string{"", "a b", "a\nb", "ünique", "a\x00", "a&token=b"} {
			if got := codeFor(t, v, raw); got != token.CodeMalformed {
				t.Errorf("%q: %q", raw, got)
			}
		}
		if n := e.total() - before; n > 0 {
			t.Errorf("%d texts that are no token were sent on", n)
		}
		tok, err := v.Verify(t.Context(), "good-one")
		if err != nil || tok.Issuer != opaqueName || tok.Subject != "ann" || tok.ClientID != "app" || !slices.Equal(tok.Scopes, []string{"chat", "read"}) || tok.KeyID == "" || tok.Own {
			t.Errorf("%+v %v", tok, err)
		}
	})
}

func TestSES13AnswersAreRememberedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, v, _ := newEndpoint(t)
		want := func(when, raw, want string, asked int) {
			t.Helper()
			if got := codeFor(t, v, raw); got != want {
				t.Errorf("%s: %q, want %q", when, got, want)
			}
			if e.asked[raw] != asked {
				t.Errorf("%s: asked %d times, want %d", when, e.asked[raw], asked)
			}
		}
		want("first", "t", "", 1)
		time.Sleep(29 * time.Second)
		want("within the cache's time", "t", "", 1)
		e.set("HTTP 500")
		want("still", "t", "", 1)
		time.Sleep(2 * time.Second)
		want("an outage", "t", token.CodeUnavailable, 2)
		want("at once again", "t", token.CodeUnavailable, 2)
		time.Sleep(2 * time.Second)
		want("later", "t", token.CodeUnavailable, 3)
		e.set(`{"active":false}`)
		time.Sleep(2 * time.Second)
		want("inactive", "t", token.CodeInactive, 4)
		for range 1000 {
			want("inactive again", "t", token.CodeInactive, 4)
		}
		// Many at once ask once.
		e.set("hang")
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { _ = codeFor(t, v, "many") })
		}
		all.Wait()
		if e.asked["many"] != 1 {
			t.Errorf("asked %d times", e.asked["many"])
		}
		// A flood of others is not asked about without a bound, and does not wait for ever.
		before, begin := e.total(), time.Now()
		for i := range 1000 {
			all.Go(func() {
				if got := codeFor(t, v, fmt.Sprint("junk-", i)); got != token.CodeUnavailable {
					t.Errorf("%q", got)
				}
			})
		}
		synctest.Wait()
		if n := e.total() - before; n > 32 {
			t.Errorf("%d questions at once", n)
		}
		all.Wait()
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

func TestSES13LiveTokensAreAskedAboutAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, v, n := newEndpoint(t)
		tok, err := v.Verify(t.Context(), "live")
		if err != nil {
			t.Fatal(err)
		}
		if !v.Trusts(opaqueName, tok.KeyID) || v.Trusts(opaqueName, "introspected-other") || v.Trusts(opaqueName, "") {
			t.Error("Trusts is wrong")
		}
		// until calls Recheck as often as it should be, and says after how long what.
		until := func(most time.Duration) (after time.Duration, over, stale []string) {
			begin := time.Now()
			for time.Since(begin) < most && len(over)+len(stale) == 0 {
				time.Sleep(n.Interval())
				over, stale = v.Recheck(t.Context(), opaqueName, []string{tok.KeyID})
			}
			return time.Since(begin), over, stale
		}
		if _, over, stale := until(10 * time.Minute); len(over)+len(stale) > 0 {
			t.Errorf("it ended: %q %q", over, stale)
		}
		if c := e.asked["live"]; c < 20 || c > 45 {
			t.Errorf("asked %d times in 10 min", c)
		}
		e.set("HTTP 500")
		if after, over, stale := until(time.Hour); len(over) > 0 || len(stale) != 1 || after < 4*time.Minute || after > 5*time.Minute+n.Interval() {
			t.Errorf("an outage: after %s %q %q", after, over, stale)
		}
		if v.Trusts(opaqueName, tok.KeyID) {
			t.Error("it is trusted though nothing is known of it")
		}
		e.set(active(""))
		time.Sleep(2 * time.Second)
		if got := codeFor(t, v, "live"); got != "" {
			t.Errorf("after the outage: %q", got)
		}
		e.set(`{"active":false}`)
		if after, over, stale := until(time.Hour); len(over) != 1 || len(stale) > 0 || after > 30*time.Second {
			t.Errorf("inactive: after %s %q %q", after, over, stale)
		}
		if v.Trusts(opaqueName, tok.KeyID) {
			t.Error("it is trusted though it is inactive")
		}
		// What is not known is over: after a restart, say.
		if over, _ := v.Recheck(t.Context(), opaqueName, []string{"introspected-unknown"}); len(over) != 1 {
			t.Errorf("%q", over)
		}
		if over, stale := v.Recheck(context.Background(), "https://other.example", []string{"k"}); len(over)+len(stale) > 0 {
			t.Errorf("%q %q of an issuer that is not asked", over, stale)
		}
	})
}

func TestJWK07OpaqueTokensAndJWTsOfOtherIssuers(t *testing.T) {
	e, _, n := newEndpoint(t)
	keys, err := token.JWKS([]byte(servedKeys(t, "p256 k1")), []string{"ES256"})
	if err != nil {
		t.Fatal(err)
	}
	list := []token.Issuer{
		{Name: opaqueName, Audience: "chat", Introspection: n},
		{Name: remoteName, Audience: "chat", Algorithms: []string{"ES256"}, Keys: keys},
	}
	v, err := token.NewVerifier(token.Options{Issuers: list})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	jwt := func(iss, header string) string {
		return forge(t, "ES256", testKeys()["p256"], header, fmt.Sprintf(`{"iss":%q,"sub":"ann","aud":"chat","jti":"j","iat":%d,"exp":%d}`, iss, now, now+60))
	}
	const header = `{"alg":"ES256","typ":"at+jwt","kid":"k1"}`
	if got := codeFor(t, v, jwt(remoteName, header)); got != "" || e.total() != 0 {
		t.Errorf("%q, asked %d times", got, e.total())
	}
	if got := codeFor(t, v, jwt(opaqueName, header)); got != "" || e.total() != 1 {
		t.Errorf("%q, asked %d times", got, e.total())
	}
	if got := codeFor(t, v, jwt("https://stranger.example", header)); got != token.CodeIssuer {
		t.Errorf("%q", got)
	}
	if got := codeFor(t, v, jwt(opaqueName, `{"alg":"ES256","typ":"logout+jwt","kid":"k1"}`)); got != token.CodeType || e.total() != 1 {
		t.Errorf("%q, asked %d times", got, e.total())
	}
	// Its key's name is worth nothing with another issuer.
	e.set(`{"active":false}`)
	if got := codeFor(t, v, jwt(opaqueName, `{"alg":"ES256","typ":"at+jwt","kid":"k2"}`)); got != token.CodeInactive {
		t.Errorf("%q", got)
	}
	other, err := token.NewIntrospection(token.IntrospectionOptions{URL: "https://b.example/introspect", ClientID: "a", ClientSecret: "b"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token.NewVerifier(token.Options{Issuers: append(list, token.Issuer{Name: "b", Audience: "chat", Introspection: other})}); err == nil {
		t.Error("two issuers for opaque tokens were taken")
	}
	if _, err := token.NewVerifier(token.Options{Issuers: []token.Issuer{{Name: "b", Audience: "chat", Introspection: other, Keys: keys, Algorithms: []string{"ES256"}}}}); err == nil {
		t.Error("keys beside introspection were taken")
	}
	for _, o := range []token.IntrospectionOptions{{URL: "http://b.example", ClientID: "a", ClientSecret: "b"}, {URL: "https://b.example"}} {
		if _, err := token.NewIntrospection(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

// One caller's junk does not keep the others waiting.
func TestSES13NobodyTakesAllQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, v, _ := newEndpoint(t)
		good := active("")
		e.answer = func(raw string) string {
			if strings.HasPrefix(raw, "junk") {
				return "hang"
			}
			return good
		}
		junk := token.WithCaller(t.Context(), netip.MustParsePrefix("192.0.2.1/32"))
		var all sync.WaitGroup
		for i := range 500 {
			all.Go(func() { _, _ = v.Verify(junk, fmt.Sprint("junk-", i)) })
		}
		synctest.Wait()
		if n := e.total(); n != 8 {
			t.Errorf("%d questions of one caller at once, want 8", n)
		}
		begin := time.Now()
		if _, err := v.Verify(token.WithCaller(t.Context(), netip.MustParsePrefix("192.0.2.2/32")), "good"); err != nil || time.Since(begin) > 0 {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		all.Wait()
	})
}
