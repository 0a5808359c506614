package e2e_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// introspector is an issuer that says whether opaque tokens are active.
type introspector struct {
	*httptest.Server
	mu      sync.Mutex
	answers map[string]string // by token; "" for all others
	asked   map[string]int
}

const introspectionSecret = "quartz lantern drizzle 47 secret"

func newIntrospector(t *testing.T) *introspector {
	t.Helper()
	i := &introspector{answers: map[string]string{"": `{"active":false}`}, asked: map[string]int{}}
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := r.PostFormValue("token")
		if id, secret, _ := r.BasicAuth(); id != "gw" || secret != strings.ReplaceAll(introspectionSecret, " ", "+") {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		i.mu.Lock()
		i.asked[token]++
		answer, ok := i.answers[token]
		if !ok {
			answer = i.answers[""]
		}
		i.mu.Unlock()
		switch answer {
		case "500":
			w.WriteHeader(http.StatusInternalServerError)
		case "hang":
			<-r.Context().Done()
		default:
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, answer)
		}
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *introspector) set(token, answer string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answers[token] = answer
}

func (i *introspector) count(token string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked[token]
}

func (i *introspector) trust(more string) string {
	return fmt.Sprintf("trust:\n  - {issuer: \"https://opaque.example\", audience: chat, leeway: 0s, keys: {introspection: {url: %q, client_id: gw, client_secret_file: introspection.secret%s}}}\n", i.URL, more)
}

func activeAnswer(changes ...string) string {
	a := fmt.Sprintf(`{"active":true,"sub":"alice","aud":"chat","scope":"chat","jti":"j1","sid":"s1","exp":%d}`, time.Now().Add(time.Hour).Unix())
	return strings.NewReplacer(changes...).Replace(a)
}

func TestSES13Introspection(t *testing.T) {
	t.Parallel()
	up, i := newUpstream(t, nil), newIntrospector(t)
	withSecret := func(s *server) { s.file("introspection.secret", secret(t, introspectionSecret)+"\n") }
	s := start(t, up, i.trust(", cache: 2s, max_stale: 4s")+generous()+chatRoute, withSecret)
	token := func(name, answer string) string {
		raw := secret(t, "opaque-token-"+name)
		i.set(raw, answer)
		return raw
	}
	good := func(name string) *client {
		return s.connect("/chat", bearer(token(name, activeAnswer()))).alive()
	}
	for name, c := range map[string]struct {
		answer string
		status int
		code   string
	}{
		"inactive-with-all-claims": {activeAnswer(`"active":true`, `"active":false`), 401, "token_revoked"},
		"no-active":                {activeAnswer(`"active":true,`, ""), 503, "not_ready"},
		"active-as-text":           {activeAnswer(`true`, `"true"`), 503, "not_ready"},
		"another-audience":         {activeAnswer(`"chat"`, `"other"`), 401, "token_audience"},
		"another-issuer":           {activeAnswer(`"sub"`, `"iss":"https://evil.example","sub"`), 401, "token_issuer"},
		"bound":                    {activeAnswer(`"sub"`, `"cnf":{"jkt":"x"},"sub"`), 401, "token_binding"},
		"expired":                  {`{"active":true,"sub":"alice","aud":"chat","exp":1}`, 401, "token_expired"},
		"status-500":               {"500", 503, "not_ready"},
		"slow":                     {"hang", 503, "not_ready"},
		"unknown":                  {`{"active":false}`, 401, "token_revoked"},
	} {
		raw := token(name, c.answer)
		up.unseen(t, func() *client { return good("for-" + name) }, func() { s.refused(c.status, c.code, "/chat", bearer(raw)) })
	}

	// What lives by a token is asked about again, and ends with it.
	live := good("live")
	raw := "opaque-token-live"
	eventually(t, "it to be asked about again", func() bool { return i.count(raw) >= 3 })
	live.alive()
	i.set(raw, `{"active":false}`)
	begin := time.Now()
	at := live.closes(3000, "token_revoked")
	t.Logf("ended %s after it turned inactive; cache 2s", at.Sub(begin).Round(time.Millisecond))
	s.refused(401, "token_revoked", "/chat", bearer(raw))

	// A ticket stands for the token, and what came by it ends with it.
	raw = token("for-a-ticket", activeAnswer())
	ticket := s.want(s.ticket(raw, "/chat"), 200, "").str("ticket")
	live = s.connect("/chat?ticket=" + ticket).alive()
	i.set(raw, `{"active":false}`)
	live.closes(3000, "token_revoked")

	// Without an answer what lives goes on for max_stale, and nothing new comes in.
	live = good("outage")
	raw = "opaque-token-outage"
	i.set(raw, "500")
	begin = time.Now()
	eventually(t, "its answer to be too old", func() bool { c, a := s.handshake("/chat", bearer(raw)); c.conn.Close(); return a.status == 503 })
	live.alive()
	at = live.closes(1013, "stale")
	if after := at.Sub(begin); after < time.Second {
		t.Errorf("it ended after %s", after)
	}
	if state, why := s.trustState("https://opaque.example"); state != "failing" || !strings.Contains(why, "500") {
		t.Errorf("status: %s %s", state, why)
	}
	i.set(raw, activeAnswer())
	eventually(t, "it to be let in again", func() bool { c, a := s.handshake("/chat", bearer(raw)); c.conn.Close(); return a.status == 101 })

	// A reload keeps what lives; another audience ends it.
	live = good("reload")
	s.writeConfig(strings.ReplaceAll(i.trust(", cache: 3s, max_stale: 4s")+generous()+chatRoute, "UPSTREAM", up.addr))
	s.cli("reload")
	live.alive()
	s.writeConfig(strings.ReplaceAll(strings.Replace(i.trust(", cache: 2s"), "audience: chat", "audience: other", 1)+generous()+chatRoute, "UPSTREAM", up.addr))
	s.cli("reload")
	live.closes(3000, "token_revoked")
}

