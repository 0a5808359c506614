package token_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsbouncer/wsbouncer/token"
)

// changingKeys is a key set that a test changes, and that counts being asked.
type changingKeys struct {
	mu         sync.Mutex
	keys       []token.Key
	generation uint64
	asked      atomic.Int64
}

func (c *changingKeys) Keys(kid string) (out []token.Key, generation uint64) {
	c.asked.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.keys {
		if kid == "" || k.ID == kid {
			out = append(out, k)
		}
	}
	return out, c.generation
}

func (c *changingKeys) set(keys ...token.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys = keys
	c.generation++
}

func es256(kid, name string) token.Key {
	return token.Key{ID: kid, Algorithm: "ES256", Public: public(name)}
}

func issue(t testing.TB, kid, key string, life time.Duration) string {
	t.Helper()
	now := time.Now().Unix()
	return forge(t, "ES256", testKeys()[key], fmt.Sprintf(`{"alg":"ES256","kid":%q,"typ":"at+jwt"}`, kid),
		fmt.Sprintf(`{"iss":"i","sub":"alice","aud":"gw","iat":%d,"exp":%d}`, now, now+int64(life/time.Second)))
}

func issuer(keys token.KeySet) token.Issuer {
	return token.Issuer{Name: "i", Audience: "gw", Algorithms: []string{"ES256"}, Keys: keys}
}

// Own tokens may be a little early, so that a clock set back refuses nobody;
// others' only by their leeway.
func TestJWT08OwnTokensMayBeEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := &changingKeys{}
		keys.set(es256("k", "p256"))
		for _, own := range []bool{true, false} {
			i := issuer(keys)
			i.Own = own
			v, err := token.NewVerifier(token.Options{Issuers: []token.Issuer{i}, CacheSize: -1})
			if err != nil {
				t.Fatal(err)
			}
			for _, early := range []int64{0, 1, 5, 6, 3600} {
				now := time.Now().Unix()
				raw := forge(t, "ES256", testKeys()["p256"], `{"alg":"ES256","kid":"k","typ":"at+jwt"}`,
					fmt.Sprintf(`{"iss":"i","sub":"alice","aud":"gw","jti":"j","rev":1,"iat":%d,"nbf":%d,"exp":%d}`, now+early, now+early, now+7200))
				_, err := v.Verify(t.Context(), raw)
				if ok := early == 0 || own && early <= 5; ok != (err == nil) {
					t.Errorf("own %v, %d s early: %v", own, early, err)
				}
			}
		}
	})
}

// A cached token is judged by the clock at every call.
func TestJWT08CacheHitsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := new(changingKeys)
		keys.set(es256("k1", "p256"))
		i := issuer(keys)
		i.Leeway = 5 * time.Second
		v := verifier(t, token.Options{Issuers: []token.Issuer{i}})
		raw := issue(t, "k1", "p256", 10*time.Second)
		first, err := v.Verify(t.Context(), raw)
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Until(first.Deadline()); d != 15*time.Second {
			t.Fatalf("the deadline is in %s", d)
		}
		time.Sleep(15*time.Second - time.Nanosecond)
		second, err := v.Verify(t.Context(), raw)
		if err != nil {
			t.Fatal(err)
		}
		if second != first {
			t.Error("the second call did not come of the cache")
		}
		time.Sleep(time.Nanosecond)
		if _, err := v.Verify(t.Context(), raw); code(t, err) != token.CodeExpired {
			t.Fatalf("at the deadline: %v", err)
		}
	})
}

func TestCacheCountsOnlyWhileTheKeyDoes(t *testing.T) {
	keys := new(changingKeys)
	keys.set(es256("k1", "p256"), es256("k2", "p256-other"))
	v := verifier(t, token.Options{Issuers: []token.Issuer{issuer(keys)}})
	ctx := context.Background()
	one, two := issue(t, "k1", "p256", time.Minute), issue(t, "k2", "p256-other", time.Minute)
	verify := func(raw, want string) *token.Token {
		t.Helper()
		got, err := v.Verify(ctx, raw)
		if code(t, err) != want {
			t.Fatalf("%v, want %s", err, want)
		}
		return got
	}
	first := verify(one, "ok")
	if verify(one, "ok") != first {
		t.Error("not cached")
	}
	verify(two, "ok")

	keys.set(es256("k2", "p256-other"))
	verify(one, token.CodeSignature)
	verify(two, "ok")
	// Another key under the same name is another key.
	keys.set(es256("k1", "p256-other"), es256("k2", "p256-other"))
	verify(one, token.CodeSignature)
	// The right one again: verified anew, not found in the cache.
	keys.set(es256("k1", "p256"))
	if verify(one, "ok") == first {
		t.Error("an entry of an older key set counted")
	}
}

