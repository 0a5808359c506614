package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// remoteIssuer is an issuer on loopback that serves its keys, and can lie.
type remoteIssuer struct {
	*issuer
	addr string

	mu     sync.Mutex
	server *http.Server
	keys   map[string]*ecdsa.PrivateKey // served, by kid
	answer func(w http.ResponseWriter, r *http.Request) bool
	asked  map[string]int // by path
}

func newRemoteIssuer(t testing.TB) *remoteIssuer {
	t.Helper()
	i := &remoteIssuer{addr: freeAddr(t), keys: map[string]*ecdsa.PrivateKey{}, asked: map[string]int{}}
	i.issuer = newIssuer(t, "http://"+i.addr)
	i.keys["k1"] = i.key
	i.up()
	t.Cleanup(i.down)
	return i
}

// up listens, again or for the first time.
func (i *remoteIssuer) up() {
	i.t.Helper()
	l, err := net.Listen("tcp", i.addr)
	if err != nil {
		i.t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(i.serve), ReadHeaderTimeout: patience}
	i.mu.Lock()
	i.server = s
	i.mu.Unlock()
	go func() { _ = s.Serve(l) }()
}

func (i *remoteIssuer) down() {
	i.mu.Lock()
	s := i.server
	i.mu.Unlock()
	s.Close()
}

func (i *remoteIssuer) serve(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.asked[r.URL.Path]++
	answer := i.answer
	i.mu.Unlock()
	if answer != nil && answer(w, r) {
		return
	}
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, i.name, i.name+"/keys")
	case "/keys":
		_, _ = w.Write(i.served())
	default:
		http.NotFound(w, r)
	}
}

func (i *remoteIssuer) served() []byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for kid, key := range i.keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: kid, Algorithm: "ES256", Use: "sig"})
	}
	b, err := json.Marshal(set)
	if err != nil {
		panic(err)
	}
	return b
}

// lie makes requests be answered by f, if it says that it did; nil: no more.
func (i *remoteIssuer) lie(f func(w http.ResponseWriter, r *http.Request) bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = f
}

func (i *remoteIssuer) count(path string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked[path]
}

// add makes a key and serves it; drop serves it no more.
func (i *remoteIssuer) add(kid string) *ecdsa.PrivateKey {
	i.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys[kid] = key
	return key
}

func (i *remoteIssuer) drop(kid string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.keys, kid)
}

// tokenBy is a good token under any key and kid.
func (i *remoteIssuer) tokenBy(key *ecdsa.PrivateKey, kid string) string {
	now := time.Now().Unix()
	return forge(i.t.(*testing.T), "ES256", key, fmt.Sprintf(`{"alg":"ES256","typ":"at+jwt","kid":%q}`, kid),
		fmt.Sprintf(`{"iss":%q,"aud":"chat","sub":"alice","jti":"j1","iat":%d,"exp":%d}`, i.name, now, now+300))
}

// trust is its entry, with more keys: members.
func (i *remoteIssuer) trust(members string) string {
	return fmt.Sprintf("  - {issuer: %q, audience: chat, algorithms: [ES256], leeway: 0s, keys: {%s}}\n", i.name, members)
}

const chatRoute = "routes:\n  - {path: /chat, upstream: \"ws://UPSTREAM\"}\n"

// trustState is an issuer's state by wsbouncer status, and its error.
func (s *server) trustState(issuer string) (state, why string) {
	s.t.Helper()
	list, _ := s.adminCall("GET", "/v1/status", nil).json["trust"].([]any)
	for _, e := range list {
		if m := e.(map[string]any); m["issuer"] == issuer {
			why, _ := m["error"].(string)
			return m["state"].(string), why
		}
	}
	return "", ""
}

func (s *server) untilTrust(issuer, state string) {
	s.t.Helper()
	eventually(s.t, issuer+" to be "+state, func() bool { got, _ := s.trustState(issuer); return got == state })
}