func TestSES13JunkIsBounded(t *testing.T) {
	t.Parallel()
	up, i := newUpstream(t, nil), newIntrospector(t)
	s := start(t, up, i.trust("")+"limits: {handshakes_per_ip: {rate: 5/s, burst: 10}}\n"+chatRoute,
		func(s *server) { s.file("introspection.secret", secret(t, introspectionSecret)) })
	// What could not be a token is not sent on at all.
	s.refused(401, "token_malformed", "/chat?token=a%20b")
	if n := i.count("a b"); n > 0 {
		t.Errorf("asked %d times", n)
	}
	// The limit by address comes before any question; the same junk is asked about once.
	for range 5 {
		s.refused(401, "token_revoked", "/chat", bearer("the-same-junk"))
	}
	if n := i.count("the-same-junk"); n != 1 {
		t.Errorf("asked %d times", n)
	}
	limited := 0
	for n := range 40 {
		c, a := s.handshake("/chat", bearer(fmt.Sprint("junk-", n)))
		c.conn.Close()
		if a.status == 429 {
			limited++
			if i.count(fmt.Sprint("junk-", n)) > 0 {
				t.Error("a refused handshake was asked about")
			}
		}
	}
	if limited == 0 {
		t.Error("nothing was limited")
	}
}

// Another server of ours is the issuer that is asked: an endpoint that knows
// nothing of this test. What was exchanged for its tokens ends with them.
func TestSES13AtARealEndpoint(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	var clerk machine
	a := start(t, up, `
issuer: {access_ttl: 10m, audience: chat}
clients:
  - {id: clerk, secret_file: clerk.txt, grants: [], introspect: true}
`+generous()+chatRoute, func(s *server) { clerk = s.newMachine("clerk", false) })
	var backend machine
	b := start(t, up, fmt.Sprintf(`
issuer: {}
clients:
  - {id: backend, secret_file: backend.txt, scopes: [chat], grants: [token_exchange]}
trust:
  - {issuer: %q, audience: chat, leeway: 0s, keys: {introspection: {url: %q, client_id: clerk, client_secret_file: clerk.txt, cache: 2s}}}
`, a.url, a.url+"/auth/introspect")+generous()+chatRoute, func(s *server) {
		backend = s.newMachine("backend", false)
		s.file("clerk.txt", clerk.secret)
	})
	a.addUser("ann", "chat")
	session := a.login("ann")
	token := secret(t, session.str("access_token"))
	direct := b.connect("/chat", bearer(token)).alive()
	exchanged := secret(t, b.want(b.exchange(backend, token), 200, "").str("access_token"))
	other := b.connect("/chat", bearer(exchanged)).alive()
	if p := b.adminCall("GET", "/v1/connections?issuer="+a.url, nil); len(p.json["items"].([]any)) != 1 {
		t.Errorf("%s", p.body)
	}
	// A foreign key under its name is no token there, and so not here.
	b.refused(401, "token_revoked", "/chat", bearer(newIssuer(t, a.url).token()))

	a.cli("revoke", "subject", "ann")
	begin := time.Now()
	direct.closes(3000, "token_revoked")
	other.closes(3000, "token_revoked")
	t.Logf("both ended %s after the revocation there; cache 2s", time.Since(begin).Round(time.Millisecond))
	b.refused(401, "token_revoked", "/chat", bearer(token))
	b.refused(401, "token_revoked", "/chat", bearer(exchanged))
}
