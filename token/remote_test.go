package token_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/wsbouncer/wsbouncer/token"
)

const remoteName = "https://idp.example/tenant"

// idp is an issuer reached without a network: what it answers is set by path.
type idp struct {
	mu      sync.Mutex
	answers map[string]string // by URL; "503 …" is a status, "hang" never answers
	asked   map[string]int
}

func newIDP(keys string) *idp {
	return &idp{asked: map[string]int{}, answers: map[string]string{
		remoteName + "/.well-known/openid-configuration": `{"issuer":"` + remoteName + `","jwks_uri":"https://idp.example/keys"}`,
		"https://idp.example/keys":                       keys,
	}}
}

func (p *idp) set(url, answer string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers[url] = answer
}

func (p *idp) count(url string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[url]
}

func (p *idp) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	at := r.URL.String()
	p.asked[at]++
	answer, ok := p.answers[at]
	p.mu.Unlock()
	status := 200
	switch {
	case !ok:
		status = 404
	case answer == "hang":
		<-r.Context().Done()
		return nil, r.Context().Err()
	case answer == "down":
		return nil, errors.New("connection refused")
	case answer == "endless":
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(endless{}), Request: r}, nil
	default:
		if n, err := fmt.Sscanf(answer, "HTTP %d", &status); n == 1 && err == nil {
			answer = ""
		}
	}
	h := http.Header{}
	if status/100 == 3 {
		h.Set("Location", "https://idp.example/keys")
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(answer)), Request: r}, nil
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return copy(b, bytes.Repeat([]byte(" "), len(b))), nil }

// servedKeys is a JWKS of test keys "name kid".
func servedKeys(t testing.TB, keys ...string) string {
	t.Helper()
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, k := range keys {
		name, kid, _ := strings.Cut(k, " ")
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: public(name), KeyID: kid, Algorithm: "ES256", Use: "sig"})
	}
	b, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// remoteRig is a Verifier of one remote issuer within a synctest bubble.
type remoteRig struct {
	t       *testing.T
	idp     *idp
	remote  *token.Remote
	v       *token.Verifier
	changes int
	fetches []token.Fetch
}