func TestSetIssuersEndsWhatWasVerified(t *testing.T) {
	keys := new(changingKeys)
	keys.set(es256("k1", "p256"))
	v := verifier(t, token.Options{Issuers: []token.Issuer{issuer(keys)}})
	ctx := context.Background()
	raw := issue(t, "k1", "p256", time.Minute)
	if _, err := v.Verify(ctx, raw); err != nil {
		t.Fatal(err)
	}
	other := issuer(keys)
	other.Audience = "other"
	if err := v.SetIssuers([]token.Issuer{other}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(ctx, raw); code(t, err) != token.CodeAudience {
		t.Fatalf("after the audience changed: %v", err)
	}
	// A bad configuration changes nothing.
	if err := v.SetIssuers(nil); err == nil {
		t.Fatal("no issuers are taken")
	}
	if _, err := v.Verify(ctx, raw); code(t, err) != token.CodeAudience {
		t.Fatal(err)
	}
	strict := issuer(keys)
	strict.MaxLifetime = 30 * time.Second
	if err := v.SetIssuers([]token.Issuer{strict}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(ctx, raw); code(t, err) != token.CodeLifetime {
		t.Fatalf("after the lifetime changed: %v", err)
	}
}

func TestTrustsWhatIsThereNow(t *testing.T) {
	keys := new(changingKeys)
	keys.set(es256("k1", "p256"))
	named := issuer(keys)
	secret, err := token.Secret(testKeys()["secret"].([]byte), []string{"HS256"})
	if err != nil {
		t.Fatal(err)
	}
	nameless := token.Issuer{Name: "https://secret.example", Audience: "chat", Algorithms: []string{"HS256"}, Keys: secret}
	all, _ := secret.Keys("")
	v := verifier(t, token.Options{Issuers: []token.Issuer{named, nameless}})
	want := func(when, issuer, kid string, want bool) {
		t.Helper()
		if got := v.Trusts(issuer, kid); got != want {
			t.Errorf("%s: %q of %s: %v", when, kid, issuer, got)
		}
	}
	want("at first", named.Name, "k1", true)
	want("at first", nameless.Name, all[0].ID, true)
	want("at first", named.Name, all[0].ID, false)
	want("at first", nameless.Name, "k1", false)
	want("at first", "https://nobody.example", "k1", false)
	keys.set(es256("k2", "p256"))
	want("after a key went", named.Name, "k1", false)
	if err := v.SetIssuers([]token.Issuer{named}); err != nil {
		t.Fatal(err)
	}
	want("after an issuer went", nameless.Name, all[0].ID, false)
	want("after an issuer went", named.Name, "k2", true)
}

// A verification that is under way while the configuration changes answers for
// the old one, once, and leaves nothing behind.
func TestSetIssuersDuringVerify(t *testing.T) {
	keys := new(changingKeys)
	keys.set(es256("k1", "p256"))
	slow := &hookedKeys{KeySet: keys}
	v := verifier(t, token.Options{Issuers: []token.Issuer{issuer(slow)}})
	changed := issuer(keys)
	changed.Audience = "other"
	slow.hook = func() {
		if err := v.SetIssuers([]token.Issuer{changed}); err != nil {
			t.Error(err)
		}
	}
	raw := issue(t, "k1", "p256", time.Minute)
	if _, err := v.Verify(context.Background(), raw); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(context.Background(), raw); code(t, err) != token.CodeAudience {
		t.Fatalf("after the change: %v", err)
	}
}

// hookedKeys calls hook whenever keys are asked for.
type hookedKeys struct {
	token.KeySet
	hook func()
}

func (h *hookedKeys) Keys(kid string) ([]token.Key, uint64) {
	h.hook()
	return h.KeySet.Keys(kid)
}

// JWT-10: two issuers whose sets share a kid never vouch for each other, also
// when the key of one is warm in the cache (JWK-07).
func TestJWT10NoCrossIssuer(t *testing.T) {
	a, b := new(changingKeys), new(changingKeys)
	a.set(es256("k1", "p256"))
	b.set(es256("k1", "p256-other"))
	ia, ib := issuer(a), issuer(b)
	ib.Name = "j"
	v := verifier(t, token.Options{Issuers: []token.Issuer{ia, ib}})
	good := issue(t, "k1", "p256", time.Minute)
	forged := issue(t, "k1", "p256-other", time.Minute) // says iss i, signed by j
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 20 {
				if _, err := v.Verify(context.Background(), good); err != nil {
					t.Error(err)
				}
				if _, err := v.Verify(context.Background(), forged); code(t, err) != token.CodeSignature {
					t.Errorf("a token of another issuer: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

// JWT-17: an unknown issuer is decided without asking for any key, and so
// without signature work.
func TestJWT17UnknownIssuerAsksForNoKey(t *testing.T) {
	keys := new(changingKeys)
	keys.set(es256("k1", "p256"))
	i := issuer(keys)
	i.Name = "other"
	v := verifier(t, token.Options{Issuers: []token.Issuer{i}})
	if _, err := v.Verify(context.Background(), issue(t, "k1", "p256", time.Minute)); code(t, err) != token.CodeIssuer {
		t.Fatal(err)
	}
	if n := keys.asked.Load(); n != 0 {
		t.Errorf("keys were asked for %d times", n)
	}
}

// What is refused is not remembered: a stranger cannot push out what is.
func TestRefusedTokensAreNotCached(t *testing.T) {
	keys := new(changingKeys)
	keys.set(es256("k1", "p256"))
	v := verifier(t, token.Options{Issuers: []token.Issuer{issuer(keys)}, CacheSize: 1})
	raw := issue(t, "k1", "p256", time.Minute)
	first, err := v.Verify(context.Background(), raw)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := v.Verify(context.Background(), issue(t, "k1", "p256-other", time.Minute)); err == nil {
			t.Fatal("forged token verified")
		}
	}
	if again, _ := v.Verify(context.Background(), raw); again != first {
		t.Error("forged tokens pushed a good one out")
	}
}

func TestJWT18OneTokenHasOneSpelling(t *testing.T) {
	keys := new(changingKeys)
	keys.set(es256("k1", "p256"))
	v := verifier(t, token.Options{Issuers: []token.Issuer{issuer(keys)}})
	raw := issue(t, "k1", "p256", time.Minute)
	if _, err := v.Verify(context.Background(), raw); err != nil {
		t.Fatal(err)
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, raw[len(raw)-1])
	for i := range 64 {
		if i == last {
			continue
		}
		if _, err := v.Verify(context.Background(), raw[:len(raw)-1]+alphabet[i:i+1]); err == nil {
			t.Errorf("verifies with another last character %q", alphabet[i])
		}
	}
}

func TestNewVerifierRefuses(t *testing.T) {
	keys := new(changingKeys)
	with := func(change func(*token.Issuer)) []token.Issuer {
		i := issuer(keys)
		change(&i)
		return []token.Issuer{i}
	}
	second := func(change func(*token.Issuer)) []token.Issuer {
		return append(with(func(*token.Issuer) {}), with(change)...)
	}
	for name, list := range map[string][]token.Issuer{
		"none":            nil,
		"no name":         with(func(i *token.Issuer) { i.Name = "" }),
		"name with NUL":   with(func(i *token.Issuer) { i.Name = "a\x00" }),
		"no audience":     with(func(i *token.Issuer) { i.Audience = "" }),
		"no keys":         with(func(i *token.Issuer) { i.Keys = nil }),
		"no algorithms":   with(func(i *token.Issuer) { i.Algorithms = nil }),
		"algorithm none":  with(func(i *token.Issuer) { i.Algorithms = []string{"none"} }),
		"HS beside RS":    with(func(i *token.Issuer) { i.Algorithms = []string{"RS256", "HS256"} }),
		"leeway of 61 s":  with(func(i *token.Issuer) { i.Leeway = 61 * time.Second }),
		"leeway below 0":  with(func(i *token.Issuer) { i.Leeway = -1 }),
		"life above 720h": with(func(i *token.Issuer) { i.MaxLifetime = 721 * time.Hour }),
		"life below 0":    with(func(i *token.Issuer) { i.MaxLifetime = -1 }),
		"twice":           second(func(*token.Issuer) {}),
		"two own": append(with(func(i *token.Issuer) { i.Own = true }),
			with(func(i *token.Issuer) { i.Own, i.Name = true, "j" })...),
	} {
		if v, err := token.NewVerifier(token.Options{Issuers: list}); err == nil || v != nil {
			t.Errorf("%s: taken", name)
		}
	}
	for _, size := range []int{-1, 65 << 10} {
		if _, err := token.NewVerifier(token.Options{Issuers: with(func(*token.Issuer) {}), MaxBytes: size}); err == nil {
			t.Errorf("MaxBytes %d: taken", size)
		}
	}
	own := with(func(i *token.Issuer) { i.Own, i.Name = true, "own" })
	for want, list := range map[string][]token.Issuer{
		"i": with(func(*token.Issuer) {}), "own": append(own, with(func(*token.Issuer) {})...), "": second(func(i *token.Issuer) { i.Name = "j" }),
	} {
		if got := verifier(t, token.Options{Issuers: list}).DefaultIssuer(); got != want {
			t.Errorf("default issuer %q, want %q", got, want)
		}
	}
}

func TestTokenSaysWhatItIs(t *testing.T) {
	keys := new(changingKeys)
	keys.set(es256("k1", "p256"))
	i := issuer(keys)
	i.Own = true
	v := verifier(t, token.Options{Issuers: []token.Issuer{i}, CacheSize: -1})
	now := time.Now().Unix()
	raw := forge(t, "ES256", testKeys()["p256"], `{"alg":"ES256","kid":"k1","typ":"at+jwt"}`, fmt.Sprintf(
		`{"iss":"i","sub":"alice","aud":["gw","x"],"iat":%d,"nbf":%d,"exp":%d,"jti":"j","sid":"s","azp":"web","rev":7,"scope":"a b","rooms":["r1"],"n":9007199254740993}`, now, now-1, now+60))
	got, err := v.Verify(context.Background(), raw)
	if err != nil {
		t.Fatal(err)
	}
	if got.Issuer != "i" || got.Subject != "alice" || got.Session != "s" || got.ID != "j" || got.KeyID != "k1" || got.ClientID != "web" ||
		len(got.Audience) != 2 || got.IssuedAt.Unix() != now || got.NotBefore.Unix() != now-1 || got.Expiry.Unix() != now+60 ||
		got.Rev != 7 || !got.HasRev || !got.Own || got.Binding != "" {
		t.Errorf("%+v", got)
	}
	if missing := got.HasScopes("a", "c", "b", "d"); len(missing) != 2 || missing[0] != "c" || missing[1] != "d" {
		t.Errorf("missing %q", missing)
	}
	if got.HasScopes("b", "a") != nil || got.HasScopes() != nil {
		t.Error("scopes that are there are missing")
	}
	var rooms []string
	if ok, err := got.Claims.Lookup("rooms", &rooms); !ok || err != nil || rooms[0] != "r1" {
		t.Error(ok, err, rooms)
	}
	if ok, err := got.Claims.Lookup("Rooms", &rooms); ok || err != nil {
		t.Error("another case of a claim's name is found")
	}
	if ok, err := got.Claims.Lookup("rooms", new(int)); !ok || err == nil {
		t.Error("an array is an int")
	}
	var n int64
	if ok, err := got.Claims.Lookup("n", &n); !ok || err != nil || n != 9007199254740993 {
		t.Error("a large integer is changed:", n, err)
	}
}

func TestInspectVerifiesNothing(t *testing.T) {
	raw := forge(t, "HS256", []byte("x"), `{"alg":"HS256"}`, `{"sub":"anybody"}`)
	h, p, err := token.Inspect(raw)
	if err != nil || string(h) != `{"alg":"HS256"}` || string(p) != `{"sub":"anybody"}` {
		t.Fatal(string(h), string(p), err)
	}
	for _, raw := range []string{"", "a.b.c", forge(t, "HS256", []byte("x"), `{"alg":"HS256"}`, `[]`), forge(t, "HS256", []byte("x"), `{"alg":"HS256"}`, `{"a":1,"a":2}`)} {
		if h, p, err := token.Inspect(raw); code(t, err) != token.CodeMalformed || h != nil || p != nil {
			t.Errorf("%q: %v", raw, err)
		}
	}
	if _, _, err := token.Inspect(strings.Repeat("a", 1<<20)); !errors.Is(err, &token.Error{Code: token.CodeTooLarge}) {
		t.Error(err)
	}
}

// Refusals go to logs: they must not carry what was in the token.
func TestErrorsRepeatNothingOfTheToken(t *testing.T) {
	keys := new(changingKeys)
	keys.set(es256("k1", "p256"))
	v := verifier(t, token.Options{Issuers: []token.Issuer{issuer(keys)}})
	const mark = "hunter2"
	for _, payload := range []string{
		`{"iss":"` + mark + `"}`, `{"iss":"i","sub":"` + mark + `\u0000"}`, `{"iss":"i","` + mark + `":1,"` + mark + `":2}`,
		`{"iss":"i","sub":"a","aud":"` + mark + `","exp":99999999999}`, `{"iss":"i","exp":"` + mark + `"}`, mark,
	} {
		raw := forge(t, "ES256", testKeys()["p256"], `{"alg":"ES256","kid":"k1","typ":"at+jwt"}`, payload)
		_, err := v.Verify(context.Background(), raw)
		if err == nil || strings.Contains(err.Error(), mark) {
			t.Errorf("%s: %v", payload, err)
		}
	}
	for _, header := range []string{`{"alg":"` + mark + `"}`, `{"alg":"ES256","kid":"` + mark + `","typ":"at+jwt"}`, `{"alg":"ES256","typ":"` + mark + `"}`} {
		_, err := v.Verify(context.Background(), forge(t, "ES256", testKeys()["p256"], header, `{"iss":"i","sub":"a","aud":"gw","exp":99999999999}`))
		if err == nil || strings.Contains(err.Error(), mark) {
			t.Errorf("%s: %v", header, err)
		}
	}
}