func TestJWK01MetadataOfAnotherIssuer(t *testing.T) {
	t.Parallel()
	up, iss, canary := newUpstream(t, nil), newRemoteIssuer(t), newRemoteIssuer(t)
	document := ""
	iss.lie(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/keys" {
			return false
		}
		fmt.Fprint(w, document)
		return true
	})
	for _, c := range []struct{ document, why string }{
		{fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, canary.name, canary.name+"/keys"), "its issuer is"},
		{fmt.Sprintf(`{"issuer":%q,"jwks_uri":"http://keys.example/keys"}`, iss.name), "not https"},
	} {
		document = c.document
		s := start(t, up, "trust:\n"+iss.trust("discovery: true")+chatRoute)
		s.refused(503, "not_ready", "/chat", bearer(secret(t, iss.token())))
		if _, why := s.trustState(iss.name); !strings.Contains(why, c.why) {
			t.Errorf("status says %q, want %q", why, c.why)
		}
		s.waitLog("could not be fetched", c.why)
		if a := s.call("GET", "/readyz", nil); a.status != 503 || a.code() != "not_ready" {
			t.Errorf("readyz %d %s", a.status, a.body)
		}
		if out := s.cli("status"); !strings.Contains(out, c.why) {
			t.Errorf("status: %s", out)
		}
	}
	if canary.count("/keys") > 0 {
		t.Error("the keys of another issuer were fetched")
	}
	for _, bad := range []string{"url: http://keys.example/keys", "url: 'https://u:p@keys.example/keys'", "discovery: true, url: https://keys.example"} {
		s := &server{t: t, dir: t.TempDir(), addr: freeAddr(t)}
		s.writeConfig("trust:\n" + iss.trust(bad) + strings.ReplaceAll(chatRoute, "UPSTREAM", up.addr))
		if out, code := s.command("", "check"); code == 0 || !strings.Contains(out, "trust[0].keys") {
			t.Errorf("%s: %d %s", bad, code, out)
		}
	}
}

// liesAboutKeys makes the issuer answer for its keys in a bad way: a document, or a
// kind of answer that is none.
func (i *remoteIssuer) liesAboutKeys(how string) {
	i.lie(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/keys" {
			return false
		}
		switch how {
		case "endless":
			chunk := []byte(strings.Repeat(" ", 64<<10))
			for r.Context().Err() == nil {
				if _, err := w.Write(chunk); err != nil {
					break
				}
			}
		case "redirects":
			http.Redirect(w, r, "/keys", http.StatusFound)
		case "hangs":
			<-r.Context().Done()
		default:
			fmt.Fprint(w, how)
		}
		return true
	})
}

func TestJWK02BadKeySets(t *testing.T) {
	t.Parallel()
	up, well := newUpstream(t, nil), newRemoteIssuer(t)
	yaml := "trust:\n" + well.trust("url: "+well.name+"/keys")
	liars := map[string]*remoteIssuer{}
	for _, how := range []string{"endless", "redirects", "hangs", `{"keys":[{"kty":"RSA","n":"!"}]}`, "<html>no</html>"} {
		liars[how] = newRemoteIssuer(t)
		yaml += liars[how].trust("discovery: true, refresh: 1s, refetch_min: 1s")
	}
	s := start(t, up, yaml+generous()+chatRoute)
	good := map[string]string{}
	for how, iss := range liars {
		good[how] = iss.token()
		s.connect("/chat", bearer(good[how])).alive().conn.Close()
	}
	before := s.resident()
	for how, iss := range liars {
		iss.liesAboutKeys(how)
	}
	for how, iss := range liars {
		s.untilTrust(iss.name, "failing")
		s.connect("/chat", bearer(good[how])).alive().conn.Close()
	}
	s.connect("/chat", bearer(well.token())).alive().conn.Close()
	if grown := s.resident() - before; grown > 64<<20 {
		t.Errorf("memory grew by %d MB", grown>>20)
	}
	for _, iss := range liars {
		iss.lie(nil)
	}
	for _, iss := range liars {
		s.untilTrust(iss.name, "ok")
	}
}