func newRemoteRig(t *testing.T, p *idp, change func(*token.RemoteOptions)) *remoteRig {
	t.Helper()
	r := &remoteRig{t: t, idp: p}
	o := token.RemoteOptions{
		Issuer: remoteName, Algorithms: []string{"ES256"}, Transport: p,
		Observe: func(f token.Fetch) { r.fetches = append(r.fetches, f) }, Changed: func() { r.changes++ },
	}
	if change != nil {
		change(&o)
	}
	var err error
	if r.remote, err = token.NewRemote(o); err != nil {
		t.Fatal(err)
	}
	r.v, err = token.NewVerifier(token.Options{Issuers: []token.Issuer{{Name: remoteName, Audience: "chat", Algorithms: []string{"ES256"}, Keys: r.remote, MaxLifetime: 720 * time.Hour}}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// run fetches until the test is over.
func (r *remoteRig) run() {
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.remote.Run(ctx) }()
	r.t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
}

func (r *remoteRig) token(name, kid string) string {
	r.t.Helper()
	now := time.Now()
	header := `{"alg":"ES256","typ":"at+jwt"}`
	if kid != "" {
		header = fmt.Sprintf(`{"alg":"ES256","typ":"at+jwt","kid":%q}`, kid)
	}
	return forge(r.t, "ES256", testKeys()[name], header,
		fmt.Sprintf(`{"iss":%q,"sub":"ann","aud":"chat","iat":%d,"exp":%d}`, remoteName, now.Unix(), now.Add(700*time.Hour).Unix()))
}

// want verifies a token: code "" is good.
func (r *remoteRig) want(raw, code string) {
	r.t.Helper()
	_, err := r.v.Verify(r.t.Context(), raw)
	var bad *token.Error
	switch {
	case code == "" && err != nil:
		r.t.Errorf("refused: %v", err)
	case code != "" && (!errors.As(err, &bad) || bad.Code != code):
		r.t.Errorf("%v, want %s", err, code)
	}
}

const keysURL = "https://idp.example/keys"

func TestJWK01MetadataOfAnotherIssuerIsRefused(t *testing.T) {
	at := remoteName + "/.well-known/openid-configuration"
	for name, c := range map[string]struct{ document, why string }{
		"another issuer": {`{"issuer":"https://evil.example","jwks_uri":"https://idp.example/keys"}`, "its issuer is"},
		"a slash more":   {`{"issuer":"` + remoteName + `/","jwks_uri":"https://idp.example/keys"}`, "its issuer is"},
		"no issuer":      {`{"jwks_uri":"https://idp.example/keys"}`, "no issuer"},
		"twice":          {`{"issuer":"` + remoteName + `","issuer":"` + remoteName + `","jwks_uri":"https://idp.example/keys"}`, "strict JSON"},
		"another case":   {`{"issuer":"` + remoteName + `","Issuer":"https://evil.example","jwks_uri":"https://idp.example/keys"}`, "strict JSON"},
		"http keys":      {`{"issuer":"` + remoteName + `","jwks_uri":"http://idp.example/keys"}`, "not https"},
		"http loopback":  {`{"issuer":"` + remoteName + `","jwks_uri":"http://127.0.0.1/keys"}`, "not https"},
		"no keys":        {`{"issuer":"` + remoteName + `"}`, "no jwks_uri"},
		"a number":       {`{"issuer":"` + remoteName + `","jwks_uri":1}`, "jwks_uri is not a string"},
		"HTML":           {`<html>`, "strict JSON"},
		"redirect":       {"HTTP 302", "302"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newIDP(servedKeys(t, "p256 k1"))
				p.set(at, c.document)
				r := newRemoteRig(t, p, nil)
				r.run()
				if err := r.remote.Status().Err; err == nil || !strings.Contains(err.Error(), c.why) {
					t.Errorf("%v, want %q", err, c.why)
				}
				r.want(r.token("p256", "k1"), token.CodeUnavailable)
			})
		})
	}
	// The form of RFC 8414, when the other is not there.
	synctest.Test(t, func(t *testing.T) {
		p := newIDP(servedKeys(t, "p256 k1"))
		p.set("https://idp.example/.well-known/oauth-authorization-server/tenant", p.answers[at])
		delete(p.answers, at)
		r := newRemoteRig(t, p, nil)
		r.run()
		r.want(r.token("p256", "k1"), "")
	})
	for _, o := range []token.RemoteOptions{
		{Issuer: "http://idp.example"}, {Issuer: "idp"}, {Issuer: "https://u:p@idp.example"}, {Issuer: "https://idp.example?a=b"},
		{Issuer: "any", URL: "http://idp.example/keys"}, {Issuer: "any", URL: "https://idp.example/keys#a"}, {Issuer: "any", URL: "file:///etc/passwd"},
	} {
		o.Algorithms = []string{"ES256"}
		if _, err := token.NewRemote(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

func TestJWK02BadAnswersChangeNothing(t *testing.T) {
	bad := map[string]string{
		"hangs": "hang", "down": "down", "endless": "endless", "redirect": "HTTP 302", "broken": "HTTP 500", "gone": "HTTP 404",
		"HTML": "<html>", "empty": "", "no array": `{"keys":1}`, "bad key": `{"keys":[{"kty":"RSA","n":"!"}]}`,
		"a private key": `{"keys":[{"kty":"oct","k":"AAAA"}]}`,
	}
	for name, answer := range bad {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newIDP(servedKeys(t, "p256 k1"))
				r := newRemoteRig(t, p, nil)
				r.run()
				good := r.token("p256", "k1")
				r.want(good, "")
				p.set(keysURL, answer)
				time.Sleep(11 * time.Minute)
				synctest.Wait()
				if s := r.remote.Status(); s.Err == nil || s.Failures == 0 || s.Keys != 1 {
					t.Errorf("%+v", s)
				}
				r.want(good, "")
				r.want(r.token("p256-other", "k2"), token.CodeSignature)
				if r.changes != 1 {
					t.Errorf("%d changes", r.changes)
				}
			})
		})
	}
}

func TestJWK03UnknownKeysAreFetchedOnceInAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newIDP(servedKeys(t, "p256 k1"))
		r := newRemoteRig(t, p, nil)
		r.run()
		time.Sleep(time.Minute)
		begin := time.Now()
		for i := range 10_000 {
			r.want(r.token("p256-other", fmt.Sprint("random-", i)), token.CodeSignature)
		}
		if took := time.Since(begin); took > 0 { // virtual time: nobody waited
			t.Errorf("they waited %s", took)
		}
		time.Sleep(10 * time.Second) // what was asked for within the pause
		synctest.Wait()
		n := p.count(keysURL) - 1
		t.Logf("10000 tokens with random kids: %d fetches within 10 s", n)
		if n > 2 {
			t.Errorf("%d fetches", n)
		}
		// Many at once share one, and a good token waits for nothing.
		time.Sleep(time.Minute)
		synctest.Wait()
		p.set(keysURL, "hang")
		before := p.count(keysURL)
		begin = time.Now()
		var all sync.WaitGroup
		for i := range 200 {
			raw := r.token("p256-other", fmt.Sprint("more-", i))
			all.Go(func() { r.want(raw, token.CodeSignature) })
		}
		synctest.Wait()
		r.want(r.token("p256", "k1"), "")
		if took := time.Since(begin); took > 0 {
			t.Errorf("a good token waited %s", took)
		}
		all.Wait()
		if n, took := p.count(keysURL)-before, time.Since(begin); n != 1 || took > 5*time.Second {
			t.Errorf("%d fetches, in %s", n, took)
		}
	})
}

func TestJWK04Rotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newIDP(servedKeys(t, "p256 k1"))
		r := newRemoteRig(t, p, nil)
		r.run()
		old := r.token("p256", "k1")
		r.want(old, "")
		time.Sleep(time.Minute)
		p.set(keysURL, servedKeys(t, "p256-other k2", "p256 k1"))
		r.want(r.token("p256-other", "k2"), "") // at once, after one fetch
		r.want(old, "")
		synctest.Wait()
		if n := p.count(keysURL); n != 2 || r.changes != 2 {
			t.Errorf("%d fetches, %d changes", n, r.changes)
		}
		if !r.v.Trusts(remoteName, "k1") {
			t.Error("k1 is not trusted")
		}
		// The same keys in another order are no change.
		p.set(keysURL, servedKeys(t, "p256 k1", "p256-other k2"))
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		if r.changes != 2 {
			t.Errorf("%d changes", r.changes)
		}
		p.set(keysURL, servedKeys(t, "p256-other k2"))
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		r.want(old, token.CodeSignature)
		if r.changes != 3 || r.v.Trusts(remoteName, "k1") {
			t.Errorf("%d changes", r.changes)
		}
		// No key is what the document may say too.
		p.set(keysURL, servedKeys(t))
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		r.want(r.token("p256-other", "k2"), token.CodeSignature)
	})
	// A key without a name is replaced by another.
	synctest.Test(t, func(t *testing.T) {
		p := newIDP(servedKeys(t, "p256 "))
		r := newRemoteRig(t, p, nil)
		r.run()
		r.want(r.token("p256", ""), "")
		time.Sleep(time.Minute)
		p.set(keysURL, servedKeys(t, "p256-other "))
		r.want(r.token("p256-other", ""), "")
		r.want(r.token("p256", ""), token.CodeSignature)
	})
}

func TestJWK05Outage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newIDP(servedKeys(t, "p256 k1"))
		r := newRemoteRig(t, p, nil)
		r.run()
		good := r.token("p256", "k1")
		p.set(keysURL, "down")
		time.Sleep(23*time.Hour + 59*time.Minute)
		r.want(good, "")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		r.want(good, token.CodeUnavailable)
		if s := r.remote.Status(); !s.Stale || s.Keys != 0 || r.changes != 2 || r.v.Trusts(remoteName, "k1") {
			t.Errorf("%+v, %d changes", s, r.changes)
		}
		p.set(keysURL, servedKeys(t, "p256 k1"))
		time.Sleep(11 * time.Second)
		synctest.Wait()
		r.want(good, "")
	})
	synctest.Test(t, func(t *testing.T) { // a cold start
		p := newIDP("hang")
		r := newRemoteRig(t, p, nil)
		r.run()
		good := r.token("p256", "k1")
		begin := time.Now()
		r.want(good, token.CodeUnavailable)
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("it took %s", took)
		}
		p.set(keysURL, servedKeys(t, "p256 k1"))
		time.Sleep(11 * time.Second)
		synctest.Wait()
		r.want(good, "")
	})
}

func TestRemoteInherits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newIDP(servedKeys(t, "p256 k1"))
		r := newRemoteRig(t, p, nil)
		r.run()
		next := newRemoteRig(t, p, func(o *token.RemoteOptions) { o.Refresh = time.Minute })
		if !next.remote.Inherit(r.remote) {
			t.Fatal("it did not inherit")
		}
		next.run()
		next.want(next.token("p256", "k1"), "")
		if n := p.count(keysURL); n != 1 {
			t.Errorf("%d fetches", n)
		}
		other := newRemoteRig(t, p, func(o *token.RemoteOptions) { o.URL = keysURL })
		if other.remote.Inherit(r.remote) {
			t.Error("it inherited another source's keys")
		}
	})
}