func TestJWK03RandomKeyNames(t *testing.T) {
	t.Parallel()
	up, iss := newUpstream(t, nil), newRemoteIssuer(t)
	const pause = 2 * time.Second
	s := start(t, up, "trust:\n"+iss.trust("discovery: true, refetch_min: 2s")+generous()+chatRoute)
	other := newIssuer(t, iss.name)
	good := iss.token()
	measure := func() time.Duration {
		var took []time.Duration
		for range 50 {
			begin := time.Now()
			s.connect("/chat", bearer(good)).conn.Close()
			took = append(took, time.Since(begin))
		}
		slices.Sort(took)
		return took[len(took)/2]
	}
	quiet := measure()
	first := iss.count("/keys")
	const floods, each = 4, 2500
	var all sync.WaitGroup
	wrong := make([]string, floods)
	begin := time.Now()
	for f := range floods {
		all.Go(func() {
			client := &http.Client{Timeout: patience}
			defer client.CloseIdleConnections()
			for n := range each {
				req, _ := http.NewRequest("GET", s.url+"/chat", nil)
				req.Header.Set("Connection", "Upgrade")
				req.Header.Set("Upgrade", "websocket")
				req.Header.Set("Sec-WebSocket-Version", "13")
				req.Header.Set("Sec-WebSocket-Key", sampleKey)
				req.Header.Set("Authorization", "Bearer "+iss.tokenBy(other.key, fmt.Sprintf("random-%d-%d", f, n)))
				res, err := client.Do(req)
				if err != nil {
					wrong[f] = err.Error()
					return
				}
				res.Body.Close()
				if res.StatusCode != 401 {
					wrong[f] = res.Status
				}
			}
		})
	}
	flooded := measure()
	all.Wait()
	// A flood within the pause after the last fetch is followed by one.
	eventually(t, "a fetch for the names", func() bool { return iss.count("/keys") > first })
	took := time.Since(begin)
	for _, w := range wrong {
		if w != "" {
			t.Error(w)
		}
	}
	fetches := iss.count("/keys") - first
	t.Logf("%d tokens with random kids in %s: %d fetches, refetch_min %s; a valid handshake took %s, meanwhile %s (median)", floods*each, took.Round(time.Millisecond), fetches, pause, quiet, flooded)
	if most := 1 + int(took/pause); fetches > most {
		t.Errorf("%d fetches, at most %d", fetches, most)
	}
}

func TestJWK04Rotation(t *testing.T) {
	t.Parallel()
	up, iss := newUpstream(t, nil), newRemoteIssuer(t)
	s := start(t, up, "trust:\n"+iss.trust("discovery: true, refresh: 1s, refetch_min: 1s")+generous()+chatRoute)
	first := s.connect("/chat", bearer(iss.token())).alive()
	k2 := iss.add("k2")
	// Both are good while both are served; the next refresh brings the new one, and
	// a token of it asks for one at once.
	var second *client
	eventually(t, "k2", func() bool {
		c, a := s.handshake("/chat", bearer(secret(t, iss.tokenBy(k2, "k2"))))
		second = c
		return a.status == 101
	})
	second.alive()
	s.connect("/chat", bearer(iss.token())).alive().conn.Close()
	iss.drop("k1")
	first.closes(3000, "key_revoked")
	s.refused(401, "token_signature", "/chat", bearer(iss.token()))
	second.alive()
	s.waitLog("connections ended", `"closed":1`)
	// A reload that changes how often keys are fetched keeps them, and who lives.
	s.writeConfig(strings.ReplaceAll("trust:\n"+iss.trust("discovery: true, refresh: 5m")+generous()+chatRoute, "UPSTREAM", up.addr))
	s.cli("reload")
	second.alive()
	s.connect("/chat", bearer(secret(t, iss.tokenBy(k2, "k2")))).alive().conn.Close()
	// An address that changes is asked before it counts.
	s.writeConfig(strings.ReplaceAll("trust:\n"+iss.trust("url: "+iss.name+"/keys")+generous()+chatRoute, "UPSTREAM", up.addr))
	s.cli("reload")
	second.alive()
	// An issuer that is trusted no more ends what is its.
	other := newRemoteIssuer(t)
	s.writeConfig(strings.ReplaceAll("trust:\n"+other.trust("discovery: true")+generous()+chatRoute, "UPSTREAM", up.addr))
	s.cli("reload")
	second.closes(3000, "key_revoked")
	s.connect("/chat", bearer(other.token())).alive()
}

func TestJWK05Outage(t *testing.T) {
	t.Parallel()
	up, iss, other := newUpstream(t, nil), newRemoteIssuer(t), newIssuer(t, "https://other.example")
	iss.down()
	yaml := "trust:\n" + iss.trust("discovery: true, refresh: 1s, refetch_min: 1s, max_stale: 6s") + chatRoute
	s := start(t, up, yaml)
	good := iss.token()
	s.refused(503, "not_ready", "/chat", bearer(good)) // a cold start
	if a := s.call("GET", "/readyz", nil); a.status != 503 {
		t.Errorf("readyz is %d without any key", a.status)
	}
	iss.up()
	s.untilTrust(iss.name, "ok")
	live := s.connect("/chat", bearer(good)).alive()
	if a := s.call("GET", "/readyz", nil); a.status != 200 {
		t.Errorf("readyz is %d: %s", a.status, a.body)
	}
	iss.down()
	s.untilTrust(iss.name, "failing")
	s.connect("/chat", bearer(good)).alive().conn.Close()
	live.alive()
	live.closes(3000, "key_revoked") // max_stale has passed
	s.refused(503, "not_ready", "/chat", bearer(good))
	if state, _ := s.trustState(iss.name); state != "stale" {
		t.Errorf("it is %s", state)
	}
	// Others go on meanwhile.
	s.file("jwks.json", other.jwks())
	s.writeConfig(strings.ReplaceAll(strings.Replace(yaml, "trust:\n", trustYAML(other.name), 1), "UPSTREAM", up.addr))
	s.cli("reload")
	s.connect("/chat", bearer(other.token())).alive()
	s.refused(503, "not_ready", "/chat", bearer(good))
	if a := s.call("GET", "/readyz", nil); a.status != 200 {
		t.Errorf("readyz is %d though another issuer is there", a.status)
	}
	iss.up()
	s.untilTrust(iss.name, "ok")
	s.connect("/chat", bearer(good)).alive()
}

func TestJWK06UnsuitableKeys(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	yaml, liars := "trust:\n", map[string]*remoteIssuer{}
	for name, spoil := range map[string]func(whole string) string{
		"nothing":        func(s string) string { return s },
		"for encryption": func(s string) string { return strings.Replace(s, `"use":"sig"`, `"use":"enc"`, 1) },
		"to sign only":   func(s string) string { return strings.Replace(s, `"use":"sig"`, `"key_ops":["sign"]`, 1) },
		"twice one kid": func(s string) string {
			return strings.Replace(s, `{"keys":[`, `{"keys":[`+strings.TrimSuffix(strings.TrimPrefix(s, `{"keys":[`), `]}`)+",", 1)
		},
		"symmetric": func(string) string {
			return `{"keys":[{"kty":"oct","kid":"k1","k":"` + b64(strings.Repeat("k", 32)) + `"}]}`
		},
		"off the curve": func(s string) string { return strings.Replace(s, `"y":"`, `"y":"A`, 1) },
	} {
		iss := newRemoteIssuer(t)
		iss.liesAboutKeys(spoil(string(iss.served())))
		liars[name], yaml = iss, yaml+iss.trust("discovery: true")
	}
	s := start(t, up, yaml+generous()+chatRoute)
	for name, iss := range liars {
		a := s.offerAt("/chat", iss.token())
		if good := a.status == 101; good != (name == "nothing") || !good && a.status != 401 && a.status != 503 {
			t.Errorf("%s: %d", name, a.status)
		}
	}
}

// offerAt is a handshake whatever its answer.
func (s *server) offerAt(target, token string) *answer {
	s.t.Helper()
	c, a := s.handshake(target, bearer(token))
	c.conn.Close()
	return a
}

func TestJWK07TwoIssuersWithEqualNames(t *testing.T) {
	t.Parallel()
	up, a, b := newUpstream(t, nil), newRemoteIssuer(t), newRemoteIssuer(t)
	s := start(t, up, "trust:\n"+a.trust("discovery: true")+b.trust("discovery: true")+generous()+chatRoute)
	// Both call their key k1, and their tokens j1.
	mine := [2]string{a.tokenBy(a.key, "k1"), b.tokenBy(b.key, "k1")}
	crossed := [2]string{a.tokenBy(b.key, "k1"), b.tokenBy(a.key, "k1")}
	var all sync.WaitGroup
	for w := range 50 {
		all.Go(func() {
			for n := range 10 {
				if got := s.statusOf(mine[(w+n)%2]); got != 101 {
					t.Errorf("a good token: %d", got)
				}
				if got := s.statusOf(crossed[(w+n)%2]); got != 401 {
					t.Errorf("a token under the other issuer's key: %d", got)
				}
			}
		})
	}
	all.Wait()
}

// statusOf is the answer to a handshake, for many goroutines.
func (s *server) statusOf(token string) int {
	c, err := net.DialTimeout("tcp", s.addr, patience)
	if err != nil {
		return 0
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte(s.upgrade("/chat", bearer(token)))); err != nil {
		return 0
	}
	status := 0
	_, _ = fmt.Fscanf(c, "HTTP/1.1 %d", &status)
	return status
}
